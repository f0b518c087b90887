"""CIFAR-10, CIFAR-100, Fashion-MNIST and STL-10: every format of each, and every way in which a file can be bad."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import cli, outputs, prepare
from stages.data import parquet, pictures, registry, splits
from stages.data.settings import Data
from tests.stages.data import samples
from tests.stages.data.samples import PUBLISHED, encode, pair, settings

TAR = ("cifar10", "cifar100", "stl10")
Refused = Callable[[Data, str], None]
CIFAR10 = Path(os.environ.get("DNM_CIFAR10") or Path(__file__).parents[3].parent / "shared" / "data" / "cifar10")


def read(source: str, folder: Path) -> registry.Reading:
    return registry.READERS[source](settings(source, folder), folder)


def assert_equal(found: splits.Images, expected: splits.Images) -> None:
    assert np.array_equal(found.images, expected.images)
    assert np.array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("source", PUBLISHED)
def test_png_files_in_parquet_keep_every_pixel(source: str, tmp_path: Path) -> None:
    train, test = samples.write_parquets(tmp_path, source)
    found = read(source, tmp_path)
    assert_equal(found.train, train)
    assert_equal(found.test, test)
    assert (found.source, found.note) == (registry.PUBLISHED[source].name, "lossless")
    assert found.train.place(7) == f"{tmp_path / 'train.parquet'}: row 7"


@pytest.mark.parametrize("source", PUBLISHED)
def test_archives_keep_every_pixel(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = pair(source)
    samples.write_archives(tmp_path, source, samples.archives(source, train, test), monkeypatch)
    before = samples.tree(tmp_path)
    found = read(source, tmp_path)
    if source == "cifar10":
        order = [row for batch in range(5) for row in range(batch, len(train), 5)]
        train = replace(train, images=train.images[order], labels=train.labels[order])
        assert found.train.place(11).endswith("data_batch_5.bin: record 1")
    assert_equal(found.train, train)
    assert_equal(found.test, test)
    assert found.note == "lossless"
    assert samples.tree(tmp_path) == before


def test_stl10_stands_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The files hold columns; an image whose left half is white must come out so.
    train, test = pair("stl10")
    train.images[0], train.images[0, :, :48] = 0, 255
    contents = samples.members("stl10", train, test)
    assert set(contents["stl10_binary/train_X.bin"][: 48 * 96]) == {255}
    samples.write_archives(tmp_path, "stl10", {"stl10_binary.tar.gz": samples.tar(contents)}, monkeypatch)
    assert read("stl10", tmp_path).train.images[0, :, :48].min() == 255


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    train, _ = pair("cifar10")
    for number in range(3):
        chosen = np.arange(len(train)) // 4 == number
        samples.write_split(tmp_path, "cifar10", f"train-{number:05}-of-00003", train.take(chosen))
    samples.write_split(tmp_path, "cifar10", "test-00000-of-00001", pair("cifar10")[1])
    found = read("cifar10", tmp_path)
    assert_equal(found.train, train)
    assert found.train.place(5) == f"{tmp_path / 'train-00001-of-00003.parquet'}: row 1"


@pytest.mark.parametrize(("column", "label"), [("image", "labels"), ("img", "label")])
def test_other_names_of_the_columns(column: str, label: str, tmp_path: Path) -> None:
    for split, found in zip(("train", "test"), pair("cifar100"), strict=True):
        files = [encode(one) for one in found.images]
        samples.write_parquet(tmp_path / f"{split}.parquet", files, {label: found.labels.tolist()}, column)
    assert_equal(read("cifar100", tmp_path).train, pair("cifar100")[0])


@pytest.mark.parametrize(("quality", "note"), [(75, "JPEG q75"), (90, "JPEG")])
def test_jpeg_files_are_said_to_be_such(quality: int, note: str, tmp_path: Path) -> None:
    for split, found in zip(("train", "test"), pair("cifar10"), strict=True):
        samples.write_split(tmp_path, "cifar10", split, found, "JPEG", quality=quality)
    found = read("cifar10", tmp_path)
    file = encode(pair("cifar10")[0].images[3], "JPEG", quality=quality)
    assert np.array_equal(found.train.images[3], np.asarray(Image.open(io.BytesIO(file))))
    assert (found.source, found.note) == (f"CIFAR-10 ({note})", note)


def test_mixed_encodings_are_all_named(tmp_path: Path) -> None:
    samples.write_parquets(tmp_path, "cifar10")
    samples.write_split(tmp_path, "cifar10", "test", pair("cifar10")[1], "JPEG", quality=75)
    assert read("cifar10", tmp_path).note == "JPEG q75 and lossless"


@pytest.mark.parametrize("source", PUBLISHED)
def test_the_card(source: str, tmp_path: Path, context: Callable[[Data], cli.Context]) -> None:
    data = registry.PUBLISHED[source]
    samples.write_parquets(tmp_path / "files", source)
    where = context(settings(source, tmp_path / "files"))
    prepare.main(where)
    card = outputs.read_json(where.metrics / "prepare" / "row.json")
    assert (card["source"], card["licence"], card["note"]) == (data.name, data.licence, "lossless")
    assert card["classes"] == list(data.class_names)
    assert (card["image_size"], card["channels"]) == ([data.size, data.size], data.channels)
    assert [card["samples"][name]["total"] for name in ("train", "validation", "test")] == [9, 3, 6]
    assert sum(card["samples"]["test"]["per_class"]) == 6
    assert len(card["sha256"]) == 64
    assert_equal(splits.load(where.data).test, pair(source)[1])


@pytest.mark.parametrize("source", PUBLISHED)
def test_the_environment_overrides_the_folder(
    source: str, tmp_path: Path, context: Callable[[Data], cli.Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples.write_parquets(tmp_path / "elsewhere", source)
    monkeypatch.setenv(f"DNM_{source.upper()}", str(tmp_path / "elsewhere"))
    prepare.main(context(settings(source, tmp_path / "nowhere")))
    assert (tmp_path / "data" / "prepared" / "tiny" / "row.safetensors").exists()


def test_the_quality_of_jpeg_files_is_read_off_them() -> None:
    pixels = pair("cifar10")[0].images[0]
    notes = [pictures.decode("x", encode(pixels, "JPEG", quality=q), 32, 3, "x")[1] for q in (74, 75, 76)]
    assert notes == ["JPEG", "JPEG q75", "JPEG"]


@pytest.mark.parametrize("source", PUBLISHED)
@pytest.mark.parametrize("form", ["parquet", "archive"])
def test_test_images_among_the_training_images_are_refused(
    source: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    train, test = pair(source)
    test.images[2:] = train.images[2:6]
    folder = tmp_path / "files"
    if form == "parquet":
        samples.write_split(folder, source, "train", train)
        samples.write_split(folder, source, "test", test)
        place = "test.parquet: row 2"
    else:
        samples.write_archives(folder, source, samples.archives(source, train, test), monkeypatch)
        place = "test_batch.bin: record 2|test.bin: record 2|t10k-images-idx3-ubyte.gz: row 2|test_X.bin: row 2"
    name = registry.PUBLISHED[source].name
    first = rf".*({place}) .test., equal to {folder}/.*: (row|record) \d+ .(train|validation).; a score"
    message = "4 test images stand in an earlier split too, expected none; the first is"
    refused(settings(source, folder), f"^{name}: {message} {first}")


@pytest.mark.skipif(
    not (CIFAR10 / "train.parquet").is_file(), reason="real CIFAR-10 absent: set DNM_CIFAR10 to its folder"
)
def test_real_data() -> None:
    for split in ("train", "test"):
        found, notes = parquet.read(CIFAR10, split, registry.PUBLISHED["cifar10"], max_rows=1000)
        assert found.images.shape == (1000, 32, 32, 3)
        assert np.bincount(found.labels, minlength=10).min() > 50
        assert notes <= {"lossless", "JPEG q75", "JPEG"}
