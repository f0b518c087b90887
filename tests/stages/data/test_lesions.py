"""The generator of lesions: its bits, its independence of counts, and that it takes more than pixels or brightness."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from stages.data import lesions
from stages.data.errors import DataError
from stages.data.splits import Images, channel_statistics
from stages.settings import Row
from stages.tasks import image_classification as task
from stages.training import Length, train

DEFAULTS: dict[str, Any] = {"classes": 6, "size": 16, "train": 300, "test": 260, "difficulty": 0.6, "seed": 0}


def generate(**changes: Any) -> tuple[Images, Images, tuple[str, ...]]:
    return lesions.generate(**{**DEFAULTS, **changes})


def digest(*splits: Images) -> str:
    found = hashlib.sha256()
    for split in splits:
        found.update(split.images.tobytes())
        found.update(split.labels.astype("<i8").tobytes())
    return found.hexdigest()


def test_bits_are_those_that_results_were_measured_on() -> None:
    train_split, test_split, _ = generate()
    assert digest(train_split, test_split) == "1bade24217986d4334ad9b7f2e2a0c60c3e861eb5802cb80a7bd27b21df73b63"


def test_same_seed_same_bits_other_seed_others() -> None:
    first, again, other = generate(), generate(), generate(seed=1)
    assert digest(*first[:2]) == digest(*again[:2])
    assert not np.array_equal(first[0].images, other[0].images)


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_a_sample_does_not_depend_on_how_many_there_are(classes: int) -> None:
    train_split, test_split, _ = generate(classes=classes, train=700, test=5, size=8)
    fewer, more, _ = generate(classes=classes, train=401, test=310, size=8)
    assert np.array_equal(train_split.images[:401], fewer.images)
    assert np.array_equal(train_split.labels[:401], fewer.labels)
    assert np.array_equal(test_split.images, more.images[:5])


def test_no_two_samples_are_equal() -> None:
    found = generate(train=1000, test=1000, size=8, difficulty=0.0)[:2]
    assert len({image.tobytes() for split in found for image in split.images}) == 2000


def test_equal_samples_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def blank(ranges: Any, labels: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
        return np.zeros((len(labels), size, size), np.uint8)

    monkeypatch.setattr(lesions, "_draw", blank)
    with pytest.raises(DataError, match=r"559 of 560 samples equal another one, expected none; raise"):
        generate()


@pytest.mark.parametrize("classes", [2, 6])
def test_every_run_of_classes_samples_has_each_class_once(classes: int) -> None:
    train_split, test_split, names = generate(classes=classes, train=classes * 60, test=classes * 3)
    assert names == lesions.CLASS_NAMES[:classes]
    for split in (train_split, test_split):
        runs = np.sort(split.labels.reshape(-1, classes), axis=1)
        assert (runs == np.arange(classes)).all()
    assert len({tuple(run) for run in train_split.labels.reshape(-1, classes)}) > 1


@pytest.mark.parametrize("size", [8, 16, 33, 64])
def test_sizes(size: int) -> None:
    train_split, test_split, _ = generate(size=size, train=20, test=15)
    assert train_split.images.shape == (20, size, size, 1) and train_split.images.dtype == np.uint8
    assert test_split.images.shape == (15, size, size, 1) and test_split.labels.dtype == np.int64


def test_the_healthy_have_no_lesion_and_the_others_have_one() -> None:
    """Without noise, vessels and shading what is left is an organ's soft edge, and the lesion."""
    train_split, _, _ = generate(difficulty=0.0, train=600)
    grey = train_split.images[..., 0].astype(float)
    steepest = np.abs(np.diff(grey, axis=1)).max(axis=(1, 2))
    of_class = [np.median(steepest[train_split.labels == label]) for label in range(6)]
    assert all(of_class[0] + 20 < other for other in of_class[1:]), of_class


def pixels(split: Images) -> np.ndarray:
    return split.images.reshape(len(split), -1).astype(float)


def brightness(split: Images) -> np.ndarray:
    values = pixels(split)
    return np.stack([values.mean(1), values.std(1), values.min(1), values.max(1)], axis=1)


def test_it_takes_more_than_pixels_or_brightness(tiny_row: Row) -> None:
    train_split, test_split, _ = generate(train=900, test=900, difficulty=0.6)
    scores = {}
    for name, look in (("pixels", pixels), ("brightness", brightness)):
        scaler = StandardScaler().fit(look(train_split))
        inputs = [scaler.transform(look(split)) for split in (train_split, test_split)]
        fitted = LogisticRegression(C=0.01, max_iter=500).fit(inputs[0], train_split.labels)
        scores[name] = fitted.score(inputs[1], test_split.labels)
    statistics = channel_statistics(train_split.images)
    parts = [task.Split.of(split.images, split.labels, 0, *statistics, "cpu") for split in (train_split, test_split)]
    model = task.network(((8,), (16,), (24,)), 1, 6, torch.Generator().manual_seed(0))
    train(model, *parts, tiny_row.training, seed=0, length=Length(steps=800))
    network = task.evaluate(model, parts[1])[1]
    # Chance is a sixth; brightness alone tells some.
    assert scores["pixels"] < 0.3 and scores["brightness"] < network - 0.2 and network > 0.7, (scores, network)


def test_difficulty_makes_it_harder() -> None:
    def contrast(difficulty: float) -> float:
        """How far the healthy and those with a nodule are apart in their largest deviation, in its own spread."""
        train_split, _, _ = generate(difficulty=difficulty, train=600, classes=2)
        values = pixels(train_split)
        off = np.abs(values - np.median(values, axis=1, keepdims=True))
        largest = np.sort(off, axis=1)[:, -12:].mean(axis=1)
        apart = [largest[train_split.labels == label] for label in range(2)]
        return float((apart[1].mean() - apart[0].mean()) / np.sqrt(apart[0].var() + apart[1].var()))

    found = [contrast(difficulty) for difficulty in (0.0, 0.3, 0.6, 1.0)]
    assert all(easier > harder for easier, harder in pairwise(found)), found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 7}, "lesions: classes is 7, expected 2 to 6"),
        ({"size": 7}, "size is 7, expected 8 to 64"),
        ({"train": 0}, "train is 0, expected 1 or more"),
        ({"test": 0}, "test is 0, expected 1 or more"),
        ({"difficulty": 1.1}, r"difficulty is 1\.1, expected 0 to 1"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
    ],
)
def test_arguments_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        generate(**changes)
