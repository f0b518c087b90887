"""What could be done to a network, what each of it would cost, and which of it pays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dnm.calibration import Calibration, Terms
from dnm.cost import Cost, Work
from dnm.detect import bottleneck
from dnm.detect.bottleneck import Figures
from dnm.detect.estimates import Estimate
from dnm.detect.new_gradient import new_gradients
from dnm.detect.probe import Probe
from dnm.edits import AddAttention, AddResidual, Connect, Divide, Edit
from dnm.events import Row
from dnm.graph import Graph, Place
from dnm.operators.branch import Gated, Residual
from dnm.policy import Outlook, Policy
from dnm.sandbox import Sandbox
from dnm.surgery import possible


@dataclass(frozen=True)
class Candidate:
    """An edit that could be taken, and what it would do to the network as it is.

    Attributes:
        edit: the edit.
        place: what it acts on.
        figures: of its place.
        terms: what its gain is predicted from.
        added_parameters: by it.
        added_flops: of a forward and backward pass of one sample, by it.
        tried_flops: what it took to know that: a pass of one sample for each size that was tried.
    """

    edit: Edit
    place: str
    figures: Figures
    terms: Terms
    added_parameters: int
    added_flops: int
    tried_flops: int


def candidates(
    model: nn.Module,
    graph: Graph,
    seen: Probe,
    measured: Mapping[str, Figures],
    inputs: Tensor | tuple | dict,
    sandbox: Sandbox,
    cost: Cost,
    policy: Policy,
    *,
    seed: int = 0,
) -> list[Candidate]:
    """Every edit that the policy's operators allow here and that its limits leave room for.

    Args:
        model: the model; not changed.
        graph: its channel groups.
        seen: the probe's record of it.
        measured: its layers' figures; see `dnm.detect.bottleneck.measure`.
        inputs: example inputs, for planning.
        sandbox: of the model.
        cost: of the model.
        policy: operators, sizes, limits.
        seed: of what the edits draw.

    Returns:
        One candidate per operator and place, in the order of the data; a division is as large as the policy asks for,
        or as large as its limits allow.
    """
    found = []
    for edit in _edits(model, graph, seen, inputs, policy, seed):
        if policy.excludes(place_of(edit)):
            continue
        fitted = _fitted(sandbox, graph, edit, policy)
        if fitted is None:
            continue
        edit, after, tried = fitted
        terms = Terms(type(edit).__name__, _growth(graph, edit), {})
        figures = _figures(measured, model, graph, edit)
        added = after.parameters - cost.parameters, after.training - cost.training
        found.append(Candidate(edit, place_of(edit), figures, terms, *added, tried))
    rows = bottleneck.covariates([item.figures for item in found], policy.theories)
    return [
        replace(item, terms=replace(item.terms, covariates=row)) for item, row in zip(found, rows, strict=True)
    ]  # fmt: skip


def with_new_gradients(
    found: Sequence[Candidate],
    model: nn.Module,
    graph: Graph,
    loss: Callable[[], Tensor],
    inputs: Tensor | tuple | dict,
) -> list[Candidate]:
    """The candidates with growth measured in gradient as well as in size.

    An edit's growth becomes the geometric mean of the e-foldings that it adds to the network's size and of the share
    that it adds to the gradient: a part of the network that the loss does not ask for counts little however large it
    is, and one that it asks for counts even where it is small.

    Args:
        found: the candidates.
        model: the model; left as found.
        graph: its channel groups.
        loss: computes the loss on the probe batch with `model`, as a mean over samples.
        inputs: example inputs.
    """
    figures = new_gradients(model, graph, [item.edit for item in found], loss, inputs)
    return [
        item
        if figure is None
        else replace(
            item,
            figures={**item.figures, "new_gradient": figure},
            terms=replace(item.terms, growth=math.sqrt(item.terms.growth * figure.value)),
        )
        for item, figure in zip(found, figures, strict=True)
    ]


def choose(
    found: Sequence[Candidate],
    cost: Cost,
    together: Callable[[Sequence[Edit]], Work | None],
    outlook: Outlook,
    calibration: Calibration,
    policy: Policy,
) -> tuple[list[Candidate], list[Row], Work]:
    """Takes the best candidate, again and again, while one pays.

    Net gain is the predicted gain less the policy's caution times its standard error, less the price of seeing fewer
    samples. The best candidate has the most net gain for what it takes of what is scarce: the edits that are left to
    the event, and the room below each limit, whichever it takes the largest share of. Each candidate is taken once.

    Args:
        found: the candidates.
        cost: of the model as it is.
        together: counts what the model would cost after several edits, which can be more than each of them adds: two
            that meet in one layer add to each other. None where they do not go together.
        outlook: what is left of the run.
        calibration: predicts gains.
        policy: limits, caution, edits per event.

    Returns:
        The candidates to take, in order; one row per candidate with the decision and its reason; and the model's cost
        after all that are taken.
    """
    taken: list[int] = []
    unfit: set[int] = set()
    rows: dict[int, Row] = {}
    now: Work = cost
    while len(taken) <= policy.edits_per_event:
        full = len(taken) == policy.edits_per_event
        best: tuple[float, int] | None = None
        for number, item in enumerate(found):
            if number in taken or number in unfit:
                continue
            parameters, training = now.parameters + item.added_parameters, now.training + item.added_flops
            unit = outlook.unit(policy, parameters, training / cost.training)
            gain = calibration.predict([item.terms], unit)
            price = outlook.price(policy, parameters, now.training / cost.training, training / cost.training)
            net = gain.value - policy.caution * gain.standard_error - price
            reason = _over_limits(parameters, training, policy)
            if reason is None and net <= 0.0:
                reason = "costs more than it gains in what is left of the run"
            rows[number] = _row(item, gain, price, reason or "other places gain more for what they take")
            score = net / _share(item, now, policy, policy.edits_per_event - len(taken))
            if reason is None and not full and (best is None or score > best[0]):
                best = score, number
        if best is None:
            break
        number = best[1]
        after = together([found[other].edit for other in (*taken, number)])
        if after is None:
            reason = "does not go together with what is taken"
        else:
            reason = _over_limits(after.parameters, after.training, policy)
        if after is None or reason is not None:
            unfit.add(number)
            rows[number] = rows[number].refused(f"{reason}")
            continue
        taken.append(number)
        rows[number] = replace(rows[number], taken=True, reason="the most gain for what it takes")
        now = after
    return [found[number] for number in taken], [rows[number] for number in range(len(found))], now


def place_of(edit: Edit) -> str:
    """The group, layer or pair of layers that an edit acts on."""
    if isinstance(edit, Connect):
        return f"{edit.source} -> {edit.target}"
    return edit.at if isinstance(edit, (AddResidual, AddAttention)) else edit.group


def _share(item: Candidate, now: Work, policy: Policy, edits_left: int) -> float:
    """Of what is scarce, the largest share that a candidate takes."""
    shares = [1.0 / max(1, edits_left)]
    if policy.max_parameters is not None:
        shares.append(item.added_parameters / max(1, policy.max_parameters - now.parameters))
    if policy.max_training_flops is not None:
        shares.append(item.added_flops / max(1, policy.max_training_flops - now.training))
    return max(shares)


def _over_limits(parameters: int, flops: int, policy: Policy) -> str | None:
    if policy.max_parameters is not None and parameters > policy.max_parameters:
        return f"{parameters:,} parameters, max_parameters is {policy.max_parameters:,}"
    if policy.max_training_flops is not None and flops > policy.max_training_flops:
        return f"{flops:,} FLOPs a sample, max_training_flops is {policy.max_training_flops:,}"
    return None


def _row(item: Candidate, gain: Estimate, price: float, reason: str) -> Row:
    return Row(
        operator=item.terms.operator,
        place=item.place,
        figures=item.figures,
        covariates=item.terms.covariates,
        gain=gain,
        price=price,
        added_parameters=item.added_parameters,
        added_flops=item.added_flops,
        taken=False,
        reason=reason,
    )


def _edits(model: nn.Module, graph: Graph, seen: Probe, inputs, policy: Policy, seed: int) -> list[Edit]:
    found: list[Edit] = []
    if "Divide" in policy.operators:
        for group in graph.groups:
            if group.divisible:
                found.append(_division(model, graph, seen, group.name, policy, seed))
    for operator in ("AddResidual", "AddAttention"):
        if operator in policy.operators:
            found += insertions(model, graph, operator, seed=seed)
    if "Connect" in policy.operators:
        found += [edit for edit in possible(model, graph, inputs) if isinstance(edit, Connect)]
    return found


def insertions(model: nn.Module, graph: Graph, operator: str, *, seed: int = 0) -> list[AddResidual | AddAttention]:
    """A branch of a kind for every layer that makes channels.

    Args:
        model: the model.
        graph: its channel groups.
        operator: "AddResidual", or "AddAttention", which only maps can have, once.
        seed: of what the edits draw.
    """
    open_to = _places(model, graph)
    if operator == "AddResidual":
        return [AddResidual(place.path, seed=seed) for place in open_to]
    return [
        AddAttention(place.path, reduction=min(4, place.channels), seed=seed)
        for place in open_to
        if place.num_dimensions >= (3 if place.dimension == 1 else 4) and not _gated(model.get_submodule(place.path))
    ]


def _places(model: nn.Module, graph: Graph) -> list[Place]:
    """One place per layer that makes channels: the last module behind it, where norm and activation are over.

    What edits have put into the model counts as one module: no branch is put into a branch.
    """
    last: dict[tuple[str, int], Place] = {}
    for place in graph.places:
        parts = place.path.split(".")
        outer = [model.get_submodule(".".join(parts[:end])) for end in range(1, len(parts))]
        module = model.get_submodule(place.path)
        inserted = isinstance(module, (Residual, Gated))
        inside = any(isinstance(item, (Residual, Gated)) for item in outer)
        if not inside and (inserted or not list(module.children())):
            last[place.near, math.prod(place.positions)] = place
    return list(last.values())


def _gated(module: nn.Module) -> bool:
    """Whether a gate stands behind a layer."""
    while isinstance(module, (Residual, Gated)):
        if isinstance(module, Gated):
            return True
        module = module.layer
    return False


def _division(model: nn.Module, graph: Graph, seen: Probe, name: str, policy: Policy, seed: int) -> Divide:
    """The units with the largest gradients, as many as the policy asks for."""
    group = graph.group(name)
    gradients = bottleneck.unit_gradients(seen, model, graph, name)
    order = torch.arange(group.width) if gradients is None else gradients.argsort(descending=True, stable=True)
    fill = "twin" if group.uniform else policy.fill
    return Divide(name, tuple(order[: _added(group.width, group.uniform, policy)].tolist()), fill=fill, seed=seed)


def _added(width: int, uniform: bool, policy: Policy) -> int:
    if uniform:
        return width
    multiple = multiple_of(width, policy)
    return multiple * min(width // multiple, max(1, round(policy.fraction * width / multiple)))


def multiple_of(width: int, policy: Policy) -> int:
    """In what numbers units are added to a group of this width, or taken from it."""
    quarter = 1 << max(0, (width // 4).bit_length() - 1)
    return min(policy.multiple, max(quarter, min(2, width)))


def _fitted(sandbox: Sandbox, graph: Graph, edit: Edit, policy: Policy) -> tuple[Edit, Work, int] | None:
    """The edit, made smaller where a limit asks for it, the model's work after it, and the FLOPs that counting took.

    None where it does not fit the model.
    """
    tried = 0
    while True:
        after = sandbox.after([edit])
        if after is None:
            return None
        tried += after.training
        fits = _over_limits(after.parameters, after.training, policy) is None
        if fits or not isinstance(edit, Divide) or graph.group(edit.group).uniform:
            return edit, after, tried
        fewer = len(edit.units) - multiple_of(graph.group(edit.group).width, policy)
        if fewer < 1:
            return edit, after, tried
        edit = replace(edit, units=edit.units[:fewer])


def _growth(graph: Graph, edit: Edit) -> float:
    """How much larger an edit makes a network: e-foldings of its size.

    All widths e-fold make a network of e^2 times the parameters; of that each group counts alike, whatever it costs:
    the last layers of a convolutional network have most parameters at the least cost, the first ones the reverse. So
    a group that is wide already gains less from the next unit, and a network's proportions stay as they were where
    nothing speaks for others. An insertion is one layer more for as many as there are groups.
    """
    groups = [group for group in graph.groups if group.divisible]
    if isinstance(edit, Divide):
        width = graph.group(edit.group).width
        return 2.0 / len(groups) * math.log((width + len(edit.units)) / width)
    return math.log(1.0 + 1.0 / max(1, len(groups)))


def _figures(measured: Mapping[str, Figures], model: nn.Module, graph: Graph, edit: Edit) -> Figures:
    if isinstance(edit, Divide):
        return bottleneck.of_group(measured, model, graph, edit.group)
    path = edit.target if isinstance(edit, Connect) else place_of(edit)
    near = {place.path: place.near.rpartition(".")[0] for place in graph.places}
    return dict(measured.get(near.get(path, path), {}))
