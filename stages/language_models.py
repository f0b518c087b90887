"""Networks that read texts: a bag of embeddings, a bidirectional LSTM and a small transformer encoder.

All take token ids (int64, `num x length`, as `stages.data.language.tokens` makes them) and nothing else: padding and
the second text are read off them. What they return depends on `head`: "classes" gives `num x outputs`, "spans" gives
`num x length x 2`, a score for each token to be the first and the last of the answer (Devlin et al. 2019,
arXiv:1810.04805, section 4.2); scores of the first token, CLS, are those of having no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from stages.data.language.tokens import PAD, SEP

Head = Literal["classes", "spans"]


class BagOfEmbeddings(nn.Module):
    """Classifies by the mean of the embeddings; see `bag_of_embeddings`."""

    def __init__(self, vocabulary: int, width: int, hidden: int, outputs: int, head: Head) -> None:
        super().__init__()
        self.head = head
        self.table = nn.Embedding(vocabulary, width)
        self.hidden = nn.Linear(width if head == "classes" else 2 * width, hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        words = self.table(ids)
        found = _mean(words, ids != PAD)
        if self.head == "spans":
            found = torch.cat([words, found.unsqueeze(1).expand_as(words)], -1)
        return self.out(self.hidden(found).relu())


def bag_of_embeddings(
    *, vocabulary: int, width: int, hidden: int, outputs: int, head: Head = "classes", generator: torch.Generator
) -> nn.Module:
    """The mean of the tokens' embeddings, one hidden layer of ReLUs and a linear one; order is not seen.

    Args:
        vocabulary: number of tokens.
        width: of an embedding.
        hidden: width of the hidden layer.
        outputs: of the last layer; 2 for spans.
        head: what is returned. For spans each token's own embedding stands beside the mean.
        generator: source of the initial weights.
    """
    return _initialised(BagOfEmbeddings(vocabulary, width, hidden, outputs, head), generator)


class BiLstm(nn.Module):
    """Reads a text from both ends; see `bilstm`."""

    def __init__(self, vocabulary: int, width: int, hidden: int, outputs: int, head: Head) -> None:
        super().__init__()
        self.head = head
        self.table = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids != PAD
        packed = nn.utils.rnn.pack_padded_sequence(
            self.table(ids), mask.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=ids.shape[1])
        if self.head == "classes":
            states = states.masked_fill(~mask.unsqueeze(-1), -1.0).amax(1)
        return self.out(states)


def bilstm(
    *, vocabulary: int, width: int, hidden: int, outputs: int, head: Head = "classes", generator: torch.Generator
) -> nn.Module:
    """A bidirectional LSTM; for classes the largest value of each unit (Conneau et al. 2017, arXiv:1705.02364).

    Args:
        vocabulary: number of tokens.
        width: of an embedding.
        hidden: units of a direction.
        outputs: of the last layer; 2 for spans.
        head: what is returned.
        generator: source of the initial weights.
    """
    return _initialised(BiLstm(vocabulary, width, hidden, outputs, head), generator)


class Attention(nn.Module):
    """Self-attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2); the number of heads is read off the weights.

    Queries, keys and values have a layer each, so that a head is the same rows of all three, and can be divided.
    """

    def __init__(self, width: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.head_size = head_size
        self.query = nn.Linear(width, heads * head_size)
        self.key = nn.Linear(width, heads * head_size)
        self.value = nn.Linear(width, heads * head_size)
        self.out = nn.Linear(heads * head_size, width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        num, length = states.shape[:2]
        query, key, value = (
            layer(states).view(num, length, -1, self.head_size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm and added to what it reads (arXiv:2002.04745)."""

    def __init__(self, width: int, heads: int, head_size: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads, head_size)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, feed_forward), nn.GELU(), nn.Linear(feed_forward, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = states + self.dropout(self.attention(self.attention_norm(states), mask))
        return states + self.dropout(self.feed_forward(self.feed_forward_norm(states)))


class Encoder(nn.Module):
    """A transformer encoder; see `encoder`."""

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        blocks: Sequence[tuple[int, int]],
        head_size: int,
        outputs: int,
        head: Head,
        pooling: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.head, self.pooling = head, pooling
        self.table = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.sides = nn.Embedding(2, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, head_size, inner, dropout) for heads, inner in blocks)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        if length > self.positions.num_embeddings:
            raise ValueError(
                f"the texts have {length} tokens, expected at most {self.positions.num_embeddings}, which the encoder "
                "was built for; encode them at that length"
            )
        mask = ids != PAD
        separators = ids == SEP
        # The first SEP ends the first text.
        sides = (separators.cumsum(1) - separators.long()).clamp(max=1)
        states = self.table(ids) + self.positions(torch.arange(length, device=ids.device)) + self.sides(sides)
        states = self.dropout(states)
        for block in self.blocks:
            states = block(states, mask[:, None, None, :])
        states = self.norm(states)
        if self.head == "classes":
            states = states[:, 0] if self.pooling == "cls" else _mean(states, mask)
        return self.out(states)


def encoder(
    *,
    vocabulary: int,
    length: int,
    width: int,
    blocks: Sequence[tuple[int, int]],
    head_size: int,
    outputs: int,
    head: Head = "classes",
    pooling: Literal["mean", "cls"] = "mean",
    dropout: float = 0.0,
    generator: torch.Generator,
) -> nn.Module:
    """A transformer encoder with learned positions and norms before the layers (Xiong et al. 2020, arXiv:2002.04745).

    Args:
        vocabulary: number of tokens.
        length: most tokens of a text.
        width: of a token's state.
        blocks: per block, its number of heads and the width inside its feed-forward layer.
        head_size: of a head's queries, keys and values.
        outputs: of the last layer; 2 for spans.
        head: what is returned.
        pooling: for classes, whether the mean of all tokens is classified or the state of CLS.
        dropout: rate, of embeddings and of what is added to a state. Above 0 a division is exact in eval mode only.
        generator: source of the initial weights.
    """
    return _initialised(
        Encoder(vocabulary, length, width, blocks, head_size, outputs, head, pooling, dropout), generator
    )


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that are no padding: `num x length x width` to `num x width`."""
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def _initialised(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draws all weights that are no norm's, with the deviation that keeps the size of what passes.

    Queries and keys start equal, so that a token attends to its like (Trockman and Kolter 2023, arXiv:2305.09828,
    section 3): without it the encoder does not find within thousands of steps that two texts name the same person.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                continue
            for parameter in module.parameters(recurse=False):
                if parameter.dim() < 2:
                    parameter.zero_()
                elif isinstance(module, nn.Embedding):
                    nn.init.normal_(parameter, generator=generator)
                else:
                    nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
        for module in model.modules():
            if isinstance(module, Attention):
                module.query.weight.mul_(2.0**0.5)
                module.key.weight.copy_(module.query.weight)
    return model
