"""The empirical tangent kernel of a layer, weighted by the loss: Gram matrices of per-sample weight gradients.

K[i, j] = <dl_i/dW, dl_j/dW> for the weights W of one layer. It is the layer's block of the neural tangent kernel
(Jacot et al. 2018, arXiv:1806.07572), contracted with the loss gradients of both samples at the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dnm.cost import product
from dnm.detect.estimates import Estimate, classes, jackknife, samples
from dnm.detect.information import exponential_entropy
from dnm.errors import DnmError

# Numbers in the largest temporary tensor: 64 MiB in float64.
LARGEST = 2**23


def gradient_gram(inputs: Tensor, output_gradients: Tensor) -> Tensor:
    """Inner products of per-sample weight gradients, without making the gradients where that is cheaper.

    K[i, j] is the sum over positions p, q of (a_ip . a_jq) (g_ip . g_jq), since a sample's gradient is the sum over its
    positions of g a^T; (A A^T) o (G G^T) for one position.

    Args:
        inputs: what the layer's weights multiply, shape `(n, p, d_in)`: a convolution's patches, of all positions or
            of sampled ones. With a column of ones, the bias counts as one more weight.
        output_gradients: of each sample's own loss, not of the batch's mean, with respect to the layer's outputs at the
            same positions, shape `(n, p, d_out)`.

    Returns:
        The kernel, float64, shape `(n, n)`, on the device of the inputs.

    Raises:
        DnmError: shapes that do not fit, or numbers that are not finite.
    """
    data = samples(inputs, "inputs", dimensions=(3,), minimum=1)
    gradients = samples(output_gradients, "output_gradients", dimensions=(3,), minimum=1)
    if data.shape[:2] != gradients.shape[:2]:
        raise DnmError(
            f"output_gradients: got {tuple(gradients.shape)} beside inputs of {tuple(data.shape)}, expected "
            "the same samples and positions first; take those of both with the same indices"
        )
    num, each, num_in = data.shape
    num_out = gradients.shape[2]
    kernel = torch.zeros(num, num, dtype=data.dtype, device=data.device)
    if each * each * (num_in + num_out) * num <= (each + num) * num_in * num_out:
        step = max(1, LARGEST // (each * num * each))
        for start in range(0, num, step):
            rows = slice(start, start + step)
            products = product(data[rows].flatten(0, 1), data.flatten(0, 1).T).mul_(
                product(gradients[rows].flatten(0, 1), gradients.flatten(0, 1).T)
            )
            kernel[rows] = products.reshape(-1, each, num, each).sum((1, 3))
    else:
        step = max(1, LARGEST // (num * num_in))
        for start in range(0, num_out, step):
            weights = product(gradients[:, :, start : start + step].mT, data).flatten(1)
            kernel += product(weights, weights.T)
    return kernel


def share(kernels: Mapping[str, Tensor]) -> dict[str, Estimate]:
    """Each layer's share of the trace of the summed kernel: of the mean squared per-sample gradient.

    Args:
        kernels: a layer's kernel under its name, each of shape `(n, n)`, of the same samples.

    Returns:
        Shares that sum to 1, with the jackknife's error over samples; all 0 where every gradient is 0.

    Raises:
        DnmError: kernels that are not square and symmetric, or of different sizes.
    """
    checked = {name: _checked(kernel, f"kernel of {name!r}") for name, kernel in kernels.items()}
    sizes = {name: len(kernel) for name, kernel in checked.items()}
    if len(set(sizes.values())) > 1:
        raise DnmError(f"share: got kernels of sizes {sizes}, expected one; take all of them from one probe batch")
    if not checked:
        return {}
    traces = torch.stack([kernel.diagonal() for kernel in checked.values()], dim=1)

    def of(index: int) -> Estimate:
        return jackknife(lambda rows: _ratio(rows[:, index].sum(), rows.sum()), traces)

    return {name: of(index) for index, name in enumerate(checked)}


def alignment(kernel: Tensor, labels: Tensor | None = None) -> Estimate:
    """Cosine between a kernel and a target kernel T: <K, T> / (|K| |T|), with Frobenius' product and norm.

    Without labels T is 1 1^T: the kernel carries every sample's loss gradient already, so it is how far the samples
    pull a layer's weights the same way; K is not centred (Cristianini et al. 2001, NIPS), since centring leaves nothing
    of that target. With labels T is Y Y^T of one-hot rows and both kernels are centred (Cortes et al. 2012, JMLR
    13:795-828), without which a kernel is aligned with any target by its mean alone.

    Args:
        kernel: shape `(n, n)`.
        labels: class of each sample, integers of shape `(n,)`.

    Returns:
        The cosine, from 0 to 1, with the jackknife's error over samples; 0 where either kernel is 0.

    Raises:
        DnmError: a kernel that is not square and symmetric, or labels that do not fit.
    """
    matrix = _checked(kernel, "kernel")
    index = torch.arange(len(matrix), device=matrix.device)
    if labels is None:

        def cosine(kept: Tensor) -> float:
            block = matrix[kept][:, kept]
            return _ratio(block.sum(), len(kept) * block.norm())

    else:
        members = torch.nn.functional.one_hot(classes(labels, len(matrix)).to(matrix.device)).double()

        def cosine(kept: Tensor) -> float:
            block, rows = matrix[kept][:, kept], members[kept]
            rows = rows - rows.mean(0)
            block = block - block.mean(0) - block.mean(1, keepdim=True) + block.mean()
            return _ratio((rows * product(block, rows)).sum(), block.norm() * product(rows.T, rows).norm())

    return jackknife(cosine, index)


def kernel_effective_rank(kernel: Tensor) -> Estimate:
    """Number of directions that the samples' gradients span: exp of the entropy of the kernel's normalised spectrum.

    The kernel is not centred, so the direction of the mean gradient counts. For the entropy see
    `dnm.detect.effective_rank`; a condition number would depend on the smallest eigenvalue alone.

    Args:
        kernel: shape `(n, n)`.

    Returns:
        The effective rank, from 1 to n, with the jackknife's error over samples; 0 where the kernel is 0.

    Raises:
        DnmError: a kernel that is not square and symmetric.
    """
    matrix = _checked(kernel, "kernel")
    return jackknife(
        lambda kept: exponential_entropy(torch.linalg.eigvalsh(matrix[kept][:, kept])),
        torch.arange(len(matrix), device=matrix.device),
    )


def _checked(kernel: Tensor, name: str) -> Tensor:
    matrix = samples(kernel, name, dimensions=(2,))
    shape = tuple(matrix.shape)
    if shape[0] != shape[1]:
        raise DnmError(f"{name}: got shape {shape}, expected a square; pass what gradient_gram returns")
    skew = float((matrix - matrix.T).abs().max())
    if skew > 1e-5 * float(matrix.abs().max()):
        raise DnmError(f"{name}: differs from its transpose by {skew:.2g}, expected symmetry; pass a Gram matrix")
    return matrix


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if whole > 0 else 0.0
