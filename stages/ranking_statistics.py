"""How well candidates are ranked: rank correlation of predicted with realised gain, beside what it could be at most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

RESAMPLES = 2000
BOOTSTRAP_SEED = 0
LEVEL = 95.0
TITLES = {
    "ours": "growth x (worth + calibrated theories), fitted on the other states",
    "prior": "growth alone: ours before anything was observed",
    "theories": "calibrated theories without growth, fitted on the other states",
    "equal": "sum of the theories' covariates, equal weights",
    "ranks": "growth x sum of the theories' ranks",
    "short": "trial training: what the first steps of another continuation gained",
    "parameters": "added parameters",
    "new_gradient": "gradient of the new weights alone",
    "gradient_norm": "gradient norm of the place",
    "uniform": "all places alike: no order",
}


def ranking(states: Sequence[Mapping[str, Any]], theories: Sequence[str]) -> dict[str, Any]:
    """Rank correlations with the realised gain, within states.

    Args:
        states: what `stages.ranking_trial.run` gave.
        theories: names of the covariates.

    Returns:
        `candidates`: their number; `states`; `rankings`: by name `spearman` with a 95% bootstrap interval over the
        candidates; `reliability`: rank correlation between the gains of two continuations, of one and, by
        Spearman-Brown, of the mean of all; `ceiling`: the square root of the latter, which no prediction exceeds on
        average; `gains`: by state and operator the mean realised gain, nats.

    Raises:
        ValueError: there are fewer than two states, whose prediction would be tried where it was fitted.
    """
    if len(states) < 2:
        raise ValueError(
            f"the ranking has {len(states)} states, expected at least 2: fitted on others than measured on"
        )
    gains = [np.array([item["gains"] for item in state["candidates"]]) for state in states]
    realised = [of_state.mean(axis=1) for of_state in gains]
    predicted = {name: _predictions(name, states, theories) for name in TITLES}
    predicted |= {theory: [_column(state, theory) for state in states] for theory in theories}
    rankings = {}
    for name, values in predicted.items():
        # A short trial is held against continuations that it was no part of.
        against = [of_state[:, 1:].mean(axis=1) for of_state in gains] if name == "short" else realised
        rankings[name] = _estimate(values, against)
    single = within_states([of_state[:, 0] for of_state in gains], [of_state[:, 1] for of_state in gains])
    number = gains[0].shape[1]
    reliability = number * single / (1.0 + (number - 1) * single) if single > 0.0 else 0.0
    operators = sorted({item["operator"] for state in states for item in state["candidates"]})
    return {
        "states": len(states),
        "candidates": sum(len(of_state) for of_state in gains),
        "continuations": number,
        "rankings": rankings,
        "reliability": {"one": single, "mean": reliability},
        "ceiling": math.sqrt(reliability),
        "gains": {
            operator: [
                float(np.mean([mean for item, mean in zip(state["candidates"], of_state, strict=True)
                               if item["operator"] == operator]))
                for state, of_state in zip(states, realised, strict=True)
                if any(item["operator"] == operator for item in state["candidates"])
            ]
            for operator in operators
        },
    }  # fmt: skip


def within_states(predicted: Sequence[Vector], realised: Sequence[Vector]) -> float:
    """Spearman's correlation within strata: of ranks that are centred in each state, pooled; 0 where nothing varies."""
    return float(_correlations(predicted, realised))


def _correlations(predicted: Sequence[Vector], realised: Sequence[Vector]) -> Vector:
    """See `within_states`; along the last dimension, of arrays that have more of them."""
    first, second = (np.concatenate([_ranks(values) for values in side], axis=-1) for side in (predicted, realised))
    size = np.sqrt(np.square(first).sum(axis=-1) * np.square(second).sum(axis=-1))
    return np.divide((first * second).sum(axis=-1), size, out=np.zeros_like(size), where=size > 0.0)


def _ranks(values: Vector) -> Vector:
    from scipy import stats

    ranks = stats.rankdata(values, axis=-1)
    # States of few candidates must not count less for each of them.
    return (ranks - ranks.mean(axis=-1, keepdims=True)) / ranks.shape[-1]


def _estimate(predicted: Sequence[Vector], realised: Sequence[Vector]) -> dict[str, float]:
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    rows = [generator.integers(len(of_state), size=(RESAMPLES, len(of_state))) for of_state in realised]
    found = _correlations(
        [values[which] for values, which in zip(predicted, rows, strict=True)],
        [values[which] for values, which in zip(realised, rows, strict=True)],
    )
    low, high = np.percentile(found, [(100.0 - LEVEL) / 2, (100.0 + LEVEL) / 2])
    return {"spearman": within_states(predicted, realised), "low": float(low), "high": float(high)}


def _predictions(name: str, states: Sequence[Mapping[str, Any]], theories: Sequence[str]) -> list[Vector]:
    if name in ("ours", "theories"):
        return [_calibrated(states, number, theories, growth=name == "ours") for number in range(len(states))]
    of: dict[str, Callable[[Mapping[str, Any]], Vector]] = {
        "prior": lambda state: _figures(state, "growth"),
        "equal": lambda state: sum((_column(state, theory) for theory in theories), np.zeros(len(state["candidates"]))),
        "ranks": lambda state: (
            _figures(state, "growth")
            * (1.5 + sum((_ranks(_column(state, theory)) for theory in theories), np.zeros(len(state["candidates"])))
               / max(1, len(theories)))
        ),
        "short": lambda state: np.array([item["short_gains"][0] for item in state["candidates"]]),
        "parameters": lambda state: _figures(state, "added_parameters"),
        "new_gradient": lambda state: _figures(state, "new_gradient"),
        "gradient_norm": lambda state: _figures(state, "gradient_norm"),
        "uniform": lambda state: np.zeros(len(state["candidates"])),
    }  # fmt: skip
    return [of[name](state) for state in states]


def _figures(state: Mapping[str, Any], name: str) -> Vector:
    """A figure of every candidate; the state's median where there is none."""
    values = np.array([np.nan if item[name] is None else item[name] for item in state["candidates"]], dtype=np.float64)
    return np.where(np.isnan(values), np.nanmedian(values) if (~np.isnan(values)).any() else 0.0, values)


def _column(state: Mapping[str, Any], theory: str) -> Vector:
    return np.array([item["covariates"].get(theory, 0.0) for item in state["candidates"]], dtype=np.float64)


def _calibrated(states: Sequence[Mapping[str, Any]], left_out: int, theories: Sequence[str], *, growth: bool) -> Vector:
    """Predicted gains of a state by the library's regression, fitted on all others."""
    from dnm.calibration import Calibration, Terms
    from dnm.detect.estimates import Estimate

    operators = sorted({item["operator"] for state in states for item in state["candidates"]})
    learnt = Calibration(operators, theories)

    def terms(item: Mapping[str, Any]) -> Terms:
        return Terms(item["operator"], item["growth"] if growth else 1.0, item["covariates"])

    others = [state for number, state in enumerate(states) if number != left_out]
    pairs = np.array([item["gains"] for state in others for item in state["candidates"]])
    error = max(float(np.sqrt(pairs.var(axis=1, ddof=1).mean() / pairs.shape[1])), 1e-9)
    sizes = np.array([terms(item).growth for state in others for item in state["candidates"]])
    # What growing e-fold gains on the average, so that the prior is about the right size.
    unit = max(float(pairs.mean(axis=1) @ sizes / (sizes @ sizes)), error)
    for state in others:
        for item in state["candidates"]:
            learnt.observe([terms(item)], unit, Estimate(float(np.mean(item["gains"])), error))
    return np.array([learnt.predict([terms(item)], unit).value for item in states[left_out]["candidates"]])
