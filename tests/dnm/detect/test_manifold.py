"""Intrinsic dimension and participation ratio: against formulas by hand, known manifolds, DADApy and their spread."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.spatial import KDTree

from dnm.detect.estimates import Estimate, jackknife
from dnm.detect.information import effective_rank
from dnm.detect.manifold import levina_bickel, participation_ratio, two_nn
from dnm.errors import DnmError

FEW = settings(max_examples=8, deadline=None, derandomize=True, database=None)
# Means over many draws of 512 points, which are biased as the table at the top of the module says.
MEANS = {
    ("cube", 2): (1.97, 1.94), ("cube", 5): (4.57, 4.40), ("cube", 10): (8.29, 7.94),
    ("gaussian", 2): (2.02, 2.03), ("gaussian", 5): (5.05, 4.95), ("gaussian", 10): (9.42, 8.86),
}  # fmt: skip


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(kind: str, num: int, dimension: int, seed: int = 0) -> torch.Tensor:
    if kind == "gaussian":
        return normal(num, dimension, seed=seed)
    return torch.rand(num, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(points: torch.Tensor) -> torch.Tensor:
    """In 40 dimensions, distances unchanged."""
    return points @ torch.linalg.qr(normal(40, points.shape[1], seed=8)).Q.T + 3


def curved(points: torch.Tensor) -> torch.Tensor:
    """On a smooth graph over the plane in 40 dimensions, so that distances change slowly from place to place."""
    flat = linear(points)
    return torch.cat([flat, 0.4 * torch.sin(flat @ normal(40, 20, seed=9) / 3)], 1)


def nearest(points: torch.Tensor, num: int) -> np.ndarray:
    return KDTree(points.numpy()).query(points.numpy(), num + 1)[0][:, 1:]


# By hand.


def test_two_nn_without_discarding_is_the_unbiased_estimate():
    points = normal(200, 4)
    distances = nearest(points, 2)
    expected = 199 / np.log(distances[:, 1] / distances[:, 0]).sum()
    assert two_nn(points, discard=0.0).value == pytest.approx(expected, rel=1e-10)


def test_two_nn_with_discarding_is_the_likeliest_dimension_of_censored_ratios():
    points = normal(200, 4)
    distances = nearest(points, 2)
    logs = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    kept = 150

    def unlikely(dimension: float) -> float:
        density = kept * math.log(dimension) - dimension * logs[:kept].sum()
        return -(density - dimension * logs[kept - 1] * (len(logs) - kept))

    best = minimize_scalar(unlikely, bounds=(0.5, 50), method="bounded", options={"xatol": 1e-9}).x  # type: ignore[call-overload]
    assert two_nn(points, discard=0.25).value == pytest.approx(best * (kept - 1) / kept, rel=1e-6)


def test_levina_bickel_averages_inverses_of_the_estimates_at_each_point():
    points = normal(150, 4)
    distances = nearest(points, 7)
    at_points = 1 / np.log(distances[:, -1:] / distances[:, :-1]).mean(1)
    assert levina_bickel(points, 7).value == pytest.approx(1 / (1 / at_points).mean(), rel=1e-10)


@pytest.mark.parametrize("function, num", [(two_nn, 2), (levina_bickel, 10)])
def test_errors_hold_the_covariance_of_mutual_neighbours(function, num):
    points = normal(60, 3)
    found = KDTree(points.numpy()).query(points.numpy(), num + 1)
    distances, indices = (np.asarray(item)[:, 1:] for item in found)
    value = function(points).value
    if function is two_nn:
        logs = np.log(distances[:, 1] / distances[:, 0])
        limit = np.sort(logs)[53]
        scores = value / 54 * ((logs <= limit) - value * logs.clip(max=limit))
    else:
        inverses = np.log(distances[:, -1:] / distances[:, :-1]).mean(1)
        scores = value**2 * (inverses - inverses.mean()) / 60
    near = np.zeros((60, 60))
    near[np.arange(60)[:, None], indices] = 1
    variance = scores @ (near * near.T + np.eye(60)) @ scores
    assert function(points).standard_error == pytest.approx(math.sqrt(max(variance, (scores**2).sum())), rel=1e-9)


# Known manifolds.


@pytest.mark.parametrize("embed", [linear, curved])
@pytest.mark.parametrize("kind, dimension", list(MEANS))
def test_dimension_of_known_manifolds(kind, dimension, embed):
    points = embed(draw(kind, 512, dimension))
    for found, mean in zip((two_nn(points), levina_bickel(points)), MEANS[kind, dimension], strict=True):
        # Curvature adds a little: at most 8% here.
        slack = 0.0 if embed is linear else 0.08 * dimension
        assert abs(found.value - mean) < 3.5 * found.standard_error + slack
        assert found.standard_error < 0.08 * mean


def test_more_points_are_less_biased():
    bias = [3 - statistics.fmean(levina_bickel(draw("cube", n, 3, s)).value for s in range(4)) for n in (64, 1500)]
    assert 0 < bias[1] < 0.6 * bias[0]


@pytest.mark.parametrize("function", [two_nn, levina_bickel])
@pytest.mark.parametrize("kind, num, dimension", [("cube", 128, 5), ("gaussian", 256, 2), ("gaussian", 128, 10)])
def test_intervals_of_95_percent_cover_the_estimates_mean(function, kind, num, dimension):
    found = [function(draw(kind, num, dimension, seed)) for seed in range(200)]
    mean = statistics.fmean(item.value for item in found)
    covered = statistics.fmean(abs(item.value - mean) < 1.96 * item.standard_error for item in found)
    assert 0.90 <= covered <= 0.995


@pytest.mark.skipif("DNM_DADAPY" not in os.environ, reason="DNM_DADAPY names no interpreter with dadapy==0.3.4")
@pytest.mark.parametrize("kind, dimension", list(MEANS))
def test_against_dadapy(kind, dimension, tmp_path: Path):
    points = curved(draw(kind, 512, dimension))
    np.save(tmp_path / "points.npy", points.numpy())
    script = (
        "import json, sys, numpy, dadapy; data = dadapy.Data(numpy.load(sys.argv[1]), n_jobs=1);"
        "ml = data.compute_id_2NN(algorithm='ml')[0]; base = data.compute_id_2NN()[0];"
        "print(json.dumps([float(ml), float(base)]))"
    )
    command = [os.environ["DNM_DADAPY"], "-c", script, str(tmp_path / "points.npy")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    likeliest, fitted = json.loads(output.splitlines()[-1])
    assert two_nn(points, discard=0.0).value == pytest.approx(likeliest, rel=1e-9)
    # Its default is a straight line through the smaller 90% of the ratios.
    found = two_nn(points)
    assert found.value == pytest.approx(fitted, abs=2.5 * found.standard_error)


# What data may look like.


@pytest.mark.parametrize("function", [two_nn, levina_bickel])
def test_of_equal_points_one_is_kept(function):
    points = normal(80, 3)
    doubled = torch.cat([points, points[:50], points[:1].expand(20, 3), points[3:4] * 1.0])
    assert function(doubled) == function(points)
    assert math.isfinite(function(points).value)


def test_near_copies_are_what_discarding_is_for():
    points = normal(400, 4)
    copies = torch.cat([points, points[:8] + 1e-7 * normal(8, 4, seed=3)])
    assert two_nn(copies, discard=0.0).value < 0.5 * two_nn(points, discard=0.0).value
    assert two_nn(copies).value == pytest.approx(two_nn(points).value, rel=0.15)


@pytest.mark.parametrize("function", [two_nn, levina_bickel])
@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_scales_at_the_ends_of_the_range(function, scale):
    points = normal(50, 3)
    assert function(points * scale).value == pytest.approx(function(points).value, rel=1e-9)


def both(points: torch.Tensor) -> list[Estimate]:
    return [two_nn(points), levina_bickel(points, 5), participation_ratio(points)]


@FEW
@given(scale=st.sampled_from([1e-100, 0.3, 1e100]), seed=st.integers(0, 99), width=st.sampled_from([3, 12]))
def test_dimensions_do_not_depend_on_scale_rotation_place_or_order(scale, seed, width):
    points = normal(64, width, seed=seed) * torch.linspace(0.2, 1, width)
    expected = [item.value for item in both(points)]
    rotation = torch.linalg.qr(normal(width, width, seed=seed + 1)).Q
    assert [item.value for item in both((points @ rotation + 4) * scale)] == pytest.approx(expected, rel=1e-7)
    generator = torch.Generator().manual_seed(seed)
    rows, channels = torch.randperm(64, generator=generator), torch.randperm(width, generator=generator)
    shuffled = both(points[rows][:, channels])
    assert [item.value for item in shuffled] == pytest.approx(expected, rel=1e-9)
    errors = [item.standard_error for item in both(points)[:2]]
    assert [item.standard_error for item in shuffled[:2]] == pytest.approx(errors, rel=1e-7)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: two_nn(torch.ones(9, 2)), "two_nn: 1 of 9 points are distinct, expected at least 3; take more"),
        (lambda: levina_bickel(normal(10, 2)), "levina_bickel: 10 of 10 points are distinct, expected at least 11"),
        (lambda: levina_bickel(torch.cat([normal(10, 2)] * 3)), "levina_bickel: 10 of 30 points are distinct"),
        (lambda: two_nn(torch.eye(9)), "two_nn: the nearest neighbours of every point are equally far"),
        (lambda: levina_bickel(torch.eye(12)), "levina_bickel: the nearest neighbours of every point are equally far"),
        (lambda: two_nn(normal(9, 2), 1.0), "two_nn: got discard 1.0, expected from 0 to below 1"),
        (lambda: two_nn(normal(9, 2), 0.8), "two_nn: 2 of 9 ratios are kept, expected at least 3; discard fewer"),
        (lambda: levina_bickel(normal(9, 2), 1), "levina_bickel: got 1 neighbours, expected at least 2"),
        (lambda: two_nn(normal(9, 2, 2)), r"points: got shape \(9, 2, 2\), expected 2 dimensions"),
    ],
)
def test_points_without_a_dimension_are_refused(call, message):
    with pytest.raises(DnmError, match=message):
        call()


# Participation ratio.


@pytest.mark.parametrize("num, width", [(40, 6), (12, 50)])
def test_participation_ratio_of_known_spectra(num, width):
    eigenvalues = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    centred = normal(num, 4)
    scores = torch.linalg.qr(centred - centred.mean(0)).Q * eigenvalues.sqrt()
    features = scores @ torch.linalg.qr(normal(width, 4, seed=1)).Q.T - 7
    assert participation_ratio(features).value == pytest.approx(64 / 22, rel=1e-9)
    assert participation_ratio(features.expand(3, num, width).movedim(0, 1)).value == pytest.approx(64 / 22, rel=1e-9)
    assert participation_ratio(features).value < effective_rank(features).value < 4


@pytest.mark.parametrize("shape", [(30, 5), (30, 4, 7), (9, 3, 40)])
def test_participation_ratios_error_is_the_jackknifes(shape):
    features = normal(*shape) * torch.linspace(0.1, 3, shape[-1], dtype=torch.float64) + 2

    def ratio(kept: torch.Tensor) -> float:
        values = torch.linalg.eigvalsh(torch.cov(kept.reshape(-1, shape[-1]).T))
        return float(values.sum() ** 2 / values.square().sum())

    expected, found = jackknife(ratio, features), participation_ratio(features)
    assert found.value == pytest.approx(expected.value, rel=1e-10)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-8)


def test_participation_ratio_is_biased_as_said_and_its_error_is_its_spread():
    found = [participation_ratio(normal(100, 25, seed=seed)) for seed in range(60)]
    assert statistics.fmean(item.value for item in found) == pytest.approx(100 * 25 / 125, rel=0.02)
    found = [participation_ratio(normal(100, 6, seed=seed) * torch.arange(1.0, 7.0)) for seed in range(60)]
    spread = statistics.stdev(item.value for item in found)
    assert statistics.fmean(item.standard_error for item in found) == pytest.approx(spread, rel=0.3)


def test_features_that_do_not_vary_fill_nothing():
    found = participation_ratio(torch.full((20, 4, 3), 0.1))
    assert (found.value, found.standard_error) == (0.0, 0.0)


def test_new_tensors_are_made_where_the_points_are():
    points = normal(40, 3)
    expected = both(points)
    with torch.device("meta"):
        assert both(points) == expected
