"""The generator of stroke figures: its bits, its independence of counts, and what its settings do."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest

from stages.data import synthetic
from stages.data.errors import DataError
from stages.data.exact import stream
from stages.data.splits import Images

DEFAULTS = {"classes": 10, "size": 16, "channels": 3, "train": 300, "test": 260, "difficulty": 0.5, "seed": 0}


def generate(**changes):
    return synthetic.generate(**{**DEFAULTS, **changes})


def digest(*splits: Images) -> str:
    found = hashlib.sha256()
    for split in splits:
        found.update(split.images.tobytes())
        found.update(split.labels.astype("<i8").tobytes())
    return found.hexdigest()


def test_bits_are_those_that_results_were_measured_on():
    train, test, _ = generate()
    assert digest(train, test) == "20a1a7c9c4acc1e17be4d2211f56e25e209c66e9a07db5c99d3690f7c0011103"


def test_same_seed_same_bits_other_seed_others():
    train, test, _ = generate()
    again, test_again, _ = generate()
    other, _, _ = generate(seed=1)
    assert digest(train, test) == digest(again, test_again)
    assert not np.array_equal(train.images, other.images)


@pytest.mark.parametrize("classes", [3, 10, 90])
def test_a_sample_does_not_depend_on_how_many_there_are(classes):
    train, test, _ = generate(classes=classes, train=700, test=5, size=8)
    fewer, more, _ = generate(classes=classes, train=401, test=310, size=8)
    assert np.array_equal(train.images[:401], fewer.images)
    assert np.array_equal(train.labels[:401], fewer.labels)
    assert np.array_equal(test.images, more.images[:5])


def test_no_two_samples_are_equal():
    train, test, _ = generate(train=1000, test=1000, size=8, channels=1, difficulty=0.0)
    assert len({image.tobytes() for image in np.concatenate([train.images, test.images])}) == 2000


def test_equal_samples_are_refused(monkeypatch):
    def blank(skeletons, ranges, labels, size, channels, random):
        return np.zeros((len(labels), size, size, channels), np.uint8)

    monkeypatch.setattr(synthetic, "_draw", blank)
    with pytest.raises(DataError, match=r"559 of 560 samples equal another one, expected none; raise"):
        generate()


@pytest.mark.parametrize("classes", [2, 7, 10])
def test_every_run_of_classes_samples_has_each_class_once(classes):
    train, test, names = generate(classes=classes, train=classes * 60, test=classes * 3)
    assert len(names) == len(set(names)) == classes
    for split in (train, test):
        runs = np.sort(split.labels.reshape(-1, classes), axis=1)
        assert (runs == np.arange(classes)).all()
    assert len({tuple(run) for run in train.labels.reshape(-1, classes)}) > 1


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 3), (33, 1), (64, 3)])
def test_size_and_channels(size, channels):
    train, test, _ = generate(size=size, channels=channels, train=20, test=15)
    assert train.images.shape == (20, size, size, channels)
    assert test.images.shape == (15, size, size, channels)
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64


@pytest.mark.parametrize("seed", range(5))
def test_classes_are_distinct_and_share_strokes(seed):
    skeletons = synthetic._make_skeletons(40, stream(seed, 0, 0))
    strokes = [
        {stroke.tobytes() for stroke in points[present]}
        for points, present in zip(skeletons.points, skeletons.present, strict=True)
    ]
    assert len({frozenset(one) for one in strokes}) == 40
    for number, one in enumerate(strokes):
        assert 2 <= len(one) <= synthetic.MAX_STROKES
        assert any(one & other for place, other in enumerate(strokes) if place != number)


def test_figures_stand_out_from_their_background():
    # At difficulty 0 the brightness along a class's strokes differs from the rest in either direction.
    train, _, _ = generate(difficulty=0.0, train=400)
    grey = train.images.astype(np.float64).mean(axis=3)
    skeletons = synthetic._make_skeletons(10, stream(0, 0, 0))
    cover = synthetic._coverage(skeletons.points, skeletons.present, np.full((10, 1), 0.08, np.float32), 16, 6) > 0.5
    contrast = [
        abs(image[cover[one]].mean() - image[~cover[one]].mean()) for image, one in zip(grey, train.labels, strict=True)
    ]
    assert np.mean(contrast) > 40


def nearest_mean_accuracy(difficulty: float) -> float:
    """Accuracy of the nearest class mean over images that are made blind to colour and to its direction."""
    train, test, _ = generate(difficulty=difficulty, train=800, test=500)

    def plain(split: Images) -> np.ndarray:
        grey = split.images.astype(np.float64).mean(axis=3).reshape(len(split), -1)
        return np.abs(grey - np.median(grey, axis=1, keepdims=True))

    train_values, test_values = plain(train), plain(test)
    means = np.stack([train_values[train.labels == label].mean(axis=0) for label in range(10)])
    means /= np.sqrt((means**2).sum(axis=1, keepdims=True))
    return float(((test_values @ means.T).argmax(axis=1) == test.labels).mean())


def test_difficulty_makes_it_harder():
    accuracies = [nearest_mean_accuracy(difficulty) for difficulty in (0.0, 0.3, 0.6, 1.0)]
    assert accuracies[0] > 0.6, accuracies
    assert all(easier > harder + 0.03 for easier, harder in pairwise(accuracies)), accuracies


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 1}, "classes is 1, expected 2 to 1000"),
        ({"size": 7}, "size is 7, expected 8 to 64"),
        ({"channels": 2}, "channels is 2, expected 1 or 3"),
        ({"train": 0}, "train is 0, expected 1 or more"),
        ({"test": 0}, "test is 0, expected 1 or more"),
        ({"difficulty": 1.1}, r"difficulty is 1\.1, expected 0 to 1"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        generate(**changes)
