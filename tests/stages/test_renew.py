"""Records are carried over to other code where it gives the same bits, and not otherwise."""

from __future__ import annotations

import dataclasses

import pytest

from stages import cli, outputs, records, renew, spot_check
from stages.settings import Ablation
from tests.stages.conftest import commit

ARMS = ["baseline", "dnm", "scratch", "start"]


def renewed(context: cli.Context) -> None:
    renew.main(dataclasses.replace(context, row_name=""))


def change(context: cli.Context, file: str, old: str, new: str) -> None:
    path = context.root / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    commit(context.root)


def today(context: cli.Context) -> list[str]:
    return [state.job.arm for state in spot_check.states(context) if state.today]


def test_code_that_gives_the_same_bits(recorded: cli.Context, capsys: pytest.CaptureFixture) -> None:
    before = {state.job.arm: state.record for state in spot_check.states(recorded)}
    change(recorded, "stages/training.py", "from __future__", "# another line\nfrom __future__")
    assert today(recorded) == []
    renewed(recorded)
    assert today(recorded) == ARMS
    assert (
        "renew tiny strokes/dnm: dnm-0 gives the same bits; 1 records are of today's code now"
        in capsys.readouterr().out
    )
    after = {state.job.arm: state.record for state in spot_check.states(recorded)}
    for arm in ARMS:
        assert not spot_check.different(before[arm]["result"], after[arm]["result"]) or arm
        (said,) = after[arm]["renewed"]
        assert (said["before"], said["by"]) == (before[arm]["fingerprint"], f"{arm}-0")
        assert after[arm]["result"]["fingerprint"] == after[arm]["fingerprint"] != before[arm]["fingerprint"]
        assert after[arm]["result"]["figures"] == before[arm]["result"]["figures"]
    renewed(recorded)
    assert capsys.readouterr().out == ""
    change(recorded, "stages/training.py", "# another line", "# one more line")
    renewed(recorded)
    assert [len(state.record["renewed"]) for state in spot_check.states(recorded)] == [2, 2, 2, 2]


def test_records_that_the_code_no_longer_gives(recorded: cli.Context, capsys: pytest.CaptureFixture) -> None:
    file = records.path(recorded.root, "tiny", "strokes", "baseline", 0)
    record = outputs.read_json(file)
    record["result"]["figures"]["test_loss"] += 1e-15
    outputs.write_json(file, record)
    change(recorded, "stages/training.py", "from __future__", "# another line\nfrom __future__")
    with pytest.raises(SystemExit) as ended:
        renewed(recorded)
    assert ended.value.code == 1
    assert "baseline: baseline-0 gives other figures; nothing was renewed" in capsys.readouterr().err
    assert today(recorded) == ["dnm", "scratch", "start"]
    assert outputs.read_json(file) == record


def test_records_of_other_settings_stay_as_they_are(recorded: cli.Context, capsys: pytest.CaptureFixture) -> None:
    row = recorded.row
    other = dataclasses.replace(row, training=dataclasses.replace(row.training, weight_decay=0.06))
    settings = dataclasses.replace(recorded.settings, image_classification={"strokes": other})
    recorded = dataclasses.replace(recorded, settings=settings)
    before = [state.record for state in spot_check.states(recorded)]
    renewed(recorded)
    assert [state.record for state in spot_check.states(recorded)] == before
    assert capsys.readouterr().out.count("1 of 1 records are of other settings or data") == len(ARMS)


def test_records_of_code_that_was_never_committed(recorded: cli.Context, capsys: pytest.CaptureFixture) -> None:
    file = records.path(recorded.root, "tiny", "strokes", "baseline", 0)
    record = outputs.read_json(file)
    record["fingerprint"] = record["result"]["fingerprint"] = "of nobody knows what"
    outputs.write_json(file, record)
    renewed(recorded)
    assert "baseline: 1 of 1 records are of other settings or data, or of code that was never committed" in (
        capsys.readouterr().out
    )
    assert outputs.read_json(file) == record


def test_records_of_code_that_did_not_note_branches(recorded: cli.Context, capsys: pytest.CaptureFixture) -> None:
    file = records.path(recorded.root, "tiny", "strokes", "dnm", 0)
    record = outputs.read_json(file)
    del record["result"]["branches"]
    record["result"]["events"] = [{"entries": ["an edit"]}]
    outputs.write_json(file, {**record, "fingerprint": "of other code"})
    parts = Ablation(row="strokes", seeds=2, prune_at=0.9, prune_tolerance=0.01)
    recorded = dataclasses.replace(recorded, settings=dataclasses.replace(recorded.settings, ablation={"parts": parts}))
    renewed(recorded)
    assert "renew tiny strokes/dnm: 1 of 1 records are of other settings or data" in capsys.readouterr().out
    assert {state.job.arm: state.today for state in spot_check.states(recorded)} == {"baseline": True, "dnm": False}


def test_a_scale_without_records(recorded: cli.Context, execution) -> None:
    settings = dataclasses.replace(recorded.settings, execution=execution)
    with pytest.raises(cli.UserError, match="keep_records is false, so there are no records"):
        renewed(dataclasses.replace(recorded, settings=settings))
