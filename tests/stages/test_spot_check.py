"""A record is believed because running its trial again gives it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from stages import arms, cli, documented, outputs, records, spot_check, tables


def test_records_of_today(recorded: cli.Context, capsys: pytest.CaptureFixture) -> None:
    found = spot_check.states(recorded)
    assert [(state.job.arm, state.today) for state in found] == [
        ("baseline", True), ("dnm", True), ("scratch", True), ("start", True)
    ]  # fmt: skip
    spot_check.main(dataclasses.replace(recorded, row_name=""))
    said = capsys.readouterr().out
    # One of the cheaper half.
    assert said.endswith("-0: the same bits\n")
    assert "dnm" not in said


def change_a_digit(recorded: cli.Context, arm: str) -> None:
    file = records.path(recorded.root, "tiny", "strokes", arm, 0)
    record = outputs.read_json(file)
    record["result"]["figures"]["test_loss"] += 1e-15
    outputs.write_json(file, record)


def test_a_forged_digit_is_found(recorded: cli.Context, capsys: pytest.CaptureFixture) -> None:
    for arm in ("baseline", "dnm", "scratch", "start"):
        change_a_digit(recorded, arm)
    with pytest.raises(SystemExit) as ended:
        spot_check.main(dataclasses.replace(recorded, row_name=""))
    assert ended.value.code == 1
    assert "FAILED, other figures" in capsys.readouterr().out


@pytest.mark.parametrize(
    "file, left",
    [("dnm/operators/divide.py", ["baseline", "scratch", "start"]), ("stages/training.py", [])],
)
def test_records_of_other_code_are_told(recorded: cli.Context, capsys, file: str, left: list[str]) -> None:
    assert spot_check.stale(recorded) == {}
    with (recorded.root / file).open("a", encoding="utf-8") as stream:
        stream.write("# another line\n")
    assert [state.job.arm for state in spot_check.states(recorded) if state.today] == left
    old = [f"{arm}-0" for arm in ("baseline", "dnm", "scratch", "start") if arm not in left]
    assert spot_check.stale(recorded) == {"strokes": old}
    if left:
        spot_check.main(dataclasses.replace(recorded, row_name=""))
        assert "1 of 4 records are of other settings, data or code: dnm-0\n" in capsys.readouterr().out
    else:
        with pytest.raises(SystemExit):
            spot_check.main(dataclasses.replace(recorded, row_name=""))
        assert "FAILED, no record is of today's settings, data and code; run the scale again" in capsys.readouterr().err


def test_the_table_marks_stale_records() -> None:
    document = documented.load()
    cells = tables.image_classification(document, {}, {}, {}, {})
    page = tables.image_classification_page(document, cells, {}, {"strokes": ["dnm-0", "dnm-1"]})
    assert "## Stale\n\nMeasured with other settings, data or code than today's:\n\n- strokes: dnm-0, dnm-1\n" in page
    assert "Stale" not in tables.image_classification_page(document, cells, {}, {})


def test_stale_records_are_told_and_made_anew(recorded: cli.Context, capsys: pytest.CaptureFixture) -> None:
    jobs = [arms.job(recorded, arm, 0) for arm in ("baseline", "dnm")]
    before = arms.run(recorded, jobs, "again")
    assert "again: 2 of 2 trials are finished already\n" in capsys.readouterr().err
    with (recorded.root / "dnm" / "morphogenesis.py").open("a", encoding="utf-8") as stream:
        stream.write("# another line\n")
    after = arms.run(recorded, jobs, "again")
    said = capsys.readouterr().err
    assert "again: 1 of 2 trials are finished already\n" in said
    assert "again: of other settings, data or code, made anew: dnm-0\n" in said
    assert [result["fingerprint"] for result in before[:1]] == [result["fingerprint"] for result in after[:1]]
    assert before[1]["fingerprint"] != after[1]["fingerprint"] and before[1]["figures"] == after[1]["figures"]
    assert all(state.today for state in spot_check.states(recorded))


def test_a_scale_without_records(recorded: cli.Context, execution) -> None:
    settings = dataclasses.replace(recorded.settings, execution=execution)
    with pytest.raises(cli.UserError, match=r"keep_records is false, .* `make verify`"):
        spot_check.main(dataclasses.replace(recorded, settings=settings))


def test_what_an_ended_stage_left_is_used_and_then_gone(
    recorded: cli.Context, execution, monkeypatch: pytest.MonkeyPatch, make_job: Callable
) -> None:
    """Without records, finished trials lie under runs/ until the stage has written its results."""
    recorded = dataclasses.replace(recorded, settings=dataclasses.replace(recorded.settings, execution=execution))
    jobs = [arms.job(recorded, "baseline", 0)]
    first = arms.run(recorded, jobs, "first")
    left = sorted(path.name for path in records.scratch(recorded.root, first[0]["fingerprint"]).iterdir())
    assert left == ["result.json"]
    monkeypatch.setattr(arms.trials, "run", lambda task, todo, **options: [None for _ in todo])
    assert arms.run(recorded, jobs, "again") == first
    arms.write(recorded, "baseline", first, 0.0)
    assert not records.scratch(recorded.root, first[0]["fingerprint"]).exists()
