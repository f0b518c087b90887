"""How much a layer's features hold: in how many directions they vary, and what they tell of the labels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dnm.cost import product
from dnm.detect.estimates import Estimate, classes, halves, jackknife, samples
from dnm.errors import DnmError


def effective_rank(features: Tensor) -> Estimate:
    """Number of directions in which features vary, weighted by how much: exp of the spectrum's entropy.

    The spectrum is that of the centred covariance, normalised to sum 1 (Roy & Vetterli 2007, EUSIPCO, take the singular
    values of a matrix; those of a covariance matrix are its eigenvalues). The figure lies between 1 and
    `min(d, n p - 1)` and is biased low where there are not many more samples than directions. Features that do not vary
    have 0, the rank of their covariance, which tells a dead layer from one with a single direction.

    Args:
        features: shape `(n, d)`, or `(n, p, d)` with p positions sampled from each of n samples.

    Returns:
        The effective rank, with the jackknife's error over samples.

    Raises:
        DnmError: another shape, fewer than 2 samples, or numbers that are not finite.
    """
    data = samples(features, "features")
    scatter = scatters(data)
    return jackknife(
        lambda kept: exponential_entropy(torch.linalg.eigvalsh(scatter(kept))),
        torch.arange(len(data), device=data.device),
    )


def usable_information(
    features: Tensor, labels: Tensor, *, shrinkage: float = 0.1, calibrate: bool = True, seed: int = 0
) -> Estimate:
    """What a linear discriminant can tell of the labels from features, in nats: predictive V-information.

    I_V(X -> Y) = H_V(Y) - H_V(Y | X) (Xu et al. 2020, arXiv:2002.10689) for the family of linear discriminants. One is
    fitted on either half of the samples and scored on the other: the figure is the mean of log p(y | x) - log p(y) over
    all samples. The prior p(y) is a class's frequency in the half that was fitted; the
    covariance is the one within classes, (1 - shrinkage) S + shrinkage tr(S) / d I, as in scikit-learn's
    `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)`. For a class that the fitted half lacks, features tell
    nothing: whatever probability is set aside for it is both its prior and its posterior, so that its samples count 0
    and the others' differences do not change.

    A discriminant is far surer than it is right where there are not many more samples than features: uncalibrated, 512
    samples of 64 features that tell nothing of 10 classes score -1.8 nats, and of 512 features -50. So its evidence is
    multiplied with a factor from 0 (the prior alone, as the family's definition allows) to 1, the likeliest one for the
    other half's scores; then both score 0.00.

    Args:
        features: shape `(n, d)`, or `(n, p, d)`, which is averaged over the p positions first.
        labels: class of each sample, integers of shape `(n,)`.
        shrinkage: above 0 and at most 1, so that any number of samples will do.
        calibrate: whether the evidence is scaled.
        seed: of the halves, which hold equal parts of every class.

    Returns:
        The information in nats, at most the labels' entropy and below 0 by chance or without calibration, with the
        standard error of a mean over samples. That the discriminants would differ on other samples is not in it: over
        new batches of Gaussian classes the figure's standard deviation was 1.2 to 1.5 times as large.

    Raises:
        DnmError: shapes that do not fit, labels that are not integers, numbers that are not finite, or a shrinkage out
            of its range.
    """
    data = _pooled(features)
    target = classes(labels, len(data)).to(data.device)
    if not 0 < shrinkage <= 1:
        raise DnmError(f"usable_information: got shrinkage {shrinkage}, expected above 0 and at most 1; 0.1 will do")
    first = halves(len(data), seed, target)
    scored = [
        _evidence(data[fitted], target[fitted], data[~fitted], target[~fitted], shrinkage) for fitted in (first, ~first)
    ]
    factors = [_calibration(*half) for half in reversed(scored)] if calibrate else [1.0, 1.0]
    gains = torch.cat([_gains(*half, factor) for half, factor in zip(scored, factors, strict=True)])
    # Samples of a class that the fitted half lacks are not among the gains, and count 0.
    value = float(gains.sum()) / len(data)
    spread = float((gains - value).square().sum()) + (len(data) - len(gains)) * value**2
    return Estimate(value, math.sqrt(spread / (len(data) - 1) / len(data)))


def renyi_information(
    features: Tensor, labels: Tensor, *, alpha: float = 1.01, bandwidth: float | None = None
) -> Estimate:
    """Mutual information of features and labels from the spectra of their Gram matrices, in nats.

    S_a(A) + S_a(B) - S_a(A o B / tr(A o B)) with S_a(A) = log(tr(A^a)) / (1 - a) (Sanchez Giraldo et al. 2015,
    arXiv:1211.2459; Yu et al. 2019, arXiv:1808.07912). A is a Gaussian kernel exp(-d^2 / (2 bandwidth^2)) of the
    features and B is 1 between samples of a class and 0 elsewhere, both over n. A second view beside
    `usable_information`: no family of predictors, but it is a figure of this batch and not an estimate of Shannon's
    information. It depends on the bandwidth, and all three terms saturate at log n: where a kernel is so narrow that no
    two samples are alike, the figure is the labels' entropy whatever the features are. Compare layers at the same n.

    Args:
        features: shape `(n, d)`, or `(n, p, d)`, which is averaged over the p positions first.
        labels: class of each sample, integers of shape `(n,)`.
        alpha: order of the entropy, above 0; 1 is the limit, Shannon's form. Yu et al. use 1.01.
        bandwidth: in the unit of the features. The median distance between two samples where None, which makes the
            figure independent of the features' scale; only distances above 0 count for it.

    Returns:
        The information, with the jackknife's error over samples.

    Raises:
        DnmError: shapes that do not fit, labels that are not integers, numbers that are not finite, or an order or
            bandwidth that is not above 0.
    """
    data = _pooled(features)
    target = classes(labels, len(data)).to(data.device)
    for name, value in (("alpha", alpha), ("bandwidth", bandwidth)):
        if value is not None and not 0 < value < math.inf:
            raise DnmError(f"renyi_information: got {name} {value}, expected a finite number above 0; leave it out")
    distances = torch.cdist(data, data, compute_mode="donot_use_mm_for_euclid_dist")

    def information(kept: Tensor) -> float:
        return _renyi(distances[kept][:, kept], target[kept], alpha, bandwidth)

    return jackknife(information, torch.arange(len(data), device=data.device))


def exponential_entropy(eigenvalues: Tensor) -> float:
    """Exp of the entropy of a spectrum that is normalised to sum 1, 0 for one that is all zero; shape `(k,)`."""
    positive = eigenvalues.clamp(min=0)
    total = positive.sum()
    return float(torch.special.entr(positive / total).sum().exp()) if total > 0 else 0.0


def scatters(data: Tensor) -> Callable[[Tensor], Tensor]:
    """Scatter matrices of subsets of samples.

    Args:
        data: float64, shape `(n, d)` or `(n, p, d)`.

    Returns:
        A function of the indices of samples that gives a symmetric matrix with the nonzero eigenvalues of their centred
        scatter matrix: of shape `(d, d)`, or the Gram matrix of all positions where that is smaller. All of it is 0
        where these samples do not vary.
    """
    positions = data if data.dim() == 3 else data[:, None]
    num, each, width = positions.shape
    centred = positions - positions.mean((0, 1))
    flat = centred.flatten(0, 1)
    # Below it is the rounding of the differences that make up the scatter of most samples.
    floor = 1e-12 * float(centred.square().sum())
    whole = product(flat.T, flat) if width <= num * each else product(flat, flat.T)
    sums = centred.sum(1)

    def scatter(kept: Tensor) -> Tensor:
        if width <= num * each:
            left_out = torch.ones(num, dtype=torch.bool, device=data.device)
            left_out[kept] = False
            gone, total = centred[left_out].flatten(0, 1), sums[kept].sum(0)
            result = whole - product(gone.T, gone) - torch.outer(total, total) / (len(kept) * each)
        else:
            rows = (kept[:, None] * each + torch.arange(each, device=data.device)).flatten()
            result = whole[rows][:, rows]
            result = result - result.mean(0) - result.mean(1, keepdim=True) + result.mean()
        return result if float(result.trace()) > floor else torch.zeros_like(result)

    return scatter


def _pooled(features: Tensor) -> Tensor:
    data = samples(features, "features")
    return data.mean(1) if data.dim() == 3 else data


def _evidence(
    data: Tensor, target: Tensor, other: Tensor, other_target: Tensor, shrinkage: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Fits a discriminant to data and applies it to the other samples whose class was among the fitted ones.

    Returns:
        Log likelihood of each class up to a term that all classes share, shape `(m, k)`, log prior of each class,
        shape `(k,)`, and the samples' true classes, shape `(m,)`.
    """
    width = data.shape[1]
    present, target = target.unique(return_inverse=True)
    place = torch.searchsorted(present, other_target).clamp(max=len(present) - 1)
    known = present[place] == other_target
    centre = data.mean(0)
    data, other = data - centre, other[known] - centre
    spread = float(data.square().mean())
    if len(data) < width:
        # Means differ only within the span of the data, and so do discriminants.
        basis = torch.linalg.qr(data.T).Q
        data, other = product(data, basis), product(other, basis)
    members = torch.nn.functional.one_hot(target, len(present)).to(data.dtype)
    sizes = members.sum(0)
    means = product(members.T, data) / sizes[:, None]
    within = data - means[target]
    covariance = product(within.T, within) / len(data)
    # Classes that do not vary within would have an infinite discriminant; features that do not vary at all need none.
    scale = max(float(covariance.trace()) / width, 1e-12 * spread) if spread > 0 else 1.0
    shrunk = (1 - shrinkage) * covariance
    shrunk.diagonal().add_(shrinkage * scale)
    slopes = torch.linalg.solve(shrunk, means.T)
    return product(other, slopes) - 0.5 * (means * slopes.T).sum(1), (sizes / len(data)).log(), place[known]


def _gains(evidence: Tensor, log_prior: Tensor, target: Tensor, factor: Tensor | float) -> Tensor:
    """log p(y | x) - log p(y) with the evidence multiplied with a factor; shape `(m,)`."""
    gains = (factor * evidence + log_prior).log_softmax(1) - log_prior
    return gains.gather(1, target[:, None])[:, 0]


def _calibration(evidence: Tensor, log_prior: Tensor, target: Tensor) -> Tensor:
    """The likeliest factor of the evidence from 0 to 1, a scalar."""
    # Against the true class, so that evidence which decides beyond rounding has a slope of exactly 0.
    against = evidence - evidence.gather(1, target[:, None])
    low, high = torch.zeros_like(log_prior[0]), torch.ones_like(log_prior[0])
    # The log likelihood is concave in the factor, so that the sign of its slope tells the side.
    for _ in range(40):
        middle = (low + high) / 2
        rises = ((middle * evidence + log_prior).softmax(1) * against).sum() <= 0
        low, high = torch.where(rises, middle, low), torch.where(rises, high, middle)
    return low


def _renyi(distances: Tensor, target: Tensor, alpha: float, bandwidth: float | None) -> float:
    num = len(distances)
    if bandwidth is None:
        apart = distances[distances > 0]
        bandwidth = float(apart.median()) if len(apart) else 1.0
    kernel = (-0.5 * (distances / bandwidth).square()).exp() / num
    groups = [(target == label).nonzero()[:, 0] for label in target.unique()]
    sizes = torch.tensor([len(group) / num for group in groups], dtype=torch.float64, device="cpu")
    # The product with the labels' kernel is block diagonal.
    joint = torch.cat([torch.linalg.eigvalsh(kernel[group][:, group]) for group in groups])
    return _entropy(torch.linalg.eigvalsh(kernel), alpha) + _entropy(sizes, alpha) - _entropy(joint, alpha)


def _entropy(eigenvalues: Tensor, alpha: float) -> float:
    positive = eigenvalues.clamp(min=0)
    if alpha == 1:
        return float(torch.special.entr(positive).sum())
    return float(positive.pow(alpha).sum().log()) / (1 - alpha)
