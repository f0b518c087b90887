"""Subwords: a vocabulary that is trained on a corpus, and texts of fixed length made of it.

The vocabulary is byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) over bytes (Radford et al. 2019), so no
character is unknown. `tokenizers` trains it to the same bits in any process, which its WordPiece is not: there the
numbers of the pieces follow the order of a hash table. PAD, CLS and SEP are not in the vocabulary, as a text that
spells them would then be read as them; they stand before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from stages.data.errors import DataError
from stages.data.language import Questions, Texts

PAD, CLS, SEP = range(3)
NUM_SPECIAL = 3
MIN_SIZE = NUM_SPECIAL + 256


class Subwords(Protocol):
    """What parts texts: a `Tokenizer` from `train`, or a pre-trained encoder's."""

    def get_vocab_size(self) -> int:
        """Number of tokens, without PAD, CLS and SEP."""
        ...

    def encode_batch(self, input: list[str], *, add_special_tokens: bool) -> Sequence[Any]:
        """Of each text `ids` from 0 on, without PAD, CLS and SEP, and `offsets`, pairs of characters."""
        ...


@dataclass(frozen=True)
class Encoded:
    """Texts as numbers: CLS, the first text, SEP and, where there are two, the second text and SEP.

    Attributes:
        ids: int64, `num x length`; PAD behind the last SEP.
        mask: bool, `num x length`; false on padding.
        second: bool, `num x length`; true on the tokens of the second text.
        offsets: int64, `num x length x 2`; characters of its text in which a token begins and ends; 0 for tokens that
            are of no text.
        truncated: how many rows were longer and are cut off.
        unanswered: of questions, how many have an answer of which a part was cut off, so that none is marked.
    """

    ids: np.ndarray
    mask: np.ndarray
    second: np.ndarray
    offsets: np.ndarray
    truncated: int
    unanswered: int = 0


def train(texts: Iterable[str], size: int, *, lowercase: bool = True) -> Tokenizer:
    """A vocabulary of the most frequent subwords.

    Args:
        texts: what it is trained on.
        size: the most tokens, PAD, CLS, SEP and the 256 bytes included.
        lowercase: whether capital letters are read as small ones.

    Returns:
        The tokenizer; `to_str()` is all of it, `Tokenizer.from_str` makes it again.

    Raises:
        DataError: the size does not hold the bytes, or there is no text.
    """
    if size < MIN_SIZE:
        raise DataError(f"vocabulary: its size is {size}, expected at least {MIN_SIZE}: {NUM_SPECIAL} marks, 256 bytes")
    found = list(texts)
    if not any(text.strip() for text in found):
        raise DataError("vocabulary: no text to train it on; give the texts of the training split")
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    # A space before the first word too: it is the same word there as later.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size - NUM_SPECIAL,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(found, trainer)
    return tokenizer


def size_of(tokenizer: Subwords) -> int:
    """Number of tokens, PAD, CLS and SEP included: the rows that a model's table of embeddings needs."""
    return tokenizer.get_vocab_size() + NUM_SPECIAL


def encode(tokenizer: Subwords, texts: Texts, length: int, *, cut: bool = False) -> Encoded:
    """Sentences or pairs of them, at fixed length.

    Args:
        tokenizer: from `train`, or an encoder's.
        texts: `num` rows.
        length: tokens of a row.
        cut: whether what is too long loses its end; of a pair the longer one first, until both are of half the room.

    Raises:
        DataError: a row is too long and `cut` is false, or the length has no room for a token of each text.
    """
    return _laid_out([_encoded(tokenizer, part) for part in (texts.first, texts.second) if part], length, cut, texts)


def encode_questions(
    tokenizer: Subwords, questions: Questions, length: int, *, cut: bool = False
) -> tuple[Encoded, np.ndarray]:
    """Questions, each followed by its context, at fixed length.

    Args:
        tokenizer: from `train`, or an encoder's.
        questions: `num` rows.
        length: tokens of a row.
        cut: as of `encode`. A question whose answer is not all in what is left counts as one without.

    Returns:
        The rows, and the positions of the first and the last token of each first answer, int64, `num x 2`; 0, where
        CLS stands, for a question without one.

    Raises:
        DataError: as `encode`.
    """
    parts = [_encoded(tokenizer, part) for part in (questions.questions, questions.contexts)]
    found = _laid_out(parts, length, cut, questions)
    spans, unanswered = np.zeros((len(questions), 2), np.int64), 0
    for row, answers in enumerate(questions.answers):
        if not answers:
            continue
        start, end = answers[0].start, answers[0].start + len(answers[0].text)
        # A token may hold more than the answer; all that overlap it are its.
        inside = found.second[row] & (found.offsets[row, :, 0] < end) & (found.offsets[row, :, 1] > start)
        positions = np.flatnonzero(inside)
        if len(positions) and found.offsets[row, positions[-1], 1] >= end:
            spans[row] = positions[0], positions[-1]
        else:
            unanswered += 1
    return replace(found, unanswered=unanswered), spans


def answer_texts(encoded: Encoded, questions: Questions, spans: np.ndarray) -> list[str]:
    """What spans (`num x 2`, first and last position) say in the contexts; nothing for those that begin at CLS."""
    rows = np.arange(len(spans))
    starts, ends = encoded.offsets[rows, spans[:, 0], 0], encoded.offsets[rows, spans[:, 1], 1]
    return [
        context[start:end] if span[0] else ""
        for context, span, start, end in zip(questions.contexts, spans, starts, ends, strict=True)
    ]


_Row = tuple[np.ndarray, np.ndarray]


def _encoded(tokenizer: Subwords, texts: Sequence[str]) -> list[_Row]:
    """Ids (int64, `tokens`) and offsets (int64, `tokens x 2`) of each text."""
    return [
        (np.array(found.ids, np.int64) + NUM_SPECIAL, np.array(found.offsets, np.int64).reshape(-1, 2))
        for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ]


def _laid_out(parts: list[list[_Row]], length: int, cut: bool, of: Texts | Questions) -> Encoded:
    room = length - 1 - len(parts)
    if room < len(parts):
        raise DataError(
            f"length is {length}, expected at least {2 * len(parts) + 1}: CLS and, of each text, a token and SEP"
        )
    num = len(parts[0])
    ids = np.full((num, length), PAD, np.int64)
    second, offsets = np.zeros((num, length), bool), np.zeros((num, length, 2), np.int64)
    truncated = 0
    for row, texts in enumerate(zip(*parts, strict=True)):
        needed = sum(len(tokens) for tokens, _ in texts)
        if needed > room and not cut:
            raise DataError(
                f"{of.place(row)}: {needed + length - room} tokens, expected at most {length}, which the models read; "
                "raise length, or set cut: true, with which texts lose their end"
            )
        sizes = _cut([len(tokens) for tokens, _ in texts], room)
        truncated += any(size < len(tokens) for size, (tokens, _) in zip(sizes, texts, strict=True))
        ids[row, 0], place = CLS, 1
        for number, (size, (tokens, characters)) in enumerate(zip(sizes, texts, strict=True)):
            here = slice(place, place + size)
            ids[row, here], offsets[row, here], second[row, here] = tokens[:size], characters[:size], number == 1
            ids[row, place + size] = SEP
            place += size + 1
    return Encoded(ids, ids != PAD, second, offsets, truncated)


def _cut(sizes: list[int], room: int) -> list[int]:
    if sum(sizes) <= room:
        return sizes
    if len(sizes) == 1:
        return [room]
    first = min(sizes[0], max(room - sizes[1], room - room // 2))
    return [first, min(sizes[1], room - first)]
