"""Events: forks are of the run itself, kinds are told apart, and the table comes from the lines."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from stages import cli, documented, events, events_statistics, events_table, events_trial, trial
from stages.settings import Events, Execution, Row, Settings
from stages.trial import Job

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def job(tiny_row: Row, make_job: Any) -> events_trial.Job:
    dnm = dataclasses.replace(
        tiny_row.dnm, operators=("Divide", "AddResidual", "AddAttention"), enable_aggressive_growth=True,
        max_parameters=4.0, max_training_flops=4.0, prune_at=0.8, prune_tolerance=1.0,
    )  # fmt: skip
    plain: Job = make_job("full", 0, settings=dataclasses.replace(tiny_row, dnm=dnm), grown=True)
    return events_trial.Job(
        **{item.name: getattr(plain, item.name) for item in dataclasses.fields(plain)}, fork_steps=4
    )


def test_forks_are_of_the_run_and_leave_it_alone(job: events_trial.Job) -> None:
    plain = Job(**{item.name: getattr(job, item.name) for item in dataclasses.fields(Job)})
    alone, found = trial.run(plain), events_trial.run(job)
    edited = [event for event in alone["events"] if event["entries"]]
    assert [event["status"] for event in found["events"]] == [event["status"] for event in edited]
    positions = [event["position"] for event in edited]
    assert [event["position"] for event in found["events"]] == pytest.approx(positions, rel=1e-3)
    operators = {kind: operator for operator, kind in events_trial.KINDS.items()}
    for event, wanted in zip(found["events"], edited, strict=True):
        for kind, of in event["kinds"].items():
            assert of["edits"] == sum(entry["operator"] == operators[kind] for entry in wanted["entries"])
            assert 0 <= of["apart"] <= of["edits"]
        assert {operators[kind] for kind in event["kinds"]} == {entry["operator"] for entry in wanted["entries"]}
    kinds = [kind for event in found["events"] for kind in event["kinds"]]
    assert {"division", "residual", "pruning"} <= set(kinds)
    sizes = {kind: of["parameters"] for event in found["events"] for kind, of in event["kinds"].items() if of["apart"]}
    assert sizes["division"] > 0 and sizes["residual"] > 0 and sizes["pruning"] < 0
    again = events_trial.run(job)
    assert again["events"] == found["events"]


def test_every_operator_takes_part(tiny_row: Row, execution: Execution, tmp_path: Path) -> None:
    row = dataclasses.replace(tiny_row, dnm=dataclasses.replace(tiny_row.dnm, operators=("Divide",)))
    own = Events(row="strokes", seeds=2, steps=4, prune_at=0.8, prune_tolerance=1.0)
    settings = Settings(
        scale="tiny", root=".", params_file="params.yaml", execution=execution, image_classification={"strokes": row},
        contest={}, ranking={}, ablation={}, robustness={}, events={"gains": own}, nas={},
    )  # fmt: skip
    found = [job.settings.dnm for job in events.jobs(cli.Context(settings, tmp_path, "strokes", "gains"))]
    assert [set(dnm.operators) for dnm in found] == [{"Divide", "AddResidual", "AddAttention"}] * 2
    assert {(dnm.prune_at, dnm.prune_tolerance) for dnm in found} == {(0.8, 1.0)}


def line(seed: int, kind: str, gain: float, position: float = 0.1, **changes: str) -> dict[str, str]:
    return {
        "seed": str(seed), "event": "0", "position": str(position), "status": "kept", "kind": kind, "edits": "2",
        "apart": "2", "gain": str(gain), "parameters": "0.1", "flops": "0.2", **changes,
    }  # fmt: skip


CLAIMED = {"division": 3.2, "residual": 2.1, "attention": 1.8, "pruning": 0.8}


def test_statistics_by_hand() -> None:
    lines = [
        line(0, "division", 2.0), line(0, "division", 4.0, 0.3), line(1, "division", 5.0), line(2, "division", 4.0),
        line(0, "residual", -1.0, status="taken back"), line(1, "residual", -2.0), line(2, "residual", -1.5),
        line(1, "attention", 1.0),
    ]  # fmt: skip
    found = events_statistics.events_statistics(lines, [0, 1, 2], CLAIMED, as_documented=True)["kinds"]
    division = found["division"]
    # The mean over a seed's events first, then over seeds.
    test: Any = stats.ttest_1samp([3.0, 5.0, 4.0], 0.0)
    assert (division["gain"]["mean"], division["gain"]["p_value"]) == pytest.approx((4.0, test.pvalue))
    assert division["events"]["mean"] == pytest.approx(4 / 3) and division["edits"]["mean"] == pytest.approx(8 / 3)
    assert division["position"] == pytest.approx({"mean": 0.15, "first": 0.1, "last": 0.3})
    assert division["verdict"] == "reproduced" and found["residual"]["verdict"] == "contradicted"
    assert (found["residual"]["taken_back"], found["residual"]["all_events"]) == (1, 3)
    # On one seed alone there is no interval, and what never happened has neither gain nor time.
    assert found["attention"]["gain"] is None and found["attention"]["events"]["mean"] == pytest.approx(1 / 3)
    assert found["pruning"]["gain"] is None and found["pruning"]["position"] is None
    assert found["pruning"]["events"]["mean"] == 0.0
    assert division["gain"]["holm_p_value"] == pytest.approx(min(1.0, 2 * test.pvalue), rel=1e-6) or (
        division["gain"]["p_value"] > found["residual"]["gain"]["p_value"]
    )


def test_the_table_has_the_documents_rows(tiny_row: Row) -> None:
    document = documented.load()
    table = document.tables["events"]
    wanted = [(row, column) for row in table.rows for column in table.columns]
    lines = [line(seed, kind, 1.0 + seed) for seed in (0, 1, 2) for kind in ("division", "residual", "attention")]
    found = {"gains": {
        "row": "strokes", "steps": 40,
        **events_statistics.events_statistics(lines, [0, 1, 2], CLAIMED, as_documented=False),
    }}  # fmt: skip
    for entries in (found, {}):
        cells = events_table.cells(document, {"strokes": tiny_row}, entries, {"strokes": "strokes"})
        assert [(cell["row"], cell["column"]) for cell in cells] == wanted
        # No cell is empty without a reason.
        assert all(cell["measured"] != "" or (cell["note"] and cell["verdict"]) for cell in cells)
        assert (cells[0]["measured"] == "") == (not entries)
    cells = events_table.cells(document, {"strokes": tiny_row}, found, {"strokes": "strokes"})
    assert cells[0]["note"].startswith("outside of the document's range") and cells[3]["note"].startswith("inside")
    page = events_table.page(cells, found)
    assert "| division | gain | 3.2 | +2.00 [-0.48, +4.48] |" in page


def test_lines_and_means() -> None:
    of = {"edits": 2, "apart": 1, "gain": 1.0, "parameters": 0.1, "flops": 0.2}
    results = [
        {"seed": seed, "events": [{"position": 0.2, "status": "kept", "kinds": {"division": {**of, "gain": gain}}}]}
        for seed, gain in ((0, 1.0), (1, 4.0))
    ]
    lines = events.lines(results)
    assert [(item["seed"], item["event"], item["kind"], item["gain"]) for item in lines] == [
        (0, 0, "division", 1.0), (1, 0, "division", 4.0)
    ]  # fmt: skip
    assert set(lines[0]) == set(events.COLUMNS)
    assert events.means(lines) == {"division": {"gain": 2.5, "position": 0.2, "edits": 2.0}}


def test_the_committed_table_comes_from_the_lines() -> None:
    """With csv and numpy alone, from what is committed."""
    metrics = ROOT / "metrics" / "embedded"
    with (metrics / "events" / "gains.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    with (metrics / "tables" / "events.csv").open(newline="") as stream:
        cells = {(cell["row"], cell["column"]): cell for cell in csv.DictReader(stream)}
    # All four kinds happen.
    assert {item["kind"] for item in lines} == {"division", "residual", "attention", "pruning"}
    for kind in ("division", "residual", "attention", "pruning"):
        seeds = {item["seed"] for item in lines if item["kind"] == kind}
        gains = [np.mean([float(i["gain"]) for i in lines if (i["kind"], i["seed"]) == (kind, seed)]) for seed in seeds]
        if len(seeds) > 1:
            assert float(cells[kind, "gain"]["measured"]) == pytest.approx(np.mean(gains), rel=1e-5, abs=1e-9)
        number = sum(item["kind"] == kind for item in lines) / int(cells[kind, "frequency"]["seeds"])
        assert float(cells[kind, "frequency"]["measured"]) == pytest.approx(number, rel=1e-5)
