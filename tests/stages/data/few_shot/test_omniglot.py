"""Omniglot's archives: read as published, and every way in which one can be bad is told."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.data import few_shot
from stages.data.errors import DataError
from stages.data.few_shot import omniglot
from stages.data.reading import Reading
from tests.stages.data.test_downloads import served

REAL = Path(os.environ.get("DNM_OMNIGLOT") or Path(__file__).parents[4].parent / "shared" / "data" / "omniglot")
BACKGROUND, EVALUATION = "images_background_small1", "images_background_small2"
ALPHABETS = {
    BACKGROUND: {"Balinese": 2, "Greek": 3, "Korean": 2},
    EVALUATION: {"Greek": 3, "Japanese_(katakana)": 2},
}
Files = dict[str, bytes]


def bits(name: str) -> np.ndarray:
    """Where a drawing has ink, `105 x 105`."""
    return np.random.default_rng(list(name.encode())).random((105, 105)) < 0.1


def png(ink: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(~ink).save(stream, "PNG")
    return stream.getvalue()


def members(archive: str) -> Files:
    """The files of an archive; those of an alphabet are the same in every archive."""
    return {
        f"{archive}/{name}": png(bits(name))
        for alphabet, characters in ALPHABETS[archive].items()
        for character in range(1, characters + 1)
        for name in (f"{alphabet}/character{character:02}/0{character}_{drawing:02}.png" for drawing in range(1, 21))
    }


@pytest.fixture(scope="module")
def contents() -> Mapping[str, Files]:
    return {archive: members(archive) for archive in ALPHABETS}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Files], Path]:
    """Writes an archive, with its folders as the published ones have them, and lets its checksum be the expected."""

    def make(archive: str, files: Files) -> Path:
        path = tmp_path / f"{archive}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stream:
            stream.writestr(f"{archive}/", b"")
            for name, content in files.items():
                stream.writestr(name, content)
        expect(archive, path)
        return path

    def expect(archive: str, path: Path) -> None:
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        changed = replace(omniglot.ARCHIVES[archive], md5=md5)
        monkeypatch.setitem(omniglot.ARCHIVES, archive, changed)

    make.expect = expect  # type: ignore[attr-defined]
    return make


@pytest.fixture
def both(write: Callable[[str, Files], Path], contents: Mapping[str, Files]) -> None:
    for archive, files in contents.items():
        write(archive, files)


def read(folder: Path, **changes) -> Reading:
    options = {"background": [BACKGROUND], "evaluation": [EVALUATION], "validation": ["Korean"], "turned": False}
    return omniglot.read(folder, **{**options, **changes})


def test_alphabets_are_kept_whole_and_apart(both: None, tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.class_names == (
        "Balinese/character01", "Balinese/character02", "Korean/character01", "Korean/character02",
        "Greek/character01", "Greek/character02", "Greek/character03",
        "Japanese_(katakana)/character01", "Japanese_(katakana)/character02",
    )  # fmt: skip
    assert found.validation is not None
    splits = (found.train, found.validation, found.test)
    assert [np.unique(split.labels).tolist() for split in splits] == [[0, 1], [2, 3], [4, 5, 6, 7, 8]]
    assert all((np.bincount(split.labels)[np.unique(split.labels)] == 20).all() for split in splits)
    assert found.note == (
        "28 x 28 pixels; test alphabets: Greek, Japanese_(katakana); "
        "left out of training as they are test alphabets too: Greek"
    )
    assert found.published
    place = f"{tmp_path / EVALUATION}.zip: {EVALUATION}/Greek/character02/02_03.png"
    assert found.test.place(22) == place
    few_shot.data_set(found)


def brute_average(ink: np.ndarray, size: int) -> np.ndarray:
    """Every pixel is cut into parts that lie in one new pixel each; halves are rounded up."""
    parts = np.kron(ink.astype(np.int64), np.ones((size, size), np.int64))
    blocks = parts.reshape(size, 105, size, 105).sum(axis=(1, 3))
    whole = [[int(Fraction(255 * int(value), 105 * 105) + Fraction(1, 2)) for value in row] for row in blocks]
    return np.array(whole, np.uint8)


@pytest.mark.parametrize("size", [28, 20])
def test_drawings_are_averaged_down_with_ink_as_255(size: int, both: None, tmp_path: Path) -> None:
    found = read(tmp_path, size=size)
    assert found.test.images.shape == (100, size, size, 1)
    expected = brute_average(bits("Greek/character02/02_03.png"), size)
    assert np.array_equal(found.test.images[22, ..., 0], expected)


def test_full_size_and_full_ink_are_exact() -> None:
    ink = bits("x")[None]
    assert np.array_equal(omniglot.averaged(ink, 105), np.where(ink, 255, 0))
    assert (omniglot.averaged(np.ones((1, 105, 105), bool), 28) == 255).all()
    assert (omniglot.averaged(np.zeros((1, 105, 105), bool), 28) == 0).all()


def test_training_characters_alone_are_turned(both: None, tmp_path: Path) -> None:
    plain, turned = read(tmp_path), read(tmp_path, turned=True)
    assert len(turned.class_names) == len(plain.class_names) + 3 * 2
    assert turned.class_names[2:4] == ("Balinese/character01 turned 90", "Balinese/character02 turned 90")
    assert turned.class_names[8:] == plain.class_names[2:]
    for turn in range(4):
        of_turn = turned.train.images[40 * turn : 40 * (turn + 1)]
        assert np.array_equal(of_turn, np.rot90(plain.train.images, turn, axes=(1, 2)))
    assert np.array_equal(turned.test.images, plain.test.images)
    assert turned.train.labels.tolist() == np.repeat(np.arange(8), 20).tolist()
    assert turned.note.endswith("; training characters turned by 90 degrees count as further classes")


def test_all_of_several_archives_are_trained_on(both: None, tmp_path: Path) -> None:
    found = read(tmp_path, background=[BACKGROUND, EVALUATION], evaluation=[EVALUATION])
    assert len(found.class_names) == 9
    assert found.source == f"Omniglot ({BACKGROUND}, {EVALUATION}, {EVALUATION})"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": ["Greek"]}, "validation alphabet Greek is in the test split, expected one of Balinese, Korean"),
        ({"validation": ["Klingon"]}, "validation alphabet Klingon is not there, expected one of Balinese, Korean; co"),
        ({"validation": []}, "no class in validation, expected at least one"),
        ({"validation": ["Balinese", "Korean"]}, "no class in train, expected at least one"),
        (
            {"background": ["omniglot"]},
            "omniglot is no archive of Omniglot, expected some of images_background, images",
        ),
    ],
)
def test_bad_choices_are_named(changes: dict, message: str, both: None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, **changes)


FIRST = "Balinese/character01/01_01.png"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (FIRST, None, "Balinese/character01 has 19 drawings, expected 20; delete the file and download it again"),
        ("Balinese/character01/01_21.png", png(bits("x")), "Balinese/character01 has 21 drawings, expected 20"),
        (FIRST, png(bits("x"))[:60], f"{FIRST}: the image cannot be decoded .*copy the file again"),
        (FIRST, b"", f"{FIRST}: the image cannot be decoded"),
        (FIRST, png(bits("x")[:50]), f"{FIRST}: the image is 105 x 50 pixels in mode 1, expected 105 x 105 in mode 1"),
        (FIRST, "grey", f"{FIRST}: the image is 105 x 105 pixels in mode L, expected 105 x 105 in mode 1; this is not"),
        ("Balinese/readme.txt", b"text", f"holds {BACKGROUND}/Balinese/readme.txt, expected {BACKGROUND}/<alphabet>/"),
        ("../../outside.png", png(bits("x")), "holds '.*outside.png', expected names inside the archive"),
    ],
)
def test_bad_files_in_an_archive_are_named(
    name: str, content: bytes | str | None, message: str, write, contents: Mapping[str, Files], tmp_path: Path
) -> None:
    files, full = dict(contents[BACKGROUND]), f"{BACKGROUND}/{name}"
    if content is None:
        del files[full]
    elif content == "grey":
        stream = io.BytesIO()
        Image.new("L", (105, 105)).save(stream, "PNG")
        files[full] = stream.getvalue()
    else:
        assert isinstance(content, bytes)
        files[full] = content
    path = write(BACKGROUND, files)
    with pytest.raises(DataError, match=f"^{path}: (.*/)?{message}") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_another_archive_under_the_name_is_refused(write, contents: Mapping[str, Files], tmp_path: Path) -> None:
    write(BACKGROUND, contents[EVALUATION])
    with pytest.raises(DataError, match=f"holds {EVALUATION}/Greek.*this is another archive: delete the file and dow"):
        read(tmp_path)


def test_another_checksum_is_refused_unopened(both: None, tmp_path: Path) -> None:
    path = tmp_path / f"{BACKGROUND}.zip"
    path.write_bytes(b"changed")
    with pytest.raises(DataError, match=f"^{path}: its MD5 is [0-9a-f]{{32}}, expected .*delete the file and"):
        read(tmp_path)


@pytest.mark.parametrize("damage", ["half", "empty", "no zip", "bytes", "packing"])
def test_damaged_archives_are_refused(damage: str, write, contents: Mapping[str, Files], tmp_path: Path) -> None:
    path = write(BACKGROUND, contents[BACKGROUND] if damage != "empty" else {})
    whole = path.read_bytes()
    # A file's header is 30 bytes, its name and what else is said of it; then come the packed bytes.
    header = whole.index(b"PK\x03\x04", len(whole) // 4 if damage != "empty" else 0)
    start = header + 30 + sum(struct.unpack("<HH", whole[header + 26 : header + 30]))
    broken = bytearray(whole)
    if damage == "bytes":
        broken[start + 10 : start + 40] = bytes(30)
    elif damage == "packing":
        broken[start] = 7  # a kind of block that there is none of
    if damage != "empty":
        path.write_bytes({"half": whole[: len(whole) // 2], "no zip": b"\x89PNG"}.get(damage, bytes(broken)))
        write.expect(BACKGROUND, path)
    expected = "no drawing in it" if damage == "empty" else "cannot be unpacked .*download it again"
    with pytest.raises(DataError, match=f"^{path}: {expected}"):
        read(tmp_path)


def test_a_missing_archive_is_downloaded_or_named(
    write, contents: Mapping[str, Files], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(BACKGROUND, contents[BACKGROUND])
    write(EVALUATION, contents[EVALUATION])
    whole = path.read_bytes()
    for files in ({}, {path.name: whole}):
        path.unlink(missing_ok=True)
        with served(files) as address:
            changed = replace(omniglot.ARCHIVES[BACKGROUND], url=address + path.name)
            monkeypatch.setitem(omniglot.ARCHIVES, BACKGROUND, changed)
            if files:
                assert len(read(tmp_path).class_names) == 9
                assert path.read_bytes() == whole
            else:
                with pytest.raises(DataError, match=f"^{path}: no such file, .*put {BACKGROUND}.zip there or set DNM_"):
                    read(tmp_path)


def test_published_archives_are_those_that_torchvision_knows() -> None:
    from torchvision.datasets import Omniglot

    for name, md5 in Omniglot.zips_md5.items():
        assert omniglot.ARCHIVES[name].md5 == md5
        assert omniglot.ARCHIVES[name].url == f"{Omniglot.download_url_prefix}/{name}.zip"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not there: no published archive to read")
def test_the_published_small_sets() -> None:
    found = omniglot.read(
        REAL, background=[BACKGROUND], evaluation=[EVALUATION], validation=["Early_Aramaic"], turned=False
    )
    assert found.validation is not None
    assert [len(np.unique(split.labels)) for split in (found.train, found.validation, found.test)] == [64, 22, 156]
    assert "left out of training as they are test alphabets too: Greek, Latin" in found.note
    few_shot.data_set(found)
    assert (
        hashlib.sha256(found.test.images.tobytes()).hexdigest()
        == "da8c683d98d2d097c660a0586650b179527d04f386c9860e667be7edce9f963f"
    )
