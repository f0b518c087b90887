"""GLUE's tasks (Wang et al. 2019, arXiv:1804.07461) from Parquet files in the Hugging Face layout or GLUE's own TSV.

GLUE's test labels were never published: what is measured is its validation data, all of it. Of CoLA these are the
in-domain and the out-of-domain sentences together, of MNLI the matched and the mismatched ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.data import parquet
from stages.data.errors import DataError, told
from stages.data.language import Corpus, Texts, check, groups_of
from stages.data.reading import check_label
from stages.data.settings import Glue


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is known of a task.

    Attributes:
        name: as tables call it.
        columns: of the sentences, in Parquet files.
        classes: names of labels 0, 1, ...; empty where the label is a number from 0 to `highest`.
        metrics: of which the task's score is the mean.
        tsv: the sentences' columns in TSV files, by header or, where there is none, by number; then the label's.
        named: whether TSV files have the classes' names as labels.
        num_tsv: columns of a TSV file without header; else 0.
        parts: where they are several, the names of the validation splits.
        sizes: published numbers of training and validation samples.
        highest: of the labels, where they are numbers.
    """

    name: str
    columns: tuple[str, ...] = ("sentence1", "sentence2")
    classes: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    tsv: tuple[str | int, ...] = ("sentence1", "sentence2", "label")
    named: bool = False
    num_tsv: int = 0
    parts: tuple[str, ...] = ()
    sizes: tuple[int, int]
    highest: float = 0.0


_ENTAILMENT = ("entailment", "not_entailment")
TASKS = {
    "cola": Task(
        name="CoLA", columns=("sentence",), classes=("unacceptable", "acceptable"), metrics=("matthews",), tsv=(3, 1),
        num_tsv=4, parts=("in_domain", "out_of_domain"), sizes=(8551, 1043),
    ),
    "sst2": Task(
        name="SST-2", columns=("sentence",), classes=("negative", "positive"), tsv=("sentence", "label"),
        sizes=(67349, 872),
    ),
    "mrpc": Task(
        name="MRPC", classes=("not_equivalent", "equivalent"), metrics=("accuracy", "f1"),
        tsv=("#1 String", "#2 String", "Quality"), sizes=(3668, 408),
    ),
    "qqp": Task(
        name="QQP", columns=("question1", "question2"), classes=("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"), tsv=("question1", "question2", "is_duplicate"), sizes=(363846, 40430),
    ),
    "stsb": Task(
        name="STS-B", classes=(), metrics=("pearson", "spearman"), tsv=("sentence1", "sentence2", "score"),
        sizes=(5749, 1500), highest=5.0,
    ),
    "mnli": Task(
        name="MNLI", columns=("premise", "hypothesis"), classes=("entailment", "neutral", "contradiction"),
        tsv=("sentence1", "sentence2", "gold_label"), named=True, parts=("matched", "mismatched"),
        sizes=(392702, 19647),
    ),
    "qnli": Task(
        name="QNLI", columns=("question", "sentence"), classes=_ENTAILMENT, tsv=("question", "sentence", "label"),
        named=True, sizes=(104743, 5463),
    ),
    "rte": Task(name="RTE", classes=_ENTAILMENT, named=True, sizes=(2490, 277)),
    "wnli": Task(name="WNLI", classes=_ENTAILMENT, sizes=(635, 71)),
}  # fmt: skip


def read(settings: Glue, folder: Path) -> Corpus[Texts]:
    """Reads a task: its training data and, to be measured, its validation data.

    Looks for `train.parquet` and `validation.parquet`, shards of them as Hugging Face names them, or the parts
    `validation_<part>.parquet`; else for `train.tsv` and `dev.tsv` or `dev_<part>.tsv`. Spaces around a sentence are
    removed.

    Args:
        settings: of the task.
        folder: where its files are.

    Raises:
        DataError: a file is missing, damaged, in another encoding or without a column; a sentence is empty, a label
            out of range; or `stages.data.language.check` finds fault.
    """
    task = TASKS[settings.source]
    train, test = (
        _split(task, settings.source, folder, *names) for names in (("train", "train"), ("validation", "dev"))
    )
    counts = [
        f"{len(split):,} of {size:,} {name}"
        for split, size, name in zip((train, test), task.sizes, ("training samples", "validation samples"), strict=True)
        if len(split) != size
    ]
    corpus = Corpus(
        train=train,
        test=test,
        class_names=task.classes,
        metrics=task.metrics,
        source=task.name,
        licence="of the data's authors (gluebenchmark.com/tasks)",
        note=" and ".join(["measured on the validation data, as the labels of the test data are not public", *counts]),
        published=True,
    )
    check(corpus)
    return corpus


# Sentences, label and place.
_Row = tuple[tuple[str, ...], float, str]


def _split(task: Task, source: str, folder: Path, name: str, tsv_name: str) -> Texts:
    """A split's rows from whichever of its files are there: Parquet first."""
    files = _files(task, folder, name, "parquet")
    read_rows = _read_parquet if files else _read_tsv
    files = files or _files(task, folder, tsv_name, "tsv")
    if not files:
        raise DataError(
            f"{folder / name}.parquet: no such file, expected {task.name} as Parquet in the Hugging Face layout or as "
            f"GLUE's {tsv_name}.tsv; put either there, or set DNM_{source.upper()} to a folder that has them"
        )
    rows = [row for path in files for row in read_rows(path, task)]
    sides = [tuple(texts[side].strip() for texts, _, _ in rows) for side in range(len(task.columns))]
    labels = np.array([label for _, label, _ in rows], np.int64 if task.classes else np.float64)
    second = sides[1] if len(sides) > 1 else ()
    return Texts(sides[0], second, labels, groups_of(zip(*sides, strict=True)), lambda row: rows[row][2])


def _files(task: Task, folder: Path, name: str, suffix: str) -> list[Path]:
    """The files of a split, or of all its parts."""

    def of(name: str) -> list[Path]:
        if suffix == "parquet":
            return parquet._files(folder, name)
        path = folder / f"{name}.{suffix}"
        return [path] if path.exists() else []

    whole = of(name)
    if whole or name == "train":
        return whole
    parts = {part: of(f"{name}_{part}") for part in task.parts}
    for part, files in parts.items():
        if not files and any(parts.values()):
            raise DataError(
                f"{folder / name}_{part}.{suffix}: no such file, expected {task.name}'s {' and '.join(task.parts)} "
                "data; copy both there"
            )
    return [path for files in parts.values() for path in files]


def _read_parquet(path: Path, task: Task) -> Iterator[_Row]:
    for number, row in enumerate(parquet_rows(path, (*task.columns, "label"))):
        place = f"{path}: row {number}"
        texts = tuple(check_text(place, name, row[name]) for name in task.columns)
        yield texts, _label(place, "label", row["label"], task), place


def parquet_rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, as mappings of its columns.

    Raises:
        DataError: it is no Parquet file, is damaged, lacks a column, or holds text that is not UTF-8.
    """
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            found = file.schema_arrow.names
            for name in columns:
                if name not in found:
                    raise DataError(
                        f"{path}: no column {name}, found {', '.join(found) or 'none'}; rename the column that holds it"
                    )
            for batch in file.iter_batches(columns=list(columns)):
                for values in zip(*(batch[name] for name in columns), strict=True):
                    yield {name: value.as_py() for name, value in zip(columns, values, strict=True)}
                    row += 1
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: row {row} is not UTF-8 ({told(error)}), expected text; convert it to UTF-8 before it is written"
        ) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as Parquet ({told(error)}); the file is damaged or of another kind: copy it again"
        ) from error


def check_text(place: str, name: str, value: object) -> str:
    """A text as it stands in a file.

    Raises:
        DataError: it is no text, or only spaces.
    """
    if not isinstance(value, str):
        raise DataError(f"{place}: {name} is {value!r}, expected text; remove the row, or write text there")
    if not value.strip():
        raise DataError(f"{place}: {name} is empty, expected text; remove the row, or write text there")
    return value


def read_utf8(path: Path) -> str:
    """The text of a file.

    Raises:
        DataError: it cannot be read, or is in another encoding than UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a file that can") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line} is not UTF-8 (byte {content[error.start]:#04x}), expected a file in UTF-8; it is in "
            "another encoding: convert it (iconv -f LATIN1 -t UTF-8, say)"
        ) from error


def _read_tsv(path: Path, task: Task) -> Iterator[_Row]:
    text = read_utf8(path)
    # Only at line ends: str.splitlines would split at characters that texts may hold. And quotes are plain characters.
    lines = text.split("\n")
    if lines.pop():
        raise DataError(f"{path}: line {len(lines) + 1} has no end, so the file is cut off; copy it again")
    first, where, num = 1, list(task.tsv), task.num_tsv
    if not num:
        header, lines = lines[0].rstrip("\r").split("\t") if lines else [], lines[1:]
        first, num = 2, len(header)
        for name in task.tsv:
            if name not in header:
                raise DataError(
                    f"{path}: no column {name}, found {', '.join(header)}; expected GLUE's own file of {task.name}"
                )
        where = [header.index(str(name)) for name in task.tsv]
    for number, line in enumerate(lines, first):
        place, fields = f"{path}: line {number}", line.rstrip("\r").split("\t")
        if len(fields) != num:
            raise DataError(
                f"{place}: {len(fields)} columns, expected {num}, parted by tabs; the line is cut off, or holds a tab"
            )
        *texts, label = (fields[int(column)] for column in where)
        value: object = label
        if task.named:
            if label not in task.classes:
                raise DataError(
                    f"{place}: {task.tsv[-1]} is {label!r}, expected {' or '.join(task.classes)}; this is not "
                    f"{task.name}"
                )
            value = task.classes.index(label)
        elif re.fullmatch(r"\d+" if task.classes else r"\d+(\.\d+)?", label, re.ASCII):
            value = int(label) if task.classes else float(label)
        found = tuple(check_text(place, str(name), text) for name, text in zip(task.tsv, texts, strict=False))
        yield found, _label(place, str(task.tsv[-1]), value, task), place


def _label(place: str, name: str, value: object, task: Task) -> float:
    if task.classes:
        return check_label(place, name, value, 0, len(task.classes) - 1, task.name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= task.highest:
        raise DataError(f"{place}: {name} is {value!r}, expected 0 to {task.highest}; this is not {task.name}")
    return float(value)
