"""Growth at another run's times to its sizes, the place by a rule: controls for where a network is grown."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dnm import Divide, apply, count, replay, trace
from dnm.choice import insertions, place_of
from dnm.cost import Flops
from dnm.edits import Edit
from dnm.graph import Graph
from dnm.sandbox import Sandbox
from stages import branches
from stages.data import splits
from stages.tasks import image_classification as task

if TYPE_CHECKING:
    from stages.trial import Job

# Units come in these numbers, as DNM adds them: in eights to layers of at least sixteen, else in twos.
WIDE, MANY, FEW = 16, 8, 2


def uniform_widths(
    start: Sequence[int], now: Sequence[int], parameters: Callable[[Sequence[int]], int], target: int
) -> list[int]:
    """Every layer wider by one factor.

    Args:
        start: widths of the layers of the start network.
        now: their widths now, below which none goes.
        parameters: of a network of such widths.
        target: number of parameters that is wanted.

    Returns:
        Widths in the start network's proportions, with as nearly so many parameters as there are.
    """

    def at(factor: float) -> list[int]:
        return [max(old, round(factor * width)) for old, width in zip(now, start, strict=True)]

    low, high = 1.0, 2.0
    while parameters(at(high)) < target:
        low, high = high, 2.0 * high
    # Layers are whole units wide: so fine a factor tells any two networks apart.
    while (high - low) * max(start) > 0.01:
        middle = (low + high) / 2.0
        low, high = (middle, high) if parameters(at(middle)) < target else (low, middle)
    return min((at(low), at(high)), key=lambda widths: abs(parameters(widths) - target))


def random_widths(
    now: Sequence[int], parameters: Callable[[Sequence[int]], int], target: int, generator: torch.Generator
) -> list[int]:
    """One layer after the other, drawn at random, a few units wider, as long as that comes nearer to the target.

    Args:
        now: widths of the layers.
        parameters: of a network of such widths.
        target: number of parameters that is wanted.
        generator: draws the layers.
    """
    widths = list(now)
    while True:
        layer = int(torch.randint(len(widths), (), generator=generator))
        wider = widths.copy()
        wider[layer] += MANY if widths[layer] >= WIDE else FEW
        if abs(parameters(wider) - target) >= abs(parameters(widths) - target):
            return widths
        widths = wider


class PlannedGrower:
    """Widens layers at given times up to given numbers of parameters.

    Args:
        model: made by `stages.tasks.image_classification.network`.
        optimizer: that trains it.
        inputs: example inputs.
        plan: positions in the run, as fractions, the number of parameters from then on, and what is inserted then, as
            pairs of operator and place.
        rule: "random" or "uniform".
        parameters: of a network of such widths and branches.
        fill: of new units, as in `dnm.Divide`.
        rewarm: as in `dnm.Policy`.
        seed: of what is drawn.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: torch.Tensor,
        plan: Sequence[tuple[float, int, Sequence[tuple[str, str]]]],
        rule: str,
        parameters: Callable[[Sequence[int], Sequence[branches.Branch]], int],
        *,
        fill: str,
        rewarm: float,
        seed: int,
    ) -> None:
        self._model, self._optimizer, self._inputs = model, optimizer, inputs
        self._plan, self._rule, self._parameters = plan, rule, parameters
        self._fill, self._rewarm, self._seed = fill, rewarm, seed
        self.events: list[dict[str, Any]] = []
        self.flops = 0
        self.start_widths = {group.name: group.width for group in self._graph().groups if group.divisible}
        self._steps = self._samples = 0
        self._done = 0.0

    def after_step(self, done: float, loss: torch.Tensor, num_samples: int) -> bool:
        """Widens the network, if it is time."""
        self._steps += 1
        self._samples += num_samples
        before, self._done = self._done, done
        due = [(target, inserts) for position, target, inserts in self._plan if before < position <= done]
        if due:
            self._grow(max(target for target, _ in due), [insert for _, inserts in due for insert in inserts])
        return bool(due)

    def after_epoch(self, validation_loss: float) -> bool:
        """Nothing depends on the validation loss here."""
        return False

    def learning_rate_factor(self) -> float:
        """As `dnm.Morphogenesis` has it."""
        if not self.events or not self._rewarm:
            return 1.0
        return min(1.0, (self._done - self.events[-1]["position"]) / self._rewarm)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "events": list(self.events),
            "flops": self.flops,
            "counts": [self._steps, self._samples],
            "done": self._done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` was taken, on the start network."""
        replay(self._model, [entry for event in state["events"] for entry in event["entries"]], [self._optimizer])
        self.events, self.flops = list(state["events"]), state["flops"]
        (self._steps, self._samples), self._done = state["counts"], state["done"]

    def _widths(self) -> dict[str, int]:
        """Of the layers that the start network has."""
        return {group.name: group.width for group in self._graph().groups if group.name in self.start_widths}

    def _graph(self) -> Graph:
        return trace(self._model, self._inputs)

    def _grow(self, target: int, inserts: Sequence[tuple[str, str]]) -> None:
        before, spent = count(self._model, self._inputs), self.flops
        generator = torch.Generator().manual_seed(1000 * self._seed + len(self.events))
        entries = []

        def take(edit: Edit) -> None:
            with self._charged():
                entries.append(apply(self._model, edit, self._inputs, [self._optimizer]).entry)

        for operator, at in inserts:
            edit = self._insertion(operator, at, target, generator)
            if edit is not None:
                take(edit)
        with self._charged():
            now = self._widths()
        own = branches.branches_of(self._model)

        def parameters(widths: Sequence[int]) -> int:
            return self._parameters(widths, own)

        if self._rule == "uniform":
            wanted = uniform_widths(list(self.start_widths.values()), list(now.values()), parameters, target)
        else:
            wanted = random_widths(list(now.values()), parameters, target, generator)
        for (name, width), new in zip(now.items(), wanted, strict=True):
            # A division gives each unit one twin at most.
            while width < new:
                added = min(width, new - width)
                units = tuple(torch.randperm(width, generator=generator)[:added].tolist())
                take(Divide(name, units, fill=self._fill, seed=self._seed + self._steps))
                width += added
        self.events.append(
            {
                "kind": "growth",
                "step": self._steps,
                "samples": self._samples,
                "position": self._done,
                "entries": entries,
                "before": asdict(before),
                "after": asdict(count(self._model, self._inputs)),
                "widths": dict(zip(now, wanted, strict=True)),
                "flops": self.flops - spent,
                "status": "kept" if entries else "no edit",
            }
        )

    def _insertion(self, operator: str, at: str, target: int, generator: torch.Generator) -> Edit | None:
        """The branch at the plan's place, or by the random rule at one of those that leave the target in reach."""
        with self._charged():
            graph = self._graph()
        open_to = insertions(self._model, graph, operator, seed=self._seed + self._steps)
        if self._rule == "uniform":
            return next(edit for edit in open_to if place_of(edit) == at)
        sandbox = Sandbox(self._model, graph, self._inputs)
        for number in torch.randperm(len(open_to), generator=generator).tolist():
            after = sandbox.after([open_to[number]])
            if after is not None and after.parameters <= target:
                return open_to[number]
        return None

    @contextlib.contextmanager
    def _charged(self) -> Iterator[None]:
        with Flops() as counter:
            yield
        self.flops += counter.flops


def grower_of(
    job: Job, data: splits.DataSet, train_split: task.Split
) -> Callable[[nn.Module, torch.optim.Optimizer], PlannedGrower]:
    """What makes the grower of a trial, once there are a network and its optimizer."""
    num = min(job.settings.dnm.probe_size, len(train_split))
    probe, _ = train_split.batch(torch.arange(num, device=train_split.images.device))
    channels, classes = data.train.images.shape[3], len(data.class_names)
    blocks = [len(block) for block in job.settings.networks.start]
    plan = job.plan or ()

    def parameters(widths: Sequence[int], own: Sequence[branches.Branch]) -> int:
        rest = iter(widths)
        network = task.network(
            tuple(tuple(next(rest) for _ in range(size)) for size in blocks), channels, classes, torch.Generator()
        )
        branches.put_in(network, own, probe[:1], 0)
        return sum(parameter.numel() for parameter in network.parameters())

    def make(model: nn.Module, optimizer: torch.optim.Optimizer) -> PlannedGrower:
        return PlannedGrower(
            model,
            optimizer,
            probe,
            plan,
            job.arm,
            parameters,
            fill=job.settings.dnm.fill,
            rewarm=job.settings.dnm.rewarm,
            seed=job.seed,
        )

    return make
