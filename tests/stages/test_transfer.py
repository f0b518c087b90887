"""Transfer: each trial against one put together by hand, the table from the lines, and what cannot be set up."""

from __future__ import annotations

import csv
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from torch import nn

from stages import (
    arms,
    cli,
    documented,
    estimate,
    outputs,
    records,
    results,
    trained,
    transfer,
    transfer_learning,
    transfer_statistics,
    transfer_table,
    transfer_trial,
    trial,
)
from stages.data import registry, splits
from stages.data.settings import Lesions, Npz
from stages.settings import Execution, Row, Settings, Transfer
from stages.settings import load as load_settings
from stages.tasks import image_classification as task
from stages.training import Length, train

ROOT = Path(__file__).resolve().parents[2]
PAIR = Transfer(documented_row="medical_to_natural", source="medical", target="strokes", seeds=2, epochs=2)


@pytest.fixture
def context(tiny_row: Row, tiny_data: Path, execution: Execution, linked_root: Path) -> cli.Context:
    """Where the stages before have run: each in one process, without records. The source is grey and larger."""
    data = Lesions(
        source="lesions", classes=4, size=12, train=120, test=40, difficulty=0.3, seed=2, validation=0.2
    )  # fmt: skip
    dnm = dataclasses.replace(tiny_row.dnm, operators=("Divide", "AddResidual"), max_parameters=4.0)
    medical = dataclasses.replace(tiny_row, documented_row="none", data=data, dnm=dnm)
    settings = Settings(
        scale="tiny", root=".", params_file="params.yaml", execution=execution,
        image_classification={"strokes": tiny_row, "medical": medical}, contest={}, ranking={}, ablation={},
        robustness={}, events={}, nas={}, transfer={"moved": PAIR},
    )  # fmt: skip
    found = cli.Context(settings, linked_root, "medical")
    splits.save(found.data, registry.load(data, linked_root))
    target = dataclasses.replace(found, row_name="strokes")
    target.data.symlink_to(tiny_data)
    for name, of in (("medical", found), ("strokes", target)):
        card = splits.card(splits.load(of.data))
        outputs.write_json(found.metrics / "prepare" / f"{name}.json", card)
    grown = arms.run(found, [arms.job(found, arm, seed) for seed in (0, 1) for arm in ("baseline", "dnm")], "first")
    of_dnm = [result for result in grown if result["arm"] == "dnm"]
    scratch = arms.run(found, [arms.job(found, "scratch", result["seed"], result) for result in of_dnm], "scratch")
    arms.write(found, "baseline", [result for result in grown if result["arm"] == "baseline"], 0.0)
    arms.write(found, "morphogenesis", [*of_dnm, *scratch], 0.0)
    return dataclasses.replace(found, entry="moved")


def test_networks_are_those_of_the_trials(context: cli.Context) -> None:
    kept = sorted((context.root / "runs" / "trained").iterdir())
    assert len(kept) == 6
    accuracies = {
        (line["arm"], line["seed"]): float(line["test_accuracy"])
        for stage in ("baseline", "morphogenesis")
        for line in outputs.read_csv(context.metrics / stage / "medical.trials.csv")
    }
    data = splits.load(context.data)
    for job in transfer.jobs(context):
        if job.arm == "untrained":
            assert job.trained == ""
            continue
        assert Path(job.trained) in kept
        network = trained.network(job, data, Path(job.trained))
        assert task.evaluate(network, trial.split_of(data, "test", job))[1] == accuracies[job.arm, str(job.seed)]
    assert sorted((context.root / "runs" / "trained").iterdir()) == kept


def test_rows_that_nothing_starts_from_keep_no_networks(context: cli.Context) -> None:
    def wanted(row: str, arm: str, seed: int, entry: str = "") -> bool:
        own = dataclasses.replace(context, row_name=row, entry=entry)
        return trained.is_wanted(own, arms.job(own, arm, seed))

    assert wanted("medical", "baseline", 1)
    assert not wanted("medical", "baseline", 2) and not wanted("medical", "start", 0)
    assert not wanted("strokes", "baseline", 0)
    assert not wanted("medical", "baseline", 0, "moved")


def by_hand(context: cli.Context, job: transfer_trial.Job) -> dict[str, tuple[float, float]]:
    """Test and validation accuracy by protocol, from the images, the network and scikit-learn."""
    source, target = splits.load(context.data), splits.load(Path(job.target_data))
    grey = source.train.images.astype(float)
    images = {}
    for name in ("train", "validation", "test"):
        colour = getattr(target, name).images
        luma = np.floor((colour @ np.array([299, 587, 114]) + 500) / 1000)
        maps = torch.from_numpy(luma.astype(np.float32))[:, None]
        images[name] = nn.functional.interpolate(maps, size=(12, 12), mode="bilinear", antialias=True).round()
    labels = {name: getattr(target, name).labels for name in images}
    normal = {name: (maps - grey.mean()) / grey.std() for name, maps in images.items()}
    if job.arm == "untrained":
        generator = torch.Generator().manual_seed(job.seed)
        model = task.network(context.row.networks.baseline, 1, 4, generator)
    else:
        model = trained.network(job, source, Path(job.trained))
    model.eval()
    with torch.no_grad():
        values = {name: model[:-1](maps.float()).double().numpy() for name, maps in normal.items()}
    mean, deviation = values["train"].mean(0), values["train"].std(0)
    deviation[deviation < 1e-12] = 1.0
    inputs = {name: (of - mean) / deviation for name, of in values.items()}
    fits = [
        LogisticRegression(C=c, max_iter=transfer_learning.ITERATIONS).fit(inputs["train"], labels["train"])
        for c in transfer_learning.CANDIDATES
    ]
    best = max(fits, key=lambda fit: fit.score(inputs["validation"], labels["validation"]))
    probe = tuple(float(best.score(inputs[name], labels[name])) for name in ("test", "validation"))

    head = nn.Linear(model[-1].in_features, 3)
    with torch.no_grad():
        drawn = torch.Generator().manual_seed(transfer_trial.HEADS + job.seed)
        head.weight.copy_(torch.empty_like(head.weight).normal_(std=head.in_features**-0.5, generator=drawn))
        head.bias.zero_()
    model[-1] = head
    settings = context.settings.image_classification["strokes"].training
    parts = {
        name: task.Split.of(
            maps.numpy().astype(np.uint8).transpose(0, 2, 3, 1), labels[name],
            settings.crop_padding if name == "train" else 0, [grey.mean()], [grey.std()], "cpu",
        )
        for name, maps in images.items()
    }  # fmt: skip
    steps = 2 * (len(labels["train"]) // settings.batch_size)
    train(model, parts["train"], parts["validation"], settings, seed=job.seed, length=Length(steps=steps))
    tuned = tuple(task.evaluate(model, parts[name])[1] for name in ("test", "validation"))
    return {"probe": probe, "fine_tuning": tuned}  # pyright: ignore[reportReturnType]


def test_trials_are_those_put_together_by_hand(context: cli.Context) -> None:
    jobs = [job for job in transfer.jobs(context) if job.seed == 1]
    assert [job.arm for job in jobs] == list(transfer.ARMS)
    differing = set()
    for job in jobs:
        found = transfer_trial.run(job)
        expected = by_hand(context, job)
        for protocol in transfer.PROTOCOLS:
            accuracies = found[protocol]["test_accuracy"], found[protocol]["validation_accuracy"]
            # Features are the same but for rounding, which may turn an image of the 60.
            assert accuracies == pytest.approx(expected[protocol], abs=0.02), (job.arm, protocol)
            differing.add(accuracies)
        # 96 images in batches of 16, twice; a probe looks at each of them once.
        assert found["fine_tuning"]["training_flops"] % (2 * 96) == 0
        assert found["probe"]["training_flops"] % 96 == 0
        assert found["fine_tuning"]["training_flops"] > 4 * found["probe"]["training_flops"]
    assert len(differing) > 4


def test_the_target_the_protocol_and_the_source_decide_a_trial(context: cli.Context) -> None:
    (job, *_), code = transfer.jobs(context), "code"
    mark = records.fingerprint(job, "of the source", code)
    assert job.fine_tuning is not None
    longer = dataclasses.replace(job.fine_tuning, epochs=3)
    for other in ({"target_hash": "x"}, {"fine_tuning": longer}, {"seed": 1}, {"arm": "untrained"}):
        assert records.fingerprint(dataclasses.replace(job, **other), "of the source", code) != mark
    assert records.fingerprint(job, "of another source", code) != mark
    # Where things lie is nothing to a trial.
    elsewhere = dataclasses.replace(job, target_data="a", trained="b", data="c")
    assert records.fingerprint(elsewhere, "of the source", code) == mark
    files = {file.name for file in records.code_files(ROOT, records.grower_of(job), records.also_of(job))}
    assert {"transfer_trial.py", "transfer_learning.py", "trained.py", "training.py"} <= files
    assert not {"transfer.py", "transfer_table.py", "perturbations.py"} & files


def test_the_estimate_is_what_fine_tuning_spends(context: cli.Context) -> None:
    found = {arm.arm: arm for arm in estimate.trials_of(context, "transfer")}
    assert list(found) == list(transfer.ARMS) and {arm.todo for arm in found.values()} == {2}
    for job in transfer.jobs(context)[::2]:
        spent = transfer_trial.run(job)["fine_tuning"]["training_flops"]
        of = found[job.arm]
        assert of.flops is not None
        assert spent == of.flops if of.how == "" else spent <= of.flops
    assert [of.how for of in found.values()] == ["", "<=", "<=", ""]


def test_the_stage(context: cli.Context) -> None:
    transfer.main(context)
    file = context.metrics / "transfer" / "moved.csv"
    lines = outputs.read_csv(file)
    assert [(line["pair"], line["arm"], line["seed"], line["protocol"]) for line in lines] == [
        ("moved", arm, seed, protocol) for arm in transfer.ARMS for seed in "01" for protocol in transfer.PROTOCOLS
    ]
    before = file.read_bytes()
    transfer.main(context)
    assert file.read_bytes() == before
    summary = outputs.read_json(file.with_suffix(".json"))
    assert set(summary["probes"]["dnm"]["inverse_regularization"]) <= set(transfer_learning.CANDIDATES)
    mean = np.mean([float(x["test_accuracy"]) for x in lines if (x["arm"], x["protocol"]) == ("dnm", "probe")])
    assert summary["arms"]["dnm"]["test_accuracy/probe"] == pytest.approx(mean)
    found = {"moved": transfer_statistics.of_transfer(context)}
    transfer_statistics.correct(found)
    cells = transfer_table.cells(documented.load(), context.settings.image_classification, found, SOURCES)
    assert "medical (lesions) to strokes (strokes)" in transfer_table.page(documented.load(), cells, found)
    # The target's settings are among those that the results come from.
    assert results.settings(context, "transfer")["target.training.batch_size"] == 16
    assert results.settings(context, "transfer")["transfer.epochs"] == 2
    assert results.has_run(context, "transfer")
    assert results.read(context, "transfer").arms == summary["arms"]


SOURCES = {"medical": "lesions", "strokes": "strokes"}


def made(gain: float = 0.05, seeds: int = 5, noise: float = 0.004) -> list[dict[str, str]]:
    """Lines in which dnm is better than the other arms by `gain`, and noise."""
    draws = np.random.default_rng(5)
    level = {"baseline": 0.6, "dnm": 0.6 + gain, "scratch": 0.6, "untrained": 0.5}
    return [
        {
            "arm": arm, "seed": str(seed), "protocol": protocol, "training_flops": "1e9",
            "test_accuracy": str(level[arm] + noise * draws.standard_normal()),
        }
        for protocol in transfer.PROTOCOLS for arm in transfer.ARMS for seed in range(seeds)
    ]  # fmt: skip


def test_statistics_against_scipy() -> None:
    lines = made()
    found = transfer_statistics.transfer_statistics(lines, 7.5, as_documented=False)
    for protocol in transfer.PROTOCOLS:
        accuracy = {
            arm: 100 * np.array([
                float(line["test_accuracy"]) for line in lines if (line["arm"], line["protocol"]) == (arm, protocol)
            ])
            for arm in transfer.ARMS
        }  # fmt: skip
        of = found["protocols"][protocol]
        for name, (treatment, control) in {
            "improvement": ("dnm", "baseline"), "over_scratch": ("dnm", "scratch"),
            "over_untrained": ("baseline", "untrained"),
        }.items():  # fmt: skip
            test: Any = stats.ttest_rel(accuracy[treatment], accuracy[control])
            interval = test.confidence_interval()
            difference = of["differences"][name]
            assert (difference["mean"], difference["p_value"], difference["low"], difference["high"]) == pytest.approx(
                (np.mean(accuracy[treatment] - accuracy[control]), test.pvalue, interval.low, interval.high)
            )
            assert difference["sign_flip_floor"] == 2 / 2**5
        assert of["arms"]["untrained"]["test_accuracy"]["mean"] == pytest.approx(accuracy["untrained"].mean())
        assert of["differences"]["improvement"]["verdict"] == "direction only"
    assert verdict(made(gain=0.0, noise=0.02)) == "not reproduced"
    assert verdict(made(gain=-0.05)) == "contradicted"
    assert verdict(made(gain=0.08), as_documented=True) == "reproduced"


def verdict(lines: list[dict[str, str]], *, as_documented: bool = False) -> str:
    found = transfer_statistics.transfer_statistics(lines, 7.5, as_documented=as_documented)
    return found["protocols"]["fine_tuning"]["differences"]["improvement"]["verdict"]


def test_a_family_is_one_difference_over_the_pairs() -> None:
    gains = {"a": 0.05, "b": 0.004, "c": 0.002}
    found = {
        name: transfer_statistics.transfer_statistics(made(gain), 7.5, as_documented=False)
        for name, gain in gains.items()
    }
    transfer_statistics.correct(found)
    for protocol in transfer.PROTOCOLS:
        family = [of["protocols"][protocol]["differences"]["improvement"] for of in found.values()]
        # Holm: the k-th smallest times how many are left, never below the one before it.
        ordered = sorted(family, key=lambda of: of["p_value"])
        least = 0.0
        for place, of in enumerate(ordered):
            least = max(least, min(1.0, (3 - place) * of["p_value"]))
            assert of["holm_p_value"] == pytest.approx(least)
    transfer_statistics.correct({})


def test_arms_with_other_seeds_are_refused() -> None:
    lines = [line for line in made() if (line["arm"], line["seed"]) != ("untrained", "3")]
    with pytest.raises(cli.UserError, match="the arms have different seeds .*run the transfer stage again"):
        transfer_statistics.transfer_statistics(lines, 7.5, as_documented=False)


def test_the_table_has_the_documents_rows_where_nothing_was_measured(tiny_row: Row) -> None:
    document = documented.load()
    cells = transfer_table.cells(document, {"cifar10": tiny_row}, {}, {})
    table = document.tables["transfer"]
    own = [(cell["row"], cell["column"]) for cell in cells if cell["column"] in table.columns]
    assert own == [(row, column) for row in table.rows for column in table.columns]
    assert all(cell["measured"] == "" for cell in cells)
    assert [cell["note"] for cell in cells if cell["column"] == "dnm"] == [
        "no data set of stl10 has been measured at this scale",
        "no data set of imagenet and cifar100 has been measured at this scale",
        "this pair has not been measured at this scale",
    ]
    assert "## Not measured" in transfer_table.page(document, cells, {})


def committed(name: str) -> list[dict[str, str]]:
    with (ROOT / "metrics" / "embedded" / f"{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


PAIRS = {
    "cifar10_to_stl10": "cifar10_stl10",
    "imagenet_to_cifar100": "imagenet_cifar100",
    "medical_to_natural": "medical_natural",
}


def test_the_committed_table_comes_from_the_lines() -> None:
    """With csv and numpy alone, from what is committed."""
    cells = {(cell["row"], cell["column"]): cell for cell in committed("tables/transfer")}
    for row, name in PAIRS.items():
        for protocol, ending in (("fine_tuning", ""), ("probe", "_probe")):
            of: dict[str, dict[str, float]] = {}
            for line in committed(f"transfer/{name}"):
                assert line["pair"] == name
                if line["protocol"] == protocol:
                    of.setdefault(line["arm"], {})[line["seed"]] = 100 * float(line["test_accuracy"])
            seeds = sorted(of["baseline"])
            assert len(seeds) == 3
            for arm in ("baseline", "dnm", "scratch", "untrained"):
                cell = cells[row, f"{arm}{ending}"]
                assert float(cell["measured"]) == pytest.approx(np.mean([of[arm][seed] for seed in seeds]), rel=1e-5)
            gains = np.array([of["dnm"][seed] - of["baseline"][seed] for seed in seeds])
            # The t-based interval: 4.303 is the 97.5% quantile with two degrees of freedom.
            half = 4.3026527 * gains.std(ddof=1) / np.sqrt(3)
            cell = cells[row, f"improvement{ending}"]
            assert (float(cell["measured"]), float(cell["low"]), float(cell["high"])) == pytest.approx(
                (gains.mean(), gains.mean() - half, gains.mean() + half), rel=1e-4, abs=1e-6
            )
            expected = "not reproduced" if abs(gains.mean()) <= half else "direction only"
            assert cell["verdict"] == (expected if gains.mean() > -half else "contradicted")
    (claim,) = [cell for cell in committed("tables/achievements") if cell["row"] == "generalization"]
    mean = np.mean([float(cells[row, "improvement"]["measured"]) for row in PAIRS])
    assert float(claim["measured"]) == pytest.approx(mean, rel=1e-4, abs=1e-6)


def test_a_changed_raw_record_changes_the_table() -> None:
    settings, sources = load_settings(ROOT / "params.yaml"), {}
    for name in settings.image_classification:
        sources[name] = outputs.read_json(ROOT / "metrics" / "embedded" / "prepare" / f"{name}.json")["source"]

    def cells(extra: float) -> list[dict[str, Any]]:
        found = {}
        for row, name in PAIRS.items():
            lines = committed(f"transfer/{name}")
            for line in lines:
                if (name, line["arm"], line["seed"]) == ("cifar10_stl10", "dnm", "2"):
                    line["test_accuracy"] = str(float(line["test_accuracy"]) + extra)
            of = transfer_statistics.transfer_statistics(
                lines, documented.load().number("transfer", row, "improvement"), as_documented=False
            )
            entry = settings.transfer[name]
            found[name] = {"documented_row": row, "source": entry.source, "target": entry.target, **of}
        return transfer_table.cells(documented.load(), settings.image_classification, found, sources)

    same = cells(0.0)
    assert [{key: str(value) for key, value in cell.items()} for cell in same] == committed("tables/transfer")
    changed = {(a["row"], a["column"]) for a, b in zip(same, cells(0.01), strict=True) if a != b}
    assert changed == {
        ("cifar10_to_stl10", column) for column in ("dnm", "improvement", "dnm_probe", "improvement_probe")
    }


def test_the_medical_baseline_is_neither_at_chance_nor_at_its_best() -> None:
    accuracies = [float(line["test_accuracy"]) for line in committed("baseline/medical.trials")]
    assert len(accuracies) == 3 and all(0.2 < accuracy < 0.9 for accuracy in accuracies)


def test_the_image_tables_leave_the_medical_row_out() -> None:
    for name in ("image_classification", "runs", "confidence", "convergence", "memory", "inference", "protocol"):
        page = (ROOT / "metrics" / "embedded" / "tables" / f"{name}.csv").read_text(encoding="utf-8")
        assert "medical" not in page and "lesions" not in page, name
    for name in ("image_classification", "convergence"):
        assert "medical" not in outputs.read_json(ROOT / "metrics" / "embedded" / "statistics" / f"{name}.json")


def test_real_x_rays_as_a_source(tiny_row: Row) -> None:
    """The workstation's medical row: its networks fit its images, and these lead to natural ones."""
    folder = os.environ.get("DNM_PNEUMONIA_MNIST", "")
    if not folder:
        pytest.skip("DNM_PNEUMONIA_MNIST does not say where PneumoniaMNIST lies")
    settings = load_settings(ROOT / "scales" / "workstation" / "params.yaml")
    row = settings.image_classification["medical"]
    assert isinstance(row.data, Npz)
    data = registry.load(row.data, ROOT)
    assert (data.train.images.shape[1:], len(data.class_names)) == ((28, 28, 1), 2)
    assert len(data.train) >= row.training.batch_size
    model = task.network(row.networks.baseline, 1, 2, torch.Generator().manual_seed(0))
    natural = registry.load(tiny_row.data, ROOT)
    images = transfer_learning.matched(natural.test.images, 1, 28)
    split = task.Split.of(images, natural.test.labels, 0, *splits.channel_statistics(data.train.images), "cpu")
    assert transfer_learning.features(model, split).values.shape == (60, 96)
