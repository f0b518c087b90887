"""Ranking quality: whether the edits that are predicted to gain most are those that do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stages import arms, cli, outputs, tracking

if TYPE_CHECKING:
    from stages.ranking_trial import Job

COLUMNS = (
    "seed", "moment", "operator", "place", "units", "growth", "added_parameters", "added_flops", "gradient_norm",
    "new_gradient",
)  # fmt: skip


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/ranking/<ranking>.json`, and `.csv` with every candidate."""
    started = time.perf_counter()
    from dnm.policy import THEORIES
    from stages import ranking_statistics, ranking_trial

    settings = context.ranking
    with outputs.exclusive(context.root / "runs" / "locks" / f"ranking-{context.settings.scale}-{context.name}"):
        found = jobs(context)
        states = arms.run(context, found, f"ranking {context.name}", task=ranking_trial.run)
        lines = [
            {
                "seed": job.seed,
                "moment": job.moment,
                **{name: item[name] for name in COLUMNS[2:]},
                **{theory: item["covariates"].get(theory, "") for theory in THEORIES},
                **{f"gain_{number}": gain for number, gain in enumerate(item["gains"])},
                **{f"short_gain_{number}": gain for number, gain in enumerate(item["short_gains"])},
            }
            for job, state in zip(found, states, strict=True)
            for item in state["candidates"]
        ]
        folder = context.metrics / "ranking"
        outputs.write_csv(folder / f"{context.name}.csv", lines, list(lines[0]))
        outputs.write_json(
            folder / f"{context.name}.json",
            {
                "row": context.row_name,
                "steps": settings.steps,
                **ranking_statistics.ranking(states, THEORIES),
                "losses": [state["loss"] for state in states],
            },
        )
        arms.write_machine(context, "ranking", states, started)
        tracking.log(context, "ranking")


def jobs(context: cli.Context) -> list[Job]:
    """One for every seed and moment."""
    from stages.ranking_trial import Job

    settings = context.ranking
    return [
        Job(
            context.row_name,
            context.row,
            context.settings.execution,
            str(context.data),
            f"step{moment}",
            seed,
            grown=True,
            moment=moment,
            steps=settings.steps,
            continuations=settings.continuations,
        )
        for seed in range(settings.seeds)
        for moment in settings.moments
    ]


if __name__ == "__main__":
    cli.main(main, section="ranking")
