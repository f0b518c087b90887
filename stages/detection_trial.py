"""One trial of object detection: a detector of one arm is trained, grows where the arm says so, and is scored once."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

# Here and not where it is used, so that the fork server has it: importing it takes longer than a short trial's scoring.
import torchmetrics.detection  # noqa: F401
from torch import nn

from dnm import Budget, Morphogenesis, count
from stages import detection_training, detectors, few_shot_training, trial
from stages.data.detection import store
from stages.data.detection.store import DetectionSet
from stages.detection_training import Shown
from stages.detectors import Detector, Maps
from stages.settings import Detection
from stages.training import Length

# Apart from the seeds of backbones, so that the head of every arm begins with the same weights.
HEAD = 5_000_000
# What never grows: the pyramid and the head are the same in all arms.
EXCLUDED = ("backbone", "backbone.body", "backbone.fpn*", "head*")


@dataclass(frozen=True)
class Job(trial.Job):
    """What a trial of object detection is to do; its settings are those of an entry of detection.

    Attributes:
        backbone: "plain", the network of image classification, or "resnet".
    """

    settings: Detection  # pyright: ignore[reportIncompatibleVariableOverride]
    backbone: Literal["plain", "resnet"] = "plain"


def run(job: Job) -> dict[str, Any]:
    """Trains an arm's detector and scores it.

    Returns:
        Plain values: `arm` and `seed`; `figures`, flat; `classes`, of each class its average precisions on the test
        split, None where it has no object there; `events`, `journal`, `start_widths`, `widths` and `branches` as
        `stages.trial.run`, the last two of plain backbones; `machine`.

    Raises:
        FloatingPointError: the training diverged.
        ValueError: images or batches do not fit.
    """
    started = time.perf_counter()
    trial.settle(job.execution)
    data, settings, device = store.load(Path(job.data)), job.settings, job.execution.device
    train, validation, test = (Shown.of(getattr(data, name), data.train, device) for name in store.SPLITS)
    detector = detector_of(job, data).to(device).train()
    length = length_of(job, data, detector)
    grower = _grower_of(job, data, detector, train, length) if job.grown else None
    taught = few_shot_training.train(
        Maps(detector),
        detection_training.learning(detector, train, settings.training, job.seed),
        settings.training,
        length=length,
        grower=grower,
        precision=job.execution.precision,
    )
    num = len(data.class_names)
    # Settings are chosen by the first one; the second one is read once.
    of_validation, of_test = (detection_training.evaluate(detector, split, num) for split in (validation, test))
    cost = count(Maps(detector), train.example())
    is_plain = job.backbone == "plain"
    return {
        "arm": job.arm,
        "seed": job.seed,
        "figures": {
            "test_map": of_test.mean,
            "test_map_50": of_test.mean_50,
            "validation_map": of_validation.mean,
            "train_loss": taught.loss,
            "parameters": cost.parameters,
            "forward_flops": cost.forward,
            "training_flops": taught.flops,
            "steps": taught.steps,
            "edits": sum(len(event["entries"]) for event in taught.events if event["status"] != "taken back"),
        },
        "classes": [list(pair) for pair in zip(of_test.per_class, of_test.per_class_50, strict=True)],
        "events": taught.events,
        "journal": [entry for event in taught.events for entry in event["entries"] if event["status"] != "taken back"],
        "start_widths": taught.start_widths,
        "widths": [list(block) for block in detectors.widths_of(detector)] if is_plain else [],
        "branches": [list(branch) for branch in detectors.branches_of(detector)] if is_plain else [],
        "machine": {"seconds": time.perf_counter() - started},
    }


def detector_of(job: Job, data: DetectionSet) -> Detector:
    """The trial's detector as it begins, on the CPU."""
    settings = job.settings
    generator = torch.Generator().manual_seed(job.seed)
    if job.backbone == "resnet":
        resnet = settings.resnet
        backbone = detectors.resnet18_backbone(settings.detector.pyramid, generator, resnet.levels, resnet.width)
    else:
        networks = settings.networks
        widths = job.widths or (networks.baseline if job.arm == "baseline" else networks.start)
        backbone = detectors.plain_backbone(
            widths, settings.detector.pyramid, generator, settings.detector.levels, job.branches or (), job.seed
        )
    classes, size = len(data.class_names), data.train.images.shape[1]
    generator = torch.Generator().manual_seed(HEAD + job.seed)
    if settings.detector.head == "retinanet":
        return detectors.retinanet(backbone, classes, size, generator)
    return detectors.fcos(backbone, classes, size, generator, settings.detector.convolutions)


def length_of(job: Job, data: DetectionSet, detector: Detector) -> Length:
    """How long a trial trains: as many steps as its epochs have, or as the FLOPs that it may spend pay for.

    The rival's are those of the baseline.
    """
    training, size = job.settings.training, data.train.images.shape[1]
    steps, example = detection_training.steps_of(training, len(data.train)), torch.zeros(1, 3, size, size)
    flops = job.flops
    if job.backbone == "resnet":
        flops = steps * detection_training.step_flops(_baseline(job, data), example, training)
    if flops is not None:
        steps = flops // detection_training.step_flops(detector, example, training)
    # Whether there are enough pictures for a batch is asked where batches are cut.
    return Length(steps=max(1, steps))


def _baseline(job: Job, data: DetectionSet) -> Detector:
    fixed = dataclasses.replace(job, arm="baseline", backbone="plain", widths=None, branches=None)
    return detector_of(fixed, data)


def _grower_of(
    job: Job, data: DetectionSet, detector: Detector, train: Shown, length: Length
) -> few_shot_training.MakeGrower:
    """What makes the grower of a trial: it looks at the first training pictures."""
    from stages import growing

    settings = job.settings
    rows = torch.arange(min(settings.dnm.probe_size, len(train)), device=train.images.device)
    images, targets = train.batch(rows)
    labels = detection_training.main_classes(train.pictures[: len(rows)], len(data.class_names)).to(rows.device)
    cost = count(Maps(_baseline(job, data)), train.example())
    policy = dataclasses.replace(
        growing.policy_of(job, data),  # pyright: ignore[reportArgumentType]
        # Those of the whole detector.
        max_parameters=max(1, int(settings.dnm.max_parameters * cost.parameters)),
        max_training_flops=max(1, int(settings.dnm.max_training_flops * cost.training)),
        # Nor can a branch behind a whole block be told from one behind its last layer.
        excluded=(*EXCLUDED, *(f"backbone.body.block{number}" for number in range(len(settings.networks.start)))),
    )

    def make(model: nn.Module, optimizer: torch.optim.Optimizer) -> growing.EngineGrower:
        engine = Morphogenesis(
            model,
            optimizer,
            images,
            lambda: detectors.training_loss(detector, images, targets),
            budget=Budget(steps=length.steps, flops=length.flops),
            policy=policy,
            labels=labels,
        )
        return growing.EngineGrower(engine)

    return make
