"""Images and labels in memory: the splits of a data set, the checks on them, their card and their file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages import outputs
from stages.data.errors import DataError

_SPLITS = ("train", "validation", "test")
# Of the test images; the most that is known is 0.1%: in CIFAR-100 (Barz and Denzler 2020, 10.3390/jimaging6060041).
PUBLISHED_DUPLICATES = 0.01
_TEXTS = ("source", "licence", "note")
# One key, because the order of several in a safetensors header differs from process to process.
_METADATA = "dataset"


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        images: uint8, `num x height x width x channels`.
        labels: int64, `num`.
        place: where the image of a row comes from, as messages call it: file and row.
    """

    images: np.ndarray
    labels: np.ndarray
    place: Callable[[int], str] = "image {}".format

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: np.ndarray) -> Images:
        """The images where `chosen` (bool, `num`) is true, in their order."""
        rows, place = np.flatnonzero(chosen), self.place
        return Images(self.images[rows], self.labels[rows], lambda row: place(int(rows[row])))


@dataclass(frozen=True)
class DataSet:
    """A data set in its three splits.

    Attributes:
        train: what is trained on.
        validation: what choices look at.
        test: what is read once, at the end of a trial.
        class_names: the names of labels 0, 1, ...
        source: where the data comes from.
        licence: under which it may be used.
        note: what a reader of a table must know about it; may be empty.
    """

    train: Images
    validation: Images
    test: Images
    class_names: tuple[str, ...]
    source: str
    licence: str
    note: str


def take_validation(train: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """Splits a validation set off a training set, the same fraction of every class.

    Args:
        train: what is split.
        fraction: of each class, rounded to the nearest whole number, but at least one sample for either side.
        seed: of the choice.

    Returns:
        What is left to train on and the validation set, both in the order of `train`.

    Raises:
        DataError: the fraction is not between 0 and 1, or a class has fewer than two samples.
    """
    if not 0 < fraction < 1:
        raise DataError(f"validation split: the fraction is {fraction}, expected one between 0 and 1")
    random = np.random.Generator(np.random.PCG64(seed))
    # Sorting raw uniform numbers, because NumPy does not promise that its shuffles stay the same over versions.
    keys = random.random(len(train))
    chosen = np.zeros(len(train), bool)
    for label in np.unique(train.labels):
        rows = np.flatnonzero(train.labels == label)
        if len(rows) < 2:
            raise DataError(
                f"validation split: class {label} has one training sample, expected at least 2; "
                "ask for more training samples or fewer classes"
            )
        num = min(max(1, math.floor(fraction * len(rows) + 0.5)), len(rows) - 1)
        chosen[rows[np.argsort(keys[rows], kind="stable")[:num]]] = True
    return train.take(~chosen), train.take(chosen)


def check(dataset: DataSet, *, where: str | Path | None = None, published: bool = False) -> None:
    """Refuses a data set that cannot be used.

    Args:
        dataset: what is checked.
        where: how messages call the data; its source if not given.
        published: whether it is a published set, which is measured as it is: then `PUBLISHED_DUPLICATES` of the test
            images and any number of validation images may stand in an earlier split. The card counts them.

    Raises:
        DataError: types, shapes or labels are wrong, a split is empty, or images stand in two splits.
    """
    place = str(where if where is not None else dataset.source)
    for name, split in _splits(dataset).items():
        _check_split(f"{place}: {name}", split, dataset.train.images.shape[1:], len(dataset.class_names))
    found = _duplicates(dataset)
    allowed = 0
    if published:
        found = [pair for pair in found if pair[0] == "test"]
        allowed = math.floor(PUBLISHED_DUPLICATES * len(dataset.test))
    if len(found) > allowed:
        (name, row, earlier, original), several = found[0], "test" if published else "validation or test"
        raise DataError(
            f"{place}: {len(found)} {several} images stand in an earlier split too, expected "
            f"{f'at most {allowed} of {len(dataset.test)}' if allowed else 'none'}; the first is "
            f"{getattr(dataset, name).place(row)} ({name}), equal to {getattr(dataset, earlier).place(original)} "
            f"({earlier}); a score on them says nothing: make the splits anew from distinct images"
        )


def _check_split(place: str, split: Images, shape: tuple[int, ...], classes: int) -> None:
    images, labels = split.images, split.labels
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or images.shape[3] not in (1, 3):
        raise DataError(
            f"{place}: images are {images.dtype} of shape {images.shape}, expected uint8 of shape num x height x width "
            f"x channels with 1 or 3 channels and the training images' {shape}; convert them before"
        )
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{place}: labels are {labels.dtype} of shape {labels.shape}, expected int64 of shape {images.shape[:1]}, "
            "one for each image; convert them before"
        )
    if not len(labels):
        raise DataError(f"{place}: no images, expected at least one; ask for more samples")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{place}: {len(wrong)} labels are out of range, the first, of {split.place(int(wrong[0]))}, is "
            f"{labels[wrong[0]]}; expected 0 to {classes - 1}: name every class, or correct the labels"
        )


def duplicates_across_splits(dataset: DataSet) -> int:
    """How many validation and test images are, pixel by pixel, those of an earlier split."""
    return len(_duplicates(dataset))


def _duplicates(dataset: DataSet) -> list[tuple[str, int, str, int]]:
    """Split and row of each image of an earlier split, and split and row of the first with its pixels."""
    seen: dict[bytes, tuple[str, int]] = {}
    found = []
    for name, split in _splits(dataset).items():
        digests = [hashlib.sha256(image.tobytes()).digest() for image in split.images]
        found += [(name, row, *seen[digest]) for row, digest in enumerate(digests) if digest in seen]
        for row, digest in enumerate(digests):
            seen.setdefault(digest, (name, row))
    return found


def card(dataset: DataSet) -> dict[str, Any]:
    """What is to be known about a data set, as JSON.

    Returns:
        Source, licence, note; image size (height, width) and channels; samples of each split, in all and per class;
        mean and standard deviation of the training pixels per channel, in 0 to 255; the number of images that
        stand in two splits; the SHA-256 of all arrays.
    """
    mean, deviation = channel_statistics(dataset.train.images)
    return {
        **{name: getattr(dataset, name) for name in _TEXTS},
        "image_size": list(dataset.train.images.shape[1:3]),
        "channels": dataset.train.images.shape[3],
        "classes": list(dataset.class_names),
        "samples": {
            name: {
                "total": len(split),
                "per_class": np.bincount(split.labels, minlength=len(dataset.class_names)).tolist(),
            }
            for name, split in _splits(dataset).items()
        },
        "train_mean": mean,
        "train_standard_deviation": deviation,
        "duplicates_across_splits": duplicates_across_splits(dataset),
        "sha256": _fingerprint(dataset),
    }


def channel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of uint8 images, in 0 to 255; sums are whole numbers, so exact."""
    means, deviations = [], []
    for channel in range(images.shape[3]):
        counts = np.zeros(256, np.int64)
        # In pieces, because bincount takes eight bytes a pixel.
        for start in range(0, len(images), 4096):
            counts += np.bincount(images[start : start + 4096, ..., channel].reshape(-1), minlength=256)
        num = int(counts.sum())
        total = sum(value * count for value, count in enumerate(counts.tolist()))
        squares = sum(value * value * count for value, count in enumerate(counts.tolist()))
        means.append(total / num)
        deviations.append(math.sqrt(num * squares - total * total) / num)
    return means, deviations


def _fingerprint(dataset: DataSet) -> str:
    digest = hashlib.sha256()
    for name, split in _splits(dataset).items():
        digest.update(f"{name} {split.images.shape}\n".encode())
        digest.update(np.ascontiguousarray(split.images).tobytes())
        digest.update(split.labels.astype("<i8").tobytes())
    return digest.hexdigest()


def save(path: Path, dataset: DataSet) -> None:
    """Writes a data set as safetensors, whole or not at all; the same data gives the same bytes."""
    from safetensors.numpy import save as to_bytes

    arrays = {}
    for name, split in _splits(dataset).items():
        arrays[f"{name}.images"] = np.ascontiguousarray(split.images)
        arrays[f"{name}.labels"] = np.ascontiguousarray(split.labels)
    texts = {name: getattr(dataset, name) for name in _TEXTS} | {"class_names": list(dataset.class_names)}
    content = to_bytes(arrays, {_METADATA: json.dumps(texts, sort_keys=True)})
    outputs.write_bytes(path, content)


def load(path: Path) -> DataSet:
    """Reads what `save` wrote.

    Raises:
        DataError: the file is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stored:
            texts = json.loads((stored.metadata() or {})[_METADATA])
            splits = {
                name: Images(stored.get_tensor(f"{name}.images"), stored.get_tensor(f"{name}.labels"))
                for name in _SPLITS
            }
        return DataSet(**splits, class_names=tuple(texts["class_names"]), **{name: texts[name] for name in _TEXTS})
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, expected a data set; run the prepare stage") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: not a data set ({error}), expected one that `stages.data.splits.save` wrote; "
            "delete the file and run the prepare stage"
        ) from error


def _splits(dataset: DataSet) -> dict[str, Images]:
    return {name: getattr(dataset, name) for name in _SPLITS}
