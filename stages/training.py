"""The one training loop: every arm of every comparison goes through it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from dnm import count
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


class Grower(Protocol):
    """What changes a network while it is trained."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it did so far, as plain values; `entries` are the edits of an event."""
        ...

    @property
    def start_widths(self) -> dict[str, int]:
        """The channel groups that the network had at first, and their widths."""
        ...

    @property
    def flops(self) -> int:
        """What its looking and checking cost so far."""
        ...

    def after_step(self, done: float, loss: torch.Tensor, num_samples: int) -> bool:
        """Called after every optimizer step; whether the network is another one now.

        Args:
            done: fraction of the run's length that is behind it.
            loss: of the step's batch.
            num_samples: of the batch.
        """
        ...

    def after_epoch(self, validation_loss: float) -> bool:
        """Called after every epoch; whether the network is another one now."""
        ...

    def learning_rate_factor(self) -> float:
        """What the schedule's learning rate is multiplied with in the next step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors from which `load_state_dict` goes on; weights and optimizer state are not in it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Gives the start network and its optimizer the shapes that they had; their own states are loaded after it."""
        ...


@dataclass
class Run:
    """What a training run leaves behind, the model aside."""

    epochs: list[Epoch] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    start_widths: dict[str, int] = field(default_factory=dict)
    flops: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Length:
    """How long a run is; exactly one of the two.

    Attributes:
        steps: optimizer steps.
        flops: counted training FLOPs, what a grower's looking and checking costs included.
    """

    steps: int | None = None
    flops: int | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.flops is None):
            raise ValueError(f"a run's length is given in steps ({self.steps}) or in FLOPs ({self.flops}): one of them")

    @property
    def total(self) -> int:
        """The length, in steps or FLOPs."""
        total = self.steps if self.flops is None else self.flops
        assert total is not None
        return total

    def position(self, steps: int, flops: int) -> int:
        """Where a run is that has taken so many steps and spent so many FLOPs."""
        return steps if self.flops is None else flops

    def step(self, flops: int) -> int:
        """How far the next step goes, which costs so many FLOPs."""
        return 1 if self.flops is None else flops


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


def learning_rate(settings: Training, position: int, step: int, total: int) -> float:
    """The learning rate of a step that goes from `position` to `position + step` of `total`, in steps or FLOPs."""
    if settings.schedule == "constant":
        return settings.learning_rate
    done = position / total
    rise = (position + step) / max(float(step), settings.warmup * total)
    fall = (1.0 - done) / max(1.0 - settings.decay_from, step / total)
    return settings.learning_rate * min(1.0, rise, fall)


def train(
    model: nn.Module,
    train_split: task.Split,
    validation_split: task.Split,
    settings: Training,
    *,
    seed: int,
    length: Length,
    grower: Callable[[nn.Module, torch.optim.Optimizer], Grower] | None = None,
    precision: str = "float32",
    checkpoint: Path | None = None,
    after_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Run:
    """Trains `model` in place for the length of the run, or less where early stopping ends it.

    Args:
        model: the network, on its device.
        train_split: what it is trained on.
        validation_split: scored after every epoch.
        settings: the protocol; its epochs are not read here, as arms are compared at equal epochs or equal FLOPs.
        seed: seed of data order and augmentation, which are the same for every arm of that seed.
        length: of the run and of its schedule; a run of FLOPs takes the steps that it can pay, and one at least.
        grower: makes what changes the network in the run; None trains a fixed one.
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
    growing = grower(model, optimizer) if grower else None
    step_flops = _step_flops(model, train_split, settings)
    run = Run()
    best, waited = math.inf, 0
    if checkpoint is not None and checkpoint.exists():
        run, best, waited = _resume(checkpoint, model, optimizer, growing, (order, augmentation))
        step_flops = _step_flops(model, train_split, settings)
    autocast = (
        contextlib.nullcontext if precision == "float32" else lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    )

    def spent() -> int:
        return run.flops + (growing.flops if growing else 0)

    def position() -> int:
        return length.position(run.steps, spent())

    def goes_on() -> bool:
        return run.steps == 0 or position() + length.step(step_flops) <= length.total

    model.train()
    while goes_on() and not (settings.early_stopping and waited >= settings.patience):
        total_loss, in_epoch, rate = torch.zeros((), device=device), 0, 0.0
        for images, labels in train_split.epoch(settings.batch_size, order, augmentation, settings.flip):
            rate = learning_rate(settings, position(), length.step(step_flops), length.total)
            if growing:
                rate *= growing.learning_rate_factor()
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
            if growing and growing.after_step(position() / length.total, loss.detach(), len(images)):
                step_flops = _step_flops(model, train_split, settings)
            if not goes_on():
                break
        epoch = _finish_epoch(model, validation_split, run, spent(), rate, (total_loss / in_epoch).item(), autocast)
        after_epoch(epoch)
        if not math.isfinite(epoch.train_loss):
            raise FloatingPointError(
                f"the training loss is {epoch.train_loss} in epoch {epoch.epoch}; lower learning_rate "
                f"({settings.learning_rate}) or set gradient_clipping"
            )
        waited = 0 if epoch.validation_loss < best else waited + 1
        best = min(best, epoch.validation_loss)
        if growing and growing.after_epoch(epoch.validation_loss):
            step_flops = _step_flops(model, train_split, settings)
        if checkpoint is not None:
            _keep(checkpoint, model, optimizer, growing, (order, augmentation), run, best, waited)
    if growing:
        run.events, run.start_widths = growing.events, growing.start_widths
        run.flops += growing.flops
    return run


def _finish_epoch(model, split, run: Run, flops: int, rate: float, train_loss: float, autocast) -> Epoch:
    with autocast():
        validation_loss, accuracy = task.evaluate(model, split)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    number = len(run.epochs) + 1
    run.epochs.append(Epoch(number, run.steps, flops, rate, train_loss, validation_loss, accuracy, parameters))
    return run.epochs[-1]


def _keep(file: Path, model, optimizer, growing: Grower | None, generators, run: Run, best: float, waited: int) -> None:
    """Writes all that the next epoch depends on, atomically."""
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "grower": growing.state_dict() if growing else None,
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


def _resume(file: Path, model, optimizer, growing: Grower | None, generators) -> tuple[Run, float, int]:
    content = torch.load(file, weights_only=True, map_location="cpu")
    if growing:
        growing.load_state_dict(content["grower"])
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    for generator, state in zip(generators, content["generators"], strict=True):
        generator.set_state(state)
    torch.set_rng_state(content["random"])
    epochs = [Epoch(**values) for values in content["epochs"]]
    return Run(epochs, flops=content["flops"], steps=content["steps"]), content["best"], content["waited"]


def _step_flops(model: nn.Module, split: task.Split, settings: Training) -> int:
    size = [extent - 2 * split.padding for extent in split.images.shape[1:3]]
    return count(model, torch.zeros(1, split.images.shape[3], *size)).training * settings.batch_size
