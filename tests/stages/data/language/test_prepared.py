"""Prepared tasks: the file gives back what went in, the card counts, the vocabulary is trained on training texts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.data import language
from stages.data.errors import DataError
from stages.data.language import prepared, tokens
from stages.data.settings import Grammar

SOURCES = ("sentiment", "questions")


def made(source: Any, **changes: Any) -> tuple[Any, prepared.DataSet]:
    settings = Grammar(source=source, train=100, test=40, clauses=1, seed=3, validation=0.2)
    corpus = prepared.read(settings, Path("."))
    options = {"vocabulary": 320, "length": 90, "cut": False, **changes}
    return corpus, prepared.prepare(corpus, settings, **options)


def equal(one: Any, other: Any) -> bool:
    return np.array_equal(one, other) and one.dtype == other.dtype if isinstance(one, np.ndarray) else one == other


@pytest.mark.parametrize("source", SOURCES)
def test_the_file_gives_back_what_went_in(source: str, tmp_path: Path) -> None:
    corpus, dataset = made(source)
    prepared.save(tmp_path / "a.safetensors", dataset)
    again = prepared.load(tmp_path / "a.safetensors")
    for field in dataclasses.fields(dataset):
        one, other = getattr(dataset, field.name), getattr(again, field.name)
        if field.name in prepared.SPLITS:
            for of in dataclasses.fields(one):
                assert equal(getattr(one, of.name), getattr(other, of.name)), of.name
        else:
            assert one == other, field.name
    prepared.save(tmp_path / "other name", made(source)[1])
    assert (tmp_path / "other name").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    card = prepared.card(dataset, corpus)
    assert [card["samples"][name]["total"] for name in prepared.SPLITS] == [80, 20, 40]
    if source == "questions":
        assert dataset.kind == "spans" and card["samples"]["test"]["without_answer"] == 20
    else:
        assert dataset.kind == "classes" and card["samples"]["train"]["per_class"] == [40, 40]
    assert card["sha256"] != prepared.card(*reversed(made("acceptability")))["sha256"]


def test_the_vocabulary_knows_training_texts_alone() -> None:
    corpus, dataset = made("sentiment")
    train, _ = language.take_validation(corpus.train, 0.2, 3)
    tokenizer = tokens.train(train.first, 320)
    assert np.array_equal(tokens.encode(tokenizer, train, 90).ids, dataset.train.ids)
    assert np.array_equal(tokens.encode(tokenizer, corpus.test, 90).ids, dataset.test.ids)
    assert dataset.vocabulary == tokens.size_of(tokenizer) == 320


def test_marked_answers_are_the_right_ones() -> None:
    _, dataset = made("questions")
    for part in (dataset.train, dataset.validation, dataset.test):
        rows = np.arange(len(part))
        starts, ends = part.offsets[rows, part.labels[:, 0], 0], part.offsets[rows, part.labels[:, 1], 1]
        found = [context[a:b] for context, a, b in zip(part.contexts, starts, ends, strict=True)]
        assert found == [answers[0] if answers else "" for answers in part.answers]
        assert {len(answers) for answers in part.answers} == {0, 1}


def test_a_sentence_longer_than_the_model_is_refused_or_counted() -> None:
    with pytest.raises(DataError, match=r"sentiment train \d+: \d+ tokens, expected at most 10, which the models read"):
        made("sentiment", length=10)
    _, dataset = made("sentiment", length=10, cut=True)
    assert dataset.counts["train"]["cut"] > 0 and dataset.train.ids.shape == (80, 10)
    assert dataset.counts["train"]["answers_cut"] == 0


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file, expected a language task; run the prepare_language stage"):
        prepared.load(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"bad")
    with pytest.raises(DataError, match="not a language task .* delete the file and run the prepare_language stage"):
        prepared.load(tmp_path / "bad")


def test_generated_splits_do_not_overlap() -> None:
    corpus, dataset = made("questions")
    assert prepared.card(dataset, corpus)["test_samples_in_train"] == 0
