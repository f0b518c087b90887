"""Pruning: units are left out; what they did on average moves into a bias, or into a twin that stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dnm import layers
from dnm.calling import call
from dnm.edits import Prune
from dnm.errors import EditError
from dnm.graph import Graph, Member
from dnm.operators import units as at
from dnm.operators.units import Line, Reindex
from dnm.recording import untouched


def plan(model: nn.Module, graph: Graph, edit: Prune, example_inputs: object) -> dict[str, Any]:
    """Where the edit acts.

    Raises:
        EditError: the group does not exist, must keep its width, is normed as a whole, or would be empty.
    """
    group = at.check(graph, edit)
    if group.uniform:
        raise EditError(
            f"group {group.name!r} cannot be pruned: a norm is taken over its {group.width} units, whose statistics "
            "would change"
        )
    if len(edit.units) >= group.width:
        raise EditError(f"group {group.name!r} has {group.width} units, the edit removes {len(edit.units)}; leave one")
    missing = [unit for unit in edit.into if not 0 <= unit < group.width]
    if missing:
        raise EditError(f"group {group.name!r} has units 0..{group.width - 1}, into lists {missing}")
    return at.plan(group)


def carry_out(
    model: nn.Module,
    edit: Prune,
    plan: dict[str, Any],
    optimizers: Iterable[Optimizer] = (),
    example_inputs: object = None,
) -> Callable[[], None]:
    """Removes the units and lets gradients and optimizer state follow.

    Args:
        example_inputs: a batch on which means are taken; None folds nothing and re-estimates nothing.

    Returns:
        A function that takes the edit back, good until the model is trained on.

    Raises:
        StateError: an optimizer's state cannot follow; nothing was changed.
    """
    found = at.members(plan)
    silent = all(_silent(model, member, edit, plan) for member in found if member.reads)
    folds = [] if edit.into or silent or example_inputs is None else _folds(model, found, edit, plan, example_inputs)
    reindexes = []
    for tensor, members in at.by_tensor(model, found):
        values, lines = tensor.data, []
        for member in members:
            kept, gone = at.narrow(member, tensor.shape[member.dimension], plan["width"], edit.units)
            if member.reads and edit.into:
                _, heirs = at.narrow(member, tensor.shape[member.dimension], plan["width"], edit.into)
                columns = values.index_select(member.dimension, gone.to(values.device))
                values = values.index_add(member.dimension, heirs.to(values.device), columns)
            values = values.index_select(member.dimension, kept.to(values.device))
            lines.append(Line(member.dimension, kept))
        reindexes.append(Reindex(tensor, tuple(lines), values))
    restore_units = at.replace(model, reindexes, optimizers)
    old = [(bias, bias.data) for bias, _ in folds]
    for bias, added in folds:
        bias.data = bias.data + added
    buffers = [] if silent or edit.into or example_inputs is None else _re_estimate(model, example_inputs)

    def restore() -> None:
        for module, name, buffer in buffers:
            module._buffers[name] = buffer
        for bias, values in old:
            bias.data = values
        restore_units()

    return restore


def _silent(model: nn.Module, member: Member, edit: Prune, plan: dict[str, Any]) -> bool:
    tensor = layers.get(model, member.tensor)
    _, gone = at.narrow(member, tensor.shape[member.dimension], plan["width"], edit.units)
    return not bool(tensor.index_select(member.dimension, gone.to(tensor.device)).any())


def _folds(
    model: nn.Module, found: list[Member], edit: Prune, plan: dict[str, Any], example_inputs: object
) -> list[tuple[nn.Parameter, Tensor]]:
    """For every layer that reads the units and has a bias: what the removed ones added to its output on average."""
    readers = []
    for member in found:
        path, _, name = member.tensor.rpartition(".")
        module = model.get_submodule(path)
        plain = isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and getattr(module, "groups", 1) == 1
        if member.reads and name == "weight" and plain and module.bias is not None:
            readers.append((module, member))
    if not readers:
        return []
    sums: dict[int, list] = {id(module): [0.0, 0] for module, _ in readers}

    def collect(module: nn.Module, inputs: tuple) -> None:
        channel = inputs[0].dim() - 1 if isinstance(module, nn.Linear) else 1
        others = [d for d in range(inputs[0].dim()) if d != channel]
        entry = sums[id(module)]
        entry[0] = entry[0] + inputs[0].double().sum(others)
        entry[1] += inputs[0].numel() // inputs[0].shape[channel]

    hooks = [module.register_forward_pre_hook(collect) for module, _ in readers]
    try:
        with torch.no_grad(), untouched(model, training=False):
            call(model, example_inputs)  # pyright: ignore[reportArgumentType]
    finally:
        for hook in hooks:
            hook.remove()
    folds = []
    for module, member in readers:
        total, num = sums[id(module)]
        if not num:
            continue
        _, gone = at.narrow(member, module.weight.shape[member.dimension], plan["width"], edit.units)
        gone = gone.to(module.weight.device)
        weight = module.weight.data.index_select(1, gone).double().flatten(2).sum(2) if module.weight.dim() > 2 else (
            module.weight.data.index_select(1, gone).double()
        )  # fmt: skip
        folds.append((module.bias, (weight @ (total[gone] / num)).to(module.bias)))
    return folds


def _re_estimate(model: nn.Module, example_inputs: object) -> list[tuple[nn.Module, str, Tensor | None]]:
    """Takes the running statistics of every batch norm anew, as plain averages over the example inputs.

    Returns:
        The buffers that were replaced.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    old = [(norm, name, buffer) for norm in norms for name, buffer in norm._buffers.items()]
    if not norms:
        return []
    momenta = [norm.momentum for norm in norms]
    taken: dict[int, dict[str, Tensor | None]] = {}
    with torch.no_grad(), untouched(model, training=True):
        try:
            for norm in norms:
                norm.momentum = None
                norm.reset_running_stats()
            call(model, example_inputs)  # pyright: ignore[reportArgumentType]
            taken = {id(norm): dict(norm._buffers) for norm in norms}
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    for norm in norms:
        for name, buffer in taken[id(norm)].items():
            # The count of batches belongs to the momentum's schedule.
            if name != "num_batches_tracked":
                norm._buffers[name] = buffer
    return old
