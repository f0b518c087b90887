"""scikit-learn's digits: their bits, their splits, and that distortion makes them harder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from stages.data import digits, registry
from stages.data.settings import Data, Digits
from stages.data.splits import Images

ALL = 1797


def generate(train: int = 400, test: int = 1200, distortion: float = 0.5, seed: int = 0) -> tuple[Images, Images]:
    return digits.generate(train=train, test=test, distortion=distortion, seed=seed)


def test_bits_are_those_that_results_were_measured_on() -> None:
    found = hashlib.sha256()
    for split in generate():
        found.update(split.images.tobytes())
        found.update(split.labels.astype("<i8").tobytes())
    assert found.hexdigest() == "af27c3fafd7bd5f0ba6b4ab1ab6497a90ef4d15c612e9f6ec4b93dbe44db0721"


def test_no_original_is_in_two_splits() -> None:
    # Undistorted, equal originals are equal images; all of the originals differ.
    train, test = generate(train=ALL - 1000, test=1000, distortion=0.0)
    assert len({image.tobytes() for split in (train, test) for image in split.images}) == ALL


def test_a_sample_does_not_depend_on_how_many_there_are() -> None:
    train, test = generate()
    fewer, same = generate(train=100)
    assert np.array_equal(test.images, same.images)
    assert np.array_equal(train.images[:100], fewer.images)
    assert not np.array_equal(generate(seed=1)[1].labels, test.labels)


def test_shapes_and_classes() -> None:
    train, test = generate()
    assert (train.images.shape, test.images.shape) == ((400, 16, 16, 1), (1200, 16, 16, 1))
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int64)
    assert np.bincount(train.labels, minlength=10).min() > 20


def nearest_neighbour_accuracy(distortion: float) -> float:
    train, test = generate(distortion=distortion)
    train_values, test_values = (split.images.reshape(len(split), -1).astype(float) for split in (train, test))
    distances = (train_values**2).sum(1) - 2 * test_values @ train_values.T
    return float((train.labels[distances.argmin(1)] == test.labels).mean())


def test_distortion_makes_it_harder() -> None:
    accuracies = [nearest_neighbour_accuracy(distortion) for distortion in (0.0, 0.3, 0.6, 1.0)]
    assert accuracies[0] > 0.9, accuracies
    assert all(easier > harder + 0.05 for easier, harder in pairwise(accuracies)), accuracies


def test_more_than_there_are_is_refused(refused: Callable[[Data, str], None]) -> None:
    data = Digits(source="digits", train=700, test=1200, distortion=0.5, seed=0, validation=0.2)
    refused(data, "digits: train and test are 700 and 1200, expected at most 1797 together")


def test_the_reading_says_what_it_is() -> None:
    data = Digits(source="digits", train=50, test=50, distortion=0.5, seed=0, validation=0.2)
    found = registry.load(data, registry.Path())
    assert (len(found.train) + len(found.validation), len(found.test)) == (50, 50)
    assert "real handwriting" in found.note
    assert found.licence.startswith("CC BY 4.0")
