"""Pictures of three splits in memory, all of one size: their card and their file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stages import outputs
from stages.data.detection.annotations import Picture, Pictures
from stages.data.errors import DataError
from stages.data.splits import channel_statistics

SPLITS = ("train", "validation", "test")
_TEXTS = ("source", "licence", "note")
_OBJECTS = ("boxes", "labels", "crowd", "difficult")
# One key, because the order of several in a safetensors header differs from process to process.
_METADATA = "pictures"


@dataclass(frozen=True)
class Album:
    """The pictures of one split.

    Attributes:
        pictures: with boxes in pixels of `images`.
        images: uint8, `num x size x size x 3`.
    """

    pictures: tuple[Picture, ...]
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True)
class DetectionSet:
    """Pictures in three splits.

    Attributes:
        train: what is trained on.
        validation: what settings are chosen by.
        test: what is read once, at the end of a trial.
        class_names: the names of labels 0, 1, ...
        source: where the pictures come from.
        licence: under which they may be used.
        note: what a reader of a table must know about them; may be empty.
    """

    train: Album
    validation: Album
    test: Album
    class_names: tuple[str, ...]
    source: str
    licence: str
    note: str


def album(split: Pictures) -> Album:
    """A split whose images are arrays in memory, all of one shape.

    Raises:
        DataError: they are of different shapes, or a split to train, choose or test by has no object to be found.
    """
    shapes = sorted({(picture.height, picture.width) for picture in split.pictures})
    if len(shapes) != 1:
        raise DataError(f"{split.place}: images of {shapes} pixels, expected one size; bring them to it before")
    if not any((~picture.ignored).any() for picture in split.pictures):
        raise DataError(
            f"{split.place}: {len(split)} images without an object to be found, expected at least one; take more images"
        )
    return Album(split.pictures, np.stack([np.asarray(picture.image) for picture in split.pictures]))


def card(found: DetectionSet) -> dict[str, Any]:
    """What is to be known about the pictures, as JSON.

    Returns:
        Source, licence, note; image size (height, width) and channels; of each split the images in all, those without
        an object, the objects to be found in all and per class, and those that are ignored; mean and standard deviation
        of the training pixels per channel, in 0 to 255; images that stand in two splits; the SHA-256 of all arrays.
    """
    mean, deviation = channel_statistics(found.train.images)
    return {
        **{name: getattr(found, name) for name in _TEXTS},
        "image_size": list(found.train.images.shape[1:3]),
        "channels": 3,
        "classes": list(found.class_names),
        "samples": {name: _counts(getattr(found, name), len(found.class_names)) for name in SPLITS},
        "train_mean": mean,
        "train_standard_deviation": deviation,
        "duplicates_across_splits": _duplicates(found),
        "sha256": _fingerprint(found),
    }


def _counts(split: Album, classes: int) -> dict[str, Any]:
    sought = [picture.labels[~picture.ignored] for picture in split.pictures]
    per_class = np.bincount(np.concatenate(sought), minlength=classes)
    return {
        "total": len(split),
        "without_objects": sum(not len(labels) for labels in sought),
        "objects": int(per_class.sum()),
        "per_class": per_class.tolist(),
        "ignored": sum(int(picture.ignored.sum()) for picture in split.pictures),
    }


def _duplicates(found: DetectionSet) -> int:
    seen: set[bytes] = set()
    num = 0
    for name in SPLITS:
        digests = [hashlib.sha256(image.tobytes()).digest() for image in getattr(found, name).images]
        num += sum(digest in seen for digest in digests)
        seen.update(digests)
    return num


def _arrays(found: DetectionSet) -> dict[str, np.ndarray]:
    arrays = {}
    for name in SPLITS:
        split: Album = getattr(found, name)
        arrays[f"{name}.images"] = np.ascontiguousarray(split.images)
        arrays[f"{name}.counts"] = np.array([len(picture.labels) for picture in split.pictures], np.int64)
        for key in _OBJECTS:
            arrays[f"{name}.{key}"] = np.concatenate([getattr(picture, key) for picture in split.pictures])
    return arrays


def _fingerprint(found: DetectionSet) -> str:
    digest = hashlib.sha256()
    for name, values in _arrays(found).items():
        digest.update(f"{name} {values.shape}\n".encode())
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def save(path: Path, found: DetectionSet) -> None:
    """Writes the pictures as safetensors, whole or not at all; the same pictures give the same bytes."""
    from safetensors.numpy import save as to_bytes

    texts = {name: getattr(found, name) for name in _TEXTS} | {"class_names": list(found.class_names)}
    outputs.write_bytes(path, to_bytes(_arrays(found), {_METADATA: json.dumps(texts, sort_keys=True)}))


def load(path: Path) -> DetectionSet:
    """Reads what `save` wrote.

    Raises:
        DataError: the file is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stored:
            texts = json.loads((stored.metadata() or {})[_METADATA])
            splits = {name: _album(name, stored.get_tensor) for name in SPLITS}
        return DetectionSet(**splits, class_names=tuple(texts["class_names"]), **{name: texts[name] for name in _TEXTS})
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, expected pictures; run the detection_data stage") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: not pictures ({error}), expected what `stages.data.detection.store.save` wrote; delete the file "
            "and run the detection_data stage"
        ) from error


def _album(name: str, read: Callable[[str], np.ndarray]) -> Album:
    images, counts = read(f"{name}.images"), read(f"{name}.counts")
    ends = np.cumsum(counts)[:-1]
    objects: dict[str, Any] = {key: np.split(read(f"{name}.{key}"), ends) for key in _OBJECTS}
    pictures = tuple(
        Picture(
            image=image,
            height=image.shape[0],
            width=image.shape[1],
            **{key: values[row] for key, values in objects.items()},
            place=f"{name} image {row}",
        )
        for row, image in enumerate(images)
    )
    return Album(pictures, images)


def first(split: Pictures, num: int) -> Pictures:
    """The first pictures of a split; all of them for 0."""
    return replace(split, pictures=split.pictures[:num]) if num else split
