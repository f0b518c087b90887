"""Runs one short trial of each row again, from nothing, and compares it bit for bit with its record."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stages import arms, cli, contest, outputs, records
from stages.statistics import CONTROLS

if TYPE_CHECKING:
    from stages.trial import Job


@dataclass(frozen=True)
class State:
    """A record of a row, beside what it should be today.

    Attributes:
        folder: of the record: the row, or a contest.
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


def states(context: cli.Context) -> list[State]:
    """The records of the context's row and the contests held on it, those of today's arms and seeds."""
    row, seeds = context.row_name, range(context.row.seeds)
    baseline, grown = (
        _read(context, row, [arms.job(context, arm, seed) for seed in seeds]) for arm in ("baseline", "dnm")
    )
    controls = [arms.job(context, arm, job.seed, record["result"]) for arm in CONTROLS for job, record in grown]
    found = [(row, [*baseline, *grown, *_read(context, row, controls)])]
    for name, settings in context.settings.contest.items():
        if settings.row == row:
            own = replace(context, entry=name)
            first = _read(context, name, contest.first(own))
            results = [record["result"] for job, record in first if job.arm == "dnm"]
            controls = [job for result in results for job in contest.after(own, result)]
            found.append((name, [*first, *_read(context, name, controls)]))
    card = outputs.read_json(context.metrics / "prepare" / f"{row}.json")
    code = {grower: records.code_hash(context.root, grower) for grower in (None, records.GROWN, records.PLANNED)}
    return [
        State(
            folder,
            job,
            record,
            record["fingerprint"] == records.fingerprint(job, card["sha256"], code[records.grower_of(job)]),
        )
        for folder, pairs in found
        for job, record in pairs
    ]


def _read(context: cli.Context, folder: str, jobs: Sequence[Job]) -> list[tuple[Job, dict[str, Any]]]:
    """The jobs that have a record, with it."""
    files = [records.path(context.root, context.settings.scale, folder, job.arm, job.seed) for job in jobs]
    return [(job, outputs.read_json(file)) for job, file in zip(jobs, files, strict=True) if file.exists()]


def stale(context: cli.Context) -> dict[str, list[str]]:
    """The records of each row that are not of today's settings, data and code; rows without such are left out."""
    if not context.settings.execution.keep_records:
        return {}
    found = {
        name: [state.name for state in states(replace(context, row_name=name)) if not state.today]
        for name in context.settings.image_classification
    }
    return {name: trials for name, trials in found.items() if trials}


def main(context: cli.Context) -> None:
    """Checks every row of a scale that keeps records; an ended process's status is 1 where bits differ."""
    if not context.settings.execution.keep_records:
        raise cli.UserError(
            f"{context.settings.params_file}: execution.keep_records is false, so there are no records; the proof of "
            "this scale is `make verify`"
        )
    good = [_check(replace(context, row_name=name)) for name in context.settings.image_classification]
    if not all(good):
        raise SystemExit(1)


def _check(context: cli.Context) -> bool:
    from stages import trial, trials

    where = f"spot-check {context.settings.scale} {context.row_name}"
    card = context.metrics / "prepare" / f"{context.row_name}.json"
    if not card.exists():
        print(f"{where}: not measured yet")
        return True
    found = states(context)
    old = [state.name for state in found if not state.today]
    if old:
        print(f"{where}: {len(old)} of {len(found)} records are of other settings, data or code: {', '.join(old)}")
    usable = sorted((state for state in found if state.today), key=_cost)
    if not usable:
        print(f"{where}: FAILED, no record is of today's settings, data and code; run the scale again", file=sys.stderr)
        return False
    if not context.data.exists():
        raise cli.UserError(
            f"{context.data} is missing; make it with `dvc repro prepare@{context.row_name}` of this scale's dvc.yaml"
        )
    state = random.choice(usable[: (len(usable) + 1) // 2])
    result = trials.run(trial.run, [state.job], title=f"{where} {state.name}")[0]
    differing = different(state.record["result"], result)
    verdict = f"FAILED, other {', '.join(differing)}" if differing else "the same bits"
    print(f"{where}: {state.name}: {verdict}")
    return not differing


def different(recorded: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """What differs between a record and the trial run again, machine and fingerprint aside."""
    again = json.loads(json.dumps(result))
    return [key for key in again if key != "machine" and again[key] != recorded.get(key)]


def _cost(state: State) -> int:
    return state.record["result"]["figures"]["training_flops"]


if __name__ == "__main__":
    cli.main(main, has_row=False)
