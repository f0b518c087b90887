"""Records of what is held on a row, or has data of its own, are looked at as those of rows are."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stages import (
    cli,
    detection_data,
    few_shot_data,
    outputs,
    prepare_language,
    renew,
    report,
    spot_check,
    statistics,
    tables,
    tracking,
    trials,
)
from stages.documented import load as load_document
from stages.settings import (
    OWN_DATA,
    SECTIONS,
    Ablation,
    Contest,
    Events,
    Execution,
    Language,
    Nas,
    Ranking,
    Robustness,
    Row,
    Settings,
    Transfer,
    row_of,
)
from stages.settings import load as load_settings
from tests.stages import tiny_detection, tiny_few_shot
from tests.stages.conftest import commit, git

ROOT = Path(__file__).resolve().parents[2]
# By which section its records are told from others'.
ENTRIES = {
    "contest": Contest(row="strokes", pflop=2e-7, seeds=2, factors=(1.5,)),
    "ranking": Ranking(row="strokes", seeds=2, moments=(2,), steps=2, continuations=2),
    "ablation": Ablation(row="strokes", seeds=2, prune_at=0.8, prune_tolerance=0.1),
    "robustness": Robustness(row="strokes", seeds=2, images=10),
    "events": Events(row="strokes", seeds=2, steps=2, prune_at=0.8, prune_tolerance=0.1),
    "nas": Nas(row="strokes", seeds=2, cost=3.0, rungs=1, reduction=2, longest=0.67, random=True),
    "transfer": Transfer(documented_row="medical_to_natural", source="strokes", target="others", seeds=2, epochs=1),
}


def small(entry: Language) -> Language:
    """A task whose trials take a second."""
    return dataclasses.replace(
        entry,
        seeds=2,
        data=dataclasses.replace(entry.data, train=100, test=40),
        training=dataclasses.replace(entry.training, batch_size=32, epochs=2),
    )


def in_process(
    task: Callable[[Any], Any],
    jobs: Sequence[Any],
    *,
    title: str,
    finished: Callable[[Any, Any], None] = lambda job, result: None,
    here: bool = False,
) -> list[Any]:
    """As `trials.run`, one after the other in this process: others take longer to start than these trials to run."""
    results = []
    for job in jobs:
        print(f"{title}: 1 at a time", file=sys.stderr)
        results.append(task(job))
        finished(job, results[-1])
    return results


@pytest.fixture
def measured(
    tmp_path: Path, tiny_row: Row, tiny_data: Path, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> cli.Context:
    """A scale that keeps records, where every stage with trials has run, on code of its own in a repository."""
    monkeypatch.setattr(trials, "run", in_process)
    monkeypatch.setattr(tracking, "log", lambda *arguments: None)
    for folder in ("dnm", "stages"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("__pycache__/\n/data/\n/runs/\n", encoding="utf-8")
    commit(tmp_path)
    task = small(load_settings(ROOT / "params.yaml").language["acceptability"])
    sections: dict[str, Any] = {name: {f"{name}_of": entry} for name, entry in ENTRIES.items()}
    sections |= {
        "few_shot": {"characters": tiny_few_shot.entry(tiny_row)},
        "detection": {"scenes": tiny_detection.entry(tiny_row)},
        "language": {"acceptability": task},
    }
    assert set(sections) == set(SECTIONS)
    settings = Settings(
        scale="tiny", root=".", params_file="params.yaml",
        image_classification={"strokes": tiny_row, "others": dataclasses.replace(tiny_row, documented_row="none")},
        execution=dataclasses.replace(execution, keep_records=True), **sections,
    )  # fmt: skip
    context = cli.Context(settings, tmp_path, "")
    for name in settings.image_classification:
        of_row = dataclasses.replace(context, row_name=name)
        of_row.data.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny_data, of_row.data)
        outputs.write_json(of_row.metrics / "prepare" / f"{name}.json", {"sha256": "of the data", "source": "drawn"})
    for name, prepare in (
        ("characters", few_shot_data), ("scenes", detection_data), ("acceptability", prepare_language)
    ):  # fmt: skip
        prepare.main(dataclasses.replace(context, row_name=name, entry=name))
    for stage in ("baseline", "morphogenesis"):
        for name in settings.image_classification:
            importlib.import_module(f"stages.{stage}").main(dataclasses.replace(context, row_name=name))
    run(context)
    return context


def run(context: cli.Context) -> None:
    for section in SECTIONS:
        for name, entry in getattr(context.settings, section).items():
            own = dataclasses.replace(context, row_name=row_of(section, name, entry), entry=name)
            importlib.import_module(f"stages.{section}").main(own)


def written(context: cli.Context) -> dict[str, bytes]:
    files = [file for section in SECTIONS for file in (context.metrics / section).iterdir()]
    return {str(file.relative_to(context.metrics)): file.read_bytes() for file in files}


def read(context: cli.Context, table: str) -> list[dict[str, str]]:
    return outputs.read_csv(context.metrics / "tables" / f"{table}.csv")


def notes(context: cli.Context, table: str) -> set[str]:
    return {line["note"] for line in read(context, table) if line["verdict"] == "not measured at this scale"}


def test_records_of_every_section(measured: cli.Context, capsys: pytest.CaptureFixture) -> None:
    files = {str(file.relative_to(measured.root / "records" / "tiny").with_suffix("")) for file in
             (measured.root / "records").rglob("*.json")}  # fmt: skip
    found = {of.row_name: spot_check.states(of) for of in spot_check.contexts(measured)}
    assert set(found) == {"strokes", "others", "characters", "scenes", "acceptability"}
    assert {f"{state.folder}/{state.job.arm}-{state.job.seed}" for of in found.values() for state in of} == files
    assert {file.partition("/")[0] for file in files} == {
        "strokes", "others", "characters", "scenes", "acceptability",
        *(f"{section}_of" for section in SECTIONS if section not in OWN_DATA),
    }  # fmt: skip
    assert [state.name for of in found.values() for state in of if not state.today] == []
    assert not any(spot_check.stale(measured).values())
    # The shortest trial of each section runs again through what it ran through.
    capsys.readouterr()
    for of in found.values():
        for folder in {state.folder for state in of}:
            state = min((state for state in of if state.folder == folder), key=spot_check.cost)
            assert spot_check.different(state.record["result"], spot_check.run(state, "again")) == [], folder
    spot_check.main(measured)
    said = capsys.readouterr().out
    assert said.count(": the same bits\n") == len(found)

    # A stage writes the same from records as from trials.
    before = written(measured)
    for section in SECTIONS:
        shutil.rmtree(measured.metrics / section)
    run(measured)
    said = capsys.readouterr().err
    assert "finished already" in said and "1 at a time" not in said
    after = written(measured)
    assert [name for name in before if before[name] != after[name]] == [] and before.keys() == after.keys()

    # Code that only some of them run through.
    with (measured.root / "stages" / "few_shot_trial.py").open("a", encoding="utf-8") as stream:
        stream.write("# another line\n")
    commit(measured.root)
    stale = spot_check.stale(measured)
    assert [name for name, trials in stale.items() if trials] == ["characters"]
    assert len(stale["characters"]) == len(found["characters"])
    page = tables.index(load_document(), measured.root, stale)
    assert "## Stale" in page and f"- characters: {', '.join(stale['characters'])}\n" in page
    assert "Stale" not in tables.index(load_document(), measured.root, {"strokes": []})
    renew.main(measured)
    assert "renew tiny characters/dnm: dnm-" in capsys.readouterr().out
    assert not any(spot_check.stale(measured).values())

    # What has not run yet is said to be so in the tables of all that has.
    shutil.rmtree(measured.metrics / "robustness")
    statistics.main(measured)
    report.main(measured)
    assert {name: notes(measured, name) for name in ("robustness", "memory", "language", "transfer")} == {
        "robustness": {"robustness has not been measured on any row at this scale"},
        "memory": {"no data set of this row has been measured at this scale"},
        "language": {"no task of this row has been measured at this scale"},
        "transfer": {
            "no data set of stl10 has been measured at this scale",
            "no data set of imagenet and cifar100 has been measured at this scale",
        },
    }
    for name in ("image_classification", "nas", "events", "few_shot", "ablation_theories", "transfer"):
        assert any(line["measured"] for line in read(measured, name)), name
    without = dataclasses.replace(measured, settings=dataclasses.replace(
        measured.settings, execution=dataclasses.replace(measured.settings.execution, keep_records=False)
    ))  # fmt: skip
    for stage, missing in ((statistics, "robustness"), (report, "efficiency")):
        with pytest.raises(FileNotFoundError, match=missing):
            stage.main(without)

    # An ended stage has not said yet which shots can be measured.
    (measured.metrics / "few_shot" / "characters.json").unlink()
    assert spot_check.states(dataclasses.replace(measured, row_name="characters")) == []
