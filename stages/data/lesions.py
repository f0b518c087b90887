"""Grey images of soft tissue with a lesion, drawn from a seed: medical-like data that needs no download.

A class is a kind of lesion, and none is one of them: a nodule (a smooth disc), a cavity (a ring), one with spicules (a
star), calcifications (a cluster of specks) and an infiltrate (a patch of coarse texture). A sample shows it at a random
place, in a random size and shape, lighter or darker than an organ with a soft edge, smooth shading, vessels and grain.
Because a lesion may be lighter or darker and lies anywhere, no pixel tells the classes apart, and brightness alone
tells some of them only.

The same arguments give the same bits on any CPU (`stages.data.exact`). Samples are drawn in whole chunks, each from its
own stream, so that sample `i` of a split does not depend on how many are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stages.data.errors import DataError
from stages.data.exact import direction, pixel_centres, stream, to_bytes, uniform
from stages.data.splits import Images

CLASS_NAMES = ("healthy", "nodule", "cavity", "spicules", "calcifications", "infiltrate")
_CHUNK = 256
_SPICULES = 4
_SPECKS = 6
_TRAIN, _TEST = range(1, 3)  # streams


@dataclass(frozen=True)
class _Ranges:
    """How hard a lesion is to see; lengths in fractions of the image, grey values in [0, 1]."""

    contrast: float  # smallest difference between lesion and tissue
    radius: float  # of the smallest lesion
    shading: float  # amplitude
    vessels: int
    vessel_contrast: float  # largest
    noise: float  # amplitude, a pixel

    @staticmethod
    def of(difficulty: float) -> _Ranges:
        def between(easy: float, hard: float) -> float:
            return easy + difficulty * (hard - easy)

        return _Ranges(
            contrast=between(0.45, 0.12),
            radius=between(0.26, 0.18),
            shading=between(0.04, 0.2),
            vessels=int(between(1.0, 6.0) + 0.5),
            vessel_contrast=between(0.08, 0.3),
            noise=between(0.04, 0.3),
        )


def generate(
    *, classes: int, size: int, train: int, test: int, difficulty: float, seed: int
) -> tuple[Images, Images, tuple[str, ...]]:
    """Draws a training and a test split.

    Args:
        classes: number of classes, the first of `CLASS_NAMES`.
        size: height and width, 8 to 64 pixels.
        train: samples of the training split; every run of `classes` samples has each class once.
        test: samples of the test split, likewise.
        difficulty: in [0, 1]; scales shading, vessels, noise, and loss of contrast and size.
        seed: of the samples, at least 0.

    Returns:
        The training images, the test images (uint8, `num x size x size x 1`) and the classes' names.

    Raises:
        DataError: an argument is out of range, or two samples came out equal.
    """
    for name, value, low, high in (
        ("classes", classes, 2, len(CLASS_NAMES)),
        ("size", size, 8, 64),
        ("train", train, 1, None),
        ("test", test, 1, None),
        ("difficulty", difficulty, 0, 1),
        ("seed", seed, 0, None),
    ):
        if not (value >= low and (high is None or value <= high)):
            raise DataError(f"lesions: {name} is {value}, expected {low} {'or more' if high is None else f'to {high}'}")
    ranges = _Ranges.of(difficulty)
    splits = [_draw_split(ranges, classes, num, size, seed, split) for num, split in ((train, _TRAIN), (test, _TEST))]
    distinct = {image.tobytes() for split in splits for image in split.images}
    if len(distinct) < train + test:
        raise DataError(
            f"lesions: {train + test - len(distinct)} of {train + test} samples equal another one, expected none; "
            "raise difficulty or size"
        )
    return splits[0], splits[1], CLASS_NAMES[:classes]


def _draw_split(ranges: _Ranges, classes: int, num: int, size: int, seed: int, split: int) -> Images:
    rounds = max(1, _CHUNK // classes)
    chunk = rounds * classes
    images = np.empty((num, size, size, 1), np.uint8)
    labels = np.empty(num, np.int64)
    for start in range(0, num, chunk):
        random = stream(seed, split, start // chunk)
        drawn_labels = np.argsort(random.random((rounds, classes)), axis=1, kind="stable").reshape(-1)
        drawn = _draw(ranges, drawn_labels, size, random)
        stop = min(start + chunk, num)
        images[start:stop, ..., 0], labels[start:stop] = drawn[: stop - start], drawn_labels[: stop - start]
    return Images(images, labels)


def _draw(ranges: _Ranges, labels: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Draws one sample for each label: uint8, `num x size x size`."""
    num = len(labels)
    canvas = _tissue(ranges, num, size, random)
    x, y = _place(num, size, random, margin=0.28)
    radius = uniform(random, ranges.radius, ranges.radius + 0.1, num, 1, 1)
    x, y = x / radius, y / radius
    sign = np.where(random.random((num, 1, 1)) < 0.5, np.float32(1), np.float32(-1))
    depth = sign * uniform(random, 1.0, 1.4, num, 1, 1) * np.float32(ranges.contrast)
    # Every kind is drawn for every sample, so that none shifts the random numbers of another one.
    for label, draw in enumerate(_KINDS, start=1):
        cover = draw(x, y, random)
        canvas += np.where((labels == label)[:, None, None], cover * depth, np.float32(0))
    # The sum of two uniform numbers is near enough to a normal one, and exact.
    for _ in range(2):
        canvas += uniform(random, -ranges.noise / 2, ranges.noise / 2, num, size, size)
    return to_bytes(canvas)


def _tissue(ranges: _Ranges, num: int, size: int, random: np.random.Generator) -> np.ndarray:
    """An organ with a soft edge under smooth shading, crossed by vessels: float32, `num x size x size`."""
    canvas = np.broadcast_to(uniform(random, 0.4, 0.6, num, 1, 1), (num, size, size)).copy()
    x, y = _place(num, size, random, margin=0.3)
    organ = _fade(np.sqrt(x * x + y * y) / uniform(random, 0.35, 0.55, num, 1, 1), 0.4)
    canvas += organ * uniform(random, -0.12, 0.12, num, 1, 1)
    grid = pixel_centres(size)
    for high in (1.0, 1.5, 2.5):
        along_x, along_y, phase = uniform(random, -high, high, 3, num, 1, 1)
        amplitude = uniform(random, -ranges.shading / 2, ranges.shading / 2, num, 1, 1)
        canvas += amplitude * _wave(along_x * grid + along_y * grid[:, None] + phase)
    for _ in range(ranges.vessels):
        x, y = _place(num, size, random, margin=0.0)
        # A straight piece of vessel: across it is thin, along it ends softly.
        cosine, sine = direction(uniform(random, -1.0, 1.0, num, 1, 1))
        along, across = cosine * x + sine * y, cosine * y - sine * x
        thin = _fade(np.abs(across) / uniform(random, 0.03, 0.06, num, 1, 1), 1.0)
        ends = _fade(np.abs(along) / uniform(random, 0.2, 0.5, num, 1, 1), 0.5)
        canvas += thin * ends * uniform(random, -ranges.vessel_contrast, ranges.vessel_contrast, num, 1, 1)
    return canvas


def _nodule(x: np.ndarray, y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return _fade(np.sqrt(x * x + y * y), 0.5)


def _cavity(x: np.ndarray, y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    off = np.abs(np.sqrt(x * x + y * y) - np.float32(0.8))
    return _fade(off / uniform(random, 0.28, 0.36, len(x), 1, 1), 0.5)


def _spicules(x: np.ndarray, y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Lines through a small core, in directions spread over the half circle."""
    cover = _fade(np.sqrt(x * x + y * y) / np.float32(0.35), 0.5)
    turn = uniform(random, 0.0, 1.0, len(x), 1, 1)
    for number in range(_SPICULES):
        # Tangents of half an angle between -1 and 1 are directions of the right half circle, near enough evenly spread.
        cosine, sine = direction(2 * (number + turn) / np.float32(_SPICULES) - 1)
        along, across = cosine * x + sine * y, cosine * y - sine * x
        reach = uniform(random, 1.1, 1.5, len(x), 1, 1)
        cover = np.maximum(cover, _fade(np.abs(across) / np.float32(0.22), 1.0) * _fade(np.abs(along) / reach, 0.3))
    return cover


def _calcifications(x: np.ndarray, y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    cover = np.zeros_like(x)
    for _ in range(_SPECKS):
        off_x, off_y = uniform(random, -1.0, 1.0, 2, len(x), 1, 1)
        distance = np.sqrt((x - off_x) * (x - off_x) + (y - off_y) * (y - off_y))
        cover = np.maximum(cover, _fade(distance / uniform(random, 0.22, 0.3, len(x), 1, 1), 1.0))
    return cover


def _infiltrate(x: np.ndarray, y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Lighter and darker stripes that cross, in a patch that ends softly."""
    texture = np.zeros_like(x)
    for _ in range(2):
        cosine, sine = direction(uniform(random, -1.0, 1.0, len(x), 1, 1))
        phase, pitch = uniform(random, 0.0, 1.0, len(x), 1, 1), uniform(random, 0.8, 1.2, len(x), 1, 1)
        texture += _wave((cosine * x + sine * y) * pitch + phase)
    return _fade(np.sqrt(x * x + y * y) / np.float32(1.3), 0.6) * texture


# Of the classes but the first, in their order.
_KINDS: tuple[Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray], ...] = (
    _nodule, _cavity, _spicules, _calcifications, _infiltrate,
)  # fmt: skip


def _place(num: int, size: int, random: np.random.Generator, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres as seen from a random place, under a random stretch: x and y, float32, `num x size x size`."""
    grid = pixel_centres(size)
    centre_x, centre_y = uniform(random, margin, 1 - margin, 2, num, 1, 1)
    stretch, shear = uniform(random, 0.85, 1.18, num, 1, 1), uniform(random, -0.25, 0.25, num, 1, 1)
    y = np.broadcast_to((grid[:, None] - centre_y) / stretch, (num, size, size))
    return (grid - centre_x) * stretch + shear * y, y.copy()


def _fade(distance: np.ndarray, edge: float) -> np.ndarray:
    """1 near 0, 0 from a distance of 1 on, falling over the last part `edge` of the way."""
    return np.clip((1 - distance) / np.float32(edge), 0, 1)


def _wave(place: np.ndarray) -> np.ndarray:
    """A smooth wave of period 1 between -1 and 1, made of parabolas."""
    centred = 2 * (place - np.floor(place)) - 1
    return 4 * centred * (1 - np.abs(centred))
