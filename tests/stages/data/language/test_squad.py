"""SQuAD 2.0 from files: both layouts give the same, answers are where they say, and what is bad is told."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.data.errors import DataError
from stages.data.language import squad
from stages.data.settings import Squad

SETTINGS = Squad(source="squad2", folder="", seed=0, validation=0.2)
CONTEXT = "Ada Lovelace wrote notes in London. Über alles wrote she."


def question(name: str, text: str, *answers: str) -> dict[str, Any]:
    return {
        "id": name, "question": text, "is_impossible": not answers,
        "answers": [{"text": answer, "answer_start": CONTEXT.index(answer)} for answer in answers],
    }  # fmt: skip


def content(*questions: dict[str, Any], title: str = "Ada") -> dict[str, Any]:
    return {"version": "v2.0", "data": [{"title": title, "paragraphs": [{"context": CONTEXT, "qas": [*questions]}]}]}


TRAIN = content(question("a", "Who wrote?", "Ada Lovelace"), question("b", "Who slept?"))
DEV = content(question("c", "Where?", "London", "in London", "London"), title="Byron")


def write(folder: Path, train: Any = None, dev: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, of in (("train", train or TRAIN), ("dev", dev or DEV)):
        (folder / f"{name}-v2.0.json").write_text(json.dumps(of, ensure_ascii=False), encoding="utf-8")
    return folder


def write_parquet(folder: Path) -> Path:
    folder.mkdir()
    for name, of in (("train", TRAIN), ("validation", DEV)):
        rows = [
            {
                "id": entry["id"], "title": article["title"], "context": CONTEXT, "question": entry["question"],
                "answers": {key: [answer[key] for answer in entry["answers"]] for key in ("text", "answer_start")},
            }
            for article in of["data"] for entry in article["paragraphs"][0]["qas"]
        ]  # fmt: skip
        answers = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
        texts = [(key, pa.string()) for key in ("id", "title", "context", "question")]
        schema = pa.schema([*texts, ("answers", answers)])
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"{name}.parquet")
    return folder


def test_both_layouts_give_the_same(tmp_path: Path) -> None:
    for folder in (write(tmp_path / "json"), write_parquet(tmp_path / "parquet")):
        corpus = squad.read(SETTINGS, folder)
        assert corpus.train.questions == ("Who wrote?", "Who slept?") and corpus.train.ids == ("a", "b")
        assert [[answer.text for answer in of] for of in corpus.train.answers] == [["Ada Lovelace"], []]
        # Of the people who answered two said the same.
        assert [(answer.text, answer.start) for answer in corpus.test.answers[0]] == [("London", 28), ("in London", 25)]
        assert len(set(corpus.train.groups)) == 1
        assert "2 of 130,319 training questions and 1 of 11,873 questions" in corpus.note


def changed(**of_answer: Any) -> dict[str, Any]:
    made = copy.deepcopy(TRAIN)
    made["data"][0]["paragraphs"][0]["qas"][0]["answers"][0] |= of_answer
    return made


def test_an_answer_that_is_not_in_its_context_is_told(tmp_path: Path) -> None:
    cases = {
        "'Grace Hopper' is not at character 0 of its context, found 'Ada Lovelace', and it stands nowhere": changed(
            text="Grace Hopper"
        ),
        "the answer 'Ada Lovelace' is not at character 5 .* and it stands at 0; correct answer_start": changed(
            answer_start=5
        ),
        "the answer 'Ada Lovelace' is not at character -57": changed(answer_start=-57),
        "the answer 'Ada Lovelace' is not at character 5000": changed(answer_start=5000),
    }
    for number, (message, train) in enumerate(cases.items()):
        with pytest.raises(DataError, match=message):
            squad.read(SETTINGS, write(tmp_path / str(number), train))


def test_a_file_in_another_encoding_is_told(tmp_path: Path) -> None:
    write(tmp_path)
    text = json.dumps(TRAIN, ensure_ascii=False)
    (tmp_path / "train-v2.0.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"train-v2.0.json: line 1 is not UTF-8 \(byte 0xdc\), expected"):
        squad.read(SETTINGS, tmp_path)
    (tmp_path / "train-v2.0.json").write_text(text[:80], encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read as JSON .* cut off or damaged"):
        squad.read(SETTINGS, tmp_path)


def test_files_of_another_form_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train-v2.0.json: no such file, .* or set DNM_SQUAD2"):
        squad.read(SETTINGS, tmp_path)
    impossible = copy.deepcopy(TRAIN)
    impossible["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = True
    twice = content(question("c", "Who wrote?", "Ada Lovelace"))
    cases = {
        "is_impossible is true and it has 1 answers": impossible,
        r"data\[0\].paragraphs\[0\].qas\[0\].answers\[0\]: answer_start is text, expected a whole number": changed(
            answer_start="0"
        ),
        "no data, found only version": {"version": "v2.0"},
        "the id 'c' is that of .*qas.0. too, expected one question an id": twice,
    }
    for number, (message, train) in enumerate(cases.items()):
        with pytest.raises(DataError, match=message):
            squad.read(SETTINGS, write(tmp_path / str(number), train))
    same = content(question("d", "Who wrote?", "Ada Lovelace"))
    with pytest.raises(DataError, match="1 test samples stand in the training split too, expected none"):
        squad.read(SETTINGS, write(tmp_path / "same", None, same))
