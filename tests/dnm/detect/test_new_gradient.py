"""The gradient of weights that edits would add, against the gradient of a model in which each was taken alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dnm import AddAttention, AddResidual, Connect, Divide, apply, trace
from dnm.detect.new_gradient import new_gradients
from dnm.edits import Edit


class Branches(nn.Module):
    """Two layers side by side, both read by the next two."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 4, 3, padding=1)
        self.right = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.body = nn.Sequential(nn.Conv2d(10, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(18, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x).tanh(), self.right(x).relu()], 1)
        return self.head(torch.cat([self.body(both), both], 1).mean((2, 3)))


def made(kind: Callable[[], nn.Module] = Branches) -> tuple[nn.Module, Tensor, Callable[[nn.Module], Tensor]]:
    torch.manual_seed(0)
    model, inputs, labels = kind().double(), torch.randn(16, 2, 6, 6, dtype=torch.float64), torch.arange(16) % 3
    return model, inputs, lambda of: nn.functional.cross_entropy(of(inputs), labels)


def norm(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> float:
    model.train()
    return sum(g.abs().sum().item() for g in torch.autograd.grad(loss(model), list(model.parameters())))


def alone(edit: Edit, kind: Callable[[], nn.Module] = Branches) -> float:
    model, inputs, loss = made(kind)
    without = norm(model, loss)
    apply(model, edit, inputs)
    return norm(model, loss) / without - 1.0


def test_each_figure_is_that_of_the_edit_taken_alone() -> None:
    model, inputs, loss = made()
    # Of two layers side by side neither reads the other: what each one's new units weigh is drawn as if it were alone.
    edits = [
        Divide("right.0", (0, 5), fill="zero"),
        Divide("left", (1, 2, 3), fill="zero", seed=1),
        AddResidual("body.1", width=3, seed=2),
        AddAttention("body.1", reduction=2, seed=3),
        AddAttention("body.3", reduction=4, seed=4),
        Connect("body.0", "body.2"),
    ]
    found = new_gradients(model, trace(model, inputs), edits, lambda: loss(model), inputs)
    for edit, figure in zip(edits, found, strict=True):
        assert figure is not None and math.isnan(figure.standard_error)
        assert figure.value == pytest.approx(alone(edit), rel=1e-6), edit


def test_divisions_are_measured_as_units_without_output() -> None:
    model, inputs, loss = made()
    zero = Divide("left", (0, 1), fill="zero")
    for fill in ("twin", "pair", "gradmax"):
        edits = [Divide("left", (0, 1), fill=fill)]
        (found,) = new_gradients(model, trace(model, inputs), edits, lambda: loss(model), inputs)
        assert found is not None and found.value == pytest.approx(alone(zero), rel=1e-6)


def test_units_that_a_norm_is_taken_over_are_measured_as_twins() -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.LayerNorm(4), nn.Linear(4, 3))

    model, inputs, loss = made(network)
    edit = Divide("1", (0, 1, 2, 3), spread=0.0)
    (found,) = new_gradients(model, trace(model, inputs), [edit], lambda: loss(model), inputs)
    # Each twin's incoming weights and norm have half of the unit's gradient, its outgoing ones all of it.
    parameters = dict(model.named_parameters())
    gradients = dict(zip(parameters, torch.autograd.grad(loss(model), list(parameters.values())), strict=True))
    sizes = {name: gradient.abs().sum().item() for name, gradient in gradients.items()}
    assert found is not None
    new = 0.5 * (sum(sizes.values()) - sizes["3.weight"] - sizes["3.bias"]) + sizes["3.weight"]
    assert found.value == pytest.approx(new / (sizes["3.bias"] + new), rel=1e-6)


def test_the_model_is_left_as_found() -> None:
    model, inputs, loss = made()
    loss(model).backward()
    model.eval()
    before, modules = copy.deepcopy(model.state_dict()), [name for name, _ in model.named_modules()]
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    parameters, state = dict(model.named_parameters()), torch.get_rng_state()
    edits = [Divide("left", (0,)), AddResidual("body.1"), Connect("body.0", "body.2"), AddAttention("nowhere")]
    found = new_gradients(model, trace(model, inputs), edits, lambda: loss(model), inputs)
    assert found[3] is None and None not in found[:3]

    def refused() -> Tensor:
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        new_gradients(model, trace(model, inputs), edits, refused, inputs)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], value) for name, value in before.items())
    assert [name for name, _ in model.named_modules()] == modules
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert all(parameter.grad is gradients[name] for name, parameter in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), state) and not any(module.training for module in model.modules())


def test_a_part_that_the_loss_does_not_ask_for_has_none() -> None:
    class Half(Branches):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([super().forward(x)[:, :1] * 0.0, torch.ones(len(x), 17).to(x)], 1))

    model, inputs, loss = made(Half)
    found = new_gradients(model, trace(model, inputs), [AddResidual("body.1")], lambda: loss(model), inputs)
    assert found[0] is not None and found[0].value == 0.0
