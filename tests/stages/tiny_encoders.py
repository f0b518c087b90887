"""Encoders of a few units on disk, as `save_pretrained` writes them; nothing was learnt by them before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from stages.data import language

# Not where BERT has them, nor where prepared tasks do.
MARKS = ["[UNK]", "[SEP]", "[MASK]", "[CLS]", "[PAD]"]
KINDS = ("bert", "distilbert")
POSITIONS = 96


def tokenizer(corpus: Any, size: int = 200, marks: list[str] = MARKS) -> Tokenizer:
    """WordPiece, as BERT's, trained on a corpus; it adds CLS and SEP itself where it is asked to."""
    made: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # pyright: ignore[reportCallIssue]
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    texts = [text for row in range(len(corpus.train)) for text in corpus.train.texts(row)]
    made.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=marks, show_progress=False)
    )
    if set(MARKS) <= set(marks):
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
        )  # fmt: skip
    return made


def config_of(kind: str, vocabulary: int, pad: int = MARKS.index("[PAD]")) -> Any:
    """Two blocks of two heads; with dropout, as published encoders have."""
    import transformers

    if kind == "bert":
        return transformers.BertConfig(
            vocab_size=vocabulary, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=POSITIONS, pad_token_id=pad,
        )  # fmt: skip
    return transformers.DistilBertConfig(
        vocab_size=vocabulary, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=POSITIONS,
        pad_token_id=pad,
    )  # fmt: skip


def saved(folder: Path, kind: str, corpus: language.Corpus[Any]) -> Path:
    """An encoder whose vocabulary is trained on a corpus."""
    import transformers

    own = tokenizer(corpus)
    torch.manual_seed(0)
    config = config_of(kind, own.get_vocab_size())
    body = transformers.BertModel(config) if kind == "bert" else transformers.DistilBertModel(config)
    with torch.no_grad():
        # Further from 0 than at first, as trained weights are.
        for parameter in body.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    body.save_pretrained(folder)
    # Settings of what it was last used for.
    own.enable_truncation(7)
    own.enable_padding(length=9)
    own.save(str(folder / "tokenizer.json"))
    return folder
