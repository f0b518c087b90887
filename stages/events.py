"""How often which kind of edit happens, when, and what it gains: runs forked at their events.

They are runs of the row's `dnm`, but with every operator, and with pruning.

At each event the network from before it is trained on for a number of steps, on the same batches, once with the event's
edits of each kind and once without any, which is the placebo.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stages import arms, cli, outputs, tracking
from stages.settings import OPERATORS

if TYPE_CHECKING:
    from stages.events_trial import Job

COLUMNS = ("seed", "event", "position", "status", "kind", "edits", "apart", "gain", "parameters", "flops")


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/events/<events>.csv` and `.json`."""
    started = time.perf_counter()
    from stages import events_trial

    with outputs.exclusive(context.root / "runs" / "locks" / f"events-{context.settings.scale}-{context.name}"):
        results = arms.run(context, jobs(context), f"events {context.name}", task=events_trial.run)
        found = lines(results)
        folder = context.metrics / "events"
        outputs.write_csv(folder / f"{context.name}.csv", found, COLUMNS)
        outputs.write_json(
            folder / f"{context.name}.json",
            {"seeds": [result["seed"] for result in results], "arms": means(found)},
        )
        arms.write_machine(context, "events", results, started)
        tracking.log(context, "events")


def jobs(context: cli.Context) -> list[Job]:
    """One for every seed."""
    from stages.events_trial import Job

    settings = context.events
    pruning = {"prune_at": settings.prune_at, "prune_tolerance": settings.prune_tolerance}
    dnm = replace(context.row.dnm, operators=OPERATORS, **pruning)
    row, execution, data = replace(context.row, dnm=dnm), context.settings.execution, str(context.data)
    return [
        Job(context.row_name, row, execution, data, "full", seed, grown=True, fork_steps=settings.steps)
        for seed in range(settings.seeds)
    ]


def lines(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each seed, event and kind of edit."""
    return [
        {
            "seed": result["seed"],
            "event": number,
            "position": event["position"],
            "status": event["status"],
            "kind": kind,
            **of_kind,
        }
        for result in results
        for number, event in enumerate(result["events"])
        for kind, of_kind in event["kinds"].items()
    ]


def means(found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean gain (points) and position by kind."""
    kinds = dict.fromkeys(line["kind"] for line in found)
    return {
        kind: {
            name: statistics.fmean(line[name] for line in found if line["kind"] == kind)
            for name in ("gain", "position", "edits")
        }
        for kind in kinds
    }


if __name__ == "__main__":
    cli.main(main, section="events")
