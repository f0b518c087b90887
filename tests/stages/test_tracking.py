"""MLflow holds one run for each trial and one for each stage, however often a stage is logged."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import outputs, tracking
from stages.cli import Context
from stages.settings import Row, Settings

# Theirs, and no use of them here brings them about; as errors they would break the database's mapping for good.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy|alembic).*")

ARMS = {"baseline": ("baseline",), "morphogenesis": ("start", "dnm", "scratch")}
SEEDS = 2
EPOCHS = 3


def make_context(root: Path, row: Row, execution) -> Context:
    outputs.write_json(root / "metrics" / "tiny" / "prepare" / "strokes.json", {"source": "generated strokes"})
    settings = Settings(
        scale="tiny", root=".", params_file="params.yaml", execution=execution, image_classification={"strokes": row}
    )
    return Context(settings, root, "strokes")


def result(arm: str, seed: int, accuracy: float) -> dict[str, Any]:
    """What a trial leaves, made up."""
    points = [
        {
            "epoch": epoch, "step": 6 * epoch, "flops": 1000 * epoch, "learning_rate": 0.1 / epoch,
            "train_loss": 1.0 / epoch, "validation_loss": 2.0 / epoch, "validation_accuracy": 0.2 * epoch,
            "parameters": 100,
        }
        for epoch in range(1, EPOCHS + 1)
    ]  # fmt: skip
    journal = [{"operator": "Divide", "group": "0", "units": [1]}] if arm == "dnm" else []
    return {
        "arm": arm, "seed": seed, "figures": {"test_accuracy": accuracy, "epochs": EPOCHS}, "curve": points,
        "events": [{"step": 3}] if journal else [], "journal": journal, "widths": [[4]], "fingerprint": f"{arm}{seed}",
        "machine": {"seconds": 1.5},
    }  # fmt: skip


def results(stage: str, shift: float = 0.0) -> list[dict[str, Any]]:
    return [result(arm, seed, 0.5 + 0.1 * seed + shift) for arm in ARMS[stage] for seed in range(SEEDS)]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory, tiny_row: Row, execution) -> Context:
    return make_context(tmp_path_factory.mktemp("a store"), tiny_row, execution)


@pytest.fixture(autouse=True)
def store_of_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    # What `log` sets is taken back after each test.
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


@pytest.fixture
def logged(context: Context) -> Callable[[], list]:
    """Logs both stages twice, the second time with other figures; returns a way to see the runs that are left."""
    for shift in (0.3, 0.0):
        for stage in ARMS:
            tracking.log(context, stage, results(stage, shift))
    # It is `log` that sets what its import reads.
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking.uri(context.root))

    def runs() -> list:
        experiment = client.get_experiment_by_name("dnm-tiny")
        return list(client.search_runs([experiment.experiment_id], max_results=1000))

    return runs


def of_kind(runs: list, kind: str) -> list:
    return [run for run in runs if run.data.tags["dnm.kind"] == kind]


def test_runs(context: Context, logged: Callable, capsys: pytest.CaptureFixture) -> None:
    from mlflow.tracking import MlflowClient

    client, runs = MlflowClient(tracking.uri(context.root)), logged()
    assert capsys.readouterr().err == ""
    assert (context.root / "mlflow.db").exists()

    parents = {run.data.tags["dnm.stage"]: run for run in of_kind(runs, "stage")}
    trials = of_kind(runs, "trial")
    assert parents.keys() == ARMS.keys()
    assert len(runs) == len(ARMS) + 4 * SEEDS
    wanted = [(stage, arm, str(seed)) for stage, arms in ARMS.items() for arm in arms for seed in range(SEEDS)]
    assert sorted(wanted) == sorted(
        (run.data.tags["dnm.stage"], run.data.tags["dnm.arm"], run.data.tags["dnm.seed"]) for run in trials
    )
    assert {run.info.status for run in runs} == {"FINISHED"}

    for run in trials:
        tags, stage = run.data.tags, run.data.tags["dnm.stage"]
        arm, seed = tags["dnm.arm"], int(tags["dnm.seed"])
        assert tags["mlflow.parentRunId"] == parents[stage].info.run_id
        assert (tags["dnm.scale"], tags["dnm.row"]) == ("tiny", "strokes")
        assert tags["dnm.measured_on"] == "generated strokes"
        assert tags["dnm.trial_fingerprint"] == f"{arm}{seed}"
        assert run.data.params["training.learning_rate"] == "0.004"
        assert run.data.params["networks.start"] == "((4,), (6, 6))"
        assert (run.data.params["arm"], run.data.params["seed"]) == (arm, str(seed))
        assert run.data.metrics["test_accuracy"] == 0.5 + 0.1 * seed
        assert run.data.metrics["seconds"] == 1.5
        for key, last in (("train_loss", 1 / 3), ("validation_accuracy", 0.2 * 3), ("flops", 3000.0)):
            history = client.get_metric_history(run.info.run_id, f"curve.{key}")
            assert [point.step for point in history] == [1, 2, 3]
            assert history[-1].value == last
        assert "curve.epoch" not in run.data.metrics

    for stage, parent in parents.items():
        assert "mlflow.parentRunId" not in parent.data.tags
        assert {f"{arm}.test_accuracy" for arm in ARMS[stage]} == parent.data.metrics.keys()
        assert list(parent.data.metrics.values()) == pytest.approx([0.55] * len(ARMS[stage]))


def test_the_journal_is_an_artifact_beside_the_store(context: Context, logged: Callable) -> None:
    (run,) = [
        run for run in of_kind(logged(), "trial") if (run.data.params["arm"], run.data.params["seed"]) == ("dnm", "1")
    ]
    (file,) = (context.root / "mlartifacts" / "tiny" / run.info.run_id).rglob("journal.json")
    content = json.loads(file.read_text())
    assert content["journal"] == [{"operator": "Divide", "group": "0", "units": [1]}]
    assert content.keys() == {"journal", "events", "widths"}


def test_other_settings_stay_beside(context: Context, logged: Callable, tiny_row: Row, execution) -> None:
    before = {run.info.run_id for run in logged()}
    longer = dataclasses.replace(tiny_row, training=dataclasses.replace(tiny_row.training, epochs=4))
    other = make_context(context.root, longer, execution)
    for _ in range(2):
        tracking.log(other, "baseline", results("baseline"))
    after = {run.info.run_id for run in logged()}
    assert len(after) == len(before) + 1 + SEEDS


# What must not end a stage


@pytest.fixture
def elsewhere(tmp_path: Path, tiny_row: Row, execution) -> Context:
    return make_context(tmp_path, tiny_row, execution)


def test_mlflow_is_missing(elsewhere: Context, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    tracking.log(elsewhere, "baseline", results("baseline"))
    assert capsys.readouterr().err == "mlflow is not installed: the runs stand in metrics/ only\n"
    assert not (elsewhere.root / "mlflow.db").exists()


def test_the_server_is_down(elsewhere: Context, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    started = time.monotonic()
    tracking.log(elsewhere, "baseline", results("baseline"))
    assert time.monotonic() - started < 20
    said = capsys.readouterr().err
    assert "mlflow: runs of baseline strokes were not logged: " in said
    assert "127.0.0.1" in said


def test_the_store_is_damaged(elsewhere: Context, capsys) -> None:
    (elsewhere.root / "mlflow.db").write_text("no database\n" * 100)
    tracking.log(elsewhere, "baseline", results("baseline"))
    assert "mlflow: runs of baseline strokes were not logged: " in capsys.readouterr().err


# Where the store is


def test_the_store_of_another_place(tmp_path: Path, monkeypatch) -> None:
    assert tracking.uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "real"))
    assert tracking.uri(tmp_path / "copy") == f"sqlite:///{tmp_path}/real/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking.uri(tmp_path) == "http://127.0.0.1:5000"


def test_a_store_that_the_environment_names(elsewhere: Context, tmp_path: Path, monkeypatch, capsys) -> None:
    """Nothing is written under the working directory, where MLflow would put artifacts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/named.db")
    tracking.log(elsewhere, "baseline", [result("baseline", 0, 0.5)])
    assert sorted(os.listdir(tmp_path)) == ["metrics", "mlartifacts", "named.db", "runs"]
    assert len(list((tmp_path / "mlartifacts" / "tiny").rglob("journal.json"))) == 1
    # Not a word of the database that is made.
    assert capsys.readouterr().err == ""
