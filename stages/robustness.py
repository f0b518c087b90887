"""How much accuracy is lost under perturbations: baseline, dnm and scratch, at strengths found on the baseline.

On each seed the strength of each perturbation is the one at which that seed's baseline loses on validation data what
the document says that a traditional network loses. FGSM takes PGD's strength, so that the two can be compared.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from stages import arms, cli, outputs, tracking, trained

if TYPE_CHECKING:
    from stages.robustness_trial import Job

# By row of the document.
PERTURBATIONS = {
    "gaussian_noise": "gaussian_noise",
    "adversarial": "pgd",
    "brightness": "brightness",
    "rotation": "rotation",
}
# In this order whether a result comes from its trial or from a file, which has its keys sorted.
STRENGTHS = (*PERTURBATIONS.values(), "fgsm")
COLUMNS = ("arm", "seed", "perturbation", "strength", "factor", "clean", "accuracy", "fingerprint")


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/robustness/<robustness>.csv` and `.json`."""
    started = time.perf_counter()
    with outputs.exclusive(context.root / "runs" / "locks" / f"robustness-{context.settings.scale}-{context.name}"):
        from stages import robustness_trial

        title = f"robustness {context.name}"
        first = arms.run(context, jobs(context), title, task=robustness_trial.run)
        results = first + arms.run(context, after(context, first), f"{title}, at its strengths", robustness_trial.run)
        results.sort(key=lambda result: (trained.ARMS.index(result["arm"]), result["seed"]))
        folder = context.metrics / "robustness"
        outputs.write_csv(folder / f"{context.name}.csv", lines(results), COLUMNS)
        outputs.write_json(
            folder / f"{context.name}.json",
            {
                "calibration": {str(result["seed"]): result["calibration"] for result in first},
                "arms": means(lines(results)),
            },
        )
        arms.write_machine(context, "robustness", results, started)
        tracking.log(context, "robustness")


def jobs(context: cli.Context) -> list[Job]:
    """The baselines, which find the strengths."""
    from stages import documented

    table = documented.load()
    drops = tuple(
        (name, -table.number("robustness", row, "baseline") / 100.0) for row, name in PERTURBATIONS.items()
    )  # fmt: skip
    return [_job(context, arms.job(context, "baseline", seed), drops=drops) for seed in range(context.robustness.seeds)]


def after(context: cli.Context, first: list[dict[str, Any]]) -> list[Job]:
    """The other arms, at the strengths of their seed's baseline."""
    found = []
    grown = trained.grown(context)
    for result in first:
        seed = result["seed"]
        strengths = tuple((name, result["strengths"][name]) for name in STRENGTHS)
        for arm in ("dnm", "scratch"):
            own = arms.job(context, arm, seed, None if arm == "dnm" else grown[seed])
            found.append(_job(context, own, strengths=strengths))
    return found


def lines(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each trial, perturbation and factor."""
    from stages.robustness_trial import ATTACKS, FACTORS

    return [
        {
            "arm": result["arm"],
            "seed": result["seed"],
            "perturbation": name,
            "strength": factor * result["strengths"][name],
            "factor": factor,
            "clean": result["clean_attacked" if name in ATTACKS else "clean"],
            "accuracy": accuracy,
            "fingerprint": result["fingerprint"],
        }
        for result in results
        for name in STRENGTHS
        for factor, accuracy in zip(FACTORS, result["accuracies"][name], strict=True)
    ]


def means(found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By arm the mean drop of accuracy by perturbation, at the strength itself, as a fraction."""
    drops: dict[str, dict[str, list[float]]] = {}
    for line in found:
        if line["factor"] == 1.0:
            of_arm = drops.setdefault(line["arm"], {})
            of_arm.setdefault(f"drop/{line['perturbation']}", []).append(line["clean"] - line["accuracy"])
    return {arm: {name: statistics.fmean(values) for name, values in of_arm.items()} for arm, of_arm in drops.items()}


def _job(context: cli.Context, plain: Any, **options: Any) -> Job:
    from dataclasses import fields

    from stages.robustness_trial import Job

    own = {item.name: getattr(plain, item.name) for item in fields(plain)}
    file = trained.path(context.root, trained.mark(context, plain))
    return Job(**own, images=context.robustness.images, trained=str(file), **options)


if __name__ == "__main__":
    cli.main(main, section="robustness")
