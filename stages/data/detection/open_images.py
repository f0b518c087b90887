"""Open Images' tables: one CSV file of boxes a split (Kuznetsova et al. 2020, 10.1007/s11263-020-01316-z)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from stages.data.detection.annotations import (
    SUFFIXES,
    Picture,
    Pictures,
    check,
    image_size,
    missing,
    objects,
    other_encoding,
)
from stages.data.errors import DataError

_BOXES = ("{split}-annotations-bbox.csv", "oidv6-{split}-annotations-bbox.csv")
_CLASSES = ("class-descriptions-boxable.csv", "oidv7-class-descriptions-boxable.csv", "class-descriptions.csv")
_SIDES = ("XMin", "YMin", "XMax", "YMax")
_NEEDED = ("ImageID", "LabelName", *_SIDES, "IsGroupOf")


class _Row(NamedTuple):
    number: int
    label: int
    is_group: bool
    box: tuple[float, ...]  # fractions of the image's sides


def read(folder: Path, split: str) -> Pictures:
    """Reads the images in `<split>/` and what the table of boxes and that of classes, both in `folder`, say of them.

    Labels follow the order of the classes' table. Coordinates are fractions of the image's sides and become pixels.
    Groups (IsGroupOf) are kept, marked as crowds. An image without a row has no objects. The pixels are not decoded;
    sizes are read from the image files.

    Args:
        folder: of the data set.
        split: "train", "validation" or "test".

    Raises:
        DataError: a file is missing or damaged, a row names an image that is not there or a class that is not known, or
            `check` refuses a picture.
    """
    classes = _classes(_first(folder, _CLASSES))
    path = _first(folder, tuple(name.format(split=split) for name in _BOXES))
    labels = {number: label for label, number in enumerate(classes)}
    images = _images(folder / split)
    rows: dict[str, list[_Row]] = {name: [] for name in images}
    for name, row in _rows(path, labels):
        if name not in images:
            raise missing(f"{path}: row {row.number}, image {name}", folder / split / f"{name}{SUFFIXES[0]}")
        rows[name].append(row)
    pictures = tuple(_picture(path, images[name], found) for name, found in rows.items())
    result = Pictures(pictures, tuple(classes.values()), str(path))
    check(result)
    return result


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: no {' or '.join(names)}, expected one of them as Open Images has it; put it there")


def _images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected one with the split's images; put them there")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            if path.stem in found:
                raise DataError(f"{path}: the image is there as {found[path.stem].name} too, expected one; remove one")
            found[path.stem] = path
    return found


def _classes(path: Path) -> dict[str, str]:
    """The names of classes by their ids, which look like /m/011k07."""
    found: dict[str, str] = {}
    for number, row in _lines(path, "ids and names of classes"):
        # Newer versions of the file have a header.
        if number == 1 and row == ["LabelName", "DisplayName"]:
            continue
        if len(row) != 2 or not all(row):
            raise DataError(f"{path}: row {number} is {','.join(row)[:60]!r}, expected an id and a name; correct it")
        if row[0] in found:
            raise DataError(f"{path}: row {number}: the id {row[0]} stands twice, expected each id once; remove one")
        found[row[0]] = row[1]
    return found


def _rows(path: Path, labels: Mapping[str, int]) -> Iterator[tuple[str, _Row]]:
    """The rows of the table of boxes, each with the name of its image."""
    lines = _lines(path, "a table of boxes")
    _, header = next(lines, (1, []))
    absent = [name for name in _NEEDED if name not in header]
    if absent:
        raise DataError(
            f"{path}: row 1 has no column {absent[0]}, expected {', '.join(_NEEDED)}; this is not Open Images' table"
        )
    for number, line in lines:
        if len(line) != len(header):
            raise DataError(
                f"{path}: row {number} has {len(line)} columns, expected {len(header)}; the file may be cut off: copy "
                "it again"
            )
        row = dict(zip(header, line, strict=True))
        place = f"{path}: row {number}, image {row['ImageID']}"
        if row["LabelName"] not in labels:
            raise DataError(
                f"{place}: LabelName is {row['LabelName']!r}, expected one of the {len(labels)} ids of the table of "
                "classes; add it there or remove the row"
            )
        # -1 is unknown.
        if row["IsGroupOf"] not in ("0", "1", "-1"):
            raise DataError(f"{place}: IsGroupOf is {row['IsGroupOf']!r}, expected 0, 1 or -1; correct it")
        box = tuple(_fraction(place, row, side) for side in _SIDES)
        yield row["ImageID"], _Row(number, labels[row["LabelName"]], row["IsGroupOf"] == "1", box)


def _lines(path: Path, what: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file with their numbers; they are many, so one at a time."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                number = reader.line_num
                if row:
                    yield number, row
    except UnicodeDecodeError as error:
        raise other_encoding(f"{path}: what follows row {number}", what) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected {what}") from error
    except csv.Error as error:
        raise DataError(
            f"{path}: what follows row {number} is not CSV ({error}), expected {what}; it may be cut off: copy it again"
        ) from error


def _picture(path: Path, image: Path, found: list[_Row]) -> Picture:
    place = f"{path}: image {image.stem}"
    height, width = image_size(place, image)
    boxes = [
        (x1 * width, y1 * height, x2 * width, y2 * height) for x1, y1, x2, y2 in (row.box for row in found)
    ]  # fmt: skip
    numbers = [row.number for row in found]
    return Picture(
        image=image,
        height=height,
        width=width,
        **objects(
            boxes, [row.label for row in found], [row.is_group for row in found], [False] * len(found), height, width
        ),
        place=place,
        annotation=lambda row: f"row {numbers[row]}",
    )


def _fraction(place: str, row: Mapping[str, str], side: str) -> float:
    try:
        value = float(row[side])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{place}: {side} is {row[side]!r}, expected a fraction of the image's side; correct it")
    return value
