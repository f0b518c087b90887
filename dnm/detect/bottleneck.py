"""Where a network is short of capacity: every theory's figures per layer, and one covariate per theory and candidate.

No theory is trusted beforehand: figures are standardised over the candidates of one look, pulled towards 0 where their
standard errors are as large as their differences, and weighed by what earlier edits really gained (`dnm.calibration`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dnm.cost import product
from dnm.detect import expressivity, information, manifold, tangent
from dnm.detect.estimates import Estimate, jackknife
from dnm.detect.probe import LayerProbe, Probe
from dnm.errors import DnmError
from dnm.graph import Graph

Figures = dict[str, Estimate]
# The figure by which each theory takes part in a prediction; large where growth should pay. The others are for reading.
PRINCIPAL = {
    "information": "rank_use",
    "tangent": "kernel_share",
    "manifold": "dimension_use",
    "expressivity": "missing_gain",
    "gradient": "gradient_norm",
}
# Samples of which kernels are made: their cost rises with the square of it.
KERNEL_SAMPLES = 32


def measure(probe: Probe, theories: Iterable[str], labels: Tensor | None = None) -> dict[str, Figures]:
    """The figures of every layer that the probe saw.

    Args:
        probe: what was seen.
        theories: keys of `PRINCIPAL`.
        labels: classes of the probe's samples, shape `(num_samples,)`, for the figures that need them.

    Returns:
        By path of the layer:

        - information: `rank_use`, effective rank of the layer's input over its number of features, and (with labels)
          `usable_information` of its output, nats;
        - tangent: `kernel_share` of the network's tangent kernel, `kernel_alignment`, `kernel_rank`;
        - manifold: `dimension`, intrinsic, of the layer's input averaged over positions, `dimension_use`, the same over
          the number of features, and `participation` ratio over that number;
        - expressivity: `unexplained` share of the change that the loss asks of the layer's output, which no change of
          its weights brings about, and `missing_gain`, its size in nats for a functional step of length 1;
        - gradient: `gradient_norm`, root mean square of the gradient of the layer's weights.
    """
    wanted = set(theories)
    found: dict[str, Figures] = {path: {} for path in probe.layers}
    if "tangent" in wanted:
        kernels = {path: _kernel(layer) for path, layer in probe.layers.items()}
        shares = tangent.share(kernels)
        for path, kernel in kernels.items():
            found[path]["kernel_share"] = shares[path]
            found[path]["kernel_alignment"] = tangent.alignment(kernel)
            found[path]["kernel_rank"] = tangent.kernel_effective_rank(kernel)
    for path, layer in probe.layers.items():
        num_features = layer.features.shape[2]
        if "information" in wanted:
            found[path]["rank_use"] = _over(information.effective_rank(layer.features), num_features)
            if labels is not None:
                found[path]["usable_information"] = information.usable_information(layer.outputs, labels)
        if "manifold" in wanted:
            found[path]["participation"] = _over(manifold.participation_ratio(layer.features), num_features)
            # A layer whose inputs are all alike has no neighbours to measure by.
            with contextlib.suppress(DnmError):
                found[path]["dimension"] = manifold.two_nn(layer.features.mean(1))
                found[path]["dimension_use"] = _over(found[path]["dimension"], num_features)
        if "expressivity" in wanted:
            found[path]["unexplained"], found[path]["missing_gain"] = _expressivity(layer)
        if "gradient" in wanted and f"{path}.weight" in probe.gradients:
            found[path]["gradient_norm"] = _gradient(layer, probe.gradients[f"{path}.weight"])
    return found


def of_group(figures: Mapping[str, Figures], model: nn.Module, graph: Graph, name: str) -> Figures:
    """A channel group's figures: of those that read its channels, and of those that make them for kernel and gradient.

    Each is the mean over the layers.
    """
    made, read = _layers_of(model, graph, name)
    makers = [figures[path] for path in made if path in figures]
    readers = [figures[path] for path in read if path in figures]
    own = ("kernel_share", "kernel_alignment", "kernel_rank", "gradient_norm")
    return _mean([{key: value for key, value in item.items() if key in own} for item in makers]) | _mean(
        [{key: value for key, value in item.items() if key not in own} for item in readers]
    )


def unit_gradients(probe: Probe, model: nn.Module, graph: Graph, name: str) -> Tensor | None:
    """Norm of the loss gradient of the weights that make each unit of a group, float64, shape `(width,)`.

    None where the probe saw none of these weights.
    """
    group = graph.group(name)
    for member in group.members:
        gradient = probe.gradients.get(member.tensor)
        if gradient is not None and gradient.dim() > 1 and not member.reads:
            rows = gradient.double().movedim(member.dimension, 0)
            rows = rows.narrow(0, member.starts[0], group.width * member.repeat)
            return rows.reshape(group.width, -1).norm(dim=1).cpu()
    return None


def covariates(candidates: Sequence[Figures], theories: Iterable[str]) -> list[dict[str, float]]:
    """One covariate per theory and candidate.

    Figures of a theory become logarithms, are centred and divided by their standard deviation over the candidates, and
    multiplied with their reliability: the share of their variance that their standard errors do not explain (the
    shrinkage of empirical Bayes, Morris 1983, equation 1.7).

    Args:
        candidates: their figures.
        theories: keys of `PRINCIPAL`.

    Returns:
        For every candidate its covariates by theory; a theory is missing where the candidate has no such figure, and
        everywhere where fewer than two have, or where all are equal.
    """
    found: list[dict[str, float]] = [{} for _ in candidates]
    for theory in theories:
        figures = [item.get(PRINCIPAL[theory]) for item in candidates]
        known = {
            number: (math.log(figure.value), figure.standard_error / figure.value)
            for number, figure in enumerate(figures)
            if figure is not None and figure.value > 0.0 and math.isfinite(figure.value)
        }
        if len(known) < 2:
            continue
        values = torch.tensor([value for value, _ in known.values()], dtype=torch.float64)
        errors = torch.tensor([error for _, error in known.values()], dtype=torch.float64).nan_to_num(0.0)
        variance = values.var().item()
        if variance == 0.0:
            continue
        reliability = max(0.0, 1.0 - errors.square().mean().item() / variance)
        scores = (values - values.mean()) / math.sqrt(variance) * reliability
        for number, score in zip(known, scores.tolist(), strict=True):
            found[number][theory] = score
    return found


def _kernel(layer: LayerProbe) -> Tensor:
    """The layer's tangent kernel over the first samples, estimated from the sampled positions."""
    kernel = tangent.gradient_gram(layer.inputs[:KERNEL_SAMPLES], layer.gradients[:KERNEL_SAMPLES])
    return kernel * layer.scale**2


def _gradient(layer: LayerProbe, gradient: Tensor) -> Estimate:
    """Root mean square of the loss gradient of the weights; its standard error is that of the sampled positions'."""

    def norm(samples: Tensor) -> Tensor:
        made = product(layer.gradients[samples].flatten(0, 1).T, layer.inputs[samples].flatten(0, 1))
        return made.norm() * layer.scale / len(samples) / math.sqrt(gradient.numel())

    rows = torch.arange(len(layer.inputs), device=gradient.device)
    return Estimate(gradient.double().square().mean().sqrt().item(), jackknife(norm, rows).standard_error)


def _expressivity(layer: LayerProbe) -> tuple[Estimate, Estimate]:
    """The unexplained share of the change that the loss asks for, and its size in nats.

    The size is the product of the change with what the other half's fit leaves of it: the noise of the fit has no part
    in it on average, as it would have in the square of what is left.
    """
    desired = -layer.gradients
    left = expressivity.residual(layer.inputs, desired, bias=layer.bias).double()
    per_sample = torch.stack([(desired * left).sum((1, 2)), desired.double().square().sum((1, 2))], 1) * layer.scale

    def share(rows: Tensor) -> Tensor:
        missing, asked = rows.sum(0)
        return missing / asked if asked > 0.0 else torch.zeros_like(asked)

    error = per_sample[:, 0].std() / math.sqrt(len(per_sample))
    return jackknife(share, per_sample), Estimate(per_sample[:, 0].mean().item(), error.item())


def _over(figure: Estimate, number: int) -> Estimate:
    return Estimate(figure.value / number, figure.standard_error / number)


def _mean(items: Sequence[Figures]) -> Figures:
    found: Figures = {}
    for key in sorted({key for item in items for key in item}):
        some = [item[key] for item in items if key in item]
        # Layers share the probe's samples, so their errors do not average out.
        error = sum(figure.standard_error for figure in some) / len(some)
        found[key] = Estimate(sum(figure.value for figure in some) / len(some), error)
    return found


def _layers_of(model: nn.Module, graph: Graph, name: str) -> tuple[list[str], list[str]]:
    """Paths of the layers that make a group's channels, and of those that read them."""
    made: list[str] = []
    read: list[str] = []
    for member in graph.group(name).members:
        path = member.tensor.rpartition(".")[0]
        if member.tensor.endswith("weight") and hasattr(model.get_submodule(path), "bias"):
            (read if member.reads else made).append(path)
    return list(dict.fromkeys(made)), list(dict.fromkeys(read))
