"""Zeros in place of costly results: shape, type and layout are those of the operation itself."""

from __future__ import annotations

import itertools

import pytest
import torch
import torchvision
from torch import nn

import dnm
from dnm import layers
from dnm.stand_ins import STAND_INS, convolution, product, sum_and_product

CONVOLUTIONS = [
    (num, transposed, groups, stride, dilation, padding, last)
    for num, transposed, groups, stride, dilation, padding, last in itertools.product(
        (1, 2, 3), (False, True), (1, 2), (1, 2), (1, 2), (0, 1), (False, True)
    )
    if not (last and num == 1)
]


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_convolutions(settings):
    num, transposed, groups, stride, dilation, padding, last = settings
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{num}d")
    more = {"output_padding": 1} if transposed and stride > 1 else {}
    layer = kind(4, 6, 3, stride, padding, dilation=dilation, groups=groups, **more)
    data = torch.randn(2, 4, *[7, 8, 9][:num])
    if last:
        layout = {2: torch.channels_last, 3: torch.channels_last_3d}[num]
        layer, data = layer.to(memory_format=layout), data.to(memory_format=layout)
    real = layer(data)
    found = convolution(
        data, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, transposed,
        layer.output_padding, groups, False, False, True,
    )  # fmt: skip
    assert found is not None
    assert (found.shape, found.stride(), found.dtype) == (real.shape, real.stride(), real.dtype)


def test_products():
    first, second, added = torch.randn(3, 4), torch.randn(4, 5), torch.randn(5)
    assert product(first, second).shape == (3, 5)
    assert product(first[None], second[None]).shape == (1, 3, 5)
    assert sum_and_product(added, first, second, beta=2).shape == (3, 5)


@pytest.mark.parametrize(
    "case",
    [
        ("aten::mm", (3, 4), (5, 4)),
        ("aten::bmm", (2, 3, 4), (3, 4, 5)),
        ("aten::addmm", (6,), (3, 4), (4, 5)),
        ("aten::addmm", (2, 3, 5), (3, 4), (4, 5)),
    ],
    ids=str,
)
def test_what_does_not_fit_is_left_to_the_operation(case):
    name, *shapes = case
    tensors = [torch.randn(shape) for shape in shapes]
    assert STAND_INS[name](*tensors) is None
    with pytest.raises(RuntimeError):
        getattr(torch.ops.aten, name.removeprefix("aten::"))(*tensors)


@pytest.mark.parametrize(
    ("data", "weight", "bias"),
    [
        ((1, 3, 8, 8), (4, 2, 3, 3), (4,)),
        ((1, 3, 8, 8), (4, 3, 3, 3), (5,)),
        ((1, 3, 2, 2), (4, 3, 3, 3), (4,)),
        ((1, 3, 8), (4, 3, 3, 3), (4,)),
    ],
)
def test_convolutions_that_do_not_fit(data, weight, bias):
    tensors = [torch.randn(shape) for shape in (data, weight, bias)]
    assert convolution(*tensors, [1, 1], [0, 0], [1, 1], False, [0, 0], 1) is None
    mixed = [torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3, dtype=torch.float64)]
    assert convolution(*mixed, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1) is None


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small", "swin_t", "googlenet"])
def test_the_graph_is_the_same_with_and_without_arithmetic(name, monkeypatch):
    options = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    images = torch.randn(2, 3, 64, 64)
    with dnm.cost.Flops() as spent:
        without = dnm.trace(model, images)
    assert spent.flops == 0
    monkeypatch.setattr(layers, "hooked", lambda model: True)
    with dnm.cost.Flops() as spent:
        assert dnm.trace(model, images) == without
    assert spent.flops > 0


class Chooser(nn.Module):
    """Takes one of two ways by what a layer returned."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.left, self.right, self.last = (nn.Linear(4, 4) for _ in range(4))
        self.how = how
        nn.init.ones_(self.first.bias)
        nn.init.zeros_(self.first.weight)

    def positive(self, found: torch.Tensor) -> bool:
        if self.how == "list":
            return found.tolist()[0][0] > 0
        if self.how == "numpy":
            return bool(found.detach().numpy()[0, 0] > 0)
        if self.how == "mean":
            return bool(found.mean() > 0)
        return len(torch.nonzero(found.mean().reshape(1))) > 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found = self.first(inputs)
        return self.last((self.left if self.positive(found.relu()) else self.right)(found))


@pytest.mark.parametrize("how", ["list", "numpy", "mean", "nonzero"])
def test_a_model_that_looks_at_values_is_given_them(how):
    model = Chooser(how)
    names = [group.name for group in dnm.trace(model, torch.randn(3, 4)).groups if group.divisible]
    assert names == ["first", "left"]


def test_hooks_see_values():
    model, seen = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), []
    inputs = torch.randn(3, 4)
    model[0].register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.clone()))
    dnm.trace(model, inputs)
    assert torch.equal(seen[0], model[0](inputs))
