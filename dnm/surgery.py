"""One edit, taken whole or not at all, and checked on the example inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from dnm import journal
from dnm.calling import call
from dnm.edits import AddAttention, AddResidual, Connect, Divide, Edit, Prune
from dnm.errors import DnmError, EditError
from dnm.graph import Graph, tensors_in, traced
from dnm.operators import prune
from dnm.operators.connect import common
from dnm.recording import untouched

# Largest relative change of the output (norm of the difference over norm) that rounding explains.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Applied:
    """An edit that was taken.

    Attributes:
        edit: the edit.
        entry: what the journal keeps of it: the edit and where it acted.
        eval_difference: relative change of the output in eval mode, on the example inputs.
        train_difference: the same in train mode (on two samples); 0 where it is not promised and so not looked at.
    """

    edit: Edit
    entry: dict[str, Any]
    eval_difference: float
    train_difference: float
    _restore: Callable[[], None] = field(repr=False, compare=False)
    _marks: list[tuple[Tensor, int]] = field(repr=False, compare=False)

    def undo(self) -> None:
        """Takes the edit back: model and optimizers are, bit for bit, what they were before it.

        Raises:
            EditError: the model was trained, edited or loaded since, so that what was before no longer fits.
        """
        if not self._marks:
            raise EditError(f"{self.edit!r} was taken back already")
        if any(tensor._version != version for tensor, version in self._marks):
            raise EditError(
                f"{self.edit!r} cannot be taken back: parameters have changed since; keep a copy (dnm.save) to go back "
                "over training, and undo later edits first"
            )
        self._restore()
        self._marks.clear()


def apply(
    model: nn.Module,
    edit: Edit,
    example_inputs: Tensor | tuple | dict,
    optimizers: Optimizer | Iterable[Optimizer] = (),
    *,
    averaged: AveragedModel | Iterable[AveragedModel] = (),
) -> Applied:
    """Takes `edit` on `model`, in place, whole or not at all.

    The model's outputs on `example_inputs` are compared before and after, in eval and in train mode, for edits that
    promise to change nothing; batch-norm buffers, mode and random state are left as found. Parameters stay the same
    objects, and so do the optimizers.

    Args:
        model: the model.
        edit: what to do.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments; a batch of at least two samples.
        optimizers: the optimizers whose state must follow; new parameters join the group that trains their neighbours.
        averaged: averages of the model's weights (`torch.optim.swa_utils.AveragedModel`), which take the same edit.

    Returns:
        What was done; `.undo()` takes it back.

    Raises:
        GraphError: the model cannot be read. EditError: the edit does not fit, or changed the outputs. StateError: an
            optimizer's state cannot follow. In each case the model is as it was.
    """
    if type(edit).__name__ not in journal.OPERATORS:
        raise EditError(f"{edit!r} is not an edit; expected one of {sorted(journal.OPERATORS)}")
    held = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    shadows = [averaged] if isinstance(averaged, nn.Module) else list(averaged)
    operator = journal.OPERATORS[type(edit).__name__][1]
    graph, before = traced(model, example_inputs)
    plan = operator.plan(model, graph, edit, example_inputs)
    exact_in_train = _exact_in_train(graph, edit)
    few = _few(example_inputs)
    before_in_train = _outputs(model, few, training=True) if exact_in_train else None
    restores: list[Callable[[], None]] = []

    def restore() -> None:
        for function in reversed(restores):
            function()

    num_before = {id(parameter) for parameter in model.parameters()}
    try:
        options = {"example_inputs": example_inputs} if operator is prune else {}
        restores.append(operator.carry_out(model, edit, plan, held, **options))
        for shadow in shadows:
            restores.append(operator.carry_out(shadow.module, edit, plan))
        differences = _differences(model, edit, before, before_in_train, example_inputs, few)
        _check_enrolled(model, held, num_before, edit)
    except BaseException:
        restore()
        raise
    marks = [(parameter, parameter._version) for parameter in model.parameters()]
    return Applied(edit, journal.entry(edit, plan), *differences, restore, marks)


def candidates(model: nn.Module, example_inputs: Tensor | tuple | dict) -> list[Edit]:
    """One edit of minimal width per operator and place.

    Args:
        model: any module.
        example_inputs: see `trace`.

    Returns:
        A division and (where a unit can go) a pruning per divisible group, a residual branch and (on maps) a gate per
        layer that returns known channels, and a connection per inner module that can be rewritten. Each fits the model
        as it is; after one is taken the others may not.
    """
    graph, _ = traced(model, example_inputs)
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


def _few(example_inputs):
    """The first two samples: enough to look at train mode."""
    if isinstance(example_inputs, dict):
        return {key: _few(value) for key, value in example_inputs.items()}
    if isinstance(example_inputs, (tuple, list)):
        return type(example_inputs)(_few(value) for value in example_inputs)
    return example_inputs[:2] if isinstance(example_inputs, Tensor) and example_inputs.dim() else example_inputs


def _outputs(model: nn.Module, example_inputs, training: bool) -> list[Tensor]:
    # The forked generators give a dropout before and after the edit the same mask.
    with torch.no_grad(), untouched(model, training):
        return [t for t in tensors_in(call(model, example_inputs)) if t.is_floating_point()]


def _differences(model, edit, before, before_in_train, example_inputs, few) -> tuple[float, float]:
    after = _outputs(model, example_inputs, training=False)
    if isinstance(edit, Prune):
        return _change(before, after), 0.0
    found = [_change(before, after)]
    if before_in_train is not None:
        found.append(_change(before_in_train, _outputs(model, few, training=True)))
    tolerance = max(TOLERANCES.get(tensor.dtype, 1e-4) for tensor in before) if before else 0.0
    # "not <=" so that NaN counts as a change.
    for mode, difference in zip(("eval", "train"), found, strict=False):
        if not difference <= tolerance:
            raise EditError(
                f"{edit!r} changed the model's output by {difference:.1e} (relative, in {mode} mode), expected at most "
                f"{tolerance:.0e}; it was taken back. Example inputs with NaN or infinite outputs have the same effect"
            )
    return found[0], found[1] if len(found) > 1 else 0.0


def _change(before: list[Tensor], after: list[Tensor]) -> float:
    """Norm of the difference over norm, over all outputs together."""
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        raise EditError("the edit changed the shape of the model's output; it was taken back")
    difference = sum((new.double() - old.double()).square().sum().item() for old, new in zip(before, after, strict=True))
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
