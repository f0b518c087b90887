"""What DVC would run for some targets, how many trials that is, what they cost, and how long they may take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stages import cli, estimate, trials
from stages.settings import SECTIONS, Settings, row_of

# Stages whose output never changes: what comes after them need not run again.
CONSTANT = ("check",)


class Stage(NamedTuple):
    """A stage that is out of date, or may come to be while the others run.

    Attributes:
        name: as in dvc.yaml, without the row.
        row: the row, contest, ranking or ablation that it is for; empty for stages over all rows.
        why: what changed.
    """

    name: str
    row: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}@{self.row}" if self.row else self.name


def out_of_date(root: Path, targets: Sequence[str]) -> tuple[list[Stage], int]:
    """The stages that `dvc repro` of the targets may run, in its order, and how many it looks at.

    Raises:
        UserError: DVC cannot say.
    """
    import networkx
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo, repo.lock:
            wanted = {stage for target in targets for stage in repo.stage.collect(target, with_deps=True)}
            # Its edges lead from a stage to those that it needs.
            graph = repo.index.graph.subgraph(wanted)
            order = list(networkx.lexicographical_topological_sort(graph.reverse(), key=lambda stage: stage.addressing))
            found: dict[Any, Stage] = {}
            for stage in order:
                name, _, row = (stage.name or stage.addressing).partition("@")
                needed = [found[other] for other in graph.successors(stage) if other in found]
                changed, missing = _reasons(stage.status(check_updates=False), are_made=bool(needed))
                # A stage that only lacks an output makes the same one again.
                before = [str(one) for one in needed if one.name not in CONSTANT and not one.why.startswith("missing")]
                if not any(out.hash_info for out in stage.outs):
                    found[stage] = Stage(name, row, "never run")
                elif changed or missing:
                    why = f"changed: {_few(changed)}" if changed else f"missing: {_few(missing)}"
                    found[stage] = Stage(name, row, why)
                elif before:
                    found[stage] = Stage(name, row, f"if new from: {_few(sorted(before))}")
            return list(found.values()), len(wanted)
    except LockError as error:
        raise cli.UserError("another DVC is at work in this repository; wait until it has ended") from error
    except DvcException as error:
        raise cli.UserError(f"DVC cannot read the pipeline: {' '.join(str(error).split())}") from error


def _reasons(status: dict[str, list], are_made: bool) -> tuple[list[str], list[str]]:
    """What changed among a stage's settings, code, inputs and outputs, and which of its outputs are missing.

    Args:
        status: as DVC gives it.
        are_made: whether a stage before this one runs, and makes the inputs that are missing.
    """
    changed: list[str] = []
    missing: list[str] = []
    for item in (item for items in status.values() for item in items):
        if isinstance(item, str):
            changed.append(item.removeprefix("changed "))
            continue
        for path, how in item.get("changed deps", {}).items():
            if isinstance(how, dict):
                changed += how
            elif how != "deleted" or not are_made:
                changed.append(path)
        for path, how in item.get("changed outs", {}).items():
            (missing if how in ("deleted", "not in cache") else changed).append(path)
    return changed, missing


def _few(names: Sequence[str], most: int = 2) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def page(settings: Settings, root: Path, stages: Sequence[Stage], looked_at: int) -> str:
    """The plan as a table, and under it the sums and where the speeds come from."""
    if not stages:
        return f"{settings.scale}: all {looked_at} stages are up to date; nothing would run"
    lines: list[list[str]] = []
    speeds: dict[str, list[str]] = {}
    sums = {"trials": 0, "flops": 0, "seconds": 0.0}
    whole = True
    for stage in stages:
        entries = getattr(settings, stage.name) if stage.name in SECTIONS else {}
        row, entry = (row_of(stage.name, stage.row, entries[stage.row]), stage.row) if entries else (stage.row, "")
        context = cli.Context(settings, root, row, entry)
        found = estimate.trials_of(context, stage.name)
        todo = sum(arm.todo for arm in found)
        lines.append([str(stage), stage.why, _counts(found), _costs(found), "-"])
        if not todo:
            continue
        speed = estimate.speed(context, stage.name)
        speeds.setdefault(speed.source, []).append(str(stage))
        flops = [arm.todo * arm.flops for arm in found if arm.flops is not None]
        known = len(flops) == len(found)
        sums["trials"] += todo
        sums["flops"] += sum(flops)
        if speed.flops is None or not known:
            whole, lines[-1][-1] = False, "not known"
        else:
            seconds = sum(flops) / speed.flops / min(trials.workers(), todo)
            sums["seconds"] += seconds
            lines[-1][-1] = _time(seconds)
    spent = _time(sums["seconds"]) if whole or sums["seconds"] else "time not known"
    if sums["seconds"] and not whole:
        spent += " and what is not known"
    total = f"at most {sums['trials']} trials, {_amount(sums['flops'])}, {spent}, {trials.workers()} trials at a time"
    total = f"{total}; less where DVC has results in its cache" if sums["trials"] else "no trials"
    table = _aligned([["stage", "why", "trials", "cost of a trial", "time"], *lines])
    notes = [f"speed: {source}" for source in speeds]
    if len(speeds) > 1:
        notes = [f"speed of {', '.join(names)}: {source}" for source, names in speeds.items()]
    head = f"{settings.scale}: {len(stages)} of {looked_at} stages would run"
    return "\n".join([head, "", *table, "", total, *notes])


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _counts(found: Sequence[estimate.Trials]) -> str:
    recorded = sum(arm.recorded for arm in found)
    text = " + ".join(f"{arm.todo} {arm.arm}" for arm in found if arm.todo) or ("0" if found else "-")
    return f"{text}; {recorded} recorded" if recorded else text


def _costs(found: Sequence[estimate.Trials]) -> str:
    costs = ["not known" if arm.flops is None else f"{arm.how}{_amount(arm.flops)}" for arm in found if arm.todo]
    return ", ".join(dict.fromkeys(costs)) or "-"


def _amount(flops: float) -> str:
    for unit, size in (("PFLOP", 1e15), ("TFLOP", 1e12)):
        if flops >= size:
            return f"{flops / size:,.1f} {unit}"
    return f"{flops / 1e9:.1f} GFLOP"


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
