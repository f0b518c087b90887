"""The channel groups of a model: which tensors change width together, read off one forward pass.

Labels that met anywhere are one *unit* (connected components); units that stand in the same dimensions of the same
tensors are one *group*. In every such dimension a group's units stand in *blocks*: all of them, in one order, each at
the same number of neighbouring places (a channel behind a flatten owns height x width columns). A division puts the new
units at the end of every block, which is where the model's own code will look for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from dnm import layers
from dnm.calling import call
from dnm.errors import DnmError, EditError, GraphError
from dnm.recording import PRODUCES, READS, Functions, Recorder, State, along, unseen, untouched, varying
from dnm.rules import RULES

# What a model may return beside tensors.
PLAIN = (bool, int, float, complex, str, torch.Size, torch.dtype, torch.device)


@dataclass(frozen=True)
class Member:
    """One dimension of one tensor in which a group's units stand.

    Attributes:
        tensor: name of the parameter or buffer.
        dimension: which of its dimensions.
        reads: whether the entries weigh what other layers made of the units (the outgoing weights); else they make,
            scale or shift the units.
        starts: position at which each block begins.
        repeat: neighbouring positions that a unit has in a block.
    """

    tensor: str
    dimension: int
    reads: bool
    starts: tuple[int, ...]
    repeat: int


@dataclass(frozen=True)
class Group:
    """Channels that change in number together.

    Attributes:
        name: path of the layer that makes the channels (the first, where there are several); the name in edits.
        width: number of units. A unit is one channel, or what cannot be parted: a head, a group of a grouped
            convolution.
        divisible: whether the number of units may change.
        reason: why not, where `divisible` is false; else empty.
        uniform: whether only all units can be divided together, as a norm is taken over them.
        exact_in_train: whether a division is exact in train mode as well; dropout masks copies differently.
        members: where the units stand.
    """

    name: str
    width: int
    divisible: bool
    reason: str = ""
    uniform: bool = False
    exact_in_train: bool = True
    members: tuple[Member, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Place:
    """A module that returns one tensor of known channels: where a branch can be inserted.

    Attributes:
        path: of the module.
        channels: their number.
        dimension: of the result in which they stand: 1, or -1 for the last.
        num_dimensions: of the result.
        positions: its other sizes, the first dimension aside.
        near: name of the tensor that makes the channels.
    """

    path: str
    channels: int
    dimension: int
    num_dimensions: int
    positions: tuple[int, ...]
    near: str


@dataclass(frozen=True)
class Graph:
    """The channel groups of a model, in the order in which the data passes them, and the places between.

    Attributes:
        groups: the channel groups.
        places: where a branch can be inserted.
        called: paths of the modules whose own forward ran; others are read by their parents, not called.
    """

    groups: tuple[Group, ...]
    places: tuple[Place, ...] = field(default=(), repr=False)
    called: frozenset[str] = field(default=frozenset(), repr=False)

    def group(self, name: str) -> Group:
        """The group called `name`.

        Raises:
            EditError: there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(group.name for group in self.groups)
        raise EditError(f"group {name!r} does not exist; the groups of this model are: {known}")


def trace(model: nn.Module, example_inputs: Tensor | tuple | dict) -> Graph:
    """Reads the channel groups of a model from one forward pass on `example_inputs`.

    The pass runs in eval mode; a second one in train mode follows where parameters took no part in the first (auxiliary
    heads) and where there is attention, which may drop weights. Where sizes stand in the model's code as numbers, more
    passes with widened layers find out which of them follow.

    Args:
        model: any module; left as found (mode, buffers, gradients, random state).
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments.

    Returns:
        The groups. Those that reach the model's output are never divisible.

    Raises:
        GraphError: an operation is not known, a weight is not a parameter as it lies, or the model does not run.
    """
    layers.refuse_wrappers(model)
    recorder, outputs = _read(model, example_inputs)
    with unseen():
        groups = _groups(recorder)
    if recorder.doubtful:
        groups = _those_that_follow(model, example_inputs, groups, [tensor.shape for tensor in outputs])
    places = tuple(place for place in recorder.places.values() if place is not None)
    return Graph(tuple(groups), places, frozenset(recorder.called))


def _read(model: nn.Module, example_inputs) -> tuple[Recorder, list[Tensor]]:
    """Records the passes that `trace` speaks of; also returns the outputs in eval mode, of which the shapes count.

    Convolutions and matrix products are not worked out, unless the model's code, or a hook in it, may look at values.
    """
    if not layers.hooked(model):
        try:
            return _passes(Recorder(model, RULES, arithmetic=False), model, example_inputs)
        except Exception:
            # Values may be needed. If not, the pass with them says what is wrong.
            pass
    return _passes(Recorder(model, RULES), model, example_inputs)


def _passes(recorder: Recorder, model: nn.Module, example_inputs) -> tuple[Recorder, list[Tensor]]:
    try:
        outputs = _record(recorder, model, example_inputs, training=False)
        # Attention is told its dropout in train mode only.
        states = recorder.states.values()
        if recorder.attends or any(
            isinstance(s.tensor, nn.Parameter) and s.name not in recorder.touched for s in states
        ):
            _record(recorder, model, example_inputs, training=True)
    finally:
        recorder.forget()
    layers.tie(recorder)
    return recorder, outputs


def _record(recorder: Recorder, model: nn.Module, example_inputs, training: bool) -> list[Tensor]:
    names = {id(module): name or type(module).__name__ for name, module in recorder.paths}

    def enter(module: nn.Module, inputs) -> None:
        if id(module) in names:
            recorder.stack.append(f"{names[id(module)]} ({type(module).__name__})")

    def leave(module: nn.Module, inputs, outputs) -> None:
        if id(module) in names and recorder.stack:
            recorder.stack.pop()
            recorder.called.add(names[id(module)])
            if isinstance(outputs, Tensor) and module is not model and not training:
                labels = recorder.labels(outputs) if outputs.is_floating_point() else None
                returned.append((names[id(module)], outputs.shape, labels))

    returned: list[tuple[str, torch.Size, Tensor | None]] = []
    recorder.stack.clear()
    hooks = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave),
    ]
    try:
        with untouched(model, training), torch.no_grad(), Functions(recorder):
            recorder.identify()
            with recorder:
                outputs = call(model, example_inputs)
    except DnmError:
        raise
    except Exception as error:
        mode = "train" if training else "eval"
        raise GraphError(
            f"{type(model).__name__} does not run on the example inputs in {mode} mode: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        recorder.identify()
    found = tensors_in(outputs)
    for tensor in found:
        recorder.freeze(recorder.labels(tensor), "the model's output width never changes")
    with unseen():
        for path, shape, labels in returned:
            _note_place(recorder, path, shape, labels)
    return found


def _note_place(recorder: Recorder, path: str, shape: torch.Size, labels: Tensor | None) -> None:
    """Notes that a module returned known channels; one that returns others at another call is no place."""
    dimensions = list(varying(labels)) if labels is not None else []
    last = len(shape) - 1
    line = along(labels, dimensions[0]) if labels is not None and len(dimensions) == 1 else None
    if line is None or dimensions[0] not in (1, last) or not dimensions[0]:
        recorder.places[path] = None
        return
    near = recorder.maker(int(line[0]))
    positions = tuple(size for dimension, size in enumerate(shape) if dimension not in (0, dimensions[0]))
    place = Place(path, len(line), 1 if dimensions[0] == 1 else -1, len(shape), positions, near)
    if recorder.places.setdefault(path, place) != place:
        recorder.places[path] = None


def tensors_in(outputs: object) -> list[Tensor]:
    """All tensors in what a model returns.

    Raises:
        GraphError: a part of it is neither a tensor, a plain value nor a container of such.
    """
    found: list[Tensor] = []
    for leaf in _pytree.tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, dict):
            found += tensors_in(dict(leaf))
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, type):
            found += tensors_in(vars(leaf))
        elif not (leaf is None or isinstance(leaf, PLAIN)):
            raise GraphError(f"the model returns a {type(leaf).__name__}, in which no tensors can be found")
    return found


def _groups(recorder: Recorder) -> list[Group]:
    """From what was recorded to groups."""
    # Half a second, which only a process that traces is to pay.
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    num = recorder.num_labels + 1
    ends = [torch.cat([pair[side] for pair in recorder.edges]) for side in (0, 1)] if recorder.edges else [[], []]
    first, second = (np.asarray(side, dtype=np.int64) for side in ends)
    kept = (first > 0) & (second > 0)
    first, second = first[kept], second[kept]
    matrix = coo_matrix((np.ones(len(first), np.int8), (first, second)), shape=(num, num))
    num_units, unit_of = connected_components(matrix, directed=False)

    # Every (state, dimension) with labels is a column; a unit is a row that counts its positions in each.
    columns: list[tuple[State, int]] = []
    unit_rows: list[np.ndarray] = []
    roles: dict[tuple[str, int], set[str]] = {}
    for use in recorder.uses:
        roles.setdefault((use.state.name, use.dimension), set()).add(use.role)
    for state in recorder.by_name.values():
        for dimension, labels in sorted(state.labels.items()):
            columns.append((state, dimension))
            unit_rows.append(unit_of[labels.numpy()])
    rows = np.concatenate(unit_rows) if unit_rows else np.zeros(0, np.int64)
    places = np.repeat(np.arange(len(columns)), [len(row) for row in unit_rows])
    counts = coo_matrix((np.ones(len(rows), np.int64), (rows, places)), shape=(num_units, len(columns))).tocsr()
    counts.sum_duplicates()
    notes = _notes(recorder, unit_of)

    column_number = {(state.name, dimension): number for number, (state, dimension) in enumerate(columns)}
    ordered, makers = _in_order(recorder, unit_rows, column_number)
    reads_of: dict[int, list] = {}
    for use in recorder.uses:
        reads_of.setdefault(column_number[use.state.name, use.dimension], []).append(use)
    origin = _origins(recorder, columns)

    groups, names = [], {}
    # Of each unit its number in the group that is looked at, -1 outside of it.
    rank = np.full(num_units, -1, np.int64)
    for chosen in _alike(counts, notes, ordered):
        units = ordered[chosen]
        found = counts.indices[counts.indptr[units[0]] : counts.indptr[units[0] + 1]].tolist()
        name = makers[chosen[0]].rpartition(".")[0]
        names[name] = names.get(name, 0) + 1
        if names[name] > 1:
            name = f"{name}#{names[name]}"
        frozen, uniform, dropped = (table.get(int(units[0]), "") for table in notes)
        rank[units] = np.arange(len(units))
        members, reason = [], frozen
        for number in found:
            state, dimension = columns[number]
            role = roles[state.name, dimension]
            if not reason and role == {PRODUCES, READS}:
                reason = f"{state.name} both makes and reads them (tied weights)"
            blocks = _blocks(rank[unit_rows[number]], len(units))
            if blocks is None or not _orderly(reads_of[number], blocks, len(units), origin):
                reason = reason or f"they stand in {state.name} in an order that growth at the end would not keep"
                continue
            members.append(Member(state.name, dimension, READS in role, *blocks))
        rank[units] = -1
        if not any(member.reads for member in members) and not reason:
            reason = "no layer with weights reads them"
        groups.append(
            Group(name, len(units), not reason, reason, bool(uniform), not dropped, tuple(members))
        )  # fmt: skip
    return groups


def _in_order(recorder: Recorder, unit_rows: list[np.ndarray], column_number: dict) -> tuple[np.ndarray, list[str]]:
    """The units that layers make, in the order in which data passes them, and the name of each one's tensor."""
    produced = {id(state) for state in recorder.produced}
    made = [use for use in recorder.uses if use.role is PRODUCES and id(use.state) in produced]
    pieces = [unit_rows[column_number[use.state.name, use.dimension]][use.positions.numpy()] for use in made]
    if not pieces:
        return np.zeros(0, np.int64), []
    units, first = np.unique(np.concatenate(pieces), return_index=True)
    order = np.argsort(first)
    piece = np.repeat(np.arange(len(pieces)), [len(item) for item in pieces])[first[order]]
    return units[order], [made[number].state.name for number in piece.tolist()]


def _alike(counts: Any, notes: tuple[dict[int, str], ...], units: np.ndarray) -> list[np.ndarray]:
    """Indices into `units` of those that stand in the same dimensions equally often and have the same notes."""
    if not len(units):
        return []
    # Two random sums tell two rows apart but with a chance of 2^-106.
    weights = np.random.default_rng(0).integers(1, 2**53, (counts.shape[1], 2))
    keys = [(counts @ weights)[units]]
    for table in notes:
        numbers = {reason: number + 1 for number, reason in enumerate(dict.fromkeys(table.values()))}
        column = np.zeros(counts.shape[0], np.int64)
        column[list(table)] = [numbers[reason] for reason in table.values()]
        keys.append(column[units, None])
    _, first, inverse = np.unique(np.concatenate(keys, axis=1), axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    by_key = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    return [by_key[number] for number in np.argsort(first).tolist()]


def _notes(recorder: Recorder, unit_of: np.ndarray) -> tuple[dict[int, str], ...]:
    """Per unit: why it is frozen, why it is uniform, whether dropout masks it."""
    tables: list[dict[int, str]] = []
    frozen = [*recorder.frozen, *(_parted(unit_of, labels, reason) for labels, reason in recorder.fixed)]
    for notes in (frozen, recorder.uniforms, [(labels, "dropout") for labels in recorder.dropped]):
        table: dict[int, str] = {}
        for labels, reason in notes:
            for unit in np.unique(unit_of[labels[labels > 0].numpy()]).tolist():
                table.setdefault(unit, reason)
        tables.append(table)
    return tuple(tables)


def _parted(unit_of: np.ndarray, labels: Tensor, reason: str) -> tuple[Tensor, str]:
    """The labels on those lines along the last dimension on which they belong to different units."""
    lines = labels.reshape(-1, labels.shape[-1])
    units = unit_of[lines.numpy()]
    return lines[torch.from_numpy((units != units[:, :1]).any(axis=1))].reshape(-1), reason


def _blocks(ranks: np.ndarray, width: int) -> tuple[tuple[int, ...], int] | None:
    """Where the blocks of a group begin in a dimension, and how many positions a unit has in one; None: no blocks.

    Args:
        ranks: the number in the group of the unit at each position, -1 for others.
        width: number of units.
    """
    # All of the dimension, in order: what nearly every member is.
    if len(ranks) == width and np.array_equal(ranks, np.arange(width)):
        return (0,), 1
    positions = np.flatnonzero(ranks >= 0)
    sequence = ranks[positions]
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    if width == 1:
        starts = positions[np.concatenate([[0], breaks])]
        lengths = np.diff(np.concatenate([[0], breaks, [len(positions)]]))
        return (tuple(starts.tolist()), int(lengths[0])) if len(set(lengths.tolist())) == 1 else None
    changes = np.flatnonzero(np.diff(sequence))
    repeat = int(changes[0]) + 1 if len(changes) else len(sequence)
    size = repeat * width
    if len(sequence) % size or set((breaks % size).tolist()) - {0}:
        return None
    expected = np.tile(np.repeat(np.arange(width), repeat), len(sequence) // size)
    if not np.array_equal(sequence, expected):
        return None
    return tuple(positions[::size].tolist()), repeat


def _origins(recorder: Recorder, columns: list[tuple[State, int]]) -> tuple[np.ndarray, np.ndarray]:
    """For every label: the number of its dimension, and its position there."""
    numbers = np.zeros(recorder.num_labels + 1, np.int64)
    positions = np.zeros(recorder.num_labels + 1, np.int64)
    for number, (state, dimension) in enumerate(columns):
        labels = state.labels[dimension].numpy()
        numbers[labels], positions[labels] = number, np.arange(len(labels))
    return numbers, positions


def _orderly(uses: list, blocks: tuple[tuple[int, ...], int], width: int, origin) -> bool:
    """Whether every unit of a block got its positions from its source in the same manner as the others.

    Only then does a unit that is put at the end of the source's block arrive at the end of this one.
    """
    starts, repeat = blocks
    places = np.concatenate([np.arange(start, start + repeat * width) for start in starts])
    for use in uses:
        at, own = use.positions.numpy(), use.labels.numpy()
        # All of another dimension, in order: what nearly every use is.
        whole = blocks == ((0,), 1) and len(own) == width and own[0] > 0 and origin[0][own[0]] == origin[0][own[-1]]
        if whole and np.array_equal(at, places) and np.array_equal(own, own[0] + places):
            continue
        seen = np.full(int(places.max()) + 1, 0, np.int64)
        inside = at <= places.max()
        seen[at[inside]] = own[inside]
        labels = seen[places].reshape(len(starts), width, repeat)
        # A use may see some of the blocks only (the queries' rows of a projection that keys and values share).
        labels = labels[labels.any(axis=(1, 2))]
        if not len(labels):
            continue
        numbers, steps = origin[0][labels], origin[1][labels]
        if (numbers != numbers[:, :1]).any():
            return False
        if width == 1:
            if (np.diff(steps, axis=2) < 0).any() or (numbers != numbers[..., :1]).any():
                return False
            continue
        strides = np.diff(steps, axis=1)
        # From one unit to the next, each of its places moves on by the size that a unit has in its source.
        if (strides != strides[:, :1]).any() or (strides <= 0).any():
            return False
    return True


def _those_that_follow(model: nn.Module, example_inputs, groups: list[Group], expected: list) -> list[Group]:
    """Tries the model with widened layers; groups that its code does not follow get the reason."""

    def follow(numbers: list[int]) -> bool:
        with layers.widened(model, [groups[number] for number in numbers]):
            try:
                recorder, outputs = _read(model, example_inputs)
                with unseen():
                    found = {group.name: group for group in _groups(recorder)}
            except Exception:
                return False
        if [tensor.shape for tensor in outputs] != expected:
            return False
        # Sizes that fit by chance (a view in two halves of three groups) leave the units in another order.
        return all(_wider(groups[number]) == _form(found.get(groups[number].name)) for number in numbers)

    def stiff(numbers: list[int]) -> list[int]:
        if not numbers or follow(numbers):
            return []
        if len(numbers) == 1:
            return numbers
        half = len(numbers) // 2
        return stiff(numbers[:half]) + stiff(numbers[half:])

    result = list(groups)
    for number in stiff([number for number, group in enumerate(groups) if group.divisible]):
        reason = "the model's code holds their number fixed (a view, a split or a check)"
        result[number] = replace(groups[number], divisible=False, reason=reason)
    return result


def _form(group: Group | None) -> tuple | None:
    """What a group must keep when it grows, and its width."""
    if group is None:
        return None
    members = [(m.tensor, m.dimension, m.reads, len(m.starts), m.repeat) for m in group.members]
    return group.width, group.divisible, group.uniform, members


def _wider(group: Group) -> tuple | None:
    """What `_form` should be once the group is wider by the least that is possible."""
    added = group.width if group.uniform else 1
    return _form(replace(group, width=group.width + added))
