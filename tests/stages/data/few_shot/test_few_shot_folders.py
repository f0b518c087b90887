"""miniImageNet's two layouts, and every way in which files of them can be bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.data import few_shot
from stages.data.errors import DataError
from stages.data.few_shot import folders
from stages.data.reading import Reading
from tests.stages.data.samples import encode

CLASSES = {"train": ("cat", "dog"), "val": ("fox",), "test": ("hen", "owl")}
NUM = 3


def picture(name: str) -> bytes:
    """An image file, PNG or JPEG, 12 x 16 pixels."""
    pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (12, 16, 3), np.uint8)
    return encode(pixels, "JPEG" if name.endswith(".jpg") else "PNG")


def write_folders(folder: Path) -> Path:
    for split, names in CLASSES.items():
        for name in names:
            (folder / split / name).mkdir(parents=True)
            for number in range(NUM):
                file = f"{number}.{'jpg' if number == 1 else 'png'}"
                (folder / split / name / file).write_bytes(picture(f"{name}{file}"))
    return folder


def write_lists(folder: Path) -> Path:
    """The same images in `images/`; in the lists the classes' lines are mixed."""
    (folder / "images").mkdir(parents=True)
    for split, names in CLASSES.items():
        lines = ["filename,label"]
        for number in range(NUM):
            for name in names:
                file = f"{number}.{'jpg' if number == 1 else 'png'}"
                (folder / "images" / f"{name}{file}").write_bytes(picture(f"{name}{file}"))
                lines.append(f"{name}{file},{name}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


LAYOUTS = {"folders": write_folders, "lists": write_lists}


def read(folder: Path, **changes: int) -> Reading:
    return folders.read(folder, **{"size": 8, **changes})


def refused(folder: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_layouts_are_read(layout: str, tmp_path: Path) -> None:
    found = read(LAYOUTS[layout](tmp_path / "mini"))
    assert found.class_names == ("cat", "dog", "fox", "hen", "owl")
    assert found.validation is not None
    assert [split.labels.tolist() for split in (found.train, found.validation, found.test)] == [
        [0, 0, 0, 1, 1, 1], [2, 2, 2], [3, 3, 3, 4, 4, 4],
    ]  # fmt: skip
    assert found.test.images.shape == (6, 8, 8, 3)
    place = tmp_path / "mini" / ("test/owl/1.jpg" if layout == "folders" else "images/owl1.jpg")
    assert found.test.place(4) == str(place)
    assert (found.source, found.note) == ("images of mini (8 pixels)", "scaled to 8 x 8 pixels")
    few_shot.data_set(found)


def test_both_layouts_give_the_same_images(tmp_path: Path) -> None:
    first, second = read(write_folders(tmp_path / "a")), read(write_lists(tmp_path / "b"))
    assert np.array_equal(first.train.images, second.train.images)
    assert np.array_equal(first.test.images, second.test.images)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_first_images_of_each_class(layout: str, tmp_path: Path) -> None:
    folder = LAYOUTS[layout](tmp_path / "mini")
    found, whole = read(folder, per_class=2), read(folder)
    assert found.train.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(found.train.images[2:], whole.train.images[3:5])
    assert found.note == "scaled to 8 x 8 pixels, the first 2 files of a class"


@pytest.mark.parametrize("split", CLASSES)
def test_a_missing_or_empty_folder_is_named(split: str, tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "mini")
    (folder / split).rename(folder / "elsewhere")
    refused(folder, f"^{folder / split}: no such folder, expected .*put train/, val/ and test/ there, or images/ and")
    (folder / split).mkdir()
    refused(folder, f"^{folder / split}: empty; put at least one")
    (folder / split / "wolf").mkdir()
    refused(folder, f"^{folder / split / 'wolf'}: empty; put at least one")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_class_in_two_splits_is_refused(layout: str, tmp_path: Path) -> None:
    folder = LAYOUTS[layout](tmp_path / "mini")
    if layout == "folders":
        (folder / "test" / "cat").mkdir()
        (folder / "test" / "cat" / "9.png").write_bytes(picture("another"))
    else:
        (folder / "images" / "another.png").write_bytes(picture("another"))
        with (folder / "test.csv").open("a") as stream:
            stream.write("another.png,cat\n")
    refused(folder, f"^{folder}: class cat is in train and in test, expected each class in one split alone; .*take it")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("content", [b"", picture("x.png")[:200], b"GIF89a"])
def test_an_unreadable_image_is_named(layout: str, content: bytes, tmp_path: Path) -> None:
    folder = LAYOUTS[layout](tmp_path / "mini")
    path = folder / ("val/fox/2.png" if layout == "folders" else "images/fox2.png")
    path.write_bytes(content)
    refused(folder, f"^{path}: the image cannot be decoded .*, expected a PNG or JPEG file; copy the file again$")


def test_another_file_among_the_images_is_named(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "mini")
    (folder / "val" / "fox" / "notes.txt").touch()
    refused(folder, f"^{folder / 'val' / 'fox' / 'notes.txt'}: expected files that end in .png, .jpg, .jpeg; move it")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "val.csv: cannot be read .No such file or directory., expected a list of images; copy it there"),
        (b"", "val.csv: no column filename, found nothing; expected a first line with filename and label: add it"),
        (b"file,label\nfox0.png,fox\n", "val.csv: no column filename, found file, label; expected"),
        (b"filename,class\nfox0.png,fox\n", "val.csv: no column label, found filename, class; expected"),
        (b"filename,label\n", "mini: no class in val, expected at least one"),
        (b"filename,label\nfox0.png\n", "val.csv: line 2: no label, expected one in every line; add it or remove"),
        (b"filename,label\nfox0.png,fox\n,fox\n", "val.csv: line 3: no filename, expected one in every line"),
        (b"filename,label\nfox9.png,fox\n", "images/fox9.png: no such file, expected the image that .*val.csv: line 2"),
        (b"filename,label\n../cat.png,fox\n", "val.csv: holds '../cat.png', expected names inside"),
        (
            b"filename,label\nfox0.png,fox\nfox0.png,fox\n",
            "line 3: fox0.png is listed in .*val.csv: line 2 too, expect",
        ),
        (b"filename,label\ncat0.png,fox\n", "val.csv: line 2: cat0.png is listed in .*train.csv: line 2 too, expected"),
        ("filename,label\nfüchse.png,fox\n".encode("latin-1"), "val.csv: not UTF-8 .*, expected a list in it; save it"),
    ],
)
def test_bad_lists_are_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    folder = write_lists(tmp_path / "mini")
    path = folder / "val.csv"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    refused(folder, message)


def test_a_list_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    folder = write_lists(tmp_path / "mini")
    path = folder / "val.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(folder).class_names[2] == "fox"
