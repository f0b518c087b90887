"""The programs under docs/examples/ run as their users run them, on a few batches."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
# Fewer steps than looks: each step up to 35% of the run is followed by one.
TRIAL = ("--epochs", "3", "--batches", "1", "--width", "4")
# An event that took edits.
GROWN = re.compile(r"^event at step \d+: Divide .*; ([\d,]+) -> ([\d,]+) parameters; ", re.M)


def start(name: str, folder: Path, *arguments: object) -> subprocess.Popen:
    """Starts an example in a folder, with its workers in a session of their own."""
    return subprocess.Popen(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


def run(name: str, folder: Path, *arguments: object) -> tuple[str, str]:
    """What an example prints, on both streams."""
    process = start(name, folder, *arguments)
    printed, said = process.communicate()
    assert process.returncode == 0, said
    return printed, said


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per split and class, of noise around a colour."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, num in (("train", 100), ("test", 10)):
        for number in range(3):
            of_class = folder / split / f"class{number}"
            of_class.mkdir(parents=True)
            for index in range(num):
                pixels = random.integers(0, 200, (32, 32, 3))
                pixels[..., number] += 55
                Image.fromarray(pixels.astype(np.uint8)).save(of_class / f"{index}.png")
    return folder


def test_the_plain_loop_grows_and_goes_on_from_its_checkpoint(images: Path, tmp_path: Path) -> None:
    printed, said = run("resnet18_cifar10.py", tmp_path, "--data", images, *TRIAL, "--output", "figures")
    assert not said
    sizes = [[int(size.replace(",", "")) for size in pair] for pair in GROWN.findall(printed)]
    assert len(sizes) == 2 and all(before < after for before, after in sizes)
    assert "| operator | place |" in printed
    assert re.search(rf"^test loss [\d.]+, accuracy [\d.]+%, {sizes[-1][1]:,} parameters$", printed, re.M)
    assert (tmp_path / "figures" / "timeline.svg").read_text(encoding="utf-8").count("<path") > 10

    stopped = start("resnet18_cifar10.py", tmp_path, "--data", images, *TRIAL, "--checkpoint", "state.pt")
    assert stopped.stdout is not None
    lines = iter(stopped.stdout.readline, "")
    assert any(line.startswith("epoch 1:") for line in lines)
    os.killpg(stopped.pid, signal.SIGKILL)
    stopped.communicate()
    again, _ = run("resnet18_cifar10.py", tmp_path, "--data", images, *TRIAL, "--checkpoint", "state.pt")
    assert not again.startswith("event at step 1:") and "epoch 3:" in again
    assert printed.endswith(again)


def test_a_missing_folder_is_told_in_one_line(tmp_path: Path) -> None:
    process = start("resnet18_cifar10.py", tmp_path, "--data", "nowhere")
    printed, said = process.communicate()
    assert process.returncode == 1 and not printed
    assert re.fullmatch(r"nowhere: no images found \(.*\); expected CIFAR-10, which --download fetches, or .*\n", said)


def test_lightning_grows_the_same_network(images: Path, tmp_path: Path) -> None:
    printed, said = run("lightning_cifar10.py", tmp_path, "--data", images, *TRIAL)
    assert len(GROWN.findall(printed)) == 2
    assert re.search(r"\{'val_loss': [\d.]+, 'val_accuracy': [\d.]+\}\n$", printed)
    # Lightning warns of its own dependencies; of nothing here.
    assert not re.findall(r"(?:examples|dnm)/\w+\.py:\d+.*", said)


def test_the_encoder_grows(tmp_path: Path) -> None:
    printed, said = run("text_encoder.py", tmp_path, "--batches", "20")
    assert not said
    assert re.search(r"^step 2, accuracy [\d.]+%: Divide layer\.linear1; ", printed, re.M)
    grown, fixed = (
        int(size.replace(",", "")) for size in re.findall(r"^at the end: .* ([\d,]+) parameters$", printed, re.M)
    )
    assert grown > fixed
    assert "| operator | place |" in printed
