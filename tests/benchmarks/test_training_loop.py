"""The training loop against a bare one, in one run.

The bare loop has the same model, batch, precision and optimizer, and nothing else: its images lie in memory normalised
and are cut by the simplest slices, without order, augmentation, schedule or curves.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stages.settings import Row, load
from stages.tasks import image_classification as task
from stages.training import Epoch, Length, make_optimizer, train

ROOT = Path(__file__).resolve().parents[2]


def make_split(num: int, size: int, padding: int) -> task.Split:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (num, size, size, 3), np.uint8)
    return task.Split.of(images, random.integers(0, 10, num), padding, [127.5] * 3, [73.9] * 3, "cpu")


def make_model(row: Row) -> nn.Sequential:
    return task.network(row.networks.baseline, 3, 10, torch.Generator().manual_seed(0)).train()


def bare(model: nn.Module, optimizer: torch.optim.Optimizer, images, labels, batch_size: int) -> None:
    for start in range(0, len(images), batch_size):
        stop = start + batch_size
        loss = nn.functional.cross_entropy(model(images[start:stop]), labels[start:stop])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def clocks() -> np.ndarray:
    """Seconds of the processor and of the wall's clock.

    On a quiet machine both pass alike, as there is one thread that never waits; other processes disturb the first less.
    """
    return np.array([time.process_time(), time.perf_counter()])


@pytest.mark.benchmark
@pytest.mark.parametrize("scale, size, steps, rounds", [("", 16, 30, 25), ("scales/workstation", 32, 4, 9)])
def test_images_per_second(scale: str, size: int, steps: int, rounds: int, capsys: pytest.CaptureFixture) -> None:
    row = load(ROOT / scale / "params.yaml").image_classification["cifar10"]
    settings = dataclasses.replace(row.training, early_stopping=False)
    num = steps * settings.batch_size
    # Validation is no part of the bare loop's work.
    split, validation = make_split(num, size, settings.crop_padding), make_split(1, size, 0)
    images, labels = split.batch(torch.arange(num))
    images = images.contiguous(memory_format=torch.channels_last)
    model, peer = make_model(row), make_model(row)
    optimizer = make_optimizer(peer, settings)
    times: list[list[np.ndarray]] = []
    started: list[np.ndarray] = []

    def bare_round(epoch: Epoch) -> None:
        """After each epoch of ours one of the bare loop: the two share their moment's load."""
        middle = clocks()
        bare(peer, optimizer, images, labels, settings.batch_size)
        # The first epoch holds what is done once.
        if started:
            times.append([middle - started.pop(), clocks() - middle])
        started.append(clocks())

    train(model, split, validation, settings, seed=0, length=Length(steps=(rounds + 1) * steps), after_epoch=bare_round)
    assert len(times) == rounds
    ours, theirs = np.array(times).transpose(1, 2, 0)
    ratios = [statistics.median(column) for column in theirs / ours]
    said = [
        f"{name}: {num / statistics.median(mine):,.0f} images/s, bare loop {num / statistics.median(other):,.0f}, "
        f"ratio {ratio:.3f}"
        for name, mine, other, ratio in zip(("processor", "wall"), ours, theirs, ratios, strict=True)
    ]
    with capsys.disabled():
        print(f"\n{scale or 'embedded'}, {size}x{size}, batch {settings.batch_size}: " + "; ".join(said))
    assert ratios[0] >= 0.9
