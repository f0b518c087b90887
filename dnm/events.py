"""What an engine did, as plain data: for the log of a run, for checkpoints and for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from dnm.cost import Cost
from dnm.detect.estimates import Estimate


@dataclass(frozen=True)
class Row:
    """One candidate edit at one look.

    Attributes:
        operator: name of the operator.
        place: the group, layer or pair of layers that it acts on.
        figures: of its place, by name; see `dnm.detect.bottleneck.measure`.
        covariates: by theory, as they entered the prediction.
        gain: predicted, nats, by the end of the run.
        price: what is lost by seeing fewer samples, nats.
        added_parameters: by the edit.
        added_flops: of a forward and backward pass of one sample, by the edit.
        taken: whether it was.
        reason: why, or why not.
    """

    operator: str
    place: str
    figures: Mapping[str, Estimate]
    covariates: Mapping[str, float]
    gain: Estimate
    price: float
    added_parameters: int
    added_flops: int
    taken: bool
    reason: str

    def refused(self, reason: str) -> Row:
        """The row of an edit that was not taken after all."""
        return replace(self, taken=False, reason=reason)


@dataclass(frozen=True)
class Event:
    """One look at the network, the edits that came of it, and what became of them.

    Attributes:
        kind: "growth" or "pruning".
        step: optimizer steps taken before it.
        samples: seen before it.
        position: part of the budget that was behind the run.
        rows: the candidates; of a pruning, what was pruned.
        entries: the journal's entries of the edits taken.
        before: cost of the model before the event.
        after: cost of the model after it.
        widths: of every channel group after the event, by name.
        flops: what looking, editing and checking cost.
        output_difference: largest relative change of the output that an edit of a growth made, in eval or train mode.
        predicted: gain of its edits by the end of its grace period, nats.
        realised: forecast of the loss without the event, minus the loss, at the end of its grace period.
        settled: samples seen when it was kept or taken back.
        status: "no edit", "watched", "kept" or "taken back".
        reason: of the status.
    """

    kind: str
    step: int
    samples: int
    position: float
    rows: tuple[Row, ...]
    entries: tuple[dict[str, Any], ...]
    before: Cost
    after: Cost
    widths: Mapping[str, int]
    flops: int
    output_difference: float
    predicted: Estimate | None
    realised: Estimate | None
    settled: int | None
    status: str
    reason: str

    def but(self, **changes: Any) -> Event:
        """The event with some attributes changed."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """The event as plain values, for JSON, which knows no NaN: an unknown standard error is None."""
        return _plain(asdict(self))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Event:
        """The event that `as_dict` made plain values of."""
        estimates = {name: values[name] and _estimate(values[name]) for name in ("predicted", "realised")}
        costs = {name: Cost(**values[name]) for name in ("before", "after")}
        rows = []
        for row in values["rows"]:
            figures = {name: _estimate(figure) for name, figure in row["figures"].items()}
            rows.append(Row(**{**row, "figures": figures, "gain": _estimate(row["gain"])}))
        return Event(**{**values, **estimates, **costs, "rows": tuple(rows), "entries": tuple(values["entries"])})

    def __str__(self) -> str:
        """One line: when, what was edited, what it made of the size, and what became of it."""
        said = [f"step {self.step} ({self.position:.0%} of the budget): {self.kind}"]
        if self.entries:
            taken = [f"{row.operator} {row.place}" for row in self.rows if row.taken]
            said[0] += " " + ", ".join(taken)
            said.append(f"{self.before.parameters:,} -> {self.after.parameters:,} parameters")
            said.append(f"{self.before.training:,} -> {self.after.training:,} FLOPs a sample")
        return "; ".join([*said, f"{self.status}: {self.reason}"])

    def table(self) -> str:
        """The candidates as a table in Markdown: figures, predicted gain, price, size, decision and its reason."""
        names = sorted({name for row in self.rows for name in row.figures})
        header = ["operator", "place", *names, "gain", "price", "parameters", "FLOPs", "taken", "reason"]
        lines = [header, ["---"] * len(header)]
        for row in self.rows:
            figures = [str(row.figures[name]) if name in row.figures else "" for name in names]
            sizes = [f"{row.added_parameters:+,}", f"{row.added_flops:+,}"]
            decision = ["yes" if row.taken else "no", row.reason]
            lines.append([row.operator, row.place, *figures, str(row.gain), f"{row.price:.2g}", *sizes, *decision])
        title = f"step {self.step}, {self.position:.0%} of the budget: {self.kind}, {self.status}: {self.reason}"
        return "\n".join([title, "", *("| " + " | ".join(line) + " |" for line in lines)])


def _plain(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_plain(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values


def _estimate(values: Mapping[str, float | None]) -> Estimate:
    value, error = (math.nan if values[name] is None else values[name] for name in ("value", "standard_error"))
    return Estimate(value, error)  # pyright: ignore[reportArgumentType]
