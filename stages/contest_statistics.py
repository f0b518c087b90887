"""What a contest says of growing: regret, FLOPs to the grown network's own accuracy, and the controls of the place."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages import cli, outputs
from stages.contest import CONTROLS, PETA, RULES, fixed
from stages.statistics import read_arms

# What is aimed at, from the beginning.
REGRET, SHARE, START_SHARE = -0.3, 0.75, 0.25
BOOTSTRAP_SEED = 0

Curve = Sequence[tuple[float, float]]


def of_contest(context: cli.Context) -> dict[str, Any]:
    """The statistics of the context's contest."""
    folder, name = context.metrics / "contest", context.entry
    figures = read_arms(folder / f"{name}.trials.csv")
    curves: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for line in outputs.read_csv(folder / f"{name}.curves.csv"):
        point = float(line["flops"]), float(line["validation_accuracy"])
        curves.setdefault(line["arm"], {}).setdefault(int(line["seed"]), []).append(point)
    journals = outputs.read_json(folder / f"{name}.journals.json")
    grown = {item["seed"]: item["events"] for item in journals if item["arm"] == "dnm"}
    names = ["baseline", *fixed(context.row, context.contest)]
    found = contest_statistics(figures, curves, grown, names, context.contest.pflop * PETA)
    return {"row": context.row_name, "pflop": context.contest.pflop, **found}


def contest_statistics(
    figures: Mapping[str, Mapping[int, Mapping[str, float]]],
    curves: Mapping[str, Mapping[int, Curve]],
    grown: Mapping[int, Sequence[Mapping[str, Any]]],
    fixed_arms: Sequence[str],
    budget: float,
) -> dict[str, Any]:
    """All that is said of one contest.

    Args:
        figures: of every trial, by arm and seed; every arm has the same seeds.
        curves: FLOPs spent and validation accuracy at the end of every epoch, by arm and seed.
        grown: the events of `dnm`, by seed.
        fixed_arms: the arms that are never grown.
        budget: FLOPs of a trial.

    Returns:
        `arms`: test accuracy (percent), parameters and counted FLOPs, each with its interval; `best`: the fixed arm
        with the highest mean test accuracy, a choice that is to the disadvantage of `dnm`; `regret`, `baseline`,
        `scratch` and the rules: paired differences of `dnm` to these, in points; `share`: the part of the budget at
        which `dnm` first validates as well as `scratch` does in the end, by seed, null where it never does, and its
        median;
        `start_share`: forward FLOPs of the start network over those of `best`; `events`: those that edited, by seed;
        `reached`: which aims are.
    """
    import numpy as np

    from stages import inference

    seeds = sorted(figures["dnm"])
    if any(sorted(of_arm) != seeds for of_arm in figures.values()):
        found_seeds = {arm: sorted(of_arm) for arm, of_arm in figures.items()}
        raise cli.UserError(f"the arms have different seeds ({found_seeds}), expected the same; run the contest again")

    def accuracies(arm: str) -> list[float]:
        return [100.0 * figures[arm][seed]["test_accuracy"] for seed in seeds]

    def over(arm: str) -> dict[str, Any]:
        generator = np.random.default_rng(BOOTSTRAP_SEED)
        return asdict(inference.paired_difference(accuracies("dnm"), accuracies(arm), generator))

    arms = {
        arm: {
            "test_accuracy": asdict(inference.summary(accuracies(arm))),
            **{
                name: asdict(inference.summary([figures[arm][seed][name] for seed in seeds]))
                for name in ("parameters", "training_flops")
            },
        }
        for arm in figures
    }
    best = max(fixed_arms, key=lambda arm: arms[arm]["test_accuracy"]["mean"])
    shares = {
        str(seed): first_reach(curves["dnm"][seed], curves["scratch"][seed][-1][1], budget) for seed in seeds
    }  # fmt: skip
    median = statistics.median(math.inf if share is None else share for share in shares.values())
    events = {str(seed): sum(_edits(event) for event in grown[seed]) for seed in seeds}
    start = [grown[seed][0]["before"]["forward"] for seed in seeds if grown[seed]]
    start_share = start[0] / figures[best][seeds[0]]["forward_flops"] if start else None
    found = {
        "arms": arms,
        "best": best,
        "regret": over(best),
        **{arm: over(arm) for arm in ("baseline", *CONTROLS)},
        "share": {"by_seed": shares, "median": None if math.isinf(median) else median},
        "start_share": start_share,
        "events": events,
    }
    found["reached"] = {
        "regret": found["regret"]["mean"] >= REGRET and min(events.values()) >= 1,
        "share": not math.isinf(median) and median <= SHARE,
        "baseline": found["baseline"]["low"] > 0.0,
        **{rule: found[rule]["low"] > 0.0 for rule in RULES},
        "start_share": start_share is not None and start_share <= START_SHARE,
    }
    return found


def first_reach(curve: Curve, target: float, budget: float) -> float | None:
    """The part of the budget at which a curve first is at the target, linear between its points.

    None where it never is.
    """
    before: tuple[float, float] | None = None
    for flops, accuracy in curve:
        if accuracy >= target:
            if before is None or accuracy == before[1]:
                return flops / budget
            part = (target - before[1]) / (accuracy - before[1])
            return (before[0] + part * (flops - before[0])) / budget
        before = flops, accuracy
    return None


def _edits(event: Mapping[str, Any]) -> bool:
    return bool(event["entries"]) and event["status"] != "taken back" and event["kind"] == "growth"
