"""Run many seeded trials: in processes of this machine now, on a cluster through the same call later."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, forkserver
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

JobType = TypeVar("JobType")

# What a fork server imports once, so that the children need not; making an optimizer imports the compiler.
PRELOAD = ("torch._dynamo", "stages.trial")
# The stages that run trials, and the modules of these besides.
STAGES = {
    "ablation": "trial",
    "baseline": "trial",
    "contest": "trial",
    "detection": "detection_trial",
    "efficiency": "latency",
    "events": "events_trial",
    "few_shot": "few_shot_trial",
    "language": "language_trial",
    "morphogenesis": "trial",
    "nas": "nas_trial",
    "ranking": "ranking_trial",
    "robustness": "robustness_trial",
    "transfer": "transfer_trial",
}


def workers() -> int:
    """How many trials run at once: DNM_WORKERS, or the number of cores that this process may use.

    Raises:
        ValueError: DNM_WORKERS is not a whole number of at least 1.
    """
    text = os.environ.get("DNM_WORKERS", "")
    if not text:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"DNM_WORKERS is {text!r}, expected a whole number of at least 1")
    return int(text)


def begin(stage: str) -> None:
    """Starts the fork server of a stage's trials, if it has any: it imports what they need while the stage does too.

    Args:
        stage: its name.
    """
    if stage in STAGES:
        _forking([*PRELOAD, f"stages.{STAGES[stage]}"])
        forkserver.ensure_running()


def _forking(preload: Sequence[str]) -> BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(dict.fromkeys(preload)))
    return context


class WorkerEnded(RuntimeError):
    """A trial's process was ended from outside."""


def run(
    task: Callable[[JobType], Any],
    jobs: Sequence[JobType],
    *,
    title: str,
    finished: Callable[[JobType, Any], None] = lambda job, result: None,
    preload: Sequence[str] = PRELOAD,
) -> list[Any]:
    """Runs `task` on every job, each in a process of its own, and returns the results in the order of the jobs.

    The number of workers changes nothing but the time. An exception in a trial, Ctrl-C or a termination signal ends
    every child and is raised here; a child that is ended from outside raises `WorkerEnded`.

    Args:
        task: a module-level function of one job.
        jobs: picklable.
        title: shown with the progress.
        finished: called in this process with each job and its result, as they come.
        preload: modules that the fork server imports once, besides the task's own; a server that runs already
            (`begin`) has imported what it was told then.
    """
    if not jobs:
        return []
    # A test's module would bring more with it than the task.
    own = [task.__module__] if task.__module__.startswith("stages.") else []
    context = _forking([*preload, *own])
    results: dict[int, Any] = {}
    progress = Progress(title, len(jobs))
    executor = ProcessPoolExecutor(
        min(workers(), len(jobs)), mp_context=context, initializer=_settle, max_tasks_per_child=1
    )
    previous = (
        signal.signal(signal.SIGTERM, _interrupt) if threading.current_thread() is threading.main_thread() else None
    )
    try:
        futures = {executor.submit(task, job): number for number, job in enumerate(jobs)}
        for future in as_completed(futures):
            number = futures[future]
            try:
                results[number] = future.result()
            except BrokenProcessPool as error:
                raise WorkerEnded(
                    f"{title}: the process of a trial was ended from outside (too little memory?); finished trials and "
                    "epochs are kept: run it again, with DNM_WORKERS=1 if memory is short"
                ) from error
            finished(jobs[number], results[number])
            progress.advance()
    except BaseException:
        _end(executor)
        raise
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
        progress.close()
    executor.shutdown()
    return [results[number] for number in range(len(jobs))]


def _end(executor: ProcessPoolExecutor) -> None:
    # The executor replaces a process whose trial is over while it is being shut down, so ending those that run at one
    # moment is not enough: the new one would take the next trial.
    shutdown = threading.Thread(target=executor.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    shutdown.start()
    while shutdown.is_alive():
        for child in multiprocessing.active_children():
            child.terminate()
        shutdown.join(0.05)


class Progress:
    """Trials done and the time left: one line that is rewritten in a terminal, plain lines elsewhere."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.started = self.shown = time.monotonic()
        self.terminal = sys.stderr.isatty()
        if not self.terminal:
            print(f"{title}: {total} trials, {workers()} at a time", file=sys.stderr, flush=True)

    def advance(self) -> None:
        """Counts one trial as done."""
        self.done += 1
        now = time.monotonic()
        # Without a terminal a line every ten seconds is enough to see that it lives.
        if not self.terminal and self.done < self.total and now - self.shown < 10:
            return
        self.shown = now
        elapsed = now - self.started
        left = elapsed / self.done * (self.total - self.done)
        line = f"{self.title}: {self.done}/{self.total} trials, {_clock(elapsed)} gone, {_clock(left)} left"
        print(f"\r{line}   " if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the line in a terminal."""
        if self.terminal:
            print(file=sys.stderr)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(f"signal {number}")


def _settle() -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
