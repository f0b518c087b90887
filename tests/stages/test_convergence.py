"""Epochs to a target and plateaus: hand-written curves, and the committed ones recomputed without the module."""

import csv
import dataclasses
import json
import math
import statistics
from pathlib import Path

import pytest
from scipy import stats

from stages import cli, convergence, documented, tables

ROOT = Path(__file__).parents[2]
DOCUMENT = documented.load()
# A target of 90, and 80 epochs to it against 35: -56.25%.
CIFAR10 = {
    "target": 90.0, "baseline_final_accuracy": 92.1, "baseline_epochs_to_target": 80.0, "dnm_epochs_to_target": 35.0,
}  # fmt: skip
NEVER = None
COLUMNS = [
    "target",
    "baseline_epochs_to_target",
    "baseline_final_accuracy",
    "baseline_plateau_at",
    "dnm_epochs_to_target",
    "dnm_final_accuracy",
    "dnm_plateau_at",
    "epochs_to_target_change",
    "flops_to_target_change",
    "scratch_epochs_to_target",
    "start_epochs_to_target",
]


def curve(reached_at, epochs, gflop=1.0):
    """Ten percent up to the epoch at which 91% are reached, for good; an epoch costs so many GFLOP."""
    return [
        convergence.Point(
            flops=gflop * 1e9 * epoch, accuracy=91.0 if reached_at is not NEVER and epoch >= reached_at else 10.0
        )
        for epoch in range(1, epochs + 1)
    ]


def found(row, dnm, baseline, *, as_documented=True, claimed=CIFAR10, dnm_gflop=1.0):
    """Runs of dnm and baseline as (reached at, epochs); the controls train like the baseline."""
    runs = {"dnm": dnm, "baseline": baseline, "start": baseline, "scratch": baseline}
    curves = {
        arm: {
            seed: curve(*run, gflop=dnm_gflop if arm == "dnm" else 1.0) for seed, run in enumerate(of_arm)
        }
        for arm, of_arm in runs.items()
    }  # fmt: skip
    trials = {arm: {seed: {"test_accuracy": 0.5 + seed / 100} for seed in of_arm} for arm, of_arm in curves.items()}
    settings = dataclasses.replace(row, as_documented=as_documented)
    return convergence.row_convergence(curves, settings, claimed, trials)


def claim(*arguments, **options):
    return found(*arguments, **options)["claims"]["epochs_to_target_change"]


def line(arm, seed, epoch, accuracy, flops="1000000000"):
    return {"arm": arm, "seed": seed, "epoch": epoch, "flops": flops, "validation_accuracy": accuracy}


def test_curves_are_read_in_percent_by_arm_and_seed():
    lines = [line("dnm", "0", "1", "0.25"), line("dnm", "1", "1", "0.5"), line("dnm", "0", "2", "0.75", "3e9")]
    assert convergence.curves_of(lines) == {"dnm": {0: [(1e9, 25.0), (3e9, 75.0)], 1: [(1e9, 50.0)]}}


@pytest.mark.parametrize("epochs", [["2"], ["1", "3"], ["1", "1"]])
def test_curves_with_gaps_are_refused(epochs):
    with pytest.raises(cli.UserError, match=f"dnm, seed 4: got epoch {epochs[-1]}, expected {len(epochs)}"):
        convergence.curves_of(line("dnm", "4", epoch, "0.5") for epoch in epochs)


@pytest.mark.parametrize(("as_documented", "expected"), [(True, 90.0), (False, 45.0)])
def test_target(as_documented, expected):
    assert convergence.target(90.0, 100.0, [40.0, 60.0], as_documented) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("accuracies", "wanted", "expected"),
    [
        ([60.0, 10.0], 60.0, 1),
        ([10.0, 59.9, 60.1, 20.0, 70.0], 60.0, 3),
        ([10.0, 20.0], 60.0, None),
        ([], 60.0, None),
        ([50.0, 100 * 0.57], 57.0, 2),  # 56.99999999999999
        ([56.9999], 57.0, None),
    ],
)
def test_epochs_to(accuracies, wanted, expected):
    assert convergence.epochs_to(accuracies, wanted) == expected


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([50.0] * 10, 1),
        ([10.0 * epoch for epoch in range(10)], None),
        ([60.0 + epoch / 10 for epoch in range(10)], None),  # exactly 0.1, of which 60.3 - 60.2 falls short
        ([60.0, 60.1, 60.2, 60.3, 60.39, 60.5, 60.6, 60.7, 60.8, 60.9], 4),
        ([50.0, 60.0, 55.0, 61.0, 62.0, 63.0, 64.0, 65.0, 66.0, 67.0], 2),  # the best so far, not the last
        ([*range(10, 20), 19.0], None),  # 11 epochs, the tenth is 2 of them: 18 rises to 19 within epochs 10 and 11
        ([*range(10, 19), 18.0, 18.0], 9),
        ([10.0, 20.0, 30.0, 30.0], 3),
        ([*range(19), 18.0], None),  # 20 epochs: a stall of one is shorter than the window
        ([10.0], None),  # no tenth lies after the only epoch
        ([], None),
    ],
)
def test_plateau_at(accuracies, expected):
    assert convergence.plateau_at(accuracies) == expected


def test_levels_of_an_arm_that_always_gets_there(tiny_row):
    arm = found(tiny_row, [(2, 10), (4, 10), (9, 10)], [(8, 10)] * 3, dnm_gflop=0.5)["arms"]["dnm"]
    half = stats.t.ppf(0.975, 2) * statistics.stdev([2, 4, 9]) / math.sqrt(3)
    assert (arm["num_seeds"], arm["reached"]) == (3, 3)
    assert arm["epochs_to_target"] == pytest.approx({"mean": 5, "low": 5 - half, "high": 5 + half, "median": 4})
    assert arm["gflop_to_target"] == pytest.approx(
        {"mean": 2.5, "low": 2.5 - half / 2, "high": 2.5 + half / 2, "median": 2}
    )
    assert arm["final_accuracy"]["mean"] == pytest.approx(51.0)


def test_censored_runs_of_several_lengths_count_with_their_own_end(tiny_row):
    arms = found(tiny_row, [(4, 30), (NEVER, 5), (6, 20)], [(NEVER, 10), (NEVER, 12), (5, 10)])["arms"]
    # A median, for most get there, above which the lost run stands, early as it ends; no interval, for not all do.
    assert arms["dnm"]["epochs_to_target"] == {"mean": 5.0, "low": None, "high": None, "median": 6.0}
    assert arms["dnm"]["gflop_to_target"] == {"mean": 5.0, "low": None, "high": None, "median": 6.0}
    assert (arms["dnm"]["reached"], arms["dnm"]["window"]) == (2, [1, 3])
    assert arms["baseline"]["epochs_to_target"] == {"mean": 9.0, "low": None, "high": None, "median": None}
    assert arms["baseline"]["reached"] == 1


def test_half_of_the_runs_censored_leaves_no_median(tiny_row):
    arms = found(tiny_row, [(4, 10), (NEVER, 10)], [(4, 10), (6, 10)])["arms"]
    assert arms["dnm"]["epochs_to_target"]["median"] is None
    assert arms["baseline"]["epochs_to_target"]["median"] == 5.0


def test_plateaus_of_an_arm(tiny_row):
    # 20 epochs, of which a tenth is two: at once where the rise comes late, at the end where there is no room for it.
    arms = found(tiny_row, [(2, 20), (2, 20)], [(10, 20), (2, 20)])["arms"]
    assert arms["baseline"]["plateau_at"] == pytest.approx(
        {"mean": 1.5, "low": 1.5 - stats.t.ppf(0.975, 1) / 2, "high": 1.5 + stats.t.ppf(0.975, 1) / 2}
    )
    assert (arms["dnm"]["plateaued"], arms["dnm"]["plateau_at"]["mean"], arms["dnm"]["window"]) == (2, 2.0, [2, 2])
    # Two epochs with a rise between them leave none; among others, the mean is that of the others.
    mixed = found(tiny_row, [(2, 2), (2, 20), (10, 20)], [(2, 2)] * 3)["arms"]
    assert (mixed["dnm"]["plateaued"], mixed["dnm"]["plateau_at"]) == (2, {"mean": 1.5, "low": None, "high": None})
    assert (mixed["baseline"]["plateaued"], mixed["baseline"]["plateau_at"]["mean"]) == (0, None)


@pytest.mark.parametrize(
    ("dnm", "as_documented", "expected"),
    [
        ([8, 9, 10], True, "reproduced"),  # -60, -55, -50
        ([4, 5, 6], True, "reproduced"),  # further than documented
        ([8, 9, 10], False, "direction only"),
        ([14, 15, 16], True, "direction only"),  # -30, -25, -20
        ([12, 20, 28], True, "not reproduced"),
        ([24, 25, 26], True, "contradicted"),
    ],
)
def test_verdicts_without_censored_runs(tiny_row, dnm, as_documented, expected):
    judged = claim(tiny_row, [(epoch, 40) for epoch in dnm], [(20, 40)] * 3, as_documented=as_documented)
    changes = [100 * (epoch / 20 - 1) for epoch in dnm]
    assert judged["verdict"] == expected
    assert judged["mean"] == pytest.approx(statistics.fmean(changes))
    assert judged["p_value"] == pytest.approx(stats.ttest_1samp(changes, 0)[1])
    assert judged["documented"] == pytest.approx(-56.25)
    assert "never" not in judged["note"]


def test_changes_are_paired_by_seed(tiny_row):
    judged = claim(tiny_row, [(5, 40), (10, 40), (20, 40)], [(10, 40), (20, 40), (40, 40)])
    assert (judged["mean"], judged["standard_deviation"]) == (-50.0, 0.0)
    assert judged["order"] == {"dnm": 3, "baseline": 0, "same": 0, "unknown": 0}
    assert "dnm is first in 3, baseline in 0 of 3 pairs" in judged["note"]


def test_with_censored_runs_the_side_that_they_cannot_outweigh_is_kept(tiny_row):
    faster = claim(tiny_row, [(10, 40), (11, 40), (12, 40)], [(NEVER, 40), (39, 40), (40, 40)])
    assert faster["mean"] == pytest.approx(100 * statistics.fmean([10 / 40 - 1, 11 / 39 - 1, 12 / 40 - 1]))
    assert faster["verdict"] == "reproduced"
    assert "(1 of baseline) count with their end, which understates the change" in faster["note"]
    slower = claim(tiny_row, [(NEVER, 40), (39, 40), (40, 40)], [(10, 40), (11, 40), (12, 40)])
    assert slower["verdict"] == "contradicted"
    assert "(1 of dnm)" in slower["note"]


def test_with_censored_runs_a_side_that_they_may_outweigh_is_not_claimed(tiny_row):
    # Nine of ten take half the time, but the tenth, which never gets there, counts with an end that is just as early.
    fast, slow = [(10, 40)] * 9, [(20, 40)] * 9
    faster = claim(tiny_row, [*fast, (NEVER, 40)], [*slow, (39, 40)])
    assert faster["high"] < 0
    assert (faster["verdict"], "could outweigh it" in faster["note"]) == ("not reproduced", True)
    slower = claim(tiny_row, [*slow, (39, 40)], [*fast, (NEVER, 40)])
    assert slower["low"] > 0
    assert (slower["verdict"], "could outweigh it" in slower["note"]) == ("not reproduced", True)
    # Without the censored run both are decided.
    assert claim(tiny_row, fast, slow, as_documented=False)["verdict"] == "direction only"
    assert claim(tiny_row, slow, fast)["verdict"] == "contradicted"


def test_pairs_are_cut_where_the_first_of_them_is_lost(tiny_row):
    # The baseline of the first seed is stopped at 20; that dnm gets there at 35 does not make it the slower one.
    judged = claim(tiny_row, [(35, 40), (30, 40)], [(NEVER, 20), (NEVER, 40)])
    assert judged["order"] == {"dnm": 1, "baseline": 0, "same": 0, "unknown": 1}
    assert judged["mean"] == pytest.approx((0 - 25) / 2)
    assert "1 pairs in which the first is not known count as no change" in judged["note"]


@pytest.mark.parametrize(
    ("dnm", "baseline", "reason"),
    [
        ([(NEVER, 40), (NEVER, 40)], [(NEVER, 40), (NEVER, 40)], "no run of dnm or baseline reaches the target"),
        ([(NEVER, 40), (NEVER, 30)], [(NEVER, 20), (NEVER, 40)], "no run of dnm or baseline reaches the target"),
        ([(35, 40), (NEVER, 40)], [(NEVER, 20), (NEVER, 40)], "which of the two is first is not known of any pair"),
    ],
)
def test_nothing_to_compare_is_not_measured(tiny_row, dnm, baseline, reason):
    judged = claim(tiny_row, dnm, baseline)
    assert (judged["verdict"], judged["mean"], judged["low"], judged["num_seeds"]) == (
        "not measured at this scale", None, None, 2,
    )  # fmt: skip
    assert judged["note"].startswith(reason)
    assert judged["documented"] == pytest.approx(-56.25)


def test_a_target_reached_in_the_last_epoch_is_before_never(tiny_row):
    judged = claim(tiny_row, [(40, 40), (NEVER, 40)], [(NEVER, 40), (40, 40)])
    assert judged["order"] == {"dnm": 1, "baseline": 1, "same": 0, "unknown": 0}
    assert (judged["mean"], judged["verdict"]) == (0.0, "not reproduced")


def test_equal_epochs_are_a_measurement(tiny_row):
    judged = claim(tiny_row, [(10, 40), (10, 40)], [(10, 40), (10, 40)])
    assert (judged["verdict"], judged["mean"], judged["order"]["same"]) == ("not reproduced", 0.0, 2)
    assert judged["log_rank_p"] is None


def test_flops_are_compared_on_their_own_without_a_verdict(tiny_row):
    claims = found(tiny_row, [(10, 40), (10, 40)], [(20, 40), (10, 40)], dnm_gflop=3.0)["claims"]
    assert claims["epochs_to_target_change"]["mean"] == pytest.approx(-25.0)
    assert claims["flops_to_target_change"]["mean"] == pytest.approx((50 + 200) / 2)
    assert "verdict" not in claims["flops_to_target_change"]
    # 30 GFLOP are more than the baseline ever spent: it is not known to be first.
    lost = found(tiny_row, [(10, 20), (10, 20)], [(NEVER, 20), (NEVER, 20)], dnm_gflop=3.0)["claims"]
    assert lost["epochs_to_target_change"]["mean"] == -50.0
    assert lost["flops_to_target_change"]["mean"] is None


def test_log_rank_by_hand(tiny_row):
    judged = claim(tiny_row, [(1, 9), (NEVER, 2), (4, 9)], [(3, 9), (3, 9), (5, 9)])
    # At epochs 1, 3 and 4: one of 6 runs, two of 4 and one of 2 get there, and 3, 1 and 1 of these are of dnm. At 5 all
    # that are left do, which says nothing.
    expected = 1 * 3 / 6 + 2 * 1 / 4 + 1 * 1 / 2
    variance = 1 * (3 / 6) * (3 / 6) + 2 * (1 / 4) * (3 / 4) * (4 - 2) / (4 - 1) + 1 * (1 / 2) * (1 / 2)
    assert judged["log_rank_p"] == pytest.approx(stats.chi2.sf((2 - expected) ** 2 / variance, 1))
    assert f"log-rank p, unpaired, {judged['log_rank_p']:.2g}" in judged["note"]


def test_a_target_that_is_a_fraction_of_the_baseline(tiny_row):
    result = found(tiny_row, [(5, 10)] * 2, [(5, 10)] * 2, as_documented=False)
    assert result["target"] == pytest.approx({"accuracy": 91 * 90 / 92.1, "share": 100 * 90 / 92.1})
    assert found(tiny_row, [(5, 10)] * 2, [(5, 10)] * 2)["target"] == {"accuracy": 90.0, "share": None}


def test_a_row_that_the_document_does_not_have(tiny_row):
    assert convergence.claims_of(DOCUMENT, "stl10") is None
    assert convergence.claims_of(DOCUMENT, "cifar10") == CIFAR10
    result = found(tiny_row, [(5, 10)] * 2, [(5, 10)] * 2, claimed=None)
    assert result["target"] is None
    assert result["arms"]["dnm"]["epochs_to_target"] is None
    assert result["arms"]["dnm"]["final_accuracy"]["mean"] == pytest.approx(50.5)
    for change in result["claims"].values():
        assert (change["verdict"], change["mean"]) == ("not measured at this scale", None)
        assert change["note"] == "the document's table has no such row"
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("lacking", ["curves", "trials"])
def test_other_seeds_are_refused(tiny_row, lacking):
    both = {
        "curves": {arm: {0: curve(2, 4), 1: curve(2, 4)} for arm in convergence.ARMS},
        "trials": {arm: {0: {"test_accuracy": 0.5}, 1: {"test_accuracy": 0.6}} for arm in convergence.ARMS},
    }
    del both[lacking]["scratch"][1]
    with pytest.raises(cli.UserError, match=rf"'scratch, {lacking}': \[0\].*run their stages again"):
        convergence.row_convergence(both["curves"], tiny_row, CIFAR10, both["trials"])


def cells_of(row, *arguments, **options):
    """The table of a scale that measures cifar10 alone, by row and column."""
    result = {"ours": found(row, *arguments, **options)}
    cells = convergence.table(DOCUMENT, {"ours": row}, result, {"ours": "some images"})
    return {(cell["row"], cell["column"]): cell for cell in cells}


def test_the_table_has_every_row_and_column(tiny_row):
    cells = cells_of(tiny_row, [(5, 10), (NEVER, 10)], [(8, 10), (9, 10)])
    assert list(cells) == [(row, column) for row in ("cifar10", "cifar100", "imagenet") for column in COLUMNS]
    for (row, column), cell in cells.items():
        assert tuple(cell) == tables.CELL_COLUMNS
        assert cell["note"] and None not in cell.values()
        assert bool(cell["documented"]) == (column not in ("scratch_epochs_to_target", "start_epochs_to_target"))
        if row != "cifar10":
            assert (cell["measured"], cell["verdict"]) == ("", "not measured at this scale")
            assert (cell["note"], cell["measured_on"]) == (tables.NO_ROW, "")
        else:
            assert cell["measured"] != ""
            assert (cell["measured_on"], cell["protocol"], cell["seeds"]) == ("some images", "tuned", 2)
    assert [cells[row, "epochs_to_target_change"]["documented"] for row in ("cifar10", "cifar100", "imagenet")] == [
        "-56.25", "-62.5", "-46.6667",
    ]  # fmt: skip
    assert cells["imagenet", "flops_to_target_change"]["documented"] == "[-40, -15]"
    assert cells["imagenet", "dnm_plateau_at"]["documented"] == "no plateau"
    page = tables.cells_page("Convergence Speed Comparison", list(cells.values()))
    assert len(page.strip().splitlines()) == 2 + 2 + len(cells)
    assert "None" not in page


def test_cells_say_how_many_runs_stand_behind_them(tiny_row):
    runs = [(5, 10), (NEVER, 10), (6, 10)], [(2, 2), (2, 2), (2, 20)]
    cells = cells_of(tiny_row, *runs)
    dnm = cells["cifar10", "dnm_epochs_to_target"]
    assert (dnm["measured"], dnm["low"], dnm["unit"], dnm["verdict"]) == (7.0, "", "epochs", "")
    assert dnm["note"] == "2 of 3 seeds reached it; restricted mean, a lower bound, without an interval; median 6"
    baseline = cells["cifar10", "baseline_epochs_to_target"]
    assert (baseline["measured"], baseline["low"], baseline["note"]) == (2.0, 2.0, "3 of 3 seeds reached it; median 2")
    plateau = cells["cifar10", "baseline_plateau_at"]
    assert (plateau["measured"], plateau["low"]) == (2.0, "")
    assert plateau["note"].startswith("no plateau in 2 of 3 runs; mean of the others")
    assert plateau["note"].endswith("in a tenth of the run, 1 to 2 epochs")
    assert cells["cifar10", "dnm_plateau_at"]["note"].startswith("all 3 runs plateau;")
    assert cells["cifar10", "scratch_epochs_to_target"]["note"].startswith("control: dnm's final architecture")
    assert "GFLOP of dnm, a lower bound (2 of 3 runs reach it)" in cells["cifar10", "flops_to_target_change"]["note"]
    assert cells["cifar10", "target"]["note"].endswith("the documented target")
    other = cells_of(tiny_row, *runs, as_documented=False)["cifar10", "target"]
    assert (other["measured"], other["note"][:27]) == (88.9251, "validation accuracy; 97.72%")


def test_cells_of_runs_without_plateau_and_without_target(tiny_row):
    cells = cells_of(tiny_row, [(2, 2), (2, 2)], [(NEVER, 10), (NEVER, 10)])
    assert cells["cifar10", "dnm_plateau_at"]["measured"] == "no plateau"
    assert cells["cifar10", "dnm_plateau_at"]["note"].startswith("no plateau in 2 of 2 runs; a plateau:")
    assert "no median" in cells["cifar10", "baseline_epochs_to_target"]["note"]
    never = cells_of(tiny_row, [(NEVER, 10)] * 2, [(NEVER, 10)] * 2)
    for column in ("epochs_to_target_change", "flops_to_target_change"):
        cell = never["cifar10", column]
        assert (cell["measured"], cell["verdict"]) == ("", "not measured at this scale")
        assert cell["note"].startswith("no run of dnm or baseline reaches the target")
    assert "10 GFLOP of dnm, a lower bound (0 of 2 runs reach it)" in never["cifar10", "flops_to_target_change"]["note"]


# Target, the baseline's final accuracy, epochs to the target of the baseline and of dnm.
STATED = {"cifar10": (90, 92.1, 80, 35), "cifar100": (60, 68.4, 120, 45), "imagenet": (70, 76.2, 150, 80)}
COMMITTED = sorted(
    (path.parents[1].name, path.name.split(".")[0])
    for path in ROOT.glob("metrics/*/morphogenesis/*.curves.csv")
    if path.name.split(".")[0] in STATED
)


def lines_of(scale, row, kind):
    lines = []
    for stage in ("baseline", "morphogenesis"):
        with (ROOT / "metrics" / scale / stage / f"{row}.{kind}.csv").open(newline="") as stream:
            lines += csv.DictReader(stream)
    return lines


def interval(values):
    mean, half = statistics.fmean(values), stats.t.ppf(0.975, len(values) - 1)
    half *= statistics.stdev(values) / math.sqrt(len(values))
    return [mean, mean - half, mean + half]


def shown(cell):
    return [cell["measured"], cell["low"], cell["high"]]


def same(cell, values):
    return shown(cell) == pytest.approx(values, rel=5.1e-6, abs=1e-9)  # six digits are written


def test_the_embedded_curves_are_committed():
    assert {("embedded", row) for row in ("cifar10", "cifar100", "imagenet")} <= set(COMMITTED)


@pytest.mark.parametrize(("scale", "row"), COMMITTED)
def test_the_committed_curves(scale, row, tiny_row):
    settings = dataclasses.replace(tiny_row, documented_row=row)
    curves, trials = lines_of(scale, row, "curves"), lines_of(scale, row, "trials")
    figures = {}
    for trial in trials:
        figures.setdefault(trial["arm"], {})[int(trial["seed"])] = {"test_accuracy": float(trial["test_accuracy"])}
    result = convergence.row_convergence(
        convergence.curves_of(curves), settings, convergence.claims_of(DOCUMENT, row), figures
    )
    cells = {
        cell["column"]: cell
        for cell in convergence.table(DOCUMENT, {row: settings}, {row: result}, {row: "images"})
        if cell["row"] == row
    }

    # From here on, without the module.
    documented_target, documented_final, before, after = STATED[row]
    runs = {}
    for point in curves:
        run = runs.setdefault((point["arm"], int(point["seed"])), [])
        run.append((float(point["validation_accuracy"]), float(point["flops"]) / 1e9))
    seeds = sorted(seed for arm, seed in runs if arm == "baseline")
    last = [runs["baseline", seed][-1][0] for seed in seeds]
    wanted = statistics.fmean(last) * documented_target / documented_final
    assert cells["target"]["measured"] == pytest.approx(100 * wanted, rel=5.1e-6)

    ends = {}
    for key, run in runs.items():
        reached = [index for index, (accuracy, _) in enumerate(run) if accuracy >= wanted - 1e-11]
        index = reached[0] if reached else len(run) - 1
        ends[key] = bool(reached), index + 1, run[index][1]
    for arm in ("baseline", "dnm", "start", "scratch"):
        of_arm = [ends[arm, seed] for seed in seeds]
        epochs, num_reached = [epoch for _, epoch, _ in of_arm], sum(reached for reached, _, _ in of_arm)
        cell = cells[f"{arm}_epochs_to_target"]
        assert f"{num_reached} of {len(seeds)} seeds reached it" in cell["note"]
        if num_reached == len(seeds):
            assert same(cell, interval(epochs))
        else:
            assert cell["measured"] == pytest.approx(statistics.fmean(epochs), rel=5.1e-6)
            assert (cell["low"], cell["high"]) == ("", "")
            assert "a lower bound" in cell["note"]
        spent = result["arms"][arm]["gflop_to_target"]["mean"]
        assert spent == pytest.approx(statistics.fmean(gflop for _, _, gflop in of_arm))
    for arm in ("baseline", "dnm"):
        accuracies = [100 * figures[arm][seed]["test_accuracy"] for seed in seeds]
        assert same(cells[f"{arm}_final_accuracy"], interval(accuracies))
        stalls = []
        for seed in seeds:
            values = [accuracy for accuracy, _ in runs[arm, seed]]
            window = -(-len(values) // 10)
            for epoch in range(1, len(values) - window + 1):
                if max(values[: epoch + window]) - max(values[:epoch]) < 0.001 - 1e-11:
                    stalls.append(epoch)
                    break
        cell = cells[f"{arm}_plateau_at"]
        if len(stalls) == len(seeds):
            assert same(cell, interval(stalls))
        else:
            assert f"no plateau in {len(seeds) - len(stalls)} of {len(seeds)} runs" in cell["note"]
            assert (cell["low"], cell["high"]) == ("", "")
            assert cell["measured"] == (pytest.approx(statistics.fmean(stalls), rel=5.1e-6) if stalls else "no plateau")

    for place, column in ((1, "epochs_to_target_change"), (2, "flops_to_target_change")):
        changes, is_known = [], False
        for seed in seeds:
            dnm, baseline = ends["dnm", seed], ends["baseline", seed]
            new, old = dnm[place], baseline[place]
            if not (dnm[0] and baseline[0]):
                cut = min(end[place] for end in (dnm, baseline) if not end[0])
                new, old = min(new, cut), min(old, cut)
            is_known |= new != old or (dnm[0] and baseline[0])
            changes.append(100 * (new / old - 1))
        assert same(cells[column], interval(changes)) if is_known else shown(cells[column]) == ["", "", ""]
    assert float(cells["epochs_to_target_change"]["documented"]) == pytest.approx(
        100 * (after - before) / before, rel=5.1e-6
    )
