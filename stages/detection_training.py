"""What detectors are trained on, step by step, and how they are scored on a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnm import count
from stages import detectors
from stages.data.detection.annotations import Picture
from stages.data.detection.store import Album
from stages.data.splits import channel_statistics
from stages.detection_scoring import DetectionScore, score
from stages.detectors import Detector, Maps
from stages.few_shot_training import Learning
from stages.settings import Training


@dataclass(frozen=True)
class Shown:
    """A split on a device, ready to be cut into batches.

    Attributes:
        pictures: with their objects.
        images: uint8, `num x 3 x size x size`, in channels-last memory format.
        mean: float32, `3 x 1 x 1`; of the training images, in units of the pixels.
        deviation: float32, `3 x 1 x 1`.
        targets: of each picture what a detector is trained on.
    """

    pictures: tuple[Picture, ...]
    images: Tensor
    mean: Tensor
    deviation: Tensor
    targets: tuple[dict[str, Tensor], ...]

    @staticmethod
    def of(split: Album, train: Album, device: str) -> Shown:
        """Puts a split on a device, to be normalised as the training split is."""
        mean, deviation = (
            torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
            for values in channel_statistics(train.images)
        )
        images = torch.from_numpy(split.images).to(device).permute(0, 3, 1, 2)
        targets = tuple(detectors.target(picture, device) for picture in split.pictures)
        return Shown(split.pictures, images, mean, deviation, targets)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def size(self) -> int:
        """Height and width of the images, pixels."""
        return self.images.shape[-1]

    def batch(self, rows: Tensor, mirrored: Tensor | None = None) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """The pictures at `rows`, normalised, and their targets.

        Args:
            rows: int64, `num`.
            mirrored: bool, `num`: which of them are mirrored, left to right, with their boxes; None mirrors none.

        Returns:
            Images, float32, `num x 3 x size x size`, and `num` targets.
        """
        images = self.images[rows].float().sub_(self.mean).div_(self.deviation)
        targets = [self.targets[row] for row in rows.tolist()]
        if mirrored is None:
            return images, targets
        images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)
        return images, [
            _mirrored(target, self.size) if flag else target
            for target, flag in zip(targets, mirrored.tolist(), strict=True)
        ]

    def example(self) -> Tensor:
        """One blank image as detectors take them."""
        return torch.zeros(1, 3, self.size, self.size)


def _mirrored(target: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    left, top, right, bottom = target["boxes"].unbind(1)
    return {**target, "boxes": torch.stack([size - right, top, size - left, bottom], dim=1)}


def main_classes(pictures: Sequence[Picture], num_classes: int) -> Tensor:
    """The class of each picture's largest object, and `num_classes` where there is none: int64, `num`.

    What of a network's features tells classes of pictures apart is asked by these.
    """
    found = []
    for picture in pictures:
        sought = ~picture.ignored
        boxes, labels = picture.boxes[sought], picture.labels[sought]
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        found.append(int(labels[np.argmax(areas)]) if len(labels) else num_classes)
    return torch.tensor(found)


def steps_of(settings: Training, num: int) -> int:
    """Optimizer steps of a run over `num` pictures; each epoch is cut into whole batches."""
    return settings.epochs * (num // settings.batch_size)


def step_flops(detector: Detector, example: Tensor, settings: Training) -> int:
    """FLOPs of a step: of what has weights. Matching of boxes, losses and suppression are not counted."""
    return count(Maps(detector), example).training * settings.batch_size


def learning(detector: Detector, split: Shown, settings: Training, seed: int) -> Learning:
    """A detector on batches of the training split.

    Args:
        detector: in train mode; edited in place where it grows.
        split: the training split.
        settings: size of the batches, and whether half of the pictures are mirrored.
        seed: of the order and of what is mirrored: the same for every arm.

    Raises:
        ValueError: there are fewer training pictures than a batch takes.
    """
    if settings.batch_size > len(split):
        raise ValueError(
            f"detection: batch_size is {settings.batch_size}, expected at most the {len(split)} training pictures"
        )
    shown = _batches(split, settings, seed)

    def loss() -> tuple[Tensor, int]:
        images, targets = next(shown)
        return detectors.training_loss(detector, images, targets), len(images)

    return Learning(loss, lambda: step_flops(detector, split.example(), settings))


def _batches(split: Shown, settings: Training, seed: int) -> Iterator[tuple[Tensor, list[dict[str, Tensor]]]]:
    order, augmentation = (torch.Generator().manual_seed(2 * seed + offset) for offset in (0, 1))
    size = settings.batch_size
    while True:
        permutation = torch.randperm(len(split), generator=order)
        for start in range(0, len(split) - size + 1, size):
            mirrored = torch.rand(size, generator=augmentation) < 0.5 if settings.flip else None
            yield split.batch(permutation[start : start + size].to(split.images.device), mirrored)


def evaluate(detector: Detector, split: Shown, num_classes: int, batch_size: int = 100) -> DetectionScore:
    """The mean average precision of a detector on a split, in eval mode; the mode is put back."""
    rows = torch.arange(len(split), device=split.images.device)
    found = [
        item
        for part in rows.split(batch_size)
        for item in detectors.predict(detector, split.batch(part)[0], batch_size)
    ]
    return score(found, split.pictures, num_classes)
