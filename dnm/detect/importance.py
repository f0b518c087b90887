"""How much the loss would change if a unit were removed: what pruning ranks by.

Second-order Taylor expansion in a mask on the unit's output, with the empirical Fisher information for the curvature
(Theis et al. 2018, arXiv:1801.05787, equation 8; Molchanov et al. 2019, arXiv:1906.10771): a unit whose mask m goes
from 1 to 0 changes the loss by about -E[dL/dm] + 1/2 E[(dL/dm)^2], with dL/dm taken sample by sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dnm.errors import GraphError
from dnm.graph import Graph, Group, Member
from dnm.recording import untouched

READERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def unit_importance(model: nn.Module, graph: Graph, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Predicted loss change on removing each unit.

    Args:
        model: looked at in eval mode; its gradients, buffers and mode are left as found.
        graph: its channel groups.
        loss: computes the loss on a probe batch, as a mean over samples; the first dimension of every layer's input is
            the sample.

    Returns:
        For every group that can be pruned and that only plain linear and convolution layers read: the changes, float64,
        shape `(width,)`, in the unit of the loss. Negative where the loss would fall.

    Raises:
        GraphError: the loss is not a scalar.
    """
    readers = {
        group.name: [(model.get_submodule(m.tensor.rpartition(".")[0]), m) for m in group.members if m.reads]
        for group in graph.groups
        if group.divisible and not group.uniform
    }
    readers = {name: found for name, found in readers.items() if all(_plain(module, m) for module, m in found)}
    masks: dict[int, list[Tensor]] = {}
    modules = {id(module): module for found in readers.values() for module, _ in found}

    def mask(module: nn.Module, inputs: tuple) -> tuple:
        data = inputs[0]
        channel = data.dim() - 1 if isinstance(module, nn.Linear) else 1
        shape = [1] * data.dim()
        shape[0], shape[channel] = data.shape[0], data.shape[channel]
        ones = torch.ones(shape, dtype=data.dtype, device=data.device, requires_grad=True)
        masks.setdefault(id(module), []).append(ones)
        return (data * ones, *inputs[1:])

    hooks = [module.register_forward_pre_hook(mask) for module in modules.values()]
    try:
        with untouched(model, training=False), torch.enable_grad():
            value = loss()
            if value.dim():
                raise GraphError(f"the loss has shape {tuple(value.shape)}, expected a scalar: a mean over samples")
            every = [item for items in masks.values() for item in items]
            gradients = iter(torch.autograd.grad(value, every, allow_unused=True))
    finally:
        for hook in hooks:
            hook.remove()
    per_module = {key: [next(gradients) for _ in items] for key, items in masks.items()}
    by_name = {group.name: group for group in graph.groups}
    result = {}
    for name, found in readers.items():
        if all(id(module) in per_module for module, _ in found):
            result[name] = _changes(by_name[name], found, per_module)
    return result


def _plain(module: nn.Module, member: Member) -> bool:
    return isinstance(module, READERS) and getattr(module, "groups", 1) == 1 and member.tensor.endswith("weight")


def _changes(group: Group, readers: list, gradients: Mapping[int, Sequence[Tensor | None]]) -> Tensor:
    total: Tensor | None = None
    for module, member in readers:
        for gradient in gradients[id(module)]:
            if gradient is None:
                continue
            # A mean over samples leaves 1/num of each sample's own gradient.
            rows = gradient.flatten(1).double() * gradient.shape[0]
            for start in member.starts:
                block = rows[:, start : start + group.width * member.repeat]
                unit = block.reshape(len(rows), group.width, member.repeat).sum(2)
                if total is not None and len(total) != len(unit):
                    raise GraphError(f"group {group.name!r}: its readers see different numbers of samples")
                total = unit if total is None else total + unit
    if total is None:
        return torch.zeros(group.width, dtype=torch.float64)
    return -total.mean(0) + 0.5 * total.square().mean(0)
