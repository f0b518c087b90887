"""Pre-trained BERT and DistilBERT with the head of a task: fine-tuned, grown, or of the same shape and untrained.

They take token ids alone, as the networks of `stages.language_models` do. The rows of the table of embeddings stand in
the order in which a prepared task numbers tokens. Dropout is off, as an edit would be exact in eval mode only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.data.errors import DataError, told
from stages.data.language import encoders
from stages.data.language.prepared import DataSet, Origin
from stages.data.language.tokens import PAD, SEP
from stages.language_growing import Blocks, _linear


@dataclass(frozen=True)
class Architecture:
    """Names in the modules of `transformers`; paths are seen from a block.

    Attributes:
        model: class of the encoder.
        layers: path of the blocks in it.
        attention: of queries, keys, values and what takes these together.
        feed_forward: of its two layers.
        head_size: path of the module that knows it as `attention_head_size`.
        dropout: of the configuration: rates.
        excluded: places that do not grow: what gives a token's state its width, the head, and branches where they
            would add to scores, or a second time at one place. Behind queries and the first layer of the feed-forward
            network branches stay possible: heads and units have the same names.
    """

    model: str
    layers: str
    attention: tuple[str, str, str, str]
    feed_forward: tuple[str, str]
    head_size: str
    dropout: tuple[str, ...]
    excluded: tuple[str, ...]


ARCHITECTURES = {
    "bert": Architecture(
        "BertModel", "encoder.layer",
        ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
        ("intermediate.dense", "output.dense"), "attention.self",
        ("hidden_dropout_prob", "attention_probs_dropout_prob"),
        ("body.embeddings.*", "out", "*.key", "*.value", "*.intermediate_act_fn", "*.dropout"),
    ),
    "distilbert": Architecture(
        "DistilBertModel", "transformer.layer",
        ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"), ("ffn.lin1", "ffn.lin2"),
        "attention", ("dropout", "attention_dropout"),
        ("body.embeddings.*", "out", "*.k_lin", "*.v_lin", "*.activation", "*.dropout"),
    ),
}  # fmt: skip


class PretrainedEncoder(nn.Module):
    """An encoder and a head.

    Of classes and numbers the head reads the state of CLS through a hidden layer, BERT's pooler or DistilBERT's layer
    of ReLUs, as the sequence classifiers of `transformers` do; of spans it is a linear layer over all tokens.

    Args:
        body: `BertModel` or `DistilBertModel`, without a pooler.
        architecture: a key of `ARCHITECTURES`.
        hidden: what reads the state of CLS; None for spans.
        out: the last layer.
    """

    def __init__(self, body: nn.Module, architecture: str, hidden: nn.Module | None, out: nn.Linear) -> None:
        super().__init__()
        self.architecture, self.body, self.hidden, self.out = architecture, body, hidden, out

    def forward(self, ids: Tensor) -> Tensor:
        """Of ids (int64, `num x length`) `num x outputs`, or of spans `num x length x 2`.

        Raises:
            ValueError: the texts are longer than what the encoder reads.
        """
        positions: Any = self.body.get_submodule("embeddings.position_embeddings")
        if ids.shape[1] > positions.num_embeddings:
            raise ValueError(
                f"the texts have {ids.shape[1]} tokens, expected at most {positions.num_embeddings}, which the encoder "
                "reads; encode them at that length"
            )
        mask, own = ids != PAD, {}
        if self.architecture == "bert":
            marks = ids == SEP
            own["token_type_ids"] = ((marks.cumsum(1) - marks.long() == 1) & mask).long()
        states = self.body(input_ids=ids, attention_mask=mask.long(), **own).last_hidden_state
        return self.out(states) if self.hidden is None else self.out(self.hidden(states[:, 0]))

    @property
    def excluded(self) -> tuple[str, ...]:
        """Places that do not grow, as patterns of `dnm.Policy`."""
        head = () if self.hidden is None else ("hidden.*",)
        return (*ARCHITECTURES[self.architecture].excluded, *head)


def pretrained(folder: Path, data: DataSet, outputs: int, seed: int) -> PretrainedEncoder:
    """The encoder in a folder with a new head, on the CPU.

    Args:
        folder: of its files, which are those that the task was prepared with.
        data: the task.
        outputs: of the head.
        seed: of the head's weights and of a pooler that the files lack.

    Raises:
        DataError: the files are others, cannot be read, or lack weights.
    """
    origin = _origin(data)
    encoders.demand_same(folder, origin)
    config, kind = _config(folder, origin)
    try:
        body, found = kind.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        raise DataError(
            f"{folder / encoders.WEIGHTS}: the weights cannot be read ({told(error)}), expected those of a "
            f"{origin.architecture} as {folder / encoders.CONFIG} describes it; copy both from the same encoder"
        ) from error
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise DataError(
            f"{folder / encoders.WEIGHTS}: no weights of {missing[0]} and {len(missing) - 1} others, expected those of "
            f"a {origin.architecture} as {folder / encoders.CONFIG} describes it; copy both from the same encoder"
        )
    order = torch.from_numpy(encoders.own_numbers(origin, data.vocabulary))
    table = body.embeddings.word_embeddings
    with torch.no_grad():
        table.weight.copy_(table.weight[order])
    table.padding_idx = PAD
    generator = torch.Generator().manual_seed(seed)
    pooler = _without_pooler(body)
    if pooler is not None and "pooler.dense.weight" in found["missing_keys"]:
        _draw(pooler, config.initializer_range, generator)
    model = _with_head(body, origin, data, pooler, outputs)
    new = [model.out] if pooler is not None or model.hidden is None else [model.hidden, model.out]
    for layer in new:
        _draw(layer, config.initializer_range, generator)
    return model.train()


def untrained(folder: Path, data: DataSet, outputs: int, blocks: Blocks, seed: int) -> PretrainedEncoder:
    """An encoder of the same family that nothing was learnt by, on the CPU.

    Args:
        folder: of the configuration: all that `blocks` do not say.
        data: the task.
        outputs: of the head.
        blocks: heads and feed-forward width of each block.
        seed: of all weights, drawn as the family's own are (Devlin et al. 2019): normal with the configuration's
            deviation, norms the identity.

    Raises:
        DataError: the files are others than those that the task was prepared with.
    """
    origin = _origin(data)
    encoders.demand_same(folder, origin)
    config, kind = _config(folder, origin)
    body = kind(config)
    body.embeddings.word_embeddings.padding_idx = PAD
    model = _with_head(body, origin, data, _without_pooler(body), outputs)
    names = ARCHITECTURES[origin.architecture]
    for block, (heads, inner) in zip(_blocks(model), blocks, strict=True):
        size = _head_size(block, names)
        query, key, value, out = names.attention
        for name in (query, key, value):
            _replace(block, name, outputs=heads * size)
        _replace(block, out, inputs=heads * size)
        _replace(block, names.feed_forward[0], outputs=inner)
        _replace(block, names.feed_forward[1], inputs=inner)
    _draw(model, config.initializer_range, torch.Generator().manual_seed(seed))
    return model.train()


def blocks_of(model: PretrainedEncoder) -> Blocks:
    """Heads and feed-forward width of each block, branches aside."""
    names = ARCHITECTURES[model.architecture]
    return tuple(
        (
            _linear(block.get_submodule(names.attention[0])).out_features // _head_size(block, names),
            _linear(block.get_submodule(names.feed_forward[0])).out_features,
        )
        for block in _blocks(model)
    )


def _blocks(model: PretrainedEncoder) -> Iterable[nn.Module]:
    return model.body.get_submodule(ARCHITECTURES[model.architecture].layers).children()


def _head_size(block: nn.Module, names: Architecture) -> int:
    attention: Any = block.get_submodule(names.head_size)
    return attention.attention_head_size


def _origin(data: DataSet) -> Origin:
    if data.encoder is None:
        raise DataError(
            f"{data.source}: the task was prepared with a vocabulary of its own, expected an encoder's tokens; run the "
            "prepare_language stage again"
        )
    return data.encoder


def _config(folder: Path, origin: Origin) -> tuple[Any, Callable[..., Any]]:
    """The configuration without dropout, and the class of the encoder."""
    # Before the import, which reads it.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import transformers
    except ImportError as error:
        raise DataError(
            f"{folder}: transformers is not there ({told(error)}), expected to be able to read a pre-trained encoder; "
            "install the extra: pip install -e '.[encoders]'"
        ) from error
    # It tells of weights that a fine-tuned encoder has no use for, as those of its pre-training's head.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    plain, names = encoders.read_config(folder), ARCHITECTURES[origin.architecture]
    kind = getattr(transformers, names.model)
    config = kind.config_class.from_dict(plain | dict.fromkeys(names.dropout, 0.0))
    config.chunk_size_feed_forward = 0
    # The plain operations, which the channel groups are read from; other kernels give other bits by machine.
    config._attn_implementation = "eager"
    return config, kind


def _without_pooler(body: Any) -> nn.Linear | None:
    """Takes BERT's pooler out, which is part of the head here."""
    if getattr(body, "pooler", None) is None:
        return None
    pooler, body.pooler = body.pooler.dense, None
    return pooler


def _with_head(
    body: Any, origin: Origin, data: DataSet, pooler: nn.Linear | None, outputs: int
) -> PretrainedEncoder:  # fmt: skip
    width = body.embeddings.word_embeddings.embedding_dim
    hidden = None
    if data.kind != "spans":
        hidden = nn.Sequential(pooler, nn.Tanh()) if pooler else nn.Sequential(nn.Linear(width, width), nn.ReLU())
    return PretrainedEncoder(body, origin.architecture, hidden, nn.Linear(width, outputs))


def _replace(block: nn.Module, name: str, *, inputs: int | None = None, outputs: int | None = None) -> None:
    """Puts a linear layer of another width in the place of one."""
    old = _linear(block.get_submodule(name))
    block.set_submodule(name, nn.Linear(inputs or old.in_features, outputs or old.out_features))


def _draw(module: nn.Module, deviation: float, generator: torch.Generator) -> None:
    """Draws weights as `transformers` does, but from the generator."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.LayerNorm):
                layer.reset_parameters()
            elif isinstance(layer, nn.Linear | nn.Embedding):
                nn.init.normal_(layer.weight, std=deviation, generator=generator)
                if isinstance(layer, nn.Linear):
                    nn.init.zeros_(layer.bias)
                elif layer.padding_idx is not None:
                    layer.weight[layer.padding_idx].zero_()
