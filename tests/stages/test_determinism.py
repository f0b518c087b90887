"""The environment that makes the bits repeatable is set in time, or its lack is said."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stages import environment
from stages.settings import Execution, Training
from stages.training import make_optimizer

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, os
from pathlib import Path
from stages import environment
from stages.settings import load

execution = load(Path("params.yaml")).execution
environment.apply(execution)
import torch

# A second call finds what the first has set.
environment.apply(execution)
print(json.dumps([dict(os.environ), torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()]))
"""


def test_the_environment_of_a_stage() -> None:
    names = (*environment.CPU_CAPS, *environment.THREADS)
    bare = {name: value for name, value in os.environ.items() if name not in names}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=bare, capture_output=True, text=True, timeout=120, check=True
    )
    variables, threads, capability = json.loads(ended.stdout)
    assert {name: variables.get(name) for name in environment.CPU_CAPS} == environment.CPU_CAPS
    assert {variables.get(name) for name in environment.THREADS} == {"1"}
    assert threads == 1
    if platform.machine() == "x86_64":
        assert capability == "AVX2"


@pytest.mark.parametrize("name", ["MKL_CBWR", "NPY_DISABLE_CPU_FEATURES", "OMP_NUM_THREADS"])
@pytest.mark.parametrize("value", [None, "other"])
def test_too_late_is_said(name: str, value: str | None, execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    for known, wanted in {**environment.CPU_CAPS, **dict.fromkeys(environment.THREADS, "1")}.items():
        monkeypatch.setenv(known, wanted)
    # torch is imported; where the environment is the wanted one this is no error.
    environment.apply(execution)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=rf"torch is imported before the environment was set \({name}\); call"):
        environment.apply(execution)
    assert os.environ.get(name) == value


def test_without_caps_only_threads_are_set(execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*environment.CPU_CAPS, *environment.THREADS):
        monkeypatch.delenv(name, raising=False)
    for name in ("numpy", "torch"):
        monkeypatch.delitem(sys.modules, name)
    before = dict(os.environ)
    environment.apply(dataclasses.replace(execution, cpu_caps=False, threads=3))
    assert dict(os.environ) == before | dict.fromkeys(environment.THREADS, "3")


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_optimizers_are_fused(name: str, tiny_row) -> None:
    # Others call torch.sqrt on whole tensors, which MKL computes: its last bit differs between makers of CPUs.
    settings: Training = dataclasses.replace(tiny_row.training, optimizer=name)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), settings)
    assert type(optimizer).__name__ == name
    assert [group["fused"] for group in optimizer.param_groups] == [True]


def test_the_tests_themselves_run_under_the_caps() -> None:
    assert {name: os.environ.get(name) for name in environment.CPU_CAPS} == environment.CPU_CAPS
    assert torch.get_num_threads() == 1
