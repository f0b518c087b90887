"""The one way from settings to the checked pictures of object detection."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from stages.data.detection import coco, open_images, scenes, voc
from stages.data.detection.annotations import Pictures, check, squared
from stages.data.detection.store import DetectionSet, album, first
from stages.data.errors import DataError
from stages.data.settings import Annotated, DetectionData, Scenes

NAMES = {"coco": "COCO", "voc": "Pascal VOC", "open_images": "Open Images"}
LICENCES = {
    "coco": "annotations CC BY 4.0; the images have the licences of their Flickr authors",
    "voc": "the images have the licences of their Flickr authors",
    "open_images": "annotations CC BY 4.0; images listed as CC BY 2.0",
}


def load(settings: DetectionData, root: Path) -> DetectionSet:
    """Draws or reads pictures, checks them and brings them to one size.

    Args:
        settings: where they come from. An environment variable, DNM_ and the source in capitals, takes the place of its
            folder.
        root: the repository, which folders are seen from.

    Raises:
        DataError: they cannot be used.
    """
    if isinstance(settings, Scenes):
        train, validation, test = scenes.generate(settings)
        return DetectionSet(
            album(train),
            album(validation),
            album(test),
            train.class_names,
            source=f"generated scenes of {settings.classes} classes",
            licence="none needed: drawn by stages.data.detection.scenes",
            note="",
        )
    return _published(settings, root / (os.environ.get(f"DNM_{settings.source.upper()}") or settings.folder))


def _published(settings: Annotated, folder: Path) -> DetectionSet:
    own, test = (first(_read(settings, folder, split), settings.images) for split in (settings.train, settings.test))
    check(own, test)
    train, validation = take_validation(own, settings.validation, settings.seed)
    parts = [
        replace(part, pictures=tuple(squared(picture, settings.size) for picture in part.pictures))
        for part in (train, validation, test)
    ]
    some = f", the first {settings.images} images of each" if settings.images else ""
    return DetectionSet(
        *(album(part) for part in parts),
        class_names=train.class_names,
        source=f"{NAMES[settings.source]} ({settings.train} and {settings.test}{some})",
        licence=LICENCES[settings.source],
        note=f"scaled to {settings.size} pixels on the longer side",
    )


def _read(settings: Annotated, folder: Path, split: str) -> Pictures:
    if settings.source == "coco":
        return coco.read(folder, split, settings.flat)
    return voc.read(folder, split) if settings.source == "voc" else open_images.read(folder, split)


def take_validation(train: Pictures, fraction: float, seed: int) -> tuple[Pictures, Pictures]:
    """Splits validation pictures off those that are trained on.

    Args:
        train: what is split.
        fraction: of the pictures, rounded to the nearest whole number, but at least one for either side.
        seed: of the choice.

    Returns:
        What is left to train on and the validation split, both in the order of `train`.

    Raises:
        DataError: there are fewer than two pictures.
    """
    num = len(train)
    if num < 2:
        raise DataError(f"{train.place}: {num} image, expected at least 2, one to train on and one to validate on")
    # Sorting raw uniform numbers, because NumPy does not promise that its shuffles stay the same over versions.
    order = np.argsort(np.random.Generator(np.random.PCG64(seed)).random(num), kind="stable")
    chosen = set(order[: min(max(1, math.floor(fraction * num + 0.5)), num - 1)].tolist())
    kept, taken = (
        tuple(picture for row, picture in enumerate(train.pictures) if (row in chosen) == wanted)
        for wanted in (False, True)
    )
    return replace(train, pictures=kept), replace(train, pictures=taken, place=f"{train.place}: validation")
