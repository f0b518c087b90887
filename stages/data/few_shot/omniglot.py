"""Omniglot (Lake, Salakhutdinov and Tenenbaum 2015, 10.1126/science.aab3050): characters of 50 alphabets, 20 drawings
of each, by 20 people.

An alphabet is in one split as a whole, so that test characters are of alphabets never trained on. (Vinyals et al. 2016,
arXiv:1606.04080, mix the characters of all alphabets; their figures are higher.) A character has 20 drawings: 20 shots
leave no query and cannot be measured on it.

Drawings are 105 x 105 pixels of one bit; here ink is 255, paper 0, and they are averaged down. All sums are of whole
numbers, so that the bits are the same on every machine.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stages.data import pictures
from stages.data.archives import Archive, check_name, fetch
from stages.data.errors import DataError, told
from stages.data.few_shot import Drawings, reading
from stages.data.reading import Reading

NAME = "Omniglot"
DRAWINGS = 20  # of a character
_SIZE = 105
_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
# The first two MD5s are torchvision's; the others are those of the files in the authors' repository.
ARCHIVES = {
    name: Archive(f"{name}.zip", f"{_URL}{name}.zip", md5)
    for name, md5 in (
        ("images_background", "68d2efa1b9178cc56df9314c21c6e718"),
        ("images_evaluation", "6b91aef0f799c5bb55b94e3f2daec811"),
        ("images_background_small1", "e704a628b5459e08445c13499850abc4"),
        ("images_background_small2", "b75a71a51d3b13f821f212756fe481fd"),
    )
}
_QUARTERS = 4  # of a turn

Alphabets = dict[str, list[Drawings]]


def read(
    folder: Path,
    *,
    background: Sequence[str] = ("images_background",),
    evaluation: Sequence[str] = ("images_evaluation",),
    validation: Sequence[str],
    turned: bool,
    size: int = 28,
) -> Reading:
    """Reads the published archives, which are downloaded where they are missing.

    Args:
        folder: of the archives.
        background: names of those, without `.zip`, whose alphabets are trained on; one that is in `evaluation` too is
            left out.
        evaluation: of those whose alphabets are the test split.
        validation: alphabets of `background` that are the validation split.
        turned: whether a training character turned by 90, 180 and 270 degrees counts as three more classes (Santoro et
            al. 2016, arXiv:1605.06065); validation and test characters are never turned.
        size: height and width that drawings are averaged down to, 1 to 105 pixels.

    Raises:
        DataError: an archive cannot be downloaded or is damaged, another one, or not in the published layout; a
            validation alphabet is not there to be taken; a character has not 20 drawings.
    """
    train, test = (_alphabets(folder, names, size) for names in (background, evaluation))
    both = sorted(train.keys() & test.keys())
    for name in both:
        del train[name]
    for name in validation:
        if name not in train:
            why = "is in the test split" if name in test else "is not there"
            raise DataError(
                f"{folder}: validation alphabet {name} {why}, expected one of {', '.join(train) or 'none'}; correct "
                "the settings"
            )
    held_out = {name: train.pop(name) for name in dict.fromkeys(validation)}
    turns = range(_QUARTERS if turned else 1)
    used = [*background, *evaluation]
    return reading(
        {
            "train": [_turned(one, turn) for turn in turns for one in _characters(train)],
            "validation": _characters(held_out),
            "test": _characters(test),
        },
        source=f"{NAME} ({', '.join(used)})",
        licence="MIT (brendenlake/omniglot)",
        note=f"{size} x {size} pixels; test alphabets: {', '.join(sorted(test))}"
        + (f"; left out of training as they are test alphabets too: {', '.join(both)}" if both else "")
        + ("; training characters turned by 90 degrees count as further classes" if turned else ""),
        published=True,
    )


def _alphabets(folder: Path, names: Sequence[str], size: int) -> Alphabets:
    found: Alphabets = {}
    for name in names:
        if name not in ARCHIVES:
            raise DataError(f"{folder}: {name} is no archive of {NAME}, expected some of {', '.join(ARCHIVES)}")
        archive = ARCHIVES[name]
        path = fetch(folder, archive, f"put {archive.name} there or set DNM_OMNIGLOT to a folder that has it")
        # The small sets share alphabets; the same drawings are in both.
        found |= _read_archive(path, name, size)
    return dict(sorted(found.items()))


def _characters(alphabets: Mapping[str, Sequence[Drawings]]) -> list[Drawings]:
    return [one for of_alphabet in alphabets.values() for one in of_alphabet]


def _turned(drawings: Drawings, turn: int) -> Drawings:
    if not turn:
        return drawings
    name = f"{drawings.name} turned {360 // _QUARTERS * turn}"
    return Drawings(name, np.rot90(drawings.images, turn, axes=(1, 2)), drawings.places)


def _read_archive(path: Path, top: str, size: int) -> Alphabets:
    """The characters in an archive by alphabet, in the order of their names."""
    try:
        with zipfile.ZipFile(path) as archive:
            files: dict[tuple[str, str], list[str]] = {}
            for name in sorted(archive.namelist()):
                check_name(path, name)
                if not name.endswith("/"):
                    files.setdefault(_split_name(path, top, name), []).append(name)
            found: Alphabets = {}
            for (alphabet, character), names in files.items():
                if len(names) != DRAWINGS:
                    raise DataError(
                        f"{path}: {alphabet}/{character} has {len(names)} drawings, expected {DRAWINGS}; delete the "
                        "file and download it again"
                    )
                places = [f"{path}: {name}" for name in names]
                bits = np.stack([_decode(place, archive.read(name)) for place, name in zip(places, names, strict=True)])
                drawn = Drawings(f"{alphabet}/{character}", averaged(bits, size)[..., None], places)
                found.setdefault(alphabet, []).append(drawn)
    # What zipfile raises of files that are cut off, encrypted, or packed in a way that it does not know.
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked ({told(error)}); delete the file and download it again") from error
    if not found:
        raise DataError(f"{path}: no drawing in it, expected {top}/<alphabet>/<character>/<drawing>.png")
    return found


def _split_name(path: Path, top: str, name: str) -> tuple[str, str]:
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != top or not name.endswith(".png"):
        raise DataError(
            f"{path}: holds {name}, expected {top}/<alphabet>/<character>/<drawing>.png; this is another archive: "
            "delete the file and download it again"
        )
    return parts[1], parts[2]


def _decode(place: str, content: bytes) -> np.ndarray:
    """Where a drawing has ink, bool, `105 x 105`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.size != (_SIZE, _SIZE) or image.mode != "1":
                raise DataError(
                    f"{place}: the image is {image.size[0]} x {image.size[1]} pixels in mode {image.mode}, expected "
                    f"{_SIZE} x {_SIZE} in mode 1; this is not {NAME}, or it was converted"
                )
            return ~np.asarray(image)
    except pictures._damages() as error:
        raise pictures._damaged(place, error) from error


def averaged(bits: np.ndarray, size: int) -> np.ndarray:
    """Drawings averaged down to fewer pixels, each over the area that it covers.

    Args:
        bits: bool, `num x height x width`; height equals width.
        size: new height and width.

    Returns:
        uint8, `num x size x size`; 255 where all of a pixel is true, halves rounded up.
    """
    full = bits.shape[1]
    # Pixels overlap by whole numbers of parts, of which an old pixel has `size` a side and a new one `full`.
    edges = np.arange(full + 1) * size
    new = np.arange(size)[:, None] * full
    overlap = np.minimum(edges[1:], new + full) - np.maximum(edges[:-1], new)
    # Whole numbers below 2^24: float32 holds them, and every sum of them, exactly.
    weights = np.maximum(overlap, 0).astype(np.float32)
    covered = (weights @ bits.astype(np.float32) @ weights.T).astype(np.int64)
    area = full * full
    return ((2 * 255 * covered + area) // (2 * area)).astype(np.uint8)
