"""SQuAD 2.0 (Rajpurkar et al. 2018, arXiv:1806.03822) from its own JSON files or Parquet in the Hugging Face layout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.data import parquet
from stages.data.errors import DataError, told
from stages.data.language import Answer, Corpus, Questions, check
from stages.data.language.glue import check_text, parquet_rows, read_utf8
from stages.data.settings import Squad

_SIZES = (130319, 11873)
_NAMES = {"train": "train-v2.0.json", "validation": "dev-v2.0.json"}
_KINDS: dict[type, str] = {dict: "a mapping", list: "a list", str: "text", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True)
class _Row:
    context: str
    question: str
    answers: tuple[Answer, ...]
    name: str
    title: str
    place: str


def read(_: Squad, folder: Path) -> Corpus[Questions]:
    """Reads the training questions and, to be measured, the validation questions; questions of an article are a group.

    Args:
        folder: where the files are.

    Raises:
        DataError: a file is missing, damaged, in another encoding or of another form; a question has answers and is
            said to have none, or the other way round; or `stages.data.language.check` finds fault: an answer that is
            not in its context, a test question among the training ones.
    """
    splits = {name: _split(folder, name) for name in _NAMES}
    train, test = splits["train"], splits["validation"]
    counts = [
        f"{len(split):,} of {size:,} {name}"
        for split, size, name in zip((train, test), _SIZES, ("training questions", "questions"), strict=True)
        if len(split) != size
    ]
    corpus = Corpus(
        train=train,
        test=test,
        source="SQuAD 2.0",
        licence="CC BY-SA 4.0",
        note=" and ".join(["measured on the validation data, as the test data are not public", *counts]),
        published=True,
    )
    check(corpus)
    return corpus


def _split(folder: Path, name: str) -> Questions:
    files = parquet._files(folder, name)
    path = folder / _NAMES[name]
    if not files and not path.exists():
        raise DataError(
            f"{path}: no such file, expected SQuAD 2.0's own or {name}.parquet in the Hugging Face layout; put either "
            "there, or set DNM_SQUAD2 to a folder that has them"
        )
    rows = [row for file in files for row in _read_parquet(file)] if files else list(_read_json(path))
    titles: dict[str, int] = {}
    return Questions(
        tuple(row.context for row in rows),
        tuple(row.question for row in rows),
        tuple(row.answers for row in rows),
        tuple(row.name for row in rows),
        np.array([titles.setdefault(row.title, len(titles)) for row in rows], np.int64),
        lambda row: rows[row].place,
    )


def _read_parquet(path: Path) -> Iterator[_Row]:
    columns = ("id", "title", "context", "question", "answers")
    for number, row in enumerate(parquet_rows(path, columns)):
        place = f"{path}: row {number}"
        name, title, context, question = (check_text(place, column, row[column]) for column in columns[:4])
        found = _get(place, row, "answers", dict)
        texts, starts = (_get(f"{place}: answers", found, key, list) for key in ("text", "answer_start"))
        if len(texts) != len(starts):
            raise DataError(
                f"{place}: {len(texts)} answers and {len(starts)} of answer_start, expected as many of either; correct "
                "the row"
            )
        answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
        yield _Row(context, question, _answers(f"{place}: answers", answers), name, title, place)


def _read_json(path: Path) -> Iterator[_Row]:
    text = read_utf8(path)
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: cannot be read as JSON ({told(error)}); the file is cut off or damaged: copy it again"
        ) from error
    for number, article in enumerate(_get(str(path), whole, "data", list)):
        of_article = f"{path}: data[{number}]"
        title = _get(of_article, article, "title", str)
        for number, paragraph in enumerate(_get(of_article, article, "paragraphs", list)):
            of_paragraph = f"{of_article}.paragraphs[{number}]"
            context = check_text(of_paragraph, "context", _get(of_paragraph, paragraph, "context", str))
            for number, entry in enumerate(_get(of_paragraph, paragraph, "qas", list)):
                yield _question(f"{of_paragraph}.qas[{number}]", entry, context, title)


def _question(place: str, entry: Any, context: str, title: str) -> _Row:
    question = check_text(place, "question", _get(place, entry, "question", str))
    answers = _answers(f"{place}.answers", _get(place, entry, "answers", list))
    impossible = _get(place, entry, "is_impossible", bool)
    if impossible == bool(answers):
        raise DataError(
            f"{place}: is_impossible is {str(impossible).lower()} and it has {len(answers)} answers, expected answers "
            "where it is false and none where it is true; correct either"
        )
    return _Row(context, question, answers, _get(place, entry, "id", str), title, place)


def _answers(place: str, entries: list[Any]) -> tuple[Answer, ...]:
    found = {}
    for number, entry in enumerate(entries):
        where = f"{place}[{number}]"
        answer = Answer(_get(where, entry, "text", str), _get(where, entry, "answer_start", int))
        # Of the people who answered several may say the same.
        found[answer] = None
    return tuple(found)


def _get(place: str, found: Any, key: str, kind: type) -> Any:
    """An entry of a mapping, which must be of a type.

    Raises:
        DataError: it is missing or of another type, or there is no mapping.
    """
    if not isinstance(found, dict) or key not in found:
        what = f"only {', '.join(map(str, found))}" if isinstance(found, dict) and found else _kind(found)
        raise DataError(f"{place}: no {key}, found {what}; expected SQuAD 2.0's form")
    if type(found[key]) is not kind:
        raise DataError(f"{place}: {key} is {_kind(found[key])}, expected {_KINDS[kind]}; expected SQuAD 2.0's form")
    return found[key]


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)
