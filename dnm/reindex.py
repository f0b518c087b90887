"""The re-indexing primitive: dimensions of a tensor follow index maps, and with them gradients and optimizer state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dnm.errors import StateError

# How an optimizer's per-parameter tensors relate to the gradient: by degree (torch.optim, 2.11 to 2.15).
STATE_DEGREES = {
    "exp_avg": 1,  # Adam, AdamW, NAdam, RAdam
    "momentum_buffer": 1,  # SGD, RMSprop
    "grad_avg": 1,  # RMSprop, centered
    "exp_avg_sq": 2,  # Adam, AdamW, NAdam, RAdam
    "max_exp_avg_sq": 2,  # the AMSGrad variants
    "square_avg": 2,  # RMSprop
    "sum": 2,  # Adagrad
}


@dataclass(frozen=True)
class Line:
    """What happens along one dimension.

    Attributes:
        dimension: which one.
        index: source position of each new position, int64, shape `(new size,)`.
        gradient_scale: factor on the gradient of each new position, shape `(new size,)`, or None for 1: first moments
            follow it, second moments its square.
        fresh: new positions that have no history, bool, shape `(new size,)`, or None for none: their gradients and
            first moments are 0, their second moments the mean over the old positions.
    """

    dimension: int
    index: Tensor
    gradient_scale: Tensor | None = None
    fresh: Tensor | None = None


@dataclass(frozen=True)
class Reindex:
    """One parameter's or buffer's part in an edit.

    Attributes:
        tensor: a parameter stays the same object.
        lines: its dimensions that change size.
        values: the new values, or None where they are those at the indices.
    """

    tensor: Tensor
    lines: tuple[Line, ...]
    values: Tensor | None = None

    def of(self, tensor: Tensor, degree: int | None = None) -> Tensor:
        """`tensor` (of the parameter's shape) along the maps.

        Args:
            tensor: what is to follow.
            degree: None for values; for gradients and moments their degree in the gradient.
        """
        for line in self.lines:
            old, tensor = tensor, tensor.index_select(line.dimension, line.index.to(tensor.device))
            if degree is None:
                continue
            shape = [1] * tensor.dim()
            shape[line.dimension] = -1
            if degree and line.gradient_scale is not None:
                tensor = tensor * line.gradient_scale.to(tensor).pow(degree).view(shape)
            if line.fresh is not None:
                new = old.mean(line.dimension, keepdim=True) if degree == 2 else torch.zeros_like(tensor[:1, ...].sum())
                tensor = torch.where(line.fresh.to(tensor.device).view(shape), new, tensor)
        return self.laid_out(tensor)

    def laid_out(self, tensor: Tensor) -> Tensor:
        """`tensor` in the parameter's memory format.

        Fused optimizers walk parameter, gradient and moments in storage order: with different formats they would pair
        elements that do not belong together.
        """
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        if self.tensor.is_contiguous() or self.tensor.dim() not in formats:
            return tensor.contiguous()
        return tensor.contiguous(memory_format=formats[self.tensor.dim()])


def state_degree(optimizer: Optimizer, key: str) -> int | None:
    """Degree of a state entry in the gradient; None where it is not known."""
    # RMSprop's momentum is over steps that are already divided by the gradient's size.
    if key == "momentum_buffer" and isinstance(optimizer, torch.optim.RMSprop):
        return 0
    return STATE_DEGREES.get(key)


def check_state(optimizers: Iterable[Optimizer], reindexes: Iterable[Reindex]) -> None:
    """Checks that the state of every optimizer can follow.

    Raises:
        StateError: an entry is neither a scalar nor a known tensor of its parameter's shape.
    """
    for optimizer, reindex in _held(optimizers, reindexes):
        for key, value in optimizer.state[reindex.tensor].items():
            if _follows(optimizer, key, value, reindex.tensor):
                continue
            found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise StateError(
                f"{type(optimizer).__name__}: state {key!r} {found} cannot follow an edit of a parameter of "
                f"shape {tuple(reindex.tensor.shape)}; expected scalars, and of {sorted(STATE_DEGREES)} tensors of "
                "that shape"
            )


def _follows(optimizer: Optimizer, key: str, value: object, parameter: Tensor) -> bool:
    if not isinstance(value, Tensor):
        return value is None or isinstance(value, bool | int | float | str)
    if value.shape != parameter.shape:
        return value.numel() == 1
    return state_degree(optimizer, key) is not None


def carry_out(
    reindexes: list[Reindex], optimizers: Iterable[Optimizer], set_buffer: Callable[[Tensor, Tensor], None]
) -> Callable[[], None]:
    """Replaces parameters, buffers, gradients and optimizer state; all that is new is computed before any is replaced.

    Args:
        reindexes: what to do.
        optimizers: whose state follows.
        set_buffer: puts a new buffer where an old one is.

    Returns:
        A function that puts every replaced tensor back; it is good until the model is trained on.
    """
    optimizers = list(optimizers)
    check_state(optimizers, reindexes)
    steps: list[tuple[Callable[[], None], Callable[[], None]]] = []
    for reindex in reindexes:
        tensor = reindex.tensor
        new = reindex.of(tensor.data) if reindex.values is None else reindex.laid_out(reindex.values)
        if not isinstance(tensor, nn.Parameter):
            steps.append((_bind(set_buffer, tensor, new), _bind(set_buffer, new, tensor)))
            continue
        gradient = tensor.grad
        steps.append((_bind(_set_data, tensor, new), _bind(_set_data, tensor, tensor.data)))
        if gradient is not None:
            steps.append((_bind(_set_gradient, tensor, reindex.of(gradient, 1)), _bind(_set_gradient, tensor, gradient)))
    for optimizer, reindex in _held(optimizers, reindexes):
        state = optimizer.state[reindex.tensor]
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == reindex.tensor.shape:
                degree = state_degree(optimizer, key)
                assert degree is not None
                steps.append(
                    (_bind(state.__setitem__, key, reindex.of(value, degree)), _bind(state.__setitem__, key, value))
                )
    for forward, _ in steps:
        forward()

    def restore() -> None:
        for _, backward in steps:
            backward()

    return restore


def _held(optimizers: Iterable[Optimizer], reindexes: Iterable[Reindex]) -> list[tuple[Optimizer, Reindex]]:
    reindexes = list(reindexes)
    return [(o, r) for o in optimizers for r in reindexes if r.tensor in o.state]


def _bind(function: Callable, *arguments) -> Callable[[], None]:
    return lambda: function(*arguments)


def _set_data(parameter: nn.Parameter, value: Tensor) -> None:
    parameter.grad = None
    # While an old loss keeps its graph alive, autograd reuses the parameter's gradient accumulator with the old
    # shape; a change of dtype makes it drop that accumulator.
    parameter.data = torch.empty(0, dtype=torch.complex64, device=value.device)
    parameter.data = value


def _set_gradient(parameter: nn.Parameter, value: Tensor) -> None:
    parameter.grad = value
