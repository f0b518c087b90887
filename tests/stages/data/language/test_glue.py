"""GLUE's tasks from files: both layouts give the same, and every way in which a file can be bad is told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.data.errors import DataError
from stages.data.language import glue, prepared
from stages.data.settings import Glue

REAL = Path(os.environ.get("DNM_GLUE") or Path(__file__).parents[4].parent / "shared" / "data" / "glue")


def settings(source: Any, folder: Path | str = "") -> Glue:
    return Glue(source=source, folder=str(folder), seed=0, validation=0.2)


def write(folder: Path, name: str, **columns: Sequence[object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table({key: list(value) for key, value in columns.items()}), path)
    return path


def cola(folder: Path, **changes: Sequence[object]) -> None:
    """Four training sentences, and two and one to be measured."""
    train = {"sentence": ["He sings.", "Sings he.", " She sings. ", "It rains."], "label": [1, 0, 1, 1]}
    write(folder, "train", **{**train, **changes})
    write(folder, "validation_in_domain", sentence=["They sing.", "Sing they."], label=[1, 0])
    write(folder, "validation_out_of_domain", sentence=["Who sings?"], label=[1])


def read(source: str, folder: Path) -> Any:
    return glue.read(settings(source), folder)


def test_both_parts_are_measured_together(tmp_path: Path) -> None:
    cola(tmp_path)
    corpus = read("cola", tmp_path)
    assert corpus.train.first == ("He sings.", "Sings he.", "She sings.", "It rains.") and corpus.train.second == ()
    assert corpus.train.labels.tolist() == [1, 0, 1, 1]
    assert corpus.test.first == ("They sing.", "Sing they.", "Who sings?")
    assert (corpus.metrics, corpus.class_names) == (("matthews",), ("unacceptable", "acceptable"))
    assert "4 of 8,551 training samples and 3 of 1,043 validation samples" in corpus.note
    (tmp_path / "validation_out_of_domain.parquet").unlink()
    with pytest.raises(DataError, match="out_of_domain.parquet: no such file, expected CoLA's in_domain and out_of"):
        read("cola", tmp_path)


def test_glue_s_own_files_give_the_same(tmp_path: Path) -> None:
    cola(tmp_path / "parquet")
    own = tmp_path / "tsv"
    own.mkdir()
    lines = {"train": ["1\tHe sings.", "0\tSings he.", "1\t She sings. ", "1\tIt rains."]}
    lines |= {"dev_in_domain": ["1\tThey sing.", "0\tSing they."], "dev_out_of_domain": ["1\tWho sings?"]}
    for name, rows in lines.items():
        text = "".join(f"x\t{row.split(chr(9))[0]}\t\t{row.split(chr(9))[1]}\n" for row in rows)
        (own / f"{name}.tsv").write_text(text, encoding="utf-8")
    one, other = read("cola", tmp_path / "parquet"), read("cola", own)
    for name in ("train", "test"):
        assert getattr(one, name).first == getattr(other, name).first
        assert getattr(one, name).labels.tolist() == getattr(other, name).labels.tolist()
    assert other.test.place(2) == f"{own / 'dev_out_of_domain.tsv'}: line 1"


def test_pairs_with_names_as_labels(tmp_path: Path) -> None:
    head = "index\tsentence1\tsentence2\tlabel\n"
    rows = '0\tA "dog barks.\tAn animal barks.\tentailment\n1\tA dog.\tA cat.\tnot_entailment\n'
    (tmp_path / "train.tsv").write_text(head + rows, encoding="utf-8")
    (tmp_path / "dev.tsv").write_text(head + "0\tIt rains.\tIt is wet.\tentailment\n", encoding="utf-8")
    corpus = read("rte", tmp_path)
    # Quotes are plain characters.
    assert corpus.train.texts(0) == ('A "dog barks.', "An animal barks.")
    assert corpus.train.labels.tolist() == [0, 1]


def test_numbers_are_scores(tmp_path: Path) -> None:
    for name, scores in (("train", [0.0, 5.0, 2.5]), ("validation", [4.2])):
        texts = [f"{name} {number}" for number in range(len(scores))]
        write(tmp_path, name, sentence1=texts, sentence2=texts, label=scores)
    corpus = read("stsb", tmp_path)
    assert corpus.class_names == () and corpus.train.labels.tolist() == [0.0, 5.0, 2.5]
    write(tmp_path, "train", sentence1=["a"], sentence2=["b"], label=[5.5])
    with pytest.raises(DataError, match=r"row 0: label is 5.5, expected 0 to 5.0; this is not STS-B"):
        read("stsb", tmp_path)


def test_a_file_in_another_encoding_is_told(tmp_path: Path) -> None:
    cola(tmp_path)
    (tmp_path / "train.parquet").unlink()
    text = "x\t1\t\tHe sings.\nx\t1\t\tSie läuft.\n"
    (tmp_path / "train.tsv").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"train.tsv: line 2 is not UTF-8 \(byte 0xe4\), .* convert it \(iconv"):
        read("cola", tmp_path)
    (tmp_path / "train.tsv").write_text(text, encoding="utf-16")
    with pytest.raises(DataError, match="train.tsv: line 1 is not UTF-8"):
        read("cola", tmp_path)
    # UTF-16 without a mark is valid UTF-8 with zero bytes in it.
    cola(tmp_path, sentence=["H\0e\0", "b", "c", "d"])
    with pytest.raises(DataError, match="row 0: the sentence holds zero bytes, .* convert it to UTF-8"):
        read("cola", tmp_path)


def test_parquet_whose_text_is_not_utf8_is_told(tmp_path: Path) -> None:
    cola(tmp_path)
    raw = pa.array([b"fine", b"l\xe4uft", b"c", b"d"])
    offsets, data = raw.buffers()[1], raw.buffers()[2]
    text = pa.StringArray.from_buffers(4, offsets, data)
    pq.write_table(pa.table({"sentence": text, "label": [1, 0, 1, 1]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet: row 1 is not UTF-8 .* convert it to UTF-8"):
        read("cola", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": [1, 0, 2, 1]}, "row 2: label is 2"),
        ({"sentence": ["a", " ", "c", "d"]}, "row 1: sentence is empty"),
        ({"sentence": ["a", None, "c", "d"]}, "row 1: sentence is None, expected text"),
        ({"sentence": ["Who sings?", "b", "c", "d"]}, "1 test samples stand in the training split too"),
    ],
)
def test_bad_rows_are_told_by_their_place(tmp_path: Path, changes: Any, message: str) -> None:
    cola(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        read("cola", tmp_path)


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train.parquet: no such file, .* or set DNM_COLA to a folder that has them"):
        read("cola", tmp_path)
    cola(tmp_path)
    write(tmp_path, "train", text=["a"], label=[1])
    with pytest.raises(DataError, match="no column sentence, found text, label"):
        read("cola", tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read("cola", tmp_path)
    (tmp_path / "train.parquet").unlink()
    (tmp_path / "train.tsv").write_text("x\t1\t\tHe sings.\nx\t1\t\tShe si", encoding="utf-8")
    with pytest.raises(DataError, match="line 2 has no end, so the file is cut off"):
        read("cola", tmp_path)
    (tmp_path / "train.tsv").write_text("x\t1\tHe sings.\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1: 3 columns, expected 4"):
        read("cola", tmp_path)


def test_a_variable_says_where_the_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cola(tmp_path / "data" / "cola")
    assert len(prepared.read(settings("cola", "data/cola"), tmp_path).train) == 4
    cola(tmp_path / "other", sentence=["a", "b", "c", "d"])
    monkeypatch.setenv("DNM_COLA", str(tmp_path / "other"))
    assert prepared.read(settings("cola", "data/cola"), tmp_path).train.first == ("a", "b", "c", "d")


@pytest.mark.parametrize(("source", "sizes"), [("cola", (8551, 1043)), ("rte", (2490, 277)), ("sst2", (67349, 872))])
def test_the_real_files(source: str, sizes: tuple[int, int]) -> None:
    if not (REAL / source).is_dir():
        pytest.skip(f"{REAL / source} is not there; DNM_GLUE says where a folder with GLUE's tasks is")
    corpus = read(source, REAL / source)
    assert (len(corpus.train), len(corpus.test)) == sizes and corpus.train.labels.max() == 1
    assert corpus.note == "measured on the validation data, as the labels of the test data are not public"
    assert 0.4 < np.mean(corpus.test.labels) < 0.75
