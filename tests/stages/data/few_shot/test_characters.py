"""Generated characters: their bits, their independence of counts, and what the settings do."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest

from stages.data import few_shot
from stages.data.errors import DataError
from stages.data.exact import stream
from stages.data.few_shot import characters
from stages.data.reading import Reading
from stages.data.splits import DataSet, Images

DEFAULTS = {"train": 6, "validation": 3, "test": 5, "drawings": 36, "size": 20, "distortion": 0.5, "seed": 0}


def generate(**changes) -> Reading:
    return characters.generate(**{**DEFAULTS, **changes})


def splits_of(found: Reading) -> dict[str, Images]:
    assert found.validation is not None
    return {"train": found.train, "validation": found.validation, "test": found.test}


def by_class(split: Images) -> np.ndarray:
    """The drawings, `classes x drawings x height x width x 1`."""
    return split.images.reshape(len(np.unique(split.labels)), -1, *split.images.shape[1:])


def test_bits_are_those_that_results_were_measured_on() -> None:
    digest = hashlib.sha256()
    for split in splits_of(generate()).values():
        digest.update(split.images.tobytes())
        digest.update(split.labels.astype("<i8").tobytes())
    assert digest.hexdigest() == "4b03b5bbd5e5a7ea28fa5f36765c2643d9e1212ca7f31b87ee18299bd35c7137"


def test_splits_have_classes_of_their_own_and_enough_drawings_for_twenty_shots() -> None:
    found = generate()
    dataset = few_shot.data_set(found)
    assert isinstance(dataset, DataSet)
    assert [np.unique(split.labels).tolist() for split in splits_of(found).values()] == [
        [0, 1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12, 13],
    ]  # fmt: skip
    assert len(set(found.class_names)) == 14
    assert found.class_names[6] == "validation_character_0"
    for split in splits_of(found).values():
        assert (np.bincount(split.labels)[np.unique(split.labels)] == 36).all()
    assert found.test.place(37) == "test_character_1, drawing 1"


def test_no_two_classes_of_any_split_have_the_same_strokes() -> None:
    strokes = [characters._make_strokes(stream(0, split, number, 0)) for split in range(3) for number in range(60)]
    assert len({one.tobytes() for one in strokes}) == 180
    assert {len(one) for one in strokes} == {2, 3, 4}
    # About half of the strokes after the first start at a control point of the one before.
    pairs = [pair for one in strokes for pair in pairwise(one)]
    joined = [any(np.array_equal(after[0], point) for point in before) for before, after in pairs]
    assert 0.4 < np.mean(joined) < 0.6


@pytest.mark.parametrize("drawings", [7, 20, 21])
def test_a_drawing_does_not_depend_on_how_many_there_are(drawings: int) -> None:
    many, few = generate(), generate(train=2, validation=1, test=4, drawings=drawings)
    for name, split in splits_of(few).items():
        expected = by_class(splits_of(many)[name])[: len(by_class(split)), :drawings]
        assert np.array_equal(by_class(split), expected)


def test_same_seed_same_bits_other_seed_others() -> None:
    first, again, other = generate(), generate(), generate(seed=1)
    assert np.array_equal(first.test.images, again.test.images)
    assert not np.array_equal(first.test.images, other.test.images)


def test_every_drawing_is_ink_on_paper_and_no_two_are_equal() -> None:
    images = np.concatenate([split.images for split in splits_of(generate(distortion=1.0)).values()])
    assert images.dtype == np.uint8
    assert images.shape == (14 * 36, 20, 20, 1)
    assert (images.max(axis=(1, 2, 3)) > 200).all()
    assert (np.median(images, axis=(1, 2, 3)) == 0).all()
    assert len({image.tobytes() for image in images}) == len(images)


def centroid_accuracy(distortion: float) -> float:
    """How often the nearest of the means of 20 drawings of each class is that of a query's class."""
    drawn = by_class(generate(test=10, distortion=distortion).test).astype(np.float64).reshape(10, 36, -1)
    means, queries = drawn[:, :20].mean(axis=1), drawn[:, 20:]
    distances = ((queries[:, :, None] - means) ** 2).sum(axis=-1)
    return float((distances.argmin(axis=-1) == np.arange(10)[:, None]).mean())


def test_distortion_makes_it_harder() -> None:
    accuracies = [centroid_accuracy(distortion) for distortion in (0.0, 0.5, 1.0)]
    assert accuracies[0] > 0.8, accuracies
    assert all(easier > harder + 0.1 for easier, harder in pairwise(accuracies)), accuracies
    assert accuracies[-1] > 0.15, accuracies


@pytest.mark.parametrize("size", [8, 28, 64])
def test_size(size: int) -> None:
    assert generate(size=size, drawings=2).test.images.shape == (10, size, size, 1)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("train", 0, "1 or more"),
        ("validation", 0, "1 or more"),
        ("test", -1, "1 or more"),
        ("drawings", 1, "2 or more"),
        ("size", 7, "8 to 64"),
        ("size", 65, "8 to 64"),
        ("distortion", 1.1, "0 to 1"),
        ("distortion", float("nan"), "0 to 1"),
        ("seed", -1, "0 or more"),
    ],
)
def test_arguments_out_of_range_are_named(name: str, value: float, expected: str) -> None:
    with pytest.raises(DataError, match=f"^characters: {name} is {value}, expected {expected}$"):
        generate(**{name: value})
