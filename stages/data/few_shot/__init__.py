"""Data of few-shot learning: sets whose splits have no class in common.

Such a set is a `splits.DataSet` like any other. Its labels number the classes of all splits, those of the training
split first, so that a network that classifies the training split has one output for each of its classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stages.data import splits
from stages.data.errors import DataError
from stages.data.reading import Reading, joined
from stages.data.splits import DataSet, Images

NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Drawings:
    """The images of one class.

    Attributes:
        name: of the class.
        images: uint8, `num x height x width x channels`.
        places: where each comes from, as messages call it; by default the class and a number.
    """

    name: str
    images: np.ndarray
    places: Sequence[str] = field(default=(), repr=False)

    def numbered(self, label: int) -> Images:
        """The images with the class's label."""
        places, name = self.places, self.name
        return Images(
            self.images,
            np.full(len(self.images), label, np.int64),
            lambda row: places[row] if places else f"{name}, drawing {row}",
        )


def check_names(names: Mapping[str, Sequence[str]], where: str) -> None:
    """Refuses splits that have a class in common, or none.

    Args:
        names: of the classes of each split.
        where: how messages call the data.

    Raises:
        DataError: a split has no class, or a class is twice in the splits.
    """
    seen: dict[str, str] = {}
    for split, of_split in names.items():
        if not of_split:
            raise DataError(f"{where}: no class in {split}, expected at least one; give it some")
        for name in of_split:
            if name in seen:
                raise DataError(
                    f"{where}: class {name} is in {seen[name]} and in {split}, expected each class in one split alone; "
                    "a score on it would not be one on a class never trained on: take it out of one of them"
                )
            seen[name] = split


def reading(
    classes: Mapping[str, Sequence[Drawings]], *, source: str, licence: str, note: str, published: bool = False
) -> Reading:
    """The drawings of all classes as a data set.

    Args:
        classes: of "train", "validation" and "test".
        source: as of `Reading`, and how messages call the data.
        licence: as of `Reading`, like the others.
        note: likewise.
        published: likewise.

    Raises:
        DataError: as `check_names`.
    """
    names = {split: [one.name for one in classes[split]] for split in NAMES}
    check_names(names, source)
    found, label = {}, 0
    for split in NAMES:
        found[split] = joined([one.numbered(label + number) for number, one in enumerate(classes[split])])
        label += len(classes[split])
    class_names = tuple(name for split in NAMES for name in names[split])
    return Reading(**found, class_names=class_names, source=source, licence=licence, note=note, published=published)


def data_set(found: Reading) -> DataSet:
    """A reading as a checked data set.

    Raises:
        DataError: as `splits.check`, or splits have a class in common.
    """
    if found.validation is None:
        raise DataError(f"{found.source}: no validation classes, expected some; choices must not look at test classes")
    dataset = DataSet(
        found.train, found.validation, found.test, found.class_names, found.source, found.licence, found.note
    )
    splits.check(dataset, published=found.published)
    by_split = {
        split: [found.class_names[label] for label in np.unique(getattr(dataset, split).labels)] for split in NAMES
    }
    check_names(by_split, found.source)
    return dataset
