"""The expressivity bottleneck: against least squares by hand, with bottlenecks that are planted and that are not."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from dnm.detect.estimates import halves
from dnm.detect.expressivity import bottleneck, new_unit_gain, residual
from dnm.errors import DnmError

FEW = settings(max_examples=8, deadline=None, derandomize=True, database=None)
NONE = 1e-12


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(num: int, each: int, *, seen: float, hidden: float, noise: float, seed: int = 0, width: int = 20):
    """A layer that reads relu(half of the earlier features), and what is desired of it.

    Returns:
        Earlier inputs, its own inputs and the desired change, which has a part that its inputs explain, a part of rank
        one that only the earlier inputs do, and noise.
    """
    earlier = normal(num, each, width, seed=seed)
    inputs = torch.relu(earlier[..., : width // 2] @ normal(width // 2, 12, seed=90) / (width // 2) ** 0.5)
    desired = seen * inputs @ normal(12, 5, seed=91) / 12**0.5
    direction = torch.zeros(width, dtype=torch.float64)
    direction[width // 2 :] = 1 / (width - width // 2) ** 0.5
    desired = desired + hidden * (earlier @ direction)[..., None] / 5**0.5
    return earlier, inputs, desired + noise * normal(num, each, 5, seed=seed + 1)


# By hand.


def by_hand(inputs: torch.Tensor, desired: torch.Tensor, ridge: float, bias: bool, crossed: bool = True) -> np.ndarray:
    """Residuals with scikit-learn's regression."""
    first = halves(len(inputs), 0)
    result = np.empty(desired.shape)
    for fitted, other in ((first, ~first), (~first, first)):
        data = inputs[fitted].flatten(0, 1).numpy()
        centred = data - data.mean(0) if bias else data
        penalty = ridge * (centred**2).sum() / data.shape[1]
        model = Ridge(alpha=penalty, fit_intercept=bias, solver="cholesky", tol=1e-12)
        model.fit(data, desired[fitted].flatten(0, 1).numpy())
        place = other if crossed else fitted
        predicted = model.predict(inputs[place].flatten(0, 1).numpy())
        result[place.numpy()] = desired[place].numpy() - predicted.reshape(desired[place].shape)
    return result


@pytest.mark.parametrize("shape", [(30, 4, 7), (31, 1, 3), (10, 2, 25)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ridge", [0.02, 1.0])
def test_residuals_and_their_share_are_those_of_ridge_regression(shape, bias, ridge):
    inputs, desired = normal(*shape) * torch.linspace(0.3, 2, shape[2]) + 1, normal(*shape[:2], 4, seed=1) + 2
    expected = by_hand(inputs, desired, ridge, bias)
    assert np.allclose(residual(inputs, desired, ridge, bias=bias), expected, rtol=1e-9, atol=1e-11)
    own = by_hand(inputs, desired, ridge, bias, crossed=False)
    assert np.allclose(residual(inputs, desired, ridge, bias=bias, crossed=False), own, rtol=1e-9, atol=1e-11)
    undone, wanted = (expected**2).sum((1, 2)), (desired**2).sum((1, 2)).numpy()
    found = bottleneck(inputs, desired, ridge, bias=bias)
    assert found.value == pytest.approx(undone.sum() / wanted.sum(), rel=1e-9)
    parts = (undone - found.value * wanted) / wanted.mean()
    # The parts have a mean of 0, so this is their standard deviation.
    assert found.standard_error == pytest.approx(parts.std(ddof=1) / math.sqrt(len(parts)), rel=1e-7)


def test_without_a_ridge_updates_are_least_squares_with_a_column_of_ones():
    inputs, desired = normal(40, 3, 6) + 1, normal(40, 3, 2, seed=1) - 2
    first = halves(40, 0)
    ones = torch.cat([inputs, torch.ones(40, 3, 1)], 2)
    slope = np.linalg.lstsq(ones[first].flatten(0, 1).numpy(), desired[first].flatten(0, 1).numpy(), rcond=None)[0]
    expected = desired[~first].numpy() - ones[~first].numpy() @ slope
    assert np.allclose(residual(inputs, desired, NONE)[~first], expected, rtol=1e-7)
    assert np.allclose(residual(ones, desired, NONE, bias=False)[~first], expected, rtol=1e-6)


@pytest.mark.parametrize("units", [1, 2, 4, 9])
@pytest.mark.parametrize("shape", [(30, 4, 6), (12, 2, 30)])
def test_the_gain_of_new_units_is_that_of_the_singular_triples(units, shape):
    earlier, undone, ridge = normal(*shape) * torch.linspace(0.5, 2, shape[2]), normal(*shape[:2], 4, seed=1), 0.05
    first = halves(shape[0], 0)
    gains, variance = np.empty(shape[0]), 0.0
    for fitted, other in ((first, ~first), (~first, first)):
        data, wanted = earlier[fitted].flatten(0, 1).numpy(), undone[fitted].flatten(0, 1).numpy()
        mean = data.mean(0)
        moments = (data - mean).T @ (data - mean) / len(data)
        moments = moments + ridge * np.trace(moments) / shape[2] * np.eye(shape[2])
        values, vectors = np.linalg.eigh(moments)
        root = vectors / np.sqrt(values) @ vectors.T
        left, singular, right = np.linalg.svd(root @ (data - mean).T @ wanted / len(data), full_matrices=False)
        made = (earlier[other].numpy() - mean) @ root @ left[:, :units] * singular[:units] @ right[:units]
        gains[other.numpy()] = (made * undone[other].numpy()).sum((1, 2))
        variance += gains[other.numpy()].var(ddof=1) / int(other.sum())
    found = new_unit_gain(earlier, undone, units, ridge=ridge)
    assert found.value == pytest.approx(gains.mean(), rel=1e-7)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-7)


# Planted, and not.


def test_a_layer_that_can_do_all_has_no_bottleneck():
    inputs = normal(60, 4, 8)
    desired = inputs @ normal(8, 5, seed=1) + 3
    found = bottleneck(inputs, desired, NONE)
    assert found.value == pytest.approx(0.0, abs=1e-9) and found.standard_error < 1e-9
    # Without its bias it misses the mean.
    assert bottleneck(inputs, desired, NONE, bias=False).value > 0.3


@pytest.mark.parametrize("noise, expected", [(0.5, 0.2), (1.0, 0.5), (2.0, 0.8)])
def test_the_share_of_a_planted_bottleneck_is_found(noise, expected):
    inputs = normal(1500, 1, 10)
    slope = torch.linalg.qr(normal(10, 10, seed=1)).Q[:, :4]
    found = bottleneck(inputs, inputs @ slope + noise * normal(1500, 1, 4, seed=2), 1e-3)
    assert found.value == pytest.approx(expected, abs=3 * found.standard_error)
    assert found.standard_error < 0.02


@pytest.mark.parametrize("width", [40, 200])
def test_few_positions_do_not_hide_a_bottleneck(width):
    # On the samples that it was fitted on, least squares explains any noise once there are enough inputs.
    inputs, desired = normal(20, 2, width), normal(20, 2, 3, seed=1)
    data, wanted = inputs.flatten(0, 1).numpy(), desired.flatten(0, 1).numpy()
    spurious = wanted - data @ np.linalg.lstsq(data, wanted, rcond=None)[0]
    assert (spurious**2).sum() < 1e-12
    found = bottleneck(inputs, desired)
    assert found.value > 1 - 2 * found.standard_error


def test_noise_is_left_undone_and_more_than_that_with_a_small_ridge():
    inputs, desired = normal(128, 4, 64), normal(128, 4, 6, seed=1)
    assert bottleneck(inputs, desired, 1e-6).value > bottleneck(inputs, desired, 0.1).value > 1.0
    assert bottleneck(inputs, desired, 1e4).value == pytest.approx(1.0, abs=0.01)


def test_new_units_find_what_the_layer_cannot_see():
    earlier, inputs, desired = layer(300, 2, seen=1.0, hidden=0.8, noise=1.0)
    undone = residual(inputs, desired, crossed=False)
    one, two, five = (new_unit_gain(earlier, undone, units, ridge=1e-3) for units in (1, 2, 5))
    # Two positions, each with 0.8^2 of variance along one direction.
    assert one.value == pytest.approx(2 * 0.64, abs=3 * one.standard_error)
    assert one.value > 6 * one.standard_error
    # It is of rank one, so that more units only find noise.
    assert abs(two.value - one.value) < two.standard_error
    assert abs(five.value - one.value) < five.standard_error
    # The layer itself sees nothing of it: what it can do is no gain of new units.
    blind = new_unit_gain(earlier, residual(*layer(300, 2, seen=1.0, hidden=0.0, noise=1.0)[1:], crossed=False), 1)
    assert abs(blind.value) < 0.2 * one.value


@pytest.mark.parametrize("units", [1, 4])
def test_where_there_is_nothing_to_find_the_gain_is_0_on_average(units):
    found, crossed = [], []
    for seed in range(0, 120, 2):
        earlier, inputs, desired = layer(96, 2, seen=0.0, hidden=0.0, noise=1.0, seed=seed)
        found.append(new_unit_gain(earlier, residual(inputs, desired, crossed=False), units))
        crossed.append(new_unit_gain(earlier, residual(inputs, desired), units).value)
    values = [item.value for item in found]
    error = statistics.stdev(values) / math.sqrt(len(values))
    assert abs(statistics.fmean(values)) < 3 * error
    assert statistics.fmean(abs(item.value) < 1.96 * item.standard_error for item in found) > 0.9
    # What crossed residuals would do.
    assert statistics.fmean(crossed) < -5 * error


@pytest.mark.parametrize("hidden, at_most", [(0.8, 1.7), (0.3, 3.0)])
def test_errors_of_gains_are_not_smaller_than_their_spread(hidden, at_most):
    found = []
    for seed in range(0, 160, 2):
        earlier, inputs, desired = layer(96, 2, seen=0.5, hidden=hidden, noise=1.0, seed=seed)
        found.append(new_unit_gain(earlier, residual(inputs, desired, crossed=False), 1))
    ratio = statistics.fmean(item.standard_error for item in found) / statistics.stdev(item.value for item in found)
    assert 0.85 < ratio < at_most


@pytest.mark.parametrize("noise, ratio", [(0.5, 0.9), (4.0, 0.75)])
def test_errors_of_bottlenecks_are_as_much_smaller_as_is_said(noise, ratio):
    found = []
    for seed in range(0, 200, 2):
        _, inputs, desired = layer(96, 2, seen=1.0, hidden=0.0, noise=noise, seed=seed)
        found.append(bottleneck(inputs, desired))
    said = statistics.fmean(item.standard_error for item in found) / statistics.stdev(item.value for item in found)
    assert said == pytest.approx(ratio, abs=0.2)


# What data may look like.


def test_where_nothing_is_desired_nothing_is_left_undone():
    inputs = normal(10, 2, 3)
    assert bottleneck(inputs, torch.zeros(10, 2, 4)).as_dict() == {"value": 0.0, "standard_error": 0.0}
    assert new_unit_gain(inputs, torch.zeros(10, 2, 4), 2).as_dict() == {"value": 0.0, "standard_error": 0.0}


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_dead_inputs_do_nothing_beyond_the_bias(value):
    dead, desired = torch.full((40, 2, 3), value, dtype=torch.float64), normal(40, 2, 4, seed=1) + 1
    first = halves(40, 0)
    expected = desired.clone()
    expected[first] -= desired[~first].mean((0, 1))
    expected[~first] -= desired[first].mean((0, 1))
    assert torch.allclose(residual(dead, desired), expected, atol=1e-6)
    assert new_unit_gain(dead, desired, 1).value == pytest.approx(0.0, abs=1e-6)


@FEW
@given(scale=st.sampled_from([1e-60, 0.3, 1e60]), seed=st.integers(0, 99), each=st.sampled_from([1, 3]))
def test_figures_do_not_depend_on_scale_or_rotation_of_channels(scale, seed, each):
    earlier, inputs, desired = layer(40, each, seen=1.0, hidden=1.0, noise=0.5, seed=seed)
    share, gain = bottleneck(inputs, desired), new_unit_gain(earlier, desired, 2)
    turns = [torch.linalg.qr(normal(width, width, seed=seed)).Q for width in (12, 5, 20)]
    assert bottleneck(scale * (inputs @ turns[0] + 2), desired).value == pytest.approx(share.value, rel=1e-8)
    assert bottleneck(inputs, scale * desired @ turns[1]).value == pytest.approx(share.value, rel=1e-8)
    turned = new_unit_gain(scale * (earlier @ turns[2]), desired @ turns[1], 2)
    assert turned.value == pytest.approx(gain.value, rel=1e-8)
    assert new_unit_gain(earlier, scale * desired, 2).value == pytest.approx(scale**2 * gain.value, rel=1e-8)
    places = torch.randperm(each, generator=torch.Generator().manual_seed(seed))
    assert bottleneck(inputs[:, places], desired[:, places]).value == pytest.approx(share.value, rel=1e-9)
    assert bottleneck(inputs, desired, seed=seed + 1) != share == bottleneck(inputs, desired)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bottleneck(normal(4, 3), normal(4, 3, 2)), r"inputs: got shape \(4, 3\), expected 3 dimensions"),
        (
            lambda: bottleneck(normal(4, 3, 2), normal(4, 2, 2)),
            r"desired: got shape \(4, 2, 2\) beside inputs of shape \(4, 3, 2\), expected the same samples",
        ),
        (lambda: residual(normal(1, 3, 2), normal(1, 3, 2)), r"inputs: got shape .* expected at least 2 samples"),
        (lambda: residual(normal(4, 3, 2), normal(4, 3, 2), 0.0), "ridge: got 0.0, expected a finite number above 0"),
        (lambda: bottleneck(normal(4, 3, 2), normal(4, 3, 2) * math.nan), "desired: 24 of 24 numbers are not finite"),
        (lambda: new_unit_gain(normal(4, 3, 2), normal(4, 3, 2), 0), "new_unit_gain: got 0 units, expected at least 1"),
        (
            lambda: new_unit_gain(normal(3, 3, 2), normal(3, 3, 2), 1),
            r"earlier_inputs: got shape \(3, 3, 2\), expected at least 4 samples",
        ),
        (
            lambda: new_unit_gain(normal(4, 3, 2), normal(5, 3, 2), 1),
            r"residual: got shape \(5, 3, 2\) beside earlier_inputs of shape \(4, 3, 2\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(DnmError, match=message):
        call()


def test_new_tensors_are_made_where_the_inputs_are():
    # Tensors made without naming a device would be on the meta device here and not mix with the inputs.
    earlier, inputs, desired = layer(20, 2, seen=1.0, hidden=1.0, noise=0.5)
    expected = bottleneck(inputs, desired), new_unit_gain(earlier, desired, 2), bottleneck(earlier[:6], desired[:6])
    with torch.device("meta"):
        found = bottleneck(inputs, desired), new_unit_gain(earlier, desired, 2), bottleneck(earlier[:6], desired[:6])
    assert found == expected
