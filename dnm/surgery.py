"""One edit, taken whole or not at all, and checked on the example inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dnm import journal
from dnm.edits import Divide
from dnm.errors import EditError
from dnm.graph import call, trace

# Largest relative change of the output (norm of the difference over norm) that rounding explains.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Applied:
    """An edit that was taken.

    Attributes:
        edit: the edit.
        entry: what the journal keeps of it.
        eval_difference: relative change of the output in eval mode, on the example inputs.
        train_difference: the same in train mode.
    """

    edit: Divide
    entry: dict
    eval_difference: float
    train_difference: float


def apply(
    model: nn.Module,
    edit: Divide,
    example_inputs: Tensor | tuple | dict,
    optimizers: Optimizer | Iterable[Optimizer] = (),
) -> Applied:
    """Takes `edit` on `model`, in place, whole or not at all.

    The model's outputs on `example_inputs` are compared before and after, in eval and in train mode; batch-norm
    buffers, mode and random state are left as found. Parameters stay the same objects, and so do the optimizers.

    Args:
        model: the model.
        edit: what to do.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments; a batch of at least two samples.
        optimizers: the optimizers whose state must follow.

    Returns:
        What was done.

    Raises:
        GraphError: the model cannot be read. EditError: the edit does not fit, or changed the outputs. StateError: an
            optimizer's state cannot follow. In each case the model is as it was.
    """
    if type(edit).__name__ not in journal.OPERATORS:
        raise EditError(f"{edit!r} is not an edit; expected one of {sorted(journal.OPERATORS)}")
    held = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    graph = trace(model, example_inputs)
    operator = journal.OPERATORS[type(edit).__name__][1]
    before = _outputs(model, example_inputs)
    restore = operator.apply(model, graph, edit, held)
    try:
        differences = [
            ((after - old).norm() / old.norm().clamp_min(torch.finfo(old.dtype).tiny)).item()
            for old, after in zip(before, _outputs(model, example_inputs), strict=True)
        ]
    except BaseException:
        restore()
        raise
    tolerance = TOLERANCES.get(before[0].dtype, 1e-4)
    # "not <=" so that NaN counts as a change.
    for mode, difference in zip(("eval", "train"), differences, strict=True):
        if not difference <= tolerance:
            restore()
            raise EditError(
                f"{edit!r} changed the model's output by {difference:.1e} (relative, in {mode} mode), expected at most "
                f"{tolerance:.0e}; it was taken back. Example inputs with NaN or infinite outputs have the same effect"
            )
    return Applied(edit, journal.entry(edit), *differences)


def _outputs(model: nn.Module, example_inputs: Tensor | tuple | dict) -> tuple[Tensor, Tensor]:
    modes = [(module, module.training) for module in model.modules()]
    # A loss that is not yet differentiated may hold the buffers: they are exchanged, not written to.
    buffers = [
        (module, name, buffer) for module in model.modules() for name, buffer in module.named_buffers(recurse=False)
    ]
    outputs = []
    try:
        for module, name, buffer in buffers:
            module._buffers[name] = buffer.clone()
        for training in (False, True):
            # The forked generators give a dropout before and after the edit the same mask.
            with torch.no_grad(), torch.random.fork_rng():
                model.train(training)
                outputs.append(call(model, example_inputs))
    finally:
        for module, name, buffer in buffers:
            module._buffers[name] = buffer
        for module, training in modes:
            module.training = training
    return outputs[0], outputs[1]
