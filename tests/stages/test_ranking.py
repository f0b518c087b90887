"""Ranking quality: the rank correlation against SciPy, predictions that cannot see what they are held against."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from stages import ranking_statistics, ranking_table, ranking_trial
from stages.ranking_statistics import ranking, within_states

THEORIES = ("good", "bad")


def made_up(num_states: int = 4, num: int = 20, noise: float = 0.0, seed: int = 0) -> list[dict[str, Any]]:
    """States in which the theory "good" knows the gains, and all else is chance."""
    random = np.random.default_rng(seed)
    states = []
    for _ in range(num_states):
        items = []
        for number in range(num):
            good = float(random.normal())
            gain = 0.1 * (1.0 + 0.3 * good)
            items.append(
                {
                    "operator": "Divide",
                    "place": f"{number}",
                    "covariates": {"good": good, "bad": float(random.normal())},
                    "growth": 1.0,
                    "added_parameters": int(random.integers(1, 1000)),
                    "added_flops": int(random.integers(1, 1000)),
                    "gradient_norm": float(random.random()) if number else None,
                    "new_gradient": float(random.random()),
                    "gains": [gain + noise * float(random.normal()) for _ in range(2)],
                    "short_gains": [gain, gain],
                }
            )
        states.append({"candidates": items, "loss": 1.0})
    return states


def test_one_state_is_spearmans_correlation() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(size=30), random.integers(0, 5, size=30).astype(float)
    assert within_states([first], [second]) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert within_states([first], [np.zeros(30)]) == 0.0


def test_states_do_not_add_a_correlation_of_their_own() -> None:
    """Two states that differ in level alone: pooled values correlate, ranks within states do not."""
    random = np.random.default_rng(2)
    first = [random.normal(size=200), random.normal(size=200) + 100]
    second = [random.normal(size=200), random.normal(size=200) + 100]
    assert stats.spearmanr(np.concatenate(first), np.concatenate(second)).statistic > 0.7
    assert abs(within_states(first, second)) < 0.15


def test_a_theory_that_knows_is_found_and_chance_is_not() -> None:
    found = ranking(made_up(), THEORIES)
    assert found["candidates"] == 80 and found["states"] == 4 and found["continuations"] == 2
    by_name = found["rankings"]
    assert by_name["good"]["spearman"] == pytest.approx(1.0)
    assert by_name["ours"]["spearman"] > 0.95 and by_name["theories"]["spearman"] > 0.95
    assert by_name["short"]["spearman"] == pytest.approx(1.0)
    assert by_name["uniform"] == {"spearman": 0.0, "low": 0.0, "high": 0.0}
    for name in ("bad", "parameters", "gradient_norm"):
        assert by_name[name]["low"] < 0.0 < by_name[name]["high"]
    assert found["reliability"]["mean"] == pytest.approx(1.0) and found["ceiling"] == pytest.approx(1.0)
    assert found["gains"]["Divide"] == pytest.approx(
        [np.mean([item["gains"] for item in state["candidates"]]) for state in made_up()]
    )


def test_noise_lowers_the_ceiling_as_spearman_and_brown_say() -> None:
    found = ranking(made_up(num=400, noise=0.03), THEORIES)
    one = found["reliability"]["one"]
    # Signal and noise have the same variance.
    assert one == pytest.approx(0.5, abs=0.06)
    assert found["reliability"]["mean"] == pytest.approx(2 * one / (1 + one))
    assert found["ceiling"] == pytest.approx(math.sqrt(2 * one / (1 + one)))
    assert found["rankings"]["good"]["spearman"] == pytest.approx(found["ceiling"], abs=0.05)


def test_a_state_is_predicted_without_its_own_gains() -> None:
    states = made_up(noise=0.02)
    before = ranking_statistics._predictions("ours", states, THEORIES)
    for item in states[1]["candidates"]:
        item["gains"] = [-gain for gain in item["gains"]]
    after = ranking_statistics._predictions("ours", states, THEORIES)
    assert np.array_equal(before[1], after[1])
    assert not np.array_equal(before[0], after[0])
    with pytest.raises(ValueError, match="has 1 states, expected at least 2"):
        ranking(states[:1], THEORIES)


def test_the_page_names_every_ranking_and_the_ceiling() -> None:
    found = {"row": "strokes", "steps": 60, **ranking(made_up(noise=0.01), THEORIES)}
    page = ranking_table.page({"first": found}, {"strokes": "made-up strokes"})
    assert "## first: strokes, measured on made-up strokes" in page
    assert all(f"| {name} | " in page for name in (*ranking_statistics.TITLES, *THEORIES))
    assert f"above {found['ceiling']:.2f}" in page


def job_of(make_job: Callable, **options: Any) -> ranking_trial.Job:
    plain = make_job("start", 1)
    values = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    return ranking_trial.Job(**{**values, "grown": True, "moment": 30, "steps": 8, **options})


def test_every_operator_is_tried_and_the_bits_come_again(make_job: Callable) -> None:
    job = job_of(make_job)
    found = ranking_trial.run(job)
    items = found["candidates"]
    assert {item["operator"] for item in items} == {"Divide", "AddResidual", "AddAttention"}
    assert [item["place"] for item in items if item["operator"] == "Divide"] == ["0", "4", "7"] * 2
    widths = {"0": 4, "4": 6, "7": 6}
    units = [item["units"] for item in items[:6]]
    assert units == [2, 2, 2, *list(widths.values())]
    assert all(len(item["gains"]) == len(item["short_gains"]) == 2 for item in items)
    assert len(found["plain"]) == 2 and found["samples"] == 30 * 16
    assert {**ranking_trial.run(job), "machine": {}} == {**found, "machine": {}}


def test_an_edit_that_does_nothing_gains_nothing(make_job: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gains are taken on the same batches from the same state: without an edit all of them are zero."""
    monkeypatch.setattr(ranking_trial, "apply", lambda *arguments: None)
    found = ranking_trial.run(job_of(make_job, continuations=3))
    assert all(item["gains"] == item["short_gains"] == [0.0] * 3 for item in found["candidates"])
    assert len(set(found["plain"])) == 3
