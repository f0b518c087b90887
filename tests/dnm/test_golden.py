"""Golden trace of a tiny growth run: a change that is meant to keep results must keep these figures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dnm

# Obtained by running it; no random numbers but those of the new units.
LOSSES = [0.920497, 0.651856, 0.486009, 0.402579, 0.356667, 0.332706, 0.321671, 0.315811]
WIDTHS = [(4, 6)] * 2 + [(6, 8)] * 3 + [(8, 8)] * 3
UNITS = [("0", [3, 1]), ("5", [1, 3]), ("0", [3, 0])]
FLOPS = 549544
GAINS = [0.02535169, 0.007570635, 0.004478585, 0.002663707]
# Of the first candidate.
COVARIATES = {
    "information": -0.363464, "tangent": 0.0, "manifold": -0.6274997, "expressivity": -0.6572635, "gradient": 0.5402789,
}  # fmt: skip


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
    policy = dnm.Policy(
        event_times=(0.3, 0.7),
        max_edits_per_event=2,
        added_fraction=0.3,
        samples_per_parameter=1e-3,
        max_parameters=400,
        rollback=False,
        seed=1,
    )

    def loss() -> torch.Tensor:
        return (model(inputs) - targets).square().mean()

    engine = dnm.Morphogenesis(model, optimizer, inputs, loss, budget=dnm.Budget(steps=8), policy=policy)
    losses, widths = [], []
    for _ in range(8):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        engine.after_step(value, len(inputs))
        losses.append(value.item())
        widths.append((model[0].out_channels, model[5].out_features))
    assert widths == WIDTHS
    assert [(entry["group"], entry["units"]) for entry in engine.journal] == UNITS
    assert engine.flops == FLOPS
    assert losses == pytest.approx(LOSSES, rel=2e-6)
    assert [row.gain.value for event in engine.events for row in event.rows] == pytest.approx(GAINS, rel=2e-6)
    assert engine.events[0].rows[0].covariates == pytest.approx(COVARIATES, rel=2e-6)
