"""CIFAR-10 (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images") from files.

Read either from Parquet files in the Hugging Face layout (`train.parquet`, `test.parquet`: a column of image files and
one of labels) or from the binary archive of the data's own site. The archive with pickles is never used: loading a
pickle runs whatever code stands in it.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stages.data.errors import DataError
from stages.data.splits import Images

if TYPE_CHECKING:
    import pyarrow.parquet

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE = "cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
LOSSLESS = "lossless"

_SIZE, _CHANNELS = 32, 3
_RECORD = 1 + _SIZE * _SIZE * _CHANNELS
_TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST_FILE = "test_batch.bin"
_IMAGE_COLUMNS, _LABEL_COLUMNS = ("img", "image"), ("label", "labels")
# Table K.1 of ITU-T T.81, which the Independent JPEG Group's library scales by a quality of 1 to 100.
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
_QUALITY_75 = tuple((value * 50 + 50) // 100 for value in _LUMINANCE)


class Cifar10(NamedTuple):
    """CIFAR-10 as its files have it.

    Attributes:
        train: uint8, `num x 32 x 32 x 3`.
        test: likewise.
        class_names: ten.
        note: how the images were encoded: "lossless", "JPEG q75", "JPEG", or several of them.
    """

    train: Images
    test: Images
    class_names: tuple[str, ...]
    note: str


def label(note: str) -> str:
    """How tables call the data: an encoding that loses something is said."""
    return "CIFAR-10" if note == LOSSLESS else f"CIFAR-10 ({note})"


def read(folder: Path) -> Cifar10:
    """Reads the Parquet files of a folder or, where it has neither, downloads the binary archive into it.

    Raises:
        DataError: as `from_parquet` and `download`.
    """
    if any((folder / f"{split}.parquet").exists() for split in ("train", "test")):
        return from_parquet(folder)
    return download(folder)


def from_parquet(folder: Path, *, max_rows: int | None = None) -> Cifar10:
    """Reads `train.parquet` and `test.parquet`.

    Args:
        folder: where they are.
        max_rows: how many rows to read of each; None reads all.

    Raises:
        DataError: a file is missing, is not a Parquet file, lacks a column, or has a row that is not a labelled
            image of 32 x 32 RGB pixels.
    """
    train, train_notes = _read_parquet(folder / "train.parquet", max_rows)
    test, test_notes = _read_parquet(folder / "test.parquet", max_rows)
    return Cifar10(train, test, CLASS_NAMES, " and ".join(sorted(train_notes | test_notes)))


def _read_parquet(path: Path, max_rows: int | None) -> tuple[Images, set[str]]:
    import pyarrow
    import pyarrow.parquet

    if not path.is_file():
        raise DataError(
            f"{path}: no such file, expected CIFAR-10 as Parquet in the Hugging Face layout; "
            "put train.parquet and test.parquet there or set DNM_CIFAR10 to their folder"
        )
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return _read_rows(path, file, max_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as Parquet ({error}); the file is damaged or of another kind: copy it again"
        ) from error


def _read_rows(path: Path, file: pyarrow.parquet.ParquetFile, max_rows: int | None) -> tuple[Images, set[str]]:
    image_column = _column(path, file, _IMAGE_COLUMNS)
    label_column = _column(path, file, _LABEL_COLUMNS)
    num = file.metadata.num_rows if max_rows is None else min(max_rows, file.metadata.num_rows)
    images = np.empty((num, _SIZE, _SIZE, _CHANNELS), np.uint8)
    labels = np.empty(num, np.int64)
    notes: set[str] = set()
    row = 0
    for batch in file.iter_batches(columns=[image_column, label_column]):
        for image, value in zip(batch[image_column].to_pylist(), batch[label_column].to_pylist(), strict=True):
            if row == num:
                return Images(images, labels), notes
            place = f"{path}: row {row}"
            images[row], note = _decode(place, image_column, image)
            labels[row] = _label(place, label_column, value)
            notes.add(note)
            row += 1
    if row == 0:
        raise DataError(f"{path}: no rows, expected labelled images; copy the file again")
    return Images(images, labels), notes


def _column(path: Path, file: pyarrow.parquet.ParquetFile, names: tuple[str, ...]) -> str:
    found = file.schema_arrow.names
    for name in names:
        if name in found:
            return name
    raise DataError(
        f"{path}: no column {' or '.join(names)}, found {', '.join(found) or 'none'}; rename the column that holds it"
    )


def _decode(place: str, column: str, value: object) -> tuple[np.ndarray, str]:
    """Decodes an image file: uint8, `32 x 32 x 3`, and how it was encoded."""
    from PIL import Image

    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise DataError(
            f"{place}: {column} holds no image file ({_kind(value)}), expected a struct whose `bytes` is a PNG or JPEG "
            "file; embed the files in the Parquet file"
        )
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            image.load()
            if image.size != (_SIZE, _SIZE) or image.mode != "RGB":
                raise DataError(
                    f"{place}: the image is {image.size[0]} x {image.size[1]} pixels in mode {image.mode}, "
                    f"expected {_SIZE} x {_SIZE} in mode RGB; this is not CIFAR-10, or it was converted"
                )
            if image.format == "PNG":
                return np.asarray(image), LOSSLESS
            tables = getattr(image, "quantization", {})
            return np.asarray(image), "JPEG q75" if tuple(tables.get(0, ())) == _QUALITY_75 else "JPEG"
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{place}: the image cannot be decoded ({error}), expected a PNG or JPEG file; copy the Parquet file again"
        ) from error


def _label(place: str, column: str, value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < len(CLASS_NAMES):
        raise DataError(
            f"{place}: {column} is {value!r}, expected 0 to {len(CLASS_NAMES) - 1}; "
            "this is not CIFAR-10 with its ten classes"
        )
    return value


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return f"keys {', '.join(value)}" if isinstance(value, dict) else type(value).__name__


def download(folder: Path) -> Cifar10:
    """Downloads the binary archive into a folder, unless it is there, and reads it.

    Raises:
        DataError: it cannot be downloaded, or is not the archive that was expected.
    """
    from torchvision.datasets.utils import download_url

    try:
        folder.mkdir(parents=True, exist_ok=True)
        download_url(URL, str(folder), filename=ARCHIVE, md5=MD5)
    except (OSError, RuntimeError) as error:
        # OSError includes everything that urllib raises, RuntimeError is torchvision's word for a wrong checksum.
        raise DataError(
            f"{folder}: no train.parquet and test.parquet there, and {URL} cannot be downloaded ({error}); "
            f"put these files or {ARCHIVE} there, or set DNM_CIFAR10 to a folder that has them"
        ) from error
    return read_archive(folder / ARCHIVE)


def read_archive(path: Path) -> Cifar10:
    """Reads the binary archive; what is unpacked is removed again.

    Raises:
        DataError: it is missing, its checksum is another one, or what is in it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != MD5:
            raise DataError(f"{path}: its MD5 is {found}, expected {MD5}; delete the file and download it again")
        with tempfile.TemporaryDirectory(dir=path.parent) as place, tarfile.open(path) as archive:
            archive.extractall(place, filter="data")
            return read_binary(Path(place) / "cifar-10-batches-bin")
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); delete the file and download it again") from error


def read_binary(folder: Path) -> Cifar10:
    """Reads the files of the binary archive: records of a label and 32 x 32 red, green and blue bytes.

    Raises:
        DataError: a file is missing, is not made of such records, or has a label above 9.
    """
    batches = [_read_records(folder / name) for name in _TRAIN_FILES]
    train = Images(np.concatenate([one.images for one in batches]), np.concatenate([one.labels for one in batches]))
    return Cifar10(train, _read_records(folder / _TEST_FILE), CLASS_NAMES, LOSSLESS)


def _read_records(path: Path) -> Images:
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}), expected a file of the binary archive; unpack it again"
        ) from error
    if len(content) == 0 or len(content) % _RECORD:
        raise DataError(
            f"{path}: {len(content)} bytes, expected a multiple of {_RECORD}, a label and 3 x 32 x 32 pixels each; "
            "the file is damaged or of another kind: unpack the archive again"
        )
    records = content.reshape(-1, _RECORD)
    labels = records[:, 0].astype(np.int64)
    for row in np.flatnonzero(labels >= len(CLASS_NAMES))[:1]:
        _label(f"{path}: record {row}", "label", int(labels[row]))
    planes = records[:, 1:].reshape(-1, _CHANNELS, _SIZE, _SIZE)
    return Images(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)
