"""One trial: one arm, one seed, from data to figures. Its result depends on the job alone."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.utils.deterministic
from torch import nn

from dnm import count
from stages.data import splits
from stages.settings import Execution, Row
from stages.tasks import image_classification as task
from stages.training import Length, Run, train


@dataclass(frozen=True)
class Job:
    """What a trial is to do.

    Attributes:
        row: name of the row.
        settings: the row's settings.
        execution: how to run.
        data: path of the prepared data.
        arm: name of the arm.
        seed: seed of weights, data order and augmentation.
        grown: whether the network changes while it is trained.
        plan: of a control of where it does: positions in the run, the number of parameters from then on, and what is
            inserted then, as pairs of operator and place; the arm is the rule, see `stages.planned`.
        widths: architecture; None takes the arm's own from the settings.
        branches: that the network has besides, see `stages.branches`.
        flops: training FLOPs to spend; None trains for the epochs of the settings.
        checkpoint: file from which an unfinished trial goes on; empty starts from nothing and keeps nothing.
    """

    row: str
    settings: Row
    execution: Execution
    data: str
    arm: str
    seed: int
    grown: bool = False
    plan: tuple[tuple[float, int, tuple[tuple[str, str], ...]], ...] | None = None
    widths: task.Widths | None = None
    branches: tuple[tuple[str, str, int], ...] | None = None
    flops: int | None = None
    checkpoint: str = ""


def run(job: Job) -> dict[str, Any]:
    """Runs a trial.

    Returns:
        Plain values: `figures` (flat), `curve` (one mapping an epoch), `events`, `journal` (of the edits that the
        network has), `start_widths` (by group), `widths`, `branches`, and `machine`, which alone differs from run to
        run.
    """
    started = time.perf_counter()
    settle(job.execution)
    settings, device = job.settings.training, job.execution.device
    data = splits.load(Path(job.data))
    train_split, validation_split = split_of(data, "train", job), split_of(data, "validation", job)
    model = model_of(job, data).to(device)
    per_epoch = len(train_split) // settings.batch_size
    if per_epoch == 0:
        raise ValueError(
            f"{job.row}: batch_size is {settings.batch_size}, expected at most the {len(train_split)} training samples"
        )
    example = train_split.batch(torch.arange(1, device=device))[0]
    length = Length(steps=settings.epochs * per_epoch)
    if job.flops is not None and job.grown:
        length = Length(flops=job.flops)
    elif job.flops is not None:
        length = Length(steps=max(1, job.flops // (count(model, example).training * settings.batch_size)))
    grower = None
    if job.plan is not None:
        from stages import planned

        grower = planned.grower_of(job, data, train_split)
    elif job.grown:
        from stages import growing

        grower = growing.grower_of(job, data, train_split, length)
    trained = train(
        model,
        train_split,
        validation_split,
        settings,
        seed=job.seed,
        length=length,
        grower=grower,
        precision=job.execution.precision,
        checkpoint=Path(job.checkpoint) if job.checkpoint else None,
    )
    test_loss, test_accuracy = task.evaluate(model, split_of(data, "test", job))
    return {
        "arm": job.arm,
        "seed": job.seed,
        "figures": _figures(trained, model, example, test_loss, test_accuracy),
        "curve": [asdict(epoch) for epoch in trained.epochs],
        "events": trained.events,
        "journal": [entry for event in trained.events for entry in event["entries"] if event["status"] != "taken back"],
        "start_widths": trained.start_widths,
        "widths": [list(block) for block in task.widths_of(model)],
        "branches": [list(branch) for branch in _branches(job, model)],
        "machine": {"seconds": time.perf_counter() - started},
    }


def settle(execution: Execution) -> None:
    """Sets torch up for a trial."""
    torch.set_num_threads(execution.threads)
    # As `torch.use_deterministic_algorithms(True)`, which brings in the compiler, and that takes seconds.
    torch.set_deterministic_debug_mode("error")
    # Nothing here reads memory that it did not write; filling it costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def _figures(trained: Run, model, example, test_loss: float, test_accuracy: float) -> dict[str, float | int]:
    cost = count(model, example)
    return {
        "test_accuracy": test_accuracy,
        "test_loss": test_loss,
        "validation_accuracy": trained.epochs[-1].validation_accuracy,
        "validation_loss": trained.epochs[-1].validation_loss,
        "train_loss": trained.epochs[-1].train_loss,
        "parameters": cost.parameters,
        "forward_flops": cost.forward,
        "training_flops": trained.flops,
        "epochs": len(trained.epochs),
        "steps": trained.steps,
        "edits": sum(len(event["entries"]) for event in trained.events if event["status"] != "taken back"),
    }


def split_of(data: splits.DataSet, name: str, job: Job) -> task.Split:
    """A split on the trial's device: "train", with what random crops need, "validation" or "test"."""
    images = getattr(data, name)
    mean, deviation = splits.channel_statistics(data.train.images)
    # Padding is for random crops, which only training takes.
    padding = job.settings.training.crop_padding if name == "train" else 0
    return task.Split.of(images.images, images.labels, padding, mean, deviation, job.execution.device)


def model_of(job: Job, data: splits.DataSet) -> nn.Sequential:
    """The trial's network as it begins, on the CPU."""
    networks = job.settings.networks
    widths = job.widths or (networks.baseline if job.arm == "baseline" else networks.start)
    generator = torch.Generator().manual_seed(job.seed)
    model = task.network(widths, data.train.images.shape[3], len(data.class_names), generator)
    if job.branches:
        from stages import branches

        height, width, channels = data.train.images.shape[1:]
        branches.put_in(model, job.branches, torch.zeros(1, channels, height, width), job.seed)
    return model


def _branches(job: Job, model: nn.Sequential) -> list[tuple[str, str, int]]:
    """Of a network that grew, or was built with some: all others run without the library's operators."""
    if not job.grown and not job.branches:
        return []
    from stages import branches

    return branches.branches_of(model)
