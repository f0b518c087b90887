"""What tests of records and of MLflow share."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from stages import arms, cli, outputs, tracking
from stages.settings import Row, Settings

ROOT = Path(__file__).resolve().parents[2]


def git(folder: Path, *arguments: str) -> str:
    """What git says."""
    names = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path) -> None:
    """Commits all that is there."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")


@pytest.fixture
def linked_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which stages run with this code, one trial at a time, and log nothing."""
    monkeypatch.setenv("DNM_WORKERS", "1")
    monkeypatch.setattr(tracking, "log", lambda *arguments: None)
    for folder in ("dnm", "stages"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    return tmp_path


@pytest.fixture
def recorded(tmp_path: Path, tiny_row: Row, tiny_data: Path, execution, monkeypatch: pytest.MonkeyPatch) -> cli.Context:
    """A scale of one row with records of all arms, one seed each, and code of its own in a repository."""
    monkeypatch.setenv("DNM_WORKERS", "1")
    for folder in ("dnm", "stages"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("__pycache__/\n/data/\n/runs/\n", encoding="utf-8")
    commit(tmp_path)
    keeping = dataclasses.replace(execution, keep_records=True)
    settings = Settings(
        scale="tiny", root=".", params_file="params.yaml", execution=keeping,
        image_classification={"strokes": dataclasses.replace(tiny_row, seeds=1)}, contest={}, ranking={},
        ablation={}, robustness={}, events={}, nas={},
    )  # fmt: skip
    context = cli.Context(settings, tmp_path, "strokes")
    context.data.parent.mkdir(parents=True)
    shutil.copy(tiny_data, context.data)
    outputs.write_json(context.metrics / "prepare" / "strokes.json", {"sha256": "of the data", "source": "strokes"})
    results = arms.run(context, [arms.job(context, arm, 0) for arm in ("baseline", "dnm")], "two")
    arms.run(context, [arms.job(context, arm, 0, results[1]) for arm in ("scratch", "start")], "controls")
    return context


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without runs."""

    tracking.is_installed()
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("empty store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file
