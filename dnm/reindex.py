"""The re-indexing primitive: one tensor dimension follows an index map, and with it gradients and optimizer state."""

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
class Reindex:
    """One parameter's part in an edit.

    Attributes:
        parameter: the parameter, which stays the same object.
        dimension: the dimension that changes size.
        index: source position of each new position, int64, shape `(new size,)`.
        gradient_scale: factor on the gradient of each new position, shape `(new size,)`: the first moments follow it,
            the second moments its square.
        values: the parameter's new values, or None where they are those at `index`.
    """

    parameter: nn.Parameter
    dimension: int
    index: Tensor
    gradient_scale: Tensor
    values: Tensor | None = None

    def of(self, tensor: Tensor, degree: int = 0) -> Tensor:
        """`tensor` (of the parameter's shape) along the map, scaled by the gradient scale to the power of `degree`."""
        taken = tensor.index_select(self.dimension, self.index.to(tensor.device))
        if degree:
            shape = [1] * tensor.dim()
            shape[self.dimension] = -1
            taken = taken * self.gradient_scale.to(taken).pow(degree).view(shape)
        return self.laid_out(taken)

    def laid_out(self, tensor: Tensor) -> Tensor:
        """`tensor` in the parameter's memory format.

        Fused optimizers walk parameter, gradient and moments in storage order: with different formats they would pair
        elements that do not belong together.
        """
        parameter = self.parameter
        if parameter.is_contiguous() or parameter.dim() != 4:
            return tensor.contiguous()
        return tensor.contiguous(memory_format=torch.channels_last)


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
        for key, value in optimizer.state[reindex.parameter].items():
            if _follows(optimizer, key, value, reindex.parameter):
                continue
            found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise StateError(
                f"{type(optimizer).__name__}: state {key!r} {found} cannot follow an edit of a parameter of "
                f"shape {tuple(reindex.parameter.shape)}; expected scalars, and of {sorted(STATE_DEGREES)} tensors of "
                "that shape"
            )


def _follows(optimizer: Optimizer, key: str, value: object, parameter: nn.Parameter) -> bool:
    if not isinstance(value, Tensor):
        return value is None or isinstance(value, bool | int | float | str)
    if value.shape != parameter.shape:
        return value.numel() == 1
    return state_degree(optimizer, key) is not None


def carry_out(reindexes: list[Reindex], optimizers: Iterable[Optimizer]) -> Callable[[], None]:
    """Replaces parameters, gradients and optimizer state; everything new is computed before anything is replaced.

    Returns:
        A function that puts every replaced tensor back; it is good until the model is trained on.
    """
    optimizers = list(optimizers)
    check_state(optimizers, reindexes)
    steps: list[tuple[Callable[[Tensor | None], None], Tensor | None, Tensor | None]] = []
    for reindex in reindexes:
        parameter = reindex.parameter
        new = reindex.of(parameter.data) if reindex.values is None else reindex.laid_out(reindex.values)
        gradient = parameter.grad
        steps.append((_set_data(parameter), parameter.data, new))
        if gradient is not None:
            steps.append((_set_gradient(parameter), gradient, reindex.of(gradient, 1)))
    for optimizer, reindex in _held(optimizers, reindexes):
        state = optimizer.state[reindex.parameter]
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == reindex.parameter.shape:
                degree = state_degree(optimizer, key)
                assert degree is not None
                steps.append((_set_item(state, key), value, reindex.of(value, degree)))
    for setter, _, new in steps:
        setter(new)

    def restore() -> None:
        for setter, old, _ in steps:
            setter(old)

    return restore


def _held(optimizers: Iterable[Optimizer], reindexes: Iterable[Reindex]) -> list[tuple[Optimizer, Reindex]]:
    reindexes = list(reindexes)
    return [(o, r) for o in optimizers for r in reindexes if r.parameter in o.state]


def _set_data(parameter: nn.Parameter) -> Callable[[Tensor | None], None]:
    def setter(value: Tensor | None) -> None:
        assert value is not None
        parameter.grad = None
        # While an old loss keeps its graph alive, autograd reuses the parameter's gradient accumulator with the old
        # shape; a change of dtype makes it drop that accumulator.
        parameter.data = torch.empty(0, dtype=torch.complex64, device=value.device)
        parameter.data = value

    return setter


def _set_gradient(parameter: nn.Parameter) -> Callable[[Tensor | None], None]:
    def setter(value: Tensor | None) -> None:
        parameter.grad = value

    return setter


def _set_item(state: dict, key: str) -> Callable[[Tensor | None], None]:
    def setter(value: Tensor | None) -> None:
        state[key] = value

    return setter
