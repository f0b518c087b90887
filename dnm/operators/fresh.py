"""New units that owe nothing to old ones: where their incoming weights point, and the statistics of their norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dnm import layers
from dnm.calling import call
from dnm.errors import EditError
from dnm.graph import Member
from dnm.operators import units as at
from dnm.recording import untouched


def gradmax(model: nn.Module, plan: dict[str, Any], num: int, loss: Callable[[], Tensor], name: str) -> Tensor:
    """Incoming weights with which new units whose outgoing weights are 0 get the largest gradients there.

    With outgoing weights U = 0 and linearised activations, the loss gradient with respect to U is M V^T, where
    M = E[g x^T], g is the loss gradient at the reading layer's output and x the making layer's input (patches, for
    convolutions). Its norm under |V| = 1 is largest for the first right singular vectors of M: GradMax (Evci et al.
    2022, arXiv:2201.05125, section 3.2) with the roles of incoming and outgoing weights exchanged.

    Args:
        model: looked at in eval mode, left as found.
        plan: of a group that one plain layer makes and one reads.
        num: number of new units.
        loss: computes the loss on a probe batch.
        name: of the group, for messages.

    Returns:
        `num x (incoming weights of one unit...)`, each of the mean norm of the old units' incoming weights.

    Raises:
        EditError: several layers make or read the group, or M has too few directions.
    """
    members = at.members(plan)
    making = [m for m in members if not m.reads and layers.get(model, m.tensor).dim() > 1]
    reading = [m for m in members if m.reads]
    maker, reader = (_only(model, found, role, name) for found, role in ((making, "makes"), (reading, "reads")))
    seen: dict[str, Tensor] = {}

    def at_maker(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        seen["input"] = inputs[0].detach()
        seen["output shape"] = torch.tensor(output.shape[2:])

    def at_reader(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        seen["read shape"] = torch.tensor(inputs[0].shape[2:])
        seen["output"] = output

    hooks = [maker.register_forward_hook(at_maker), reader.register_forward_hook(at_reader)]
    try:
        with untouched(model, training=False), torch.enable_grad():
            value = loss()
            (gradient,) = torch.autograd.grad(value, [seen["output"]])
    finally:
        for hook in hooks:
            hook.remove()
    product = _product(maker, reader, seen, gradient)
    _, values, directions = torch.linalg.svd(product, full_matrices=False)
    rank = int((values > values[0] * 1e-10).sum()) if len(values) and values[0] > 0 else 0
    if rank < num:
        raise EditError(
            f"group {name!r}: the gradients of the probe batch point in {rank} directions, fewer than the {num} new "
            "units; take a larger batch, or divide fewer units"
        )
    weight: Tensor = maker.weight  # pyright: ignore[reportAssignmentType]
    norm = weight.detach().double().flatten(1).norm(dim=1).mean()
    # A singular vector has no sign of its own; the same bits everywhere need one.
    largest = directions[:num].gather(1, directions[:num].abs().argmax(1, keepdim=True)).sign()
    return (directions[:num] * largest * norm).reshape(num, *weight.shape[1:]).to(weight)


def _only(model: nn.Module, found: list[Member], role: str, name: str) -> nn.Module:
    modules = [model.get_submodule(member.tensor.rpartition(".")[0]) for member in found]
    plain = len(modules) == 1 and isinstance(modules[0], (nn.Linear, nn.Conv2d))
    if not plain or getattr(modules[0], "groups", 1) != 1:
        tensors = ", ".join(member.tensor for member in found)
        raise EditError(
            f"group {name!r}: gradmax needs one plain linear or 2-d convolution layer that {role} it, found "
            f"{tensors or 'none'}"
        )
    return modules[0]


def _product(maker: nn.Module, reader: nn.Module, seen: dict[str, Tensor], gradient: Tensor) -> Tensor:
    """M = sum over samples and positions of g x^T, float64, `(reader's outputs x offsets) x (maker's inputs)`."""
    data, gradient = seen["input"].double(), gradient.double()
    if isinstance(maker, nn.Linear):
        rows, above = data.reshape(-1, data.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        if not isinstance(reader, nn.Linear) or len(rows) != len(above):
            raise EditError("gradmax: a linear layer's units are read at other positions than they are made at")
        return above.t() @ rows
    assert isinstance(maker, nn.Conv2d)
    total: Tensor | float = 0.0
    # One sample at a time: its patches alone are as large as the maps times the kernel.
    for number in range(len(data)):
        sample = data[number : number + 1]
        patches = nn.functional.unfold(sample, maker.kernel_size, maker.dilation, _padding(maker), maker.stride)[0]
        above = gradient[number].reshape(gradient.shape[1], -1)
        if isinstance(reader, nn.Linear):
            # Behind pooling or a flatten every position is read alike.
            total = total + above.sum(1)[:, None] * patches.mean(1)
            continue
        assert isinstance(reader, nn.Conv2d)
        read = _positions(seen["output shape"], seen["read shape"], reader)
        reached = [(above * (at >= 0)) @ patches[:, at.clamp_min(0)].t() for at in read]
        total = total + torch.stack(reached, 1).flatten(0, 1)
    assert isinstance(total, Tensor)
    return total


def _positions(made: Tensor, read: Tensor, reader: nn.Conv2d) -> Tensor:
    """For each offset of the reading kernel and each of its outputs, the position in the made map; -1 for padding."""
    (height, width), (rows, columns) = made.tolist(), read.tolist()
    # Where pooling stands between, a position of the read map stands for the first one that was pooled into it.
    down = torch.arange(rows) * height // rows
    across = torch.arange(columns) * width // columns
    places = (down[:, None] * width + across + 1.0).view(1, 1, rows, columns)
    found = nn.functional.unfold(places, reader.kernel_size, reader.dilation, _padding(reader), reader.stride)[0]
    return found.long() - 1


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return 0, 0
        return tuple(d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))  # pyright: ignore
    return layer.padding  # pyright: ignore[reportReturnType]


def calibrate(model: nn.Module, members: list[Member], added: dict[str, Tensor], example_inputs: object) -> None:
    """Gives new channels of batch norms the statistics of the example inputs; the old channels keep theirs.

    Args:
        model: with the new channels in place.
        members: of the group.
        added: by the name of a running mean or variance, the new positions.
        example_inputs: a batch.
    """
    norms = {
        member.tensor.rpartition(".")[0]
        for member in members
        if member.tensor.rpartition(".")[2] in ("running_mean", "running_var")
    }
    modules = {path: model.get_submodule(path) for path in norms}
    if not modules:
        return
    momenta = {path: module.momentum for path, module in modules.items()}
    taken: dict[str, dict[str, Tensor]] = {}
    with torch.no_grad(), untouched(model, training=True):
        try:
            for module in modules.values():
                setattr(module, "momentum", None)
                module.reset_running_stats()  # pyright: ignore[reportCallIssue]
            call(model, example_inputs)  # pyright: ignore[reportArgumentType]
            for path, module in modules.items():
                taken[path] = {name: buffer.clone() for name, buffer in module._buffers.items() if buffer is not None}
        finally:
            for path, module in modules.items():
                module.momentum = momenta[path]  # pyright: ignore[reportAttributeAccessIssue]
    for name, positions in added.items():
        path, _, short = name.rpartition(".")
        if path in taken and short in ("running_mean", "running_var"):
            buffer = modules[path]._buffers[short]
            assert buffer is not None
            places = positions.to(buffer.device)
            # Made by this edit, so that nothing else holds it yet.
            buffer.index_copy_(0, places, taken[path][short].index_select(0, places))
