"""PneumoniaMNIST: its npz file with three splits, and every way in which it can be bad."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import cli, outputs, prepare
from stages.data import splits
from stages.data.settings import Data
from tests.stages.data import samples
from tests.stages.data.samples import npz_arrays, settings, write_npz

SOURCE = "pneumonia_mnist"
REAL = Path(os.environ.get("DNM_PNEUMONIA_MNIST") or Path(__file__).parents[3].parent / "shared" / "data" / "medmnist")


@pytest.mark.parametrize("named", ["folder", "file"])
def test_its_own_validation_split_is_used(
    named: str, tmp_path: Path, context: Callable[[Data], cli.Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = npz_arrays()
    path = write_npz(tmp_path / "files", arrays)
    samples.expect(SOURCE, {path.name: path.read_bytes()}, monkeypatch)
    where = context(settings(SOURCE, path if named == "file" else path.parent))
    prepare.main(where)
    found = splits.load(where.data)
    for name, split in (("train", found.train), ("val", found.validation), ("test", found.test)):
        assert np.array_equal(split.images[..., 0], arrays[f"{name}_images"])
        assert split.labels.tolist() == arrays[f"{name}_labels"][:, 0].tolist()
    card = outputs.read_json(where.metrics / "prepare" / "row.json")
    assert (card["source"], card["licence"], card["note"]) == ("PneumoniaMNIST", "CC BY 4.0", "")
    assert (card["classes"], card["channels"]) == (["normal", "pneumonia"], 1)


def test_a_sound_file_that_is_not_the_published_one_is_called_so(
    tmp_path: Path, context: Callable[[Data], cli.Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNM_PNEUMONIA_MNIST", str(write_npz(tmp_path / "files", npz_arrays())))
    where = context(settings(SOURCE, tmp_path / "nowhere"))
    prepare.main(where)
    card = outputs.read_json(where.metrics / "prepare" / "row.json")
    assert card["source"] == "PneumoniaMNIST (other than published)"
    assert card["note"] == "the file is not the published one: its checksum is another"


def with_nan(array: np.ndarray, row: int) -> np.ndarray:
    array = array.astype(np.float32)
    array[row] = np.nan
    return array


def changed(array: np.ndarray, row: int, value: int) -> np.ndarray:
    array = array.copy()
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("val_labels", None, "no array val_labels, found train_images, train_labels, val_images, test_images, test_la"),
        (
            "test_images",
            lambda a: a[:, :20],
            r"test_images: shape \(6, 20, 28\), expected num x 28 x 28; this is not Pn",
        ),
        ("test_images", lambda a: a[:0], r"test_images: shape \(0, 28, 28\), expected num x 28 x 28"),
        (
            "test_images",
            lambda a: with_nan(a, 5),
            r"test_images: float32 of shape .*, with NaN from row 5 on, expected ui",
        ),
        ("test_images", lambda a: a.astype(np.int64), r"test_images: int64 of shape .* expected uint8, num x 28 x 28"),
        ("test_labels", lambda a: changed(a, 4, 2), "test_labels: row 4: label is 2, expected 0 to 1"),
        (
            "test_labels",
            lambda a: changed(a.astype(np.int8), 4, -1),
            "test_labels: row 4: label is -1, expected 0 to 1",
        ),
        ("test_labels", lambda a: with_nan(a, 3), "test_labels: row 3: label is nan, expected 0 to 1"),
        ("test_labels", lambda a: a.astype(np.float32), "test_labels: float32, expected whole numbers"),
        ("test_labels", lambda a: a[:5], r"test_labels: shape \(5, 1\), expected 6 x 1, one for each image"),
        ("test_labels", lambda a: a.astype(object), "cannot be read as npz .*allow_pickle=False"),
    ],
)
def test_bad_arrays_are_named(
    name: str, change: Callable[[np.ndarray], Any] | None, message: str, tmp_path: Path,
    refused: Callable[[Data, str], None],
) -> None:  # fmt: skip
    arrays = npz_arrays()
    array = arrays.pop(name)
    if change:
        arrays[name] = change(array)
    path = write_npz(tmp_path / "files", arrays)
    refused(settings(SOURCE, path.parent), f"^{path}: {message}")


@pytest.mark.parametrize("content", [b"", b"no zip", "half", "a hole"])
def test_damaged_files_are_named(content: bytes | str, tmp_path: Path, refused: Callable[[Data, str], None]) -> None:
    path = write_npz(tmp_path / "files", npz_arrays())
    good = path.read_bytes()
    damaged = {"half": good[: len(good) // 2], "a hole": good[:500] + bytes(200) + good[700:]}
    path.write_bytes(damaged[content] if isinstance(content, str) else content)
    refused(settings(SOURCE, path.parent), f"^{path}: cannot be read as npz .*copy it again")


def test_an_archive_that_would_write_elsewhere_is_refused(tmp_path: Path, refused: Callable[[Data, str], None]) -> None:
    path = write_npz(tmp_path / "files", npz_arrays())
    samples.add_to_zip(path, "../outside.npy")
    refused(settings(SOURCE, path), f"^{path}: holds '../outside.npy', expected names inside the archive")


def test_a_missing_file_is_named(tmp_path: Path, refused: Callable[[Data, str], None]) -> None:
    refused(settings(SOURCE, tmp_path / "my.npz"), r"my.npz: cannot be read \(No such file or directory\)")


def test_test_images_among_the_training_images_are_refused(
    tmp_path: Path, refused: Callable[[Data, str], None]
) -> None:
    arrays = npz_arrays()
    arrays["test_images"][4] = arrays["val_images"][1]
    path = write_npz(tmp_path / "files", arrays)
    message = (
        "1 test images stand in an earlier split too, expected none; the first is .*npz: test_images: row 4 .test., eq"
    )
    refused(settings(SOURCE, path), f"{message}ual to {path}: val_images: row 1 .validation.")


@pytest.mark.skipif(
    not REAL.exists(), reason="real PneumoniaMNIST absent: set DNM_PNEUMONIA_MNIST to its file or folder"
)
def test_real_data(tmp_path: Path, context: Callable[[Data], cli.Context]) -> None:
    where = context(settings(SOURCE, REAL))
    prepare.main(where)
    card = outputs.read_json(where.metrics / "prepare" / "row.json")
    assert (card["image_size"], card["classes"]) == ([28, 28], ["normal", "pneumonia"])
    assert min(card["samples"]["test"]["per_class"]) > 100
