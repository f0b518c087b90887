"""Average precision: against pycocotools on the same predictions, and in cases that can be worked out."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch

from stages.data.detection.annotations import Picture
from stages.detection_scoring import score


def picture(boxes: Any, labels: Any, crowd: Any = None, difficult: Any = None) -> Picture:
    """A picture of 64 x 64 pixels."""
    num = len(labels)
    return Picture(
        image=np.zeros((64, 64, 3), np.uint8),
        height=64,
        width=64,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        crowd=np.zeros(num, bool) if crowd is None else np.array(crowd, bool),
        difficult=np.zeros(num, bool) if difficult is None else np.array(difficult, bool),
        place="made up",
    )


def found(boxes: Any, scores: Any, labels: Any) -> dict[str, torch.Tensor]:
    """Predictions in torchvision's format."""
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def reference(predictions: list[dict[str, torch.Tensor]], pictures: list[Picture], classes: int) -> tuple:
    """mAP@[.5:.95], mAP@.5 and the average precisions of classes, by pycocotools alone."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box: list[float]) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    with contextlib.redirect_stdout(io.StringIO()):
        truth, guesses = COCO(), COCO()
        images = [{"id": number} for number in range(len(pictures))]
        categories = [{"id": label + 1, "name": str(label)} for label in range(classes)]
        annotations, results = [], []
        for number, one in enumerate(pictures):
            for row, (box, label) in enumerate(zip(one.boxes.astype(float).tolist(), one.labels.tolist(), strict=True)):
                x, y, width, height = xywh(box)
                annotations.append({
                    "id": len(annotations) + 1, "image_id": number, "category_id": label + 1,
                    "bbox": [x, y, width, height], "area": width * height,
                    "iscrowd": int(one.crowd[row] or one.difficult[row]),
                })  # fmt: skip
        for number, one in enumerate(predictions):
            columns = (one["boxes"].double().tolist(), one["scores"].tolist(), one["labels"].tolist())
            for box, value, label in zip(*columns, strict=True):
                results.append({"image_id": number, "category_id": label + 1, "bbox": xywh(box), "score": value})
        truth.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        truth.createIndex()
        if results:
            guesses = truth.loadRes(results)
        else:
            guesses.dataset = {"info": {}, "images": images, "annotations": [], "categories": categories}
            guesses.createIndex()
        evaluation = COCOeval(truth, guesses, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    each = [precision[:, :, label] for label in range(classes)]
    over_all = [float(one.mean()) if one.max() > -1 else None for one in each]
    at_50 = [float(one[0].mean()) if one.max() > -1 else None for one in each]
    return evaluation.stats[0], evaluation.stats[1], over_all, at_50


def random_case(seed: int) -> tuple[list[dict[str, torch.Tensor]], list[Picture], int]:
    """Pictures with crowds, difficult objects and none at all; predictions near objects, elsewhere and none at all."""
    random = np.random.default_rng(seed)
    classes = int(random.integers(1, 6))
    pictures, predictions = [], []
    for _ in range(int(random.integers(3, 15))):
        num = int(random.integers(0, 6))
        corners = random.integers(0, 40, (num, 2))
        boxes = np.concatenate([corners, corners + random.integers(4, 24, (num, 2))], axis=1)
        labels = random.integers(0, max(1, classes - 1), num)
        pictures.append(picture(boxes, labels, random.random(num) < 0.2, random.random(num) < 0.2))
        # Whole steps make overlaps that lie exactly at a threshold, and scores that are equal.
        near = np.repeat(boxes, 2, axis=0) + random.integers(-2, 3, (2 * num, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        stray = int(random.integers(0, 4)) if random.random() < 0.8 else 130
        corners = random.integers(0, 40, (stray, 2))
        far = np.concatenate([corners, corners + random.integers(1, 24, (stray, 2))], axis=1)
        guesses = np.concatenate([near, far])
        scores = np.concatenate([random.integers(8, 20, 2 * num), random.integers(0, 14, stray)]) / 20
        guessed = np.concatenate([np.repeat(labels, 2), random.integers(0, classes, stray)])
        if random.random() < 0.15:
            guesses, scores, guessed = guesses[:0], scores[:0], guessed[:0]
        predictions.append(found(guesses, scores, guessed))
    pictures[0] = picture([(1, 1, 20, 20)], [0])
    return predictions, pictures, classes


def optional(values: Any) -> list:
    return [None if value is None else pytest.approx(value, abs=1e-6) for value in values]


@pytest.mark.parametrize("seed", range(30))
def test_scores_are_those_of_pycocotools(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    predictions, pictures, classes = random_case(seed)
    mean, mean_50, over_all, at_50 = reference(predictions, pictures, classes)
    ours = score(predictions, pictures, classes)
    assert ours.mean == pytest.approx(mean, abs=1e-6)
    assert ours.mean_50 == pytest.approx(mean_50, abs=1e-6)
    assert list(ours.per_class) == optional(over_all)
    assert list(ours.per_class_50) == optional(at_50)
    assert ours == score(predictions, pictures, classes)
    assert not capsys.readouterr().out


def test_the_random_cases_are_worth_it() -> None:
    cases = [random_case(seed) for seed in range(30)]
    pictures = [one for _, found, _ in cases for one in found]
    predictions = [one for found, _, _ in cases for one in found]
    assert any(not len(one.labels) for one in pictures)
    assert any(one.crowd.any() for one in pictures)
    assert any(one.difficult.any() for one in pictures)
    assert any(not len(one["labels"]) for one in predictions)
    assert any(len(one["labels"]) > 100 for one in predictions)
    means = [score(*case).mean for case in cases]
    assert 0.05 < np.quantile(means, 0.1) < 0.2 < max(means) < 1


def test_an_overlap_that_is_exactly_a_threshold_counts() -> None:
    # Overlaps of 0.6, 0.7 and 0.9.
    pictures = [picture([(0, 0, 10, 10)], [label]) for label in range(3)]
    predictions = [found([(0, 0, 10, height)], [0.5], [label]) for label, height in enumerate((6, 7, 9))]
    assert score(predictions, pictures, 3).per_class == pytest.approx([0.3, 0.5, 0.9])


BOXES = [(2, 3, 20, 30), (30, 10, 60, 25), (5, 40, 25, 60)]


def test_perfect_predictions_and_none() -> None:
    pictures = [picture(BOXES, [0, 1, 1]), picture([], []), picture(BOXES[:1], [3])]
    perfect = [found(BOXES, [0.9, 0.2, 0.3], [0, 1, 1]), found([], [], []), found(BOXES[:1], [0.1], [3])]
    ours = score(perfect, pictures, 5)
    assert (ours.mean, ours.mean_50) == (1.0, 1.0)
    assert list(ours.per_class) == optional([1.0, 1.0, None, 1.0, None])
    assert list(ours.per_class_50) == optional([1.0, 1.0, None, 1.0, None])
    ours = score([found([], [], [])] * 3, pictures, 5)
    assert (ours.mean, ours.mean_50, ours.per_class) == (0.0, 0.0, (0.0, 0.0, None, 0.0, None))
    other_class = [found(BOXES, [0.9, 0.2, 0.3], [2, 2, 2]), found([], [], []), found([], [], [])]
    assert score(other_class, pictures, 5).mean == 0.0


def test_half_found() -> None:
    # The surer of two predictions is wrong: a precision of 1/2 up to a recall of 1/2, that is at 51 of 101 recalls.
    pictures = [picture(BOXES[:2], [0, 0])]
    ours = score([found([BOXES[2], BOXES[0]], [0.9, 0.8], [0, 0])], pictures, 1)
    assert ours.mean == pytest.approx(0.5 * 51 / 101)
    # The other way round it is 1.
    ours = score([found([BOXES[2], BOXES[0]], [0.7, 0.8], [0, 0])], pictures, 1)
    assert ours.mean == pytest.approx(51 / 101)


@pytest.mark.parametrize("ignored", ["crowd", "difficult"])
def test_what_is_ignored_counts_neither_way(ignored: str) -> None:
    flags: Any = {ignored: [False, True, False]}
    pictures = [picture(BOXES, [0, 0, 0], **flags)]
    missed = [found([BOXES[0], BOXES[2]], [0.5, 0.5], [0, 0])]
    assert score(missed, pictures, 1).mean == 1.0
    # Two surer predictions inside of it are no mistakes, one elsewhere is.
    inside = [(31, 11, 50, 24), (30, 10, 45, 25)]
    boxes = [*inside, BOXES[0], BOXES[2]]
    assert score([found(boxes, [0.9, 0.8, 0.5, 0.5], [0] * 4)], pictures, 1).mean == 1.0
    assert score([found(boxes, [0.9, 0.8, 0.5, 0.5], [0] * 4)], [picture(BOXES, [0] * 3)], 1).mean < 0.9
    elsewhere = [found([(40, 40, 60, 60), BOXES[0], BOXES[2]], [0.9, 0.5, 0.5], [0] * 3)]
    assert score(elsewhere, pictures, 1).mean < 0.7


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([], r"predictions: got 0, expected one for each of 1 pictures"),
        ([found(BOXES, [0.5, 0.5], [0, 0, 0])], r"predictions\[0\]: got boxes \(3, 4\), scores \(2,\) and labels"),
        ([found(BOXES, [0.5] * 3, [0, 0, 2])], r"predictions\[0\]: labels from 0 to 2, expected 0 to 1"),
        ([found(BOXES, [0.5] * 3, [0, -1, 0])], r"predictions\[0\]: labels from -1 to 0, expected 0 to 1"),
        ([found(BOXES, [0.5, float("nan"), 0.5], [0] * 3)], r"predictions\[0\]: boxes or scores are not finite"),
        ([found([(0, 0, float("inf"), 1)], [0.5], [0])], r"predictions\[0\]: boxes or scores are not finite"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(predictions: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(predictions, [picture(BOXES, [0, 1, 1])], 2)


def test_a_score_needs_an_object() -> None:
    pictures = [picture([], []), picture(BOXES[:1], [0], crowd=[True])]
    with pytest.raises(ValueError, match="2 pictures without an object to be found, expected at least one"):
        score([found([], [], [])] * 2, pictures, 1)
