"""A copy of the pipeline with one small row and a source of transfer, for tests that run DVC itself."""

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
MEDICAL = {"seeds": 2, "data": {"train": 200, "test": 60}, "training": {"epochs": 2}}
SMALL = {"seeds": 2, "data": {"train": 250, "test": 200}, "training": {"epochs": 20}}


def environment(**more: str) -> dict[str, str]:
    """A process's environment in which the copy is all that there is."""
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1", **more}
    return {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))} | own


def make(folder: Path, row: Mapping[str, Any] = SMALL) -> None:
    """Makes the copy: code, settings with the row cifar10 and these changes, a git repository, DVC set up.

    Beside it stands the row medical, which is brought to cifar10, and which no stage of cifar10 needs.
    """
    folder.mkdir(exist_ok=True)
    for name in ("dnm", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    yaml = YAML()
    content = yaml.load(ROOT / "params.yaml")
    own, medical = (content["image_classification"][name] for name in ("cifar10", "medical"))
    for settings, changes in ((own, row), (medical, MEDICAL)):
        for name, value in changes.items():
            if isinstance(value, Mapping):
                settings[name].update(value)
            else:
                settings[name] = value
    content["image_classification"] = {"cifar10": own, "medical": medical}
    content["transfer"] = {"medical_natural": {**content["transfer"]["medical_natural"], "epochs": 1}}
    content["latency"]["seconds"] = 0.05
    for section in ("ablation", "robustness", "events", "transfer"):
        for entry in content[section].values():
            entry["seeds"] = min(entry["seeds"], own["seeds"])
    # Of what cannot be fewer, 600 episodes, each is as small as can be.
    characters = content["few_shot"]["characters"]
    characters.update({"seeds": 2, "ways": 2, "queries": 2, "validation_episodes": 2})
    characters["data"].update({"train": 12, "validation": 3, "test": 3, "drawings": 22, "size": 8})
    characters["training"]["epochs"] = 10
    characters["meta"].update({"ways": 3, "shots": 2, "queries": 2})
    # One kind of scenes, a few of them.
    scenes = content["detection"]["coco"]
    scenes["seeds"] = 2
    scenes["data"].update({"size": 32, "classes": 2, "train": 16, "validation": 2, "test": 4, "smallest": 0.3})
    scenes["data"].update({"largest": 0.4, "fewest": 1, "most": 2})
    scenes["networks"].update({"baseline": [[8], [8], [8]], "start": [[4], [4], [4]]})
    scenes["detector"].update({"pyramid": 8, "levels": 1})
    scenes["resnet"].update({"width": 8, "levels": 1})
    scenes["training"].update({"batch_size": 4, "epochs": 5})
    scenes["dnm"]["probe_size"] = 4
    content["detection"] = {"coco": scenes}
    task = content["language"]["acceptability"]
    task["data"].update({"train": 200, "test": 60})
    task["training"].update({"batch_size": 32, "epochs": 2})
    task["seeds"] = min(task["seeds"], own["seeds"])
    content["language"] = {"acceptability": task}
    # On this row, with a rung that the shortest of runs can have.
    entry = next(entry for entry in content["nas"].values() if entry["row"] == "cifar10")
    seeds = min(entry["seeds"], own["seeds"])
    content["nas"] = {"search": {**entry, "seeds": seeds, "cost": 3.0, "rungs": 1, "longest": 1.0, "random": False}}
    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, env=environment(), check=True)
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots", dirs_exist_ok=True)
