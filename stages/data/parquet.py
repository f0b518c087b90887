"""Labelled images from Parquet files in the Hugging Face layout: a column of image files and one of labels."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.data import pictures
from stages.data.errors import DataError, told
from stages.data.reading import check_label, joined
from stages.data.splits import Images

if TYPE_CHECKING:
    import pyarrow.parquet

    from stages.data.published import Published

_IMAGE_COLUMNS = ("img", "image")
# Rows decoded at a time: bounds what stands in memory twice.
_BATCH = 1024


def present(folder: Path) -> bool:
    """Whether a folder has a Parquet file of either split."""
    return any(_files(folder, split) for split in ("train", "test"))


def read(folder: Path, split: str, data: Published, max_rows: int | None = None) -> tuple[Images, set[str]]:
    """Reads a split: `<split>.parquet`, or its shards `<split>-00000-of-00002.parquet` and so on.

    Args:
        folder: where they are.
        split: train or test.
        data: what must stand in them.
        max_rows: how many rows to read of each file; None reads all.

    Returns:
        The images, and the names of their encodings (`pictures.decode`).

    Raises:
        DataError: a file is missing, is not a Parquet file, lacks a column, or has a row that is not a labelled
            image of the data set's size.
    """
    files = _files(folder, split)
    if not files:
        raise DataError(
            f"{folder / split}.parquet: no such file, expected {data.name} as Parquet in the Hugging Face layout; "
            f"{data.otherwise}"
        )
    notes: set[str] = set()
    return joined([_read_file(path, data, max_rows, notes) for path in files]), notes


def _files(folder: Path, split: str) -> list[Path]:
    whole = folder / f"{split}.parquet"
    if whole.exists():
        return [whole]
    shards = [path for path in folder.glob("*.parquet") if re.fullmatch(rf"{split}-\d+-of-\d+\.parquet", path.name)]
    if not shards:
        return []
    total = min(shards).stem.rpartition("-")[2]
    expected = [folder / f"{split}-{number:05}-of-{total}.parquet" for number in range(int(total))]
    for path in sorted(set(expected) ^ set(shards)):
        raise DataError(
            f"{path}: {'no such file' if path in expected else 'one file too many'}, expected {split} in the "
            f"{int(total)} files from {expected[0].name} to {expected[-1].name}; copy all of them there"
        )
    return expected


def _read_file(path: Path, data: Published, max_rows: int | None, notes: set[str]) -> Images:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return _read_rows(path, file, data, max_rows, notes)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as Parquet ({told(error)}); the file is damaged or of another kind: copy it again"
        ) from error


def _read_rows(
    path: Path, file: pyarrow.parquet.ParquetFile, data: Published, max_rows: int | None, notes: set[str]
) -> Images:
    image_column = _column(path, file, _IMAGE_COLUMNS)
    label_column = _column(path, file, data.label_columns)
    num = file.metadata.num_rows if max_rows is None else min(max_rows, file.metadata.num_rows)
    if num == 0:
        raise DataError(f"{path}: no rows, expected labelled images; copy the file again")
    images = np.empty((num, data.size, data.size, data.channels), np.uint8)
    labels = np.empty(num, np.int64)
    row = 0
    for batch in file.iter_batches(_BATCH, columns=[image_column, label_column]):
        pairs = zip(batch[image_column].to_pylist(), batch[label_column].to_pylist(), strict=True)
        for image, value in itertools.islice(pairs, num - row):
            place = f"{path}: row {row}"
            content = _content(place, image_column, image)
            images[row], note = pictures.decode(place, content, data.size, data.channels, data.name)
            labels[row] = check_label(place, label_column, value, 0, len(data.class_names) - 1, data.name)
            notes.add(note)
            row += 1
        if row == num:
            break
    return Images(images, labels, f"{path}: row {{}}".format)


def _column(path: Path, file: pyarrow.parquet.ParquetFile, names: tuple[str, ...]) -> str:
    found = file.schema_arrow.names
    for name in names:
        if name in found:
            return name
    raise DataError(
        f"{path}: no column {' or '.join(names)}, found {', '.join(found) or 'none'}; rename the column that holds it"
    )


def _content(place: str, column: str, value: object) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return content
    found = "null" if value is None else f"keys {', '.join(value)}" if isinstance(value, dict) else type(value).__name__
    raise DataError(
        f"{place}: {column} holds no image file ({found}), expected a struct whose `bytes` is a PNG or JPEG "
        "file; embed the files in the Parquet file"
    )
