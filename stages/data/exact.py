"""Random numbers and geometry that have the same bits on any CPU.

Only operations that IEEE 754 rounds exactly are used: no sine, exponential or matrix product, whose last bits depend
on the instruction set; and of NumPy's generators only the raw uniform numbers.
"""

from __future__ import annotations

import numpy as np


def stream(seed: int, *key: int) -> np.random.Generator:
    """A generator of its own for each key."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def uniform(random: np.random.Generator, low: float, high: float, *shape: int) -> np.ndarray:
    """Uniform numbers, float32, `shape`."""
    return np.float32(low) + random.random(shape, dtype=np.float32) * np.float32(high - low)


def choose(random: np.random.Generator, num: int, *shape: int) -> np.ndarray:
    """Whole numbers below `num`, `shape`."""
    return (random.random(shape) * num).astype(np.int64)


def direction(tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of an angle, given the tangent of its half."""
    square = tangent * tangent
    return (1 - square) / (1 + square), 2 * tangent / (1 + square)


def pixel_centres(size: int) -> np.ndarray:
    """The pixels' centres in the unit interval."""
    return (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Grey values in [0, 1], cut off there, as uint8."""
    return np.floor(np.clip(values, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
