"""Edits as data: frozen, comparable, written to the journal as they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnm.errors import EditError

FILLS = ("twin",)


@dataclass(frozen=True)
class Divide:
    """Divide units of a channel group into twins (Net2WiderNet, Chen et al. 2016, arXiv:1511.05641, section 2.4).

    Each listed unit gets a copy of its incoming weights, bias and norm entries at the end of the group. Its outgoing
    column w becomes `share * w + d`, the copy's `(1 - share) * w - d`, with d drawn from a normal distribution whose
    standard deviation is `spread` times that of the column, so that the twins get different gradients and separate.

    Attributes:
        group: name of the group in `dnm.trace(model, example_inputs).groups`.
        units: distinct indices of the units to divide, each in `[0, width)`.
        fill: how outgoing weights are filled; only "twin" so far.
        share: the incumbent's part of the outgoing column, strictly between 0 and 1.
        spread: standard deviation of d over that of the outgoing column; 0 leaves twins that never separate.
        seed: seed of d.

    Raises:
        EditError: a field is out of its range.
    """

    group: str
    units: tuple[int, ...]
    fill: str = "twin"
    share: float = 0.5
    spread: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", tuple(int(unit) for unit in self.units))
        if not self.units:
            raise EditError(f"Divide({self.group!r}): units is empty; name at least one unit to divide")
        if len(set(self.units)) != len(self.units):
            raise EditError(f"Divide({self.group!r}): units {self.units} repeat; name each unit once")
        if self.fill not in FILLS:
            raise EditError(f"Divide({self.group!r}): fill is {self.fill!r}, expected one of {FILLS}")
        if not 0.0 < self.share < 1.0:
            raise EditError(
                f"Divide({self.group!r}): share is {self.share}, expected a number strictly between 0 and 1"
            )
        if not (self.spread >= 0.0 and math.isfinite(self.spread)):
            raise EditError(f"Divide({self.group!r}): spread is {self.spread}, expected a finite number of at least 0")
