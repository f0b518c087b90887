"""A language task as its trials read it: tokens in three splits, their card and their file."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages import outputs
from stages.data.errors import DataError
from stages.data.language import Corpus, Questions, Texts, duplicates, glue, grammars, squad, take_validation, tokens
from stages.data.language import check as check_corpus
from stages.data.settings import Glue, Grammar, Language, Squad

if TYPE_CHECKING:
    from stages.data.language.encoders import Encoder

SPLITS = ("train", "validation", "test")
_PLAIN = ("kind", "class_names", "metrics", "vocabulary", "source", "licence", "note", "counts")
# One key, because the order of several in a safetensors header differs from process to process.
_METADATA = "texts"


@dataclass(frozen=True)
class Part:
    """One split.

    Attributes:
        ids: int32, `num x length`; see `stages.data.language.tokens.Encoded`.
        labels: int64 classes, float64 numbers, or int64 first and last tokens of answers, `num x 2`.
        offsets: int32, `num x length x 2`: of questions, the characters of the context in which a token of it begins
            and ends. Of other tasks `0 x 0 x 0`.
        contexts: of questions, `num`.
        answers: of questions, `num`: the texts that are right, none where there is no answer.
    """

    ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.int32))
    contexts: tuple[str, ...] = ()
    answers: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Which pre-trained encoder's tokens a task is in; see `stages.data.language.encoders`.

    Attributes:
        architecture: as its configuration calls it.
        pad: its own number of PAD, which is `stages.data.language.tokens.PAD` here.
        cls: likewise.
        sep: likewise.
        sha256: of its files.
    """

    architecture: str
    pad: int
    cls: int
    sep: int
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """A language task.

    Attributes:
        train: what is trained on; the vocabulary too.
        validation: what choices look at.
        test: what is measured.
        kind: "classes", "numbers" or "spans".
        class_names: the names of labels 0, 1, ...; empty where labels are none.
        metrics: names in `stages.language_scoring.METRICS`; empty for spans.
        vocabulary: number of tokens.
        source: how tables call it.
        licence: under which it may be used.
        note: what a reader of a table must know about it; may be empty.
        counts: by split, how many rows were cut off, and how many of these lost their answer.
        encoder: whose tokens these are; None where the vocabulary was trained on the task.
    """

    train: Part
    validation: Part
    test: Part
    kind: str
    class_names: tuple[str, ...]
    metrics: tuple[str, ...]
    vocabulary: int
    source: str
    licence: str
    note: str
    counts: dict[str, dict[str, int]]
    encoder: Origin | None = None


def read(settings: Language, root: Path) -> Corpus[Any]:
    """Makes or reads a task's texts, and checks them.

    Args:
        settings: where they come from; DNM_ and the source in capitals, as in DNM_COLA, takes the place of its folder.
        root: the repository, which folders are seen from.

    Raises:
        DataError: they cannot be used.
    """
    if isinstance(settings, Grammar):
        corpus = grammars.generate(settings)
        check_corpus(corpus)
        return corpus
    folder = Path(os.environ.get(f"DNM_{settings.source.upper()}") or root / settings.folder)
    if isinstance(settings, Glue):
        return glue.read(settings, folder)
    assert isinstance(settings, Squad)
    return squad.read(settings, folder)


def prepare(
    corpus: Corpus[Any], settings: Language, *, vocabulary: int, length: int, cut: bool, encoder: Encoder | None = None
) -> DataSet:
    """Takes the validation split, trains a vocabulary on what is left to train on, and encodes the splits.

    Args:
        corpus: from `read`.
        settings: of the validation split.
        vocabulary: the most tokens.
        length: tokens of a row.
        cut: whether longer rows lose their end.
        encoder: a pre-trained one, whose vocabulary is taken in place of a trained one.

    Raises:
        DataError: the texts, the vocabulary, the length and the encoder do not go together.
    """
    train, validation = take_validation(corpus.train, settings.validation, settings.seed)
    if encoder is None:
        tokenizer = tokens.train((text for row in range(len(train)) for text in train.texts(row)), vocabulary)
    else:
        _demand_room(encoder, vocabulary, length)
        tokenizer = encoder.subwords
    parts, counts = {}, {}
    for name, split in zip(SPLITS, (train, validation, corpus.test), strict=True):
        parts[name], encoded = _part(tokenizer, split, length, cut)
        counts[name] = {"cut": encoded.truncated, "answers_cut": encoded.unanswered}
    kind = "spans" if isinstance(train, Questions) else "classes" if corpus.class_names else "numbers"
    return DataSet(
        **parts,
        kind=kind,
        class_names=corpus.class_names,
        metrics=corpus.metrics,
        vocabulary=tokens.size_of(tokenizer),
        source=corpus.source,
        licence=corpus.licence,
        note=corpus.note,
        counts=counts,
        encoder=encoder.origin if encoder else None,
    )


def _demand_room(encoder: Encoder, vocabulary: int, length: int) -> None:
    if encoder.vocabulary > vocabulary:
        raise DataError(
            f"{encoder.folder}: the encoder has {encoder.vocabulary} tokens, expected at most {vocabulary}; set "
            f"vocabulary: {encoder.vocabulary}"
        )
    if encoder.positions < length:
        raise DataError(
            f"length is {length}, expected at most {encoder.positions}, the tokens that the encoder {encoder.folder} "
            f"reads; set length: {encoder.positions}, and cut: true where longer texts may lose their end"
        )


def _part(tokenizer: tokens.Subwords, split: Texts | Questions, length: int, cut: bool) -> tuple[Part, tokens.Encoded]:
    if isinstance(split, Texts):
        encoded = tokens.encode(tokenizer, split, length, cut=cut)
        return Part(encoded.ids.astype(np.int32), split.labels), encoded
    encoded, spans = tokens.encode_questions(tokenizer, split, length, cut=cut)
    offsets = np.where(encoded.second[..., None], encoded.offsets, 0).astype(np.int32)
    answers = tuple(tuple(answer.text for answer in of_row) for of_row in split.answers)
    return Part(encoded.ids.astype(np.int32), spans, offsets, split.contexts, answers), encoded


def card(dataset: DataSet, corpus: Corpus[Any]) -> dict[str, Any]:
    """What is to be known about a task's data, as JSON.

    Returns:
        Source, licence, note; samples of each split, in all and by class, or with and without an answer; tokens of
        the vocabulary and of a row, at most and on the average of the training split; what was cut off; how many test
        samples stand in the training split; the encoder whose tokens these are, where there is one; the SHA-256 of
        all of it.
    """
    lengths = np.count_nonzero(dataset.train.ids != tokens.PAD, axis=1)
    return {
        **{name: getattr(dataset, name) for name in ("source", "licence", "note")},
        "classes": list(dataset.class_names),
        "samples": {name: _samples(dataset, getattr(dataset, name)) for name in SPLITS},
        "vocabulary": dataset.vocabulary,
        "length": dataset.train.ids.shape[1],
        "mean_length": float(lengths.mean()),
        "cut": dataset.counts,
        "test_samples_in_train": sum(1 for _ in duplicates(corpus)),
        **_encoder(dataset),
        "sha256": hashlib.sha256(to_bytes(dataset)).hexdigest(),
    }


def _encoder(dataset: DataSet) -> dict[str, Any]:
    """Nothing where there is none: what was written before there were encoders stays the same bytes."""
    return {"encoder": asdict(dataset.encoder)} if dataset.encoder else {}


def _samples(dataset: DataSet, part: Part) -> dict[str, Any]:
    found: dict[str, Any] = {"total": len(part)}
    if dataset.kind == "classes":
        found["per_class"] = np.bincount(part.labels, minlength=len(dataset.class_names)).tolist()
    if dataset.kind == "spans":
        found["without_answer"] = sum(not texts for texts in part.answers)
    return found


def to_bytes(dataset: DataSet) -> bytes:
    """The content of a data set's file; the same data give the same bytes."""
    from safetensors.numpy import save

    arrays = {}
    for name in SPLITS:
        part: Part = getattr(dataset, name)
        arrays |= {f"{name}.ids": part.ids, f"{name}.labels": part.labels, f"{name}.offsets": part.offsets}
        # As bytes, because what a header holds is limited.
        texts = json.dumps([part.contexts, part.answers]).encode()
        arrays[f"{name}.texts"] = np.frombuffer(texts, np.uint8)
    plain = {name: getattr(dataset, name) for name in _PLAIN} | _encoder(dataset)
    return save({key: np.ascontiguousarray(value) for key, value in arrays.items()}, {_METADATA: _json(plain)})


def save(path: Path, dataset: DataSet) -> None:
    """Writes a data set as safetensors, whole or not at all."""
    outputs.write_bytes(path, to_bytes(dataset))


def load(path: Path) -> DataSet:
    """Reads what `save` wrote.

    Raises:
        DataError: the file is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stored:
            plain = json.loads((stored.metadata() or {})[_METADATA])
            parts = {}
            for name in SPLITS:
                contexts, answers = json.loads(stored.get_tensor(f"{name}.texts").tobytes())
                ids, labels, offsets = (stored.get_tensor(f"{name}.{key}") for key in ("ids", "labels", "offsets"))
                parts[name] = Part(ids, labels, offsets, tuple(contexts), tuple(map(tuple, answers)))
        for name in ("class_names", "metrics"):
            plain[name] = tuple(plain[name])
        if "encoder" in plain:
            plain["encoder"] = Origin(**plain["encoder"])
        return DataSet(**parts, **plain)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, expected a language task; run the prepare_language stage") from error
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: not a language task ({error}), expected one that `stages.data.language.prepared.save` wrote; "
            "delete the file and run the prepare_language stage"
        ) from error


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
