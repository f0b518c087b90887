"""The language stage: trials against ones put together by hand, the table from the lines, and what cannot be set up."""

from __future__ import annotations

import csv
import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dnm import count, replay
from stages import (
    cli,
    documented,
    estimate,
    language,
    language_models,
    language_scoring,
    language_statistics,
    language_table,
    language_trial,
    outputs,
    prepare_language,
    records,
    results,
    settings_checks,
    sync,
)
from stages.data.language import prepared
from stages.data.settings import Grammar
from stages.language_training import Texts, evaluate, example
from stages.schema import SettingsError
from stages.settings import Execution, Language, Reader, Readers, Row, Settings, Training
from stages.settings import load as load_settings

ROOT = Path(__file__).resolve().parents[2]
TRAINING = Training(
    batch_size=16, learning_rate=0.005, optimizer="AdamW", weight_decay=0.01, epochs=2, early_stopping=False,
    patience=20, schedule="trapezoid", warmup=0.1, decay_from=0.5, crop_padding=0, flip=False, gradient_clipping=1.0,
)  # fmt: skip
SMALL = Reader(width=8, hidden=8, learning_rate=0.01)
READERS = Readers(bag=SMALL, bilstm=SMALL, width=8, head_size=4, transformer=((2, 32),), start=((1, 4),))
SOURCES = {"cola": "acceptability", "squad2": "questions"}


@pytest.fixture(scope="module")
def language_settings(tiny_row: Row) -> dict[str, Language]:
    """A task with classes and one with questions, whose trials take a second."""
    # One edit an event, which always pays, and is never taken back.
    dnm = dataclasses.replace(
        tiny_row.dnm, event_times=(0.2, 0.5), operators=("Divide", "AddResidual"), max_parameters=4.0,
        max_training_flops=4.0, rollback=False,
    )  # fmt: skip
    return {
        source: Language(
            task=task, as_documented=False, seeds=2, vocabulary=330, length=100, cut=False, networks=READERS,
            training=TRAINING, dnm=dnm,
            data=Grammar(source=source, train=120, test=40, clauses=1, seed=2, validation=0.2),
        )
        for task, source in SOURCES.items()
    }  # pyright: ignore[reportArgumentType]  # fmt: skip


@pytest.fixture
def context(
    tiny_row: Row, language_settings: dict[str, Language], execution: Execution, linked_root: Path,
) -> cli.Context:  # fmt: skip
    """A scale with both tasks, prepared."""
    settings = Settings(
        scale="tiny", root=".", params_file="params.yaml", execution=execution,
        image_classification={"strokes": tiny_row}, contest={}, ranking={}, ablation={}, robustness={}, events={},
        nas={}, language=language_settings,
    )  # fmt: skip
    for name in language_settings:
        prepare_language.main(cli.Context(settings, linked_root, name, name))
    return cli.Context(settings, linked_root, "acceptability", "acceptability")


def of_questions(context: cli.Context) -> cli.Context:
    return dataclasses.replace(context, row_name="questions", entry="questions")


def run_one(context: cli.Context, arm: str) -> tuple[language_trial.Job, dict[str, Any]]:
    job = next(job for job in language.first(context) if job.arm == arm and job.seed == 1)
    return job, language_trial.run(job)


def test_prepared_is_what_the_card_says(context: cli.Context) -> None:
    card = outputs.read_json(context.metrics / "prepare" / "acceptability.json")
    assert card["samples"]["train"]["total"] == 96 and card["source"] == "generated sentences (acceptability)"
    assert prepared.load(context.data).vocabulary == card["vocabulary"] <= 330


@pytest.mark.parametrize("arm", language.FIXED)
def test_a_fixed_trial_is_the_one_put_together_by_hand(context: cli.Context, arm: str) -> None:
    """The same steps in a loop of its own; predictions scored by scikit-learn."""
    from sklearn.metrics import matthews_corrcoef

    job, found = run_one(context, arm)
    assert found == {**language_trial.run(job), "machine": found["machine"]}
    data = prepared.load(context.data)
    ends = {"vocabulary": data.vocabulary, "outputs": 2, "generator": torch.Generator().manual_seed(1)}
    model = {
        "bag": lambda: language_models.bag_of_embeddings(**ends, width=8, hidden=8),
        "baseline": lambda: language_models.bilstm(**ends, width=8, hidden=8),
        "transformer": lambda: language_models.encoder(**ends, length=100, width=8, blocks=[(2, 32)], head_size=4),
    }[arm]()
    rate = 0.005 if arm == "transformer" else 0.01
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    texts, order = Texts.of(data.train, "cpu"), torch.Generator().manual_seed(2)
    step, flops = 0, 0
    for _ in range(2):
        for ids, labels in texts.epoch(16, order):
            done = step / 12
            factor = min(1.0, (step + 1) / (0.1 * 12), (1.0 - done) / 0.5)
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(ids), labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step, flops = step + 1, flops + 16 * count(model, example(ids.shape[1])).training
    model.eval()
    with torch.no_grad():
        predictions = model(torch.from_numpy(data.test.ids.astype(np.int64))).argmax(1).numpy()
    figures = found["figures"]
    expected = matthews_corrcoef(data.test.labels, predictions) if len(set(predictions)) > 1 else 0.0
    assert figures["score"] == pytest.approx(expected, abs=1e-6)
    assert (figures["steps"], figures["training_flops"], figures["epochs"]) == (12, flops, 2)
    assert figures["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert figures["edits"] == 0 and figures["exact_match"] is None


def test_questions_are_scored_with_a_threshold_of_the_validation_data(context: cli.Context) -> None:
    own = of_questions(context)
    _, found = run_one(own, "transformer")
    figures = found["figures"]
    assert 0.0 <= figures["exact_match"] <= figures["score"] <= 1.0
    # 20 of the 40 questions have an answer.
    halves = figures["answerable_f1"], figures["unanswerable_f1"]
    assert figures["score"] == pytest.approx(np.mean(halves))
    data = prepared.load(own.data)
    # A model that knows the answers, and thinks of every question without one that it has none.
    outputs_ = np.full((len(data.test), 2), 0)
    margins = np.where([bool(of) for of in data.test.answers], -2.5, 3.0)
    known = data.validation.labels, np.where([bool(of) for of in data.validation.answers], -2.0, 2.0)
    perfect = language_trial.scores(data, list(known), [data.test.labels, margins])
    assert (perfect["score"], perfect["exact_match"], perfect["threshold"]) == (1.0, 1.0, -2.0)
    none = language_trial.scores(data, list(known), [outputs_, margins])
    assert none["score"] == none["unanswerable_f1"] / 2 == 0.5 and none["answerable_f1"] == 0.0
    # Where answering nothing is best on the validation data, nothing is answered.
    never = data.validation.labels * 0, np.zeros(len(data.validation))
    silent = language_trial.scores(data, list(never), [data.test.labels, margins])
    assert silent["score"] == 0.5 and silent["threshold"] < 0


@pytest.mark.parametrize("source", ["acceptability", "entailment", "sentiment", "questions"])
def test_a_bag_of_embeddings_learns_nothing(context: cli.Context, source: str) -> None:
    """On the embedded scale's grammars half of what it says is wrong; half of the questions have no answer."""
    of = load_settings(ROOT / "params.yaml").language[source]
    assert isinstance(of.data, Grammar)
    of = dataclasses.replace(of, data=dataclasses.replace(of.data, train=1200, test=400))
    own = cli.Context(dataclasses.replace(context.settings, language={source: of}), context.root, source, source)
    prepare_language.main(own)
    figures = language_trial.run(next(job for job in language.first(own) if job.arm == "bag"))["figures"]
    if source == "questions":
        assert 0.45 <= figures["score"] <= 0.55
    else:
        assert figures["score"] == (0.0 if source == "acceptability" else 0.5)


def test_events_happen_and_change_no_output(context: cli.Context) -> None:
    job, found = run_one(context, "dnm")
    entries = [entry for event in found["events"] for entry in event["entries"]]
    assert len(found["events"]) == 2 and found["figures"]["edits"] == len(entries) >= 2
    assert all(event["output_difference"] < 1e-4 for event in found["events"])
    places = {entry.get("group") or entry.get("at") for entry in entries}
    assert not any(str(place).startswith(("table", "positions", "sides", "out")) for place in places)
    start = language_trial.model_of(dataclasses.replace(job, arm="start"), prepared.load(context.data))
    before = count(start, example(100)).parameters
    replay(start, found["journal"])
    assert count(start, example(100)).parameters == found["figures"]["parameters"] > before
    again = language_trial.run(job)
    assert {**again, "machine": None} == {**found, "machine": None}


def test_the_controls_spend_what_growing_spent(context: cli.Context) -> None:
    _, grown = run_one(context, "dnm")
    jobs = {job.arm: job for job in language.after(context, [grown])}
    for arm in language.CONTROLS:
        spent = language_trial.run(jobs[arm])["figures"]
        assert 0.8 * grown["figures"]["training_flops"] < spent["training_flops"]
        assert spent["training_flops"] <= grown["figures"]["training_flops"]
        assert spent["edits"] == 0
        if arm == "scratch":
            assert spent["parameters"] == grown["figures"]["parameters"]
            assert spent["forward_flops"] == grown["figures"]["forward_flops"]
    data = prepared.load(context.data)
    scratch, start = (language_trial.model_of(jobs[arm], data) for arm in ("scratch", "start"))
    replay(start, grown["journal"])
    # Names may differ in nothing: it is the network that growing ended with.
    assert {n: p.shape for n, p in scratch.named_parameters()} == {n: p.shape for n, p in start.named_parameters()}


def test_settings_data_and_code_decide_a_trial(context: cli.Context) -> None:
    job = language.first(context)[0]
    mark = records.fingerprint(job, "of the data", "code")
    longer = dataclasses.replace(job.settings, training=dataclasses.replace(TRAINING, epochs=3))
    for other in ({"seed": 5}, {"arm": "transformer"}, {"settings": longer}, {"flops": 10**9}):
        assert records.fingerprint(dataclasses.replace(job, **other), "of the data", "code") != mark
    assert records.fingerprint(job, "of other data", "code") != mark
    assert records.fingerprint(dataclasses.replace(job, data="elsewhere"), "of the data", "code") == mark
    files = {file.name for file in records.code_files(ROOT, records.grower_of(job), records.also_of(job))}
    assert {
        "language_trial.py", "language_training.py", "language_growing.py", "language_models.py", "growing.py",
        "language_scoring.py", "prepared.py", "tokens.py", "training.py", "morphogenesis.py",
    } <= files  # fmt: skip
    assert not {"language.py", "language_table.py", "grammars.py"} & files


def test_the_stage(context: cli.Context) -> None:
    found = {}
    for own in (context, of_questions(context)):
        language.main(own)
        file = own.metrics / "language" / f"{own.name}.csv"
        lines = outputs.read_csv(file)
        assert [(line["task"], line["arm"], line["seed"]) for line in lines] == [
            (own.name, arm, seed) for arm in language.ARMS for seed in "01"
        ]
        mean = np.mean([float(line["score"]) for line in lines if line["arm"] == "dnm"])
        assert outputs.read_json(file.with_suffix(".json"))["arms"]["dnm"]["score"] == pytest.approx(mean)
        curves = outputs.read_csv(own.metrics / "language" / f"{own.name}.curves.csv")
        assert {(line["arm"], line["seed"]) for line in curves} == {
            (arm, seed) for arm in language.ARMS for seed in "01"
        }
        encoders = outputs.read_json(own.metrics / "language" / f"{own.name}.journals.json")
        assert {item["arm"] for item in encoders} == {"transformer", "dnm", "start", "scratch"}
        found[own.name] = file.read_bytes()
        assert results.has_run(own, "language")
        read = results.read(own, "language")
        assert read.settings["language.training.epochs"] == 2 and read.settings["language.task"] == own.language.task
        assert read.arms["dnm"]["score"] == pytest.approx(mean)
        # What the last trials spent is what the next ones are expected to.
        flops = {of.arm: of.flops for of in estimate.trials_of(own, "language")}
        spent = [float(line["training_flops"]) for line in lines if line["arm"] == "start"]
        assert flops["start"] == round(np.mean(spent))
        assert estimate.speed(own, "language").flops
    language.main(context)
    assert (context.metrics / "language" / "acceptability.csv").read_bytes() == found["acceptability"]
    measured = language_statistics.of_language(context)
    assert list(measured["rows"]) == ["glue_average", "squad2", "cola"]
    sources = {"acceptability": "sentences", "questions": "facts"}
    cells = language_table.cells(documented.load(), measured, sources)
    page = language_table.page(documented.load(), cells, measured, sources)
    assert "average of cola" in page and "exact match" in page and "## CoLA: acceptability (sentences)" in page


def test_before_anything_ran_costs_are_not_known(context: cli.Context) -> None:
    assert {(of.todo, of.flops) for of in estimate.trials_of(context, "language")} == {(2, None)}
    assert estimate.speed(context, "language").flops is None
    assert "language" in sync.SETTINGS_FROM and not results.has_run(context, "language")


# What follows needs no trial.
FIGURES = {"parameters": "1000", "training_flops": "1e9", "edits": "2", "exact_match": ""}
LEVEL = {"bag": 0.1, "baseline": 0.6, "transformer": 0.63, "dnm": 0.6, "start": 0.6, "scratch": 0.6}


def made(gain: float = 0.05, seeds: int = 5, noise: float = 0.004, exact: str = "") -> list[dict[str, str]]:
    """Lines in which dnm is better than the baseline by `gain`, and noise."""
    draws = np.random.default_rng(5)
    return [
        {
            "arm": arm, "seed": str(seed), **FIGURES, "exact_match": exact,
            "score": str(LEVEL[arm] + gain * (arm == "dnm") + noise * draws.standard_normal()),
        }
        for arm in language.ARMS for seed in range(seeds)
    ]  # fmt: skip


def entry(task: Any, *, as_documented: bool = False) -> Language:
    source: Any = {"cola": "acceptability", "rte": "entailment", "sst2": "sentiment", "squad2": "questions"}[task]
    data = Grammar(source=source, train=100, test=40, clauses=1, seed=0, validation=0.2)
    dnm = load_settings(ROOT / "params.yaml").language["acceptability"].dnm
    return Language(
        task=task, as_documented=as_documented, seeds=5, data=data, vocabulary=300, length=60, cut=False,
        networks=READERS, training=TRAINING, dnm=dnm,
    )  # fmt: skip


CLAIMED = {
    "glue_average": {"improvement": 7.9, "dnm": 87.1, "transformer": 83.4},
    "squad2": {"improvement": 7.3, "dnm": 85.8, "transformer": 82.1},
    "cola": {"improvement": 9.6, "dnm": 61.7, "transformer": 56.3},
}


def scores_of(lines: list[dict[str, str]]) -> dict[str, np.ndarray]:
    return {
        arm: np.array([100 * float(line["score"]) for line in lines if line["arm"] == arm]) for arm in language.ARMS
    }


def test_statistics_against_scipy() -> None:
    files = {"a": made(), "b": made(gain=0.02, noise=0.01), "q": made(gain=-0.05, exact="0.5")}
    entries = {"a": entry("cola"), "b": entry("sst2"), "q": entry("squad2")}
    found = language_statistics.language_statistics(files, entries, CLAIMED)
    of = {name: scores_of(lines) for name, lines in files.items()}
    expected = {
        "glue_average": {arm: (of["a"][arm] + of["b"][arm]) / 2 for arm in language.ARMS},
        "squad2": of["q"], "cola": of["a"],
    }  # fmt: skip
    assert found["rows"]["glue_average"]["entries"] == ["a", "b"]
    for row, values in expected.items():
        of_row = found["rows"][row]
        for name, (treatment, control) in {
            "improvement": ("dnm", "baseline"), "over_transformer": ("dnm", "transformer"),
            "over_start": ("dnm", "start"), "over_scratch": ("dnm", "scratch"), "over_bag": ("baseline", "bag"),
        }.items():  # fmt: skip
            test: Any = stats.ttest_rel(values[treatment], values[control])
            interval = test.confidence_interval()
            difference = of_row["differences"][name]
            assert (difference["mean"], difference["p_value"], difference["low"], difference["high"]) == pytest.approx(
                (np.mean(values[treatment] - values[control]), test.pvalue, interval.low, interval.high)
            )
            assert ("verdict" in difference) == (name in language_statistics.CLAIMS)
        assert of_row["arms"]["bag"]["score"]["mean"] == pytest.approx(values["bag"].mean())
    # Holm over the three rows: the k-th smallest times how many are left, never below the one before it.
    family = sorted(
        (of_row["differences"]["improvement"] for of_row in found["rows"].values()), key=lambda d: d["p_value"]
    )
    least = 0.0
    for place, difference in enumerate(family):
        least = max(least, min(1.0, (3 - place) * difference["p_value"]))
        assert difference["holm_p_value"] == pytest.approx(least)
    verdicts = {row: of_row["differences"]["improvement"]["verdict"] for row, of_row in found["rows"].items()}
    assert verdicts == {"glue_average": "direction only", "squad2": "contradicted", "cola": "direction only"}
    # By the document's two columns: 61.7 - 56.3.
    assert found["rows"]["cola"]["differences"]["over_transformer"]["documented"] == 5.4
    assert (
        found["tasks"]["q"]["exact_match"] == dict.fromkeys(language.ARMS, 50.0)
        and not found["tasks"]["a"]["exact_match"]
    )


def test_only_documented_tasks_reproduce_and_an_average_needs_all_of_them() -> None:
    files = {"a": made(gain=0.12)}
    of = language_statistics.language_statistics(files, {"a": entry("cola", as_documented=True)}, CLAIMED)["rows"]
    assert of["cola"]["differences"]["improvement"]["verdict"] == "reproduced"
    assert of["glue_average"]["differences"]["improvement"]["verdict"] == "direction only"


def test_other_seeds_are_refused() -> None:
    lines = [line for line in made() if (line["arm"], line["seed"]) != ("start", "3")]
    with pytest.raises(cli.UserError, match="a: the arms have different seeds .*run the language stage again"):
        language_statistics.language_statistics({"a": lines}, {"a": entry("cola")}, CLAIMED)
    files = {"a": made(), "b": made(seeds=4)}
    with pytest.raises(cli.UserError, match="the tasks have different seeds"):
        language_statistics.language_statistics(files, {"a": entry("cola"), "b": entry("rte")}, CLAIMED)


def test_the_table_has_the_document_s_rows_columns_and_figures() -> None:
    document = documented.load()
    empty: dict[str, Any] = {"rows": {}, "tasks": {}}
    nothing = language_table.cells(document, empty, {})
    assert all(cell["measured"] == "" and cell["verdict"] == "not measured at this scale" for cell in nothing)
    assert "- SQuAD 2.0: no task of this row has been measured" in language_table.page(
        document, nothing, {"rows": {}, "tasks": {}}, {}
    )
    found = language_statistics.language_statistics({"a": made()}, {"a": entry("cola")}, CLAIMED)
    cells = {(cell["row"], cell["column"]): cell for cell in language_table.cells(document, found, {"a": "made up"})}
    assert {row for row, _ in cells} == set(document.tables["language"].rows)
    for column, stated in (("baseline", "52.1"), ("transformer", "56.3"), ("dnm", "61.7"), ("improvement", "9.6")):
        cell = cells["cola", column]
        assert cell["documented"] == stated and cell["measured"] != ""
        assert cells["squad2", column]["measured"] == ""
    assert "average of cola" in cells["glue_average", "dnm"]["note"]
    assert "Matthews" in cells["cola", "dnm"]["note"]


def language_of(**changes: Any) -> Settings:
    settings = load_settings(ROOT / "params.yaml")
    return dataclasses.replace(settings, language={"tried": dataclasses.replace(entry("cola"), **changes)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "rte"}, "language.tried.task is rte, expected cola, as its data.source is acceptability"),
        ({"training": dataclasses.replace(TRAINING, flip=True)}, "training.flip is True, expected 0 or false"),
        ({"training": dataclasses.replace(TRAINING, batch_size=80)}, "batch_size is 80, expected less than 80"),
        ({"training": dataclasses.replace(TRAINING, warmup=0.6)}, "warmup is 0.6, expected at most decay_from"),
        ({"networks": dataclasses.replace(READERS, start=((3, 4),))}, "nowhere wider than the transformer's"),
        ({"networks": dataclasses.replace(READERS, start=((1, 4), (1, 4)))}, "transformer has 1 blocks and start 2"),
        ({"networks": dataclasses.replace(READERS, start=((1,),))}, r"start\[0\] is \[1\], expected \[heads, feed"),
        ({"as_documented": True}, "data.source is acceptability, expected the published data"),
    ],
)
def test_settings_that_cannot_be_are_told(changes: Any, message: str) -> None:
    settings_checks.check(language_of(), ROOT / "params.yaml")
    with pytest.raises(SettingsError, match=message):
        settings_checks.check(language_of(**changes), ROOT / "params.yaml")


def test_names_tasks_and_seeds_are_told() -> None:
    settings = load_settings(ROOT / "params.yaml")
    for entries, message in (
        ({"cifar10": entry("cola")}, "language has an entry 'cifar10', expected a name that no row has"),
        ({"a": entry("cola"), "b": entry("cola")}, "language.b.task is cola, that of a too"),
        ({"a": entry("cola"), "b": dataclasses.replace(entry("rte"), seeds=3)}, "language.b.seeds is 3, expected 5"),
        ({"A b": entry("cola")}, "language has an entry 'A b'"),
    ):
        with pytest.raises(SettingsError, match=message):
            settings_checks.check(dataclasses.replace(settings, language=entries), ROOT / "params.yaml")


@pytest.mark.parametrize("scale", ("params.yaml", "scales/workstation/params.yaml"))
def test_start_costs_at_most_35_percent_of_the_transformer(scale: str) -> None:
    """The paper scale's encoders are pre-trained: growth begins with all of them."""
    for name, task in load_settings(ROOT / scale).language.items():
        costs = []
        assert isinstance(task.networks, Readers)
        for blocks in (task.networks.start, task.networks.transformer):
            model = language_models.encoder(
                vocabulary=20, length=task.length, width=task.networks.width, head_size=task.networks.head_size,
                blocks=[(heads, inner) for heads, inner in blocks], outputs=2, generator=torch.Generator(),
            )  # fmt: skip
            costs.append(count(model, example(32)).training)
        assert costs[0] <= 0.35 * costs[1], name


# The committed tables, with csv and numpy alone.
TASKS = {"acceptability": "cola", "entailment": "rte", "sentiment": "sst2", "questions": "squad2"}


def committed(name: str) -> list[dict[str, str]]:
    with (ROOT / "metrics" / "embedded" / f"{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_committed_table_comes_from_the_lines() -> None:
    cells = {(cell["row"], cell["column"]): cell for cell in committed("tables/language")}
    of: dict[str, dict[str, np.ndarray]] = {}
    for name, task in TASKS.items():
        lines = committed(f"language/{name}")
        of[task] = {
            arm: np.array([
                100 * float(line["score"]) for seed in range(3) for line in lines
                if (line["arm"], line["seed"]) == (arm, str(seed))
            ])
            for arm in language.ARMS
        }  # fmt: skip
        assert {len(values) for values in of[task].values()} == {3}
        # No bag of words can tell two of a pair apart; and events happen.
        if task != "squad2":
            assert np.ptp(of[task]["bag"]) == 0.0 and of[task]["bag"][0] == (0.0 if task == "cola" else 50.0)
        else:
            # Half of the questions have no answer.
            assert of[task]["bag"].max() < 55.0
        assert of[task]["transformer"].min() > of[task]["bag"].max() + 5.0
        assert all(float(line["edits"]) > 0 for line in lines if line["arm"] == "dnm")
    glue = [of[task] for task in ("cola", "rte", "sst2")]
    rows = {
        "cola": of["cola"], "squad2": of["squad2"],
        "glue_average": {arm: sum(each[arm] for each in glue) / 3 for arm in language.ARMS},
    }  # fmt: skip
    # Task by task, under the heads of the page.
    page = (ROOT / "metrics" / "embedded" / "tables" / "language.md").read_text(encoding="utf-8")
    shown = page.partition("Differences in score, points:\n\n")[2].partition("\n\n")[0].splitlines()
    heads, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown]
    assert len(lines) == len(TASKS) and len(heads) == 6
    for name, *figures in lines:
        for head, figure in zip(heads[1:], figures, strict=True):
            one, other = head.split(" - ")
            mean = (of[TASKS[name]][one] - of[TASKS[name]][other]).mean()
            assert float(figure.partition(" ")[0]) == pytest.approx(mean, abs=0.00501)
    for row, values in rows.items():
        for arm in language.ARMS:
            assert float(cells[row, arm]["measured"]) == pytest.approx(values[arm].mean(), rel=1e-4, abs=1e-6)
        for column, control in (("improvement", "baseline"), ("over_transformer", "transformer")):
            gains = values["dnm"] - values[control]
            # The t-based interval: 4.303 is the 97.5% quantile with two degrees of freedom.
            half = 4.3026527 * gains.std(ddof=1) / np.sqrt(3)
            cell = cells[row, column]
            assert (float(cell["measured"]), float(cell["low"]), float(cell["high"])) == pytest.approx(
                (gains.mean(), gains.mean() - half, gains.mean() + half), rel=1e-4, abs=1e-6
            )
            expected = "not reproduced" if abs(gains.mean()) <= half else "direction only"
            assert cell["verdict"] == (expected if gains.mean() >= -half else "contradicted")


def test_a_changed_raw_record_changes_the_table() -> None:
    settings = load_settings(ROOT / "params.yaml")
    sources = {
        name: outputs.read_json(ROOT / "metrics" / "embedded" / "prepare" / f"{name}.json")["source"]
        for name in settings.language
    }
    files = {name: committed(f"language/{name}") for name in settings.language}

    def cells() -> list[dict[str, Any]]:
        found = language_statistics.language_statistics(files, settings.language, CLAIMED)
        return language_table.cells(documented.load(), found, sources)

    same = cells()
    assert [{key: str(value) for key, value in cell.items()} for cell in same] == committed("tables/language")
    line = next(line for line in files["sentiment"] if (line["arm"], line["seed"]) == ("dnm", "2"))
    line["score"] = str(float(line["score"]) + 0.01)
    changed = {(a["row"], a["column"]) for a, b in zip(same, cells(), strict=True) if a != b}
    assert changed == {("glue_average", column) for column in ("dnm", "improvement", "over_transformer")}


def test_predictions_of_a_trained_model_are_scored_alike_by_scikit_learn(context: cli.Context) -> None:
    """On the same predictions, of a model that has learnt something."""
    from sklearn.metrics import matthews_corrcoef

    data = prepared.load(context.data)
    job, _ = run_one(context, "transformer")
    model = language_trial.model_of(job, data)
    _, predictions, _ = evaluate(model, Texts.of(data.train, "cpu"), "classes")
    found = language_scoring.glue(data.metrics, predictions, data.train.labels)["score"]
    assert found == pytest.approx(matthews_corrcoef(data.train.labels, predictions))


@pytest.mark.nightly
def test_the_small_transformer_on_real_reviews(tmp_path: Path, execution: Execution) -> None:
    """The workstation's settings: 78% of SST-2 within five minutes of a core."""
    if not os.environ.get("DNM_SST2"):
        pytest.skip("DNM_SST2 does not say where SST-2's files lie")
    settings = load_settings(ROOT / "scales" / "workstation" / "params.yaml")
    own = cli.Context(dataclasses.replace(settings, execution=execution), tmp_path, "sst2", "sst2")
    prepare_language.main(own)
    job = next(job for job in language.first(own) if job.arm == "transformer")
    started = time.process_time()
    figures = language_trial.run(job)["figures"]
    assert time.process_time() - started < 300
    assert figures["score"] >= 0.78
