"""Perturbations and their calibration: closed forms on linear models, other libraries, and a small trained network."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from stages import perturbations
from stages.data import splits
from stages.data.registry import load
from stages.data.settings import Synthetic
from stages.perturbations import Calibration, accuracy, calibrate, curve, on_pixels, perturb, pixels_of
from stages.settings import Row
from stages.tasks import image_classification as task
from stages.training import Length, train

NATURAL = ("gaussian_noise", "brightness", "rotation")
ATTACKS = ("fgsm", "pgd")
DOCUMENTED = {"gaussian_noise": 0.153, "fgsm": 0.231, "pgd": 0.231, "brightness": 0.084, "rotation": 0.127}
MEAN, DEVIATION = (110.0, 120.0, 130.0), (50.0, 60.0, 70.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(num: int, size: int = 6, low: int = 0, high: int = 256, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(low, high, (num, size, size, channels), dtype=np.uint8)


def split_of(images: np.ndarray, labels: np.ndarray | None = None, padding: int = 0) -> task.Split:
    channels = images.shape[3]
    labels = np.zeros(len(images)) if labels is None else labels
    return task.Split.of(images, labels, padding, MEAN[:channels], DEVIATION[:channels], "cpu")


def linear(size: int = 6, channels: int = 3) -> nn.Sequential:
    """A linear model of two classes."""
    layer = nn.Linear(size * size * channels, 2)
    nn.init.normal_(layer.weight, std=0.05, generator=seeded(5))
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)


def normal(model: nn.Sequential, size: int = 6, channels: int = 3) -> np.ndarray:
    """The gradient of the first logit less the second by the pixels in [0, 1], worked out by hand."""
    weight = model.state_dict()["1.weight"].double().numpy().reshape(2, channels, size, size)
    return (weight[0] - weight[1]) * (255 / np.array(DEVIATION[:channels]))[:, None, None]


def predicted(model: nn.Module, split: task.Split) -> np.ndarray:
    with torch.no_grad():
        return model(split.batch(torch.arange(len(split)))[0]).argmax(1).numpy()


def margins(classify: Callable[[Tensor], Tensor], pixels: Tensor, labels: Tensor) -> np.ndarray:
    """True logit less the other one, of two classes."""
    with torch.no_grad():
        logits = classify(pixels).double()
    rows = torch.arange(len(labels))
    return (logits[rows, labels] - logits[rows, 1 - labels]).numpy()


@pytest.fixture(scope="module")
def data() -> splits.DataSet:
    settings = Synthetic(
        source="synthetic", classes=3, size=8, channels=3, train=400, test=60, difficulty=0.1, seed=1, validation=0.5
    )
    return load(settings, Path())


@pytest.fixture(scope="module")
def validation(data: splits.DataSet) -> task.Split:
    statistics = splits.channel_statistics(data.train.images)
    return task.Split.of(data.validation.images, data.validation.labels, 0, *statistics, "cpu")


@pytest.fixture(scope="module")
def trained(data: splits.DataSet, validation: task.Split, tiny_row: Row) -> nn.Sequential:
    """A small convolutional network, trained."""
    statistics = splits.channel_statistics(data.train.images)
    train_split = task.Split.of(data.train.images, data.train.labels, 2, *statistics, "cpu")
    model = task.network(((8,), (12, 12)), 3, 3, seeded())
    train(model, train_split, validation, tiny_row.training, seed=0, length=Length(steps=180))
    return model


# Nothing at strength zero


@pytest.mark.parametrize("perturbation", perturbations.LARGEST)
def test_strength_zero_changes_no_bit(perturbation: str) -> None:
    split = split_of(pictures(20), np.arange(20) % 2)
    pixels = pixels_of(split, torch.arange(20))
    same = perturb(perturbation, on_pixels(linear(), split), pixels, split.labels, 0.0, seeded())
    assert torch.equal(same, pixels)


@pytest.mark.parametrize("perturbation", perturbations.LARGEST)
def test_strength_zero_is_the_clean_accuracy(perturbation: str, trained: nn.Module, validation: task.Split) -> None:
    clean = task.evaluate(trained, validation)[1]
    assert accuracy(trained, validation, perturbation, 0.0, seed=0) == clean
    assert 0.6 < clean < 1


def test_pixels_become_the_bits_of_a_batch() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    split = split_of(every, padding=3)
    rows = torch.tensor([0])
    pixels = pixels_of(split, rows)
    assert (pixels.min(), pixels.max(), pixels.shape) == (0, 1, (1, 3, 16, 16))
    assert torch.equal(on_pixels(nn.Identity(), split)(pixels), split.batch(rows)[0])


# Attacks on a linear model: the gradient is the weights, whatever the image


@pytest.fixture
def grey() -> task.Split:
    """Images far from black and white, labelled half as the linear model does and half not."""
    images = pictures(40, low=100, high=156)
    labels = predicted(linear(), split_of(images))
    labels[::2] = 1 - labels[::2]
    return split_of(images, labels)


@pytest.mark.parametrize("strength", [0.001, 0.03, 0.3])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_lower_a_linear_margin_by_the_radius_times_the_l1_norm(
    attack: str, strength: float, grey: task.Split
) -> None:
    classify = on_pixels(linear(), grey)
    pixels = pixels_of(grey, torch.arange(len(grey)))
    attacked = perturb(attack, classify, pixels, grey.labels, strength, seeded())
    lost = margins(classify, pixels, grey.labels) - margins(classify, attacked, grey.labels)
    np.testing.assert_allclose(lost, strength * np.abs(normal(linear())).sum(), rtol=1e-4)


@pytest.mark.parametrize("strength", [0.01, 0.2, 0.9])
def test_pgd_is_fgsm_on_a_linear_model(strength: float) -> None:
    split = split_of(pictures(40), np.arange(40) % 2)
    classify = on_pixels(linear(), split)
    pixels = pixels_of(split, torch.arange(40))
    first, second = (perturb(each, classify, pixels, split.labels, strength, seeded()) for each in ATTACKS)
    assert torch.equal(first, second)
    assert bool(((first == 0) | (first == 1)).any())
    # Clipping alone keeps a pixel from moving by the radius.
    towards = np.where(split.labels.numpy() == 0, -1, 1)[:, None, None, None] * np.sign(normal(linear()))
    np.testing.assert_allclose(first.numpy(), np.clip(pixels.numpy() + strength * towards, 0, 1), atol=1e-6)


def test_pgd_takes_twenty_steps_from_a_random_point_of_the_ball() -> None:
    visited: list[float] = []

    def classify(pixels: Tensor) -> Tensor:
        if pixels.requires_grad:
            visited.append(pixels.detach().flatten()[0].item())
        rising = pixels.flatten(1).sum(1)
        return torch.stack([-rising, rising], 1)

    pixels, radius = torch.full((64, 1, 1, 1), 0.5), 0.2
    end = perturb("pgd", classify, pixels, torch.zeros(64, dtype=torch.int64), radius, seeded(3))
    assert len(visited) == 21
    assert visited[20] == 0.5  # FGSM's
    start = visited[0]
    path = [min(0.5 + radius, start + step * 2.5 * radius / 20) for step in range(20)]
    np.testing.assert_allclose(visited[:20], path, atol=1e-6)
    np.testing.assert_allclose(end, 0.7, atol=1e-6)


def test_pgd_starts_everywhere_in_the_ball() -> None:
    """Where the loss is flat an attack ends where it starts."""

    def flat(pixels: Tensor) -> Tensor:
        return torch.stack([1 + 0 * pixels.sum((1, 2, 3)), 0 * pixels.sum((1, 2, 3))], 1)

    pixels = torch.full((300, 1, 2, 2), 0.5)
    end = perturb("pgd", flat, pixels, torch.zeros(300, dtype=torch.int64), 0.2, seeded(3))
    assert stats.kstest(end.flatten().numpy(), stats.uniform(0.3, 0.4).cdf).pvalue > 0.01
    assert len(end.unique()) > 1000


def test_pgd_takes_fgsms_point_where_only_that_is_misclassified() -> None:
    """The loss of class 0 has a ridge at 0.6, near the image at 0.5, and the way to 0.9 leads over it."""

    def classify(pixels: Tensor) -> Tensor:
        x = pixels.flatten(1).sum(1)
        margin = torch.where(x < 0.75, 0.1 + (x - 0.6).abs(), -1 + 0 * x)
        return torch.stack([margin, torch.zeros_like(margin)], 1)

    pixels, labels = torch.full((50, 1, 1, 1), 0.5), torch.zeros(50, dtype=torch.int64)
    end = perturb("pgd", classify, pixels, labels, 0.4, seeded())
    assert bool((classify(end).argmax(1) == 1).all())
    # The ascents that start beyond the step stay where the loss is flat; the others are caught at the ridge.
    caught = end.flatten() == 0.9
    assert bool(caught.any()) and bool((~caught).any())


# Attacks on a network


@pytest.mark.parametrize("strength", [0.004, 0.06, 0.5])
def test_pgd_leaves_no_image_correct_that_fgsm_does_not(
    strength: float, trained: nn.Sequential, validation: task.Split
) -> None:
    classify = on_pixels(copy.deepcopy(trained).eval(), validation)
    pixels = pixels_of(validation, torch.arange(len(validation)))
    correct = {}
    for attack in ATTACKS:
        with torch.no_grad():
            attacked = perturb(attack, classify, pixels, validation.labels, strength, seeded(4))
            correct[attack] = classify(attacked).argmax(1) == validation.labels
        assert attacked.min() >= 0 and attacked.max() <= 1
        assert (attacked - pixels).abs().max() <= strength + 1e-6
    assert not bool((correct["pgd"] & ~correct["fgsm"]).any())
    fgsm, pgd = (accuracy(trained, validation, each, strength, seed=0) for each in ATTACKS)
    assert pgd <= fgsm < task.evaluate(trained, validation)[1]


def test_pgd_is_stronger_than_fgsm_on_a_network(trained: nn.Module, validation: task.Split) -> None:
    assert accuracy(trained, validation, "pgd", 0.06, seed=0) < accuracy(trained, validation, "fgsm", 0.06, seed=0)


def test_fgsm_follows_the_gradients_sign(trained: nn.Sequential, validation: task.Split) -> None:
    """Against finite differences in float64, where those are large enough to have a certain sign."""
    model = copy.deepcopy(trained).eval()
    classify = on_pixels(model, validation)
    rows = torch.tensor([0])
    pixels, labels = pixels_of(validation, rows), validation.labels[rows]
    moved = (perturb("fgsm", classify, pixels, labels, 0.001, seeded()) - pixels).flatten()
    assert all(parameter.grad is None for parameter in model.parameters())
    exact = copy.deepcopy(trained).eval().double()
    base = pixels.double().repeat(192, 1, 1, 1)
    step = 1e-6 * torch.eye(192, dtype=torch.float64).reshape(192, 3, 8, 8)
    mean, deviation = validation.mean.double(), validation.deviation.double()
    rates = []
    for sign in (1, -1):
        images = ((base + sign * step) * 255 - mean[:, None, None]) / deviation[:, None, None]
        rates.append(nn.functional.cross_entropy(exact(images), labels.repeat(192), reduction="none"))
    slope = (rates[0] - rates[1]).detach() / 2e-6
    inner = (pixels.flatten() > 0.002) & (pixels.flatten() < 0.998) & (slope.abs() > 1e-3 * slope.abs().max())
    assert int(inner.sum()) > 100
    assert torch.equal(moved[inner].sign(), slope[inner].sign().float())


# Natural perturbations


def test_noise_costs_a_linear_model_what_the_normal_distribution_says() -> None:
    size, strength = 4, 0.05
    images = pictures(20_000, size, low=100, high=156)
    model = linear(size)
    split = split_of(images, predicted(model, split_of(images)))
    pixels = pixels_of(split, torch.arange(len(split)))
    spread = strength * np.sqrt((normal(model, size) ** 2).sum())
    chances = stats.norm.cdf(margins(on_pixels(model, split), pixels, split.labels) / spread)
    error = np.sqrt((chances * (1 - chances)).sum()) / len(split)
    assert 0.6 < chances.mean() < 0.9
    assert accuracy(model, split, "gaussian_noise", strength, seed=0) == pytest.approx(chances.mean(), abs=4 * error)
    assert 4 * error < 0.012  # 5% more noise would show


def test_noise_is_torchvisions() -> None:
    pixels = torch.rand(1, 3, 8, 8, generator=seeded(1))
    found = perturbations.gaussian_noise(pixels, 0.4, seeded(7))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = functional.gaussian_noise(pixels, sigma=0.4)
    assert torch.equal(found, expected)
    assert (found.min(), found.max()) == (0, 1)


@pytest.mark.parametrize("strength", [0.1, 0.8, 5.0])
def test_brightness(strength: float) -> None:
    pixels = torch.rand(200, 3, 5, 5, generator=seeded(1))
    found = perturbations.brightness(pixels, strength, seeded())
    brighter = torch.minimum(pixels * (1 + strength), torch.ones(()))
    darker = pixels / (1 + strength)
    up, down = ((found - expected).abs().amax((1, 2, 3)) < 1e-6 for expected in (brighter, darker))
    assert bool((up ^ down).all())
    assert 70 < int(up.sum()) < 130
    torch.testing.assert_close(found[up], functional.adjust_brightness(pixels[up], 1 + strength))


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    """A square image turned to the left about its centre, bilinear, black around."""
    centre = (image.shape[0] - 1) / 2
    down, right = np.meshgrid(*2 * (np.arange(image.shape[0]) - centre,), indexing="ij")
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    places = np.stack([cos * down + sin * right, cos * right - sin * down]) + centre
    return ndimage.map_coordinates(image, places, order=1, mode="grid-constant")


@pytest.mark.parametrize("strength", [3.0, 30.0, 77.7, 90.0, 180.0])
def test_rotation(strength: float) -> None:
    pixels = torch.rand(40, 2, 7, 7, generator=seeded(1))
    found = perturbations.rotation(pixels, strength, seeded()).numpy()
    turns = [
        np.array([[turned(each, sign * strength) for each in image] for image in pixels.numpy()]) for sign in (1, -1)
    ]
    left, right = (np.abs(found - expected).max((1, 2, 3)) < 1e-5 for expected in turns)
    assert (left | right).all()
    if strength < 180:
        assert not (left & right).any()
        assert 8 < left.sum() < 32


def test_rotation_by_a_right_angle_is_rot90() -> None:
    pixels = torch.rand(40, 3, 6, 6, generator=seeded(1))
    found = perturbations.rotation(pixels, 90.0, seeded())
    left, right = (torch.rot90(pixels, turns, (2, 3)) for turns in (1, -1))
    ways = [
        (torch.equal(each, one), torch.equal(each, other)) for each, one, other in zip(found, left, right, strict=True)
    ]
    assert set(ways) == {(True, False), (False, True)}


@pytest.mark.parametrize("perturbation", NATURAL)
@pytest.mark.parametrize("strength", [0.3, 40.0])
def test_natural_perturbations_stay_on_the_scale(perturbation: str, strength: float) -> None:
    split = split_of(pictures(30), np.zeros(30))
    pixels = pixels_of(split, torch.arange(30))
    changed = perturb(perturbation, on_pixels(linear(), split), pixels, split.labels, strength, seeded())
    assert changed.shape == pixels.shape
    assert changed.min() >= 0 and changed.max() <= 1
    assert not torch.equal(changed, pixels)


# Draws


@pytest.mark.parametrize("perturbation", perturbations.LARGEST)
def test_the_batch_size_changes_no_draw(perturbation: str) -> None:
    split = split_of(pictures(50, 3), np.arange(50) % 2)
    model, pixels = linear(3), pixels_of(split, torch.arange(50))
    classify, generator = on_pixels(model, split), seeded(2)
    whole = perturb(perturbation, classify, pixels, split.labels, 0.2, seeded(2))
    parts = [
        perturb(perturbation, classify, pixels[rows], split.labels[rows], 0.2, generator)
        for rows in torch.arange(50).split(7)
    ]
    assert torch.equal(torch.cat(parts), whole)
    scores = {accuracy(model, split, perturbation, 0.2, seed=2, batch_size=size) for size in (7, 50, 500)}
    assert len(scores) == 1


@pytest.mark.parametrize("perturbation", [*NATURAL, "pgd"])
def test_the_seed_decides(perturbation: str, trained: nn.Sequential, validation: task.Split) -> None:
    classify = on_pixels(copy.deepcopy(trained).eval(), validation)
    pixels, labels = pixels_of(validation, torch.arange(30)), validation.labels[:30]
    before = torch.get_rng_state()
    one, again, other = (perturb(perturbation, classify, pixels, labels, 0.1, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        right = int((classify(other).argmax(1) == labels).sum())
    few = dataclasses.replace(validation, images=validation.images[:30], labels=labels)
    assert accuracy(trained, few, perturbation, 0.1, seed=2) == right / 30


@pytest.mark.parametrize("perturbation", perturbations.LARGEST)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_is(
    perturbation: str, training: bool, trained: nn.Module, validation: task.Split
) -> None:
    model = copy.deepcopy(trained).train(training)
    score = accuracy(model, validation, perturbation, 0.1, seed=0)
    assert score == accuracy(trained, validation, perturbation, 0.1, seed=0)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(layer.training is training for layer in model.modules())


# Curves and calibration


def test_a_curve_is_its_accuracies(trained: nn.Module, validation: task.Split) -> None:
    strengths = [0.0, 0.2, 0.4, 0.6]
    found = curve(trained, validation, "gaussian_noise", strengths, seed=3)
    assert found == [accuracy(trained, validation, "gaussian_noise", each, seed=3) for each in strengths]
    assert found[0] > found[1] > found[2]
    # Other noise, which decides samples near the boundary at one of these strengths at least.
    near = [0.0, *(number / 50 for number in range(1, 13))]
    one, other = (curve(trained, validation, "gaussian_noise", near, seed=seed) for seed in (3, 4))
    assert one[0] == other[0] and one != other


@pytest.mark.parametrize("perturbation", perturbations.LARGEST)
def test_calibration_makes_the_documented_drop_within_a_point(
    perturbation: str, trained: nn.Module, validation: task.Split
) -> None:
    wanted = DOCUMENTED[perturbation]
    found = calibrate(trained, validation, perturbation, wanted, seed=1)
    clean = task.evaluate(trained, validation)[1]
    drop = clean - accuracy(trained, validation, perturbation, found.strength, seed=1)
    assert abs(drop - wanted) <= 0.01
    assert found.reached
    assert (found.drop, found.clean_accuracy, found.wanted) == (drop, clean, wanted)
    if perturbation != "pgd":
        assert found == calibrate(trained, validation, perturbation, wanted, seed=1)


class Planted:
    """Stands in for `accuracy`: 0.9 less a function of the strength."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, drop: Callable[[float], float]) -> None:
        self.drop, self.strengths = drop, []
        monkeypatch.setattr(perturbations, "accuracy", self)

    def __call__(self, model, split, perturbation, strength, *, seed, batch_size) -> float:
        assert (perturbation, seed, batch_size) == ("fgsm", 4, 30)
        self.strengths.append(strength)
        return 0.9 - self.drop(strength)

    def calibrate(self, wanted: float, num: int = 10_000, **options) -> Calibration:
        split = split_of(np.zeros((num, 1, 1, 3), np.uint8))
        return calibrate(nn.Identity(), split, "fgsm", wanted, seed=4, batch_size=30, **options)


@pytest.mark.parametrize("wanted", [0.05, 0.2, 0.3])
def test_calibration_finds_the_first_crossing(wanted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(monkeypatch, lambda strength: 0.4 * np.sin(2 * np.pi * strength / 0.6) ** 2)
    found = planted.calibrate(wanted, tolerance=1e-6)
    first = 0.6 / (2 * np.pi) * np.arcsin(np.sqrt(wanted / 0.4))
    # Half of one image in 10,000 is 0.00005, more than the tolerance.
    assert abs(planted.drop(found.strength) - wanted) <= 5e-5
    assert found.strength == pytest.approx(first, rel=1e-3)
    assert planted.strengths[0] == 0
    assert max(planted.strengths) <= 1


def test_calibration_stops_within_its_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = []
    cases: list[tuple[dict, float]] = [({}, 0.0025), ({"tolerance": 5e-4}, 5e-4), ({"num": 100}, 0.005)]
    for options, most in cases:
        planted = Planted(monkeypatch, lambda strength: 0.5 * strength)
        assert abs(planted.calibrate(0.2, **options).drop - 0.2) <= most
        numbers.append(len(planted.strengths))
    # Once without, 12 doublings to 0.5, and 5, 7 and 3 halvings.
    assert numbers == [18, 20, 16]


@pytest.mark.parametrize(("most", "reached"), [(0.2, False), (0.215, False), (0.225, True)])
def test_calibration_says_that_the_drop_is_out_of_reach(
    most: float, reached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(monkeypatch, lambda strength: most * strength)
    found = planted.calibrate(0.23)
    assert (found.strength, found.reached) == (1.0, reached)
    assert found.drop == pytest.approx(most)
    half = planted.calibrate(0.23, largest=0.5)
    assert (half.strength, half.reached) == (0.5, False)


def test_calibration_says_that_one_step_of_the_strength_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(monkeypatch, lambda strength: 0.6 * (strength > 0.3))
    found = planted.calibrate(0.23)
    assert not found.reached
    assert (found.drop, found.strength) == (0.0, 1 / 4096)


def test_calibration_below_the_smallest_doubled_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(monkeypatch, lambda strength: min(0.9, 10_000 * strength))
    assert planted.calibrate(0.23).strength == pytest.approx(0.23e-4, rel=0.02)


# Messages


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_impossible_strengths_are_refused(strength: float, validation: task.Split) -> None:
    with pytest.raises(ValueError, match=f"pgd: strength is {strength}, expected a finite number of at least 0"):
        accuracy(linear(8), validation, "pgd", strength, seed=0)


@pytest.mark.parametrize("call", [accuracy, calibrate])
def test_an_unknown_perturbation_is_refused(call: Callable, validation: task.Split) -> None:
    message = "perturbation is 'blur', expected one of gaussian_noise, brightness, rotation, fgsm, pgd"
    with pytest.raises(ValueError, match=message):
        call(linear(8), validation, "blur", 0.1, seed=0)


@pytest.mark.parametrize("drop", [0.0, -0.2, 1.0, 15.3, float("nan")])
def test_impossible_drops_are_refused(drop: float, validation: task.Split) -> None:
    with pytest.raises(ValueError, match=f"fgsm: the wanted drop is {drop}, expected a fraction between 0 and 1"):
        calibrate(linear(8), validation, "fgsm", drop, seed=0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_searches_are_refused(value: float, validation: task.Split) -> None:
    with pytest.raises(ValueError, match=f"fgsm: the largest strength is {value}, expected a finite number above 0"):
        calibrate(linear(8), validation, "fgsm", 0.2, seed=0, largest=value)
    with pytest.raises(ValueError, match=f"fgsm: the tolerance is {value}, expected a finite number above 0"):
        calibrate(linear(8), validation, "fgsm", 0.2, seed=0, tolerance=value)
