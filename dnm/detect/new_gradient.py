"""Gradient flow into the weights that an edit would add: how much faster the loss would fall at first.

A step of sign descent, as Adam's nearly is (Balles and Hennig 2018, arXiv:1705.07774), lowers the loss by its length
times the L1 norm of the gradient. Weights that an edit adds bring their own part of that norm. It is theirs before they
have changed anything, so all candidates are put into the network at once and one pass serves all of them (Wu et al.
2020, arXiv:2102.08574, section 2; Evci et al. 2022, arXiv:2201.05125, take the L2 norm, as plain descent asks for).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from dnm import journal, layers
from dnm.detect.estimates import Estimate
from dnm.edits import Divide, Edit
from dnm.errors import DnmError
from dnm.graph import Graph
from dnm.operators import divide
from dnm.operators import units as at
from dnm.recording import untouched


def new_gradients(
    model: nn.Module, graph: Graph, edits: Sequence[Edit], loss: Callable[[], Tensor], inputs: Tensor | tuple | dict
) -> list[Estimate | None]:
    """L1 norm of the gradient of the weights that each edit would add, over that of the weights that are there.

    Units of a division are put in without output, whatever its fill, where their group allows it. One pass in train
    mode serves all divisions, another one all other edits; the model is left as found.

    Args:
        model: the model.
        graph: its channel groups.
        edits: divisions, each of another group, and insertions.
        loss: computes the loss on the probe batch with `model`, as a mean over samples.
        inputs: example inputs, for planning.

    Returns:
        One figure an edit, its standard error unknown (NaN); None where the edit does not fit beside those before it,
        or where the network has no gradient.
    """
    found: list[Estimate | None] = [None] * len(edits)
    for together, put_in in ((True, _divisions), (False, _insertions)):
        numbers = [number for number, edit in enumerate(edits) if isinstance(edit, Divide) == together]
        if numbers:
            figures = _measured(model, graph, [edits[number] for number in numbers], loss, inputs, put_in)
            for number, figure in zip(numbers, figures, strict=True):
                found[number] = figure
    return found


# What an edit adds to a tensor: the tensor, and by dimension the positions; none where all of it is new.
Added = list[tuple[Tensor, dict[int, Tensor]]]


def _measured(model: nn.Module, graph: Graph, edits, loss, inputs, put_in) -> list[Estimate | None]:
    restores: list[Callable[[], None]] = []
    try:
        added: list[Added | None] = put_in(model, graph, edits, inputs, restores)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with untouched(model, training=True), torch.enable_grad():
            gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
        sizes = {
            id(parameter): gradient.abs()
            for parameter, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None
        }
        parts = [None if item is None else _norm(item, sizes) for item in added]
        total = sum(size.sum(dtype=torch.float64).item() for size in sizes.values())
    finally:
        for restore in reversed(restores):
            restore()
    old = total - sum(part or 0.0 for part in parts)
    return [None if part is None or not old > 0.0 else Estimate(part / old, math.nan) for part in parts]


def _norm(added: Added, sizes: dict[int, Tensor]) -> float:
    total = 0.0
    for tensor, lines in added:
        size = sizes.get(id(tensor))
        if size is None:
            continue
        new = torch.ones_like(size, dtype=torch.bool)
        if lines:
            new = ~new
            for dimension, positions in lines.items():
                new.index_fill_(dimension, positions.to(new.device), True)
        total += size[new].sum(dtype=torch.float64).item()
    return total


def _divisions(model: nn.Module, graph: Graph, edits: Sequence[Divide], inputs, restores) -> list[Added | None]:
    bare = [edit if graph.group(edit.group).uniform else replace(edit, fill="zero") for edit in edits]
    plans = at.in_turn(bare, [divide.plan(model, graph, edit, inputs) for edit in bare])
    positions: list[dict[tuple[str, int], Tensor]] = []
    for edit, plan in zip(bare, plans, strict=True):
        own: dict[tuple[str, int], Tensor] = {}
        for member in at.members(plan):
            size = layers.get(model, member.tensor).shape[member.dimension]
            place = member.tensor, member.dimension
            widened = at.widen(member, size, plan["width"], edit.units)
            was_there = torch.ones(len(widened.index), dtype=torch.bool)
            was_there[widened.added] = False
            moved_to = was_there.nonzero().flatten()
            for before in positions:
                if place in before:
                    before[place] = moved_to[before[place]]
            own[place] = widened.added
        restores.append(divide.carry_out(model, edit, plan))
        positions.append(own)
    return [_by_tensor(model, own) for own in positions]


def _by_tensor(model: nn.Module, positions: dict[tuple[str, int], Tensor]) -> Added:
    lines: dict[str, dict[int, Tensor]] = {}
    for (name, dimension), where in positions.items():
        lines.setdefault(name, {})[dimension] = where
    return [(layers.get(model, name), of_tensor) for name, of_tensor in lines.items()]


def _insertions(model: nn.Module, graph: Graph, edits: Sequence[Edit], inputs, restores) -> list[Added | None]:
    found: list[Added | None] = []
    known = {id(parameter) for parameter in model.parameters()}
    for edit in edits:
        operator = journal.OPERATORS[type(edit).__name__][1]
        try:
            restores.append(operator.carry_out(model, edit, operator.plan(model, graph, edit, inputs)))
        except DnmError:
            found.append(None)
            continue
        new = [parameter for parameter in model.parameters() if id(parameter) not in known]
        known |= {id(parameter) for parameter in new}
        found.append([(parameter, {}) for parameter in new])
    return found
