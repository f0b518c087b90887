"""Training on texts: batches of texts of like length, the loop that every arm goes through, and what is predicted."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from dnm import count
from stages.data.language.prepared import Part
from stages.data.language.tokens import CLS, PAD, SEP
from stages.settings import Training
from stages.training import Grower, Length, Run, learning_rate, make_optimizer

# Texts are sorted by length within so many batches, and batches are as long as their longest text, in eights: most of
# what would be padding is not computed.
POOL, MULTIPLE = 16, 8
# Most tokens of an answer.
LONGEST_ANSWER = 30
_NOT_ALLOWED = -1e9


@dataclass(frozen=True)
class Texts:
    """A split on a device.

    Attributes:
        ids: int64, `num x length`.
        labels: classes (int64, `num`), numbers (float32, `num`) or first and last tokens (int64, `num x 2`).
        lengths: int64, `num`, on the CPU: tokens that are no padding.
    """

    ids: Tensor
    labels: Tensor
    lengths: Tensor

    @staticmethod
    def of(part: Part, device: str) -> Texts:
        """Puts a split on a device."""
        ids, labels = torch.from_numpy(part.ids.astype(np.int64)), torch.from_numpy(part.labels)
        labels = labels.float() if labels.is_floating_point() else labels
        return Texts(ids.to(device), labels.to(device), (ids != PAD).sum(1))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def longest(self) -> int:
        """Tokens of the longest batch that there can be."""
        return self._padded(self.lengths)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and labels at `rows` (int64, on the CPU), the ids cut behind the longest of them."""
        length = self._padded(self.lengths[rows])
        rows = rows.to(self.ids.device)
        return self.ids[rows, :length], self.labels[rows]

    def _padded(self, lengths: Tensor) -> int:
        return min(self.ids.shape[1], math.ceil(int(lengths.max()) / MULTIPLE) * MULTIPLE)

    def epoch(self, batch_size: int, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in random order, in whole batches; what is left over is dropped."""
        rows = torch.randperm(len(self), generator=order)[: len(self) // batch_size * batch_size]
        batches = [
            some
            for pool in rows.split(POOL * batch_size)
            for some in pool[self.lengths[pool].sort(stable=True).indices].split(batch_size)
        ]
        for number in torch.randperm(len(batches), generator=order).tolist():
            yield self.batch(batches[number])


def answerable(ids: Tensor) -> Tensor:
    """Which tokens an answer may have, bool as `ids`: those of the second text; and CLS, which stands for none."""
    marks = ids == SEP
    second = (marks.cumsum(1) - marks.long() == 1) & ~marks & (ids != PAD)
    return second | (ids == CLS)


def loss_of(kind: str, outputs: Tensor, ids: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats, of spans the mean of that of first and last tokens; of numbers the squared error.

    Args:
        kind: "classes", "numbers" or "spans".
        outputs: of the model, `num x classes`, `num x 1` or `num x length x 2`.
        ids: int64, `num x length`.
        labels: see `Texts`.
        reduction: "mean", or "sum" over the samples.
    """
    outputs = outputs.float()
    if kind == "numbers":
        return nn.functional.mse_loss(outputs[:, 0], labels, reduction=reduction)
    if kind == "classes":
        return nn.functional.cross_entropy(outputs, labels, reduction=reduction)
    scores = outputs.masked_fill(~answerable(ids).unsqueeze(-1), _NOT_ALLOWED)
    found = nn.functional.cross_entropy(scores.transpose(1, 2).flatten(0, 1), labels.flatten(), reduction=reduction)
    return found / 2 if reduction == "sum" else found


def best_spans(outputs: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The best answer of each row, and how much better it would be to give none.

    Args:
        outputs: `num x length x 2`.
        ids: int64, `num x length`.

    Returns:
        First and last token, int64, `num x 2`, at most `LONGEST_ANSWER` tokens of the second text; and the score of
        CLS less theirs, `num`.
    """
    outputs = outputs.float()
    num, length = ids.shape
    allowed = answerable(ids) & (ids != CLS)
    first, last = outputs.masked_fill(~allowed.unsqueeze(-1), _NOT_ALLOWED).unbind(-1)
    together = first.unsqueeze(2) + last.unsqueeze(1)
    possible = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu().tril(LONGEST_ANSWER - 1)
    score, place = together.masked_fill(~possible, 4 * _NOT_ALLOWED).reshape(num, -1).max(1)
    spans = torch.stack([place // length, place % length], 1)
    return spans, outputs[:, 0].sum(1) - score


@torch.no_grad()
def evaluate(model: nn.Module, texts: Texts, kind: str, batch_size: int = 256) -> tuple[float, np.ndarray, np.ndarray]:
    """Mean loss and predictions over a split, in eval mode; the mode is put back.

    Returns:
        The loss; classes (int64, `num`), numbers (float64, `num`) or spans (int64, `num x 2`); and of spans, how much
        better no answer is, float64, `num` (else empty).
    """
    training = model.training
    model.eval()
    total, rows_seen, found, margins = 0.0, [], [], []
    for rows in texts.lengths.sort(stable=True).indices.split(batch_size):
        ids, labels = texts.batch(rows)
        outputs = model(ids)
        total += loss_of(kind, outputs, ids, labels, "sum").item()
        rows_seen.append(rows)
        if kind == "spans":
            spans, margin = best_spans(outputs, ids)
            found.append(spans.cpu())
            margins.append(margin.cpu().double())
        else:
            found.append((outputs.argmax(1) if kind == "classes" else outputs[:, 0].double()).cpu())
    model.train(training)
    back = torch.cat(rows_seen).argsort()
    margin = torch.cat(margins)[back].numpy() if margins else np.zeros(0)
    return total / len(texts), torch.cat(found)[back].numpy(), margin


@dataclass(frozen=True)
class Epoch:
    """The state of a run at the end of an epoch.

    Attributes:
        epoch: from 1.
        step: optimizer steps so far.
        flops: training FLOPs so far, probes and checks of edits included; validation is not counted in any arm.
        learning_rate: of the last step.
        train_loss: mean over the epoch's steps.
        validation_loss: as `loss_of` has it.
        parameters: trainable scalars.
    """

    epoch: int
    step: int
    flops: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    parameters: int


def train(
    model: nn.Module,
    texts: Texts,
    validation: Texts,
    kind: str,
    settings: Training,
    *,
    rate: float,
    seed: int,
    length: Length,
    grower: Callable[[nn.Module, torch.optim.Optimizer], Grower] | None = None,
    precision: str = "float32",
) -> tuple[Run, list[Epoch]]:
    """Trains `model` in place for the length of the run.

    Args:
        model: the network, on its device.
        texts: what it is trained on.
        validation: whose loss is taken after every epoch.
        kind: see `loss_of`.
        settings: the protocol; its epochs are not read here.
        rate: the largest learning rate, in the place of the settings'.
        seed: of the data order, which is the same for every arm of that seed.
        length: of the run and of its schedule; a run of FLOPs takes the steps that it can pay, and one at least.
        grower: makes what changes the network in the run; None trains a fixed one.
        precision: "float32", or "bfloat16" for autocast.

    Returns:
        Cost and events (without epochs), and the epochs.

    Raises:
        ValueError: there are fewer texts than a batch takes.
        FloatingPointError: the loss is no longer finite.
    """
    if len(texts) < settings.batch_size:
        raise ValueError(f"batch_size is {settings.batch_size}, expected at most the {len(texts)} training samples")
    settings = replace(settings, learning_rate=rate)
    order = torch.Generator().manual_seed(2 * seed)
    optimizer = make_optimizer(model, settings)
    growing = grower(model, optimizer) if grower else None
    run, epochs, costs = Run(), [], dict[int, int]()
    device = texts.ids.device
    autocast = (
        contextlib.nullcontext if precision == "float32" else lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    )

    def cost(tokens: int) -> int:
        if tokens not in costs:
            costs[tokens] = count(model, example(tokens)).training * settings.batch_size
        return costs[tokens]

    def spent() -> int:
        return run.flops + (growing.flops if growing else 0)

    longest = cost(texts.longest)

    def goes_on() -> bool:
        # Whether the longest batch can be paid, whatever comes: so the order of batches does not decide the length.
        return run.steps == 0 or length.position(run.steps, spent()) + length.step(longest) <= length.total

    model.train()
    while goes_on():
        total_loss, in_epoch, step_rate = torch.zeros((), device=device), 0, 0.0
        for ids, labels in texts.epoch(settings.batch_size, order):
            flops = cost(ids.shape[1])
            position = length.position(run.steps, spent())
            step_rate = learning_rate(settings, position, length.step(flops), length.total)
            if growing:
                step_rate *= growing.learning_rate_factor()
            for group in optimizer.param_groups:
                group["lr"] = step_rate
            with autocast():
                loss = loss_of(kind, model(ids), ids, labels)
            optimizer.zero_grad()
            loss.backward()
            if settings.gradient_clipping:
                nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clipping)
            optimizer.step()
            total_loss += loss.detach()
            run.steps += 1
            in_epoch += 1
            run.flops += flops
            done = length.position(run.steps, spent()) / length.total
            if growing and growing.after_step(done, loss.detach(), len(ids)):
                costs.clear()
                longest = cost(texts.longest)
            if not goes_on():
                break
        train_loss = (total_loss / in_epoch).item()
        if not math.isfinite(train_loss):
            raise FloatingPointError(
                f"the training loss is {train_loss} in epoch {len(epochs) + 1}; lower learning_rate ({rate}) or set "
                "gradient_clipping"
            )
        with autocast():
            validation_loss = evaluate(model, validation, kind)[0]
        parameters = sum(parameter.numel() for parameter in model.parameters())
        epochs.append(
            Epoch(len(epochs) + 1, run.steps, spent(), step_rate, train_loss, validation_loss, parameters)
        )  # fmt: skip
        if growing and growing.after_epoch(validation_loss):
            costs.clear()
            longest = cost(texts.longest)
    if growing:
        run.events, run.start_widths = growing.events, growing.start_widths
        run.flops += growing.flops
    return run, epochs


def example(tokens: int) -> Tensor:
    """One text of so many tokens, none of them padding, int64, `1 x tokens`."""
    ids = torch.full((1, tokens), SEP + 1)
    ids[0, 0], ids[0, -1] = CLS, SEP
    return ids
