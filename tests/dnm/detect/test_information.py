"""Effective rank, usable and matrix-based information: against known spectra, scikit-learn and formulas by hand."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from dnm.detect.estimates import halves
from dnm.detect.information import effective_rank, exponential_entropy, renyi_information, usable_information
from dnm.errors import DnmError

FEW = settings(max_examples=8, deadline=None, derandomize=True, database=None)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(num: int, eigenvalues: torch.Tensor, width: int) -> torch.Tensor:
    """Rows whose centred scatter matrix has exactly these eigenvalues and else zeros, in a random basis."""
    centred = normal(num, len(eigenvalues))
    scores = torch.linalg.qr(centred - centred.mean(0)).Q
    basis = torch.linalg.qr(normal(width, len(eigenvalues), seed=1)).Q
    return scores * eigenvalues.sqrt() @ basis.T + normal(width, seed=2)


def gaussian_classes(num: int, width: int, num_classes: int, distance: float, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num,), generator=generator)
    means = distance * normal(num_classes, width, seed=99)
    return means[labels] + torch.randn(num, width, generator=generator, dtype=torch.float64), labels


# Effective rank.


@pytest.mark.parametrize("num, width", [(40, 6), (40, 39), (12, 50)])
def test_effective_rank_of_known_spectra(num, width):
    eigenvalues = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.5], dtype=torch.float64)
    shares = eigenvalues / 8
    expected = float((-(shares * shares.log()).sum()).exp())
    assert effective_rank(with_spectrum(num, eigenvalues, width)).value == pytest.approx(expected, rel=1e-9)
    equal = torch.full((5,), 3.0, dtype=torch.float64)
    assert effective_rank(with_spectrum(num, equal, width)).value == pytest.approx(5.0, rel=1e-9)


@pytest.mark.parametrize("shape", [(30, 5), (30, 4, 7), (9, 3, 40)])
def test_effective_rank_and_its_error_are_those_of_covariances_taken_by_hand(shape):
    features = normal(*shape) * torch.linspace(0.1, 3, shape[-1], dtype=torch.float64) + 2
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(0)) % 8

    def rank(kept: torch.Tensor) -> float:
        covariance = torch.cov(kept.reshape(-1, shape[-1]).T)
        return exponential_entropy(torch.linalg.eigvalsh(covariance))

    whole = rank(features)
    ratios = [shape[0] / int((order == group).sum()) for group in range(8)]
    pseudo = [r * whole - (r - 1) * rank(features[order != group]) for group, r in enumerate(ratios)]
    centre = sum(value / r for value, r in zip(pseudo, ratios, strict=True))
    variance = statistics.fmean((value - centre) ** 2 / (r - 1) for value, r in zip(pseudo, ratios, strict=True))
    found = effective_rank(features)
    assert found.value == pytest.approx(whole, rel=1e-10)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-8)


def test_effective_ranks_error_is_its_spread_over_batches():
    scale = torch.arange(1.0, 17.0) ** -0.5
    found = [effective_rank(normal(96, 2, 16, seed=seed) * scale) for seed in range(80)]
    spread = statistics.stdev(item.value for item in found)
    assert statistics.fmean(item.standard_error for item in found) == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("width", [3, 100])
def test_features_that_do_not_vary_have_no_rank(width):
    # The mean of numbers such as 0.1 is rounded.
    for value in (0.0, 0.1, 0.7, 1e6 / 3):
        found = effective_rank(torch.full((19, 3, width), value, dtype=torch.float64))
        assert (found.value, found.standard_error) == (0.0, 0.0)
    assert effective_rank(normal(20, 1).expand(20, width)).value == pytest.approx(1.0, abs=1e-9)


@FEW
@given(scale=st.sampled_from([1e-100, 1e-3, 7.0, 1e90]), seed=st.integers(0, 99), each=st.sampled_from([0, 3]))
def test_effective_rank_does_not_depend_on_scale_rotation_or_order(scale, seed, each):
    features = normal(24, *([each] if each else []), 6, seed=seed) * torch.arange(1.0, 7.0)
    value = effective_rank(features).value
    rotation = torch.linalg.qr(normal(6, 6, seed=seed + 1)).Q
    generator = torch.Generator().manual_seed(seed)
    rows, channels = torch.randperm(24, generator=generator), torch.randperm(6, generator=generator)
    assert effective_rank(features * scale @ rotation).value == pytest.approx(value, rel=1e-9)
    assert effective_rank(features[rows][..., channels] + 5).value == pytest.approx(value, rel=1e-9)


# Usable information.


def by_scikit_learn(features: torch.Tensor, labels: torch.Tensor, shrinkage: float, factored: bool) -> np.ndarray:
    """log p(y | x) - log p(y) of the samples whose class the fitted half has."""
    first = halves(len(labels), 0, labels)
    scored = []
    for fitted in (first, ~first):
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
        model.fit(features[fitted].numpy(), labels[fitted].numpy())
        known = torch.isin(labels, labels[fitted]) & ~fitted
        log_prior = np.log(model.priors_)
        evidence = features[known].numpy() @ model.coef_.T + model.intercept_ - log_prior
        scored.append((evidence, log_prior, np.searchsorted(model.classes_, labels[known].numpy())))

    def gains(factor: float, half: int) -> np.ndarray:
        evidence, log_prior, true = scored[half]
        scores = factor * evidence + log_prior
        top = scores.max(1, keepdims=True)
        scores = scores - top - np.log(np.exp(scores - top).sum(1, keepdims=True))
        return (scores - log_prior)[np.arange(len(true)), true]

    factors = [1.0, 1.0]
    if factored:
        factors = [
            minimize_scalar(lambda t, h=half: -gains(t, h).sum(), bounds=(0, 1), method="bounded",
                            options={"xatol": 1e-9}).x  # type: ignore[call-overload]
            for half in (1, 0)
        ]  # fmt: skip
    return np.concatenate([gains(factors[half], half) for half in (0, 1)])


@pytest.mark.parametrize("num, width, shrinkage", [(200, 6, 0.1), (200, 6, 1.0), (90, 60, 0.02), (60, 100, 0.3)])
@pytest.mark.parametrize("calibrate", [False, True])
def test_usable_information_is_that_of_scikit_learns_discriminant(num, width, shrinkage, calibrate):
    features, labels = gaussian_classes(num, width, 4, 0.4)
    labels = torch.where((labels == 3) & (torch.arange(num) % 3 > 0), 0, labels)
    features = features * torch.linspace(0.5, 4, width) + 3
    expected = by_scikit_learn(features, labels, shrinkage, calibrate)
    found = usable_information(features, labels, shrinkage=shrinkage, calibrate=calibrate)
    tolerance = 1e-6 if calibrate else 1e-9
    assert len(expected) == num
    assert found.value == pytest.approx(expected.mean(), rel=tolerance, abs=tolerance)
    assert found.standard_error == pytest.approx(expected.std(ddof=1) / math.sqrt(num), rel=1e-5)


@pytest.mark.filterwarnings("ignore:Only one sample available:UserWarning")
def test_samples_of_a_class_that_the_fitted_half_lacks_count_nothing():
    features, labels = gaussian_classes(61, 5, 3, 1.0)
    labels[7], labels[30] = 8, 5
    expected = by_scikit_learn(features, labels, 0.1, False)
    assert len(expected) == 59
    found = usable_information(features, labels, calibrate=False)
    assert found.value == pytest.approx(expected.sum() / 61, rel=1e-9)
    counted = np.concatenate([expected, [0.0, 0.0]])
    assert found.standard_error == pytest.approx(counted.std(ddof=1) / math.sqrt(61), rel=1e-9)
    every_one = usable_information(features, torch.arange(61))
    assert (every_one.value, every_one.standard_error) == (0.0, 0.0)


@pytest.mark.parametrize("width", [8, 64, 300])
def test_features_that_tell_nothing_have_no_usable_information(width):
    found = [usable_information(*gaussian_classes(256, width, 10, 0.0, seed)) for seed in range(6)]
    assert statistics.fmean(item.value for item in found) == pytest.approx(0.0, abs=0.01)
    # What calibration is for.
    assert usable_information(*gaussian_classes(256, width, 10, 0.0), calibrate=False).value < -0.2


def test_features_that_tell_all_have_the_labels_entropy():
    features, labels = gaussian_classes(300, 20, 4, 4.0)
    entropy = exponential_entropy(labels.bincount().double())
    assert usable_information(features, labels).value == pytest.approx(math.log(entropy), abs=0.02)
    # Classes that do not vary within.
    one_hot = torch.nn.functional.one_hot(labels)
    assert usable_information(one_hot, labels).value == pytest.approx(math.log(entropy), abs=0.02)


def test_between_nothing_and_all_it_is_the_true_information():
    # Two classes at +-1 with unit variance: the true figure by quadrature.
    x = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    density = (-0.5 * (x - 1) ** 2).exp() / math.sqrt(2 * math.pi)
    true = math.log(2) + float((density * torch.nn.functional.logsigmoid(2 * x)).sum()) * 18 / 20000
    labels = torch.arange(4000) % 2
    found = usable_information(normal(4000, 1) + 2.0 * labels[:, None] - 1, labels)
    assert found.value == pytest.approx(true, abs=3 * found.standard_error)
    assert found.standard_error < 0.02


def test_positions_are_averaged_and_dead_features_tell_nothing():
    features, labels = gaussian_classes(80, 5, 3, 1.0)
    noise = normal(80, 2, 5, seed=4)
    sampled = features[:, None] + torch.cat([noise, -noise], 1)
    assert usable_information(sampled, labels).value == pytest.approx(usable_information(features, labels).value)
    dead = usable_information(torch.full((80, 5), 0.3), labels)
    assert (dead.value, dead.standard_error) == pytest.approx((0.0, 0.0), abs=1e-12)
    alone = usable_information(features, torch.zeros(80, dtype=torch.int64))
    assert (alone.value, alone.standard_error) == (0.0, 0.0)


@FEW
@given(scale=st.sampled_from([1e-30, 0.2, 1e20]), seed=st.integers(0, 99), width=st.sampled_from([4, 45]))
def test_usable_information_does_not_depend_on_scale_rotation_or_names_of_classes(scale, seed, width):
    features, labels = gaussian_classes(60, width, 3, 1.0, seed)
    value = usable_information(features, labels, seed=seed).value
    rotation = torch.linalg.qr(normal(width, width, seed=seed)).Q
    assert usable_information(features * scale @ rotation, labels, seed=seed).value == pytest.approx(value, abs=1e-7)
    channels = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    assert usable_information(features[:, channels] - 2, 10 * labels + 3, seed=seed).value == pytest.approx(
        value, abs=1e-7
    )


def test_usable_information_depends_on_the_seed_alone():
    features, labels = gaussian_classes(60, 4, 3, 0.5)
    state = torch.get_rng_state()
    assert usable_information(features, labels, seed=1) == usable_information(features, labels, seed=1)
    assert usable_information(features, labels, seed=1) != usable_information(features, labels, seed=2)
    assert torch.equal(state, torch.get_rng_state())


# Matrix-based information.


def renyi_by_hand(features: np.ndarray, labels: np.ndarray, alpha: float, bandwidth: float) -> float:
    squares = ((features[:, None] - features[None]) ** 2).sum(2)
    kernel = np.exp(-squares / (2 * bandwidth**2)) / len(labels)
    same = (labels[:, None] == labels[None]) / len(labels)
    joint = kernel * same
    joint = joint / np.trace(joint)

    def entropy(matrix: np.ndarray) -> float:
        values = np.linalg.eigvalsh(matrix).clip(0)
        return math.log((values**alpha).sum()) / (1 - alpha)

    return entropy(kernel) + entropy(same) - entropy(joint)


@pytest.mark.parametrize("alpha", [0.9, 1.01, 2.0])
def test_renyi_information_is_that_of_the_gram_matrices(alpha):
    features, labels = gaussian_classes(50, 3, 4, 1.0)
    distances = torch.pdist(features)
    expected = renyi_by_hand(features.numpy(), labels.numpy(), alpha, float(distances.median()))
    assert renyi_information(features, labels, alpha=alpha).value == pytest.approx(expected, rel=1e-8)
    expected = renyi_by_hand(features.numpy(), labels.numpy(), alpha, 0.7)
    assert renyi_information(features, labels, alpha=alpha, bandwidth=0.7).value == pytest.approx(expected, rel=1e-9)


def test_renyi_information_at_the_ends_of_the_bandwidth():
    features, labels = gaussian_classes(64, 3, 4, 1.0)
    shares = labels.bincount().double() / 64
    entropy = math.log(float((shares**2).sum())) / -1
    # Every sample is like any other; none is like another, which is where all terms saturate.
    assert renyi_information(features, labels, alpha=2.0, bandwidth=1e6).value == pytest.approx(0.0, abs=1e-9)
    narrow = renyi_information(features, labels, alpha=2.0, bandwidth=1e-6).value
    assert narrow == pytest.approx(entropy, rel=1e-12)
    noise = renyi_information(normal(64, 3, seed=5), torch.arange(64), bandwidth=1e-6).value
    assert noise == pytest.approx(math.log(64), rel=1e-9)
    assert renyi_information(features, labels, alpha=1.0).value == pytest.approx(
        renyi_information(features, labels, alpha=1 + 1e-6).value, abs=1e-4
    )


def test_renyi_information_grows_with_the_distance_of_classes():
    values = [renyi_information(*gaussian_classes(96, 4, 3, distance)) for distance in (0.0, 1.0, 3.0)]
    for low, high in pairwise(values):
        assert high.value - low.value > 3 * math.hypot(high.standard_error, low.standard_error)
    dead = renyi_information(torch.full((40, 3), 0.2), torch.arange(40) % 3)
    assert dead.value == pytest.approx(0.0, abs=1e-9)


@FEW
@given(scale=st.sampled_from([1e-40, 3.0, 1e40]), seed=st.integers(0, 99))
def test_renyi_information_does_not_depend_on_scale_rotation_or_order(scale, seed):
    features, labels = gaussian_classes(33, 5, 3, 1.0, seed)
    value = renyi_information(features, labels).value
    rotation = torch.linalg.qr(normal(5, 5, seed=seed)).Q
    assert renyi_information(features * scale @ rotation, labels).value == pytest.approx(value, abs=1e-8)
    rows = torch.randperm(33, generator=torch.Generator().manual_seed(seed))
    assert renyi_information(features[rows], 7 - labels[rows]).value == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize(
    "function, options, message",
    [
        (usable_information, {"shrinkage": 0.0}, "usable_information: got shrinkage 0.0, expected above 0"),
        (usable_information, {"shrinkage": 1.1}, "usable_information: got shrinkage 1.1, expected above 0"),
        (renyi_information, {"alpha": 0.0}, "renyi_information: got alpha 0.0, expected a finite number above 0"),
        (renyi_information, {"bandwidth": math.inf}, "renyi_information: got bandwidth inf, expected a finite number"),
    ],
)
def test_settings_out_of_range_are_refused(function, options, message):
    with pytest.raises(DnmError, match=message):
        function(normal(8, 2), torch.arange(8) % 2, **options)


def test_new_tensors_are_made_where_the_features_are():
    # Tensors made without naming a device would be on the meta device here and not mix with the features.
    features, labels = gaussian_classes(24, 3, 2, 1.0)
    expected = [f(features, labels) for f in (usable_information, renyi_information)]
    with torch.device("meta"):
        assert [f(features, labels) for f in (usable_information, renyi_information)] == expected
        assert effective_rank(features).value > 1
        assert effective_rank(features.T).value > 1
