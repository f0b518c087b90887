"""Networks and photographs that the tests of the library share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn


def _conv(bias: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, padding_mode="reflect", bias=bias),
        nn.BatchNorm2d(6, eps=1e-3, momentum=0.3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, padding=2, dilation=2, stride=2, bias=bias),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3, bias=bias),
    )


def _flatten(bias: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, stride=2, bias=bias),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 3, bias=bias),
    )


def _linear(bias: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(7, 6, bias=bias),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Linear(6, 5, bias=bias),
        nn.GELU(),
        nn.Linear(5, 3, bias=bias),
    )


NETWORKS = {"conv": (_conv, (2, 8, 8)), "flatten": (_flatten, (2, 8, 8)), "linear": (_linear, (7,))}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On networks this small threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def build():
    """`build(kind)`: a network in float64 whose norms have seen data, and a batch of eight for it."""

    def build(kind: str, bias: bool = True) -> tuple[nn.Sequential, torch.Tensor]:
        network, shape = NETWORKS[kind]
        torch.manual_seed(0)
        model, inputs = network(bias).double(), torch.randn(8, *shape, dtype=torch.float64)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
        with torch.no_grad():
            for _ in range(3):
                model(torch.randn_like(inputs))
        return model, inputs

    return build


@pytest.fixture
def photograph():
    """`photograph(model, *optimizers)`: all that a failed edit must leave alone, as copied tensors and plain values."""

    def photograph(model: nn.Module, *optimizers: torch.optim.Optimizer) -> list:
        parameters = list(model.parameters())
        return flat(
            [
                [(name, id(parameter), parameter.stride()) for name, parameter in model.named_parameters()],
                [parameter.grad for parameter in parameters],
                dict(model.state_dict()),
                [module.training for module in model.modules()],
                repr(model),
                [optimizer.state_dict() for optimizer in optimizers],
                [[id(p) for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers],
                torch.get_rng_state(),
            ]
        )

    def flat(value) -> list:
        if isinstance(value, torch.Tensor):
            content = value.detach().flatten().contiguous().view(torch.uint8).cpu().numpy().tobytes()
            return [str(value.dtype), tuple(value.shape), content]
        if isinstance(value, dict):
            return [[key, flat(item)] for key, item in value.items()]
        if isinstance(value, list | tuple):
            return [flat(item) for item in value]
        return [copy.deepcopy(value)]

    return photograph


@pytest.fixture
def train():
    """`train(model, optimizer, inputs, steps)`: optimizer steps on a loss whose gradients do not vanish."""

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, steps: int) -> list[float]:
        losses = []
        for step in range(steps):
            generator = torch.Generator().manual_seed(step)
            batch = inputs + 0.1 * torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
            optimizer.zero_grad()
            loss = (model(batch) - 1.0).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return train
