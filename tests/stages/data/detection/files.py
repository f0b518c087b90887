"""Small data sets in the real formats, which tests write and then change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.data.detection.annotations import Pictures
from stages.data.errors import DataError
from tests.stages.data.samples import encode

# Height and width of the images 1, 2 and 3; the last one has no objects.
SIZES = ((40, 60), (30, 20), (16, 16))


def write_image(path: Path, height: int, width: int, seed: int, form: str = "JPEG", channels: int = 3) -> None:
    """Writes an image of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    path.write_bytes(encode(pixels, form))


def refuses(read: Callable[[], Pictures], message: str) -> None:
    """Asserts that reading ends in one message on one line, and that nothing else is raised."""
    with pytest.raises(DataError, match=message) as caught:
        read()
    assert "\n" not in str(caught.value)


def arrays(split: Pictures) -> list[tuple[list, list, list, list]]:
    """Boxes, labels, crowds and difficulties of each picture."""
    return [
        (p.boxes.tolist(), p.labels.tolist(), p.crowd.tolist(), p.difficult.tolist()) for p in split.pictures
    ]  # fmt: skip


def coco_content() -> dict[str, Any]:
    """What a JSON file of COCO holds: three images, of which the second has a crowd and the third no objects."""
    return {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"id": 139, "file_name": "000000000139.jpg", "height": 40, "width": 60, "license": 2},
            {"id": 25, "file_name": "000000000025.jpg", "height": 30, "width": 20, "license": 2},
            {"id": 632, "file_name": "000000000632.jpg", "height": 16, "width": 16, "license": 2},
        ],
        "annotations": [
            {
                "id": 918, "image_id": 139, "category_id": 18, "bbox": [10.5, 4.25, 20.0, 30.5], "area": 500.2,
                "iscrowd": 0, "segmentation": [[10.5, 4.25, 30.5, 4.25, 30.5, 34.75]],
            },
            {
                "id": 900100, "image_id": 25, "category_id": 1, "bbox": [0, 0, 20, 29.99], "area": 599.8, "iscrowd": 1,
                "segmentation": {"counts": [0, 600], "size": [30, 20]},
            },
            {
                "id": 17, "image_id": 139, "category_id": 1, "bbox": [50.0, 20.0, 10.01, 20.0], "area": 200.0,
                "iscrowd": 0, "segmentation": [],
            },
        ],
        # Ids with gaps, not in order.
        "categories": [
            {"id": 18, "name": "dog", "supercategory": "animal"},
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
        ],
    }  # fmt: skip


def write_coco(folder: Path, content: Any = None) -> Path:
    """Writes COCO's layout, split "val2017"; returns the JSON file."""
    for number, (image, (height, width)) in enumerate(zip(coco_content()["images"], SIZES, strict=True)):
        write_image(folder / "val2017" / image["file_name"], height, width, number)
    path = folder / "annotations" / "instances_val2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(coco_content() if content is None else content), encoding="utf-8")
    return path


VOC = {
    "000012": """<annotation>
    <folder>VOC2007</folder><filename>000012.jpg</filename>
    <source><database>The VOC2007 Database</database></source>
    <size><width>60</width><height>40</height><depth>3</depth></size><segmented>0</segmented>
    <object>
        <name>car</name><pose>Rear</pose><truncated>0</truncated><difficult>0</difficult>
        <bndbox><xmin>11</xmin><ymin>5</ymin><xmax>60</xmax><ymax>40</ymax></bndbox>
    </object>
    <object>
        <name>person</name><difficult>1</difficult>
        <part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>
        <bndbox><xmax>1</xmax><xmin>1</xmin><ymin>30.5</ymin><ymax>40</ymax></bndbox>
    </object>
</annotation>""",
    "000017": """<?xml version="1.0" encoding="ISO-8859-1"?>
<annotation><filename>000017.jpg</filename><source><annotation>Besanc\u00e9on</annotation></source>
    <size><width>20</width><height>30</height><depth>3</depth></size>
    <object><name>aeroplane</name>
        <bndbox><xmin>2</xmin><ymin>2</ymin><xmax>19</xmax><ymax>29</ymax></bndbox></object></annotation>""",
    "2011_3": "<annotation><filename>2011_3.jpg</filename></annotation>",
}


def write_voc(folder: Path, changed: dict[str, str] | None = None) -> Path:
    """Writes Pascal VOC's layout, list "trainval"; `changed` replaces parts of the first image's XML file."""
    for number, (name, (height, width)) in enumerate(zip(VOC, SIZES, strict=True)):
        write_image(folder / "JPEGImages" / f"{name}.jpg", height, width, number)
        text = VOC[name]
        for old, new in (changed or {}).items() if not number else ():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = folder / "Annotations" / f"{name}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode("latin1"))
    path = folder / "ImageSets" / "Main" / "trainval.txt"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(VOC) + "\n")
    return folder / "Annotations" / "000012.xml"


OPEN_IMAGES = """\
ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
0001eeaf4aed83f9,xclick,/m/0cmf2,1,0.25,0.75,0.1,0.9,0,0,0,0,0
000595fe6fee6369,xclick,/m/02xwb,1,0,1,0.5,1.000001,0,0,1,0,0
0001eeaf4aed83f9,activemil,/m/02xwb,1,0.0,0.1,0.0,0.05,-1,-1,-1,-1,-1
"""
OPEN_IMAGES_CLASSES = '/m/02xwb,Fruit\n/m/0cmf2,Airplane\n/m/0dv5r,"Camera, old"\n'
OPEN_IMAGES_NAMES = ("0001eeaf4aed83f9", "000595fe6fee6369", "000a1249af2bc5f0")


def write_open_images(folder: Path, changed: dict[str, str] | None = None) -> Path:
    """Writes Open Images' layout, split "validation"; `changed` replaces parts of the table, whose path is returned."""
    for number, (name, (height, width)) in enumerate(zip(OPEN_IMAGES_NAMES, SIZES, strict=True)):
        write_image(folder / "validation" / f"{name}.jpg", height, width, number)
    text = OPEN_IMAGES
    for old, new in (changed or {}).items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "class-descriptions-boxable.csv").write_text(OPEN_IMAGES_CLASSES)
    path = folder / "validation-annotations-bbox.csv"
    path.write_text(text)
    return path
