"""Generated sentences: pairs of the same words and other labels, splits without shared words, answers found by hand."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stages.data import language
from stages.data.errors import DataError
from stages.data.language import Questions, Texts, grammars
from stages.data.settings import Grammar

SOURCES = ("acceptability", "entailment", "sentiment", "questions")


def settings(source: Any, *, train: int = 200, test: int = 60, clauses: int = 2, seed: int = 1) -> Grammar:
    return Grammar(source=source, train=train, test=test, clauses=clauses, seed=seed, validation=0.1)


@pytest.mark.parametrize("clauses", (1, 2))
@pytest.mark.parametrize("source", SOURCES)
def test_two_of_a_pair_have_the_same_words_and_another_label(source: str, clauses: int) -> None:
    corpus = grammars.generate(settings(source, clauses=clauses))
    language.check(corpus)
    for split, num in ((corpus.train, 200), (corpus.test, 60)):
        assert len(split) == num
        for row in range(0, num, 2):
            one, two = (Counter(" ".join(split.texts(at)).split()) for at in (row, row + 1))
            assert one == two and split.texts(row) != split.texts(row + 1)
            assert split.groups[row] == split.groups[row + 1]
            if isinstance(split, Texts):
                assert {int(split.labels[row]), int(split.labels[row + 1])} == {0, 1}
            else:
                assert sorted(len(split.answers[at]) for at in (row, row + 1)) == [0, 1]
        assert len({split.texts(row) for row in range(num)}) == num


@pytest.mark.parametrize("source", SOURCES)
def test_no_test_sentence_has_the_words_of_a_training_sentence(source: str) -> None:
    corpus = grammars.generate(settings(source))
    first = {name: getattr(corpus, name).texts for name in ("train", "test")}
    words = {
        name: {tuple(sorted(of(row)[0].split())) for row in range(len(getattr(corpus, name)))}
        for name, of in first.items()
    }
    assert not words["train"] & words["test"]


@pytest.mark.parametrize("source", SOURCES)
def test_sample_i_depends_on_the_seed_and_not_on_how_many_there_are(source: str) -> None:
    def texts(**changes: Any) -> list[tuple[str, ...]]:
        split = grammars.generate(settings(source, **changes)).train
        return [split.texts(row) for row in range(40)]

    assert texts() == texts(train=40) and texts() != texts(seed=2)


def test_an_odd_number_and_more_than_there_are_are_refused() -> None:
    with pytest.raises(DataError, match="sentiment: train is 31, expected an even number"):
        grammars.generate(settings("sentiment", train=31))
    with pytest.raises(DataError, match="sentiment: .* are all that 1 clauses have; ask for fewer, or raise clauses"):
        grammars.generate(settings("sentiment", clauses=1, train=200_000))


ENDINGS = {"king": "s", "kings": "", "queen": "s", "queens": "", "boys": "", "girl": "s"}


def test_acceptable_sentences_agree() -> None:
    """By a parser of its own, of the sentences that have the simplest form."""
    corpus = grammars.generate(settings("acceptability", train=2000, clauses=1))
    found = Counter()
    several = {entry.split("/")[1]: "themselves" for entry in (*grammars._MEN, *grammars._WOMEN)}
    reflexive = several | {entry.split("/")[0]: "himself" for entry in grammars._MEN}
    reflexive |= {entry.split("/")[0]: "herself" for entry in grammars._WOMEN}
    for text, label in zip(corpus.train.first, corpus.train.labels, strict=True):
        form = re.fullmatch(r"the (\w+) (?:near|behind|beside|with) the \w+ \w+ (\w+sel\w+) \.", text)
        if form:
            found[int(label)] += 1
            assert (reflexive[form[1]] == form[2]) == bool(label), text
    assert min(found[0], found[1]) > 20


def test_entailed_is_what_a_premise_says() -> None:
    """By hand, where a premise is one plain clause."""
    corpus = grammars.generate(settings("entailment", train=1000, clauses=1))
    seen = Counter()
    for premise, hypothesis, label in zip(corpus.train.first, corpus.train.second, corpus.train.labels, strict=True):
        facts = [fact(text) for text in (premise, hypothesis)]
        if None not in facts:
            seen[int(label)] += 1
            assert (facts[0] == facts[1]) == (corpus.class_names[label] == "entailment"), (premise, hypothesis)
    assert min(seen[0], seen[1]) > 20


def fact(text: str) -> tuple[str, str, str] | None:
    active = re.fullmatch(r"the (\w+) (\w+) the (\w+) \.", text)
    passive = re.fullmatch(r"the (\w+) was (\w+) by the (\w+) \.", text)
    if active:
        return active[1], active[2], active[3]
    return (passive[3], passive[2], passive[1]) if passive else None


def test_sentiment_is_that_of_the_main_clause() -> None:
    corpus = grammars.generate(settings("sentiment", train=1000, clauses=2))
    praise, seen = set(grammars._PRAISE), Counter()
    for text, label in zip(corpus.train.first, corpus.train.labels, strict=True):
        main = text.split(" but ")[-1] if " but " in text else None
        form = main and re.fullmatch(r".* was (?:(not|never|hardly) )?(\w+) \.", main)
        if form:
            seen[int(label)] += 1
            assert ((form[2] in praise) != bool(form[1])) == bool(label), text
    assert min(seen[0], seen[1]) > 20


def test_answers_stand_where_they_say_and_are_the_only_ones() -> None:
    corpus = grammars.generate(settings("questions", train=600))
    seen = Counter()
    for row in range(len(corpus.train)):
        context, question = corpus.train.texts(row)
        form = re.fullmatch(r"who (\w+) (the \w+) in (the \w+) \?", question)
        if form is None:
            continue
        verb, whom, place = form.groups()
        told = []
        for sentence in re.findall(r"[^.]+ \.", context):
            body = sentence.strip(" .").replace(f"in {place}", "").strip()
            match = re.fullmatch(rf"(the \w+) {verb} {whom}", body)
            match = match or re.fullmatch(rf"{whom} was {verb} by (the \w+)", body)
            if match and f"in {place}" in sentence:
                told.append(match[1])
        answers = [answer.text for answer in corpus.train.answers[row]]
        assert told == answers, (context, question)
        seen[len(answers)] += 1
        for answer in corpus.train.answers[row]:
            assert context[answer.start :].startswith(answer.text)
    assert min(seen[0], seen[1]) > 5


def test_words_alone_tell_nothing() -> None:
    """Logistic regression on counts of words is at chance on every task with classes."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    for source in ("acceptability", "entailment", "sentiment"):
        corpus = grammars.generate(settings(source, train=600, test=200))
        joined = [[" ".join(split.texts(row)) for row in range(len(split))] for split in (corpus.train, corpus.test)]
        vectors = CountVectorizer(token_pattern=r"\S+")
        fit = LogisticRegression(max_iter=500).fit(vectors.fit_transform(joined[0]), corpus.train.labels)
        assert fit.score(vectors.transform(joined[1]), corpus.test.labels) == 0.5


def test_validation_takes_whole_pairs() -> None:
    corpus = grammars.generate(settings("sentiment"))
    train, validation = language.take_validation(corpus.train, 0.1, 3)
    assert (len(train), len(validation)) == (180, 20)
    assert not set(train.groups) & set(validation.groups)
    again = language.take_validation(corpus.train, 0.1, 3)[1]
    other = language.take_validation(corpus.train, 0.1, 4)[1]
    assert again.first == validation.first != other.first
    for fraction in (0.0, 1.0):
        with pytest.raises(DataError, match="the fraction is .*, expected one between 0 and 1"):
            language.take_validation(corpus.train, fraction, 3)
    one = language.take(corpus.train, np.array([0, 1]))
    with pytest.raises(DataError, match="validation split: 1 groups .*, expected at least 2"):
        language.take_validation(one, 0.5, 3)


def test_splits_that_share_texts_are_refused() -> None:
    corpus = grammars.generate(settings("questions"))
    shared = replace(corpus, test=language.take(corpus.train, np.array([4])))
    assert isinstance(shared.test, Questions)
    shared = replace(shared, test=replace(shared.test, ids=("new",)))
    with pytest.raises(DataError, match="1 test samples stand in the training split too, expected none; the first is"):
        language.check(shared)
