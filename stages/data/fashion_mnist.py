"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747) from idx files.

torchvision's reader is not used: it unpacks the files beside the archives, asserts instead of telling what is wrong,
and fills a shape from any number of labels.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.data.archives import Archive
from stages.data.errors import DataError, told
from stages.data.published import Published
from stages.data.reading import check_bytes, check_labels
from stages.data.splits import Images

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


def _unpack(data: Published, paths: Sequence[Path]) -> tuple[Images, Images]:
    train_images, train_labels, test_images, test_labels = paths
    return _split(train_images, train_labels, data), _split(test_images, test_labels, data)


def _split(image_file: Path, label_file: Path, data: Published) -> Images:
    images = _read_idx(image_file, (data.size, data.size), data.name)
    labels = _read_idx(label_file, (), data.name).astype(np.int64)
    if len(images) != len(labels):
        raise DataError(
            f"{label_file}: {len(labels)} labels, expected {len(images)}, one for each image of {image_file.name}; "
            "delete both files and download them again"
        )
    check_labels(f"{label_file}: row", "label", labels, 0, len(data.class_names) - 1, data.name)
    return Images(images[..., None], labels, f"{image_file}: row {{}}".format)


def _read_idx(path: Path, shape: tuple[int, ...], data: str) -> np.ndarray:
    """Reads a compressed idx file: two zeros, type, number of dimensions, their lengths, values; big-endian.

    Args:
        path: of the file.
        shape: of a row.
        data: the name of the data set.

    Returns:
        uint8, `num x shape`.

    Raises:
        DataError: it cannot be unpacked, is no idx file, breaks off, or holds rows of another type or shape.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked ({told(error)}); delete the file and download it again") from error
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if content[:2] != b"\0\0" or content[2] not in _TYPES or dimensions == 0 or len(content) < start:
        raise DataError(
            f"{path}: starts with {content[:4].hex(' ') or 'nothing'}, expected an idx file, 00 00 08 and the number "
            "of dimensions; delete the file and download it again"
        )
    lengths = struct.unpack(f">{dimensions}I", content[4:start])
    kind = np.dtype(_TYPES[content[2]])
    if len(content) - start != math.prod(lengths) * kind.itemsize:
        raise DataError(
            f"{path}: {len(content) - start} bytes of values, expected {math.prod(lengths) * kind.itemsize} for the "
            f"shape {lengths} that it states; it breaks off or is damaged: delete the file and download it again"
        )
    values = np.frombuffer(content, kind, offset=start).reshape(lengths)
    what = " x ".join(map(str, ("num", *shape)))
    check_bytes(str(path), values, what)
    if values.shape[1:] != shape or len(values) == 0:
        raise DataError(f"{path}: shape {lengths}, expected {what}; this is not {data}")
    return values


FASHION_MNIST = Published(
    source="fashion_mnist",
    name="Fashion-MNIST",
    licence="MIT (Zalando SE)",
    class_names=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    size=28,
    channels=1,
    archives=tuple(
        Archive(name, _URL + name, md5)
        for name, md5 in (
            ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        )
    ),
    unpack=_unpack,
)
