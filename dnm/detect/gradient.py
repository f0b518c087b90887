"""Gradient norm per channel group: the simplest score of where a network asks for change."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dnm.graph import Graph


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
    groups = [group for group in graph.groups if group.divisible]
    weights = [model.get_submodule(group.name).get_parameter("weight") for group in groups]
    trained = [weight.requires_grad for weight in weights]
    groups = [group for group, is_trained in zip(groups, trained, strict=True) if is_trained]
    weights = [weight for weight in weights if weight.requires_grad]
    if not groups:
        return {}
    modes = [(module, module.training) for module in model.modules()]
    try:
        # Batch statistics of a probe would otherwise enter the running ones.
        model.eval()
        gradients = torch.autograd.grad(loss(), weights)
    finally:
        for module, training in modes:
            module.training = training
    return {
        group.name: gradient.double().flatten(1).norm(dim=1) for group, gradient in zip(groups, gradients, strict=True)
    }
