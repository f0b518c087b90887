"""The forecast against numpy's fit, and its error against a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dnm import forecast


def curve(num: int = 12, noise: float = 0.02, seed: int = 0) -> list[tuple[float, float]]:
    random = np.random.default_rng(seed)
    samples = np.linspace(600, 1000, num)
    return [(float(x), float(3.0 * x**-0.4 * np.exp(noise * random.standard_normal()))) for x in samples]


def test_the_line_is_numpys_least_squares() -> None:
    points = curve()
    line = forecast.fit(points)
    assert line is not None
    x, y = np.log(np.array(points)).T
    (slope, level), covariance = np.polyfit(x, y, 1, cov=True)
    assert line.slope == pytest.approx(-slope)
    assert math.log(line.loss(1500.0).value) == pytest.approx(level + slope * math.log(1500.0))
    away = np.array([math.log(1500.0), 1.0])
    spread = line.variance * (1 / line.num_points + (math.log(1500.0) - line.at) ** 2 / line.spread)
    assert spread == pytest.approx(away @ covariance @ away)


def test_an_exact_power_is_continued_exactly() -> None:
    line = forecast.fit([(x, 5.0 * x**-0.3) for x in (500.0, 700.0, 800.0, 1000.0)])
    assert line is not None
    ahead = line.loss(4000.0)
    assert ahead.value == pytest.approx(5.0 * 4000.0**-0.3)
    assert ahead.standard_error == pytest.approx(ahead.value * forecast.MODEL_ERROR)


def test_only_the_last_stretch_counts() -> None:
    points = curve()
    assert forecast.fit([(10.0, 99.0), (499.0, 50.0), *points]) == forecast.fit(points)


def test_there_is_no_line_without_points_or_through_losses_that_are_not_positive() -> None:
    assert forecast.fit([]) is None
    assert forecast.fit(curve()[:2]) is None
    assert forecast.fit([(10.0, 1.0), (10.0, 0.9), (10.0, 0.8)]) is None
    assert forecast.fit([(10.0, 1.0), (11.0, 0.0), (12.0, 0.5)]) is None


def test_the_error_is_that_of_one_more_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "MODEL_ERROR", 0.0)
    scores = []
    for seed in range(400):
        line = forecast.fit(curve(seed=seed))
        assert line is not None
        ahead = line.loss(1300.0)
        truth = 3.0 * 1300.0**-0.4 * math.exp(0.02 * np.random.default_rng(seed + 10**6).standard_normal())
        scores.append((truth - ahead.value) / ahead.standard_error)
    # Student's t with 10 degrees of freedom has a standard deviation of 1.118.
    assert np.std(scores) == pytest.approx(1.118, rel=0.12)
