"""What of a scale has been measured: long scales are run stage by stage, and their tables grow with that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from stages import cli
from stages.settings import OWN_DATA, SECTIONS, row_of


def has_run(context: cli.Context, file: Path) -> bool:
    """Whether a stage has left this file; where a scale is run as a whole, it must have."""
    return not context.settings.execution.keep_records or file.exists()


def measured(context: cli.Context) -> cli.Context:
    """The context with those rows and entries alone whose stages have run; a scale without records is run as a whole.

    Returns:
        A context whose settings lack what `metrics/<scale>/` has no results of, and what is held on such rows or is
        a transfer to one.
    """
    settings, metrics = context.settings, context.metrics
    rows = {
        name: row
        for name, row in settings.image_classification.items()
        if all(has_run(context, metrics / stage / f"{name}.json") for stage in ("baseline", "morphogenesis"))
    }
    found = {
        section: {
            name: entry
            for name, entry in getattr(settings, section).items()
            if has_run(context, metrics / section / f"{name}.json") and _rows_of(section, name, entry) <= rows.keys()
        }
        for section in SECTIONS
    }
    return replace(context, settings=replace(settings, image_classification=rows, **found))


def _rows_of(section: str, name: str, entry: Any) -> set[str]:
    if section in OWN_DATA:
        return set()
    return {row_of(section, name, entry), *([entry.target] if section == "transfer" else [])}
