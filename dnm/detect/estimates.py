"""A figure with its standard error, and what all figures of a probe batch need: checked samples, halves, groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dnm.errors import DnmError


@dataclass(frozen=True)
class Estimate:
    """A figure and how far chance may have moved it.

    Attributes:
        value: the figure.
        standard_error: its standard error over the samples of the probe batch, in the same unit.
    """

    value: float
    standard_error: float

    def __str__(self) -> str:
        """Three digits of the figure and two of its error, for people."""
        return f"{self.value:.3g}" + (f" ± {self.standard_error:.2g}" if math.isfinite(self.standard_error) else "")

    def as_dict(self) -> dict[str, float]:
        """Both numbers under their names, for a journal or a table."""
        return {"value": self.value, "standard_error": self.standard_error}


def jackknife(
    statistic: Callable[[Tensor], Tensor | float], rows: Tensor, groups: int = 8, *, seed: int = 0
) -> Estimate:
    """A statistic with the standard error of the delete-a-group jackknife.

    Rows are dealt to the groups in an order that the seed fixes, so that a batch which is sorted or periodic by class
    does no harm. Groups may differ by one in size (Busing et al. 1999, Statistics and Computing 9:3-8).
    The error is itself uncertain by about 1 / sqrt(2 groups - 2), which is 27% for 8 groups.

    Args:
        statistic: of any rows, in any number from `len(rows) - ceil(len(rows) / groups)` on; a smooth one, as means and
            functions of means are: statistics of nearest neighbours or of extremes are not.
        rows: the samples, shape `(n, ...)`; what belongs to one sample stays together. Their indices do where the
            statistic needs pairs of samples.
        groups: how many groups are left out in turn, one for each row where there are fewer rows.
        seed: of the order in which rows are dealt.

    Returns:
        The statistic of all rows, not corrected for bias, and its standard error.

    Raises:
        DnmError: fewer than two rows or groups.
    """
    num = len(rows)
    groups = min(groups, num)
    if groups < 2:
        raise DnmError(f"jackknife: got {num} rows in {groups} groups, expected at least 2 of both; take more samples")
    dealt = _order(num, seed) % groups
    member = dealt.to(rows.device)
    whole = float(statistic(rows))
    # How many times larger the whole is than each group, and the groups' pseudovalues.
    ratios = num / torch.bincount(dealt).double()
    others = [float(statistic(rows[member != group])) for group in range(groups)]
    pseudovalues = ratios * whole - (ratios - 1) * torch.tensor(others, dtype=torch.float64, device="cpu")
    centre = (pseudovalues / ratios).sum()
    return Estimate(whole, math.sqrt(float(((pseudovalues - centre).square() / (ratios - 1)).mean())))


def halves(num: int, seed: int, labels: Tensor | None = None) -> Tensor:
    """Which samples are in the first of two halves that differ by one sample at most.

    Args:
        num: number of samples.
        seed: of the order in which samples are dealt, the same on every device.
        labels: where given, every class is halved as well, up to one sample; integers of shape `(num,)`.

    Returns:
        Booleans of shape `(num,)`, on the CPU or where the labels are.
    """
    order = _order(num, seed)
    if labels is not None:
        order = order[labels.cpu()[order].argsort(stable=True)]
    first = torch.zeros(num, dtype=torch.bool, device="cpu")
    first[order[::2]] = True
    return first if labels is None else first.to(labels.device)


def samples(tensor: Tensor, name: str, dimensions: Sequence[int] = (2, 3), minimum: int = 2) -> Tensor:
    """A detached copy in float64 of what a probe recorded.

    Args:
        tensor: real numbers, sample first.
        name: what messages call it.
        dimensions: how many dimensions it may have.
        minimum: how many samples it must have.

    Raises:
        DnmError: another number of dimensions, too few samples, nothing in a sample, or numbers that are not finite.
    """
    shape = tuple(tensor.shape)
    if tensor.dim() not in dimensions:
        expected = " or ".join(map(str, dimensions))
        raise DnmError(
            f"{name}: got shape {shape}, expected {expected} dimensions with the sample first and the channel last; "
            "move or flatten the others"
        )
    if shape[0] < minimum or not tensor.numel():
        raise DnmError(f"{name}: got shape {shape}, expected at least {minimum} samples, none empty; take more of them")
    if tensor.is_complex():
        raise DnmError(f"{name}: got {tensor.dtype}, expected real numbers; pass real and imaginary part as channels")
    data = tensor.detach().double()
    if not bool(data.isfinite().all()):
        bad = int((~data.isfinite()).sum())
        raise DnmError(
            f"{name}: {bad} of {data.numel()} numbers are not finite, expected all to be; leave out the samples or "
            "layers that overflow"
        )
    return data


def classes(labels: Tensor, num: int) -> Tensor:
    """Labels as consecutive integers from 0.

    Args:
        labels: integers or booleans of shape `(num,)`.
        num: number of samples.

    Raises:
        DnmError: another shape, or labels that are not integers.
    """
    if tuple(labels.shape) != (num,) or labels.is_floating_point() or labels.is_complex():
        raise DnmError(
            f"labels: got {labels.dtype} of shape {tuple(labels.shape)}, expected one integer for each of {num} "
            f"samples, shape ({num},); pass class indices, not one-hot rows"
        )
    return labels.detach().unique(return_inverse=True)[1]


def _order(num: int, seed: int) -> Tensor:
    # On the CPU everywhere, so that every device sees the same order.
    return torch.randperm(num, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
