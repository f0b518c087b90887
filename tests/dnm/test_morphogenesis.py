"""The engine in a training loop: when it looks, what it takes, what it takes back, and that a run resumes exactly."""

from __future__ import annotations

import copy
import io
import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from dnm import count, replay, rollback
from dnm.detect.bottleneck import PRINCIPAL
from dnm.detect.estimates import Estimate
from dnm.errors import DnmError
from dnm.events import Event
from dnm.morphogenesis import Morphogenesis
from dnm.policy import THEORIES, Budget, Policy

NUM_SAMPLES, BATCH = 512, 32


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(NUM_SAMPLES, 2, 8, 8, generator=generator)
    filters = torch.randn(4, 2, 3, 3, generator=generator)
    # Which of four random filters responds most strongly: deterministic, and beyond a network of this size.
    return images, nn.functional.conv2d(images, filters).square().mean((2, 3)).argmax(1)


class Loop:
    """A plain training loop around the engine, which can stop and go on."""

    def __init__(self, policy: Policy, steps: int = 400, flops: bool = True, optimizer: str = "AdamW") -> None:
        self.images, self.labels = data()
        self.model = network()
        kinds = {
            "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
            "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        }
        self.optimizer = kinds[optimizer](self.model.parameters())
        cost = count(self.model, self.images[:1]).training * BATCH * steps
        self.engine = Morphogenesis(
            self.model,
            self.optimizer,
            self.images[:64],
            lambda: nn.functional.cross_entropy(self.model(self.images[:64]), self.labels[:64]),
            budget=Budget(flops=cost) if flops else Budget(steps=steps),
            policy=policy,
            labels=self.labels[:64],
        )
        self.order = torch.Generator().manual_seed(2)
        self.steps = 0
        self.returned: list[Event] = []

    def step(self) -> Event | None:
        which = torch.randint(0, NUM_SAMPLES, (BATCH,), generator=self.order)
        self.model.train()
        loss = nn.functional.cross_entropy(self.model(self.images[which]), self.labels[which])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        event = self.engine.after_step(loss, BATCH)
        if event is not None:
            self.returned.append(event)
        return event

    def run(self, until: float = 1.0) -> Loop:
        while self.engine.position < until:
            self.step()
        return self

    def save(self) -> bytes:
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "engine": self.engine.state_dict(),
            "order": self.order.get_state(),
        }
        file = io.BytesIO()
        torch.save(content, file)
        return file.getvalue()

    def load(self, saved: bytes) -> Loop:
        content = torch.load(io.BytesIO(saved), weights_only=True)
        self.engine.load_state_dict(content["engine"])
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.order.set_state(content["order"])
        return self


def everything(loop: Loop) -> dict[str, Any]:
    found: dict[str, Any] = {f"model {k}": v for k, v in loop.model.state_dict().items()}
    for number, parameter in enumerate(loop.model.parameters()):
        found |= {f"state {number} {k}": v for k, v in loop.optimizer.state[parameter].items()}
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in found.items()}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        for name, value in first.items()
    )


GREEDY = Policy(
    event_times=(0.1, 0.3, 0.5),
    enable_aggressive_growth=True,
    bottleneck_threshold=0.0,
    samples_per_parameter=0.1,
    multiple=2,
    grace=0.05,
    rollback=False,
    # The figures of all theories cost more here than what they are taken of.
    theories=("gradient",),
)


def but(policy: Policy, **changes: Any) -> Policy:
    return Policy(**{**policy.as_dict(), **changes})


def test_it_looks_at_its_times_and_grows_without_changing_outputs() -> None:
    loop = Loop(GREEDY)
    before = copy.deepcopy(loop.model)
    parameters = list(loop.model.parameters())
    loop.run()
    events = loop.engine.events
    assert [round(event.position, 1) for event in events] == [0.1, 0.3, 0.5]
    assert events[0].entries and all(event.output_difference < 1e-5 for event in events)
    assert [event.step for event in loop.returned] == [event.step for event in events]
    assert events[-1].after == count(loop.model, loop.images[:1])
    # The same parameters, and the journal leads from the start network to the grown one.
    assert all(mine is theirs for mine, theirs in zip(parameters, loop.model.parameters(), strict=True))
    again = replay(before, loop.engine.journal)
    assert [t.shape for t in again.state_dict().values()] == [t.shape for t in loop.model.state_dict().values()]


def test_the_budget_holds_training_and_looking() -> None:
    loop = Loop(GREEDY)
    spent = 0
    while loop.engine.position < 1.0:
        spent += count(loop.model, loop.images[:1]).training * BATCH
        loop.step()
    assert loop.engine.spent == spent + loop.engine.flops
    assert loop.engine.flops == sum(event.flops for event in loop.engine.events) > 0


def test_a_look_costs_at_least_its_probe_batch() -> None:
    loop = Loop(but(GREEDY, theories=()))
    loop.run(0.2)
    # One pass forward and backward of 64 samples, and a bound on the passes that checks take.
    per_sample = loop.engine.events[0].before.training
    assert 64 * per_sample <= loop.engine.events[0].flops <= 64 * 8 * per_sample


def test_what_is_large_for_the_rest_of_the_run_is_not_grown() -> None:
    loop = Loop(but(GREEDY, samples_per_parameter=1e9)).run()
    assert not loop.engine.journal
    assert {event.reason for event in loop.engine.events} == {"no edit gains more than it costs"}
    assert all("costs more than it gains" in row.reason for event in loop.engine.events for row in event.rows)


def test_a_budget_of_steps_grows_up_to_its_limits() -> None:
    limit = 1500
    loop = Loop(but(GREEDY, max_parameters=limit), flops=False).run()
    assert loop.steps == 400
    grown = count(loop.model, loop.images[:1]).parameters
    assert count(network(), loop.images[:1]).parameters < grown <= limit


def test_at_most_so_many_events_take_edits() -> None:
    loop = Loop(but(GREEDY, max_morphogenesis_events=1, max_edits_per_event=1)).run()
    assert [len(event.entries) for event in loop.engine.events] == [1, 0, 0]
    assert "1 events took edits" in loop.engine.events[1].reason


def test_a_predicted_gain_below_the_threshold_is_no_reason_to_edit() -> None:
    loop = Loop(but(GREEDY, bottleneck_threshold=0.9)).run(0.2)
    assert not loop.engine.journal
    assert "below bottleneck_threshold" in loop.engine.events[0].reason
    assert not any(row.taken for row in loop.engine.events[0].rows)


def test_caution_takes_standard_errors_off() -> None:
    assert not Loop(but(GREEDY, caution=100.0)).run(0.2).engine.journal


def test_the_plateau_trigger_waits_for_its_patience() -> None:
    loop = Loop(but(GREEDY, trigger="plateau", morphogenesis_patience=2, bottleneck_threshold=0.01))
    for _ in range(20):
        loop.step()
    # Better by more than the threshold, by less, by less, by more, by less, by less.
    losses = (1.0, 0.9, 0.895, 0.893, 0.5, 0.499, 0.498)
    assert [loop.engine.after_epoch(loss) is not None for loss in losses] == [False] * 3 + [True] + [False] * 2 + [True]


def test_the_learning_rate_rises_again_after_an_event() -> None:
    loop = Loop(but(GREEDY, event_times=(0.1,), rewarm=0.1))
    factors = {}
    while loop.engine.position < 0.5:
        loop.step()
        factors[loop.engine.position] = loop.engine.learning_rate_factor()
    assert loop.engine.journal
    event, budget = loop.engine.events[0], loop.engine.budget.flops
    assert budget is not None
    # From the end of the event, whose own cost is part of the budget.
    start = event.position + event.flops / budget
    for position, factor in factors.items():
        if position < 0.1:
            assert factor == 1.0
        else:
            assert factor == pytest.approx(min(1.0, (position - start) / 0.1))
    assert min(factors.values()) == 0.0 and factors[max(factors)] == 1.0


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_an_event_that_hurts_is_taken_back_bit_for_bit(optimizer: str) -> None:
    policy = but(
        GREEDY,
        event_times=(0.2,),
        max_edits_per_event=4,
        rollback=True,
        operators=("Divide", "AddResidual", "AddAttention"),
    )
    loop = Loop(policy, optimizer=optimizer)
    while not loop.engine.events:
        kept = everything(loop), copy.deepcopy(loop.order.get_state())
        loop.step()
    # The state right before the event: the step before it, taken once more without an engine.
    plain = Loop(policy, optimizer=optimizer)
    for _ in range(loop.steps):
        which = torch.randint(0, NUM_SAMPLES, (BATCH,), generator=plain.order)
        plain.model.train()
        plain.optimizer.zero_grad()
        nn.functional.cross_entropy(plain.model(plain.images[which]), plain.labels[which]).backward()
        plain.optimizer.step()
    assert loop.engine.journal and len(loop.model.state_dict()) > len(plain.model.state_dict())
    # Losses that get worse than any forecast.
    while loop.engine.events[0].status == "watched":
        loop.step()
        loop.engine._bin = torch.tensor(1000.0)
    event = loop.engine.events[0]
    assert event.status == "taken back" and loop.returned[-1] == event
    assert event.realised is not None and event.realised.value < 0.0
    assert not loop.engine.journal
    assert same(everything(loop), everything(plain))
    assert [n for n, _ in loop.model.named_parameters()] == [n for n, _ in plain.model.named_parameters()]
    assert len(loop.optimizer.param_groups[0]["params"]) == len(list(plain.model.parameters()))
    assert loop.engine._cost == count(plain.model, plain.images[:1])
    # And it trains on as the unedited run does.
    plain.order.set_state(loop.order.get_state())
    for each in (loop, plain):
        each.engine.policy = but(policy, event_times=())
        each.step()
    assert same(everything(loop), everything(plain))
    del kept


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
@pytest.mark.parametrize("hurts", [False, True])
def test_a_run_resumes_exactly_in_a_grace_period(optimizer: str, hurts: bool) -> None:
    policy = but(
        GREEDY,
        event_times=(0.05, 0.35),
        rollback=True,
        grace=0.2,
        operators=("Divide", "AddResidual"),
        max_edits_per_event=2,
    )

    def go_on(loop: Loop) -> Loop:
        while loop.engine.position < 0.8:
            loop.step()
            if hurts and loop.engine.position < 0.7:
                loop.engine._bin = torch.tensor(1000.0)
        return loop

    first = Loop(policy, optimizer=optimizer)
    while len(first.engine.events) < 2:
        first.step()
    for _ in range(3):
        first.step()
    assert first.engine.events[1].status == "watched"
    saved = first.save()
    go_on(first)
    second = go_on(Loop(policy, optimizer=optimizer).load(saved))
    assert first.engine.events[1].status == ("taken back" if hurts else "kept")
    assert same(everything(first), everything(second))
    assert first.engine.events == second.engine.events
    ours, theirs = first.engine.state_dict(), second.engine.state_dict()
    assert {k: v for k, v in ours.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}


def test_a_kept_event_teaches_the_calibration() -> None:
    loop = Loop(but(GREEDY, event_times=(0.2,)))
    prior = loop.engine.calibration.coefficients
    loop.run(0.4)
    event = loop.engine.events[0]
    assert event.status == "kept" and event.predicted is not None and event.realised is not None
    learnt = loop.engine.calibration.coefficients
    assert learnt["Divide"].standard_error < prior["Divide"].standard_error
    up = event.realised.value > event.predicted.value
    assert (learnt["Divide"].value > prior["Divide"].value) is up


def test_realised_gain_is_forecast_minus_loss() -> None:
    loop = Loop(but(GREEDY, event_times=(0.2,))).run(0.4)
    event = loop.engine.events[0]
    points = loop.engine._curves["training"]
    before = [
        (x, y) for x, y in points if x <= event.samples and x * 2 >= max(x for x, _ in points if x <= event.samples)
    ]
    after = next((x, y) for x, y in points if x > event.samples and f"{y:.4f}" in event.reason)
    logs = [(math.log(x), math.log(y)) for x, y in before]
    design = torch.tensor([[x, 1.0] for x, _ in logs], dtype=torch.float64)
    line = torch.linalg.lstsq(design, torch.tensor([[y] for _, y in logs], dtype=torch.float64)).solution
    expected = torch.exp(line[0] * math.log(after[0]) + line[1]).item()
    assert event.realised is not None
    assert event.realised.value == pytest.approx(expected - after[1], rel=1e-6)


@pytest.mark.parametrize("curve", ["training", "validation"])
def test_an_event_after_which_the_loss_is_not_finite_is_taken_back_at_once(curve: str) -> None:
    loop = Loop(but(GREEDY, event_times=(0.2,), rollback=True, grace=0.5))
    while not loop.engine.events:
        loop.step()
    if curve == "training":
        while loop.engine.events[0].status == "watched":
            loop.engine._bin = torch.tensor(math.nan)
            loop.step()
    else:
        event = loop.engine.after_epoch(math.nan)
        assert event is not None and event.status == "taken back"
    event = loop.engine.events[0]
    assert loop.engine.position < 0.3 and event.status == "taken back" and event.realised is None
    assert f"{curve} loss nan" in event.reason
    assert all(torch.isfinite(tensor).all() for tensor in loop.model.state_dict().values())


def test_a_loss_that_is_not_finite_is_no_point_of_the_curve() -> None:
    loop = Loop(but(GREEDY, event_times=()))
    while len(loop.engine.curves["training"]) < 5:
        loop.engine._bin = torch.tensor(math.inf)
        for _ in range(4):
            loop.step()
        loop.engine._bin = torch.zeros(())
        loop.step()
    assert all(math.isfinite(loss) for _, loss in loop.engine.curves["training"])


def test_losses_of_weights_that_are_gone_do_not_count() -> None:
    loop = Loop(but(GREEDY, event_times=(0.2,), rollback=True))
    while not loop.engine.events:
        loop.step()
    before = loop.engine.curves["training"]
    while loop.engine.events[0].status == "watched":
        loop.step()
        loop.engine._bin = torch.tensor(1000.0)
    assert loop.engine.curves["training"] == before


def test_pruning_takes_what_the_network_can_do_without() -> None:
    loop = Loop(but(GREEDY, event_times=(), prune_at=0.5, prune_tolerance=0.0)).run(0.49)
    norm = loop.model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    for parameter in (norm.weight, norm.bias):
        # Nothing comes of two channels, and nothing will.
        parameter.data[:2] = 0.0
        loop.optimizer.state[parameter]["exp_avg"].zero_()
    for group in loop.optimizer.param_groups:
        group["lr"] = 0.0
    loop.run(0.51)
    event = loop.engine.events[-1]
    assert event.kind == "pruning" and event.after.parameters < event.before.parameters
    # Others go only where their removal is predicted to do no harm.
    taken = {entry["group"]: entry["units"] for entry in event.entries}
    assert taken["0"] == [0, 1]
    assert all(row.gain.value == 0.0 for row in event.rows)


def test_pruning_stays_within_its_tolerance() -> None:
    removed = []
    for tolerance in (0.001, 0.05, 1e9):
        loop = Loop(but(GREEDY, event_times=(), prune_at=0.5, prune_tolerance=tolerance, rollback=False)).run(0.5)
        event, loss = loop.engine.events[0], loop.engine._curves["training"][-1][1]
        assert -sum(row.gain.value for row in event.rows) <= tolerance * loss
        removed.append(sum(len(entry["units"]) for entry in event.entries))
    assert removed == sorted(removed) and removed[0] < removed[-1]
    # Every group keeps a multiple of units.
    assert [module.out_channels for module in loop.model if isinstance(module, nn.Conv2d)] == [2, 2]


def test_pruning_is_checked_by_the_loss_without_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    from dnm import pruning

    def optimistic(model: nn.Module, graph: Any, loss: Any) -> dict[str, torch.Tensor]:
        return {group.name: torch.zeros(group.width) for group in graph.groups if group.divisible}

    loop = Loop(but(GREEDY, event_times=(), prune_at=0.9, prune_tolerance=0.1, rollback=False)).run(0.5)
    monkeypatch.setattr(pruning, "unit_importance", optimistic)
    before, limit = loop.engine._probe_loss(), 0.1 * loop.engine.curves["training"][-1][1]
    event = loop.engine._timed(loop.engine._prune)
    # It was told that all can go.
    assert any("the loss rises by more than" in row.reason for row in event.rows)
    assert loop.engine._probe_loss() - before <= limit


def test_an_edit_that_fails_is_told_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from dnm import morphogenesis
    from dnm.errors import EditError

    def fail(*arguments: Any, **options: Any) -> None:
        raise EditError("it changed the model's output")

    monkeypatch.setattr(morphogenesis, "apply", fail)
    loop = Loop(GREEDY).run(0.2)
    assert loop.engine.events[0].reason == "every edit failed its checks"
    failed = [row for row in loop.engine.events[0].rows if row.reason.startswith("failed: it changed")]
    assert failed and not any(row.taken for row in loop.engine.events[0].rows)


def test_an_event_looks_at_the_outputs_once_an_edit_and_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from dnm import surgery

    calls, original = [], surgery._outputs
    monkeypatch.setattr(surgery, "_outputs", lambda *arguments: calls.append(None) or original(*arguments))
    (event,) = Loop(but(GREEDY, event_times=(0.1,))).run(0.2).engine.events
    assert len(event.entries) > 1
    # In eval and in train mode.
    assert len(calls) == 2 * (len(event.entries) + 1)


def test_averages_take_the_edits_and_go_back_with_them() -> None:
    loop = Loop(but(GREEDY, event_times=(0.2,), rollback=True))
    average = torch.optim.swa_utils.AveragedModel(loop.model)
    loop.engine.averaged = [average]
    while not loop.engine.events:
        average.update_parameters(loop.model)
        kept = {name: tensor.clone() for name, tensor in average.state_dict().items()}
        loop.step()
    assert loop.engine.journal
    assert [p.shape for p in average.module.parameters()] == [p.shape for p in loop.model.parameters()]
    while loop.engine.events[0].status == "watched":
        average.update_parameters(loop.model)
        loop.step()
        loop.engine._bin = torch.tensor(1000.0)
    now = average.state_dict()
    assert now.keys() == kept.keys() and all(torch.equal(now[name], kept[name]) for name in kept)


def test_every_theory_can_be_switched_off() -> None:
    for theory in THEORIES:
        loop = Loop(but(GREEDY, theories=[name for name in THEORIES if name != theory])).run(0.15)
        for row in loop.engine.events[0].rows:
            assert PRINCIPAL[theory] not in row.figures and theory not in row.covariates
        assert any(PRINCIPAL[name] in row.figures for row in loop.engine.events[0].rows for name in THEORIES)
    none = Loop(but(GREEDY, theories=())).run(0.15)
    gains = {row.place: row.gain.value / max(row.added_flops, 1) for row in none.engine.events[0].rows}
    assert len(gains) == 2 and not any(row.covariates for row in none.engine.events[0].rows)


def test_explain_gives_every_candidate_with_figures_gain_cost_and_reason() -> None:
    loop = Loop(but(GREEDY, theories=THEORIES))
    assert "no look" in loop.engine.explain()
    loop.run(0.2)
    table = loop.engine.explain()
    assert "| operator | place |" in table and "| gain | price | parameters | FLOPs | taken | reason |" in table
    for row in loop.engine.events[0].rows:
        assert f"| {row.operator} | {row.place} |" in table and row.reason in table
    for name in ("rank_use", "kernel_share", "dimension_use", "missing_gain", "gradient_norm"):
        assert name in table
    assert len({len(line.split(" | ")) for line in table.splitlines() if line.startswith("|")}) == 1


def test_events_are_plain_values() -> None:
    loop = Loop(but(GREEDY, prune_at=0.6, prune_tolerance=10.0)).run(0.8)
    for event in loop.engine.events:
        text = json.dumps(event.as_dict(), allow_nan=False)
        again = Event.from_dict(json.loads(text))
        assert again.as_dict() == event.as_dict()
        assert isinstance(again.predicted, Estimate | None)


def test_bad_calls_are_told() -> None:
    loop = Loop(GREEDY)
    with pytest.raises(DnmError, match="after_step was told of 0 samples"):
        loop.engine.after_step(1.0, 0)
    with pytest.raises(DnmError, match="the validation loss is nan"):
        loop.engine.after_epoch(float("nan"))
    with pytest.raises(DnmError, match="excluded names '1.*', which no place of Sequential fits; expected names of gr"):
        Loop(but(GREEDY, excluded=("0", "1.*")))


def test_a_state_of_other_settings_is_refused() -> None:
    state = Loop(GREEDY).run(0.2).engine.state_dict()
    for other, message in (
        (
            Loop(but(GREEDY, theories=())),
            r"theories \['gradient'\], here \[\]; give the engine the budget and the policy",
        ),
        (Loop(GREEDY, steps=500), "a run with budget .*, here "),
    ):
        before = everything(other)
        with pytest.raises(DnmError, match=message):
            other.engine.load_state_dict(state)
        assert same(before, everything(other)) and not other.engine.events


def test_excluded_places_stay_as_they_are() -> None:
    loop = Loop(but(GREEDY, excluded=("0",))).run()
    assert loop.engine.journal and {row.place for event in loop.engine.events for row in event.rows} == {"3"}
    assert loop.model[0].out_channels == 4


def test_excluded_places_are_not_pruned() -> None:
    policy = but(GREEDY, event_times=(), excluded=("0",), prune_at=0.5, prune_tolerance=1e9, rollback=False)
    event = Loop(policy).run(0.51).engine.events[-1]
    assert event.kind == "pruning" and {entry["group"] for entry in event.entries} == {"3"}
    assert {row.place for row in event.rows} == {"3"}


def test_an_event_in_one_line() -> None:
    loop = Loop(but(GREEDY, max_edits_per_event=1, excluded=("0",), grace=0.3)).run(0.2)
    event = loop.engine.events[0]
    assert str(event) == (
        f"step {event.step} (10% of the budget): growth Divide 3; {event.before.parameters} -> "
        f"{event.after.parameters} parameters; {event.before.training:,} -> {event.after.training:,} FLOPs a sample; "
        "watched: in its grace period"
    )
    quiet = Loop(but(GREEDY, samples_per_parameter=1e9)).run(0.2).engine.events[0]
    assert str(quiet).endswith("growth; no edit: no edit gains more than it costs")


@pytest.mark.filterwarnings("ignore:.*for .* copying from a non-meta parameter")
def test_a_copy_is_put_back_on_the_device_of_the_model() -> None:
    for fused in (False, True):
        model = nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        kept = rollback.keep(model, [optimizer])
        # No other device is everywhere.
        moved = nn.Linear(2, 2, device="meta")
        other = torch.optim.AdamW(moved.parameters(), fused=False)
        other.param_groups[0]["fused"] = fused
        rollback.put_back(moved, [other], [], kept)
        state = other.state[moved.weight]
        assert state["exp_avg"].device.type == state["exp_avg_sq"].device.type == "meta"
        # As torch's own `load_state_dict` has it.
        assert state["step"].device.type == ("meta" if fused else "cpu")
