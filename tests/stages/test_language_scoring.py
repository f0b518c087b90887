"""Scores against scikit-learn, SciPy and a second implementation of SQuAD's measures on the same predictions."""

from __future__ import annotations

import random
import re
import string

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from stages import language_scoring as scoring
from stages.data.errors import DataError
from stages.language_scoring import Prediction


@pytest.mark.parametrize("classes", (2, 3, 5))
def test_classes_against_scikit_learn(classes: int) -> None:
    draws = np.random.default_rng(classes)
    for num in (2, 7, 300):
        for _ in range(20):
            labels, predictions = draws.integers(0, classes, (2, num))
            # Where both sides are one class, scikit-learn warns.
            labels[0], labels[-1] = 0, 1
            assert scoring.accuracy(predictions, labels) == pytest.approx(metrics.accuracy_score(labels, predictions))
            expected = metrics.matthews_corrcoef(labels, predictions)
            assert scoring.matthews(predictions, labels) == pytest.approx(expected, abs=1e-12)
            if classes == 2:
                expected = metrics.f1_score(labels, predictions, zero_division=0)
                assert scoring.f1(predictions, labels) == pytest.approx(expected)


def test_matthews_of_large_counts_and_of_one_class() -> None:
    labels = np.repeat([0, 1], 3_000_000)
    predictions = labels.copy()
    predictions[:1000] = 1
    counts = np.array([[2_999_000, 1000], [0, 3_000_000]], float)
    determinant = counts[0, 0] * counts[1, 1] - counts[0, 1] * counts[1, 0]
    expected = determinant / np.sqrt(np.prod(counts.sum(0)) * np.prod(counts.sum(1)))
    assert scoring.matthews(predictions, labels) == pytest.approx(expected, rel=1e-12)
    assert scoring.matthews(np.ones(10, int), labels[-10:]) == 0.0
    assert scoring.matthews(np.ones(6, int), np.array([0, 1, 0, 1, 1, 0])) == 0.0


def test_numbers_against_scipy() -> None:
    draws = np.random.default_rng(1)
    for num in (3, 50):
        labels = draws.integers(0, 6, num).astype(float)
        predictions = labels + draws.standard_normal(num)
        assert scoring.pearson(predictions, labels) == pytest.approx(stats.pearsonr(predictions, labels).statistic)
        # With ties on one side.
        assert scoring.spearman(predictions, labels) == pytest.approx(stats.spearmanr(predictions, labels).statistic)
    assert scoring.pearson(np.ones(3), np.arange(3.0)) == 0.0


def test_a_task_is_worth_the_mean_of_its_metrics() -> None:
    labels, predictions = np.array([0, 1, 1, 1]), np.array([0, 1, 0, 1])
    found = scoring.glue(("accuracy", "f1"), predictions, labels)
    assert found == {"accuracy": 0.75, "f1": 0.8, "score": pytest.approx(0.775)}
    assert scoring.average({"CoLA": 0.5, "RTE": 0.7}) == (pytest.approx(0.6), "CoLA, RTE")


def test_what_cannot_be_scored_is_told() -> None:
    for predictions, labels in ((np.zeros(3), np.zeros(2)), (np.zeros(0), np.zeros(0))):
        with pytest.raises(DataError, match="expected as many of either, at least one"):
            scoring.glue(("accuracy",), predictions, labels)
    with pytest.raises(DataError, match="prediction 1 is nan, expected finite numbers"):
        scoring.glue(("pearson",), np.array([1.0, np.nan]), np.zeros(2))
    with pytest.raises(DataError, match="an average over no task"):
        scoring.average({})
    with pytest.raises(DataError, match="1 predictions of 2 questions"):
        scoring.squad([Prediction(answer="a", no_answer=0.0)], [["a"], []], 0.0)
    with pytest.raises(DataError, match="no_answer of prediction 0 is nan"):
        scoring.choose_threshold([Prediction(answer="a", no_answer=float("nan"))], [["a"]])


def second(answer: str, right: list[str]) -> tuple[int, float]:
    """SQuAD's exact match and F1 in another way: from lists of words that are crossed out one by one."""

    def words(text: str) -> list[str]:
        kept = "".join(mark for mark in text.lower() if mark not in string.punctuation)
        return [word for word in re.sub(r"\b(?:a|an|the)\b", " ", kept).split() if word]

    own, best = words(answer), (0, 0.0)
    wanted = [of for of in map(words, right) if of] or [[]]
    for of in wanted:
        if not own or not of:
            score = 1.0 if own == of else 0.0
        else:
            left, common = list(of), 0
            for word in own:
                if word in left:
                    left.remove(word)
                    common += 1
            precision, recall = common / len(own), common / len(of)
            score = 2 * precision * recall / (precision + recall) if common else 0.0
        best = max(best[0], int(own == of)), max(best[1], score)
    return best


PIECES = ["the", "a", "An", "king", "Queen", "castle", "old", "old", "42", "it's", "U.S.", "...", "naïve", "-", " "]


def cases(num: int) -> list[tuple[str, list[str]]]:
    """Answers and the right ones; many are empty, are left empty by normalisation, or have no right one."""
    draw = random.Random(7)

    def text() -> str:
        return " ".join(draw.choice(PIECES) for _ in range(draw.choice((0, 1, 1, 2, 3, 5))))

    return [(text(), [text() for _ in range(draw.choice((0, 0, 1, 2, 3)))]) for _ in range(num)]


def test_squad_against_a_second_implementation() -> None:
    made = cases(1500)
    kinds = {"no right answer": 0, "no answer": 0, "partly right": 0, "right": 0}
    for answer, right in made:
        exact, overlap = second(answer, right)
        assert scoring.exact_match(answer, right) == exact, (answer, right)
        assert float(scoring.answer_f1(answer, right)) == pytest.approx(overlap), (answer, right)
        kinds["no right answer"] += not right
        kinds["no answer"] += not scoring.normalised(answer)
        kinds["partly right"] += 0 < overlap < 1
        kinds["right"] += bool(exact and right)
    assert min(kinds.values()) >= 40, kinds


def test_squad_as_a_whole_and_its_threshold() -> None:
    made = cases(300)
    draw = random.Random(8)
    # Scores that are often equal, and more so where there is no answer.
    found = [Prediction(answer=answer, no_answer=draw.randrange(6) - 2 * bool(right)) for answer, right in made]
    right = [texts for _, texts in made]

    def score(threshold: float) -> tuple[float, float]:
        pairs = [
            second("" if item.no_answer > threshold else item.answer, of) for item, of in zip(found, right, strict=True)
        ]
        return float(np.mean([pair[0] for pair in pairs])), float(np.mean([pair[1] for pair in pairs]))

    for threshold in (-np.inf, 0.0, 2.0, np.inf):
        whole = scoring.squad(found, right, threshold)
        assert (whole["exact_match"], whole["f1"]) == pytest.approx(score(threshold))
        answerable = np.mean([bool(of) for of in right])
        parts = whole["answerable_f1"] * answerable + whole["unanswerable_f1"] * (1 - answerable)
        assert parts == pytest.approx(whole["f1"])
    threshold, best = scoring.choose_threshold(found, right)
    everything = {at: score(at)[1] for at in (-np.inf, *(item.no_answer for item in found))}
    assert best == pytest.approx(max(everything.values())) == pytest.approx(everything[threshold])
    assert all(value < best - 1e-9 for at, value in everything.items() if at < threshold)


def test_empty_answers_by_hand() -> None:
    assert scoring.exact_match("", []) == 1 and scoring.answer_f1("", []) == 1
    assert scoring.exact_match("king", []) == 0 and scoring.answer_f1("king", []) == 0
    assert scoring.exact_match("", ["king"]) == 0 and scoring.answer_f1("", ["king"]) == 0
    # An answer of which normalisation leaves nothing is none.
    assert scoring.exact_match("the", []) == 1 and scoring.exact_match("", ["the"]) == 1
    assert scoring.exact_match("The King!", ["a queen", "king"]) == 1
    assert scoring.answer_f1("old king", ["the old old king"]) == pytest.approx(0.8)
