"""STL-10 (Coates, Lee and Ng 2011, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning").

The 100,000 images without labels are not read. torchvision's reader is not used: it unpacks all 3 GB of the archive,
and turns a label below 1 into 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.data.archives import Archive, read_members
from stages.data.errors import DataError
from stages.data.published import Published
from stages.data.reading import check_labels
from stages.data.splits import Images

_SIZE, _CHANNELS = 96, 3
_PIXELS = _SIZE * _SIZE * _CHANNELS


def _unpack(data: Published, paths: Sequence[Path]) -> tuple[Images, Images]:
    (path,) = paths
    files = [f"stl10_binary/{split}_{kind}.bin" for split in ("train", "test") for kind in "Xy"]
    members = read_members(path, files)
    train, test = (
        _split(path, data, image_file, label_file, members.pop(image_file), members.pop(label_file))
        for image_file, label_file in (files[:2], files[2:])
    )
    return train, test


def _split(path: Path, data: Published, image_file: str, label_file: str, pixels: bytes, labels: bytes) -> Images:
    """Reads red, green and blue planes of bytes, each column by column, and labels from 1 on."""
    if len(pixels) != len(labels) * _PIXELS or not labels:
        raise DataError(
            f"{path}: {image_file}: {len(pixels)} bytes, expected {_PIXELS} for each of the {len(labels)} labels of "
            f"{label_file}; the archive is damaged: delete it and download it again"
        )
    values = np.frombuffer(labels, np.uint8).astype(np.int64)
    check_labels(f"{path}: {label_file}: row", "label", values, 1, len(data.class_names), data.name)
    planes = np.frombuffer(pixels, np.uint8).reshape(-1, _CHANNELS, _SIZE, _SIZE)
    images = np.ascontiguousarray(planes.transpose(0, 3, 2, 1))
    return Images(images, values - 1, f"{path}: {image_file}: row {{}}".format)


STL10 = Published(
    source="stl10",
    name="STL-10",
    licence="none stated (Coates, Lee and Ng 2011; images from ImageNet)",
    class_names=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    size=_SIZE,
    channels=_CHANNELS,
    archives=(
        Archive(
            "stl10_binary.tar.gz",
            "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
            "91f7769df0f17e558f3565bffb0c7dfb",
        ),
    ),
    unpack=_unpack,
)
