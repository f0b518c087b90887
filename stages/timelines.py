"""The timeline of a trial that grew, from what its stage left: widths, events and losses over the samples seen."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

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
    import matplotlib

    from dnm.timeline import timeline

    matplotlib.rcParams.update({"svg.hashsalt": "dnm", "font.size": 9})
    losses = {
        kind: [(batch_size * float(point["step"]), float(point[f"{name}_loss"])) for point in curve]
        for kind, name in (("training", "train"), ("validation", "validation"))
    }
    events = cast("list[Event]", [SimpleNamespace(**event) for event in grown["events"]])
    return timeline(grown["start_widths"], events, losses)


def svg(drawing: Figure) -> bytes:
    """A figure with the same bytes every time."""
    stream = io.BytesIO()
    drawing.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
