"""Finds objects in pictures: the same pyramid and head on the backbone of every arm.

`baseline` is the fixed plain network; `sota` a ResNet-18 for the baseline's FLOPs; `dnm` the start network that grows
while the detector is trained; `start` and `scratch` are its controls: the start network never grown, and the final
architecture from the first step, both at its FLOPs.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, Any

from stages import arms, cli, outputs, tracking

if TYPE_CHECKING:
    from stages.detection_trial import Job

ARMS = ("baseline", "sota", "dnm", "start", "scratch")
FIGURES = (
    "test_map", "test_map_50", "validation_map", "train_loss", "parameters", "forward_flops", "training_flops", "steps",
    "edits",
)  # fmt: skip
COLUMNS = ("arm", "seed", "label", "class", "average_precision", "average_precision_50")
GROWN = ("arm", "seed", "start_widths", "widths", "branches", "journal", "events")
SUMMARISED = ("test_map", "test_map_50", "parameters", "training_flops", "steps")


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/detection/<entry>.*`."""
    started = time.perf_counter()
    with outputs.exclusive(context.root / "runs" / "locks" / f"detection-{context.settings.scale}-{context.name}"):
        from stages import detection_trial

        title = f"detection {context.name}"
        results = arms.run(context, first(context), title, task=detection_trial.run)
        grown = [result for result in results if result["arm"] == "dnm"]
        results += arms.run(context, after(context, grown), f"{title}: start and scratch", task=detection_trial.run)
        write(context, results)
        arms.write_machine(context, "detection", results, started)
        tracking.log(context, "detection")


def first(context: cli.Context) -> list[Job]:
    """The trials that need no other's result."""
    seeds = range(context.detection.seeds)
    return [job(context, arm, seed) for arm in ("baseline", "sota", "dnm") for seed in seeds]


def after(context: cli.Context, grown: list[dict[str, Any]]) -> list[Job]:
    """The controls of what dnm's trials gave."""
    return [job(context, arm, of["seed"], of) for arm in ("start", "scratch") for of in grown]


def job(context: cli.Context, arm: str, seed: int, grown: dict[str, Any] | None = None) -> Job:
    """The trial of an arm and seed; the controls of a grown network need its result, whose FLOPs they spend."""
    from stages.detection_trial import Job

    flops, widths, branches = None, None, None
    if grown is not None:
        flops = grown["figures"]["training_flops"]
        if arm == "scratch":
            widths, branches = arms.shape_of(grown)
    return Job(
        context.name,
        context.detection,
        context.settings.execution,
        str(context.data),
        arm,
        seed,
        arm == "dnm",
        widths=widths,
        branches=branches,
        flops=flops,
        backbone="resnet" if arm == "sota" else "plain",
    )


def write(context: cli.Context, results: list[dict[str, Any]]) -> None:
    """Writes what was measured, but for what it took."""
    folder, name = context.metrics / "detection", context.name
    results = sorted(results, key=lambda result: (ARMS.index(result["arm"]), result["seed"]))
    names = outputs.read_json(context.metrics / "prepare" / f"{name}.json")["classes"]
    outputs.write_csv(folder / f"{name}.csv", lines(results, names), COLUMNS)
    outputs.write_csv(
        folder / f"{name}.trials.csv",
        [
            {"arm": result["arm"], "seed": result["seed"], **result["figures"], "fingerprint": result["fingerprint"]}
            for result in results
        ],
        ("arm", "seed", *FIGURES, "fingerprint"),
    )
    grown = [{key: result[key] for key in GROWN} for result in results if result["arm"] == "dnm"]
    items = ",\n".join(json.dumps(item, sort_keys=True, allow_nan=False) for item in grown)
    outputs.write_text(folder / f"{name}.journals.json", f"[\n{items}\n]\n")
    outputs.write_json(folder / f"{name}.json", {"arms": means(results)})


def lines(results: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """One line for each trial and class that the test split has objects of: average precisions from 0 to 1."""
    return [
        {
            "arm": result["arm"],
            "seed": result["seed"],
            "label": label,
            "class": names[label],
            "average_precision": over_all,
            "average_precision_50": at_50,
        }
        for result in results
        for label, (over_all, at_50) in enumerate(result["classes"])
        if over_all is not None
    ]


def means(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By arm the means over seeds, mAP from 0 to 1."""
    return {
        arm: {
            figure: statistics.fmean(result["figures"][figure] for result in results if result["arm"] == arm)
            for figure in SUMMARISED
        }
        for arm in dict.fromkeys(result["arm"] for result in results)
    }


if __name__ == "__main__":
    cli.main(main, section="detection")
