"""One record per finished trial: its figures and the fingerprint of all that they come from."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
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
SEARCHED = "stages/nas_trial.py"
# What forks a run at its events, what a search draws from, and what looks at a network once it is trained.
FORKED = ("stages/events_trial.py", "stages/ranking_trial.py")
PROPOSED = ("stages/nas_space.py",)
LOOKED_AT = ("stages/perturbations.py", "stages/robustness_trial.py", "stages/trained.py")
READ_BY = "stages/language_trial.py"
READ = (
    "stages/data/language/prepared.py",
    "stages/data/language/tokens.py",
    "stages/growing.py",
    "stages/language_growing.py",
    "stages/language_models.py",
    "stages/language_scoring.py",
    "stages/language_training.py",
)
# Of a pre-trained encoder.
FINE_TUNED = ("stages/data/language/encoders.py", "stages/language_encoders.py")
TRANSFERRED = ("stages/trained.py", "stages/transfer_learning.py", "stages/transfer_trial.py")
TAUGHT = (
    "stages/episodes.py",
    "stages/few_shot_methods.py",
    "stages/few_shot_training.py",
    "stages/few_shot_trial.py",
)
DETECTED = (
    "stages/data/detection/annotations.py",
    "stages/data/detection/store.py",
    "stages/detection_scoring.py",
    "stages/detection_training.py",
    "stages/detection_trial.py",
    "stages/detectors.py",
    "stages/few_shot_training.py",
)
# Settings that say how a row is shown or how many trials there are, not what a trial computes.
NOT_COMPUTED = ("documented_row", "protocol", "as_documented", "seeds", "data")


def grower_of(job: Job) -> str | None:
    """The file by which a trial's network grows, or is built with branches; None where neither is so."""
    if hasattr(job, "moment"):
        return RANKED
    if hasattr(job, "search_flops"):
        return SEARCHED
    if hasattr(job, "blocks"):
        return READ_BY
    if job.branches:
        return BRANCHED
    return PLANNED if job.plan is not None else GROWN if job.grown else None


def also_of(job: Job) -> tuple[str, ...]:
    """The files that a trial runs through besides, for what is looked at in it."""
    if hasattr(job, "target_data"):
        return TRANSFERRED
    if hasattr(job, "backbone"):
        return DETECTED
    if hasattr(job, "shots"):
        return TAUGHT
    if hasattr(job, "blocks"):
        return READ if getattr(job, "encoder", None) is None else (*READ, *FINE_TUNED)
    if hasattr(job, "fork_steps"):
        return FORKED
    if hasattr(job, "search_flops"):
        return PROPOSED
    return LOOKED_AT if hasattr(job, "strengths") else ()


def code_of(root: Path, job: Job) -> str:
    """SHA-256 over the files that a job's trial runs through."""
    return code_hash(root, grower_of(job), also_of(job))


def code_files(root: Path, grower: str | None, also: Sequence[str] = ()) -> set[Path]:
    """The Python files that a trial runs through; more of them where networks grow.

    Of the library a network that grows runs through what the file imports by which it grows, directly or not.
    """
    entries = [root / entry for entry in (*CODE, *also)]
    files = {file for entry in entries for file in (entry.rglob("*.py") if entry.is_dir() else [entry])}
    if not grower:
        return files
    # Whatever grows can have branches in the end, which are then named.
    scripts = {root / grower, root / BRANCHED}
    return files.union(scripts, *(imported(root, script, "dnm") for script in scripts))


def code_hash(root: Path, grower: str | None, also: Sequence[str] = ()) -> str:
    """SHA-256 over the files that a trial runs through, names included."""
    digest = hashlib.sha256()
    for file in sorted(code_files(root, grower, also)):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def imported(root: Path, script: Path, package: str) -> set[Path]:
    """The package's files that a script imports, directly or not, at their top or inside of functions."""
    files = sorted({*script.parent.rglob("*.py"), *(root / package).rglob("*.py")})
    digest = hashlib.sha256(b"\0".join(part for file in files for part in (str(file).encode(), file.read_bytes())))
    return set(_imported(root, script, package, digest.hexdigest()))


# Following imports takes a third of a second, and a process asks for the same ones again and again.
@functools.cache
def _imported(root: Path, script: Path, package: str, digest: str) -> frozenset[Path]:
    """See `imported`; of other code than the digest's the answer may be another."""
    finder = ModuleFinder(path=[str(root)])
    finder.run_script(str(script))
    found = [getattr(module, "__file__", None) for name, module in finder.modules.items() if _within(name, package)]
    return frozenset(Path(file) for file in found if file is not None)


def _within(name: str, package: str) -> bool:
    return name.partition(".")[0] == package


def fingerprint(job: Job, data_hash: str, code: str) -> str:
    """SHA-256 over what decides a trial's figures: job, data and code."""
    # An option that is not used is as if there were none.
    content = {name: value for name, value in asdict(job).items() if value is not None}
    ignored = NOT_COMPUTED if job.grown else (*NOT_COMPUTED, "dnm")
    content["settings"] = {key: value for key, value in content["settings"].items() if key not in ignored}
    # A setting that came later is as if there were none where it says what was so before.
    if content["settings"].get("dnm", {}).get("fill") == "zero":
        content["settings"]["dnm"].pop("fill")
    content["execution"].pop("keep_records")
    content.pop("data")
    content.pop("checkpoint")
    content.pop("trained", None)
    content.pop("target_data", None)
    # What its files hold is part of the data's hash.
    content.pop("encoder", None)
    text = json.dumps([content, data_hash, code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprints(root: Path, jobs: Sequence[Job], data_hash: str) -> list[str]:
    """The fingerprint of each job with today's code."""
    kinds = [(grower_of(job), also_of(job)) for job in jobs]
    code = {kind: code_hash(root, *kind) for kind in set(kinds)}
    return [fingerprint(job, data_hash, code[kind]) for job, kind in zip(jobs, kinds, strict=True)]


def path(root: Path, scale: str, folder: str, arm: str, seed: int) -> Path:
    """Where the record of a trial lies; the folder is that of its row, or of an entry of another section."""
    return folder_of(root, scale, folder) / f"{arm}-{seed}.json"


def folder_of(root: Path, scale: str, name: str) -> Path:
    """Where the records of a row lie, or of an entry of another section."""
    return root / "records" / scale / name


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
