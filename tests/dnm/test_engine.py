"""Growth at scheduled times, at the place of the largest gradient norm, within limits."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import dnm

UNLIMITED = {"max_parameters": 10**9, "max_training_flops": 10**9}


def network(seed: int = 0) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(5, 4),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Linear(4, 6),
        nn.ReLU(),
        nn.Linear(6, 8),
        nn.ReLU(),
        nn.Linear(8, 2),
    )
    return model.double(), torch.randn(12, 5, dtype=torch.float64), torch.randn(12, 2, dtype=torch.float64)


def grow(growth: dnm.Growth, steps: int, seed: int = 0) -> tuple[nn.Sequential, dnm.Morphogenesis, list]:
    model, inputs, targets = network(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    engine = dnm.Morphogenesis(model, growth, inputs, optimizer)

    def loss() -> torch.Tensor:
        return (model(inputs) - targets).square().mean()

    returned = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        returned.append(engine.step(loss))
    return model, engine, returned


def widths(model: nn.Sequential) -> list[int]:
    return [layer.out_features for layer in model if isinstance(layer, nn.Linear)]


def training_flops(model: nn.Sequential) -> int:
    products = [layer.in_features * layer.out_features for layer in model if isinstance(layer, nn.Linear)]
    return 2 * (3 * sum(products) - products[0])


def forward_flops(model: nn.Sequential) -> int:
    return 2 * sum(layer.in_features * layer.out_features for layer in model if isinstance(layer, nn.Linear))


def flops_of(cost: dnm.Cost) -> tuple[int, int, int]:
    return cost.parameters, cost.forward, cost.training


def test_events_take_place_at_the_steps_given():
    growth = dnm.Growth((2, 5), 1, 0.5, **UNLIMITED)
    model, engine, returned = grow(growth, 7)
    assert [step for step, event in enumerate(returned, 1) if event is not None] == [2, 5]
    assert engine.events == [returned[1], returned[4]]
    assert [event.step for event in engine.events] == [2, 5]
    for event in engine.events:
        assert event.before.parameters < event.after.parameters
        assert 0.0 <= event.output_difference <= 1e-9
    assert engine.events[0].after == engine.events[1].before
    assert engine.events[1].after.training == training_flops(model)
    assert engine.events[1].after.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("edits", [0, 1, 2, 3, 5])
def test_edits_per_event(edits):
    _, engine, _ = grow(dnm.Growth((1,), edits, 0.5, **UNLIMITED), 1)
    groups = [entry["group"] for entry in engine.journal]
    assert len(groups) == len(set(groups)) == min(edits, 3)


@pytest.mark.parametrize(("fraction", "added"), [(0.01, 2), (0.25, 2), (0.5, 4), (0.8, 6), (1.0, 8)])
def test_a_fraction_of_the_width_in_twos(fraction, added):
    growth = dnm.Growth((1,), 3, fraction, **UNLIMITED)
    model, engine, _ = grow(growth, 1)
    units = {entry["group"]: len(entry["units"]) for entry in engine.journal}
    assert units["5"] == added
    assert widths(model) == [4 + units["0"], 6 + units["3"], 8 + units["5"], 2]


@pytest.mark.parametrize(("width", "multiple", "added"), [(16, 8, 8), (40, 8, 24), (12, 4, 8), (15, 8, 8)])
def test_wide_groups_grow_in_multiples(width, multiple, added):
    model = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
    inputs = torch.randn(4, 3)
    growth = dnm.Growth((1,), 1, 0.55, multiple=multiple, **UNLIMITED)
    engine = dnm.Morphogenesis(model, growth, inputs, torch.optim.SGD(model.parameters(), lr=0.1))
    engine.step(lambda: model(inputs).square().sum())
    assert len(engine.journal[0]["units"]) == added


@pytest.mark.parametrize(("width", "multiple", "unit"), [(3, 8, 2), (23, 8, 8)])
def test_doubling_keeps_to_multiples(width, multiple, unit):
    model = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
    inputs = torch.randn(4, 3)
    growth = dnm.Growth((1,), 1, 1.0, multiple=multiple, **UNLIMITED)
    engine = dnm.Morphogenesis(model, growth, inputs, torch.optim.SGD(model.parameters(), lr=0.1))
    engine.step(lambda: model(inputs).square().sum())
    assert len(engine.journal[0]["units"]) % unit == 0


PARAMETERS, FORWARD, TRAINING = 24 + 8 + 30 + 56 + 18, 2 * 108, 2 * (3 * 108 - 20)


CHEAPEST = 2 * (7 + 2)  # parameters of two units more of group 5


@pytest.mark.parametrize(
    ("parameters", "flops"),
    [(PARAMETERS + CHEAPEST - 1, 10**9), (190, 10**9), (10**9, 620), (10**9, 1000), (220, 800), (260, 760)],
)
def test_limits_are_never_exceeded(parameters, flops):
    model, engine, _ = grow(dnm.Growth((1, 2), 2, 0.9, parameters, flops, multiple=2), 2)
    assert flops_of(engine.events[0].before) == (PARAMETERS, FORWARD, TRAINING)
    assert sum(parameter.numel() for parameter in model.parameters()) <= parameters
    assert training_flops(model) <= flops
    for event in engine.events:
        assert PARAMETERS <= event.after.parameters <= parameters
        assert TRAINING <= event.after.training <= flops
    assert bool(engine.journal) == (parameters >= PARAMETERS + CHEAPEST and flops > 620)


@pytest.mark.parametrize(("room", "added"), [(1, 0), (2, 2), (5, 4), (7, 6), (8, 8), (9, 8)])
@pytest.mark.parametrize("limited", ["parameters", "flops"])
def test_as_many_units_are_added_as_fit(limited, room, added):
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    inputs = torch.randn(4, 5)
    # A unit more: 6 + 2 parameters, 2 * (2 * 5 + 3 * 2) FLOPs.
    parameters = 66 + 8 * room + 7 if limited == "parameters" else 10**9
    flops = 256 + 32 * room + 31 if limited == "flops" else 10**9
    growth = dnm.Growth((1,), 1, 1.0, parameters, flops)
    event = dnm.Morphogenesis(model, growth, inputs, torch.optim.SGD(model.parameters(), lr=0.1)).step(
        lambda: model(inputs).square().sum()
    )
    assert flops_of(event.before) == (66, 112, 256)
    assert model[0].out_features == 8 + added


def test_the_largest_gradient_norm_is_chosen():
    for seed in range(3):
        model, inputs, targets = network(seed)
        control = copy.deepcopy(model).eval()
        (control(inputs) - targets).square().mean().backward()
        norms = {name: control.get_submodule(name).weight.grad for name in ("0", "3", "5")}
        expected = sorted(norms, key=lambda name: norms[name].square().sum().sqrt().item(), reverse=True)
        growth = dnm.Growth((1,), 2, 0.5, **UNLIMITED)
        engine = dnm.Morphogenesis(model, growth, inputs, torch.optim.SGD(model.parameters(), lr=0.1))
        event = engine.step(lambda m=model, x=inputs, y=targets: (m(x) - y).square().mean())
        assert [entry["group"] for entry in event.entries] == expected[:2]
        for entry in event.entries:
            by_unit = norms[entry["group"]].square().sum(dim=1)
            assert entry["units"] == by_unit.argsort(descending=True)[: len(entry["units"])].tolist()
        assert event.gradient_norms == pytest.approx({name: norm.norm().item() for name, norm in norms.items()})


def test_a_group_that_does_not_fit_leaves_room_for_the_next():
    model, inputs, targets = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # Two units more of group 5 cost 18 parameters, of the others 26 and 28.
    growth = dnm.Growth((1,), 2, 0.5, PARAMETERS + 18, 10**9)
    event = dnm.Morphogenesis(model, growth, inputs, optimizer).step(lambda: (model(inputs) - targets).square().mean())
    assert [entry["group"] for entry in event.entries] == ["5"]


def test_the_journal_replays_to_the_same_architecture():
    model, engine, _ = grow(dnm.Growth((1, 3), 2, 0.5, **UNLIMITED), 4)
    assert len(engine.journal) == 4
    start, _, _ = network()
    assert repr(dnm.replay(start, json.loads(json.dumps(engine.journal)))) == repr(model)
    assert json.loads(json.dumps([event.as_dict() for event in engine.events]))[0]["step"] == 1


def test_flops_of_looks_and_checks():
    """A look: a training pass of the probe, as tracing takes no arithmetic. An edit: four samples in eval mode and four
    in train mode, before and after it.
    """
    model, engine, _ = grow(dnm.Growth((1, 3), 2, 0.5, **UNLIMITED), 4)
    current, _, _ = network()
    expected = 0
    for event in engine.events:
        expected += 12 * training_flops(current)
        for entry in event.entries:
            expected += (4 + 4) * forward_flops(current)
            dnm.replay(current, [entry])
            expected += (4 + 4) * forward_flops(current)
    assert widths(current) == widths(model)
    assert engine.flops == expected > 0


def test_every_forward_pass_of_the_probe_is_charged():
    """The hook that notes them makes tracing run with arithmetic."""
    model, inputs, targets = network()
    passes = []

    def note(module: nn.Module, arguments: tuple) -> None:
        # Copies whose cost is counted run on one sample.
        if len(arguments[0]) > 1:
            passes.append(len(arguments[0]) * forward_flops(module))

    model.register_forward_pre_hook(note)
    engine = dnm.Morphogenesis(
        model, dnm.Growth((1,), 2, 0.5, **UNLIMITED), inputs, torch.optim.SGD(model.parameters(), lr=0.1)
    )
    backward = 12 * (training_flops(model) - forward_flops(model))
    engine.step(lambda: (model(inputs) - targets).square().mean())
    assert len(passes) == 2 + 2 * 6
    assert engine.flops == backward + sum(passes)


@pytest.mark.parametrize("limits", [(PARAMETERS, 10**9), (10**9, TRAINING), (0, 0)])
def test_a_look_without_an_edit_changes_nothing(photograph, limits):
    model, inputs, targets = network()
    optimizer = torch.optim.AdamW(model.parameters())

    def loss() -> torch.Tensor:
        return (model(inputs) - targets).square().mean()

    loss().backward()
    optimizer.step()
    model[2].eval()
    before = photograph(model, optimizer)
    engine = dnm.Morphogenesis(model, dnm.Growth((1,), 2, 0.5, *limits), inputs, [optimizer])
    event = engine.step(loss)
    assert photograph(model, optimizer) == before
    assert event.entries == () and engine.journal == [] and event.output_difference == 0.0
    assert event.before == event.after
    assert flops_of(event.before) == (PARAMETERS, FORWARD, TRAINING)
    assert engine.flops == 12 * TRAINING


def test_a_network_without_a_divisible_group_gets_an_empty_event():
    model, inputs = nn.Sequential(nn.Linear(3, 2)), torch.randn(4, 3)
    growth = dnm.Growth((1,), 1, 0.5, **UNLIMITED)
    engine = dnm.Morphogenesis(model, growth, inputs, torch.optim.SGD(model.parameters(), lr=0.1))
    assert engine.step(lambda: model(inputs).sum()).entries == ()


def test_runs_are_deterministic_and_depend_on_the_seed():
    def run(seed: int) -> tuple[dict, list[dict], int]:
        model, engine, _ = grow(dnm.Growth((1, 3), 2, 0.5, seed=seed, **UNLIMITED), 5)
        return model.state_dict(), engine.journal, engine.flops

    first, again, other = run(0), run(0), run(1)
    assert first[1:] == again[1:]
    assert all(torch.equal(first[0][name], again[0][name]) for name in first[0])
    assert not torch.equal(first[0]["7.weight"], other[0]["7.weight"])


class Viewing(nn.Module):
    """Its view says the width in numbers, so that tracing tries it with widened layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).view(-1, self.first.out_features).relu())


def test_passes_of_widened_layers_are_charged_too():
    model, inputs = Viewing(), torch.randn(6, 5)
    sizes = []

    def note(module: nn.Linear, arguments: tuple) -> None:
        if len(arguments[0]) > 1:
            sizes.append(2 * len(arguments[0]) * module.weight.numel())

    for layer in (model.first, model.last):
        layer.register_forward_pre_hook(note)
    engine = dnm.Morphogenesis(model, dnm.Growth((1,), 1, 0.5, **UNLIMITED), inputs, ())
    event = engine.step(lambda: model(inputs).square().sum())
    assert len(event.entries) == 1
    assert len(sizes) / 2 > 2 + 5
    # The look's backward pass is charged whole.
    assert engine.flops == sum(sizes) + 6 * (event.before.training - event.before.forward)


def test_groups_that_are_normed_as_a_whole_are_doubled():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2)).double()
    inputs = torch.randn(4, 5, dtype=torch.float64)
    engine = dnm.Morphogenesis(model, dnm.Growth((1,), 1, 0.1, **UNLIMITED), inputs, ())
    event = engine.step(lambda: model(inputs).square().sum())
    assert model[0].out_features == 12 and event.output_difference < 1e-9
    # Where that does not fit there is nothing that does.
    limited = dnm.Growth((1,), 1, 0.1, event.after.parameters + 20, 10**9)
    assert dnm.Morphogenesis(model, limited, inputs, ()).step(lambda: model(inputs).square().sum()).entries == ()
