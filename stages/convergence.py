"""How fast accuracy comes: the document's table "Convergence Speed Comparison", from curves.

A run that never reaches the target is censored at its end: what is known is that it takes longer than the run. It
counts with its end, so that means are restricted means (Royston, Parmar 2013), lower bounds of what one would find
with longer runs.

    >>> epochs_to([40.0, 58.0, 61.0, 60.0], 60.0)
    3
    >>> plateau_at([40.0, 58.0, 58.05, 61.0])
    2

References:
    Royston, Parmar: Restricted mean survival time: an alternative to the hazard ratio for the design and analysis of
        randomized trials with a time-to-event outcome. BMC Medical Research Methodology 13, 2013.
    Mantel: Evaluation of survival data and two new rank order statistics arising in its consideration. Cancer
        Chemotherapy Reports 50, 1966. (The log-rank test.)
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, NamedTuple

import numpy as np
from statsmodels.duration.survfunc import survdiff

from stages import cli, inference
from stages.documented import Documented, Range
from stages.inference import PairedDifference, Verdict, rounded
from stages.settings import Row
from stages.tables import CELL_COLUMNS, NO_ROW, NOTES, Cells, plain

ARMS = ("baseline", "dnm", "start", "scratch")
CONTROLS = ("scratch", "start")
# What of the document's table this module computes with.
CLAIMED = ("target", "baseline_final_accuracy", "baseline_epochs_to_target", "dnm_epochs_to_target")
BOOTSTRAP_SEED = 0

# A plateau: the best validation accuracy rises by less than this (points) within this part of the run's epochs.
LEAST_RISE = 0.1
WINDOWS_IN_A_RUN = 10
# Percent are fractions times 100, and 100 * 0.57 falls short of 57.
ROUNDING = 1e-9
GIGA = 1e9

CHANGES = ("epochs_to_target_change", "flops_to_target_change")
UNITS = {"target": "%", "epochs_to_target": "epochs", "final_accuracy": "%", "plateau_at": "epoch"}
NO_PLATEAU = "no plateau"


class Point(NamedTuple):
    """The end of an epoch.

    Attributes:
        flops: counted training FLOPs up to there.
        accuracy: on the validation data, percent.
    """

    flops: float
    accuracy: float


class Reach(NamedTuple):
    """When a run reached the target, or, where it never did, its end.

    Attributes:
        reached: False where the run is censored.
        epochs: from the beginning of the run.
        gflop: counted training GFLOP from there.
    """

    reached: bool
    epochs: int
    gflop: float


# By arm and seed; one point an epoch.
Curves = Mapping[str, Mapping[int, Sequence[Point]]]


def curves_of(lines: Iterable[Mapping[str, str]]) -> dict[str, dict[int, list[Point]]]:
    """Curves by arm and seed from the lines of `<row>.curves.csv`, of one file or several.

    Raises:
        UserError: the epochs of a run do not count from 1 without gaps.
    """
    curves: dict[str, dict[int, list[Point]]] = {}
    for line in lines:
        run = curves.setdefault(line["arm"], {}).setdefault(int(line["seed"]), [])
        run.append(Point(float(line["flops"]), 100.0 * float(line["validation_accuracy"])))
        if int(line["epoch"]) != len(run):
            raise cli.UserError(
                f"curve of {line['arm']}, seed {line['seed']}: got epoch {line['epoch']}, expected {len(run)}; "
                "run its stage again"
            )
    return curves


def claims_of(documented: Documented, documented_row: str) -> dict[str, float] | None:
    """The document's figures that `row_convergence` computes with; None where its table has no such row."""
    if documented_row not in documented.tables["convergence"].rows:
        return None
    return {column: documented.number("convergence", documented_row, column) for column in CLAIMED}


def target(
    documented_target: float, documented_final: float, baseline_finals: Sequence[float], as_documented: bool
) -> float:
    """The validation accuracy that counts as reached, percent.

    Args:
        documented_target: the document's, percent.
        documented_final: the document's final accuracy of the baseline, percent.
        baseline_finals: the baseline's validation accuracies at the end of each run, percent.
        as_documented: whether data and protocol are the document's. Elsewhere the target is the same fraction of the
            baseline's mean final accuracy as in the document.
    """
    if as_documented:
        return documented_target
    return statistics.fmean(baseline_finals) * documented_target / documented_final


def epochs_to(accuracies: Sequence[float], wanted: float) -> int | None:
    """The first epoch, from 1, whose accuracy is at least the one wanted, both percent; None where there is none."""
    return next((epoch for epoch, value in enumerate(accuracies, 1) if value >= wanted - ROUNDING), None)


def plateau_at(accuracies: Sequence[float]) -> int | None:
    """The first epoch, from 1, after which the best accuracy rises by less than 0.1 point in a tenth of the run.

    The tenth is rounded up to whole epochs and lies inside the run. None where there is no such epoch.

    Args:
        accuracies: on the validation data at the end of every epoch, percent.
    """
    best = list(itertools.accumulate(accuracies, max))
    pairs = zip(best, best[_window(len(best)) :], strict=False)
    return next((epoch for epoch, (now, later) in enumerate(pairs, 1) if later - now < LEAST_RISE - ROUNDING), None)


def row_convergence(
    curves: Curves,
    row: Row,
    claimed: Mapping[str, float] | None,
    trials: Mapping[str, Mapping[int, Mapping[str, float]]],
) -> dict[str, Any]:
    """Everything that the table says of one row.

    Args:
        curves: by arm and seed; every arm has the same seeds.
        row: the row's settings.
        claimed: the document's figures, as `claims_of` gives them; None where the document has no such row.
        trials: figures by arm and seed, of which `test_accuracy` (a fraction) is read.

    Returns:
        `target`: the accuracy that counts as reached and the part of the baseline's final validation accuracy that it
        is (None for the documented target itself), both percent; None without a documented row.
        `arms`: per arm `num_seeds`; `reached`, the number of runs that reach the target; `epochs_to_target` and
        `gflop_to_target`, with restricted mean, median (censored runs above all others, None where they are half or
        more), and the 95% interval of the mean where no run is censored; `plateaued`, `plateau_at` (over the runs that
        plateau; an interval where all do) and `window`, the fewest and most epochs that a plateau lasts;
        `final_accuracy`, the summary of the test accuracy in percent.
        `claims`: the paired relative changes dnm over baseline in percent, `epochs_to_target_change` and
        `flops_to_target_change`, the first with its verdict and log-rank p. `order` counts the pairs by the arm that is
        first, `note` says what stands behind the figures.

    Raises:
        UserError: the arms have different seeds.
    """
    both = {"curves": curves, "trials": trials}
    found_seeds = {f"{arm}, {name}": sorted(of.get(arm, {})) for name, of in both.items() for arm in ARMS}
    if len({tuple(of_arm) for of_arm in found_seeds.values()}) != 1:
        raise cli.UserError(f"the arms have different seeds ({found_seeds}), expected the same; run their stages again")
    seeds = sorted(curves["baseline"])
    wanted = None
    if claimed is not None:
        finals = [curves["baseline"][seed][-1].accuracy for seed in seeds]
        wanted = target(claimed["target"], claimed["baseline_final_accuracy"], finals, row.as_documented)
    reaches = {
        arm: None if wanted is None else [_reach(curves[arm][seed], wanted) for seed in seeds] for arm in ARMS
    }  # fmt: skip
    arms = {
        arm: _arm(
            [curves[arm][seed] for seed in seeds],
            [100.0 * trials[arm][seed]["test_accuracy"] for seed in seeds],
            reaches[arm],
        )
        for arm in ARMS
    }
    dnm, baseline = reaches["dnm"], reaches["baseline"]
    if claimed is None or dnm is None or baseline is None:
        missing = _no_difference(len(seeds), "the document's table has no such row")
        return {"target": None, "arms": arms, "claims": {change: dict(missing) for change in CHANGES}}
    share = None if row.as_documented else 100.0 * claimed["target"] / claimed["baseline_final_accuracy"]
    claims = {
        "epochs_to_target_change": _epochs_claim(dnm, baseline, claimed, row.as_documented),
        "flops_to_target_change": _change([run.gflop for run in dnm], [run.gflop for run in baseline], dnm, baseline),
    }
    return {"target": {"accuracy": wanted, "share": share}, "arms": arms, "claims": claims}


def documented_change(claimed: Mapping[str, float]) -> float:
    """The document's epochs to target, dnm over baseline, as a change in percent."""
    return 100.0 * (claimed["dnm_epochs_to_target"] / claimed["baseline_epochs_to_target"] - 1.0)


def table(
    documented: Documented, rows: Mapping[str, Row], convergence: Mapping[str, Any], sources: Mapping[str, str]
) -> Cells:
    """One line per row and column of the document's table, and per change and control.

    Args:
        documented: the document's figures.
        rows: the settings of the rows that this scale measures.
        convergence: what `row_convergence` found, by row.
        sources: what each row was measured on.
    """
    measured = {row.documented_row: name for name, row in rows.items()}
    cells: Cells = []
    for row in documented.tables["convergence"].rows:
        for column, stated in _stated(documented, row).items():
            unit = "%" if column in CHANGES else UNITS[column if column in UNITS else column.split("_", 1)[1]]
            cell = dict.fromkeys(CELL_COLUMNS, "") | {
                "row": row, "column": column, "documented": stated, "unit": unit,
            }  # fmt: skip
            if row in measured:
                name = measured[row]
                cell |= {"measured_on": sources[name], "protocol": rows[name].protocol}
                cell |= _measured(convergence[name], column)
            else:
                cell |= {"verdict": str(Verdict.NOT_MEASURED), "note": NO_ROW}
            cells.append(cell)
    return cells


def _window(num_epochs: int) -> int:
    return math.ceil(num_epochs / WINDOWS_IN_A_RUN)


def _reach(curve: Sequence[Point], wanted: float) -> Reach:
    epoch = epochs_to([point.accuracy for point in curve], wanted)
    end = len(curve) if epoch is None else epoch
    return Reach(epoch is not None, end, curve[end - 1].flops / GIGA)


def _arm(curves: Sequence[Sequence[Point]], finals: Sequence[float], reaches: Sequence[Reach] | None) -> dict[str, Any]:
    plateaus = [plateau_at([point.accuracy for point in curve]) for curve in curves]
    there = [epoch for epoch in plateaus if epoch is not None]
    windows = [_window(len(curve)) for curve in curves]
    found: dict[str, Any] = {
        "num_seeds": len(curves),
        "reached": None,
        "epochs_to_target": None,
        "gflop_to_target": None,
        "plateaued": len(there),
        "plateau_at": _mean(there, has_interval=len(there) == len(curves)),
        "window": [min(windows), max(windows)],
        "final_accuracy": asdict(inference.summary(finals)),
    }
    if reaches is not None:
        found |= {
            "reached": sum(run.reached for run in reaches),
            "epochs_to_target": _restricted([run.epochs for run in reaches], reaches),
            "gflop_to_target": _restricted([run.gflop for run in reaches], reaches),
        }
    return found


def _restricted(values: Sequence[float], reaches: Sequence[Reach]) -> dict[str, float | None]:
    censored = sum(not run.reached for run in reaches)
    ordered = [value if run.reached else math.inf for value, run in zip(values, reaches, strict=True)]
    median = None if 2 * censored >= len(values) else float(statistics.median(ordered))
    # An interval of restricted means would be read as one of the epochs that it takes.
    return {**_mean(values, has_interval=not censored), "median": median}


def _mean(values: Sequence[float], *, has_interval: bool) -> dict[str, float | None]:
    if has_interval:
        summary = inference.summary(values)
        return {"mean": summary.mean, "low": summary.low, "high": summary.high}
    return {"mean": statistics.fmean(values) if values else None, "low": None, "high": None}


def _epochs_claim(
    dnm: Sequence[Reach], baseline: Sequence[Reach], claimed: Mapping[str, float], as_documented: bool
) -> dict[str, Any]:
    documented = documented_change(claimed)
    change = _change([run.epochs for run in dnm], [run.epochs for run in baseline], dnm, baseline)
    claim = {**change, "documented": documented, "log_rank_p": _log_rank_p(dnm, baseline)}
    if change["mean"] is None:
        return claim
    difference = PairedDifference(**{field.name: change[field.name] for field in fields(PairedDifference)})
    verdict = inference.verdict(difference, documented=documented, measured_as_documented=as_documented)
    # Censored runs would take longer, by how much is not known: with them, a mean that is on the side of their own arm
    # may be on the other side.
    outweighed = (difference.high < 0 and any(not run.reached for run in dnm)) or (
        difference.low > 0 and any(not run.reached for run in baseline)
    )
    if outweighed:
        verdict = Verdict.NOT_REPRODUCED
        claim["note"] += "; the interval excludes 0, but what these runs still lack could outweigh it"
    if claim["log_rank_p"] is not None:
        claim["note"] += f"; log-rank p, unpaired, {claim['log_rank_p']:.2g}"
    return {**claim, "verdict": str(verdict)}


def _change(
    treatment: Sequence[float], control: Sequence[float], dnm: Sequence[Reach], baseline: Sequence[Reach]
) -> dict[str, Any]:
    """The paired relative change in percent, without figures where no pair can be compared.

    In a pair with a censored run both are cut at the end of the first run that is censored: later, one of the two is
    not known any more. So the change of such a pair has the right sign, or none, and is too small.
    """
    changes, order = [], {"dnm": 0, "baseline": 0, "same": 0, "unknown": 0}
    for new, old, first, second in zip(treatment, control, dnm, baseline, strict=True):
        ends = [value for value, run in ((new, first), (old, second)) if not run.reached]
        cut_new, cut_old = min([new, *ends]), min([old, *ends])
        changes.append(100.0 * (cut_new / cut_old - 1.0))
        if first.reached and (new < old or (new == old and not second.reached)):
            order["dnm"] += 1
        elif second.reached and (old < new or (new == old and not first.reached)):
            order["baseline"] += 1
        else:
            order["unknown" if ends else "same"] += 1
    missed = {"dnm": sum(not run.reached for run in dnm), "baseline": sum(not run.reached for run in baseline)}
    num_pairs = len(changes)
    if order["unknown"] == num_pairs:
        reason = "which of the two is first is not known of any pair of runs"
        if missed["dnm"] == missed["baseline"] == num_pairs:
            reason = "no run of dnm or baseline reaches the target"
        return _no_difference(num_pairs, reason) | {"order": order}
    difference = inference.paired_difference(changes, np.zeros(num_pairs), np.random.default_rng(BOOTSTRAP_SEED))
    note = f"dnm over baseline, seed by seed; dnm is first in {order['dnm']}, baseline in {order['baseline']} "
    note += f"of {num_pairs} pairs"
    if any(missed.values()):
        runs = " and ".join(f"{number} of {arm}" for arm, number in missed.items() if number)
        note += f"; runs that never reach it ({runs}) count with their end, which understates the change of their pairs"
        if order["unknown"]:
            note += f"; {order['unknown']} pairs in which the first is not known count as no change"
    return {**asdict(difference), "unit": "percent", "order": order, "note": note}


def _no_difference(num_seeds: int, reason: str) -> dict[str, Any]:
    empty = dict.fromkeys(field.name for field in fields(PairedDifference))
    verdict = str(Verdict.NOT_MEASURED)
    return {**empty, "num_seeds": num_seeds, "unit": "percent", "verdict": verdict, "note": reason}


def _log_rank_p(dnm: Sequence[Reach], baseline: Sequence[Reach]) -> float | None:
    """The two-sided p of the log-rank test; None where no event tells the arms apart."""
    runs = [*dnm, *baseline]
    events = {run.epochs for run in runs if run.reached}
    # Its variance is zero unless, at some event, runs of both arms are at risk and not all of them have it.
    if not any(
        any(run.epochs >= epoch for run in dnm)
        and any(run.epochs >= epoch for run in baseline)
        and any(run.epochs > epoch or (run.epochs == epoch and not run.reached) for run in runs)
        for epoch in events
    ):
        return None
    _, p_value = survdiff(
        np.array([run.epochs for run in runs]),
        np.array([int(run.reached) for run in runs]),
        np.repeat([0, 1], [len(dnm), len(baseline)]),
    )
    return float(p_value)


def _stated(documented: Documented, row: str) -> dict[str, str]:
    """What the document says in each column that is shown of a row; nothing of controls."""
    values = documented.tables["convergence"].rows[row].values
    stated = {}
    for column in documented.tables["convergence"].columns:
        value = values.get(column, "")
        stated[column] = NO_PLATEAU if value is None else plain(value)
    faster = documented.figure("achievements", "training_efficiency", "range")
    assert isinstance(faster, Range)
    claimed = {column: documented.number("convergence", row, column) for column in CLAIMED}
    stated["epochs_to_target_change"] = plain(rounded(documented_change(claimed)))
    stated["flops_to_target_change"] = plain(Range(-faster.high, -faster.low))
    return stated | {f"{arm}_epochs_to_target": "" for arm in CONTROLS}


def _measured(found: Mapping[str, Any], column: str) -> dict[str, Any]:
    if column == "target":
        return _target_cell(found)
    if column in CHANGES:
        return _change_cell(found, column)
    arm, figure = column.split("_", 1)
    of_arm = found["arms"][arm]
    cell = {"seeds": of_arm["num_seeds"], **_level(of_arm[figure])}
    if figure == "epochs_to_target":
        note = _epochs_note(of_arm)
        cell["note"] = f"{NOTES[arm]}; {note}" if arm in CONTROLS else note
    elif figure == "plateau_at":
        if not of_arm["plateaued"]:
            cell["measured"] = NO_PLATEAU
        cell["note"] = _plateau_note(of_arm)
    else:
        cell["note"] = "test accuracy at the end of training"
    return cell


def _target_cell(found: Mapping[str, Any]) -> dict[str, Any]:
    note = "validation accuracy; the documented target"
    if found["target"]["share"] is not None:
        note = (
            f"validation accuracy; {found['target']['share']:.2f}% of the baseline's mean final one, the fraction that "
            "the documented target is of the documented final accuracy"
        )
    num_seeds = found["arms"]["baseline"]["num_seeds"]
    return {"measured": rounded(found["target"]["accuracy"]), "seeds": num_seeds, "note": note}


def _change_cell(found: Mapping[str, Any], column: str) -> dict[str, Any]:
    claim = found["claims"][column]
    cell = {**_level(claim), "seeds": claim["num_seeds"], "verdict": claim.get("verdict", ""), "note": claim["note"]}
    if column == "flops_to_target_change":
        spent = " and ".join(_spent(arm, found["arms"][arm]) for arm in ("dnm", "baseline"))
        cell["note"] += f"; {spent}; documented: its faster convergence, one figure for all rows"
    return cell


def _spent(arm: str, of_arm: Mapping[str, Any]) -> str:
    num_seeds, reached = of_arm["num_seeds"], of_arm["reached"]
    bound = f", a lower bound ({reached} of {num_seeds} runs reach it)" if reached < num_seeds else ""
    return f"{of_arm['gflop_to_target']['mean']:g} GFLOP of {arm}{bound}"


def _level(values: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"measured": values["mean"], "low": values["low"], "high": values["high"]}
    return {name: "" if value is None else rounded(value) for name, value in shown.items()}


def _epochs_note(of_arm: Mapping[str, Any]) -> str:
    num_seeds, reached = of_arm["num_seeds"], of_arm["reached"]
    median = of_arm["epochs_to_target"]["median"]
    note = f"{reached} of {num_seeds} seeds reached it"
    if reached < num_seeds:
        note += "; restricted mean, a lower bound, without an interval"
    return f"{note}; " + ("no median, half or more never do" if median is None else f"median {median:g}")


def _plateau_note(of_arm: Mapping[str, Any]) -> str:
    num_seeds, plateaued = of_arm["num_seeds"], of_arm["plateaued"]
    if plateaued == num_seeds:
        note = f"all {num_seeds} runs plateau"
    else:
        note = f"no plateau in {num_seeds - plateaued} of {num_seeds} runs"
        note += "; mean of the others, without an interval" if plateaued else ""
    fewest, most = of_arm["window"]
    tenth = f"{most} epoch{'s' if most > 1 else ''}" if fewest == most else f"{fewest} to {most} epochs"
    return f"{note}; a plateau: less than {LEAST_RISE} point in a tenth of the run, {tenth}"
