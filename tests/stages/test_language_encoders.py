"""Pre-trained encoders: outputs and tokens beside those of `transformers`, exact growth, controls, and bad files."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dnm import Divide, apply, count, replay, trace
from stages import cli, language, language_table, language_trial, outputs, prepare_language, records
from stages.data.errors import DataError
from stages.data.language import encoders, prepared
from stages.data.language.prepared import DataSet
from stages.data.language.tokens import PAD
from stages.data.settings import Grammar
from stages.language_training import Texts, example
from stages.schema import SettingsError
from stages.settings import Execution, FineTuned, Language, Pretrained, Reader, Row, Settings, Training
from stages.settings import load as load_settings
from tests.stages import tiny_encoders

transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed: an extra, `encoders`")
from stages import language_encoders  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
KINDS = tiny_encoders.KINDS
TRAINING = Training(
    batch_size=16, learning_rate=0.002, optimizer="AdamW", weight_decay=0.01, epochs=2, early_stopping=False,
    patience=20, schedule="trapezoid", warmup=0.1, decay_from=0.5, crop_padding=0, flip=False, gradient_clipping=1.0,
)  # fmt: skip
SMALL = Reader(width=8, hidden=8, learning_rate=0.01)
# Classes of pairs, classes of single sentences, and answers.
TASKS = {"acceptability": "cola", "entailment": "rte", "questions": "squad2"}
OUTPUTS = {"classes": 2, "numbers": 1, "spans": 2}


def grammar(source: Any) -> Grammar:
    return Grammar(source=source, train=120, test=40, clauses=1, seed=2, validation=0.2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    corpus = prepared.read(grammar("questions"), root)
    return {kind: tiny_encoders.saved(root / kind, kind, corpus) for kind in KINDS}


@pytest.fixture(scope="module")
def tasks(folders: dict[str, Path]) -> dict[tuple[str, str], DataSet]:
    """By architecture and kind of task; the numbers are made of classes."""
    made = {}
    for name, folder in folders.items():
        encoder = encoders.read(folder)
        for source in TASKS:
            data = prepare(source, encoder)
            made[name, data.kind] = data
        classes = made[name, "classes"]
        parts = {of: getattr(classes, of) for of in prepared.SPLITS}
        numbers = {of: dataclasses.replace(part, labels=part.labels.astype(float)) for of, part in parts.items()}
        made[name, "numbers"] = dataclasses.replace(classes, **numbers, kind="numbers", class_names=())
    return made


def prepare(source: str, encoder: encoders.Encoder, **changes: Any) -> DataSet:
    corpus = prepared.read(grammar(source), Path("."))
    options = {"vocabulary": 300, "length": 90, "cut": False, "encoder": encoder, **changes}
    return prepared.prepare(corpus, grammar(source), **options)


def model_of(folder: Path, data: DataSet, seed: int = 0) -> language_encoders.PretrainedEncoder:
    return language_encoders.pretrained(folder, data, OUTPUTS[data.kind], seed)


def batch_of(data: DataSet) -> torch.Tensor:
    return Texts.of(data.train, "cpu").batch(torch.arange(12))[0]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("source", TASKS)
def test_tokens_are_the_encoders_own(folders: dict[str, Path], name: str, source: str) -> None:
    """The tokenizer's own template, through `transformers`, numbered by the encoder."""
    encoder = encoders.read(folders[name])
    data = prepare(source, encoder)
    peer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folders[name] / "tokenizer.json"))
    corpus = prepared.read(grammar(source), Path("."))
    own = encoders.own_numbers(encoder.origin, encoder.vocabulary)
    assert sorted(own) == list(range(encoder.vocabulary)) and data.vocabulary == encoder.vocabulary
    for row in range(20):
        texts = corpus.test.texts(row)
        # A question stands before its context.
        texts = texts[::-1] if source == "questions" else texts
        expected = peer(*texts, truncation=False, padding=False)["input_ids"]
        ids = data.test.ids[row]
        assert own[ids[ids != PAD]].tolist() == expected
    card = prepared.card(data, corpus)
    assert card["encoder"] == {
        "architecture": name, "pad": 4, "cls": 3, "sep": 1, "sha256": encoders.digest(folders[name]),
    }  # fmt: skip


def test_answers_stay_where_they_are(tasks: dict[tuple[str, str], DataSet]) -> None:
    part = tasks["bert", "spans"].train
    rows = np.arange(len(part))
    starts, ends = part.offsets[rows, part.labels[:, 0], 0], part.offsets[rows, part.labels[:, 1], 1]
    found = [context[a:b] for context, a, b in zip(part.contexts, starts, ends, strict=True)]
    assert found == [answers[0] if answers else "" for answers in part.answers]


def test_the_file_knows_whose_tokens_it_holds(tasks: dict[tuple[str, str], DataSet], tmp_path: Path) -> None:
    data = tasks["bert", "classes"]
    prepared.save(tmp_path / "a.safetensors", data)
    assert prepared.load(tmp_path / "a.safetensors").encoder == data.encoder != None  # noqa: E711
    # Of a task with a vocabulary of its own nothing stands there: its bytes are what they were.
    corpus = prepared.read(grammar("acceptability"), tmp_path)
    plain = prepared.prepare(corpus, grammar("acceptability"), vocabulary=300, length=90, cut=False)
    assert b"encoder" not in prepared.to_bytes(plain) and "encoder" not in prepared.card(plain, corpus)


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("name", KINDS)
def test_outputs_are_those_of_transformers(
    folders: dict[str, Path], tasks: dict[tuple[str, str], DataSet], name: str, kind: str
) -> None:
    folder, data = folders[name], tasks[name, kind]
    model, ids = model_of(folder, data).eval(), batch_of(data)
    family = {"bert": "Bert", "distilbert": "DistilBert"}[name]
    head = "QuestionAnswering" if kind == "spans" else "SequenceClassification"
    peer = getattr(transformers, f"{family}For{head}").from_pretrained(folder, num_labels=OUTPUTS[kind]).eval()
    with torch.no_grad():
        # A new head says next to nothing.
        model.out.weight.mul_(100.0)
    last = peer.qa_outputs if kind == "spans" else peer.classifier
    last.load_state_dict(model.out.state_dict())
    if name == "distilbert" and kind != "spans":
        peer.pre_classifier.load_state_dict(model.hidden[0].state_dict())
    assert data.encoder is not None
    own = torch.from_numpy(encoders.own_numbers(data.encoder, data.vocabulary))[ids]
    mask = (ids != PAD).long()
    given = {"input_ids": own, "attention_mask": mask}
    if name == "bert":
        after = torch.zeros_like(own)
        for row, separators in enumerate((own == data.encoder.sep).int().tolist()):
            first = separators.index(1)
            after[row, first + 1 :] = 1
        given["token_type_ids"] = after * mask
    with torch.no_grad():
        found, expected = model(ids), peer(**given)
    expected = torch.stack([expected.start_logits, expected.end_logits], -1) if kind == "spans" else expected.logits
    assert found.shape == expected.shape and (mask == 0).any()
    if kind == "spans":
        found, expected = found[mask.bool()], expected[mask.bool()]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert float(found.std()) > 1e-3 * float(found.abs().mean())


def test_encoders_are_read_with_what_they_were_trained_with(
    folders: dict[str, Path], tasks: dict[tuple[str, str], DataSet], tmp_path: Path
) -> None:
    """Published files hold the head of the pre-training too, under another prefix; some have half precision."""
    for name, whole in (("BertForPreTraining", True), ("BertForMaskedLM", False)):
        folder = tmp_path / name
        torch.manual_seed(1)
        peer = getattr(transformers, name)(transformers.BertConfig.from_pretrained(folders["bert"])).half()
        peer.save_pretrained(folder)
        (folder / encoders.TOKENIZER).write_bytes((folders["bert"] / encoders.TOKENIZER).read_bytes())
        data = dataclasses.replace(tasks["bert", "classes"], encoder=encoders.read(folder).origin)
        one, same, other = (model_of(folder, data, seed) for seed in (0, 0, 1))
        assert all(parameter.dtype == torch.float32 for parameter in one.parameters())
        expected = peer.bert.encoder.state_dict()
        found = one.body.get_submodule("encoder").state_dict()
        assert all(torch.equal(found[key], value.float()) for key, value in expected.items())
        # What has no pooler gets one, drawn like the head.
        poolers = [of.state_dict()["hidden.0.weight"] for of in (one, same, other)]
        assert torch.equal(poolers[0], poolers[1]) and torch.equal(poolers[0], poolers[2]) == whole


def test_without_transformers_it_is_told(
    folders: dict[str, Path], tasks: dict[tuple[str, str], DataSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DataError, match=r"transformers is not there .* install the extra: pip install -e '.\[encoders"):
        model_of(folders["bert"], tasks["bert", "classes"])


@pytest.mark.parametrize("name", KINDS)
def test_the_head_alone_depends_on_the_seed(
    folders: dict[str, Path], tasks: dict[tuple[str, str], DataSet], name: str
) -> None:
    data = tasks[name, "classes"]
    global_state = torch.random.get_rng_state()
    one, same, other = (model_of(folders[name], data, seed).state_dict() for seed in (1, 1, 2))
    torch.random.set_rng_state(global_state)
    assert all(torch.equal(one[key], same[key]) for key in one)
    differ = {key for key in one if not torch.equal(one[key], other[key])}
    assert differ == {"out.weight"} | ({"hidden.0.weight"} if name == "distilbert" else set())
    assert not any(module.p for module in model_of(folders[name], data).modules() if isinstance(module, nn.Dropout))


@pytest.mark.parametrize("name", KINDS)
def test_edits_inside_of_it_change_no_output(
    folders: dict[str, Path], tasks: dict[tuple[str, str], DataSet], name: str
) -> None:
    data = tasks[name, "spans"]
    model, ids = model_of(folders[name], data).eval(), batch_of(data)
    assert language_encoders.blocks_of(model) == ((2, 32), (2, 32))
    before = model(ids)
    groups = [of for of in trace(model, ids).groups if of.divisible and "layer.1" in of.name]
    for group in groups:
        assert apply(model, Divide(group.name, (0,)), ids).eval_difference < 1e-5
    torch.testing.assert_close(model(ids), before, atol=1e-5, rtol=1e-4)
    assert language_encoders.blocks_of(model) == ((2, 32), (3, 33))


@pytest.fixture(params=KINDS)
def context(
    request: pytest.FixtureRequest, tiny_row: Row, execution: Execution, linked_root: Path, folders: dict[str, Path],
) -> cli.Context:  # fmt: skip
    """A scale with a task of pairs, prepared for one of the encoders."""
    # Several edits an event, which always pay, and are never taken back.
    dnm = dataclasses.replace(
        tiny_row.dnm, event_times=(0.2, 0.5), operators=("Divide", "AddResidual"), max_parameters=4.0,
        max_training_flops=4.0, rollback=False, enable_aggressive_growth=True,
    )  # fmt: skip
    networks = FineTuned(bag=SMALL, bilstm=SMALL, encoder=Pretrained(folder=str(folders[request.param])))
    entry = Language(
        task="rte", as_documented=False, seeds=2, vocabulary=300, length=90, cut=False, networks=networks,
        training=TRAINING, dnm=dnm, data=grammar("entailment"),
    )  # fmt: skip
    settings = Settings(
        scale="tiny", root=".", params_file="params.yaml", execution=execution,
        image_classification={"strokes": tiny_row}, contest={}, ranking={}, ablation={}, robustness={}, events={},
        nas={}, language={"pairs": entry},
    )  # fmt: skip
    made = cli.Context(settings, linked_root, "pairs", "pairs")
    prepare_language.main(made)
    return made


def test_trials(context: cli.Context) -> None:
    """Growth is exact and the same on every run; the controls have its cost, and scratch its shape."""
    jobs = {job.arm: job for job in language.first(context) if job.seed == 1}
    data = prepared.load(context.data)
    grown = language_trial.run(jobs["dnm"])
    assert {**language_trial.run(jobs["dnm"]), "machine": None} == {**grown, "machine": None}
    entries = [entry for event in grown["events"] for entry in event["entries"]]
    assert len(grown["events"]) == 2 and grown["figures"]["edits"] == len(entries) > 2
    assert all(event["output_difference"] < 1e-4 for event in grown["events"])
    places = [str(entry.get("group") or entry.get("at")) for entry in entries]
    assert all(place.startswith(("body.encoder.", "body.transformer.")) for place in places)
    assert any(branch[0] == "AddResidual" for branch in grown["branches"])
    assert sum(heads + inner for heads, inner in grown["blocks"]) > 2 * (2 + 32)

    fixed = language_trial.run(jobs["transformer"])
    assert fixed["blocks"] == [[2, 32], [2, 32]] and not fixed["branches"]
    assert fixed["figures"]["parameters"] < grown["figures"]["parameters"]
    for arm in ("bag", "baseline"):
        found = language_trial.run(jobs[arm])
        assert not found["blocks"] and found["figures"]["steps"] == 12

    after = {job.arm: job for job in language.after(context, [grown])}
    results = {arm: language_trial.run(job) for arm, job in after.items()}
    for result in results.values():
        spent = result["figures"]["training_flops"]
        assert 0.8 * grown["figures"]["training_flops"] < spent <= grown["figures"]["training_flops"]
    assert (results["scratch"]["blocks"], results["scratch"]["branches"]) == (grown["blocks"], grown["branches"])
    assert results["start"]["blocks"] == fixed["blocks"]
    scratch, start = (language_trial.model_of(after[arm], data) for arm in ("scratch", "start"))
    same = language_trial.model_of(jobs["dnm"], data).state_dict()
    assert all(torch.equal(value, same[key]) for key, value in start.state_dict().items())
    replay(start, grown["journal"])
    assert {n: p.shape for n, p in scratch.named_parameters()} == {n: p.shape for n, p in start.named_parameters()}
    assert count(scratch, example(20)).forward == count(start, example(20)).forward
    # Nothing of what was learnt before is in it.
    table = "body.embeddings.word_embeddings.weight"
    assert (scratch.state_dict()[table] - same[table]).norm() > 0.5 * same[table].norm()
    again = language_trial.model_of(after["scratch"], data).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in scratch.state_dict().items())


def test_files_and_code_decide_a_trial(context: cli.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = language.first(context)[-1]
    moved = dataclasses.replace(job, encoder="elsewhere")
    assert records.fingerprint(job, "of the data", "code") == records.fingerprint(moved, "of the data", "code")
    names = {file.name for file in records.code_files(ROOT, records.grower_of(job), records.also_of(job))}
    assert {"encoders.py", "language_encoders.py"} <= names
    plain = dataclasses.replace(job, encoder=None)
    names = {file.name for file in records.code_files(ROOT, records.grower_of(plain), records.also_of(plain))}
    assert not {"encoders.py", "language_encoders.py"} & names
    # Its files are looked at where they are read: others are refused.
    copy = tmp_path / "copy"
    copy.mkdir()
    assert job.encoder is not None
    for name in encoders.FILES:
        (copy / name).write_bytes((Path(job.encoder) / name).read_bytes())
    language_trial.model_of(dataclasses.replace(job, encoder=str(copy)), prepared.load(context.data))
    monkeypatch.setenv("DNM_ENCODER", str(copy))
    assert language.first(context)[-1].encoder == str(copy)
    (copy / encoders.CONFIG).write_text((copy / encoders.CONFIG).read_text() + "\n")
    with pytest.raises(DataError, match="SHA-256 .* expected .* that the task was prepared with; put them back, or"):
        language_trial.run(language.first(context)[-1])


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A BERT of which a test may change a file."""
    folder = tmp_path / "bert"
    folder.mkdir()
    for name in encoders.FILES:
        (folder / name).write_bytes((folders["bert"] / name).read_bytes())
    return folder


def change(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / encoders.CONFIG).read_text())
    (folder / encoders.CONFIG).write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2', expected bert or distilbert; take such an encoder, or add"),
        ({"model_type": None}, "model_type is None, expected bert or distilbert"),
        ({"vocab_size": 500}, "tokens, numbered up to .* expected the 500 that vocab_size of .*: copy both from the"),
        ({"vocab_size": "many"}, "vocab_size is 'many', expected a number of tokens"),
        ({"is_decoder": True}, "is_decoder is True, expected an encoder"),
        ({"type_vocab_size": 1}, "type_vocab_size is 1, expected 2, for the first and the second text"),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit_is_told(copied: Path, changes: dict[str, Any], message: str) -> None:
    change(copied, **changes)
    with pytest.raises(DataError, match=message):
        encoders.read(copied)


def test_files_that_are_missing_or_damaged_are_told(copied: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder, expected a pre-trained encoder .*DNM_ENCODER"):
        encoders.read(copied / "nowhere")
    kept = {name: (copied / name).read_bytes() for name in encoders.FILES}
    (copied / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="tokenizer.json: no such file, found config.json, model.safetensors, expected"):
        encoders.read(copied)
    (copied / "vocab.txt").touch()
    with pytest.raises(DataError, match="vocab.txt is there, a vocabulary without rules; write tokenizer.json"):
        encoders.read(copied)
    (copied / "tokenizer.json").write_bytes(kept["tokenizer.json"][:50])
    with pytest.raises(DataError, match="tokenizer.json: cannot be read as a tokenizer .*copy it again"):
        encoders.read(copied)
    (copied / "tokenizer.json").write_bytes(kept["tokenizer.json"])
    (copied / "config.json").write_text("{")
    with pytest.raises(DataError, match="config.json: cannot be read as JSON .*copy it again"):
        encoders.read(copied)
    (copied / "config.json").write_bytes(kept["config.json"])
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(DataError, match="model.safetensors: no such file.*pytorch_model.bin is there, a pickle, whose"):
        encoders.read(copied)


def test_a_tokenizer_without_marks_is_told(copied: Path) -> None:
    corpus = prepared.read(grammar("questions"), copied)
    own = tiny_encoders.tokenizer(corpus, marks=["[UNK]", "[PAD]"])
    own.save(str(copied / "tokenizer.json"))
    with pytest.raises(DataError, match=r"no token \[CLS\] and no \[SEP\], expected \[PAD\], \[CLS\], \[SEP\]"):
        encoders.read(copied)


def test_weights_that_do_not_fit_are_told(copied: Path, folders: dict[str, Path]) -> None:
    for damage, message in (
        (lambda: (copied / "model.safetensors").write_bytes(b"no tensors"), "the weights cannot be read"),
        (
            lambda: (copied / "model.safetensors").write_bytes((folders["distilbert"] / encoders.WEIGHTS).read_bytes()),
            "no weights of .* and .* others, expected those of a bert",
        ),
    ):
        damage()
        data = prepare("entailment", encoders.read(copied))
        with pytest.raises(DataError, match=message):
            model_of(copied, data)


def test_texts_that_do_not_fit_are_told(folders: dict[str, Path], tasks: dict[tuple[str, str], DataSet]) -> None:
    encoder = encoders.read(folders["bert"])
    with pytest.raises(DataError, match="length is 97, expected at most 96, the tokens that the encoder .* reads"):
        prepare("entailment", encoder, length=97)
    with pytest.raises(DataError, match=r"entailment .*: \d+ tokens, expected at most 12, which the models read"):
        prepare("entailment", encoder, length=12)
    assert prepare("entailment", encoder, length=12, cut=True).counts["train"]["cut"] > 0
    size = encoder.vocabulary
    with pytest.raises(DataError, match=f"has {size} tokens, expected at most {size - 1}; set vocabulary: {size}"):
        prepare("entailment", encoder, vocabulary=size - 1)
    model = model_of(folders["bert"], tasks["bert", "classes"])
    with pytest.raises(ValueError, match="the texts have 97 tokens, expected at most 96, which the encoder reads"):
        model(torch.ones(1, 97, dtype=torch.long))
    plain = dataclasses.replace(tasks["bert", "classes"], encoder=None)
    with pytest.raises(DataError, match="prepared with a vocabulary of its own, expected an encoder's tokens; run the"):
        model_of(folders["bert"], plain)


def test_marks_in_a_text_are_plain_text(folders: dict[str, Path]) -> None:
    encoder = encoders.read(folders["bert"])
    (found,) = encoder.subwords.encode_batch(["a [SEP] b"])
    assert min(found.ids) >= 0 and len(found.ids) >= 5
    encoder.subwords.tokenizer.encode_special_tokens = False
    with pytest.raises(DataError, match=r"the text 'a \[SEP\] b' spells one of .* expected plain text: change it"):
        encoder.subwords.encode_batch(["a [SEP] b"])


def test_settings_name_an_encoder_or_networks(tmp_path: Path) -> None:
    paper = load_settings(ROOT / "scales" / "paper" / "params.yaml").language
    for entry in paper.values():
        assert isinstance(entry.networks, FineTuned) and entry.vocabulary == 30522
        assert entry.networks.encoder.folder.startswith("data/encoders/")
    assert not any(
        isinstance(entry.networks, FineTuned) for entry in load_settings(ROOT / "params.yaml").language.values()
    )
    text = (ROOT / "scales" / "paper" / "params.yaml").read_text(encoding="utf-8")
    for old, new, message in (
        (
            "encoder: {folder: data",
            "encoder: {folders: data",
            "networks.encoder.folders is not a setting; did you mean",
        ),
        ("      encoder: {", "      width: 8\n      encoder: {", "networks.width is not a setting"),
        ("encoder: {folder: data/encoders/bert-base-uncased}", "width: 8", "networks.head_size is missing; add it"),
        ("encoder: {folder: data/encoders/bert-base-uncased}", "encoder: 5", "networks.encoder is int 5, expected a"),
    ):
        (tmp_path / "params.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(SettingsError, match=message):
            load_settings(tmp_path / "params.yaml")


def test_a_missing_encoder_is_told_before_the_texts_are_read(context: cli.Context) -> None:
    own = context.settings.language["pairs"]
    networks = dataclasses.replace(own.networks, encoder=Pretrained(folder="data/encoders/none"))
    settings = dataclasses.replace(context.settings, language={"pairs": dataclasses.replace(own, networks=networks)})
    with pytest.raises(cli.UserError, match="data/encoders/none: no such folder, expected a pre-trained encoder"):
        prepare_language.main(dataclasses.replace(context, settings=settings))


@pytest.mark.nightly
def test_the_stage(context: cli.Context) -> None:
    language.main(context)
    lines = outputs.read_csv(context.metrics / "language" / "pairs.csv")
    assert [(line["arm"], line["seed"]) for line in lines] == [(arm, seed) for arm in language.ARMS for seed in "01"]
    shapes = outputs.read_json(context.metrics / "language" / "pairs.journals.json")
    of = {(item["arm"], item["seed"]): (item["blocks"], item["branches"]) for item in shapes}
    assert all(of["scratch", seed] == of["dnm", seed] != of["start", seed] for seed in (0, 1))


def test_the_table_says_what_was_pre_trained() -> None:
    assert "pre-trained" in language_table.about("transformer", ["a"], {"pre_trained": ["a", "b"]})
    assert language_table.about("transformer", ["a"], {}) == language_table.ABOUT["transformer"]
