"""Pictures with boxes around their objects, whatever format they come from, and the one check on them.

A box is (x1, y1, x2, y2) in pixels: the edges of a rectangle in an image whose pixel in column 0 and row 0 lies between
0 and 1 in either direction. So a box around that pixel alone is (0, 0, 1, 1), and x2 - x1 is a width.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from stages.data.errors import DataError, told

# Annotation tools round, some to whole pixels: what lies outside of its image by no more is cut off.
OVERSHOOT = 1.0
FORMATS = ("PNG", "JPEG")
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture:
    """One image and the objects in it; there may be none.

    Attributes:
        image: its file, or uint8, `height x width x 3`.
        height: pixels.
        width: pixels.
        boxes: float32, `num x 4`: (x1, y1, x2, y2) in pixels.
        labels: int64, `num`.
        crowd: bool, `num`: the box holds several objects that were not told apart.
        difficult: bool, `num`: the object was marked as hard to recognise.
        place: of the image, as messages call it: the file that annotates it, and its name there.
        annotation: what messages call an object, by its row.
    """

    image: Path | np.ndarray
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    place: str
    annotation: Callable[[int], str] = "object {}".format

    @property
    def ignored(self) -> np.ndarray:
        """The objects that nothing is trained on and that count neither as found nor as missed: bool, `num`."""
        return np.logical_or(self.crowd, self.difficult)


@dataclass(frozen=True)
class Pictures:
    """The pictures of one split.

    Attributes:
        pictures: in the order of their source.
        class_names: the names of labels 0, 1, ...
        place: of the split, as messages call it.
    """

    pictures: tuple[Picture, ...]
    class_names: tuple[str, ...]
    place: str

    def __len__(self) -> int:
        return len(self.pictures)


def check(*splits: Pictures) -> None:
    """Refuses pictures that cannot be used.

    Raises:
        DataError: a split is empty or has other classes than the first one, an image is missing or stands twice (in one
            split or in two), or an object has a box that is no box, has no area or lies outside of its image, or an
            unknown label. The message names the file, the image and the object.
    """
    seen: dict[object, Picture] = {}
    for split in splits:
        if not len(split):
            raise DataError(f"{split.place}: no images, expected at least one; ask for more, or list some")
        _check_classes(split, splits[0])
        for picture in split.pictures:
            _check_picture(picture, len(split.class_names))
            first = seen.setdefault(_identity(picture.image), picture)
            if first is not picture:
                raise DataError(
                    f"{picture.place}: the image is that of {first.place}, expected each image once, in one split; "
                    "remove one of the two"
                )


def _check_classes(split: Pictures, first: Pictures) -> None:
    names = split.class_names
    if len(set(names)) < len(names) or not names:
        raise DataError(f"{split.place}: the classes are {names}, expected one or more that differ; rename them")
    for number, (found, expected) in enumerate(zip_longest(names, first.class_names)):
        if found != expected:
            shown, wanted = ("missing" if name is None else repr(name) for name in (found, expected))
            raise DataError(
                f"{split.place}: class {number} is {shown}, expected {wanted} as in {first.place}; give both splits "
                "the same classes"
            )


def _check_picture(picture: Picture, num_classes: int) -> None:
    num = len(picture.labels)
    for name, kind, shape in (
        ("boxes", np.float32, (num, 4)),
        ("labels", np.int64, (num,)),
        ("crowd", np.bool_, (num,)),
        ("difficult", np.bool_, (num,)),
    ):
        values = getattr(picture, name)
        if values.dtype != kind or values.shape != shape:
            raise DataError(
                f"{picture.place}: {name} are {values.dtype} of shape {values.shape}, expected {np.dtype(kind)} of "
                f"shape {shape}; convert them before"
            )
    if isinstance(picture.image, Path):
        if not picture.image.is_file():
            raise missing(picture.place, picture.image)
    elif picture.image.dtype != np.uint8 or picture.image.shape != (picture.height, picture.width, 3):
        raise DataError(
            f"{picture.place}: the image is {picture.image.dtype} of shape {picture.image.shape}, expected uint8 of "
            f"shape {(picture.height, picture.width, 3)}; convert it before"
        )
    _check_objects(picture, num_classes)


def _check_objects(picture: Picture, num_classes: int) -> None:
    def refuse(wrong: np.ndarray, found: str, expected: str) -> None:
        for row in np.flatnonzero(wrong)[:1].tolist():
            box = ", ".join(f"{value:g}" for value in picture.boxes[row].tolist())
            shown = found.format(box=f"({box})", label=picture.labels[row])
            raise DataError(f"{picture.place}, {picture.annotation(row)}: {shown}, expected {expected}")

    x1, y1, x2, y2 = picture.boxes.T
    refuse(np.any(~np.isfinite(picture.boxes), axis=1), "the box is {box}", "four numbers; correct or remove it")
    refuse(
        (x2 <= x1) | (y2 <= y1),
        "the box {box} has no area",
        "x1 < x2 and y1 < y2 in (x1, y1, x2, y2), in pixels from 0; correct or remove it",
    )
    refuse(
        (x1 < 0) | (y1 < 0) | (x2 > picture.width) | (y2 > picture.height),
        "the box {box} lies outside of its image",
        f"(x1, y1, x2, y2) within 0 to {picture.width} and 0 to {picture.height} pixels; correct or remove it",
    )
    labels = picture.labels
    refuse((labels < 0) | (labels >= num_classes), "the label is {label}", f"0 to {num_classes - 1}; name every class")


def _identity(image: Path | np.ndarray) -> object:
    return image if isinstance(image, Path) else (image.shape, hashlib.sha256(image.tobytes()).digest())


def clipped(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes (`num x 4`) as float32, with what lies outside of the image by at most `OVERSHOOT` pixels cut off."""
    limits = np.array([width, height, width, height], np.float64)
    below = (boxes < 0) & (boxes >= -OVERSHOOT)
    above = (boxes > limits) & (boxes <= limits + OVERSHOOT)
    return np.where(below, 0.0, np.where(above, limits, boxes)).astype(np.float32)


def without_flat(split: Pictures, most: float) -> tuple[Pictures, int]:
    """A published set without its objects of no area: COCO 2017 has 2 such training boxes among 860,001.

    Args:
        split: not yet checked.
        most: the largest fraction of objects that may be left out; where there are more, none is, and `check` refuses
            the first.

    Returns:
        The split, and how many objects were left out.
    """
    kept = [(p.boxes[:, 2] > p.boxes[:, 0]) & (p.boxes[:, 3] > p.boxes[:, 1]) for p in split.pictures]
    num = sum(len(rows) for rows in kept)
    flat = num - sum(int(rows.sum()) for rows in kept)
    if not flat or flat > most * num:
        return split, 0
    pictures = tuple(_take(p, rows) for p, rows in zip(split.pictures, kept, strict=True))
    return replace(split, pictures=pictures), flat


def _take(picture: Picture, chosen: np.ndarray) -> Picture:
    rows, annotation = np.flatnonzero(chosen), picture.annotation
    taken = {name: getattr(picture, name)[rows] for name in ("boxes", "labels", "crowd", "difficult")}
    return replace(picture, **taken, annotation=lambda row: annotation(int(rows[row])))


def missing(place: str, path: Path) -> DataError:
    """That an image file is not there."""
    return DataError(f"{place}: {path}: no such file, expected the image; put it there, or remove its annotations")


def image_size(place: str, path: Path) -> tuple[int, int]:
    """Height and width of an image file in pixels, from its header.

    Raises:
        DataError: it is missing, or neither PNG nor JPEG.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size[1], image.size[0]
    except FileNotFoundError as error:
        raise missing(place, path) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise _undecodable(place, path, error) from error


def squared(picture: Picture, size: int) -> Picture:
    """A picture scaled until its longer side is `size`, and filled up with black to the right or below.

    Returns:
        The picture with an image in memory, uint8, `size x size x 3`, and its boxes scaled as the image is.

    Raises:
        DataError: the image cannot be decoded, or is not as large as the picture says.
    """
    from PIL import Image

    longer = max(picture.height, picture.width)
    height, width = (max(1, round(side * size / longer)) for side in (picture.height, picture.width))
    if isinstance(picture.image, Path):
        scaled = _decode(picture, picture.image, height, width)
    else:
        scaled = np.asarray(Image.fromarray(picture.image).resize((width, height), Image.Resampling.BILINEAR))
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:height, :width] = scaled
    factors = np.array([width / picture.width, height / picture.height] * 2)
    return replace(
        picture,
        image=pixels,
        height=size,
        width=size,
        boxes=np.minimum(picture.boxes * factors, [width, height] * 2).astype(np.float32),
    )


def _decode(picture: Picture, path: Path, height: int, width: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(
                    f"{picture.place}: {path}: the image is in mode {image.mode}, expected 8 bits a channel; convert "
                    "it before"
                )
            if image.size != (picture.width, picture.height):
                raise DataError(
                    f"{picture.place}: {path}: the image is {image.size[0]} x {image.size[1]} pixels, expected "
                    f"{picture.width} x {picture.height}; it has changed since its annotations were read: read them "
                    "anew"
                )
            return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    except FileNotFoundError as error:
        raise missing(picture.place, path) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise _undecodable(picture.place, path, error) from error


def _undecodable(place: str, path: Path, error: Exception) -> DataError:
    return DataError(
        f"{place}: {path}: the image cannot be decoded ({told(error)}), expected a PNG or JPEG file; copy it again"
    )


def text_of(path: Path, what: str) -> str:
    """What a text file holds.

    Raises:
        DataError: it is missing, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, expected {what}; put it there") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected {what}") from error
    except UnicodeDecodeError as error:
        raise other_encoding(f"{path}: byte {error.start}", what) from error


def other_encoding(place: str, what: str) -> DataError:
    """That a text file is in another encoding."""
    return DataError(
        f"{place} is not UTF-8, expected {what} in UTF-8; convert the file, as with iconv -f latin1 -t utf-8"
    )


def objects(
    boxes: Sequence[Sequence[float]], labels: Sequence[int], crowd: Sequence[bool], difficult: Sequence[bool],
    height: int, width: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The arrays of a `Picture` from lists with an entry an object."""
    return {
        "boxes": clipped(np.array(boxes, np.float64).reshape(-1, 4), height, width),
        "labels": np.array(labels, np.int64),
        "crowd": np.array(crowd, np.bool_),
        "difficult": np.array(difficult, np.bool_),
    }
