"""The contest: who takes part, what the controls take over, and what is said of it, against figures made by hand."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from stages import cli, contest, contest_statistics, contest_table, outputs, spot_check, tracking, trial
from stages.contest_statistics import first_reach
from stages.settings import Contest, Execution, Row, Settings

SETTINGS = {
    "small": Contest(row="strokes", pflop=2e-7, seeds=2, factors=(1.5, 2.0)),
    "large": Contest(row="strokes", pflop=4e-7, seeds=3, factors=(3.0,)),
}


@pytest.fixture
def context(tiny_row: Row, tiny_data: Path, execution: Execution, tmp_path: Path) -> cli.Context:
    settings = Settings(
        scale="tiny", root=".", params_file="params.yaml",
        execution=dataclasses.replace(execution, keep_records=True),
        image_classification={"strokes": tiny_row}, contest=SETTINGS, ranking={}, ablation={}, robustness={}, events={},
        nas={},
    )  # fmt: skip
    found = cli.Context(settings, tmp_path, "strokes", "small")
    for folder in ("dnm", "stages"):
        shutil.copytree(cli.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    found.data.parent.mkdir(parents=True)
    shutil.copy(tiny_data, found.data)
    outputs.write_json(found.metrics / "prepare" / "strokes.json", {"sha256": "of the data", "source": "strokes"})
    return found


def test_who_takes_part(context: cli.Context) -> None:
    jobs = contest.first(context)
    assert [(job.arm, job.seed) for job in jobs] == [
        (arm, seed) for seed in (0, 1) for arm in ("dnm", "baseline", "x1.5", "x2")
    ]
    assert {job.flops for job in jobs} == {200_000_000}
    widths = {job.arm: job.widths for job in jobs}
    assert widths == {"dnm": None, "baseline": None, "x1.5": ((6,), (9, 9)), "x2": ((8,), (12, 12))}
    assert [job.arm for job in jobs if job.grown] == ["dnm"] * 2
    others = contest.first(dataclasses.replace(context, entry="large"))
    assert {job.flops for job in others} == {400_000_000} and len(others) == 3 * 3


def event(position: float, parameters: int, **changes: Any) -> dict[str, Any]:
    after = {"parameters": parameters}
    return {
        "kind": "growth",
        "status": "kept",
        "entries": [{"operator": "Divide"}],
        "position": position,
        "after": after,
        **changes,
    }


def test_controls_take_over_what_dnm_kept(context: cli.Context) -> None:
    events = [
        event(0.1, 500),
        event(0.2, 700, status="taken back"),
        event(0.3, 500, entries=[], status="no edit"),
        event(0.4, 900, status="watched", entries=[{"operator": "AddResidual", "at": "9"}, {"operator": "Divide"}]),
        event(0.5, 800, kind="pruning"),
    ]
    grown = {"seed": 1, "events": events, "widths": [[5], [6, 7]], "branches": [["AddResidual", "9", 3]]}
    scratch, *rules = contest.after(context, grown)
    assert (scratch.arm, scratch.seed, scratch.widths, scratch.grown) == ("scratch", 1, ((5,), (6, 7)), False)
    assert scratch.branches == (("AddResidual", "9", 3),)
    assert [(job.arm, job.plan, job.grown) for job in rules] == [
        (rule, ((0.1, 500, ()), (0.4, 900, (("AddResidual", "9"),))), True) for rule in ("random", "uniform")
    ]
    assert {job.flops for job in (scratch, *rules)} == {200_000_000}


def test_a_whole_contest(context: cli.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records, figures, statistics and page of a tiny one; a second run trains nothing."""
    contexts = [dataclasses.replace(context, entry=name) for name in SETTINGS]
    logged: list[str] = []
    monkeypatch.setattr(tracking, "log", lambda context, stage: logged.append(f"{stage} {context.name}"))
    for one in contexts:
        contest.main(one)
    assert logged == ["contest small", "contest large"]
    folder = context.metrics / "contest"
    lines = outputs.read_csv(folder / "small.trials.csv")
    arms = ["dnm", "baseline", "scratch", "random", "uniform", "x1.5", "x2"]
    assert [(line["arm"], line["seed"]) for line in lines] == [(arm, seed) for arm in arms for seed in "01"]
    assert all(float(line["training_flops"]) <= 2e8 for line in lines)
    kept = sorted((context.root / "records" / "tiny" / "small").iterdir())
    assert [file.stem for file in kept] == sorted(f"{arm}-{seed}" for arm in arms for seed in (0, 1))
    states = spot_check.states(context)
    assert len(states) == 14 + 3 * 6 and all(state.today for state in states)
    assert "large/random-2" in {state.name for state in states}
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(trial, "run", None)
        for one in contexts:
            contest.main(one)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    found = {one.entry: contest_statistics.of_contest(one) for one in contexts}
    assert list(found["large"]["events"]) == ["0", "1", "2"]
    page = contest_table.page(found, {"strokes": "made-up strokes"}, {"strokes": ["dnm-7", "small/dnm-0"]})
    assert "## strokes, measured on made-up strokes" in page and "| arm | 0.0000002 PFLOP | 0.0000004 PFLOP |" in page
    assert "than today's: small/dnm-0." in page
    assert len(contest_table.cells(found)) == 7 + 6
    (budgets,) = contest_table.by_row(found).values()
    assert contest_table.figure("strokes", "made up", budgets) == contest_table.figure("strokes", "made up", budgets)


ACCURACIES = {
    "dnm": [0.80, 0.82, 0.81],
    "baseline": [0.70, 0.71, 0.72],
    "scratch": [0.79, 0.80, 0.84],
    "random": [0.75, 0.79, 0.80],
    "uniform": [0.80, 0.82, 0.81],
    "x2": [0.81, 0.82, 0.83],
}


def statistics(edits: tuple[int, ...] = (1, 1, 2), start: int = 250) -> dict[str, Any]:
    figures = {
        arm: {
            seed: {"test_accuracy": value, "parameters": 100, "training_flops": 990, "forward_flops": 1000}
            for seed, value in enumerate(values)
        }
        for arm, values in ACCURACIES.items()
    }
    curves = {
        "dnm": {seed: [(200.0, 0.4), (600.0, 0.6), (1000.0, 0.8)] for seed in range(3)},
        "scratch": {seed: [(500.0, 0.3), (1000.0, final)] for seed, final in enumerate((0.5, 0.7, 0.9))},
    }
    first = {"before": {"forward": start}}
    grown = {
        seed: [{**event(0.1, 1), **first}] * number + [{**event(0.2, 1, entries=[], status="no edit"), **first}]
        for seed, number in enumerate(edits)
    }
    return contest_statistics.contest_statistics(figures, curves, grown, ["baseline", "x2"], 1000.0)


def test_statistics_by_hand() -> None:
    found = statistics()
    assert found["best"] == "x2"
    for name, arm in (("regret", "x2"), ("baseline", "baseline"), ("random", "random"), ("uniform", "uniform")):
        differences = [100 * (a - b) for a, b in zip(ACCURACIES["dnm"], ACCURACIES[arm], strict=True)]
        assert found[name]["mean"] == pytest.approx(sum(differences) / 3, abs=1e-9)
        if arm == "uniform":
            continue
        interval = stats.ttest_1samp(differences, 0).confidence_interval()
        assert (found[name]["low"], found[name]["high"]) == pytest.approx(tuple(interval))
    # 0.5 lies half way from 0.4 to 0.6, 0.7 half way from 0.6 to 0.8, 0.9 above all.
    assert found["share"]["by_seed"] == {"0": pytest.approx(0.4), "1": pytest.approx(0.8), "2": None}
    assert found["share"]["median"] == pytest.approx(0.8)
    assert found["events"] == {"0": 1, "1": 1, "2": 2} and found["start_share"] == 0.25
    assert found["reached"] == {
        "regret": False, "share": False, "baseline": True, "random": False, "uniform": False, "start_share": True,
    }  # fmt: skip


def test_an_aim_takes_an_event_in_every_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACCURACIES, "x2", [0.80, 0.82, 0.8125])
    assert statistics()["reached"]["regret"]
    assert not statistics((1, 0, 1))["reached"]["regret"]
    assert not statistics(start=251)["reached"]["start_share"]


def test_arms_of_different_seeds_are_told() -> None:
    figures = {"dnm": {0: {}, 1: {}}, "baseline": {0: {}}}
    with pytest.raises(cli.UserError, match=r"different seeds .*'baseline': \[0\].* run the contest again"):
        contest_statistics.contest_statistics(figures, {}, {}, ["baseline"], 1.0)


def test_the_first_time_at_a_target() -> None:
    curve = [(10.0, 0.2), (20.0, 0.4), (30.0, 0.3), (40.0, 0.6)]
    assert first_reach(curve, 0.3, 100.0) == pytest.approx(0.15)
    assert first_reach(curve, 0.45, 100.0) == pytest.approx(0.35)
    assert first_reach(curve, 0.1, 100.0) == pytest.approx(0.1)
    assert first_reach(curve, 0.6, 40.0) == 1.0
    assert first_reach(curve, 0.61, 100.0) is None
