"""What the inserting operators share: putting a module where another one is, and its parameters into the optimizers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dnm import layers
from dnm.errors import EditError
from dnm.graph import Graph, Place
from dnm.reindex import check_state


def place(graph: Graph, path: str, what: str) -> Place:
    """The place called `path`.

    Raises:
        EditError: no module of that name was called with a result whose channels are known.
    """
    for found in graph.places:
        if found.path == path:
            return found
    raise EditError(
        f"{what}: {path!r} is not a place to insert at; expected a module inside the model that is called and returns "
        "one tensor of known channels. A layer whose parent reads its weight itself, or the model itself, is none"
    )


def exchange(model: nn.Module, old: nn.Module, new: nn.Module) -> Callable[[], None]:
    """Puts a module in another's place, wherever the model holds it; returns what takes it back."""
    # `new` may hold `old` itself, which is to stay there.
    inside = {id(module) for module in layers.modules(new)}
    spots = [
        (parent, name)
        for parent in layers.parents(model, old)
        if id(parent) not in inside or parent is model
        for name, child in parent._modules.items()
        if child is old
    ]
    if not spots:
        raise EditError("the module to wrap is the model itself; wrap a module inside it")
    for parent, name in spots:
        parent._modules[name] = new

    def restore() -> None:
        for parent, name in spots:
            parent._modules[name] = old

    return restore


def enrol(
    optimizers: Iterable[Optimizer], near: Tensor, parameters: list[tuple[str, nn.Parameter]]
) -> Callable[[], None]:
    """Puts new parameters into the group that trains `near`, or into the last one where none does.

    Returns:
        A function that takes them out again.

    Raises:
        StateError: an optimizer cannot take new parameters.
    """
    optimizers = list(optimizers)
    check_state(optimizers, [])
    if not optimizers:
        return lambda: None
    groups = [(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups]
    optimizer, group = next(
        ((o, g) for o, g in groups if any(parameter is near for parameter in g["params"])),
        (optimizers[0], optimizers[0].param_groups[-1]),
    )
    num = len(group["params"])
    group["params"].extend(parameter for _, parameter in parameters)
    if isinstance(optimizer, torch.optim.Adagrad):
        # The one optimizer of torch's that makes its state in the constructor, not at the first step.
        options = {name: value for name, value in group.items() if name not in ("params", "param_names")}
        start = group["initial_accumulator_value"]
        for _, parameter in parameters:
            made = torch.optim.Adagrad([{**options, "params": [parameter]}], initial_accumulator_value=start)
            optimizer.state[parameter] = made.state[parameter]
    if "param_names" in group:
        group["param_names"].extend(name for name, _ in parameters)

    def restore() -> None:
        del group["params"][num:]
        if "param_names" in group:
            del group["param_names"][num:]
        for _, parameter in parameters:
            optimizer.state.pop(parameter, None)

    return restore


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Layers made in its block are on the CPU, and leave alone the global generator, which their constructors use."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        yield


def together(steps: Iterable[Callable[[], Callable[[], None]]]) -> Callable[[], None]:
    """Takes steps, each of which returns what takes it back; all or none.

    Returns:
        A function that takes them back, the last one first.
    """
    taken: list[Callable[[], None]] = []

    def restore() -> None:
        for function in reversed(taken):
            function()

    try:
        for step in steps:
            taken.append(step())
    except BaseException:
        restore()
        raise
    return restore


def draw(module: nn.Module, seed: int) -> None:
    """He initialisation of all weights from a seed, biases 0 (He et al. 2015, arXiv:1502.01852)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                fan = parameter[0].numel()
                values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * (2.0 / fan) ** 0.5
                parameter.copy_(values)
            elif name.endswith("bias"):
                parameter.zero_()
