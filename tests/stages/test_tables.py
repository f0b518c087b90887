"""The committed tables against the raw per-seed figures, computed here without the pipeline's code for it."""

import csv
import json
import math
import statistics
from pathlib import Path

import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
SCALES = sorted(path.parent.parent.name for path in ROOT.glob("metrics/*/tables/image_classification.csv"))


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def trials(scale, figure):
    """Values by arm, in the order of the seeds."""
    found = {}
    for stage in ("baseline", "morphogenesis"):
        for row in rows_of(ROOT / "metrics" / scale / stage / "cifar10.trials.csv"):
            found.setdefault(row["arm"], {})[int(row["seed"])] = float(row[figure])
    return {arm: [values[seed] for seed in sorted(values)] for arm, values in found.items()}


def table(scale, name="image_classification"):
    return {(row["row"], row["column"]): row for row in rows_of(ROOT / f"metrics/{scale}/tables/{name}.csv")}


def close(text, value):
    return math.isclose(float(text), value, rel_tol=5.1e-6, abs_tol=1e-9)  # six digits are written


def test_the_embedded_tables_are_committed():
    assert "embedded" in SCALES


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("arm", ["baseline", "dnm", "start", "scratch"])
def test_level_of_each_arm(scale, arm):
    values = [100 * value for value in trials(scale, "test_accuracy")[arm]]
    cell = table(scale)["cifar10", arm]
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    assert close(cell["measured"], statistics.fmean(values))
    assert close(cell["low"], statistics.fmean(values) - half)
    assert close(cell["high"], statistics.fmean(values) + half)
    assert int(cell["seeds"]) == len(values)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("column", "figure"),
    [("improvement", "test_accuracy"), ("training_time", "training_flops"), ("parameters", "parameters")],
)
def test_claims(scale, column, figure):
    values = trials(scale, figure)
    if column == "improvement":
        differences = [100 * (a - b) for a, b in zip(values["dnm"], values["baseline"], strict=True)]
    else:
        differences = [100 * (a / b - 1) for a, b in zip(values["dnm"], values["baseline"], strict=True)]
    mean, half = statistics.fmean(differences), stats.t.ppf(0.975, len(differences) - 1)
    half *= statistics.stdev(differences) / math.sqrt(len(differences))
    cell = table(scale)["cifar10", column]
    assert close(cell["measured"], mean)
    assert close(cell["low"], mean - half)
    assert close(cell["high"], mean + half)

    # The words as evaluation.md defines them, for data or a protocol that is not the document's.
    sign = math.copysign(1, float(cell["documented"]))
    near, far = sorted((sign * (mean - half), sign * (mean + half)))
    expected = "direction only" if near > 0 else "contradicted" if far < 0 else "not reproduced"
    assert cell["verdict"] == expected


@pytest.mark.parametrize("scale", SCALES)
def test_runs_and_confidence(scale):
    accuracy = {arm: [100 * value for value in values] for arm, values in trials(scale, "test_accuracy").items()}
    runs = table(scale, "runs")
    for column, value in {
        "mean": statistics.fmean(accuracy["dnm"]),
        "std": statistics.stdev(accuracy["dnm"]),
        "min": min(accuracy["dnm"]),
        "max": max(accuracy["dnm"]),
        "runs": len(accuracy["dnm"]),
    }.items():
        assert close(runs["cifar10", column]["measured"], value)
    confidence = table(scale, "confidence")
    assert close(
        confidence["cifar10", "p_value"]["measured"], stats.ttest_rel(accuracy["dnm"], accuracy["baseline"]).pvalue
    )


@pytest.mark.parametrize("scale", SCALES)
def test_every_row_of_the_document_is_there_and_no_cell_is_empty_without_a_reason(scale):
    cells = table(scale)
    assert {row for row, _ in cells} == {"cifar10", "cifar100", "imagenet", "fashion_mnist", "stl10"}
    for cell in cells.values():
        assert cell["measured"] or (cell["verdict"] == "not measured at this scale" and cell["note"])


@pytest.mark.parametrize("scale", SCALES)
def test_the_controls_are_as_defined(scale):
    flops, parameters = trials(scale, "training_flops"), trials(scale, "parameters")
    for arm in ("start", "scratch"):
        for spent, allowed in zip(flops[arm], flops["dnm"], strict=True):
            assert 0.98 * allowed <= spent <= allowed
    assert parameters["scratch"] == parameters["dnm"]
    assert len(set(parameters["start"])) == 1
    assert all(grown > parameters["start"][0] for grown in parameters["dnm"])


def test_a_changed_raw_figure_changes_the_table():
    from stages import tables
    from stages.documented import load
    from stages.settings import load as load_settings
    from stages.statistics import row_statistics

    rows = {"cifar10": load_settings(ROOT / "params.yaml").image_classification["cifar10"]}
    documented = load()
    claimed = {"improvement": 5.1, "training_time": -25.0, "parameters": 15.0}

    def cells(extra):
        figures = ("test_accuracy", "parameters", "training_flops", "epochs", "edits")
        raw = {}
        for figure in figures:
            for arm, values in trials("embedded", figure).items():
                for seed, value in enumerate(values):
                    raw.setdefault(arm, {}).setdefault(seed, {})[figure] = value
        raw["dnm"][0]["test_accuracy"] += extra
        found = {"cifar10": row_statistics(raw, rows["cifar10"], claimed)}
        return tables.image_classification(documented, rows, found, {"cifar10": "generated strokes"}, searches)

    searches = json.loads((ROOT / "metrics" / "embedded" / "statistics" / "nas.json").read_text(encoding="utf-8"))
    searches = {name: found for name, found in searches.items() if found["row"] == "cifar10"}
    committed = table("embedded")
    for cell in (cell for cell in cells(0.0) if cell["row"] == "cifar10"):
        assert str(cell["measured"]) == committed[cell["row"], cell["column"]]["measured"]
    changed = {(a["row"], a["column"]) for a, b in zip(cells(0.0), cells(0.01), strict=True) if a != b}
    assert changed == {("cifar10", "dnm"), ("cifar10", "improvement")}


def test_the_page_of_verdicts_has_every_verdict_once():
    folder = ROOT / "metrics" / "embedded" / "tables"
    # Two tables say others' claims again, and the search's is ours.
    others = {"confidence", "runs", "nas", "verdicts"}
    claims = {}
    for file in folder.glob("*.csv"):
        for row in rows_of(file) if file.stem not in others else []:
            if row.get("verdict") and row["documented"]:
                claims[file.stem, row["row"], row["column"]] = row["measured"], row["verdict"]
    listed = rows_of(folder / "verdicts.csv")
    assert len(listed) == len(claims)
    assert {(r["table"], r["row"], r["column"]): (r["measured"], r["verdict"]) for r in listed} == claims
    page = (folder / "verdicts.md").read_text(encoding="utf-8")
    said = [verdict for _, verdict in claims.values()]
    for verdict in ("reproduced", "direction only", "not reproduced", "contradicted", "not measured at this scale"):
        assert f"\n| {verdict} | {said.count(verdict)} |\n" in page
