"""Run many seeded trials: in processes of this machine now, on a cluster through the same call later."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkContext, ForkServerContext
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from stages.settings import Execution

JobType = TypeVar("JobType")

# What is imported once, so that the children need not; making an optimizer imports the compiler.
PRELOAD = ("torch._dynamo", "torch.utils.flop_counter", "stages.trial")
# What a trial imports when it grows a network.
GROWING = ("scipy.sparse.csgraph", "stages.branches", "stages.growing")
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
# What these import only where they need it.
LATER = {
    "ablation": (*GROWING, "stages.planned"),
    "contest": (*GROWING, "stages.planned"),
    "detection": (*GROWING, "pycocotools.coco", "pycocotools.cocoeval"),
    "events": GROWING,
    "few_shot": GROWING,
    "language": GROWING,
    "morphogenesis": GROWING,
    "nas": (*GROWING, "optuna.samplers"),
    "ranking": GROWING,
    "robustness": ("torchvision.transforms.v2",),
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


def forks(execution: Execution) -> bool:
    """Whether trials can be forks of the stage's own process, which has imported what they need.

    Elsewhere they are forks of a server that has imported it once more: CUDA does not survive a fork, a pool of threads
    does not either, and off Linux neither do the system's libraries.
    """
    return sys.platform == "linux" and execution.device == "cpu" and execution.threads == 1


def begin(stage: str, execution: Execution) -> None:
    """Imports what the trials of a stage need, if it has any, or starts a fork server that does.

    Args:
        stage: its name.
        execution: how its trials run.
    """
    if stage not in STAGES:
        return
    modules = [*PRELOAD, f"stages.{STAGES[stage]}", *LATER.get(stage, ())]
    if forks(execution):
        _forking_here(modules)
    else:
        _forking(modules)
        forkserver.ensure_running()


def _context(preload: Sequence[str], here: bool) -> ForkContext | ForkServerContext:
    if not here:
        return _forking(preload)
    context = _forking_here(preload)
    if "torch" not in sys.modules:
        return context
    # Once it has taken a backward pass on fake tensors, as compiling does, autograd refuses those of forks, and only a
    # fork can tell.
    process = context.Process(target=_step_back)
    process.start()
    process.join()
    return context if process.exitcode == 0 else _forking(preload)


def _step_back() -> None:
    import torch

    try:
        torch.ones((), requires_grad=True).backward()
    except RuntimeError:
        sys.exit(1)


def _forking(preload: Sequence[str]) -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(dict.fromkeys(preload)))
    return context


def _forking_here(preload: Sequence[str]) -> ForkContext:
    collecting = gc.isenabled()
    # To look for garbage among modules that are being imported takes a fifth of the time.
    gc.disable()
    try:
        for module in preload:
            importlib.import_module(module)
    finally:
        if collecting:
            gc.enable()
    return multiprocessing.get_context("fork")


class WorkerEnded(RuntimeError):
    """A trial's process was ended from outside."""


def run(
    task: Callable[[JobType], Any],
    jobs: Sequence[JobType],
    *,
    title: str,
    finished: Callable[[JobType, Any], None] = lambda job, result: None,
    preload: Sequence[str] = PRELOAD,
    here: bool = False,
) -> list[Any]:
    """Runs `task` on every job, each in a process of its own, and returns the results in the order of the jobs.

    The number of workers changes nothing but the time. An exception in a trial, Ctrl-C or a termination signal ends
    every child and is raised here; a child that is ended from outside raises `WorkerEnded`.

    Args:
        task: a module-level function of one job.
        jobs: picklable.
        title: shown with the progress.
        finished: called in this process with each job and its result, as they come.
        preload: modules that are imported once, besides the task's own; a server that runs already (`begin`) has
            imported what it was told then.
        here: whether the processes are forks of this one (`forks`) and not of a server, where autograd lets forks take
            backward passes.
    """
    if not jobs:
        return []
    # A test's module would bring more with it than the task.
    own = [task.__module__] if task.__module__.startswith("stages.") else []
    context = _context([*preload, *own], here)
    results: dict[int, Any] = {}
    progress = Progress(title, len(jobs))
    previous = (
        signal.signal(signal.SIGTERM, _interrupt) if threading.current_thread() is threading.main_thread() else None
    )
    waiting = list(reversed(range(len(jobs))))
    running: dict[connection.Connection, tuple[int, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers():
                number = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(theirs, task, jobs[number]))
                process.start()
                theirs.close()
                running[ours] = number, process
            ended = connection.wait(list(running))
            for ours in [ours for ours in running if ours in ended]:
                number, process = running[ours]
                results[number] = _result(ours, title)
                del running[ours]
                process.join()
                finished(jobs[number], results[number])
                progress.advance()
    finally:
        for ours, (_, process) in running.items():
            process.terminate()
            process.join()
            ours.close()
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
        progress.close()
    return [results[number] for number in range(len(jobs))]


def _work(theirs: connection.Connection, task: Callable[[Any], Any], job: Any) -> None:
    """What a trial's process does: it sends a result or an error, and what led to the error."""
    _settle()
    try:
        answer = task(job), None, ""
    except BaseException as error:
        answer = None, error, traceback.format_exc()
    try:
        theirs.send(answer)
    except Exception:
        # Not everything that is raised can be sent.
        theirs.send((None, RuntimeError(str(answer[1] or traceback.format_exc())), answer[2]))
    theirs.close()


def _result(ours: connection.Connection, title: str) -> Any:
    try:
        result, error, trace = ours.recv()
    except (EOFError, OSError):  # The second where it ended in the middle of its answer.
        raise WorkerEnded(
            f"{title}: the process of a trial was ended from outside (too little memory?); finished trials and "
            "epochs are kept: run it again, with DNM_WORKERS=1 if memory is short"
        ) from None
    finally:
        ours.close()
    if error is not None:
        error.add_note(f"In the trial's process:\n{trace}")
        raise error
    return result


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
