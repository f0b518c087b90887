"""Splits: validation is taken from train, damaged data is refused, files keep every bit."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from stages.data import splits
from stages.data.errors import DataError
from stages.data.splits import DataSet, Images


def images(num: int, seed: int, classes: int = 3, shape: tuple[int, ...] = (8, 8, 3)) -> Images:
    random = np.random.default_rng(seed)
    return Images(random.integers(0, 256, (num, *shape), np.uint8), np.arange(num, dtype=np.int64) % classes)


@pytest.fixture
def dataset() -> DataSet:
    return DataSet(images(30, 1), images(6, 2), images(9, 3), ("a", "b", "ç"), "a source", "MIT", "a note")


def test_validation_is_disjoint_stratified_and_complete():
    whole = images(100, 0)
    train, validation = splits.take_validation(whole, 0.2, seed=4)
    assert len(train) + len(validation) == 100
    assert np.bincount(validation.labels).tolist() == [7, 7, 7]
    parts = [{image.tobytes() for image in part.images} for part in (train, validation)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {image.tobytes() for image in whole.images}
    label_of = {image.tobytes(): label for image, label in zip(whole.images, whole.labels, strict=True)}
    for part in (train, validation):
        assert all(label_of[image.tobytes()] == label for image, label in zip(part.images, part.labels, strict=True))


def test_validation_depends_on_its_seed_alone():
    whole = images(100, 0)
    first, again, other = (splits.take_validation(whole, 0.2, seed)[1] for seed in (4, 4, 5))
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)


def test_both_sides_keep_every_class():
    for fraction in (0.01, 0.99):
        for part in splits.take_validation(images(6, 0), fraction, seed=0):
            assert set(part.labels.tolist()) == {0, 1, 2}


def test_what_cannot_be_split_is_refused():
    with pytest.raises(DataError, match="fraction is 0, expected one between 0 and 1"):
        splits.take_validation(images(6, 0), 0, seed=0)
    with pytest.raises(DataError, match="class 0 has one training sample, expected at least 2; ask for more"):
        splits.take_validation(images(3, 0), 0.5, seed=0)


def test_a_sound_data_set_passes(dataset):
    splits.check(dataset)


def test_duplicates_are_refused_or_counted(dataset):
    test = Images(dataset.test.images.copy(), dataset.test.labels)
    test.images[0], test.images[1] = dataset.train.images[4], dataset.validation.images[5]
    leaking = replace(dataset, test=test)
    with pytest.raises(DataError, match="x.bin: 2 validation or test images stand in an earlier split.*expected none"):
        splits.check(leaking, where="x.bin")
    assert splits.card(leaking)["duplicates_across_splits"] == 2


def test_the_first_duplicate_is_named(dataset):
    test = Images(dataset.test.images.copy(), dataset.test.labels, "b.bin: row {}".format)
    test.images[7] = dataset.train.images[4]
    with pytest.raises(DataError, match=r"the first is b.bin: row 7 \(test\), equal to image 4 \(train\); a score"):
        splits.check(replace(dataset, test=test))


def test_published_data_may_have_a_few_duplicates():
    whole = images(300, 4)
    train, validation = splits.take_validation(whole, 0.2, seed=0)
    test = images(200, 5)
    # Validation images that stand in train are counted alone; 1% of the test images may stand in an earlier split.
    validation.images[:5] = train.images[:5]
    test.images[:2] = train.images[7], validation.images[9]
    published = DataSet(train, validation, test, ("a", "b", "c"), "a source", "MIT", "")
    splits.check(published, published=True)
    assert splits.card(published)["duplicates_across_splits"] == 7
    test.images[2] = train.images[8]
    with pytest.raises(
        DataError, match="a source: 3 test images stand in an earlier split too, expected at most 2 of 200"
    ):
        splits.check(published, published=True)


def test_places_follow_the_images():
    whole = replace(images(30, 0), place="x: row {}".format)
    for part in splits.take_validation(whole, 0.3, seed=1):
        for row, image in enumerate(part.images):
            origin = int(part.place(row).removeprefix("x: row "))
            assert np.array_equal(whole.images[origin], image)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda one: replace(one, images=one.images.astype(np.float32)), "test: images are float32 of shape"),
        (
            lambda one: replace(one, images=one.images[:, :4]),
            r"images are uint8 of shape \(9, 4, 8, 3\), expected uint8",
        ),
        (lambda one: replace(one, labels=one.labels.astype(np.int32)), "labels are int32 of shape .* expected int64"),
        (
            lambda one: replace(one, labels=one.labels[:4]),
            r"labels are int64 of shape \(4,\), expected int64 of .*\(9,\)",
        ),
        (
            lambda one: replace(one, labels=one.labels + 1),
            "3 labels are out of range, the first, of image 2, is 3; exp",
        ),
        (lambda one: replace(one, labels=one.labels - 1), "the first, of image 0, is -1; expected 0 to 2: name every"),
        (lambda one: Images(one.images[:0], one.labels[:0]), "test: no images, expected at least one"),
    ],
)
def test_wrong_types_shapes_and_labels_are_refused(dataset, changed, message):
    with pytest.raises(DataError, match=message):
        splits.check(replace(dataset, test=changed(dataset.test)))


def test_the_card_says_what_is_there(dataset):
    card = splits.card(dataset)
    assert json.loads(json.dumps(card)) == card
    assert (card["source"], card["licence"], card["note"]) == ("a source", "MIT", "a note")
    assert (card["image_size"], card["channels"], card["classes"]) == ([8, 8], 3, ["a", "b", "ç"])
    assert card["samples"]["train"] == {"total": 30, "per_class": [10, 10, 10]}
    assert card["samples"]["test"] == {"total": 9, "per_class": [3, 3, 3]}
    assert card["duplicates_across_splits"] == 0
    pixels = dataset.train.images.astype(np.float64)
    np.testing.assert_allclose(card["train_mean"], pixels.mean(axis=(0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(card["train_standard_deviation"], pixels.std(axis=(0, 1, 2)), rtol=1e-12)


def test_the_hash_sees_every_array(dataset):
    whole = splits.card(dataset)["sha256"]
    for name in ("train", "validation", "test"):
        for field in ("images", "labels"):
            split = getattr(dataset, name)
            array = getattr(split, field).copy()
            array.reshape(-1)[-1] ^= 1
            assert splits.card(replace(dataset, **{name: replace(split, **{field: array})}))["sha256"] != whole
    assert splits.card(replace(dataset, note="another"))["sha256"] == whole


def test_files_keep_everything_and_their_bytes(dataset, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "deeper" / "second"
    splits.save(first, dataset)
    loaded = splits.load(first)
    splits.save(second, loaded)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deeper", "first.safetensors", "second"]
    for name in ("train", "validation", "test"):
        before, after = getattr(dataset, name), getattr(loaded, name)
        assert np.array_equal(before.images, after.images)
        assert np.array_equal(before.labels, after.labels)
        assert (after.images.dtype, after.labels.dtype) == (np.uint8, np.int64)
    for name in ("class_names", "source", "licence", "note"):
        assert getattr(loaded, name) == getattr(dataset, name)


def test_a_failed_write_leaves_the_old_file(dataset, tmp_path, monkeypatch):
    path = tmp_path / "data.safetensors"
    splits.save(path, dataset)
    before = path.read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        splits.save(path, replace(dataset, note="another"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_data_sets_are_refused(dataset, tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "data.safetensors"
    with pytest.raises(DataError, match="data.safetensors: no such file.*run the prepare stage"):
        splits.load(path)
    splits.save(path, dataset)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="data.safetensors: not a data set .*delete the file"):
        splits.load(path)
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(DataError, match="not a data set"):
        splits.load(path)
