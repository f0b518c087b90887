"""A run of an engine as a figure; needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dnm.events import Event

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"kept": "tab:green", "watched": "tab:blue", "taken back": "tab:red", "no edit": "tab:gray"}


def steps(start: Mapping[str, int], events: Sequence[Event], end: float) -> dict[str, list[tuple[float, int]]]:
    """The width of every group over training, as corners of a step function.

    Args:
        start: widths by group before the first event.
        events: in order.
        end: samples seen at the end.

    Returns:
        By group: pairs of samples seen and width from then on, the first where the group appears; the last at `end`,
        or where the group is no more.
    """
    changes: list[tuple[float, Mapping[str, int]]] = [(0.0, start)]
    before = start
    for event in events:
        if event.entries:
            changes.append((event.samples, event.widths))
            if event.status == "taken back" and event.settled is not None:
                changes.append((event.settled, before))
                continue
        before = event.widths
    found: dict[str, list[tuple[float, int]]] = {}
    now: Mapping[str, int] = {}
    for samples, widths in changes:
        for name, width in widths.items():
            if now.get(name) != width:
                found.setdefault(name, []).append((samples, width))
        for name in now.keys() - widths.keys():
            found[name].append((samples, now[name]))
        now = widths
    for name, width in now.items():
        found[name].append((end, width))
    return found


def timeline(
    start: Mapping[str, int], events: Sequence[Event], curves: Mapping[str, Sequence[tuple[float, float]]]
) -> Figure:
    """Widths of the channel groups over training, above the losses, with the events as lines through both.

    Args:
        start: `Morphogenesis.start_widths`.
        events: `Morphogenesis.events`.
        curves: `Morphogenesis.curves`.

    Returns:
        A matplotlib figure: `figure.savefig("timeline.svg")`, or `mlflow.log_figure(figure, "timeline.svg")`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"the timeline needs matplotlib ({error}); install it with: pip install matplotlib"
        ) from error

    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    ends = [points[-1][0] for points in curves.values() if points] + [event.samples for event in events]
    lines = steps(start, events, float(max(ends, default=1)))
    # Groups behind the tenth share a colour with one before; the dashes tell them apart.
    for number, (name, corners) in enumerate(lines.items()):
        style = ("-", "--", ":", "-.")[number // 10 % 4]
        above.step(*zip(*corners, strict=True), where="post", linestyle=style, color=f"C{number % 10}", label=name)
    for name, points in curves.items():
        if points:
            below.plot(*zip(*points, strict=True), label=f"{name} loss", marker="." if len(points) < 50 else "")
    seen = set()
    for event in events:
        colour = COLOURS[event.status]
        label = f"{event.kind}: {event.status}" if (event.kind, event.status) not in seen else None
        seen.add((event.kind, event.status))
        dashes = "--" if event.kind == "pruning" else "-"
        above.axvline(event.samples, color=colour, linestyle=dashes, linewidth=0.8)
        below.axvline(event.samples, color=colour, linestyle=dashes, linewidth=0.8, label=label)
    # Groups double and halve; their widths differ by factors.
    above.set_yscale("log", base=2)
    above.yaxis.set_major_formatter("{x:.0f}")
    above.set_ylabel("units in the group")
    below.set_ylabel("loss (nats)")
    below.set_xlabel("samples seen")
    if len(lines) <= 40:
        figure.legend(*above.get_legend_handles_labels(), loc="outside right upper", fontsize=7, title="group")
    if below.get_legend_handles_labels()[0]:
        below.legend(fontsize=7)
    return figure
