"""A folder of image files a class: ImageNet and images of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import cli, outputs, prepare
from stages.data import registry, splits
from stages.data.settings import Data, Folder
from tests.stages.data.samples import encode, settings, write_folders

SOURCES = [("folder", "test"), ("folder", "val"), ("imagenet", "val")]
Refused = Callable[[Data, str], None]


def own(source: str, folder: Path, **changes: int) -> Folder:
    found = settings(source, folder)
    assert isinstance(found, Folder)
    return replace(found, **changes)


@pytest.mark.parametrize(("source", "test"), SOURCES)
def test_files_become_square_images_in_the_order_of_their_names(
    source: str, test: str, tmp_path: Path, context: Callable[[Data], cli.Context]
) -> None:
    folder = write_folders(tmp_path / "files", ["train", test])
    (folder / "train" / ".hidden").touch()
    where = context(own(source, folder))
    prepare.main(where)
    found, card = splits.load(where.data), outputs.read_json(where.metrics / "prepare" / "row.json")
    assert found.class_names == ("cat", "dog")
    assert found.test.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found.test.images.shape == (8, 8, 8, 3)
    assert [card["samples"][name]["total"] for name in ("train", "validation", "test")] == [6, 2, 8]
    # 12 x 15 pixels, grey: the middle 12 columns, halved and a bit.
    grey = Image.open(folder / test / "dog" / "1.png").convert("RGB").crop((1, 0, 14, 12))
    expected = np.asarray(grey).astype(float)
    assert abs(found.test.images[5].mean() - expected.mean()) < 12
    assert (found.test.images[5][..., 0] == found.test.images[5][..., 2]).all()
    label = (
        "ImageNet (2 classes, 8 pixels)"
        if source == "imagenet"
        else "images of one folder a class (2 classes, 8 pixels)"
    )
    assert (card["source"], card["note"]) == (label, "scaled to 8 x 8 pixels")
    assert card["licence"]


def test_a_picture_keeps_its_middle(tmp_path: Path) -> None:
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32] = 200
    folder = write_folders(tmp_path / "files", ["train", "test"])
    (folder / "test" / "cat" / "0.png").write_bytes(encode(pixels))
    found = registry.READERS["folder"](own("folder", folder), folder)
    assert (found.test.images[0, :, 1:-1] == 200).all()


def test_three_splits(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "files", ["train", "val", "test"])
    found = registry.READERS["folder"](own("folder", folder), folder)
    assert found.validation is not None
    assert found.validation.place(0) == str(folder / "val" / "cat" / "0.png")
    assert found.test.place(5) == str(folder / "test" / "dog" / "1.png")


def test_the_first_files_of_each_class(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "files", ["train", "val"])
    found = registry.READERS["imagenet"](own("imagenet", folder, per_class=3), folder)
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.note == "scaled to 8 x 8 pixels, the first 3 files of a class and split"


@pytest.mark.parametrize(("source", "test"), SOURCES)
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dog/1.png", b"", "the image cannot be decoded"),
        ("dog/1.png", "half", "the image cannot be decoded"),
        ("dog/1.png", "deep", r"the image is in mode I\S*, expected 8 bits a channel; convert it before"),
        ("dog/1.png", "GIF", "the image cannot be decoded .*expected a PNG or JPEG file"),
        ("dog/notes.txt", b"text", r"expected files that end in .png, .jpg, .jpeg; move it away"),
        ("readme.png", b"text", "a class that train/ has not, expected the 2 classes of train/; add or remove it"),
        ("wolf/1.png", "half", None),
        ("dog", None, "no such folder, expected the 2 classes of train/"),
    ],
)
def test_bad_files_are_named(
    source: str, test: str, name: str, content: bytes | str | None, message: str | None, tmp_path: Path,
    refused: Refused,
) -> None:  # fmt: skip
    folder = write_folders(tmp_path / "files", ["train", test])
    path = folder / test / name
    good = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    if content is None:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        path.parent.mkdir(exist_ok=True)
        deep = encode(np.arange(400, dtype=np.uint16).reshape(20, 20, 1))
        named = {"half": encode(good)[:300], "deep": deep, "GIF": encode(good, "GIF")}
        path.write_bytes(named[content] if isinstance(content, str) else content)
    place = path if message else path.parent
    refused(own(source, folder), f"^{place}: {message or 'a class that train/ has not'}")


@pytest.mark.parametrize("source", ["folder", "imagenet"])
def test_missing_and_empty_folders_are_named(source: str, tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "files"
    message = f"train: no such folder, expected .*put train/ and .*val/ there, or set DNM_{source.upper()} to a folder"
    refused(own(source, folder), message)
    write_folders(folder, ["train"])
    refused(own(source, folder), f"^{folder / 'val'}: no such folder")
    (folder / "val").mkdir()
    refused(own(source, folder), f"^{folder / 'val'}: empty; put at least one")
    (folder / "train" / "wolf").mkdir()
    refused(own(source, folder), f"^{folder / 'train' / 'wolf'}: empty; put at least one")


def test_a_file_among_the_classes_is_named(tmp_path: Path, refused: Refused) -> None:
    folder = write_folders(tmp_path / "files", ["train", "test"])
    (folder / "train" / "list.txt").touch()
    refused(own("folder", folder), f"^{folder / 'train' / 'list.txt'}: a file, expected a folder of PNG and JPEG files")


@pytest.mark.parametrize(("source", "test"), SOURCES)
def test_test_images_among_the_training_images_are_refused(
    source: str, test: str, tmp_path: Path, refused: Refused
) -> None:
    folder = write_folders(tmp_path / "files", ["train", test])
    original, copy = folder / "train" / "cat" / "3.png", folder / test / "dog" / "0.png"
    copy.write_bytes(original.read_bytes())
    refused(
        own(source, folder), f"expected none; the first is {copy} .test., equal to {original} .(train|validation).; a"
    )


def test_own_images_that_stand_twice_are_refused(tmp_path: Path, refused: Refused) -> None:
    folder = write_folders(tmp_path / "files", ["train", "val", "test"])
    original, copy = folder / "train" / "cat" / "3.png", folder / "val" / "dog" / "0.png"
    copy.write_bytes(original.read_bytes())
    refused(
        own("folder", folder), f"1 validation or test images .* the first is {copy} .validation., equal to {original}"
    )
