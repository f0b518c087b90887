"""A residual branch or a gate behind a layer, which is the identity at first.

The branch wraps the layer that it stands on: `layer` becomes `Residual(layer, branch)` or `Gated(layer, ...)`, whose
state_dict keys are the layer's under `layer.`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dnm import layers
from dnm.edits import AddAttention, AddResidual
from dnm.errors import EditError
from dnm.graph import Graph
from dnm.operators import insert

CONVOLUTIONS = {3: (nn.Conv1d, nn.BatchNorm1d), 4: (nn.Conv2d, nn.BatchNorm2d), 5: (nn.Conv3d, nn.BatchNorm3d)}


class _Wrapper(nn.Module):
    """Stands where its layer stood, and answers for it to code that asks the layer for something."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class Residual(_Wrapper):
    """x + F(x), where x is what a layer returns."""

    def __init__(self, layer: nn.Module, branch: nn.Sequential) -> None:
        super().__init__(layer)
        self.branch = branch

    @property
    def inner(self) -> int:
        """Width of the branch between its two layers."""
        return layers.get(self.branch, "0.weight").shape[0]

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """The layer's output plus what the branch makes of it."""
        outputs = self.layer(*inputs, **options)
        return outputs + self.branch(outputs)


class Gated(_Wrapper):
    """2 sigmoid(W2 relu(W1 mean(x))) x, where x is what a layer returns: maps with channels at `dimension`."""

    def __init__(self, layer: nn.Module, channels: int, inner: int, dimension: int) -> None:
        super().__init__(layer)
        self.squeeze = nn.Linear(channels, inner)
        self.excite = nn.Linear(inner, channels)
        self.dimension = dimension

    @property
    def inner(self) -> int:
        """Width of the gate between its two layers."""
        return self.squeeze.out_features

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """The layer's output, each channel times its gate."""
        outputs = self.layer(*inputs, **options)
        positions = [d for d in range(1, outputs.dim()) if d != self.dimension % outputs.dim()]
        gate = 2.0 * torch.sigmoid(self.excite(torch.relu(self.squeeze(outputs.mean(positions)))))
        for position in positions:
            gate = gate.unsqueeze(position)
        return outputs * gate


def plan(model: nn.Module, graph: Graph, edit: AddResidual | AddAttention, example_inputs: object) -> dict[str, Any]:
    """What the layer returns, as plain values.

    Raises:
        EditError: there is no such place, or (for a gate) it returns no maps.
    """
    what = f"{type(edit).__name__}({edit.at!r})"
    place = insert.place(graph, edit.at, what)
    if isinstance(edit, AddAttention) and place.num_dimensions < (3 if place.dimension == 1 else 4):
        raise EditError(
            f"{what}: the layer returns a tensor of {place.num_dimensions} dimensions with channels in dimension "
            f"{place.dimension}, expected maps; a gate that takes a mean over tokens would let them see one another"
        )
    return {
        "channels": place.channels,
        "dimension": place.dimension,
        "num_dimensions": place.num_dimensions,
        "near": place.near,
    }


def carry_out(
    model: nn.Module, edit: AddResidual | AddAttention, plan: dict[str, Any], optimizers: Iterable[Optimizer] = ()
) -> Callable[[], None]:
    """Wraps the layer; returns what takes the wrapper away again."""
    layer = model.get_submodule(edit.at)
    channels = plan["channels"]
    gate = isinstance(edit, AddAttention)
    inner = max(1, channels // edit.reduction) if gate else edit.width or channels
    wrapper, new = wrapped(layer, edit, plan, inner, seed=edit.seed)
    near = layers.get(model, plan["near"])
    for module in new:
        module.to(near.device, near.dtype).train(layer.training)
    # Not `train`, which would reach the layer's own modules.
    wrapper.training = layer.training
    names = {id(parameter): f"{edit.at}.{name}" for name, parameter in wrapper.named_parameters()}
    parameters = [(names[id(parameter)], parameter) for module in new for parameter in module.parameters()]
    return insert.together(
        [
            lambda: insert.enrol(optimizers, near, parameters),
            lambda: layers.unfuse(model, layer),
            lambda: insert.exchange(model, layer, wrapper),
        ]
    )


def wrapped(
    layer: nn.Module, edit: AddResidual | AddAttention, plan: dict[str, Any], inner: int, *, seed: int
) -> tuple[Residual | Gated, list[nn.Module]]:
    """The layer with a branch of a given inner width behind it, which is the identity, and the modules that are new."""
    channels, dimension = plan["channels"], plan["dimension"]
    with insert.aside():
        if isinstance(edit, AddAttention):
            wrapper = Gated(layer, channels, inner, dimension)
            new: list[nn.Module] = [wrapper.squeeze, wrapper.excite]
            last = wrapper.excite.weight
        else:
            branch = _branch(inner, channels, dimension, plan["num_dimensions"])
            wrapper, last = Residual(layer, branch), branch[-1].weight
            new = [branch]
    for number, module in enumerate(new):
        insert.draw(module, seed + number)
    with torch.no_grad():
        last.zero_()  # pyright: ignore[reportCallIssue]
    return wrapper, new


def _branch(inner: int, channels: int, dimension: int, num_dimensions: int) -> nn.Sequential:
    if dimension == 1 and num_dimensions in CONVOLUTIONS:
        convolution, norm = CONVOLUTIONS[num_dimensions]
        return nn.Sequential(
            convolution(channels, inner, 3, padding=1, bias=False),
            norm(inner),
            nn.ReLU(),
            convolution(inner, channels, 3, padding=1, bias=False),
            norm(channels),
        )
    return nn.Sequential(nn.Linear(channels, inner), nn.GELU(), nn.Linear(inner, channels))
