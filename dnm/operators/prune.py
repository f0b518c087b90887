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
from dnm.reindex import select

# The count of batches belongs to the momentum's schedule.
BUFFERS = ("running_mean", "running_var")


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
        model: the model.
        edit: what to do.
        plan: where it acts.
        optimizers: whose state follows.
        example_inputs: a batch on which means are taken; None folds nothing and re-estimates nothing.

    Returns:
        A function that takes the edit back, good until the model is trained on.

    Raises:
        StateError: an optimizer's state cannot follow; nothing was changed.
    """
    at.check_units(edit, plan["width"])
    found = at.members(plan)
    silent = all(_silent(model, member, edit, plan) for member in found if member.reads)
    measured = example_inputs is not None and not edit.into and not silent
    folds = _folds(model, found, edit, plan, example_inputs) if measured else []
    seen = _seen(model, example_inputs) if measured else {}
    reindexes: dict[int, Reindex] = {}
    for tensor, members in at.by_tensor(model, found):
        values, lines = tensor.data, []
        for member in members:
            kept, gone = at.narrow(member, tensor.shape[member.dimension], plan["width"], edit.units)
            joins = None
            if edit.into:
                _, heirs = at.narrow(member, tensor.shape[member.dimension], plan["width"], edit.into)
                if member.reads:
                    columns = values.index_select(member.dimension, gone.to(values.device))
                    values = values.index_add(member.dimension, heirs.to(values.device), columns)
                else:
                    # What is read of the two now comes from one, and so do their gradients.
                    joins = gone, heirs
            values = select(values, member.dimension, kept)
            lines.append(Line(member.dimension, kept, joins=joins))
        reindexes[id(tensor)] = Reindex(tensor, tuple(lines), values)
    for path, norm in _norms(model).items():
        own = reindexes.get(id(norm.running_mean))
        if path in seen and own is not None:
            seen[path] = torch.stack([own.of(row) for row in seen[path]])
    restores = [at.replace(model, list(reindexes.values()), optimizers)]

    def restore() -> None:
        for function in reversed(restores):
            function()

    try:
        for bias, added in folds:
            restores.append(_bind(bias, bias.data))
            # The reading layer may make units of the same group.
            own = reindexes.get(id(bias))
            bias.data = bias.data + (added if own is None else own.of(added))
        if seen:
            restores.append(_re_estimate(model, example_inputs, seen))
    except BaseException:
        restore()
        raise
    return restore


def _bind(bias: nn.Parameter, values: Tensor) -> Callable[[], None]:
    def put_back() -> None:
        bias.data = values

    return put_back


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


def _norms(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    }


def _seen(model: nn.Module, example_inputs: object) -> dict[str, Tensor]:
    """What the batch norms see in eval mode: mean and mean square per channel, by path, `2 x channels`."""
    norms = _norms(model)
    found: dict[str, Tensor] = {}

    def look(path: str) -> Callable[[nn.Module, tuple], None]:
        def hook(module: nn.Module, inputs: tuple) -> None:
            others = [d for d in range(inputs[0].dim()) if d != 1]
            moments = torch.stack([inputs[0].mean(others), inputs[0].square().mean(others)])
            found[path] = found.get(path, 0.0) + moments

        return hook

    hooks = [norm.register_forward_pre_hook(look(path)) for path, norm in norms.items()]
    try:
        if norms:
            with torch.no_grad(), untouched(model, training=False):
                call(model, example_inputs)  # pyright: ignore[reportArgumentType]
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _re_estimate(model: nn.Module, example_inputs: object, before: dict[str, Tensor]) -> Callable[[], None]:
    """Takes the statistics of those batch norms anew, as averages over the example inputs, that see something else.

    Args:
        before: what they saw while the units were there, those units left out.

    Returns:
        A function that puts the old ones back.
    """
    changed = {}
    for path, new in _seen(model, example_inputs).items():
        old, norm = before[path], _norms(model)[path]
        size = 100 * torch.finfo(old.dtype).eps * old.abs().max()
        if not (new - old).abs().max() <= size:
            changed[path] = norm
    momenta = {path: norm.momentum for path, norm in changed.items()}
    taken: dict[str, dict[str, Tensor | None]] = {}
    with torch.no_grad(), untouched(model, training=False):
        try:
            for norm in changed.values():
                norm.training, norm.momentum = True, None
                norm.reset_running_stats()
            if changed:
                call(model, example_inputs)  # pyright: ignore[reportArgumentType]
            taken = {path: dict(norm._buffers) for path, norm in changed.items()}
        finally:
            for path, norm in changed.items():
                norm.momentum = momenta[path]
    old_buffers = [(norm, name, norm._buffers[name]) for norm in changed.values() for name in BUFFERS]
    for path, norm in changed.items():
        for name in BUFFERS:
            norm._buffers[name] = taken[path][name]

    def restore() -> None:
        for norm, name, buffer in old_buffers:
            norm._buffers[name] = buffer

    return restore
