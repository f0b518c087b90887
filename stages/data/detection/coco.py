"""COCO's instances files: one JSON file a split (Lin et al. 2014, arXiv:1405.0312; cocodataset.org, Data format)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.data.detection.annotations import Picture, Pictures, check, image_size, objects, text_of, without_flat
from stages.data.errors import DataError

_WHAT = "COCO's instances in JSON"
_LISTS = ("images", "annotations", "categories")


def read(folder: Path, split: str, flat: float = 0.0) -> Pictures:
    """Reads `annotations/instances_<split>.json` and the images that it lists in `<split>/`, as COCO's archives unpack.

    Labels are numbers from 0 on in the order of the categories' ids, which have gaps. Crowds are kept, marked as such.
    Images without annotations are kept. The pixels are not decoded; sizes are read from the image files.

    Args:
        folder: of the data set.
        split: such as "train2017".
        flat: the largest fraction of boxes without area that are left out instead of refused.

    Raises:
        DataError: a file is missing or damaged, an image has another size than the JSON file says, an id stands twice
            or is not known, or `check` refuses a picture.
    """
    path = folder / "annotations" / f"instances_{split}.json"
    try:
        found = json.loads(text_of(path, _WHAT))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}), expected {_WHAT}; it may be cut off: copy it again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: a {type(found).__name__}, expected {_WHAT}: an object with {', '.join(_LISTS)}")
    images, annotations, categories = (_by_id(path, found, name) for name in _LISTS)
    labels = {number: label for label, number in enumerate(sorted(categories))}
    names = tuple(_value(f"{path}: category {number}", categories[number], "name", str) for number in labels)
    of_image: dict[int, list[int]] = {number: [] for number in images}
    for number, annotation in annotations.items():
        place = f"{path}: annotation {number}"
        image = _value(place, annotation, "image_id", int)
        if image not in images:
            raise DataError(f"{place}: image_id is {image}, expected the id of one of {len(images)} images; remove it")
        category = _value(place, annotation, "category_id", int)
        if category not in labels:
            raise DataError(
                f"{place}, of image {image}: category_id is {category}, expected one of {sorted(labels)}; add the "
                "category or remove the annotation"
            )
        of_image[image].append(number)
    pictures = tuple(
        _picture(path, folder / split, images[number], [annotations[one] for one in of_image[number]], labels)
        for number in images
    )
    result, _ = without_flat(Pictures(pictures, names, str(path)), flat)
    check(result)
    return result


def _by_id(path: Path, found: Mapping[str, Any], name: str) -> dict[int, Mapping[str, Any]]:
    """The entries of one of the file's lists by their ids, in the file's order."""
    entries = found.get(name)
    if not isinstance(entries, list):
        shown = "missing" if entries is None else f"a {type(entries).__name__}"
        raise DataError(f"{path}: {name} is {shown}, expected a list; this is not a file of {_WHAT}")
    result: dict[int, Mapping[str, Any]] = {}
    for row, entry in enumerate(entries):
        place = f"{path}: {name}[{row}]"
        if not isinstance(entry, dict):
            raise DataError(f"{place}: a {type(entry).__name__}, expected an object; this is not a file of {_WHAT}")
        number = _value(place, entry, "id", int)
        if number in result:
            raise DataError(f"{place}: the id {number} stands twice, expected each id once; remove one of the two")
        result[number] = entry
    return result


def _picture(
    path: Path, folder: Path, image: Mapping[str, Any], annotations: list[Mapping[str, Any]], labels: Mapping[int, int]
) -> Picture:
    place = f"{path}: image {image['id']}"
    name = _value(place, image, "file_name", str)
    place += f" ({name})"
    height, width = image_size(place, folder / name)
    stated = tuple(_value(place, image, side, int) for side in ("height", "width"))
    if stated != (height, width):
        raise DataError(
            f"{place}: {folder / name} is {height} pixels high and {width} wide, expected {stated[0]} and {stated[1]}: "
            "its boxes belong to another version of the image; take that, or correct height and width"
        )
    boxes, crowd = [], []
    for annotation in annotations:
        where = f"{place}, annotation {annotation['id']}"
        x, y, across, down = _box(where, annotation)
        boxes.append((x, y, x + across, y + down))
        flag = annotation.get("iscrowd", 0)
        if type(flag) is not int or flag not in (0, 1):
            raise DataError(f"{where}: iscrowd is {flag!r}, expected 0 or 1; correct it")
        crowd.append(flag == 1)
    numbers = [annotation["id"] for annotation in annotations]
    of_annotations = [labels[annotation["category_id"]] for annotation in annotations]
    return Picture(
        image=folder / name,
        height=height,
        width=width,
        **objects(boxes, of_annotations, crowd, [False] * len(boxes), height, width),
        place=place,
        annotation=lambda row: f"annotation {numbers[row]}",
    )


def _box(place: str, annotation: Mapping[str, Any]) -> list[float]:
    box = annotation.get("bbox")
    # A truth value is an int too; a whole number of hundreds of digits is no float.
    if isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box):
        numbers = [float(value) for value in box if abs(value) < 1e9]
        if len(numbers) == 4:
            return numbers
    shown = "missing" if box is None else repr(box)[:100]
    raise DataError(f"{place}: bbox is {shown}, expected four numbers (x, y, width, height) in pixels; correct it")


def _value(place: str, entry: Mapping[str, Any], key: str, kind: type) -> Any:
    value = entry.get(key)
    # A truth value is an int too.
    if type(value) is not kind:
        shown = "missing" if value is None else repr(value)
        what = {int: "a whole number", str: "text"}[kind]
        raise DataError(f"{place}: {key} is {shown}, expected {what}; this is not a file of {_WHAT}, or it is damaged")
    return value
