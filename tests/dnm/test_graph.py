"""Channel groups, where their units stand, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import dnm
from dnm.graph import Member

IMAGES, ROWS = torch.randn(4, 3, 8, 8), torch.randn(4, 6)
OUTPUT = "the model's output width never changes"


def stand(group: dnm.Group) -> set[tuple]:
    """Where a group's units stand, without blocks."""
    return {(member.tensor, member.dimension, member.reads) for member in group.members}


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
    groups = dnm.trace(model, IMAGES).groups
    found = [(group.name, group.width, group.divisible, group.reason) for group in groups]
    assert found == [("0", 4, True, ""), ("3", 8, True, ""), ("9", 10, True, ""), ("11", 2, False, OUTPUT)]
    norm = ("weight", "bias", "running_mean", "running_var")
    assert stand(groups[0]) == {
        ("0.weight", 0, False), ("0.bias", 0, False), ("3.weight", 1, True),
        *((f"1.{name}", 0, False) for name in norm),
    }  # fmt: skip
    assert stand(groups[1]) == {
        ("3.weight", 0, False), ("3.bias", 0, False), ("9.weight", 1, True),
        *((f"{layer}.{name}", 0, False) for layer in (5, 7) for name in norm),
    }  # fmt: skip
    # Behind the flatten a channel owns 4 x 4 columns.
    assert Member("9.weight", 1, True, (0,), 16) in groups[1].members
    assert stand(groups[2]) == {("9.weight", 0, False), ("9.bias", 0, False), ("11.weight", 1, True)}
    assert not any(group.uniform for group in groups) and all(group.exact_in_train for group in groups)


def test_nested_sequentials_are_one_chain():
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    model = nn.Sequential()
    model.add_module("stem", block)
    model.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    graph = dnm.trace(model, IMAGES)
    assert [group.name for group in graph.groups] == ["stem.0", "head.2"]
    assert ("stem.1.0.running_var", 0, False) in stand(graph.groups[0])
    assert dnm.apply(model, dnm.Divide("stem.0", (1,)), IMAGES).train_difference < 1e-6
    assert model.get_submodule("head.2").in_features == 5


class Concatenated(nn.Module):
    """Two branches side by side, then the first again."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(6, 3), nn.Linear(6, 2), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = self.left(x).tanh()
        return self.last(torch.cat([left, self.right(x), left], 1))


def test_blocks_behind_a_concatenation():
    left, right, _ = dnm.trace(Concatenated(), ROWS).groups
    assert Member("last.weight", 1, True, (0, 5), 1) in left.members
    assert Member("last.weight", 1, True, (3,), 1) in right.members


def test_a_group_that_does_not_exist_is_named_with_those_that_do():
    graph = dnm.trace(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)), ROWS)
    with pytest.raises(dnm.EditError, match="group 'head' does not exist; the groups of this model are: 0, 1"):
        graph.group("head")


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.Dropout2d])
def test_a_division_under_dropout_is_exact_in_eval_mode_alone(dropout):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), dropout(0.2), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 2))
    first, second, _ = dnm.trace(model, IMAGES).groups
    assert (first.divisible, first.exact_in_train) == (True, False)
    assert (second.divisible, second.exact_in_train) == (True, True)
    applied = dnm.apply(model, dnm.Divide("0", (0,)), IMAGES)
    assert applied.eval_difference < 1e-6
    # Not promised, so not looked at.
    assert applied.train_difference == 0.0


def test_dropout_of_the_input_or_of_rate_zero_concerns_no_group():
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 4), nn.Dropout(0.0), nn.Linear(4, 2))
    assert dnm.trace(model, ROWS).groups[0].exact_in_train


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return self.inner(x)


def used_twice() -> nn.Sequential:
    layer = nn.ReLU()
    return nn.Sequential(nn.Linear(6, 6), layer, nn.Linear(6, 6), layer)


def applied_twice() -> nn.Sequential:
    layer = nn.Linear(6, 6)
    return nn.Sequential(nn.Linear(6, 6), nn.Sequential(layer), nn.ReLU(), nn.Sequential(layer), nn.Linear(6, 2))


NOW_READ = {
    "layer with own weights": (lambda: nn.Sequential(nn.Linear(6, 4), nn.PReLU(4), nn.Linear(4, 2)), ROWS, 4),
    "own module": (lambda: nn.Sequential(Own(), nn.Linear(6, 2)), ROWS, 6),
    "module used twice": (used_twice, ROWS, 6),
    "layer applied twice": (applied_twice, ROWS, 6),
    "layer norm": (lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 2)), ROWS, 4),
    "partial flatten": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)
        ),
        IMAGES,
        4,
    ),
}


@pytest.mark.parametrize("case", NOW_READ)
def test_first_group_is_divisible(case):
    make, inputs, width = NOW_READ[case]
    torch.manual_seed(0)
    model, inputs = make().double(), inputs.double()
    group = dnm.trace(model, inputs).groups[0]
    assert (group.width, group.divisible, group.reason) == (width, True, "")
    units = tuple(range(width)) if group.uniform else (1,)
    applied = dnm.apply(model, dnm.Divide(group.name, units), inputs)
    assert max(applied.eval_difference, applied.train_difference) < 1e-9
    assert dnm.trace(model, inputs).groups[0].width == width + len(units)


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    return model


NOT_DIVISIBLE = {
    "softmax": (lambda: nn.Sequential(nn.Linear(6, 4), nn.Softmax(1), nn.Linear(4, 2)), ROWS, "_softmax in 1 .* along"),
    "tied": (tied, ROWS, OUTPUT),
    "bare layer": (lambda: nn.Linear(6, 4), ROWS, OUTPUT),
    "fixed view": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Unflatten(1, (4, 1)), nn.Flatten(), nn.Linear(4, 2)),
        ROWS,
        "the model's code holds their number fixed",
    ),
    "not read": (lambda: nn.Sequential(nn.Linear(6, 4), nn.Flatten()), ROWS, OUTPUT),
}


@pytest.mark.parametrize("case", NOT_DIVISIBLE)
def test_reasons(photograph, case):
    make, inputs, reason = NOT_DIVISIBLE[case]
    model = make()
    group = dnm.trace(model, inputs).groups[0]
    assert not group.divisible
    before = photograph(model)
    for edit, verb in ((dnm.Divide(group.name, (0,)), "divided"), (dnm.Prune(group.name, (0,)), "pruned")):
        with pytest.raises(dnm.EditError, match=f"group '{group.name}' cannot be {verb}: .*{reason}"):
            dnm.apply(model, edit, inputs)
    assert photograph(model) == before


REFUSED = {
    "parametrized": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 4)), nn.Linear(4, 2)),
        ROWS,
        "0",
    ),
    "does not run": (
        lambda: nn.Sequential(nn.Linear(7, 4), nn.Linear(4, 2)),
        ROWS,
        "Sequential does not run on the example inputs in eval mode: .*shapes cannot be multiplied",
    ),
    "too many arguments": (lambda: nn.Sequential(nn.Linear(6, 4)), (ROWS, ROWS), "does not run on the example inputs"),
    "unknown operation": (
        lambda: nn.Sequential(nn.Linear(6, 4), Bessel(), nn.Linear(4, 2)),
        ROWS,
        r"aten::special_bessel_j0 in 1 \(Bessel\) is not known: .*dnm.register_rule",
    ),
}


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


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
