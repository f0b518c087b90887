"""Counted FLOPs against closed forms and against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import dnm


def test_linear_layers_in_closed_form():
    model = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3))
    first, others = 2 * 7 * 6, 2 * (6 * 5 + 5 * 3)
    assert dnm.count(model, torch.randn(9, 7)) == dnm.Cost(
        parameters=(7 + 1) * 6 + 6 * 5 + (5 + 1) * 3,
        forward=first + others,
        # Backward: a product for the weights and one for the inputs, which the first layer does not need.
        training=2 * first + 3 * others,
    )


def test_convolutions_in_closed_form():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 2), dilation=1),
        nn.Flatten(),
        nn.Linear(6 * 16, 2),
    )
    first, second, third = 2 * 64 * 4 * 3 * 9, 2 * 16 * 6 * 4 * 15, 2 * 96 * 2
    cost = dnm.count(model, torch.randn(5, 3, 8, 8))
    assert cost.forward == first + second + third
    assert cost.training == 2 * first + 3 * (second + third)
    assert cost.parameters == (3 * 9 + 1) * 4 + 2 * 4 + (4 * 15 + 1) * 6 + (96 + 1) * 2


@pytest.mark.parametrize("kind", ["conv", "flatten", "linear"])
@pytest.mark.parametrize("divided", [False, True])
def test_equal_to_torchs_counter(build, kind, divided):
    model, inputs = build(kind)
    if divided:
        dnm.apply(model, dnm.Divide("0", (0, 2, 3)), inputs)
    cost = dnm.count(model, inputs)
    model.eval()
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(inputs[:1])
    with FlopCounterMode(display=False) as training:
        model(inputs[:1]).sum().backward()
    assert (cost.forward, cost.training) == (forward.get_total_flops(), training.get_total_flops())
    assert 0 < cost.forward < cost.training


def test_frozen_parameters_are_not_trainable():
    model = nn.Sequential(nn.Linear(7, 6), nn.Linear(6, 5))
    model[0].requires_grad_(False)
    cost = dnm.count(model, torch.randn(2, 7))
    assert cost.parameters == 7 * 5
    assert cost.training == 2 * 7 * 6 + 2 * (2 * 6 * 5)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: {"input": x}])
def test_a_sample_of_any_batch_and_the_model_left_alone(build, photograph, wrap):
    model, inputs = build("conv")
    model(inputs).sum().backward()
    before = photograph(model)
    assert dnm.count(model, wrap(inputs)) == dnm.count(model, wrap(inputs[:3]))
    assert photograph(model) == before
