"""COCO's JSON files: what is read from a small one, and how damaged ones are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.data.detection import annotations, coco
from tests.stages.data.detection.files import arrays, coco_content, refuses, write_coco, write_image

WHAT = "expected COCO's instances in JSON"


def test_a_small_file(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    found = coco.read(tmp_path, "val2017")
    assert found.class_names == ("person", "dog", "toothbrush")
    assert [(p.height, p.width) for p in found.pictures] == [(40, 60), (30, 20), (16, 16)]
    assert arrays(found) == [
        # The last box is wider than its image by less than a pixel.
        ([[10.5, 4.25, 30.5, 34.75], [50.0, 20.0, 60.0, 40.0]], [1, 0], [False, False], [False, False]),
        ([[0.0, 0.0, 20.0, pytest.approx(29.99)]], [0], [True], [False]),
        ([], [], [], []),
    ]
    first = found.pictures[0]
    assert first.image == tmp_path / "val2017" / "000000000139.jpg"
    assert first.place == f"{path}: image 139 (000000000139.jpg)"
    assert [first.annotation(0), first.annotation(1)] == ["annotation 918", "annotation 17"]
    assert [p.ignored.tolist() for p in found.pictures] == [[False, False], [True], []]
    assert annotations.squared(first, 30).boxes.tolist() == [[5.25, 2.125, 15.25, 17.375], [25.0, 10.0, 30.0, 20.0]]


def test_a_file_without_annotations(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_content() | {"annotations": []})
    found = coco.read(tmp_path, "val2017")
    assert [p.boxes.shape for p in found.pictures] == [(0, 4)] * 3


def test_boxes_without_area_can_be_left_out(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][0]["bbox"][3] = 0.0
    write_coco(tmp_path, content)
    refuses(lambda: coco.read(tmp_path, "val2017", flat=0.3), r"annotation 918: the box \(10.5, 4.25, 30.5, 4.25\) has")
    found = coco.read(tmp_path, "val2017", flat=0.34)
    assert arrays(found)[0] == ([[50.0, 20.0, 60.0, 40.0]], [0], [False], [False])
    assert found.pictures[0].annotation(0) == "annotation 17"


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    """What puts a value somewhere into the file."""

    def make(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return make


def without(*path: Any) -> Callable[[dict[str, Any]], None]:
    """What takes a key out."""

    def make(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return make


IMAGE = r"image 139 \(000000000139.jpg\)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (change("annotations", 0, "bbox", to=[50, 4, 11.5, 30]), rf"{IMAGE}, annotation 918: the box "
         r"\(50, 4, 61.5, 34\) lies outside of its image, expected \(x1, y1, x2, y2\) within 0 to 60 and 0 to 40"),
        (change("annotations", 0, "bbox", to=[-2, 4, 20, 30]), "annotation 918: the box .* lies outside of its image"),
        (change("annotations", 0, "bbox", to=[5, -1.5, 20, 30]), "annotation 918: the box .* lies outside"),
        (change("annotations", 0, "bbox", to=[5, 20, 20, 22]), "annotation 918: the box .* lies outside of its image"),
        (change("annotations", 2, "bbox", to=[5, 4, 0, 30]), rf"{IMAGE}, annotation 17: the box \(5, 4, 5, 34\) has no "
         "area, expected x1 < x2 and y1 < y2"),
        (change("annotations", 0, "bbox", to=[5, 4, 10, -3]), r"annotation 918: the box \(5, 4, 15, 1\) has no area"),
        (change("annotations", 0, "bbox", to=[5, float("nan"), 10, 3]), rf"{IMAGE}, annotation 918: bbox is "
         r"\[5, nan, 10, 3\], expected four numbers \(x, y, width, height\)"),
        (change("annotations", 0, "bbox", to=[5, 4, float("inf"), 3]), r"annotation 918: bbox is \[5, 4, inf, 3\]"),
        (change("annotations", 0, "bbox", to=[5, 4, 10**400, 3]), r"annotation 918: bbox is \[5, 4, 1000+, expected"),
        (change("annotations", 0, "bbox", to=[5, 4, 10]), r"annotation 918: bbox is \[5, 4, 10\], expected four numbe"),
        (change("annotations", 0, "bbox", to=[5, 4, "10", 3]), r"annotation 918: bbox is .*'10'.*, expected four"),
        (change("annotations", 0, "bbox", to=[5, 4, True, 3]), r"annotation 918: bbox is .*True.*, expected four"),
        (without("annotations", 0, "bbox"), "annotation 918: bbox is missing, expected four numbers"),
        (change("annotations", 1, "iscrowd", to=2), r"image 25 .*, annotation 900100: iscrowd is 2, expected 0 or 1"),
        (change("annotations", 0, "category_id", to=2), r"annotation 918, of image 139: category_id is 2, expected "
         r"one of \[1, 18, 90\]; add the category or remove the annotation"),
        (change("annotations", 0, "image_id", to=7), "annotation 918: image_id is 7, expected the id of one of 3"),
        (change("annotations", 1, "id", to=918), r"annotations\[1\]: the id 918 stands twice, expected each id once"),
        (change("images", 2, "id", to=139), r"images\[2\]: the id 139 stands twice, expected each id once; remove one"),
        (change("categories", 0, "id", to=1), r"categories\[1\]: the id 1 stands twice"),
        (change("categories", 0, "name", to="person"), r"the classes are \('person', 'person', 'toothbrush'\)"),
        (change("categories", to=[]), r"annotation 918, of image 139: category_id is 18, expected one of \[\]"),
        (change("images", 0, "height", to=41), rf"{IMAGE}: .*139.jpg is 40 pixels high and 60 wide, expected 41 "
         "and 60: its boxes belong to another version of the image"),
        (change("images", 1, "file_name", to="000000000139.jpg"), "image 25 .*139.jpg is 40 pixels high and 60 wide,"),
        (change("images", 1, to={"id": 25, "file_name": "000000000139.jpg", "height": 40, "width": 60}),
         r"image 25 .*: the image is that of .*image 139 .*, expected each image once"),
        (change("images", 2, "file_name", to="no.jpg"), r"image 632 \(no.jpg\): .*no.jpg: no such file, expected the"),
        (change("images", to=[]), "annotation 918: image_id is 139, expected the id of one of 0 images"),
        (without("images", 0, "width"), f"{IMAGE}: width is missing, expected a whole number"),
        (change("images", 0, "width", to=60.0), f"{IMAGE}: width is 60.0, expected a whole number"),
        (change("images", 0, "id", to="139"), r"images\[0\]: id is '139', expected a whole number"),
        (change("images", 0, to=[139]), r"images\[0\]: a list, expected an object"),
        (without("annotations"), "annotations is missing, expected a list; this is not a file of COCO's instances"),
        (change("categories", to={"1": "person"}), "categories is a dict, expected a list"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(make: Callable[[dict[str, Any]], None], message: str, tmp_path: Path) -> None:
    content = coco_content()
    make(content)
    path = write_coco(tmp_path, content)
    refuses(lambda: coco.read(tmp_path, "val2017"), f"^{re.escape(str(path))}: .*?{message}")


def test_no_images_at_all(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_content() | {"images": [], "annotations": []})
    refuses(lambda: coco.read(tmp_path, "val2017"), "json: no images, expected at least one")


@pytest.mark.parametrize("part", [0, 1, 200, 0.5, 0.99, -1])
def test_a_file_that_is_cut_off(part: float, tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content)) if isinstance(part, float) else part])
    refuses(lambda: coco.read(tmp_path, "val2017"), f"^{path}: not JSON .*, {WHAT}; it may be cut off: copy it again")


def test_a_file_that_is_no_object(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    path.write_text("[1, 2]")
    refuses(lambda: coco.read(tmp_path, "val2017"), f"^{path}: a list, {WHAT}: an object with images, annotations")
    path.write_text("[" * 100_000)
    refuses(lambda: coco.read(tmp_path, "val2017"), f"^{path}: not JSON")


def test_other_encodings(tmp_path: Path) -> None:
    content = coco_content()
    content["categories"][0]["name"] = "caf\u00e9"
    path = write_coco(tmp_path)
    text = json.dumps(content, ensure_ascii=False)
    path.write_bytes(text.encode("utf-8-sig"))
    assert coco.read(tmp_path, "val2017").class_names == ("person", "caf\u00e9", "toothbrush")
    for encoding in ("latin1", "utf-16"):
        path.write_bytes(text.encode(encoding))
        message = rf"^{path}: byte \d+ is not UTF-8, {WHAT} in UTF-8; convert the file"
        refuses(lambda: coco.read(tmp_path, "val2017"), message)


def test_a_missing_file(tmp_path: Path) -> None:
    write_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    refuses(lambda: coco.read(tmp_path, "train2017"), f"^{path}: no such file, {WHAT}; put it there")


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    image = tmp_path / "val2017" / "000000000025.jpg"
    whole = image.read_bytes()
    for content in (b"", b"text", whole[:20]):
        image.write_bytes(content)
        refuses(lambda: coco.read(tmp_path, "val2017"), rf"^{path}: image 25 .*: {image}: the image cannot be decoded")
    write_image(image, 30, 20, 1, "GIF")
    refuses(lambda: coco.read(tmp_path, "val2017"), rf"{image}: the image cannot be decoded .*, expected a PNG or JPEG")
    # The header says all that is asked; that the rest is missing shows when the pixels are.
    image.write_bytes(whole[:-100])
    found = coco.read(tmp_path, "val2017").pictures[1]
    refuses(lambda: annotations.squared(found, 8), rf"^{path}: image 25 .*: {image}: ")  # type: ignore[arg-type]
