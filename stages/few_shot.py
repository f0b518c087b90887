"""Recognises classes never trained on from a few drawings of each: the document's numbers of shots, arm by arm.

`traditional` is the better one, by validation episodes, of a linear classifier on the features of a network that was
trained to classify the training classes, and of training on an episode's support alone. `meta_learning` is the better
one of prototypical networks and MAML. `dnm` is a prototypical network that grows while it is trained; `start` and
`scratch` are its controls: the start network never grown, and the final architecture from the first step, both at its
FLOPs. All other trainings spend the FLOPs of the fixed prototypical network. `centroid`, the class with the nearest
mean image, is trained on nothing: the floor.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, Any

from stages import arms, cli, outputs, tracking

if TYPE_CHECKING:
    from stages.data.splits import DataSet
    from stages.few_shot_trial import Job

ARMS = ("centroid", "traditional", "meta_learning", "dnm", "start", "scratch")
COLUMNS = (
    "arm", "seed", "method", "split", "shots", "chosen", "queries", "episodes", "accuracy", "fingerprint", "right",
)  # fmt: skip
FIGURES = ("parameters", "forward_flops", "training_flops", "steps", "edits", "train_loss")
GROWN = ("arm", "seed", "start_widths", "widths", "branches", "journal", "events")


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/few_shot/<entry>.*`."""
    started = time.perf_counter()
    with outputs.exclusive(context.root / "runs" / "locks" / f"few_shot-{context.settings.scale}-{context.name}"):
        from stages import few_shot_trial
        from stages.data import splits

        reasons = unmeasured(context, splits.load(context.data))
        shots = tuple(number for number in documented_shots().values() if number not in reasons)
        title = f"few-shot {context.name}"
        results = arms.run(context, first(context, shots), title, task=few_shot_trial.run)
        grown = [result for result in results if result["arm"] == "dnm"]
        results += arms.run(context, after(context, shots, grown), f"{title}: start and scratch", few_shot_trial.run)
        write(context, results, reasons)
        arms.write_machine(context, "few_shot", results, started)
        tracking.log(context, "few_shot")


def first(context: cli.Context, shots: tuple[int, ...]) -> list[Job]:
    """The trials that need no other's result."""
    seeds = range(context.few_shot.seeds)
    trained = [job(context, arm, seed, shots) for arm in ("traditional", "meta_learning", "dnm") for seed in seeds]
    return [job(context, "centroid", 0, shots), *trained]


def after(context: cli.Context, shots: tuple[int, ...], grown: list[dict[str, Any]]) -> list[Job]:
    """The controls of what dnm's trials gave."""
    return [job(context, arm, of["seed"], shots, of) for arm in ("start", "scratch") for of in grown]


def documented_shots() -> dict[str, int]:
    """The document's rows, by name, and how many shots each is about."""
    from stages import documented

    return {row: int(row.removeprefix("shots_")) for row in documented.load().tables["few_shot"].rows}


def unmeasured(context: cli.Context, data: DataSet) -> dict[int, str]:
    """The numbers of shots that cannot be measured on the data, and why.

    Raises:
        DataError: there are no episodes to train on, or none with any number of shots.
    """
    from stages import episodes
    from stages.episodes import Form

    settings = context.few_shot
    for ways in (settings.meta.ways, settings.ways):
        form = Form(ways=ways, shots=settings.meta.shots, queries=settings.meta.queries)
        episodes.check(data.train, data.class_names, form, f"{context.name}: train")
    found = {}
    for number in documented_shots().values():
        form = Form(ways=settings.ways, shots=number, queries=settings.queries)
        for name in ("test", "validation"):
            reason = episodes.shortage(getattr(data, name), data.class_names, form)
            if reason:
                found.setdefault(number, f"{name}: {reason}")
    if len(found) == len(documented_shots()):
        form = Form(ways=settings.ways, shots=min(found), queries=settings.queries)
        for name in ("validation", "test"):
            episodes.check(getattr(data, name), data.class_names, form, f"{context.name}: {name}")
    return found


def job(context: cli.Context, arm: str, seed: int, shots: tuple[int, ...], grown: dict[str, Any] | None = None) -> Job:
    """The trial of an arm and seed; the controls of a grown network need its result, whose FLOPs they spend."""
    from stages.few_shot_trial import Job

    flops, widths, branches = None, None, None
    if grown is not None:
        flops = grown["figures"]["prototypical"]["training_flops"]
        if arm == "scratch":
            widths, branches = arms.shape_of(grown)
    return Job(
        context.name,
        context.few_shot,
        context.settings.execution,
        str(context.data),
        arm,
        seed,
        arm == "dnm",
        widths=widths,
        branches=branches,
        flops=flops,
        shots=shots,
    )


def write(context: cli.Context, results: list[dict[str, Any]], reasons: dict[int, str]) -> None:
    """Writes what was measured, but for what it took."""
    folder, name = context.metrics / "few_shot", context.name
    results = sorted(results, key=lambda result: (ARMS.index(result["arm"]), result["seed"]))
    queries = context.few_shot.ways * context.few_shot.queries
    outputs.write_csv(folder / f"{name}.csv", lines(results, queries), COLUMNS)
    outputs.write_csv(
        folder / f"{name}.trials.csv",
        [
            {"arm": result["arm"], "seed": result["seed"], "method": method, **figures}
            | {"fingerprint": result["fingerprint"]}
            for result in results
            for method, figures in sorted(result["figures"].items())
            if figures
        ],
        ("arm", "seed", "method", *FIGURES, "fingerprint"),
    )
    grown = [{key: result[key] for key in GROWN} for result in results if result["arm"] == "dnm"]
    items = ",\n".join(json.dumps(item, sort_keys=True, allow_nan=False) for item in grown)
    outputs.write_text(folder / f"{name}.journals.json", f"[\n{items}\n]\n")
    content = {"arms": means(results, queries), "not_measured": {str(shots): why for shots, why in reasons.items()}}
    outputs.write_json(folder / f"{name}.json", content)


def lines(results: list[dict[str, Any]], queries: int) -> list[dict[str, Any]]:
    """One line for each trial, method, split and number of shots; `queries` are those of an episode."""
    return [
        {
            "arm": result["arm"],
            "seed": result["seed"],
            **{key: score[key] for key in ("method", "split", "shots")},
            "chosen": int(score["chosen"]),
            "queries": queries,
            "episodes": len(score["right"]),
            "accuracy": sum(score["right"]) / (queries * len(score["right"])),
            "fingerprint": result["fingerprint"],
            "right": " ".join(map(str, score["right"])),
        }
        for result in results
        for score in result["scores"]
    ]


def means(results: list[dict[str, Any]], queries: int) -> dict[str, dict[str, float]]:
    """By arm the mean test accuracy of the chosen method, as a fraction, by number of shots."""
    tested = [line for line in lines(results, queries) if line["split"] == "test" and line["chosen"]]
    return {
        arm: {
            f"test_accuracy/{shots}_shots": statistics.fmean(
                line["accuracy"] for line in tested if (line["arm"], line["shots"]) == (arm, shots)
            )
            for shots in dict.fromkeys(line["shots"] for line in tested)
        }
        for arm in ARMS
    }


if __name__ == "__main__":
    cli.main(main, section="few_shot")
