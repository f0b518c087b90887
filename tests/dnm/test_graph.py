"""Channel groups of sequential networks, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import dnm

IMAGES, ROWS = torch.randn(4, 3, 8, 8), torch.randn(4, 6)


def test_groups_of_a_network():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(8 * 16, 10),
        nn.SiLU(),
        nn.Linear(10, 2),
        nn.Sigmoid(),
    )
    assert dnm.trace(model, IMAGES).groups == (
        dnm.Group("0", 4, True, "", ("1",), "3", 1),
        dnm.Group("3", 8, True, "", ("5", "7"), "9", 16),
        dnm.Group("9", 10, True, "", (), "11", 1),
        dnm.Group("11", 2, False, "the model's output width never changes", (), "", 1),
    )


def test_nested_sequentials_are_one_chain():
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    model = nn.Sequential()
    model.add_module("stem", block)
    model.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    graph = dnm.trace(model, IMAGES)
    assert graph.groups[0] == dnm.Group("stem.0", 4, True, "", ("stem.1.0",), "head.2", 1)
    assert [group.name for group in graph.groups] == ["stem.0", "head.2"]
    assert dnm.apply(model, dnm.Divide("stem.0", (1,)), IMAGES).train_difference < 1e-6
    assert model.get_submodule("head.2").in_features == 5


def test_a_group_that_does_not_exist_is_named_with_those_that_do():
    graph = dnm.trace(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)), ROWS)
    with pytest.raises(dnm.EditError, match="group 'head' does not exist; the groups of this model are: 0, 1"):
        graph.group("head")


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.Dropout2d])
def test_dropout_between_twins_is_not_divisible(dropout):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), dropout(0.2), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 2))
    first, second, _ = dnm.trace(model, IMAGES).groups
    assert (first.divisible, first.reason) == (False, "dropout 1 masks twins differently in train mode")
    assert (second.divisible, second.reason) == (True, "")
    with pytest.raises(dnm.EditError, match="group '0' cannot be divided: dropout 1 masks"):
        dnm.apply(model, dnm.Divide("0", (0,)), IMAGES)


def test_dropout_of_the_input_concerns_no_group():
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 4), nn.Linear(4, 2))
    assert dnm.trace(model, ROWS).groups[0].divisible


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return self.inner(x)


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    return model


def used_twice() -> nn.Sequential:
    layer = nn.ReLU()
    return nn.Sequential(nn.Linear(6, 6), layer, nn.Linear(6, 6), layer)


def used_in_two_blocks() -> nn.Sequential:
    layer = nn.Linear(6, 6)
    return nn.Sequential(nn.Sequential(layer), nn.Sequential(layer))


REFUSED = {
    "unknown layer": (lambda: nn.Sequential(nn.Linear(6, 4), nn.PReLU(4)), ROWS, "1 is a PReLU, which is not known"),
    "layer norm": (lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4)), ROWS, "1 is a LayerNorm, which is not"),
    "softmax": (lambda: nn.Sequential(nn.Linear(6, 4), nn.Softmax(1)), ROWS, "1 is a Softmax, which is not known"),
    "own module": (Own, ROWS, "the model is a Own, expected nn.Sequential"),
    "bare layer": (lambda: nn.Linear(6, 4), ROWS, "the model is a Linear, expected nn.Sequential"),
    "nested own module": (lambda: nn.Sequential(nn.Sequential(Own())), ROWS, "0.0 is a Own, expected nn.Sequential"),
    "module used twice": (used_twice, ROWS, "the model uses one module twice"),
    "module used in two blocks": (used_in_two_blocks, ROWS, "1.0.weight is the same parameter as 0.0.weight"),
    "tied": (tied, ROWS, "2.weight is the same parameter as 0.weight; tied weights"),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(3, 3, 3, groups=3)), IMAGES, "0 is a Conv2d with groups=3"),
    "linear on maps": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(6, 2)),
        IMAGES,
        r"1 \(Linear\) reads feature maps; put an nn.Flatten\(\) before it",
    ),
    "conv on features": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Conv2d(4, 4, 1)),
        IMAGES,
        r"2 \(Conv2d\) reads flattened features",
    ),
    "width that does not fit": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Linear(5, 2)),
        ROWS,
        "1 reads 5 features, expected a multiple of 0's 4 channels",
    ),
    "norm that does not fit": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(5)),
        ROWS,
        r"1 \(BatchNorm1d\) normalises 5 features of 4 channels of 0",
    ),
    "norm of the input": (
        lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4)),
        ROWS,
        r"0 \(BatchNorm1d\) normalises 6 features of the model's input",
    ),
    "partial flatten": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Linear(36, 2)),
        IMAGES,
        "1 flattens dimensions 2..-1, expected 1..-1",
    ),
    "parametrized": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 4)), nn.Linear(4, 2)),
        ROWS,
        "0 .*ParametrizedLinear",
    ),
    "does not run": (
        lambda: nn.Sequential(nn.Linear(7, 4), nn.Linear(4, 2)),
        ROWS,
        "Sequential does not run on the example inputs: .*shapes cannot be multiplied",
    ),
    "too many arguments": (lambda: nn.Sequential(nn.Linear(6, 4)), (ROWS, ROWS), "does not run on the example inputs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_and_left_as_found(photograph, case):
    make, inputs, message = REFUSED[case]
    model = make()
    before = photograph(model)
    with pytest.raises(dnm.GraphError, match=message):
        dnm.trace(model, inputs)
    assert photograph(model) == before


def test_the_model_is_left_as_found(build, photograph):
    model, inputs = build("conv")
    model.train()
    model[1].eval()
    model(inputs).sum().backward()
    before = photograph(model)
    assert dnm.trace(model, inputs) == dnm.trace(model, {"input": inputs}) == dnm.trace(model, (inputs,))
    assert photograph(model) == before
