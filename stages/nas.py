"""Searches for an architecture among those that DNM can reach, its cost counted, and trains the best one from nothing.

`nas` searches by a tree-structured Parzen estimator, `nas_random`, its control, at random for as many FLOPs; both by
successive halving, see `stages.nas_trial`. Candidates are chosen by validation accuracy. What is found is trained as
the row's baseline is, for as many epochs, on the seed's data order, and tested once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from stages import arms, cli, outputs, settings_checks, tracking
from stages.settings import Nas

if TYPE_CHECKING:
    from stages.nas_trial import Job

ARMS = ("nas", "nas_random")
COLUMNS = ("arm", "seed", "candidate", "epochs", "parameters", "training_flops", "validation_accuracy", "chosen")


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/nas/<nas>.*`."""
    started = time.perf_counter()
    with outputs.exclusive(context.root / "runs" / "locks" / f"nas-{context.settings.scale}-{context.name}"):
        from stages import nas_trial

        results = arms.run(context, jobs(context), f"nas {context.name}", task=nas_trial.run)
        results.sort(key=lambda result: (ARMS.index(result["arm"]), result["seed"]))
        outputs.write_csv(context.metrics / "nas" / f"{context.name}.candidates.csv", lines(results), COLUMNS)
        arms.write(context, "nas", results, started)
        tracking.log(context, "nas")


def arm_names(nas: Nas) -> tuple[str, ...]:
    """The arms of a search."""
    return ARMS if nas.random else ARMS[:1]


def jobs(context: cli.Context) -> list[Job]:
    """One for each arm and seed."""
    from stages.nas_trial import Job

    row, nas = context.row, context.nas
    spent = {
        int(line["seed"]): float(line["training_flops"])
        for line in outputs.read_csv(context.metrics / "morphogenesis" / f"{context.row_name}.trials.csv")
        if line["arm"] == "dnm"
    }
    return [
        Job(
            context.row_name,
            row,
            context.settings.execution,
            str(context.data),
            arm,
            seed,
            search_flops=round(nas.cost * spent[seed]),
            epochs=rungs(nas, row.training.epochs),
            reduction=nas.reduction,
            operators=row.dnm.operators,
            max_parameters=row.dnm.max_parameters,
            max_training_flops=row.dnm.max_training_flops,
        )
        for arm in arm_names(nas)
        for seed in range(nas.seeds)
    ]


def rungs(nas: Nas, epochs: int) -> tuple[int, ...]:
    """Epochs of the rungs, the shortest first; two that are rounded to the same are one."""
    first = settings_checks.shortest_rung(nas, epochs)
    return tuple(sorted({max(1, round(first * nas.reduction**rung)) for rung in range(nas.rungs)}))


def lines(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each search, candidate and rung."""
    return [
        {
            "arm": result["arm"],
            "seed": result["seed"],
            "candidate": candidate["number"],
            "epochs": epochs,
            "parameters": candidate["parameters"],
            "training_flops": flops,
            "validation_accuracy": accuracy,
            "chosen": int(candidate["chosen"]),
        }
        for result in results
        for candidate in result["search"]
        for epochs, accuracy, flops in candidate["rungs"]
    ]


if __name__ == "__main__":
    cli.main(main, section="nas")
