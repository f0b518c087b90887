"""Golden trace of a tiny growth run: a change that is meant to keep results must keep these figures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dnm

# Obtained by running it; no random numbers but those of the twins.
LOSSES = [0.920497, 0.651856, 0.486009, 0.402579, 0.348498, 0.327921, 0.309595, 0.311038]
WIDTHS = [(4, 6)] * 2 + [(6, 8)] * 3 + [(6, 10)] * 3
UNITS = [("0", [3, 1]), ("5", [1, 3]), ("5", [1, 6])]
FLOPS = 157120


def test_growth_run():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.Tanh(),
        nn.Linear(6, 2),
    ).double()
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() > 1:
                ramp = torch.arange(parameter.numel(), dtype=torch.float64)
                parameter.copy_((0.5 * torch.sin(1.7 * ramp + number)).view_as(parameter))
    ramp = torch.arange(8 * 16, dtype=torch.float64)
    inputs, targets = torch.cos(0.37 * ramp.square()).view(8, 1, 4, 4), torch.sin(ramp[:16]).view(8, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    growth = dnm.Growth((3, 6), 2, 0.3, max_parameters=400, max_training_flops=10**6, seed=1)
    engine = dnm.Morphogenesis(model, growth, inputs, optimizer)

    def loss() -> torch.Tensor:
        return (model(inputs) - targets).square().mean()

    losses, widths = [], []
    for _ in range(8):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        engine.step(loss)
        losses.append(value.item())
        widths.append((model[0].out_channels, model[5].out_features))
    assert widths == WIDTHS
    assert [(entry["group"], entry["units"]) for entry in engine.journal] == UNITS
    assert engine.flops == FLOPS
    assert losses == pytest.approx(LOSSES, rel=2e-6)
