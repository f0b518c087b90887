"""Carries records over to today's code where it gives the same bits as the code that they were made with.

Of every kind of trial, an arm of a row or of a contest by the same code, the shortest one is run again from nothing.
Where that gives its record bit for bit, the records of its kind take today's fingerprint, if it is the code alone that
was another one when they were made; which one was run, and what they said before, stays in them. A change of the code
that changes no bit so costs one trial a kind, and not all of them.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from stages import cli, outputs, records, spot_check
from stages.spot_check import State

CODE = ("dnm", "stages")


def main(context: cli.Context) -> None:
    """Renews the records of every row; an ended process's status is 1 where a trial gave other bits."""
    if not context.settings.execution.keep_records:
        raise cli.UserError(f"{context.settings.params_file}: execution.keep_records is false, so there are no records")
    good = [_renew(of) for of in spot_check.contexts(context)]
    if not all(good):
        raise SystemExit(1)


def _renew(context: cli.Context) -> bool:
    card = context.metrics / "prepare" / f"{context.row_name}.json"
    if not card.exists():
        return True
    if not context.data.exists():
        raise cli.UserError(
            f"{context.data} is missing; make it with `dvc repro prepare@{context.row_name}` of this scale's dvc.yaml"
        )
    data = outputs.read_json(card)["sha256"]
    good = True
    # A control's settings come from the trial that it is a control of, so they are read again after each kind.
    done: set[tuple[str, str, str]] = set()
    while kinds := {_kind(state) for state in spot_check.states(context) if not state.today} - done:
        kind = min(kinds)
        done.add(kind)
        old = [state for state in spot_check.states(context) if _kind(state) == kind and not state.today]
        alike = [state for state in old if _of_other_code_alone(context.root, state, data)]
        where = f"renew {context.settings.scale} {'/'.join(kind[:2])}"
        if len(alike) < len(old):
            print(f"{where}: {len(old) - len(alike)} of {len(old)} records are of other settings or data, or of code "
                  "that was never committed; they stay as they are")  # fmt: skip
        if not alike:
            continue
        shortest = min(alike, key=spot_check.cost)
        differing = spot_check.different(shortest.record["result"], spot_check.run(shortest, where))
        if differing:
            print(f"{where}: {shortest.name} gives other {', '.join(differing)}; nothing was renewed", file=sys.stderr)
            good = False
            continue
        _write(context, alike, shortest, data)
        print(f"{where}: {shortest.name} gives the same bits; {len(alike)} records are of today's code now")
    return good


def _kind(state: State) -> tuple[str, str, str]:
    """Folder, arm and by what a network grows, which not all of an arm's do; all of a ranking's are one kind."""
    grower = records.grower_of(state.job) or ""
    return state.folder, "" if grower == records.RANKED else state.job.arm, grower


def _of_other_code_alone(root: Path, state: State, data: str) -> bool:
    """Whether the code of the commit that a record names last, and all else of today, gives its fingerprint."""
    commit = (state.record.get("renewed") or [state.record["result"]["machine"]])[-1]["commit"]
    shown = subprocess.run(["git", "archive", commit, *CODE], cwd=root, capture_output=True, check=False)
    if shown.returncode != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(shown.stdout)) as archive:
            archive.extractall(folder, filter="data")
        try:
            code = records.code_of(Path(folder), state.job)
        except FileNotFoundError:
            # Its files had other names then.
            return False
    return state.record["fingerprint"] == records.fingerprint(state.job, data, code)


def _write(context: cli.Context, alike: Iterable[State], shortest: State, data: str) -> None:
    code = records.code_of(context.root, shortest.job)
    machine = outputs.machine(context.root)
    for state in alike:
        mark, before = records.fingerprint(state.job, data, code), state.record["fingerprint"]
        renewed = {"before": before, "by": shortest.name, "commit": machine["commit"], "date": machine["date"]}
        outputs.write_json(
            records.path(context.root, context.settings.scale, state.folder, state.job.arm, state.job.seed),
            {
                "fingerprint": mark,
                "renewed": [*state.record.get("renewed", []), renewed],
                "result": {**state.record["result"], "fingerprint": mark},
            },
        )


if __name__ == "__main__":
    cli.main(main)
