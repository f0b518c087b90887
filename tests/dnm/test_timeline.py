"""The timeline: what is drawn is what happened."""

from __future__ import annotations

from typing import Any

import pytest

from dnm.cost import Cost
from dnm.events import Event
from dnm.timeline import steps, timeline


def event(samples: int, widths: dict[str, int], status: str = "kept", settled: int | None = None) -> Event:
    cost = Cost(1, 1, 1, 1)
    values: dict[str, Any] = {
        "kind": "growth",
        "step": 1,
        "position": 0.1,
        "rows": (),
        "entries": () if status == "no edit" else ({"operator": "Divide"},),
        "before": cost,
        "after": cost,
        "flops": 0,
        "output_difference": 0.0,
        "predicted": None,
        "realised": None,
        "reason": "",
    }
    return Event(samples=samples, widths=widths, status=status, settled=settled, **values)


START = {"a": 4, "b": 8}


def test_widths_change_where_events_change_them() -> None:
    events = [
        event(100, START, "no edit"),
        event(200, {"a": 8, "b": 8}, settled=250),
        event(300, {"a": 8, "b": 16}, "taken back", settled=350),
        # An inserted layer renames what it stands on.
        event(400, {"a": 8, "b.layer": 8, "b.branch": 2}, settled=450),
    ]
    assert steps(START, events, 1000.0) == {
        "a": [(0.0, 4), (200, 8), (1000.0, 8)],
        "b": [(0.0, 8), (300, 16), (350, 8), (400, 8)],
        "b.layer": [(400, 8), (1000.0, 8)],
        "b.branch": [(400, 2), (1000.0, 2)],
    }


def test_the_figure_shows_widths_events_and_curves() -> None:
    pytest.importorskip("matplotlib")
    events = [event(200, {"a": 8, "b": 8}), event(300, {"a": 8, "b": 8}, "no edit")]
    curves = {"training": [(100.0, 2.0), (500.0, 1.0)], "validation": [(500.0, 1.5)]}
    above, below = timeline(START, events, curves).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in above.get_lines()}  # pyright: ignore
    assert drawn["a"] == [[0.0, 4.0], [200.0, 8.0], [500.0, 8.0]]
    assert drawn["b"] == [[0.0, 8.0], [500.0, 8.0]]
    losses = {line.get_label(): line.get_xydata().tolist() for line in below.get_lines()}  # pyright: ignore
    assert losses["training loss"] == [[100.0, 2.0], [500.0, 1.0]]
    assert losses["validation loss"] == [[500.0, 1.5]]
    assert losses["growth: kept"][0][0] == 200.0 and losses["growth: no edit"][0][0] == 300.0


def test_a_run_without_events_is_drawn_too() -> None:
    pytest.importorskip("matplotlib")
    above, _ = timeline(START, [], {"training": [], "validation": []}).axes
    assert {line.get_label() for line in above.get_lines()} == {"a", "b"}
