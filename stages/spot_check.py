"""Runs one short trial of each row again, from nothing, and compares it bit for bit with its record."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, replace
from typing import Any

from stages import arms, cli, outputs, records


@dataclass(frozen=True)
class State:
    """A record of a row, beside what it should be today.

    Attributes:
        arm: of the trial.
        seed: of the trial.
        record: what the file holds.
        today: whether settings, data and code are still those that it was made with.
    """

    arm: str
    seed: int
    record: dict[str, Any]
    today: bool


def states(context: cli.Context) -> list[State]:
    """The records of the context's row, those of today's arms and seeds."""
    card = outputs.read_json(context.metrics / "prepare" / f"{context.row_name}.json")
    found: list[State] = []
    grown: dict[int, dict[str, Any]] = {}
    code = {edited: records.code_hash(context.root, edited) for edited in (False, True)}
    for arm in ("baseline", "dnm", "scratch", "start"):
        for seed in range(context.row.seeds):
            file = records.path(context.root, context.settings.scale, context.row_name, arm, seed)
            if not file.exists() or (arm in ("scratch", "start") and seed not in grown):
                continue
            record = outputs.read_json(file)
            if arm == "dnm":
                grown[seed] = record["result"]
            job = arms.job(context, arm, seed, grown[seed] if arm in ("scratch", "start") else None)
            mark = records.fingerprint(job, card["sha256"], code[job.grown])
            found.append(State(arm, seed, record, record["fingerprint"] == mark))
    return found


def stale(context: cli.Context) -> dict[str, list[str]]:
    """The records of each row that are not of today's settings, data and code; rows without such are left out."""
    if not context.settings.execution.keep_records:
        return {}
    found = {
        name: [f"{state.arm}-{state.seed}" for state in states(replace(context, row_name=name)) if not state.today]
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
    old = [f"{state.arm}-{state.seed}" for state in found if not state.today]
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
    grown = next((s.record["result"] for s in found if s.arm == "dnm" and s.seed == state.seed), None)
    job = arms.job(context, state.arm, state.seed, grown if state.arm in ("scratch", "start") else None)
    result = trials.run(trial.run, [job], title=f"{where} {state.arm} seed {state.seed}")[0]
    differing = different(state.record["result"], result)
    verdict = f"FAILED, other {', '.join(differing)}" if differing else "the same bits"
    print(f"{where}: {state.arm} seed {state.seed}: {verdict}")
    return not differing


def different(recorded: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """What differs between a record and the trial run again, machine and fingerprint aside."""
    again = json.loads(json.dumps(result))
    return [key for key in again if key != "machine" and again[key] != recorded.get(key)]


def _cost(state: State) -> int:
    return state.record["result"]["figures"]["training_flops"]


if __name__ == "__main__":
    cli.main(main, has_row=False)
