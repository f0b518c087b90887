"""What networks trained on one row are worth on the data of another one: baseline, dnm, scratch, and one never trained.

Each network of the source is probed (a linear classifier on its features, which stay as they are) and fine-tuned (all
of its weights, with a new last layer) on the target's training images. `untrained` is the baseline network with fresh
weights: fine-tuning it is training on the target from the start for as many epochs, so that one sees what the source
was good for.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import TYPE_CHECKING, Any

from stages import arms, cli, outputs, tracking, trained

if TYPE_CHECKING:
    from stages.transfer_trial import Job

ARMS = (*trained.ARMS, "untrained")
# The one that the document's figures are held against first.
PROTOCOLS = ("fine_tuning", "probe")
FIGURES = ("test_accuracy", "validation_accuracy", "training_flops")
COLUMNS = ("pair", "arm", "seed", "protocol", *FIGURES, "fingerprint")


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/transfer/<transfer>.csv` and `.json`."""
    started = time.perf_counter()
    with outputs.exclusive(context.root / "runs" / "locks" / f"transfer-{context.settings.scale}-{context.name}"):
        from stages import transfer_trial

        results = arms.run(context, jobs(context), f"transfer {context.name}", task=transfer_trial.run)
        folder = context.metrics / "transfer"
        outputs.write_csv(folder / f"{context.name}.csv", lines(context.name, results), COLUMNS)
        outputs.write_json(folder / f"{context.name}.json", {"arms": means(results), "probes": probes(results)})
        arms.write_machine(context, "transfer", results, started)
        tracking.log(context, "transfer")


def jobs(context: cli.Context) -> list[Job]:
    """All arms on the source's first seeds."""
    from stages.transfer_trial import Job

    settings, rows = context.transfer, context.settings.image_classification
    target = dataclasses.replace(context, row_name=settings.target)
    card = outputs.read_json(target.metrics / "prepare" / f"{settings.target}.json")
    of_target = {
        "target": settings.target,
        "target_data": str(target.data),
        "target_hash": card["sha256"],
        "fine_tuning": dataclasses.replace(rows[settings.target].training, epochs=settings.epochs),
    }
    grown = trained.grown(context)
    found = []
    for arm in ARMS:
        for seed in range(settings.seeds):
            plain = arms.job(context, arm, seed, grown[seed] if arm == "scratch" else None)
            file = ""
            if arm == "untrained":
                plain = dataclasses.replace(plain, widths=context.row.networks.baseline)
            else:
                file = str(trained.path(context.root, trained.mark(context, plain)))
            own = {item.name: getattr(plain, item.name) for item in dataclasses.fields(plain)}
            found.append(Job(**own, **of_target, trained=file))
    return found


def lines(pair: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each trial and protocol."""
    return [
        {
            "pair": pair, "arm": result["arm"], "seed": result["seed"], "protocol": protocol,
            **{figure: result[protocol][figure] for figure in FIGURES}, "fingerprint": result["fingerprint"],
        }
        for result in results
        for protocol in PROTOCOLS
    ]  # fmt: skip


def means(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By arm the mean test accuracy by protocol, as a fraction."""
    return {
        arm: {
            f"test_accuracy/{protocol}": statistics.fmean(
                result[protocol]["test_accuracy"] for result in results if result["arm"] == arm
            )
            for protocol in PROTOCOLS
        }
        for arm in ARMS
    }


def probes(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By arm the chosen penalties of the probes, seed by seed, and how many of their fits did not converge."""
    return {
        arm: {
            "inverse_regularization": [
                result["probe"]["inverse_regularization"] for result in results if result["arm"] == arm
            ],
            "not_converged": sum(not result["probe"]["converged"] for result in results if result["arm"] == arm),
        }
        for arm in ARMS
    }


if __name__ == "__main__":
    cli.main(main, section="transfer")
