"""What an answer is worth: GLUE's metric of each task, and SQuAD 2.0's exact match and F1.

GLUE: Wang et al. 2019, arXiv:1804.07461, table 1. SQuAD 2.0: Rajpurkar et al. 2018, arXiv:1806.03822, with the
normalisation of answers of Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from stages.data.errors import DataError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of classes (int64, `num`) that are right."""
    return float(np.count_nonzero(predictions == labels) / len(labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1, from classes, int64, `num`; 0 where neither side has one."""
    both = np.count_nonzero((predictions == 1) & (labels == 1))
    either = np.count_nonzero(predictions == 1) + np.count_nonzero(labels == 1)
    return float(2 * both / either) if either else 0.0


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation (Matthews 1975; of several classes: Gorodkin 2004) of classes, int64, `num`.

    It is 0, which says as much as chance does, where all predictions or all labels are one class.
    """
    num = len(labels)
    classes = np.unique(np.concatenate([predictions, labels]))
    # Python's whole numbers: products of counts are exact, however many samples there are.
    found, wanted = ([int(np.count_nonzero(side == label)) for label in classes] for side in (predictions, labels))
    right = int(np.count_nonzero(predictions == labels))
    covariance = right * num - sum(one * other for one, other in zip(found, wanted, strict=True))
    spread = (num * num - sum(one * one for one in found)) * (num * num - sum(one * one for one in wanted))
    return covariance / spread**0.5 if spread else 0.0


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson correlation of numbers, `num`; 0 where one side is constant."""
    sides = [np.asarray(side, np.float64) for side in (predictions, labels)]
    if any((side == side[0]).all() for side in sides):
        return 0.0
    first, second = (side - side.mean() for side in sides)
    size = np.sqrt((first * first).sum()) * np.sqrt((second * second).sum())
    return float(np.clip((first * second).sum() / size, -1.0, 1.0))


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's rank correlation of numbers, `num`; equal ones share the mean of their ranks."""
    return pearson(_ranks(predictions), _ranks(labels))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, number, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[number]


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def glue(metrics: Sequence[str], predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """A task's metrics and, as `score`, their mean: what GLUE averages over tasks.

    Args:
        metrics: names in `METRICS`.
        predictions: classes or numbers, `num`.
        labels: likewise.

    Raises:
        DataError: there are no samples, not as many predictions as labels, or predictions that are not finite.
    """
    if predictions.shape != labels.shape or labels.ndim != 1 or not len(labels):
        raise DataError(
            f"scoring: predictions of shape {predictions.shape}, labels of shape {labels.shape}, expected as many of "
            "either, at least one; predict every sample once"
        )
    if not np.isfinite(predictions).all():
        row = int(np.flatnonzero(~np.isfinite(predictions))[0])
        raise DataError(
            f"scoring: prediction {row} is {predictions[row]}, expected finite numbers; look at the training"
        )
    found = {name: METRICS[name](predictions, labels) for name in metrics}
    return {**found, "score": sum(found.values()) / len(found)}


def normalised(answer: str) -> str:
    """An answer in small letters, without punctuation, articles and surplus spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(answer: str, right: Sequence[str]) -> int:
    """Whether an answer is one of the right ones, both normalised; no answer is the empty text.

    Args:
        answer: what is predicted.
        right: what would be right; none where the question has no answer.
    """
    return int(normalised(answer) in _gold(right))


def answer_f1(answer: str, right: Sequence[str]) -> Fraction:
    """F1 of an answer's words, the best over the right ones; where either is empty, whether both are."""
    found = normalised(answer).split()
    return max(_overlap(found, one.split()) for one in _gold(right))


def _gold(right: Sequence[str]) -> list[str]:
    # An answer of which normalisation leaves nothing is none, as in the published script.
    return [text for text in map(normalised, right) if text] or [""]


def _overlap(found: list[str], wanted: list[str]) -> Fraction:
    if not found or not wanted:
        return Fraction(found == wanted)
    common = (Counter(found) & Counter(wanted)).total()
    return Fraction(2 * common, len(found) + len(wanted))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says of a question.

    Attributes:
        answer: the best part of the context.
        no_answer: how much more it thinks that there is none; only the order of these numbers counts.
    """

    answer: str
    no_answer: float


def squad(predictions: Sequence[Prediction], right: Sequence[Sequence[str]], threshold: float) -> dict[str, float]:
    """SQuAD 2.0's scores, as fractions.

    Args:
        predictions: `num`.
        right: `num`: the texts that are right, none where there is no answer.
        threshold: where `no_answer` is above it, no answer is given.

    Returns:
        `exact_match` and `f1` of all questions; `answerable_f1` and `unanswerable_f1` of those that have an answer and
        of those that have none, where there are such.

    Raises:
        DataError: there are no questions, not as many predictions, or a `no_answer` that is not finite.
    """
    _check(predictions, right)
    given = ["" if item.no_answer > threshold else item.answer for item in predictions]
    exact = [exact_match(answer, texts) for answer, texts in zip(given, right, strict=True)]
    overlap = [answer_f1(answer, texts) for answer, texts in zip(given, right, strict=True)]
    found = {"exact_match": sum(exact) / len(exact), "f1": float(sum(overlap) / len(overlap))}
    for name, has in (("answerable_f1", True), ("unanswerable_f1", False)):
        part = [value for value, texts in zip(overlap, right, strict=True) if bool(texts) == has]
        if part:
            found[name] = float(sum(part) / len(part))
    return found


def choose_threshold(predictions: Sequence[Prediction], right: Sequence[Sequence[str]]) -> tuple[float, float]:
    """The threshold with which validation questions get the highest F1, found in one pass over the sorted scores.

    Args:
        predictions: `num`, of validation data: on test data it would be a choice that looks at them.
        right: `num`: as of `squad`.

    Returns:
        The threshold, one of the `no_answer` or -inf, which answers nothing, and the F1 with it. Sums are of fractions,
        so exact; of several thresholds that are equally good it is the lowest.

    Raises:
        DataError: as `squad`.
    """
    _check(predictions, right)
    order = sorted(range(len(right)), key=lambda row: predictions[row].no_answer)
    total = sum(answer_f1("", texts) for texts in right)
    best, threshold = total, float("-inf")
    for place, row in enumerate(order):
        total += answer_f1(predictions[row].answer, right[row]) - answer_f1("", right[row])
        score = predictions[row].no_answer
        # Equal scores are answered all together.
        if place + 1 < len(order) and predictions[order[place + 1]].no_answer == score:
            continue
        if total > best:
            best, threshold = total, score
    return threshold, float(best / len(right))


def _check(predictions: Sequence[Prediction], right: Sequence[Sequence[str]]) -> None:
    if len(predictions) != len(right) or not right:
        raise DataError(
            f"scoring: {len(predictions)} predictions of {len(right)} questions, expected as many of either, at least "
            "one; predict every question once"
        )
    for row, item in enumerate(predictions):
        if not math.isfinite(item.no_answer):
            raise DataError(
                f"scoring: no_answer of prediction {row} is {item.no_answer}, expected a finite number; was it trained?"
            )


def average(scores: Mapping[str, float]) -> tuple[float, str]:
    """GLUE's average of tasks, each with the same weight, and which tasks it is over.

    Args:
        scores: by the names of the tasks.

    Raises:
        DataError: there is no task.
    """
    if not scores:
        raise DataError("scoring: an average over no task, expected at least one; measure a task")
    return sum(scores.values()) / len(scores), ", ".join(scores)
