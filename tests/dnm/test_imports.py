"""The library needs torch, NumPy, SciPy and safetensors, imports nothing else, and does so quickly."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPENDENCIES = {"torch", "numpy", "scipy", "safetensors"}
# Files that no other imports, each with what its users must have.
OPTIONAL = {"dnm/lightning.py": {"lightning"}, "dnm/timeline.py": {"matplotlib"}}
# What the pipeline may use and the library may not.
FOREIGN = {
    "stages", "dvc", "mlflow", "torchvision", "pandas", "pyarrow", "PIL", "statsmodels", "sklearn", "joblib",
    "matplotlib", "ruamel", "tqdm", "filelock", "transformers", "timm", "lightning",
}  # fmt: skip
# Seconds that `import dnm` may take on top of the import of torch.
LIMIT = 0.3

MEASURE = """
import json, sys, time
import torch
torch_brought = set(sys.modules)
# The process's own time: others may be using the machine.
start = time.process_time()
import dnm
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "added": sorted(set(sys.modules) - torch_brought), "all": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def measured() -> list[dict]:
    """Three imports, each in a fresh process."""
    command = [sys.executable, "-c", MEASURE]
    return [
        json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]


def imported(path: Path) -> set[str]:
    """First part of every module's name that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_no_file_imports_more_than_the_dependencies():
    files = sorted((ROOT / "dnm").rglob("*.py"))
    assert len(files) > 10
    allowed = DEPENDENCIES | set(sys.stdlib_module_names) | {"dnm"}
    more = {str(path.relative_to(ROOT)): imported(path) - allowed for path in files}
    assert {name: found for name, found in more.items() if found} == OPTIONAL


def test_no_file_imports_an_optional_one():
    optional = {name.removesuffix(".py").replace("/", ".") for name in OPTIONAL}
    for path in (ROOT / "dnm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
                assert not names & optional, f"{path} imports {names & optional}"


def test_the_package_declares_exactly_what_it_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^A-Za-z0-9_-]", line)[0] for line in project["dependencies"]}
    assert declared == DEPENDENCIES
    files = [path for path in (ROOT / "dnm").rglob("*.py") if str(path.relative_to(ROOT)) not in OPTIONAL]
    used = set().union(*(imported(path) for path in files))
    assert declared == used - set(sys.stdlib_module_names) - {"dnm"}


def test_importing_it_brings_in_nothing_foreign(measured):
    found = {name.partition(".")[0] for name in measured[0]["added"]}
    assert found & FOREIGN == set()
    # They take a part of a second each, the compiler takes seconds, and no one has asked for them yet.
    assert found & {"scipy", "triton"} == set()
    assert not [name for name in measured[0]["all"] if name.startswith("torch._dynamo")]


def test_importing_it_is_quick(measured):
    fastest = min(run["seconds"] for run in measured)
    assert fastest < LIMIT, f"import dnm takes {fastest:.2f} s on top of torch, expected less than {LIMIT} s"
