"""What a person sees in MLflow's UI: the runs of an experiment, what two settings differ in, a curve."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages import tracking
from stages.settings import Row
from tests.stages.left_behind import ARMS, EPOCHS, leave, leave_report, make_context

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy|alembic).*"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; Debian's package of that name will do"),
]
# Milliseconds; the first page makes the server compile and the browser fill its cache.
PATIENCE = 90_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_row: Row, execution) -> Iterator[str]:
    """A store with two settings of one row."""
    longer = dataclasses.replace(tiny_row, training=dataclasses.replace(tiny_row.training, epochs=4))
    root = tmp_path_factory.mktemp("two settings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        patch.setenv("DVC_ROOT", str(root))
        for row in (tiny_row, longer):
            context = make_context(root, row, execution)
            for stage in ARMS:
                leave(context, stage)
                tracking.log(context, stage)
            leave_report(context)
        yield os.environ["MLFLOW_TRACKING_URI"]


@pytest.fixture(scope="module")
def server(store: str) -> Iterator[dict[str, str]]:
    """`make ui` over that store: the links that it prints, by their names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.ui", "--port", str(port)], cwd=ROOT, env={**os.environ},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        links = {}
        for line in process.stdout or ():
            if line.startswith("Ctrl-C"):
                break
            name, _, link = line.strip().partition(": ")
            links[name] = link
        deadline = time.monotonic() + 120
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        yield {**links, "server": f"http://127.0.0.1:{port}"}
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser) -> Iterator:
    page = browser.new_page(viewport={"width": 1700, "height": 1200})
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


@pytest.fixture
def find(store: str) -> Callable[[str], list]:
    """Searches the store."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store)
    (experiment,) = client.search_experiments(filter_string="name = 'dnm-embedded'")
    return lambda wanted: list(client.search_runs([experiment.experiment_id], wanted))


def test_the_links_show_verdicts_and_arms(server: dict[str, str], page) -> None:
    assert [name for name in server if name != "server"] == [
        "dnm-embedded verdicts",
        "dnm-embedded arms",
        "dnm-embedded curves",
    ]
    page.goto(server["dnm-embedded verdicts"])
    page.get_by_text("strokes verdict").first.wait_for()
    assert page.get_by_text("strokes verdict").count() == 2
    for column in ("dnm.verdict.improvement", "improvement/low"):
        page.get_by_text(column, exact=True).first.wait_for()
    assert page.get_by_text("seed 0").count() == 0

    page.goto("about:blank")
    page.goto(server["dnm-embedded arms"])
    page.get_by_text("strokes dnm seed 0").first.wait_for()
    page.get_by_text(re.compile("dnm.row: strokes, dnm.arm: dnm")).first.wait_for()


def test_a_comparison_lists_what_two_settings_differ_in(server: dict[str, str], page, find: Callable) -> None:
    runs = find("tags.dnm.kind = 'stage' and tags.dnm.stage = 'morphogenesis'")
    assert len(runs) == 2
    ids = ",".join(f"%22{run.info.run_id}%22" for run in runs)
    page.goto(f"{server['server']}/#/compare-runs?runs=[{ids}]&experiments=[%221%22]")
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for()
    parameters = page.locator("table:visible", has=page.get_by_text("training.epochs", exact=True)).first
    parameters.wait_for()
    # The switch of parameters comes first, those of metrics and tags below it.
    page.get_by_text("Show diff only").first.click()
    page.get_by_text("training.batch_size", exact=True).first.wait_for(state="hidden")
    rows = [row.split() for row in parameters.locator("tr").all_inner_texts()]
    sections = ("training.", "dnm.", "data.", "networks.", "execution.")
    assert [row for row in rows if row and row[0].startswith(sections)] == [
        ["training.epochs", *(run.data.params["training.epochs"] for run in runs)]
    ]


def test_a_curve_is_drawn(server: dict[str, str], page, find: Callable) -> None:
    (run, _) = find("tags.dnm.arm = 'dnm' and tags.dnm.seed = '0'")
    page.goto(f"{server['server']}/#/experiments/1/runs/{run.info.run_id}/model-metrics")
    page.get_by_text("strokes dnm seed 0 (curve/train_loss)").wait_for()
    page.locator("path.js-line").first.wait_for(state="attached")
    # A line through as many points as there are epochs; those on a straight line are left out of it.
    drawn = [re.findall("[ML]", line.get_attribute("d")) for line in page.locator("path.js-line").all()]
    assert max(map(len, drawn)) == EPOCHS
