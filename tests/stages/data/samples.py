"""Small files in the formats of the real data sets, and what a test changes in them."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from stages.data import pneumonia_mnist, registry
from stages.data.archives import Archive
from stages.data.settings import Data, Files, Folder, Npz
from stages.data.splits import Images

PUBLISHED = tuple(registry.PUBLISHED)
IMAGE_COLUMN = {"cifar10": "img", "cifar100": "img", "fashion_mnist": "image", "stl10": "image"}
TRAIN, TEST = 12, 6


def settings(source: str, folder: Path) -> Data:
    """Settings of a row that reads `folder`."""
    if source == "pneumonia_mnist":
        return Npz(source="pneumonia_mnist", folder=str(folder))
    if source in ("folder", "imagenet"):
        return Folder(source=source, folder=str(folder), size=8, per_class=0, seed=0, validation=0.25)  # type: ignore[arg-type]
    return Files(source=source, folder=str(folder), seed=0, validation=0.25)  # type: ignore[arg-type]


def images(source: str, num: int, seed: int = 0) -> Images:
    """Random images of a source's size; the labels are the first, the last and a middle class in turn."""
    if source == "pneumonia_mnist":
        size, channels, classes = 28, 1, 2
    else:
        data = registry.PUBLISHED[source]
        size, channels, classes = data.size, data.channels, len(data.class_names)
    pixels = np.random.default_rng(seed).integers(0, 256, (num, size, size, channels), np.uint8)
    return Images(pixels, np.resize([0, classes - 1, classes // 2], num).astype(np.int64))


def pair(source: str) -> tuple[Images, Images]:
    """Training and test images."""
    return images(source, TRAIN, 1), images(source, TEST, 2)


def relabelled(split: Images, row: int, label: int) -> Images:
    """The split with another label in a row."""
    labels = split.labels.copy()
    labels[row] = label
    return replace(split, labels=labels)


def encode(pixels: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    """An image file of `height x width x channels` pixels."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, form, **options)
    return stream.getvalue()


def write_parquet(
    path: Path, files: Sequence[bytes | None], labels: Mapping[str, Sequence[Any]], column: str = "img"
) -> None:
    """Writes a column of image files and columns of labels, in groups of five rows."""
    rows = [{"bytes": file, "path": f"{number}.png"} for number, file in enumerate(files)]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({column: pyarrow.array(rows, kind), **{name: list(found) for name, found in labels.items()}})
    pyarrow.parquet.write_table(table, path, row_group_size=5)


def labels_of(source: str, labels: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """The label columns that Hugging Face's files of a source have."""
    return {"fine_label": labels, "coarse_label": [0] * len(labels)} if source == "cifar100" else {"label": labels}


def write_split(folder: Path, source: str, split: str, found: Images, form: str = "PNG", **options: Any) -> Path:
    """Writes a split as one Parquet file."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{split}.parquet"
    files = [encode(one, form, **options) for one in found.images]
    write_parquet(path, files, labels_of(source, found.labels.tolist()), IMAGE_COLUMN[source])
    return path


def write_parquets(folder: Path, source: str) -> tuple[Images, Images]:
    """Writes both splits as Parquet files."""
    train, test = pair(source)
    write_split(folder, source, "train", train)
    write_split(folder, source, "test", test)
    return train, test


def cifar_records(split: Images, coarse: bool) -> bytes:
    """Records of the binary archives of CIFAR."""
    planes = split.images.transpose(0, 3, 1, 2).reshape(len(split), -1)
    labels = [np.full((len(split), 1), 7, np.uint8)] if coarse else []
    return np.concatenate([*labels, split.labels.astype(np.uint8)[:, None], planes], axis=1).tobytes()


def idx(values: np.ndarray, kind: int = 8) -> bytes:
    """A compressed idx file."""
    header = struct.pack(f">4B{values.ndim}I", 0, 0, kind, values.ndim, *values.shape)
    return gzip.compress(header + values.astype(values.dtype.newbyteorder(">")).tobytes())


def tar(members: Mapping[str, bytes]) -> bytes:
    """A compressed tar archive, with a folder and a link in it as archives have them."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        folder, link = tarfile.TarInfo("a-folder"), tarfile.TarInfo("a-link")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "readme.html"
        for info in (folder, link):
            archive.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def members(source: str, train: Images, test: Images) -> dict[str, bytes]:
    """The files inside the archive of a source that has one."""
    if source == "cifar10":
        batches = [replace(train, images=train.images[i::5], labels=train.labels[i::5]) for i in range(5)]
        return {
            **{
                f"cifar-10-batches-bin/data_batch_{number}.bin": cifar_records(batch, False)
                for number, batch in enumerate(batches, 1)
            },
            "cifar-10-batches-bin/test_batch.bin": cifar_records(test, False),
        }
    if source == "cifar100":
        return {
            "cifar-100-binary/train.bin": cifar_records(train, True),
            "cifar-100-binary/test.bin": cifar_records(test, True),
        }
    return {
        f"stl10_binary/{name}_{kind}.bin": content
        for name, split in (("train", train), ("test", test))
        for kind, content in (
            ("X", split.images.transpose(0, 3, 2, 1).tobytes()),
            ("y", (split.labels + 1).astype(np.uint8).tobytes()),
        )
    }


def archives(source: str, train: Images, test: Images) -> dict[str, bytes]:
    """The archives of a source: names and contents."""
    names = [archive.name for archive in registry.PUBLISHED[source].archives]
    if source != "fashion_mnist":
        return {names[0]: tar(members(source, train, test))}
    arrays = [array for split in (train, test) for array in (split.images[..., 0], split.labels.astype(np.uint8))]
    return {name: idx(array) for name, array in zip(names, arrays, strict=True)}


def write_archives(folder: Path, source: str, contents: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes archives into a folder and lets their checksums be those that are expected."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    expect(source, contents, monkeypatch)


def expect(
    source: str, contents: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch, address: str = "http://localhost:9/"
) -> None:
    """Lets a source's archives be `contents`, published at `address`."""

    def published(archive: Archive) -> Archive:
        md5 = hashlib.md5(contents[archive.name]).hexdigest() if archive.name in contents else archive.md5
        return replace(archive, url=address + archive.name, md5=md5)

    if source == "pneumonia_mnist":
        monkeypatch.setattr(pneumonia_mnist, "ARCHIVE", published(pneumonia_mnist.ARCHIVE))
        return
    data = registry.PUBLISHED[source]
    changed = replace(data, archives=tuple(published(archive) for archive in data.archives))
    monkeypatch.setitem(registry.PUBLISHED, source, changed)


def npz_arrays() -> dict[str, np.ndarray]:
    """The arrays of PneumoniaMNIST's file."""
    found = {}
    for seed, (name, num) in enumerate((("train", TRAIN), ("val", 4), ("test", TEST))):
        split = images("pneumonia_mnist", num, seed)
        found[f"{name}_images"] = split.images[..., 0]
        found[f"{name}_labels"] = (split.labels % 2).astype(np.uint8)[:, None]
    return found


def write_npz(folder: Path, arrays: Mapping[str, Any]) -> Path:
    """Writes PneumoniaMNIST's file."""
    folder.mkdir(exist_ok=True)
    path = folder / "pneumoniamnist.npz"
    np.savez_compressed(path, allow_pickle=True, **arrays)
    return path


def add_to_zip(path: Path, name: str) -> None:
    """Adds a file to a zip archive."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"")


def write_folders(folder: Path, splits: Sequence[str], num: int = 4) -> Path:
    """Writes `<split>/<class>/<number>` with two classes of PNG and JPEG files of several sizes and modes."""
    random = np.random.default_rng(len(splits))
    for split in splits:
        for name in ("cat", "dog"):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(num):
                height, width = 9 + 3 * number, 15
                pixels = random.integers(0, 256, (height, width, 1 if number == 1 else 3), np.uint8)
                form = "JPEG" if number == 2 else "PNG"
                (place / f"{number}.{'JPEG' if form == 'JPEG' else 'png'}").write_bytes(encode(pixels, form))
    return folder


def tree(root: Path) -> dict[str, bytes]:
    """All files below a folder with what is in them."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
