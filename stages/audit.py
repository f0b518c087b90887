"""The benchmark document against itself: which of its figures and claims agree with each other.

Everything is computed from the transcribed figures; no run is needed. A computed figure agrees with a stated
one when they differ by at most half a unit in the last digit that the document prints.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from scipy import stats

from stages.documented import Address, Below, Documented, Range, UnknownFigure

# The document gives no margin for "comparable" parameters; this one is ours, in percent.
COMPARABLE_PARAMETERS = 5.0

# Tables that compare DNM with rivals in one metric: the rivals' columns, the reference first, and the
# column of DNM's gain over the reference.
COMPARISONS = {
    "image_classification": (("baseline", "nas"), "improvement"),
    "object_detection": (("baseline", "sota"), "improvement"),
    "few_shot": (("traditional", "meta_learning"), "improvement"),
    "language": (("baseline", "transformer"), "improvement"),
    "transfer": (("baseline",), "improvement"),
    "robustness": (("baseline",), "gain"),
}

ARMS = ("baseline", "dnm")

# Tables that compare what DNM costs with what the baseline costs, and the column of the ratio in percent.
COSTS = {"memory": "overhead", "inference": "speedup"}


@dataclass(frozen=True)
class Finding:
    """One check of the document against itself.

    Attributes:
        id: a stable name.
        claim: what is checked, in a few words.
        where: the addresses of the figures that were compared.
        found: what the figures give.
        expected: what they would have to give.
        holds: whether they do.
        sentence: the finding for readers; true whether or not the check holds.
    """

    id: str
    claim: str
    where: tuple[Address, ...]
    found: str
    expected: str
    holds: bool
    sentence: str


def audit(documented: Documented) -> list[Finding]:
    """Returns every check of the document against itself, those that hold included."""
    return [finding for check in _CHECKS for finding in check(documented)]


def audit_rows(findings: Iterable[Finding]) -> list[dict[str, str | bool]]:
    """Returns one dict per finding with the keys check, where, stated, computed and holds."""
    return [
        {
            "check": finding.id,
            "where": _places(finding.where),
            "stated": finding.expected,
            "computed": finding.found,
            "holds": finding.holds,
        }
        for finding in findings
    ]


def half_unit(stated: float) -> float:
    """Returns half a unit in the last digit of a figure as it is printed.

    >>> half_unit(5.1), half_unit(-25), half_unit(0.31)
    (0.05, 0.5, 0.005)
    """
    exponent = Decimal(repr(stated)).as_tuple().exponent
    assert isinstance(exponent, int), stated
    return 0.5 * 10.0**exponent


def agrees(computed: float, stated: float) -> bool:
    """Returns whether a computed figure rounds to the stated one; a tie does."""
    return abs(computed - stated) <= half_unit(stated) + 1e-9


def _differences(documented: Documented) -> Iterator[Finding]:
    firsts = {}
    for table, (rivals, column) in COMPARISONS.items():
        dnm, reference = documented.numbers(table, "dnm"), documented.numbers(table, rivals[0])
        where = _where(documented, *(f"{table}/*/{name}" for name in (rivals[0], "dnm", column)))
        gains = {row: dnm[row] - reference[row] for row in dnm}
        claim = f"Gains of {table} are DNM minus reference"
        yield _equal(f"difference_{table}", claim, where, gains, documented.numbers(table, column))
        for row in dnm:
            firsts[f"{table}/{row}"] = dnm[row] - max(documented.number(table, row, rival) for rival in rivals)
    where = _where(
        documented, *(f"{t}/*/{name}" for t, (rivals, _) in COMPARISONS.items() for name in (*rivals, "dnm"))
    )
    yield _bounded("dnm_ranks_first", "DNM leads every comparison", where, firsts, low=0.0, strict=True)


def _costs(documented: Documented) -> Iterator[Finding]:
    percents = {"memory": _change, "inference": lambda before, after: -_change(before, after)}
    for table, column in COSTS.items():
        stated, percent, where = documented.numbers(table, column), percents[table], _where(documented, f"{table}/*/*")
        before, after = documented.numbers(table, "baseline"), documented.numbers(table, "dnm")
        computed = {row: percent(before[row], after[row]) for row in stated}
        yield _equal(
            f"{table}_{column}", f"The {column} of {table} is relative to the baseline", where, computed, stated
        )
        ends = {
            row: [
                percent(before[row] + s * half_unit(before[row]), after[row] - s * half_unit(after[row]))
                for s in (-1, 1)
            ]
            for row in stated
        }
        worst = max(ends, key=lambda row: max(ends[row]) - min(ends[row]))
        low, high = min(ends[worst]), max(ends[worst])
        yield Finding(
            f"{table}_precision",
            f"The {column} is known to the printed digit",
            where,
            found=f"{low:.1f} to {high:.1f} ({worst})",
            expected=f"known to {2 * half_unit(stated[worst]):g}",
            holds=all(max(ends[row]) - min(ends[row]) <= 2 * half_unit(stated[row]) for row in stated),
            sentence=f"The rounded figures of {worst} leave the {column} between {low:.1f} and {high:.1f} percent.",
        )


def _percent_meaning(documented: Documented) -> Iterator[Finding]:
    columns = {table: (rivals[0], column) for table, (rivals, column) in COMPARISONS.items()}
    columns |= {table: ("baseline", column) for table, column in COSTS.items()}
    meanings: dict[str, list[str]] = {"points": [], "relative": []}
    places = []
    for table, (reference, column) in columns.items():
        if documented.tables[table].columns[column].unit == "%":
            dnm, before = documented.numbers(table, "dnm"), documented.numbers(table, reference)
            # By the nearer of the two readings, so that a slip in one figure does not change the meaning.
            gains = documented.numbers(table, column)
            points = sum(abs(dnm[row] - before[row] - gain) for row, gain in gains.items())
            relative = sum(abs(abs(_change(before[row], dnm[row])) - gain) for row, gain in gains.items())
            meanings["points" if points <= relative else "relative"].append(table)
            places += [f"{table}/*/{name}" for name in (reference, "dnm", column)]
    yield Finding(
        "percent_means_one_thing",
        "A gain in percent means the same in every table",
        _where(documented, *places),
        found="; ".join(f"{meaning}: {', '.join(tables)}" for meaning, tables in meanings.items()),
        expected="one meaning",
        holds=not all(meanings.values()),
        sentence=f"Percent means points in {len(meanings['points'])} tables, ratios in {len(meanings['relative'])}.",
    )


def _headlines(documented: Documented) -> Iterator[Finding]:
    claimed = _range(documented, "achievements", "accuracy_improvements", "range")
    for table in ("image_classification", "few_shot", "transfer"):
        where = _where(documented, f"{table}/*/improvement", "achievements/accuracy_improvements/range")
        claim = f"Improvements of {table} lie in the headline range"
        gains = documented.numbers(table, "improvement")
        yield _bounded(f"accuracy_range_{table}", claim, where, gains, claimed.low, claimed.high)
    claimed = _range(documented, "achievements", "training_efficiency", "range")
    where = _where(documented, "image_classification/*/training_time", "achievements/training_efficiency/range")
    less = {row: -value for row, value in documented.numbers("image_classification", "training_time").items()}
    claim = "Training time saved lies in the headline range"
    yield _bounded("training_time_range", claim, where, less, claimed.low, claimed.high)
    where = _where(documented, "convergence/*/*_epochs_to_target", "achievements/training_efficiency/range")
    after = documented.numbers("convergence", "dnm_epochs_to_target")
    before = documented.numbers("convergence", "baseline_epochs_to_target")
    less = {row: -_change(before[row], after[row]) for row in before}
    claim = "Epochs to target saved lie in the headline range"
    yield _bounded("convergence_range", claim, where, less, claimed.low, claimed.high)
    where = _where(documented, "image_classification/*/parameters", "achievements/parameter_efficiency/claim")
    parameters = documented.numbers("image_classification", "parameters")
    claim = "Added parameters are comparable or fewer"
    yield _bounded("parameter_efficiency", claim, where, parameters, high=COMPARABLE_PARAMETERS)
    where = _where(documented, "few_shot/*/improvement", "image_classification/*/improvement")
    gains = documented.numbers("few_shot", "improvement")
    most = max(documented.numbers("image_classification", "improvement").values())
    yield _bounded(
        "few_shot_excels", "Few-shot gains exceed those on full datasets", where, gains, low=most, strict=True
    )
    steps = {f"{few} to {more}": gains[few] - gains[more] for few, more in pairwise(gains)}
    where = _where(documented, "few_shot/*/improvement")
    yield _bounded("few_shot_falls", "Few-shot gains fall with more shots", where, steps, low=0.0, strict=True)


def _convergence(documented: Documented) -> Iterator[Finding]:
    target = documented.numbers("convergence", "target")
    for arm in ARMS:
        final = documented.numbers("convergence", f"{arm}_final_accuracy")
        places = [f"convergence/*/{arm}_final_accuracy", *(f"image_classification/{row}/{arm}" for row in final)]
        claim = f"Final accuracies of {arm} are those of image_classification"
        headline = {row: documented.number("image_classification", row, arm) for row in final}
        yield _equal(f"final_accuracy_{arm}", claim, _where(documented, *places), final, headline)
        where = _where(documented, "convergence/*/target", f"convergence/*/{arm}_final_accuracy")
        yield _bounded(f"target_reached_{arm}", f"Targets are within reach of {arm}", where, target, high=final)
    reached = documented.numbers("convergence", "baseline_epochs_to_target")
    plateau = {row: documented.figure("convergence", row, "baseline_plateau_at") for row in reached}
    high = {row: float(at) if isinstance(at, int | float) else math.inf for row, at in plateau.items()}
    where = _where(documented, "convergence/*/baseline_epochs_to_target", "convergence/*/baseline_plateau_at")
    claim = "The baseline reaches its targets before its plateaus"
    yield _bounded("target_before_plateau", claim, where, reached, high=high)

    epochs, patience = (documented.number("protocol", "training_config", name) for name in ("epochs", "patience"))
    stopping = documented.figure("protocol", "training_config", "early_stopping")
    where = _where(documented, "convergence/*/*_epochs_to_target", "protocol/training_config/epochs")
    both = {
        f"{arm}/{row}": documented.number("convergence", row, f"{arm}_epochs_to_target")
        for arm in ARMS
        for row in target
    }
    yield _bounded("target_within_training", "Targets are reached within the training", where, both, high=epochs)

    def trained(row: str, arm: str) -> float:
        at = documented.figure("convergence", row, f"{arm}_plateau_at")
        return min(epochs, at + patience) if stopping and isinstance(at, int | float) else epochs

    more = {row: _change(trained(row, "baseline"), trained(row, "dnm")) for row in target}
    time = {row: documented.number("image_classification", row, "training_time") for row in target}
    share = [100 * (100 + time[row]) / (100 + more[row]) for row in target]
    places = [f"image_classification/{row}/training_time" for row in target]
    places += [f"protocol/training_config/{name}" for name in ("epochs", "early_stopping", "patience")]
    yield Finding(
        "early_stopping_and_training_time",
        "DNM trains for less time without a plateau to stop at",
        _where(documented, "convergence/*/*_plateau_at", *places),
        found=f"epochs {_signed(more.values())}",
        expected=f"time {_signed(time.values())}",
        holds=all((more[row] <= 0) == (time[row] <= 0) for row in target),
        sentence=f"Under the stated stopping rule the number of DNM's epochs differs from the baseline's by "
        f"{_signed(more.values())} percent and its training time by {_signed(time.values())} percent: an epoch would "
        f"have to cost {', '.join(f'{value:.0f}' for value in share)} percent of one of the baseline's.",
    )


def _events(documented: Documented) -> Iterator[Finding]:
    events = documented.tables["events"]
    frequency = {row: _range(documented, "events", row, "frequency") for row in events.rows}
    where = _where(documented, "events/*/frequency", "protocol/dnm_config/max_morphogenesis_events")
    cap = documented.number("protocol", "dnm_config", "max_morphogenesis_events")
    for name, total in (
        ("fewest", sum(times.low for times in frequency.values())),
        ("most", sum(times.high for times in frequency.values())),
    ):
        claim = f"The {name} events of every kind are within the allowed number"
        yield _bounded(f"events_{name}", claim, where, {"sum": total}, high=cap)

    gain, qualified = documented.numbers("events", "gain"), [n.row for n in events.notes if n.kind == "qualifier"]
    least = {row: frequency[row].low * gain[row] for row in gain if row not in qualified}
    places = [f"events/{row}/{column}" for row in least for column in ("frequency", "gain")]
    where = _where(documented, *places, "image_classification/*/improvement")
    total, improvement = sum(least.values()), documented.numbers("image_classification", "improvement")
    claim = f"The fewest events' gains, {total:.1f}, fit into each improvement"
    yield _bounded("event_gains_and_improvements", claim, where, improvement, low=total)
    where = _where(documented, "events/division/frequency", "events/division/gain", "ablation_components/division/*")
    contribution = {"contribution": documented.number("ablation_components", "division", "contribution")}
    claim = f"The fewest divisions' gain, {least['division']:.1f}, fits into division's contribution"
    yield _bounded("event_gains_and_ablation", claim, where, contribution, low=least["division"])
    edits = [
        row for row in documented.tables["ablation_components"].rows if row not in ("baseline", "detection", "full")
    ]
    places = [f"ablation_components/{row}/contribution" for row in edits]
    where = _where(documented, "events/*/gain", *places)
    yield _contained("edits_are_events", "Every edit of the ablation is an event", where, edits, events.rows)


def _ablations(documented: Documented) -> Iterator[Finding]:
    accuracy = documented.numbers("ablation_components", "accuracy")
    stated = documented.numbers("ablation_components", "contribution")
    steps = {row: accuracy[row] - accuracy[before] for before, row in pairwise(accuracy)}
    where = _where(documented, "ablation_components/*/*")
    yield _equal("component_steps", "Contributions are steps in accuracy", where, steps, stated)
    headline = {"cifar10": documented.number("image_classification", "cifar10", "improvement")}
    where = _where(documented, "ablation_components/*/contribution", "image_classification/cifar10/improvement")
    total = {"cifar10": sum(stated.values())}
    yield _equal("component_sum", "Contributions sum to the CIFAR-10 improvement", where, total, headline)
    places = [f"ablation_components/{row}/accuracy" for row in ("baseline", "full")]
    where = _where(documented, *places, "image_classification/cifar10/baseline", "image_classification/cifar10/dnm")
    ends = {"baseline": accuracy["baseline"], "dnm": accuracy["full"]}
    expected = {arm: documented.number("image_classification", "cifar10", arm) for arm in ends}
    yield _equal("component_ends", "The ablation starts and ends at the CIFAR-10 accuracies", where, ends, expected)
    where = _where(documented, "ablation_components/detection/contribution")
    claim = "Detection without an edit, which changes no weight, adds nothing"
    detection = {"detection": stated["detection"]}
    yield _bounded("detection_alone", claim, where, detection, low=0.0, high=half_unit(stated["detection"]))

    impact = documented.numbers("ablation_theories", "impact")
    full = {"full": impact.pop("full")}
    where = _where(documented, "ablation_theories/*/impact")
    total = {"full": sum(impact.values())}
    yield _equal("theory_sum", "The theories' gains sum to the full gain", where, total, full)
    where = _where(documented, "ablation_theories/*/impact", "ablation_theories/full/key_benefit")
    synergy = {"full minus sum": full["full"] - total["full"]}
    claim = "The theories are synergistic: together more than their sum"
    yield _bounded("theory_synergy", claim, where, synergy, low=0.0, strict=True)
    where = _where(documented, "ablation_theories/full/impact", "image_classification/cifar10/improvement")
    expected = {"full": headline["cifar10"]}
    yield _equal("theory_full", "The full gain is the CIFAR-10 improvement", where, full, expected)


def _sizes_and_transfer(documented: Documented) -> Iterator[Finding]:
    overhead = documented.numbers("memory", "overhead")
    parameters = {row: documented.number("image_classification", row, "parameters") for row in overhead}
    places = [f"image_classification/{row}/parameters" for row in overhead]
    where = _where(documented, *places, "memory/*/overhead", "inference/*/speedup")
    smaller = {row: min(overhead[row], parameters[row]) for row in overhead}
    claim = "Networks faster by pruning have fewer parameters or take less memory than the baseline"
    yield _bounded("pruning_makes_smaller", claim, where, smaller, high=0.0)

    gains, places = {}, []
    for row in documented.tables["transfer"].rows:
        target = row.partition("_to_")[2]
        if target in documented.tables["image_classification"].rows:
            alone = documented.number("image_classification", target, "dnm")
            gains[row] = documented.number("transfer", row, "dnm") - alone
            places += [f"transfer/{row}/dnm", f"image_classification/{target}/dnm"]
    claim = "Transfer helps DNM against training on the target alone"
    yield _bounded("transfer_helps", claim, _where(documented, *places), gains, low=0.0, strict=True)


def _intervals(documented: Documented) -> Iterator[Finding]:
    mean, runs = documented.numbers("confidence", "improvement"), documented.tables["runs"].rows
    interval = {row: _range(documented, "confidence", row, "interval") for row in mean}
    half = {row: (ends.high - ends.low) / 2 for row, ends in interval.items()}
    places = ["confidence/*/improvement", *(f"image_classification/{row}/improvement" for row in mean)]
    headline = {row: documented.number("image_classification", row, "improvement") for row in mean}
    claim = "Mean improvements are those of image_classification"
    yield _equal("interval_means", claim, _where(documented, *places), mean, headline)
    where = _where(documented, "confidence/*/improvement", "confidence/*/interval")
    centre = {row: (ends.low + ends.high) / 2 for row, ends in interval.items()}
    yield _equal("interval_centres", "Intervals are centred on their means", where, centre, mean)
    where = _where(documented, "confidence/*/interval", "runs/*/runs")
    yield _contained("interval_runs", "Every interval rests on repeated runs", where, interval, runs)
    tested = [f"image_classification/{row}" for row in interval]
    reported = [f"{table}/{row}" for table in COMPARISONS for row in documented.tables[table].rows]
    where = _where(documented, *(f"{table}/*/{column}" for table, (_, column) in COMPARISONS.items()))
    yield _contained("improvements_tested", "Every reported improvement has an interval", where, reported, tested)

    count = min(documented.numbers("runs", "runs").values())
    quantile = float(stats.t.ppf(0.975, 2 * count - 2))
    implied = {row: 2 * float(stats.t.sf(abs(mean[row]) / half[row] * quantile, 2 * count - 2)) for row in mean}
    stated = {row: documented.figure("confidence", row, "p_value") for row in mean}
    high = {row: p.bound if isinstance(p, Below) else 0.0 for row, p in stated.items()}
    claim = f"Intervals of {count:g} runs an arm imply the p-values"
    yield _bounded("interval_p_values", claim, _where(documented, "confidence/*/*"), implied, high=high)
    for row in (row for row in interval if row in runs):
        std, count = documented.number("runs", row, "std"), documented.number("runs", row, "runs")
        quantile = float(stats.t.ppf(0.975, 2 * count - 2))
        fitting = quantile * std * math.sqrt(2 / count)
        needed = math.sqrt(max(0.0, (half[row] / quantile) ** 2 * count - std**2))
        yield Finding(
            f"interval_width_{row}",
            "The interval has the width that the spread of the runs gives it",
            _where(documented, f"confidence/{row}/interval", f"runs/{row}/std", f"runs/{row}/runs"),
            found=f"+/- {fitting:.2f}",
            expected=f"+/- {half[row]:.2f}",
            holds=abs(fitting - half[row]) <= half_unit(interval[row].low),
            sentence=f"Two arms of {count:g} runs with a standard deviation of {std:g} give +/- {fitting:.2f} points; "
            f"+/- {half[row]:.2f} is stated, for which the baseline's would have to be {needed:.1f}.",
        )


def _runs(documented: Documented) -> Iterator[Finding]:
    columns = {name: documented.numbers("runs", name) for name in ("mean", "std", "min", "max", "runs")}
    mean, std = columns["mean"], columns["std"]
    headline = {row: documented.number("image_classification", row, "dnm") for row in mean}
    where = _where(documented, "runs/*/mean", *(f"image_classification/{row}/dnm" for row in mean))
    yield _equal("run_means", "Means of the runs are the headline accuracies", where, mean, headline)
    where = _where(documented, "runs/*/mean", "runs/*/min", "runs/*/max")
    yield _bounded("run_extremes", "Means lie between the extremes", where, mean, columns["min"], columns["max"])
    low, high = {}, {}
    for row in mean:
        above, below, count = columns["max"][row] - mean[row], mean[row] - columns["min"][row], columns["runs"][row]
        # Most: every run at an extreme (Bhatia and Davis, "A better bound on the variance", American
        # Mathematical Monthly 107, 2000). Least: one run at each, all others at one value between them.
        high[row] = math.sqrt(max(0.0, above * below) * count / (count - 1)) + half_unit(std[row])
        square = above**2 + below**2 + (above - below) ** 2 / (count - 2)
        low[row] = math.sqrt(square / (count - 1)) - half_unit(std[row])
    claim = "Standard deviations are possible for these means and extremes"
    yield _bounded("run_spreads", claim, _where(documented, "runs/*/*"), std, low, high)


def _print(documented: Documented) -> Iterator[Finding]:
    for kind, claim in (
        ("missing_unit", "Every cell carries the unit of its column"),
        ("qualifier", "Every cell is in the quantity of its column"),
    ):
        notes = [(name, note) for name, table in documented.tables.items() for note in table.notes if note.kind == kind]
        where = tuple(Address(name, note.row or "", note.column or "") for name, note in notes)
        cells = [f"{documented.figure(*place)} ({note.text})" for place, (_, note) in zip(where, notes, strict=True)]
        sentence = f"{claim}, except {len(cells)}: {', '.join(cells)}." if cells else f"{claim}."
        yield Finding(f"no_{kind}", claim, where, ", ".join(cells) or "none", "none", not cells, sentence)
    lines = [line for command in documented.commands.values() for line in command.lines]
    called = sorted({word.partition("/")[2] for line in lines for word in line.split() if word.endswith(".py")})
    yield _contained("scripts_listed", "Every script of the commands is listed", (), called, documented.scripts)
    covered = {place for script in documented.scripts.values() for place in script.covers}
    rows = [f"{table}/{row}" for table in (*COMPARISONS, *COSTS) for row in documented.tables[table].rows]
    held = [row for row in rows if row in covered or row.partition("/")[0] in covered]
    where = _where(documented, *(f"{row}/dnm" for row in rows))
    yield _contained("scripts_cover_rows", "Every measured row has a listed script", where, rows, held)


_CHECKS: tuple[Callable[[Documented], Iterator[Finding]], ...] = (
    _differences,
    _headlines,
    _convergence,
    _events,
    _ablations,
    _costs,
    _percent_meaning,
    _sizes_and_transfer,
    _intervals,
    _runs,
    _print,
)


def _equal(
    name: str, claim: str, where: tuple[Address, ...], computed: Mapping[str, float], stated: Mapping[str, float]
) -> Finding:
    wrong = [key for key in stated if not agrees(computed[key], stated[key])]
    digits = [max(0, -round(math.log10(2 * half_unit(value)))) for value in stated.values()]
    found, expected = (
        ", ".join(f"{values[key]:.{places}f}" for key, places in zip(stated, digits, strict=True))
        for values in (computed, stated)
    )
    sentence = f"{claim}: {_answer(stated, wrong)} (found {found}; expected {expected})."
    return Finding(name, claim, where, found, expected, not wrong, sentence)


def _bounded(
    name: str,
    claim: str,
    where: tuple[Address, ...],
    values: Mapping[str, float],
    low: float | Mapping[str, float] = -math.inf,
    high: float | Mapping[str, float] = math.inf,
    strict: bool = False,
) -> Finding:
    lows, highs = (side if isinstance(side, Mapping) else dict.fromkeys(values, side) for side in (low, high))
    wrong = [
        key
        for key, value in values.items()
        if not lows[key] - 1e-9 <= value <= highs[key] + 1e-9 or (strict and value <= lows[key] + 1e-9)
    ]
    found = ", ".join(_short(value) for value in values.values())
    spans = [_span(lows[key], highs[key], strict) for key in values]
    expected = spans[0] if len(set(spans)) == 1 else ", ".join(spans)
    sentence = f"{claim}: {_answer(values, wrong)} (found {found}; expected {expected})."
    return Finding(name, claim, where, found, expected, not wrong, sentence)


def _contained(
    name: str, claim: str, where: tuple[Address, ...], wanted: Iterable[str], present: Iterable[str]
) -> Finding:
    wanted, present = list(wanted), list(present)
    absent = [key for key in wanted if key not in present]
    found = f"{len(wanted) - len(absent)} of {len(wanted)}"
    sentence = f"{claim}: {_answer(wanted, absent)} ({found})."
    return Finding(name, claim, where, found, f"all {len(wanted)}", not absent, sentence)


def _where(documented: Documented, *patterns: str) -> tuple[Address, ...]:
    addresses = {str(address): address for address in documented.addresses()}
    found: dict[Address, None] = {}
    for pattern in patterns:
        matches = [addresses[name] for name in fnmatch.filter(addresses, pattern)]
        if not matches:
            raise UnknownFigure(f"no documented figure at {pattern}, which a check of the audit compares")
        found |= dict.fromkeys(matches)
    return tuple(found)


def _places(where: Iterable[Address]) -> str:
    columns: dict[tuple[str, str], list[str]] = {}
    for address in where:
        columns.setdefault((address.table, address.column), []).append(address.row)
    return "; ".join(f"{table}: {column} of {', '.join(rows)}" for (table, column), rows in columns.items())


def _range(documented: Documented, table: str, row: str, column: str) -> Range:
    value = documented.figure(table, row, column)
    if not isinstance(value, Range):
        raise TypeError(f"got {value!r} at {Address(table, row, column)}, expected a range: write it as [low, high]")
    return value


def _change(before: float, after: float) -> float:
    return 100 * (after / before - 1)


def _answer(every: Iterable[str], wrong: list[str]) -> str:
    if not wrong:
        return "yes"
    if len(wrong) == len(list(every)):
        return "no"
    return f"not for {', '.join(wrong)}" if len(wrong) <= 5 else f"not for {len(wrong)} of them"


def _span(low: float, high: float, strict: bool) -> str:
    if math.isinf(low):
        return f"at most {_short(high)}"
    return (
        f"{'above' if strict else 'at least'} {_short(low)}" if math.isinf(high) else f"{_short(low)} to {_short(high)}"
    )


def _short(value: float) -> str:
    return f"{value:.1g}" if abs(value) < 0.01 else f"{round(value, 2):g}"


def _signed(values: Iterable[float]) -> str:
    return ", ".join(f"{round(value, 1) + 0.0:+g}" for value in values)
