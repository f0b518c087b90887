"""`dnm-bench`: the document's commands as targets of the pipeline, and the plan of what they would run."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import bench, cli, documented, estimate, outputs, plan, trial
from stages.settings import Nas, Row, Settings, load
from tests.stages import small_pipeline
from tests.stages.small_pipeline import ROOT

WORKSTATION = "scales/workstation/dvc.yaml"


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The targets of every `dvc repro`, which runs nothing."""
    targets: list[list[str]] = []

    def repro(wanted: list[str]) -> int:
        targets.append(list(wanted))
        return 0

    monkeypatch.setattr(bench, "repro", repro)
    monkeypatch.setattr(bench, "_show", lambda options, settings: None)
    return targets


def status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        bench.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    "line, targets",
    [
        ("cifar10 --dnm --baseline", ["baseline@cifar10", "morphogenesis@cifar10"]),
        ("cifar10", ["baseline@cifar10", "morphogenesis@cifar10"]),
        ("cifar100 --baseline", ["baseline@cifar100"]),
        ("imagenet --dnm", ["morphogenesis@imagenet"]),
        ("fashion-mnist --dnm", ["morphogenesis@fashion_mnist"]),
        ("stl10 --scale paper --baseline", ["scales/paper/dvc.yaml:baseline@stl10"]),
        ("cifar10 --scale workstation --dnm", [f"{WORKSTATION}:morphogenesis@cifar10"]),
        (
            "efficiency",
            [f"efficiency@{row}" for row in ("cifar10", "cifar100", "imagenet", "fashion_mnist", "stl10")],
        ),
        ("efficiency --scale workstation", [f"{WORKSTATION}:efficiency@cifar10"]),
        ("few-shot", ["few_shot@characters"]),
        ("few-shot --scale workstation", [f"{WORKSTATION}:few_shot@omniglot"]),
        ("all", ["dvc.yaml"]),
        ("all --scale workstation", [WORKSTATION]),
        ("report", ["report"]),
        ("report --scale workstation", [f"{WORKSTATION}:report"]),
    ],
)
def test_a_command_is_targets_of_the_pipeline(called: list[list[str]], line: str, targets: list[str]) -> None:
    assert status(*line.split()) == 0
    assert called == [targets]


def test_every_command_of_the_document_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    document = documented.load()
    scripts = [name.removesuffix("_benchmark.py").replace("_", "-") for name in document.scripts]
    commands = [name for name in document.commands if name not in ("clone", "install")]
    for name in {*scripts, *commands}:
        assert status(name, "--help") == 0
        assert f"usage: dnm-bench {name} " in capsys.readouterr().out
    rows = [row.replace("_", "-") for row in document.tables["image_classification"].rows]
    assert sorted(rows) == sorted(bench.ROWS)


def refused(capsys: pytest.CaptureFixture[str], message: str, *arguments: str) -> None:
    assert status(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1, said.err
    assert message in said.err


def test_what_is_not_measured_says_so(called: list[list[str]], capsys) -> None:
    refused(capsys, "the workstation scale has no row fashion_mnist", "fashion-mnist", "--scale", "workstation")
    assert called == []


def test_settings_are_checked_before_dvc_is_asked(called, capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    refused(capsys, "has no dvc.yaml; dnm-bench runs in a clone", "all")
    (tmp_path / "dvc.yaml").touch()
    refused(capsys, f"{tmp_path / 'params.yaml'}: cannot be read", "all")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("epochs: 40", "epochs: 0", 1), encoding="utf-8")
    refused(capsys, "training.epochs is 0, expected at least 1", "cifar10", "--plan")
    assert called == []


def test_a_failed_stage_is_1_and_an_interruption_130(capsys, monkeypatch) -> None:
    monkeypatch.setattr(bench, "repro", lambda targets: 255)
    assert status("all") == 1
    assert "dvc repro ended with 255; what it says stands above" in capsys.readouterr().err

    def interrupted(targets: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "repro", interrupted)
    assert status("all") == 130


@pytest.mark.parametrize(
    "line", ["", "nope", "cifar10 --scale huge", "cifar10 --results x", "report --results x --plan", "few-shot --dnm"]
)
def test_wrong_usage_is_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(*line.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: dnm-bench") and "error: " in said.splitlines()[-1]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the results of a scale."""
    metrics = tmp_path / "metrics" / "embedded"
    for name, text in {
        "tables/runs.md": "# Runs\n\n| a |\n| --- |\n| 1 |\n",
        "tables/image_classification.md": "# Image Classification\n\n## Claims\n",
        "tables/runs.csv": "a\n1\n",
        "figures/curve.svg": "<svg/>",
        "machine/setup.md": "# Experimental Setup\n",
        "baseline/cifar10.json": "{}",
    }.items():
        outputs.write_text(metrics / name, text)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    (tmp_path / "dvc.yaml").touch()
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def test_output_copies_tables_and_figures_and_report_makes_a_page(results: Path, called, capsys) -> None:
    folder = results / "out"
    assert status("all", "--output", str(folder)) == 0
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    copied = {"tables/runs.md", "tables/runs.csv", "tables/image_classification.md", "figures/curve.svg"}
    assert names == {*copied, "machine/setup.md", "source.json"}
    assert outputs.read_json(folder / "source.json")["scale"] == "embedded"
    assert status("report", "--results", str(folder)) == 0
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.endswith(f"report: {folder / 'report.md'}\n")
    heads = [line for line in page.splitlines() if line.startswith("#")]
    assert heads == ["# Benchmarks", "## Image Classification", "### Claims", "## Runs", "## Experimental Setup"]
    assert "![curve](figures/curve.svg)" in page and "The embedded scale, at commit " in page
    # A later copy takes the place of the earlier one.
    (results / "metrics" / "embedded" / "tables" / "runs.md").unlink()
    assert status("report", "--output", str(folder)) == 0
    assert not (folder / "tables" / "runs.md").exists()
    assert called == [["dvc.yaml"], ["report"]]


def test_output_takes_nothing_from_anybody(results: Path, called, capsys) -> None:
    (results / "own").mkdir()
    (results / "own" / "thesis.txt").touch()
    refused(capsys, "holds files that dnm-bench did not write", "all", "--output", str(results / "own"))
    refused(capsys, "is a file; give --output a folder", "all", "--output", str(results / "own" / "thesis.txt"))
    refused(capsys, "the pipeline's own results", "all", "--output", str(results / "metrics" / "embedded"))
    refused(capsys, "source.json is missing; make the folder with", "report", "--results", str(results / "own"))
    assert called == []


@pytest.fixture
def tiny_context(tmp_path: Path, tiny_row: Row, execution) -> cli.Context:
    rows = {"tiny": tiny_row}
    settings = Settings(
        scale="tiny",
        root=".",
        params_file="params.yaml",
        execution=execution,
        image_classification=rows,
        contest={},
        ranking={},
        ablation={},
        robustness={},
        events={},
        nas={},
    )
    return cli.Context(settings, tmp_path, "tiny")


def test_the_cost_of_a_trial_is_what_it_spends(tiny_context: cli.Context, make_job: Callable) -> None:
    result = trial.run(make_job())
    (baseline,) = estimate.trials_of(tiny_context, "baseline")
    assert (baseline.todo, baseline.flops, baseline.how) == (2, result["figures"]["training_flops"], "")
    grown = {found.arm: found for found in estimate.trials_of(tiny_context, "morphogenesis")}
    assert set(grown) == {"start", "dnm", "scratch"}
    assert grown["dnm"].how == "<="
    assert grown["dnm"].flops == round(1.15 * result["figures"]["training_flops"])
    assert estimate.trials_of(tiny_context, "prepare") == []


def leave(context: cli.Context, stage: str, spent: dict[str, int], processor: str) -> None:
    """What a stage leaves of one trial for each arm, which took two seconds."""
    lines = [{"arm": arm, "seed": 0, "training_flops": flops} for arm, flops in spent.items()]
    outputs.write_csv(context.metrics / stage / "tiny.trials.csv", lines, ("arm", "seed", "training_flops"))
    trials = [
        {"arm": arm, "seed": 0, "seconds": 2.0, "processor": processor, "date": "2026-01-02T03:04:05"} for arm in spent
    ]
    outputs.write_json(context.metrics / "machine" / f"{stage}-tiny.json", {"trials": trials})


def test_a_search_costs_a_multiple_of_growing_and_a_training(tiny_context: cli.Context) -> None:
    entry = Nas(row="tiny", seeds=2, cost=3.0, rungs=1, reduction=2, longest=1.0, random=True)
    settings = dataclasses.replace(tiny_context.settings, nas={"search": entry})
    context = dataclasses.replace(tiny_context, settings=settings, entry="search")
    (baseline,) = estimate.trials_of(tiny_context, "baseline")
    assert baseline.flops is not None
    found = estimate.trials_of(context, "nas")
    assert [(one.arm, one.todo, one.how) for one in found] == [("nas", 2, "<="), ("nas_random", 2, "<=")]
    assert {one.flops for one in found} == {round(4 * 1.15 * baseline.flops)}
    leave(tiny_context, "morphogenesis", {"dnm": 500}, "x")
    assert {one.flops for one in estimate.trials_of(context, "nas")} == {round(1500 + 1.15 * baseline.flops)}


def test_what_the_last_trials_spent_says_what_growing_costs(tiny_context: cli.Context) -> None:
    (baseline,) = estimate.trials_of(tiny_context, "baseline")
    leave(tiny_context, "baseline", {"baseline": 1000}, "x")
    leave(tiny_context, "morphogenesis", {"start": 600, "dnm": 500, "scratch": 400}, "x")
    costs = {found.arm: found for found in estimate.trials_of(tiny_context, "morphogenesis")}
    assert baseline.flops is not None
    assert {arm: found.flops for arm, found in costs.items()} == {
        "start": round(0.6 * baseline.flops), "dnm": round(0.5 * baseline.flops), "scratch": round(0.4 * baseline.flops)
    }  # fmt: skip
    assert {found.how for found in costs.values()} == {"~"}


def test_the_speed_is_that_of_the_last_trials_on_such_a_processor(tiny_context: cli.Context, monkeypatch) -> None:
    monkeypatch.setattr(estimate, "MEASURED_SECONDS", 0.05)
    here = outputs.machine(ROOT)["processor"]
    leave(tiny_context, "baseline", {"baseline": 1000}, here)
    speed = estimate.speed(tiny_context, "baseline")
    assert speed.flops == 500
    assert speed.source == f"metrics/tiny/machine/baseline-tiny.json ({here}, 2026-01-02)"
    leave(tiny_context, "baseline", {"baseline": 1000}, "another processor")
    speed = estimate.speed(tiny_context, "baseline")
    assert speed.flops is not None and speed.flops > 1e6
    assert "training steps on noise on this machine, just now" in speed.source


def test_a_device_that_is_not_here_has_no_speed(tiny_context: cli.Context, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    paper = load(ROOT / "scales" / "paper" / "params.yaml")
    context = cli.Context(paper, tiny_context.root, "cifar10")
    assert estimate.speed(context, "baseline").flops is None
    stages = [plan.Stage("baseline", "cifar10", "never run"), plan.Stage("report", "", "never run")]
    page = plan.page(paper, tiny_context.root, stages, 18).splitlines()
    assert page[0] == "paper: 2 of 18 stages would run"
    # 351 steps of 128 samples an epoch, 200 epochs.
    assert page[3].split("  ")[0] == "baseline@cifar10" and "10 baseline" in page[3] and "<=8.2 PFLOP" in page[3]
    assert page[-2].startswith("at most 10 trials, 82.0 PFLOP, time not known, ")
    assert page[-1] == "speed: execution.device is cuda, and there is none here"


def test_records_are_not_counted_as_trials_to_run(monkeypatch, tiny_context: cli.Context) -> None:
    monkeypatch.setattr(estimate, "_recorded", lambda context, folder: {"baseline": 2})
    execution = tiny_context.settings.execution.__class__(
        **{**tiny_context.settings.execution.__dict__, "keep_records": True}
    )
    settings = Settings(**{**tiny_context.settings.__dict__, "execution": execution})
    page = plan.page(settings, tiny_context.root, [plan.Stage("baseline", "tiny", "changed: x")], 3)
    assert "0; 2 recorded" in page
    assert page.splitlines()[-1] == "no trials"


def execute(folder: Path, *arguments: str, expected: int = 0) -> str:
    own = {
        "PATH": os.environ["PATH"], "DNM_WORKERS": "2", "PYTHONDONTWRITEBYTECODE": "1",
        # Nothing is logged: where there is no such store, a stage says so and goes on.
        "MLFLOW_TRACKING_URI": "nowhere://",
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "stages.bench", *arguments], cwd=folder, env={**os.environ, **own}, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == expected, ended.stdout + ended.stderr
    return ended.stdout


def test_in_a_real_pipeline(tmp_path: Path) -> None:
    networks = {"baseline": [[32], [64]], "start": [[16], [32]]}
    row = {"seeds": 2, "data": {"train": 100, "test": 20}, "networks": networks}
    small_pipeline.make(tmp_path, {**row, "training": {"epochs": 1, "batch_size": 16}})

    said = execute(tmp_path, "cifar10", "--baseline")
    metrics = tmp_path / "metrics" / "embedded"
    found = outputs.read_json(metrics / "baseline" / "cifar10.json")["baseline"]
    assert "cifar10, embedded scale, measured on generated strokes:\n  baseline: test accuracy " in said
    assert f"{100 * found['test_accuracy']:.2f}% (standard deviation " in said and ", 2 seeds, " in said
    assert execute(tmp_path, "cifar10", "--baseline", "--plan").endswith("stages are up to date; nothing would run\n")

    text = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("epochs: 1", "epochs: 3"), encoding="utf-8")
    planned = execute(tmp_path, "cifar10", "--plan")
    lines = {line.split(" ")[0]: line for line in planned.splitlines()}
    assert "changed: image_classification.cifar10.training" in lines["baseline@cifar10"]
    assert "2 baseline" in lines["baseline@cifar10"]
    assert f"{3 * found['training_flops'] / 1e9:.1f} GFLOP" in lines["baseline@cifar10"]
    assert "never run" in lines["morphogenesis@cifar10"]
    assert "2 start + 2 dnm + 2 scratch" in lines["morphogenesis@cifar10"]
    assert "speed of baseline@cifar10: metrics/embedded/machine/baseline-cifar10.json (" in planned
    assert "speed of morphogenesis@cifar10: 2 s of training steps on noise on this machine" in planned
    assert not (metrics / "morphogenesis").exists()
