"""Perturbations of images and the accuracy that a network keeps under them: what the robustness table measures.

Images are `num x channels x height x width`, float32, on the pixel scale [0, 1], and stay there; they are not rounded
to 8 bits again. Each perturbation has one strength, at least zero; zero changes no bit:

    gaussian_noise  standard deviation of what is added to each pixel
    brightness      an image is multiplied by 1 + strength or divided by it, with equal odds
    rotation        degrees, to the left or to the right with equal odds
    fgsm, pgd       radius of the L-infinity ball around the image

Draws are made image by image, so they do not depend on the batch size, and the same seed gives every strength the same
draws.

References:
    Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples. 2015, arXiv:1412.6572. (FGSM.)
    Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial Attacks. 2018,
        arXiv:1706.06083. (PGD.)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.tasks import image_classification as task

Classifier = Callable[[Tensor], Tensor]

PGD_STEPS = 20
# Radii that all steps together go: more than from any point of the ball to any other (Madry et al. 2018).
PGD_REACH = 2.5

# Where a search ends: nothing is left of most images, and half a turn is the largest one.
LARGEST = {"gaussian_noise": 2.0, "brightness": 255.0, "rotation": 180.0, "fgsm": 1.0, "pgd": 1.0}

POINT = 0.01
_DOUBLINGS = 12
_HALVINGS = 24


def gaussian_noise(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Adds white noise of standard deviation `strength` and clips, as torchvision's `gaussian_noise` does."""
    noise = _each(pixels, lambda shape: torch.randn(shape, generator=generator))
    return (pixels + strength * noise).clamp_(0, 1)


def brightness(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Multiplies images by 1 + `strength` or by its inverse (torchvision's `adjust_brightness`), and clips."""
    from torchvision.transforms.v2 import functional

    brighter, darker = (functional.adjust_brightness(pixels, factor) for factor in (1 + strength, 1 / (1 + strength)))
    return _one_of(brighter, darker, generator)


def rotation(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Rotates images about their centre by plus or minus `strength` degrees, bilinear, with black around them."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    left, right = (
        functional.rotate(pixels, angle, InterpolationMode.BILINEAR).clamp_(0, 1) for angle in (strength, -strength)
    )
    return _one_of(left, right, generator)


def fgsm(classify: Classifier, pixels: Tensor, labels: Tensor, strength: float) -> Tensor:
    """One step of `strength` along the sign of the loss's gradient, clipped (Goodfellow et al. 2015, section 4)."""
    return (pixels + strength * _loss_gradient(classify, pixels, labels).sign()).clamp_(0, 1)


@torch.no_grad()
def pgd(classify: Classifier, pixels: Tensor, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Projected gradient ascent from a random point of the ball (Madry et al. 2018, section 2.1), and FGSM beside it.

    20 steps of 2.5 `strength` / 20 along the gradient's sign, each projected to the ball and to [0, 1]. FGSM's point
    counts as one more restart: where it is misclassified and the end of the ascent is not, it is the result. So on the
    same batch PGD leaves no image correct that FGSM does not.
    """
    low, high = (pixels - strength).clamp_(min=0), (pixels + strength).clamp_(max=1)
    start = _each(pixels, lambda shape: torch.rand(shape, generator=generator))
    attacked = (pixels + strength * (2 * start - 1)).clamp(low, high)
    for _ in range(PGD_STEPS):
        step = PGD_REACH * strength / PGD_STEPS * _loss_gradient(classify, attacked, labels).sign()
        attacked = (attacked + step).clamp(low, high)
    single = fgsm(classify, pixels, labels, strength)
    better = (classify(single).argmax(1) != labels) & (classify(attacked).argmax(1) == labels)
    return torch.where(better[:, None, None, None], single, attacked)


def perturb(
    perturbation: str,
    classify: Classifier,
    pixels: Tensor,
    labels: Tensor,
    strength: float,
    generator: torch.Generator,
) -> Tensor:
    """Perturbs images.

    Args:
        perturbation: one of `LARGEST`.
        classify: computes `num x classes` logits from pixels; what an attack is made against.
        pixels: `num x channels x height x width` in [0, 1].
        labels: int64, `num`.
        strength: at least zero; its meaning stands at the head of this module.
        generator: of the CPU; source of noise, directions and starting points.

    Returns:
        New images of the same shape, in [0, 1].

    Raises:
        ValueError: the perturbation is unknown, or the strength is negative or not finite.
    """
    if perturbation not in LARGEST:
        raise ValueError(f"perturbation is {perturbation!r}, expected one of {', '.join(LARGEST)}")
    if not (math.isfinite(strength) and strength >= 0):
        raise ValueError(f"{perturbation}: strength is {strength}, expected a finite number of at least 0")
    if perturbation == "fgsm":
        return fgsm(classify, pixels, labels, strength)
    if perturbation == "pgd":
        return pgd(classify, pixels, labels, strength, generator)
    change = {"gaussian_noise": gaussian_noise, "brightness": brightness, "rotation": rotation}[perturbation]
    return change(pixels, strength, generator)


def pixels_of(split: task.Split, rows: Tensor) -> Tensor:
    """The images at `rows` without padding: float32, `num x channels x height x width` in [0, 1]."""
    height, width = (extent - split.padding for extent in split.images.shape[1:3])
    images = split.images[rows, split.padding : height, split.padding : width]
    return images.float().div_(255).permute(0, 3, 1, 2)


def on_pixels(model: nn.Module, split: task.Split) -> Classifier:
    """`model` as a function of pixels in [0, 1], which are normalised as the split's batches are."""
    mean, deviation = split.mean[:, None, None], split.deviation[:, None, None]

    def classify(pixels: Tensor) -> Tensor:
        # In float32 (k / 255) * 255 is k for every 8-bit k, so that untouched pixels give the bits of `Split.batch`.
        images = pixels.mul(255).sub(mean).div(deviation)
        return model(images.contiguous(memory_format=torch.channels_last)).float()

    return classify


@torch.no_grad()
def accuracy(
    model: nn.Module, split: task.Split, perturbation: str, strength: float, *, seed: int, batch_size: int = 500
) -> float:
    """The accuracy of a network on perturbed images.

    Args:
        model: the network; a copy of it in eval mode is what runs.
        split: the images.
        perturbation: as for `perturb`.
        strength: as for `perturb`.
        seed: of the perturbation's draws.
        batch_size: images at a time. Natural perturbations are the same for any; an attack follows the signs of
            gradients, whose rounding may depend on it.

    Returns:
        The fraction of the images that is classified correctly.

    Raises:
        ValueError: as `perturb`.
    """
    classify = on_pixels(copy.deepcopy(model).eval(), split)
    generator = torch.Generator().manual_seed(seed)
    correct = 0
    for rows in torch.arange(len(split), device=split.labels.device).split(batch_size):
        labels = split.labels[rows]
        images = perturb(perturbation, classify, pixels_of(split, rows), labels, strength, generator)
        correct += int((classify(images).argmax(1) == labels).sum())
    return correct / len(split)


def curve(
    model: nn.Module,
    split: task.Split,
    perturbation: str,
    strengths: Sequence[float],
    *,
    seed: int,
    batch_size: int = 500,
) -> list[float]:
    """`accuracy` at each of the strengths, all with the same draws."""
    return [accuracy(model, split, perturbation, each, seed=seed, batch_size=batch_size) for each in strengths]


@dataclass(frozen=True)
class Calibration:
    """The strength at which a network loses a wanted amount of accuracy.

    Attributes:
        strength: of the perturbation.
        clean_accuracy: fraction, without it.
        accuracy: fraction, with it.
        wanted: the drop that was asked for, as a fraction of all images: 0.153 is 15.3 points.
    """

    strength: float
    clean_accuracy: float
    accuracy: float
    wanted: float

    @property
    def drop(self) -> float:
        """The drop that was found."""
        return self.clean_accuracy - self.accuracy

    @property
    def reached(self) -> bool:
        """Whether that is the wanted one within a point; a table has to say so where it is not."""
        return abs(self.drop - self.wanted) <= POINT


def calibrate(
    model: nn.Module,
    split: task.Split,
    perturbation: str,
    drop: float,
    *,
    seed: int,
    largest: float | None = None,
    tolerance: float = POINT / 4,
    batch_size: int = 500,
) -> Calibration:
    """Finds a strength at which the accuracy drops by a wanted amount, the smallest as far as it looks.

    The drop need not rise with the strength everywhere; its envelope does, the largest drop at any strength so far.
    Strengths are doubled from `largest` / 4096 on until the drop is the wanted one or more, and what lies between the
    last two is bisected until the drop is right within the tolerance or half an image, whichever is more.

    Args:
        model: the network.
        split: validation images: a choice never looks at test data.
        perturbation: as for `perturb`.
        drop: the wanted drop, as a fraction of all images.
        seed: of the perturbation's draws, the same for every strength.
        largest: the largest strength that is tried; None takes that of `LARGEST`.
        tolerance: fraction of all images.
        batch_size: as for `accuracy`.

    Returns:
        The best of the strengths tried. `Calibration.reached` is false where it misses the wanted drop by more than a
        point: the network does not lose that much, or it loses more than two points with one step of the strength, as
        with fewer than 50 images.

    Raises:
        ValueError: the drop is not between 0 and 1, the largest strength or the tolerance is not a positive number,
            or as `perturb`.
    """
    if not 0 < drop < 1:
        raise ValueError(f"{perturbation}: the wanted drop is {drop}, expected a fraction between 0 and 1")
    largest = LARGEST.get(perturbation, 1.0) if largest is None else largest
    for name, value in (("the largest strength", largest), ("the tolerance", tolerance)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{perturbation}: {name} is {value}, expected a finite number above 0")
    clean = accuracy(model, split, perturbation, 0.0, seed=seed, batch_size=batch_size)
    close = max(tolerance, 0.5 / len(split))
    tried: dict[float, float] = {}

    def falls(strength: float) -> bool:
        tried[strength] = accuracy(model, split, perturbation, strength, seed=seed, batch_size=batch_size)
        return clean - tried[strength] >= drop

    def miss(strength: float) -> float:
        return abs(clean - tried[strength] - drop)

    doubled = [largest / 2**doublings for doublings in range(_DOUBLINGS, -1, -1)]
    high = next((strength for strength in doubled if falls(strength)), None)
    if high is not None:
        low = high / 2 if high > doubled[0] else 0.0
        for _ in range(_HALVINGS):
            if min(map(miss, tried)) <= close:
                break
            middle = (low + high) / 2
            low, high = (low, middle) if falls(middle) else (middle, high)
    best = min(sorted(tried), key=miss)
    return Calibration(best, clean, tried[best], drop)


def _each(pixels: Tensor, draw: Callable[[torch.Size], Tensor]) -> Tensor:
    return torch.stack([draw(pixels.shape[1:]) for _ in pixels]).to(pixels.device)


def _one_of(first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    chosen = torch.randint(2, (len(first), 1, 1, 1), generator=generator) == 0
    return torch.where(chosen.to(first.device), first, second)


@torch.enable_grad()
def _loss_gradient(classify: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
    variable = pixels.detach().requires_grad_()
    # The sum, because a mean over many images makes small gradients smaller.
    loss = nn.functional.cross_entropy(classify(variable), labels, reduction="sum")
    return torch.autograd.grad(loss, variable)[0]
