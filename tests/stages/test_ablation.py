"""The ablation: who takes part, what each arm really does, and what is said of it, recomputed another way."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from stages import ablation, ablation_statistics, ablation_table, cli, contest, documented, outputs, tracking, trial
from stages.settings import Ablation, Execution, Row, Settings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Ablation(row="strokes", seeds=2, prune_at=0.8, prune_tolerance=1.0)


@pytest.fixture
def context(tiny_row: Row, tiny_data: Path, execution: Execution, tmp_path: Path) -> cli.Context:
    row = dataclasses.replace(
        tiny_row,
        dnm=dataclasses.replace(
            tiny_row.dnm, operators=("Divide",), enable_aggressive_growth=True,
            max_parameters=4.0, max_training_flops=4.0,
        ),
    )  # fmt: skip
    settings = Settings(
        scale="tiny", root=".", params_file="params.yaml", execution=execution,
        image_classification={"strokes": row}, contest={}, ranking={}, ablation={"parts": SETTINGS},
        robustness={}, events={}, nas={},
    )  # fmt: skip
    found = cli.Context(settings, tmp_path, "strokes", "parts")
    found.data.parent.mkdir(parents=True)
    found.data.symlink_to(tiny_data)
    return found


def run(context: cli.Context, arm: str) -> dict[str, Any]:
    job = next(job for job in ablation.jobs(context, [{"seed": 0, "events": []}]) if job.arm == arm)
    return trial.run(job)


def test_who_takes_part(context: cli.Context) -> None:
    events = [
        {"kind": "growth", "status": "kept", "entries": [{"operator": "Divide"}], "position": 0.2,
         "after": {"parameters": 900}},
        {"kind": "growth", "status": "taken back", "entries": [{"operator": "Divide"}], "position": 0.5,
         "after": {"parameters": 999}},
    ]  # fmt: skip
    jobs = ablation.jobs(context, [{"seed": seed, "events": events} for seed in (0, 1)])
    assert [(job.arm, job.seed) for job in jobs] == [(arm, seed) for seed in (0, 1) for arm in ablation.ARMS]
    # As many epochs as DNM, whatever they cost.
    assert {job.flops for job in jobs} == {None}
    assert [job.arm for job in jobs[: len(ablation.ARMS)] if not job.grown] == ["start"]
    assert {job.arm: job.plan for job in jobs if job.plan is not None} == dict.fromkeys(
        contest.RULES, ((0.2, 900, ()),)
    )  # fmt: skip
    own = context.row.dnm
    changed = {
        job.arm: {
            name for name in dataclasses.asdict(own) if getattr(job.settings.dnm, name) != getattr(own, name)
        }
        for job in jobs
    }  # fmt: skip
    assert changed == {
        "start": set(), "placebo": {"operators"}, "division": set(), "connection": {"operators"},
        "full": {"operators", "prune_at", "prune_tolerance"}, "none": {"operators", "theories"},
        "information": {"operators", "theories"}, "ntk": {"operators", "theories"},
        "manifold": {"operators", "theories"}, "all": {"operators"}, "plateau": {"trigger"}, "twin": {"fill"},
        "random": set(), "uniform": set(),
    }  # fmt: skip


def test_a_placebo_looks_and_changes_nothing(context: cli.Context) -> None:
    start, placebo = run(context, "start"), run(context, "placebo")
    assert [event["status"] for event in placebo["events"]] == ["no edit", "no edit"]
    assert placebo["journal"] == [] and start["events"] == []
    # The same weights to the last bit, but for the price of looking.
    same = [name for name in start["figures"] if start["figures"][name] == placebo["figures"][name]]
    assert [name for name in start["figures"] if name not in same] == ["training_flops"]
    assert placebo["figures"]["training_flops"] > start["figures"]["training_flops"]


def test_parts_are_what_their_names_say(context: cli.Context) -> None:
    found = {arm: run(context, arm) for arm in ("division", "connection", "full", "none", "twin")}
    operators = {arm: {entry["operator"] for entry in result["journal"]} for arm, result in found.items()}
    assert operators["division"] == {"Divide"}
    assert operators["connection"] == {"Divide", "AddResidual"}
    assert "Prune" in operators["full"] and "AddAttention" in operators["full"]
    looks = [row["covariates"] for event in found["none"]["events"] for row in event["rows"]]
    assert looks and not any(looks)
    fills = {
        arm: {entry["fill"] for entry in result["journal"] if entry["operator"] == "Divide"}
        for arm, result in found.items()
    }
    assert fills["twin"] == {"twin"} and fills["division"] == {"zero"}


def figures(value: float, **others: float) -> dict[str, float]:
    return {"test_accuracy": value, "parameters": 100.0, "training_flops": 1e9, "edits": 3.0, **others}


def drawn(seeds: int = 4) -> dict[str, dict[int, dict[str, float]]]:
    draws = np.random.default_rng(3)
    arms = ("baseline", "dnm", *ablation.ARMS)
    return {arm: {seed: figures(0.5 + 0.05 * draws.standard_normal()) for seed in range(seeds)} for arm in arms}


CLAIMED = {
    "components": {"detection": 1.3, "division": 1.7, "connection": 1.1, "full": 1.0},
    "theories": {"information": 2.3, "ntk": 1.8, "manifold": 1.6, "full": 5.1},
}


def test_contributions_and_synergy_against_scipy() -> None:
    trials = drawn()
    found = ablation_statistics.ablation_statistics(trials, CLAIMED, as_documented=False)

    def of(arm: str) -> np.ndarray:
        return 100.0 * np.array([trials[arm][seed]["test_accuracy"] for seed in range(4)])

    for table, name, arm, without in (
        ("components", "detection", "placebo", "start"), ("components", "division", "division", "placebo"),
        ("components", "connection", "connection", "division"), ("components", "full", "full", "connection"),
        ("theories", "information", "information", "none"), ("theories", "ntk", "ntk", "information"),
        ("theories", "manifold", "manifold", "ntk"), ("theories", "full", "all", "none"),
    ):  # fmt: skip
        test: Any = stats.ttest_rel(of(arm), of(without))
        interval = test.confidence_interval()
        row = found[table][name]
        assert (row["mean"], row["low"], row["high"], row["p_value"]) == pytest.approx(
            (float(np.mean(of(arm) - of(without))), interval.low, interval.high, test.pvalue)
        )
        assert row["documented"] == CLAIMED[table][name]
    # Full less information over none, ntk over information and manifold over ntk.
    synergy: Any = stats.ttest_1samp(of("all") - of("manifold"), 0.0)
    assert found["synergy"]["mean"] == pytest.approx(float(np.mean(of("all") - of("manifold"))))
    assert found["synergy"]["p_value"] == pytest.approx(synergy.pvalue)
    for arm, difference in found["controls"].items():
        assert difference["mean"] == pytest.approx(float(np.mean(of("dnm") - of(arm))))


def test_a_planted_part_is_found_and_its_absence_too() -> None:
    trials = drawn(6)
    noise = np.random.default_rng(4).standard_normal(6)
    trials["division"] = {
        seed: figures(of["test_accuracy"] + 0.03 + 0.002 * noise[seed]) for seed, of in trials["placebo"].items()
    }
    trials["placebo"] = dict(trials["placebo"])
    trials["start"] = {seed: dict(of) for seed, of in trials["placebo"].items()}
    found = ablation_statistics.ablation_statistics(trials, CLAIMED, as_documented=True)["components"]
    assert found["division"]["verdict"] == "reproduced" and found["division"]["mean"] == pytest.approx(3.0, abs=0.3)
    assert found["detection"]["mean"] == 0.0 and found["detection"]["verdict"] == "not reproduced"


def test_arms_with_other_seeds_are_refused() -> None:
    trials = drawn()
    trials["ntk"].pop(2)
    with pytest.raises(cli.UserError, match=r"different seeds .*run the ablation again"):
        ablation_statistics.ablation_statistics(trials, CLAIMED, as_documented=False)


def test_tables_have_the_documents_rows(tiny_row: Row) -> None:
    found = {
        "parts": {"row": "strokes", **ablation_statistics.ablation_statistics(drawn(), CLAIMED, as_documented=False)}
    }
    document, rows, sources = documented.load(), {"strokes": tiny_row}, {"strokes": "strokes"}
    components = ablation_table.components(document, rows, found, sources)
    table = document.tables["ablation_components"]
    assert [(cell["row"], cell["column"]) for cell in components[:-1]] == [
        (row, column) for row in table.rows for column in table.columns
    ]
    for cell in components:
        assert (
            cell["documented"] == table.rows[cell["row"]].values.get(cell["column"], "")
            if cell["row"] != "start"
            else True
        )
        # No cell is empty without a reason.
        assert cell["measured"] != "" or cell["note"]
    theories = ablation_table.theories(document, rows, found, sources)
    assert [cell["row"] for cell in theories if cell["column"] == "impact"] == [
        "information", "ntk", "manifold", "full", "synergy",
    ]  # fmt: skip
    assert theories[-1]["documented"] == pytest.approx(5.1 - 2.3 - 1.8 - 1.6)
    page = ablation_table.page("Theories", theories, found, "theories")
    assert f"{found['parts']['synergy']['mean']:+.2f}" in page
    # On another row than the document's, or nowhere, it is not measured.
    other = {"strokes": dataclasses.replace(tiny_row, documented_row="stl10")}
    for cell in ablation_table.components(document, other, found, sources) + ablation_table.theories(
        document, other, found, sources
    ):
        assert cell["measured"] == "" and cell["note"]


def test_the_committed_tables_come_from_the_trials() -> None:
    """With csv and scipy alone, from the trials that are committed."""
    metrics = ROOT / "metrics" / "embedded"

    def read(file: str) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        with (metrics / file).open(newline="") as stream:
            for line in csv.DictReader(stream):
                found.setdefault(line["arm"], {})[int(line["seed"])] = 100.0 * float(line["test_accuracy"])
        return found

    trials = read("ablation/parts.trials.csv")
    seeds = sorted(trials["start"])
    dnm = read("morphogenesis/cifar10.trials.csv")["dnm"]

    def values(arm: str) -> list[float]:
        return [(dnm if arm == "dnm" else trials[arm])[seed] for seed in seeds]

    with (metrics / "tables" / "ablation_components.csv").open(newline="") as stream:
        cells = {(line["row"], line["column"]): line for line in csv.DictReader(stream)}
    for row, (arm, without) in {
        "detection": ("placebo", "start"), "division": ("division", "placebo"),
        "connection": ("connection", "division"), "full": ("full", "connection"),
    }.items():  # fmt: skip
        differences = np.subtract(values(arm), values(without))
        assert float(cells[row, "contribution"]["measured"]) == pytest.approx(differences.mean(), rel=1e-5, abs=1e-9)
        assert float(cells[row, "accuracy"]["measured"]) == pytest.approx(np.mean(values(arm)), rel=1e-5)
    with (metrics / "tables" / "ablation_theories.csv").open(newline="") as stream:
        synergy = [line for line in csv.DictReader(stream) if line["row"] == "synergy"]
    differences = np.subtract(values("all"), values("manifold"))
    assert float(synergy[0]["measured"]) == pytest.approx(differences.mean(), rel=1e-5, abs=1e-9)


def test_the_stage_writes_what_it_found(context: cli.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "log", lambda *arguments: None)
    ran: list[tuple[str, int]] = []

    def fake(context: cli.Context, jobs, title: str) -> list[dict[str, Any]]:
        ran.extend((job.arm, job.seed) for job in jobs)
        names = dict.fromkeys(ablation.arms.FIGURES, 1)
        return [
            {
                "arm": job.arm, "seed": job.seed, "figures": names, "curve": [], "start_widths": {}, "widths": [],
                "branches": [], "journal": [], "events": [], "fingerprint": "x" * 64, "machine": {},
            }
            for job in reversed(jobs)
        ]  # fmt: skip

    monkeypatch.setattr(ablation.arms, "run", fake)
    journals = [{"arm": arm, "seed": seed, "events": []} for arm in ("start", "dnm") for seed in (0, 1, 2)]
    outputs.write_text(context.metrics / "morphogenesis" / "strokes.journals.json", json.dumps(journals))
    ablation.main(context)
    # Of three seeds the first two.
    assert sorted(ran) == sorted((arm, seed) for arm in ablation.ARMS for seed in (0, 1))
    lines = outputs.read_csv(context.metrics / "ablation" / "parts.trials.csv")
    assert [(line["arm"], line["seed"]) for line in lines] == [(arm, seed) for arm in ablation.ARMS for seed in "01"]
