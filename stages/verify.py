"""Regenerates every committed figure of the embedded scale in a fresh clone, from nothing, and compares."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from stages import outputs, side_by_side
from stages.cli import ROOT

METRICS = "metrics/embedded"
LOCK = "dvc.lock"
# What the self-test runs and looks at: a stage with trials that takes seconds.
SMALL = "baseline@medical"
FIGURES = f"{METRICS}/baseline/medical.trials.csv"
# What differs from machine to machine; the other scales' records, which are taken away so that nothing can be read from
# them; and the lock, which names its stages in the order in which DVC happened to run them: its content is compared.
LEFT_OUT = (f":(exclude){METRICS}/machine", ":(exclude)records", f":(exclude){LOCK}")


def main() -> None:
    """Exits with 0 if what is committed is what the code gives, else with 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--tolerance", choices=("bits", "ci"), default="bits", help="ci: within the committed intervals"
    )
    parser.add_argument(
        "--self-test", action="store_true", help="show on one stage that a forged figure and a changed loop are found"
    )
    arguments = parser.parse_args()
    if arguments.self_test:
        raise SystemExit(self_test())
    if dirty := _git(ROOT, "status", "--porcelain").strip():
        print(f"verify: looks at what is committed, not at these changes:\n{dirty}", file=sys.stderr)
    raise SystemExit(1 if verify(arguments.tolerance) else 0)


def verify(tolerance: str, change: Callable[[Path], None] = lambda clone: None, target: str = "") -> list[str]:
    """What a clone of HEAD does not reproduce of its own committed results: nothing, if they are what the code gives.

    Args:
        tolerance: "bits", or "ci" for the confidence intervals.
        change: applied to the clone and committed there before anything runs.
        target: only this stage and those that it needs.

    Returns:
        Names of files and stages, or, with the tolerance "ci", of cells.
    """
    started = time.monotonic()
    with Memory() as memory, tempfile.TemporaryDirectory(prefix="dnm-verify-") as folder:
        clone = Path(folder) / "clone"
        _git(ROOT, "clone", "--quiet", str(ROOT), str(clone))
        change(clone)
        shutil.rmtree(clone / METRICS, ignore_errors=True)
        shutil.rmtree(clone / "records", ignore_errors=True)
        (clone / LOCK).unlink(missing_ok=True)
        # Tracking is not part of the proof, and a shared DVC cache would be a way around it.
        environment = os.environ | {"DNM_TRACKING": "off", "DVC_SITE_CACHE_DIR": f"{folder}/site"}
        if not target:
            side_by_side.run(clone, environment)
        targets = [target] if target else []
        subprocess.run([*side_by_side.DVC, "repro", "--quiet", *targets], cwd=clone, env=environment, check=True)
        different = _other_bits(clone, whole=not target) if tolerance == "bits" else _outside_intervals(clone)
        print(f"verify: {time_by_stage(clone / METRICS / 'machine')}")
    print(f"verify: at most {memory.peak / 2**30:.1f} GiB at a time, in all processes together")
    print(f"verify: {'FAILED' if different else 'the committed results'}, {time.monotonic() - started:.0f} s")
    return different


class Memory:
    """The most memory that the processes started from here take together while it is entered, looked at every second.

    Processes share pages, torch's above all: each counts its part of them, where the system tells it (Linux).

    Attributes:
        peak: bytes.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self.peak = max(self.peak, sum(map(_own_memory, psutil.Process().children(recursive=True))))


def _own_memory(process: psutil.Process) -> int:
    try:
        taken = process.memory_full_info()
    except psutil.Error:  # It ended in between, or is not ours to look at.
        return 0
    return getattr(taken, "pss", taken.rss)


def time_by_stage(machine: Path) -> str:
    """The seconds that the stages took which run trials, each beside another.

    Args:
        machine: the folder in which each of them wrote what it took.
    """
    spent: dict[str, float] = {}
    for file in sorted(machine.glob("*.json")):
        seconds = json.loads(file.read_text(encoding="utf-8")).get("stage_seconds")
        if seconds is not None:
            stage = file.stem.partition("-")[0]
            spent[stage] = spent.get(stage, 0.0) + seconds
    return ", ".join(f"{name} {seconds:.0f} s" for name, seconds in sorted(spent.items(), key=lambda item: -item[1]))


def self_test() -> int:
    """Whether on one stage a forged figure and a changed training loop are found, and nothing without a change."""
    changes: dict[str, tuple[Callable[[Path], None], bool]] = {
        "nothing changed": (lambda clone: None, False),
        "one digit of a committed figure changed": (_forge, True),
        "one line of the loop changed": (_alter, True),
    }
    right = True
    for name, (change, expected) in changes.items():
        print(f"verify, self-test: {name}")
        found = verify("bits", change, SMALL)
        as_expected = FIGURES in found if expected else not found
        right = right and as_expected
        print(f"verify, self-test: {name}: {'as expected' if as_expected else 'NOT AS EXPECTED'}, found {found}")
    return 0 if right else 1


def _other_bits(clone: Path, whole: bool) -> list[str]:
    committed = _git(clone, "ls-tree", "-r", "--name-only", "HEAD", "--", METRICS).splitlines()
    if not any(not line.startswith(f"{METRICS}/machine/") for line in committed):
        print(f"verify: no results are committed under {METRICS}; run `make repro` and commit them", file=sys.stderr)
        return [METRICS]
    old = yaml.safe_load(_git(clone, "show", f"HEAD:{LOCK}"))["stages"]
    new = yaml.safe_load((clone / LOCK).read_text(encoding="utf-8"))["stages"]
    if not whole:
        old = {name: stage for name, stage in old.items() if name in new}
    places = ["."] if whole else [out["path"] for stage in new.values() for out in stage["outs"]]
    # DVC stages what it writes: the comparison is with HEAD, not with the index.
    lines = _git(clone, "status", "--porcelain", "--untracked-files=all", "--", *places, *LEFT_OUT).splitlines()
    if lines:
        print("verify: these files differ from what is committed:", *lines[:20], sep="\n", file=sys.stderr)
        print(_git(clone, "diff", "HEAD", "--unified=0", "--", *places, *LEFT_OUT)[:3000], file=sys.stderr)
    stages = changed_stages(old, new)
    if stages:
        print(f"verify: {LOCK} differs from what is committed in:", *stages, sep="\n", file=sys.stderr)
    return [*(line[3:] for line in lines), *stages]


def changed_stages(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The names of the stages whose dependencies, parameters or outputs differ between two lock files, in any order."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _outside_intervals(clone: Path) -> list[str]:
    table = f"{METRICS}/tables/image_classification.csv"
    committed = {(row["row"], row["column"]): row for row in outputs.read_csv(ROOT / table)}
    outside = []
    for row in outputs.read_csv(clone / table):
        old = committed.get((row["row"], row["column"]))
        if old is None or (row["measured"] == "") != (old["measured"] == ""):
            outside.append(f"{row['row']}/{row['column']}: measured {row['measured']!r}, committed {old}")
        elif row["measured"] and not float(old["low"]) <= float(row["measured"]) <= float(old["high"]):
            outside.append(
                f"{row['row']}/{row['column']}: {row['measured']}, committed interval [{old['low']}, {old['high']}]"
            )
    if outside:
        print("verify: outside the committed intervals:", *outside, sep="\n", file=sys.stderr)
    return outside


def _forge(clone: Path) -> None:
    table = clone / FIGURES
    *others, last = table.read_text(encoding="utf-8").splitlines()
    cells = last.split(",")
    cells[2] = f"{cells[2][:-1]}{(int(cells[2][-1]) + 1) % 10}"
    _rewrite(clone, table, "\n".join([*others, ",".join(cells)]) + "\n")


def _alter(clone: Path) -> None:
    loop = clone / "stages" / "training.py"
    text = loop.read_text(encoding="utf-8")
    _rewrite(clone, loop, text.replace("rate = learning_rate(settings,", "rate = 0.999 * learning_rate(settings,"))


def _rewrite(clone: Path, file: Path, text: str) -> None:
    if file.read_text(encoding="utf-8") == text:
        raise RuntimeError(f"{file.name}: nothing was changed; the self-test no longer fits the file")
    outputs.write_text(file, text)
    _git(clone, "-c", "user.name=verify", "-c", "user.email=verify@localhost", "commit", "--quiet", "-am", "changed")


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
