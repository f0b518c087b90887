"""What could be done and what is chosen: sizes, limits, gain per cost, budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from dnm import AddAttention, AddResidual, Connect, Divide, apply, count, trace
from dnm.calibration import Calibration, Terms
from dnm.choice import Candidate, candidates, choose, with_new_gradients
from dnm.cost import Cost, Work
from dnm.detect import probe
from dnm.detect.estimates import Estimate
from dnm.detect.new_gradient import new_gradients
from dnm.edits import Edit
from dnm.events import Row
from dnm.policy import OPERATORS, Outlook, Policy
from dnm.sandbox import Sandbox


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 5, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def model_and_batch() -> tuple[Network, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return Network(), torch.randn(12, 2, 6, 6), torch.arange(12) % 3


def found(policy: Policy, model: nn.Module | None = None) -> list[Candidate]:
    other, inputs, labels = model_and_batch()
    model = model or other
    seen = probe.look(model, lambda: nn.functional.cross_entropy(model(inputs), labels))
    graph = trace(model, inputs)
    sandbox = Sandbox(model, graph, inputs)
    return candidates(model, graph, seen, {}, inputs, sandbox, count(model, inputs), policy)


def work(model: nn.Module, inputs: torch.Tensor) -> Work:
    cost = count(model, inputs)
    return Work(cost.parameters, cost.forward, cost.training)


def test_every_operator_has_its_places() -> None:
    _, inputs, _ = model_and_batch()
    edits = [item.edit for item in found(Policy(operators=OPERATORS, theories=()))]
    assert [edit.group for edit in edits if isinstance(edit, Divide)] == ["stem.0", "body.0", "body.3"]
    # Behind norm and activation; the logits are a place as well.
    assert [edit.at for edit in edits if isinstance(edit, AddResidual)] == ["stem.2", "body.2", "body.4", "head"]
    assert [edit.at for edit in edits if isinstance(edit, AddAttention)] == ["stem.2", "body.2", "body.4"]
    assert [(edit.source, edit.target) for edit in edits if isinstance(edit, Connect)] == [
        ("stem.0", "stem.1"),
        ("body.0", "body.3"),
    ]
    for edit in edits:
        apply(model_and_batch()[0], edit, inputs)


def test_what_was_inserted_is_one_module_and_is_not_gated_twice() -> None:
    model, inputs, _ = model_and_batch()
    apply(model, AddResidual("body.2"), inputs)
    apply(model, AddAttention("stem.2"), inputs)
    edits = [item.edit for item in found(Policy(operators=("AddResidual", "AddAttention"), theories=()), model)]
    assert [edit.at for edit in edits if isinstance(edit, AddResidual)] == ["stem.2", "body.2", "body.4", "head"]
    assert [edit.at for edit in edits if isinstance(edit, AddAttention)] == ["body.2", "body.4"]


def test_what_a_candidate_adds_is_what_applying_it_adds() -> None:
    policy = Policy(operators=OPERATORS, theories=())
    for item in found(policy):
        model, inputs, _ = model_and_batch()
        before = count(model, inputs)
        apply(model, item.edit, inputs)
        after = count(model, inputs)
        assert after.parameters - before.parameters == item.added_parameters
        assert after.training - before.training == item.added_flops
        assert item.tried_flops == after.training


def test_how_much_larger_a_candidate_makes_the_network() -> None:
    items = found(Policy(operators=OPERATORS, theories=(), added_fraction=1.0, multiple=1))
    # Every width twice as large is four times the weights, whatever each of the layers costs.
    divisions = [item.terms.growth for item in items if isinstance(item.edit, Divide)]
    assert divisions == pytest.approx([math.log(4.0) / 3.0] * 3)
    # Behind three layers of units a branch is a fourth.
    insertions = [item.terms.growth for item in items if not isinstance(item.edit, Divide)]
    assert insertions == pytest.approx([math.log(4.0 / 3.0)] * len(insertions))


def test_growth_is_measured_in_gradient_as_well() -> None:
    model, inputs, labels = model_and_batch()
    items = found(Policy(operators=OPERATORS, theories=()), model)

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(inputs), labels)

    edits, graph = [item.edit for item in items], trace(model, inputs)
    measured = new_gradients(model, graph, edits, loss, inputs)
    for old, new, figure in zip(items, with_new_gradients(items, model, graph, loss, inputs), measured, strict=True):
        # A connection within a group that is drawn on no more has none.
        if figure is None:
            assert new == old
            continue
        assert new.figures == {**old.figures, "new_gradient": figure}
        assert new.terms == replace(old.terms, growth=pytest.approx(math.sqrt(old.terms.growth * figure.value)))


def test_sizes_of_divisions() -> None:
    def added(**changes: Any) -> list[int]:
        items = found(Policy(theories=(), **changes))
        return [len(item.edit.units) for item in items if isinstance(item.edit, Divide)]

    # A quarter in whole multiples, of at least one: of 4 in groups of at least 16, of 2 in smaller ones.
    assert added() == [2, 4, 2]
    assert added(enable_aggressive_growth=True) == [4, 8, 2]
    assert added(added_fraction=1.0) == [8, 16, 4]
    assert added(multiple=2) == [2, 4, 2] and added(multiple=1) == [2, 4, 1]
    assert added(multiple=1, added_fraction=0.1) == [1, 2, 1]
    # The largest that a limit allows.
    model, inputs, _ = model_and_batch()
    parameters = count(model, inputs).parameters
    assert added(added_fraction=1.0, max_parameters=parameters + 700) == [4, 4, 4]


def test_the_units_with_the_largest_gradients_are_divided() -> None:
    model, inputs, labels = model_and_batch()
    model.eval()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    norms = model.get_parameter("body.0.weight").grad.flatten(1).norm(dim=1)  # pyright: ignore[reportOptionalMemberAccess]
    edit = found(Policy(theories=()))[1].edit
    assert isinstance(edit, Divide)
    assert list(edit.units) == norms.argsort(descending=True)[:4].tolist()


def candidate(name: str, growth: float, parameters: int, flops: int, score: float = 0.0) -> Candidate:
    terms = Terms("Divide", growth, {"gradient": score})
    return Candidate(Divide(name, (0,)), name, {}, terms, parameters, flops, 0)


COST = Cost(parameters=1000, forward=1000, training=3000, activation_memory=0)
OUTLOOK = Outlook(samples=1000, remaining_samples=100_000.0, priced=True, loss=1.0)


def summed(items: list[Candidate]) -> Callable[[Sequence[Edit]], Cost]:
    """What several candidates cost that do not meet in any layer."""
    sizes = {id(item.edit): (item.added_parameters, item.added_flops) for item in items}

    def together(edits: Sequence[Edit]) -> Cost:
        parameters, flops = (sum(sizes[id(edit)][which] for edit in edits) for which in (0, 1))
        return replace(COST, parameters=COST.parameters + parameters, training=COST.training + flops)

    return together


def chosen(
    items: list[Candidate], policy: Policy, outlook: Outlook = OUTLOOK, together: Any = None, **options: Any
) -> tuple[list[str], dict]:
    calibration = Calibration(("Divide",), policy.theories)
    taken, rows, after = choose(items, COST, together or summed(items), outlook, calibration, policy, **options)
    if together is None:
        assert after == summed(items)([item.edit for item in taken])
    assert [row.place for row in rows] == [item.place for item in items]
    assert {row.place for row in rows if row.taken} == {item.place for item in taken}
    return [item.place for item in taken], {row.place: row for row in rows}


def test_the_largest_net_gain_comes_first() -> None:
    items = [candidate("dear", 0.30, 100, 300), candidate("cheap", 0.05, 100, 0), candidate("none", 0.0, 100, 0)]
    assert chosen(items, Policy())[0] == ["dear"]
    taken, rows = chosen(items, Policy(max_edits_per_event=3))
    assert taken == ["dear", "cheap"] and "costs more than it gains" in rows["none"].reason
    net = {name: row.gain.value - row.price for name, row in rows.items()}
    assert net["dear"] > net["cheap"] > 0.0
    # Of two alike the one that costs less.
    items = [candidate("more", 0.1, 100, 151), candidate("less", 0.1, 100, 150)]
    assert chosen(items, Policy())[0] == ["less"]


def test_the_most_gain_for_what_is_scarce_comes_first() -> None:
    items = [candidate("dear", 0.10, 100, 900), candidate("cheap", 0.06, 100, 300), candidate("same", 0.06, 100, 301)]
    free = replace(OUTLOOK, priced=False)
    # One edit or two: they are what is scarce.
    assert chosen(items, Policy(), free)[0] == ["dear"]
    # Many edits, and room for some of them: gain per FLOP, or per parameter.
    many = {"max_edits_per_event": 8}
    assert chosen(items, Policy(**many), free)[0] == ["dear", "cheap", "same"]
    assert chosen(items, Policy(**many, max_training_flops=COST.training + 950), free)[0] == ["cheap", "same"]
    heavy = [candidate("dear", 0.10, 900, 100), *items[1:]]
    assert chosen(heavy, Policy(**many, max_parameters=COST.parameters + 950), free)[0] == ["cheap", "same"]
    # A trifle is not worth one of few edits however cheap it is.
    items = [candidate("trifle", 1e-5, 1, 0), candidate("real", 0.1, 100, 300)]
    assert chosen(items, Policy(max_training_flops=COST.training + 400), free)[0] == ["real"]


def test_no_edit_wins_where_little_is_left() -> None:
    items = [candidate("only", 0.1, 100, 300)]
    taken, rows = chosen(items, Policy())
    assert taken == ["only"] and rows["only"].gain.value > rows["only"].price
    # 1,100 parameters at 14.9 samples each are in balance with the 16,364 samples that come at 1.1 times the cost.
    late = Outlook(samples=80_000, remaining_samples=18_000.0, priced=True, loss=1.0)
    large = Policy(samples_per_parameter=1000.0)
    assert chosen(items, Policy(samples_per_parameter=14.0), late)[0] == ["only"]
    for outlook, policy in ((late, Policy(samples_per_parameter=16.0)), (OUTLOOK, large)):
        taken, rows = chosen(items, policy, outlook)
        assert not taken and "costs more than it gains" in rows["only"].reason
        assert rows["only"].gain.value <= rows["only"].price


def test_limits_hold_for_all_edits_of_an_event_together() -> None:
    items = [candidate(name, 0.1, 100, 300) for name in "abc"]
    taken, rows = chosen(items, Policy(max_edits_per_event=3, max_parameters=1200))
    assert len(taken) == 2
    left = next(name for name in "abc" if name not in taken)
    assert "1,300 parameters, max_parameters is 1,200" in rows[left].reason
    taken, rows = chosen(items, Policy(max_edits_per_event=3, max_training_flops=3300))
    assert len(taken) == 1 and any("max_training_flops" in row.reason for row in rows.values())
    assert len(chosen(items, Policy(max_edits_per_event=2))[0]) == 2


def test_edits_that_meet_in_a_layer_are_counted_together() -> None:
    model, inputs, _ = model_and_batch()
    cost, graph = count(model, inputs), trace(model, inputs)
    policy = Policy(theories=(), max_edits_per_event=3, samples_per_parameter=1e-3, enable_aggressive_growth=True)
    items = found(policy)

    sandbox = Sandbox(model_and_batch()[0], graph, inputs)

    def take(policy: Policy) -> tuple[list[Candidate], list[Row], Work]:
        return choose(items, cost, sandbox.after, OUTLOOK, Calibration(("Divide",), ()), policy)

    taken, _, after = take(policy)
    for item in taken:
        apply(model, item.edit, inputs)
    assert work(model, inputs) == after
    apart = cost.parameters + sum(item.added_parameters for item in taken)
    assert apart < after.parameters
    # A limit that the sum of what each adds keeps, and all of them together do not.
    for limits in ({"max_parameters": apart}, {"max_training_flops": after.training - 1}):
        model = model_and_batch()[0]
        fewer, rows, smaller = take(Policy(**{**policy.as_dict(), **limits}))
        assert 0 < len(fewer) < len(taken)
        assert smaller.parameters <= apart and smaller.training < after.training
        assert any(f"{name} is" in row.reason for row in rows for name in limits)


def test_an_edit_that_does_not_go_with_the_others_is_left_out() -> None:
    items = [candidate(name, 0.1, 100, 300) for name in "abc"]

    def together(edits: Sequence[Edit]) -> Cost | None:
        names = [edit.group for edit in edits if isinstance(edit, Divide)]
        return None if {"a", "b"} <= set(names) else summed(items)(edits)

    taken, rows = chosen(items, Policy(max_edits_per_event=3), together=together)
    assert sorted(taken) in (["a", "c"], ["b", "c"])
    left = next(name for name in "ab" if name not in taken)
    assert rows[left].reason == "does not go together with what is taken"


def test_excluded_places_are_no_candidates() -> None:
    places = [item.place for item in found(Policy(theories=(), excluded=("body.*",), operators=OPERATORS))]
    assert places == ["stem.0", "stem.2", "head", "stem.2", "stem.0 -> stem.1"]


def test_calibrated_theories_decide_between_equals() -> None:
    items = [candidate("low", 0.1, 100, 300, -1.0), candidate("high", 0.1, 100, 300, 1.0)]
    calibration = Calibration(("Divide",), ("gradient",))
    for sign, wanted in ((1.0, "high"), (-1.0, "low")):
        learnt = Calibration(("Divide",), ("gradient",))
        learnt.load_state_dict(calibration.state_dict())
        learnt.observe([Terms("Divide", 0.1, {"gradient": 1.0})], 1.0, Estimate(0.1 + 0.05 * sign, 0.001))
        learnt.observe([Terms("Divide", 0.1, {"gradient": -1.0})], 1.0, Estimate(0.1 - 0.05 * sign, 0.001))
        taken, _, _ = choose(items, COST, summed(items), OUTLOOK, learnt, Policy())
        assert [item.place for item in taken] == [wanted]


@pytest.mark.parametrize("caution", [0.0, 1.0])
def test_caution_prefers_what_is_known(caution: float) -> None:
    taken, rows = chosen([candidate("only", 0.1, 100, 300)], Policy(caution=caution))
    net = rows["only"].gain.value - caution * rows["only"].gain.standard_error - rows["only"].price
    assert bool(taken) is (net > 0)
