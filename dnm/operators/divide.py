"""Division: new units that leave the function as it is, in train and in eval mode.

Twins share every activation and batch statistic, so splitting the outgoing weights between them changes nothing. Units
whose outgoing weights are zero, or cancel within a pair, add nothing to what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dnm.edits import Divide
from dnm.errors import EditError
from dnm.graph import Graph, Member
from dnm.operators import fresh
from dnm.operators import units as at
from dnm.operators.units import Line, Places, Reindex
from dnm.recording import unseen
from dnm.reindex import select


def plan(model: nn.Module, graph: Graph, edit: Divide, example_inputs: object) -> dict[str, Any]:
    """Where the edit acts.

    Raises:
        EditError: the group does not exist, must keep its width, or cannot be divided in this way.
    """
    group = at.check(graph, edit)
    if group.uniform and len(edit.units) != group.width:
        raise EditError(
            f"group {group.name!r}: a norm is taken over its {group.width} units, so they can only be divided all "
            f"together; the edit lists {len(edit.units)}"
        )
    if group.uniform and edit.fill != "twin":
        raise EditError(f"group {group.name!r}: a norm is taken over its units; fill is {edit.fill!r}, expected 'twin'")
    return at.plan(group)


def carry_out(
    model: nn.Module,
    edit: Divide,
    plan: dict[str, Any],
    optimizers: Iterable[Optimizer] = (),
    example_inputs: object = None,
    loss: Callable[[], Tensor] | None = None,
) -> Callable[[], None]:
    """Divides the units and lets gradients and optimizer state follow.

    Args:
        example_inputs: a batch on which batch norms take the statistics of units that are no copies; None leaves those
            of the listed units.
        loss: on a probe batch, for gradmax; None fills as for zero, which is enough where values come from a file.

    Returns:
        A function that takes the edit back, good until the model is trained on.

    Raises:
        StateError: an optimizer's state cannot follow; nothing was changed.
    """
    at.check_units(edit, plan["width"])
    generator = torch.Generator().manual_seed(edit.seed)
    found = at.members(plan)
    rows = None
    if edit.fill == "gradmax" and loss is not None:
        rows = fresh.gradmax(model, plan, len(edit.units), loss, edit.group)
    reindexes, added = [], {}
    # Watched, such many small operations take several times as long.
    with unseen():
        for tensor, members in at.by_tensor(model, found):
            values, lines = tensor.data, []
            for member in members:
                places = at.widen(member, tensor.shape[member.dimension], plan["width"], edit.units)
                fill = _outgoing if member.reads else _incoming
                values, line = fill(values, member, places, edit, generator)
                if rows is not None and not member.reads and values.dim() > 1:
                    values.index_copy_(member.dimension, places.added.to(values.device), rows)
                lines.append(line)
                added[member.tensor] = places.added
            reindexes.append(Reindex(tensor, tuple(lines), values))
        restore = at.replace(model, reindexes, optimizers)
    try:
        if edit.fill != "twin" and example_inputs is not None:
            fresh.calibrate(model, found, added, example_inputs)
    except BaseException:
        restore()
        raise
    return restore


def _incoming(
    values: Tensor, member: Member, places: Places, edit: Divide, generator: torch.Generator
) -> tuple[Tensor, Line]:
    dimension = member.dimension
    values = select(values, dimension, places.index)
    if edit.fill == "twin":
        # A unit's loss gradient is shared out with its outgoing weights; the random parts d cancel on average.
        scale = torch.ones(len(places.index), dtype=torch.float64)
        scale[places.listed] = edit.share
        scale[places.added] = 1.0 - edit.share
        return values, Line(dimension, places.index, scale)
    added = places.added.to(values.device)
    new = values.index_select(dimension, added)
    if values.dim() > 1:
        new = _noise(new, dimension, generator, 1.0)
    if edit.fill == "pair":
        new = _first_of_pairs(new, member, len(edit.units))
    values.index_copy_(dimension, added, new)
    return values, _fresh(member, places)


def _outgoing(
    values: Tensor, member: Member, places: Places, edit: Divide, generator: torch.Generator
) -> tuple[Tensor, Line]:
    dimension = member.dimension
    values = select(values, dimension, places.index)
    listed, added = places.listed.to(values.device), places.added.to(values.device)
    column = values.index_select(dimension, listed)
    if edit.fill in ("zero", "gradmax"):
        values.index_fill_(dimension, added, 0.0)
        return values, _fresh(member, places)
    difference = _noise(column, dimension, generator, edit.spread)
    if edit.fill == "pair":
        first = _first_of_pairs(difference, member, len(edit.units))
        signs = torch.ones(len(edit.units), dtype=values.dtype)
        signs[1::2] = -1.0
        shape = [1] * values.dim()
        shape[dimension] = -1
        signs = signs.repeat_interleave(member.repeat).repeat(len(member.starts)).to(values.device).view(shape)
        values.index_copy_(dimension, added, first * signs)
        return values, _fresh(member, places)
    values.index_copy_(dimension, listed, edit.share * column + difference)
    values.index_copy_(dimension, added, (1.0 - edit.share) * column - difference)
    # The gradient of an outgoing column depends on the unit's activation alone, which the twins share.
    return values, Line(dimension, places.index)


def _fresh(member: Member, places: Places) -> Line:
    fresh = torch.zeros(len(places.index), dtype=torch.bool)
    fresh[places.added] = True
    return Line(member.dimension, places.index, None, fresh)


def _noise(column: Tensor, dimension: int, generator: torch.Generator, spread: float) -> Tensor:
    """Normal numbers of `spread` times each column's own standard deviation."""
    noise = torch.randn(column.shape, generator=generator, dtype=torch.float64).to(column)
    others = [other for other in range(column.dim()) if other != dimension]
    # A spread taken from one number has no standard deviation; its size stands in.
    samples = column.numel() // column.shape[dimension]
    deviation = column.std(dim=others, keepdim=True) if samples > 1 else column.abs()
    return spread * deviation * noise


def _first_of_pairs(drawn: Tensor, member: Member, num: int) -> Tensor:
    """What was drawn for the first unit of each pair, for both."""
    order = torch.arange(num) // 2 * 2
    steps = torch.arange(member.repeat)
    block = (order[:, None] * member.repeat + steps).flatten()
    size = num * member.repeat
    index = torch.cat([block + number * size for number in range(len(member.starts))])
    return drawn.index_select(member.dimension, index.to(drawn.device))
