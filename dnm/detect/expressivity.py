"""What a layer cannot do about the loss: the part of the desired change that no update of its weights brings.

Verbockhaven et al. 2024, "Growing Tiny Networks" (TINY), arXiv:2405.19816. Their expressivity bottleneck is fitted and
measured on the same samples, and is 0 wherever there are no more positions than inputs; here what is fitted on one half
of the samples is measured on the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dnm.cost import product
from dnm.detect.estimates import Estimate, halves, samples
from dnm.errors import DnmError


def bottleneck(inputs: Tensor, desired: Tensor, ridge: float = 0.1, *, bias: bool = True, seed: int = 0) -> Estimate:
    """Share of the desired change of a layer's outputs that the best update of its weights leaves undone.

    |v - W b|^2 / |v|^2 with W fitted by ridge regression on one half of the samples and measured on the other, both
    ways (TINY: by least squares, on all samples). Sums run over both halves before the division.

    Args:
        inputs: what the layer's weights multiply, shape `(n, p, d)`: a convolution's patches at p sampled positions.
            Without a column of ones; see `bias`.
        desired: minus the gradient of each sample's own loss with respect to the layer's outputs at the same positions,
            shape `(n, p, c)`.
        ridge: penalty in units of the mean eigenvalue of the inputs' second moments, above 0.
        bias: whether the layer has one. It is not penalised: means of the fitted half are taken off inputs and desired.
        seed: of the halves.

    Returns:
        The share, with the standard error of a ratio of means over samples. That other samples would give another
        update is not in it: over new batches of Gaussian data the share's standard deviation was 1.1 times as large
        where there was a signal, and 1.4 times for noise. It is 0 where nothing is desired. It is not clipped: above 1,
        the update that is best on one half does harm on the other, as where all that is desired is noise.

    Raises:
        DnmError: shapes that do not fit, fewer than 2 samples, numbers that are not finite, or a ridge that is not
            above 0.
    """
    undone = residual(inputs, desired, ridge, bias=bias, seed=seed).square().sum((1, 2))
    wanted = desired.detach().double().square().sum((1, 2))
    total = float(wanted.sum())
    if total == 0:
        return Estimate(0.0, 0.0)
    value = float(undone.sum()) / total
    num = len(wanted)
    spread = float((undone - value * wanted).square().sum()) * num / (num - 1)
    return Estimate(value, math.sqrt(spread) / total)


def residual(
    inputs: Tensor, desired: Tensor, ridge: float = 0.1, *, bias: bool = True, seed: int = 0, crossed: bool = True
) -> Tensor:
    """The desired change that the best update of a layer's weights leaves undone.

    Args:
        inputs: shape `(n, p, d)`; see `bottleneck`, also for the other arguments.
        desired: shape `(n, p, c)`.
        ridge: penalty in units of the mean eigenvalue of the inputs' second moments, above 0.
        bias: whether the layer has one.
        seed: of the halves.
        crossed: whether each half's update is the one fitted on the other half, so that its noise adds to the residual,
            or its own, so that the residuals of the halves know nothing of each other; the latter are smaller than they
            should be, by a share of about d over the number of positions in a half, as far as the ridge allows.

    Returns:
        The residual, float64, shape `(n, p, c)`.

    Raises:
        DnmError: as `bottleneck`.
    """
    data, wanted = _checked(inputs, "inputs", desired, "desired", ridge)
    result = torch.empty_like(wanted)
    for fitted, other in _both_ways(data, seed):
        slope, source, target = _fit(data[fitted], wanted[fitted], ridge, bias)
        place = other if crossed else fitted
        result[place] = wanted[place] - target - product(data[place] - source, slope)
    return result


def new_unit_gain(
    earlier_inputs: Tensor, residual: Tensor, units: int, *, ridge: float = 0.1, bias: bool = True, seed: int = 0
) -> Estimate:
    """First-order gain of the best new linear units between an earlier layer's inputs and this layer's outputs.

    With S the earlier inputs' second moments and N their products with the residual, the best k units are the first k
    singular triples of S^(-1/2) N, and adding them with step size t lowers the loss by t times the sum of the squared
    singular values, to first order (TINY, proposition 3.2). Here units z are fitted on one half and their gain is
    measured on the other, as the mean over samples of the sum over positions of <z, residual>, so that it is 0 on
    average where there is nothing to find, and negative at times.

    Args:
        earlier_inputs: what the new units' incoming weights multiply, shape `(n, p, d)`.
        residual: what is left undone at the outputs that the new units would write to, shape `(n, p, c)`: made by
            `dnm.detect.expressivity.residual` with `crossed=False` and the same seed. A crossed one carries the other
            half's noise into the half that units are measured on, and since inputs of successive layers are correlated,
            the gain is then far below 0 where there is nothing to find.
        units: how many are added; more than c or d gain nothing more.
        ridge: penalty in units of the mean eigenvalue of the earlier inputs' second moments, above 0.
        bias: whether the new units have one; it takes off the mean of the fitted half.
        seed: of the halves.

    Returns:
        The gain in units of the loss per unit of step size, where the residual is of each sample's own loss. Where only
        p of P positions were sampled, the whole is P / p times it. In its error each half's samples count once as those
        that units are measured on, with the other half's units; since the gain is nearly the same both ways, this is
        what samples contribute to fits as well. It is right where there is a gain to find, and up to 3 times too large
        where there is none.

    Raises:
        DnmError: shapes that do not fit, fewer than 4 samples or 1 unit, numbers that are not finite, or a ridge that
            is not above 0.
    """
    data, wanted = _checked(earlier_inputs, "earlier_inputs", residual, "residual", ridge, minimum=4)
    if units < 1:
        raise DnmError(f"new_unit_gain: got {units} units, expected at least 1; pass how many would be added")
    value = variance = 0.0
    for fitted, other in _both_ways(data, seed):
        slope, source, target = _fit(data[fitted], wanted[fitted], ridge, bias)
        # The right singular vectors of S^(-1/2) N, without the root.
        products = product((data[fitted] - source).flatten(0, 1).T, (wanted[fitted] - target).flatten(0, 1))
        best = torch.linalg.eigh(product(products.T, slope)).eigenvectors[:, -units:]
        made = product(product(data[other] - source, product(slope, best)), best.T)
        gains = (made * wanted[other]).sum((1, 2))
        value += float(gains.sum()) / len(data)
        variance += float(gains.var()) / len(gains)
    return Estimate(value, math.sqrt(variance))


def _checked(
    data: Tensor, data_name: str, wanted: Tensor, name: str, ridge: float, minimum: int = 2
) -> tuple[Tensor, Tensor]:
    first = samples(data, data_name, dimensions=(3,), minimum=minimum)
    second = samples(wanted, name, dimensions=(3,))
    if first.shape[:2] != second.shape[:2]:
        raise DnmError(
            f"{name}: got shape {tuple(second.shape)} beside {data_name} of shape {tuple(first.shape)}, expected the "
            "same samples and positions; sample the positions of both with the same indices"
        )
    if not 0 < ridge < math.inf:
        raise DnmError(f"ridge: got {ridge}, expected a finite number above 0; 1e-9 is as good as none")
    return first, second


def _both_ways(data: Tensor, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    first = halves(len(data), seed).to(data.device)
    return (first, ~first), (~first, first)


def _fit(data: Tensor, wanted: Tensor, ridge: float, bias: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Ridge regression: slope `(d, c)`, and the means that are taken off data `(d,)` and wanted `(c,)`."""
    data, wanted = data.flatten(0, 1), wanted.flatten(0, 1)
    source, target = (data.mean(0), wanted.mean(0)) if bias else (data.new_zeros(()), wanted.new_zeros(()))
    data, wanted = data - source, wanted - target
    num, width = data.shape
    penalty = ridge * float(data.square().sum()) / width
    if penalty == 0:
        return data.new_zeros(width, wanted.shape[1]), source, target
    if width <= num:
        matrix = product(data.T, data)
        matrix.diagonal().add_(penalty)
        return torch.linalg.solve(matrix, product(data.T, wanted)), source, target
    matrix = product(data, data.T)
    matrix.diagonal().add_(penalty)
    return product(data.T, torch.linalg.solve(matrix, wanted)), source, target
