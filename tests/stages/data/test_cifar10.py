"""CIFAR-10 from Parquet files and from the binary archive, on small files in the real formats."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from stages.data import cifar10
from stages.data.errors import DataError

FOLDER = Path(os.environ.get("DNM_CIFAR10") or Path(__file__).parents[3].parent / "shared" / "data" / "cifar10")
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
LABELS = [number % 10 for number in range(12)]


def encode(pixels: np.ndarray, form: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def write(path: Path, files: list[bytes | None], labels: list, columns: tuple[str, str] = ("img", "label")) -> None:
    rows = [{"bytes": file, "path": f"{number}.png"} for number, file in enumerate(files)]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({columns[0]: pyarrow.array(rows, kind), columns[1]: pyarrow.array(labels, pyarrow.int64())})
    pyarrow.parquet.write_table(table, path, row_group_size=5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train", "test"):
        write(tmp_path / f"{name}.parquet", [encode(one) for one in PIXELS], LABELS)
    return tmp_path


@pytest.mark.parametrize("columns", [("img", "label"), ("image", "labels")])
def test_png_files_keep_every_pixel(tmp_path, columns):
    for name in ("train", "test"):
        write(tmp_path / f"{name}.parquet", [encode(one) for one in PIXELS], LABELS, columns)
    found = cifar10.read(tmp_path)
    for split in (found.train, found.test):
        assert np.array_equal(split.images, PIXELS)
        assert split.labels.tolist() == LABELS
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
    assert found.class_names[0] == "airplane"
    assert found.note == "lossless"
    assert cifar10.label(found.note) == "CIFAR-10"


@pytest.mark.parametrize(("quality", "note"), [(75, "JPEG q75"), (90, "JPEG")])
def test_jpeg_files_are_said_to_be_such(folder, quality, note):
    files = [encode(one, "JPEG", quality=quality) for one in PIXELS]
    for name in ("train", "test"):
        write(folder / f"{name}.parquet", files, LABELS)
    found = cifar10.from_parquet(folder)
    assert np.array_equal(found.train.images[3], np.asarray(Image.open(io.BytesIO(files[3]))))
    assert found.note == note
    assert cifar10.label(found.note) == f"CIFAR-10 ({note})"


def test_mixed_encodings_are_all_named(folder):
    write(folder / "test.parquet", [encode(PIXELS[0], "JPEG", quality=75), encode(PIXELS[1])], [0, 1])
    assert cifar10.from_parquet(folder).note == "JPEG q75 and lossless"


def test_only_the_first_rows(folder):
    assert np.array_equal(cifar10.from_parquet(folder, max_rows=7).train.images, PIXELS[:7])


def replaced(rows: list, value: object) -> list:
    return [value if number == 6 else row for number, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("file", "label", "message"),
    [
        (None, 1, "test.parquet: row 6: img holds no image file .*keys bytes, path.*expected a struct"),
        (b"no image", 1, "test.parquet: row 6: the image cannot be decoded"),
        (encode(PIXELS[0])[:500], 1, "row 6: the image cannot be decoded"),
        (encode(PIXELS[0], "JPEG")[:300], 1, "row 6: the image cannot be decoded"),
        (encode(PIXELS[0], "GIF"), 1, "row 6: the image cannot be decoded .*expected a PNG or JPEG"),
        (encode(PIXELS[0, :28]), 1, "row 6: the image is 32 x 28 pixels in mode RGB, expected 32 x 32 in mode RGB"),
        (encode(PIXELS[0, :, :, 0]), 1, "row 6: the image is 32 x 32 pixels in mode L, expected"),
        (encode(PIXELS[0]), 10, "test.parquet: row 6: label is 10, expected 0 to 9"),
        (encode(PIXELS[0]), -1, "row 6: label is -1, expected 0 to 9"),
        (encode(PIXELS[0]), None, "row 6: label is None, expected 0 to 9"),
    ],
)
def test_a_bad_row_is_named(folder, file, label, message):
    write(folder / "test.parquet", replaced([encode(one) for one in PIXELS], file), replaced(LABELS, label))
    with pytest.raises(DataError, match=message):
        cifar10.from_parquet(folder)


def test_a_null_image_is_named(folder):
    table = pyarrow.table({"img": pyarrow.array([None], pyarrow.binary()), "label": [0]})
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet: row 0: img holds no image file \(null\)"):
        cifar10.from_parquet(folder)


def test_a_missing_file_is_named(folder):
    (folder / "test.parquet").unlink()
    with pytest.raises(DataError, match="test.parquet: no such file.*set DNM_CIFAR10"):
        cifar10.read(folder)


def test_a_truncated_file_is_named(folder):
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="train.parquet: cannot be read as Parquet"):
        cifar10.from_parquet(folder)


def test_a_missing_column_is_named(folder):
    write(folder / "train.parquet", [encode(PIXELS[0])], [0], ("img", "target"))
    with pytest.raises(DataError, match="train.parquet: no column label or labels, found img, target"):
        cifar10.from_parquet(folder)


def test_a_file_without_rows_is_refused(folder):
    write(folder / "train.parquet", [], [])
    with pytest.raises(DataError, match="train.parquet: no rows"):
        cifar10.from_parquet(folder)


def write_binary(folder: Path) -> Path:
    folder.mkdir()
    records = np.concatenate(
        [np.array(LABELS, np.uint8)[:, None], PIXELS.transpose(0, 3, 1, 2).reshape(12, -1)], axis=1
    )
    for number in range(5):
        records[2 * number : 2 * number + 2].tofile(folder / f"data_batch_{number + 1}.bin")
    records[10:].tofile(folder / "test_batch.bin")
    return folder


def write_archive(folder: Path) -> str:
    """Writes the archive and returns its MD5."""
    content = write_binary(folder / "cifar-10-batches-bin")
    path = folder / cifar10.ARCHIVE
    with tarfile.open(path, "w:gz") as archive:
        archive.add(content, content.name)
    for file in content.iterdir():
        file.unlink()
    content.rmdir()
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_binary_records(tmp_path):
    found = cifar10.read_binary(write_binary(tmp_path / "files"))
    assert np.array_equal(found.train.images, PIXELS[:10])
    assert found.train.labels.tolist() == LABELS[:10]
    assert np.array_equal(found.test.images, PIXELS[10:])
    assert found.note == "lossless"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "data_batch_3.bin: cannot be read .*expected a file of the binary archive"),
        (b"", "data_batch_3.bin: 0 bytes, expected a multiple of 3073"),
        (bytes(3072), "data_batch_3.bin: 3072 bytes, expected a multiple of 3073"),
        (bytes(3073) + b"\x0a" + bytes(3072), "data_batch_3.bin: record 1: label is 10, expected 0 to 9"),
    ],
)
def test_bad_binary_files_are_named(tmp_path, content, message):
    folder = write_binary(tmp_path / "files")
    (folder / "data_batch_3.bin").unlink()
    if content is not None:
        (folder / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        cifar10.read_binary(folder)


def test_an_archive_is_read_and_leaves_nothing_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "MD5", write_archive(tmp_path))
    assert np.array_equal(cifar10.read_archive(tmp_path / cifar10.ARCHIVE).train.images, PIXELS[:10])
    assert [path.name for path in tmp_path.iterdir()] == [cifar10.ARCHIVE]


def test_an_archive_with_another_checksum_is_refused_unopened(tmp_path, monkeypatch):
    found = write_archive(tmp_path)
    monkeypatch.setattr(cifar10.tarfile, "open", lambda *_: pytest.fail("opened"))
    with pytest.raises(DataError, match=f"its MD5 is {found}, expected {cifar10.MD5}; delete the file"):
        cifar10.read_archive(tmp_path / cifar10.ARCHIVE)


def test_an_archive_that_writes_elsewhere_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "inside" / cifar10.ARCHIVE
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../../outside"))
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(DataError, match="cannot be unpacked"):
        cifar10.read_archive(path)
    assert not (tmp_path / "outside").exists()


def stand_in(monkeypatch, download_url) -> None:
    """Puts a download in the place of torchvision's: tests reach for no network, and importing it takes seconds."""
    module = types.ModuleType("torchvision.datasets.utils")
    module.download_url = download_url
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", types.ModuleType("torchvision.datasets"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets.utils", module)


def test_an_empty_folder_gets_the_archive(tmp_path, monkeypatch):
    folder = tmp_path / "new" / "folder"

    def download_url(url, root, filename, md5):
        assert (url, root, md5) == (cifar10.URL, str(folder), cifar10.MD5)
        monkeypatch.setattr(cifar10, "MD5", write_archive(Path(root)))

    stand_in(monkeypatch, download_url)
    assert np.array_equal(cifar10.read(folder).test.images, PIXELS[10:])


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("File not found or corrupted.")])
def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch, error):
    def download_url(*_, **__):
        raise error

    stand_in(monkeypatch, download_url)
    with pytest.raises(DataError, match=f"cannot be downloaded .{error}.; put these files or .* set DNM_CIFAR10"):
        cifar10.download(tmp_path)


@pytest.mark.skipif(
    not (FOLDER / "train.parquet").is_file(), reason="real CIFAR-10 absent: set DNM_CIFAR10 to its folder"
)
def test_real_data():
    found = cifar10.from_parquet(FOLDER, max_rows=1000)
    for split in (found.train, found.test):
        assert split.images.shape == (1000, 32, 32, 3)
        assert np.bincount(split.labels, minlength=10).min() > 50
    assert found.note in ("lossless", "JPEG q75", "JPEG")
