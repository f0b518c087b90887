"""The pages under docs/ say what is so: their code runs and prints what they say, their tables are made anew."""

from __future__ import annotations

import importlib.util
import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

from dnm.rules import RULES

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md"))
# A block of code, and the output that the page gives for it, if any.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", re.S | re.M)


@pytest.fixture
def own_rules():
    """Rules that a page registers are forgotten after it."""
    kept = dict(RULES)
    yield
    RULES.clear()
    RULES.update(kept)


def blocks(page: Path) -> list[tuple[str, str | None]]:
    """Code and expected output of every block of a page."""
    return [(code, printed) for code, printed in BLOCK.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_its_code_prints_what_it_says(page: Path, own_rules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "page"}
    torch.manual_seed(0)
    for code, printed in blocks(page):
        stream = io.StringIO()
        with redirect_stdout(stream):
            exec(compile(code, str(page), "exec"), names)
        assert stream.getvalue() == printed


def test_the_first_program_is_short():
    code, _ = blocks(DOCS / "quickstart.md")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20


def test_the_table_of_operations_is_that_of_the_rules():
    path = DOCS / "operations.py"
    spec = importlib.util.spec_from_file_location("operations", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run: python docs/operations.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_place_it_links_to_exists(page: Path) -> None:
    for place in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / place).exists(), place
