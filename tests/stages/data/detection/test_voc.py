"""Pascal VOC's folders: what is read from small ones, and how damaged ones are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stages.data.detection import voc
from tests.stages.data.detection.files import arrays, refuses, write_image, write_voc


def test_a_small_folder(tmp_path: Path) -> None:
    path = write_voc(tmp_path)
    found = voc.read(tmp_path, "trainval")
    assert found.class_names == voc.CLASS_NAMES
    assert len(set(voc.CLASS_NAMES)) == 20
    assert [(p.height, p.width) for p in found.pictures] == [(40, 60), (30, 20), (16, 16)]
    assert arrays(found) == [
        # One column and ten and a half rows of pixels; the box of its part is not read.
        ([[10.0, 4.0, 60.0, 40.0], [0.0, 29.5, 1.0, 40.0]], [6, 14], [False, False], [False, True]),
        ([[1.0, 1.0, 19.0, 29.0]], [0], [False], [False]),
        ([], [], [], []),
    ]
    first = found.pictures[0]
    assert first.ignored.tolist() == [False, True]
    assert first.image == tmp_path / "JPEGImages" / "000012.jpg"
    assert f"{first.place}, {first.annotation(1)}" == f"{path}: image 000012.jpg, object 1 (person)"


def test_the_last_pixel_is_in_the_box(tmp_path: Path) -> None:
    # A box around the first pixel alone, in the files' coordinates.
    write_voc(tmp_path, {"<xmin>11</xmin><ymin>5</ymin><xmax>60</xmax><ymax>40</ymax>":
                         "<xmin>1</xmin><ymin>1</ymin><xmax>1</xmax><ymax>1</ymax>"})  # fmt: skip
    assert voc.read(tmp_path, "trainval").pictures[0].boxes[0].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_other_lists_classes_and_files(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "own.txt").write_text("\ufeff2011_3 \r\n\r\n000017\r\n", encoding="utf-8")
    (tmp_path / "JPEGImages" / "000017.jpg").unlink()
    write_image(tmp_path / "JPEGImages" / "000017.png", 30, 20, 1, "PNG")
    found = voc.read(tmp_path, "own", ("kite", "aeroplane"))
    assert [p.image.name for p in found.pictures if isinstance(p.image, Path)] == ["2011_3.jpg", "000017.png"]
    assert arrays(found)[1] == ([[1.0, 1.0, 19.0, 29.0]], [1], [False], [False])


BOX = "<bndbox><xmin>11</xmin><ymin>5</ymin><xmax>60</xmax><ymax>40</ymax></bndbox>"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmin>11<", "<xmin>61<", r"object 0 \(car\): the box \(60, 4, 60, 40\) has no area, expected x1 < x2"),
        ("<ymin>5<", "<ymin>41<", r"object 0 \(car\): the box \(10, 40, 60, 40\) has no area"),
        ("<xmin>11<", "<xmin>70<", r"object 0 \(car\): the box \(69, 4, 60, 40\) has no area"),
        ("<xmax>60<", "<xmax>62<", r"object 0 \(car\): the box \(10, 4, 62, 40\) lies outside of its image, "
         "expected .* within 0 to 60 and 0 to 40 pixels"),
        ("<ymin>5<", "<ymin>-1<", r"object 0 \(car\): the box \(10, -2, 60, 40\) lies outside of its image"),
        ("<xmin>11<", "<xmin>nan<", r"object 0 \(car\): bndbox: xmin is 'nan', expected a number of pixels; correct"),
        ("<xmin>11<", "<xmin>left<", r"object 0 \(car\): bndbox: xmin is 'left', expected a number"),
        ("<xmin>11</xmin>", "<xmin/>", r"object 0 \(car\): bndbox: xmin is '', expected a number"),
        ("<xmin>11</xmin>", "", r"object 0 \(car\): bndbox: xmin is missing, expected a number"),
        (BOX, "", r"object 0 \(car\): bndbox: xmin is missing"),
        ("<name>car<", "<name>lorry<", "object 0: the name is 'lorry', expected one of aeroplane, .*; correct it, or"),
        ("<name>car</name>", "", "object 0: the name is '', expected one of aeroplane"),
        ("<difficult>1<", "<difficult>yes<", r"object 1 \(person\): difficult is 'yes', expected 0 or 1"),
        ("<width>60<", "<width>61<", r"size: width is 61, and that of .*000012.jpg is 60 pixels, expected them to be"),
        ("<height>40<", "<height>4O<", "size: height is '4O', expected a number"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = write_voc(tmp_path, {old: new})
    refuses(lambda: voc.read(tmp_path, "trainval"), f"^{re.escape(str(path))}: image 000012.jpg(, |: ){message}")


def test_tools_that_state_no_size_or_count_from_0(tmp_path: Path) -> None:
    write_voc(tmp_path, {"<width>60<": "<width>0<", "<height>40</height>": "", "<xmin>11<": "<xmin>0<"})
    assert voc.read(tmp_path, "trainval").pictures[0].boxes[0].tolist() == [0.0, 4.0, 60.0, 40.0]


@pytest.mark.parametrize("part", [0, 100, 300, -1])
def test_a_file_that_is_cut_off(part: int, tmp_path: Path) -> None:
    path = write_voc(tmp_path)
    path.write_bytes(path.read_bytes()[:part])
    refuses(lambda: voc.read(tmp_path, "trainval"), rf"^{path}: not XML .*; it may be cut off: copy it again")


def test_files_in_another_encoding_or_of_another_kind(tmp_path: Path) -> None:
    path = write_voc(tmp_path, {"<pose>Rear<": "<pose>Arri\u00e8re<"})
    # Without a declaration XML is UTF-8; the file is Latin-1.
    refuses(lambda: voc.read(tmp_path, "trainval"), f"^{path}: not XML .*in the encoding that its first line states")
    path.write_bytes(b'<?xml version="1.0" encoding="none-such"?><annotation/>')
    refuses(lambda: voc.read(tmp_path, "trainval"), f"^{path}: not XML")
    path.write_text("<html/>")
    refuses(lambda: voc.read(tmp_path, "trainval"), f"^{path}: the root is <html>, expected <annotation>")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = write_voc(tmp_path)
    listed = tmp_path / "ImageSets" / "Main" / "trainval.txt"
    image = tmp_path / "JPEGImages" / "000012.jpg"
    refuses(lambda: voc.read(tmp_path, "val"), f"^{listed.with_name('val.txt')}: no such file, expected a list")
    content = image.read_bytes()
    image.unlink()
    refuses(lambda: voc.read(tmp_path, "trainval"), f"^{path}: image 000012: {image}: no such file, expected the image")
    image.write_bytes(content)
    path.unlink()
    message = f"^{path}: no such file, expected the annotations of the image in {listed}: line 1; put it there"
    refuses(lambda: voc.read(tmp_path, "trainval"), message)


def test_lists_that_cannot_be_used(tmp_path: Path) -> None:
    write_voc(tmp_path)
    listed = tmp_path / "ImageSets" / "Main" / "trainval.txt"
    for content, message in (
        ("000012\n000017\n000012\n", "line 3: 000012 stands in line 1 too, expected it once"),
        ("000012 -1\n000017  1\n", "line 1 is '000012 -1', expected the name of an image"),
        ("\n", "no images, expected at least one"),
    ):
        listed.write_text(content)
        refuses(lambda: voc.read(tmp_path, "trainval"), f"^{listed}: {message}")
    listed.write_bytes(b"000012\n\xe9t\xe9\n")
    refuses(lambda: voc.read(tmp_path, "trainval"), f"^{listed}: byte 7 is not UTF-8, expected a list of images")
