"""Transfer: features by hand, the probe against scikit-learn and its optimality condition, fine-tuning on tiny data."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from stages import transfer_learning
from stages.data import splits
from stages.settings import Training
from stages.tasks import image_classification as task
from stages.training import Length, train
from stages.transfer_learning import Features, features, fine_tune, linear_probe, matched


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(num: int = 4, size: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (num, size, size, channels), dtype=np.uint8)


def split_of(images: np.ndarray, labels: np.ndarray | None = None, padding: int = 0) -> task.Split:
    labels = np.zeros(len(images)) if labels is None else labels
    return task.Split.of(images, labels, padding, [120.0] * images.shape[3], [60.0] * images.shape[3], "cpu")


def network(channels: int = 3, classes: int = 5) -> nn.Sequential:
    """An untrained network whose batch norms are not the identity."""
    model = task.network(((6,), (8,)), channels, classes, seeded())
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                    assert tensor is not None
                    tensor.uniform_(0.2, 1.0, generator=seeded(2))
    return model


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Images as a network expects them


def test_images_that_fit_are_returned_as_they_are() -> None:
    images = noise()
    assert matched(images, 3, 8) is images


def test_grey_is_repeated() -> None:
    images = noise(channels=1)
    found = matched(images, 3, 8)
    assert (found.shape, found.dtype) == ((4, 8, 8, 3), np.uint8)
    assert all(np.array_equal(found[..., channel], images[..., 0]) for channel in range(3))


def test_colour_becomes_luma() -> None:
    images = noise(num=50)
    found = matched(images, 1, 8)
    assert (found.shape, found.dtype) == ((50, 8, 8, 1), np.uint8)
    exact = images.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(found[..., 0] - exact).max() <= 0.5 + 1e-9
    assert matched(np.full((1, 2, 2, 3), 255, np.uint8), 1, 2).min() == 255


def test_sizes_are_halved_by_the_triangle_filter() -> None:
    images = noise(size=16)
    found = matched(images, 3, 8)
    assert (found.shape, found.dtype) == ((4, 8, 8, 3), np.uint8)
    weights = np.array([1, 3, 3, 1]) / 8
    windows = np.lib.stride_tricks.sliding_window_view(images.astype(float), (4, 4), (1, 2))[:, 1::2, 1::2][:, :6, :6]
    exact = np.einsum("nijcab,a,b->nijc", windows, weights, weights)
    # Rounded after each of the two directions.
    assert np.abs(found[:, 1:-1, 1:-1] - exact).max() <= 1.5


@pytest.mark.parametrize(("channels", "wanted"), [(1, 3), (3, 1), (1, 1)])
def test_sizes_and_channels_together(channels: int, wanted: int) -> None:
    found = matched(np.full((2, 7, 7, channels), 93, np.uint8), wanted, 12)
    assert np.array_equal(found, np.full((2, 12, 12, wanted), 93))


@pytest.mark.parametrize("images", [noise().astype(np.float32), noise()[0], noise(channels=2)])
def test_other_images_are_refused(images: np.ndarray) -> None:
    message = (
        rf"images are {images.dtype} of shape \({', '.join(map(str, images.shape))}\), expected uint8 of shape num"
    )
    with pytest.raises(ValueError, match=message):
        matched(images, 3, 8)


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="images with 4 channels are wanted, expected 1 or 3"):
        matched(noise(), 4, 8)


# Features


def test_features_are_the_last_layers_inputs() -> None:
    model, split = network(), split_of(noise(num=30), np.arange(30) % 5, padding=2)
    found = features(model, split, batch_size=7)
    images = split.batch(torch.arange(30))[0]
    # By hand, from the layers' own parameters.
    with torch.no_grad():
        for position in (0, 4):
            convolution, norm = model[position], model[position + 1]
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None and norm.running_var is not None
            maps = nn.functional.conv2d(images, convolution.weight, padding=1).movedim(1, -1)
            maps = (maps - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
            images = nn.functional.max_pool2d(maps.movedim(-1, 1).relu(), 2) if position == 0 else maps.relu()
        expected = images.mean((1, 2))
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-5)
    assert (found.values.dtype, found.values.shape) == (np.float64, (30, 8))
    assert np.array_equal(found.labels, np.arange(30) % 5)


def test_features_follow_a_grown_network() -> None:
    from dnm import AddResidual, apply

    model, split = network(), split_of(noise())
    before = features(model, split).values
    apply(model, AddResidual("4"), split.batch(torch.arange(2))[0])
    assert np.array_equal(features(model, split).values, before)


def test_a_branch_behind_the_last_layer_goes_with_it(target, settings: Training) -> None:
    from dnm import AddResidual, apply

    model, split = network(), split_of(noise())
    before = features(model, split).values
    plain = state(tuned(model, target, settings, length=Length(steps=3))[0])
    apply(model, AddResidual(str(len(model) - 1)), split.batch(torch.arange(2))[0])
    assert not isinstance(model[-1], nn.Linear)
    assert np.array_equal(features(model, split).values, before)
    assert same(state(tuned(model, target, settings, length=Length(steps=3))[0]), plain)


@pytest.mark.parametrize("training", [True, False])
def test_features_leave_the_network_as_it_is(training: bool) -> None:
    model = network().train(training)
    before = state(model)
    features(model, split_of(noise()))
    assert same(before, state(model))
    assert all(layer.training is training for layer in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


# The probe


def clouds(num: int, spread: float, seed: int) -> Features:
    """Three classes around the corners of a triangle, in five unequally scaled features, one of them constant."""
    random = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    corners = np.array([[0.0, 0, 0, 0], [3, 0, 1, 0], [0, 3, 0, 1]])
    values = corners[labels] + spread * random.standard_normal((num, 4))
    return Features(np.hstack([values * [1, 10, 0.1, 100], np.full((num, 1), 7.0)]), labels)


def standardised(part: Features, by: Features) -> np.ndarray:
    mean, deviation = by.values[:, :4].mean(0), by.values[:, :4].std(0)
    return (part.values[:, :4] - mean) / deviation


@pytest.mark.parametrize(("seed", "best"), [(0, 0.001), (3, 0.1), (6, 10.0)])
def test_the_probe_against_scikit_learn(seed: int, best: float) -> None:
    parts = clouds(60, 1.5, seed), clouds(300, 1.5, seed + 1), clouds(900, 1.5, seed + 2)
    inputs = [standardised(part, parts[0]) for part in parts]
    scores = {}
    for candidate in transfer_learning.CANDIDATES:
        regression = LogisticRegression(C=candidate, max_iter=1000).fit(inputs[0], parts[0].labels)
        scores[candidate] = [regression.score(values, part.labels) for values, part in zip(inputs, parts, strict=True)]
    assert max(scores, key=lambda candidate: (scores[candidate][1], -candidate)) == best
    assert linear_probe(*parts) == transfer_learning.Probe(best, *scores[best][1:], converged=True)


def test_the_probe_minimizes_the_penalized_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the gradient vanishes C sum_i (y_i - p_i) x_i is the weights, and sum_i (y_i - p_i) is 0."""
    fitted: list[LogisticRegression] = []
    fit = LogisticRegression.fit
    monkeypatch.setattr(LogisticRegression, "fit", lambda self, *data: fitted.append(self) or fit(self, *data))
    part = clouds(90, 1.5, 0)
    linear_probe(part, part, part)
    values = np.hstack([standardised(part, part), np.zeros((90, 1))])
    assert tuple(each.C for each in fitted) == transfer_learning.CANDIDATES
    for regression in fitted[:5]:
        logits = values @ regression.coef_.T + regression.intercept_
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        left = np.eye(3)[part.labels] - chances
        np.testing.assert_allclose(regression.C * left.T @ values, regression.coef_, atol=0.02 * regression.C)
        np.testing.assert_allclose(left.sum(0), 0, atol=0.02)


def test_the_probe_separates_what_can_be_separated() -> None:
    found = linear_probe(clouds(60, 0.05, 0), clouds(60, 0.05, 1), clouds(600, 0.05, 2))
    assert (found.validation_accuracy, found.test_accuracy) == (1.0, 1.0)
    # All candidates are as good, so the strongest penalty is chosen.
    assert found.inverse_regularization == transfer_learning.CANDIDATES[0]


def test_the_probe_chooses_on_validation_data() -> None:
    """A third of the training labels is wrong: on themselves a weak penalty is best, elsewhere a strong one."""
    random = np.random.default_rng(0)
    values = random.standard_normal((700, 30))
    labels = (values[:, 0] > 0).astype(int)
    wrong = np.where(random.random(100) < 0.33, 1 - labels[:100], labels[:100])
    train_part, validation = Features(values[:100], wrong), Features(values[100:400], labels[100:400])
    test, flipped = (Features(values[400:], each) for each in (labels[400:], 1 - labels[400:]))
    memorized, chosen = linear_probe(train_part, train_part, test), linear_probe(train_part, validation, test)
    assert memorized.inverse_regularization > chosen.inverse_regularization
    assert memorized.validation_accuracy > chosen.validation_accuracy
    assert memorized.test_accuracy < chosen.test_accuracy
    other = linear_probe(train_part, validation, flipped)
    assert other.inverse_regularization == chosen.inverse_regularization
    assert other.test_accuracy == pytest.approx(1 - chosen.test_accuracy)


def test_the_probe_says_that_it_did_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_learning, "ITERATIONS", 1)
    part = clouds(60, 2.0, 0)
    assert not linear_probe(part, part, part).converged


def test_the_probe_takes_two_classes() -> None:
    parts = [clouds(60, 1.0, seed) for seed in range(3)]
    parts = [Features(part.values[part.labels < 2], part.labels[part.labels < 2]) for part in parts]
    assert linear_probe(*parts).test_accuracy > 0.85


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (0, {"labels": np.full(30, 2)}, "train: all 30 labels are 2, expected at least two classes"),
        (0, {"values": np.zeros((30, 5, 1))}, r"train: features are of shape \(30, 5, 1\) and labels of shape \(30,\)"),
        (1, {"values": np.zeros((30, 4))}, "validation: 4 features, expected the 5 of train"),
        (1, {"labels": np.zeros(29, int)}, r"validation: features are of shape \(30, 5\) and labels of shape \(29,\)"),
        (2, {"values": np.full((30, 5), np.nan)}, "test: a feature is not finite, expected numbers; the network's"),
        (2, {"values": np.zeros((0, 5)), "labels": np.zeros(0, int)}, "test: .*num x features and num, at least one"),
    ],
)
def test_features_that_do_not_fit_are_refused(place: int, change: dict, message: str) -> None:
    parts = [clouds(30, 1.0, seed) for seed in range(3)]
    parts[place] = dataclasses.replace(parts[place], **change)
    with pytest.raises(ValueError, match=message):
        linear_probe(*parts)


# Fine-tuning


@pytest.fixture(scope="module")
def target(tiny_data: Path) -> dict[str, task.Split]:
    """96 training, 24 validation and 60 test images of three classes."""
    data = splits.load(tiny_data)
    statistics = splits.channel_statistics(data.train.images)
    return {
        name: task.Split.of(part.images, part.labels, 2 if name == "train" else 0, *statistics, "cpu")
        for name, part in (("train", data.train), ("validation", data.validation), ("test", data.test))
    }


@pytest.fixture
def settings(tiny_row) -> Training:
    return tiny_row.training


def tuned(model: nn.Module, target: dict[str, task.Split], settings: Training, **options):
    default = {"classes": 3, "generator": seeded(9), "seed": 1, "length": Length(steps=60)}
    return fine_tune(model, target["train"], target["validation"], settings, **{**default, **options})


def test_fine_tuning_improves_over_chance_and_leaves_the_network_alone(target, settings: Training) -> None:
    settings = dataclasses.replace(settings, learning_rate=0.01, flip=False)
    model = task.network(((8,), (12, 12)), 3, 5, seeded())
    before = state(model)
    result, run = tuned(model, target, settings, length=Length(steps=120))
    assert same(before, state(model))
    after = state(result)
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    assert (run.steps, result[-1](torch.zeros(1, 12)).shape) == (120, (1, 3))
    # Chance is a third; 0.6 is four standard errors above it.
    assert task.evaluate(result, target["test"])[1] > 0.6
    whole = dataclasses.replace(target["train"], images=target["train"].images[:, 2:-2, 2:-2], padding=0)
    parts = [features(result, split) for split in (whole, target["validation"], target["test"])]
    assert linear_probe(*parts).test_accuracy > 0.6


def test_fine_tuning_is_the_one_loop_from_the_trained_features(target, settings: Training) -> None:
    model = network()
    found, _ = tuned(model, target, settings, length=Length(steps=7))
    expected = copy.deepcopy(model)
    expected[-1] = head = nn.Linear(8, 3)
    with torch.no_grad():
        head.weight.copy_(torch.empty(3, 8).normal_(std=8**-0.5, generator=seeded(9)))
        head.bias.zero_()
    train(expected, target["train"], target["validation"], settings, seed=1, length=Length(steps=7))
    assert same(state(found), state(expected))


def test_fine_tuning_depends_on_its_arguments_alone(target, settings: Training, tmp_path: Path) -> None:
    model, short = network(), {"length": Length(steps=7)}
    before = torch.get_rng_state()
    first = state(tuned(model, target, settings, **short)[0])
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert same(first, state(tuned(model, target, settings, checkpoint=tmp_path / "run", **short)[0]))
    assert (tmp_path / "run").exists()
    for other in ({"seed": 2}, {"generator": seeded(3)}, {"precision": "bfloat16"}):
        assert not same(first, state(tuned(model, target, settings, **{**short, **other})[0]))


def test_fine_tuning_after_matching(target, settings: Training) -> None:
    """A network of large grey images takes small coloured ones."""
    model = network(channels=1)
    parts = {}
    for name, split in target.items():
        middle = slice(split.padding, split.padding + 8)
        images = matched(split.images[:, middle, middle].numpy(), 1, 12)
        parts[name] = split_of(images, split.labels.numpy())
    result, _ = tuned(model, parts, settings, length=Length(steps=3))
    assert features(result, parts["test"]).values.shape == (60, 8)


# Networks and images that do not fit


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Linear(3, 2), "Linear"),
        (nn.Sequential(), "Sequential"),
        (nn.Sequential(nn.Linear(3, 2), nn.ReLU()), "Sequential that ends with ReLU"),
    ],
)
def test_other_networks_are_refused(model: nn.Module, found: str, target, settings: Training) -> None:
    message = f"the model is a {found}, expected a Sequential that ends with Linear, as stages.tasks"
    with pytest.raises(TypeError, match=message):
        features(model, target["test"])
    with pytest.raises(TypeError, match=message):
        tuned(model, target, settings)


@pytest.mark.parametrize(("taken", "given"), [(1, 3), (3, 1)])
def test_other_channels_of_a_split_are_refused(taken: int, given: int, target, settings: Training) -> None:
    message = rf"the images have {given} channels, the network takes {taken}; convert them with matched\(\)"
    images = split_of(noise(channels=given, num=20))
    with pytest.raises(ValueError, match=message):
        features(network(taken), images)
    with pytest.raises(ValueError, match=message):
        tuned(network(taken), {"train": images, "validation": images}, settings)


def test_images_too_small_to_pool_are_refused() -> None:
    message = r"the images are 1 x 1 pixels, the network's pooling takes at least 2 x 2; resize them with matched\(\)"
    with pytest.raises(ValueError, match=message):
        features(network(), split_of(noise(size=1), padding=4))
    assert features(network(), split_of(noise(size=2))).values.shape == (4, 8)


@pytest.mark.parametrize("name", ["train", "validation"])
def test_too_few_classes_are_refused(name: str, target, settings: Training) -> None:
    low = dataclasses.replace(target["train"], labels=target["train"].labels.clamp(max=1))
    parts = {**{"train": low, "validation": low}, name: target[name]}
    with pytest.raises(ValueError, match=f"{name}: a label is 2, expected 0 to 1 for 2 classes"):
        tuned(network(), parts, settings, classes=2)


def test_too_few_training_images_are_refused(target, settings: Training) -> None:
    settings = dataclasses.replace(settings, batch_size=97)
    with pytest.raises(ValueError, match="batch_size is 97, expected at most the 96 training images; lower it"):
        tuned(network(), target, settings)
