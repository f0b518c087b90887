"""Predicted loss change of removing units, against masks and per-sample gradients taken by hand."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

import dnm


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6 * 4, 3)

    def forward(self, x, mask=None):
        x = torch.relu(self.norm(self.stem(x)))
        if mask is not None:
            x = x * mask[:, :, None, None]
        x = x + torch.tanh(self.inner(x)) * (1.0 if mask is None else mask[:, :, None, None])
        return self.head(nn.functional.max_pool2d(x, 4).flatten(1))


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = Residual().double()
    inputs, labels = torch.randn(40, 2, 8, 8).double(), torch.randint(3, (40,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model, inputs, labels


def test_agrees_with_per_sample_gradients_of_a_mask(problem):
    model, inputs, labels = problem
    predicted = dnm.unit_importance(
        model, dnm.trace(model, inputs), lambda: nn.functional.cross_entropy(model(inputs), labels)
    )
    model.eval()
    # The stream is masked where it is made: behind the stem's activation and in what the inner layer adds.
    slopes = []
    for image, label in zip(inputs, labels, strict=True):
        mask = torch.ones(1, 6, dtype=torch.float64, requires_grad=True)
        loss = nn.functional.cross_entropy(model(image[None], mask), label[None])
        slopes.append(torch.autograd.grad(loss, mask)[0][0])
    slope = torch.stack(slopes)
    expected = -slope.mean(0) + 0.5 * slope.square().mean(0)
    assert predicted["stem"].shape == (6,)
    assert torch.allclose(predicted["stem"], expected, rtol=1e-9)


def test_orders_units_as_removing_them_does():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 24), nn.Tanh(), nn.Linear(24, 4)).double()
    inputs, labels = torch.randn(200, 5).double(), torch.randint(4, (200,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(inputs), labels)

    for _ in range(60):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    predicted = dnm.unit_importance(model, dnm.trace(model, inputs), loss)["0"]
    base, realised = loss().item(), []
    with torch.no_grad():
        for unit in range(24):
            column = model[2].weight[:, unit].clone()
            model[2].weight[:, unit] = 0.0
            realised.append(loss().item() - base)
            model[2].weight[:, unit] = column
    assert spearmanr(predicted.tolist(), realised).statistic > 0.8


def test_leaves_the_model_as_found(problem):
    model, inputs, labels = problem
    model.train()
    model.zero_grad()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dnm.unit_importance(model, dnm.trace(model, inputs), lambda: nn.functional.cross_entropy(model(inputs), labels))
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_loss_per_sample_is_refused(problem):
    model, inputs, labels = problem
    with pytest.raises(dnm.GraphError, match=r"the loss has shape \(40,\), expected a scalar"):
        dnm.unit_importance(
            model,
            dnm.trace(model, inputs),
            lambda: nn.functional.cross_entropy(model(inputs), labels, reduction="none"),
        )
