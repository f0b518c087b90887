"""Stages that run side by side leave what one after the other leaves, and wait for what they need."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from stages import side_by_side

# Each waits for the other's sign, so neither ends if they do not run at the same time.
MEET = "touch {own}.sign; for i in $(seq 600); do [ -e {other}.sign ] && break; sleep 0.1; done; [ -e {other}.sign ]"


def stages(last: str = "cat left.txt right.txt > both.txt") -> dict:
    return {
        "both": {"cmd": last, "deps": ["left.txt", "right.txt"], "outs": ["both.txt"]},
        "left": {"cmd": f"{MEET.format(own='left', other='right')} && echo left > left.txt", "outs": ["left.txt"]},
        "right": {"cmd": f"{MEET.format(own='right', other='left')} && echo right > right.txt", "outs": ["right.txt"]},
    }


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    folder = tmp_path / "a pipeline"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages()}), encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([*side_by_side.DVC, "init", "-q"], cwd=folder, check=True)
    return folder


def test_independent_stages_meet_and_the_last_one_has_what_both_wrote(pipeline: Path) -> None:
    side_by_side.run(pipeline, os.environ)
    assert (pipeline / "both.txt").read_text(encoding="utf-8") == "left\nright\n"
    lock = yaml.safe_load((pipeline / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert {name: [out["path"] for out in stage["outs"]] for name, stage in lock.items()} == {
        "left": ["left.txt"], "right": ["right.txt"], "both": ["both.txt"],
    }  # fmt: skip
    again = subprocess.run([*side_by_side.DVC, "repro"], cwd=pipeline, check=True, capture_output=True, text=True)
    assert "Data and pipelines are up to date." in again.stdout


def test_a_failed_stage_ends_it_and_starts_nothing_more(pipeline: Path) -> None:
    content = {"stages": {**stages(), "left": {"cmd": "exit 3", "outs": ["left.txt"]}}}
    content["stages"]["right"]["cmd"] = "echo right > right.txt"
    (pipeline / "dvc.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(subprocess.CalledProcessError) as raised:
        side_by_side.run(pipeline, os.environ)
    assert raised.value.cmd[-1] == "left"
    assert (pipeline / "right.txt").exists() and not (pipeline / "both.txt").exists()


def test_what_a_stage_needs_is_read_from_the_graph() -> None:
    said = 'strict digraph {\n"check";\n"prepare@a";\n"report";\n"check" -> "prepare@a";\n"prepare@a" -> "report";\n}\n'
    assert side_by_side.needed_stages(said) == {"check": [], "prepare@a": ["check"], "report": ["prepare@a"]}
