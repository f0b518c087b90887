"""Parquet files of the published sets: every way in which one can be bad is told, by file and row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from stages.data import registry
from tests.stages.data import samples
from tests.stages.data.samples import IMAGE_COLUMN, PUBLISHED, encode, labels_of

Bad = Callable[[str, str], None]


def bad_images(source: str) -> dict[str, tuple[bytes | None, str]]:
    """Image files that do not fit, and what is said of each."""
    data = registry.PUBLISHED[source]
    modes = {1: "L", 3: "RGB"}
    mode, other = modes[data.channels], modes[4 - data.channels]
    good = samples.images(source, 1).images[0]
    converted = np.resize(good, (data.size, data.size, 4 - data.channels))
    size = f"{data.size} x {data.size}"
    return {
        "none": (None, f"{IMAGE_COLUMN[source]} holds no image file .*keys bytes, path.*expected a struct"),
        "another kind": (b"no image", "the image cannot be decoded"),
        "half": (encode(good)[:300], "the image cannot be decoded .*copy the file again"),
        "GIF": (encode(good, "GIF"), "the image cannot be decoded .*expected a PNG or JPEG"),
        "another size": (encode(good[:20]), f"the image is {data.size} x 20 pixels in mode {mode}, expected {size} in"),
        "other colours": (
            encode(converted),
            f"the image is {size} pixels in mode {other}, expected {size} in mode {mode}",
        ),
    }


@pytest.mark.parametrize("source", PUBLISHED)
@pytest.mark.parametrize("kind", bad_images("cifar10"))
def test_a_bad_image_is_named(source: str, kind: str, tmp_path: Path, bad: Bad) -> None:
    _, test = samples.write_parquets(tmp_path / "files", source)
    file, message = bad_images(source)[kind]
    files = [encode(image) if row != 4 else file for row, image in enumerate(test.images)]
    path = tmp_path / "files" / "test.parquet"
    samples.write_parquet(path, files, labels_of(source, test.labels.tolist()), IMAGE_COLUMN[source])
    bad(source, f"^{path}: row 4: {message}")


@pytest.mark.parametrize("source", PUBLISHED)
@pytest.mark.parametrize(
    ("kind", "label", "row"),
    [
        (int, 100, 4),
        (int, -1, 4),
        (int, None, 4),
        (float, float("nan"), 0),
        (float, 1.0, 0),
        (str, "1", 0),
        (bool, True, 0),
    ],
)
def test_a_bad_label_is_named(source: str, kind: type, label: object, row: int, tmp_path: Path, bad: Bad) -> None:
    train, _ = samples.write_parquets(tmp_path / "files", source)
    labels = [label if number == row else kind(value) for number, value in enumerate(train.labels.tolist())]
    path = tmp_path / "files" / "train.parquet"
    samples.write_parquet(path, [encode(one) for one in train.images], labels_of(source, labels), IMAGE_COLUMN[source])
    name, last = next(iter(labels_of(source, []))), len(registry.PUBLISHED[source].class_names) - 1
    bad(
        source,
        f"^{path}: row {row}: {name} is {label!r}, expected 0 to {last}; this is not {registry.PUBLISHED[source].name}",
    )


@pytest.mark.parametrize("source", PUBLISHED)
def test_a_truncated_parquet_file_is_named(source: str, tmp_path: Path, bad: Bad) -> None:
    samples.write_parquets(tmp_path / "files", source)
    path = tmp_path / "files" / "train.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    bad(source, f"^{path}: cannot be read as Parquet .*copy it again")


def test_a_parquet_file_with_a_hole_is_named(tmp_path: Path, bad: Bad) -> None:
    samples.write_parquets(tmp_path / "files", "cifar10")
    path = tmp_path / "files" / "train.parquet"
    content = bytearray(path.read_bytes())
    content[4:4000] = bytes(3996)
    path.write_bytes(content)
    bad("cifar10", f"^{path}: ")


@pytest.mark.parametrize("source", PUBLISHED)
def test_other_columns_are_named(source: str, tmp_path: Path, bad: Bad) -> None:
    train, _ = samples.write_parquets(tmp_path / "files", source)
    path, files = tmp_path / "files" / "train.parquet", [encode(one) for one in train.images]
    samples.write_parquet(path, files, {"target": [0] * len(train)}, IMAGE_COLUMN[source])
    bad(source, f"^{path}: no column .*label or labels, found {IMAGE_COLUMN[source]}, t")
    samples.write_parquet(path, files, labels_of(source, train.labels.tolist()), "picture")
    bad(source, f"^{path}: no column img or image, found picture")


def test_coarse_labels_alone_are_not_taken(tmp_path: Path, bad: Bad) -> None:
    train, _ = samples.write_parquets(tmp_path / "files", "cifar100")
    files = [encode(one) for one in train.images]
    samples.write_parquet(tmp_path / "files" / "train.parquet", files, {"coarse_label": [0] * len(train)})
    bad("cifar100", "no column fine_label or label or labels, found img, coarse_label")


def test_a_null_image_is_named(tmp_path: Path, bad: Bad) -> None:
    samples.write_parquets(tmp_path / "files", "cifar10")
    table = pyarrow.table({"img": pyarrow.array([None], pyarrow.binary()), "label": [0]})
    pyarrow.parquet.write_table(table, tmp_path / "files" / "train.parquet")
    bad("cifar10", r"train.parquet: row 0: img holds no image file \(null\)")


def test_a_file_without_rows_is_refused(tmp_path: Path, bad: Bad) -> None:
    samples.write_parquets(tmp_path / "files", "cifar10")
    samples.write_parquet(tmp_path / "files" / "train.parquet", [], {"label": []})
    bad("cifar10", "train.parquet: no rows")


@pytest.mark.parametrize("source", PUBLISHED)
def test_half_of_the_files_is_refused(source: str, tmp_path: Path, bad: Bad) -> None:
    train, test = samples.write_parquets(tmp_path / "files", source)
    (tmp_path / "files" / "test.parquet").unlink()
    name = f"DNM_{source.upper()}"
    bad(source, f"test.parquet: no such file, expected .*set {name} to a folder")
    samples.write_split(tmp_path / "files", source, "test-00001-of-00002", test)
    message = (
        "test-00000-of-00002.parquet: no such file, expected test in the 2 files from test-00000-of-00002.parquet to"
    )
    bad(source, message)
    samples.write_split(tmp_path / "files", source, "test-00000-of-00002", train)
    samples.write_split(tmp_path / "files", source, "test-00000-of-00003", train)
    bad(source, "test-00000-of-00003.parquet: one file too many, expected test in the 2")
