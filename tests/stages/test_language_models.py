"""Networks that read texts: padding and length change nothing, order does, growth changes no output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dnm import AddResidual, Divide, apply, count, trace
from stages import language_growing, language_models, language_training
from stages.data.language.tokens import CLS, PAD, SEP
from stages.language_growing import blocks_of, branches_of, put_in

KINDS = ("bag", "bilstm", "encoder")


def make(kind: str, head: Any = "classes", seed: int = 0, length: int = 12, **changes: Any) -> nn.Module:
    options = {"vocabulary": 40, "width": 8, "outputs": 2, "head": head}
    generator = torch.Generator().manual_seed(seed)
    if kind == "bag":
        return language_models.bag_of_embeddings(**options, hidden=8, generator=generator)
    if kind == "bilstm":
        return language_models.bilstm(**options, hidden=6, generator=generator)
    blocks = changes.pop("blocks", [(1, 6), (2, 8)])
    return language_models.encoder(
        **options, length=length, blocks=blocks, head_size=4, generator=generator, **changes
    ).eval()  # fmt: skip


def ids() -> torch.Tensor:
    """Three pairs of texts, the last the shortest."""
    rows = [
        [CLS, 5, 6, 7, SEP, 8, 9, 10, 11, SEP],
        [CLS, 5, 7, 6, SEP, 8, 9, 10, 11, SEP],
        [CLS, 5, SEP, 8, SEP, *[PAD] * 5],
    ]
    return torch.tensor(rows)


@pytest.mark.parametrize("head", ("classes", "spans"))
@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_company_change_nothing(kind: str, head: str) -> None:
    model, batch = make(kind, head), ids()
    outputs = model(batch)
    assert outputs.shape == ((3, 2) if head == "classes" else (3, 10, 2))
    alone = model(batch[2:, :5])
    padded = model(torch.nn.functional.pad(batch, (0, 2), value=PAD))
    if head == "spans":
        outputs, alone, padded = outputs[:, :5], alone[:, :5], padded[:, :5]
    torch.testing.assert_close(outputs[2:], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs, padded, atol=1e-5, rtol=1e-4)


def test_the_bag_sees_no_order_and_the_others_do() -> None:
    for kind in KINDS:
        outputs = make(kind)(ids())
        same = torch.allclose(outputs[0], outputs[1], atol=1e-6)
        assert same == (kind == "bag"), kind


def test_the_encoder_tells_first_from_second_text() -> None:
    model, batch = make("encoder"), ids()[:1]
    moved = torch.tensor([[CLS, 5, 6, 7, 8, SEP, 9, 10, 11, SEP]])
    with torch.no_grad():
        model.positions.weight.zero_()
        model.sides.weight[1] = model.sides.weight[0]
    # Without positions and sides a text is a set of tokens.
    torch.testing.assert_close(model(batch), model(moved), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        # Norms would take a constant out again.
        model.sides.weight[1, 0] += 3.0
    assert not torch.allclose(model(batch), model(moved), atol=1e-3)


def test_a_sentence_longer_than_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="the texts have 10 tokens, expected at most 8, which the encoder"):
        make("encoder", length=8)(ids())


def test_weights_depend_on_the_seed_alone() -> None:
    for kind in KINDS:
        one, same, other = (make(kind, seed=seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert any(not torch.equal(one[name], other[name]) for name in one)


def test_flops_are_those_of_the_formulas() -> None:
    """Two FLOPs a multiply-add, by hand."""
    tokens, width, heads, size, inner = 7, 8, 2, 4, 6
    example = language_training.example(tokens)
    model = make("encoder", blocks=[(heads, inner)])
    attention = tokens * width * heads * size * 4 + 2 * heads * tokens * tokens * size
    assert count(model, example).forward == 2 * (attention + 2 * tokens * width * inner + width * 2)
    assert count(make("bag"), example).forward == 2 * (width * 8 + 8 * 2)
    gates = 2 * tokens * 4 * 6 * (width + 6)
    assert count(make("bilstm"), example).forward == 2 * (gates + 12 * 2)


@pytest.mark.parametrize("head", ("classes", "spans"))
def test_edits_inside_of_the_encoder_change_no_output(head: str) -> None:
    model, batch = make("encoder", head), ids()
    names = {group.name: group.width for group in trace(model, batch).groups if group.divisible}
    assert names["blocks.1.attention.query"] == 2 and names["blocks.0.feed_forward.0"] == 6
    before = model(batch)
    for edit in (
        Divide("blocks.1.attention.query", (0,)),
        Divide("blocks.0.feed_forward.0", (1, 4)),
        AddResidual("blocks.0.feed_forward.2"),
        AddResidual("blocks.0.feed_forward.2"),
        AddResidual("norm"),
    ):
        applied = apply(model, edit, batch)
        assert applied.eval_difference < 1e-5
        torch.testing.assert_close(model(batch), before, atol=1e-5, rtol=1e-4)
    assert blocks_of(model) == ((1, 8), (3, 8))
    found = branches_of(model)
    assert [at for _, at, _ in found] == ["blocks.0.feed_forward.2", "blocks.0.feed_forward.2", "norm"]
    # Built again it is the same architecture.
    again = make("encoder", head, blocks=blocks_of(model))
    put_in(again, found, 5)
    shapes = [{name: value.shape for name, value in of.state_dict().items()} for of in (model, again)]
    assert shapes[0] == shapes[1]
    assert branches_of(again) == found and blocks_of(again) == blocks_of(model)
    # Its branches are the identity at first.
    plain = make("encoder", head, blocks=blocks_of(model))
    torch.testing.assert_close(again(batch), plain(batch))


def test_the_width_of_a_state_stays_what_it_is() -> None:
    assert "table" in language_growing.EXCLUDED
    assert {group.name for group in trace(make("encoder"), ids()).groups if group.divisible} >= {"table"}
