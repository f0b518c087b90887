"""Object detection: trials against trainings put together by hand, the stage, its table, real layouts."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.models import resnet18

import dnm
from stages import (
    arms,
    cli,
    detection,
    detection_data,
    detection_statistics,
    detection_table,
    detection_training,
    detection_trial,
    detectors,
    documented,
    estimate,
    outputs,
    records,
    results,
)
from stages.data.detection import sources, store
from stages.data.detection.annotations import Pictures
from stages.data.errors import DataError
from stages.data.settings import Annotated
from stages.detection_training import Shown
from stages.detection_trial import Job
from stages.detectors import Maps
from stages.settings import Execution, Row, Settings
from tests.stages import tiny_detection
from tests.stages.data.detection import files
from tests.stages.test_detection_scoring import reference

ROOT = Path(__file__).resolve().parents[2]
ARMS = ("baseline", "sota", "dnm", "start", "scratch")


@pytest.fixture(scope="module")
def prepared(tiny_row: Row, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prepared") / "scenes.safetensors"
    store.save(path, sources.load(tiny_detection.entry(tiny_row).data, path.parent))
    return path


@pytest.fixture
def context(tiny_row: Row, execution: Execution, prepared: Path, linked_root: Path) -> cli.Context:
    """Where the pictures have been prepared."""
    settings = Settings(
        scale="tiny", root=".", params_file="params.yaml", execution=execution,
        image_classification={"strokes": tiny_row}, contest={}, ranking={}, ablation={}, robustness={}, events={},
        nas={}, detection={"scenes": tiny_detection.entry(tiny_row)},
    )  # fmt: skip
    found = cli.Context(settings, linked_root, "scenes", "scenes")
    found.data.parent.mkdir(parents=True)
    found.data.symlink_to(prepared)
    outputs.write_json(found.metrics / "prepare" / "scenes.json", store.card(store.load(prepared)))
    return found


def job_of(context: cli.Context, arm: str, seed: int = 0, **changes: Any) -> Job:
    return dataclasses.replace(detection.job(context, arm, seed), **changes)


# One trial.


def normal(data: store.DetectionSet, name: str) -> torch.Tensor:
    """A split's images as networks take them."""
    pixels = data.train.images.astype(float)
    mean, deviation = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
    values = ((getattr(data, name).images - mean) / deviation).astype(np.float32)
    return torch.from_numpy(values).permute(0, 3, 1, 2)


def by_hand(job: Job, data: store.DetectionSet, steps: int) -> detectors.Detector:
    """The baseline's detector, trained by a loop of its own."""
    generator, settings = torch.Generator().manual_seed(job.seed), job.settings.training
    backbone = detectors.plain_backbone(job.settings.networks.baseline, 8, generator, 1)
    head = torch.Generator().manual_seed(detection_trial.HEAD + job.seed)
    model = detectors.fcos(backbone, 3, 32, head, 1).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    order, augmentation = (torch.Generator().manual_seed(2 * job.seed + offset) for offset in (0, 1))
    images, size, step = normal(data, "train"), settings.batch_size, 0
    while step < steps:
        permutation = torch.randperm(24, generator=order).tolist()
        for start in range(0, 24 - size + 1, size):
            flips = (torch.rand(size, generator=augmentation) < 0.5).tolist()
            batch, targets = [], []
            for row, flip in zip(permutation[start : start + size], flips, strict=True):
                boxes = torch.from_numpy(data.train.pictures[row].boxes.copy())
                if flip:
                    boxes[:, 0], boxes[:, 2] = 32 - boxes[:, 2].clone(), 32 - boxes[:, 0].clone()
                batch.append(images[row].flip(2) if flip else images[row])
                targets.append({"boxes": boxes, "labels": torch.from_numpy(data.train.pictures[row].labels)})
            up = (step + 1) / max(1.0, settings.warmup * steps)
            down = (1 - step / steps) / max(1 - settings.decay_from, 1 / steps)
            optimizer.param_groups[0]["lr"] = settings.learning_rate * min(1.0, up, down)
            loss = detectors.training_loss(model, torch.stack(batch), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return model


def test_scores_are_those_of_pycocotools_on_a_detector_trained_by_hand(context: cli.Context) -> None:
    job = job_of(context, "baseline", seed=1)
    assert job.settings.training.flip
    data, found = store.load(context.data), detection_trial.run(job)
    # Eight epochs of six batches.
    assert found["figures"]["steps"] == 48
    model = by_hand(job, data, 48)
    for name, figure in (("test", "test_map"), ("validation", "validation_map")):
        pictures = getattr(data, name).pictures
        mean, mean_50, over_all, at_50 = reference(detectors.predict(model, normal(data, name)), list(pictures), 3)
        assert found["figures"][figure] == pytest.approx(mean, abs=1e-3)
        if name == "test":
            assert found["figures"]["test_map_50"] == pytest.approx(mean_50, abs=1e-3)
            for pair, expected in zip(found["classes"], zip(over_all, at_50, strict=True), strict=True):
                assert pair == pytest.approx(expected, abs=1e-3)
            assert mean_50 > 0
    assert found["widths"] == [[8], [8], [12, 12]]
    assert found["branches"] == found["journal"] == []


def test_arms_begin_with_the_same_head_and_see_the_same_pictures(context: cli.Context) -> None:
    data = store.load(context.data)
    heads = [detection_trial.detector_of(job_of(context, arm), data).head.state_dict() for arm in ("baseline", "start")]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    other = detection_trial.detector_of(job_of(context, "start", seed=1), data).head.state_dict()
    assert not torch.equal(heads[0]["regression_head.bbox_reg.weight"], other["regression_head.bbox_reg.weight"])
    shown = Shown.of(data.train, data.train, "cpu")
    first, second = (detection_training._batches(shown, context.detection.training, 3) for _ in range(2))
    for _ in range(9):
        assert torch.equal(next(first)[0], next(second)[0])


def test_mirrored_pictures_have_mirrored_boxes(context: cli.Context) -> None:
    data = store.load(context.data)
    shown, rows = Shown.of(data.train, data.train, "cpu"), torch.arange(6)
    images, targets = shown.batch(rows, torch.tensor([True, False] * 3))
    for row in range(6):
        plain = normal(data, "train")[row].numpy()
        boxes = data.train.pictures[row].boxes.tolist()
        if row % 2 == 0:
            plain, boxes = plain[..., ::-1], [[32 - x2, y1, 32 - x1, y2] for x1, y1, x2, y2 in boxes]
        assert np.allclose(images[row].numpy(), plain, atol=1e-5)
        assert targets[row]["boxes"].tolist() == boxes
        assert targets[row]["labels"].tolist() == data.train.pictures[row].labels.tolist()


def test_the_main_class_is_that_of_the_largest_object() -> None:
    from tests.stages.test_detection_scoring import picture

    small, large, tall = (1, 1, 9, 9), (1, 1, 21, 11), (0, 0, 15, 60)
    pictures = [
        picture([small, large], [2, 0]),
        picture([large, small], [1, 2]),
        picture([], []),
        picture([large, tall], [1, 0], crowd=[False, True]),
        picture([large], [1], difficult=[True]),
    ]
    assert detection_training.main_classes(pictures, 3).tolist() == [0, 1, 3, 1, 3]


def test_the_rival_spends_what_the_baseline_spends(context: cli.Context) -> None:
    baseline, sota = (detection_trial.run(job_of(context, arm))["figures"] for arm in ("baseline", "sota"))
    full, each = baseline["training_flops"], sota["training_flops"] / sota["steps"]
    assert full - each < sota["training_flops"] <= full
    assert sota["steps"] != baseline["steps"]


def test_a_resnet_of_64_channels_is_torchvisions() -> None:
    own = detectors.resnet18_backbone(16, torch.Generator().manual_seed(0), levels=4).body
    theirs = resnet18(weights=None)
    expected = {name: values.shape for name, values in theirs.state_dict().items() if not name.startswith("fc.")}
    assert {name: values.shape for name, values in own.state_dict().items()} == expected
    own.load_state_dict({name: values for name, values in theirs.state_dict().items() if not name.startswith("fc.")})
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs.fc = torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        pooled = own.eval()(images)["3"].mean(dim=(2, 3))
        assert torch.allclose(pooled, theirs.eval()(images), atol=1e-4)
    # He et al.'s initial weights have a variance of 2 over outputs times positions.
    weights = detectors.resnet18_backbone(8, torch.Generator().manual_seed(0), levels=4).body["layer4"][1].conv2.weight
    assert weights.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    narrow = detectors.resnet18_backbone(8, torch.Generator().manual_seed(0), levels=3, width=16)
    assert [level.shape[1:] for level in narrow.body(images).values()] == [(16, 16, 16), (32, 8, 8), (64, 4, 4)]


# What grows.


@pytest.fixture(scope="module")
def grown(tiny_row: Row, execution: Execution, prepared: Path) -> dict[str, Any]:
    """A trial of dnm."""
    return detection_trial.run(Job("scenes", tiny_detection.entry(tiny_row), execution, str(prepared), "dnm", 0, True))


def test_events_happen_and_are_exact(
    grown: dict[str, Any], tiny_row: Row, execution: Execution, prepared: Path
) -> None:
    taken = [event for event in grown["events"] if event["entries"]]
    assert taken
    assert all(0 <= event["output_difference"] < 1e-4 for event in taken)
    assert grown["figures"]["edits"] == len(grown["journal"]) > 0
    # Pyramid and head are not among what there is to grow, and not among what grew.
    rows = [row for event in grown["events"] for row in event["rows"]]
    assert rows
    places = {row["place"] for row in rows}
    assert all(re.match(r"backbone\.body\.block\d\.\d", place) for place in places), places
    # What there is besides is as it was.
    entry, size = tiny_detection.entry(tiny_row), {}
    for arm in ("start", "scratch"):
        shape = arms.shape_of(grown) if arm == "scratch" else (None, None)
        job = Job("scenes", entry, execution, str(prepared), arm, 0, widths=shape[0], branches=shape[1])
        model = detection_trial.detector_of(job, store.load(prepared))
        size[arm] = [p.shape for part in (model.head, model.backbone.fpn.layer_blocks) for p in part.parameters()]
    assert size["start"] == size["scratch"]


def test_scratch_has_the_grown_architecture_from_its_first_step(context: cli.Context, grown: dict[str, Any]) -> None:
    assert grown["widths"] != [[4], [4], [8, 8]] or grown["branches"]
    job = detection.job(context, "scratch", 0, grown)
    assert (job.flops, job.grown, job.backbone) == (grown["figures"]["training_flops"], False, "plain")
    found = detection_trial.run(job)
    assert (found["widths"], found["branches"]) == (grown["widths"], grown["branches"])
    assert found["figures"]["parameters"] == grown["figures"]["parameters"]
    assert found["figures"]["forward_flops"] == grown["figures"]["forward_flops"]
    assert found["events"] == []
    spent = grown["figures"]["training_flops"]
    assert spent - found["figures"]["training_flops"] / found["figures"]["steps"] < found["figures"]["training_flops"]
    assert found["figures"]["training_flops"] <= spent


def test_branches_are_found_and_built_again() -> None:
    widths = ((4,), (8,), (8, 8))
    source = torch.Generator().manual_seed(0)
    model = detectors.fcos(detectors.plain_backbone(widths, 8, source, 1), 3, 32, source, 1)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    # Behind the second block's pooling, and behind the last convolution of the third one.
    for edit in (
        dnm.AddResidual("backbone.body.block1.0"), dnm.AddAttention("backbone.body.block2.4"),
        dnm.AddResidual("backbone.body.block2.4"), dnm.Divide("backbone.body.block2.1", (0, 1)),
    ):  # fmt: skip
        applied = dnm.apply(Maps(model), edit, images)
        assert max(applied.eval_difference, applied.train_difference) < 1e-5
    assert detectors.widths_of(model) == ((4,), (8,), (10, 8))
    found = detectors.branches_of(model)
    # Pooling is layer 3 of the whole network, and the last convolution layer 11.
    assert [(operator, at) for operator, at, _ in found] == [
        ("AddResidual", "3"), ("AddAttention", "11"), ("AddResidual", "11"),
    ]  # fmt: skip
    source = torch.Generator().manual_seed(0)
    backbone = detectors.plain_backbone(detectors.widths_of(model), 8, source, 1, found, seed=3)
    again = detectors.fcos(backbone, 3, 32, source, 1)
    assert detectors.widths_of(again) == detectors.widths_of(model)
    assert detectors.branches_of(again) == found
    shapes = [{name: tuple(p.shape) for name, p in one.named_parameters()} for one in (model, again)]
    assert shapes[0] == shapes[1]


# The stage.


def columns_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_stage(context: cli.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    detection.main(context)
    folder = context.metrics / "detection"
    content = {file: file.read_bytes() for file in sorted(folder.iterdir())}
    assert [file.name for file in content] == [
        "scenes.csv", "scenes.journals.json", "scenes.json", "scenes.trials.csv",
    ]  # fmt: skip
    lines = columns_of(folder / "scenes.trials.csv")
    assert [(line["arm"], line["seed"]) for line in lines] == [(arm, seed) for arm in ARMS for seed in "01"]
    at = {(line["arm"], line["seed"]): line for line in lines}
    classes = columns_of(folder / "scenes.csv")
    for key, line in at.items():
        of = [x for x in classes if (x["arm"], x["seed"]) == key]
        for figure, column in (("test_map", "average_precision"), ("test_map_50", "average_precision_50")):
            # The mean over the classes that the test split has.
            assert float(line[figure]) == pytest.approx(np.mean([float(x[column]) for x in of]), abs=1e-6)
    for seed in "01":
        spent = {arm: int(at[arm, seed]["training_flops"]) for arm in ARMS}
        for arm, most in {"sota": "baseline", "start": "dnm", "scratch": "dnm"}.items():
            step = spent[arm] / int(at[arm, seed]["steps"])
            assert spent[most] - step < spent[arm] <= spent[most]
        size = {arm: int(at[arm, seed]["parameters"]) for arm in ARMS}
        assert size["scratch"] == size["dnm"] > size["start"]
        assert int(at["dnm", seed]["edits"]) > 0
        assert at["start", seed]["edits"] == at["scratch", seed]["edits"] == "0"
        assert at["dnm", seed]["steps"] == at["baseline", seed]["steps"] == "48"
    summary = outputs.read_json(folder / "scenes.json")
    expected = np.mean([float(at["scratch", seed]["test_map"]) for seed in "01"])
    assert summary["arms"]["scratch"]["test_map"] == pytest.approx(expected)
    # As often as one likes, and however many at once.
    monkeypatch.setenv("DNM_WORKERS", "2")
    detection.main(context)
    assert {file: file.read_bytes() for file in content} == content
    # What stands in tables and in MLflow.
    found = {"scenes": detection_statistics.of_detection(context)}
    detection_statistics.correct(found)
    cells = detection_table.cells(documented.load(), found, {"scenes": "drawn scenes"})
    check_against(cells, {"pascal_voc": lines}, 2)
    page = detection_table.page(documented.load(), cells, found)
    assert "mAP@[.5:.95], measured on drawn scenes" in page
    assert "3 classes, 32 pixels; train 24 images" in page
    assert "- COCO: not measured at this scale: no data set of this row has been measured at this scale" in page
    assert results.settings(context, "detection")["detection.detector.head"] == "fcos"
    assert results.has_run(context, "detection")
    assert results.read(context, "detection").arms == summary["arms"]


def test_pictures_are_prepared_under_the_name_of_their_entry(context: cli.Context, prepared: Path) -> None:
    other = dataclasses.replace(context, root=context.root / "elsewhere")
    detection_data.main(other)
    assert other.data.read_bytes() == prepared.read_bytes()
    card = outputs.read_json(other.metrics / "prepare" / "scenes.json")
    assert card["source"] == "generated scenes of 3 classes"
    data = store.load(prepared)
    for name in ("train", "validation", "test"):
        pictures = getattr(data, name).pictures
        of = card["samples"][name]
        assert (of["total"], of["without_objects"], of["ignored"]) == (len(pictures), 0, 0)
        assert of["objects"] == sum(of["per_class"]) == sum(len(picture.labels) for picture in pictures)


def test_settings_and_pictures_decide_a_trial(context: cli.Context) -> None:
    job, code = job_of(context, "baseline"), "code"
    mark = records.fingerprint(job, "data", code)
    entry = job.settings
    for settings in (
        dataclasses.replace(entry, detector=dataclasses.replace(entry.detector, convolutions=2)),
        dataclasses.replace(entry, resnet=dataclasses.replace(entry.resnet, width=16)),
        dataclasses.replace(entry, networks=dataclasses.replace(entry.networks, baseline=((8,), (8,), (8, 12)))),
        dataclasses.replace(entry, training=dataclasses.replace(entry.training, flip=False)),
    ):
        assert records.fingerprint(dataclasses.replace(job, settings=settings), "data", code) != mark
    for other in ({"seed": 1}, {"arm": "dnm"}, {"backbone": "resnet"}):
        assert records.fingerprint(dataclasses.replace(job, **other), "data", code) != mark, other
    assert records.fingerprint(job, "other data", code) != mark
    more = dataclasses.replace(job, settings=dataclasses.replace(entry, seeds=3), data="elsewhere")
    assert records.fingerprint(more, "data", code) == mark
    for arm, grower in (("baseline", None), ("dnm", records.GROWN), ("sota", None)):
        job = job_of(context, arm)
        assert records.grower_of(job) == grower
        code_files = records.code_files(ROOT, records.grower_of(job), records.also_of(job))
        names = {file.relative_to(ROOT).as_posix() for file in code_files}
        # All of ours that the trial's module imports, but for what no figure depends on.
        imported = records.imported(ROOT, ROOT / "stages" / "detection_trial.py", "stages")
        own = {file.relative_to(ROOT).as_posix() for file in imported if "/detection" in str(file)}
        assert own - {"stages/data/detection/__init__.py"} <= names | {"stages/detection_trial.py"}
        assert {"stages/detectors.py", "stages/detection_scoring.py", "stages/few_shot_training.py"} <= names
        assert "stages/detection_table.py" not in names
        assert ("stages/growing.py" in names) == (arm == "dnm")


def test_the_estimate_bounds_what_is_spent(context: cli.Context) -> None:
    found = {of.arm: of for of in estimate.trials_of(context, "detection")}
    assert {arm: of.todo for arm, of in found.items()} == dict.fromkeys(ARMS, 2)
    spent = detection_trial.run(job_of(context, "baseline"))["figures"]["training_flops"]
    assert (found["baseline"].flops, found["baseline"].how) == (spent, "")
    assert (found["sota"].flops, found["sota"].how) == (spent, "<=")
    assert found["dnm"].flops == round(spent * context.detection.dnm.max_training_flops)
    # Before there is a card it is known from the settings of generated scenes.
    elsewhere = dataclasses.replace(context, root=context.root / "elsewhere")
    assert {of.arm: of.flops for of in estimate.trials_of(elsewhere, "detection")}["baseline"] == spent
    assert estimate.speed(context, "detection").flops is None


def test_a_training_that_diverges_says_so(context: cli.Context) -> None:
    settings = context.detection
    wild = dataclasses.replace(settings.training, learning_rate=1e8, optimizer="SGD")
    job = job_of(context, "start", settings=dataclasses.replace(settings, training=wild))
    with pytest.raises(FloatingPointError, match=r"the training loss is .* lower learning_rate \(100000000.0\)"):
        detection_trial.run(job)


def test_batches_of_more_than_there_are_are_refused(context: cli.Context) -> None:
    large = dataclasses.replace(context.detection.training, batch_size=25)
    job = job_of(context, "start", settings=dataclasses.replace(context.detection, training=large))
    with pytest.raises(ValueError, match="batch_size is 25, expected at most the 24 training pictures"):
        detection_trial.run(job)


# Pictures from files.


def annotated(source: Any, **changes: Any) -> Annotated:
    found = Annotated(
        source=source, folder="pictures", train="train", test="test", size=32, images=0, flat=0.0, seed=2,
        validation=0.34,
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def write_coco(folder: Path, crowds: bool = False) -> None:
    """Twice the same three images, of which the test split has other pixels; crowds of train are so if told."""
    for number, name in enumerate(("train", "test")):
        content = files.coco_content()
        if not number and not crowds:
            content["annotations"][1]["iscrowd"] = 0
        path = files.write_coco(folder, content)
        path.rename(path.with_name(f"instances_{name}.json"))
        (folder / "val2017").rename(folder / name)
        for row, image in enumerate(sorted((folder / name).iterdir())):
            height, width = {"139": (40, 60), "025": (30, 20), "632": (16, 16)}[image.stem[-3:]]
            files.write_image(image, height, width, 10 * number + row)


def test_coco_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(tmp_path / "pictures")
    found = sources.load(annotated("coco"), tmp_path)
    assert (found.class_names, found.source) == (("person", "dog", "toothbrush"), "COCO (train and test)")
    assert [len(split) for split in (found.train, found.validation, found.test)] == [2, 1, 3]
    at = {picture.place.rsplit("(", 1)[-1]: picture for picture in found.test.pictures}
    large, crowded, empty = (at[f"000000000{number}.jpg)"] for number in ("139", "025", "632"))
    # 60 pixels across become 32; the crowd is kept and is nothing to be found; an image may be empty.
    assert large.boxes.tolist() == [
        pytest.approx([10.5 * 32 / 60, 4.25 * 21 / 40, 30.5 * 32 / 60, 34.75 * 21 / 40]),
        pytest.approx([50 * 32 / 60, 20 * 21 / 40, 32, 21], abs=1e-4),
    ]
    assert crowded.ignored.tolist() == [True] and empty.labels.tolist() == []
    assert detectors.target(crowded)["boxes"].shape == (0, 4)
    assert found.test.images.shape == (3, 32, 32, 3) and not found.test.images[0, 21:].any()
    card = store.card(found)
    assert card["samples"]["test"] == {
        "total": 3, "without_objects": 2, "objects": 2, "per_class": [1, 1, 0], "ignored": 1,
    }  # fmt: skip
    monkeypatch.setenv("DNM_COCO", str(tmp_path / "pictures"))
    assert store.card(sources.load(annotated("coco", folder="nowhere"), ROOT)) == card
    first = sources.load(annotated("coco", images=2), ROOT)
    assert [len(split) for split in (first.train, first.validation, first.test)] == [1, 1, 2]
    assert first.source == "COCO (train and test, the first 2 images of each)"


def test_pascal_voc_from_files(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    files.write_voc(folder)
    lists = folder / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("000012\n000017\n")
    (lists / "test.txt").write_text("000017\n")
    settings = annotated("voc", train="trainval", validation=0.5)
    with pytest.raises(DataError, match="000017.*the image is that of .*expected each image once, in one split"):
        sources.load(settings, tmp_path)
    for number, text in enumerate(("000018", "000019")):
        files.write_image(folder / "JPEGImages" / f"{text}.jpg", 30, 20, 20 + number)
        (folder / "Annotations" / f"{text}.xml").write_bytes((folder / "Annotations" / "000017.xml").read_bytes())
    (lists / "test.txt").write_text("000018\n000019\n")
    found = sources.load(settings, tmp_path)
    assert (len(found.class_names), found.source) == (20, "Pascal VOC (trainval and test)")
    assert [len(split) for split in (found.train, found.validation, found.test)] == [1, 1, 2]
    assert found.test.pictures[0].boxes[0].tolist() == pytest.approx([21 / 20, 32 / 30, 19 * 21 / 20, 29 * 32 / 30])
    # The objects of two pixels' distance from the border touch nothing.
    assert [found.class_names[label] for label in found.test.pictures[1].labels] == ["aeroplane"]


def test_open_images_from_files(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    files.write_open_images(folder)
    (folder / "validation").rename(folder / "train")
    (folder / "validation-annotations-bbox.csv").rename(folder / "train-annotations-bbox.csv")
    table = (folder / "train-annotations-bbox.csv").read_text()
    (folder / "test-annotations-bbox.csv").write_text(table.replace("0001eeaf", "0002eeaf").replace("000595", "000695"))
    (folder / "train-annotations-bbox.csv").write_text(table.replace(",0,0,1,0,0", ",0,0,0,0,0"))
    for number, name in enumerate(("0002eeaf4aed83f9", "000695fe6fee6369")):
        files.write_image(folder / "test" / f"{name}.jpg", 40, 60, 30 + number)
    found = sources.load(annotated("open_images"), tmp_path)
    assert (found.class_names, found.source) == (("Fruit", "Airplane", "Camera, old"), "Open Images (train and test)")
    assert sorted(int(picture.ignored.sum()) for picture in found.test.pictures) == [0, 1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmax>60</xmax>", "<xmax>75</xmax>", "object 0 (car): the box (10, 4, 75, 40) lies outside of its image, ex"),
        ("<xmax>60</xmax>", "<xmax>10</xmax>", "object 0 (car): the box (10, 4, 10, 40) has no area, expected x1 < x2"),
    ],
)
def test_a_box_that_is_none_ends_the_stage_in_one_message(
    old: str, new: str, message: str, context: cli.Context, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = context.root / "pictures"
    files.write_voc(folder, {old: new})
    (folder / "ImageSets" / "Main" / "test.txt").write_text("000017\n")
    entry = dataclasses.replace(context.detection, data=annotated("voc", train="trainval"))
    own = dataclasses.replace(context, settings=dataclasses.replace(context.settings, detection={"scenes": entry}))
    before = context.data.read_bytes()
    with pytest.raises(SystemExit) as ended, cli.told("detection_data"):
        detection_data.main(own)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {folder / 'Annotations' / '000012.xml'}: image 000012.jpg, ")
    assert said.count("\n") == 1
    assert message in said
    assert context.data.read_bytes() == before


def test_splits_that_cannot_be_used(tmp_path: Path, context: cli.Context) -> None:
    write_coco(tmp_path / "pictures", crowds=True)
    # Of the three images one alone has something to be found.
    messages = []
    for seed in range(8):
        try:
            sources.load(annotated("coco", validation=0.5, seed=seed), tmp_path)
        except DataError as error:
            messages.append(str(error))
    assert messages and all("without an object to be found, expected at least one" in text for text in messages)
    with pytest.raises(DataError, match="1 image, expected at least 2, one to train on and one to validate on"):
        sources.load(annotated("coco", images=1), tmp_path)
    data = store.load(context.data)
    train = Pictures(data.train.pictures, data.class_names, "train")
    kept, taken = sources.take_validation(train, 0.25, 3)
    assert (len(kept), len(taken)) == (18, 6)
    assert sorted(map(id, (*kept.pictures, *taken.pictures))) == sorted(map(id, train.pictures))
    again = sources.take_validation(train, 0.25, 3)[1].pictures
    assert all(one is other for one, other in zip(again, taken.pictures, strict=True))
    assert {id(one) for one in sources.take_validation(train, 0.25, 4)[1].pictures} != set(map(id, again))
    few = Pictures((data.train.pictures[0], dataclasses.replace(data.train.pictures[1], height=9)), ("a",), "few")
    with pytest.raises(DataError, match=r"few: images of \[\(9, 32\), \(32, 32\)\] pixels, expected one size"):
        store.album(few)


def test_a_file_that_holds_no_pictures(tmp_path: Path, prepared: Path) -> None:
    file = tmp_path / "x.safetensors"
    with pytest.raises(DataError, match=r"x.safetensors: no such file, expected pictures; run the detection_data st"):
        store.load(file)
    for content in (b"nothing", prepared.read_bytes()[:-7]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"x.safetensors: not pictures .* delete the file and run the detection_da"):
            store.load(file)


def test_what_is_saved_is_read_again(tmp_path: Path, context: cli.Context) -> None:
    write_coco(tmp_path / "pictures")
    found = sources.load(annotated("coco"), tmp_path)
    store.save(tmp_path / "a", found)
    again = store.load(tmp_path / "a")
    store.save(tmp_path / "b", again)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert store.card(again) == store.card(found)
    for name in ("train", "validation", "test"):
        for one, other in zip(getattr(found, name).pictures, getattr(again, name).pictures, strict=True):
            for key in ("image", "boxes", "labels", "crowd", "difficult"):
                assert np.array_equal(getattr(one, key), getattr(other, key))
    # Whatever changes, the hash does.
    mark = store.card(found)["sha256"]
    for change in (lambda p: p.boxes.__iadd__(0.5), lambda p: p.labels.__iadd__(1), lambda p: p.crowd.__ior__(True)):
        other = store.load(tmp_path / "a")
        change(next(picture for picture in other.test.pictures if len(picture.labels)))
        assert store._fingerprint(other) != mark


# Statistics and table.


def made(gain: float = 5.0, seeds: int = 5, row: int = 0) -> list[dict[str, str]]:
    """Lines in which dnm has a mAP higher than the other arms' by `gain` points, and noise."""
    draws = np.random.default_rng(row)
    level = {"baseline": 30.0, "sota": 28.0, "dnm": 30.0 + gain, "start": 27.0, "scratch": 31.0}
    found = []
    for arm in ARMS:
        for seed in range(seeds):
            value = level[arm] + draws.standard_normal()
            found.append({
                "arm": arm, "seed": str(seed), "test_map": repr(value / 100), "test_map_50": repr(1.7 * value / 100),
                "validation_map": "0.1", "train_loss": "1.0", "parameters": str(1000 + 100 * ARMS.index(arm)),
                "forward_flops": "3000000", "training_flops": str(10**9 + seed), "steps": "150",
                "edits": "4" if arm == "dnm" else "0", "fingerprint": "x",
            })  # fmt: skip
    return found


CLAIMED = {"improvement": 7.2, "over_sota": 3.5}


def precision(lines: list[dict[str, str]], arm: str, figure: str = "test_map") -> np.ndarray:
    return np.array([100 * float(line[figure]) for line in lines if line["arm"] == arm])


def test_statistics_against_scipy() -> None:
    entries = {str(row): made(row=row) for row in range(3)}
    found = {name: detection_statistics.detection_statistics(lines, CLAIMED) for name, lines in entries.items()}
    detection_statistics.correct(found)
    for measure, figure in (("map", "test_map"), ("map_50", "test_map_50")):
        for kind, control in {
            "improvement": "baseline", "over_sota": "sota", "over_start": "start", "over_scratch": "scratch",
        }.items():  # fmt: skip
            p_values = {}
            for name, lines in entries.items():
                dnm_, other = precision(lines, "dnm", figure), precision(lines, control, figure)
                test: Any = stats.ttest_rel(dnm_, other)
                interval, difference = test.confidence_interval(), found[name]["differences"][measure][kind]
                assert (difference["mean"], difference["p_value"], difference["low"], difference["high"]) == (
                    pytest.approx(((dnm_ - other).mean(), test.pvalue, interval.low, interval.high))
                )
                assert difference["sign_flip_floor"] == 2 / 2**5
                assert ("verdict" in difference) == (measure == "map" and kind in CLAIMED)
                p_values[name] = test.pvalue
            # Holm over the three data sets.
            least = 0.0
            for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
                least = max(least, min(1.0, (3 - place) * p_values[name]))
                assert found[name]["differences"][measure][kind]["holm_p_value"] == pytest.approx(least)
    of = found["0"]["arms"]["dnm"]
    assert (of["parameters"], of["edits"], of["training_flops"]) == (1200.0, 4.0, 10**9 + 2)


@pytest.mark.parametrize(
    "gain, verdict",
    [(5.0, "direction only"), (30.0, "direction only"), (0.2, "not reproduced"), (-5.0, "contradicted")],
)
def test_verdicts(gain: float, verdict: str) -> None:
    # Larger than documented, too, as the document names no protocol by which it could be reproduced.
    found = detection_statistics.detection_statistics(made(gain), CLAIMED)
    assert found["differences"]["map"]["improvement"]["verdict"] == verdict


def test_arms_with_other_seeds_are_refused() -> None:
    lines = [line for line in made() if (line["arm"], line["seed"]) != ("scratch", "3")]
    with pytest.raises(cli.UserError, match="the arms have different seeds .*; run the detection stage again"):
        detection_statistics.detection_statistics(lines, CLAIMED)


def test_the_table_has_the_documents_rows_where_nothing_was_measured() -> None:
    document = documented.load()
    cells = detection_table.cells(document, {}, {})
    table = document.tables["object_detection"]
    own = [(cell["row"], cell["column"]) for cell in cells if cell["column"] in table.columns]
    assert own == [(row, column) for row in table.rows for column in table.columns]
    assert all(cell["measured"] == "" and cell["verdict"] == "not measured at this scale" for cell in cells)
    stated = {(cell["row"], cell["column"]): cell["documented"] for cell in cells}
    assert (stated["coco", "baseline"], stated["open_images", "improvement"]) == ("42.1", "7.7")
    assert stated["coco", "baseline_50"] == stated["coco", "start"] == ""
    page = detection_table.page(document, cells, {})
    assert "- Pascal VOC: not measured at this scale: no data set of this row" in page
    assert "| COCO | document | 42.1 | 45.8 | 49.3 | 7.2 | - | - | - |" in page


# The 97.5% quantile of Student's t, by the number of values.
QUANTILES = {2: 12.7062047, 3: 4.3026527, 5: 2.7764451}


def check_against(cells: list[Any], trials: dict[str, list[dict[str, str]]], seeds: int) -> None:
    """Holds cells against the lines of trials, by row, with numpy alone."""
    at = {(cell["row"], cell["column"]): cell for cell in cells}
    for row, lines in trials.items():
        for ending, figure in (("", "test_map"), ("_50", "test_map_50")):
            values = {arm: precision(lines, arm, figure) for arm in ARMS}
            values["improvement"] = values["dnm"] - values["baseline"]
            values["over_sota"] = values["dnm"] - values["sota"]
            for column, of in values.items():
                cell = at[row, column + ending]
                assert of.shape == (seeds,) and int(cell["seeds"]) == seeds
                half = QUANTILES[seeds] * of.std(ddof=1) / np.sqrt(seeds)
                assert (float(cell["measured"]), float(cell["low"]), float(cell["high"])) == pytest.approx(
                    (of.mean(), of.mean() - half, of.mean() + half), rel=1e-4, abs=1e-4
                )
                if column in ("improvement", "over_sota") and not ending:
                    expected = "not reproduced" if abs(of.mean()) <= half else "direction only"
                    assert cell["verdict"] == (expected if of.mean() > -half else "contradicted")
                else:
                    assert cell["verdict"] == ""


def committed(name: str) -> list[dict[str, str]]:
    return columns_of(ROOT / "metrics" / "embedded" / f"{name}.csv")


ROWS = ("coco", "pascal_voc", "open_images")


def test_the_committed_table_comes_from_the_trials() -> None:
    """With csv and numpy alone, from what is committed."""
    trials = {row: committed(f"detection/{row}.trials") for row in ROWS}
    check_against(committed("tables/object_detection"), trials, 3)
    for row, lines in trials.items():
        # Neither at chance nor at its best.
        assert 20 < precision(lines, "baseline").mean() < 90
        for line in lines:
            own = (line["arm"], line["seed"])
            of = [x for x in committed(f"detection/{row}") if (x["arm"], x["seed"]) == own]
            mean = np.mean([float(x["average_precision"]) for x in of])
            assert mean == pytest.approx(float(line["test_map"]), abs=1e-5)


@pytest.mark.parametrize("row", ROWS)
def test_events_happened_in_the_committed_runs_and_edits_were_exact(row: str) -> None:
    grown = outputs.read_json(ROOT / "metrics" / "embedded" / "detection" / f"{row}.journals.json")
    assert [item["seed"] for item in grown] == [0, 1, 2]
    for item in grown:
        taken = [event for event in item["events"] if event["entries"]]
        assert taken and all(event["output_difference"] < 1e-3 for event in taken)
    flops = {(x["arm"], x["seed"]): int(x["training_flops"]) for x in committed(f"detection/{row}.trials")}
    for seed in "012":
        for arm, most in (("sota", "baseline"), ("start", "dnm"), ("scratch", "dnm")):
            assert 0.97 * flops[most, seed] < flops[arm, seed] <= flops[most, seed]


def test_a_changed_raw_record_changes_the_table() -> None:
    document = documented.load()
    found = {row: committed(f"detection/{row}.trials") for row in ROWS}
    cells = committed("tables/object_detection")
    line = next(x for x in found["coco"] if (x["arm"], x["seed"]) == ("dnm", "2"))
    line["test_map"] = repr(float(line["test_map"]) + 0.01)
    row = document.tables["object_detection"].rows["coco"].values
    claimed = {"improvement": row["improvement"], "over_sota": 3.5}
    changed = detection_statistics.detection_statistics(found["coco"], claimed)  # type: ignore[arg-type]
    old = {cell["column"]: cell for cell in cells if cell["row"] == "coco"}
    assert changed["arms"]["dnm"]["map"]["mean"] == pytest.approx(float(old["dnm"]["measured"]) + 1 / 3, rel=1e-4)
    assert changed["arms"]["start"]["map"]["mean"] == pytest.approx(float(old["start"]["measured"]), rel=1e-4)
    assert changed["differences"]["map"]["improvement"]["mean"] == pytest.approx(
        float(old["improvement"]["measured"]) + 1 / 3, rel=1e-4, abs=1e-5
    )
