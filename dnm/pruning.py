"""Which units a network can do without, for a rise of the loss that is allowed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dnm.choice import multiple_of
from dnm.cost import Cost
from dnm.detect.estimates import Estimate
from dnm.detect.importance import unit_importance
from dnm.edits import Prune
from dnm.events import Row
from dnm.graph import Graph
from dnm.policy import Policy
from dnm.sandbox import Sandbox


def choose(
    model: nn.Module,
    graph: Graph,
    loss: Callable[[], Tensor],
    inputs: Tensor | tuple | dict,
    cost: Cost,
    policy: Policy,
    limit: float,
) -> tuple[list[Prune], list[Row]]:
    """Takes the units whose removal raises the loss least, in the policy's multiples, while the sum stays in the limit.

    Args:
        model: not changed.
        graph: its channel groups.
        loss: on the probe batch, a mean over samples.
        inputs: example inputs, for counting.
        cost: of the model.
        policy: multiples.
        limit: predicted rise of the loss that all removals together may cost, nats. Predicted falls do not make room
            for more.

    Returns:
        One edit per group that loses units, and one row for each group that was looked at. A group keeps at least one
        multiple of units.
    """
    importance = {
        name: changes for name, changes in unit_importance(model, graph, loss).items() if not policy.excludes(name)
    }
    # Whole multiples of a group, cheapest units first, with their predicted rise of the loss.
    bundles: list[tuple[float, str, tuple[int, ...]]] = []
    for name, changes in importance.items():
        rises = changes.clamp(min=0.0).cpu()
        order = torch.argsort(rises, stable=True).tolist()
        size = multiple_of(len(order), policy)
        # What is left is a whole multiple as well, where the group was none.
        first = len(order) % size or size
        starts = [0, *range(first, len(order) - size, size)]
        for start, end in zip(starts, [*starts[1:], len(order) - size], strict=True):
            if end > start:
                units = tuple(order[start:end])
                bundles.append((rises[list(units)].sum().item(), name, units))
    chosen: dict[str, list[int]] = {}
    rises_of = dict.fromkeys(importance, 0.0)
    closed: set[str] = set()
    total = 0.0
    # A group's bundles are in order: once one is refused, so are those behind it.
    for rise, name, units in sorted(bundles, key=lambda item: item[0] / len(item[2])):
        if name in closed or total + rise > limit:
            closed.add(name)
            continue
        total += rise
        rises_of[name] += rise
        chosen.setdefault(name, []).extend(units)
    edits = [Prune(name, tuple(units)) for name, units in chosen.items()]
    sandbox = Sandbox(model, graph, inputs)
    after = {edit.group: sandbox.after([edit]) for edit in edits}
    rows = []
    for name in importance:
        smaller = after.get(name)
        rows.append(
            Row(
                operator="Prune",
                place=name,
                figures={},
                covariates={},
                gain=Estimate(-rises_of[name], float("nan")),
                price=0.0,
                added_parameters=smaller.parameters - cost.parameters if smaller else 0,
                added_flops=smaller.training - cost.training if smaller else 0,
                taken=name in chosen,
                reason=f"{len(chosen[name])} units" if name in chosen else "its units are needed",
            )
        )
    return edits, rows
