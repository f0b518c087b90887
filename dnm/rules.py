"""How channels pass through each operation: one small rule per kind, by ATen name.

A rule looks at an `Operation` and says what it does to channels: labels of the results, labels that must be one unit,
channels that cannot change in number. What has no rule is refused by name, never assumed to be element-wise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dnm.errors import GraphError
from dnm.recording import PRODUCES, READS, Operation, Part, Recorder, State, Value, along, compress, shrink, varying

Rule = Callable[[Operation], None]

RULES: dict[str, Rule] = {}


def register_rule(operation: str, rule: Rule) -> None:
    """Teaches how channels pass through an operation.

    Args:
        operation: ATen name without overload, such as "aten::erf" or "mylibrary::my_op".
        rule: called with each `Operation`; one of `dnm.rules.pointwise`, `moved`, `pooled`, `along_dimension`,
            `reduced`, or a function of your own.

    Raises:
        GraphError: the name has no namespace or the rule cannot be called.
    """
    if "::" not in operation or not callable(rule):
        raise GraphError(
            f"register_rule({operation!r}, {rule!r}): expected a name such as 'aten::erf' and a function of an "
            "Operation"
        )
    RULES[operation.split(".")[0]] = rule


def same(op: Operation) -> None:
    """The result is the first argument's value, whatever its layout or precision."""
    for result in op.results():
        op.recorder.set(result, op.recorder.value(op.args[0]))


def pointwise(op: Operation) -> None:
    """Each element of the result depends on the elements of the arguments at its place (with broadcasting)."""
    recorder, results = op.recorder, op.results()
    if not results:
        return
    tensors = op.tensors()
    values = [recorder.value(tensor) for tensor in tensors]
    shape = results[0].shape
    known = [value for value in values if value is not None]
    plain = [tensor for tensor, value in zip(tensors, values, strict=True) if value is None]
    joined = recorder.join(shape, known, plain, op.name)
    for result in results:
        if any(result is tensor for tensor in tensors):
            _check_written(op, result, joined)
        if result.shape == shape:
            recorder.set(result, joined)


def _check_written(op: Operation, target: Tensor, value: Value | None) -> None:
    # A write into a part of a tensor does not reach the labels of the rest.
    old = op.recorder.value(target)
    if value is None or value.labels is None or (old is not None and old.labels is not None):
        return
    if target.untyped_storage().nbytes() != target.numel() * target.element_size():
        raise GraphError(
            f"{op.func._schema.name} in {op.recorder.where()} writes channels into a part of a tensor, which cannot be "
            "followed; build the tensor with torch.cat or torch.where"
        )


def written(op: Operation) -> None:
    """The first argument is overwritten with values that depend on no channel."""
    value = op.recorder.value(op.args[0])
    if value is not None and value.labels is None:
        op.recorder.set(op.args[0], Value(parts=value.parts, pristine=False))


def moved(op: Operation) -> None:
    """Elements are moved, repeated or left out; no element of the result depends on two of the argument's."""
    recorder, source = op.recorder, op.args[0]
    value = recorder.value(source)
    if any(recorder.value(tensor) is not None for tensor in op.tensors()[1:]):
        raise GraphError(f"{op.func._schema.name} in {recorder.where()} takes its places from channels")
    if value is None:
        return
    if value.labels is not None:
        for result, labels in zip(op.results(), _run(op, value.labels, compressed=True), strict=True):
            recorder.set_labels(result, labels)
        if not recorder.adaptive and varying(value.labels):
            recorder.doubtful = True
        return
    moves = [_move_part(op, part) for part in value.parts]
    if not recorder.adaptive and not all(part.elements is None for parts in moves for part in parts):
        recorder.doubtful = True
    for number, result in enumerate(op.results()):
        recorder.set(result, Value(parts=tuple(parts[number] for parts in moves), pristine=value.pristine))


def _run(op: Operation, labels: Tensor, compressed: bool) -> list[Tensor]:
    """The operation itself, on labels or positions instead of data."""
    others = [item.cpu() if isinstance(item, Tensor) else _cpu(item) for item in op.args[1:]]
    if op.name in ("view", "_unsafe_view", "reshape", "_reshape_alias"):
        moved = labels.reshape(op.args[1])
    else:
        moved = op.func(labels, *others, **op.kwargs)
    tensors = [moved] if isinstance(moved, Tensor) else list(moved)
    return [compress(tensor) for tensor in tensors] if compressed else tensors


def _cpu(item):
    if isinstance(item, (list, tuple)):
        return [entry.cpu() if isinstance(entry, Tensor) else entry for entry in item]
    return item


def _move_part(op: Operation, part: Part) -> list[Part]:
    if part.state.tensor.dim() == 2 and part.elements is None and _exchanges(op):
        return [Part(part.state, None, not part.transposed)]
    return [Part(part.state, elements) for elements in _run(op, part.positions(), compressed=False)]


def _exchanges(op: Operation) -> bool:
    """Whether an operation on a matrix transposes it."""
    if op.name == "permute":
        return [dimension % 2 for dimension in op.args[1]] == [1, 0]
    return op.name == "t" or (op.name == "transpose" and (op.args[1] - op.args[2]) % 2 == 1)


def padded(op: Operation) -> None:
    """A constant around the elements: beside channels it is a channel of its own, elsewhere it is in every channel."""
    labels = op.recorder.labels(op.args[0])
    if labels is None:
        moved(op)
        return
    dimensions = varying(labels)
    # Pairs of (before, after), the last dimension first.
    pads = op.args[1]
    own = [
        pads[2 * number + side] if labels.dim() - 1 - number in dimensions else 0
        for number in range(len(pads) // 2)
        for side in (0, 1)
    ]
    result = nn.functional.pad(shrink(labels), own)
    op.recorder.set_labels(op.result, compress(result.expand(op.result.shape)))
    if any(own) and not op.recorder.adaptive:
        op.recorder.doubtful = True


def _flat(items) -> list[int]:
    return [entry for item in items for entry in (item if isinstance(item, (list, tuple)) else [item])]


def split(op: Operation) -> None:
    """Parts of one tensor along a dimension; parts of equal size grow alike."""
    moved(op)
    labels = op.recorder.labels(op.args[0])
    dimension = op.argument("dim") or 0
    if labels is None or dimension % labels.dim() not in varying(labels):
        return
    parts = [op.recorder.labels(result) for result in op.results()]
    sizes = {result.shape[dimension] for result in op.results()}
    if len(parts) > 1 and len(sizes) == 1 and all(part is not None for part in parts):
        for part in parts[1:]:
            op.recorder.link(shrink(parts[0]), shrink(part))  # pyright: ignore[reportArgumentType]


def gated(op: Operation) -> None:
    """One half along a dimension times a function of the other."""
    recorder, labels = op.recorder, op.recorder.labels(op.args[0])
    if labels is None:
        return
    first, second = labels.chunk(2, op.argument("dim"))
    if op.argument("dim") % labels.dim() in varying(labels):
        recorder.link(shrink(first), shrink(second))
    recorder.set_labels(op.result, compress(first))


def concatenated(op: Operation) -> None:
    """Tensors side by side along a dimension; along the others they must agree."""
    recorder, tensors = op.recorder, op.args[0]
    dimension = (op.argument("dim") or 0) % op.result.dim()
    # An empty tensor of one dimension may stand for nothing.
    tensors = [tensor for tensor in tensors if tensor.dim() == op.result.dim()]
    values = [recorder.value(tensor) for tensor in tensors]
    labels = [value.labels if value else None for value in values]
    known = [item for item in labels if item is not None]
    if not known:
        parts = [part for value in values if value is not None for part in value.parts]
        if not any(isinstance(part.state.tensor, nn.Parameter) for part in parts):
            # Made of buffers alone: a constant.
            return
        if all(value is not None and len(value.parts) == 1 for value in values):
            raise GraphError(
                f"cat in {recorder.where()} puts parameters together, which cannot be followed; keep them as one"
            )
        raise GraphError(f"cat in {recorder.where()} puts a parameter beside other values, which cannot be followed")
    others = sorted({d for item in known for d in varying(item) if d != dimension})
    if others:
        main = next(item for item in known if set(others) & set(varying(item)))
        line = main.narrow(dimension, 0, 1)
        for tensor, value in zip(tensors, values, strict=True):
            # Only the size along the other dimensions must agree: one slice of every tensor says it.
            if value is None:
                if tensor.numel():
                    recorder.freeze(line, f"cat in {recorder.where()} puts them beside a tensor that would not follow")
                continue
            piece, shape = value, tensor.shape
            if value.labels is not None:
                piece = Value(labels=value.labels.narrow(dimension, 0, 1))
                shape = torch.Size([*tensor.shape[:dimension], 1, *tensor.shape[dimension + 1 :]])
            recorder.join(shape, [Value(labels=line.expand(shape)), piece], [], "cat")
        if not any(dimension in varying(item) for item in known):
            recorder.set_labels(op.result, line.expand(op.result.shape))
            return
    pieces = []
    for tensor, value, item in zip(tensors, values, labels, strict=True):
        if value is not None and item is None:
            raise GraphError(f"cat in {recorder.where()} puts a parameter beside channels, which cannot be followed")
        pieces.append(torch.zeros(1, dtype=torch.int32).expand(tensor.shape) if item is None else item)
    # Dimensions in which no piece varies stay expanded.
    wide = {d for piece in pieces for d in varying(piece)} | {dimension}
    cut = []
    for piece in pieces:
        for d in range(piece.dim()):
            if d not in wide and piece.shape[d] > 1:
                piece = piece.narrow(d, 0, 1)
        cut.append(piece)
    recorder.set_labels(op.result, compress(torch.cat(cut, dimension).expand(op.result.shape)))


def pooled(op: Operation) -> None:
    """Maps of `num x channels x space...`: positions mix, channels do not."""
    labels = _channels(op, op.args[0], 1)
    for result in op.results():
        op.recorder.set_labels(result, None if labels is None else _lay_out(labels, 1, result.shape))


def _channels(op: Operation, tensor: Tensor, dimension: int) -> Tensor | None:
    """The labels along `dimension`; None where there are none, or where they differ along other dimensions alone."""
    value = op.recorder.value(tensor)
    if value is None:
        return None
    labels = _made_of_state(op, value, dimension) if value.labels is None else value.labels
    if labels is None:
        return None
    dimension %= labels.dim()
    dimensions = varying(labels)
    others = [d for d in dimensions if d != dimension]
    if not others:
        return along(labels, dimension)
    if dimension not in dimensions:
        op.recorder.freeze(labels, f"{op.name} in {op.recorder.where()} reads them along another dimension")
        return None
    # What stands at different positions of one channel is one unit, as behind a pixel shuffle.
    line = shrink(labels).amax(others, keepdim=True)
    op.recorder.link(shrink(labels), line)
    return line.reshape(-1)


def _made_of_state(op: Operation, value: Value, dimension: int) -> Tensor | None:
    """A parameter that is read as data makes channels, as a layer does; a buffer is a constant."""
    part = value.parts[0]
    if not any(isinstance(item.state.tensor, nn.Parameter) for item in value.parts):
        return None
    positions = part.positions()
    line = along(positions, dimension)
    for own, stride in enumerate(part.state.strides()):
        size = part.state.tensor.shape[own]
        coordinates = line // stride % size
        own_line = len(value.parts) == 1 and len(line) == size > 1
        if own_line and torch.equal(coordinates, torch.arange(size, dtype=torch.int32)):
            return _lay_out(op.recorder.produce(part.state, own), dimension, positions.shape)
    raise GraphError(
        f"{op.name} in {op.recorder.where()} reads {part.state.name} as its input in a way that cannot be followed"
    )


def _lay_out(labels: Tensor, dimension: int, shape: torch.Size) -> Tensor:
    view = [1] * len(shape)
    view[dimension] = -1
    return labels.view(view).expand(shape)


def reduced(op: Operation) -> None:
    """Sums, norms and products over dimensions."""
    _reduce(op, mean=False)


def averaged(op: Operation) -> None:
    """Means and variances over dimensions: a division of all channels together does not change them."""
    _reduce(op, mean=True)


def _reduce(op: Operation, mean: bool) -> None:
    recorder, value = op.recorder, op.recorder.value(op.args[0])
    if value is None:
        return
    if value.labels is None:
        raise GraphError(
            f"{op.name} in {recorder.where()} is taken over the parameter {value.parts[0].state.name}; "
            "remove the parametrization (weight or spectral norm) first"
        )
    dimensions = _reduced_dimensions(op, value.labels)
    left = _without(op, recorder.merge(value.labels, dimensions, mean, op.name), dimensions)
    for result in op.results():
        recorder.set_labels(result, left if left.shape == result.shape else None)


def largest(op: Operation) -> None:
    """Maxima and minima over dimensions: copies of a channel do not change them."""
    recorder, labels = op.recorder, op.recorder.labels(op.args[0])
    if labels is None:
        return
    dimensions = _reduced_dimensions(op, labels)
    if set(dimensions) & set(varying(labels)):
        recorder.freeze(labels, f"{op.name} in {recorder.where()} compares them with one another")
        return
    for dimension in dimensions:
        labels = labels.narrow(dimension, 0, 1)
    left = _without(op, labels, dimensions)
    for result in op.results():
        recorder.set_labels(result, left if left.shape == result.shape else None)


def _reduced_dimensions(op: Operation, labels: Tensor) -> list[int]:
    """What a reduction goes over: all dimensions where it names none."""
    wanted = op.argument("dim")
    named = range(labels.dim()) if wanted is None or wanted == [] else _flat([wanted])
    return [dimension % labels.dim() for dimension in named]


def _without(op: Operation, labels: Tensor, dimensions: list[int]) -> Tensor:
    """Labels of size 1 in `dimensions`, which go unless the operation keeps them."""
    if op.argument("keepdim"):
        return labels
    for dimension in sorted(dimensions, reverse=True):
        labels = labels.squeeze(dimension)
    return labels


def along_dimension(op: Operation) -> None:
    """Softmax, cumulative sums, sorting: each element depends on all along one dimension."""
    recorder, labels = op.recorder, op.recorder.labels(op.args[0])
    if labels is None:
        return
    if (op.argument("dim") or 0) % labels.dim() in varying(labels):
        recorder.freeze(labels, f"{op.name} in {recorder.where()} goes along them")
        labels = None
    for result in op.results():
        recorder.set_labels(result, labels)


def _raw(op: Operation, tensor: Tensor) -> State | None:
    value = op.recorder.value(tensor)
    if value is None or value.labels is not None or len(value.parts) != 1:
        return None
    part = value.parts[0]
    return part.state if value.pristine and part.elements is None and not part.transposed else None


def _computed(op: Operation) -> GraphError:
    return GraphError(
        f"{op.name} in {op.recorder.where()} has a weight that is computed, not a parameter as it lies; remove the "
        "parametrization (weight or spectral norm, standardised weights) first"
    )


def convolution(op: Operation) -> None:
    """Convolutions and transposed ones, grouped and depthwise."""
    recorder = op.recorder
    state = _raw(op, op.argument("weight"))
    labels = _channels(op, op.args[0], 1)
    if state is None:
        raise _computed(op)
    groups, transposed = op.argument("groups"), op.argument("transposed")
    weight = state.tensor
    reading, making = (0, 1) if transposed else (1, 0)
    if groups == 1:
        if labels is not None:
            recorder.use(state, reading, READS, labels)
        outputs = recorder.produce(state, making)
    elif transposed:
        outputs = _grouped_transposed(op, state, labels, groups)
    else:
        outputs = recorder.produce(state, 0)
        per_group, made = weight.shape[1], weight.shape[0] // groups
        if labels is None or not bool(labels.all()):
            recorder.freeze(outputs, f"the grouped convolution in {recorder.where()} reads channels of fixed number")
            recorder.freeze(labels, f"the grouped convolution in {recorder.where()} reads channels of fixed number")
        else:
            # Channels of one group, those it reads and those it makes, are one unit.
            recorder.link(labels.view(groups, per_group), labels.view(groups, per_group)[:, :1])
            recorder.use(state, 0, PRODUCES, labels.view(groups, per_group)[:, 0].repeat_interleave(made))
    _bias(op, op.argument("bias"), outputs)
    recorder.set_labels(op.result, _lay_out(outputs, 1, op.result.shape))


def _grouped_transposed(op: Operation, state, labels: Tensor | None, groups: int) -> Tensor:
    recorder = op.recorder
    reads, made = state.tensor.shape[0] // groups, state.tensor.shape[1]
    reason = f"the grouped transposed convolution in {recorder.where()} reads channels of fixed number"
    if labels is None or not bool(labels.all()):
        recorder.freeze(labels, reason)
        return torch.zeros(groups * made, dtype=torch.int32)
    recorder.link(labels.view(groups, reads), labels.view(groups, reads)[:, :1])
    # The whole filters of a group are copied with it, so that dimension 0 stands for what it makes.
    recorder.use(state, 0, PRODUCES, labels)
    return labels.view(groups, reads)[:, 0].repeat_interleave(made)


def _bias(op: Operation, bias: object, labels: Tensor) -> None:
    value = op.recorder.value(bias)
    if value is None:
        return
    part = value.parts[0] if len(value.parts) == 1 else None
    lies = part is not None and part.elements is None and part.state.tensor.shape == labels.shape
    if part is not None and lies and bool(labels[0] != labels[-1]):
        op.recorder.use(part.state, 0, PRODUCES, labels)
        return
    op.recorder.join(labels.shape, [Value(labels=compress(labels)), value], [], op.name)


def linear(op: Operation) -> None:
    """`addmm(bias, x, w.t())`, `mm`, `linear`: one of the matrices is a parameter; else a product of activations."""
    recorder = op.recorder
    if op.name == "addmm":
        bias, first, second = op.args[:3]
    else:
        bias, (first, second) = None, op.args[:2]
    values = recorder.value(first), recorder.value(second)
    parts = [value.parts if value is not None and value.labels is None else () for value in values]
    if all(parts):
        # A constant or a learned input meets a weight; the weight stands last, as in every linear layer.
        parts[0] = ()
    if not any(parts):
        _product(op, first[None], second[None], [v and v.labels for v in values], op.result[None].shape)
        return
    side = 1 if parts[1] else 0
    value = values[side]
    if (
        value is None or len(value.parts) != 1 or not value.pristine or value.parts[0].state.tensor.dim() != 2
    ):  # fmt: skip
        raise _computed(op)
    _project(op, value.parts[0], side, (first, second)[1 - side], bias)


def _project(op: Operation, part: Part, side: int, data: Tensor, bias: object) -> None:
    """Matrix product of data and a parameter's view, which stands at `side`."""
    recorder, state = op.recorder, part.state
    rows, columns = _coordinates(op, part)
    # Written as data @ w: w's first dimension is summed over, its second is made.
    (read, read_at), (made, made_at) = (rows, columns) if side == 1 else (columns, rows)
    dimension = -1 if side == 1 else -2
    across = dimension % data.dim()
    known = recorder.labels(data)
    if known is not None and varying(known) and across not in varying(known):
        # Positions are mixed, each channel by itself: sizes of positions do not change.
        recorder.set_labels(op.result, known.narrow(across, 0, 1).expand(op.result.shape))
        return
    labels = _channels(op, data, dimension)
    if labels is not None:
        recorder.use(state, read, READS, labels, read_at)
    outputs = recorder.produce(state, made, made_at)
    _bias(op, bias, outputs)
    recorder.set_labels(op.result, _lay_out(outputs, dimension, op.result.shape))


def _coordinates(op: Operation, part: Part) -> tuple[tuple[int, Tensor | None], tuple[int, Tensor | None]]:
    """For a matrix that is a view of one: which of the parameter's dimensions, and which positions, each of its has."""
    if part.elements is None:
        return ((1, None), (0, None)) if part.transposed else ((0, None), (1, None))
    across = part.state.tensor.shape[1]
    first, second = part.elements // across, part.elements % across
    if bool((first == first[:, :1]).all()) and bool((second == second[:1]).all()):
        return (0, first[:, 0]), (1, second[0])
    if bool((first == first[:1]).all()) and bool((second == second[:, :1]).all()):
        return (1, second[:, 0]), (0, first[0])
    raise _computed(op)


def _repeated(value: Value) -> Part | None:
    """The one matrix in a batch of copies of it, which a linear layer without gradients may make; else None."""
    elements = value.parts[0].elements
    if len(value.parts) != 1 or not value.pristine or value.parts[0].state.tensor.dim() != 2 or elements is None:
        return None
    same = not elements.stride(0) or bool((elements == elements[:1]).all())
    return Part(value.parts[0].state, elements[0]) if same else None


def batched_product(op: Operation) -> None:
    """`bmm` and `baddbmm`: products of activations, batch by batch."""
    tensors = op.args[-2:] if op.name == "bmm" else op.args[1:3]
    values = [op.recorder.value(tensor) for tensor in tensors]
    for side, value in enumerate(values):
        if value is not None and value.labels is None:
            part = _repeated(value)
            if part is not None and op.name == "bmm":
                _project(op, part, side, tensors[1 - side], None)
                return
            raise GraphError(
                f"{op.name} in {op.recorder.where()} multiplies with the parameter {value.parts[0].state.name} batch "
                "by batch, which cannot be followed; use a linear layer"
            )
    extra = [op.args[0]] if op.name == "baddbmm" else []
    _product(op, tensors[0], tensors[1], [value and value.labels for value in values], op.result.shape, extra)


def _product(op: Operation, first: Tensor, second: Tensor, labels, shape: torch.Size, extra=()) -> None:
    recorder = op.recorder
    found = _contract(recorder, labels, (2, 1), op.name)
    values = [Value(labels=compress(item.expand(shape))) for item in found if item is not None]
    known = [recorder.value(tensor) for tensor in extra]
    values += [value for value in known if value is not None]
    plain = [tensor for tensor, value in zip(extra, known, strict=True) if value is None]
    joined = recorder.join(shape, values, plain, op.name) if values else None
    if joined is not None and joined.labels is not None and op.result.dim() < len(shape):
        joined = Value(labels=joined.labels[0])
    recorder.set(op.result, joined)


def _contract(recorder: Recorder, labels, dimensions: tuple[int, int], what: str) -> list[Tensor | None]:
    """Follows a sum of products over a dimension of each of two tensors: the labels left, at size 1 there."""
    crossing = [
        item is not None and dimension in varying(item) for item, dimension in zip(labels, dimensions, strict=True)
    ]
    if any(crossing):
        for item, other, dimension in zip(labels, labels[::-1], dimensions, strict=True):
            if item is not None and dimension in varying(item) and other is None:
                recorder.freeze(item, f"{what} in {recorder.where()} sums over them with a tensor of fixed size")
        if all(crossing):
            lines = [shrink(item.movedim(dimension, -1)) for item, dimension in zip(labels, dimensions, strict=True)]
            if lines[0].shape[:-2] == lines[1].shape[:-2] and lines[0].shape[-1] == lines[1].shape[-1]:
                recorder.link(lines[0][..., :1, :], lines[1][..., :1, :])
    left: list[Tensor | None] = []
    for item, dimension in zip(labels, dimensions, strict=True):
        merged = None if item is None else recorder.merge(item, [dimension], False, what)
        left.append(merged if merged is not None and bool(merged.any()) else None)
    return left


def attention(op: Operation) -> None:
    """Scaled dot-product attention on `num x heads x tokens x size`: the heads are the units."""
    recorder = op.recorder
    query, key, value = op.args[:3]
    labels = [recorder.labels(tensor) for tensor in (query, key, value)]
    heads = query.shape[1]
    for number, tensor in ((1, key), (2, value)):
        item = labels[number]
        if item is not None and tensor.shape[1] != heads:
            labels[number] = compress(item.repeat_interleave(heads // tensor.shape[1], 1))
    scores = torch.Size([*query.shape[:3], key.shape[2]])
    found = _contract(recorder, labels[:2], (3, 3), op.name)
    found = [found[0], None if found[1] is None else found[1].transpose(2, 3)]
    mask = op.argument("attn_mask")
    mask = op.argument("attn_bias") if mask is None else mask
    values = [Value(labels=compress(item.expand(scores))) for item in found if item is not None]
    known = recorder.value(mask)
    plain = [mask] if isinstance(mask, Tensor) and known is None else []
    if known is not None:
        values.append(known)
    joined = recorder.join(scores, values, plain, op.name) if values else None
    weights = None if joined is None else joined.labels
    out = torch.Size([*query.shape[:3], value.shape[3]])
    found = _contract(recorder, [weights, labels[2]], (3, 2), op.name)
    values = [Value(labels=compress(item.expand(out))) for item in found if item is not None]
    joined = recorder.join(out, values, [], op.name) if values else None
    recorder.set(op.results()[0], joined)


def batch_norm(op: Operation) -> None:
    """Each channel of `num x channels x space...` has its own statistics, scale and shift."""
    recorder = op.recorder
    labels = _channels(op, op.args[0], 1)
    if labels is None:
        return
    for name in ("weight", "bias", "running_mean", "running_var"):
        _bias(op, op.argument(name), labels)
    recorder.set_labels(op.results()[0], _lay_out(labels, 1, op.results()[0].shape))


def group_norm(op: Operation) -> None:
    """Channels of one group share their statistics: the groups are the units."""
    recorder = op.recorder
    labels = _channels(op, op.args[0], 1)
    if labels is None:
        return
    groups = op.argument("group")
    if groups == 1:
        recorder.uniform(labels, f"{op.name} in {recorder.where()} is taken over them")
    else:
        rows = labels.view(groups, -1)
        recorder.link(rows, rows[:, :1])
    for name in ("weight", "bias"):
        _bias(op, op.argument(name), labels)
    recorder.set_labels(op.results()[0], _lay_out(labels, 1, op.results()[0].shape))


def layer_norm(op: Operation) -> None:
    """Statistics over the last dimensions: the same after a division of all channels together."""
    recorder = op.recorder
    labels = recorder.labels(op.args[0])
    if labels is None:
        return
    num = len(op.argument("normalized_shape"))
    recorder.merge(labels, range(labels.dim() - num, labels.dim()), True, op.name)
    for name in ("weight", "bias"):
        value = recorder.value(op.argument(name))
        if value is not None:
            recorder.join(labels.shape, [Value(labels=labels), value], [], op.name)
    recorder.set_labels(op.results()[0], labels)


def embedding(op: Operation) -> None:
    """Rows of a table."""
    state = _raw(op, op.argument("weight"))
    if state is None:
        raise _computed(op)
    labels = op.recorder.produce(state, 1)
    op.recorder.set_labels(op.result, _lay_out(labels, -1, op.result.shape))


def restrided(op: Operation) -> None:
    """`as_strided_` to a contiguous tensor of the same number of elements changes no element's place."""
    value = op.recorder.value(op.args[0])
    if value is None:
        return
    known = value.labels
    if known is None or known.shape != op.result.shape or not op.result.is_contiguous():
        where = op.recorder.where()
        raise GraphError(f"{op.func._schema.name} in {where} moves channels in a way that is not followed")


def like(op: Operation) -> None:
    """A new tensor of the first argument's shape."""
    labels = op.recorder.labels(op.args[0])
    if labels is not None and op.result.shape == op.args[0].shape:
        op.recorder.set_labels(op.result, labels)


def fixed(op: Operation) -> None:
    """A result that depends on no channel and does not follow their number."""


KINDS: dict[str, tuple[Rule, str]] = {
    "unchanged": (same, "detach alias clone contiguous _to_copy lift_fresh to _conj view_as copy_to"),
    "element-wise": (
        pointwise,
        "abs add add_ addcdiv addcmul atan bitwise_and bitwise_not bitwise_or bernoulli_ celu clamp clamp_ clamp_max "
        "clamp_min clamp_min_ copy_ cos div div_ dropout elu elu_ eq erf exp exp_ expm1 floor fmod ge gelu gelu_ gt "
        "hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ isinf isnan le leaky_relu leaky_relu_ lerp "
        "log log1p log_sigmoid_forward logical_and logical_not logical_or lt masked_fill masked_fill_ maximum minimum "
        "mish mish_ mul mul_ native_dropout ne neg pow prelu _prelu_kernel reciprocal relu relu6 relu_ remainder round "
        "rrelu_with_noise rsqrt rsub selu selu_ sigmoid sigmoid_ sign silu silu_ sin softplus softshrink sqrt square "
        "sub sub_ tanh tanh_ threshold threshold_ where floor_divide rsqrt_ neg_ pow_ sqrt_ log2",
    ),
    "re-striding": (restrided, "as_strided_"),
    "overwriting": (written, "zero_ fill_"),
    "moving": (
        moved,
        "_reshape_alias _unsafe_view as_strided_copy diagonal expand flip index index_select movedim "
        "permute pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d repeat repeat_interleave "
        "replication_pad1d replication_pad2d reshape roll select slice squeeze t transpose unsqueeze view unfold",
    ),
    "padding": (padded, "constant_pad_nd"),
    "splitting": (split, "split split_with_sizes unbind chunk tensor_split unsafe_split unsafe_chunk"),
    "gating": (gated, "glu"),
    "concatenating": (concatenated, "cat concat"),
    "pooling and resizing": (
        pooled,
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d "
        "adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices "
        "max_pool3d_with_indices upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d "
        "upsample_nearest2d upsample_nearest3d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
        "_upsample_nearest_exact2d grid_sampler_2d",
    ),
    "averaging": (averaged, "mean var std var_mean std_mean"),
    "summing": (reduced, "sum prod norm linalg_vector_norm logsumexp nansum"),
    "largest": (largest, "amax amin max min argmax argmin any all"),
    "along a dimension": (
        along_dimension,
        "_softmax _safe_softmax _log_softmax cumsum cumprod sort softmax log_softmax logcumsumexp",
    ),
    "convolution": (convolution, "convolution _convolution"),
    "linear": (linear, "addmm mm"),
    "products of activations": (batched_product, "bmm baddbmm"),
    "attention": (
        attention,
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable",
    ),
    "batch norm": (
        batch_norm,
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
        "miopen_batch_norm _batch_norm_with_update _batch_norm_no_update",
    ),
    "group norm": (group_norm, "native_group_norm"),
    "layer norm": (layer_norm, "native_layer_norm _fused_rms_norm"),
    "embedding": (embedding, "embedding"),
    "new tensor of the same shape": (
        like,
        "empty_like zeros_like ones_like full_like rand_like randn_like new_empty_strided",
    ),
    "new tensor": (fixed, "new_zeros new_empty new_full new_ones _local_scalar_dense is_nonzero item sym_size"),
}

for _rule, _names in KINDS.values():
    for _name in _names.split():
        RULES[f"aten::{_name}"] = _rule
