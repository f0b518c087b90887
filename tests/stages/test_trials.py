"""Trials in processes: the same results for any number of workers, and no process left behind however it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages import environment, trials
from stages.settings import Row

ROOT = Path(__file__).resolve().parents[2]
HERE = pytest.mark.parametrize(
    "here",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="trials are forks on Linux only")),
    ],
    ids=["server", "here"],
)


# Results


def without_machine(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in result.items() if key != "machine"} for result in results]


def test_neither_the_number_of_workers_nor_where_they_fork_changes_anything(
    make_job: Callable, tiny_row: Row, monkeypatch
) -> None:
    from stages import trial

    longer = dataclasses.replace(tiny_row, training=dataclasses.replace(tiny_row.training, epochs=15))
    # The first takes longest, so that with two workers it is not the first to end.
    jobs = [make_job("baseline", 1, settings=longer), make_job("dnm", 0), make_job("start", 0, flops=10_000_000)]
    results: list[list[dict[str, Any]]] = []
    for number, here in ((1, False), (2, False), (2, True)):
        if here and sys.platform != "linux":
            continue
        monkeypatch.setenv("DNM_WORKERS", str(number))
        told: list[tuple[str, str]] = []
        found = trials.run(
            trial.run, jobs, title="tiny", here=here,
            finished=lambda job, result, told=told: told.append((job.arm, result["arm"])),
        )  # fmt: skip
        assert [(result["arm"], result["seed"]) for result in found] == [(job.arm, job.seed) for job in jobs]
        assert sorted(told) == [("baseline",) * 2, ("dnm",) * 2, ("start",) * 2]
        results.append(found)
    assert len({json.dumps(without_machine(found)) for found in results}) == 1
    grown = results[0][1]
    assert grown["figures"]["edits"] == len(grown["journal"]) > 0
    # A trial that ran in this process gives the same bits too.
    assert without_machine([trial.run(jobs[1])]) == without_machine([grown])
    assert multiprocessing.active_children() == []


AFTER_FAKE_TENSORS = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from stages import trials

def slope(at):
    place = torch.tensor(at, requires_grad=True)
    (place * place).backward()
    return place.grad.item()

if __name__ == "__main__":
    with FakeTensorMode():
        torch.ones((), requires_grad=True).backward()
    print(trials.run(slope, [1.0, 2.0], title="slopes", preload=(), here=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="trials are forks on Linux only")
def test_trials_do_not_fork_where_autograd_would_refuse(tmp_path: Path) -> None:
    """A backward pass on fake tensors, of the compiler for one, makes autograd refuse those of later forks."""
    (tmp_path / "slopes.py").write_text(AFTER_FAKE_TENSORS, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "slopes.py")], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "[2.0, 4.0]\n"


def test_what_a_stages_task_imports_is_imported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from stages import tables

    asked: list[list[str]] = []
    kind = type(multiprocessing.get_context("forkserver"))
    monkeypatch.setattr(kind, "set_forkserver_preload", lambda self, modules: asked.append(modules))
    assert trials.run(tables.plain, [True], title="plain", preload=("json",)) == ["true"]
    # A test's module would bring more with it than the task.
    assert trials.run(len, ["ab"], title="length", preload=("json",)) == [2]
    assert asked == [["json", "stages.tables"], ["json"]]


def test_the_stages_that_run_trials_are_known_and_so_are_their_trials() -> None:
    found = {}
    for file in (ROOT / "stages").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        if file.stem not in ("arms", "spot_check") and (runs := re.findall(r"(?:arms|trials)\.run\((.*)", text)):
            own = {name for line in runs for name in re.findall(r"(\w+)\.(?:run|peak_memory)\b", line)}
            found[file.stem] = own.pop() if own else "trial"
            assert not own
    assert found == trials.STAGES


@pytest.mark.parametrize(
    "stage, arguments, execution, served",
    [
        ("few_shot", ["--entry", "characters"], '"cuda", 1', True),
        ("few_shot", ["--entry", "characters"], '"cpu", 2', True),
        ("few_shot", ["--entry", "characters"], '"cpu", 1', sys.platform != "linux"),
        ("report", [], '"cuda", 1', False),
    ],
)
def test_a_stage_starts_a_fork_server_where_it_needs_one_before_it_imports_torch(
    stage: str, arguments: list[str], execution: str, served: bool
) -> None:
    code = f"""
import runpy, sys
from multiprocessing import forkserver
from types import SimpleNamespace
from stages import cli, trials

real = trials.begin

def begin(name, execution):
    print(name, "torch" in sys.modules)
    real(name, execution)
    print(forkserver._forkserver._forkserver_pid is not None, forkserver._forkserver._preload_modules)
    raise SystemExit

device, threads = {execution}
execution = SimpleNamespace(device=device, threads=threads)
cli.make_context = lambda *arguments: SimpleNamespace(settings=SimpleNamespace(execution=execution))
trials.begin = begin
sys.argv = ["stage", *{arguments}]
runpy.run_module("stages.{stage}", run_name="__main__", alter_sys=True)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    name, server = ended.stdout.splitlines()
    assert name == f"{stage} False"
    modules = [*trials.PRELOAD, "stages.few_shot_trial", *trials.LATER["few_shot"]]
    assert server == (f"True {modules}" if served else "False ['__main__']")


def test_a_trial_that_grows_imports_nothing_that_its_stage_has_not_imported(make_job, tmp_path) -> None:
    (tmp_path / "job").write_bytes(pickle.dumps(make_job(grown=True)))
    code = """
import pickle, sys
from pathlib import Path
from types import SimpleNamespace
from stages import environment, trials

trials.begin("morphogenesis", SimpleNamespace(device="cpu", threads=1))
from stages import trial

before = set(sys.modules)
result = trial.run(pickle.loads(Path(sys.argv[1]).read_bytes()))
print(len(result["events"]), sorted(set(sys.modules) - before))
"""
    environ = os.environ | environment.CPU_CAPS | dict.fromkeys(environment.THREADS, "1")
    command = [sys.executable, "-c", code, str(tmp_path / "job")]
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    events, imported = ended.stdout.strip().split(" ", 1)
    assert int(events) > 0
    assert imported == "[]"


def test_what_is_imported_for_later_exists() -> None:
    for stage, modules in trials.LATER.items():
        assert stage in trials.STAGES
        for module in modules:
            assert importlib.util.find_spec(module), f"{stage}: {module}"


@HERE
def test_a_failing_trial_raises_its_error_and_leaves_no_children(here, make_job, tiny_row, monkeypatch) -> None:
    from stages import trial

    broken = dataclasses.replace(tiny_row, training=dataclasses.replace(tiny_row.training, batch_size=97))
    endless = dataclasses.replace(tiny_row, training=dataclasses.replace(tiny_row.training, epochs=100_000))
    jobs = [make_job(settings=broken), *(make_job(seed=seed, settings=endless) for seed in range(3))]
    for number in (1, 2):
        monkeypatch.setenv("DNM_WORKERS", str(number))
        with pytest.raises(
            ValueError, match="tiny: batch_size is 97, expected at most the 96 training samples"
        ) as told:
            trials.run(trial.run, jobs, title="tiny", here=here)
        # Where it was raised, in the other process.
        assert "in run" in told.value.__notes__[0]
        assert multiprocessing.active_children() == []


def end_hard(job: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Unsendable(Exception):
    def __reduce__(self) -> str:
        raise TypeError("cannot be pickled")


def raise_unsendable(job: int) -> None:
    raise Unsendable(f"job {job}")


@HERE
def test_an_error_that_cannot_be_sent_is_told_all_the_same(here: bool) -> None:
    with pytest.raises(RuntimeError, match="job 7"):
        trials.run(raise_unsendable, [7], title="tiny", preload=(), here=here)


@HERE
def test_a_trial_that_is_killed_is_told(here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNM_WORKERS", "2")
    with pytest.raises(trials.WorkerEnded, match=r"tiny: the process of a trial was ended .* run it again"):
        trials.run(end_hard, [1, 2, 3], title="tiny", preload=(), here=here)
    assert multiprocessing.active_children() == []


def test_no_jobs_no_processes() -> None:
    assert trials.run(len, [], title="none") == []


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", " "])
def test_a_number_of_workers_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNM_WORKERS", text)
    with pytest.raises(ValueError, match=f"DNM_WORKERS is {text!r}, expected a whole number of at least 1"):
        trials.workers()


@pytest.mark.parametrize("text, number", [("1", 1), ("16", 16), ("", len(os.sched_getaffinity(0)))])
def test_the_number_of_workers(text: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNM_WORKERS", text)
    assert trials.workers() == number


# Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    yield now


def test_plain_lines_without_a_terminal(clock, monkeypatch, capsys) -> None:
    monkeypatch.setenv("DNM_WORKERS", "2")
    progress = trials.Progress("baseline row", 5)
    for moment in (104.0, 130.0, 135.0, 190.0, 200.0):
        clock[0] = moment
        progress.advance()
    progress.close()
    assert capsys.readouterr().err.splitlines() == [
        "baseline row: 5 trials, 2 at a time",
        # Not after 4 seconds, nor 5 seconds after the line before.
        "baseline row: 2/5 trials, 0:30 gone, 0:45 left",
        "baseline row: 4/5 trials, 1:30 gone, 0:22 left",
        "baseline row: 5/5 trials, 1:40 gone, 0:00 left",
    ]


def test_one_line_in_a_terminal(clock, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = trials.Progress("row", 2)
    for moment in (101.0, 102.0):
        clock[0] = moment
        progress.advance()
    progress.close()
    assert capsys.readouterr().err == (
        "\rrow: 1/2 trials, 0:01 gone, 0:01 left   \rrow: 2/2 trials, 0:02 gone, 0:00 left   \n"
    )


# Ends

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from stages import outputs, trials

folder, number = Path(sys.argv[1]), getattr(signal, sys.argv[2])

def work(job):
    (folder / f"started-{job}").touch()
    if job == 0:
        return list(range(1000))
    time.sleep(300)

def finished(job, result):
    if number != signal.SIGKILL and sys.argv[3] == "while writing":
        # All is in the temporary file, which has not replaced the old one yet.
        os.replace = lambda *places: (os.kill(os.getpid(), number), time.sleep(5))
    outputs.write_json(folder / "record.json", result)

if __name__ == "__main__":
    # A shell that starts the tests in its background has Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    outputs.write_json(folder / "record.json", "old")
    try:
        trials.run(work, range(4), title="work", finished=finished, preload=(), here=sys.argv[4] == "here")
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def started(tmp_path: Path, here: bool) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts the script in a process group of its own; returns when two trials sleep."""
    (tmp_path / "work.py").write_text(SCRIPT, encoding="utf-8")
    processes: list[subprocess.Popen] = []

    def start(signal_name: str, when: str = "") -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "work.py"), str(tmp_path), signal_name, when, "here" if here else ""],
            env={**os.environ, "DNM_WORKERS": "2", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        processes.append(process)
        if not when:
            deadline = time.monotonic() + 60
            while not ((tmp_path / "started-1").exists() and (tmp_path / "started-2").exists()):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.02)
        return process

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_all(process: subprocess.Popen) -> str:
    """Waits until the process and all that it started are gone, and returns what they said.

    Every one of them holds the pipes: they are at their end when the last one is.
    """
    return process.communicate(timeout=10)[1]


@HERE
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("to_all", [True, False], ids=["group", "parent"])
def test_a_signal_ends_all(name: str, to_all: bool, started: Callable, tmp_path: Path) -> None:
    process = started(name)
    # Ctrl-C in a terminal reaches the whole group, `kill` one process.
    (os.killpg if to_all else os.kill)(process.pid, getattr(signal, name))
    said = wait_for_all(process)
    if name == "SIGINT" or not to_all:
        assert process.returncode == 130
        assert "Traceback" not in said
    else:
        assert process.returncode != 0
    assert not (tmp_path / "started-3").exists()
    assert json.loads((tmp_path / "record.json").read_text()) == list(range(1000))


@HERE
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_in_the_middle_of_writing(name: str, started: Callable, tmp_path: Path) -> None:
    process = started(name, "while writing")
    wait_for_all(process)
    assert process.returncode == 130
    assert json.loads((tmp_path / "record.json").read_text()) == "old"
    assert [path.name for path in tmp_path.glob(".*")] == []


@HERE
def test_the_children_do_not_outlive_a_killed_parent(started: Callable) -> None:
    process = started("SIGKILL")
    process.kill()
    wait_for_all(process)
    assert process.returncode == -signal.SIGKILL
