"""Robustness: networks are those of the trials, strengths are the baseline's, the table comes from the lines."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from stages import (
    arms,
    cli,
    documented,
    outputs,
    robustness,
    robustness_statistics,
    robustness_table,
    robustness_trial,
    trained,
    trial,
)
from stages.data import splits
from stages.settings import Execution, Robustness, Row, Settings
from stages.tasks import image_classification as task

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def context(tiny_row: Row, tiny_data: Path, execution: Execution, linked_root: Path) -> cli.Context:
    """Where the stages before have run: each in one process, without records."""
    dnm = dataclasses.replace(tiny_row.dnm, operators=("Divide", "AddResidual"), max_parameters=4.0, prune_at=0.7)
    settings = Settings(
        scale="tiny", root=".", params_file="params.yaml", execution=execution,
        image_classification={"strokes": dataclasses.replace(tiny_row, dnm=dnm)}, contest={}, ranking={}, ablation={},
        robustness={"perturbed": Robustness(row="strokes", seeds=2, images=20)}, events={}, nas={},
    )  # fmt: skip
    found = cli.Context(settings, linked_root, "strokes")
    found.data.parent.mkdir(parents=True)
    found.data.symlink_to(tiny_data)
    outputs.write_json(found.metrics / "prepare" / "strokes.json", {"sha256": "of the data", "source": "strokes"})
    grown = arms.run(found, [arms.job(found, arm, seed) for seed in (0, 1) for arm in ("baseline", "dnm")], "first")
    of_dnm = [result for result in grown if result["arm"] == "dnm"]
    scratch = arms.run(found, [arms.job(found, "scratch", result["seed"], result) for result in of_dnm], "scratch")
    baseline = [result for result in grown if result["arm"] == "baseline"]
    arms.write(found, "baseline", baseline, 0.0)
    arms.write(found, "morphogenesis", [*of_dnm, *scratch], 0.0)
    return found


def perturbed(context: cli.Context) -> cli.Context:
    return dataclasses.replace(context, entry="perturbed")


def test_networks_are_those_of_the_trials(context: cli.Context) -> None:
    kept = sorted((context.root / "runs" / "trained").iterdir())
    assert len(kept) == 6
    lines = {
        (line["arm"], line["seed"]): line
        for stage in ("baseline", "morphogenesis")
        for line in outputs.read_csv(context.metrics / stage / "strokes.trials.csv")
    }
    data = splits.load(context.data)
    first = robustness.jobs(perturbed(context))
    others = robustness.after(
        perturbed(context), [{"seed": job.seed, "strengths": dict.fromkeys(robustness.STRENGTHS, 0.1)} for job in first]
    )
    for job in (*first, *others):
        assert Path(job.trained) in kept
        again = trained.network(job, data, Path(job.trained))
        accuracy = task.evaluate(again, trial.split_of(data, "test", job))[1]
        assert accuracy == float(lines[job.arm, str(job.seed)]["test_accuracy"])
    # Trained again where there is none, the same weights.
    job = others[0]
    before = trained.network(job, data, Path(job.trained)).state_dict()
    Path(job.trained).unlink()
    after = trained.network(job, data, Path(job.trained)).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sorted((context.root / "runs" / "trained").iterdir()) == kept


def test_the_stage(context: cli.Context) -> None:
    robustness.main(perturbed(context))
    lines = outputs.read_csv(context.metrics / "robustness" / "perturbed.csv")
    names = ["gaussian_noise", "pgd", "brightness", "rotation", "fgsm"]
    factors = [str(factor) for factor in robustness_trial.FACTORS]
    assert [(line["arm"], line["seed"], line["perturbation"], line["factor"]) for line in lines] == [
        (arm, seed, name, factor) for arm in trained.ARMS for seed in "01" for name in names for factor in factors
    ]
    at = {(line["arm"], line["seed"], line["perturbation"], line["factor"]): line for line in lines}
    for (arm, seed, name, factor), line in at.items():
        # Each seed has its baseline's strengths, whatever the arm, and FGSM those of PGD.
        assert line["strength"] == at["baseline", seed, name, factor]["strength"]
        if name == "pgd":
            single = at[arm, seed, "fgsm", factor]
            assert float(line["accuracy"]) <= float(single["accuracy"])
            assert line["strength"] == single["strength"] and line["clean"] == single["clean"]
    calibration = outputs.read_json(context.metrics / "robustness" / "perturbed.json")["calibration"]
    wanted = {name: of["wanted"] for name, of in calibration["0"].items()}
    assert wanted == pytest.approx({"gaussian_noise": 0.153, "pgd": 0.231, "brightness": 0.084, "rotation": 0.127})
    found = robustness_statistics.of_robustness(dataclasses.replace(perturbed(context)))
    cells = robustness_table.cells(
        documented.load(), context.settings.image_classification, {"perturbed": found}, {"strokes": "strokes"}
    )
    assert "PGD-20" in robustness_table.page(cells, {"perturbed": found})
    assert robustness_table.figure("title", found) == robustness_table.figure("title", found)


def made(seeds: int = 5, gain: float = 0.05) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Lines in which dnm loses less than the baseline by `gain`, and noise."""
    draws = np.random.default_rng(5)
    lines, calibration = [], {}
    for seed in range(seeds):
        calibration[str(seed)] = {
            name: {"clean": 0.8, "perturbed": 0.8 - 0.1 + 0.001 * seed, "wanted": 0.1}
            for name in robustness.PERTURBATIONS.values()
        }
        for name in (*robustness.PERTURBATIONS.values(), "fgsm"):
            for arm in trained.ARMS:
                for factor in robustness_trial.FACTORS:
                    drop = 0.1 * factor - (gain if arm == "dnm" else 0.0) + 0.004 * draws.standard_normal()
                    lines.append({
                        "arm": arm, "seed": str(seed), "perturbation": name, "strength": str(0.3 * factor),
                        "factor": str(factor), "clean": "0.8", "accuracy": str(0.8 - drop),
                    })  # fmt: skip
    return lines, calibration


CLAIMED = {"gaussian_noise": 6.6, "adversarial": 8.9, "brightness": 4.3, "rotation": 5.4}


def test_statistics_against_scipy() -> None:
    lines, calibration = made()
    found = robustness_statistics.robustness_statistics(lines, calibration, CLAIMED, as_documented=False)
    for row, name in robustness.PERTURBATIONS.items():
        drops = {
            arm: 100 * np.array([
                float(line["clean"]) - float(line["accuracy"]) for line in lines
                if line["arm"] == arm and line["perturbation"] == name and line["factor"] == "1.0"
            ])
            for arm in trained.ARMS
        }  # fmt: skip
        test: Any = stats.ttest_rel(drops["baseline"], drops["dnm"])
        gain = found["perturbations"][row]["gain"]
        assert (gain["mean"], gain["p_value"]) == pytest.approx(
            (float(np.mean(drops["baseline"] - drops["dnm"])), test.pvalue)
        )
        assert found["perturbations"][row]["drops"]["scratch"]["mean"] == pytest.approx(drops["scratch"].mean())
        assert found["perturbations"][row]["verdict"] == "direction only"
        assert found["perturbations"][row]["miss"] == pytest.approx(0.4)
        assert gain["holm_p_value"] >= gain["p_value"]
    none = robustness_statistics.robustness_statistics(*made(gain=0.0), CLAIMED, as_documented=False)
    assert {none["perturbations"][row]["verdict"] for row in CLAIMED} <= {
        "not reproduced",
        "direction only",
        "contradicted",
    }
    less = robustness_statistics.robustness_statistics(*made(gain=-0.05), CLAIMED, as_documented=True)
    assert {less["perturbations"][row]["verdict"] for row in CLAIMED} == {"contradicted"}


def test_arms_with_other_seeds_are_refused() -> None:
    lines, calibration = made()
    lines = [line for line in lines if (line["arm"], line["seed"]) != ("dnm", "3")]
    with pytest.raises(cli.UserError, match="the arms have different seeds .*run the robustness stage again"):
        robustness_statistics.robustness_statistics(lines, calibration, CLAIMED, as_documented=False)


def test_the_table_has_the_documents_rows_where_nothing_was_measured() -> None:
    cells = robustness_table.cells(documented.load(), {}, {}, {})
    table = documented.load().tables["robustness"]
    assert [(cell["row"], cell["column"]) for cell in cells if cell["column"] != "scratch"] == [
        (row, column) for row in table.rows for column in table.columns
    ]
    assert all(cell["measured"] == "" and cell["note"] for cell in cells)


def test_the_committed_table_comes_from_the_lines() -> None:
    """With csv and numpy alone, from what is committed."""
    metrics = ROOT / "metrics" / "embedded"
    with (metrics / "robustness" / "perturbed.csv").open(newline="") as stream:
        lines = [line for line in csv.DictReader(stream) if float(line["factor"]) == 1.0]
    with (metrics / "tables" / "robustness.csv").open(newline="") as stream:
        cells = {(cell["row"], cell["column"]): cell for cell in csv.DictReader(stream)}
    for row, name in (
        ("gaussian_noise", "gaussian_noise"),
        ("adversarial", "pgd"),
        ("brightness", "brightness"),
        ("rotation", "rotation"),
    ):
        drops = {
            (line["arm"], line["seed"]): 100 * (float(line["clean"]) - float(line["accuracy"]))
            for line in lines if line["perturbation"] == name
        }  # fmt: skip
        seeds = sorted({seed for _, seed in drops})
        for arm in ("baseline", "dnm", "scratch"):
            mean = np.mean([drops[arm, seed] for seed in seeds])
            assert float(cells[row, arm]["measured"]) == pytest.approx(-mean, rel=1e-5, abs=1e-9)
        gain = np.mean([drops["baseline", seed] - drops["dnm", seed] for seed in seeds])
        assert float(cells[row, "gain"]["measured"]) == pytest.approx(gain, rel=1e-5, abs=1e-9)
    calibration = outputs.read_json(metrics / "robustness" / "perturbed.json")["calibration"]
    for of_seed in calibration.values():
        for found in of_seed.values():
            assert abs(found["clean"] - found["perturbed"] - found["wanted"]) <= 0.01
