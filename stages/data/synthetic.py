"""Images of stroke figures over clutter, drawn from a seed: the data that needs no download.

A class is a skeleton of two to four strokes (quadratic Bezier curves in the unit square). All strokes are shapes
from one small bank, and every class has at least one stroke in common with another, in shape and place: what tells
classes apart is the arrangement. A sample is a skeleton under affine jitter, with wobbling control points and random
width and colour, over a wavy texture and stray strokes from the same bank.

The same arguments give the same bits on any CPU (`stages.data.exact`). Samples are drawn in whole chunks, each from its
own stream, so that sample `i` of a split does not depend on how many are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.data.errors import DataError
from stages.data.exact import choose, direction, pixel_centres, stream, to_bytes, uniform
from stages.data.splits import Images

MAX_STROKES = 4
_CHUNK = 256
_SEGMENTS = 6  # of a stroke's polyline
_STRAY_SEGMENTS = 3
_CLASSES, _TRAIN, _TEST = range(3)  # streams


@dataclass(frozen=True)
class _Skeletons:
    """The classes' figures.

    Attributes:
        points: float32, `classes x MAX_STROKES x 3 x 2`: control points as (x, y) in the unit square.
        present: bool, `classes x MAX_STROKES`: which strokes a class has.
        bank: float32, `shapes x 3 x 2`: the shapes of all strokes, around the origin.
    """

    points: np.ndarray
    present: np.ndarray
    bank: np.ndarray


@dataclass(frozen=True)
class _Ranges:
    """How far samples stray from their skeleton; lengths in fractions of the image, colours in [0, 1]."""

    turn: float  # largest tangent of half the rotation's angle
    scale: float  # largest relative change of a side
    shear: float
    shift: float
    wobble: float  # of a control point
    contrast: float  # smallest difference of colour between strokes and background
    texture: float  # amplitude
    stray: int  # stray strokes
    stray_contrast: float  # of the strokes'
    noise: float  # amplitude, a pixel

    @staticmethod
    def of(difficulty: float) -> _Ranges:
        def between(easy: float, hard: float) -> float:
            return easy + difficulty * (hard - easy)

        return _Ranges(
            turn=between(0.08, 0.29),
            scale=between(0.10, 0.39),
            shear=between(0.09, 0.39),
            shift=between(0.06, 0.23),
            wobble=between(0.03, 0.126),
            contrast=between(0.44, 0.16),
            texture=between(0.09, 0.28),
            stray=int(between(2.0, 8.0) + 0.5),
            stray_contrast=between(0.6, 1.35),
            noise=between(0.08, 0.28),
        )


def generate(
    *, classes: int, size: int, channels: int, train: int, test: int, difficulty: float, seed: int
) -> tuple[Images, Images, tuple[str, ...]]:
    """Draws a training and a test split.

    Args:
        classes: number of classes, at least 2.
        size: height and width, 8 to 64 pixels.
        channels: 1 or 3.
        train: samples of the training split; every run of `classes` samples has each class once.
        test: samples of the test split, likewise.
        difficulty: in [0, 1]; scales jitter, wobble, clutter, loss of contrast and noise.
        seed: of the classes and the samples, at least 0.

    Returns:
        The training images, the test images (uint8, `num x size x size x channels`) and the classes' names.

    Raises:
        DataError: an argument is out of range, or two samples came out equal.
    """
    for name, value, low, high in (
        ("classes", classes, 2, 1000),
        ("size", size, 8, 64),
        ("train", train, 1, None),
        ("test", test, 1, None),
        ("difficulty", difficulty, 0, 1),
        ("seed", seed, 0, None),
    ):
        if not (value >= low and (high is None or value <= high)):
            raise DataError(
                f"synthetic: {name} is {value}, expected {low} {'or more' if high is None else f'to {high}'}"
            )
    if channels not in (1, 3):
        raise DataError(f"synthetic: channels is {channels}, expected 1 or 3")
    skeletons = _make_skeletons(classes, stream(seed, _CLASSES, 0))
    ranges = _Ranges.of(difficulty)
    splits = [
        _draw_split(skeletons, ranges, num, size, channels, seed, split)
        for num, split in ((train, _TRAIN), (test, _TEST))
    ]
    distinct = {image.tobytes() for split in splits for image in split.images}
    if len(distinct) < train + test:
        raise DataError(
            f"synthetic: {train + test - len(distinct)} of {train + test} samples equal another one, expected none; "
            "raise difficulty or size"
        )
    return splits[0], splits[1], tuple(f"figure_{number}" for number in range(classes))


def _make_skeletons(classes: int, random: np.random.Generator, candidates: int = 8) -> _Skeletons:
    """Draws the classes one by one, each the one of `candidates` figures that is furthest from all before it."""
    bank = _make_bank(4 + classes // 3, random)
    points = np.zeros((classes, MAX_STROKES, 3, 2), np.float32)
    present = np.zeros((classes, MAX_STROKES), bool)
    # Whole numbers: sums and ties are exact.
    maps = np.zeros((classes, 100), np.int64)
    for number in range(classes):
        figures = _place(bank[choose(random, len(bank), candidates, MAX_STROKES)], random)
        strokes = 2 + choose(random, MAX_STROKES - 1, candidates)
        shown = np.arange(MAX_STROKES) < strokes[:, None]
        if number:
            # One stroke comes from an earlier class, or two if there is a third to differ in. So class 0 has a
            # relative too: the only ancestor that class 1 can have.
            parents = choose(random, number, candidates)
            available = present[parents].sum(axis=1)
            taken = (random.random(candidates) * available).astype(np.int64)
            figures[:, 0] = points[parents, taken]
            both = strokes > 2
            figures[both, 1] = points[parents, (taken + 1) % available][both]
        coverage = _coverage(figures, shown, np.full((candidates, 1), 0.1, np.float32), 10, _SEGMENTS)
        drawn = np.floor(coverage * 255).astype(np.int64).reshape(candidates, -1)
        best = 0
        if number:
            distances = np.stack([np.abs(maps[:number] - one).sum(axis=1).min() for one in drawn])
            best = int(np.argmax(distances))
        points[number], present[number], maps[number] = figures[best], shown[best], drawn[best]
    return _Skeletons(points, present, bank)


def _make_bank(shapes: int, random: np.random.Generator) -> np.ndarray:
    """Strokes around the origin, float32, `shapes x 3 x 2`, with directions spread over the half circle."""
    spread = (np.arange(shapes, dtype=np.float32) + uniform(random, 0.2, 0.8, shapes)) / np.float32(shapes)
    cosine, sine = direction(2 * spread - 1)
    half, bend = uniform(random, 0.16, 0.30, shapes), uniform(random, -0.35, 0.35, shapes)
    along = np.stack([cosine, sine], axis=-1) * half[:, None]
    across = np.stack([-sine, cosine], axis=-1) * bend[:, None]
    return np.stack([-along - across / 2, across, along - across / 2], axis=1)


def _place(strokes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Puts strokes (`... x 3 x 2`) at random places of the unit square."""
    centres = uniform(random, 0.2, 0.8, *strokes.shape[:-2], 1, 2)
    return np.clip(strokes + centres, np.float32(0.08), np.float32(0.92))


def _draw_split(
    skeletons: _Skeletons, ranges: _Ranges, num: int, size: int, channels: int, seed: int, split: int
) -> Images:
    classes = len(skeletons.points)
    rounds = max(1, _CHUNK // classes)
    chunk = rounds * classes
    images = np.empty((num, size, size, channels), np.uint8)
    labels = np.empty(num, np.int64)
    for start in range(0, num, chunk):
        random = stream(seed, split, start // chunk)
        drawn_labels = np.argsort(random.random((rounds, classes)), axis=1, kind="stable").reshape(-1)
        drawn = _draw(skeletons, ranges, drawn_labels, size, channels, random)
        stop = min(start + chunk, num)
        images[start:stop], labels[start:stop] = drawn[: stop - start], drawn_labels[: stop - start]
    return Images(images, labels)


def _draw(
    skeletons: _Skeletons, ranges: _Ranges, labels: np.ndarray, size: int, channels: int, random: np.random.Generator
) -> np.ndarray:
    """Draws one sample for each label: uint8, `num x size x size x channels`."""
    num = len(labels)
    figures = skeletons.points[labels] + uniform(random, -ranges.wobble, ranges.wobble, num, MAX_STROKES, 3, 2)
    figures = _jitter(figures, ranges, random)
    width = uniform(random, 0.06, 0.11, num, 1)

    base = uniform(random, 0.25, 0.75, num, 1, 1, channels)
    # Towards black or white, whichever has more room: what is left of the contrast is what the range says.
    brightness = base.sum(axis=-1, keepdims=True) / np.float32(channels)
    side = np.where(brightness < uniform(random, 0.4, 0.6, num, 1, 1, 1), np.float32(1), np.float32(-1))
    depth = uniform(random, 1.0, 1.4, num, 1, 1, channels) * np.float32(ranges.contrast)
    ink = base + side * depth

    canvas = base + _texture(ranges, num, size, channels, random)
    for _ in range(ranges.stray):
        shapes = skeletons.bank[choose(random, len(skeletons.bank), num, 1)]
        strays = _place(shapes * uniform(random, 0.4, 0.8, num, 1, 1, 1), random)
        sign = np.where(random.random((num, 1, 1, 1)) < 0.5, np.float32(1), np.float32(-1))
        stray_width = uniform(random, 0.06, 0.11, num, 1)
        stray_ink = base + sign * np.float32(ranges.stray_contrast) * depth * uniform(random, 0.6, 1.0, num, 1, 1, 1)
        shown = np.ones((num, 1), bool)
        cover = _coverage(strays, shown, stray_width, size, _STRAY_SEGMENTS)[..., None]
        canvas += cover * (stray_ink - canvas)
    cover = _coverage(figures, skeletons.present[labels], width, size, _SEGMENTS)[..., None]
    canvas += cover * (ink - canvas)
    # The sum of two uniform numbers is near enough to a normal one, and exact.
    for _ in range(2):
        canvas += uniform(random, -ranges.noise / 2, ranges.noise / 2, num, size, size, channels)
    return to_bytes(canvas)


def _jitter(figures: np.ndarray, ranges: _Ranges, random: np.random.Generator) -> np.ndarray:
    """Figures (`num x strokes x 3 x 2`) scaled, sheared, turned around the centre and shifted."""
    num = len(figures)
    across, down, shear, shift_x, shift_y, turn = (
        uniform(random, -high, high, num, 1, 1)
        for high in (ranges.scale, ranges.scale, ranges.shear, ranges.shift, ranges.shift, ranges.turn)
    )
    cosine, sine = direction(turn)
    half = np.float32(0.5)
    x, y = (figures[..., 0] - half) * (1 + across), (figures[..., 1] - half) * (1 + down)
    x = x + shear * y
    return np.stack([cosine * x - sine * y + half + shift_x, sine * x + cosine * y + half + shift_y], axis=-1)


def _texture(ranges: _Ranges, num: int, size: int, channels: int, random: np.random.Generator) -> np.ndarray:
    """A sum of three waves and a slope, around zero: float32, `num x size x size x channels`."""
    grid = pixel_centres(size)
    total = np.zeros((num, size, size, channels), np.float32)
    for high in (1.0, 3.0, 6.0):
        along_x, along_y = uniform(random, -high, high, 2, num, 1, 1)
        phase = uniform(random, 0, 1, num, 1, 1)
        place = along_x * grid + along_y * grid[:, None] + phase
        wave = _wave(place)
        amplitude = uniform(random, -ranges.texture / 2, ranges.texture / 2, num, 1, 1, channels)
        total += wave[..., None] * amplitude
    return total


def _wave(place: np.ndarray) -> np.ndarray:
    """A smooth wave of period 1 between -1 and 1, made of parabolas."""
    centred = 2 * (place - np.floor(place)) - 1
    return 4 * centred * (1 - np.abs(centred))


def _coverage(strokes: np.ndarray, shown: np.ndarray, width: np.ndarray, size: int, segments: int) -> np.ndarray:
    """How much of each pixel is under a stroke, from the distance of its centre to the nearest one.

    Args:
        strokes: control points, float32, `num x strokes x 3 x 2`.
        shown: bool, `num x strokes`.
        width: of the strokes, float32, `num x 1`, in fractions of the image.
        size: pixels.
        segments: of each stroke's polyline.

    Returns:
        Fractions, float32, `num x size x size`.
    """
    time = np.arange(segments + 1, dtype=np.float32)[:, None] / np.float32(segments)
    left = 1 - time
    first, middle, last = (strokes[:, :, None, point] for point in range(3))
    line = left * left * first + 2 * left * time * middle + time * time * last
    line = np.where(shown[:, :, None, None], line, np.float32(100))
    grid = pixel_centres(size)
    nearest = np.full((len(strokes), size, size), 1e9, np.float32)
    for stroke in range(strokes.shape[1]):
        for segment in range(segments):
            start_x, start_y = line[:, stroke, segment, :, None].swapaxes(0, 1)
            end_x, end_y = line[:, stroke, segment + 1, :, None].swapaxes(0, 1)
            step_x, step_y = end_x - start_x, end_y - start_y
            length = step_x * step_x + step_y * step_y + np.float32(1e-9)
            from_x, from_y = grid - start_x, grid - start_y
            share = (from_x * (step_x / length))[:, None, :] + (from_y * (step_y / length))[:, :, None]
            np.clip(share, 0, 1, out=share)
            off_x = share * step_x[:, None]
            np.subtract(from_x[:, None, :], off_x, out=off_x)
            np.multiply(off_x, off_x, out=off_x)
            share *= step_y[:, None]
            np.subtract(from_y[:, :, None], share, out=share)
            np.multiply(share, share, out=share)
            off_x += share
            np.minimum(nearest, off_x, out=nearest)
    radius = np.maximum(width * np.float32(size) / 2, np.float32(0.5))[:, None]
    return np.clip(radius - np.sqrt(nearest) * np.float32(size) + np.float32(0.5), 0, 1)
