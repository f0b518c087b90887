"""Mean average precision of detections, as COCO defines it (Lin et al. 2014, arXiv:1405.0312).

torchmetrics computes it with pycocotools. Crowds, and objects that are marked as difficult, are ignored as COCO ignores
crowds: they are no objects to be found, and a detection that lies in one (by the part of the detection that does) is
neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.data.detection.annotations import Picture

# In double precision, as pycocotools has them: torchmetrics' own are rounded to single, and an overlap of exactly 0.6
# would miss the threshold.
OVERLAPS = np.linspace(0.5, 0.95, 10).tolist()
RECALLS = np.linspace(0.0, 1.0, 101).tolist()
MOST_DETECTIONS = 100  # of an image and class, those of the highest scores


@dataclass(frozen=True)
class DetectionScore:
    """Average precisions, each from 0 to 1.

    Attributes:
        mean: mAP@[.5:.95]: over classes and over overlaps (intersection over union) of 0.5, 0.55, ... 0.95.
        mean_50: mAP@.5: over classes, at an overlap of 0.5.
        per_class: of labels 0, 1, ..., over overlaps; None where no object of the class is to be found, which then
            takes no part in the means.
        per_class_50: of labels 0, 1, ..., at an overlap of 0.5.
    """

    mean: float
    mean_50: float
    per_class: tuple[float | None, ...]
    per_class_50: tuple[float | None, ...]


def score(predictions: Sequence[Mapping[str, Tensor]], pictures: Sequence[Picture], num_classes: int) -> DetectionScore:
    """Scores detections against annotations.

    Args:
        predictions: an image each: boxes (`num x 4`, (x1, y1, x2, y2) in pixels), scores and labels (`num`), as
            torchvision's detectors return them.
        pictures: with what is in them, in the same order.
        num_classes: of labels.

    Raises:
        ValueError: other numbers of predictions and pictures, arrays that do not fit, values that are not finite,
            labels out of range, or no object that is to be found.
    """
    from torchmetrics.detection import MeanAveragePrecision

    if len(predictions) != len(pictures):
        raise ValueError(f"predictions: got {len(predictions)}, expected one for each of {len(pictures)} pictures")
    if not any((~picture.ignored).any() for picture in pictures):
        raise ValueError(f"{len(pictures)} pictures without an object to be found, expected at least one object")
    found = [_checked(item, number, num_classes) for number, item in enumerate(predictions)]
    targets = [
        {
            "boxes": torch.from_numpy(picture.boxes.astype(np.float64)),
            "labels": torch.from_numpy(picture.labels),
            "iscrowd": torch.from_numpy(picture.ignored.astype(np.int64)),
        }
        for picture in pictures
    ]
    metric = MeanAveragePrecision(
        box_format="xyxy",
        iou_type="bbox",
        iou_thresholds=OVERLAPS,
        rec_thresholds=RECALLS,
        max_detection_thresholds=[1, 10, MOST_DETECTIONS],
        extended_summary=True,
        backend="pycocotools",
    )
    # What is beyond is left out by definition, not by accident.
    metric.warn_on_many_detections = False
    metric.update(found, targets)
    result = metric.compute()
    # Overlaps x recalls x observed classes x ranges of area (the first is all) x numbers of detections (the last).
    precision = result["precision"][:, :, :, 0, -1].numpy()
    over_all: list[float | None] = [None] * num_classes
    at_50: list[float | None] = [None] * num_classes
    for column, label in enumerate(result["classes"].reshape(-1).tolist()):
        # -1 marks a class without objects.
        if precision[0, 0, column] > -1:
            over_all[label], at_50[label] = float(precision[:, :, column].mean()), float(precision[0, :, column].mean())
    return DetectionScore(result["map"].item(), result["map_50"].item(), tuple(over_all), tuple(at_50))


def _checked(prediction: Mapping[str, Tensor], number: int, num_classes: int) -> dict[str, Tensor]:
    """A prediction on the CPU, boxes in double precision."""
    boxes, scores, labels = (prediction[name].detach().cpu() for name in ("boxes", "scores", "labels"))
    if boxes.shape != (len(labels), 4) or scores.shape != labels.shape or labels.dim() != 1:
        raise ValueError(
            f"predictions[{number}]: got boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)} and labels "
            f"{tuple(labels.shape)}, expected num x 4, num and num"
        )
    if not (boxes.isfinite().all() and scores.isfinite().all()):
        raise ValueError(f"predictions[{number}]: boxes or scores are not finite; has the training diverged?")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"predictions[{number}]: labels from {int(labels.min())} to {int(labels.max())}, expected 0 to "
            f"{num_classes - 1}"
        )
    return {"boxes": boxes.double(), "scores": scores.float(), "labels": labels.long()}
