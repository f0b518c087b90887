"""Encoders of `transformers` grow too: edits inside of them are exact, and events happen while they are fine-tuned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dnm import Budget, Divide, Morphogenesis, Policy, apply, trace

transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed: an extra, `encoders`")


class Classifier(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.out = encoder, nn.Linear(16, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.encoder(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state[:, 0])


def tiny(name: str) -> Classifier:
    """Not pre-trained: small, from its configuration."""
    torch.manual_seed(0)
    if name == "bert":
        config = transformers.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        return Classifier(transformers.BertModel(config, add_pooling_layer=False))
    config = transformers.DistilBertConfig(
        vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=32, dropout=0.0,
        attention_dropout=0.0,
    )  # fmt: skip
    return Classifier(transformers.DistilBertModel(config))


def texts() -> Tensor:
    ids = torch.randint(3, 50, (16, 12), generator=torch.Generator().manual_seed(1))
    ids[0, 8:] = 0
    return ids


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_heads_and_feed_forward_units_divide_exactly(name: str) -> None:
    model, ids = tiny(name).eval(), texts()
    before = model(ids)
    inner = [group for group in trace(model, ids).groups if group.divisible and "embeddings" not in group.name]
    assert sorted(group.width for group in inner) == [2, 2, 32, 32]
    for group in inner:
        apply(model, Divide(group.name, units=(0,)), ids, torch.optim.AdamW(model.parameters()))
    assert (model(ids) - before).norm() <= 1e-6 * before.norm()
    assert sorted(group.width for group in trace(model, ids).groups if group.name in {g.name for g in inner}) == [
        3, 3, 33, 33,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_events_happen_while_it_is_fine_tuned(name: str) -> None:
    model, ids = tiny(name), texts()
    labels = torch.arange(16) % 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    policy = Policy(
        trigger="scheduled", event_times=(0.5,), operators=("Divide",), theories=("gradient",), rollback=False,
        excluded=("*embeddings*", "out"), max_parameters=10**6, max_training_flops=10**12, seed=0,
    )  # fmt: skip

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(ids), labels)

    engine = Morphogenesis(model, optimizer, ids, loss, budget=Budget(steps=8), policy=policy, labels=labels)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for _ in range(8):
        optimizer.zero_grad()
        found = loss()
        found.backward()
        optimizer.step()
        engine.after_step(found.detach(), len(ids))
    assert len(engine.events) == 1 and engine.events[0].entries
    assert engine.events[0].output_difference < 1e-5
    assert sum(parameter.numel() for parameter in model.parameters()) > parameters
