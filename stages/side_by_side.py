"""Runs the stages of a pipeline side by side, as far as none needs another; `dvc repro` runs one at a time.

DVC's documentation has several `dvc repro` in one folder for this: they wait for each other only where they read and
write what DVC knows. So what one does at its start and its end, on one core, is not waited for by the others.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path

DVC = (sys.executable, "-m", "dvc")


def run(folder: Path, environment: Mapping[str, str], at_once: int = 2) -> None:
    """Brings every stage of `folder`'s dvc.yaml up to date.

    Args:
        folder: root of the repository.
        environment: of the processes.
        at_once: how many stages run at a time; each runs as many trials at once as it does alone.

    Raises:
        subprocess.CalledProcessError: a stage failed; those that ran beside it have ended, and no other was started.
    """
    # Git's own lock on its index, taken by a mere `git status` of one stage, would fail another's DVC.
    environment = {**environment, "GIT_OPTIONAL_LOCKS": "0"}
    command = [*DVC, "dag", "--dot", "dvc.yaml"]
    graph = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    needed = needed_stages(graph.stdout)
    place = {stage: number for number, stage in enumerate(needed)}
    order = TopologicalSorter(needed)
    order.prepare()
    waiting: list[str] = []
    running: dict[Future[None], str] = {}
    with ThreadPoolExecutor(at_once) as pool:
        while order.is_active():
            waiting = sorted([*waiting, *order.get_ready()], key=place.__getitem__)
            while waiting and len(running) < at_once:
                stage = waiting.pop(0)
                running[pool.submit(_repro, folder, environment, stage)] = stage
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                future.result()
                order.done(running.pop(future))


def needed_stages(graph: str) -> dict[str, list[str]]:
    """For every stage those that it needs, from what `dvc dag --dot` says.

    Args:
        graph: lines `"stage";` and `"needed" -> "stage";`.
    """
    needed: dict[str, list[str]] = {}
    for line in graph.splitlines():
        match re.findall(r'"([^"]+)"', line):
            case [stage]:
                needed[stage] = []
            case [first, second]:
                needed[second].append(first)
    return needed


def _repro(folder: Path, environment: Mapping[str, str], stage: str) -> None:
    command = [*DVC, "--wait-for-lock", "repro", "--single-item", stage]
    subprocess.run(command, cwd=folder, env=environment, check=True)
