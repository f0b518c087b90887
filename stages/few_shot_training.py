"""Training of few-shot learners, fixed or growing: on episodes, or on batches of all training classes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dnm import count
from dnm.cost import Flops
from stages import episodes
from stages import few_shot_methods as methods
from stages.episodes import Form
from stages.settings import FewShot, Training
from stages.tasks import image_classification as task
from stages.training import Grower, Length, learning_rate, make_optimizer

# The part of a run, its end, that its training loss is a mean over.
LAST = 0.1

MakeGrower = Callable[[nn.Module, torch.optim.Optimizer], Grower]


@dataclass
class Learning:
    """What is minimised, step by step.

    Attributes:
        loss: of the next step, as a function of the network's parameters, and the number of images that it was shown.
        flops: FLOPs of such a step with the network as it is.
    """

    loss: Callable[[], tuple[Tensor, int]]
    flops: Callable[[], int]


@dataclass
class Taught:
    """What a training leaves behind, the network aside.

    Attributes:
        steps: of the optimizer.
        flops: counted, a grower's looking and checking included.
        loss: mean over the last steps, nats.
        events: of the grower.
        start_widths: of the grower.
    """

    steps: int = 0
    flops: int = 0
    loss: float = math.nan
    events: list[dict[str, Any]] = field(default_factory=list)
    start_widths: dict[str, int] = field(default_factory=dict)


def episodic_steps(settings: FewShot, split: task.Split) -> int:
    """Episodes that prototypical networks and dnm are trained on: their images are the epochs' in number."""
    meta = settings.meta
    return settings.training.epochs * len(split) // (meta.ways * (meta.shots + meta.queries))


def episode_flops(settings: FewShot, model: nn.Module, split: task.Split) -> int:
    """FLOPs of one step of a prototypical network; distances, which cost little, are not counted."""
    meta = settings.meta
    return count(model, _example(split)).training * meta.ways * (meta.shots + meta.queries)


def prototypical(settings: FewShot, model: nn.Module, split: task.Split, seed: int) -> Learning:
    """A prototypical network on episodes of the training split, one a step.

    Args:
        settings: form of the episodes, and what is done to their images.
        model: the embedding, edited in place where it grows.
        split: the training split.
        seed: of the episodes and of what is done to their images: the same for every arm.
    """
    meta = settings.meta
    form = Form(ways=meta.ways, shots=meta.shots, queries=meta.queries)
    shown = _episodes(settings, split, form, seed)

    def loss() -> tuple[Tensor, int]:
        images = next(shown)
        return methods.prototypical_loss(*form.parts(model(images))), len(images)

    return Learning(loss, lambda: episode_flops(settings, model, split))


def maml(settings: FewShot, network: nn.Module, split: task.Split, seed: int) -> Learning:
    """What MAML starts from, on episodes with as many classes as those that it is tested on, one a step.

    Args:
        settings: see `prototypical`.
        network: images to as many logits as an episode has classes.
        split: see `prototypical`.
        seed: see `prototypical`.
    """
    form = Form(ways=settings.ways, shots=settings.meta.shots, queries=settings.meta.queries)
    shown = _episodes(settings, split, form, seed)

    def loss_of(images: Tensor) -> Tensor:
        return methods.maml_loss(
            network,
            *form.parts(images),
            steps=settings.maml.steps,
            rate=settings.maml.rate,
            second_order=settings.maml.second_order,
        )

    def loss() -> tuple[Tensor, int]:
        images = next(shown)
        return loss_of(images), len(images)

    # Operation by operation, as no formula knows of steps within steps; every step is alike.
    with Flops() as counter:
        blank = _example(split).expand(form.ways * form.drawings, -1, -1, -1).to(split.images.device)
        torch.autograd.grad(loss_of(blank), list(network.parameters()))
    return Learning(loss, lambda: counter.flops)


def supervised(settings: FewShot, network: nn.Module, split: task.Split, seed: int) -> Learning:
    """A classifier of the training classes, on batches.

    Args:
        settings: size of the batches, and what is done to their images.
        network: images to as many logits as there are training classes.
        split: the training split.
        seed: of the order and of what is done to the images.

    Raises:
        ValueError: there are fewer training images than a batch takes.
    """
    training = settings.training
    if training.batch_size > len(split):
        raise ValueError(
            f"few-shot learning: batch_size is {training.batch_size}, expected at most the {len(split)} training images"
        )
    order, augmentation = (torch.Generator().manual_seed(2 * seed + offset) for offset in (0, 1))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from split.epoch(training.batch_size, order, augmentation, training.flip)

    shown = batches()

    def loss() -> tuple[Tensor, int]:
        images, labels = next(shown)
        return task.loss(network(images), labels), len(images)

    return Learning(loss, lambda: count(network, _example(split)).training * training.batch_size)


def train(
    model: nn.Module,
    learning: Learning,
    settings: Training,
    *,
    length: Length,
    grower: MakeGrower | None = None,
    precision: str = "float32",
) -> Taught:
    """Trains `model` in place; a run of FLOPs takes the steps that it can pay, and one at least.

    Args:
        model: the network, on its device.
        learning: what is minimised.
        settings: optimizer and schedule; epochs and batches are not read here.
        length: of the run and of its schedule.
        grower: makes what changes the network in the run; None trains a fixed one.
        precision: "float32", or "bfloat16" for autocast.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    device = next(model.parameters()).device
    optimizer = make_optimizer(model, settings)
    growing = grower(model, optimizer) if grower else None
    autocast = (
        contextlib.nullcontext if precision == "float32" else lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    )
    taught, step_flops = Taught(), learning.flops()
    losses: list[tuple[float, Tensor]] = []

    def position() -> int:
        return length.position(taught.steps, taught.flops + (growing.flops if growing else 0))

    model.train()
    while taught.steps == 0 or position() + length.step(step_flops) <= length.total:
        rate = learning_rate(settings, position(), length.step(step_flops), length.total)
        for group in optimizer.param_groups:
            group["lr"] = rate * (growing.learning_rate_factor() if growing else 1.0)
        with autocast():
            loss, num = learning.loss()
        optimizer.zero_grad()
        loss.backward()
        if settings.gradient_clipping:
            nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clipping)
        optimizer.step()
        taught.steps += 1
        taught.flops += step_flops
        done = position() / length.total
        losses.append((done, loss.detach()))
        if growing and growing.after_step(done, loss.detach(), num):
            step_flops = learning.flops()
    last = [loss for done, loss in losses if done > 1.0 - LAST] or [losses[-1][1]]
    taught.loss = torch.stack(last).mean().item()
    if not math.isfinite(taught.loss):
        raise FloatingPointError(
            f"the training loss is {taught.loss} after {taught.steps} steps; lower learning_rate "
            f"({settings.learning_rate}) or set gradient_clipping"
        )
    if growing:
        taught.events, taught.start_widths = growing.events, growing.start_widths
        taught.flops += growing.flops
    return taught


def _episodes(settings: FewShot, split: task.Split, form: Form, seed: int) -> Iterator[Tensor]:
    """The images of episodes without end, those of the support before the queries."""
    order, augmentation = (torch.Generator().manual_seed(2 * seed + offset) for offset in (0, 1))
    for episode in episodes.sample(episodes.rows_of_classes(split.labels.cpu()), form, order):
        yield split.batch(episode.rows.to(split.images.device), augmentation, settings.training.flip)[0]


def _example(split: task.Split) -> Tensor:
    """One blank image as networks take them."""
    height, width = (extent - 2 * split.padding for extent in split.images.shape[1:3])
    return torch.zeros(1, split.images.shape[3], height, width)
