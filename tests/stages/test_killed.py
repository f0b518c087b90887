"""A pipeline that is killed, in whatever process and at whatever moment, is finished by running it again."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.stages import small_pipeline

TARGETS = ("dvc", "stage", "worker")
TRIALS = 8
# How many trials are finished, and the seconds after that.
MOMENTS = [
    (TARGETS[number % 3], random.Random(number).randrange(TRIALS - 1), random.Random(number).uniform(0.0, 0.5))
    for number in range(10)
]
# Of one target each; the others run nightly.
FEW = [pytest.param(*moment, marks=() if number < 3 else pytest.mark.nightly) for number, moment in enumerate(MOMENTS)]


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "morphogenesis@cifar10", "baseline@cifar10"],
        cwd=folder,
        env=small_pipeline.environment(DNM_WORKERS="2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(folder: Path) -> str:
    process = start(folder)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def results(folder: Path) -> dict[str, bytes]:
    files = sorted((folder / "metrics").rglob("*"))
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in files
        if file.is_file() and "machine" not in file.parts
    }


def clean(folder: Path) -> None:
    for name in ("metrics", "runs", ".dvc/cache", ".dvc/tmp", "data", "mlflow.db", "mlartifacts"):
        path = folder / name
        path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    (folder / "dvc.lock").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, bytes]]]:
    """A copy of the pipeline with one small row, and its results."""
    folder = tmp_path_factory.mktemp("pipeline") / "clone"
    small_pipeline.make(folder)
    finish(folder)
    yield folder, results(folder)
    shutil.rmtree(folder, ignore_errors=True)


def victim(process: subprocess.Popen, target: str) -> psutil.Process | None:
    """The process to kill, or None where there is none of the kind at the moment."""
    below = psutil.Process(process.pid).children(recursive=True)
    stages = [
        item for item in below if any(part.startswith("stages.") for part in item.cmdline()) and "-m" in item.cmdline()
    ]
    stages = [item for item in stages if "python" in item.name()]
    if target == "dvc":
        return psutil.Process(process.pid)
    if not stages:
        return None
    # Forks of the stage have its command line; where a server makes them, theirs is that of the server, their parent.
    below = stages[0].children(recursive=True)
    workers = [item for item in below if item.cmdline() == stages[0].cmdline()]
    workers += [item for item in below if "forkserver" in " ".join(item.cmdline()) and item.ppid() != stages[0].pid]
    return stages[0] if target == "stage" else (workers[-1] if workers else None)


def wait_for(folder: Path, process: subprocess.Popen, trials: int) -> None:
    """Until so many trials are finished, or the process is."""
    seen: set[Path] = set()
    while len(seen) < trials and process.poll() is None:
        seen |= set((folder / "runs").glob("*/result.json"))
        time.sleep(0.01)


@pytest.mark.parametrize("target, trials, delay", FEW)
def test_it_is_finished_by_running_it_again(pipeline, target: str, trials: int, delay: float) -> None:
    folder, expected = pipeline
    clean(folder)
    process = start(folder)
    wait_for(folder, process, trials)
    time.sleep(delay)
    killed, left = None, []
    while killed is None and process.poll() is None:
        try:
            killed = victim(process, target)
            if killed is not None:
                left = [killed, *killed.children(recursive=True)]
                killed.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            killed = None
        time.sleep(0.02)
    process.communicate(timeout=300)
    assert killed is not None, f"no {target} was running any more"
    # A worker whose trial is over is not missed.
    assert process.returncode != 0 or target == "worker"
    # Whatever the killed process had started ends by itself.
    _, alive = psutil.wait_procs(left, timeout=20)
    assert alive == []
    finish(folder)
    assert results(folder) == expected
    assert not list((folder / "runs").glob("*/checkpoint.pt"))


def test_a_second_pipeline_says_so_and_ends(pipeline) -> None:
    folder, expected = pipeline
    clean(folder)
    first = start(folder)
    # Its first long stage.
    while not list((folder / "runs").glob("*/checkpoint.pt")) and first.poll() is None:
        time.sleep(0.05)
    second = start(folder)
    said, _ = second.communicate(timeout=60)
    assert second.returncode != 0
    assert "is busy" in said or "is locked" in said or "another DVC process" in said, said
    first.communicate(timeout=300)
    assert first.returncode == 0
    assert results(folder) == expected
