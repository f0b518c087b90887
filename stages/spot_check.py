"""Runs one short trial of each row again, from nothing, and compares it bit for bit with its record."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import (
    ablation,
    arms,
    cli,
    contest,
    detection,
    events,
    few_shot,
    language,
    nas,
    outputs,
    ranking,
    records,
    robustness,
    transfer,
)
from stages.settings import OWN_DATA, row_of
from stages.statistics import CONTROLS

if TYPE_CHECKING:
    from stages.trial import Job


@dataclass(frozen=True)
class State:
    """A record of a row, beside what it should be today.

    Attributes:
        folder: of the record: the row, or what is held on it.
        job: what makes it anew.
        record: what the file holds.
        today: whether settings, data and code are still those that it was made with.
    """

    folder: str
    job: Job
    record: dict[str, Any]
    today: bool

    @property
    def name(self) -> str:
        """Arm and seed, and where they are of a contest its folder."""
        name = f"{self.job.arm}-{self.job.seed}"
        return name if self.folder == self.job.row else f"{self.folder}/{name}"


def _of_dnm(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [result for result in results if result["arm"] == "dnm"]


def _few_shot(context: cli.Context, make: Callable[[tuple[int, ...]], list[Any]]) -> list[Any]:
    """Trials with the numbers of shots that were measured; none before the stage has said which."""
    file = context.metrics / "few_shot" / f"{context.name}.json"
    if not file.exists():
        return []
    left_out = outputs.read_json(file)["not_measured"]
    return make(tuple(shots for shots in few_shot.documented_shots().values() if str(shots) not in left_out))


@dataclass(frozen=True)
class Held:
    """The trials of a section's entry: those that need no other's result, and those that need the results of these."""

    first: Callable[[cli.Context], Sequence[Any]]
    after: Callable[[cli.Context, list[dict[str, Any]]], Sequence[Any]] = lambda context, results: ()


HELD = {
    "contest": Held(
        contest.first,
        lambda context, results: [job for result in _of_dnm(results) for job in contest.after(context, result)],
    ),
    "ranking": Held(ranking.jobs),
    "ablation": Held(lambda context: ablation.jobs(context, ablation.grown(context))),
    "robustness": Held(robustness.jobs, robustness.after),
    "events": Held(events.jobs),
    "nas": Held(nas.jobs),
    "transfer": Held(transfer.jobs),
    "few_shot": Held(
        lambda context: _few_shot(context, lambda shots: few_shot.first(context, shots)),
        lambda context, results: _few_shot(context, lambda shots: few_shot.after(context, shots, _of_dnm(results))),
    ),
    "detection": Held(detection.first, lambda context, results: detection.after(context, _of_dnm(results))),
    "language": Held(language.first, lambda context, results: language.after(context, _of_dnm(results))),
}


def states(context: cli.Context) -> list[State]:
    """The records of the context's row or data and what is held on it, those of today's arms and seeds.

    Records of code that did not note yet what a control is made from are there without their controls.
    """
    row, found = context.row_name, []
    if row in context.settings.image_classification:
        seeds = range(context.row.seeds)
        own = _read(context, row, [arms.job(context, arm, seed) for arm in ("baseline", "dnm") for seed in seeds])
        grown = [(job, record["result"]) for job, record in own if job.arm == "dnm" and _is_whole(record)]
        controls = [arms.job(context, arm, job.seed, result) for arm in CONTROLS for job, result in grown]
        found.append((row, [*own, *_read(context, row, controls)]))
    for section, held in HELD.items():
        for name, entry in getattr(context.settings, section).items():
            of_entry = replace(context, entry=name)
            there = records.folder_of(context.root, context.settings.scale, name).is_dir()
            if row_of(section, name, entry) != row or not there:
                continue
            first = _read(of_entry, name, held.first(of_entry))
            results = [record["result"] for _, record in first if _is_whole(record)]
            found.append((name, [*first, *_read(of_entry, name, held.after(of_entry, results))]))
    card = outputs.read_json(_card(context))
    known = [(folder, job, record) for folder, pairs in found for job, record in pairs]
    marks = records.fingerprints(context.root, [job for _, job, _ in known], card["sha256"])
    return [
        State(folder, job, record, record["fingerprint"] == mark)
        for (folder, job, record), mark in zip(known, marks, strict=True)
    ]


def _card(context: cli.Context) -> Path:
    return context.metrics / "prepare" / f"{context.row_name}.json"


def _is_whole(record: dict[str, Any]) -> bool:
    return record["result"]["arm"] != "dnm" or "branches" in record["result"]


def _read(context: cli.Context, folder: str, jobs: Sequence[Job]) -> list[tuple[Job, dict[str, Any]]]:
    """The jobs that have a record, with it."""
    files = [records.path(context.root, context.settings.scale, folder, job.arm, job.seed) for job in jobs]
    return [(job, outputs.read_json(file)) for job, file in zip(jobs, files, strict=True) if file.exists()]


def contexts(context: cli.Context) -> list[cli.Context]:
    """The context of each row and of each entry with data of its own."""
    settings = context.settings
    names = [*settings.image_classification, *(name for section in OWN_DATA for name in getattr(settings, section))]
    return [replace(context, row_name=name) for name in names]


def stale(context: cli.Context) -> dict[str, list[str]]:
    """The records of each row that are not of today's settings, data and code; rows without such are left out."""
    if not context.settings.execution.keep_records:
        return {}
    found = {
        of.row_name: [state.name for state in states(of) if not state.today]
        for of in contexts(context)
        if _card(of).exists()
    }
    return {name: trials for name, trials in found.items() if trials}


def main(context: cli.Context) -> None:
    """Checks every row of a scale that keeps records; an ended process's status is 1 where bits differ."""
    if not context.settings.execution.keep_records:
        raise cli.UserError(
            f"{context.settings.params_file}: execution.keep_records is false, so there are no records; the proof of "
            "this scale is `make verify`"
        )
    good = [_check(of) for of in contexts(context)]
    if not all(good):
        raise SystemExit(1)


def _check(context: cli.Context) -> bool:
    where = f"spot-check {context.settings.scale} {context.row_name}"
    found = states(context) if _card(context).exists() else []
    if not found:
        print(f"{where}: not measured yet")
        return True
    old = [state.name for state in found if not state.today]
    if old:
        print(f"{where}: {len(old)} of {len(found)} records are of other settings, data or code: {', '.join(old)}")
    usable = sorted((state for state in found if state.today), key=cost)
    if not usable:
        print(f"{where}: FAILED, no record is of today's settings, data and code; run the scale again", file=sys.stderr)
        return False
    if not context.data.exists():
        raise cli.UserError(
            f"{context.data} is missing; make it with `dvc repro prepare@{context.row_name}` of this scale's dvc.yaml"
        )
    state = random.choice(usable[: (len(usable) + 1) // 2])
    differing = different(state.record["result"], run(state, where))
    verdict = f"FAILED, other {', '.join(differing)}" if differing else "the same bits"
    print(f"{where}: {state.name}: {verdict}")
    return not differing


def run(state: State, where: str) -> dict[str, Any]:
    """The result of running the state's trial again."""
    from stages import trials

    # A job stands beside what runs it.
    task = importlib.import_module(type(state.job).__module__).run
    return trials.run(task, [state.job], title=f"{where} {state.name}")[0]


def different(recorded: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """What differs between a record and the trial run again, machine and fingerprint aside."""
    again = json.loads(json.dumps(result))
    return [key for key in again if key != "machine" and again[key] != recorded.get(key)]


def cost(state: State) -> float:
    """Seconds that the trial took."""
    return state.record["result"]["machine"]["seconds"]


if __name__ == "__main__":
    cli.main(main, has_row=False)
