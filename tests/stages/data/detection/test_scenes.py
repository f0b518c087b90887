"""Generated scenes: their bits, their boxes against brute force, and the character of the three rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from stages.data.detection import scenes
from stages.data.detection.annotations import Picture
from stages.data.errors import DataError
from stages.data.exact import stream
from tests.stages.data.detection.rows import ROWS, settings


def digest(pictures: Sequence[Picture]) -> str:
    found = hashlib.sha256()
    for picture in pictures:
        assert isinstance(picture.image, np.ndarray)
        found.update(picture.image.tobytes())
        found.update(picture.boxes.astype("<f4").tobytes())
        found.update(picture.labels.astype("<i8").tobytes())
    return found.hexdigest()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("many_small", "1b1d47877d374664bf3a9f92adbf8d98c4b86c237f059fc666dd9c6a043203bd"),
        ("few_large", "73b6074806d74a72d92eea0c6121a469411fceb2e9188a38da30f3355456c388"),
        ("long_tail", "ff7b55b53fb6ba197d249542bedd3f6fd49d13e7916cb5f2590fe408ad5a79ca"),
    ],
)
def test_bits_are_those_that_results_were_measured_on(row: str, expected: str) -> None:
    splits = scenes.generate(settings(row))
    assert digest([picture for split in splits for picture in split.pictures]) == expected


def test_a_scene_depends_on_the_seed_and_not_on_how_many_there_are() -> None:
    few, more = settings("long_tail"), settings("long_tail", train=20, validation=3)
    ours, theirs = scenes.generate(few), scenes.generate(more)
    assert digest(ours[0].pictures) == digest(theirs[0].pictures[:12])
    assert digest(ours[1].pictures[:3]) == digest(theirs[1].pictures)
    assert digest(ours[2].pictures) == digest(theirs[2].pictures)
    assert digest(scenes.generate(settings("long_tail", seed=1))[0].pictures) != digest(ours[0].pictures)


def test_no_scene_stands_in_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = scenes.generate(settings("few_large", train=30, validation=20, test=20))
    assert [split.place for split in splits] == ["scenes: train", "scenes: validation", "scenes: test"]
    assert len({digest([picture]) for split in splits for picture in split.pictures}) == 70
    draw = scenes.draw
    monkeypatch.setattr(scenes, "draw", lambda of, split, row: draw(of, 0, row))
    with pytest.raises(DataError, match=r"^scenes: train image 0: the image is that of scenes: train image 0"):
        scenes.generate(settings("few_large"))


def silhouettes(of: scenes.Scenes, placed: list[scenes.Placed]) -> np.ndarray:
    """For each object the pixels of which at least half is under it, hidden or not: bool, `num x size x size`.

    By nine samples a pixel of the whole image, in double precision.
    """
    samples = (np.arange(3 * of.size) + 0.5) / 3
    found = []
    for one in placed:
        across, down = samples[None, :] - float(one.x), samples[:, None] - float(one.y)
        u = (float(one.cosine) * across + float(one.sine) * down) / float(one.half_width)
        v = (float(one.cosine) * down - float(one.sine) * across) / float(one.half_height)
        inside = scenes._inside(scenes.SHAPES[scenes.parts(one.label)[0]], u, v)
        assert not (inside & ((abs(u) > 1) | (abs(v) > 1))).any()
        found.append(inside.reshape(of.size, 3, of.size, 3).sum(axis=(1, 3)) >= 5)
    return np.array(found)


@pytest.mark.parametrize("row", ROWS)
def test_boxes_are_tight_around_what_is_seen(row: str) -> None:
    of, num, num_hidden = settings(row), 0, 0
    for number in range(25):
        random = stream(of.seed, 0, number)
        placed = scenes.place(of, random)
        _, boxes, labels = scenes.paint(of, random, placed)
        masks = silhouettes(of, placed)
        assert len(boxes) == len(labels) == len(masks)
        for one in range(len(masks)):
            seen = masks[one] & ~masks[one + 1 :].any(axis=0)
            assert seen.sum() >= scenes.SEEN * masks[one].sum()
            num_hidden += bool((seen != masks[one]).any())
            pixels = [(x, y) for y in range(of.size) for x in range(of.size) if seen[y, x]]
            columns, rows = zip(*pixels, strict=True)
            assert boxes[one].tolist() == [min(columns), min(rows), max(columns) + 1, max(rows) + 1]
            assert labels[one] == placed[one].label
            num += 1
    assert num_hidden > 0.05 * num, "objects do not overlap"


def test_what_is_painted_is_in_its_box() -> None:
    # Without noise from clutter, an object stands out from the same background without it.
    of = settings("few_large", most=1, difficulty=0.0)
    for number in range(25):
        random = stream(7, number)
        placed = scenes.place(of, random)
        state = random.bit_generator.state
        image, boxes, _ = scenes.paint(of, random, placed)
        random.bit_generator.state = state
        background, _, _ = scenes.paint(of, random, [])
        # The noise of the two differs by at most 31 levels.
        changed = (np.abs(image.astype(int) - background.astype(int)) > 31).any(axis=2)
        columns, rows = np.flatnonzero(changed.any(axis=0)), np.flatnonzero(changed.any(axis=1))
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(np.array(found) - boxes[0]).max() <= 1, number


def counts_and_sides(row: str, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objects of each scene; sides (root of the area, as a fraction of the image's) and labels of all objects."""
    of = settings(row, seed=3)
    drawn = [scenes.place(of, stream(of.seed, 0, number)) for number in range(num)]
    masks = [silhouettes(of, placed) for placed in drawn[:25]]
    sides = [
        np.sqrt(np.flatnonzero(mask.any(0)).size * np.flatnonzero(mask.any(1)).size) / of.size
        for one in masks
        for mask in one
    ]
    return np.array([len(one) for one in drawn]), np.array(sides), np.array([o.label for one in drawn for o in one])


def test_the_rows_differ_in_character() -> None:
    many, small, even = counts_and_sides("many_small", 200)
    few, large, _ = counts_and_sides("few_large", 150)
    some, middle, tail = counts_and_sides("long_tail", 400)
    for counts in (many, few, some):
        assert 1 <= counts.min() <= counts.max() <= 6
    assert many.mean() > 4
    assert few.mean() < 1.7
    assert set(some.tolist()) == {1, 2, 3, 4, 5}
    assert small.max() < 0.27
    assert large.min() > 0.27
    assert small.mean() < 0.2 < middle.mean() < 0.35 < 0.4 < large.mean()
    frequencies = np.bincount(even, minlength=6)
    assert frequencies.max() < 1.5 * frequencies.min()
    frequencies = np.bincount(tail, minlength=20)
    assert frequencies.min() > 0
    # By 1 / rank the first class has 0.278 of all objects, the last ten together 0.186.
    assert abs(frequencies[0] / len(tail) - 0.278) < 0.03
    assert abs(frequencies[10:].sum() / len(tail) - 0.186) < 0.03


def test_classes_differ_in_shape_or_texture() -> None:
    names = scenes.class_names(scenes.MAX_CLASSES)
    assert len(set(names)) == 32
    assert names[:3] == ("plain disc", "striped disc", "plain square")
    assert {scenes.parts(label) for label in range(32)} == {(s, t) for s in range(8) for t in range(4)}
    # No two look alike, alone: where they are, or where they have their second colour.
    looks = set()
    for label in range(32):
        half = np.float32(10)
        one = scenes.Placed(label, np.float32(12), np.float32(12), half, half, np.float32(1), np.float32(0))
        window, cover, pattern = scenes.render(one, 24)
        assert window == (slice(2, 22), slice(2, 22))
        looks.add(((cover >= 0.5).tobytes(), ((pattern >= 0.5) & (cover >= 0.5)).tobytes()))
    assert len(looks) == 32


def test_difficulty_takes_contrast_away() -> None:
    def contrast(difficulty: float) -> float:
        of, found = settings("few_large", most=1, difficulty=difficulty), []
        for number in range(30):
            picture = scenes.draw(of, 0, number)
            assert isinstance(picture.image, np.ndarray)
            x1, y1, x2, y2 = picture.boxes[0].astype(int)
            inside = picture.image[y1:y2, x1:x2].reshape(-1, 3).astype(float)
            found.append(inside.std(axis=0).mean())
        return float(np.mean(found))

    assert contrast(0.0) > 1.2 * contrast(1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fewest": 4}, "fewest is 4 and most is 2, expected most to be at least fewest"),
        ({"smallest": 0.8}, r"smallest is 0\.8 and largest is 0\.7, expected largest to be at least smallest"),
        ({"test": 0}, "scenes: test: no images, expected at least one"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        scenes.generate(settings("few_large", **changes))


def test_a_scene_may_be_crowded() -> None:
    of = settings("few_large", fewest=6, most=6, smallest=0.8, largest=0.8)
    counts = [len(scenes.draw(of, 0, number).labels) for number in range(10)]
    assert min(counts) >= 1
    assert max(counts) < 6
