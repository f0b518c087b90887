"""The sources of images by their names in settings, and the one way from settings to a data set that was checked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.data import (
    cifar,
    digits,
    fashion_mnist,
    folders,
    lesions,
    pneumonia_mnist,
    published,
    splits,
    stl10,
    synthetic,
)
from stages.data.reading import Reading
from stages.data.settings import Data, Digits, Files, Folder, Lesions, Npz, Synthetic


def _synthetic(settings: Synthetic, _: Path) -> Reading:
    train, test, class_names = synthetic.generate(
        classes=settings.classes,
        size=settings.size,
        channels=settings.channels,
        train=settings.train,
        test=settings.test,
        difficulty=settings.difficulty,
        seed=settings.seed,
    )
    return Reading(
        train=train, test=test, class_names=class_names, source="generated strokes", licence="MIT, as this repository"
    )


def _lesions(settings: Lesions, _: Path) -> Reading:
    train, test, class_names = lesions.generate(
        classes=settings.classes,
        size=settings.size,
        train=settings.train,
        test=settings.test,
        difficulty=settings.difficulty,
        seed=settings.seed,
    )
    return Reading(
        train=train, test=test, class_names=class_names, source="generated lesions", licence="MIT, as this repository"
    )


def _digits(settings: Digits, _: Path) -> Reading:
    train, test = digits.generate(
        train=settings.train, test=settings.test, distortion=settings.distortion, seed=settings.seed
    )
    return Reading(
        train=train,
        test=test,
        class_names=digits.CLASS_NAMES,
        source="distorted digits (scikit-learn)",
        licence="CC BY 4.0 (Alpaydin and Kaynak 1998)",
        note="real handwriting, scaled from 8 x 8 pixels and distorted; its 13 writers are in all splits",
    )


def _files(settings: Files, folder: Path) -> Reading:
    return published.read(PUBLISHED[settings.source], folder)


def _npz(_: Npz, folder: Path) -> Reading:
    return pneumonia_mnist.read(folder)


PUBLISHED = {data.source: data for data in (cifar.CIFAR10, cifar.CIFAR100, fashion_mnist.FASHION_MNIST, stl10.STL10)}
# Each takes the row's settings and the folder that they name.
READERS: dict[str, Callable[[Any, Path], Reading]] = {
    "synthetic": _synthetic,
    "lesions": _lesions,
    "digits": _digits,
    **dict.fromkeys(PUBLISHED, _files),
    "pneumonia_mnist": _npz,
    "imagenet": folders.read,
    "folder": folders.read,
}


def load(settings: Data, root: Path) -> splits.DataSet:
    """Makes or reads a data set, takes its validation split and checks it.

    Args:
        settings: of a row's data.
        root: the repository, which folders are seen from.

    Raises:
        DataError: it cannot be used.
    """
    found = READERS[settings.source](settings, _folder(settings, root))
    train, validation = found.train, found.validation
    if validation is None:
        assert not isinstance(settings, Npz)
        train, validation = splits.take_validation(train, settings.validation, settings.seed)
    dataset = splits.DataSet(train, validation, found.test, found.class_names, found.source, found.licence, found.note)
    splits.check(dataset, published=found.published)
    return dataset


def _folder(settings: Data, root: Path) -> Path:
    override = os.environ.get(f"DNM_{settings.source.upper()}")
    if override and isinstance(settings, Files | Folder | Npz):
        return Path(override)
    return root / getattr(settings, "folder", "")
