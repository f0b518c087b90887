"""Pre-trained encoders on disk, in the layout of `save_pretrained`: what their files say, and texts in their tokens.

Nothing is downloaded and no code of a file is run: weights are safetensors, never pickles, and the architectures are
those of `ARCHITECTURES`. What is prepared from texts numbers tokens as `stages.data.language.tokens` does: PAD, CLS and
SEP first, behind them the encoder's other tokens in their own order.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from stages.data.errors import DataError, told
from stages.data.language.prepared import Origin
from stages.data.language.tokens import CLS, NUM_SPECIAL, PAD, SEP

CONFIG, WEIGHTS, TOKENIZER = FILES = ("config.json", "model.safetensors", "tokenizer.json")
# By `model_type`: BERT (Devlin et al. 2019, arXiv:1810.04805) and DistilBERT (Sanh et al. 2019, arXiv:1910.01108).
ARCHITECTURES = ("bert", "distilbert")
# As all BERTs call PAD, CLS and SEP.
_MARKS = {PAD: "[PAD]", CLS: "[CLS]", SEP: "[SEP]"}
# What may lie in place of a file, and what to do then.
_INSTEAD = {
    "pytorch_model.bin": (
        WEIGHTS,
        "a pickle, whose code would be run when it is read; take the encoder's safetensors, or write them with "
        "save_pretrained where the file is trusted",
    ),
    "model.safetensors.index.json": (WEIGHTS, "the index of weights in several files; write them as one"),
    "vocab.txt": (TOKENIZER, "a vocabulary without rules; write tokenizer.json with AutoTokenizer and save_pretrained"),
}
_SHOWN = 6


class Tokens(NamedTuple):
    """One text.

    Attributes:
        ids: numbers of its tokens among those that are no marks.
        offsets: characters in which each of them begins and ends.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


class Subwords:
    """An encoder's tokenizer as `stages.data.language.tokens` takes one: PAD, CLS and SEP are not in its vocabulary.

    Args:
        tokenizer: the encoder's own.
        origin: of the encoder.
        vocabulary: number of tokens, marks included.
    """

    def __init__(self, tokenizer: Tokenizer, origin: Origin, vocabulary: int) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.number_of = np.full(vocabulary, -1)
        self.number_of[own_numbers(origin, vocabulary)[NUM_SPECIAL:]] = np.arange(vocabulary - NUM_SPECIAL)

    def get_vocab_size(self) -> int:
        """Number of tokens that are no marks."""
        return self.vocabulary - NUM_SPECIAL

    def encode_batch(self, input: Sequence[str], *, add_special_tokens: bool = False) -> list[Tokens]:
        """The tokens of texts.

        Raises:
            DataError: a text spells a mark that the tokenizer reads as one.
        """
        found = []
        for text, own in zip(input, self.tokenizer.encode_batch(list(input), add_special_tokens=False), strict=True):
            ids = self.number_of[np.array(own.ids, np.int64)]
            if (ids < 0).any():
                raise DataError(
                    f"the text {text[:60]!r} spells one of {', '.join(_MARKS.values())}, which the encoder would read "
                    "as the end of a text or as padding; expected plain text: change it"
                )
            found.append(Tokens(ids.tolist(), own.offsets))
        return found


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What the files of a pre-trained encoder say, its weights aside.

    Attributes:
        folder: where they are.
        origin: what a prepared task keeps of it.
        vocabulary: number of tokens.
        positions: the most tokens that it reads.
        subwords: its tokenizer.
    """

    folder: Path
    origin: Origin
    vocabulary: int
    positions: int
    subwords: Subwords


def folder_of(folder: str, root: Path) -> Path:
    """Where an encoder lies: DNM_ENCODER, or a folder as seen from the repository's root."""
    return Path(os.environ.get("DNM_ENCODER") or root / folder)


def read(folder: Path) -> Encoder:
    """Reads the configuration and the tokenizer of an encoder.

    Raises:
        DataError: the folder or a file of it is missing or damaged, the architecture is none that is known, or its
            files do not fit together.
    """
    _demand_files(folder)
    config = read_config(folder)
    path = folder / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(path))
    # The type of the library's errors is Exception itself.
    except Exception as error:
        raise DataError(
            f"{path}: cannot be read as a tokenizer ({told(error)}); the file is cut off or damaged: copy it again"
        ) from error
    known = tokenizer.get_vocab(with_added_tokens=True)
    missing = [name for name in _MARKS.values() if name not in known]
    if missing:
        raise DataError(
            f"{path}: no token {' and no '.join(missing)}, expected {', '.join(_MARKS.values())}, with which texts are "
            "laid out; take the tokenizer that the encoder was trained with"
        )
    vocabulary = config["vocab_size"]
    if sorted(known.values()) != list(range(vocabulary)):
        raise DataError(
            f"{path}: {len(known):,} tokens, numbered up to {max(known.values()):,}, expected the {vocabulary:,} that "
            f"vocab_size of {folder / CONFIG} says; the files are of two encoders: copy both from the same one"
        )
    # Settings of what it was last used for; and marks that a text spells are plain text.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    pad, cls, sep = (known[_MARKS[mark]] for mark in (PAD, CLS, SEP))
    origin = Origin(architecture=config["model_type"], pad=pad, cls=cls, sep=sep, sha256=digest(folder))
    return Encoder(
        folder=folder,
        origin=origin,
        vocabulary=vocabulary,
        positions=config["max_position_embeddings"],
        subwords=Subwords(tokenizer, origin, vocabulary),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of an encoder.

    Raises:
        DataError: it is damaged or of an architecture that is not known.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({told(error)}); copy it again") from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in ARCHITECTURES:
        raise DataError(
            f"{path}: model_type is {found!r}, expected {' or '.join(ARCHITECTURES)}; take such an encoder, or add its "
            "architecture to stages/language_encoders.py"
        )
    for key in ("vocab_size", "max_position_embeddings"):
        if not isinstance(config.get(key), int) or config[key] < NUM_SPECIAL:
            raise DataError(f"{path}: {key} is {config.get(key)!r}, expected a number of tokens; copy it again")
    for key in ("is_decoder", "add_cross_attention", "quantization_config"):
        if config.get(key):
            raise DataError(f"{path}: {key} is {config[key]!r}, expected an encoder in floating point: without {key}")
    if found == "bert" and config.get("type_vocab_size", 2) < 2:
        raise DataError(
            f"{path}: type_vocab_size is {config['type_vocab_size']}, expected 2, for the first and the second text; "
            "take an encoder that reads pairs"
        )
    return config


def digest(folder: Path) -> str:
    """SHA-256 over an encoder's files, by which a trial knows that they are those that its data were made with."""
    whole = hashlib.sha256()
    for name in FILES:
        with (folder / name).open("rb") as file:
            whole.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def demand_same(folder: Path, origin: Origin) -> None:
    """Refuses an encoder that is another one than a task was prepared with.

    Raises:
        DataError: a file is missing, or its content is another one.
    """
    _demand_files(folder)
    found = digest(folder)
    if found != origin.sha256:
        raise DataError(
            f"{folder}: the encoder's files have the SHA-256 {found[:12]}..., expected {origin.sha256[:12]}..., those "
            "that the task was prepared with; put them back, or run the prepare_language stage again"
        )


def own_numbers(origin: Origin, vocabulary: int) -> np.ndarray:
    """The encoder's own number of each token of a prepared task, int64, `vocabulary`."""
    marks = np.zeros(NUM_SPECIAL, np.int64)
    marks[[PAD, CLS, SEP]] = origin.pad, origin.cls, origin.sep
    return np.concatenate([marks, np.setdiff1d(np.arange(vocabulary), marks)])


def _demand_files(folder: Path) -> None:
    layout = f"a pre-trained encoder as save_pretrained writes one: {', '.join(FILES)}"
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder, expected {layout}; copy one there, or set DNM_ENCODER to a folder that has "
            "them; nothing is downloaded"
        )
    for name in FILES:
        if (folder / name).is_file():
            continue
        found = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
        for other, (wanted, why) in _INSTEAD.items():
            if wanted == name and other in found:
                raise DataError(f"{folder / name}: no such file, expected {layout}; {other} is there, {why}")
        raise DataError(f"{folder / name}: no such file, found {shown or 'nothing'}, expected {layout}; copy it there")
