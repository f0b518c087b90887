"""One forward pass, recorded: which channel each element of each tensor belongs to, and which channels must agree.

Every element of a followed tensor carries a *label*: the number of the parameter entry that made it, or 0. Labels live
in a tensor of the data's own shape (expanded where they do not vary), so an operation that only moves data is followed
by running the same operation on the labels. What other operations demand is noted down: labels that must be one unit
(`link`), that can only be divided all together (`uniform`), or not at all (`freeze`).
"""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dnm import layers
from dnm.errors import GraphError
from dnm.stand_ins import STAND_INS

DROPOUTS = {
    nn.functional.dropout,
    nn.functional.dropout1d,
    nn.functional.dropout2d,
    nn.functional.dropout3d,
    nn.functional.alpha_dropout,
    nn.functional.feature_alpha_dropout,
}
# Functions that take every size from their input, whatever numbers their ATen form shows.
ADAPTIVE = {
    nn.functional.linear, torch.flatten, Tensor.flatten, torch.chunk, Tensor.chunk, torch.matmul, Tensor.matmul,
    Tensor.__matmul__, nn.functional.scaled_dot_product_attention, nn.functional.batch_norm,
}  # fmt: skip

# Functions that hand a tensor's values to other code than torch's.
READING = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.data_ptr, Tensor.__dlpack__}

PRODUCES, READS = "produces", "reads"


@dataclass(eq=False)
class State:
    """A parameter or buffer of the model: its name, and the labels of the dimensions that were seen in use."""

    name: str
    tensor: Tensor
    labels: dict[int, Tensor] = field(default_factory=dict)

    def strides(self) -> list[int]:
        """Contiguous strides of the tensor's shape, in elements."""
        strides = [1] * self.tensor.dim()
        for dimension in range(self.tensor.dim() - 2, -1, -1):
            strides[dimension] = strides[dimension + 1] * self.tensor.shape[dimension + 1]
        return strides


@dataclass(frozen=True)
class Part:
    """A view into a state: the position in it of every element, or None where it is the state as it lies.

    `transposed` says that the two dimensions are exchanged, which spares large matrices their positions.
    """

    state: State
    elements: Tensor | None = None
    transposed: bool = False

    def positions(self) -> Tensor:
        """Position of every element in the state's contiguous order, int32, in the view's shape."""
        if self.elements is not None:
            return self.elements
        every = torch.arange(self.state.tensor.numel(), dtype=torch.int32).view(self.state.tensor.shape)
        return every.t() if self.transposed else every


@dataclass(frozen=True)
class Value:
    """What is known of a tensor.

    Attributes:
        labels: int32, of the tensor's shape; None where the value comes from parameters and buffers alone.
        parts: the views into states that such a value is computed from, element by element.
        pristine: whether it is a state's own values, only moved.
    """

    labels: Tensor | None = None
    parts: tuple[Part, ...] = ()
    pristine: bool = True


@dataclass(frozen=True)
class Use:
    """Where a dimension of a state met labels: `labels[i]` at position `positions[i]`."""

    state: State
    dimension: int
    role: str
    positions: Tensor
    labels: Tensor


def varying(labels: Tensor) -> tuple[int, ...]:
    """Dimensions along which labels differ."""
    return tuple(d for d in range(labels.dim()) if labels.stride(d) and labels.shape[d] > 1)


def shrink(labels: Tensor, keep: Iterable[int] = ()) -> Tensor:
    """Labels with every dimension that does not vary cut to size 1, those to `keep` aside."""
    kept = set(keep)
    for dimension in range(labels.dim()):
        if labels.shape[dimension] > 1 and not labels.stride(dimension) and dimension not in kept:
            labels = labels.narrow(dimension, 0, 1)
    return labels


def compress(labels: Tensor) -> Tensor:
    """The same labels, with stride 0 in exactly the dimensions along which they do not differ."""
    shape = labels.shape
    labels = shrink(labels)
    for dimension in range(labels.dim()):
        if labels.shape[dimension] > 1:
            first = labels.narrow(dimension, 0, 1)
            if torch.equal(first.expand_as(labels), labels):
                labels = first
    # Contiguous, so that a size of 1 which was cut from a larger tensor does not keep that tensor alive.
    return labels.contiguous().expand(shape)


def along(labels: Tensor, dimension: int) -> Tensor:
    """The labels on a line along `dimension`, int32, of that dimension's size."""
    for other in range(labels.dim()):
        if other != dimension % labels.dim():
            labels = labels.narrow(other, 0, 1)
    return labels.reshape(-1)


class Recorder(TorchDispatchMode):
    """Follows channels through the operations of a forward pass.

    Args:
        model: whose parameters and buffers are known by name.
        rules: by ATen name (`aten::add`), what to do with an operation.
        arithmetic: whether convolutions and matrix products are worked out. Channels do not depend on their values;
            where the model's code does, a pass without them ends in a `GraphError`.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise the first use imports the compiler, which takes seconds.
        return False

    def __init__(
        self, model: nn.Module, rules: dict[str, Callable[[Operation], None]], arithmetic: bool = True
    ) -> None:
        super().__init__()
        self.rules = rules
        self.stand_ins = {} if arithmetic else STAND_INS
        self.states: dict[int, State] = {}
        self.by_name: dict[str, State] = {}
        self.paths = [(name, module) for name, module in model.named_modules()]
        self.uses: list[Use] = []
        self.edges: list[tuple[Tensor, Tensor]] = []
        self.frozen: list[tuple[Tensor, str]] = []
        # Labels whose last dimension keeps its size: what differs along it never changes in number.
        self.fixed: list[tuple[Tensor, str]] = []
        self.uniforms: list[tuple[Tensor, str]] = []
        self.doubtful = False
        self.marked: list[weakref.ref[Tensor]] = []
        self.dropped: list[Tensor] = []
        self.produced: list[State] = []
        self.touched: set[str] = set()
        self.places: dict[str, Any] = {}
        self.called: set[str] = set()
        self.num_labels = 0
        # The first label of every dimension that was numbered, ascending, and whose dimension it is.
        self.firsts: list[int] = []
        self.numbered: list[State] = []
        self.adaptive = 0
        self.attends = False
        self.stack: list[str] = []
        self.identify()

    def identify(self) -> None:
        """Learns the tensors by which the model holds its parameters and buffers now."""
        self.states.clear()
        for kind in ("_parameters", "_buffers"):
            for path, module in self.paths:
                for own, tensor in vars(module)[kind].items():
                    # Whole numbers (positions, counters) hold no channel's values.
                    if tensor is None or id(tensor) in self.states or not tensor.is_floating_point():
                        continue
                    name = f"{path}.{own}" if path else own
                    state = self.by_name.get(name)
                    if state is None:
                        state = self.by_name[name] = State(name, tensor)
                    state.tensor = tensor
                    self.states[id(tensor)] = state

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name
        result = None
        if self.stand_ins:
            if _depends_on_values(func, args):
                raise GraphError(f"{name} in {self.where()} depends on values")
            if name in self.stand_ins:
                result = self.stand_ins[name](*args, **kwargs)
        if result is None:
            result = func(*args, **kwargs)
        operation = Operation(self, func, args, kwargs, result)
        if not operation.followed:
            return result
        rule = self.rules.get(name)
        if rule is None:
            raise GraphError(
                f"{name} in {self.where()} is not known: how channels pass through it cannot be assumed; "
                f"teach it with dnm.register_rule({name!r}, ...)"
            )
        with unseen():
            rule(operation)
        return result

    def where(self) -> str:
        """The module whose forward is running, for messages."""
        return self.stack[-1] if self.stack else "the model's own forward"

    # What rules may ask and say.

    def value(self, tensor: object) -> Value | None:
        """What is known of a tensor; None where it does not depend on a channel."""
        if not isinstance(tensor, Tensor):
            return None
        state = self.states.get(id(tensor))
        if state is not None:
            self.touched.add(state.name)
            return Value(parts=(Part(state),)) if tensor.dim() else None
        return getattr(tensor, "_dnm_value", None)

    def labels(self, tensor: object) -> Tensor | None:
        """The labels of a tensor, or None."""
        value = self.value(tensor)
        return value.labels if value else None

    def set(self, tensor: object, value: Value | None) -> None:
        """Notes what is known of a result."""
        if isinstance(tensor, Tensor) and id(tensor) not in self.states:
            if value is not None and value.labels is not None and not bool(shrink(value.labels).any()):
                value = None
            if hasattr(tensor, "_dnm_value"):
                tensor._dnm_value = value  # pyright: ignore[reportAttributeAccessIssue]
            elif value is not None:
                tensor._dnm_value = value  # pyright: ignore[reportAttributeAccessIssue]
                self.marked.append(weakref.ref(tensor))

    def forget(self) -> None:
        """Takes the notes off all tensors that are still alive: inputs, and what the model keeps of a pass."""
        for reference in self.marked:
            tensor = reference()
            if tensor is not None:
                vars(tensor).pop("_dnm_value", None)
        self.marked.clear()

    def set_labels(self, tensor: object, labels: Tensor | None) -> None:
        """Notes the labels of a result."""
        self.set(tensor, None if labels is None else Value(labels=labels))

    def of(self, state: State, dimension: int) -> Tensor:
        """The labels of a dimension of a state, int32, of its size."""
        if dimension not in state.labels:
            size = state.tensor.shape[dimension]
            state.labels[dimension] = torch.arange(self.num_labels + 1, self.num_labels + size + 1, dtype=torch.int32)
            self.firsts.append(self.num_labels + 1)
            self.numbered.append(state)
            self.num_labels += size
        return state.labels[dimension]

    def maker(self, label: int) -> str:
        """Name of the state whose dimension a label numbers."""
        number = bisect_right(self.firsts, label)
        return self.numbered[number - 1].name if number else ""

    def use(self, state: State, dimension: int, role: str, labels: Tensor, positions: Tensor | None = None) -> None:
        """Notes that `state` holds, along `dimension`, what belongs to the channels `labels`."""
        own = self.of(state, dimension)
        if positions is None:
            positions = torch.arange(len(own))
            self.link(own, labels)
        else:
            self.link(own[positions.long()], labels)
        self.uses.append(Use(state, dimension, role, positions, labels))

    def produce(self, state: State, dimension: int, positions: Tensor | None = None) -> Tensor:
        """The labels of channels that `state` makes along `dimension`."""
        own = self.of(state, dimension)
        self.produced.append(state)
        labels = own if positions is None else own[positions.long()]
        self.uses.append(
            Use(state, dimension, PRODUCES, torch.arange(len(own)) if positions is None else positions, labels)
        )
        if len(own) == 1:
            self.freeze(own, "a single channel may be broadcast: its growth cannot be told from its shape")
            return torch.zeros_like(labels)
        return labels

    def link(self, first: Tensor, second: Tensor) -> None:
        """Demands that labels at the same place are one unit."""
        first, second = torch.broadcast_tensors(first, second)
        self.edges.append((first.reshape(-1), second.reshape(-1)))

    def freeze(self, labels: Tensor | None, reason: str) -> None:
        """Demands that these channels never change in number."""
        if labels is not None:
            self.frozen.append((shrink(labels).reshape(-1), reason))

    def uniform(self, labels: Tensor, reason: str) -> None:
        """Demands that these channels are only divided all together."""
        self.uniforms.append((shrink(labels).reshape(-1), reason))

    def merge(self, labels: Tensor, dimensions: Iterable[int], mean: bool, what: str) -> Tensor:
        """Follows a reduction over `dimensions`, which keep size 1 in the result.

        Channels that differ along what is reduced are one unit where other dimensions tell units apart (as heads do).
        Elsewhere a mean is the same after a division of all of them together; a sum never is.
        """
        reduced = [dimension % labels.dim() for dimension in dimensions]
        across = [dimension for dimension in varying(labels) if dimension in reduced]
        result = labels
        for dimension in reduced:
            result = result.narrow(dimension, 0, 1)
        if not across:
            return result
        if varying(result):
            self.link(shrink(labels), shrink(result))
            return result
        reason = f"{what} in {self.where()} is taken over them"
        if mean:
            self.uniform(labels, reason)
        else:
            self.freeze(labels, reason)
        return torch.zeros_like(result)

    def join(self, shape: torch.Size, values: list[Value], plain: list[Tensor], what: str) -> Value | None:
        """What is known of the result, of `shape`, of an operation that acts element by element with broadcasting."""
        labelled = [value.labels for value in values if value.labels is not None]
        parts = tuple(part for value in values for part in value.parts)
        if not labelled:
            full_parts = tuple(self._broadcast(part, shape) for part in parts)
            # Data that no channel made, to which parameters were added entry by entry, is still such data.
            if any(_covers(tensor, part, shape) for tensor in plain for part in full_parts):
                return None
            return Value(parts=full_parts, pristine=False)
        full = [labels.expand(shape) for labels in labelled]
        main = max(full, key=lambda labels: len(varying(labels)))
        dimensions = set(varying(main))
        for labels in full:
            mine = set(varying(labels))
            if labels is main:
                continue
            if mine <= dimensions and (mine or not dimensions):
                self.link(shrink(labels), shrink(main))
            else:
                self.freeze(labels, f"{what} in {self.where()} broadcasts them over other channels")
                if not mine <= dimensions:
                    self.freeze(main, f"{what} in {self.where()} combines them with other channels")
                    return None
        for tensor in plain:
            for dimension in dimensions:
                own = dimension - len(shape) + tensor.dim()
                if own >= 0 and tensor.shape[own] > 1:
                    reason = f"{what} in {self.where()} combines them with a tensor whose size would not follow"
                    self.fixed.append((shrink(main, [dimension]).movedim(dimension, -1), reason))
        for part in parts:
            self._lay(part, main, what)
        return Value(labels=main)

    def _broadcast(self, part: Part, shape: torch.Size) -> Part:
        view = part.state.tensor.shape if part.elements is None else part.elements.shape
        if part.transposed:
            view = view[::-1]
        return part if view == shape else Part(part.state, part.positions().expand(shape))

    def _lay(self, part: Part, labels: Tensor, what: str) -> None:
        """A state's view lies over labels: finds the dimension of the state that goes along with the channels."""
        state = part.state
        dimensions = varying(labels)
        if not dimensions:
            return
        if part.elements is None and not part.transposed and len(dimensions) == 1:
            own = dimensions[0] - labels.dim() + state.tensor.dim()
            if own >= 0 and state.tensor.shape[own] > 1:
                self.use(state, own, PRODUCES, along(labels, dimensions[0]))
            return
        elements = part.positions().expand(labels.shape)
        if not any(elements.stride(dimension) and elements.shape[dimension] > 1 for dimension in dimensions):
            return
        kept = {d for d in range(labels.dim()) if elements.stride(d) or labels.stride(d)}
        wide = shrink(labels, kept).contiguous().reshape(-1)
        places = elements
        for dimension in range(places.dim()):
            if dimension not in kept and places.shape[dimension] > 1:
                places = places.narrow(dimension, 0, 1)
        places = places.reshape(-1)
        for own, stride in enumerate(state.strides()):
            size = state.tensor.shape[own]
            if size == 1:
                continue
            coordinates = (places // stride % size).long()
            first = torch.zeros(size, dtype=torch.int32)
            first[coordinates] = wide
            if torch.equal(first[coordinates], wide):
                seen = torch.nonzero(torch.bincount(coordinates, minlength=size)).flatten()
                self.use(state, own, PRODUCES, first[seen], seen)
                return
        self.freeze(labels, f"{what} in {self.where()} lays {state.name} over them in a way that cannot be followed")


def _covers(tensor: Tensor, part: Part, shape: torch.Size) -> bool:
    """Whether a tensor has a size of its own in every dimension along which the part of a state differs."""
    view = part.elements
    if view is None:
        sizes = part.state.tensor.shape[::-1] if part.transposed else part.state.tensor.shape
        dimensions = [d + len(shape) - len(sizes) for d, size in enumerate(sizes) if size > 1]
    else:
        dimensions = list(varying(view))
    own = [dimension - len(shape) + tensor.dim() for dimension in dimensions]
    return tensor.dim() > 0 and all(dimension >= 0 and tensor.shape[dimension] > 1 for dimension in own)


class Operation:
    """One ATen call: what a rule looks at."""

    def __init__(self, recorder: Recorder, func: Any, args: tuple, kwargs: dict, result: Any) -> None:
        self.recorder, self.func, self.args, self.kwargs, self.result = recorder, func, args, kwargs, result
        self.followed = self._follows(args) or (bool(kwargs) and self._follows(kwargs.values()))

    def _follows(self, items: Iterable) -> bool:
        states = self.recorder.states
        for item in items:
            if isinstance(item, Tensor):
                if getattr(item, "_dnm_value", None) is not None or id(item) in states:
                    return True
            elif isinstance(item, (list, tuple)) and self._follows(item):
                return True
        return False

    @property
    def name(self) -> str:
        """The operation's short name, for messages."""
        return self.func._schema.name.removeprefix("aten::")

    def argument(self, name: str) -> Any:
        """An argument by its name in the operation's schema; its default where it was not given, else None."""
        number, default = _arguments(self.func).get(name, (None, None))
        if number is None:
            return None
        return self.args[number] if number < len(self.args) else self.kwargs.get(name, default)

    def tensors(self) -> list[Tensor]:
        """All tensor arguments, those in lists included."""
        found: list[Tensor] = []
        for item in [*self.args, *self.kwargs.values()]:
            if isinstance(item, Tensor):
                found.append(item)
            elif isinstance(item, (list, tuple)):
                found += [entry for entry in item if isinstance(entry, Tensor)]
        return found

    def results(self) -> list[Tensor]:
        """All tensors among the results."""
        if isinstance(self.result, Tensor):
            return [self.result]
        if isinstance(self.result, (list, tuple)):
            return [item for item in self.result if isinstance(item, Tensor)]
        return []


@functools.cache
def _arguments(func: Any) -> dict[str, tuple[int, Any]]:
    """Position and default of an operation's arguments, by name: asking the schema makes new objects each time."""
    return {argument.name: (number, argument.default_value) for number, argument in enumerate(func._schema.arguments)}


def _depends_on_values(func: Any, args: tuple) -> bool:
    """Whether shape of the result, or what the code does next, may depend on the values of the arguments."""
    if func is torch.ops.aten.index.Tensor:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


class Functions(TorchFunctionMode):
    """Sees what ATen no longer shows: dropout that is off, and functions that take their sizes from their input."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in READING and self.recorder.stand_ins:
            raise GraphError(f"{func.__name__} in {self.recorder.where()} reads values")
        if func in DROPOUTS:
            rate = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
            labels = self.recorder.labels(args[0] if args else kwargs["input"])
            if rate > 0 and labels is not None:
                self.recorder.dropped.append(shrink(labels).reshape(-1))
        if func is nn.functional.scaled_dot_product_attention:
            labels = self.recorder.labels(args[0] if args else kwargs["query"])
            if labels is not None:
                self.recorder.attends = True
                if (args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)) > 0:
                    self.recorder.dropped.append(shrink(labels).reshape(-1))
        if func is Tensor.__getitem__ and _cuts(args[1]) and self.recorder.labels(args[0]) is not None:
            # A slice that keeps everything, and so is no operation, may not when there is more.
            self.recorder.doubtful = True
        if func in ADAPTIVE:
            self.recorder.adaptive += 1
            try:
                return func(*args, **kwargs)
            finally:
                self.recorder.adaptive -= 1
        return func(*args, **kwargs)


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Runs its block out of the sight of all modes: for what is no work of the model, such as labels and surgery."""
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        yield


def _cuts(index: object) -> bool:
    """Whether an index of a tensor has a slice that ends at a number."""
    items = index if isinstance(index, tuple) else (index,)
    return any(isinstance(item, slice) and item.stop is not None for item in items)


@contextlib.contextmanager
def untouched(model: nn.Module, training: bool | None = None) -> Iterator[None]:
    """Runs its block with the model in a mode, and leaves mode, buffers, random state and backend settings as found.

    Buffers are exchanged for copies, not written back: a loss that is not yet differentiated may hold them.
    """
    inside = layers.modules(model)
    modes = [(module, module.training) for module in inside]
    buffers = [
        (module, name, buffer) for module in inside for name, buffer in module._buffers.items() if buffer is not None
    ]
    fast, caching = torch.backends.mha.get_fastpath_enabled(), torch.is_autocast_cache_enabled()
    try:
        # Copies without a gradient would stay behind for the caller, whose autocast is entered already.
        torch.set_autocast_cache_enabled(False)
        # A buffer that two modules share must stay shared.
        copies = {id(buffer): buffer.clone() for _, _, buffer in buffers}
        for module, name, buffer in buffers:
            module._buffers[name] = copies[id(buffer)]
        if training is not None:
            model.train(training)
        # The fast path is one operation for a whole layer, and exists in eval mode alone.
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.random.fork_rng(devices=_devices(model)), _uncompiled():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.set_autocast_cache_enabled(caching)
        for module, name, buffer in buffers:
            module._buffers[name] = buffer
        for module, was in modes:
            module.training = was


def _uncompiled() -> contextlib.AbstractContextManager:
    """Runs its block without the compiler, which would compile the recorder into code that was compiled in place."""
    # A process that never imported the compiler, which takes seconds, has nothing compiled.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


def _devices(model: nn.Module) -> list[torch.device]:
    return sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)
