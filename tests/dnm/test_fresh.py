"""Units that are no copies: GradMax directions and the statistics of their norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dnm


def slope(model: nn.Module, loss, reader: str, num: int) -> torch.Tensor:
    """Loss gradient of the outgoing weights of the last units."""
    model.zero_grad()
    loss().backward()
    return model.get_submodule(reader).weight.grad[:, -num:]


@pytest.fixture
def chain():
    """Without an activation the linearisation is exact."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 3)).double()
    inputs, labels = torch.randn(50, 6).double(), torch.randint(3, (50,))
    return model, inputs, lambda: nn.functional.cross_entropy(model(inputs), labels)


def test_gradmax_gets_the_largest_singular_values(chain):
    model, inputs, loss = chain
    outputs = model(inputs)
    (above,) = _gradient(model, loss)
    values = torch.linalg.svdvals(above.t() @ inputs)
    norm = model[0].weight.detach().norm(dim=1).mean()
    dnm.apply(model, dnm.Divide("0", (0, 1), fill="gradmax"), inputs, loss=loss)
    assert torch.allclose(model(inputs), outputs, atol=1e-12)
    found = slope(model, loss, "1", 2).norm(dim=0)
    assert torch.allclose(found, values[:2] * norm, rtol=1e-9)


def _gradient(model, loss):
    kept = {}
    hook = model[1].register_forward_hook(lambda module, given, output: kept.update(output=output))
    value = loss()
    hook.remove()
    return torch.autograd.grad(value, [kept["output"]])


def test_no_random_direction_does_better(chain):
    model, inputs, loss = chain
    dnm.apply(model, dnm.Divide("0", (0,), fill="gradmax"), inputs, loss=loss)
    best = slope(model, loss, "1", 1).norm()
    size = model[0].weight.detach()[-1].norm()
    with torch.no_grad():
        for seed in range(100):
            row = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            model[0].weight[-1] = row / row.norm() * size
            with torch.enable_grad():
                assert slope(model, loss, "1", 1).norm() < best


@pytest.mark.parametrize("pool", [False, True])
def test_gradmax_of_convolutions(pool):
    torch.manual_seed(0)
    middle = [nn.AvgPool2d(2)] if pool else [nn.Identity()]
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), *middle, nn.Conv2d(4, 3, 3, stride=2, bias=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).double()  # fmt: skip
    inputs, labels = torch.randn(30, 2, 12, 12).double(), torch.randint(3, (30,))

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(inputs), labels)

    slopes = {}
    for fill in ("gradmax", "zero"):
        applied = dnm.apply(model, dnm.Divide("0", (0,), fill=fill), inputs, loss=loss)
        row = model[0].weight.detach()[-1]
        slopes[fill] = (slope(model, loss, "2", 1).norm() / row.norm()).item()
        model.zero_grad()
        applied.undo()
    # Exact without pooling; with it the position that stands for the others still tells a good direction.
    assert slopes["gradmax"] > slopes["zero"]


def test_gradmax_says_what_it_needs(chain):
    model, inputs, loss = chain
    with pytest.raises(dnm.EditError, match=r"needs the loss: pass dnm.apply\(..., loss="):
        dnm.apply(model, dnm.Divide("0", (0,), fill="gradmax"), inputs)
    with pytest.raises(dnm.EditError, match="point in 2 directions, fewer than the 4 new units"):
        dnm.apply(model, dnm.Divide("0", (0, 1, 2, 3), fill="gradmax"), inputs, loss=loss)


@pytest.mark.parametrize("fill", ["zero", "pair"])
def test_new_channels_get_the_statistics_of_the_batch(fill):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten()
    ).double()
    inputs = 3.0 * torch.randn(20, 2, 6, 6).double() + 1.0
    old = model[1].running_mean.clone(), model[1].running_var.clone()
    dnm.apply(model, dnm.Divide("0", (0, 1), fill=fill), inputs)
    made = model[0](inputs)[:, 4:]
    assert torch.allclose(model[1].running_mean[4:], made.mean((0, 2, 3)), rtol=1e-9)
    assert torch.allclose(model[1].running_var[4:], made.var((0, 2, 3)), rtol=1e-9)
    assert torch.equal(model[1].running_mean[:4], old[0]) and torch.equal(model[1].running_var[:4], old[1])
    assert model[1].momentum == 0.3 and model[1].num_batches_tracked == 0


def test_the_units_of_a_pair_cancel():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs = torch.randn(10, 5).double()
    dnm.apply(model, dnm.Divide("0", (0, 3), fill="pair"), inputs)
    assert torch.equal(model[0].weight[4], model[0].weight[5]) and torch.equal(model[0].bias[4], model[0].bias[5])
    assert torch.equal(model[2].weight[:, 4], -model[2].weight[:, 5])
    assert model[2].weight[:, 4].abs().min() > 0
