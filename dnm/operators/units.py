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
    outside = [unit for unit in edit.units if not 0 <= unit < group.width]
    if outside:
        raise EditError(f"group {group.name!r} has units 0..{group.width - 1}, the edit lists {outside}")
    return group


def plan(group: Group) -> dict[str, Any]:
    """Where the group's units stand, as plain values: enough to take the edit again without a graph."""
    return {
        "width": group.width,
        "members": [[m.tensor, m.dimension, m.reads, list(m.starts), m.repeat] for m in group.members],
    }


def members(plan: dict[str, Any]) -> list[Member]:
    """The members in a plan."""
    return [Member(tensor, dimension, reads, tuple(starts), repeat) for tensor, dimension, reads, starts, repeat in plan["members"]]  # fmt: skip


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
    kept = np.setdiff1d(np.arange(size), gone)
    return torch.from_numpy(kept), torch.from_numpy(gone)


def replace(
    model: nn.Module, reindexes: list[Reindex], optimizers: Iterable[Optimizer]
) -> Callable[[], None]:
    """Carries out the maps and lets the layers' integers follow; returns what takes it all back."""
    restores: list[Callable[[], None]] = []

    def set_buffer(old: Tensor, new: Tensor) -> None:
        for module in model.modules():
            for name, buffer in module._buffers.items():
                if buffer is old:
                    module._buffers[name] = new

    def change() -> None:
        restores.append(carry_out(reindexes, optimizers, set_buffer))

    restores.append(layers.follow(model, [reindex.tensor for reindex in reindexes], change))

    def restore() -> None:
        for function in restores:
            function()

    return restore


def by_tensor(model: nn.Module, found: list[Member]) -> list[tuple[Tensor, list[Member]]]:
    """The members of each tensor; those that read last, as their values are worked out on what the others leave."""
    grouped: dict[str, list[Member]] = {}
    for member in found:
        grouped.setdefault(member.tensor, []).append(member)
    return [
        (layers.get(model, name), sorted(items, key=lambda member: member.reads)) for name, items in grouped.items()
    ]


__all__ = [
    "Line", "Places", "Reindex", "by_tensor", "check", "members", "narrow", "plan", "replace", "widen",
]  # fmt: skip
