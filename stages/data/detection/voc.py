"""Pascal VOC's folders: an XML file an image, lists of images (Everingham et al. 2010, 10.1007/s11263-009-0275-4)."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

from stages.data.detection.annotations import SUFFIXES, Picture, Pictures, check, image_size, missing, objects, text_of
from stages.data.errors import DataError

CLASS_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def read(folder: Path, split: str, class_names: tuple[str, ...] = CLASS_NAMES) -> Pictures:
    """Reads the images that `ImageSets/Main/<split>.txt` lists, from `JPEGImages/` and `Annotations/`.

    The files' coordinates count pixels from 1 and include the last one: xmin 1 and xmax 1 are a box around the first
    column, (0, ..., 1, ...) here. Difficult objects are kept, marked as such. The pixels are not decoded; sizes are
    read from the image files.

    Args:
        folder: of one year, as VOCdevkit/VOC2007.
        split: such as "trainval".
        class_names: the names of labels 0, 1, ...

    Raises:
        DataError: a file is missing or damaged, an image has another size than its XML file says, stands in the list
            twice, or `check` refuses a picture.
    """
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    labels = {name: label for label, name in enumerate(class_names)}
    rows: dict[str, int] = {}
    for row, line in enumerate(text_of(path, "a list of images, one name a line").splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        if len(name.split()) > 1:
            raise DataError(
                f"{path}: line {row} is {name[:60]!r}, expected the name of an image; give the split whose list has no "
                "other column"
            )
        if name in rows:
            raise DataError(f"{path}: line {row}: {name} stands in line {rows[name]} too, expected it once; remove one")
        rows[name] = row
    pictures = tuple(_picture(folder, f"{path}: line {row}", name, labels) for name, row in rows.items())
    result = Pictures(pictures, class_names, str(path))
    check(result)
    return result


def _picture(folder: Path, listed: str, name: str, labels: dict[str, int]) -> Picture:
    path = folder / "Annotations" / f"{name}.xml"
    image = _image(folder / "JPEGImages", f"{path}: image {name}", name)
    root = _root(path, listed)
    place = f"{path}: image {image.name}"
    height, width = image_size(place, image)
    for side, found in (("height", height), ("width", width)):
        stated = root.findtext(f"size/{side}")
        # Some tools leave the size out or write 0.
        if stated is not None and _number(f"{place}: size", side, stated) not in (0, found):
            raise DataError(
                f"{place}: size: {side} is {stated}, and that of {image} is {found} pixels, expected them to be equal: "
                "the boxes belong to another version of the image; take that, or correct the size"
            )
    boxes, of_objects, difficult = [], [], []
    for number, element in enumerate(root.findall("object")):
        where = f"{place}, object {number}"
        kind = (element.findtext("name") or "").strip()
        if kind not in labels:
            raise DataError(
                f"{where}: the name is {kind!r}, expected one of {', '.join(labels)}; correct it, or give all classes"
            )
        where += f" ({kind})"
        x1, y1, x2, y2 = (_side(where, element, side) for side in _SIDES)
        boxes.append((x1 - 1, y1 - 1, x2, y2))
        flag = (element.findtext("difficult") or "0").strip()
        if flag not in ("0", "1"):
            raise DataError(f"{where}: difficult is {flag!r}, expected 0 or 1; correct it")
        of_objects.append(labels[kind])
        difficult.append(flag == "1")
    names = [list(labels)[label] for label in of_objects]
    return Picture(
        image=image,
        height=height,
        width=width,
        **objects(boxes, of_objects, [False] * len(boxes), difficult, height, width),
        place=place,
        annotation=lambda row: f"object {row} ({names[row]})",
    )


def _image(folder: Path, place: str, name: str) -> Path:
    for suffix in SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise missing(place, folder / f"{name}{SUFFIXES[0]}")


def _root(path: Path, listed: str) -> ElementTree.Element:
    """The annotation that an XML file holds; the file states its own encoding."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file, expected the annotations of the image in {listed}; put it there, or take the line "
            "out"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected an XML file") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(
            f"{path}: not XML ({error}), expected the annotations of an image in the encoding that its first line "
            "states; it may be cut off: copy it again"
        ) from error
    if root.tag != "annotation":
        raise DataError(f"{path}: the root is <{root.tag}>, expected <annotation>; this is not a file of Pascal VOC")
    return root


def _side(place: str, element: ElementTree.Element, side: str) -> float:
    # Parts of an object have boxes of their own, below it.
    return _number(f"{place}: bndbox", side, element.findtext(f"bndbox/{side}"))


def _number(place: str, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        shown = "missing" if text is None else repr(text)
        raise DataError(f"{place}: {name} is {shown}, expected a number of pixels; correct it")
    return value
