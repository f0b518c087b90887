"""Transfer of a trained network to other data: a linear probe on its features, and fine-tuning.

Other data are given the channels and the size of the images that the network was trained on (`matched`) and are
normalised with the statistics of those, because that is what its layers expect.

References:
    Kornblith, Shlens, Le: Do Better ImageNet Models Transfer Better? 2019, arXiv:1805.08974. (Both protocols; the
        probe there is fitted again on training and validation data together, here it sees training data alone, as
        fine-tuning does.)
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from stages.settings import Training
from stages.tasks import image_classification as task
from stages.training import Length, Run, train

# scikit-learn's C: the weight of the summed loss beside half the squared norm of the weights.
CANDIDATES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
ITERATIONS = 1000
# ITU-R BT.601, in thousandths.
_LUMA = np.array([299, 587, 114])


@dataclass(frozen=True)
class Features:
    """What a network makes of a split.

    Attributes:
        values: float64, `num x features`.
        labels: int64, `num`.
    """

    values: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Probe:
    """A linear classifier on features.

    Attributes:
        inverse_regularization: the chosen C.
        validation_accuracy: fraction.
        test_accuracy: fraction.
        converged: whether the chosen fit's optimizer did, in `ITERATIONS`.
    """

    inverse_regularization: float
    validation_accuracy: float
    test_accuracy: float
    converged: bool


def matched(images: np.ndarray, channels: int, size: int) -> np.ndarray:
    """Images as a network expects them.

    Grey becomes colour by repetition, colour becomes grey by its luma (ITU-R BT.601); other sizes are resized
    (bilinear, with antialiasing). Images that fit already are returned as they are.

    Args:
        images: uint8, `num x height x width x channels`, 1 or 3 channels.
        channels: wanted, 1 or 3.
        size: wanted height and width, pixels.

    Returns:
        uint8, `num x size x size x channels`.

    Raises:
        ValueError: the images are of another kind, or other channels are wanted.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"images are {images.dtype} of shape {images.shape}, expected uint8 of shape num x height x width x "
            "channels with 1 or 3 channels; convert them before"
        )
    if channels not in (1, 3):
        raise ValueError(f"images with {channels} channels are wanted, expected 1 or 3")
    if images.shape[3] > channels:
        images = ((images @ _LUMA + 500) // 1000).astype(np.uint8)[..., None]
    if images.shape[1:3] != (size, size):
        maps = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        resized = nn.functional.interpolate(maps, size=(size, size), mode="bilinear", antialias=True)
        images = resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return images if images.shape[3] == channels else images.repeat(channels, axis=3)


@torch.no_grad()
def features(model: nn.Module, split: task.Split, batch_size: int = 500) -> Features:
    """The inputs of a network's last layer: activations pooled over the image, in eval mode.

    Branches behind the last layer, which growth may have put there, are part of it.

    Args:
        model: a network of `stages.tasks.image_classification.network`, grown or not; it is left as it is.
        split: the images, as they are; no crops or flips.
        batch_size: images at a time.

    Raises:
        TypeError: the model is not a sequence that ends with a linear layer.
        ValueError: the split's images do not fit the network.
    """
    body = copy.deepcopy(_checked(model, split)).eval()[:-1]
    rows = torch.arange(len(split), device=split.labels.device).split(batch_size)
    values = torch.cat([body(split.batch(some)[0]).float() for some in rows])
    return Features(values.cpu().double().numpy(), split.labels.cpu().numpy())


def linear_probe(train: Features, validation: Features, test: Features) -> Probe:
    """Multinomial logistic regression with an L2 penalty (scikit-learn's) on features.

    Features are standardised with the training features' mean and deviation. C is the one of `CANDIDATES` with the
    highest validation accuracy, of equals the smallest; only its fit looks at the test features, once.

    Args:
        train: what is fitted.
        validation: what C is chosen on.
        test: what is scored.

    Raises:
        ValueError: features or labels are not such as can be fitted or scored together.
    """
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        _check_features(name, part, train)
    scaler = StandardScaler().fit(train.values)
    values = scaler.transform(train.values)
    best: tuple[LogisticRegression, float, bool] | None = None
    for candidate in CANDIDATES:
        regression = LogisticRegression(C=candidate, max_iter=ITERATIONS)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            regression.fit(values, train.labels)
        found = float(regression.score(scaler.transform(validation.values), validation.labels))
        if best is None or found > best[1]:
            best = regression, found, not any(issubclass(each.category, ConvergenceWarning) for each in caught)
    assert best is not None
    regression, validation_accuracy, converged = best
    return Probe(
        inverse_regularization=regression.C,
        validation_accuracy=validation_accuracy,
        test_accuracy=float(regression.score(scaler.transform(test.values), test.labels)),
        converged=converged,
    )


def fine_tune(
    model: nn.Module,
    train_split: task.Split,
    validation_split: task.Split,
    settings: Training,
    *,
    classes: int,
    generator: torch.Generator,
    seed: int,
    length: Length,
    precision: str = "float32",
    checkpoint: Path | None = None,
) -> tuple[nn.Sequential, Run]:
    """Trains a copy of a network with a new last layer, all of its weights, through the one training loop.

    The new layer stands in the place of the old one and of the branches behind it.

    Args:
        model: a network of `stages.tasks.image_classification.network`, grown or not; it is left as it is.
        train_split: what the copy is trained on.
        validation_split: scored after every epoch.
        settings: the protocol.
        classes: outputs of the new layer.
        generator: of the CPU; source of the new layer's weights, drawn as `network` does.
        seed: as for `stages.training.train`.
        length: as for `stages.training.train`.
        precision: as for `stages.training.train`.
        checkpoint: as for `stages.training.train`.

    Returns:
        The trained copy, and its curves and cost.

    Raises:
        TypeError: the model is not a sequence that ends with a linear layer.
        ValueError: images or labels do not fit, or there are fewer training images than a batch takes.
        FloatingPointError: as `stages.training.train`.
    """
    for name, split in (("train", train_split), ("validation", validation_split)):
        _checked(model, split)
        most = int(split.labels.max())
        if most >= classes:
            raise ValueError(f"{name}: a label is {most}, expected 0 to {classes - 1} for {classes} classes")
    if len(train_split) < settings.batch_size:
        raise ValueError(
            f"batch_size is {settings.batch_size}, expected at most the {len(train_split)} training images; lower it"
        )
    tuned = copy.deepcopy(_checked(model, train_split))
    # Without torch's own initialization, which would draw from the global generator.
    head = nn.utils.skip_init(nn.Linear, _last(tuned).in_features, classes)
    assert isinstance(head, nn.Linear)
    nn.init.normal_(head.weight, std=head.in_features**-0.5, generator=generator)
    nn.init.zeros_(head.bias)
    tuned[-1] = head.to(train_split.images.device)
    run = train(
        tuned,
        train_split,
        validation_split,
        settings,
        seed=seed,
        length=length,
        precision=precision,
        checkpoint=checkpoint,
    )
    return tuned, run


def _last(model: nn.Module) -> nn.Linear:
    """The layer that a network is cut before."""
    last: object = model[-1] if isinstance(model, nn.Sequential) and len(model) else None
    # A branch that growth put behind it wraps it, and goes with it.
    while hasattr(last, "layer"):
        last = getattr(last, "layer")  # noqa: B009
    if not isinstance(last, nn.Linear):
        found = type(model).__name__ + ("" if last is None else f" that ends with {type(last).__name__}")
        raise TypeError(
            f"the model is a {found}, expected a Sequential that ends with Linear, "
            "as stages.tasks.image_classification.network makes it"
        )
    return last


def _checked(model: nn.Module, split: task.Split) -> nn.Sequential:
    """The model, if it can be cut before its last layer and run on the split's images."""
    _last(model)
    assert isinstance(model, nn.Sequential)
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    height, width = (extent - 2 * split.padding for extent in split.images.shape[1:3])
    channels = split.images.shape[3]
    if first is not None and first.in_channels != channels:
        raise ValueError(
            f"the images have {channels} channels, the network takes {first.in_channels}; convert them with matched()"
        )
    least = 2 ** sum(isinstance(layer, nn.MaxPool2d) for layer in model.modules())
    if min(height, width) < least:
        raise ValueError(
            f"the images are {height} x {width} pixels, the network's pooling takes at least {least} x {least}; "
            "resize them with matched()"
        )
    return model


def _check_features(name: str, part: Features, train: Features) -> None:
    values, labels = part.values, part.labels
    if values.ndim != 2 or labels.shape != values.shape[:1] or not len(labels):
        raise ValueError(
            f"{name}: features are of shape {values.shape} and labels of shape {labels.shape}, expected "
            "num x features and num, at least one"
        )
    if values.shape[1] != train.values.shape[1]:
        raise ValueError(f"{name}: {values.shape[1]} features, expected the {train.values.shape[1]} of train")
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: a feature is not finite, expected numbers; the network's training diverged")
    if part is train and len(np.unique(labels)) < 2:
        raise ValueError(f"train: all {len(labels)} labels are {labels[0]}, expected at least two classes")
