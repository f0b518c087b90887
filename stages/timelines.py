"""The timeline of a trial that grew, from what its stage left: widths, events and losses over the samples seen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from stages import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dnm import Event


def figure(grown: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], batch_size: int) -> Figure:
    """Draws it.

    Args:
        grown: of a trial, `start_widths` and `events`.
        curve: one mapping an epoch, with `step` and losses.
        batch_size: samples a step.
    """
    from dnm.timeline import timeline

    figures.settle()
    losses = {
        kind: [(batch_size * float(point["step"]), float(point[f"{name}_loss"])) for point in curve]
        for kind, name in (("training", "train"), ("validation", "validation"))
    }
    events = cast("list[Event]", [SimpleNamespace(**event) for event in grown["events"]])
    # Files have their keys sorted as text.
    start = dict(sorted(grown["start_widths"].items(), key=lambda item: _natural(item[0])))
    return timeline(start, events, losses)


def _natural(name: str) -> list[tuple[int, str]]:
    """By which names are sorted with the numbers in them as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
