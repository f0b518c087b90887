"""Scenes of a few objects over clutter, drawn from a seed: the detection data that needs no download.

A class is a shape with a texture, so that neither alone tells classes apart: "striped ring". An object is its class at
a random place, size, proportion, angle and colour; objects may overlap, and a later one hides what it covers. A box is
tight around the pixels of its object that are seen. The background is a wavy texture with stray lines in the colours
that objects have.

The same settings give the same bits on any CPU (`stages.data.exact`). Every scene is drawn from a stream of its own, so
that scene `i` of a split does not depend on how many are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stages.data.detection.annotations import Picture, Pictures, check
from stages.data.errors import DataError
from stages.data.exact import choose, direction, pixel_centres, stream, to_bytes, uniform
from stages.data.settings import Scenes

SHAPES = ("disc", "square", "triangle", "cross", "ring", "angle", "diamond", "crescent")
TEXTURES = ("plain", "striped", "chequered", "halved")
MAX_CLASSES = len(SHAPES) * len(TEXTURES)
SPLITS = ("train", "validation", "test")
# Of every object at least this fraction is seen: where that leaves no place for one, the scene does without it.
SEEN = 0.6
_PLACES = 12  # that are tried for an object
_SAMPLES = 3  # a pixel's side, for the part of it that an object covers


@dataclass(frozen=True)
class Placed:
    """An object with its place in a scene; lengths in pixels.

    Attributes:
        label: its class.
        x: of the centre.
        y: of the centre, downwards.
        half_width: before it is turned.
        half_height: before it is turned.
        cosine: of the angle that it is turned by.
        sine: of the angle.
    """

    label: int
    x: np.float32
    y: np.float32
    half_width: np.float32
    half_height: np.float32
    cosine: np.float32
    sine: np.float32

    @property
    def reach(self) -> tuple[np.float32, np.float32]:
        """How far it can reach from its centre to either side, and up and down."""
        cosine, sine = abs(self.cosine), abs(self.sine)
        return cosine * self.half_width + sine * self.half_height, sine * self.half_width + cosine * self.half_height


def class_names(classes: int) -> tuple[str, ...]:
    """The names of the first classes: neighbours share a shape, every second one a texture."""
    return tuple(f"{TEXTURES[texture]} {SHAPES[shape]}" for shape, texture in map(parts, range(classes)))


def parts(label: int) -> tuple[int, int]:
    """Shape and texture of a class."""
    pair, second = divmod(label, 2)
    return pair % len(SHAPES), 2 * (pair // len(SHAPES)) + second


def generate(settings: Scenes) -> tuple[Pictures, Pictures, Pictures]:
    """Draws the training, validation and test scenes.

    Raises:
        DataError: settings contradict each other, or two scenes came out equal.
    """
    for low, high in (("fewest", "most"), ("smallest", "largest")):
        least, greatest = getattr(settings, low), getattr(settings, high)
        if least > greatest:
            raise DataError(f"scenes: {low} is {least} and {high} is {greatest}, expected {high} to be at least {low}")
    names = class_names(settings.classes)
    found = []
    for number, name in enumerate(SPLITS):
        scenes = (draw(settings, number, row) for row in range(getattr(settings, name)))
        found.append(Pictures(tuple(scenes), names, f"scenes: {name}"))
    train, validation, test = found
    check(train, validation, test)
    return train, validation, test


def draw(settings: Scenes, split: int, row: int) -> Picture:
    """Draws one scene of a split (0 training, 1 validation, 2 test)."""
    random = stream(settings.seed, split, row)
    image, boxes, labels = paint(settings, random, place(settings, random))
    none = np.zeros(len(labels), bool)
    return Picture(
        image=image,
        height=settings.size,
        width=settings.size,
        boxes=boxes,
        labels=labels,
        crowd=none,
        difficult=none,
        place=f"scenes: {SPLITS[split]} image {row}",
    )


def place(settings: Scenes, random: np.random.Generator) -> list[Placed]:
    """Chooses the objects of a scene, the hindmost first, such that enough is seen of each."""
    size = settings.size
    num = settings.fewest + int(choose(random, settings.most - settings.fewest + 1))
    rank = np.arange(settings.classes) / max(settings.classes - 1, 1)
    frequencies = np.cumsum(1 / (1 + (settings.imbalance - 1) * rank))
    drawn = np.searchsorted(frequencies, random.random(num) * frequencies[-1], side="right")
    # The product may be rounded up to the last sum.
    labels = np.minimum(drawn, settings.classes - 1)
    longer = uniform(random, settings.smallest, settings.largest, num) * np.float32(size)
    proportion = uniform(random, 0.7, 1, num)
    is_flat = random.random(num) < 0.5
    cosine, sine = direction(uniform(random, -0.18, 0.18, num))
    where = random.random((num, _PLACES, 2), dtype=np.float32)

    placed: list[Placed] = []
    owner = np.full((size, size), -1)
    seen, areas = np.zeros(num, np.int64), np.zeros(num, np.int64)
    for number in range(num):
        long, short = longer[number] / 2, longer[number] * proportion[number] / 2
        half_width, half_height = (long, short) if is_flat[number] else (short, long)
        for share_x, share_y in where[number]:
            one = Placed(
                label=int(labels[number]),
                x=share_x,
                y=share_y,
                half_width=half_width,
                half_height=half_height,
                cosine=cosine[number],
                sine=sine[number],
            )
            reach_x, reach_y = one.reach
            one = replace(
                one, x=reach_x + share_x * (size - 2 * reach_x), y=reach_y + share_y * (size - 2 * reach_y)
            )  # fmt: skip
            window, cover, _ = render(one, size)
            mask = cover >= 0.5
            hidden = np.bincount(owner[window][mask] + 1, minlength=num + 1)[1:]
            if mask.any() and (seen - hidden >= SEEN * areas).all():
                owner[window][mask] = len(placed)
                seen -= hidden
                seen[len(placed)] = areas[len(placed)] = mask.sum()
                placed.append(one)
                break
    return placed


def paint(
    settings: Scenes, random: np.random.Generator, placed: list[Placed]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paints objects over a background.

    Returns:
        The image (uint8, `size x size x 3`), tight boxes around what is seen of the objects (float32, `num x 4`) and
        their labels (int64, `num`).
    """
    size, hard = settings.size, settings.difficulty
    base = uniform(random, 0.3, 0.7, 3)
    contrast = 0.42 - 0.2 * hard
    canvas = base + _texture(random, size, 0.06 + 0.14 * hard)
    for _ in range(int(3 + 9 * hard)):
        _stroke(canvas, random, base, contrast)
    owner = np.full((size, size), -1)
    for number, one in enumerate(placed):
        window, cover, pattern = render(one, size)
        side = np.float32(1) if random.random() < 0.5 else np.float32(-1)
        first, second = (
            base + sign * side * contrast * uniform(random, 0.75, 1.25, 3) for sign in (np.float32(1), np.float32(-1))
        )
        ink = first + pattern[..., None] * (second - first)
        canvas[window] += cover[..., None] * (ink - canvas[window])
        owner[window][cover >= 0.5] = number
    # The sum of two uniform numbers is near enough to a normal one, and exact.
    for _ in range(2):
        canvas += uniform(random, -1, 1, size, size, 3) * (0.03 + 0.05 * hard)
    boxes = np.array([_tight(owner == number) for number in range(len(placed))], np.float32).reshape(-1, 4)
    return to_bytes(canvas), boxes, np.array([one.label for one in placed], np.int64)


def render(one: Placed, size: int) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """An object alone.

    Returns:
        The window of the image (rows, columns) that it lies in; how much of each pixel there is under it, and how much
        of that has its second colour: fractions, float32, `rows x columns`.
    """
    (reach_x, reach_y), samples = one.reach, _SAMPLES
    columns, rows = (
        slice(max(0, int(np.floor(centre - reach))), min(size, int(np.ceil(centre + reach))))
        for centre, reach in ((one.x, reach_x), (one.y, reach_y))
    )
    across, down = (
        np.float32(part.start) + pixel_centres((part.stop - part.start) * samples) * np.float32(part.stop - part.start)
        for part in (columns, rows)
    )
    from_x, from_y = across - one.x, (down - one.y)[:, None]
    u = (one.cosine * from_x + one.sine * from_y) / one.half_width
    v = (one.cosine * from_y - one.sine * from_x) / one.half_height
    shape, texture = parts(one.label)
    inside = _inside(SHAPES[shape], u, v)
    second = inside & _pattern(TEXTURES[texture], u, v)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    counts = [
        mask.reshape(height, samples, width, samples).sum(axis=(1, 3)).astype(np.float32) for mask in (inside, second)
    ]
    cover = counts[0] / np.float32(samples * samples)
    return (rows, columns), cover, counts[1] / np.maximum(counts[0], np.float32(1))


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where a shape is, in coordinates in which it fills the square from -1 to 1."""
    high, wide = np.abs(v), np.abs(u)
    square = (wide <= 0.9) & (high <= 0.9)
    if shape == "disc":
        return u * u + v * v <= 1
    if shape == "square":
        return square
    if shape == "triangle":
        return (2 * wide - 1 <= v) & (v <= 0.9)
    if shape == "cross":
        return ((wide <= 0.34) | (high <= 0.34)) & (wide <= 1) & (high <= 1)
    if shape == "ring":
        square_distance = u * u + v * v
        return (square_distance <= 1) & (square_distance >= 0.3)
    if shape == "angle":
        return square & ((u <= -0.2) | (v >= 0.2))
    if shape == "diamond":
        return wide + high <= 1
    if shape == "crescent":
        return (u * u + v * v <= 1) & ((u - 0.55) * (u - 0.55) + v * v >= 0.5)
    raise ValueError(f"no such shape: {shape}")


def _pattern(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where a texture has its second colour."""
    if texture == "plain":
        return np.zeros(np.broadcast_shapes(u.shape, v.shape), bool)
    if texture == "striped":
        return np.floor(2 * (u + 1)).astype(np.int64) % 2 == 1
    if texture == "chequered":
        return (u > 0) != (v > 0)
    if texture == "halved":
        return v > 0
    raise ValueError(f"no such texture: {texture}")


def _texture(random: np.random.Generator, size: int, amplitude: float) -> np.ndarray:
    """A sum of three waves around zero: float32, `size x size x 3`."""
    grid = pixel_centres(size)
    total = np.zeros((size, size, 3), np.float32)
    for high in (1.0, 3.0, 6.0):
        along_x, along_y = uniform(random, -high, high, 2)
        position = along_x * grid + (along_y * grid)[:, None] + uniform(random, 0, 1)
        # Parabolas make a smooth wave of period 1 between -1 and 1.
        centred = 2 * (position - np.floor(position)) - 1
        wave = 4 * centred * (1 - np.abs(centred))
        total += wave[..., None] * uniform(random, -amplitude, amplitude, 3)
    return total


def _stroke(canvas: np.ndarray, random: np.random.Generator, base: np.ndarray, contrast: float) -> None:
    """Draws a stray line over the canvas, in a colour that an object could have."""
    size = len(canvas)
    x, y = uniform(random, 0, 1, 2) * np.float32(size)
    cosine, sine = direction(uniform(random, -1, 1))
    half_length = uniform(random, 0.06, 0.2) * np.float32(size)
    half_width = uniform(random, 0.008, 0.02) * np.float32(size)
    sign = np.float32(1) if random.random() < 0.5 else np.float32(-1)
    ink = base + sign * contrast * uniform(random, 0.5, 1.1, 3)
    grid = np.arange(size, dtype=np.float32) + np.float32(0.5)
    from_x, from_y = grid - x, (grid - y)[:, None]
    along, across = cosine * from_x + sine * from_y, cosine * from_y - sine * from_x
    half = np.float32(0.5)
    cover = np.clip(half_length + half - np.abs(along), 0, 1) * np.clip(half_width + half - np.abs(across), 0, 1)
    canvas += cover[..., None] * (ink - canvas)


def _tight(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box (x1, y1, x2, y2) around the pixels of a mask, which has some."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
