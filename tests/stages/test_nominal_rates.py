"""Planted data and the tables' own statistics: what is there is found as often, what is not as seldom, as promised."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from stages import inference, robustness_statistics
from stages.ablation_statistics import COMPONENTS, THEORIES, ablation_statistics
from stages.trained import ARMS

NUM_RUNS = 200
SEEDS = 5
# Of one arm on one seed, points; differences of two vary by sqrt(2) of it.
SPREAD = 1.0
CLAIMED = {"components": dict.fromkeys(COMPONENTS, 1.0), "theories": dict.fromkeys(THEORIES, 1.0)}
# Four standard errors of a rate of 5% over so many runs.
SLACK = 4.0 * (0.05 * 0.95 / NUM_RUNS) ** 0.5


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bootstrap decides nothing here, and takes most of the time; so does the collection before each correction."""
    monkeypatch.setattr(inference, "BOOTSTRAP_RESAMPLES", 20)
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


def ablations(effects: dict[str, float]) -> list[dict[str, Any]]:
    """Statistics of ablations whose arms differ by `effects`, points, and by chance."""
    generator = np.random.default_rng(5)
    arms = [
        "start",
        "placebo",
        "division",
        "connection",
        "full",
        "none",
        "information",
        "ntk",
        "manifold",
        "all",
        "dnm",
    ]
    found = []
    for _ in range(NUM_RUNS):
        of_seed = generator.normal(60.0, 5.0, SEEDS)
        trials = {
            arm: {
                seed: {
                    "test_accuracy": (of_seed[seed] + effects.get(arm, 0.0) + SPREAD * generator.normal()) / 100.0,
                    **dict.fromkeys(("parameters", "training_flops", "edits"), 1.0),
                }
                for seed in range(SEEDS)
            }
            for arm in [*arms, "random", "uniform", "plateau", "twin"]
        }
        found.append(ablation_statistics(trials, CLAIMED, as_documented=True))
    return found


def rate(happened: list[bool]) -> float:
    return float(np.mean(happened))


def test_parts_that_add_nothing_are_seldom_said_to_add_something() -> None:
    found = ablations({})
    for table in ("components", "theories"):
        for row in found[0][table]:
            away = rate([item[table][row]["low"] > 0 or item[table][row]["high"] < 0 for item in found])
            assert away == pytest.approx(0.05, abs=SLACK), row
        # Of a whole table at least one: what Holm's correction is for.
        any_row = rate([min(row["holm_p_value"] for row in item[table].values()) <= 0.05 for item in found])
        assert any_row <= 0.05 + SLACK
    assert rate([item["synergy"]["low"] > 0 or item["synergy"]["high"] < 0 for item in found]) <= 0.05 + SLACK
    verdicts = [row["verdict"] for item in found for row in item["components"].values()]
    # Only the claimed side counts: half of those whose interval excludes 0.
    assert rate([verdict in ("reproduced", "direction only") for verdict in verdicts]) == pytest.approx(
        0.025, abs=SLACK
    )


def test_parts_that_add_something_are_found_as_often_as_so_many_seeds_can() -> None:
    effect = 2.0
    # Over `none`, each of the theories adds 1 to those before it, and all of them 3 more than that.
    theories = {"information": 1.0, "ntk": 2.0, "manifold": 3.0, "all": 6.0, "dnm": 6.0}
    found = ablations({"division": effect, "connection": effect, "full": effect, **theories})
    rows = [item["components"]["division"] for item in found]
    assert rate([row["low"] <= effect <= row["high"] for row in rows]) == pytest.approx(0.95, abs=SLACK)
    power = TTestPower().power(effect / (SPREAD * 2**0.5), SEEDS, 0.05, alternative="two-sided")
    seen = rate([row["low"] > 0 or row["high"] < 0 for row in rows])
    assert seen == pytest.approx(power, abs=4.0 * (power * (1.0 - power) / NUM_RUNS) ** 0.5)
    # What connection and pruning add to it is nothing.
    for row in ("connection", "full"):
        away = rate([item["components"][row]["low"] > 0 or item["components"][row]["high"] < 0 for item in found])
        assert away == pytest.approx(0.05, abs=SLACK)
    for row, gain in {"information": 1.0, "ntk": 1.0, "manifold": 1.0, "full": 6.0}.items():
        inside = rate([item["theories"][row]["low"] <= gain <= item["theories"][row]["high"] for item in found])
        assert inside == pytest.approx(0.95, abs=SLACK), row
    inside = rate([item["synergy"]["low"] <= 3.0 <= item["synergy"]["high"] for item in found])
    assert inside == pytest.approx(0.95, abs=SLACK)


@pytest.mark.parametrize("gain", [0.0, 4.0])
def test_gains_in_robustness_are_covered(gain: float) -> None:
    generator = np.random.default_rng(7)
    names = {**robustness_statistics.PERTURBATIONS, **robustness_statistics.ALSO}
    calibration = {
        str(seed): {name: {"clean": 0.6, "perturbed": 0.5, "wanted": 0.1} for name in names.values()}
        for seed in range(SEEDS)
    }
    found = []
    for _ in range(NUM_RUNS // 2):
        lines = []
        for seed in range(SEEDS):
            for arm in ARMS:
                for name in names.values():
                    drop = 10.0 - (gain if arm == "dnm" else 0.0) + SPREAD * generator.normal()
                    line = {"clean": 0.6, "accuracy": 0.6 - drop / 100.0, "factor": 1.0, "strength": 0.1}
                    values = {"arm": arm, "seed": seed, "perturbation": name, **line}
                    lines.append({key: str(value) for key, value in values.items()})
        claimed = dict.fromkeys(robustness_statistics.PERTURBATIONS, 4.0)
        statistics = robustness_statistics.robustness_statistics(lines, calibration, claimed, as_documented=True)
        found += [statistics["perturbations"][row] for row in claimed]
    slack = 4.0 * (0.05 * 0.95 / len(found)) ** 0.5
    assert rate([row["gain"]["low"] <= gain <= row["gain"]["high"] for row in found]) == pytest.approx(0.95, abs=slack)
    if gain:
        assert rate([row["verdict"] in ("reproduced", "direction only") for row in found]) > 0.9
    else:
        assert rate([row["verdict"] == "not reproduced" for row in found]) == pytest.approx(0.95, abs=slack)
