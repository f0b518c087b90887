"""One record per finished trial: its figures and the fingerprint of all that they come from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from modulefinder import ModuleFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import outputs

if TYPE_CHECKING:
    from stages.trial import Job

# What a trial's figures can depend on besides its settings and data. A network that is never edited runs through none
# of the library but its counting.
CODE = (
    "dnm/calling.py",
    "dnm/cost.py",
    "stages/data/splits.py",
    "stages/tasks",
    "stages/training.py",
    "stages/trial.py",
)
GROWN = "stages/growing.py"
PLANNED = "stages/planned.py"
BRANCHED = "stages/branches.py"
RANKED = "stages/ranking_trial.py"
# Settings that say how a row is shown or how many trials there are, not what a trial computes.
NOT_COMPUTED = ("documented_row", "protocol", "as_documented", "seeds", "data")


def grower_of(job: Job) -> str | None:
    """The file by which a trial's network grows, or is built with branches; None where neither is so."""
    if hasattr(job, "moment"):
        return RANKED
    if job.branches:
        return BRANCHED
    return PLANNED if job.plan is not None else GROWN if job.grown else None


def code_files(root: Path, grower: str | None) -> set[Path]:
    """The Python files that a trial runs through; more of them where networks grow.

    Of the library a network that grows runs through what the file imports by which it grows, directly or not.
    """
    entries = [root / entry for entry in CODE]
    files = {file for entry in entries for file in (entry.rglob("*.py") if entry.is_dir() else [entry])}
    if not grower:
        return files
    # Whatever grows can have branches in the end, which are then named.
    scripts = {root / grower, root / BRANCHED}
    return files.union(scripts, *(imported(root, script, "dnm") for script in scripts))


def code_hash(root: Path, grower: str | None) -> str:
    """SHA-256 over the files that a trial runs through, names included."""
    digest = hashlib.sha256()
    for file in sorted(code_files(root, grower)):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def imported(root: Path, script: Path, package: str) -> set[Path]:
    """The package's files that a script imports, directly or not, at their top or inside of functions."""
    finder = ModuleFinder(path=[str(root)])
    finder.run_script(str(script))
    found = [getattr(module, "__file__", None) for name, module in finder.modules.items() if _within(name, package)]
    return {Path(file) for file in found if file is not None}


def _within(name: str, package: str) -> bool:
    return name.partition(".")[0] == package


def fingerprint(job: Job, data_hash: str, code: str) -> str:
    """SHA-256 over what decides a trial's figures: job, data and code."""
    # An option that is not used is as if there were none.
    content = {name: value for name, value in asdict(job).items() if value is not None}
    ignored = NOT_COMPUTED if job.grown else (*NOT_COMPUTED, "dnm")
    content["settings"] = {key: value for key, value in content["settings"].items() if key not in ignored}
    content["execution"].pop("keep_records")
    content.pop("data")
    content.pop("checkpoint")
    text = json.dumps([content, data_hash, code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def path(root: Path, scale: str, folder: str, arm: str, seed: int) -> Path:
    """Where the record of a trial lies; the folder is that of its row, or of a budget of a contest."""
    return root / "records" / scale / folder / f"{arm}-{seed}.json"


def scratch(root: Path, mark: str) -> Path:
    """Where a trial of this fingerprint leaves what an ended stage goes on from."""
    return root / "runs" / mark


def find(file: Path, wanted: str) -> dict[str, Any] | None:
    """The result in a record, or None where there is none with the wanted fingerprint."""
    if not file.exists():
        return None
    record = outputs.read_json(file)
    return record["result"] if record.get("fingerprint") == wanted else None


def keep(file: Path, mark: str, result: dict[str, Any]) -> None:
    """Writes a record, atomically."""
    outputs.write_json(file, {"fingerprint": mark, "result": result})
