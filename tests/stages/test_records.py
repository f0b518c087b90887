"""Records: found again only by what computes the same figures."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages import outputs, records
from stages.settings import Row

ROOT = Path(__file__).resolve().parents[2]


def other(value: Any) -> Any:
    """Some other value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value[:-1], other(value[-1]))
    return value + "x" if isinstance(value, str) else value + 1


def variants(value: Any) -> Iterator[tuple[str, Any]]:
    """The dataclass with each of its fields, and those of the dataclasses in it, changed once."""
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            for name, changed in variants(inner):
                yield f"{field.name}.{name}", dataclasses.replace(value, **{field.name: changed})
        else:
            yield field.name, dataclasses.replace(value, **{field.name: other(inner)})


@pytest.mark.parametrize("arm", ["baseline", "start", "scratch", "dnm"])
def test_the_fingerprint_tells_what_is_computed(arm: str, make_job: Callable, tiny_row: Row, execution) -> None:
    mark = records.fingerprint(make_job(arm), "data", "code")
    assert mark == records.fingerprint(make_job(arm), "data", "code")
    jobs = {name: make_job(arm, settings=changed) for name, changed in variants(tiny_row)}
    jobs |= {f"execution.{name}": make_job(arm, execution=changed) for name, changed in variants(execution)}
    ignored = {name for name, job in jobs.items() if records.fingerprint(job, "data", "code") == mark}
    # The data count by their hash: how they came about does not matter.
    expected = {name for name in jobs if name.startswith("data.")}
    expected |= {"documented_row", "protocol", "as_documented", "seeds", "execution.keep_records"}
    if arm != "dnm":
        expected |= {name for name in jobs if name.startswith("dnm.")}
    assert ignored == expected
    assert {"networks.start", "training.epochs", "dnm.event_times", "execution.precision"} < jobs.keys()


@pytest.mark.parametrize(
    "change", [{"arm": "start"}, {"seed": 1}, {"widths": ((8,), (12, 13))}, {"flops": 1}, {"row": "other"}], ids=str
)
def test_the_fingerprint_tells_jobs_apart(change: dict, make_job: Callable) -> None:
    assert records.fingerprint(make_job(), "d", "c") != records.fingerprint(make_job(**change), "d", "c")


def test_the_fingerprint_tells_data_and_code_apart_but_not_places(make_job: Callable) -> None:
    marks = {
        records.fingerprint(make_job(data=place), data, code)
        for place in ("/a", "/b") for data in ("d", "e") for code in ("c", "k")
    }  # fmt: skip
    assert len(marks) == 4


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the code that trials run through."""
    for folder in ("dnm", "stages"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize(
    "file, arms",
    [
        ("dnm/operators/divide.py", {"dnm", "random"}),
        ("dnm/cost.py", {"dnm", "random", "baseline"}),
        ("stages/training.py", {"dnm", "random", "baseline"}),
        ("stages/trial.py", {"dnm", "random", "baseline"}),
        ("stages/growing.py", {"dnm"}),
        ("stages/planned.py", {"random"}),
        ("stages/tasks/image_classification.py", {"dnm", "random", "baseline"}),
        ("stages/data/splits.py", {"dnm", "random", "baseline"}),
        ("stages/tracking.py", set()),
        # Nothing that a trial runs through imports it.
        ("dnm/timeline.py", set()),
    ],
)
def test_one_line_of_code_changes_its_hash(file: str, arms: set[str], code: Path) -> None:
    growers = {"dnm": records.GROWN, "random": records.PLANNED, "baseline": None}
    before = {arm: records.code_hash(code, grower) for arm, grower in growers.items()}
    with (code / file).open("a", encoding="utf-8") as stream:
        stream.write("# another line\n")
    assert {arm for arm, value in before.items() if records.code_hash(code, growers[arm]) != value} == arms


def test_names_count_and_compiled_files_do_not(code: Path) -> None:
    before = records.code_hash(code, records.GROWN)
    (code / "dnm" / "__pycache__").mkdir()
    (code / "dnm" / "__pycache__" / "engine.cpython-311.pyc").write_bytes(b"0")
    assert records.code_hash(code, records.GROWN) == before
    (code / "dnm" / "errors.py").rename(code / "dnm" / "faults.py")
    assert records.code_hash(code, records.GROWN) != before


@pytest.mark.parametrize("arm", ["baseline", "dnm", "random"])
def test_the_hash_covers_every_line_that_a_trial_runs_through(arm: str, make_job: Callable) -> None:
    import torch

    from stages import trial

    # The first optimizer imports the compiler, which takes minutes where every call is watched.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    options = (
        {"grown": True, "plan": ((0.3, 900, (("AddResidual", "9"),)),), "flops": 20_000_000} if arm == "random" else {}
    )
    job = make_job(arm, **options)
    files: set[str] = set()
    sys.setprofile(lambda frame, event, argument: files.add(frame.f_code.co_filename) if event == "call" else None)
    try:
        trial.run(job)
    finally:
        sys.setprofile(None)
    ran = {Path(file).relative_to(ROOT).as_posix() for file in files if Path(file).is_relative_to(ROOT)}
    ran = {file for file in ran if file.startswith(("dnm/", "stages/"))}
    assert (
        ran - {path.relative_to(ROOT).as_posix() for path in records.code_files(ROOT, records.grower_of(job))} == set()
    )
    assert {"stages/training.py", "stages/tasks/image_classification.py", "dnm/cost.py"} <= ran
    assert ({records.PLANNED, "dnm/operators/divide.py"} <= ran) == (arm == "random")
    assert ({records.GROWN, "dnm/morphogenesis.py", "dnm/detect/expressivity.py"} <= ran) == (arm == "dnm")


def test_records_are_kept_and_found_by_their_mark_only(tmp_path: Path) -> None:
    file = records.path(tmp_path, "workstation", "cifar10", "dnm", 2)
    assert file == tmp_path / "records" / "workstation" / "cifar10" / "dnm-2.json"
    assert records.find(file, "today") is None
    result = {"arm": "dnm", "figures": {"test_accuracy": 0.1 + 0.2}}
    records.keep(file, "today", result)
    assert records.find(file, "today") == result
    assert records.find(file, "tomorrow") is None
    records.keep(file, "tomorrow", {"arm": "dnm", "figures": {}})
    assert records.find(file, "today") is None
    assert outputs.read_json(file)["fingerprint"] == "tomorrow"


def test_what_a_script_imports_is_followed_into_functions_and_packages(tmp_path: Path) -> None:
    package = tmp_path / "dnm"
    (package / "inner").mkdir(parents=True)
    contents = {
        "__init__.py": "",
        "top.py": "import dnm.below",
        "below.py": "def late():\n    from dnm.inner import deep\n",
        "inner/__init__.py": "",
        "inner/deep.py": "raise RuntimeError('nothing is run')",
        "unused.py": "import dnm.top",
    }
    for name, text in contents.items():
        (package / name).write_text(text)
    script = tmp_path / "script.py"
    script.write_text("import json\nfrom dnm.top import *\n")
    found = {path.relative_to(package).as_posix() for path in records.imported(tmp_path, script, "dnm")}
    assert found == set(contents) - {"unused.py"}
    # What is kept of it is not taken for what another version imports.
    (package / "unused.py").write_text("")
    script.write_text("import dnm.unused\n")
    found = {path.relative_to(package).as_posix() for path in records.imported(tmp_path, script, "dnm")}
    assert found == {"__init__.py", "unused.py"}
