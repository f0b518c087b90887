"""The stage that prepares data, run in this process in a repository of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stages import cli, prepare
from stages.data.settings import Data
from stages.settings import Execution, Row, Settings
from tests.stages.data.samples import settings, tree


@pytest.fixture(autouse=True)
def no_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps folders of the machine's own data out of the tests."""
    for name in [name for name in os.environ if re.fullmatch(r"DNM_[A-Z0-9_]+", name) and name != "DNM_WORKERS"]:
        monkeypatch.delenv(name)


@pytest.fixture
def context(tiny_row: Row, execution: Execution, tmp_path: Path) -> Callable[[Data], cli.Context]:
    """Makes a context for a row with such data, whose repository is `tmp_path`."""

    def make(data: Data) -> cli.Context:
        rows = {"row": replace(tiny_row, data=data)}
        return cli.Context(
            Settings(
                scale="tiny",
                root=".",
                params_file="params.yaml",
                execution=execution,
                image_classification=rows,
                contest={},
                ranking={},
                ablation={},
                robustness={},
                events={},
                nas={},
            ),
            tmp_path,
            "row",
        )

    return make


@pytest.fixture
def refused(context: Callable[[Data], cli.Context], tmp_path: Path) -> Callable[[Data, str], None]:
    """Asserts that preparing such data ends in one message and that no file has come, gone or changed."""

    def check(data: Data, message: str) -> None:
        before = tree(tmp_path)
        with pytest.raises(cli.UserError, match=message) as caught:
            prepare.main(context(data))
        assert "\n" not in str(caught.value)
        assert tree(tmp_path) == before

    return check


@pytest.fixture
def bad(refused: Callable[[Data, str], None], tmp_path: Path) -> Callable[[str, str], None]:
    """Asserts the same of a source whose files lie in `files` below `tmp_path`."""
    return lambda source, message: refused(settings(source, tmp_path / "files"), message)
