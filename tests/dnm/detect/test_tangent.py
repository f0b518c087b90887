"""Tangent kernels against full per-sample gradients from `torch.func`, and what is read off them by hand."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap

from dnm.detect import tangent
from dnm.detect.estimates import Estimate, jackknife
from dnm.detect.tangent import alignment, gradient_gram, kernel_effective_rank, share
from dnm.errors import DnmError

FEW = settings(max_examples=8, deadline=None, derandomize=True, database=None)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(num: int = 24, seed: int = 0) -> torch.Tensor:
    """Of two classes, whose gradients have a mean of their own."""
    labels = torch.arange(num) % 2
    rows = normal(num, 3, 4, seed=seed) + 0.7 * labels[:, None, None] + 0.3
    return gradient_gram(rows, normal(num, 3, 2, seed=seed + 1) + 0.5)


def per_sample(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every sample's own gradients, flat, by parameter."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(values, image, label):
        return nn.functional.cross_entropy(functional_call(model, values, (image[None],)), label[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)
    return {name: value.flatten(1) for name, value in found.items()}


def recorded(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, tuple]:
    """Inputs with a column of ones and per-sample output gradients of every layer with weights, at all positions."""
    seen: dict[str, list[torch.Tensor]] = {}

    def keep(name: str):
        def hook(module, args, output):
            output.retain_grad()
            seen[name] = [args[0].detach(), output]

        return hook

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    hooks = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    nn.functional.cross_entropy(model(images), labels, reduction="sum").backward()
    for hook in hooks:
        hook.remove()
    result = {}
    for name, (data, output) in seen.items():
        layer, gradient = layers[name], output.grad
        assert gradient is not None
        if isinstance(layer, nn.Conv2d):
            padding = layer.padding
            assert not isinstance(padding, str)
            data = nn.functional.unfold(data, layer.kernel_size, padding=padding, stride=layer.stride).mT
            gradient = gradient.flatten(2).mT
        else:
            data, gradient = data[:, None], gradient[:, None]
        result[name] = torch.cat([data, torch.ones_like(data[..., :1])], 2), gradient
    return result


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.Tanh(), nn.Flatten(),
        nn.Linear(24, 3),
    )  # fmt: skip


@pytest.mark.parametrize("make, shape", [(perceptron, (6,)), (convolutional, (2, 6, 6))])
def test_kernels_are_those_of_full_per_sample_gradients(make, shape):
    torch.manual_seed(0)
    model = make().double()
    images, labels = normal(11, *shape), torch.arange(11) % 3
    gradients = per_sample(model, images, labels)
    kernels = {name: gradient_gram(*both) for name, both in recorded(model, images, labels).items()}
    expected = {
        name: sum(gradients[f"{name}.{part}"] @ gradients[f"{name}.{part}"].T for part in ("weight", "bias"))
        for name in kernels
    }
    assert len(kernels) == 3
    for name, found in kernels.items():
        assert torch.allclose(found, torch.as_tensor(expected[name]), rtol=1e-10, atol=1e-13)
    # All samples and layers together: the squared norm of the batch's gradient.
    whole = torch.stack([value.sum(0).square().sum() for value in gradients.values()]).sum()
    assert float(sum(kernels.values()).sum()) == pytest.approx(float(whole), rel=1e-10)  # type: ignore[union-attr]
    # Without the column of ones, the weights alone.
    name, (data, gradient) = next(iter(recorded(model, images, labels).items()))
    weights = gradients[f"{name}.weight"]
    assert torch.allclose(gradient_gram(data[..., :-1], gradient), weights @ weights.T, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("num, each, num_in, num_out", [(9, 1, 30, 20), (5, 2, 8, 40), (9, 40, 3, 2), (4, 25, 5, 6)])
@pytest.mark.parametrize("largest", [1, 200, 2**23])
def test_both_orders_of_contraction_agree_in_pieces_of_any_size(monkeypatch, largest, num, each, num_in, num_out):
    monkeypatch.setattr(tangent, "LARGEST", largest)
    data, gradients = normal(num, each, num_in), normal(num, each, num_out, seed=1)
    expected = torch.einsum("ipa,jqa,ipg,jqg->ij", data, data, gradients, gradients)
    assert torch.allclose(gradient_gram(data, gradients), expected, rtol=1e-10)


def test_the_cheaper_order_is_taken(monkeypatch):
    shapes: list[tuple] = []
    real = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: shapes.append((*a.shape[:-1], b.shape[-1])) or real(a, b)
    )
    # One position: two Gram matrices and never the gradients; many positions: gradients and never pairs of positions.
    gradient_gram(normal(6, 1, 50), normal(6, 1, 70))
    gradient_gram(normal(6, 64, 3), normal(6, 64, 2))
    assert shapes == [(6, 6), (6, 6), (6, 2, 3), (6, 6)]


@FEW
@given(seed=st.integers(0, 99), each=st.sampled_from([1, 3, 30]))
def test_kernels_do_not_depend_on_rotations_of_channels_or_order_of_positions(seed, each):
    data, gradients = normal(7, each, 4, seed=seed), normal(7, each, 3, seed=seed + 1)
    expected = gradient_gram(data, gradients)
    turn = torch.linalg.qr(normal(4, 4, seed=seed)).Q, torch.linalg.qr(normal(3, 3, seed=seed)).Q
    assert torch.allclose(gradient_gram(data @ turn[0], gradients @ turn[1]), expected, rtol=1e-9)
    generator = torch.Generator().manual_seed(seed)
    rows, places = torch.randperm(7, generator=generator), torch.randperm(each, generator=generator)
    shuffled = gradient_gram(data[rows][:, places], gradients[rows][:, places])
    assert torch.allclose(shuffled, expected[rows][:, rows], rtol=1e-9)
    assert torch.allclose(gradient_gram(1e20 * data, 1e-30 * gradients), 1e-20 * expected, rtol=1e-9)


# Shares.


def test_shares_are_of_the_mean_squared_gradient():
    kernels = {"a": kernel(), "b": 3 * kernel(seed=5), "c": torch.zeros(24, 24)}
    found = share(kernels)
    traces = {name: float(value.trace()) for name, value in kernels.items()}
    assert list(found) == ["a", "b", "c"]
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(traces[name] / sum(traces.values()), rel=1e-12)
    assert sum(estimate.value for estimate in found.values()) == pytest.approx(1.0)
    assert (found["c"].value, found["c"].standard_error) == (0.0, 0.0)
    assert found["a"].standard_error == pytest.approx(found["b"].standard_error, rel=1e-9)
    scaled = share({name: 1e-30 * value for name, value in kernels.items()})
    assert scaled["b"].value == pytest.approx(found["b"].value, rel=1e-12)
    assert share({}) == {}
    assert all(item.value == 0.0 for item in share({"a": torch.zeros(5, 5), "b": torch.zeros(5, 5)}).values())


def test_a_shares_error_is_its_spread_over_batches():
    found = [share({"a": kernel(seed=2 * seed), "b": kernel(seed=2 * seed + 1000)})["a"] for seed in range(100)]
    spread = statistics.stdev(item.value for item in found)
    assert statistics.fmean(item.standard_error for item in found) == pytest.approx(spread, rel=0.25)


# Alignment.


def test_alignment_without_labels_is_the_cosine_with_ones():
    matrix = kernel()
    by_hand = float(matrix.sum()) / (float(np.linalg.norm(matrix.numpy())) * 24)
    found = alignment(matrix)
    assert found.value == pytest.approx(by_hand, rel=1e-12)
    left_out = jackknife(lambda k: matrix[k][:, k].sum() / matrix[k][:, k].norm() / len(k), torch.arange(24))
    assert found.standard_error == pytest.approx(left_out.standard_error, rel=1e-9)
    assert alignment(torch.ones(6, 6)).value == pytest.approx(1.0)
    assert alignment(torch.eye(16)).value == pytest.approx(1 / 4)
    # Of pairs that pull apart nothing is left.
    signs = torch.tensor([1.0, -1.0] * 8)
    assert alignment(torch.outer(signs, signs)).value == pytest.approx(0.0, abs=1e-12)


def test_alignment_with_labels_is_the_centred_cosine():
    matrix, labels = kernel().numpy(), np.arange(24) % 2
    centre = np.eye(24) - 1 / 24
    target = centre @ (labels[:, None] == labels[None]) @ centre
    centred = centre @ matrix @ centre
    by_hand = (centred * target).sum() / (np.linalg.norm(centred) * np.linalg.norm(target))
    found = alignment(torch.as_tensor(matrix), torch.as_tensor(labels))
    assert found.value == pytest.approx(by_hand, rel=1e-10)
    # A mean that all samples share does not count, and a kernel of classes has all of it.
    shifted = torch.as_tensor(matrix + 100.0)
    assert alignment(shifted, torch.as_tensor(labels)).value == pytest.approx(by_hand, rel=1e-9)
    blocks = torch.as_tensor(labels[:, None] == labels[None]).double() + 4
    assert alignment(blocks, torch.as_tensor(labels)).value == pytest.approx(1.0)
    assert alignment(torch.ones(8, 8), torch.arange(8) % 2).value == pytest.approx(0.0, abs=1e-6)
    wrong = torch.arange(24) // 2 % 2
    assert alignment(torch.as_tensor(matrix), wrong).value < by_hand / 2


@FEW
@given(scale=st.sampled_from([1e-100, 0.3, 1e100]), seed=st.integers(0, 99))
def test_alignment_and_rank_do_not_depend_on_scale_or_order(scale, seed):
    matrix, labels = kernel(seed=seed), torch.arange(24) % 2
    rows = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    shuffled = scale * matrix[rows][:, rows]
    for function in (alignment, lambda m: alignment(m, labels), kernel_effective_rank):
        expected = function(matrix).value
        assert function(scale * matrix).value == pytest.approx(expected, rel=1e-9)
    assert alignment(shuffled).value == pytest.approx(alignment(matrix).value, rel=1e-9)
    assert alignment(shuffled, labels[rows]).value == pytest.approx(alignment(matrix, labels).value, rel=1e-9)
    assert kernel_effective_rank(shuffled).value == pytest.approx(kernel_effective_rank(matrix).value, rel=1e-9)


# Effective rank.


def test_effective_rank_of_known_kernels():
    assert kernel_effective_rank(torch.eye(16)).value == pytest.approx(16.0)
    assert kernel_effective_rank(torch.ones(16, 16)).value == pytest.approx(1.0)
    assert kernel_effective_rank(torch.zeros(16, 16)).as_dict() == {"value": 0.0, "standard_error": 0.0}
    basis = torch.linalg.qr(normal(10, 3)).Q
    matrix = basis * torch.tensor([2.0, 1.0, 1.0]) @ basis.T
    assert kernel_effective_rank(matrix).value == pytest.approx(math.exp(1.5 * math.log(2)), rel=1e-9)


@pytest.mark.parametrize("function", [alignment, kernel_effective_rank])
def test_errors_are_the_spread_over_batches(function):
    found = [function(kernel(48, seed=2 * seed)) for seed in range(80)]
    spread = statistics.stdev(item.value for item in found)
    assert statistics.fmean(item.standard_error for item in found) == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: gradient_gram(normal(4, 3), normal(4, 3, 2)), r"inputs: got shape \(4, 3\), expected 3 dimensions"),
        (
            lambda: gradient_gram(normal(4, 3, 2), normal(4, 5, 2)),
            r"output_gradients: got \(4, 5, 2\) beside inputs of \(4, 3, 2\), expected the same samples",
        ),
        (lambda: alignment(normal(4, 3)), r"kernel: got shape \(4, 3\), expected a square"),
        (lambda: alignment(normal(4, 4)), "kernel: differs from its transpose by .*, expected symmetry"),
        (lambda: kernel_effective_rank(torch.eye(1)), r"kernel: got shape \(1, 1\), expected at least 2 samples"),
        (lambda: alignment(torch.eye(4), torch.arange(5)), r"labels: got torch.int64 of shape \(5,\), expected one"),
        (lambda: share({"a": normal(2, 3)}), r"kernel of 'a': got shape \(2, 3\), expected a square"),
        (
            lambda: share({"a": torch.eye(4), "b": torch.eye(5)}),
            r"share: got kernels of sizes \{'a': 4, 'b': 5\}, expected one; take all of them from one probe batch",
        ),
    ],
)
def test_what_is_no_kernel_is_refused(call, message):
    with pytest.raises(DnmError, match=message):
        call()


def test_new_tensors_are_made_where_the_inputs_are():
    # Tensors made without naming a device would be on the meta device here and not mix with the inputs.
    matrix, labels = kernel(), torch.arange(24) % 2
    few, many = normal(6, 3, 4), normal(5, 30, 3)

    def figures() -> list[Estimate]:
        found = [alignment(matrix), alignment(matrix, labels), kernel_effective_rank(matrix)]
        return [*found, *share({"a": matrix, "b": matrix}).values()]

    expected = figures()
    with torch.device("meta"):
        assert figures() == expected
        assert gradient_gram(few, few).device.type == gradient_gram(many, many).device.type == "cpu"
