"""What a trained network keeps of its accuracy when images are perturbed; see `stages.perturbations`."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages import perturbations, trained, trial
from stages.data import splits
from stages.tasks import image_classification as task

# Of the strength at which the baseline loses what the document says.
FACTORS = (0.25, 0.5, 1.0, 2.0)
ATTACKS = ("fgsm", "pgd")
# Apart from the seeds of training.
SEEDS = {"validation": 1_000_000, "test": 2_000_000}


@dataclass(frozen=True)
class Job(trial.Job):
    """A trained network and what it is shown.

    Attributes:
        drops: by perturbation, the drop of accuracy that its strength is found for on validation data, as a fraction;
            of the baseline, whose strengths the other arms take over.
        strengths: by perturbation; None finds those of the drops.
        images: of the test split that attacks are made on, its first ones.
        trained: file in which the network is kept; it is trained where there is none.
    """

    drops: tuple[tuple[str, float], ...] = ()
    strengths: tuple[tuple[str, float], ...] | None = None
    images: int = 0
    trained: str = ""


def run(job: Job) -> dict[str, Any]:
    """Perturbs the test images of a trained network.

    Returns:
        Plain values: `arm` and `seed`; `clean`, test accuracy (fraction), and `clean_attacked` on the images that are
        attacked; `strengths` by perturbation; `calibration` by perturbation, of the baseline alone: clean and perturbed
        validation accuracy, and the wanted drop; `accuracies` by perturbation, one for each of `FACTORS`; `machine`.
    """
    started = time.perf_counter()
    trial.settle(job.execution)
    data = splits.load(Path(job.data))
    model = trained.network(job, data, Path(job.trained))
    validation, test = (trial.split_of(data, name, job) for name in ("validation", "test"))
    calibration: dict[str, dict[str, float]] = {}
    strengths = dict(job.strengths or ())
    for name, drop in () if job.strengths is not None else job.drops:
        found = perturbations.calibrate(model, validation, name, drop, seed=SEEDS["validation"] + job.seed)
        strengths[name] = found.strength
        calibration[name] = {"clean": found.clean_accuracy, "perturbed": found.accuracy, "wanted": found.wanted}
    # At one strength, so that the two can be compared.
    strengths.setdefault("fgsm", strengths["pgd"])
    few = _first(test, job.images)
    accuracies = {
        name: perturbations.curve(
            model,
            few if name in ATTACKS else test,
            name,
            [factor * strength for factor in FACTORS],
            seed=SEEDS["test"] + job.seed,
        )
        for name, strength in strengths.items()
    }
    return {
        "arm": job.arm,
        "seed": job.seed,
        "clean": task.evaluate(model, test)[1],
        "clean_attacked": task.evaluate(model, few)[1],
        "strengths": strengths,
        "calibration": calibration,
        "accuracies": accuracies,
        "machine": {"seconds": time.perf_counter() - started},
    }


def _first(split: task.Split, num: int) -> task.Split:
    return replace(split, images=split.images[:num], labels=split.labels[:num])
