"""Growth at scheduled times, the place being chosen by gradient norm."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dnm.cost import Cost, Flops, count
from dnm.detect.gradient import unit_gradient_norms
from dnm.edits import Divide
from dnm.graph import Graph, trace
from dnm.journal import replay
from dnm.operators import divide
from dnm.surgery import apply


@dataclass(frozen=True)
class Growth:
    """When to grow, by how much, and up to where.

    Attributes:
        at_steps: optimizer steps after which an event takes place.
        edits_per_event: groups divided at one event, those with the largest gradient norm first.
        fraction: units added to a group, as a fraction of its width, in (0, 1].
        max_parameters: the model never has more trainable scalars than this.
        max_training_flops: one forward and backward pass of a sample never costs more than this.
        multiple: units are added in multiples of this number to groups of at least twice as many, in twos to others;
            at least one such multiple is added.
        seed: seed of what the twins differ in.
    """

    at_steps: tuple[int, ...]
    edits_per_event: int
    fraction: float
    max_parameters: int
    max_training_flops: int
    multiple: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Event:
    """One look at the network, and the edits that came of it.

    Attributes:
        step: optimizer steps taken before it.
        entries: the journal's entries of the edits taken; empty where nothing fitted the limits.
        gradient_norms: per group, at the first look.
        before: cost of the model before the event.
        after: cost of the model after it.
        output_difference: largest relative change of the output that an edit made, in eval or train mode.
    """

    step: int
    entries: tuple[dict, ...]
    gradient_norms: dict[str, float]
    before: Cost
    after: Cost
    output_difference: float

    def as_dict(self) -> dict:
        """The event as plain values, for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict) -> Event:
        """The event that `as_dict` made plain values of."""
        costs = {name: Cost(**values[name]) for name in ("before", "after")}
        return Event(**{**values, **costs, "entries": tuple(values["entries"])})


class Morphogenesis:
    """Grows a model inside a training loop: call `step` after every optimizer step.

    Args:
        model: the model to grow, in place.
        growth: when, how much and how far.
        example_inputs: a batch for tracing and for checking that an edit changed no output.
        optimizers: those that train the model; they keep their identity and their state follows.
    """

    def __init__(
        self,
        model: nn.Module,
        growth: Growth,
        example_inputs: Tensor | tuple | dict,
        optimizers: Optimizer | Iterable[Optimizer],
    ) -> None:
        self.model = model
        self.growth = growth
        self.example_inputs = example_inputs
        self.optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
        self.events: list[Event] = []
        self.flops = 0
        self._steps = 0

    @property
    def journal(self) -> list[dict]:
        """Every edit taken so far, in order."""
        return [entry for event in self.events for entry in event.entries]

    def state_dict(self) -> dict[str, Any]:
        """Steps, cost and events so far, as plain values; weights and optimizer state are in their own `state_dict`."""
        return {"steps": self._steps, "flops": self.flops, "events": [event.as_dict() for event in self.events]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` was taken: edits the model, which must be the start network, as its journal says.

        The model's and the optimizers' own `load_state_dict` follow; the run then goes on bit for bit.

        Raises:
            EditError: the journal does not fit the model, which is as it was.
        """
        events = [Event.from_dict(values) for values in state["events"]]
        replay(self.model, [entry for event in events for entry in event.entries], self.optimizers)
        self.events, self.flops, self._steps = events, state["flops"], state["steps"]

    def step(self, probe_loss: Callable[[], Tensor]) -> Event | None:
        """Counts one optimizer step and, if it is time, looks and grows.

        Args:
            probe_loss: computes the loss on the example inputs; called at events only.

        Returns:
            The event, or None where it was not time for one.

        Raises:
            DnmError: see `dnm.apply`.
        """
        self._steps += 1
        if self._steps not in self.growth.at_steps:
            return None
        with self._charged():
            graph = trace(self.model, self.example_inputs)
        before = count(self.model, self.example_inputs)
        norms = unit_gradient_norms(self.model, graph, probe_loss)
        # At most: gradients of some weights alone are taken.
        self.flops += before.training * self._probe_size()
        totals = {name: units.norm().item() for name, units in norms.items()}
        entries, difference = [], 0.0
        for name in sorted(totals, key=lambda name: -totals[name]):
            if len(entries) == self.growth.edits_per_event:
                break
            edit = self._largest_division(graph, name, norms[name])
            if edit is None:
                continue
            with self._charged():
                applied = apply(self.model, edit, self.example_inputs, self.optimizers)
                graph = trace(self.model, self.example_inputs)
            entries.append(applied.entry)
            difference = max(difference, applied.eval_difference, applied.train_difference)
        after = count(self.model, self.example_inputs)
        event = Event(self._steps, tuple(entries), totals, before, after, difference)
        self.events.append(event)
        return event

    @contextlib.contextmanager
    def _charged(self) -> Iterator[None]:
        """Charges what its block runs, counted operation by operation: tracing takes more passes on some models."""
        with Flops() as counter:
            yield
        self.flops += counter.flops

    def _probe_size(self) -> int:
        inputs = self.example_inputs
        while not isinstance(inputs, Tensor):
            inputs = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs[0]
        return len(inputs)

    def _largest_division(self, graph: Graph, name: str, norms: Tensor) -> Divide | None:
        group = graph.group(name)
        width = group.width
        order = torch.argsort(norms, descending=True, stable=True).tolist()
        multiple = self.growth.multiple if width >= 2 * self.growth.multiple else min(2, width)
        # A unit is divided once at most.
        added = multiple * min(width // multiple, max(1, round(self.growth.fraction * width / multiple)))
        if group.uniform:
            multiple = added = width
        while added > 0:
            seed = self.growth.seed + self._steps
            edit = Divide(name, tuple(order[:added]), seed=seed)
            shadow = copy.deepcopy(self.model)
            divide.carry_out(shadow, edit, divide.plan(shadow, graph, edit, None))
            cost = count(shadow, self.example_inputs)
            if cost.parameters <= self.growth.max_parameters and cost.training <= self.growth.max_training_flops:
                return edit
            added -= multiple
        return None
