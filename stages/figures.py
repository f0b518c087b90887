"""Figures with the same bytes every time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def settle() -> None:
    """Sets matplotlib up; before a figure is drawn."""
    import matplotlib

    matplotlib.rcParams.update({"svg.hashsalt": "dnm", "font.size": 9})


def blank(width: float = 6.4, height: float = 4.0) -> Figure:
    """An empty figure, in inches; as large as the tables' unless told otherwise."""
    from matplotlib.figure import Figure

    settle()
    return Figure(figsize=(width, height), layout="constrained")


def svg(drawing: Figure) -> bytes:
    """The figure as SVG, without a date."""
    stream = io.BytesIO()
    drawing.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
