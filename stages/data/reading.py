"""What a reader of a source returns, and what readers share."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from stages.data.errors import DataError
from stages.data.splits import Images


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A data set as its source has it, before a validation split is taken.

    Attributes:
        train: its training images.
        test: its test images.
        validation: its own validation images; None where it has none.
        class_names: the names of labels 0, 1, ...
        source: how tables call it.
        licence: under which it may be used.
        note: what a reader of a table must know about it; may be empty.
        published: whether it is a published set, in which a few images may stand twice.
    """

    train: Images
    test: Images
    validation: Images | None = None
    class_names: tuple[str, ...]
    source: str
    licence: str
    note: str = ""
    published: bool = False


def joined(parts: Sequence[Images]) -> Images:
    """The images of several files as one split; each keeps its place."""
    if len(parts) == 1:
        return parts[0]
    starts = [0, *accumulate(len(part) for part in parts)]
    places = [part.place for part in parts]

    def place(row: int) -> str:
        number = bisect_right(starts, row) - 1
        return places[number](row - starts[number])

    images, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return Images(images, labels, place)


def check_label(place: str, name: str, value: object, low: int, high: int, data: str) -> int:
    """A label as it stands in a file.

    Raises:
        DataError: it is not a whole number from `low` to `high`.
    """
    # A truth value is an int too.
    if type(value) is not int or not low <= value <= high:
        raise DataError(f"{place}: {name} is {value!r}, expected {low} to {high}; this is not {data}")
    return value


def check_labels(place: str, name: str, values: np.ndarray, low: int, high: int, data: str) -> None:
    """Checks the labels of a file, `place` and a row each.

    Raises:
        DataError: as `check_label`, of the first one.
    """
    for row in np.flatnonzero(~((values >= low) & (values <= high)))[:1]:
        check_label(f"{place} {row}", name, values[row].item(), low, high, data)


def check_bytes(place: str, array: np.ndarray, what: str) -> None:
    """Refuses pixels that are not bytes; of those that are not even numbers the first row is named.

    Args:
        place: of the array.
        array: `num x ...`.
        what: what should stand there.

    Raises:
        DataError: the type is not uint8.
    """
    if array.dtype == np.uint8:
        return
    missing = np.isnan(array) if np.issubdtype(array.dtype, np.floating) else np.zeros(array.shape, bool)
    rows = np.flatnonzero(missing.reshape(len(array), -1).any(axis=1)) if missing.any() else []
    where = f", with NaN from row {rows[0]} on" if len(rows) else ""
    raise DataError(
        f"{place}: {array.dtype.name} of shape {array.shape}{where}, expected uint8, {what}; convert it before"
    )
