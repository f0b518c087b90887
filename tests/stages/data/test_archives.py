"""Archives of the published sets: every way in which one can be bad is told, by file and row."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stages.data import registry
from tests.stages.data import samples
from tests.stages.data.samples import PUBLISHED, pair, relabelled

TAR = ("cifar10", "cifar100", "stl10")
Bad = Callable[[str, str], None]


@pytest.mark.parametrize("source", PUBLISHED)
def test_another_checksum_is_refused_unopened(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad
) -> None:
    contents = samples.archives(source, *pair(source))
    samples.write_archives(tmp_path / "files", source, contents, monkeypatch)
    path = tmp_path / "files" / next(iter(contents))
    path.write_bytes(b"changed")
    bad(source, f"^{path}: its MD5 is [0-9a-f]{{32}}, expected .*delete the file and")


@pytest.mark.parametrize("source", PUBLISHED)
def test_half_an_archive_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad) -> None:
    contents = samples.archives(source, *pair(source))
    name = next(iter(contents))
    # The checksum is that of the half: what is in it is checked all the same.
    halved = {**contents, name: contents[name][: len(contents[name]) // 2]}
    samples.write_archives(tmp_path / "files", source, halved, monkeypatch)
    bad(source, f"^{tmp_path / 'files' / name}: cannot be unpacked .*download it again")


@pytest.mark.parametrize("source", PUBLISHED)
def test_a_label_out_of_range_is_named(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad) -> None:
    train, test = pair(source)
    high = len(registry.PUBLISHED[source].class_names)
    contents = samples.archives(source, train, relabelled(test, 3, high))
    samples.write_archives(tmp_path / "files", source, contents, monkeypatch)
    place = {
        "cifar10": "cifar-10-batches-bin/test_batch.bin: record 3: label is 10, expected 0 to 9",
        "cifar100": "cifar-100-binary/test.bin: record 3: label is 100, expected 0 to 99",
        "fashion_mnist": "t10k-labels-idx1-ubyte.gz: row 3: label is 10, expected 0 to 9",
        "stl10": "stl10_binary/test_y.bin: row 3: label is 11, expected 1 to 10",
    }
    bad(source, f"{place[source]}; this is not {registry.PUBLISHED[source].name}")


def test_a_label_below_the_first_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad) -> None:
    train, test = pair("stl10")
    samples.write_archives(
        tmp_path / "files", "stl10", samples.archives("stl10", relabelled(train, 2, -1), test), monkeypatch
    )
    bad("stl10", "train_y.bin: row 2: label is 0, expected 1 to 10")


@pytest.mark.parametrize("source", TAR)
@pytest.mark.parametrize("change", [None, b"", b"\0" * 3001])
def test_a_damaged_file_of_an_archive_is_named(
    source: str, change: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad
) -> None:
    found = samples.members(source, *pair(source))
    name = list(found)[-2]
    if change is None:
        del found[name]
    else:
        found[name] = change
    archive = registry.PUBLISHED[source].archives[0].name
    samples.write_archives(tmp_path / "files", source, {archive: samples.tar(found)}, monkeypatch)
    size = len(change or b"")
    expected = f"{archive}: {name} is not in it" if change is None else f"{archive}: {name}: {size} bytes, expected"
    bad(source, expected)


@pytest.mark.parametrize("source", TAR)
@pytest.mark.parametrize("name", ["../../outside", "a/../../outside", "/outside", "..\\outside"])
def test_an_archive_that_would_write_elsewhere_is_refused(
    source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad
) -> None:
    archive = registry.PUBLISHED[source].archives[0].name
    content = samples.tar({**samples.members(source, *pair(source)), name: b"x"})
    samples.write_archives(tmp_path / "files", source, {archive: content}, monkeypatch)
    bad(source, f"{archive}: holds '.*outside', expected names inside the arch")


IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
NUMBERS = np.where(np.arange(6)[:, None, None] == 2, np.nan, np.ones((6, 28, 28))).astype(np.float32)


SHORT = gzip.compress(gzip.decompress(samples.idx(np.ones(6, np.uint8)))[:-2])
BAD_IDX = {
    "empty": (IMAGES, gzip.compress(b""), "starts with nothing, expected an idx file"),
    "another kind": (IMAGES, gzip.compress(b"\x89PNG"), "starts with 89 50 4e 47, expected an idx file"),
    "half a header": (IMAGES, gzip.compress(b"\0\0\x08\x03\0"), "starts with 00 00 08 03, expected an idx file"),
    "not a number": (
        IMAGES,
        samples.idx(NUMBERS, 0x0D),
        r"float32 of shape \(6, 28, 28\), with NaN from row 2",
    ),
    "another size": (
        IMAGES,
        samples.idx(np.ones((6, 28, 20), np.uint8)),
        r"shape \(6, 28, 20\), expected num x 28 x 28",
    ),
    "no rows": (IMAGES, samples.idx(np.ones((0, 28, 28), np.uint8)), r"shape \(0, 28, 28\), expected num x 28 x 28"),
    "too few labels": (LABELS, samples.idx(np.ones(5, np.uint8)), "5 labels, expected 6, one for each image of t10k"),
    "broken off": (LABELS, SHORT, r"4 bytes of values, expected 6 for the shape \(6,\) that it states; it breaks off"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_IDX.values(), ids=BAD_IDX.keys())
def test_bad_idx_files_are_named(
    name: str, content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad
) -> None:
    contents = {**samples.archives("fashion_mnist", *pair("fashion_mnist")), name: content}
    samples.write_archives(tmp_path / "files", "fashion_mnist", contents, monkeypatch)
    bad("fashion_mnist", f"^{tmp_path / 'files' / name}: {message}")
