"""Controls of where a network grows: the widths that a rule gives, and growth by a plan in the training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch

from dnm import Policy, count
from stages import planned, trial
from stages.tasks import image_classification as task

CLASSES, CHANNELS = 3, 3


def parameters(widths: Sequence[int]) -> int:
    """Of 3x3 convolutions with batch norm in a row and a linear head, by hand."""
    inputs, total = CHANNELS, 0
    for width in widths:
        total += 9 * inputs * width + 2 * width
        inputs = width
    return total + (inputs + 1) * CLASSES


def test_parameters_by_hand() -> None:
    network = task.network(((4,), (6, 6)), CHANNELS, CLASSES, torch.Generator())
    assert parameters((4, 6, 6)) == count(network, torch.zeros(1, 3, 8, 8)).parameters


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0, 3.7, 40.0])
def test_uniform_keeps_proportions_and_comes_as_near_as_any_factor(factor: float) -> None:
    start = [4, 6, 12]
    target = parameters([round(factor * width) for width in start])
    widths = planned.uniform_widths(start, start, parameters, target)
    assert parameters(widths) == target
    # Between two networks of the family the nearer one.
    near = planned.uniform_widths(start, start, parameters, target + 1)
    assert near == widths
    scales = [number / 1000 for number in range(1000, 45_000)]
    family = {tuple(round(scale * width) for width in start) for scale in scales}
    for wanted in (target + 37, target + 200):
        found = planned.uniform_widths(start, start, parameters, wanted)
        best = min(abs(parameters(widths) - wanted) for widths in family)
        assert abs(parameters(found) - wanted) == best


def test_uniform_never_narrows() -> None:
    assert planned.uniform_widths([4, 6, 12], [9, 6, 12], parameters, parameters([9, 6, 12])) == [9, 6, 12]
    widths = planned.uniform_widths([4, 6, 12], [9, 6, 12], parameters, parameters([9, 12, 24]))
    assert widths[0] == 9 and widths[1] > 6


def test_random_comes_near_the_target_in_layers_that_differ_by_seed() -> None:
    start, target = [4, 6, 12], 6000
    found = set()
    for seed in range(20):
        widths = planned.random_widths(start, parameters, target, torch.Generator().manual_seed(seed))
        assert all(new >= old and (new - old) % 2 == 0 for new, old in zip(widths, start, strict=True))
        # The last layer's largest step.
        assert abs(parameters(widths) - target) < 9 * 8 * (max(widths) + max(widths)) + 100
        found.add(tuple(widths))
    assert len(found) > 10
    assert planned.random_widths(start, parameters, 0, torch.Generator()) == start


PLAN = ((0.2, 1500, ()), (0.5, 4000, (("AddResidual", "9"), ("AddAttention", "3"))))


@pytest.mark.parametrize("rule", ["random", "uniform"])
def test_a_trial_grows_by_its_plan(rule: str, make_job: Callable) -> None:
    job = make_job(rule, 1, grown=True, plan=PLAN, flops=100_000_000)
    result = trial.run(job)
    events = result["events"]
    assert [event["position"] for event in events] == pytest.approx([0.2, 0.5], abs=0.05)
    for event, (_, target, inserts) in zip(events, PLAN, strict=True):
        assert abs(event["after"]["parameters"] - target) < 0.25 * target
        inserted = [(entry["operator"], entry["at"]) for entry in event["entries"] if "at" in entry]
        assert [operator for operator, _ in inserted] == [operator for operator, _ in inserts]
        assert rule == "random" or inserted == list(inserts)
        fills = {entry["fill"] for entry in event["entries"] if entry["operator"] == "Divide"}
        assert fills == {Policy().fill}
    assert result["figures"]["parameters"] == events[-1]["after"]["parameters"]
    assert [width for block in result["widths"] for width in block] == list(events[-1]["widths"].values())
    assert result["figures"]["training_flops"] <= 100_000_000
    assert result["journal"] == [entry for event in events for entry in event["entries"]]
    again = trial.run(job)
    assert {**again, "machine": {}} == {**result, "machine": {}}
    assert trial.run(dataclasses.replace(job, plan=((0.2, 1, ()),)))["journal"] == []


def test_random_branches_stand_elsewhere_and_leave_the_target_in_reach(make_job: Callable) -> None:
    job = make_job("random", 1, grown=True, plan=((0.1, 4000, (("AddResidual", "9"),)),), flops=20_000_000)
    places = set()
    for seed in range(6):
        result = trial.run(dataclasses.replace(job, seed=seed))
        ((_, at, _),) = result["branches"]
        places.add(at)
        assert result["figures"]["parameters"] < 1.25 * 4000
    assert len(places) > 1
    # None fits.
    result = trial.run(dataclasses.replace(job, plan=((0.1, 1, (("AddResidual", "9"),)),)))
    assert result["branches"] == [] and result["journal"] == []


def test_an_ended_trial_goes_on_with_the_same_bits(make_job: Callable, tmp_path, monkeypatch) -> None:
    from stages import training

    job = make_job("random", 1, grown=True, plan=PLAN, flops=100_000_000)
    whole = trial.run(job)
    keep, kept = training._keep, 0

    def ending(*arguments) -> None:
        nonlocal kept
        keep(*arguments)
        kept += 1
        if kept in (1, 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_keep", ending)
    job = dataclasses.replace(job, checkpoint=str(tmp_path / "checkpoint.pt"))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            trial.run(job)
    assert {**trial.run(job), "machine": {}} == {**whole, "machine": {}}


def test_the_learning_rate_rises_again_as_with_the_engine() -> None:
    model = task.network(((4,), (6, 6)), CHANNELS, CLASSES, torch.Generator())
    optimizer = torch.optim.AdamW(model.parameters())
    grower = planned.PlannedGrower(
        model,
        optimizer,
        torch.zeros(4, 3, 8, 8),
        [(0.3, 2000, ())],
        "uniform",
        lambda widths, own: parameters(widths),
        fill="zero",
        rewarm=0.2,
        seed=0,
    )
    factors = []
    for step in range(1, 11):
        grower.after_step(step / 10, torch.zeros(()), 4)
        factors.append(grower.learning_rate_factor())
    assert factors == pytest.approx([1, 1, 0, 0.5, 1, 1, 1, 1, 1, 1])
