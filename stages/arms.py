"""Runs the trials of a stage's arms and writes what they measured, in one form for every stage."""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import cli, outputs, records, trained, trials

if TYPE_CHECKING:
    from stages.trial import Job

FIGURES = (
    "test_accuracy", "test_loss", "validation_accuracy", "validation_loss", "train_loss", "parameters", "forward_flops",
    "training_flops", "epochs", "steps", "edits",
)  # fmt: skip
CURVE = (
    "epoch", "step", "flops", "learning_rate", "train_loss", "validation_loss", "validation_accuracy", "parameters",
)  # fmt: skip
SUMMARISED = ("test_accuracy", "parameters", "training_flops", "epochs")


def job(context: cli.Context, arm: str, seed: int, grown: dict[str, Any] | None = None) -> Job:
    """The trial of an arm and seed; the controls of a grown network need its result, whose FLOPs they spend."""
    from stages.trial import Job

    flops, widths, branches = None, None, None
    if grown is not None:
        flops = grown["figures"]["training_flops"]
        if arm == "scratch":
            widths, branches = shape_of(grown)
    execution, data = context.settings.execution, str(context.data)
    return Job(
        context.row_name,
        context.row,
        execution,
        data,
        arm,
        seed,
        arm == "dnm",
        widths=widths,
        branches=branches,
        flops=flops,
    )


def shape_of(grown: dict[str, Any]) -> tuple[Any, Any]:
    """Widths and branches of the network that a trial ended up with, as a job takes them."""
    branches = tuple((operator, at, inner) for operator, at, inner in grown["branches"])
    return tuple(tuple(block) for block in grown["widths"]), branches or None


def run(
    context: cli.Context, jobs: Sequence[Job], title: str, task: Callable[[Any], dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Runs the jobs; where the scale keeps records, only those without one of today's fingerprint.

    An unfinished trial goes on at its last epoch, and the finished ones of a stage that was ended are not run again:
    both lie under `runs/`, by fingerprint, until the stage has written its results. Each result gains the fingerprint
    of what it comes from. A trial is `stages.trial.run`, or the task given.
    """
    from stages import trial

    card = outputs.read_json(context.metrics / "prepare" / f"{context.row_name}.json")
    marks = records.fingerprints(context.root, jobs, card["sha256"])
    kept = context.settings.execution.keep_records
    scratch = [records.scratch(context.root, mark) for mark in marks]
    files = [
        records.path(context.root, context.settings.scale, context.name, job.arm, job.seed)
        if kept
        else own / "result.json"
        for job, own in zip(jobs, scratch, strict=True)
    ]
    known = [records.find(file, mark) for file, mark in zip(files, marks, strict=True)]
    missing = [number for number, result in enumerate(known) if result is None]
    if len(missing) < len(jobs):
        print(f"{title}: {len(jobs) - len(missing)} of {len(jobs)} trials are finished already", file=sys.stderr)
    if stale := [file.stem for number, file in enumerate(files) if number in missing and file.exists()]:
        print(
            f"{title}: of other settings, data or code, made anew: {', '.join(stale)}",
            file=sys.stderr,
        )
    todo = [dataclasses.replace(jobs[number], checkpoint=str(scratch[number] / "checkpoint.pt")) for number in missing]

    def finished(job: Job, result: dict[str, Any]) -> None:
        number = missing[todo.index(job)]
        result["fingerprint"] = marks[number]
        result["machine"] |= outputs.machine(context.root)
        records.keep(files[number], marks[number], result)
        if trained.is_wanted(context, job):
            trained.keep(Path(job.checkpoint), result, trained.path(context.root, marks[number]))
        Path(job.checkpoint).unlink(missing_ok=True)

    try:
        results = trials.run(
            task or trial.run, todo, title=title, finished=finished, here=trials.forks(context.settings.execution)
        )
    except (FloatingPointError, ValueError, trials.WorkerEnded) as error:
        # What a trial says of settings that cannot work, and `trials` of its environment.
        raise cli.UserError(str(error)) from error
    for number, result in zip(missing, results, strict=True):
        known[number] = result
    return [result for result in known if result is not None]


def write(context: cli.Context, stage: str, results: Sequence[dict[str, Any]], started: float) -> None:
    """Writes summary, per-seed figures, curves and journals of a stage, and what it took under machine/."""
    folder, row = context.metrics / stage, context.name
    outputs.write_csv(
        folder / f"{row}.trials.csv",
        [{"arm": r["arm"], "seed": r["seed"], **r["figures"], "fingerprint": r["fingerprint"]} for r in results],
        ("arm", "seed", *FIGURES, "fingerprint"),
    )
    outputs.write_csv(
        folder / f"{row}.curves.csv",
        [{"arm": r["arm"], "seed": r["seed"], **point} for r in results for point in r["curve"]],
        ("arm", "seed", *CURVE),
    )
    grown = [
        {key: r[key] for key in ("arm", "seed", "start_widths", "widths", "branches", "journal", "events")}
        for r in results
    ]
    outputs.write_text(folder / f"{row}.journals.json", _lines(grown))
    outputs.write_json(folder / f"{row}.json", summary(results))
    write_machine(context, stage, results, started)


def write_machine(context: cli.Context, stage: str, results: Sequence[dict[str, Any]], started: float) -> None:
    """Writes what a stage took and where under machine/, and removes what an ended stage would have gone on from."""
    outputs.write_json(
        context.metrics / "machine" / f"{stage}-{context.name}.json",
        {
            "stage_seconds": time.perf_counter() - started,
            "workers": trials.workers(),
            "trials": [
                {"arm": r["arm"], "seed": r["seed"], "fingerprint": r["fingerprint"], **r["machine"]} for r in results
            ],
        },
    )
    for result in results:
        shutil.rmtree(records.scratch(context.root, result["fingerprint"]), ignore_errors=True)


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds, per arm."""
    arms: dict[str, Any] = {}
    for arm in dict.fromkeys(result["arm"] for result in results):
        of_arm = [result["figures"] for result in results if result["arm"] == arm]
        arms[arm] = {"seeds": len(of_arm)}
        for figure in SUMMARISED:
            values = [figures[figure] for figures in of_arm]
            arms[arm][figure] = statistics.fmean(values)
            if figure == "test_accuracy" and len(values) > 1:
                arms[arm][f"{figure}_std"] = statistics.stdev(values)
    return arms


def _lines(items: Sequence[Any]) -> str:
    """A JSON list with one item a line: diffs stay readable, files small."""
    return "[\n" + ",\n".join(json.dumps(item, sort_keys=True, allow_nan=False) for item in items) + "\n]\n"
