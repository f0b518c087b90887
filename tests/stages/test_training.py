"""The training loop: against closed forms, and against slow loops that are written here again from its description."""

from __future__ import annotations

import copy
import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dnm import Budget, Cost, Divide, Morphogenesis, Policy, apply, count
from stages import growing, training
from stages.data import splits
from stages.settings import Row, Training
from stages.tasks import image_classification as task
from stages.training import Length

PER_EPOCH = 6  # 96 training images, 16 a batch


@pytest.fixture(scope="module")
def data(tiny_data: Path) -> splits.DataSet:
    return splits.load(tiny_data)


def split_of(data: splits.DataSet, name: str, padding: int = 0) -> task.Split:
    images = getattr(data, name)
    return task.Split.of(images.images, images.labels, padding, *splits.channel_statistics(data.train.images), "cpu")


@pytest.fixture
def settings(tiny_row: Row) -> Training:
    return tiny_row.training


@pytest.fixture
def train_and_validation(data: splits.DataSet) -> tuple[task.Split, task.Split]:
    return split_of(data, "train", padding=2), split_of(data, "validation")


def network(row: Row, arm: str = "baseline", seed: int = 0) -> nn.Sequential:
    return task.network(getattr(row.networks, arm), 3, 3, torch.Generator().manual_seed(seed))


def growth(*event_times: float) -> Policy:
    """Takes the best edit at each of the times, however little it gains."""
    return Policy(
        event_times=event_times, theories=("gradient",), multiple=2, samples_per_parameter=1e-6, rollback=False
    )


def after(total: int, *steps: int) -> tuple[float, ...]:
    """The times of events that follow these steps of so many."""
    return tuple((step - 0.5) / total for step in steps)


def grower(policy: Policy | None, split: task.Split, length: Length) -> Callable | None:
    """What makes the grower of a policy, with 32 images of the split for probe."""
    if policy is None:
        return None
    probe, labels = split.batch(torch.arange(32))

    def make(model: nn.Module, optimizer: torch.optim.Optimizer) -> growing.EngineGrower:
        return growing.EngineGrower(
            Morphogenesis(
                model,
                optimizer,
                probe,
                lambda: task.loss(model(probe), labels),
                budget=Budget(steps=length.steps, flops=length.flops),
                policy=policy,
            )
        )

    return make


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# The learning rate


@pytest.mark.parametrize("step", [0, 1, 57, 199, 200])
def test_constant_learning_rate(settings: Training, step: int) -> None:
    constant = dataclasses.replace(settings, schedule="constant", learning_rate=0.3)
    assert training.learning_rate(constant, step, 1, 200) == 0.3


def test_trapezoid(settings: Training) -> None:
    trapezoid = dataclasses.replace(settings, schedule="trapezoid", learning_rate=0.5, warmup=0.1, decay_from=0.6)
    rates = [training.learning_rate(trapezoid, step, 1, 200) for step in range(201)]
    up = [0.5 * (step + 1) / 20 for step in range(20)]
    flat = [0.5] * 101
    down = [0.5 * (200 - step) / 80 for step in range(121, 201)]
    assert rates == pytest.approx(up + flat + down, rel=1e-12, abs=1e-15)
    assert max(rates) == 0.5
    assert rates[-1] == 0.0


@pytest.mark.parametrize("total", [1, 2, 7, 1000])
def test_trapezoid_without_slopes_is_flat(settings: Training, total: int) -> None:
    flat = dataclasses.replace(settings, schedule="trapezoid", warmup=0.0, decay_from=1.0)
    rates = {training.learning_rate(flat, step, 1, total) for step in range(total)}
    assert rates == {settings.learning_rate}


def test_the_schedule_reaches_the_optimizer(
    settings: Training, tiny_row: Row, train_and_validation, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []
    make = training.make_optimizer

    def recording(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
        optimizer = make(model, settings)
        optimizer.register_step_pre_hook(lambda made, *_: used.append(made.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(training, "make_optimizer", recording)
    run = training.train(network(tiny_row), *train_and_validation, settings, seed=0, length=Length(steps=10))
    assert used == [training.learning_rate(settings, step, 1, 10) for step in range(10)]
    assert [epoch.learning_rate for epoch in run.epochs] == [used[5], used[9]]


# When it ends


@pytest.fixture
def validation_losses(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Makes `task.evaluate` say these losses, one a call."""

    def say(losses: list[float]) -> None:
        values: Iterator[float] = iter(losses)
        monkeypatch.setattr(task, "evaluate", lambda model, split: (next(values), 0.5))

    return say


#         lowest at epoch 2; an equal loss is not a lower one
LONG = Length(steps=10 * PER_EPOCH)
LOSSES = [1.0, 0.8, 0.9, 0.8, 0.85, 0.81, 0.7, 0.6, 0.5, 0.4]


@pytest.mark.parametrize("patience, epochs", [(1, 3), (2, 4), (3, 5), (4, 6), (5, 10)])
def test_early_stopping(settings, tiny_row, train_and_validation, validation_losses, patience: int, epochs: int):
    validation_losses(LOSSES)
    stopping = dataclasses.replace(settings, early_stopping=True, patience=patience)
    run = training.train(
        network(tiny_row), *train_and_validation, stopping, seed=0, length=Length(steps=10 * PER_EPOCH)
    )
    assert len(run.epochs) == epochs
    assert run.steps == epochs * PER_EPOCH
    assert [epoch.validation_loss for epoch in run.epochs] == LOSSES[:epochs]


def test_without_early_stopping_it_goes_on(settings, tiny_row, train_and_validation, validation_losses) -> None:
    validation_losses([1.0, 2.0, 3.0, 4.0])
    going_on = dataclasses.replace(settings, early_stopping=False, patience=1)
    run = training.train(network(tiny_row), *train_and_validation, going_on, seed=0, length=Length(steps=4 * PER_EPOCH))
    assert len(run.epochs) == 4


@pytest.mark.parametrize("total, steps", [(1, [1]), (5, [5]), (6, [6]), (7, [6, 7]), (20, [6, 12, 18, 20])])
def test_total_steps_with_a_part_epoch(settings, tiny_row, train_and_validation, total: int, steps: list[int]) -> None:
    seen: list[training.Epoch] = []
    run = training.train(
        network(tiny_row), *train_and_validation, settings, seed=0, length=Length(steps=total), after_epoch=seen.append
    )
    assert run.steps == total
    assert [epoch.step for epoch in run.epochs] == steps
    assert [epoch.epoch for epoch in run.epochs] == list(range(1, len(steps) + 1))
    assert seen == run.epochs


def test_every_epoch_is_validated_with_the_weights_of_its_end(settings, tiny_row, train_and_validation) -> None:
    model, (train_split, validation) = network(tiny_row), train_and_validation
    again: list[tuple[float, float]] = []
    run = training.train(
        model, train_split, validation, settings, seed=0, length=Length(steps=14),
        after_epoch=lambda epoch: again.append(task.evaluate(model, validation)),
    )  # fmt: skip
    assert [(epoch.validation_loss, epoch.validation_accuracy) for epoch in run.epochs] == again
    assert len(set(again)) == 3
    assert model.training


def test_a_loss_that_is_not_finite_ends_it(settings, tiny_row, train_and_validation) -> None:
    train_split, validation = train_and_validation
    broken = dataclasses.replace(train_split, mean=train_split.mean * math.nan)
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 1; lower learning_rate \(0.004\) or set grad"):
        training.train(network(tiny_row), broken, validation, settings, seed=0, length=Length(steps=12))


# What it costs


def test_flops_of_a_fixed_network(settings, tiny_row, train_and_validation) -> None:
    model = network(tiny_row)
    cost = count(model, torch.zeros(1, 3, 8, 8))
    run = training.train(model, *train_and_validation, settings, seed=0, length=Length(steps=8))
    assert run.flops == 8 * 16 * cost.training
    assert [epoch.flops for epoch in run.epochs] == [6 * 16 * cost.training, 8 * 16 * cost.training]
    assert {epoch.parameters for epoch in run.epochs} == {cost.parameters}


def costs(event: dict) -> tuple[Cost, Cost]:
    return Cost(**event["before"]), Cost(**event["after"])


def test_flops_of_a_growing_network(settings, tiny_row, train_and_validation) -> None:
    growers: list[growing.EngineGrower] = []
    length = Length(steps=10)
    make = grower(growth(*after(10, 2, 7)), train_and_validation[0], length)
    assert make is not None

    def making(*arguments) -> growing.EngineGrower:
        growers.append(make(*arguments))
        return growers[-1]

    run = training.train(
        network(tiny_row, "start"), *train_and_validation, settings, seed=0, length=length, grower=making
    )
    (grew,) = growers
    assert [event["step"] for event in run.events] == [2, 7]
    (first, between), (second, last) = (costs(event) for event in run.events)
    assert first.training < between.training == second.training < last.training
    steps = 2 * first.training + 5 * second.training + 3 * last.training
    assert run.flops == 16 * steps + grew.flops
    assert grew.flops > 32 * (first.training + second.training)
    assert run.epochs[-1].flops == run.flops
    assert [epoch.parameters for epoch in run.epochs] == [between.parameters, last.parameters]
    # The engine counts as the loop does.
    assert grew.engine.spent == run.flops


def test_a_run_of_flops_takes_the_steps_that_it_can_pay(settings, tiny_row, train_and_validation) -> None:
    step = 16 * count(network(tiny_row), torch.zeros(1, 3, 8, 8)).training

    def once(length: Length) -> tuple[training.Run, nn.Module]:
        model = network(tiny_row)
        return training.train(model, *train_and_validation, settings, seed=0, length=length), model

    (by_steps, one), (by_flops, other) = once(Length(steps=8)), once(Length(flops=8 * step))
    assert by_flops.steps == 8 and by_flops.flops == by_steps.flops
    assert [e.learning_rate for e in by_flops.epochs] == pytest.approx([e.learning_rate for e in by_steps.epochs])
    torch.testing.assert_close(one.state_dict(), other.state_dict())
    assert once(Length(flops=8 * step - 1))[0].steps == 7
    assert once(Length(flops=1))[0].steps == 1


def test_a_growing_run_of_flops_spends_no_more(settings, tiny_row, train_and_validation) -> None:
    step = 16 * count(network(tiny_row, "start"), torch.zeros(1, 3, 8, 8)).training
    length = Length(flops=60 * step)
    run = training.train(
        network(tiny_row, "start"), *train_and_validation, settings, seed=0, length=length,
        grower=grower(growth(0.1, 0.4), train_and_validation[0], length),
    )  # fmt: skip
    last = 16 * costs(run.events[-1])[1].training
    assert last > step
    assert length.total - last < run.flops <= length.total
    # The schedule ends where the FLOPs do.
    assert 0 < run.epochs[-1].learning_rate < 0.1 * settings.learning_rate


@pytest.mark.parametrize("given", [{}, {"steps": 1, "flops": 1}])
def test_a_length_is_of_one_kind(given: dict) -> None:
    with pytest.raises(ValueError, match="in steps .* or in FLOPs .*: one of them"):
        Length(**given)


def test_a_grower_is_asked_and_obeyed(settings, tiny_row, train_and_validation) -> None:
    """Told how far the run is and how it does; its factor is the optimizer's; what it changes costs at once."""
    told: list[tuple] = []
    losses: list[float] = []
    costs: list[int] = []

    class Widening:
        events, start_widths, flops = [{"entries": ()}], {"0": 4}, 1000

        def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            self.model, self.optimizer = model, optimizer

        def after_step(self, done: float, loss: Tensor, num_samples: int) -> bool:
            assert not loss.requires_grad
            losses.append(loss.item())
            told.append((done, num_samples, self.optimizer.param_groups[0]["lr"]))
            return False

        def after_epoch(self, validation_loss: float) -> bool:
            told.append((validation_loss,))
            split = train_and_validation[0]
            apply(self.model, Divide("0", (0, 1)), split.batch(torch.arange(8))[0], [self.optimizer])
            costs.append(count(self.model, torch.zeros(1, 3, 8, 8)).training)
            return True

        def learning_rate_factor(self) -> float:
            return 0.5

    model = network(tiny_row)
    before = count(model, torch.zeros(1, 3, 8, 8)).training
    run = training.train(model, *train_and_validation, settings, seed=0, length=Length(steps=8), grower=Widening)
    rates = [training.learning_rate(settings, step, 1, 8) / 2 for step in range(8)]
    steps = [((step + 1) / 8, 16, rate) for step, rate in enumerate(rates)]
    assert told == [
        *steps[:6],
        (run.epochs[0].validation_loss,),
        *steps[6:],
        (run.epochs[1].validation_loss,),
    ]
    of_epochs = [sum(losses[:6]) / 6, sum(losses[6:]) / 2]
    assert of_epochs == pytest.approx([epoch.train_loss for epoch in run.epochs])
    assert run.events == Widening.events and run.start_widths == Widening.start_widths
    assert before < costs[0]
    assert run.flops == 16 * (6 * before + 2 * costs[0]) + 1000


# What decides its bits


@pytest.mark.parametrize("arm, grows", [("baseline", False), ("start", True)])
def test_the_same_seed_gives_the_same_bits(settings, tiny_row, train_and_validation, arm: str, grows: bool) -> None:
    def once(seed: int) -> tuple[nn.Module, training.Run]:
        model = network(tiny_row, arm)
        policy, length = growth(*after(9, 2, 7)) if grows else None, Length(steps=9)
        return model, training.train(
            model,
            *train_and_validation,
            settings,
            seed=seed,
            length=length,
            grower=grower(policy, train_and_validation[0], length),
        )

    # Nothing comes from the global generator.
    torch.manual_seed(1)
    (one, first), (other, second) = once(3), once(3)
    assert same_bits(one, other)
    assert first == second
    different, _ = once(4)
    assert not same_bits(one, different)


class Ended(Exception):
    """In place of a process that is killed."""


@pytest.mark.parametrize("arm, grows", [("baseline", False), ("start", True)])
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_an_ended_run_goes_on_with_the_same_bits(
    settings, tiny_row, train_and_validation, tmp_path, arm: str, grows: bool, optimizer: str
) -> None:
    """Ended in every epoch in turn, before and after events: each time one more epoch is kept."""
    settings = dataclasses.replace(settings, optimizer=optimizer)
    file = tmp_path / "runs" / "checkpoint.pt"

    def once(checkpoint: Path | None, last: int = 99) -> tuple[nn.Module, training.Run]:
        def end(epoch: training.Epoch) -> None:
            seen.append(epoch.epoch)
            if epoch.epoch == last:
                raise Ended

        model = network(tiny_row, arm)
        policy, length = growth(*after(27, 2, 14)) if grows else None, Length(steps=27)
        return model, training.train(
            model, *train_and_validation, settings, seed=3, length=length,
            grower=grower(policy, train_and_validation[0], length), checkpoint=checkpoint, after_epoch=end,
        )  # fmt: skip

    seen: list[int] = []
    whole, expected = once(None)
    seen.clear()
    for last in (1, 2, 3, 4):
        torch.manual_seed(last)
        with pytest.raises(Ended):
            once(file, last)
    model, run = once(file)
    assert seen == [1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert same_bits(whole, model)
    assert run == expected
    assert len(run.events) == (2 if grows else 0)
    assert [item.name for item in file.parent.iterdir()] == ["checkpoint.pt"]


def test_an_ended_run_that_was_stopped_early_stays_stopped(settings, tiny_row, train_and_validation, tmp_path) -> None:
    stopping = dataclasses.replace(settings, early_stopping=True, patience=1, learning_rate=50.0)
    file = tmp_path / "checkpoint.pt"

    def once() -> training.Run:
        return training.train(
            network(tiny_row), *train_and_validation, stopping, seed=0, length=Length(steps=600), checkpoint=file
        )

    first = once()
    assert len(first.epochs) < 100
    assert once() == first


def test_every_arm_sees_the_same_batches(settings, tiny_row, train_and_validation, monkeypatch) -> None:
    real = task.Split.batch

    def batches(arm: str, policy: Policy | None) -> list[Tensor]:
        seen: list[Tensor] = []
        length = Length(steps=14)

        def recording(self, rows, generator=None, flip=False):
            images, labels = real(self, rows, generator, flip)
            if generator is not None:
                seen.append(images.clone())
            return images, labels

        with monkeypatch.context() as patch:
            patch.setattr(task.Split, "batch", recording)
            training.train(
                network(tiny_row, arm), *train_and_validation, settings, seed=5, length=length,
                grower=grower(policy, train_and_validation[0], length),
            )  # fmt: skip
        return seen

    fixed, grown = batches("baseline", None), batches("start", growth(*after(14, 2, 7)))
    assert len(fixed) == len(grown) == 14
    assert all(torch.equal(one, other) for one, other in zip(fixed, grown, strict=True))
    assert not torch.equal(fixed[0], fixed[6])


def test_a_pass_shows_every_image_once(data: splits.DataSet) -> None:
    split = split_of(data, "train")
    shown = [
        labels
        for _, labels in dataclasses.replace(split, labels=torch.arange(len(split))).epoch(
            20, torch.Generator().manual_seed(0), torch.Generator(), False
        )
    ]
    assert [len(batch) for batch in shown] == [20] * 4
    assert len(torch.cat(shown).unique()) == 80


# Batches


def augmented(split: task.Split, rows: Tensor, generator: torch.Generator, flip: bool) -> np.ndarray:
    """Crops, flips and normalises image by image and pixel by pixel: `num x channels x height x width`."""
    num, pad = len(rows), split.padding
    images, mean, deviation = (tensor.numpy() for tensor in (split.images, split.mean, split.deviation))
    height, width = (extent - 2 * pad for extent in images.shape[1:3])
    corners = torch.randint(2 * pad + 1, (2, num, 1), generator=generator)
    draws = torch.rand(num, 1, generator=generator) if flip else torch.ones(num, 1)
    result = np.empty((num, images.shape[3], height, width), np.float32)
    for number, row in enumerate(rows.tolist()):
        top, left = int(corners[0, number]), int(corners[1, number])
        for y in range(height):
            for x in range(width):
                from_x = left + (width - 1 - x if draws[number] < 0.5 else x)
                pixel = images[row, top + y, from_x].astype(np.float32)
                result[number, :, y, x] = (pixel - mean) / deviation
    return result


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_against_a_loop_over_pixels(data: splits.DataSet, padding: int, flip: bool) -> None:
    split = split_of(data, "train", padding)
    rows = torch.tensor([5, 0, 95, 5, 17, 31, 44, 60])
    mine, theirs = (torch.Generator().manual_seed(9) for _ in range(2))
    for _ in range(2):
        images, labels = split.batch(rows, mine, flip)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(labels, split.labels[rows])
        if padding or flip:
            assert np.array_equal(images.numpy(), augmented(split, rows, theirs, flip))
        else:
            assert np.array_equal(images.numpy(), augmented(split, rows, torch.Generator(), flip))
    # The same draws and no more: the next batch starts from the same place of the stream.
    assert torch.equal(mine.get_state(), theirs.get_state())


def test_augmentation_does_something(data: splits.DataSet) -> None:
    split, rows = split_of(data, "train", 2), torch.zeros(1000, dtype=torch.int64)
    images, _ = split.batch(rows, torch.Generator().manual_seed(0), flip=True)
    # 5 x 5 places, mirrored or not.
    assert len(images.flatten(1).unique(dim=0)) == 50


def test_normalisation(data: splits.DataSet) -> None:
    split = split_of(data, "train", padding=2)
    images, labels = split.batch(torch.arange(len(split)))
    raw = data.train.images.astype(np.float64)
    expected = (raw - raw.mean(axis=(0, 1, 2))) / raw.std(axis=(0, 1, 2))
    assert images.numpy().transpose(0, 2, 3, 1) == pytest.approx(expected, abs=1e-5)
    assert torch.equal(labels, torch.from_numpy(data.train.labels))


def test_the_test_split_is_normalised_with_the_training_images(data: splits.DataSet) -> None:
    split = split_of(data, "test")
    images, _ = split.batch(torch.arange(1))
    raw = data.train.images.astype(np.float64)
    expected = (data.test.images[0] - raw.mean(axis=(0, 1, 2))) / raw.std(axis=(0, 1, 2))
    assert images[0].numpy().transpose(1, 2, 0) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 60, 500])
@pytest.mark.parametrize("mode", [False, True])
def test_evaluate_against_float64(data: splits.DataSet, tiny_row: Row, batch_size: int, mode: bool) -> None:
    split, model = split_of(data, "test"), network(tiny_row).train(mode)
    before = copy.deepcopy(model)
    loss, accuracy = task.evaluate(model, split, batch_size)
    double = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        logits = double(split.batch(torch.arange(len(split)))[0].double()).numpy()
    labels = data.test.labels
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    chosen = (shifted / shifted.sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]
    assert loss == pytest.approx(-np.log(chosen).mean(), rel=1e-5)
    assert accuracy == (logits.argmax(axis=1) == labels).mean()
    assert model.training is mode
    assert same_bits(model, before)


# A peer that was written without looking at the loop


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
@pytest.mark.parametrize("clipping", [0.0, 0.5])
def test_a_bare_loop_gives_the_same_bits(
    settings, tiny_row, train_and_validation, optimizer: str, clipping: float
) -> None:
    train_split, validation = train_and_validation
    settings = dataclasses.replace(settings, optimizer=optimizer, gradient_clipping=clipping, schedule="constant")
    seed, steps = 11, 8
    model = network(tiny_row)
    run = training.train(model, train_split, validation, settings, seed=seed, length=Length(steps=steps))

    bare = network(tiny_row)
    if optimizer == "AdamW":
        updates = torch.optim.AdamW(bare.parameters(), lr=0.004, weight_decay=0.05, fused=True)
    else:
        updates = torch.optim.SGD(
            bare.parameters(), lr=0.004, weight_decay=0.05, momentum=0.9, nesterov=True, fused=True
        )
    order, crops = torch.Generator().manual_seed(2 * seed), torch.Generator().manual_seed(2 * seed + 1)
    bare.train()
    losses = []
    for step in range(steps):
        if step % PER_EPOCH == 0:
            shuffled = torch.randperm(96, generator=order)
        rows = shuffled[16 * (step % PER_EPOCH) :][:16]
        images = torch.from_numpy(augmented(train_split, rows, crops, flip=True))
        images = images.to(memory_format=torch.channels_last)
        loss = nn.functional.cross_entropy(bare(images), train_split.labels[rows])
        updates.zero_grad()
        loss.backward()
        if clipping:
            nn.utils.clip_grad_norm_(bare.parameters(), clipping)
        updates.step()
        losses.append(loss.item())
    assert same_bits(model, bare)
    assert run.epochs[0].train_loss == pytest.approx(np.mean(losses[:PER_EPOCH]), rel=1e-6)
    assert run.epochs[1].train_loss == pytest.approx(np.mean(losses[PER_EPOCH:]), rel=1e-6)


def test_a_trial_is_deterministic_without_the_compiler() -> None:
    code = (
        "import sys, torch; from stages import trial; from stages.settings import Execution; "
        "trial.settle(Execution(cpu_caps=True, threads=1, device='cpu', precision='float32', keep_records=False)); "
        "print(torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(), "
        "'torch._inductor' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["True", "False", "False"]
