"""Intervals, tests and verdicts against closed forms, brute force, peers and simulation."""

from __future__ import annotations

import math
import pickle
from dataclasses import astuple, replace
from fractions import Fraction
from itertools import product
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from stages.inference import (
    PairedDifference,
    Verdict,
    equivalent,
    holm,
    interquartile_mean,
    iqm_interval,
    paired_difference,
    summary,
    verdict,
)

TREATMENT = [94.5, 95.1, 94.9, 95.6, 94.2]
CONTROL = [93.9, 95.3, 93.8, 94.1, 94.0]

# Eighths of small integers: sums and differences of them are exact.
EIGHTHS = st.integers(-8000, 8000).map(lambda n: n / 8)
PAIRS = st.lists(st.tuples(EIGHTHS, EIGHTHS), min_size=2, max_size=9).map(lambda pairs: np.array(pairs).T)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def compare(treatment, control) -> PairedDifference:
    return paired_difference(treatment, control, generator())


def brute_force_sign_flip_p(differences) -> Fraction:
    """All sign vectors in exact arithmetic."""
    exact = [Fraction(difference) for difference in differences]
    sums = [abs(sum(s * d for s, d in zip(signs, exact, strict=True))) for signs in product((-1, 1), repeat=len(exact))]
    return Fraction(sum(total >= abs(sum(exact)) for total in sums), len(sums))


def test_summary_matches_the_textbook_formula():
    # 2.776 is the 97.5% quantile of Student's t with 4 degrees of freedom in printed tables.
    result = summary([2.0, 4.0, 4.0, 5.0, 10.0])
    half_width = 2.7764451 * 3.0 / math.sqrt(5)
    assert (result.num_values, result.mean, result.standard_deviation) == (5, 5.0, 3.0)
    assert (result.minimum, result.maximum) == (2.0, 10.0)
    assert (result.low, result.high) == pytest.approx((5 - half_width, 5 + half_width), rel=1e-7)


def test_paired_difference_matches_the_textbook_formula():
    result = compare(TREATMENT, CONTROL)
    differences = [t - c for t, c in zip(TREATMENT, CONTROL, strict=True)]
    error = stdev(differences) / math.sqrt(5)
    half_width = stats.t.ppf(0.975, 4) * error
    assert result.num_seeds == 5
    assert result.mean == pytest.approx(fmean(differences), rel=1e-12)
    assert result.standard_deviation == pytest.approx(stdev(differences), rel=1e-12)
    assert (result.low, result.high) == pytest.approx((result.mean - half_width, result.mean + half_width), rel=1e-12)
    assert result.p_value == pytest.approx(2 * stats.t.sf(result.mean / error, 4), rel=1e-12)
    assert result.p_value == pytest.approx(stats.ttest_rel(TREATMENT, CONTROL).pvalue, rel=1e-12)


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 10, 11, 16])
def test_sign_flips_that_all_point_one_way_reach_the_floor(num_seeds):
    result = compare(np.arange(1.0, num_seeds + 1), np.zeros(num_seeds))
    assert result.sign_flip_p == result.sign_flip_floor == 2 / 2**num_seeds


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_sign_flip_p_is_the_share_of_all_sign_vectors(pairs):
    treatment, control = pairs
    assert compare(treatment, control).sign_flip_p == float(brute_force_sign_flip_p(treatment - control))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=9))
def test_sign_flip_p_counts_ties_that_rounding_pulls_apart(tenths):
    differences = [number / 10 for number in tenths]
    assert compare(differences, np.zeros(len(tenths))).sign_flip_p == float(brute_force_sign_flip_p(tenths))


@pytest.mark.parametrize("num_seeds", [6, 9])
def test_sign_flip_p_agrees_with_scipy(num_seeds):
    differences = generator(num_seeds).normal(0.4, 1.0, num_seeds)
    peer = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=10_000)
    assert compare(differences, np.zeros(num_seeds)).sign_flip_p == pytest.approx(peer.pvalue, rel=1e-12)


def test_sign_flips_are_sampled_above_sixteen_seeds():
    differences = np.linspace(-1.0, 2.0, 18)
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    exact = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-9)
    sampled = compare(differences, np.zeros(18)).sign_flip_p
    assert 0.02 < exact < 0.5
    assert sampled == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 100_000))


def test_sign_flips_are_all_tried_up_to_sixteen_seeds():
    for num_seeds, drawn in ((16, False), (17, True)):
        values = np.linspace(-1.0, 2.0, num_seeds)
        first, second = (paired_difference(values, np.zeros(num_seeds), generator(seed)) for seed in (1, 2))
        assert (first.sign_flip_p != second.sign_flip_p) is drawn


def test_sampled_sign_flip_p_counts_the_observed_signs():
    assert compare(np.zeros(40), np.zeros(40)).sign_flip_p == 1.0


@pytest.mark.parametrize(("num_seeds", "floor"), [(17, 2 / 2**17), (40, 1 / 100_001)])
def test_sampled_sign_flip_p_is_never_below_its_floor(num_seeds, floor):
    result = compare(np.full(num_seeds, 1.0), np.zeros(num_seeds))
    assert result.sign_flip_floor == floor
    assert floor <= result.sign_flip_p < 1e-4


def test_sign_flip_test_has_its_size_over_all_signs_of_a_sample():
    # Under the null hypothesis all sign vectors are equally likely, so this is the size itself, not a simulation.
    magnitudes = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    p_values = [compare(magnitudes * signs, np.zeros(6)).sign_flip_p for signs in product((-1, 1), repeat=6)]
    for level in (0.04, 0.05, 0.1, 0.5):
        assert np.mean(np.array(p_values) <= level) == math.floor(level * 32) / 32


def test_bootstrap_interval_approaches_the_plug_in_one():
    # The bootstrap's mean is normal with variance s^2 (n - 1) / n^2 for large n.
    values = generator(5).normal(2.0, 1.0, 400)
    result = compare(values, np.zeros(400))
    half_width = 1.959964 * float(np.std(values)) / math.sqrt(400)
    assert result.bootstrap_low == pytest.approx(values.mean() - half_width, abs=0.05 * half_width)
    assert result.bootstrap_high == pytest.approx(values.mean() + half_width, abs=0.05 * half_width)


def test_bootstrap_interval_is_narrower_than_the_t_interval_by_what_the_docstring_says():
    for num_seeds, expected in ((5, 0.62), (10, 0.82)):
        results = [compare(generator(seed).normal(size=num_seeds), np.zeros(num_seeds)) for seed in range(30)]
        ratios = [(r.bootstrap_high - r.bootstrap_low) / (r.high - r.low) for r in results]
        assert np.mean(ratios) == pytest.approx(expected, abs=0.02)


def test_same_seed_gives_the_same_figures():
    first, again = (paired_difference(TREATMENT, CONTROL, generator(7)) for _ in range(2))
    assert first == again
    values = generator(1).normal(size=20)
    assert compare(values, np.zeros(20)) == compare(values, np.zeros(20))
    scores = generator(2).random((5, 3))
    assert iqm_interval(scores, generator(7)) == iqm_interval(scores, generator(7))
    assert iqm_interval(scores, generator(7)) != iqm_interval(scores, generator(8))


def test_global_random_state_is_neither_read_nor_changed():
    before = pickle.dumps(np.random.get_state())
    compare(np.arange(20.0), np.zeros(20))
    iqm_interval(generator().random((4, 3)), generator())
    assert pickle.dumps(np.random.get_state()) == before


@pytest.mark.parametrize(
    ("treatment", "control", "mean", "p_value", "sign_flip_p"),
    [
        ([2.0, 3.0, 4.0], [1.0, 2.0, 3.0], 1.0, 0.0, 0.25),
        ([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], -1.0, 0.0, 0.25),
        ([1.0, 2.0], [1.0, 2.0], 0.0, 1.0, 1.0),
        # Equal on paper, not in floating point.
        ([0.3, 0.5, 0.9], [0.1, 0.3, 0.7], 0.2, 0.0, 0.25),
        ([0.3, 0.3], [0.1 + 0.2, 0.3], 0.0, 1.0, 1.0),
        ([1e-200, 3e-200], [0.0, 0.0], 0.0, 1.0, 1.0),
    ],
)
def test_equal_differences_give_an_interval_without_width(treatment, control, mean, p_value, sign_flip_p):
    result = compare(treatment, control)
    assert result.mean == pytest.approx(mean, rel=1e-12)
    assert result.low == result.high == result.bootstrap_low == result.bootstrap_high == result.mean
    assert (result.standard_deviation, result.p_value, result.sign_flip_p) == (0.0, p_value, sign_flip_p)


def test_small_but_real_spread_is_kept():
    result = compare([100.0, 100.0 + 1e-10], [0.0, 0.0])
    assert result.standard_deviation > 0
    assert result.low < result.mean < result.high


def test_equal_values_have_a_summary_without_width():
    assert astuple(summary([0.1] * 10)) == (10, 0.1, 0.0, 0.1, 0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("treatment", "control", "message"),
    [
        ([1.0], [2.0], r"treatment: got 1 value\(s\), expected at least 2"),
        ([], [], r"treatment: got 0 value\(s\), expected at least 2"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], "got 3 values for treatment and 2 for control, expected one of each per seed"),
        ([1.0, math.nan], [1.0, 2.0], r"treatment\[1\]: got nan, expected finite numbers"),
        ([1.0, 2.0], [-math.inf, 2.0], r"control\[0\]: got -inf, expected finite numbers"),
        ([None, 2.0], [1.0, 2.0], r"treatment\[0\]: got nan, expected finite numbers"),
        ([[1.0, 2.0]], [[1.0, 2.0]], r"treatment: got shape \(1, 2\), expected one dimension"),
    ],
)
def test_bad_pairs_are_refused(treatment, control, message):
    with pytest.raises(ValueError, match=message):
        compare(treatment, control)
    with pytest.raises(ValueError, match=message):
        equivalent(treatment, control, 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], r"values: got 1 value\(s\), expected at least 2"),
        ([1.0, 2.0, math.nan], r"values\[2\]: got nan, expected finite numbers"),
        (3.0, r"values: got shape \(\), expected one dimension"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        summary(values)


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.integers(-1000, 1000), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_shifting_and_scaling_the_treatment_moves_the_figures_with_it(pairs, shift, scale):
    treatment, control = pairs
    before, shifted = compare(treatment, control), compare(treatment + shift, control)
    scaled = compare(scale * treatment, scale * control)
    for name in ("mean", "low", "high", "bootstrap_low", "bootstrap_high"):
        assert getattr(shifted, name) == pytest.approx(getattr(before, name) + shift, rel=1e-9, abs=1e-7)
        assert getattr(scaled, name) == pytest.approx(scale * getattr(before, name), rel=1e-9, abs=1e-9)
    assert shifted.standard_deviation == pytest.approx(before.standard_deviation, rel=1e-9)
    assert scaled.p_value == pytest.approx(before.p_value, rel=1e-9)
    assert scaled.sign_flip_p == before.sign_flip_p


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_swapping_the_arms_mirrors_the_figures(pairs):
    treatment, control = pairs
    one, other = compare(treatment, control), compare(control, treatment)
    mirrored = replace(
        other,
        mean=-other.mean,
        low=-other.high,
        high=-other.low,
        bootstrap_low=-other.bootstrap_high,
        bootstrap_high=-other.bootstrap_low,
    )
    assert astuple(one) == pytest.approx(astuple(mirrored), rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_figures_of_a_comparison_agree_with_each_other(pairs):
    treatment, control = pairs
    result = compare(treatment, control)
    assert result.low <= result.mean <= result.high
    differences = treatment - control
    # Rounding: a resample's mean and an end of the range may be the same number on paper.
    assert min(differences) - 1e-9 <= result.bootstrap_low <= result.bootstrap_high <= max(differences) + 1e-9
    assert result.sign_flip_floor <= result.sign_flip_p <= 1
    if abs(result.p_value - 0.05) > 1e-9:
        assert (result.p_value < 0.05) == (result.low > 0 or result.high < 0)
    assert all(isinstance(value, (int, float)) and not isinstance(value, np.generic) for value in astuple(result))


def test_interval_and_tests_keep_their_nominal_rates():
    # 300 samples of 8 seeds without a true difference; four standard errors of a 5% rate are 5 points.
    draws = generator(11).normal(0.0, 1.0, (300, 8))
    zeros = np.zeros(8)
    results = [compare(sample, zeros) for sample in draws]
    assert np.mean([r.low > 0 or r.high < 0 for r in results]) == pytest.approx(0.05, abs=0.05)
    assert np.mean([r.sign_flip_p <= 0.05 for r in results]) == pytest.approx(0.05, abs=0.05)
    # With the true difference on the margin itself the equivalence test errs most often.
    assert np.mean([equivalent(sample + 2.0, zeros, 2.0).equivalent for sample in draws]) == pytest.approx(
        0.05, abs=0.05
    )


def test_equivalence_agrees_with_statsmodels():
    for margin in (0.5, 1.0, 2.0, 4.0):
        expected = ttost_paired(np.array(TREATMENT), np.array(CONTROL), -margin, margin)[0]
        result = equivalent(TREATMENT, CONTROL, margin)
        assert result.p_value == pytest.approx(expected, rel=1e-9)
        assert result.equivalent == (expected < 0.05)
        assert result.margin == margin
        difference = compare(TREATMENT, CONTROL)
        half_width = stats.t.ppf(0.95, 4) * difference.standard_deviation / math.sqrt(5)
        bounds = (difference.mean - half_width, difference.mean + half_width)
        assert (result.low, result.high) == pytest.approx(bounds, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.floats(0.125, 100))
def test_equivalence_holds_where_the_ninety_percent_interval_lies_within_the_margin(pairs, margin):
    treatment, control = pairs
    result = equivalent(treatment, control, margin)
    # Far enough from the margin for rounding not to decide.
    if abs(max(abs(result.low), abs(result.high)) - margin) > 1e-6 * margin:
        assert result.equivalent == (-margin < result.low and result.high < margin)
    assert result.equivalent == equivalent(control, treatment, margin).equivalent


@pytest.mark.parametrize(("margin", "p_value", "holds"), [(0.5, 1.0, False), (1.0, 1.0, False), (1.5, 0.0, True)])
def test_equivalence_of_equal_differences_is_decided_by_the_margin(margin, p_value, holds):
    result = equivalent([2.0, 3.0], [1.0, 2.0], margin)
    assert (result.p_value, result.equivalent, result.low, result.high) == (p_value, holds, 1.0, 1.0)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_margin_that_is_none_is_refused(margin):
    with pytest.raises(ValueError, match=f"margin: got {margin}, expected a finite number above zero"):
        equivalent([1.0, 2.0], [1.0, 2.0], margin)


def test_interquartile_mean_leaves_out_a_quarter_at_either_end():
    assert interquartile_mean([[100.0, 1.0, 2.0, 3.0], [4.0, 5.0, 9.0, -100.0]]) == fmean([2, 3, 4, 5])
    # A quarter of five or six scores is one whole score.
    assert interquartile_mean([[9.0, 1.0, 2.0, 3.0, -9.0]]) == 2.0
    assert interquartile_mean([[9.0, 1.0], [2.0, 3.0], [6.0, -9.0]]) == 3.0


def test_interquartile_mean_takes_the_scores_in_any_order():
    scores = generator(4).random((4, 5))
    shuffled = generator(5).permutation(scores.ravel()).reshape(5, 4)
    assert interquartile_mean(scores) == pytest.approx(interquartile_mean(shuffled), rel=1e-12)


def test_iqm_interval_matches_a_bootstrap_written_out():
    scores = generator(6).normal([0.0, 1.0, 5.0], 1.0, (6, 3))
    result = iqm_interval(scores, generator())
    draws = generator(9)
    resampled = [
        interquartile_mean(np.column_stack([task[draws.integers(0, 6, 6)] for task in scores.T])) for _ in range(2000)
    ]
    assert result.value == interquartile_mean(scores)
    width = result.high - result.low
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])), abs=0.08 * width)


def test_iqm_interval_resamples_runs_within_a_task():
    # The tasks differ and their runs do not: resampling tasks would give a width, resampling runs gives none.
    result = iqm_interval(np.tile([1.0, 2.0, 7.0], (5, 1)), generator())
    assert (result.low, result.high) == pytest.approx((result.value, result.value), rel=1e-12)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, 2.0], r"scores: got shape \(2,\), expected num_runs x num_tasks"),
        (np.zeros((0, 3)), r"scores: got shape \(0, 3\), expected num_runs x num_tasks"),
        ([[1.0, math.nan], [1.0, 2.0]], r"scores\[0, 1\]: got nan, expected finite numbers"),
        ([[1.0, 2.0]], "scores: got 1 run, expected at least 2"),
    ],
)
def test_bad_scores_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        iqm_interval(scores, generator())


def test_holm_multiplies_by_the_number_of_claims_still_open():
    assert holm([0.03, 0.01, 0.04]) == pytest.approx((0.06, 0.03, 0.06))
    assert holm([0.5, 0.9]) == (1.0, 1.0)
    assert holm([0.02]) == (0.02,)
    assert holm([]) == ()


# Few examples: statsmodels collects garbage on every call.
@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_procedure(p_values):
    adjusted, largest = [0.0] * len(p_values), 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = largest
    assert holm(p_values) == pytest.approx(adjusted, rel=1e-12)


@pytest.mark.parametrize("p_value", [-0.1, 1.1, math.nan])
def test_p_value_outside_its_range_is_refused(p_value):
    with pytest.raises(ValueError, match=rf"p_values\[1\]: got {p_value}, expected a number from 0 to 1"):
        holm([0.5, p_value])


def interval(low: float, high: float) -> PairedDifference:
    return replace(compare(TREATMENT, CONTROL), mean=(low + high) / 2, low=low, high=high)


@pytest.mark.parametrize(
    ("low", "high", "documented", "as_documented", "otherwise"),
    [
        # Inside, on either end, exceeded, fallen short of.
        (1.0, 3.0, 2.0, Verdict.REPRODUCED, Verdict.DIRECTION_ONLY),
        (1.0, 3.0, 1.0, Verdict.REPRODUCED, Verdict.DIRECTION_ONLY),
        (1.0, 3.0, 3.0, Verdict.REPRODUCED, Verdict.DIRECTION_ONLY),
        (1.0, 3.0, 0.5, Verdict.REPRODUCED, Verdict.DIRECTION_ONLY),
        (1.0, 3.0, 3.1, Verdict.DIRECTION_ONLY, Verdict.DIRECTION_ONLY),
        (1e-9, 3.0, 2.0, Verdict.REPRODUCED, Verdict.DIRECTION_ONLY),
        # Zero belongs to the interval whose end it is.
        (0.0, 3.0, 2.0, Verdict.NOT_REPRODUCED, Verdict.NOT_REPRODUCED),
        (-1.0, 3.0, 2.0, Verdict.NOT_REPRODUCED, Verdict.NOT_REPRODUCED),
        (-3.0, 0.0, 2.0, Verdict.NOT_REPRODUCED, Verdict.NOT_REPRODUCED),
        (0.0, 0.0, 2.0, Verdict.NOT_REPRODUCED, Verdict.NOT_REPRODUCED),
        (-3.0, -1e-9, 2.0, Verdict.CONTRADICTED, Verdict.CONTRADICTED),
        # Without width.
        (2.0, 2.0, 2.0, Verdict.REPRODUCED, Verdict.DIRECTION_ONLY),
        (1.9, 1.9, 2.0, Verdict.DIRECTION_ONLY, Verdict.DIRECTION_ONLY),
        # A range of its own: 25% less training time.
        (-30.0, -10.0, -25.0, Verdict.REPRODUCED, Verdict.DIRECTION_ONLY),
        (-60.0, -40.0, -25.0, Verdict.REPRODUCED, Verdict.DIRECTION_ONLY),
        (-20.0, -10.0, -25.0, Verdict.DIRECTION_ONLY, Verdict.DIRECTION_ONLY),
        (10.0, 30.0, -25.0, Verdict.CONTRADICTED, Verdict.CONTRADICTED),
    ],
)
def test_verdict(low, high, documented, as_documented, otherwise):
    for sign in (1, -1):
        difference = interval(*sorted((sign * low, sign * high)))
        assert verdict(difference, documented=sign * documented, measured_as_documented=True) is as_documented
        assert verdict(difference, documented=sign * documented, measured_as_documented=False) is otherwise


def test_verdict_without_a_measurement_says_so():
    result = verdict(None, documented=2.0, measured_as_documented=False)
    assert result is Verdict.NOT_MEASURED
    assert str(result) == "not measured at this scale"


@pytest.mark.parametrize("documented", [0.0, -0.0, math.nan, math.inf])
def test_documented_figure_without_a_side_is_refused(documented):
    with pytest.raises(ValueError, match=f"documented: got {documented}, expected a finite number other than zero"):
        verdict(interval(1.0, 3.0), documented=documented, measured_as_documented=True)
