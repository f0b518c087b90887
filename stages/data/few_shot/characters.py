"""Characters as if written by hand, drawn from a seed: few-shot data that needs no download.

A class is two to four strokes (quadratic Bezier curves in the unit square), of which about half start at a control
point of the one before. A drawing is a class's strokes with wobbling control points, every stroke a little out of
place, under an affine distortion, of random width. Ink is 255, paper 0. (The idea is that of Lake, Salakhutdinov and
Tenenbaum 2015, 10.1126/science.aab3050: characters are programs of strokes.)

The same arguments give the same bits on any CPU (`stages.data.exact`). Every class of every split comes from streams of
its own, so that a drawing does not depend on how many classes or drawings are asked for.
"""

from __future__ import annotations

import numpy as np

from stages.data import synthetic
from stages.data.errors import DataError
from stages.data.exact import choose, stream, to_bytes, uniform
from stages.data.few_shot import NAMES, Drawings, reading
from stages.data.reading import Reading

_CHUNK = 20  # drawings from one stream
_SEGMENTS = 6  # of a stroke's polyline
_SHORTEST = 0.3  # length of a stroke, sum of the differences in x and y
_TRIES = 8  # for a stroke that is long enough
_CLASS = 0  # stream of a class; those of its drawings follow


def generate(
    *, train: int, validation: int, test: int, drawings: int, size: int, distortion: float, seed: int
) -> Reading:
    """Draws characters.

    Args:
        train: number of classes in the training split.
        validation: likewise; all classes of all splits are different ones.
        test: likewise.
        drawings: of a class.
        size: height and width, 8 to 64 pixels.
        distortion: in [0, 1]; scales wobble and affine distortion.
        seed: of the classes and the drawings, at least 0.

    Returns:
        The three splits: uint8, `num x size x size x 1`.

    Raises:
        DataError: an argument is out of range.
    """
    for name, value, low, high in (
        ("train", train, 1, None),
        ("validation", validation, 1, None),
        ("test", test, 1, None),
        ("drawings", drawings, 2, None),
        ("size", size, 8, 64),
        ("distortion", distortion, 0, 1),
        ("seed", seed, 0, None),
    ):
        if not (value >= low and (high is None or value <= high)):
            expected = f"{low} or more" if high is None else f"{low} to {high}"
            raise DataError(f"characters: {name} is {value}, expected {expected}")
    ranges = synthetic._Ranges.of(distortion)
    return reading(
        {
            split: [
                Drawings(
                    f"{split}_character_{number}", _draw_class(ranges, drawings, size, seed, NAMES.index(split), number)
                )
                for number in range(classes)
            ]
            for split, classes in zip(NAMES, (train, validation, test), strict=True)
        },
        source="generated characters",
        licence="MIT, as this repository",
        note=f"{drawings} drawings of a class",
    )


def _draw_class(ranges: synthetic._Ranges, num: int, size: int, seed: int, split: int, number: int) -> np.ndarray:
    """The drawings of a class: uint8, `num x size x size x 1`."""
    strokes = _make_strokes(stream(seed, split, number, _CLASS))
    chunks = [
        _draw(strokes, ranges, size, stream(seed, split, number, 1 + chunk)) for chunk in range(-(-num // _CHUNK))
    ]
    return np.concatenate(chunks)[:num]


def _make_strokes(random: np.random.Generator) -> np.ndarray:
    """The strokes of a class: float32, `strokes x 3 x 2`, control points as (x, y) in the unit square."""
    strokes = uniform(random, 0.12, 0.88, synthetic.MAX_STROKES, _TRIES, 3, 2)
    joins = random.random(synthetic.MAX_STROKES) < 0.5
    ends = choose(random, 3, synthetic.MAX_STROKES)
    number = 2 + int(choose(random, synthetic.MAX_STROKES - 1))
    found: list[np.ndarray] = []
    for candidates, joined, end in zip(strokes[:number], joins, ends, strict=False):
        if joined and found:
            candidates[:, 0] = found[-1][end]
        lengths = np.abs(candidates[:, 2] - candidates[:, 0]).sum(axis=1)
        # The first that is long enough; argmax is 0 where none is.
        found.append(candidates[int(np.argmax(lengths >= _SHORTEST))])
    return np.stack(found)


def _draw(
    strokes: np.ndarray, ranges: synthetic._Ranges, size: int, random: np.random.Generator, num: int = _CHUNK
) -> np.ndarray:
    """Drawings of one class: uint8, `num x size x size x 1`."""
    figures = strokes + uniform(random, -ranges.wobble, ranges.wobble, num, *strokes.shape)
    figures += uniform(random, -ranges.wobble / 2, ranges.wobble / 2, num, len(strokes), 1, 2)
    figures = synthetic._jitter(figures, ranges, random)
    width = uniform(random, 0.06, 0.12, num, 1)
    shown = np.ones((num, len(strokes)), bool)
    return to_bytes(synthetic._coverage(figures, shown, width, size, _SEGMENTS))[..., None]
