"""Sets whose splits have no class in common: numbered, checked, refused where they overlap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.data import few_shot, splits
from stages.data.errors import DataError
from stages.data.few_shot import Drawings
from stages.data.reading import Reading


def drawings(name: str, num: int = 3) -> Drawings:
    # Names differ in more than their length, so pixels do too.
    return Drawings(name, np.random.default_rng(list(name.encode())).integers(0, 256, (num, 8, 8, 1), np.uint8))


def reading(**changed: list[str]) -> Reading:
    names = {"train": ["a", "b"], "validation": ["c"], "test": ["d", "e"], **changed}
    classes = {split: [drawings(name) for name in of_split] for split, of_split in names.items()}
    return few_shot.reading(classes, source="some data", licence="MIT", note="a note")


def test_labels_number_the_classes_of_all_splits() -> None:
    found = reading()
    assert found.class_names == ("a", "b", "c", "d", "e")
    assert found.validation is not None
    assert [split.labels.tolist() for split in (found.train, found.validation, found.test)] == [
        [0, 0, 0, 1, 1, 1], [2, 2, 2], [3, 3, 3, 4, 4, 4],
    ]  # fmt: skip
    assert np.array_equal(found.test.images[3:], drawings("e").images)
    assert found.test.place(4) == "e, drawing 1"


def test_places_are_those_that_were_given() -> None:
    classes = {split: [drawings(split)] for split in few_shot.NAMES}
    classes["test"].append(Drawings("x", drawings("x").images, ["here", "there", "elsewhere"]))
    found = few_shot.reading(classes, source="some data", licence="MIT", note="")
    assert [found.test.place(row) for row in (2, 4)] == ["test, drawing 2", "there"]


def test_it_is_a_data_set_like_any_other(tmp_path: Path) -> None:
    dataset = few_shot.data_set(reading())
    splits.save(tmp_path / "data.safetensors", dataset)
    again = splits.load(tmp_path / "data.safetensors")
    assert splits.card(again) == splits.card(dataset)
    assert (dataset.source, dataset.licence, dataset.note) == ("some data", "MIT", "a note")


@pytest.mark.parametrize(
    ("first", "second"), [("train", "validation"), ("train", "test"), ("validation", "test"), ("test", "test")]
)
def test_a_class_in_two_splits_is_refused(first: str, second: str) -> None:
    names = {"train": ["a", "b"], "validation": ["c"], "test": ["d", "e"]}
    names[first] = ["new", *names[first]]
    names[second] = [*names[second], "new"]
    with pytest.raises(DataError, match=f"^some data: class new is in {first} and in {second}, expected each .*: take"):
        reading(**names)


@pytest.mark.parametrize("split", few_shot.NAMES)
def test_a_split_without_classes_is_refused(split: str) -> None:
    with pytest.raises(DataError, match=f"^some data: no class in {split}, expected at least one; give it some$"):
        reading(**{split: []})


def test_labels_that_overlap_are_refused_too() -> None:
    found = reading()
    labels = found.test.labels.copy()
    labels[0] = 1
    with pytest.raises(DataError, match="class b is in train and in test"):
        few_shot.data_set(replace(found, test=replace(found.test, labels=labels)))


def test_a_drawing_in_two_splits_is_refused() -> None:
    found = reading()
    images = found.test.images.copy()
    images[4] = found.train.images[2]
    with pytest.raises(DataError, match=r"the first is e, drawing 1 \(test\), equal to a, drawing 2 \(train\)"):
        few_shot.data_set(replace(found, test=replace(found.test, images=images)))


def test_validation_classes_are_needed() -> None:
    with pytest.raises(DataError, match="^some data: no validation classes, expected some"):
        few_shot.data_set(replace(reading(), validation=None))
