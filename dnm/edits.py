"""Edits as data: frozen, comparable, written to the journal as they are."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from dnm.errors import EditError

FILLS = ("twin", "pair", "zero", "gradmax")


@dataclass(frozen=True)
class Divide:
    """Add units to a channel group, without changing what the model computes.

    Every listed unit gets one new unit, at the end of the group. What the new unit is depends on `fill`:

    - `twin` (Net2WiderNet, Chen et al. 2016, arXiv:1511.05641, section 2.4): a copy of the listed one's incoming
      weights, bias and norm entries. The listed unit's outgoing column w becomes `share * w + d`, the copy's
      `(1 - share) * w - d`, with d drawn from a normal distribution whose standard deviation is `spread` times that
      of the column, so that the twins get different gradients and separate.
    - `zero`: random incoming weights of the listed unit's standard deviation; outgoing weights 0.
    - `pair` (V, V) and (Z, -Z): new units come in twos with the same random incoming weights V and opposite outgoing
      ones, of `spread` times the listed unit's standard deviation.
    - `gradmax` (Evci et al. 2022, arXiv:2201.05125): outgoing weights 0, and incoming ones with which these get the
      largest gradients; `dnm.apply` needs the loss for it.

    Attributes:
        group: name of the group in `dnm.trace(model, example_inputs).groups`.
        units: distinct indices of the units to divide, each in `[0, width)`.
        fill: "twin", "zero", "pair" or "gradmax".
        share: the incumbent's part of the outgoing column, strictly between 0 and 1; for twins.
        spread: standard deviation of d (or Z) over that of the outgoing column; 0 leaves twins that never separate.
        seed: seed of all that is drawn.

    Raises:
        EditError: a field is of the wrong type or out of its range.
    """

    group: str
    units: tuple[int, ...]
    fill: str = "twin"
    share: float = 0.5
    spread: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        _check_types(self)
        _check_units(self)
        if self.fill not in FILLS:
            raise EditError(f"Divide({self.group!r}): fill is {self.fill!r}, expected one of {FILLS}")
        if not 0.0 < self.share < 1.0:
            raise EditError(
                f"Divide({self.group!r}): share is {self.share}, expected a number strictly between 0 and 1"
            )
        if not (self.spread >= 0.0 and math.isfinite(self.spread)):
            raise EditError(f"Divide({self.group!r}): spread is {self.spread}, expected a finite number of at least 0")
        if self.fill == "pair" and len(self.units) % 2:
            raise EditError(f"Divide({self.group!r}): {len(self.units)} units for pairs, expected an even number")


@dataclass(frozen=True)
class Prune:
    """Take units out of a channel group.

    What the removed units did on average is folded into the bias of each layer that reads them (the mean is taken over
    the example inputs), and the statistics of the batch norms behind are taken anew. With `into`, each removed unit's
    outgoing weights are added to those of another one instead: the inverse of a division into twins.

    Attributes:
        group: name of the group.
        units: distinct indices of the units to remove; fewer than there are.
        into: empty, or for each removed unit the index of a unit that stays and takes over its outgoing weights.

    Raises:
        EditError: a field is of the wrong type or out of its range.
    """

    group: str
    units: tuple[int, ...]
    into: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_types(self)
        _check_units(self)
        if self.into and len(self.into) != len(self.units):
            raise EditError(
                f"Prune({self.group!r}): into names {len(self.into)} units for {len(self.units)} removed ones, "
                "expected as many or none"
            )
        if set(self.into) & set(self.units):
            both = sorted(set(self.into) & set(self.units))
            raise EditError(
                f"Prune({self.group!r}): units {both} are removed and cannot take over; name units that stay"
            )


@dataclass(frozen=True)
class AddResidual:
    """Put a residual branch behind a layer: its output x becomes x + F(x), with F(x) = 0 at first.

    F is conv 3x3 - BN - ReLU - conv 3x3 - BN whose last scale is 0 on maps (He et al. 2016, arXiv:1603.05027; zero
    gamma: Goyal et al. 2017, arXiv:1706.02677), and linear - GELU - linear whose last matrix is 0 on other tensors.

    Attributes:
        at: path of the layer.
        width: inner channels of the branch; 0 takes the layer's own number.
        seed: seed of the initial weights.

    Raises:
        EditError: a field is of the wrong type or out of its range.
    """

    at: str
    width: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _check_types(self)
        if self.width < 0:
            raise EditError(f"AddResidual({self.at!r}): width is {self.width}, expected at least 0")


@dataclass(frozen=True)
class AddAttention:
    """Put a squeeze-and-excitation gate behind a layer (Hu et al. 2018, arXiv:1709.01507), which is exactly 1 at first.

    The layer's output x becomes 2 sigmoid(W2 relu(W1 mean(x))) x, with W2 and its bias 0; the mean is over positions.

    Attributes:
        at: path of the layer.
        reduction: channels over inner channels of the gate.
        seed: seed of the initial weights.

    Raises:
        EditError: a field is of the wrong type or out of its range.
    """

    at: str
    reduction: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        _check_types(self)
        if self.reduction < 1:
            raise EditError(f"AddAttention({self.at!r}): reduction is {self.reduction}, expected at least 1")


@dataclass(frozen=True)
class Connect:
    """Add a zero 1x1 projection from one layer's output to a later one's.

    Maps are brought to the target's size by average pooling.

    Attributes:
        source: path of the layer whose output is read.
        target: path of the later layer to whose output the projection is added.

    Raises:
        EditError: a field is of the wrong type.
    """

    source: str
    target: str

    def __post_init__(self) -> None:
        _check_types(self)
        if self.source == self.target:
            raise EditError(f"Connect({self.source!r}, {self.target!r}): source and target are one layer")


Edit = Divide | Prune | AddResidual | AddAttention | Connect


def _check_types(edit: Any) -> None:
    """Each field has its declared type; lists of units become tuples of plain numbers."""
    hints = get_type_hints(type(edit))
    for item in fields(edit):
        value, kind = getattr(edit, item.name), hints[item.name]
        where = f"{type(edit).__name__}: {item.name}"
        if kind is str or kind is float:
            fits = isinstance(value, str) if kind is str else isinstance(value, (int, float))
            if not fits or isinstance(value, bool):
                raise EditError(f"{where} is {value!r}, expected {'text' if kind is str else 'a number'}")
            if kind is float:
                object.__setattr__(edit, item.name, float(value))
        elif kind is int:
            try:
                number = value.__index__()
            except (TypeError, AttributeError) as error:
                raise EditError(f"{where} is {value!r}, expected a whole number") from error
            if isinstance(value, bool) or abs(number) >= 2**62:
                raise EditError(f"{where} is {value!r}, expected a whole number of less than 63 bits")
            object.__setattr__(edit, item.name, number)
        else:
            try:
                numbers = [entry.__index__() for entry in value]
                if any(isinstance(entry, bool) for entry in value):
                    raise TypeError("truth values")
            except (TypeError, AttributeError) as error:
                raise EditError(f"{where} is {value!r}, expected whole numbers") from error
            object.__setattr__(edit, item.name, tuple(numbers))


def _check_units(edit: Divide | Prune) -> None:
    where = f"{type(edit).__name__}({edit.group!r})"
    if not edit.units:
        raise EditError(f"{where}: units is empty; name at least one unit")
    if len(set(edit.units)) != len(edit.units):
        raise EditError(f"{where}: units {edit.units} repeat; name each unit once")
