"""Channel groups of a sequential network: which tensors change width together.

Only chains of convolutions, linear layers, batch norms, element-wise activations and pooling are read so far. Anything
else is refused by name: a layer that is not known might mix channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dnm.errors import EditError, GraphError

PRODUCERS = (nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
# Layers that act on every channel alike and have no tensor whose size is the number of channels.
CHANNELWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Identity, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
DROPOUTS = (nn.Dropout, nn.Dropout2d)


@dataclass(frozen=True)
class Group:
    """The channels between two weight layers.

    Attributes:
        name: path of the layer that produces the channels; also the group's name in edits.
        width: number of channels.
        divisible: whether `dnm.Divide` may change the width.
        reason: why not, where `divisible` is false; else empty.
        norms: paths of the norm layers between producer and consumer.
        consumer: path of the layer that reads the channels; empty where they are the model's output.
        positions: columns of the consumer that one channel owns (height x width behind a flatten, else 1).
    """

    name: str
    width: int
    divisible: bool
    reason: str
    norms: tuple[str, ...]
    consumer: str
    positions: int


@dataclass(frozen=True)
class Graph:
    """The channel groups of a model, in the order in which the data passes them."""

    groups: tuple[Group, ...]

    def group(self, name: str) -> Group:
        """The group called `name`.

        Raises:
            EditError: there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(group.name for group in self.groups)
        raise EditError(f"group {name!r} does not exist; the groups of this model are: {known}")


def call(model: nn.Module, example_inputs: Tensor | tuple | dict):
    """Runs the model on `example_inputs`: a tensor, a tuple of arguments or a dict of keyword arguments."""
    if isinstance(example_inputs, dict):
        return model(**example_inputs)
    if isinstance(example_inputs, tuple):
        return model(*example_inputs)
    return model(example_inputs)


def trace(model: nn.Module, example_inputs: Tensor | tuple | dict) -> Graph:
    """Reads the channel groups of a sequential network.

    Args:
        model: an `nn.Sequential`, nested ones included; left as found (mode, buffers, gradients, random state).
        example_inputs: inputs of one forward pass, which must succeed.

    Returns:
        The graph. The last weight layer's group is the output of the model and never divisible.

    Raises:
        GraphError: the model holds a layer that is not known, uses one twice, or cannot run on the inputs.
    """
    graph = Graph(tuple(_groups(list(_leaves(model, "")))))
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            call(model, example_inputs)
    except (RuntimeError, ValueError, TypeError) as error:
        raise GraphError(f"{type(model).__name__} does not run on the example inputs: {error}") from error
    finally:
        for module, training in modes:
            module.training = training
    return graph


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(module, nn.Sequential):
        if list(module.children()) or not path:
            where = path or "the model"
            raise GraphError(
                f"{where} is a {type(module).__name__}, expected nn.Sequential: channels cannot be followed through it"
            )
        yield path, module
        return
    for name, child in module.named_children():
        yield from _leaves(child, f"{path}.{name}" if path else name)
    # named_children leaves out a module's second occurrence, which would be read as a shorter chain.
    if len(list(module.named_children())) != len(module):
        raise GraphError(f"{path or 'the model'} uses one module twice; give each place a module of its own")


def _groups(leaves: list[tuple[str, nn.Module]]) -> Iterator[Group]:
    _refuse_shared(leaves)
    start: tuple[str, int] | None = None
    norms: list[str] = []
    dropout, flat = "", False
    for path, layer in leaves:
        if parametrize.is_parametrized(layer):
            raise GraphError(f"{path} ({type(layer).__name__}) is parametrized; remove the parametrization first")
        if isinstance(layer, PRODUCERS):
            inputs, outputs = _widths(path, layer)
            if isinstance(layer, nn.Linear) and start is not None and not flat:
                raise GraphError(f"{path} (Linear) reads feature maps; put an nn.Flatten() before it")
            if isinstance(layer, nn.Conv2d) and flat:
                raise GraphError(f"{path} (Conv2d) reads flattened features, expected feature maps")
            if start is not None:
                name, width = start
                if inputs % width:
                    raise GraphError(
                        f"{path} reads {inputs} features, expected a multiple of {name}'s {width} channels"
                    )
                reason = f"dropout {dropout} masks twins differently in train mode" if dropout else ""
                yield Group(name, width, not reason, reason, tuple(norms), path, inputs // width)
            start, norms, dropout = (path, outputs), [], ""
            flat = isinstance(layer, nn.Linear)
        elif isinstance(layer, NORMS):
            if start is None or layer.num_features != start[1]:
                found = "the model's input" if start is None else f"{start[1]} channels of {start[0]}"
                raise GraphError(f"{path} ({type(layer).__name__}) normalises {layer.num_features} features of {found}")
            norms.append(path)
        elif isinstance(layer, nn.Flatten):
            if layer.start_dim != 1 or layer.end_dim != -1:
                raise GraphError(f"{path} flattens dimensions {layer.start_dim}..{layer.end_dim}, expected 1..-1")
            flat = True
        elif isinstance(layer, DROPOUTS):
            dropout = path
        elif not isinstance(layer, CHANNELWISE):
            raise GraphError(
                f"{path} is a {type(layer).__name__}, which is not known: its effect on channels cannot be assumed"
            )
    if start is not None:
        yield Group(*start, False, "the model's output width never changes", tuple(norms), "", 1)


def _widths(path: str, layer: nn.Conv2d | nn.Linear) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if layer.groups != 1:
        raise GraphError(f"{path} is a Conv2d with groups={layer.groups}, expected groups=1")
    return layer.in_channels, layer.out_channels


def _refuse_shared(leaves: list[tuple[str, nn.Module]]) -> None:
    owners: dict[int, str] = {}
    for path, layer in leaves:
        for name, parameter in layer.named_parameters(recurse=False):
            owner = owners.setdefault(id(parameter), f"{path}.{name}")
            if owner != f"{path}.{name}":
                raise GraphError(f"{path}.{name} is the same parameter as {owner}; tied weights cannot be followed")
