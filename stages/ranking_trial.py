"""What every edit that could be made to a half-trained network would really gain: one state, all candidates."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dnm import Policy, apply, count, trace
from dnm.choice import Candidate, candidates, with_new_gradients
from dnm.detect import bottleneck, probe
from dnm.policy import OPERATORS, THEORIES
from dnm.sandbox import Sandbox
from stages import training, trial
from stages.data import splits
from stages.tasks import image_classification as task

# What divisions add, as fractions of a group's width.
SIZES = (0.25, 1.0)
# The rate rises over so many steps at first.
WARMUP = 100
# Steps after which a short trial is over.
SHORT = 40


@dataclass(frozen=True)
class Job(trial.Job):
    """A state of the start network, and how long it is trained from there.

    Attributes:
        moment: steps that the start network is trained before.
        steps: of each continuation, with the learning rate falling to zero.
        continuations: how often each candidate is trained from the state, each time on other batches.
    """

    moment: int = 0
    steps: int = 0
    continuations: int = 2


def run(job: Job) -> dict[str, Any]:
    """Trains the start network, looks at it, and trains it on with every candidate and without any.

    Returns:
        Plain values: `arm` and `seed` of the job; `samples` seen, `loss` (training, nats) and `parameters` at the
        state; `plain`, validation losses without an edit by continuation; `candidates`, each with `operator`, `place`,
        `units` (of a division), `covariates`, `growth`, `added_parameters`, `added_flops`, `gradient_norm` and
        `new_gradient` (None where it has none), `gains` (validation loss without the edit minus with it, nats, by
        continuation) and `short_gains` (the same of the training loss over the first steps); and `machine`.
    """
    started = time.perf_counter()
    trial.settle(job.execution)
    data = splits.load(Path(job.data))
    train_split, validation_split = (trial.split_of(data, name, job) for name in ("train", "validation"))
    model = trial.model_of(job, data).to(job.execution.device)
    optimizer = training.make_optimizer(model, job.settings.training)
    start = Batches(train_split, job, seed=job.seed)
    rate = job.settings.training.learning_rate
    losses = train_on(model, optimizer, start, job.moment, lambda step: rate * min(1.0, (step + 1) / WARMUP))
    batch = torch.arange(min(job.settings.dnm.probe_size, len(train_split)), device=train_split.images.device)
    inputs, labels = train_split.batch(batch)
    found = _candidates(model, inputs, labels, job)
    plain: list[float] = []
    gains: list[list[float]] = [[] for _ in found]
    short_gains: list[list[float]] = [[] for _ in found]
    for number in range(job.continuations):
        seed = 1000 * (job.seed + 1) + number

        def outcome(item: Candidate | None, seed: int = seed) -> tuple[float, float]:
            edited = copy.deepcopy(model)
            optimizer_ = training.make_optimizer(edited, job.settings.training)
            optimizer_.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            if item is not None:
                apply(edited, item.edit, inputs, [optimizer_])
            steps = Batches(train_split, job, seed=seed)
            losses = train_on(edited, optimizer_, steps, job.steps, lambda step: rate * (1.0 - step / job.steps))
            return task.evaluate(edited, validation_split)[0], sum(losses[:SHORT]) / len(losses[:SHORT])

        without, short = outcome(None)
        plain.append(without)
        for place, item in enumerate(found):
            with_it, short_with = outcome(item)
            gains[place].append(without - with_it)
            short_gains[place].append(short - short_with)
    return {
        "arm": job.arm,
        "seed": job.seed,
        "samples": job.moment * job.settings.training.batch_size,
        "loss": sum(losses[-SHORT:]) / len(losses[-SHORT:]),
        "parameters": count(model, inputs).parameters,
        "plain": plain,
        "candidates": [
            {
                "operator": item.terms.operator,
                "place": item.place,
                "units": len(getattr(item.edit, "units", ())),
                "covariates": {name: float(f"{value:.6g}") for name, value in item.terms.covariates.items()},
                "growth": float(f"{item.terms.growth:.6g}"),
                "added_parameters": item.added_parameters,
                "added_flops": item.added_flops,
                "gradient_norm": _figure(item, "gradient_norm"),
                "new_gradient": _figure(item, "new_gradient"),
                "gains": gains[place],
                "short_gains": short_gains[place],
            }
            for place, item in enumerate(found)
        ],
        "machine": {"seconds": time.perf_counter() - started},
    }


class Batches:
    """Batches without end, the same for the same seed."""

    def __init__(self, split: task.Split, job: trial.Job, *, seed: int) -> None:
        self._split, self._settings = split, job.settings.training
        self._order = torch.Generator().manual_seed(2 * seed)
        self._augmentation = torch.Generator().manual_seed(2 * seed + 1)

    def __iter__(self):
        while True:
            yield from self._split.epoch(
                self._settings.batch_size, self._order, self._augmentation, self._settings.flip
            )  # fmt: skip


def train_on(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    steps: int,
    rate: Callable[[int], float],
) -> list[float]:
    """Trains for so many steps; the loss of each."""
    model.train()
    losses = []
    for step, (images, labels) in enumerate(batches):
        if step == steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        loss = task.loss(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def _candidates(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, job: Job) -> list[Candidate]:
    """Every edit of every operator and size, with covariates over all of them."""

    def loss() -> torch.Tensor:
        return task.loss(model(inputs), labels)

    seen = probe.look(model, loss, seed=job.seed)
    measured = bottleneck.measure(seen, THEORIES, labels)
    graph, cost = trace(model, inputs), count(model, inputs)
    sandbox = Sandbox(model, graph, inputs)

    def looked_at(policy: Policy) -> list[Candidate]:
        found = candidates(model, graph, seen, measured, inputs, sandbox, cost, policy, seed=job.seed)
        return with_new_gradients(found, model, graph, loss, inputs)

    found: list[Candidate] = []
    for size in SIZES:
        policy = Policy(operators=("Divide",), added_fraction=size, seed=job.seed)
        found += looked_at(policy)
    others = tuple(name for name in OPERATORS if name != "Divide")
    policy = Policy(operators=others, seed=job.seed)
    found += looked_at(policy)
    rows = bottleneck.covariates([item.figures for item in found], THEORIES)
    return [
        replace(item, terms=replace(item.terms, covariates=row)) for item, row in zip(found, rows, strict=True)
    ]  # fmt: skip


def _figure(item: Candidate, name: str) -> float | None:
    figure = item.figures.get(name)
    return None if figure is None else float(f"{figure.value:.6g}")
