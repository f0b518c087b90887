"""Runs the trials of a stage's arms and writes what they measured, in one form for every stage."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stages import cli, outputs, records, trials

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


def run(context: cli.Context, jobs: Sequence[Job], title: str) -> list[dict[str, Any]]:
    """Runs the jobs; where the scale keeps records, only those without one of today's fingerprint.

    Each result gains the fingerprint of what it comes from.
    """
    from stages import trial

    card = outputs.read_json(context.metrics / "prepare" / f"{context.row_name}.json")
    code = {job.arm: records.code_hash(context.root, job.arm) for job in jobs}
    marks = [records.fingerprint(job, card["sha256"], code[job.arm]) for job in jobs]
    kept = context.settings.execution.keep_records
    files = [records.path(context.root, context.settings.scale, job.row, job.arm, job.seed) for job in jobs]
    known = [records.find(file, mark) if kept else None for file, mark in zip(files, marks, strict=True)]
    missing = [number for number, result in enumerate(known) if result is None]
    if len(missing) < len(jobs):
        print(f"{title}: {len(jobs) - len(missing)} of {len(jobs)} trials have a record", file=sys.stderr)

    def finished(job: Job, result: dict[str, Any]) -> None:
        number = jobs.index(job)
        result["fingerprint"] = marks[number]
        result["machine"] |= outputs.machine(context.root)
        if kept:
            records.keep(files[number], marks[number], result)

    try:
        results = trials.run(trial.run, [jobs[number] for number in missing], title=title, finished=finished)
    except (FloatingPointError, ValueError) as error:
        # What a trial says of settings that cannot work, and `trials.workers` of its environment variable.
        raise cli.UserError(str(error)) from error
    for number, result in zip(missing, results, strict=True):
        known[number] = result
    return [result for result in known if result is not None]


def write(context: cli.Context, stage: str, results: Sequence[dict[str, Any]], started: float) -> None:
    """Writes summary, per-seed figures, curves and journals of a stage, and what it took under machine/."""
    folder, row = context.metrics / stage, context.row_name
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
    grown = [{key: r[key] for key in ("arm", "seed", "widths", "journal", "events")} for r in results]
    outputs.write_text(folder / f"{row}.journals.json", _lines(grown))
    outputs.write_json(folder / f"{row}.json", summary(results))
    outputs.write_json(
        context.metrics / "machine" / f"{stage}-{row}.json",
        {
            "stage_seconds": time.perf_counter() - started,
            "workers": trials.workers(),
            "trials": [{"arm": r["arm"], "seed": r["seed"], **r["machine"]} for r in results],
        },
    )


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
