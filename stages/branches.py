"""Branches that growth puts into convolutional networks, named, so that a network can be built again with them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from dnm import AddAttention, AddResidual
from dnm.operators import branch

# Operator, path of the layer behind which the branch stands, and its inner width.
Branch = tuple[str, str, int]


def branches_of(model: nn.Module) -> list[Branch]:
    """The branches of a network, those behind one layer in the order in which the data passes them."""
    found: list[Branch] = []
    for at, child in model.named_children():
        own: list[Branch] = []
        module = child
        while isinstance(module, (branch.Residual, branch.Gated)):
            operator = "AddAttention" if isinstance(module, branch.Gated) else "AddResidual"
            own.insert(0, (operator, at, module.inner))
            module = module.layer
        found += own
    return found


def put_in(model: nn.Sequential, branches: Iterable[Branch], example: torch.Tensor, seed: int) -> None:
    """Puts branches into a network, initialised as growth initialises them: the identity at first.

    Args:
        model: made by `stages.tasks.image_classification.network`.
        branches: what `branches_of` gave.
        example: one sample.
        seed: of their weights.
    """
    own = list(branches)
    training = model.training
    model.eval()
    values = example
    for name, child in list(model.named_children()):
        with torch.no_grad():
            values = child(values)
        plan = {"channels": values.shape[1], "dimension": 1, "num_dimensions": values.dim()}
        wrapper: nn.Module = child
        for number, (operator, at, inner) in enumerate(own):
            if at == name:
                edit = AddAttention(at) if operator == "AddAttention" else AddResidual(at)
                wrapper, _ = branch.wrapped(wrapper, edit, plan, inner, seed=1000 * seed + number)
        model.add_module(name, wrapper)
    model.train(training)
