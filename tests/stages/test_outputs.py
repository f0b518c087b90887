"""Files that stages write: whole or not at all, exact, and by one process at a time."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages import outputs

ROOT = Path(__file__).resolve().parents[2]


class Broken(Exception):
    pass


def fail(*_: object) -> None:
    raise Broken


@pytest.mark.parametrize("call", ["fdopen", "chmod", "replace"])
def test_an_error_in_the_middle_leaves_the_old_file(call: str, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "figures.json"
    outputs.write_text(file, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(Broken):
            outputs.write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(Broken):
        outputs.write_text(tmp_path / "new.json", "new")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_and_the_mode_is_that_of_any_file(tmp_path: Path) -> None:
    file, other = tmp_path / "a" / "b" / "c.txt", tmp_path / "other.txt"
    outputs.write_text(file, "grün\n")
    other.write_text("")
    assert file.read_bytes() == "grün\n".encode()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_is_no_number(value: float, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    outputs.write_json(file, {"accuracy": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        outputs.write_json(file, {"accuracy": value})
    assert outputs.read_json(file) == {"accuracy": 0.5}


def test_json_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    outputs.write_json(tmp_path / "1", {"b": 0.1 + 0.2, "a": [1, None]})
    outputs.write_json(tmp_path / "2", {"a": [1, None], "b": 0.1 + 0.2})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert json.loads((tmp_path / "1").read_text()) == {"b": 0.1 + 0.2, "a": [1, None]}


@pytest.mark.parametrize("value", [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 1e22, np.float64(2 / 3)])
def test_csv_keeps_every_bit_of_a_float(value: float, tmp_path: Path) -> None:
    outputs.write_csv(tmp_path / "t.csv", [{"x": value}], ["x"])
    (row,) = outputs.read_csv(tmp_path / "t.csv")
    assert float(row["x"]).hex() == float(value).hex()


def test_csv(tmp_path: Path) -> None:
    rows = [{"arm": "dnm", "seed": 3, "note": 'a "b", c\nd'}, {"note": None, "seed": 10**20, "arm": "é"}]
    outputs.write_csv(tmp_path / "t.csv", rows, ["arm", "seed", "note"])
    assert (tmp_path / "t.csv").read_bytes().startswith(b"arm,seed,note\n")
    assert outputs.read_csv(tmp_path / "t.csv") == [
        {"arm": "dnm", "seed": "3", "note": 'a "b", c\nd'},
        {"arm": "é", "seed": str(10**20), "note": ""},
    ]


def test_csv_refuses_a_column_that_has_no_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'extra'"):
        outputs.write_csv(tmp_path / "t.csv", [{"arm": 1, "extra": 2}], ["arm"])
    assert not (tmp_path / "t.csv").exists()


LOCK = """
import sys
from pathlib import Path
from stages import outputs

with outputs.exclusive(Path(sys.argv[1])):
    print("mine")
"""


def try_to_lock(path: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", LOCK, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_one_process_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "baseline"
    with outputs.exclusive(lock):
        refused = try_to_lock(lock)
        assert refused.returncode != 0
        who = f"process {os.getpid()} is writing this stage's outputs"
        assert f"{lock} is locked: {who}; wait until it has ended, or end it" in refused.stderr
        assert refused.stdout == ""
    assert try_to_lock(lock).stdout == "mine\n"


def test_an_error_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(Broken), outputs.exclusive(tmp_path / "lock"):
        raise Broken
    with outputs.exclusive(tmp_path / "lock"):
        pass


def test_what_is_said_of_the_machine() -> None:
    said = outputs.machine(ROOT)
    assert said["cores"] == os.cpu_count()
    assert said["processor"]
    json.dumps(said, allow_nan=False)
