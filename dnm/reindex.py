"""The re-indexing primitive: dimensions of a tensor follow index maps, and with them gradients and optimizer state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dnm.errors import StateError


@dataclass(frozen=True)
class Kind:
    """How a tensor in an optimizer's state relates to the gradient.

    Attributes:
        degree: its degree in the gradient: 1 for a mean of gradients, 2 for one of their squares, 0 for what does not
            depend on their size.
        divides: whether steps are divided by it, or multiplied with it, so that it must not be 0 where it has seen no
            gradient yet.
    """

    degree: int
    divides: bool = False


MEAN, SQUARE = Kind(1), Kind(2, divides=True)
# torch.optim, 2.11 to 2.15.
STATE_KINDS = {
    "exp_avg": MEAN,  # Adam, AdamW, Adamax, NAdam, RAdam
    "momentum_buffer": MEAN,  # SGD, RMSprop, Muon
    "grad_avg": MEAN,  # RMSprop, centered
    "prev": MEAN,  # Rprop
    "exp_avg_sq": SQUARE,  # Adam, AdamW, NAdam, RAdam
    "max_exp_avg_sq": SQUARE,  # the AMSGrad variants
    "square_avg": SQUARE,  # RMSprop, Adadelta
    "sum": SQUARE,  # Adagrad
    "exp_inf": Kind(1, divides=True),  # Adamax
    "acc_delta": Kind(0, divides=True),  # Adadelta
    "step_size": Kind(0, divides=True),  # Rprop
    "ax": Kind(0, divides=True),  # ASGD: a mean of the weights themselves
}


def select(tensor: Tensor, dimension: int, index: Tensor) -> Tensor:
    """`tensor.index_select(dimension, index)`; runs of neighbours are copied at once, which is ten times as fast."""
    breaks = (torch.nonzero(torch.diff(index) != 1).flatten() + 1).tolist()
    if len(breaks) > 64 or not len(index):
        return tensor.index_select(dimension, index.to(tensor.device))
    bounds = [0, *breaks, len(index)]
    runs = zip(index[bounds[:-1]].tolist(), bounds[:-1], bounds[1:], strict=True)
    return torch.cat([tensor.narrow(dimension, first, end - start) for first, start, end in runs], dimension)


@dataclass(frozen=True)
class Line:
    """What happens along one dimension.

    Attributes:
        dimension: which one.
        index: source position of each new position, int64, shape `(new size,)`.
        gradient_scale: factor on the gradient of each new position, shape `(new size,)`, or None for 1: first moments
            follow it, second moments its square.
        fresh: new positions that have no history, bool, shape `(new size,)`, or None for none: their gradients and
            first moments are 0; what divides a step is the mean over the old positions.
        joins: old positions that are left out, and those that take over from each, int64, or None: their gradients add
            up.
    """

    dimension: int
    index: Tensor
    gradient_scale: Tensor | None = None
    fresh: Tensor | None = None
    joins: tuple[Tensor, Tensor] | None = None


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

    def of(self, tensor: Tensor, kind: Kind | None = None) -> Tensor:
        """`tensor` (of the parameter's shape) along the maps.

        Args:
            tensor: what is to follow.
            kind: None for values; for gradients and moments how they relate to the gradient.
        """
        for line in self.lines:
            old = tensor if kind is None else _joined(tensor, line, kind.degree)
            tensor = select(old, line.dimension, line.index)
            # Codes and masks have no size.
            if kind is None or not tensor.is_floating_point():
                continue
            shape = [1] * tensor.dim()
            shape[line.dimension] = -1
            if kind.degree and line.gradient_scale is not None:
                tensor = tensor * line.gradient_scale.to(tensor).pow(kind.degree).view(shape)
            if line.fresh is not None:
                new = old.mean(line.dimension, keepdim=True) if kind.divides else torch.zeros_like(tensor)
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


def _joined(tensor: Tensor, line: Line, degree: int) -> Tensor:
    """Adds what is left out to what takes over from it; squares as if the gradients had always been equal in sign."""
    if line.joins is None or not degree or not tensor.is_floating_point():
        return tensor
    gone, heirs = (positions.to(tensor.device) for positions in line.joins)
    root = tensor.clamp_min(0).sqrt() if degree == 2 else tensor
    total = root.index_add(line.dimension, heirs, root.index_select(line.dimension, gone))
    return total.square() if degree == 2 else total


def state_kind(optimizer: Optimizer, key: str, value: Tensor) -> Kind:
    """How a state entry of its parameter's shape relates to the gradient.

    One of an unknown name is taken to be of degree 1: exact for means of gradients, and for second moments it makes the
    steps after an edit smaller, never larger. Where it is nowhere negative it may divide a step, so it is not 0 for new
    units.
    """
    # RMSprop's momentum is over steps that are already divided by the gradient's size.
    if key == "momentum_buffer" and isinstance(optimizer, torch.optim.RMSprop):
        return Kind(0)
    if key in STATE_KINDS:
        return STATE_KINDS[key]
    return Kind(1, divides=value.is_floating_point() and bool((value >= 0).all()))


def check_state(optimizers: Iterable[Optimizer], reindexes: Iterable[Reindex]) -> None:
    """Checks that the state of every optimizer can follow.

    Raises:
        StateError: an entry is neither a scalar nor a tensor of its parameter's shape.
    """
    optimizers = list(optimizers)
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.LBFGS) and optimizer.state:
            raise StateError(
                "LBFGS: its state lies over all parameters at once and cannot follow an edit; make a new optimizer "
                "after the edit, and do not pass this one"
            )
    for optimizer, reindex in _held(optimizers, reindexes):
        for key, value in optimizer.state[reindex.tensor].items():
            if _follows(value, reindex.tensor):
                continue
            found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise StateError(
                f"{type(optimizer).__name__}: state {key!r} {found} cannot follow an edit of a parameter of "
                f"shape {tuple(reindex.tensor.shape)}; expected scalars and tensors of that shape"
            )


def _follows(value: object, parameter: Tensor) -> bool:
    if not isinstance(value, Tensor):
        return value is None or isinstance(value, bool | int | float | str)
    return value.shape == parameter.shape or value.numel() == 1


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
        gradient = None if tensor.grad is None else reindex.of(tensor.grad, MEAN)
        steps.append(
            (_bind(_set, tensor, new, gradient), _bind(_set, tensor, tensor.data, tensor.grad, tensor._version))
        )
    for optimizer, reindex in _held(optimizers, reindexes):
        state = optimizer.state[reindex.tensor]
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == reindex.tensor.shape:
                followed = reindex.of(value, state_kind(optimizer, key, value))
                steps.append((_bind(state.__setitem__, key, followed), _bind(state.__setitem__, key, value)))

    done: list[Callable[[], None]] = []

    def restore() -> None:
        for backward in done:
            backward()

    try:
        for forward, backward in steps:
            # Before the step itself, which may be interrupted half way.
            done.append(backward)
            forward()
    except BaseException:
        restore()
        raise
    return restore


def _held(optimizers: Iterable[Optimizer], reindexes: Iterable[Reindex]) -> list[tuple[Optimizer, Reindex]]:
    reindexes = list(reindexes)
    return [(o, r) for o in optimizers for r in reindexes if r.tensor in o.state]


def _bind(function: Callable, *arguments) -> Callable[[], None]:
    return lambda: function(*arguments)


def _set(parameter: nn.Parameter, value: Tensor, gradient: Tensor | None, version: int | None = None) -> None:
    """Puts values and gradient in place; `version` says that they are those of back then."""
    parameter.grad = None
    # While an old loss keeps its graph alive, autograd reuses the parameter's gradient accumulator with the old
    # shape; a change of dtype makes it drop that accumulator.
    parameter.data = torch.empty(0, dtype=torch.complex64, device=value.device)
    parameter.data = value
    parameter.grad = gradient
    # Autograd refuses to differentiate a loss from before the edit, which would read the new values, by the version.
    if version is None:
        torch.autograd.graph.increment_version(parameter)
    else:
        torch._C._autograd._unsafe_set_version_counter((parameter,), (version,))  # pyright: ignore
    # Inside autocast its copies of the old values would be read on.
    torch.clear_autocast_cache()
