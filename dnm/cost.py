"""Parameters and FLOPs: counted, not timed.

Convolutions and matrix products are counted (a multiply-add is two FLOPs); norms, activations and pooling are not.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dnm.graph import call


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        parameters: number of trainable scalars.
        forward: FLOPs of one forward pass, a sample.
        training: FLOPs of one forward and one backward pass, a sample.
    """

    parameters: int
    forward: int
    training: int


class _FlopCounter(TorchDispatchMode):
    """Adds up torch's own formulas.

    `torch.utils.flop_counter.FlopCounterMode` does the same, but its first use imports the compiler, which takes
    seconds in every process; a mode that is not skipped by the compiler does not.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


def first_sample(example_inputs: Tensor | tuple | dict):
    """The first sample of a batch, on the CPU, keeping the batch dimension: all that counting needs."""
    if isinstance(example_inputs, dict):
        return {key: first_sample(value) for key, value in example_inputs.items()}
    if isinstance(example_inputs, tuple):
        return tuple(first_sample(value) for value in example_inputs)
    return example_inputs[:1].cpu() if isinstance(example_inputs, Tensor) else example_inputs


def count(model: nn.Module, example_inputs: Tensor | tuple | dict) -> Cost:
    """Counts the parameters of `model` and its FLOPs on the first sample of `example_inputs`.

    A copy runs on the CPU, so the model is left untouched. The backward pass is counted as autograd runs it: no
    gradient is taken of the inputs.
    """
    # Not on the meta device, whose convolutions import the compiler.
    shadow = copy.deepcopy(model).cpu().eval()
    inputs = first_sample(example_inputs)
    with _FlopCounter() as forward, torch.no_grad():
        call(shadow, inputs)
    with _FlopCounter() as training:
        call(shadow, inputs).sum().backward()
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Cost(parameters, forward.flops, training.flops)
