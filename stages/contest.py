"""The honest contest: growing against fixed networks of several widths, every trial at the same counted FLOPs.

On each seed `dnm` grows from the start network. `scratch` is the network that it ends up with, in that shape from its
first step; `random` and `uniform` grow at the same times to the same numbers of parameters, with as many branches of
the same kinds: `random` with branches and wider layers at places drawn at random, `uniform` with the same branches and
all layers wider by one factor; `baseline` is the row's, and `x1.5` the start network with every layer so many times as
wide.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stages import arms, cli, outputs, tracking
from stages.settings import Contest, Row

if TYPE_CHECKING:
    from stages.trial import Job

PETA = 10**15
UNLIMITED = 1000.0
FIRST = ("dnm", "baseline")
RULES = ("random", "uniform")
CONTROLS = ("scratch", *RULES)


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/contest/<contest>.*`."""
    started = time.perf_counter()
    title = f"contest {context.entry}"
    with outputs.exclusive(context.root / "runs" / "locks" / f"contest-{context.settings.scale}-{context.name}"):
        results = arms.run(context, first(context), title)
        controls = [job for result in results if result["arm"] == "dnm" for job in after(context, result)]
        results += arms.run(context, controls, f"{title}, controls")
        order = arm_names(context.row, context.contest)
        results.sort(key=lambda result: (order.index(result["arm"]), result["seed"]))
        arms.write(context, "contest", results, started)
        tracking.log(context, "contest")


def fixed(row: Row, contest: Contest) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The fixed networks, the baseline aside, by name."""
    return {
        f"x{factor:g}": tuple(tuple(max(1, round(factor * width)) for width in block) for block in row.networks.start)
        for factor in contest.factors
    }


def arm_names(row: Row, contest: Contest) -> list[str]:
    """All arms."""
    return [*FIRST, *CONTROLS, *fixed(row, contest)]


def first(context: cli.Context) -> list[Job]:
    """The trials that need no other's result, of every seed."""
    widths: dict[str, Any] = {**dict.fromkeys(FIRST), **fixed(context.row, context.contest)}
    return [
        _job(context, arm, seed, grown=arm == "dnm", widths=of_arm)
        for seed in range(context.contest.seeds)
        for arm, of_arm in widths.items()
    ]


def after(context: cli.Context, grown: dict[str, Any]) -> list[Job]:
    """The controls of a trial of `dnm`, whose sizes or shape they take over."""
    seed, plan = grown["seed"], plan_of(grown["events"])
    widths, branches = arms.shape_of(grown)
    return [
        _job(context, "scratch", seed, widths=widths, branches=branches),
        *(_job(context, rule, seed, grown=True, plan=plan) for rule in RULES),
    ]


def plan_of(events: list[dict[str, Any]]) -> tuple[tuple[float, int, tuple[tuple[str, str], ...]], ...]:
    """When a network grew, to how many parameters, and what was inserted, as `stages.planned` takes it."""
    return tuple(
        (event["position"], event["after"]["parameters"], inserted(event["entries"]))
        for event in events
        if event["entries"] and event["status"] != "taken back" and event["kind"] == "growth"
    )


def inserted(entries: list[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Operators and places of an event's insertions."""
    return tuple((entry["operator"], entry["at"]) for entry in entries if "at" in entry)


def _job(context: cli.Context, arm: str, seed: int, **options: Any) -> Job:
    from stages.trial import Job

    flops = round(context.contest.pflop * PETA)
    # Limits of size are for runs of so many epochs, which growing costs nothing; here its price bounds it.
    dnm = replace(context.row.dnm, max_parameters=UNLIMITED, max_training_flops=UNLIMITED)
    row, execution, data = replace(context.row, dnm=dnm), context.settings.execution, str(context.data)
    return Job(context.row_name, row, execution, data, arm, seed, flops=flops, **options)


if __name__ == "__main__":
    cli.main(main, section="contest")
