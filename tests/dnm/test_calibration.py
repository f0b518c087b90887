"""The calibration against generalised least squares with the prior as data, and against planted gains."""

from __future__ import annotations

import numpy as np
import pytest

from dnm.calibration import Calibration, Terms
from dnm.detect.estimates import Estimate
from dnm.errors import DnmError

OPERATORS, THEORIES = ("Divide", "AddResidual"), ("information", "gradient")


def fresh() -> Calibration:
    return Calibration(OPERATORS, THEORIES)


def edits(random: np.random.Generator) -> list[Terms]:
    return [
        Terms(
            OPERATORS[random.integers(2)],
            float(random.uniform(0.05, 0.3)),
            {name: float(random.standard_normal()) for name in THEORIES},
        )
        for _ in range(random.integers(1, 4))
    ]


def row(terms: list[Terms]) -> np.ndarray:
    columns = [sum(t.growth for t in terms if t.operator == name) for name in OPERATORS]
    return np.array(columns + [sum(t.growth * t.covariates[name] for t in terms) for name in THEORIES])


def test_nothing_observed_is_uniform() -> None:
    found = fresh()
    first = Terms("Divide", 0.1, {"information": 3.0, "gradient": -2.0})
    second = Terms("AddResidual", 0.1, {})
    assert found.predict([first], 2.0).value == pytest.approx(0.2)
    assert found.predict([second], 2.0).value == pytest.approx(0.2)
    # 0.2 x the root of 0.5^2 + (3 x 0.25)^2 + (2 x 0.25)^2.
    assert found.predict([first], 2.0).standard_error == pytest.approx(0.2 * np.sqrt(0.25 + 0.5625 + 0.25))


def test_the_posterior_is_least_squares_with_the_prior_as_data() -> None:
    random = np.random.default_rng(0)
    found = fresh()
    deviations = np.array([0.5, 0.5, 0.25, 0.25])
    design, targets = [np.diag(1 / deviations)], [np.array([2.0, 2.0, 0.0, 0.0])]
    for _ in range(7):
        terms, unit, gain, error = edits(random), random.uniform(0.5, 2), random.normal(), random.uniform(0.05, 0.4)
        found.observe(terms, unit, Estimate(gain, error))
        design.append(row(terms)[None] * unit / error)
        targets.append(np.array([gain / error]))
    whole, values = np.concatenate(design), np.concatenate(targets)
    expected = np.linalg.lstsq(whole, values, rcond=None)[0]
    covariance = np.linalg.inv(whole.T @ whole)
    assert [c.value for c in found.coefficients.values()] == pytest.approx(expected)
    assert [c.standard_error for c in found.coefficients.values()] == pytest.approx(np.sqrt(np.diag(covariance)))
    terms = edits(random)
    predicted = found.predict(terms, 1.5)
    assert predicted.value == pytest.approx(1.5 * row(terms) @ expected)
    assert predicted.standard_error == pytest.approx(1.5 * np.sqrt(row(terms) @ covariance @ row(terms)))


def test_planted_weights_are_found() -> None:
    random = np.random.default_rng(1)
    planted = np.array([0.4, 1.6, 0.5, -0.3])
    found = fresh()
    for _ in range(400):
        terms = edits(random)
        found.observe(terms, 1.0, Estimate(float(row(terms) @ planted + 0.02 * random.standard_normal()), 0.02))
    for value, estimate in zip(planted, found.coefficients.values(), strict=True):
        assert abs(estimate.value - value) < 4 * estimate.standard_error
        assert estimate.standard_error < 0.05


def test_its_state_goes_on_exactly() -> None:
    random = np.random.default_rng(2)
    found, other = fresh(), fresh()
    found.observe(edits(random), 1.0, Estimate(0.3, 0.1))
    other.load_state_dict(found.state_dict())
    terms = edits(random)
    for each in (found, other):
        each.observe(terms, 0.7, Estimate(-0.1, 0.2))
    assert found.state_dict() == other.state_dict()


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(DnmError, match="operator 'Connect' is not calibrated"):
        fresh().predict([Terms("Connect", 0.1, {})], 1.0)
    for bad in (Estimate(float("nan"), 0.1), Estimate(0.1, 0.0), Estimate(0.1, float("inf"))):
        with pytest.raises(DnmError, match="expected finite figures and a positive standard error"):
            fresh().observe([Terms("Divide", 0.1, {})], 1.0, bad)
    with pytest.raises(DnmError, match=r"the calibration is of theories \['information', 'gradient'\], expected"):
        Calibration(OPERATORS, ("manifold",)).load_state_dict(fresh().state_dict())
