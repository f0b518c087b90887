"""What `make verify` calls the same."""

import copy
import json
import subprocess
import sys

import yaml

from stages import verify
from stages.cli import ROOT

LOCK = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"]


def test_a_lock_in_another_order_is_the_same_lock() -> None:
    assert verify.changed_stages(LOCK, dict(reversed(LOCK.items()))) == []


def test_every_change_of_a_lock_is_found_and_named() -> None:
    other = copy.deepcopy(LOCK)
    other["report"]["deps"][0]["md5"] = "0" * 32
    other["prepare@cifar10"]["params"]["params.yaml"]["image_classification.cifar10.data"]["classes"] = 11
    del other["check"]
    assert verify.changed_stages(LOCK, other) == ["check", "prepare@cifar10", "report"]


def test_the_time_is_told_by_stage(tmp_path) -> None:
    for name, content in (
        ("baseline-cifar10", {"stage_seconds": 10.2, "trials": []}),
        ("morphogenesis-cifar10", {"stage_seconds": 30.0}),
        ("baseline-stl10", {"stage_seconds": 5.0}),
        ("setup", {"cores": 2}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    assert verify.time_by_stage(tmp_path) == "morphogenesis 30 s, baseline 15 s"


def test_the_memory_of_grandchildren_counts_and_their_sum_is_what_is_told() -> None:
    hold = "held = bytearray(150 * 2**20); import time; time.sleep(4)"
    both = f"import subprocess, sys; a = subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}; a.wait()"
    # In a process of its own: a worker of pytest may have children of other tests, a fork server for example.
    watch = (
        "import subprocess, sys\nfrom stages import verify\n"
        f"with verify.Memory() as memory:\n    subprocess.run([sys.executable, '-c', {both!r}], check=True)\n"
        "print(memory.peak)"
    )
    told = subprocess.run([sys.executable, "-c", watch], cwd=ROOT, check=True, capture_output=True, text=True)
    assert 300 * 2**20 < int(told.stdout) < 400 * 2**20
