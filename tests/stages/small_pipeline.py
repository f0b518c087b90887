"""A copy of the pipeline with one small row, for tests that run DVC itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
# Seconds a trial, with enough epochs for events and for being interrupted.
SMALL = {"seeds": 2, "data": {"train": 250, "test": 200}, "training": {"epochs": 20}}


def environment(**more: str) -> dict[str, str]:
    """A process's environment in which the copy is all that there is."""
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1", **more}
    return {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))} | own


def make(folder: Path, row: Mapping[str, Any] = SMALL) -> None:
    """Makes the copy: code, settings with the one row cifar10 and these changes, a git repository, DVC set up."""
    folder.mkdir(exist_ok=True)
    for name in ("dnm", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    yaml = YAML()
    content = yaml.load(ROOT / "params.yaml")
    own = content["image_classification"]["cifar10"]
    for name, value in row.items():
        if isinstance(value, Mapping):
            own[name].update(value)
        else:
            own[name] = value
    content["image_classification"] = {"cifar10": own}
    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, env=environment(), check=True)
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots", dirs_exist_ok=True)
