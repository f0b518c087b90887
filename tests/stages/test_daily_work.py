"""What one does every day with DVC: experiments, their diffs, curves. In a copy of the pipeline with one small row."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.stages import small_pipeline
from tests.stages.small_pipeline import ROOT

SETTING = "image_classification.cifar10.dnm.enable_aggressive_growth"


def test_metrics_are_the_summary_alone() -> None:
    """What else is kept in git stands under `plots:`, or `dvc exp show` would have hundreds of columns."""
    stages = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
    metrics = [next(iter(entry)) for stage in stages.values() for entry in stage.get("metrics", [])]
    assert metrics == ["metrics/${scale}/summary.json"]


class Copy:
    """A copy of the pipeline, to run commands in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = small_pipeline.environment()

    def run(self, *command: str) -> str:
        ended = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def git(self, *arguments: str) -> str:
        return self.run("git", "-c", "user.name=me", "-c", "user.email=me@localhost", *arguments)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """A pipeline that has run and is committed, with an experiment, `gentle`, that ran elsewhere."""
    folder = tmp_path_factory.mktemp("daily work") / "clone"
    small_pipeline.make(folder)
    copy = Copy(folder)
    copy.dvc("repro", "-q")
    copy.git("add", "-A")
    copy.git("commit", "-qm", "results")
    copy.dvc("exp", "run", "-q", "--temp", "-n", "gentle", "-S", f"params.yaml:{SETTING}=false")
    yield copy
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.nightly
def test_an_experiment_elsewhere_leaves_the_tree_alone_and_its_runs_here(copy: Copy) -> None:
    assert copy.git("status", "--porcelain") == ""
    with sqlite3.connect(copy.folder / "mlflow.db") as store:
        assert store.execute("select distinct lifecycle_stage from runs").fetchall() == [("active",)]
        of_experiment = "select run_uuid from tags where key = 'dnm.dvc_experiment' and value = 'gentle'"
        named = [
            {name for (name,) in store.execute(f"select name from runs where run_uuid {among} ({of_experiment})")}
            for among in ("not in", "in")
        ]
        row = store.execute(
            "select runs.name from runs join tags using (run_uuid) where tags.key = 'dnm.stage' and runs.name like "
            "'cifar10 %' and tags.value in ('baseline', 'morphogenesis', 'report')"
        ).fetchall()
    committed, changed = named
    ending = ", enable_aggressive_growth=false"
    # What ran stands beside the same run of the committed settings.
    assert changed <= {name + ending for name in committed}
    of_both = [f"cifar10 {arm} seed {seed}" for arm in ("start", "dnm", "scratch") for seed in (0, 1)]
    of_both += ["cifar10 morphogenesis", "cifar10 verdict"]
    # The baseline did not run again, nor did the other row.
    of_one = ["cifar10 baseline", "cifar10 baseline seed 0", "cifar10 baseline seed 1"]
    assert sorted(name for (name,) in row) == sorted([*of_both, *(name + ending for name in of_both), *of_one])
    assert "medical morphogenesis" in committed and not any(name.startswith("medical") for name in changed)
    told = copy.run(sys.executable, "-m", "stages.sync")
    assert re.fullmatch(r"sync: 0 logged, \d+ were there already, 0 failed\n", told), told


@pytest.mark.nightly
def test_experiments_are_shown_with_the_columns_that_matter(copy: Copy) -> None:
    shown = copy.dvc("exp", "show", "--only-changed", "--csv", "--drop", "(data|dnm|metrics|params|stages)[^:]*$")
    lines = list(csv.DictReader(io.StringIO(shown)))
    columns = [name for name in lines[0] if name not in ("Experiment", "rev", "typ", "Created", "parent")]
    assert columns[-1] == SETTING
    names = {name.removeprefix("cifar10.").removeprefix("contest.small.") for name in columns[:-1]}
    assert names <= {"best fixed", "dnm", "improvement", "interval", "parameters", "regret", "training_time", "verdict"}
    assert [line[SETTING] for line in lines if line["Experiment"] == "gentle"] == ["False"]


@pytest.mark.nightly
def test_diffs_of_metrics_are_short(copy: Copy) -> None:
    diff = json.loads(copy.dvc("metrics", "diff", "HEAD", "gentle", "--json"))
    (changes,) = diff.values()
    assert "cifar10.dnm" in changes and "cifar10.parameters" in changes
    assert len(changes) <= 7
    for change in changes.values():
        assert isinstance(change["new"], str) or round(change["new"], 2) == change["new"]


@pytest.mark.nightly
def test_curves_of_two_revisions_are_drawn_over_cost(copy: Copy) -> None:
    curves = "metrics/embedded/curves.csv"
    found = json.loads(copy.dvc("plots", "diff", "HEAD", "gentle", "--targets", curves, "--json"))
    assert found.get("errors", []) == []
    ((plot,),) = found["data"].values()
    encoding, values = plot["content"]["encoding"], plot["content"]["data"]["values"]
    assert (encoding["x"]["field"], encoding["y"]["field"]) == ("gflop", "validation_accuracy")
    assert {(line["row"], line["arm"], line["rev"]) for line in values} == {
        ("cifar10", arm, rev) for arm in ("baseline", "start", "dnm", "scratch") for rev in ("HEAD", "gentle")
    }
