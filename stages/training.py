"""The one training loop: every arm of every comparison goes through it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from dnm import Event, Growth, Morphogenesis, count
from stages.settings import Training
from stages.tasks import image_classification as task


@dataclass(frozen=True)
class Epoch:
    """The state of a run at the end of an epoch.

    Attributes:
        epoch: from 1.
        step: optimizer steps so far.
        flops: training FLOPs so far, probes and checks of edits included; validation is not counted in any arm.
        learning_rate: of the last step.
        train_loss: mean over the epoch's steps, nats.
        validation_loss: nats.
        validation_accuracy: fraction.
        parameters: trainable scalars.
    """

    epoch: int
    step: int
    flops: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    parameters: int


@dataclass
class Run:
    """What a training run leaves behind, the model aside."""

    epochs: list[Epoch] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    flops: int = 0
    steps: int = 0


def make_optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """The optimizer that the settings name, over all parameters."""
    # The fused kernels take square roots in ATen; the others take them in MKL's vector library, whose last bit differs
    # between makers of CPUs.
    if settings.optimizer == "AdamW":
        return torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
    return torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        momentum=0.9,
        nesterov=True,
        fused=True,
    )


def learning_rate(settings: Training, step: int, total_steps: int) -> float:
    """The learning rate of step `step` (from 0) of `total_steps`."""
    if settings.schedule == "constant":
        return settings.learning_rate
    done = step / total_steps
    rise = (step + 1) / max(1.0, settings.warmup * total_steps)
    fall = (1.0 - done) / max(1.0 - settings.decay_from, 1.0 / total_steps)
    return settings.learning_rate * min(1.0, rise, fall)


def train(
    model: nn.Module,
    train_split: task.Split,
    validation_split: task.Split,
    settings: Training,
    *,
    seed: int,
    total_steps: int,
    growth: Growth | None = None,
    probe_size: int = 256,
    precision: str = "float32",
    checkpoint: Path | None = None,
    after_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Run:
    """Trains `model` in place for `total_steps` optimizer steps, or fewer where early stopping ends it.

    Args:
        model: the network, on its device.
        train_split: what it is trained on.
        validation_split: scored after every epoch.
        settings: the protocol; its epochs are not read here, as arms are compared at equal epochs or equal FLOPs.
        seed: seed of data order and augmentation, which are the same for every arm of that seed.
        total_steps: length of the run and of its schedule.
        growth: when and how to grow; None trains a fixed network.
        probe_size: training samples that the detector looks at and that edits are checked on.
        precision: "float32", or "bfloat16" for autocast.
        checkpoint: file that is written after every epoch; where it exists, the run goes on from it, bit for bit. It
            must come from the same arguments.
        after_epoch: called with every finished epoch.

    Returns:
        Curves, events and counted cost.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    order = torch.Generator().manual_seed(2 * seed)
    augmentation = torch.Generator().manual_seed(2 * seed + 1)
    device = train_split.images.device
    optimizer = make_optimizer(model, settings)
    probe, probe_labels = train_split.batch(torch.arange(min(probe_size, len(train_split)), device=device))
    engine = Morphogenesis(model, growth, probe, optimizer) if growth else None
    step_flops = _step_flops(model, train_split, settings)
    run = Run()
    best, waited = math.inf, 0
    if checkpoint is not None and checkpoint.exists():
        run, best, waited = _resume(checkpoint, model, optimizer, engine, (order, augmentation))
        step_flops = _step_flops(model, train_split, settings)
    autocast = (
        contextlib.nullcontext if precision == "float32" else lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    )
    model.train()
    while run.steps < total_steps and not (settings.early_stopping and waited >= settings.patience):
        total_loss, in_epoch, rate = torch.zeros((), device=device), 0, 0.0
        for images, labels in train_split.epoch(settings.batch_size, order, augmentation, settings.flip):
            rate = learning_rate(settings, run.steps, total_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with autocast():
                loss = task.loss(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            if settings.gradient_clipping:
                nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clipping)
            optimizer.step()
            total_loss += loss.detach()
            run.steps += 1
            in_epoch += 1
            run.flops += step_flops
            if engine and engine.step(lambda: task.loss(model(probe), probe_labels)):
                step_flops = _step_flops(model, train_split, settings)
            if run.steps == total_steps:
                break
        epoch = _finish_epoch(model, validation_split, run, engine, rate, (total_loss / in_epoch).item(), autocast)
        after_epoch(epoch)
        if not math.isfinite(epoch.train_loss):
            raise FloatingPointError(
                f"the training loss is {epoch.train_loss} in epoch {epoch.epoch}; lower learning_rate "
                f"({settings.learning_rate}) or set gradient_clipping"
            )
        waited = 0 if epoch.validation_loss < best else waited + 1
        best = min(best, epoch.validation_loss)
        if checkpoint is not None:
            _keep(checkpoint, model, optimizer, engine, (order, augmentation), run, best, waited)
    if engine:
        run.events = engine.events
        run.flops += engine.flops
    return run


def _finish_epoch(model, split, run: Run, engine, rate: float, train_loss: float, autocast) -> Epoch:
    with autocast():
        validation_loss, accuracy = task.evaluate(model, split)
    flops = run.flops + (engine.flops if engine else 0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    number = len(run.epochs) + 1
    run.epochs.append(Epoch(number, run.steps, flops, rate, train_loss, validation_loss, accuracy, parameters))
    return run.epochs[-1]


def _keep(file: Path, model, optimizer, engine, generators, run: Run, best: float, waited: int) -> None:
    """Writes all that the next epoch depends on, atomically."""
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "engine": engine.state_dict() if engine else None,
        "generators": [generator.get_state() for generator in generators],
        "random": torch.get_rng_state(),
        "epochs": [asdict(epoch) for epoch in run.epochs],
        "flops": run.flops,
        "steps": run.steps,
        "best": best,
        "waited": waited,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    torch.save(content, partial)
    partial.replace(file)


def _resume(file: Path, model, optimizer, engine, generators) -> tuple[Run, float, int]:
    content = torch.load(file, weights_only=True, map_location="cpu")
    if engine:
        engine.load_state_dict(content["engine"])
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    for generator, state in zip(generators, content["generators"], strict=True):
        generator.set_state(state)
    torch.set_rng_state(content["random"])
    epochs = [Epoch(**values) for values in content["epochs"]]
    return Run(epochs, [], content["flops"], content["steps"]), content["best"], content["waited"]


def _step_flops(model: nn.Module, split: task.Split, settings: Training) -> int:
    size = [extent - 2 * split.padding for extent in split.images.shape[1:3]]
    return count(model, torch.zeros(1, split.images.shape[3], *size)).training * settings.batch_size
