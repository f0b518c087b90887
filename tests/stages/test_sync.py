"""`make sync` logs what MLflow does not have, under the settings that the results come from."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages import outputs, sync, tracking
from stages import settings as settings_module
from stages.cli import Context, UserError
from stages.settings import Ablation, Contest, Events, Nas, Ranking, Robustness, Row, Transfer
from stages.settings_io import read_yaml
from tests.stages import tiny_detection, tiny_few_shot
from tests.stages.left_behind import ARMS, SEEDS, leave, leave_report, make_context

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy|alembic).*")
ROOT = Path(__file__).resolve().parents[2]
EVERYTHING = 1 + SEEDS + 1 + 3 * SEEDS + 1


@pytest.fixture
def context(tmp_path: Path, tiny_row: Row, execution, empty_store: Path, monkeypatch) -> Context:
    """A repository whose pipeline has run while the server was down."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    context = make_context(tmp_path, tiny_row, execution)
    monkeypatch.setattr(tracking, "log", lambda *arguments: None)
    for stage in ARMS:
        leave(context, stage)
    leave_report(context)
    write(tmp_path / "params.yaml", plain(context))
    write(tmp_path / "dvc.lock", {"schema": "2.0", "stages": lock(context)})
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return context


def plain(context: Context) -> dict[str, Any]:
    content = json.loads(json.dumps(settings_module.as_plain(context.settings)))
    row = context.settings.image_classification["strokes"]
    contest = Contest(row="strokes", pflop=1e-6, seeds=2, factors=(2.0,))
    ranking = Ranking(row="strokes", seeds=2, moments=(2,), steps=2, continuations=2)
    moved = Transfer(documented_row="medical_to_natural", source="others", target="strokes", seeds=2, epochs=2)
    # Without results of theirs, which is no failure.
    sections = {
        "contest": {"small": asdict(contest)},
        "ranking": {"states": asdict(ranking)},
        "ablation": {"parts": asdict(Ablation(row="strokes", seeds=2, prune_at=0.8, prune_tolerance=0.1))},
        "robustness": {"perturbed": asdict(Robustness(row="strokes", seeds=2, images=2))},
        "events": {"gains": asdict(Events(row="strokes", seeds=2, steps=2, prune_at=0.8, prune_tolerance=0.1))},
        "nas": {
            "search": asdict(Nas(row="strokes", seeds=2, cost=1.0, rungs=1, reduction=3, longest=1.0, random=False))
        },
        "transfer": {"moved": asdict(moved)},
        "detection": {"scenes": asdict(tiny_detection.entry(row))},
        "few_shot": {"characters": {**asdict(tiny_few_shot.entry(row)), "episodes": 600}},
        "language": read_yaml(ROOT / "params.yaml")["language"],
    }
    content["image_classification"]["others"] = {**content["image_classification"]["strokes"], "documented_row": "none"}
    return content | json.loads(json.dumps(sections))


def write(path: Path, content: Any) -> None:
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump(content, stream)


def lock(context: Context) -> dict[str, Any]:
    """What DVC keeps of stages, in short."""
    content = plain(context)
    row = content["image_classification"]["strokes"]
    entries = {
        "prepare@strokes": {"image_classification.strokes.data": row["data"]},
        "baseline@strokes": {
            "execution": content["execution"],
            **{f"image_classification.strokes.{name}": row[name] for name in ("networks", "seeds", "training")},
        },
        "morphogenesis@strokes": {"execution": content["execution"], "image_classification.strokes": row},
    }
    files = [file for file in context.metrics.rglob("*") if file.is_file()]
    outs = [
        {"path": file.relative_to(context.root).as_posix(), "md5": hashlib.md5(file.read_bytes()).hexdigest()}
        for file in files
    ]
    of_file = {"path": "params.yaml", "md5": hashlib.md5((context.root / "params.yaml").read_bytes()).hexdigest()}
    stages = {name: {"params": {"params.yaml": params}, "outs": outs} for name, params in entries.items()}
    return {**stages, "statistics": {"deps": [of_file], "outs": outs}}


def runs(context: Context) -> list:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking.uri(context.root))
    experiment = client.get_experiment_by_name("dnm-embedded")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


@pytest.fixture
def synced(context: Context, capsys) -> Callable[[], tuple[int, str]]:
    """Syncs; returns the exit code and what was said."""

    def run() -> tuple[int, str]:
        code = sync.sync([context.root / "params.yaml"], context.root)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def test_what_is_missing_is_logged_once(context: Context, synced) -> None:
    code, said = synced()
    assert code == 0
    assert "embedded: morphogenesis strokes logged" in said
    assert "sync: 3 logged, 0 were there already, 0 failed" in said
    assert len(runs(context)) == EVERYTHING
    code, said = synced()
    assert (code, said) == (0, "sync: 0 logged, 3 were there already, 0 failed\n")
    assert len(runs(context)) == EVERYTHING


def test_results_are_logged_under_their_own_settings(context: Context, synced) -> None:
    """Not under those that were edited since and have not run."""
    content = plain(context)
    content["image_classification"]["strokes"]["training"]["epochs"] = 99
    content["image_classification"]["strokes"]["dnm"]["probe_size"] = 8
    content["execution"]["threads"] = 2
    write(context.root / "params.yaml", content)
    assert synced()[0] == 0
    for run in runs(context):
        assert (run.data.params["training.epochs"], run.data.params["execution.threads"]) == ("3", "1")
        assert run.data.params.get("dnm.probe_size", "32") == "32"


def test_results_of_unknown_settings_are_not_logged(context: Context, synced) -> None:
    leave(context, "baseline", 0.1)
    code, said = synced()
    assert code == 1
    assert "baseline strokes was not logged: metrics/embedded/baseline/strokes.trials.csv is not what " in said
    assert "run `dvc repro`, or restore it" in said
    assert "sync: 2 logged, 0 were there already, 1 failed" in said


def test_results_of_an_earlier_version_are_not_logged(context: Context, synced) -> None:
    entries = lock(context)
    params = entries["morphogenesis@strokes"]["params"]["params.yaml"]
    del params["image_classification.strokes"]["dnm"]["trigger"]
    write(context.root / "dvc.lock", {"schema": "2.0", "stages": entries})
    code, said = synced()
    assert code == 1
    assert "morphogenesis strokes was not logged: morphogenesis@strokes ran with settings of an earlier version" in said
    assert "run `dvc repro" in said


def test_results_without_a_lock_are_not_logged(context: Context, synced) -> None:
    (context.root / "dvc.lock").unlink()
    code, said = synced()
    assert code == 1
    assert "dvc.lock has no entry for prepare@strokes, baseline@strokes; run `dvc repro" in said
    assert runs(context) == []


def test_what_has_not_run_is_no_failure(context: Context, synced) -> None:
    shutil.rmtree(context.metrics / "morphogenesis")
    shutil.rmtree(context.metrics / "statistics")
    assert synced() == (0, "embedded: baseline strokes logged\nsync: 1 logged, 0 were there already, 0 failed\n")


def test_a_row_that_the_statistics_do_not_know_yet_is_no_failure(context: Context, synced) -> None:
    outputs.write_json(context.metrics / "statistics" / "image_classification.json", {})
    assert synced()[0] == 0


def test_a_store_that_takes_nothing_ends_it(context: Context, synced) -> None:
    (context.root / "mlflow.db").write_text("no database\n" * 100)
    code, said = synced()
    assert code == 1
    assert "error: embedded: baseline strokes was not logged: " in said
    assert "sync: 0 logged, 0 were there already, 1 failed" in said


def test_without_mlflow_it_says_so(context: Context, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match="mlflow is not installed; `make env` installs it"):
        sync.sync([context.root / "params.yaml"], context.root)
