"""scikit-learn's handwritten digits (Alpaydin and Kaynak 1998, 10.24432/C50P49), distorted: real images, no download.

The 1,797 originals of 8 x 8 pixels are split first, so that none is in two splits, then scaled to 16 x 16, each once,
under affine jitter, over noise and behind a rectangle that covers a part. The same arguments give the same bits on any
CPU (`stages.data.exact`), and an original looks the same whichever split it is in.
"""

from __future__ import annotations

import numpy as np

from stages.data.errors import DataError
from stages.data.exact import direction, pixel_centres, stream, to_bytes, uniform
from stages.data.splits import Images

SIZE = 16
CLASS_NAMES = tuple("0123456789")
_ORIGINAL = 8
_DARKEST = 16  # value of an original's pixel
_ORDER, _DISTORTION = range(2)  # streams


def generate(*, train: int, test: int, distortion: float, seed: int) -> tuple[Images, Images]:
    """Draws a training and a test split.

    Args:
        train: samples of the training split.
        test: samples of the test split, which does not depend on `train`.
        distortion: in [0, 1]; scales jitter, noise, loss of contrast and what is covered.
        seed: of the splits and the distortions.

    Returns:
        The training and the test images, uint8, `num x SIZE x SIZE x 1`.

    Raises:
        DataError: more samples are asked for than there are.
    """
    from sklearn.datasets import load_digits

    originals, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
    if train + test > len(labels):
        raise DataError(f"digits: train and test are {train} and {test}, expected at most {len(labels)} together")
    values = originals.reshape(-1, _ORIGINAL, _ORIGINAL).astype(np.float32) / np.float32(_DARKEST)
    images = to_bytes(_distort(values, distortion, stream(seed, _DISTORTION)))[..., None]
    # Sorting raw uniform numbers, because NumPy does not promise that its shuffles stay the same over versions.
    order = np.argsort(stream(seed, _ORDER).random(len(labels)), kind="stable")
    chosen = order[test : test + train], order[:test]
    train_split, test_split = (Images(images[rows], labels[rows].astype(np.int64)) for rows in chosen)
    return train_split, test_split


def _distort(values: np.ndarray, distortion: float, random: np.random.Generator) -> np.ndarray:
    """Scales and distorts digits, float32, `num x 8 x 8` in [0, 1]; returns `num x SIZE x SIZE`."""
    num = len(values)
    across, down, shear, shift_x, shift_y, turn = (
        uniform(random, -high * distortion, high * distortion, num, 1, 1) for high in (0.3, 0.3, 0.4, 0.2, 0.2, 0.3)
    )
    cosine, sine = direction(turn)
    half = np.float32(0.5)
    x = (pixel_centres(SIZE) - half - shift_x) * (1 + across)
    y = (pixel_centres(SIZE)[:, None] - half - shift_y) * (1 + down)
    x = x + shear * y
    ink = _sample(values, cosine * x - sine * y + half, sine * x + cosine * y + half)
    paper = uniform(random, 0, 0.4 * distortion, num, 1, 1)
    contrast = uniform(random, 1 - 0.6 * distortion, 1, num, 1, 1)
    canvas = paper + ink * contrast * (1 - paper)
    canvas = np.where(_covered(num, distortion, random), uniform(random, 0, 1, num, 1, 1), canvas)
    # The sum of two uniform numbers is near enough to a normal one, and exact.
    for _ in range(2):
        canvas += uniform(random, -0.2 * distortion, 0.2 * distortion, num, SIZE, SIZE)
    return canvas


def _sample(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear interpolation of `num x 8 x 8` values at places of the unit square; zero outside of it.

    Args:
        values: float32.
        x: float32, `num x SIZE x SIZE`.
        y: likewise.
    """
    border = np.pad(values, ((0, 0), (1, 1), (1, 1)))
    number = np.arange(len(values))[:, None, None]
    # Places in pixels of `border`, whose first centre lies half a pixel outside of the image.
    column, row = (np.clip(place * _ORIGINAL + np.float32(0.5), 0, _ORIGINAL + 1) for place in (x, y))
    left, top = (np.minimum(place.astype(np.int64), _ORIGINAL) for place in (column, row))
    right, low = column - left.astype(np.float32), row - top.astype(np.float32)
    upper = border[number, top, left] * (1 - right) + border[number, top, left + 1] * right
    lower = border[number, top + 1, left] * (1 - right) + border[number, top + 1, left + 1] * right
    return upper * (1 - low) + lower * low


def _covered(num: int, distortion: float, random: np.random.Generator) -> np.ndarray:
    """Which pixels a rectangle covers, bool, `num x SIZE x SIZE`."""
    centre_x, centre_y = uniform(random, 0.1, 0.9, 2, num, 1, 1)
    half_x, half_y = uniform(random, 0, 0.25 * distortion, 2, num, 1, 1)
    grid = pixel_centres(SIZE)
    return (np.abs(grid - centre_x) < half_x) & (np.abs(grid[:, None] - centre_y) < half_y)
