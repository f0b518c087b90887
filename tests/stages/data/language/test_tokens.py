"""Subwords: nothing is lost, rows are laid out as they say, answers come back, and what is too long is told."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import decoders

from stages.data.errors import DataError
from stages.data.language import Answer, Questions, Texts, tokens

WORDS = ["the king saw the queen .", "the queen near the kings sings .", "who saw the king ?"]
TOKENIZER = tokens.train(WORDS * 3, 320)


def said(ids: np.ndarray) -> str:
    """What tokens that are no marks spell, by the pieces' own names."""
    return decoders.ByteLevel().decode([str(TOKENIZER.id_to_token(int(one) - tokens.NUM_SPECIAL)) for one in ids])


def texts(*first: str, second: tuple[str, ...] = ()) -> Texts:
    return Texts(first, second, np.zeros(len(first), np.int64), np.arange(len(first)))


def questions(context: str, question: str, *answers: str) -> Questions:
    found = tuple(Answer(text, context.index(text)) for text in answers)
    return Questions((context,), (question,), (found,), ("a",), np.zeros(1, np.int64))


def test_a_row_is_marks_and_texts() -> None:
    found = tokens.encode(TOKENIZER, texts("the king .", second=("sings .",)), 16)
    ids = found.ids[0]
    assert ids[0] == tokens.CLS and (ids[~found.mask[0]] == tokens.PAD).all() and found.truncated == 0
    first, last = np.flatnonzero(ids == tokens.SEP)
    assert last == found.mask[0].sum() - 1
    for of, text, second in ((ids[1:first], " the king .", False), (ids[first + 1 : last], " sings .", True)):
        assert said(of) == text
        assert np.array_equal(ids[found.second[0]], of) == second


@hypothesis_settings(deadline=None, max_examples=60)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30))
def test_any_text_is_kept_and_none_is_read_as_a_mark(text: str) -> None:
    found = tokens.encode(TOKENIZER, texts(text), 200)
    inside = found.ids[0, 1 : found.mask[0].sum() - 1]
    assert (inside >= tokens.NUM_SPECIAL).all() and found.ids.max() < tokens.size_of(TOKENIZER)
    assert said(inside).removeprefix(" ") == text.lower().removeprefix(" ")


def test_words_that_spell_marks_are_text() -> None:
    found = tokens.encode(TOKENIZER, texts("[CLS] [SEP] [PAD] </s>"), 64)
    assert (found.ids[0] == tokens.SEP).sum() == 1 and (found.ids[0] == tokens.CLS).sum() == 1


def test_another_process_trains_the_same_vocabulary() -> None:
    code = (
        "from stages.data.language import tokens, grammars\nfrom stages.data.settings import Grammar\n"
        "c = grammars.generate(Grammar(source='sentiment', train=200, test=2, clauses=2, seed=1, validation=0.1))\n"
        "import hashlib; print(hashlib.sha256(tokens.train(c.train.first, 400).to_str().encode()).hexdigest())"
    )
    # Hash tables of a process are ordered by its seed.
    made = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert made[0] == made[1] != ""


def test_the_answer_comes_back_from_its_span() -> None:
    row = questions("in the garden the old king saw the queen .", "who saw the queen ?", "the old king")
    found, spans = tokens.encode_questions(TOKENIZER, row, 64)
    assert tokens.answer_texts(found, row, spans) == ["the old king"]
    assert found.second[0, spans[0]].all()
    none = questions("in the garden .", "who saw the queen ?")
    _, spans = tokens.encode_questions(TOKENIZER, none, 64)
    assert spans.tolist() == [[0, 0]] and tokens.answer_texts(found, none, spans) == [""]


def test_an_answer_inside_of_a_token_is_that_token() -> None:
    row = questions("the kings saw it", "who ?", "king")
    found, spans = tokens.encode_questions(TOKENIZER, row, 64)
    assert tokens.answer_texts(found, row, spans)[0] in ("king", "kings")


def test_a_sentence_longer_than_the_model_is_refused_or_cut() -> None:
    long = texts("the king .", "the king saw the queen near the kings who saw the king .")
    with pytest.raises(DataError, match=r"sentence 1: \d+ tokens, expected at most 6, .* or set cut: true"):
        tokens.encode(TOKENIZER, long, 6)
    found = tokens.encode(TOKENIZER, long, 6, cut=True)
    assert found.truncated == 1 and found.mask[1].all() and found.ids[1, -1] == tokens.SEP
    whole = tokens.encode(TOKENIZER, long, 64)
    assert (found.ids[1, :5] == whole.ids[1, :5]).all()
    with pytest.raises(DataError, match="length is 2, expected at least 3"):
        tokens.encode(TOKENIZER, long, 2)


def test_of_a_pair_the_longer_text_loses_its_end() -> None:
    pair = texts("the king .", second=("the king saw the queen near the kings who saw the king .",))
    found = tokens.encode(TOKENIZER, pair, 10, cut=True)
    first = int(np.flatnonzero(found.ids[0] == tokens.SEP)[0]) - 1
    whole = tokens.encode(TOKENIZER, pair, 64)
    assert (found.ids[0, : first + 2] == whole.ids[0, : first + 2]).all() and found.second[0].sum() == 10 - 3 - first


def test_an_answer_that_is_cut_off_counts_as_none() -> None:
    row = questions("the king saw the queen near the kings who saw the girls", "who ?", "the girls")
    with pytest.raises(DataError, match=r"question 0: \d+ tokens, expected at most 12"):
        tokens.encode_questions(TOKENIZER, row, 12)
    found, spans = tokens.encode_questions(TOKENIZER, row, 12, cut=True)
    assert (found.truncated, found.unanswered, spans.tolist()) == (1, 1, [[0, 0]])


def test_no_vocabulary_of_nothing() -> None:
    with pytest.raises(DataError, match="no text to train it on"):
        tokens.train(["", " "], 300)
    with pytest.raises(DataError, match="its size is 200, expected at least 259"):
        tokens.train(WORDS, 200)
