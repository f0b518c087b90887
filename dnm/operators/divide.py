"""Division into twins: exact in train and in eval mode, because twins share every activation and batch statistic."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dnm.edits import Divide
from dnm.errors import EditError
from dnm.graph import Graph, Group
from dnm.reindex import Reindex, carry_out, check_state


def check(graph: Graph, edit: Divide) -> Group:
    """The group that `edit` divides.

    Raises:
        EditError: the group does not exist, must keep its width, or lacks a listed unit.
    """
    group = graph.group(edit.group)
    if not group.divisible:
        raise EditError(f"group {group.name!r} cannot be divided: {group.reason}")
    outside = [unit for unit in edit.units if not 0 <= unit < group.width]
    if outside:
        raise EditError(f"group {group.name!r} has units 0..{group.width - 1}, the edit lists {outside}")
    return group


def apply(model: nn.Module, graph: Graph, edit: Divide, optimizers: Iterable[Optimizer] = ()) -> Callable[[], None]:
    """Divides the units and lets gradients and optimizer state follow.

    Returns:
        A function that takes the edit back, good until the model is trained on.

    Raises:
        EditError: see `check`.
        StateError: an optimizer's state cannot follow; nothing was changed.
    """
    group = check(graph, edit)
    producer, consumer = model.get_submodule(group.name), model.get_submodule(group.consumer)
    norms = [model.get_submodule(path) for path in group.norms]
    index = torch.tensor([*range(group.width), *edit.units])
    # A unit's loss gradient is shared out with its outgoing weights; the random parts d cancel on average.
    scale = torch.ones(len(index), dtype=torch.float64)
    scale[list(edit.units)] = edit.share
    scale[group.width :] = 1.0 - edit.share

    reindexes = [
        Reindex(parameter, 0, index, scale)
        for module in (producer, *norms)
        for parameter in module.parameters(recurse=False)
    ]
    reindexes.append(_outgoing(consumer, group, edit, index))
    optimizers = list(optimizers)
    check_state(optimizers, reindexes)

    restore_parameters = carry_out(reindexes, optimizers)
    buffers = [(norm, name, value) for norm in norms for name, value in _statistics(norm)]
    for norm, name, value in buffers:
        setattr(norm, name, value.index_select(0, index.to(value.device)))
    _set_widths(producer, norms, consumer, group, len(index))

    def restore() -> None:
        restore_parameters()
        for norm, name, value in buffers:
            setattr(norm, name, value)
        _set_widths(producer, norms, consumer, group, group.width)

    return restore


def _outgoing(consumer: nn.Module, group: Group, edit: Divide, index: Tensor) -> Reindex:
    weight = consumer.get_parameter("weight")
    owned = torch.arange(group.positions)
    columns = (index[:, None] * group.positions + owned).flatten()
    values = weight.data.index_select(1, columns.to(weight.device))
    incumbents = (torch.tensor(edit.units)[:, None] * group.positions + owned).flatten().to(weight.device)
    copies = torch.arange(group.width * group.positions, values.shape[1], device=weight.device)
    column = weight.data.index_select(1, incumbents)
    generator = torch.Generator().manual_seed(edit.seed)
    noise = torch.randn(column.shape, generator=generator, dtype=torch.float64).to(column)
    others = [dimension for dimension in range(column.dim()) if dimension != 1]
    # A spread taken from one number has no standard deviation; its size stands in.
    samples = column.numel() // column.shape[1]
    deviation = column.std(dim=others, keepdim=True) if samples > 1 else column.abs()
    difference = edit.spread * deviation * noise
    values.index_copy_(1, incumbents, edit.share * column + difference)
    values.index_copy_(1, copies, (1.0 - edit.share) * column - difference)
    # The gradient of an outgoing column depends on the unit's activation alone, which the twins share.
    return Reindex(weight, 1, columns, torch.ones(len(columns), dtype=torch.float64), values)


def _statistics(norm: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in norm.named_buffers(recurse=False) if value.dim() == 1]


def _set_widths(producer: nn.Module, norms: list[nn.Module], consumer: nn.Module, group: Group, width: int) -> None:
    setattr(producer, "out_channels" if isinstance(producer, nn.Conv2d) else "out_features", width)
    for norm in norms:
        setattr(norm, "num_features", width)
    if isinstance(consumer, nn.Conv2d):
        consumer.in_channels = width
    else:
        setattr(consumer, "in_features", width * group.positions)
