"""Training on texts: every sample once an epoch, losses and spans against formulas and exhaustive search."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from stages import language_models, language_training
from stages.data.language.prepared import Part
from stages.data.language.tokens import CLS, PAD, SEP
from stages.language_training import Texts, answerable, best_spans, evaluate, loss_of, train
from stages.settings import Training
from stages.training import Length

TRAINING = Training(
    batch_size=8, learning_rate=0.01, optimizer="AdamW", weight_decay=0.0, epochs=2, early_stopping=False,
    patience=20, schedule="trapezoid", warmup=0.1, decay_from=0.5, crop_padding=0, flip=False, gradient_clipping=1.0,
)  # fmt: skip


def part(num: int = 50, length: int = 24, kind: str = "classes", seed: int = 0) -> Part:
    """Pairs of texts of different lengths; the class is whether token 5 is in the first one."""
    draws = np.random.default_rng(seed)
    ids, labels = np.full((num, length), PAD, np.int32), np.zeros((num, 2), np.int64)
    for row in range(num):
        first, second = draws.integers(1, 9, 2)
        tokens = draws.integers(6, 20, first + second)
        if draws.random() < 0.5:
            tokens[draws.integers(first)] = 5
        laid = [CLS, *tokens[:first], SEP, *tokens[first:], SEP]
        ids[row, : len(laid)] = laid
        labels[row] = first + 2, first + 1 + second
    return Part(ids, labels if kind == "spans" else (ids == 5).any(1).astype(np.int64))


def test_every_sample_comes_once_and_batches_are_as_long_as_they_must_be() -> None:
    texts = Texts.of(part(70), "cpu")
    seen, sizes = [], []
    for ids, labels in texts.epoch(8, torch.Generator().manual_seed(0)):
        assert len(ids) == len(labels) == 8 and ids.shape[1] % 8 == 0
        longest = int((ids != PAD).sum(1).max())
        assert ids.shape[1] - 8 < longest <= ids.shape[1]
        sizes.append(ids.shape[1])
        seen += [tuple(row[row != PAD].tolist()) for row in ids]
    known = [tuple(row[row != PAD].tolist()) for row in texts.ids]
    # 70 samples are eight batches of 8, and 6 that are left over.
    assert len(seen) == 64 and len(set(seen)) == len(set(seen) & set(known)) == len(set(seen))
    assert min(sizes) < max(sizes)
    orders = [[ids.tolist() for ids, _ in texts.epoch(8, torch.Generator().manual_seed(seed))] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_losses_are_the_formulas() -> None:
    draws = torch.Generator().manual_seed(0)
    texts = Texts.of(part(12, kind="spans"), "cpu")
    scores = torch.randn(12, 24, 2, generator=draws)
    allowed = answerable(texts.ids)
    expected = 0.0
    for row in range(12):
        for side in range(2):
            kept = [scores[row, at, side].item() for at in range(24) if allowed[row, at]]
            expected += (np.log(np.exp(kept).sum()) - scores[row, texts.labels[row, side], side].item()) / 2
    found = loss_of("spans", scores, texts.ids, texts.labels, "sum").item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert loss_of("spans", scores, texts.ids, texts.labels).item() == pytest.approx(expected / 12, rel=1e-5)
    numbers = torch.randn(12, 1, generator=draws)
    labels = torch.arange(12.0)
    squares = ((numbers[:, 0] - labels) ** 2).mean().item()
    assert loss_of("numbers", numbers, texts.ids, labels).item() == pytest.approx(squares)


def test_answers_are_of_the_second_text_or_none() -> None:
    ids = torch.tensor([[CLS, 7, 8, SEP, 9, 10, SEP, PAD], [CLS, 7, SEP, 9, SEP, PAD, PAD, PAD]])
    assert answerable(ids).tolist() == [
        [True, False, False, False, True, True, False, False], [True, False, False, True, False, False, False, False],
    ]  # fmt: skip


def test_the_best_span_is_that_of_an_exhaustive_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_training, "LONGEST_ANSWER", 3)
    texts = Texts.of(part(40, kind="spans"), "cpu")
    scores = torch.randn(40, 24, 2, generator=torch.Generator().manual_seed(3))
    spans, margins = best_spans(scores, texts.ids)
    allowed = answerable(texts.ids)
    for row in range(40):
        best = max(
            (scores[row, first, 0].item() + scores[row, last, 1].item(), first, last)
            for first in range(1, 24)
            for last in range(first, min(24, first + 3))
            if allowed[row, first] and allowed[row, last]
        )
        assert spans[row].tolist() == list(best[1:])
        none = scores[row, 0].sum().item()
        assert margins[row].item() == pytest.approx(none - best[0], abs=1e-5)


def make(seed: int = 0) -> language_models.Encoder:
    made = language_models.encoder(
        vocabulary=20, length=24, width=8, blocks=[(1, 8)], head_size=8, outputs=2,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    assert isinstance(made, language_models.Encoder)
    return made


def test_predictions_come_in_the_order_of_the_samples() -> None:
    texts, model = Texts.of(part(), "cpu"), make().eval()
    loss, predictions, margins = evaluate(model, texts, "classes", batch_size=7)
    with torch.no_grad():
        outputs = model(texts.ids)
    assert predictions.tolist() == outputs.argmax(1).tolist() and not len(margins)
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(outputs, texts.labels).item(), rel=1e-5)


def fit(length: Length, seed: int = 0, **changes: Any) -> tuple[Any, Any, torch.nn.Module]:
    model = make(seed)
    settings = dataclasses.replace(TRAINING, **changes)
    texts, validation = (Texts.of(part(num, seed=num), "cpu") for num in (160, 40))
    run, epochs = train(model, texts, validation, "classes", settings, rate=0.01, seed=seed, length=length)
    return run, epochs, model


def test_a_run_has_its_length_and_its_cost() -> None:
    run, epochs, model = fit(Length(steps=50))
    assert (run.steps, len(epochs)) == (50, 3) and epochs[-1].step == 50
    assert epochs[-1].flops == run.flops and epochs[-1].learning_rate < epochs[0].learning_rate
    again, _, same = fit(Length(steps=50))
    assert again.flops == run.flops
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), same.parameters(), strict=True))
    # What is paid by FLOPs never costs more, and nearly all of it is spent.
    paid, _, _ = fit(Length(flops=run.flops))
    assert 0.95 * run.flops < paid.flops <= run.flops


def test_it_learns() -> None:
    texts = Texts.of(part(160, seed=160), "cpu")
    _, epochs, model = fit(Length(steps=200))
    assert epochs[-1].train_loss < 0.2 < epochs[0].train_loss
    _, predictions, _ = evaluate(model, texts, "classes")
    assert (predictions == texts.labels.numpy()).mean() > 0.9


def test_what_cannot_be_trained_is_told() -> None:
    with pytest.raises(ValueError, match="batch_size is 500, expected at most the 160 training samples"):
        fit(Length(steps=2), batch_size=500)
    model, texts = make(), Texts.of(part(), "cpu")
    with torch.no_grad():
        model.out.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the training loss is nan in epoch 1; lower learning_rate"):
        train(model, texts, texts, "classes", TRAINING, rate=0.01, seed=0, length=Length(steps=2))
