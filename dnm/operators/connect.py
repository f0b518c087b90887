"""A zero projection from one layer's output to a later one's: rewrites the smallest module that contains both."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, fx, nn
from torch.optim import Optimizer

from dnm import layers
from dnm.edits import Connect
from dnm.errors import EditError
from dnm.graph import Graph
from dnm.operators import insert


class Connection(nn.Module):
    """target + P(source): P is a 1x1 projection that is zero at first; maps are pooled to the target's size."""

    def __init__(self, source: int, target: int, dimension: int, num_dimensions: int) -> None:
        super().__init__()
        convolutions = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
        self.maps = dimension == 1 and num_dimensions in convolutions
        self.projection: nn.Module = (
            convolutions[num_dimensions](source, target, 1, bias=False)
            if self.maps
            else nn.Linear(source, target, bias=False)
        )
        nn.init.zeros_(self.projection.weight)  # pyright: ignore[reportArgumentType]

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """The target's output with the source's added."""
        if self.maps and source.shape[2:] != target.shape[2:]:
            pools = {
                3: nn.functional.adaptive_avg_pool1d,
                4: nn.functional.adaptive_avg_pool2d,
                5: nn.functional.adaptive_avg_pool3d,
            }
            source = pools[source.dim()](source, target.shape[2:])
        return target + self.projection(source)


class _Tracer(fx.Tracer):
    """Looks into the modules that lead to the two ends, and into nothing else."""

    def __init__(self, ends: tuple[str, ...] = ()) -> None:
        # A rewritten module names its tracer, and makes one without arguments when it is unpickled.
        super().__init__()
        self.ends = ends

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is kept as one call."""
        return not any(end.startswith(module_qualified_name + ".") for end in self.ends)


def plan(model: nn.Module, graph: Graph, edit: Connect, example_inputs: object) -> dict[str, Any]:
    """The two ends, as plain values.

    Raises:
        EditError: an end is no place, their shapes cannot be matched, or no module inside the model contains both in
            a way that can be rewritten.
    """
    what = f"Connect({edit.source!r}, {edit.target!r})"
    source, target = (insert.place(graph, path, what) for path in (edit.source, edit.target))
    if (source.dimension, source.num_dimensions) != (target.dimension, target.num_dimensions):
        raise EditError(
            f"{what}: the source returns {source.num_dimensions} dimensions with channels in {source.dimension}, the "
            f"target {target.num_dimensions} with channels in {target.dimension}; expected the same layout"
        )
    maps = source.dimension == 1 and source.num_dimensions > 2
    if not maps and source.positions != target.positions:
        raise EditError(f"{what}: positions {source.positions} and {target.positions} differ, expected the same")
    ancestor = common(edit)
    if not ancestor:
        raise EditError(f"{what}: only the model itself contains both, and the model stays the object that it is")
    if ancestor not in graph.called:
        raise EditError(
            f"{what}: {ancestor} ({type(model.get_submodule(ancestor)).__name__}) is never called itself, its parent "
            "calls what is inside; a rewritten copy would not be iterable"
        )
    rewritten(model, edit, ancestor, what)
    return {
        "source": source.channels,
        "target": target.channels,
        "dimension": source.dimension,
        "num_dimensions": source.num_dimensions,
        "near": target.near,
        "ancestor": ancestor,
    }


def common(edit: Connect) -> str:
    """Path of the smallest module that contains both ends."""
    pairs = zip(edit.source.split("."), edit.target.split("."), strict=False)
    shared = []
    for left, right in pairs:
        if left != right:
            break
        shared.append(left)
    # An end does not contain itself.
    num = min(len(shared), edit.source.count("."), edit.target.count("."))
    return ".".join(shared[:num])


def rewritten(model: nn.Module, edit: Connect, ancestor: str, what: str) -> fx.Graph:
    """The ancestor's forward as a graph of calls.

    Raises:
        EditError: it cannot be traced, differs between train and eval mode, or does not call the ends once, in order.
    """
    module = model.get_submodule(ancestor)
    if any(module._forward_hooks) or any(module._forward_pre_hooks) or any(module._backward_hooks):
        raise EditError(f"{what}: {ancestor} ({type(module).__name__}) has hooks, which a rewritten one would lose")
    ends = edit.source.removeprefix(ancestor + "."), edit.target.removeprefix(ancestor + ".")
    was = [(child, child.training) for child in module.modules()]
    graphs = []
    try:
        for training in (True, False):
            module.train(training)
            graphs.append(_Tracer(ends).trace(module))
    except Exception as error:
        raise EditError(f"{what}: {ancestor} ({type(module).__name__}) cannot be rewritten: {error}") from error
    finally:
        for child, training in was:
            child.training = training
    if str(graphs[0]) != str(graphs[1]):
        raise EditError(
            f"{what}: {ancestor} ({type(module).__name__}) does other things in train mode than in eval mode in its "
            "own forward, which a rewritten copy could not"
        )
    calls = [node.target for node in graphs[0].nodes if node.op == "call_module"]
    if any(calls.count(end) != 1 for end in ends) or calls.index(ends[0]) > calls.index(ends[1]):
        raise EditError(f"{what}: {ancestor} does not call the source once and then the target once")
    kept = set(fx.GraphModule(module, graphs[0]).state_dict())
    lost = [name for name in module.state_dict() if name not in kept]
    if lost:
        raise EditError(
            f"{what}: {ancestor} holds {lost[0]}, which its forward does not use and a rewritten one would lose"
        )
    return graphs[0]


def carry_out(
    model: nn.Module, edit: Connect, plan: dict[str, Any], optimizers: Iterable[Optimizer] = ()
) -> Callable[[], None]:
    """Puts the rewritten module in the old one's place; returns what takes it back."""
    ancestor = plan["ancestor"]
    what = f"Connect({edit.source!r}, {edit.target!r})"
    module = model.get_submodule(ancestor)
    graph = rewritten(model, edit, ancestor, what)
    near = layers.get(model, plan["near"])
    with insert.aside():
        connection = Connection(plan["source"], plan["target"], plan["dimension"], plan["num_dimensions"])
    connection.to(near.device, near.dtype)
    number = sum(name.startswith("connection") for name, _ in module.named_children())
    name = f"connection{number}"
    copied = fx.GraphModule(module, graph)
    copied.add_module(name, connection)
    ends = {node.target: node for node in graph.nodes if node.op == "call_module"}
    source, target = (ends[path.removeprefix(ancestor + ".")] for path in (edit.source, edit.target))
    with graph.inserting_after(target):
        joined = graph.call_module(name, (source, target))
    target.replace_all_uses_with(joined, delete_user_cb=lambda user: user is not joined)
    new = fx.GraphModule(copied, graph)
    # The modules inside are the same ones, each in its own mode; those that hold them are new.
    modes = {path: child.training for path, child in module.named_modules()}
    for path, child in new.named_modules():
        child.training = modes.get(path, module.training)
    parameters = [(f"{ancestor}.{name}.projection.{own}", p) for own, p in connection.projection.named_parameters()]
    return insert.together(
        [lambda: insert.enrol(optimizers, near, parameters), lambda: insert.exchange(model, module, new)]
    )
