"""Open Images' tables: what is read from small ones, and how damaged ones are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stages.data.detection import open_images
from tests.stages.data.detection.files import OPEN_IMAGES_CLASSES, arrays, refuses, write_image, write_open_images


def test_a_small_folder(tmp_path: Path) -> None:
    path = write_open_images(tmp_path)
    found = open_images.read(tmp_path, "validation")
    assert found.class_names == ("Fruit", "Airplane", "Camera, old")
    assert [(p.height, p.width) for p in found.pictures] == [(40, 60), (30, 20), (16, 16)]
    assert arrays(found) == [
        ([[15.0, 4.0, 45.0, 36.0], [0.0, 0.0, 6.0, 2.0]], [1, 0], [False, False], [False, False]),
        # A group, below its image by rounding.
        ([[0.0, 15.0, 20.0, 30.0]], [0], [True], [False]),
        ([], [], [], []),
    ]
    first = found.pictures[0]
    assert first.image == tmp_path / "validation" / "0001eeaf4aed83f9.jpg"
    assert f"{first.place}, {first.annotation(1)}" == f"{path}: image 0001eeaf4aed83f9, row 4"


def test_names_and_headers_of_other_versions(tmp_path: Path) -> None:
    path = write_open_images(tmp_path)
    before = arrays(open_images.read(tmp_path, "validation"))
    lines = path.read_text().splitlines()
    # Version 6 has more columns, version 7 a header over the classes; rows may end as on Windows.
    wider = [f"{line},{'XClick1X' if not number else 0.1}" for number, line in enumerate(lines)]
    path.with_name("oidv6-validation-annotations-bbox.csv").write_text("\r\n".join([*wider, "", ""]), "utf-8-sig")
    path.unlink()
    (tmp_path / "class-descriptions-boxable.csv").unlink()
    (tmp_path / "oidv7-class-descriptions-boxable.csv").write_text("LabelName,DisplayName\n" + OPEN_IMAGES_CLASSES)
    assert arrays(open_images.read(tmp_path, "validation")) == before


def test_no_boxes_at_all(tmp_path: Path) -> None:
    path = write_open_images(tmp_path)
    path.write_text(path.read_text().splitlines()[0])
    assert [len(p.labels) for p in open_images.read(tmp_path, "validation").pictures] == [0, 0, 0]


FIRST, IMAGE = "0.25,0.75,0.1,0.9", "image 0001eeaf4aed83f9"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (FIRST, "0.25,1.02,0.1,0.9", rf"{IMAGE}, row 2: the box \(15, 4, 61.2, 36\) lies outside of its image, "
         r"expected .* within 0 to 60 and 0 to 40 pixels"),
        (FIRST, "0.25,0.75,-0.1,0.9", rf"{IMAGE}, row 2: the box \(15, -4, 45, 36\) lies outside of its image"),
        (FIRST, "0.75,0.25,0.1,0.9", rf"{IMAGE}, row 2: the box \(45, 4, 15, 36\) has no area"),
        (FIRST, "0.25,0.75,0.9,0.9", rf"{IMAGE}, row 2: the box \(15, 36, 45, 36\) has no area"),
        ("0.0,0.1,0.0,0.05", "0.0,0.1,0.0,0", rf"{IMAGE}, row 4: the box \(0, 0, 6, 0\) has no area"),
        (FIRST, "nan,0.75,0.1,0.9", f"row 2, {IMAGE}: XMin is 'nan', expected a fraction of the image's side; correct"),
        (FIRST, "0.25,0.75,inf,0.9", f"row 2, {IMAGE}: YMin is 'inf', expected a fraction"),
        (FIRST, "0.25,,0.1,0.9", f"row 2, {IMAGE}: XMax is '', expected a fraction"),
        (FIRST, "0.25,0.75,0.1", "row 2 has 12 columns, expected 13; the file may be cut off: copy it again"),
        ("/m/0cmf2", "/m/none", f"row 2, {IMAGE}: LabelName is '/m/none', expected one of the 3 ids of the table"),
        ("1.000001,0,0,1,0,0", "1.000001,0,0,2,0,0", "row 3, image 000595fe6fee6369: IsGroupOf is '2', expected 0, 1"),
        ("000595fe6fee6369", "000000", r"row 3, image 000000: .*000000.jpg: no such file, expected the image; "
         "put it there, or remove its annotations"),
        ("IsGroupOf", "Group", "row 1 has no column IsGroupOf, expected ImageID, LabelName, .*; this is not"),
        ("-1,-1,-1,-1,-1\n", '-1,-1,-1,-1,"-1\n', "what follows row 3 is not CSV .*, expected a table of boxes"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = write_open_images(tmp_path, {old: new})
    refuses(lambda: open_images.read(tmp_path, "validation"), f"^{re.escape(str(path))}: {message}")


@pytest.mark.parametrize("cut", [-5, -20, -62])
def test_a_file_that_is_cut_off(cut: int, tmp_path: Path) -> None:
    path = write_open_images(tmp_path)
    path.write_text(path.read_text()[:cut])
    refuses(lambda: open_images.read(tmp_path, "validation"), rf"^{path}: row 4 has \d+ columns, expected 13; the file")


def test_an_empty_file(tmp_path: Path) -> None:
    path = write_open_images(tmp_path)
    path.write_text("")
    refuses(lambda: open_images.read(tmp_path, "validation"), f"^{path}: row 1 has no column ImageID")


def test_other_encodings(tmp_path: Path) -> None:
    path = write_open_images(tmp_path)
    text = path.read_text()
    path.write_bytes(text.encode("utf-16"))
    refuses(lambda: open_images.read(tmp_path, "validation"), f"^{path}: what follows row 0 is not UTF-8, expected a")
    path.write_text(text)
    classes = tmp_path / "class-descriptions-boxable.csv"
    classes.write_bytes("/m/02xwb,Caf\u00e9\n/m/0cmf2,Airplane\n".encode("latin1"))
    refuses(lambda: open_images.read(tmp_path, "validation"), rf"^{classes}: what follows row \d is not UTF-8, .* in")
    classes.write_text("/m/02xwb,Caf\u00e9\n/m/0cmf2,Airplane\n", encoding="utf-8")
    assert open_images.read(tmp_path, "validation").class_names == ("Caf\u00e9", "Airplane")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("/m/02xwb,Fruit\n/m/0cmf2\n", "row 2 is '/m/0cmf2', expected an id and a name"),
        ("/m/02xwb,Fruit\n,Nothing\n", "row 2 is ',Nothing', expected an id and a name"),
        ("/m/02xwb,Fruit\n/m/02xwb,Apple\n", "row 2: the id /m/02xwb stands twice, expected each id once"),
    ],
)
def test_a_wrong_class_is_named(content: str, message: str, tmp_path: Path) -> None:
    write_open_images(tmp_path)
    path = tmp_path / "class-descriptions-boxable.csv"
    path.write_text(content)
    refuses(lambda: open_images.read(tmp_path, "validation"), f"^{path}: {message}")


def test_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_open_images(tmp_path)
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/02xwb,Fruit\n/m/0cmf2,Fruit\n")
    refuses(lambda: open_images.read(tmp_path, "validation"), rf"^{path}: the classes are \('Fruit', 'Fruit'\)")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = write_open_images(tmp_path)
    message = f"^{tmp_path}: no train-annotations-bbox.csv or oidv6-train-annotations-bbox.csv, expected one of them"
    refuses(lambda: open_images.read(tmp_path, "train"), message)
    path.with_name("test-annotations-bbox.csv").write_text(path.read_text())
    refuses(lambda: open_images.read(tmp_path, "test"), f"^{tmp_path / 'test'}: no such folder, expected one with the")
    (tmp_path / "class-descriptions-boxable.csv").unlink()
    refuses(lambda: open_images.read(tmp_path, "validation"), f"^{tmp_path}: no class-descriptions-boxable.csv or ")


def test_an_image_twice(tmp_path: Path) -> None:
    write_open_images(tmp_path)
    write_image(tmp_path / "validation" / "0001eeaf4aed83f9.png", 40, 60, 3, "PNG")
    message = "0001eeaf4aed83f9.png: the image is there as 0001eeaf4aed83f9.jpg too, expected one"
    refuses(lambda: open_images.read(tmp_path, "validation"), message)
