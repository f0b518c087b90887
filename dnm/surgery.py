"""One edit, taken whole or not at all, and checked on the example inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from dnm import journal
from dnm.calling import call, few
from dnm.edits import AddAttention, AddResidual, Connect, Divide, Edit, Prune
from dnm.errors import DnmError, EditError, GraphError
from dnm.graph import Graph, tensors_in, trace
from dnm.operators import divide, prune
from dnm.operators.connect import common
from dnm.recording import unseen, untouched

# Largest relative change of the output (norm of the difference over norm) that rounding explains.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class _Outputs:
    """What a model makes of the inputs on which edits are judged, by mode: whether it is in train mode."""

    inputs: Any
    by_mode: dict[bool, list[Tensor]]


@dataclass(frozen=True)
class Applied:
    """An edit that was taken.

    Attributes:
        edit: the edit.
        entry: what the journal keeps of it: the edit and where it acted.
        eval_difference: relative change of the output in eval mode, on the first four samples.
        train_difference: the same in train mode; 0 where it is not promised and so not looked at.
        restore_shapes: brings back the shapes from before the edit after training too, for weights and optimizer state
            that are put back from a copy then; `undo` is the way back where nothing was trained.
    """

    edit: Edit
    entry: dict[str, Any]
    eval_difference: float
    train_difference: float
    restore_shapes: Callable[[], None] = field(repr=False, compare=False)
    _outputs: _Outputs = field(repr=False, compare=False)
    _look: Callable[[], dict[str, Any]] = field(repr=False, compare=False)
    _found: dict[str, Any] = field(repr=False, compare=False)

    def undo(self) -> None:
        """Takes the edit back: model, averages and optimizers are, bit for bit, what they were before it.

        Gradients that were cleared since stay cleared. What is needed for this is kept as long as this object is.

        Raises:
            EditError: something was trained, edited or loaded since, so that what was before no longer fits.
        """
        if not self._found:
            raise EditError(f"{self.edit!r} was taken back already")
        now = self._look()
        cleared = [name for name, value in now.items() if value is None and name in self._found]
        for name in [*now, *self._found]:
            if name not in cleared and now.get(name, "absent") != self._found.get(name, "absent"):
                raise EditError(
                    f"{self.edit!r} cannot be taken back: {name} has changed since; keep a copy (dnm.save) to go back "
                    "over training, and undo later edits first"
                )
        self.restore_shapes()
        self._found.clear()


def apply(
    model: nn.Module,
    edit: Edit,
    example_inputs: Tensor | tuple | dict,
    optimizers: Optimizer | Iterable[Optimizer] = (),
    *,
    averaged: AveragedModel | Iterable[AveragedModel] = (),
    loss: Callable[[], Tensor] | None = None,
    graph: Graph | None = None,
    after: Applied | None = None,
) -> Applied:
    """Takes `edit` on `model`, in place, whole or not at all.

    The model's outputs on the first four samples are compared before and after, in eval and in train mode, for edits
    that promise to change nothing; batch-norm buffers, mode and random state are left as found. Parameters stay the
    same objects, and so do the optimizers.

    Args:
        model: the model.
        edit: what to do.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments; a batch of at least two samples.
        optimizers: the optimizers whose state must follow; new parameters join the group that trains their neighbours.
        averaged: averages of the model's weights (`torch.optim.swa_utils.AveragedModel`), which take the same edit.
        loss: computes the loss on a probe batch with `model`; only a division with fill "gradmax" needs it.
        graph: the model's channel groups, where they are known; None reads them.
        after: the edit before this one, where it was taken on the same example inputs and nothing has been changed
            since: the outputs that it left are those from before this one, and are not computed again.

    Returns:
        What was done; `.undo()` takes it back.

    Raises:
        GraphError: the model cannot be read. EditError: the edit does not fit, or changed the outputs. StateError: an
            optimizer's state cannot follow. In each case the model is as it was.
    """
    if type(edit).__name__ not in journal.OPERATORS:
        raise EditError(f"{edit!r} is not an edit; expected one of {sorted(journal.OPERATORS)}")
    if isinstance(edit, Divide) and edit.fill == "gradmax" and loss is None:
        raise EditError(f"{edit!r} needs the loss: pass dnm.apply(..., loss=what computes it on a probe batch)")
    held = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    shadows = [averaged] if isinstance(averaged, nn.Module) else list(averaged)
    _check_arguments(held, shadows)
    operator = journal.OPERATORS[type(edit).__name__][1]
    graph = graph or trace(model, example_inputs)
    plan = operator.plan(model, graph, edit, example_inputs)
    plan["shapes"] = journal.shapes(model, plan)
    modes = (False, True) if _exact_in_train(graph, edit) else (False,)
    before = _before(model, example_inputs, modes, after)
    restores: list[Callable[[], None]] = []

    def restore() -> None:
        # Those of a caller who has cleared them since are not to come back.
        cleared = [p for owner in (model, *shadows) for p in owner.parameters() if p.grad is None]
        for function in reversed(restores):
            function()
        for parameter in cleared:
            parameter.grad = None

    known = {id(parameter) for parameter in model.parameters()}
    try:
        options: dict[str, Any] = {"example_inputs": example_inputs} if operator in (prune, divide) else {}
        own = {"loss": loss} if operator is divide else {}
        restores.append(operator.carry_out(model, edit, plan, held, **options, **own))
        for shadow in shadows:
            restores.append(operator.carry_out(shadow.module, edit, plan, **options))
        left = _left(model, edit, plan, before, modes)
        differences = _differences(edit, before, left)
        _check_enrolled(model, held, known, edit)
        found = _look(model, shadows, held)
    except DnmError:
        restore()
        raise
    except Exception as error:
        restore()
        raise EditError(f"{edit!r} failed and was taken back: {error}") from error
    except BaseException:
        restore()
        raise
    return Applied(
        edit, journal.entry(edit, plan), *differences, restore, left, lambda: _look(model, shadows, held), found
    )  # fmt: skip


def _check_arguments(optimizers: list[Optimizer], averaged: list[AveragedModel]) -> None:
    for found, kind in [(item, Optimizer) for item in optimizers] + [(item, AveragedModel) for item in averaged]:
        if not isinstance(found, kind):
            what = "optimizers" if kind is Optimizer else "averaged"
            raise EditError(f"{what} holds a {type(found).__name__}, expected a torch {kind.__name__}")


def _look(model: nn.Module, averaged: list[AveragedModel], optimizers: list[Optimizer]) -> dict[str, Any]:
    """A mark of every tensor that an edit may have to put back, by its name in messages."""
    with unseen():
        return _marks(model, averaged, optimizers)


def _marks(model: nn.Module, averaged: list[AveragedModel], optimizers: list[Optimizer]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for owner, prefix in [(model, ""), *((shadow.module, "the average's ") for shadow in averaged)]:
        for name, parameter in owner.named_parameters():
            found[f"{prefix}{name}"] = (id(parameter), _mark(parameter))
            found[f"the gradient of {prefix}{name}"] = None if parameter.grad is None else _mark(parameter.grad)
        for name, buffer in owner.named_buffers():
            found[f"{prefix}{name}"] = (id(buffer), _mark(buffer))
    for number, optimizer in enumerate(optimizers):
        for place, state in enumerate(optimizer.state.values()):
            for key, value in state.items():
                if isinstance(value, Tensor):
                    name = f"{type(optimizer).__name__}'s state {key!r}"
                    found[f"{name} of optimizer {number}, parameter {place}"] = _mark(value)
    return found


def _mark(tensor: Tensor) -> tuple:
    """Changes with a tensor's values. Version counters do not: fused optimizers and batch norms leave them alone."""
    tensor = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    if not tensor.numel() or tensor.layout is not torch.strided:
        return (tuple(tensor.shape), tensor._version)
    return (tuple(tensor.shape), tensor._version, torch.hash_tensor(tensor).item())


def candidates(model: nn.Module, example_inputs: Tensor | tuple | dict) -> list[Edit]:
    """One edit of minimal width per operator and place.

    Args:
        model: any module.
        example_inputs: see `trace`.

    Returns:
        A division and (where a unit can go) a pruning per divisible group, a residual branch and (on maps) a gate per
        layer that returns known channels, and a connection per inner module that can be rewritten. Each fits the model
        as it is; after one is taken the others may not. A connection is still refused by `apply` where code outside of
        the rewritten module asks it for more than its output (its length, an item).
    """
    return possible(model, trace(model, example_inputs), example_inputs)


def possible(model: nn.Module, graph: Graph, example_inputs: Tensor | tuple | dict) -> list[Edit]:
    """`candidates` of a model whose graph is known."""
    found: list[Edit] = []
    for group in graph.groups:
        if group.divisible:
            found.append(Divide(group.name, tuple(range(group.width)) if group.uniform else (0,)))
            if group.width > 1 and not group.uniform:
                found.append(Prune(group.name, (group.width - 1,)))
    for place in graph.places:
        if not list(model.get_submodule(place.path).children()):
            found.append(AddResidual(place.path, width=1))
            if place.num_dimensions >= (3 if place.dimension == 1 else 4):
                found.append(AddAttention(place.path, reduction=place.channels))
    return found + _connections(model, graph, example_inputs)


def _connections(model: nn.Module, graph: Graph, example_inputs) -> list[Edit]:
    """For every inner module: from the first of the weighted layers that it calls to the last."""
    ends: dict[str, list[str]] = {}
    for place in graph.places:
        module = model.get_submodule(place.path)
        if list(module.children()) or not list(module.parameters(recurse=False)):
            continue
        parts = place.path.split(".")
        for depth in range(1, len(parts)):
            ends.setdefault(".".join(parts[:depth]), []).append(place.path)
    found: list[Edit] = []
    taken: set[tuple[str, str]] = set()
    for ancestor, paths in ends.items():
        if len(paths) < 2 or (paths[0], paths[-1]) in taken:
            continue
        edit = Connect(paths[0], paths[-1])
        if common(edit) != ancestor:
            continue
        taken.add((paths[0], paths[-1]))
        try:
            journal.OPERATORS["Connect"][1].plan(model, graph, edit, example_inputs)
        except DnmError:
            continue
        found.append(edit)
    return found


def _exact_in_train(graph: Graph, edit: Edit) -> bool:
    """Whether the edit promises to change no output in train mode."""
    if isinstance(edit, Prune):
        return False
    return not isinstance(edit, Divide) or graph.group(edit.group).exact_in_train


def _before(model: nn.Module, example_inputs, modes: tuple[bool, ...], after: Applied | None) -> _Outputs:
    """The outputs before an edit, in the modes in which they are compared.

    Raises:
        GraphError: the model does not run in train mode.
    """
    known = {} if after is None else after._outputs.by_mode
    if after is not None and all(training in known for training in modes):
        return after._outputs
    some = few(example_inputs)
    # Not every input has samples in its first dimension: a mask over positions has none.
    with contextlib.suppress(Exception):
        return _Outputs(some, {training: _outputs(model, some, training) for training in modes})
    try:
        return _Outputs(example_inputs, {training: _outputs(model, example_inputs, training) for training in modes})
    except DnmError:
        raise
    except Exception as error:
        raise GraphError(
            f"{type(model).__name__} does not run on the example inputs in train mode: {error}; expected a batch of at "
            "least two samples"
        ) from error


def _outputs(model: nn.Module, example_inputs, training: bool) -> list[Tensor]:
    # The forked generators give a dropout before and after the edit the same mask.
    with torch.no_grad(), untouched(model, training):
        return [t for t in tensors_in(call(model, example_inputs)) if t.is_floating_point()]


def _left(model: nn.Module, edit: Edit, plan: dict[str, Any], before: _Outputs, modes: tuple[bool, ...]) -> _Outputs:
    """The outputs after an edit."""
    with _called(model, edit, plan):
        return _Outputs(before.inputs, {training: _outputs(model, before.inputs, training) for training in modes})


def _differences(edit: Edit, before: _Outputs, after: _Outputs) -> tuple[float, float]:
    found = {training: _change(before.by_mode[training], new) for training, new in after.by_mode.items()}
    old = before.by_mode[False]
    tolerance = max(TOLERANCES.get(tensor.dtype, 1e-4) for tensor in old) if old else 0.0
    for training, difference in found.items():
        # "not <=" so that NaN counts as a change.
        if not isinstance(edit, Prune) and not difference <= tolerance:
            mode = "train" if training else "eval"
            raise EditError(
                f"{edit!r} changed the model's output by {difference:.1e} (relative, in {mode} mode), expected at most "
                f"{tolerance:.0e}; it was taken back. Example inputs with NaN or infinite outputs have the same effect"
            )
    return found[False], found.get(True, 0.0)


@contextlib.contextmanager
def _called(model: nn.Module, edit: Edit, plan: dict[str, Any]) -> Iterator[None]:
    """Checks that what an edit has put into the model runs with it: a branch that does not changes nothing, ever."""
    if isinstance(edit, (Divide, Prune)):
        yield
        return
    path = plan["ancestor"] if isinstance(edit, Connect) else edit.at
    calls: list[None] = []
    hook = model.get_submodule(path).register_forward_pre_hook(lambda module, inputs: calls.append(None))
    try:
        yield
    finally:
        hook.remove()
    if not calls:
        raise EditError(
            f"{edit!r} was taken back: the new module at {path} is never called, as the model's code calls the old one "
            "by another reference"
        )


def _change(before: list[Tensor], after: list[Tensor]) -> float:
    """Norm of the difference over norm, over all outputs together."""
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        raise EditError("the edit changed the shape of the model's output; it was taken back")
    pairs = zip(before, after, strict=True)
    difference = sum((new.double() - old.double()).square().sum().item() for old, new in pairs)
    size = sum(old.double().square().sum().item() for old in before)
    return (difference / max(size, torch.finfo(torch.float64).tiny)) ** 0.5


def _check_enrolled(model: nn.Module, optimizers: list[Optimizer], known: set[int], edit: Edit) -> None:
    """Every parameter that the edit made is in an optimizer, where there is one."""
    if not optimizers:
        return
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if id(parameter) not in known and id(parameter) not in held:
            raise EditError(f"{edit!r}: the new parameter {name} is in no optimizer; the edit was taken back")
