"""What one does every day with DVC: experiments, their diffs, curves. In a copy of the pipeline with one small row."""

from __future__ import annotations

import csv
import io
import json
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
        runs = dict(store.execute("select name, lifecycle_stage from runs"))
        named = store.execute("select count(*) from tags where key = 'dnm.dvc_experiment' and value = 'gentle'")
        # The stage, three arms with two seeds each, and the verdict; the baseline did not run again.
        assert named.fetchone() == (1 + 3 * 2 + 1,)
    assert set(runs.values()) == {"active"}
    ending = ", enable_aggressive_growth=false"
    of_both = [f"cifar10 {arm} seed {seed}" for arm in ("start", "dnm", "scratch") for seed in (0, 1)]
    of_both += ["cifar10 morphogenesis", "cifar10 verdict"]
    of_one = ["cifar10 baseline", "cifar10 baseline seed 0", "cifar10 baseline seed 1"]
    assert sorted(runs) == sorted([*of_both, *(name + ending for name in of_both), *of_one])
    assert copy.run(sys.executable, "-m", "stages.sync") == "sync: 0 logged, 3 were there already, 0 failed\n"


@pytest.mark.nightly
def test_experiments_are_shown_with_the_columns_that_matter(copy: Copy) -> None:
    shown = copy.dvc("exp", "show", "--only-changed", "--csv", "--drop", "(data|dnm|metrics|params|stages)[^:]*$")
    lines = list(csv.DictReader(io.StringIO(shown)))
    columns = [name for name in lines[0] if name not in ("Experiment", "rev", "typ", "Created", "parent")]
    assert columns[-1] == SETTING
    assert {name.removeprefix("cifar10.") for name in columns[:-1]} <= {
        "dnm", "improvement", "interval", "parameters", "training_time", "verdict"
    }  # fmt: skip
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
