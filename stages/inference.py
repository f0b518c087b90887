"""Intervals, tests and verdicts: what a handful of seeds can say about a claim.

Everything stands on paired differences: the same seed gives two arms the same data order and the same initial
weights, so that the difference between them varies less than either does. Randomness comes from the generator
that is passed in.

    >>> difference = paired_difference([3.0, 5.0, 4.0, 6.0], [1.0, 2.0, 2.0, 3.0], np.random.default_rng(0))
    >>> difference.mean, difference.sign_flip_p
    (2.5, 0.125)
    >>> verdict(difference, documented=2.1, measured_as_documented=True)
    <Verdict.REPRODUCED: 'reproduced'>

References:
    Agarwal, Schwarzer, Castro, Courville, Bellemare: Deep Reinforcement Learning at the Edge of the Statistical
        Precipice. NeurIPS 2021. (Interquartile mean, stratified bootstrap.)
    Fisher: The Design of Experiments. 1935, section 21. (Sign flips.)
    Phipson, Smyth: Permutation P-values Should Never Be Zero. Statistical Applications in Genetics and Molecular
        Biology 9, 2010. (Counting the observed signs among the resampled ones.)
    Schuirmann: A Comparison of the Two One-Sided Tests Procedure and the Power Approach for Assessing the
        Equivalence of Average Bioavailability. Journal of Pharmacokinetics and Biopharmaceutics 15, 1987.
    Holm: A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian Journal of Statistics 6, 1979.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

LEVEL = 0.95
ALPHA = 1 - LEVEL

# All 2^n sign vectors are tried up to this n, and this many random ones above it.
LARGEST_ENUMERATED = 16
SIGN_FLIPS = 100_000
BOOTSTRAP_RESAMPLES = 10_000

# The interquartile mean leaves out this share of the scores at either end (Agarwal et al. 2021, section 4.3).
TRIMMED_SHARE = 0.25

# A spread this small, relative to the figures that it comes from, is rounding: 0.3 - 0.1 and 0.5 - 0.3 differ.
# Squares of what is below the second number would underflow.
ROUNDING = 64 * float(np.finfo(np.float64).eps)
UNDERFLOW = 1e-150


class Verdict(StrEnum):
    """What the measurement says about a documented figure."""

    REPRODUCED = "reproduced"
    DIRECTION_ONLY = "direction only"
    NOT_REPRODUCED = "not reproduced"
    CONTRADICTED = "contradicted"
    NOT_MEASURED = "not measured at this scale"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Runs of one arm, in the unit of the values.

    Attributes:
        num_values: how many there are.
        mean: their mean.
        standard_deviation: of the sample, with n - 1 in the denominator.
        minimum: the smallest value.
        maximum: the largest value.
        low: lower end of the t-based 95% interval of the mean.
        high: its upper end.
    """

    num_values: int
    mean: float
    standard_deviation: float
    minimum: float
    maximum: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Treatment minus control over the same seeds, in the unit of the values.

    Attributes:
        num_seeds: the number of pairs, n.
        mean: mean difference.
        standard_deviation: of the differences, with n - 1 in the denominator.
        low: lower end of the t-based 95% interval of the mean difference.
        high: its upper end.
        p_value: two-sided p of the paired t-test. Where all differences are equal it is the limit: 1 if they
            are zero, else 0.
        sign_flip_p: two-sided p of the sign-flip test on the mean.
        sign_flip_floor: the smallest `sign_flip_p` that n seeds can give: 2 / 2^n, or 1 / 100,001 above 17 seeds,
            where 100,000 random signs are tried and the observed ones counted among them.
        bootstrap_low: lower end of the 95% percentile bootstrap interval of the mean difference. With few seeds it
            is too narrow: about 0.62 times the t-based one at 5 seeds, 0.82 at 10.
        bootstrap_high: its upper end.
    """

    num_seeds: int
    mean: float
    standard_deviation: float
    low: float
    high: float
    p_value: float
    sign_flip_p: float
    sign_flip_floor: float
    bootstrap_low: float
    bootstrap_high: float


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """Whether two arms differ by less than a margin.

    Attributes:
        margin: the margin, in the unit of the values.
        p_value: the larger p of the two one-sided tests.
        equivalent: whether that is below 0.05, which is to say that low and high lie within the margin.
        low: lower end of the t-based 90% interval of the mean difference.
        high: its upper end. The larger of |low| and |high| is the smallest margin that these runs could support.
    """

    margin: float
    p_value: float
    equivalent: bool
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and its 95% interval, in the unit of the values."""

    value: float
    low: float
    high: float


def summary(values: ArrayLike) -> Summary:
    """Summarizes the runs of one arm.

    Args:
        values: (num_values,), at least two.

    Raises:
        ValueError: fewer than two values, more than one dimension, NaN or infinity.
    """
    checked = _vector(values, "values")
    test = _t_test(_without_rounding(checked, float(np.abs(checked).max())), LEVEL)
    return Summary(
        num_values=len(checked),
        mean=test.mean,
        standard_deviation=test.standard_deviation,
        minimum=float(checked.min()),
        maximum=float(checked.max()),
        low=test.low,
        high=test.high,
    )


def paired_difference(treatment: ArrayLike, control: ArrayLike, generator: np.random.Generator) -> PairedDifference:
    """Compares two arms seed by seed.

    Args:
        treatment: (num_seeds,), at least two.
        control: (num_seeds,), in the same order of seeds.
        generator: draws the bootstrap's resamples, and the sign flips where there are too many to try them all.

    Raises:
        ValueError: fewer than two pairs, different lengths, more than one dimension, NaN or infinity.
    """
    differences = _differences(treatment, control)
    test = _t_test(differences, LEVEL)
    sign_flip_p, sign_flip_floor = _sign_flips(differences, generator)
    if np.ptp(differences) == 0:
        bootstrap_low = bootstrap_high = test.mean
    else:
        # BCa would correct for skewness, which it estimates from so few seeds that the interval gains nothing.
        interval = stats.bootstrap(
            (differences,),
            np.mean,
            n_resamples=BOOTSTRAP_RESAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            rng=generator,
        ).confidence_interval
        bootstrap_low, bootstrap_high = float(interval.low), float(interval.high)
    return PairedDifference(
        num_seeds=len(differences),
        mean=test.mean,
        standard_deviation=test.standard_deviation,
        low=test.low,
        high=test.high,
        p_value=test.p_value,
        sign_flip_p=sign_flip_p,
        sign_flip_floor=sign_flip_floor,
        bootstrap_low=bootstrap_low,
        bootstrap_high=bootstrap_high,
    )


def equivalent(treatment: ArrayLike, control: ArrayLike, margin: float) -> Equivalence:
    """Tests parity: two one-sided paired t-tests against plus and minus a margin (Schuirmann 1987).

    Args:
        treatment: (num_seeds,), at least two.
        control: (num_seeds,), in the same order of seeds.
        margin: the largest difference that still counts as parity, above zero, in the unit of the values.

    Raises:
        ValueError: as `paired_difference`, or a margin that is not a finite number above zero.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin: got {margin}, expected a finite number above zero")
    differences = _differences(treatment, control)
    test = _t_test(differences, 1 - 2 * ALPHA)
    if np.ptp(differences) == 0:
        p_value = 0.0 if abs(test.mean) < margin else 1.0
    else:
        above: Any = stats.ttest_1samp(differences, -margin, alternative="greater")
        below: Any = stats.ttest_1samp(differences, margin, alternative="less")
        p_value = float(max(above.pvalue, below.pvalue))
    return Equivalence(margin=margin, p_value=p_value, equivalent=p_value < ALPHA, low=test.low, high=test.high)


def interquartile_mean(scores: ArrayLike) -> float:
    """Returns the mean of the middle half of all scores, runs and tasks pooled (Agarwal et al. 2021).

    A quarter of the scores, rounded down to a whole number of them, is left out at either end.

    Args:
        scores: (num_runs, num_tasks).

    Raises:
        ValueError: not two dimensions, no score, NaN or infinity.
    """
    return float(stats.trim_mean(_matrix(scores).ravel(), TRIMMED_SHARE))


def iqm_interval(scores: ArrayLike, generator: np.random.Generator) -> Estimate:
    """Returns the interquartile mean with its stratified percentile bootstrap interval (Agarwal et al. 2021).

    Every task is a stratum: its runs are resampled on their own, the tasks are not.

    Args:
        scores: (num_runs, num_tasks), at least two runs. A row of a table is a task.
        generator: draws the resamples.

    Raises:
        ValueError: fewer than two runs, not two dimensions, NaN or infinity.
    """
    checked = _matrix(scores)
    if len(checked) < 2:
        raise ValueError(f"scores: got {len(checked)} run, expected at least 2 (shape: num_runs x num_tasks)")
    interval = stats.bootstrap(
        tuple(checked.T),
        _pooled_interquartile_mean,
        n_resamples=BOOTSTRAP_RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        rng=generator,
    ).confidence_interval
    return Estimate(value=interquartile_mean(checked), low=float(interval.low), high=float(interval.high))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Returns p-values adjusted for all claims of a table, in the order given (Holm 1979).

    Args:
        p_values: (num_claims,), each from 0 to 1; none is fine.

    Raises:
        ValueError: a p-value that is no number from 0 to 1.
    """
    for index, p_value in enumerate(p_values):
        if not 0 <= p_value <= 1:
            raise ValueError(f"p_values[{index}]: got {p_value}, expected a number from 0 to 1")
    if len(p_values) == 0:
        return ()
    adjusted: Any = multipletests(p_values, alpha=ALPHA, method="holm")[1]
    return tuple(adjusted.tolist())


def verdict(difference: PairedDifference | None, *, documented: float, measured_as_documented: bool) -> Verdict:
    """Judges a documented figure by the t-based interval of the difference that it is about.

    The claimed side is the sign of `documented`. A figure is exceeded when the measured one lies further out on
    that side: for a training time of -25%, when it is more negative.

    Args:
        difference: the measured difference, in the unit of `documented`; None where this scale has none.
        documented: the figure of the document.
        measured_as_documented: whether it was measured on the documented data under the documented protocol.

    Raises:
        ValueError: `documented` is zero, which has no side, or no finite number.
    """
    if not math.isfinite(documented) or documented == 0:
        raise ValueError(
            f"documented: got {documented}, expected a finite number other than zero; "
            "a claim of no difference is judged by equivalent()"
        )
    if difference is None:
        return Verdict.NOT_MEASURED
    near, far = (difference.low, difference.high) if documented > 0 else (-difference.high, -difference.low)
    if near > 0:
        # Inside the interval, or the interval lies beyond the figure: both are this one comparison.
        reached = abs(documented) <= far
        return Verdict.REPRODUCED if reached and measured_as_documented else Verdict.DIRECTION_ONLY
    return Verdict.CONTRADICTED if far < 0 else Verdict.NOT_REPRODUCED


class _TTest(NamedTuple):
    mean: float
    standard_deviation: float
    low: float
    high: float
    p_value: float


def _t_test(values: NDArray[np.float64], level: float) -> _TTest:
    """The t-test of the mean against zero and the interval of the mean; values (num_values,)."""
    if np.ptp(values) == 0:
        mean = float(values[0])
        return _TTest(mean, 0.0, mean, mean, 0.0 if mean else 1.0)
    result: Any = stats.ttest_1samp(values, 0.0)
    interval = result.confidence_interval(level)
    return _TTest(
        mean=float(np.mean(values)),
        standard_deviation=float(np.std(values, ddof=1)),
        low=float(interval.low),
        high=float(interval.high),
        p_value=float(result.pvalue),
    )


def _sign_flips(differences: NDArray[np.float64], generator: np.random.Generator) -> tuple[float, float]:
    """The two-sided sign-flip p of the mean, and the smallest p that can come out; differences (num_seeds,)."""
    # Sums that are equal on paper differ by rounding, relative to what is summed and not to the sum, which may cancel.
    reached = abs(differences.sum()) - ROUNDING * np.abs(differences).sum()
    if len(differences) <= LARGEST_ENUMERATED:
        # Flipping every sign keeps |sum|, so the first one can stay as it is.
        sums = differences[:1]
        for difference in differences[1:]:
            sums = np.concatenate([sums + difference, sums - difference])
        return float(np.mean(np.abs(sums) >= reached)), 2 / 2 ** len(differences)
    sums = np.zeros(SIGN_FLIPS)
    for difference in differences:
        sums += generator.choice([-difference, difference], SIGN_FLIPS)
    floor = max(2 / 2 ** len(differences), 1 / (SIGN_FLIPS + 1))
    return max(float((np.sum(np.abs(sums) >= reached) + 1) / (SIGN_FLIPS + 1)), floor), floor


def _pooled_interquartile_mean(*tasks: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return stats.trim_mean(np.concatenate(tasks, axis=axis), TRIMMED_SHARE, axis=axis)


def _differences(treatment: ArrayLike, control: ArrayLike) -> NDArray[np.float64]:
    """Treatment minus control, checked, (num_seeds,)."""
    first, second = _vector(treatment, "treatment"), _vector(control, "control")
    if len(first) != len(second):
        raise ValueError(
            f"got {len(first)} values for treatment and {len(second)} for control, expected one of each per seed"
        )
    return _without_rounding(first - second, float(max(np.abs(first).max(), np.abs(second).max())))


def _without_rounding(values: NDArray[np.float64], magnitude: float) -> NDArray[np.float64]:
    """Values that differ by no more than rounding, made equal; `magnitude` is that of what they were computed from.

    Without this, equal differences would have a tiny variance and an interval with a width, or equal arms a
    significant difference of 1e-17.
    """
    tolerance = max(ROUNDING * magnitude, UNDERFLOW)
    if np.ptp(values) > tolerance:
        return values
    shared = float(np.median(values))
    return np.full_like(values, shared if abs(shared) > tolerance else 0.0)


def _vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    checked = np.asarray(values, dtype=np.float64)
    if checked.ndim != 1:
        raise ValueError(f"{name}: got shape {checked.shape}, expected one dimension")
    if len(checked) < 2:
        raise ValueError(f"{name}: got {len(checked)} value(s), expected at least 2; one run has no spread")
    return _finite(checked, name)


def _matrix(scores: ArrayLike) -> NDArray[np.float64]:
    checked = np.asarray(scores, dtype=np.float64)
    if checked.ndim != 2 or checked.size == 0:
        raise ValueError(f"scores: got shape {checked.shape}, expected num_runs x num_tasks, neither of them zero")
    return _finite(checked, "scores")


def rounded(value: float) -> float:
    """`value` to six significant digits: more than any of the figures can carry."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _finite(values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    refused = np.argwhere(~np.isfinite(values))
    if len(refused):
        index = tuple(int(i) for i in refused[0])
        raise ValueError(
            f"{name}{list(index)}: got {values[index]}, expected finite numbers; leave no run out silently"
        )
    return values
