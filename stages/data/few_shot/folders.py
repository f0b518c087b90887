"""Images in miniImageNet's layouts: one folder a class below one a split, or one folder of images and a list a split.

miniImageNet (Vinyals et al. 2016, arXiv:1606.04080) is 100 classes of ImageNet with 600 images each; its usual splits,
64, 16 and 20 classes, are the lists of Ravi and Larochelle 2017 (Optimization as a Model for Few-Shot Learning).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.data import pictures
from stages.data.archives import check_name
from stages.data.errors import DataError, told
from stages.data.few_shot import NAMES, Drawings, check_names, reading
from stages.data.folders import _content, _list_class, _visible
from stages.data.reading import Reading

# How miniImageNet calls the splits.
_FILES: dict[str, str] = dict(zip(NAMES, ("train", "val", "test"), strict=True))
_COLUMNS = ("filename", "label")

# The files of each class of a split.
Listed = dict[str, list[Path]]


def read(folder: Path, *, size: int, per_class: int = 0) -> Reading:
    """Reads `train/<class>/`, `val/<class>/` and `test/<class>/`; or, where there is a `train.csv`, the images in
    `images/` that it, `val.csv` and `test.csv` list in their columns `filename` and `label`.

    Args:
        folder: of all that.
        size: height and width, pixels: the shorter side is scaled to it, the longer one cropped.
        per_class: images of a class, the first by name or in the list; 0 takes all.

    Raises:
        DataError: something is missing or empty, a class is in two splits, an image is listed twice or cannot be
            decoded, or a list is not one.
    """
    listed = _read_lists(folder) if (folder / "train.csv").exists() else _read_folders(folder)
    # Before the first image is decoded, which takes long.
    check_names({_FILES[split]: list(classes) for split, classes in listed.items()}, str(folder))
    return reading(
        {
            split: [_decode(name, files[: per_class or None], size) for name, files in classes.items()]
            for split, classes in listed.items()
        },
        source=f"images of {folder.name} ({size} pixels)",
        licence="not stated",
        note=f"scaled to {size} x {size} pixels" + (f", the first {per_class} files of a class" if per_class else ""),
    )


def _read_folders(folder: Path) -> dict[str, Listed]:
    found: dict[str, Listed] = {}
    for split, name in _FILES.items():
        place = folder / name
        if not place.is_dir():
            raise DataError(
                f"{place}: no such folder, expected one with a folder of PNG and JPEG files a class; put train/, val/ "
                "and test/ there, or images/ and train.csv, val.csv and test.csv"
            )
        found[split] = {one.name: _list_class(one) for one in _visible(place)}
    return found


def _read_lists(folder: Path) -> dict[str, Listed]:
    found: dict[str, Listed] = {}
    seen: dict[str, str] = {}
    for split, name in _FILES.items():
        path = folder / f"{name}.csv"
        found[split] = {}
        for place, file, label in _lines(path):
            if file in seen:
                raise DataError(f"{place}: {file} is listed in {seen[file]} too, expected once; remove a line")
            seen[file] = place
            check_name(path, file)
            image = folder / "images" / file
            if not image.is_file():
                raise DataError(f"{image}: no such file, expected the image that {place} lists; copy it there")
            found[split].setdefault(label, []).append(image)
    return found


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """The place, file and label of each line."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({told(error)}), expected a list in it; save it as UTF-8") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}), expected a list of images; copy it there"
        ) from error
    rows = csv.DictReader(text.splitlines())
    missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise DataError(
            f"{path}: no column {missing[0]}, found {', '.join(rows.fieldnames or ()) or 'nothing'}; expected a first "
            f"line with {' and '.join(_COLUMNS)}: add it"
        )
    for row in rows:
        place = f"{path}: line {rows.line_num}"
        for name in _COLUMNS:
            if not row[name]:
                raise DataError(f"{place}: no {name}, expected one in every line; add it or remove the line")
        yield place, row["filename"], row["label"]


def _decode(name: str, files: list[Path], size: int) -> Drawings:
    images = np.empty((len(files), size, size, 3), np.uint8)
    for row, path in enumerate(files):
        images[row] = pictures.decode_square(str(path), _content(path), size)
    return Drawings(name, images, [str(path) for path in files])
