"""What division and pruning share: where a group's units stand, as a plan that needs no graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dnm import layers
from dnm.edits import Divide, Prune
from dnm.errors import EditError
from dnm.graph import Graph, Group, Member
from dnm.reindex import Line, Reindex, carry_out


def check(graph: Graph, edit: Divide | Prune) -> Group:
    """The group that `edit` changes.

    Raises:
        EditError: the group does not exist, must keep its width, or lacks a listed unit.
    """
    group = graph.group(edit.group)
    verb = "divided" if isinstance(edit, Divide) else "pruned"
    if not group.divisible:
        raise EditError(f"group {group.name!r} cannot be {verb}: {group.reason}")
    check_units(edit, group.width)
    return group


def check_units(edit: Divide | Prune, width: int) -> None:
    """Checks that the units that `edit` names are among the group's.

    Raises:
        EditError: one is not, or none would be left.
    """
    outside = [unit for unit in edit.units if not 0 <= unit < width]
    if outside:
        raise EditError(f"group {edit.group!r} has units 0..{width - 1}, the edit lists {outside}")
    if isinstance(edit, Divide):
        return
    if len(edit.units) >= width:
        raise EditError(f"group {edit.group!r} has {width} units, the edit removes {len(edit.units)}; leave one")
    outside = [unit for unit in edit.into if not 0 <= unit < width]
    if outside:
        raise EditError(f"group {edit.group!r} has units 0..{width - 1}, into lists {outside}")


def plan(group: Group) -> dict[str, Any]:
    """Where the group's units stand, as plain values: enough to take the edit again without a graph."""
    return {
        "width": group.width,
        "members": [[m.tensor, m.dimension, m.reads, list(m.starts), m.repeat] for m in group.members],
    }


def members(plan: dict[str, Any]) -> list[Member]:
    """The members in a plan."""
    rows = plan["members"]
    return [Member(name, dimension, reads, tuple(starts), repeat) for name, dimension, reads, starts, repeat in rows]


def in_turn(edits: Iterable[Divide | Prune], plans: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Plans that were all made on one graph, as they stand when their edits are carried out one after the other.

    Args:
        edits: of different groups.
        plans: one for each, in the same order.

    Returns:
        The plans, with every block where the edits before it have moved it.
    """
    # By tensor and dimension: where a block that has changed ended, and by how many positions it has grown.
    moved: dict[tuple[str, int], list[tuple[int, int]]] = {}
    shifted = []
    for edit, plan in zip(edits, plans, strict=True):
        added = len(edit.units) if isinstance(edit, Divide) else -len(edit.units)
        found = []
        for tensor, dimension, reads, starts, repeat in plan["members"]:
            moves = moved.setdefault((tensor, dimension), [])
            new = [start + sum(by for end, by in moves if end <= start) for start in starts]
            found.append([tensor, dimension, reads, new, repeat])
            moves += [(start + plan["width"] * repeat, added * repeat) for start in starts]
        shifted.append({**plan, "members": found})
    return shifted


@dataclass(frozen=True)
class Places:
    """New positions along a dimension.

    Attributes:
        index: old position of each new one.
        listed: new positions of the listed units, block by block, unit by unit.
        added: new positions of their new units, in the same order; empty for pruning.
    """

    index: Tensor
    listed: Tensor
    added: Tensor


def widen(member: Member, size: int, width: int, units: tuple[int, ...]) -> Places:
    """Every block gets, at its end, one new unit for each listed one."""
    steps = np.arange(member.repeat)
    own = (np.array(units)[:, None] * member.repeat + steps).ravel()
    pieces, listed, added, done, shift = [], [], [], 0, 0
    for start in member.starts:
        end = start + width * member.repeat
        pieces += [np.arange(done, end), start + own]
        listed.append(start + shift + own)
        added.append(end + shift + np.arange(len(own)))
        shift += len(own)
        done = end
    pieces.append(np.arange(done, size))
    return Places(*(torch.from_numpy(np.concatenate(part)) for part in (pieces, listed, added)))


def narrow(member: Member, size: int, width: int, units: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Old positions that stay, and those of the listed units (block by block, unit by unit)."""
    own = (np.array(units)[:, None] * member.repeat + np.arange(member.repeat)).ravel()
    gone = np.concatenate([start + own for start in member.starts])
    return torch.from_numpy(np.delete(np.arange(size), gone)), torch.from_numpy(gone)


def replace(model: nn.Module, reindexes: list[Reindex], optimizers: Iterable[Optimizer]) -> Callable[[], None]:
    """Carries out the maps and lets the layers' integers follow; returns what takes it all back."""
    restores: list[Callable[[], None]] = []

    wanted = {id(reindex.tensor) for reindex in reindexes}
    spots = [
        (module, name)
        for module in layers.modules(model)
        for name, buffer in module._buffers.items()
        if id(buffer) in wanted
    ]

    def set_buffer(old: Tensor, new: Tensor) -> None:
        for module, name in spots:
            if module._buffers[name] is old:
                module._buffers[name] = new

    def change() -> None:
        restores.append(carry_out(reindexes, optimizers, set_buffer))

    tensors = [reindex.tensor for reindex in reindexes]
    # What `follow` has changed when it fails half way is not known to it.
    attributes = [(vars(module), _plain(module)) for module in layers.owners(model, tensors)]
    try:
        restores.append(layers.follow(model, tensors, change))
    except BaseException:
        for function in restores:
            function()
        for current, old in attributes:
            current.update(old)
        raise

    def restore() -> None:
        for function in restores:
            function()

    return restore


def _plain(module: nn.Module) -> dict[str, Any]:
    """A module's own attributes: no tensors, no modules, no hooks."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def by_tensor(model: nn.Module, found: list[Member]) -> list[tuple[Tensor, list[Member]]]:
    """The members of each tensor; those that read last, as their values are worked out on what the others leave."""
    grouped: dict[str, list[Member]] = {}
    for member in found:
        grouped.setdefault(member.tensor, []).append(member)
    return [
        (layers.get(model, name), sorted(items, key=lambda member: member.reads)) for name, items in grouped.items()
    ]


__all__ = [
    "Line", "Places", "Reindex", "by_tensor", "check", "check_units", "in_turn", "members", "narrow", "plan", "replace",
    "widen",
]  # fmt: skip
