"""What a trained network is worth on other data: a linear probe on its features, and fine-tuning."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dnm import count
from stages import trained, trial
from stages.data import splits
from stages.settings import Training
from stages.tasks import image_classification as task
from stages.training import Length
from stages.transfer_learning import features, fine_tune, linear_probe, matched

PARTS = ("train", "validation", "test")
# Apart from the seeds of training.
HEADS = 3_000_000


@dataclass(frozen=True)
class Job(trial.Job):
    """A network of the source row, and the target that it is brought to.

    Attributes:
        target: name of the target row.
        target_data: path of its prepared data.
        target_hash: SHA-256 of them.
        fine_tuning: the protocol, for its epochs; every job has one.
        trained: file in which the network is kept; it is trained where there is none. Empty for a network that was
            never trained.
    """

    target: str = ""
    target_data: str = ""
    target_hash: str = ""
    fine_tuning: Training | None = None
    trained: str = ""


def run(job: Job) -> dict[str, Any]:
    """Probes and fine-tunes a network on the target's training images and tests both on its test images.

    Returns:
        Plain values: `arm` and `seed`; `probe` and `fine_tuning`, each with test and validation accuracy (fractions)
        and training FLOPs, which for the probe are those of the features of the training images; of the probe also
        `inverse_regularization` and `converged`; `machine`.

    Raises:
        ValueError: there are fewer training images than a batch takes.
        FloatingPointError: the training diverged.
    """
    started = time.perf_counter()
    trial.settle(job.execution)
    assert job.fine_tuning is not None
    source, target = splits.load(Path(job.data)), splits.load(Path(job.target_data))
    if job.trained:
        model = trained.network(job, source, Path(job.trained))
    else:
        model = trial.model_of(job, source).to(job.execution.device)
    split = {name: split_of(source, target, name, job) for name in PARTS}
    probe = linear_probe(*(features(model, split[name]) for name in PARTS))
    example = split["train"].batch(torch.arange(1, device=split["train"].labels.device))[0]
    per_epoch = len(split["train"]) // job.fine_tuning.batch_size
    tuned, run_ = fine_tune(
        model,
        split_of(source, target, "train", job, padding=job.fine_tuning.crop_padding),
        split["validation"],
        job.fine_tuning,
        classes=len(target.class_names),
        generator=torch.Generator().manual_seed(HEADS + job.seed),
        seed=job.seed,
        length=Length(steps=job.fine_tuning.epochs * per_epoch),
        precision=job.execution.precision,
        checkpoint=Path(job.checkpoint) if job.checkpoint else None,
    )
    return {
        "arm": job.arm,
        "seed": job.seed,
        "probe": {
            "test_accuracy": probe.test_accuracy,
            "validation_accuracy": probe.validation_accuracy,
            "training_flops": count(model, example).forward * len(split["train"]),
            "inverse_regularization": probe.inverse_regularization,
            "converged": probe.converged,
        },
        "fine_tuning": {
            "test_accuracy": task.evaluate(tuned, split["test"])[1],
            "validation_accuracy": run_.epochs[-1].validation_accuracy,
            "training_flops": run_.flops,
        },
        "machine": {"seconds": time.perf_counter() - started},
    }


def split_of(source: splits.DataSet, target: splits.DataSet, name: str, job: Job, padding: int = 0) -> task.Split:
    """A split of the target on the trial's device, as networks of the source expect images."""
    _, size, _, channels = source.train.images.shape
    mean, deviation = splits.channel_statistics(source.train.images)
    images = getattr(target, name)
    found = matched(images.images, channels, size)
    return task.Split.of(found, images.labels, padding, mean, deviation, job.execution.device)
