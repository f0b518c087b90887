"""MLflow holds one run for each trial, stage and verdict, however often they are logged, and from files alone."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import outputs, tracking, views
from stages import settings as settings_module
from stages.cli import Context
from stages.settings import Dnm, Row
from tests.stages.left_behind import ARMS, SEEDS, leave, leave_report, make_context

# Theirs, and no use of them here brings them about; as errors they would break the database's mapping for good.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy|alembic).*")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory, tiny_row: Row, execution) -> Context:
    return make_context(tmp_path_factory.mktemp("a store"), tiny_row, execution)


@pytest.fixture
def bare(tmp_path: Path, tiny_row: Row, execution) -> Context:
    """A place without a store."""
    return make_context(tmp_path, tiny_row, execution)


@pytest.fixture
def elsewhere(bare: Context, empty_store: Path) -> Context:
    """Another place, with an empty store, which takes seconds to make."""
    shutil.copy(empty_store, bare.root / "mlflow.db")
    return bare


@pytest.fixture(autouse=True)
def store_of_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DVC_ROOT", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    # What `log` sets is taken back after each test.
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def runs_of(context: Context, wanted: str = "") -> list:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking.uri(context.root))
    experiment = client.get_experiment_by_name("dnm-embedded")
    return list(client.search_runs([experiment.experiment_id], wanted, max_results=1000)) if experiment else []


def names(runs: list) -> list[str]:
    return sorted(run.info.run_name for run in runs)


@pytest.fixture
def logged(context: Context) -> Callable[..., list]:
    """Logs both stages twice, the second time with other figures; returns a way to see the runs that are left."""
    for shift in (0.3, 0.0):
        for stage in ARMS:
            leave(context, stage, shift)
            tracking.log(context, stage)
    return lambda wanted="": runs_of(context, wanted)


def test_runs(context: Context, logged: Callable, capsys: pytest.CaptureFixture) -> None:
    from mlflow.tracking import MlflowClient

    client, runs = MlflowClient(tracking.uri(context.root)), logged()
    assert capsys.readouterr().err == ""
    assert (context.root / "mlflow.db").exists()

    parents = {run.data.tags["dnm.stage"]: run for run in logged("tags.dnm.kind = 'stage'")}
    trials = logged("tags.dnm.kind = 'trial'")
    assert parents.keys() == ARMS.keys()
    assert names(parents.values()) == ["strokes baseline", "strokes morphogenesis"]
    assert names(trials) == sorted(
        f"strokes {arm} seed {seed}" for arms in ARMS.values() for arm in arms for seed in range(SEEDS)
    )
    assert len(runs) == len(parents) + len(trials)
    assert {run.info.status for run in runs} == {"FINISHED"}

    for run in trials:
        tags, stage = run.data.tags, run.data.tags["dnm.stage"]
        arm, seed = tags["dnm.arm"], int(tags["dnm.seed"])
        assert tags["mlflow.parentRunId"] == parents[stage].info.run_id
        assert (tags["dnm.scale"], tags["dnm.row"]) == ("embedded", "strokes")
        assert tags["dnm.measured_on"] == "generated strokes"
        assert tags["dnm.trial_fingerprint"] == f"{arm}{seed}"
        assert tags["dnm.widths"] == "[[4]]"
        assert tags["mlflow.source.git.commit"] == "c0ffee"
        assert run.data.params["training.learning_rate"] == "0.004"
        assert run.data.params["training.flip"] == "true"
        assert run.data.params["networks.start"] == "[[4], [6, 6]]"
        assert run.data.params["execution.device"] == "cpu"
        assert (run.data.params["arm"], run.data.params["seed"]) == (arm, str(seed))
        assert run.data.metrics["test_accuracy"] == 0.5 + 0.1 * seed
        assert run.data.metrics["seconds"] == 1.5
        assert run.info.end_time - run.info.start_time == 1500
        for key, last in (("train_loss", 1 / 3), ("validation_accuracy", 0.6 + 0.1 * seed), ("flops", 3000.0)):
            history = client.get_metric_history(run.info.run_id, f"curve/{key}")
            assert [point.step for point in history] == [1, 2, 3]
            assert history[-1].value == pytest.approx(last)
        assert "curve/epoch" not in run.data.metrics

    for stage, parent in parents.items():
        assert "mlflow.parentRunId" not in parent.data.tags
        for arm in ARMS[stage]:
            assert parent.data.metrics[f"test_accuracy/{arm}"] == pytest.approx(0.55)
            history = client.get_metric_history(parent.info.run_id, f"validation_accuracy/{arm}")
            assert [(point.step, round(point.value, 3)) for point in history] == [(1, 0.25), (2, 0.45), (3, 0.65)]


def test_the_data_is_an_input_of_every_run(context: Context, logged: Callable) -> None:
    for run in logged():
        (dataset,) = [found.dataset for found in run.inputs.dataset_inputs]
        assert dataset.name == "strokes: generated strokes"
        assert json.loads(dataset.profile)["sha256"] == "5a" * 32
        assert dataset.digest == "5a" * 18
        assert json.loads(dataset.source) == {"uri": "data/prepared/embedded/strokes.safetensors"}


def test_the_journal_of_a_grown_model_is_an_artifact_beside_the_store(context: Context, logged: Callable) -> None:
    (run,) = logged("tags.dnm.arm = 'dnm' and tags.dnm.seed = '1'")
    (file,) = (context.root / "mlartifacts" / "embedded" / run.info.run_id).rglob("journal.json")
    content = json.loads(file.read_text())
    assert content["journal"] == [{"operator": "Divide", "group": "0", "units": [1]}]
    assert {"journal", "events", "widths"} <= content.keys()
    (run,) = logged("tags.dnm.arm = 'scratch' and tags.dnm.seed = '1'")
    assert not (context.root / "mlartifacts" / "embedded" / run.info.run_id).exists()


def test_what_is_there_is_left_alone(context: Context, logged: Callable) -> None:
    before = sorted(run.info.run_id for run in logged())
    for stage in ARMS:
        assert not tracking.record(context, stage)
    assert sorted(run.info.run_id for run in logged()) == before


def test_a_run_that_was_deleted_is_logged_again(context: Context, logged: Callable) -> None:
    from mlflow.tracking import MlflowClient

    before = names(logged())
    (run,) = logged("tags.dnm.arm = 'dnm' and tags.dnm.seed = '1'")
    MlflowClient(tracking.uri(context.root)).delete_run(run.info.run_id)
    assert tracking.record(context, "morphogenesis")
    assert names(logged()) == before


def test_what_was_cut_off_is_logged_whole(elsewhere: Context, monkeypatch, capsys) -> None:
    leave(elsewhere, "morphogenesis")
    whole, calls = tracking._log_trial, []

    def fails_later(*arguments) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise ConnectionError("gone")
        whole(*arguments)

    monkeypatch.setattr(tracking, "_log_trial", fails_later)
    tracking.log(elsewhere, "morphogenesis")
    assert "not logged; `make sync` logs them later: gone" in capsys.readouterr().err
    assert len(runs_of(elsewhere)) == 3
    monkeypatch.undo()
    assert tracking.record(elsewhere, "morphogenesis")
    assert len(runs_of(elsewhere)) == 1 + 3 * SEEDS
    assert {run.info.status for run in runs_of(elsewhere)} == {"FINISHED"}


# Several settings


def commit_settings(context: Context, plain: dict) -> None:
    """Makes these the committed settings."""
    with (context.root / "params.yaml").open("w") as stream:
        YAML().dump(plain, stream)
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@localhost"]
    for command in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "settings"]):
        subprocess.run([*git, *command], cwd=context.root, check=True)


def test_a_setting_that_the_file_leaves_at_its_default_has_not_changed(elsewhere: Context) -> None:
    plain = json.loads(json.dumps(settings_module.as_plain(elsewhere.settings)))
    for row in plain["image_classification"].values():
        assert row["dnm"].pop("fill") == Dnm.fill
    commit_settings(elsewhere, plain)
    leave(elsewhere, "morphogenesis")
    tracking.log(elsewhere, "morphogenesis")
    runs = runs_of(elsewhere)
    assert "strokes morphogenesis" in names(runs)
    assert not any("dnm.changed" in run.data.tags for run in runs)


def test_other_settings_stay_beside_and_say_what_differs(elsewhere: Context, tiny_row: Row, execution) -> None:
    commit_settings(elsewhere, json.loads(json.dumps(settings_module.as_plain(elsewhere.settings))))
    longer = dataclasses.replace(tiny_row, training=dataclasses.replace(tiny_row.training, epochs=4))
    for row in (tiny_row, longer, longer):
        one = make_context(elsewhere.root, row, execution)
        leave(one, "baseline")
        tracking.log(one, "baseline")
    runs = runs_of(elsewhere)
    assert names(runs) == [
        "strokes baseline",
        "strokes baseline seed 0",
        "strokes baseline seed 0, epochs=4",
        "strokes baseline seed 1",
        "strokes baseline seed 1, epochs=4",
        "strokes baseline, epochs=4",
    ]
    for run in runs:
        assert run.data.tags.get("dnm.changed", "") == ("training.epochs=4" if "=" in run.info.run_name else "")
    one, other = runs_of(elsewhere, "tags.dnm.kind = 'stage'")
    keys = one.data.params.keys()
    assert [key for key in keys if one.data.params[key] != other.data.params[key]] == ["training.epochs"]


def test_another_way_to_grow_leaves_the_baseline_alone(elsewhere: Context, tiny_row: Row, execution) -> None:
    growing = dataclasses.replace(tiny_row, dnm=dataclasses.replace(tiny_row.dnm, enable_aggressive_growth=True))
    logged = []
    for row in (tiny_row, growing):
        one = make_context(elsewhere.root, row, execution)
        for stage in ARMS:
            leave(one, stage)
            logged.append((stage, tracking.record(one, stage)))
    assert logged == [("baseline", True), ("morphogenesis", True), ("baseline", False), ("morphogenesis", True)]
    (baseline,) = runs_of(elsewhere, "tags.dnm.kind = 'stage' and tags.dnm.stage = 'baseline'")
    assert not any(key.startswith("dnm.") for key in baseline.data.params)


def test_dvc_names_its_experiments(elsewhere: Context, monkeypatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "gooey-ruse")
    leave(elsewhere, "baseline")
    tracking.log(elsewhere, "baseline")
    assert {run.data.tags["dnm.dvc_experiment"] for run in runs_of(elsewhere)} == {"gooey-ruse"}


def test_what_stands_under_machine_of_another_run_is_not_taken(elsewhere: Context) -> None:
    leave(elsewhere, "baseline")
    file = elsewhere.metrics / "machine" / "baseline-strokes.json"
    content = outputs.read_json(file)
    for number, trial in enumerate(content["trials"]):
        trial["fingerprint"] = f"baseline{number}"
    content["trials"][1]["fingerprint"] = "of other settings"
    outputs.write_json(file, content)
    tracking.log(elsewhere, "baseline")
    seconds = {
        run.data.tags["dnm.seed"]: run.data.metrics.get("seconds") for run in runs_of(elsewhere, "params.arm!=''")
    }
    assert seconds == {"0": 1.5, "1": None}


# The report


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, tiny_row: Row, execution) -> Iterator[Context]:
    context = make_context(tmp_path_factory.mktemp("a report"), tiny_row, execution)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DVC_ROOT", raising=False)
        for stage in ARMS:
            leave(context, stage, 0.1 if stage == "morphogenesis" else 0.0)
            tracking.log(context, stage)
        leave_report(context)
        yield context


def test_a_row_has_a_run_with_its_verdict(reported: Context) -> None:
    (run,) = runs_of(reported, "tags.dnm.kind = 'report'")
    found = outputs.read_json(reported.metrics / "statistics" / "image_classification.json")["strokes"]
    assert run.info.run_name == "strokes verdict"
    assert run.data.tags["dnm.verdict.improvement"] == found["claims"]["improvement"]["verdict"] == "direction only"
    assert run.data.tags["dnm.verdict.parameters"] == "contradicted"
    assert "| improvement | +5.1 | +10.00 |" in run.data.tags["mlflow.note.content"]
    assert run.data.metrics["improvement"] == 10.0
    assert run.data.metrics["dnm"] == 65.0
    assert run.data.metrics["parameters/low"] == pytest.approx(found["claims"]["parameters"]["low"], rel=1e-5)
    assert run.data.params["dnm.event_times"] == "[0.2, 0.5]"
    assert run.inputs.dataset_inputs[0].dataset.name == "strokes: generated strokes"
    folder = reported.root / "mlartifacts" / "embedded" / run.info.run_id / "artifacts"
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*.*")) == [
        "figures/image_classification-strokes.svg",
        "statistics.json",
        "tables/confidence.csv",
        "tables/image_classification.csv",
        "tables/runs.csv",
    ]
    lines = outputs.read_csv(folder / "tables" / "image_classification.csv")
    assert {line["row"] for line in lines} == {"cifar10"}


def test_the_runs_that_a_verdict_is_about_are_found_by_it(reported: Context) -> None:
    found = runs_of(reported, "tags.dnm.verdict.improvement = 'direction only'")
    assert {run.data.tags["dnm.stage"] for run in found} == {"morphogenesis", "report"}
    assert len(found) == 1 + 1 + 3 * SEEDS


def test_a_report_is_left_alone_and_a_new_verdict_takes_its_place(reported: Context, monkeypatch) -> None:
    before = sorted(run.info.run_id for run in runs_of(reported))
    assert not tracking.record(reported, "report")
    assert sorted(run.info.run_id for run in runs_of(reported)) == before
    leave(reported, "morphogenesis", -0.1)
    tracking.log(reported, "morphogenesis")
    leave_report(reported)
    assert len(runs_of(reported)) == len(before)
    assert len(runs_of(reported, "tags.dnm.verdict.improvement = 'contradicted'")) == 1 + 1 + 3 * SEEDS


# Views


def test_the_experiment_has_views_which_a_user_may_change(elsewhere: Context) -> None:
    from mlflow.tracking import MlflowClient

    leave(elsewhere, "baseline")
    tracking.log(elsewhere, "baseline")
    client = MlflowClient(tracking.uri(elsewhere.root))
    experiment = client.get_experiment_by_name("dnm-embedded")
    assert experiment.tags.items() >= views.tags().items()
    (name, *_) = views.tags()
    client.set_experiment_tag(experiment.experiment_id, name, "the user's own")
    tracking.record(elsewhere, "baseline")
    assert client.get_experiment_by_name("dnm-embedded").tags[name] == "the user's own"
    assert tracking.experiments(elsewhere.root) == {"dnm-embedded": experiment.experiment_id}
    links = views.links("http://127.0.0.1:5000/", "7")
    assert links["verdicts"] == "http://127.0.0.1:5000/#/experiments/7/runs?viewStateShareKey=verdicts"


def test_no_store_has_no_experiments_and_is_not_made(tmp_path: Path) -> None:
    assert tracking.experiments(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


# What must not end a stage


def test_mlflow_is_missing(bare: Context, monkeypatch, capsys) -> None:
    leave(bare, "baseline")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    tracking.log(bare, "baseline")
    assert capsys.readouterr().err == "mlflow is not installed: the runs stand in metrics/ only\n"
    assert not (bare.root / "mlflow.db").exists()


def test_it_can_be_turned_off(elsewhere: Context, monkeypatch, capsys) -> None:
    leave(elsewhere, "baseline")
    monkeypatch.setenv("DNM_TRACKING", "off")
    tracking.log(elsewhere, "baseline")
    assert (runs_of(elsewhere), capsys.readouterr().err) == ([], "")
    monkeypatch.setenv("DNM_TRACKING", "no")
    tracking.log(elsewhere, "baseline")
    assert runs_of(elsewhere)
    assert "DNM_TRACKING is 'no', expected on or off; taken as on" in capsys.readouterr().err


def test_the_server_is_down(bare: Context, monkeypatch, capsys) -> None:
    leave(bare, "baseline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    started = time.monotonic()
    tracking.log(bare, "baseline")
    assert time.monotonic() - started < 20
    said = capsys.readouterr().err
    assert "mlflow: runs of baseline strokes were not logged; `make sync` logs them later: " in said
    assert "127.0.0.1" in said


def test_the_server_does_not_answer(elsewhere: Context, monkeypatch, capsys) -> None:
    """It holds a stage up for the time that it has, however many requests there are, and nothing is lost."""
    assert tracking.PATIENCE <= 15
    monkeypatch.setattr(tracking, "PATIENCE", 2.0)
    leave(elsewhere, "baseline")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        tracking.log(elsewhere, "baseline")
        assert 2 <= time.monotonic() - started < 10
    said = capsys.readouterr().err
    assert "runs of baseline strokes were not logged; `make sync` logs them later: the server has not taken" in said
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.record(elsewhere, "baseline")
    assert len(runs_of(elsewhere)) == 1 + SEEDS


def test_the_store_is_damaged(bare: Context, capsys) -> None:
    leave(bare, "baseline")
    (bare.root / "mlflow.db").write_text("no database\n" * 100)
    tracking.log(bare, "baseline")
    assert "mlflow: runs of baseline strokes were not logged; " in capsys.readouterr().err


# Where the store is


def test_the_store_of_another_place(tmp_path: Path, monkeypatch) -> None:
    assert tracking.uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "real"))
    assert tracking.uri(tmp_path / "copy") == f"sqlite:///{tmp_path}/real/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking.uri(tmp_path) == "http://127.0.0.1:5000"


def test_a_store_that_the_environment_names(bare: Context, tmp_path: Path, monkeypatch, capsys) -> None:
    """Nothing is written under the working directory, where MLflow would put artifacts."""
    leave(bare, "morphogenesis")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/named.db")
    tracking.log(bare, "morphogenesis")
    assert sorted(os.listdir(tmp_path)) == ["metrics", "mlartifacts", "named.db", "runs"]
    assert len(list((tmp_path / "mlartifacts" / "embedded").rglob("journal.json"))) == SEEDS
    # Not a word of the database that is made.
    assert capsys.readouterr().err == ""
