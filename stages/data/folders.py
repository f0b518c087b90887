"""Images in one folder a class: ImageNet as its owner has it, or images of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.data import pictures
from stages.data.errors import DataError
from stages.data.reading import Reading
from stages.data.settings import Folder
from stages.data.splits import Images

_SUFFIXES = (".png", ".jpg", ".jpeg")
_IMAGENET_CLASSES = 1000


def read(settings: Folder, folder: Path) -> Reading:
    """Reads `train/<class>/` and `test/<class>/` or `val/<class>/`; a class is called like its folder.

    ImageNet's test images are those in `val/`: the labels of its own were never published. Elsewhere `val/` is the test
    set only where there is no `test/`, and otherwise the validation set.

    Raises:
        DataError: a folder is missing or empty, splits have other classes, or a file is not an image.
    """
    is_imagenet = settings.source == "imagenet"
    test_name = "val" if is_imagenet or not (folder / "test").is_dir() else "test"
    for name in ("train", test_name):
        if not (folder / name).is_dir():
            needed = "train/ and val/" if is_imagenet else "train/ and test/ or val/"
            raise DataError(
                f"{folder / name}: no such folder, expected one with a folder of PNG and JPEG files a class; put "
                f"{needed} there, or set DNM_{settings.source.upper()} to a folder that has them"
            )
    class_names = tuple(path.name for path in _visible(folder / "train"))
    names = ["train", test_name, *(["val"] if test_name == "test" and (folder / "val").is_dir() else [])]
    # All files are found before the first is decoded, which takes long for ImageNet.
    listed = {name: _list_split(folder / name, class_names, settings.per_class) for name in names}
    found = {name: _decode(*files, settings.size) for name, files in listed.items()}
    classes = "" if len(class_names) == _IMAGENET_CLASSES else f"{len(class_names)} classes, "
    part = f", the first {settings.per_class} files of a class and split" if settings.per_class else ""
    return Reading(
        train=found["train"],
        validation=found["val"] if len(names) == 3 else None,
        test=found[test_name],
        class_names=class_names,
        source=f"{'ImageNet' if is_imagenet else 'images of one folder a class'} ({classes}{settings.size} pixels)",
        licence="non-commercial research (image-net.org)" if is_imagenet else "not stated",
        note=f"scaled to {settings.size} x {settings.size} pixels{part}",
        published=is_imagenet,
    )


def _visible(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not found:
        raise DataError(f"{folder}: empty; put at least one file or folder there, or remove it")
    return found


def _list_split(folder: Path, class_names: tuple[str, ...], per_class: int) -> tuple[list[Path], list[int]]:
    """The files of a split, class by class, and their labels."""
    files: list[Path] = []
    labels: list[int] = []
    found = {path.name for path in _visible(folder)}
    for name in sorted(found ^ set(class_names)):
        raise DataError(
            f"{folder / name}: {'a class that train/ has not' if name in found else 'no such folder'}, expected the "
            f"{len(class_names)} classes of train/; add or remove it"
        )
    for label, name in enumerate(class_names):
        of_class = _list_class(folder / name)[: per_class or None]
        files += of_class
        labels += [label] * len(of_class)
    return files, labels


def _decode(files: list[Path], labels: list[int], size: int) -> Images:
    images = np.empty((len(files), size, size, 3), np.uint8)
    for row, path in enumerate(files):
        images[row] = pictures.decode_square(str(path), _content(path), size)
    return Images(images, np.array(labels, np.int64), lambda row: str(files[row]))


def _list_class(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: a file, expected a folder of PNG and JPEG files, one a class; move it away")
    files = _visible(folder)
    for path in files:
        if path.suffix.lower() not in _SUFFIXES or not path.is_file():
            raise DataError(f"{path}: expected files that end in {', '.join(_SUFFIXES)}; move it away")
    return files


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a file that can") from error
