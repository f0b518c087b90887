"""A copy of a model in which edits are tried, to count what the model would cost after them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree

from dnm import journal
from dnm.cost import Work, count_ahead, count_work
from dnm.edits import Edit
from dnm.errors import DnmError
from dnm.graph import Graph, trace


class Sandbox:
    """Counts what a model would have to compute after edits: they are made on a copy of it and taken back.

    Args:
        model: the model; not changed. One that is changed later needs another sandbox.
        graph: its channel groups.
        inputs: example inputs.
    """

    def __init__(self, model: nn.Module, graph: Graph, inputs: Tensor | tuple | dict) -> None:
        self._model = model
        self._graphs: dict[tuple[Edit, ...], Graph] = {(): graph}
        self._inputs = _pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), inputs)
        self._begin()
        ahead = self._counted(count_ahead)
        self._count = count_ahead if ahead is not None and ahead == self._counted(count_work) else count_work

    def _counted(self, counting: Callable[[nn.Module, Any], Work]) -> Work | None:
        with contextlib.suppress(DnmError):
            return counting(self._copy.eval(), self._inputs)
        return None

    def after(self, edits: Sequence[Edit]) -> Work | None:
        """What the model would have to compute after edits, one after the other; None where they do not fit it.

        Lists that share all but their last edit with one before are counted sooner than others.
        """
        *first, last = edits
        if self._taken != first[: len(self._taken)]:
            self._begin()
        try:
            for edit in first[len(self._taken) :]:
                self._carry_out(edit)
                self._taken.append(edit)
            restore = self._carry_out(last)
        except DnmError:
            # How far it came is not known.
            self._begin()
            return None
        try:
            return self._counted(self._count)
        finally:
            restore()

    def graph(self, edits: Sequence[Edit]) -> Graph | None:
        """The model's channel groups after edits, where others were counted on top of them; None elsewhere."""
        return self._graphs.get(tuple(edits))

    def _begin(self) -> None:
        self._copy = copy.deepcopy(self._model).cpu()
        self._taken: list[Edit] = []

    def _carry_out(self, edit: Edit):
        taken = tuple(self._taken)
        if taken not in self._graphs:
            self._graphs[taken] = trace(self._copy, self._inputs)
        operator = journal.OPERATORS[type(edit).__name__][1]
        plan = operator.plan(self._copy, self._graphs[taken], edit, self._inputs)
        return operator.carry_out(self._copy, edit, plan)
