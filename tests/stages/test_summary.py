"""The few figures of a scale that diffs show, and the curves that `dvc plots` draws, from what stages leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages import outputs, tracking
from stages.settings import Row
from tests.stages.left_behind import ARMS, leave, leave_report, make_context


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory, tiny_row: Row, execution) -> Path:
    context = make_context(tmp_path_factory.mktemp("summary"), tiny_row, execution)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "log", lambda *arguments: None)
        for stage in ARMS:
            leave(context, stage, -0.123456 if stage == "morphogenesis" else 0.0)
        leave_report(context)
    return context.metrics


def test_a_row_in_seven_figures(metrics: Path) -> None:
    assert outputs.read_json(metrics / "summary.json") == {
        "strokes": {
            "baseline": 55.0,
            "dnm": 42.65,
            "improvement": -12.35,
            "interval": "[-12.35, -12.35]",
            "verdict": "contradicted",
            # 2000 of 3000 FLOPs and 80 of 100 parameters, and one more of each with the second seed.
            "training_time": -33.33,
            "parameters": -19.9,
        },
        "contest": {},
    }


def test_mean_curves_over_cost(metrics: Path) -> None:
    lines = outputs.read_csv(metrics / "curves.csv")
    assert list(lines[0]) == ["row", "arm", "gflop", "validation_accuracy"]
    assert list(dict.fromkeys(line["arm"] for line in lines)) == ["baseline", "start", "dnm", "scratch"]
    of_dnm = [line for line in lines if line["arm"] == "dnm"]
    assert {line["row"] for line in lines} == {"strokes"}
    # The seeds go from 20 to 60% and from 30 to 70%.
    assert [float(of_dnm[number]["validation_accuracy"]) for number in (0, -1)] == [25.0, 65.0]
