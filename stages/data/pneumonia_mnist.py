"""PneumoniaMNIST (Yang et al. 2023, 10.1038/s41597-022-01721-8): chest X-rays in one npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from stages.data.archives import Archive, check_name, checksum, fetch
from stages.data.errors import DataError, told
from stages.data.reading import Reading, check_bytes, check_labels
from stages.data.splits import Images

ARCHIVE = Archive(
    "pneumoniamnist.npz",
    "https://zenodo.org/records/10519652/files/pneumoniamnist.npz?download=1",
    "28209eda62fecd6e6a2d98b1501bb15f",
)
NAME = "PneumoniaMNIST"
CLASS_NAMES = ("normal", "pneumonia")
_SIZE = 28
_SPLITS = ("train", "val", "test")


def read(folder: Path) -> Reading:
    """Reads the file, or that of a folder, into which it is downloaded if it is missing.

    A sound file with another checksum is taken for a part of the data and called so.

    Raises:
        DataError: it cannot be downloaded, is no npz file, lacks an array, or has a row that is not a labelled image.
    """
    path = folder
    if path.suffix != ".npz":
        path = folder / ARCHIVE.name
        if not path.exists():
            fetch(folder, ARCHIVE, "put the file there or set DNM_PNEUMONIA_MNIST to it")
    is_whole = checksum(path) == ARCHIVE.md5
    train, validation, test = _read_file(path)
    return Reading(
        train=train,
        validation=validation,
        test=test,
        class_names=CLASS_NAMES,
        source=NAME if is_whole else f"{NAME} (other than published)",
        licence="CC BY 4.0",
        note="" if is_whole else "the file is not the published one: its checksum is another",
        published=True,
    )


def _read_file(path: Path) -> list[Images]:
    try:
        with zipfile.ZipFile(path) as file:
            for name in file.namelist():
                check_name(path, name)
        # No pickle is loaded: an array of objects is refused.
        with np.load(path, allow_pickle=False) as file:
            for name in (f"{split}_{kind}" for split in _SPLITS for kind in ("images", "labels")):
                if name not in file.files:
                    raise DataError(
                        f"{path}: no array {name}, found {', '.join(file.files) or 'none'}; this is not {NAME}"
                    )
            return [_split(path, split, file[f"{split}_images"], file[f"{split}_labels"]) for split in _SPLITS]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read as npz ({told(error)}); the file is damaged or of another kind: copy it again"
        ) from error


def _split(path: Path, split: str, images: np.ndarray, labels: np.ndarray) -> Images:
    place = f"{path}: {split}_images"
    check_bytes(place, images, f"num x {_SIZE} x {_SIZE}")
    if images.shape[1:] != (_SIZE, _SIZE) or len(images) == 0:
        raise DataError(f"{place}: shape {images.shape}, expected num x {_SIZE} x {_SIZE}; this is not {NAME}")
    place = f"{path}: {split}_labels"
    if labels.shape not in ((len(images),), (len(images), 1)):
        raise DataError(f"{place}: shape {labels.shape}, expected {len(images)} x 1, one for each image")
    check_labels(f"{place}: row", "label", labels.reshape(-1), 0, len(CLASS_NAMES) - 1, NAME)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{place}: {labels.dtype}, expected whole numbers; convert it before")
    return Images(images[..., None], labels.reshape(-1).astype(np.int64), f"{path}: {split}_images: row {{}}".format)
