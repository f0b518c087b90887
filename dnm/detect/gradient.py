"""Gradient norm per channel group: the simplest score of where a network asks for change."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dnm import layers
from dnm.graph import Graph, Group, Member


def unit_gradient_norms(model: nn.Module, graph: Graph, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Norm of the loss gradient with respect to each unit's incoming weights.

    Args:
        model: the model; looked at in eval mode; its gradients, buffers and mode are left as found.
        graph: its channel groups.
        loss: computes the scalar loss on a probe batch.

    Returns:
        For every divisible group whose incoming weights are trained, its units' norms, float64, shape `(width,)`. A
        group's norm is the norm of these.
    """
    made = {group.name: _maker(model, group) for group in graph.groups if group.divisible}
    trained = {name: item for name, item in made.items() if item is not None and item[0].requires_grad}
    if not trained:
        return {}
    modes = [(module, module.training) for module in model.modules()]
    try:
        # Batch statistics of a probe would otherwise enter the running ones.
        model.eval()
        gradients = torch.autograd.grad(loss(), [item[0] for item in trained.values()])
    finally:
        for module, training in modes:
            module.training = training
    norms = {}
    for (name, (_, member, width)), gradient in zip(trained.items(), gradients, strict=True):
        # The channels of the first block, unit by unit.
        rows = gradient.double().movedim(member.dimension, 0).narrow(0, member.starts[0], width * member.repeat)
        norms[name] = rows.reshape(width, -1).norm(dim=1)
    return norms


def _maker(model: nn.Module, group: Group) -> tuple[Tensor, Member, int] | None:
    """The weight that makes a group's channels, and where they stand in it."""
    for member in group.members:
        tensor = layers.get(model, member.tensor)
        if not member.reads and tensor.dim() > 1:
            return tensor, member, group.width
    return None
