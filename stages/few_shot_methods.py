"""Ways to recognise classes from a few drawings of each, and how well they do.

Every method predicts from the support and the queries of episodes of one form, stacked: `num x ways x shots x ...` and
`num x ways x queries x ...`. What `...` is differs: features, or images, `channels x height x width`. A query's
prediction depends on the support and on itself, never on other queries.

Shapes: n episodes, w ways, s shots, q queries, f features.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.functional import batch_norm, cross_entropy, normalize

from stages.episodes import Episode
from stages.tasks import image_classification as task

# Episodes whose inputs are in memory together.
_TOGETHER = 20
# One over scikit-learn's C, its default (Tian et al. 2020, arXiv:2003.11539, use it).
_PENALTY = 1.0
_ITERATIONS = 150

Predict = Callable[[Tensor, Tensor], Tensor]
Parameters = dict[str, Tensor]


def embedding(widths: task.Widths, channels: int, generator: torch.Generator) -> nn.Sequential:
    """The network of image classification without its last layer: images to features, as many as the last width."""
    return without_head(task.network(widths, channels, 1, generator))


def without_head(network: nn.Sequential) -> nn.Sequential:
    """All layers but the last, the same objects."""
    return network[:-1]


@torch.no_grad()
def features(model: nn.Module, split: task.Split, batch_size: int = 500) -> Tensor:
    """What a model makes of each image of a split, in eval mode: `num x f`; the mode is put back."""
    training = model.training
    model.eval()
    rows = torch.arange(len(split), device=split.labels.device)
    found = torch.cat([model(split.batch(part)[0]).float() for part in rows.split(batch_size)])
    model.train(training)
    return found


@torch.no_grad()
def evaluate(predict: Predict, inputs: Callable[[Tensor], Tensor], episodes: Sequence[Episode]) -> list[int]:
    """Scores a method.

    Args:
        predict: returns ways, int64, `n x w x q`, of the stacked inputs of support and queries.
        inputs: of rows of the split (int64, any shape `r`): `r x ...`.
        episodes: of one form.

    Returns:
        Of each episode how many queries the method recognised.
    """
    counts: list[int] = []
    for start in range(0, len(episodes), _TOGETHER):
        part = episodes[start : start + _TOGETHER]
        support, queries = (torch.stack([getattr(one, name) for one in part]) for name in ("support", "queries"))
        found = predict(inputs(support), inputs(queries))
        right = found == _ways(queries.shape[1:], queries.device)
        counts += right.sum(dim=(1, 2)).tolist()
    return counts


def of_features(found: Tensor) -> Callable[[Tensor], Tensor]:
    """Inputs of `evaluate` that were computed for the whole split: `num x f`."""
    return lambda rows: found[rows]


def of_images(split: task.Split) -> Callable[[Tensor], Tensor]:
    """Inputs of `evaluate` that are the split's images."""
    return lambda rows: split.batch(rows.flatten())[0].unflatten(0, rows.shape)


def prototypical_logits(support: Tensor, queries: Tensor) -> Tensor:
    """Prototypical networks (Snell, Swersky and Zemel 2017, arXiv:1703.05175, equations 1 and 2).

    Args:
        support: features, `... x w x s x f`.
        queries: features, `... x w x q x f`.

    Returns:
        Negative squared distances to the classes' mean features, but for a constant of each query, which no softmax
        sees: `... x w x q x w`.
    """
    prototypes = support.mean(dim=-2)
    flat = queries.flatten(-3, -2)
    logits = 2 * flat @ prototypes.mT - prototypes.square().sum(dim=-1).unsqueeze(-2)
    return logits.unflatten(-2, queries.shape[-3:-1])


def prototypical_loss(support: Tensor, queries: Tensor) -> Tensor:
    """Mean negative log-probability of the queries' classes, nats; arguments as of `prototypical_logits`."""
    logits = prototypical_logits(support.float(), queries.float())
    labels = _ways(queries.shape[-3:-1], queries.device).flatten()
    return cross_entropy(logits.flatten(0, -2), labels.repeat(logits[..., 0].numel() // len(labels)))


def prototypical(support: Tensor, queries: Tensor) -> Tensor:
    """The classes with the nearest mean features: int64, `n x w x q`."""
    return prototypical_logits(support, queries).argmax(dim=-1)


def nearest_centroid(support: Tensor, queries: Tensor) -> Tensor:
    """The classes with the nearest mean images: the floor, as nothing is trained. int64, `n x w x q`."""
    return prototypical(support.flatten(3), queries.flatten(3))


def linear(support: Tensor, queries: Tensor) -> Tensor:
    """A linear classifier on features, trained on the support: the `traditional` way to use a supervised network.

    Logistic regression on features of unit length (Tian et al. 2020, arXiv:2003.11539, section 3.2).

    Args:
        support: features, `n x w x s x f`.
        queries: features, `n x w x q x f`.

    Returns:
        int64, `n x w x q`.
    """
    labels = _ways(support.shape[1:3], support.device).flatten()
    weights, bias = logistic_regression(normalize(support.flatten(1, 2), dim=-1), labels.expand(len(support), -1))
    logits = normalize(queries, dim=-1).flatten(1, 2) @ weights.mT + bias.unsqueeze(-2)
    return logits.argmax(dim=-1).unflatten(-1, queries.shape[1:3])


def logistic_regression(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Minimises the sum of cross-entropies plus half of the squared weights, by accelerated gradient descent.

    Step and momentum follow from bounds of the curvature, without a search (Nesterov 2004, section 2.2).

    Args:
        inputs: of at most unit length, `n x samples x f`.
        labels: int64, `n x samples`; every class is there.

    Returns:
        Weights, `n x classes x f`, and biases, `n x classes`.
    """
    classes = int(labels.max()) + 1
    # The bias is the weight of a constant that is not penalised.
    extended = torch.cat([inputs, torch.ones_like(inputs[..., :1])], dim=-1)
    targets = nn.functional.one_hot(labels, classes).to(inputs.dtype)
    penalty = torch.full_like(extended[:1, :1], _PENALTY)
    penalty[..., -1] = 0.0
    # A sample's Hessian is at most half of its squared length, 1 and the constant's 1 (Böhning 1992).
    curvature = inputs.shape[1] + _PENALTY
    ratio = (_PENALTY / curvature) ** 0.5
    weights = ahead = extended.new_zeros(len(extended), classes, extended.shape[-1])
    for _ in range(_ITERATIONS):
        errors = (extended @ ahead.mT).softmax(dim=-1) - targets
        following = ahead - (errors.mT @ extended + penalty * ahead) / curvature
        ahead = following + (1 - ratio) / (1 + ratio) * (following - weights)
        weights = following
    return weights[..., :-1], weights[..., -1]


def support_alone(network: nn.Module, *, steps: int, rate: float) -> Predict:
    """Supervised training on the support and nothing else: the `traditional` way where there is no other data.

    Args:
        network: images to `w` logits, with its initial weights; it is copied for each episode.
        steps: of AdamW, on the whole support.
        rate: of its learning.

    Returns:
        A method on images.
    """

    @torch.enable_grad()
    def one(support: Tensor, queries: Tensor) -> Tensor:
        model = copy.deepcopy(network).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
        labels = _ways(support.shape[:2], support.device).flatten()
        for _ in range(steps):
            optimizer.zero_grad()
            cross_entropy(model(support.flatten(0, 1)), labels).backward()
            optimizer.step()
        with torch.no_grad():
            found = model.eval()(queries.flatten(0, 1))
        return found.argmax(dim=-1).unflatten(0, queries.shape[:2])

    return _one_by_one(one)


def maml_loss(
    network: nn.Module, support: Tensor, queries: Tensor, *, steps: int, rate: float, second_order: bool
) -> Tensor:
    """Model-agnostic meta-learning (Finn, Abbeel and Levine 2017, arXiv:1703.03400): the loss after a few steps.

    Args:
        network: images to `w` logits.
        support: images of one episode, `w x s x channels x height x width`.
        queries: likewise, `w x q x ...`.
        steps: of gradient descent on the support's loss, from the network's parameters.
        rate: of their learning.
        second_order: whether the steps are differentiated too; without, their gradients count as constants
            (section 5.2 of the paper).

    Returns:
        Mean cross-entropy of the queries, nats, as a function of the network's parameters.
    """
    logits = _maml_logits(network, support, queries, steps, rate, second_order)
    return cross_entropy(logits.flatten(0, 1), _ways(queries.shape[:2], queries.device).flatten())


def maml(network: nn.Module, *, steps: int, rate: float) -> Predict:
    """The method on images of a network that `maml_loss` trained; arguments as there."""

    def one(support: Tensor, queries: Tensor) -> Tensor:
        return _maml_logits(network, support, queries, steps, rate, False).argmax(dim=-1)

    return _one_by_one(one)


def _maml_logits(
    network: nn.Module, support: Tensor, queries: Tensor, steps: int, rate: float, second_order: bool
) -> Tensor:
    labels, images = _ways(support.shape[:2], support.device).flatten(), support.flatten(0, 1)

    def loss(parameters: Parameters) -> Tensor:
        return cross_entropy(functional_call(network, parameters, (images,)), labels)

    parameters: Parameters = dict(network.named_parameters())
    with _statistics_of(network, len(images)):
        for _ in range(steps):
            # Outside of `grad`, this decides whether its result is differentiable in turn.
            with torch.set_grad_enabled(second_order and torch.is_grad_enabled()):
                gradients = grad(loss)(parameters)
            parameters = {name: value - rate * gradients[name] for name, value in parameters.items()}
        found = functional_call(network, parameters, (torch.cat([images, queries.flatten(0, 1)]),))
    return found[len(images) :].unflatten(0, queries.shape[:2])


@contextlib.contextmanager
def _statistics_of(network: nn.Module, num: int) -> Iterator[None]:
    """Lets batch norms take mean and variance of a batch's first `num` samples and leave their buffers alone.

    Those of the whole batch, as in the paper's code, would tell each query about the others (Bronskill et al. 2020,
    arXiv:2003.03284, whose MetaBN this is); running ones mean nothing between parameters that differ by episode.
    """

    def normalised(layer: nn.Module, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
        (values,) = inputs
        if len(values) == num:
            return batch_norm(values, None, None, layer.weight, layer.bias, training=True, eps=layer.eps)
        others = [dimension for dimension in range(values.dim()) if dimension != 1]
        variance, mean = torch.var_mean(values[:num], others, correction=0, keepdim=True)
        found = (values - mean) * (variance + layer.eps).rsqrt()
        if layer.affine:
            found = found * layer.weight.view_as(mean) + layer.bias.view_as(mean)
        return found

    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    hooks = [layer.register_forward_hook(normalised) for layer in layers]
    training = network.training
    # Batch norms run before their hooks, and write into their buffers in train mode.
    network.eval()
    try:
        yield
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()


def _one_by_one(one: Predict) -> Predict:
    """A method on episodes from one on an episode."""
    return lambda support, queries: torch.stack([one(*pair) for pair in zip(support, queries, strict=True)])


def _ways(shape: Sequence[int], device: torch.device) -> Tensor:
    """The class of each item of an episode, which is its place: int64, of the shape `w x items`."""
    return torch.arange(shape[0], device=device)[:, None].expand(*shape)
