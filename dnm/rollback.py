"""A copy of a training state, to go back to over steps that were taken since."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel


def keep(model: nn.Module, optimizers: Iterable[Optimizer], averaged: Iterable[AveragedModel] = ()) -> dict[str, Any]:
    """Copies weights, buffers, and optimizer state, as plain values and tensors."""
    return {
        "models": [_copies(module.state_dict()) for module in (model, *averaged)],
        "optimizers": [
            [_copies(optimizer.state.get(parameter, {})) for _, parameter in _parameters(optimizer)]
            for optimizer in optimizers
        ],
    }


@torch.no_grad()
def put_back(
    model: nn.Module,
    optimizers: Iterable[Optimizer],
    averaged: Iterable[AveragedModel],
    kept: Mapping[str, Any],
) -> None:
    """Brings a copy back; model and optimizers have the shapes that they had when it was made.

    Parameters, optimizers and their groups stay the same objects, and the learning rate stays what it is now. The copy
    may be on another device, as one from a checkpoint is.
    """
    for module, values in zip((model, *averaged), kept["models"], strict=True):
        module.load_state_dict(values)
    for parameter in model.parameters():
        parameter.grad = None
    for optimizer, states in zip(optimizers, kept["optimizers"], strict=True):
        for (group, parameter), state in zip(_parameters(optimizer), states, strict=True):
            if state:
                optimizer.state[parameter] = {
                    name: _moved(name, value, parameter, group) for name, value in _copies(state).items()
                }
            else:
                optimizer.state.pop(parameter, None)


def drop(parameters: Collection[Tensor], optimizers: Iterable[Optimizer]) -> None:
    """Takes parameters that a model no longer has out of its optimizers."""
    gone = {id(parameter) for parameter in parameters}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [item for item in group["params"] if id(item) not in gone]
        for parameter in parameters:
            optimizer.state.pop(parameter, None)


def _parameters(optimizer: Optimizer) -> list[tuple[Mapping[str, Any], Tensor]]:
    return [(group, parameter) for group in optimizer.param_groups for parameter in group["params"]]


def _moved(name: str, value: Any, parameter: Tensor, group: Mapping[str, Any]) -> Any:
    """A value of the optimizer's state on the device where the optimizer would have made it."""
    counts = name == "step" and not (group.get("capturable") or group.get("fused"))
    return value.to(parameter.device) if isinstance(value, Tensor) and not counts else value


def _copies(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in values.items()}
