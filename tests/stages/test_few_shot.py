"""Few-shot learning: each score against one put together by hand, the table from the lines, what cannot be measured."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from stages import (
    bench,
    cli,
    documented,
    episodes,
    estimate,
    few_shot,
    few_shot_data,
    few_shot_methods,
    few_shot_statistics,
    few_shot_table,
    few_shot_training,
    few_shot_trial,
    outputs,
    records,
    results,
    trial,
)
from stages.data import splits
from stages.data.errors import DataError
from stages.data.few_shot import sources
from stages.data.settings import ClassFolders, Omniglot
from stages.episodes import Form
from stages.few_shot_trial import Job
from stages.settings import Execution, Row, Settings
from stages.settings import load as load_settings
from stages.tasks import image_classification as task
from stages.training import Length
from tests.stages import tiny_few_shot

ROOT = Path(__file__).resolve().parents[2]
SHOTS = (1, 5, 10, 20)


@pytest.fixture(scope="module")
def prepared(tiny_row: Row, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prepared") / "characters.safetensors"
    splits.save(path, sources.load(tiny_few_shot.entry(tiny_row).data, path.parent))
    return path


@pytest.fixture
def context(tiny_row: Row, execution: Execution, prepared: Path, linked_root: Path) -> cli.Context:
    """Where the data have been prepared."""
    settings = Settings(
        scale="tiny", root=".", params_file="params.yaml", execution=execution,
        image_classification={"strokes": tiny_row}, contest={}, ranking={}, ablation={}, robustness={}, events={},
        nas={}, few_shot={"characters": tiny_few_shot.entry(tiny_row)},
    )  # fmt: skip
    found = cli.Context(settings, linked_root, "characters", "characters")
    found.data.parent.mkdir(parents=True)
    found.data.symlink_to(prepared)
    card = splits.card(splits.load(prepared))
    outputs.write_json(found.metrics / "prepare" / "characters.json", card)
    return found


def job_of(context: cli.Context, arm: str, seed: int = 0, **changes: Any) -> Job:
    return dataclasses.replace(few_shot.job(context, arm, seed, SHOTS), **changes)


# Scores, each from the images on.


def normal(data: splits.DataSet, name: str) -> Tensor:
    """A split's images as networks take them: `num x 1 x 8 x 8`."""
    pixels = data.train.images.astype(float)
    values = (getattr(data, name).images - pixels.mean()) / pixels.std()
    return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2)


def rate(job: Job, step: int, steps: int, highest: float) -> float:
    """The trapezoid: up over the warm-up, flat, down to zero."""
    settings = job.settings.training
    up = (step + 1) / max(1.0, settings.warmup * steps)
    down = (1 - step / steps) / max(1 - settings.decay_from, 1 / steps)
    return highest * min(1.0, up, down)


def descend(job: Job, model: nn.Module, losses: Iterator[Tensor], steps: int, highest: float) -> None:
    decay = job.settings.training.weight_decay
    optimizer = torch.optim.AdamW(model.parameters(), lr=highest, weight_decay=decay, fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate(job, step, steps, highest)
        loss = next(losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def shown(job: Job, data: splits.DataSet, ways: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Support and queries of the training episodes, cropped at random."""
    meta, padding = job.settings.meta, job.settings.training.crop_padding
    order, augmentation = (torch.Generator().manual_seed(2 * job.seed + offset) for offset in (0, 1))
    train = trial.split_of(data, "train", job)
    assert train.padding == padding == 1
    rows = [torch.nonzero(train.labels == label).flatten() for label in range(8)]
    form = Form(ways=ways, shots=meta.shots, queries=meta.queries)
    for one in episodes.sample(rows, form, order):
        taken = torch.cat([one.support.flatten(), one.queries.flatten()])
        images, labels = train.batch(taken, augmentation, job.settings.training.flip)
        assert labels.tolist() == train.labels[taken].tolist()
        yield images[: ways * meta.shots], images[ways * meta.shots :]


def prototypical_by_hand(job: Job, data: splits.DataSet, steps: int) -> nn.Module:
    """A prototypical network trained by the formula."""
    ways, shots, queries = job.settings.meta.ways, job.settings.meta.shots, job.settings.meta.queries
    whole = task.network(job.settings.networks.baseline, 1, 1, torch.Generator().manual_seed(job.seed))
    model = whole[:-1].train()

    def losses() -> Iterator[Tensor]:
        for support, asked in shown(job, data, ways):
            values = model(torch.cat([support, asked]))
            prototypes = values[: ways * shots].view(ways, shots, -1).mean(1)
            distances = torch.cdist(values[ways * shots :], prototypes) ** 2
            yield cross_entropy(-distances, torch.arange(ways).repeat_interleave(queries))

    descend(job, model, losses(), steps, job.settings.training.learning_rate)
    return model.eval()


def supervised_by_hand(job: Job, data: splits.DataSet, steps: int) -> nn.Module:
    """A classifier of the training classes, without its last layer."""
    model = task.network(job.settings.networks.baseline, 1, 8, torch.Generator().manual_seed(job.seed)).train()
    order, augmentation = (torch.Generator().manual_seed(2 * job.seed + offset) for offset in (0, 1))
    train, size = trial.split_of(data, "train", job), job.settings.training.batch_size

    def losses() -> Iterator[Tensor]:
        while True:
            permutation = torch.randperm(len(train), generator=order)
            for start in range(0, len(train) - size + 1, size):
                images, labels = train.batch(permutation[start : start + size], augmentation, flip=True)
                yield cross_entropy(model(images), labels)

    descend(job, model, losses(), steps, job.settings.training.learning_rate)
    return model[:-1].eval()


def drawn_of(job: Job, data: splits.DataSet, name: str, shots: int) -> list[episodes.Episode]:
    labels = torch.from_numpy(getattr(data, name).labels)
    classes = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    num = {"validation": job.settings.validation_episodes, "test": job.settings.episodes}[name]
    drawn = episodes.sample(
        classes, Form(ways=3, shots=shots, queries=3), torch.Generator().manual_seed({"validation": 1, "test": 2}[name])
    )
    return [next(drawn) for _ in range(num)]


def counted(kind: Any, job: Job, data: splits.DataSet, name: str, shots: int, values: np.ndarray) -> list[int]:
    """What an estimator recognises of each episode, of one row of values an image."""
    found = []
    for one in drawn_of(job, data, name, shots):
        support, queries = (values[rows.flatten().numpy()] for rows in (one.support, one.queries))
        peer = kind().fit(support, np.repeat(np.arange(3), shots))
        found.append(int((peer.predict(queries) == np.repeat(np.arange(3), 3)).sum()))
    return found


def scores_of(result: dict[str, Any], method: str, name: str) -> dict[int, list[int]]:
    return {
        score["shots"]: score["right"]
        for score in result["scores"]
        if (score["method"], score["split"]) == (method, name)
    }


class Nearest:
    """The nearest mean."""

    def fit(self, X, y):
        self.means = np.stack([X[y == label].mean(axis=0) for label in range(3)])
        return self

    def predict(self, X):
        return cdist(X, self.means).argmin(axis=1)


class Linear(LogisticRegression):
    """Logistic regression on values of unit length."""

    def __init__(self) -> None:
        super().__init__(C=1.0, tol=1e-9, max_iter=5000)

    def fit(self, X, y):
        return super().fit(X / np.linalg.norm(X, axis=1, keepdims=True), y)

    def predict(self, X):
        return super().predict(X / np.linalg.norm(X, axis=1, keepdims=True))


@pytest.mark.parametrize("name", ["validation", "test"])
def test_the_floor_is_the_nearest_centroid_of_the_pixels(context: cli.Context, name: str) -> None:
    job = job_of(context, "centroid")
    data, found = splits.load(context.data), few_shot_trial.run(job)
    pixels = normal(data, name).flatten(1).double().numpy()
    for shots, right in scores_of(found, "nearest_centroid", name).items():
        assert right == counted(Nearest, job, data, name, shots, pixels)
    assert scores_of(found, "nearest_centroid", name).keys() == set(SHOTS)


def close(found: list[int], expected: list[int]) -> bool:
    # Features are the same but for rounding, which may turn a query.
    return sum(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 1


def test_prototypical_scores_are_those_of_a_network_trained_by_hand(context: cli.Context) -> None:
    job = job_of(context, "meta_learning", seed=1)
    data, found = splits.load(context.data), few_shot_trial.run(job)
    # 192 training drawings, four times, 20 an episode.
    assert found["figures"]["prototypical"]["steps"] == 38
    model = prototypical_by_hand(job, data, 38)
    for name in ("validation", "test"):
        with torch.no_grad():
            values = model(normal(data, name)).double().numpy()
        for shots, right in scores_of(found, "prototypical", name).items():
            assert close(right, counted(Nearest, job, data, name, shots, values)), (name, shots)
        # Tested at all shots, also where MAML is the better one.
        assert scores_of(found, "prototypical", name).keys() == set(SHOTS)


def test_linear_scores_are_those_of_scikit_learn_on_a_network_trained_by_hand(context: cli.Context) -> None:
    job = job_of(context, "traditional", seed=1)
    data, found = splits.load(context.data), few_shot_trial.run(job)
    steps = found["figures"]["linear"]["steps"]
    model = supervised_by_hand(job, data, steps)
    for name in ("validation", "test"):
        with torch.no_grad():
            values = model(normal(data, name)).double().numpy()
        for shots, right in scores_of(found, "linear", name).items():
            assert close(right, counted(Linear, job, data, name, shots, values)), (name, shots)


def test_other_trainings_spend_what_the_prototypical_network_spends(context: cli.Context) -> None:
    figures = {
        **few_shot_trial.run(job_of(context, "traditional", shots=(1,)))["figures"],
        **few_shot_trial.run(job_of(context, "meta_learning", shots=(1,)))["figures"],
    }
    full = figures["prototypical"]["training_flops"]
    # Nothing is trained before there is a support.
    assert figures["support_alone"] == {}
    for method in ("linear", "maml"):
        each = figures[method]["training_flops"] / figures[method]["steps"]
        assert full - each < figures[method]["training_flops"] <= full
    # A step of MAML costs more than one of the same images without adapting.
    assert figures["maml"]["training_flops"] / figures["maml"]["steps"] > 1.5 * full / 38 * (3 * 5) / (4 * 5)


def test_a_step_of_maml_is_counted_as_torch_counts_it(context: cli.Context) -> None:
    settings, data = context.few_shot, splits.load(context.data)
    train = trial.split_of(data, "train", job_of(context, "meta_learning"))
    network = task.network(settings.networks.baseline, 1, 3, torch.Generator().manual_seed(0))
    learning = few_shot_training.maml(settings, network, train, 0)
    with FlopCounterMode(display=False) as counter:
        learning.loss()[0].backward()
    # Torch counts the gradient of a convolution's input where there is none: that of the images.
    assert 0.7 * counter.get_total_flops() < learning.flops() <= counter.get_total_flops()


def test_maml_and_training_on_the_support_are_those_of_the_methods(context: cli.Context) -> None:
    data = splits.load(context.data)
    for arm, method in (("meta_learning", "maml"), ("traditional", "support_alone")):
        job = job_of(context, arm, shots=(1, 5))
        found = few_shot_trial.run(job)
        network = task.network(job.settings.networks.baseline, 1, 3, torch.Generator().manual_seed(0))
        if method == "maml":
            steps = found["figures"]["maml"]["steps"]

            def losses(network: nn.Module = network, job: Job = job) -> Iterator[Tensor]:
                for support, queries in shown(job, data, 3):
                    yield few_shot_methods.maml_loss(
                        network, support.unflatten(0, (3, 3)), queries.unflatten(0, (3, 2)), steps=1, rate=0.2,
                        second_order=True,
                    )  # fmt: skip

            descend(job, network, losses(), steps, 0.01)
            predict = few_shot_methods.maml(network, steps=1, rate=0.2)
        else:
            predict = few_shot_methods.support_alone(network, steps=3, rate=0.01)
        images = normal(data, "validation")
        for shots in (1, 5):
            right = []
            for one in drawn_of(job, data, "validation", shots):
                ways = predict(images[one.support][None], images[one.queries][None])[0]
                right.append(int((ways == torch.arange(3)[:, None]).sum()))
            assert close(scores_of(found, method, "validation")[shots], right), (method, shots)


# The arms and the stage.


def test_the_stage(context: cli.Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few_shot.main(context)
    folder = context.metrics / "few_shot"
    files = {file: file.read_bytes() for file in sorted(folder.iterdir())}
    assert len(files) == 4
    lines = outputs.read_csv(folder / "characters.csv")
    figures = {(line["arm"], line["seed"], line["method"]): line for line in
               outputs.read_csv(folder / "characters.trials.csv")}  # fmt: skip
    trials = dict.fromkeys((line["arm"], line["seed"]) for line in lines)
    assert list(trials) == [("centroid", "0"), *((arm, seed) for arm in few_shot.ARMS[1:] for seed in "01")]
    for arm, seed in trials:
        for shots in map(str, SHOTS):
            of = [x for x in lines if (x["arm"], x["seed"], x["shots"]) == (arm, seed, shots)]
            for line in of:
                right = [int(number) for number in line["right"].split()]
                assert len(right) == int(line["episodes"]) == (24 if line["split"] == "test" else 6)
                assert max(right) <= int(line["queries"]) == 9
                assert float(line["accuracy"]) == pytest.approx(sum(right) / 9 / len(right))
            # Chosen by validation episodes, and no other method sees a test one, but the fixed prototypical network.
            validation = {x["method"]: float(x["accuracy"]) for x in of if x["split"] == "validation"}
            tested = [x["method"] for x in of if x["split"] == "test"]
            (chosen,) = {x["method"] for x in of if x["chosen"] == "1"}
            assert validation[chosen] == max(validation.values())
            assert set(tested) == {chosen, *(["prototypical"] if arm == "meta_learning" else [])}
    for seed in "01":
        of = {arm: figures[arm, seed, "prototypical"] for arm in ("dnm", "start", "scratch", "meta_learning")}
        spent = {arm: int(line["training_flops"]) for arm, line in of.items()}
        assert all(0.9 * spent["dnm"] <= spent[arm] <= spent["dnm"] for arm in ("start", "scratch"))
        size = {arm: int(line["parameters"]) for arm, line in of.items()}
        assert size["scratch"] == size["dnm"] > size["start"]
        assert int(of["dnm"]["edits"]) >= 1 and of["start"]["edits"] == of["scratch"]["edits"] == "0"
        assert of["dnm"]["steps"] == of["meta_learning"]["steps"] == "38"
    grown = outputs.read_json(folder / "characters.journals.json")
    assert [(item["arm"], item["seed"]) for item in grown] == [("dnm", 0), ("dnm", 1)]
    for item in grown:
        taken = [event for event in item["events"] if event["entries"]]
        assert taken and all(event["output_difference"] < 1e-4 for event in taken)
        assert len(item["journal"]) == int(figures["dnm", str(item["seed"]), "prototypical"]["edits"])
    # As often as one likes, and however many at once.
    monkeypatch.setenv("DNM_WORKERS", "2")
    few_shot.main(context)
    assert {file: file.read_bytes() for file in files} == files
    summary = outputs.read_json(folder / "characters.json")
    assert summary["not_measured"] == {}
    mean = np.mean([float(x["accuracy"]) for x in lines
                    if (x["arm"], x["shots"], x["split"]) == ("scratch", "5", "test")])  # fmt: skip
    assert summary["arms"]["scratch"]["test_accuracy/5_shots"] == pytest.approx(mean)
    monkeypatch.setattr(bench, "ROOT", context.root)
    bench._show(argparse.Namespace(command="few-shot"), context.settings)
    said = capsys.readouterr().out
    assert "characters, tiny scale, 3 ways, measured on generated characters, mean test accuracy:" in said
    assert f"  scratch: {100 * summary['arms']['scratch']['test_accuracy/1_shots']:.2f}% (1 shots), " in said
    # What stands in tables and in MLflow.
    found = {"characters": few_shot_statistics.of_few_shot(context)}
    # As a file of statistics has them, 10 before 5.
    found = json.loads(json.dumps(found, sort_keys=True))
    cells = few_shot_table.cells(documented.load(), context.settings.few_shot, found, {"characters": "drawn"})
    page = few_shot_table.page(documented.load(), cells, found)
    for title in ("differences in test accuracy", "what methods were chosen by"):
        part = page.partition(f"## characters: {title}")[2].partition("## ")[0]
        first = [line.split("|")[1].strip() for line in part.splitlines() if line.startswith("|")][2:]
        assert list(dict.fromkeys(first)) == ["1", "5", "10", "20"]
    assert "measured on drawn, 3 ways" in page and "## characters: differences in test accuracy" in page
    assert results.settings(context, "few_shot")["few_shot.meta.shots"] == 3
    assert results.has_run(context, "few_shot")
    assert results.read(context, "few_shot").arms == summary["arms"]


def test_data_are_prepared_under_the_name_of_their_entry(context: cli.Context, prepared: Path) -> None:
    other = dataclasses.replace(context, root=context.root / "elsewhere")
    few_shot_data.main(other)
    assert other.data.read_bytes() == prepared.read_bytes()
    card = outputs.read_json(other.metrics / "prepare" / "characters.json")
    assert (card["source"], card["samples"]["test"]["total"]) == ("generated characters", 5 * 24)


def test_settings_shots_and_data_decide_a_trial(context: cli.Context) -> None:
    job, code = job_of(context, "meta_learning"), "code"
    mark = records.fingerprint(job, "data", code)
    settings = dataclasses.replace(job.settings, maml=dataclasses.replace(job.settings.maml, steps=2))
    fewer = dataclasses.replace(job.settings, queries=2)
    for other in ({"settings": settings}, {"settings": fewer}, {"shots": (1, 5)}, {"seed": 1}, {"arm": "dnm"}):
        assert records.fingerprint(dataclasses.replace(job, **other), "data", code) != mark, other
    assert records.fingerprint(job, "other data", code) != mark
    # More seeds leave those that there are.
    more = dataclasses.replace(job, settings=dataclasses.replace(job.settings, seeds=3), data="elsewhere")
    assert records.fingerprint(more, "data", code) == mark
    for arm, grower in (("meta_learning", None), ("dnm", records.GROWN)):
        job = job_of(context, arm)
        assert records.grower_of(job) == grower
        files = {file.name for file in records.code_files(ROOT, records.grower_of(job), records.also_of(job))}
        assert {"episodes.py", "few_shot_methods.py", "few_shot_training.py", "few_shot_trial.py"} <= files
        assert not {"few_shot.py", "few_shot_table.py", "transfer_trial.py"} & files
        assert ("growing.py" in files) == (arm == "dnm")


def test_scratch_has_the_grown_architecture_from_its_first_step(context: cli.Context) -> None:
    grown = few_shot_trial.run(job_of(context, "dnm", shots=(1,)))
    assert grown["widths"] != [[4], [12]]
    job = dataclasses.replace(few_shot.job(context, "scratch", 0, (1,), grown))
    found = few_shot_trial.run(job)
    assert (found["widths"], found["branches"]) == (grown["widths"], grown["branches"])
    spent = grown["figures"]["prototypical"]["training_flops"]
    assert (job.flops, job.grown) == (spent, False) and found["events"] == []


def test_the_estimate_bounds_what_is_spent(context: cli.Context) -> None:
    found = {of.arm: of for of in estimate.trials_of(context, "few_shot")}
    assert {arm: of.todo for arm, of in found.items()} == {"centroid": 1, **dict.fromkeys(few_shot.ARMS[1:], 2)}
    for arm in ("traditional", "meta_learning"):
        figures = few_shot_trial.run(job_of(context, arm, shots=(1,)))["figures"].values()
        spent, bound = sum(of["training_flops"] for of in figures if of), found[arm].flops
        assert bound is not None and 0.8 * bound < spent <= bound
    assert found["centroid"].flops == 0
    assert estimate.speed(context, "few_shot").flops is None


def test_a_training_that_diverges_says_so(context: cli.Context) -> None:
    settings = context.few_shot
    wild = dataclasses.replace(settings.training, learning_rate=1e8, optimizer="SGD")
    job = job_of(context, "start", settings=dataclasses.replace(settings, training=wild))
    with pytest.raises(FloatingPointError, match=r"the training loss is .* lower learning_rate \(100000000.0\)"):
        few_shot_trial.run(job)


def test_batches_of_more_than_there_are_are_refused(context: cli.Context) -> None:
    settings = context.few_shot
    large = dataclasses.replace(settings.training, batch_size=193)
    job = job_of(context, "traditional", settings=dataclasses.replace(settings, training=large))
    with pytest.raises(ValueError, match="batch_size is 193, expected at most the 192 training images"):
        few_shot_trial.run(job)


# What cannot be measured.


def taken(data: splits.DataSet, name: str, label: int, num: int) -> splits.DataSet:
    """The data with so many drawings of a class of a split."""
    of = getattr(data, name)
    keep = (of.labels != label) | (np.cumsum(of.labels == label) <= num)
    return dataclasses.replace(data, **{name: of.take(keep)})


def test_a_class_with_too_few_shots(context: cli.Context) -> None:
    data = splits.load(context.data)
    assert few_shot.unmeasured(context, data) == {}
    # Three drawings to be recognised leave 17 of 20 to learn from.
    found = few_shot.unmeasured(context, taken(data, "test", 13, 20))
    assert list(found) == [20] and found[20].startswith(
        "test: class test_character_1 has 20 drawings, expected at leas"
    )
    assert found[20].endswith("20 shots leave no query and cannot be measured on it")
    assert list(few_shot.unmeasured(context, taken(data, "validation", 9, 9))) == [10, 20]
    with pytest.raises(DataError, match="characters: train: class train_character_2 has 4 drawings, expected at least"):
        few_shot.unmeasured(context, taken(data, "train", 2, 4))
    with pytest.raises(DataError, match="characters: test: class test_character_0 has 3 drawings, expected at least 4"):
        few_shot.unmeasured(context, taken(data, "test", 12, 3))
    fewer = dataclasses.replace(context.few_shot, ways=5)
    own = dataclasses.replace(context, settings=dataclasses.replace(context.settings, few_shot={"characters": fewer}))
    with pytest.raises(DataError, match="characters: validation: 4 classes, expected at least 5 for 5 ways"):
        few_shot.unmeasured(own, data)


def test_such_a_class_ends_the_stage_in_one_message(context: cli.Context, capsys: pytest.CaptureFixture[str]) -> None:
    data = taken(splits.load(context.data), "train", 2, 4)
    context.data.unlink()
    splits.save(context.data, data)
    with pytest.raises(SystemExit) as ended, cli.told("few_shot"):
        few_shot.main(context)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: characters: train: class train_character_2 has 4 drawings") and said.count("\n") == 1


def test_images_in_folders_are_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    for place in ("train/a", "train/b", "val/c", "val/d", "test/e", "test/f"):
        (tmp_path / "images" / place).mkdir(parents=True)
        for number in range(3):
            pixels = draws.integers(0, 256, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / place / f"{number}.png")
    settings = ClassFolders(source="class_folders", folder="images", size=8, per_class=0)
    found = sources.load(settings, tmp_path)
    assert (found.class_names, found.train.images.shape) == (("a", "b", "c", "d", "e", "f"), (6, 8, 8, 3))
    monkeypatch.setenv("DNM_CLASS_FOLDERS", str(tmp_path / "images"))
    assert sources.load(dataclasses.replace(settings, folder="nowhere"), ROOT).source == found.source
    (tmp_path / "images" / "test" / "e").rename(tmp_path / "images" / "test" / "a")
    with pytest.raises(DataError, match="class a is in train and in test, expected each class in one split alone"):
        sources.load(settings, tmp_path)


# Statistics and table.


def made(gain: float = 8.0, seeds: int = 5, noise: float = 4.0) -> list[dict[str, str]]:
    """Lines in which dnm recognises more of 50 queries than the other arms by `gain`, and noise."""
    draws = np.random.default_rng(5)
    level = {"centroid": 15, "traditional": 25, "meta_learning": 25, "dnm": 25 + gain, "start": 25, "scratch": 30}
    kinds = {"traditional": ("linear", "support_alone"), "meta_learning": ("maml", "prototypical")}
    found = []
    for arm in few_shot.ARMS:
        for seed in range(1 if arm == "centroid" else seeds):
            for shots in SHOTS:
                for method in kinds.get(arm, ("nearest_centroid" if arm == "centroid" else "prototypical",)):
                    chosen = method in ("maml", "linear") or arm not in kinds
                    for split in ("validation", "test"):
                        if split == "test" and method == "support_alone":
                            continue
                        mean = level[arm] + shots / 4 - (0 if chosen else 3) + draws.standard_normal()
                        right = np.clip(np.round(mean + noise * draws.standard_normal(60)), 0, 50).astype(int)
                        found.append({
                            "arm": arm, "seed": str(seed), "method": method, "split": split, "shots": str(shots),
                            "chosen": str(int(chosen)), "queries": "50", "episodes": "60",
                            "accuracy": str(right.mean() / 50), "right": " ".join(map(str, right)),
                        })  # fmt: skip
    return found


CLAIMED = {shots: {"improvement": 30.3, "over_meta_learning": 15.5} for shots in SHOTS}


def accuracies(lines: list[dict[str, str]], shots: int, arm: str, method: str = "") -> np.ndarray:
    """Test accuracies, percent, `seeds x episodes`; without a method, of the chosen one."""
    return np.array([
        [100 * int(right) / int(line["queries"]) for right in line["right"].split()]
        for line in lines
        if (line["arm"], line["shots"], line["split"]) == (arm, str(shots), "test")
        and (line["method"] == method if method else line["chosen"] == "1")
    ])  # fmt: skip


def test_statistics_against_scipy() -> None:
    lines = made()
    found = few_shot_statistics.few_shot_statistics(lines, CLAIMED)["shots"]
    assert list(found) == [str(shots) for shots in SHOTS]
    for shots in SHOTS:
        of = found[str(shots)]
        dnm = accuracies(lines, shots, "dnm")
        for name, control in {
            "improvement": accuracies(lines, shots, "traditional"),
            "over_meta_learning": accuracies(lines, shots, "meta_learning"),
            "over_prototypical": accuracies(lines, shots, "meta_learning", "prototypical"),
            "over_start": accuracies(lines, shots, "start"),
            "over_scratch": accuracies(lines, shots, "scratch"),
        }.items():
            test: Any = stats.ttest_rel(dnm.mean(axis=1), control.mean(axis=1))
            interval, difference = test.confidence_interval(), of["differences"][name]
            assert (difference["mean"], difference["p_value"], difference["low"], difference["high"]) == pytest.approx(
                ((dnm - control).mean(), test.pvalue, interval.low, interval.high)
            )
            over = stats.ttest_1samp((dnm - control).mean(axis=0), 0.0).confidence_interval()
            assert (difference["episodes"]["low"], difference["episodes"]["high"]) == pytest.approx(tuple(over))
            assert difference["sign_flip_floor"] == 2 / 2**5
            assert ("verdict" in difference) == (name in ("improvement", "over_meta_learning"))
        floor = accuracies(lines, shots, "centroid")
        assert floor.shape == (1, 60)
        assert of["arms"]["centroid"]["accuracy"] == {"mean": pytest.approx(floor.mean()), "num_values": 1}
        over = stats.ttest_1samp(floor[0], 0.0).confidence_interval()
        assert of["arms"]["centroid"]["episodes"]["low"] == pytest.approx(over.low)
        assert of["arms"]["meta_learning"]["chosen"] == {"maml": 5}
        own = [
            100 * float(line["accuracy"])
            for line in lines
            if (line["method"], line["split"], line["shots"]) == ("support_alone", "validation", str(shots))
        ]
        assert of["validation"]["support_alone"] == pytest.approx(np.mean(own))
    for name in ("improvement", "over_scratch"):
        # Holm over the four numbers of shots.
        ordered, least = sorted((of["differences"][name] for of in found.values()), key=lambda x: x["p_value"]), 0.0
        for place, difference in enumerate(ordered):
            least = max(least, min(1.0, (4 - place) * difference["p_value"]))
            assert difference["holm_p_value"] == pytest.approx(least)


@pytest.mark.parametrize(
    "gain, verdict",
    [(8.0, "direction only"), (30.0, "direction only"), (0.0, "not reproduced"), (-8.0, "contradicted")],
)
def test_verdicts(gain: float, verdict: str) -> None:
    # Larger than documented, too, as the document names no data on which it could be reproduced.
    found = few_shot_statistics.few_shot_statistics(made(gain), CLAIMED)["shots"]
    assert found["1"]["differences"]["improvement"]["verdict"] == verdict


@pytest.mark.parametrize(
    "missing", [("scratch", "3", "prototypical"), ("centroid", "0", "nearest_centroid"), ("dnm", "0", "prototypical")]
)
def test_arms_with_other_seeds_or_episodes_are_refused(missing: tuple[str, str, str]) -> None:
    lines = [line for line in made() if (line["arm"], line["seed"], line["method"]) != missing]
    with pytest.raises(cli.UserError, match="1 shots: the arms have different seeds .*run the few_shot stage again"):
        few_shot_statistics.few_shot_statistics(lines, CLAIMED)
    lines = made()
    next(line for line in lines if line["arm"] == "start" and line["split"] == "test")["right"] = "1 2"
    with pytest.raises(cli.UserError, match=r"numbers of episodes \(\[2, 60\]\)"):
        few_shot_statistics.few_shot_statistics(lines, CLAIMED)


def test_the_table_has_the_documents_rows_where_nothing_was_measured() -> None:
    document = documented.load()
    cells = few_shot_table.cells(document, {}, {}, {})
    table = document.tables["few_shot"]
    own = [(cell["row"], cell["column"]) for cell in cells if cell["column"] in table.columns]
    assert own == [(row, column) for row in table.rows for column in table.columns]
    assert all(cell["measured"] == "" and cell["verdict"] == "not measured at this scale" for cell in cells)
    assert "- 1 shot: not measured at this scale: no data set of few-shot" in few_shot_table.page(document, cells, {})


def test_the_table_says_why_20_shots_cannot_be_measured_on_20_drawings(tiny_row: Row) -> None:
    document, entry = documented.load(), tiny_few_shot.entry(tiny_row)
    lines = [line for line in made() if line["shots"] != "20"]
    why = "test: class a has 20 drawings: 20 shots leave no query and cannot be measured on it"
    found = {"omniglot": {
        "ways": 3, "queries": 3, "validation_episodes": 6, "not_measured": {"20": why}, "trained": [],
        **few_shot_statistics.few_shot_statistics(lines, CLAIMED),
    }}  # fmt: skip
    cells = few_shot_table.cells(document, {"omniglot": entry}, found, {"omniglot": "Omniglot"})
    at = {(cell["row"], cell["column"]): cell for cell in cells}
    for column in ("traditional", "dnm", "improvement", "scratch", "centroid"):
        cell = at["shots_20", column]
        assert (cell["measured"], cell["verdict"], cell["note"]) == ("", "not measured at this scale", why)
        assert at["shots_10", column]["measured"] != ""
    assert at["shots_20", "dnm"]["documented"] == "87.6"
    page = few_shot_table.page(document, cells, found)
    assert f"- 20 shots: not measured at this scale: {why}" in page


def committed(name: str) -> list[dict[str, str]]:
    with (ROOT / "metrics" / "embedded" / f"{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


SEEDS = 3
# The 97.5% quantile of Student's t with two degrees of freedom, and with 599.
TWO, EPISODES = 4.3026527, 1.9639389


def test_the_committed_table_comes_from_the_lines() -> None:
    """With csv and numpy alone, from what is committed."""
    cells = {(cell["row"], cell["column"]): cell for cell in committed("tables/few_shot")}
    lines = committed("few_shot/characters")
    gains = []
    for shots in SHOTS:
        values = {
            column: accuracies(lines, shots, *place)
            for column, place in {
                "traditional": ("traditional",), "meta_learning": ("meta_learning",), "dnm": ("dnm",),
                "start": ("start",), "scratch": ("scratch",), "prototypical": ("meta_learning", "prototypical"),
                "centroid": ("centroid",),
            }.items()
        }  # fmt: skip
        values["improvement"] = values["dnm"] - values["traditional"]
        values["over_meta_learning"] = values["dnm"] - values["meta_learning"]
        for column, of in values.items():
            cell = cells[f"shots_{shots}", column]
            assert of.shape == (1 if column == "centroid" else SEEDS, 600)
            assert float(cell["measured"]) == pytest.approx(of.mean(), rel=1e-5, abs=1e-6)
            over = of.mean(axis=0)
            half = EPISODES * over.std(ddof=1) / np.sqrt(600)
            assert (float(cell["episode_low"]), float(cell["episode_high"])) == pytest.approx(
                (over.mean() - half, over.mean() + half), rel=1e-4, abs=1e-6
            )
            if column == "centroid":
                assert (cell["low"], cell["seeds"]) == ("", "1")
                continue
            over = of.mean(axis=1)
            half = TWO * over.std(ddof=1) / np.sqrt(SEEDS)
            assert (float(cell["low"]), float(cell["high"])) == pytest.approx(
                (over.mean() - half, over.mean() + half), rel=1e-4, abs=1e-6
            )
            if column in ("improvement", "over_meta_learning"):
                expected = "not reproduced" if abs(over.mean()) <= half else "direction only"
                assert cell["verdict"] == (expected if over.mean() > -half else "contradicted")
        gains.append(values["improvement"].mean())
        # Neither at chance nor at its best.
        assert 20 < values["traditional"].mean() < 90
        assert values["centroid"].mean() < values["meta_learning"].mean()
    (claim,) = [cell for cell in committed("tables/achievements") if cell["row"] == "few_shot"]
    assert float(claim["measured"]) == pytest.approx(np.mean(gains), rel=1e-4, abs=1e-6)


def test_events_happened_in_the_committed_runs_and_edits_were_exact() -> None:
    grown = outputs.read_json(ROOT / "metrics" / "embedded" / "few_shot" / "characters.journals.json")
    assert [item["seed"] for item in grown] == list(range(SEEDS))
    for item in grown:
        taken = [event for event in item["events"] if event["entries"]]
        assert taken and all(event["output_difference"] < 1e-3 for event in taken)
    lines = committed("few_shot/characters.trials")
    flops = {(x["arm"], x["seed"]): int(x["training_flops"]) for x in lines if x["method"] == "prototypical"}
    for seed in map(str, range(SEEDS)):
        for arm in ("start", "scratch"):
            assert 0.97 * flops["dnm", seed] < flops[arm, seed] <= flops["dnm", seed]


def test_a_changed_raw_record_changes_the_table() -> None:
    settings, document = load_settings(ROOT / "params.yaml"), documented.load()
    entry = settings.few_shot["characters"]
    source = outputs.read_json(ROOT / "metrics" / "embedded" / "prepare" / "characters.json")["source"]
    claimed = {
        shots: {
            "improvement": document.number("few_shot", row, "improvement"),
            "over_meta_learning": round(
                document.number("few_shot", row, "dnm") - document.number("few_shot", row, "meta_learning"), 1
            ),
        }
        for row, shots in few_shot.documented_shots().items()
    }

    def cells(fewer: int) -> list[dict[str, Any]]:
        lines = committed("few_shot/characters")
        line = next(x for x in lines if (x["arm"], x["seed"], x["shots"], x["split"]) == ("dnm", "2", "5", "test"))
        first, *others = line["right"].split()
        line["right"] = " ".join([str(int(first) - fewer), *others])
        found = {"ways": 5, "queries": 10, "not_measured": {}, "trained": [], "validation_episodes": 30,
                 **few_shot_statistics.few_shot_statistics(lines, claimed)}  # fmt: skip
        return few_shot_table.cells(document, {"characters": entry}, {"characters": found}, {"characters": source})

    same = cells(0)
    assert [{key: str(value) for key, value in cell.items()} for cell in same] == committed("tables/few_shot")
    changed = {(a["row"], a["column"]) for a, b in zip(same, cells(1), strict=True) if a != b}
    assert changed == {("shots_5", column) for column in ("dnm", "improvement", "over_meta_learning")}


# Real drawings.


def omniglot(tmp_path: Path, execution: Execution) -> tuple[cli.Context, splits.DataSet]:
    if not os.environ.get("DNM_OMNIGLOT"):
        pytest.skip("DNM_OMNIGLOT does not say where Omniglot's archives lie")
    settings = load_settings(ROOT / "scales" / "workstation" / "params.yaml")
    own = cli.Context(dataclasses.replace(settings, execution=execution), tmp_path, "omniglot", "omniglot")
    assert isinstance(own.few_shot.data, Omniglot)
    data = sources.load(own.few_shot.data, ROOT)
    splits.save(own.data, data)
    return own, data


def test_20_shots_cannot_be_measured_on_omniglot(tmp_path: Path, execution: Execution) -> None:
    context, data = omniglot(tmp_path, execution)
    assert [len(np.unique(of.labels)) for of in (data.train, data.validation, data.test)] == [4 * 64, 22, 156]
    found = few_shot.unmeasured(context, data)
    assert list(found) == [20] and found[20].endswith("20 shots leave no query and cannot be measured on it")


@pytest.mark.nightly
def test_prototypical_networks_on_held_out_alphabets(tmp_path: Path, execution: Execution) -> None:
    """Minutes on one thread: the workstation's settings are as good as prototypical networks have to be there."""
    context, data = omniglot(tmp_path, execution)
    job = few_shot.job(context, "meta_learning", 0, (1, 5))
    trial.settle(job.execution)
    train, test = (trial.split_of(data, name, job) for name in ("train", "test"))
    model = few_shot_methods.embedding(job.settings.networks.baseline, 1, torch.Generator().manual_seed(0))
    learning = few_shot_training.prototypical(job.settings, model, train, 0)
    steps = few_shot_training.episodic_steps(job.settings, train)
    few_shot_training.train(model, learning, job.settings.training, length=Length(steps=steps))
    features = few_shot_methods.of_features(few_shot_methods.features(model, test))
    for shots, least in ((1, 0.92), (5, 0.97)):
        drawn = few_shot_trial._drawn(job, test, "test", shots)
        right = few_shot_methods.evaluate(few_shot_methods.prototypical, features, drawn)
        assert len(right) == 600 and sum(right) / (50 * 600) >= least, shots
