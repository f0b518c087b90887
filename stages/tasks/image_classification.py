"""Classification of small images by convolutional networks, with all data in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

Widths = tuple[tuple[int, ...], ...]


def network(widths: Widths, channels: int, classes: int, generator: torch.Generator) -> nn.Sequential:
    """A plain convolutional network: blocks of 3x3 convolution, batch norm and ReLU, joined by 2x2 max pooling.

    Args:
        widths: per block, the output channels of its convolutions.
        channels: channels of the images.
        classes: number of outputs.
        generator: source of the initial weights (He et al. 2015, arXiv:1502.01852, for the convolutions).

    Returns:
        The network, in channels-last memory format.
    """
    layers: list[nn.Module] = []
    inputs = channels
    for number, block in enumerate(widths):
        if number:
            layers.append(nn.MaxPool2d(2))
        for width in block:
            layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    model = nn.Sequential(*layers)
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=inputs**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
    return model.to(memory_format=torch.channels_last)


def widths_of(model: nn.Sequential) -> Widths:
    """The widths from which `network` builds this architecture, but for branches that growth put in."""
    blocks: list[list[int]] = [[]]
    for child in model:
        layer: object = child
        # A branch wraps the layer that it stands behind.
        while hasattr(layer, "layer"):
            layer = getattr(layer, "layer")  # noqa: B009
        if isinstance(layer, nn.MaxPool2d):
            blocks.append([])
        elif isinstance(layer, nn.Conv2d):
            blocks[-1].append(layer.out_channels)
    return tuple(tuple(block) for block in blocks)


@dataclass(frozen=True)
class Split:
    """Images in memory, ready to be cut into batches.

    Attributes:
        images: uint8, `num x (height + 2 padding) x (width + 2 padding) x channels`, zero-padded.
        labels: int64, `num`.
        padding: pixels on each side.
        mean: float32, `channels`; of the training images, in units of the pixels.
        deviation: float32, `channels`.
    """

    images: Tensor
    labels: Tensor
    padding: int
    mean: Tensor
    deviation: Tensor

    @staticmethod
    def of(images: np.ndarray, labels: np.ndarray, padding: int, mean, deviation, device: str) -> Split:
        """Puts images (uint8, `num x height x width x channels`) and labels on a device."""
        padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        place = torch.device(device)
        scale = [torch.tensor(values, dtype=torch.float32, device=place) for values in (mean, deviation)]
        return Split(
            torch.from_numpy(padded).to(place), torch.from_numpy(labels.astype(np.int64)).to(place), padding, *scale
        )

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self, rows: Tensor, generator: torch.Generator | None = None, flip: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The samples at `rows`, normalised.

        Args:
            rows: int64, `num`.
            generator: source of random crops and flips; without one the images are taken as they are.
            flip: whether half of the images are mirrored, where there is a generator.

        Returns:
            Images, float32, `num x channels x height x width` in channels-last memory format, and labels, `num`.
        """
        device = self.images.device
        num, size = len(rows), self.images.shape[1] - 2 * self.padding
        across = self.images.shape[2] - 2 * self.padding
        if generator is None:
            images = self.images[rows, self.padding : self.padding + size, self.padding : self.padding + across]
        elif self.padding == 0 and not flip:
            images = self.images[rows]
        else:
            top, left = torch.randint(2 * self.padding + 1, (2, num, 1), generator=generator).to(device).unbind()
            down = top + torch.arange(size, device=device)
            right = left + torch.arange(across, device=device)
            if flip:
                mirrored = torch.rand(num, 1, generator=generator).to(device) < 0.5
                right = torch.where(mirrored, right.flip(1), right)
            images = self.images[rows[:, None, None], down[:, :, None], right[:, None, :]]
        values = images.float().sub_(self.mean).div_(self.deviation)
        return values.permute(0, 3, 1, 2), self.labels[rows]

    def epoch(
        self, batch_size: int, order: torch.Generator, augmentation: torch.Generator, flip: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in random order, in whole batches; what is left over is dropped."""
        permutation = torch.randperm(len(self), generator=order).to(self.images.device)
        for start in range(0, len(self) - batch_size + 1, batch_size):
            yield self.batch(permutation[start : start + batch_size], augmentation, flip)


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of `num x classes` logits, in nats."""
    return nn.functional.cross_entropy(outputs.float(), labels)


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, batch_size: int = 500) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (fraction) over a split, in eval mode; the mode is put back."""
    training = model.training
    model.eval()
    total, correct = 0.0, 0
    for start in range(0, len(split), batch_size):
        rows = torch.arange(start, min(start + batch_size, len(split)), device=split.labels.device)
        images, labels = split.batch(rows)
        outputs = model(images).float()
        total += nn.functional.cross_entropy(outputs, labels, reduction="sum").item()
        correct += int((outputs.argmax(1) == labels).sum())
    model.train(training)
    return total / len(split), correct / len(split)
