"""The record of a picture and the one check on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.data.detection import annotations
from stages.data.detection.annotations import Picture, Pictures, check, clipped, squared, without_flat
from stages.data.errors import DataError
from tests.stages.data.samples import encode

BOXES = ((1.0, 2.0, 5.0, 6.0), (0.0, 0.0, 12.0, 8.0))


def picture(rows: Any = BOXES, seed: int = 0, **changes: Any) -> Picture:
    """A picture of 8 x 12 pixels with objects of classes 0, 1, 0, 1, ..."""
    num = len(rows)
    values: dict[str, Any] = {
        "image": np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8),
        "height": 8,
        "width": 12,
        "boxes": np.array(rows, np.float32).reshape(-1, 4),
        "labels": np.arange(num) % 2,
        "crowd": np.zeros(num, bool),
        "difficult": np.zeros(num, bool),
        "place": f"file: image {seed}",
    }
    return Picture(**(values | changes))


def split(*pictures: Picture, place: str = "file", class_names: tuple[str, ...] = ("cat", "dog")) -> Pictures:
    return Pictures(pictures, class_names, place)


def test_what_can_be_used_passes() -> None:
    crowded = picture(seed=2, crowd=np.array([True, False]), difficult=np.array([True, True]))
    check(split(picture(), picture((), 1)), split(crowded, place="other"))
    assert crowded.ignored.tolist() == [True, True]
    assert replace(crowded, difficult=np.zeros(2, bool)).ignored.tolist() == [True, False]
    assert len(split(picture(), crowded)) == 2


NAN = float("nan")


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((1, 2, 1, 6), r"the box \(1, 2, 1, 6\) has no area, expected x1 < x2 and y1 < y2"),
        ((1, 2, 5, 2), r"the box \(1, 2, 5, 2\) has no area"),
        ((5, 2, 1, 6), r"the box \(5, 2, 1, 6\) has no area"),
        ((5, 6, 1, 2), r"the box \(5, 6, 1, 2\) has no area"),
        ((-0.5, 2, 5, 6), r"the box \(-0.5, 2, 5, 6\) lies outside of its image, expected \(x1, y1, x2, y2\) with"
         "in 0 to 12 and 0 to 8 pixels; correct or remove it"),
        ((1, -3, 5, 6), "lies outside of its image"),
        ((1, 2, 12.5, 6), "lies outside of its image"),
        ((1, 2, 5, 8.5), "lies outside of its image"),
        ((20, 20, 30, 30), "lies outside of its image"),
        ((1, NAN, 5, 6), r"the box is \(1, nan, 5, 6\), expected four numbers"),
        ((1, 2, float("inf"), 6), r"the box is \(1, 2, inf, 6\), expected four numbers"),
        ((float("-inf"), 2, float("inf"), 6), r"the box is \(-inf, 2, inf, 6\), expected four numbers"),
    ],
)  # fmt: skip
def test_boxes_that_are_none_are_named(box: tuple[float, ...], message: str) -> None:
    for boxes, row in (((box, BOXES[0]), 0), ((BOXES[0], BOXES[1], box), 2)):
        wrong = picture(boxes, 1, annotation="annotation {}".format)
        with pytest.raises(DataError, match=f"^file: image 1, annotation {row}: .*{message}"):
            check(split(picture(), wrong))


@pytest.mark.parametrize(("label", "names"), [(2, ("cat", "dog")), (-1, ("cat", "dog")), (1, ("cat",))])
def test_unknown_labels_are_named(label: int, names: tuple[str, ...]) -> None:
    wrong = picture(labels=np.array([0, label]))
    message = f"^file: image 0, object 1: the label is {label}, expected 0 to {len(names) - 1}; name every class"
    with pytest.raises(DataError, match=message):
        check(split(wrong, class_names=names))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.array(BOXES)}, r"boxes are float64 of shape \(2, 4\), expected float32 of shape \(2, 4\)"),
        ({"boxes": np.zeros((2, 5), np.float32)}, r"boxes are float32 of shape \(2, 5\), expected float32"),
        ({"labels": np.zeros(2, np.int32)}, r"labels are int32 of shape \(2,\), expected int64"),
        ({"crowd": np.zeros(3, bool)}, r"crowd are bool of shape \(3,\), expected bool of shape \(2,\)"),
        ({"difficult": np.zeros(2)}, r"difficult are float64 of shape \(2,\), expected bool"),
        ({"image": np.zeros((8, 12, 3))}, r"the image is float64 of shape \(8, 12, 3\), expected uint8"),
        ({"image": np.zeros((12, 8, 3), np.uint8)}, r"the image is uint8 of shape \(12, 8, 3\), expected uint8"),
        ({"image": Path("no.png")}, "no.png: no such file, expected the image; put it there, or remove"),
    ],
)
def test_arrays_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^file: image 0: {message}"):
        check(split(picture(**changes)))


def test_splits_are_compared(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="^other: no images, expected at least one"):
        check(split(picture()), split(place="other"))
    for names, message in (
        (("cat", "cow"), "class 1 is 'cow', expected 'dog' as in file; give both splits the same classes"),
        (("cat",), "class 1 is missing, expected 'dog' as in file"),
        (("cat", "dog", "cow"), "class 2 is 'cow', expected missing as in file"),
        (("dog", "cat"), "class 0 is 'dog', expected 'cat'"),
        (("dog", "dog"), r"the classes are \('dog', 'dog'\), expected one or more that differ"),
    ):
        with pytest.raises(DataError, match=f"^other: {message}"):
            check(split(picture()), split(picture(seed=1), place="other", class_names=names))
    for again in (split(picture(), picture()), split(picture(seed=1), picture())):
        with pytest.raises(DataError, match="^file: image 0: the image is that of file: image 0, expected each"):
            check(again) if len({p.place for p in again.pictures}) == 1 else check(split(picture()), again)
    path = tmp_path / "a.png"
    path.write_bytes(encode(np.zeros((8, 12, 3), np.uint8)))
    check(split(picture(image=path), picture(seed=1)))
    with pytest.raises(DataError, match="^file: image 1: the image is that of file: image 0"):
        check(split(picture(image=path)), split(picture(seed=1, image=path)))


def test_what_rounding_puts_outside_is_cut_off() -> None:
    boxes = np.array([[-1, -0.01, 12.99, 9], [-1.01, 0, 13.01, 8], [NAN, 0, 12, 9.5]])
    found = clipped(boxes, 8, 12)
    assert found.dtype == np.float32
    expected = np.array([[0, 0, 12, 8], [-1.01, 0, 13.01, 8], [NAN, 0, 12, 9.5]], np.float32)
    assert np.array_equal(found, expected, equal_nan=True)
    assert clipped(np.zeros((0, 4)), 8, 12).shape == (0, 4)


def test_objects_without_area_can_be_left_out_of_published_sets() -> None:
    flat = picture([(1, 1, 1, 3), *BOXES, (3, 3, 5, 2)], 1, annotation="annotation {}".format)
    whole = split(picture(), flat, picture((), 2))
    for most in (0.0, 0.33):
        found, num = without_flat(whole, most)
        assert (found, num) == (whole, 0)
    found, num = without_flat(whole, 0.34)
    assert num == 2
    check(found)
    assert [len(p.labels) for p in found.pictures] == [2, 2, 0]
    kept = found.pictures[1]
    assert kept.boxes.tolist() == [list(box) for box in BOXES]
    assert kept.labels.tolist() == [1, 0]
    assert [kept.annotation(0), kept.annotation(1)] == ["annotation 1", "annotation 2"]
    assert without_flat(split(picture()), 0.0)[1] == 0


def bright(pixels: np.ndarray) -> list[int]:
    """The box around what is brighter than half."""
    mask = pixels[..., 0] > 127
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@pytest.mark.parametrize(("height", "width"), [(40, 60), (61, 40), (33, 33), (400, 20), (16, 16)])
@pytest.mark.parametrize("in_file", [False, True])
def test_boxes_are_scaled_as_the_image_is(height: int, width: int, in_file: bool, tmp_path: Path) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    box = (width // 4, height // 2, width, height - height // 8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    path = tmp_path / "a.png"
    path.write_bytes(encode(pixels))
    found = squared(picture([box], image=path if in_file else pixels, height=height, width=width), 32)
    assert isinstance(found.image, np.ndarray)
    check(split(found))
    assert (found.height, found.width, found.image.shape) == (32, 32, (32, 32, 3))
    assert np.abs(np.array(bright(found.image)) - found.boxes[0]).max() < 1
    assert max(found.boxes[0].tolist()) <= 32
    longer = max(height, width)
    assert not found.image[round(32 * height / longer) :].any()
    assert not found.image[:, round(32 * width / longer) :].any()


def test_files_of_other_modes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    grey = np.full((8, 12, 1), 77, np.uint8)
    path.write_bytes(encode(grey))
    assert annotations.image_size("", path) == (8, 12)
    assert (squared(picture(image=path), 12).image[:8] == 77).all()  # type: ignore[index]
    path.write_bytes(encode(np.zeros((8, 12, 1), np.uint16)))
    with pytest.raises(DataError, match=rf"^file: image 0: {path}: the image is in mode I\S*, expected 8 bits"):
        squared(picture(image=path), 12)


def test_files_that_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(np.zeros((9, 12, 3), np.uint8)))
    with pytest.raises(DataError, match=f"^file: image 0: {path}: the image is 12 x 9 pixels, expected 12 x 8; it has"):
        squared(picture(image=path), 12)
    path.unlink()
    with pytest.raises(DataError, match=f"^file: image 0: {path}: no such file, expected the image"):
        squared(picture(image=path), 12)


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^{tmp_path}: cannot be read .*, expected a list"):
        annotations.text_of(tmp_path, "a list")
    with pytest.raises(DataError, match=f"^here: {tmp_path}: the image cannot be decoded"):
        annotations.image_size("here", tmp_path)
