"""Language data: labelled texts and questions with answers, their splits, and the checks that all sources share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

import numpy as np

from stages.data.errors import DataError

# Of the test samples; the most that is known is 1.7%: in CoLA, 18 of 1,043.
PUBLISHED_DUPLICATES = 0.02

Place = Callable[[int], str]


@dataclass(frozen=True)
class Texts:
    """Sentences, or pairs of sentences, with a label each.

    Attributes:
        first: `num` sentences.
        second: `num` second sentences; empty where the task has none.
        labels: int64 classes, or float64 for a task whose labels are numbers, `num`.
        groups: int64, `num`: what has one number must not be parted by a split.
        place: where a row comes from, as messages call it: file and row.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    place: Place = "sentence {}".format

    def __len__(self) -> int:
        return len(self.labels)

    def texts(self, row: int) -> tuple[str, ...]:
        """What a row consists of."""
        return (self.first[row], self.second[row]) if self.second else (self.first[row],)


@dataclass(frozen=True)
class Answer:
    """A part of a context.

    Attributes:
        text: the part.
        start: its offset in characters.
    """

    text: str
    start: int


@dataclass(frozen=True)
class Questions:
    """Questions that a part of a context answers, or that nothing in it does.

    Attributes:
        contexts: `num` texts; that of several questions stands there several times.
        questions: `num`.
        answers: `num`: the answers of each that are right; empty where there is none.
        ids: `num` names, each of one question.
        groups: as of `Texts`.
        place: as of `Texts`.
    """

    contexts: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[tuple[Answer, ...], ...]
    ids: tuple[str, ...]
    groups: np.ndarray
    place: Place = "question {}".format

    def __len__(self) -> int:
        return len(self.questions)

    def texts(self, row: int) -> tuple[str, ...]:
        """What a row consists of."""
        return self.contexts[row], self.questions[row]


Split = TypeVar("Split", Texts, Questions)


@dataclass(frozen=True, kw_only=True)
class Corpus(Generic[Split]):
    """A language task as its source has it, before a validation split is taken.

    Attributes:
        train: what is trained on.
        test: what is measured; of a published set the validation data, whose labels are public.
        class_names: the names of labels 0, 1, ...; empty where labels are numbers or answers.
        metrics: names in `stages.language_scoring.METRICS`, of which the score is the mean; empty for questions.
        source: how tables call it.
        licence: under which it may be used.
        note: what a reader of a table must know about it; may be empty.
        published: whether it is a published set, which is measured as it is: `PUBLISHED_DUPLICATES` of its test
            sentences may stand in the training split. Of questions none may.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    source: str
    licence: str
    note: str = ""
    published: bool = False


def take(split: Split, rows: np.ndarray) -> Split:
    """The samples at `rows` (int64), in their order."""
    place = split.place
    columns: dict[str, Any] = {item.name: getattr(split, item.name) for item in fields(split) if item.name != "place"}
    for name, found in columns.items():
        # Texts of a task without second sentences have none to take.
        columns[name] = found[rows] if isinstance(found, np.ndarray) else tuple(found[row] for row in rows if found)
    return replace(split, **columns, place=lambda row: place(int(rows[row])))


def groups_of(texts: Iterable[tuple[str, ...]]) -> np.ndarray:
    """One number for all rows of the same texts, int64: a sentence that stands twice stays on one side of a split."""
    numbers: dict[tuple[str, ...], int] = {}
    return np.array([numbers.setdefault(_key(row), len(numbers)) for row in texts], np.int64)


def take_validation(train: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Splits a validation set off a training set, whole groups at a time.

    Args:
        train: what is split.
        fraction: of the samples; groups are drawn until there are as many, at least one group for either side.
        seed: of the choice.

    Returns:
        What is left to train on and the validation set, both in the order of `train`.

    Raises:
        DataError: the fraction is not between 0 and 1, or there is one group only.
    """
    if not 0 < fraction < 1:
        raise DataError(f"validation split: the fraction is {fraction}, expected one between 0 and 1")
    names, number, sizes = np.unique(train.groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise DataError(
            f"validation split: {len(names)} groups of training samples that belong together, expected at least 2; "
            "ask for more training samples"
        )
    # Sorting raw uniform numbers, because NumPy does not promise that its shuffles stay the same over versions.
    order = np.argsort(np.random.Generator(np.random.PCG64(seed)).random(len(names)), kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]
    wanted = before < math.floor(fraction * len(train) + 0.5)
    wanted[0], wanted[-1] = True, False
    chosen = np.zeros(len(names), bool)
    chosen[order[wanted]] = True
    of_row = chosen[number]
    return take(train, np.flatnonzero(~of_row)), take(train, np.flatnonzero(of_row))


def check(corpus: Corpus) -> None:
    """Refuses data that cannot be used.

    Raises:
        DataError: a split is empty, a text is empty or holds zero bytes, an answer is not where it should be in its
            context, an id stands twice, or more test samples stand in the training split than may.
    """
    for split in (corpus.train, corpus.test):
        if not len(split):
            raise DataError(
                f"{corpus.source}: no samples, expected at least one; ask for more, or copy the files again"
            )
        for row in range(len(split)):
            _check_texts(split, row)
        if isinstance(split, Questions):
            _check_answers(split)
    if isinstance(corpus.train, Questions):
        _check_ids(corpus)
    found = list(duplicates(corpus))
    measured_as_is = corpus.published and isinstance(corpus.test, Texts)
    allowed = math.floor(PUBLISHED_DUPLICATES * len(corpus.test)) if measured_as_is else 0
    if len(found) > allowed:
        row, original = found[0]
        raise DataError(
            f"{corpus.source}: {len(found)} test samples stand in the training split too, expected "
            f"{f'at most {allowed} of {len(corpus.test)}' if allowed else 'none'}; the first is "
            f"{corpus.test.place(row)}, equal to {corpus.train.place(original)}; a score on them says nothing: make "
            "the splits anew from distinct texts"
        )


def duplicates(corpus: Corpus) -> Iterator[tuple[int, int]]:
    """Rows of test samples whose texts stand in the training split, each with the first row there; spaces aside."""
    seen: dict[tuple[str, ...], int] = {}
    for row in range(len(corpus.train)):
        seen.setdefault(_key(corpus.train.texts(row)), row)
    for row in range(len(corpus.test)):
        original = seen.get(_key(corpus.test.texts(row)))
        if original is not None:
            yield row, original


def _key(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(" ".join(text.split()) for text in texts)


def _check_texts(split: Texts | Questions, row: int) -> None:
    names = ("context", "question") if isinstance(split, Questions) else ("sentence", "second sentence")
    for name, text in zip(names, split.texts(row), strict=False):
        if not text.strip():
            raise DataError(f"{split.place(row)}: the {name} is empty, expected text; remove the row or fill it in")
        if "\0" in text:
            raise DataError(
                f"{split.place(row)}: the {name} holds zero bytes, expected text in UTF-8; the file is in another "
                "encoding (UTF-16?): convert it to UTF-8"
            )


def _check_answers(split: Questions) -> None:
    for row, (context, answers) in enumerate(zip(split.contexts, split.answers, strict=True)):
        for answer in answers:
            place = f"{split.place(row)}: the answer {answer.text!r}"
            if not answer.text.strip():
                raise DataError(f"{place} is empty, expected a part of the context; a question without one has none")
            found = context[max(answer.start, 0) : max(answer.start, 0) + len(answer.text)]
            if answer.start < 0 or found != answer.text:
                elsewhere = context.find(answer.text)
                where = f"it stands at {elsewhere}" if elsewhere >= 0 else "it stands nowhere in it"
                raise DataError(
                    f"{place} is not at character {answer.start} of its context, found {found!r}, and {where}; "
                    "correct answer_start, which counts characters from 0, not bytes"
                )


def _check_ids(corpus: Corpus) -> None:
    seen: dict[str, str] = {}
    for split in (corpus.train, corpus.test):
        for row, name in enumerate(split.ids):
            if name in seen:
                raise DataError(
                    f"{split.place(row)}: the id {name!r} is that of {seen[name]} too, expected one question an id; "
                    "remove one of them"
                )
            seen[name] = split.place(row)
