"""What every stage's command line has in common: which settings, which row, one way to fail."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stages import environment, outputs
from stages.settings import Row, Settings, SettingsError, load

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Context:
    """Where a stage reads and writes.

    Attributes:
        settings: the scale's settings.
        root: the repository.
        row_name: the row that the stage is for; empty for stages over all rows.
    """

    settings: Settings
    root: Path
    row_name: str

    @property
    def row(self) -> Row:
        """The row's settings."""
        return self.settings.image_classification[self.row_name]

    @property
    def metrics(self) -> Path:
        """The folder of this scale's results."""
        return self.root / "metrics" / self.settings.scale

    @property
    def data(self) -> Path:
        """The row's prepared data."""
        return self.root / "data" / "prepared" / self.settings.scale / f"{self.row_name}.safetensors"


def main(stage: Callable[[Context], None], *, has_row: bool) -> None:
    """Runs a stage from the command line; what the user can mend ends in one message and exit code 2."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings file of a scale")
    if has_row:
        parser.add_argument("--row", required=True, help="row of the table, as in the settings file")
    arguments = parser.parse_args()
    try:
        context = make_context(arguments.params, arguments.row if has_row else "")
        stage(context)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; nothing was written", file=sys.stderr)
        raise SystemExit(130) from None
    except (SettingsError, UserError, outputs.Locked) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


class UserError(Exception):
    """Something that the user can mend; the message says how."""


def make_context(params: Path, row: str) -> Context:
    """Reads the settings and sets the process up for them.

    Raises:
        SettingsError: the settings cannot be used, or the row does not exist.
    """
    settings = load(params)
    rows = settings.image_classification
    if row and row not in rows:
        raise SettingsError(f"{params}: row {row!r} does not exist; the rows are {', '.join(rows)}")
    _demand_own_library()
    environment.apply(settings.execution)
    return Context(settings, ROOT, row)


def _demand_own_library() -> None:
    # With an editable install of another checkout, figures would come from code that is not the one beside them.
    found = importlib.util.find_spec("dnm")
    origin = Path(found.origin).resolve() if found and found.origin else None
    if origin is None or ROOT not in origin.parents:
        raise UserError(f"dnm is imported from {origin}, expected from {ROOT}; run stages from the repository's root")
