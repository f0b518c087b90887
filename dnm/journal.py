"""Every edit taken, as data: enough to rebuild the architecture from the start network, and to save and load it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dnm import layers
from dnm.edits import AddAttention, AddResidual, Connect, Divide, Edit, Prune
from dnm.errors import DnmError, EditError
from dnm.operators import branch, connect, divide, prune

# Of the files that `save` writes.
VERSION = 1

OPERATORS: dict[str, tuple[type, Any]] = {
    "Divide": (Divide, divide),
    "Prune": (Prune, prune),
    "AddResidual": (AddResidual, branch),
    "AddAttention": (AddAttention, branch),
    "Connect": (Connect, connect),
}


def entry(edit: Edit, plan: dict[str, Any]) -> dict[str, Any]:
    """`edit` and where it acted, as plain values for JSON."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(edit).items()}
    return {"operator": type(edit).__name__, **values, "plan": plan}


def shapes(model: nn.Module, plan: dict[str, Any]) -> dict[str, list[int]]:
    """The shapes, before an edit, of the tensors that its plan names."""
    names = [member[0] for member in plan["members"]] if "members" in plan else [plan["near"]]
    return {name: list(layers.get(model, name).shape) for name in names}


def _check_shapes(model: nn.Module, plan: dict[str, Any]) -> None:
    for name, shape in plan["shapes"].items():
        own = list(layers.get(model, name).shape)
        if own != shape:
            raise EditError(f"{name} has shape {own}, when the edit was taken it had {shape}")


def edit(entry: dict[str, Any]) -> Edit:
    """The edit that a journal's entry describes.

    Raises:
        EditError: the entry is no mapping, or names an operator or a field that does not exist.
    """
    if not isinstance(entry, dict):
        raise EditError(f"journal entry is a {type(entry).__name__}, expected a mapping")
    values = {name: value for name, value in entry.items() if name not in ("operator", "plan")}
    operator = entry.get("operator")
    if operator not in OPERATORS:
        raise EditError(f"journal entry names operator {operator!r}, expected one of {sorted(OPERATORS)}")
    kind = OPERATORS[operator][0]
    known = {item.name for item in fields(kind)}
    if set(values) - known:
        raise EditError(f"journal entry of {operator} has unknown fields {sorted(set(values) - known)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise EditError(f"journal entry of {operator} does not fit: {error}") from error


def replay(
    start_model: nn.Module, journal: Iterable[dict[str, Any]], optimizers: Optimizer | Iterable[Optimizer] = ()
) -> nn.Module:
    """Takes the journal's edits on `start_model`, in place and without any input.

    The architecture is rebuilt exactly, weights as far as edits alone decide them: what training or measured means put
    into them comes from a checkpoint (`load`).

    Args:
        start_model: the network on which the first edit was taken.
        journal: entries (`Applied.entry`).
        optimizers: new ones for `start_model`. They get the parameters of later edits in the groups and in the order in
            which `apply` gave them out, so that the `state_dict()` of the optimizer of the first run fits.

    Returns:
        The same object.

    Raises:
        EditError: an entry does not fit; the model is as it was.
    """
    carry_out(start_model, journal, optimizers)
    return start_model


def carry_out(
    start_model: nn.Module, journal: Iterable[Any], optimizers: Optimizer | Iterable[Optimizer]
) -> Callable[[], None]:
    """`replay`, which returns what brings back the shapes from before it."""
    held = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    restores: list[Callable[[], None]] = []

    def restore() -> None:
        for function in reversed(restores):
            function()

    for number, item in enumerate(journal):
        try:
            change = edit(item)
            plan = item.get("plan")
            if not isinstance(plan, dict):
                raise EditError("the entry has no plan, which says where the edit acted")
            _check_shapes(start_model, plan)
            restores.append(OPERATORS[type(change).__name__][1].carry_out(start_model, change, plan, held))
        except Exception as error:
            restore()
            raise EditError(
                f"journal entry {number} does not fit this model ({error}); replay needs the network that the first "
                "edit was taken on"
            ) from error
        except BaseException:
            restore()
            raise
    return restore


def save(path: str | Path, model: nn.Module, journal: Iterable[dict[str, Any]]) -> None:
    """Writes the model's tensors and its journal to one safetensors file; the journal is JSON in the header.

    Raises:
        DnmError: the model's state holds something that is not a tensor.
    """
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    first: dict[tuple, str] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise DnmError(f"state {name!r} is a {type(tensor).__name__}, expected a tensor; it cannot be saved")
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            shared[name] = first[key]
        else:
            first[key] = name
            # A view into a larger storage would bring all of it.
            whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize
            tensors[name] = tensor.detach() if whole else tensor.detach().clone(memory_format=torch.contiguous_format)
    header = {"dnm": json.dumps({"version": VERSION, "journal": list(journal), "shared": shared}, allow_nan=False)}
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    try:
        safetensors.torch.save_file(tensors, partial, header)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def load(
    path: str | Path, start_model: nn.Module, optimizers: Optimizer | Iterable[Optimizer] = ()
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Rebuilds a saved model over the network that it grew from.

    Args:
        path: a file that `save` wrote.
        start_model: the network on which the first edit was taken, with any weights; changed in place.
        optimizers: new ones for `start_model`, which get the parameters of later edits; see `replay`. Their state comes
            from their own `load_state_dict`, after this.

    Returns:
        The same object, with the saved architecture and tensors, and its journal.

    Raises:
        DnmError: the file is not one of `save`'s, or does not fit the start network, which is as it was.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise DnmError(f"{path}: cannot be read as a file of dnm.save: {error}") from error
    if "dnm" not in header:
        raise DnmError(f"{path}: has no journal in its header; expected a file of dnm.save")
    try:
        kept = json.loads(header["dnm"])
        version, entries, shared = kept["version"], kept["journal"], kept["shared"]
        tensors |= {name: tensors[other] for name, other in shared.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DnmError(f"{path}: its journal is damaged ({error!r}); expected a file of dnm.save") from error
    if version != VERSION:
        raise DnmError(f"{path}: is of version {version!r}, expected {VERSION}; load it with the release that wrote it")
    restore = carry_out(start_model, entries, optimizers)
    own = start_model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is not in the model" for name in tensors if name not in own]
    for name, tensor in own.items():
        new = tensors.get(name, tensor)
        if new.shape != tensor.shape:
            problems.append(f"{name} has shape {tuple(new.shape)}, the model {tuple(tensor.shape)}")
        elif new.dtype != tensor.dtype:
            problems.append(f"{name} is of {new.dtype}, in the model of {tensor.dtype}")
    if problems:
        restore()
        raise DnmError(f"{path}: does not fit the start network after its journal: {'; '.join(problems[:5])}")
    with torch.no_grad():
        start_model.load_state_dict(tensors)
    return start_model, entries
