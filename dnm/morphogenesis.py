"""Growth inside any training loop: looks at the network, takes the edits that pay, and takes back those that do not."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from dnm import forecast, journal, pruning, rollback
from dnm.calibration import Calibration, Terms
from dnm.calling import few
from dnm.choice import candidates, choose, multiple_of, place_of, with_new_gradients
from dnm.cost import Flops, Products, Work, count
from dnm.detect import bottleneck, probe
from dnm.detect.estimates import Estimate
from dnm.edits import Edit, Prune
from dnm.errors import DnmError, EditError
from dnm.events import Event, Row
from dnm.graph import Graph, trace
from dnm.policy import Budget, Outlook, Policy
from dnm.recording import untouched
from dnm.sandbox import Sandbox
from dnm.surgery import Applied, apply

# Points of the training curve in one run.
NUM_BINS = 200
# Standard errors above the forecast at which an event is taken back.
ROLLBACK_ERRORS = 2.0
# Of which batch norms take the statistics of new channels; steps of training soon bring others.
CALIBRATION_SAMPLES = 32
# What of an event in its grace period goes into a checkpoint as it is.
PLAIN = ("event", "until", "curve", "unit", "kept")


@dataclass
class _Watch:
    """An event in its grace period, and what takes it back."""

    event: int
    until: float
    curve: str
    line: forecast.Line
    unit: float
    terms: list[Terms]
    kept: dict[str, Any] = field(repr=False)
    restores: list[Callable[[], None]] = field(repr=False)


class Morphogenesis:
    """Grows and prunes a model while it is trained. A training loop calls it in three places:

        engine = dnm.Morphogenesis(model, optimizer, inputs, lambda: loss_of(model(inputs), targets), budget=budget)
        for epoch in range(num_epochs):
            for images, labels in loader:
                loss = ...
                optimizer.step()
                engine.after_step(loss, len(images))
            engine.after_epoch(validation_loss)

    Args:
        model: the model, edited in place.
        optimizers: those that train it; they stay the same objects and their state follows.
        inputs: a probe batch, 128 to 512 samples: a tensor, a tuple of arguments or a dict of keyword arguments.
        loss: computes the loss on the probe batch with `model`, as a mean over samples.
        budget: of the run.
        policy: when to look and what may be done.
        labels: classes of the probe's samples, shape `(num_samples,)`, for figures that need them.
        averaged: averages of the model's weights, which take the same edits.
        positions: positions of a map that the probe keeps of each sample.
        max_bytes: memory that the probe keeps at most.

    Raises:
        DnmError: the model cannot be traced or counted, or the policy excludes places that it does not have.

    Attributes:
        model: the model.
        optimizers: those that train it.
        averaged: averages of its weights.
        inputs: the probe batch.
        events: every look so far, in order.
        start_widths: of the channel groups that the model had at first, by name.
        flops: what looking, editing and checking cost so far, counted.
        seconds: how long each of the events took.
        calibration: what was learnt of the gains of edits.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Optimizer | Iterable[Optimizer],
        inputs: Tensor | tuple | dict,
        loss: Callable[[], Tensor],
        *,
        budget: Budget,
        policy: Policy | None = None,
        labels: Tensor | None = None,
        averaged: AveragedModel | Iterable[AveragedModel] = (),
        positions: int = 8,
        max_bytes: int = 256 * 2**20,
    ) -> None:
        self.model, self.budget, self.policy = model, budget, policy or Policy()
        self.optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
        self.averaged = [averaged] if isinstance(averaged, nn.Module) else list(averaged)
        self.events: list[Event] = []
        self.flops = 0
        self.seconds: list[float] = []
        self.calibration = Calibration((*self.policy.operators, "Prune"), self.policy.theories)
        self.inputs, self._loss, self._labels = inputs, loss, labels
        self._positions, self._max_bytes = positions, max_bytes
        self._cost = count(model, inputs)
        # All that tracing and planning need, where its first dimension is the sample.
        self._some = self._more = inputs
        graph = trace(model, inputs)
        with contextlib.suppress(Exception):
            if trace(model, few(inputs)) == graph:
                self._some, self._more = few(inputs), few(inputs, CALIBRATION_SAMPLES)
        self.start_widths = self._widths = _widths(graph)
        self._check_excluded()
        self._steps = self._samples = self._training_flops = 0
        self._curves: dict[str, list[tuple[float, float]]] = {"training": [], "validation": []}
        self._bin, self._bin_size = torch.zeros(()), 0
        self._best, self._waited = math.inf, 0
        self._warm_from, self._looked_until = -math.inf, 0.0
        self._watch: _Watch | None = None

    @property
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """Samples seen and loss: "training", averaged over 1/200 of the run, and "validation", an epoch."""
        return {name: list(points) for name, points in self._curves.items()}

    @property
    def journal(self) -> list[dict[str, Any]]:
        """Every edit that the model has, in order; those taken back are not among them."""
        return [entry for event in self.events if event.status != "taken back" for entry in event.entries]

    @property
    def position(self) -> float:
        """The part of the budget that is behind the run."""
        if self.budget.steps is not None:
            return self._steps / self.budget.steps
        assert self.budget.flops is not None
        return self.spent / self.budget.flops

    @property
    def spent(self) -> int:
        """FLOPs so far, counted: of training, and of looking, editing and checking."""
        return self._training_flops + self.flops

    def learning_rate_factor(self) -> float:
        """What a schedule's learning rate should be multiplied with in the next step; 1 but after events."""
        since = self.position - self._warm_from
        return min(1.0, since / self.policy.rewarm) if self.policy.rewarm else 1.0

    def after_step(self, loss: Tensor | float, num_samples: int) -> Event | None:
        """Counts an optimizer step and, if it is time, looks at the network and edits it.

        Args:
            loss: of the step's batch, a mean over samples; not differentiated.
            num_samples: of the batch.

        Returns:
            The event, or None where it was not time for one. The model is another one only if it has entries, or if
            its status is "taken back".

        Raises:
            DnmError: the number of samples is not positive, or the model cannot be looked at or edited; see
                `dnm.apply`.
        """
        if num_samples < 1:
            raise DnmError(f"after_step was told of {num_samples} samples, expected at least 1")
        before, judged = self.position, None
        self._steps += 1
        self._samples += num_samples
        self._training_flops += self._cost.training * num_samples
        # On its own device: reading a loss in every step would stop a GPU in every step.
        self._bin = self._bin + (loss.detach().float() if isinstance(loss, Tensor) else loss)
        self._bin_size += 1
        if math.floor(self.position * NUM_BINS) > math.floor(before * NUM_BINS):
            mean = float(self._bin) / self._bin_size
            self._bin, self._bin_size = torch.zeros(()), 0
            judged = self._note("training", mean)
        # The steps of an event's own looking may pass a time; the next step is after it then.
        passed = [time for time in self._times() if self._looked_until < time <= self.position]
        if not passed:
            return judged
        self._looked_until = self.position
        if self.policy.prune_at in passed:
            return self._timed(self._prune)
        return self._timed(self._grow)

    def _times(self) -> list[float]:
        """When to look, in parts of the budget."""
        scheduled = list(self.policy.event_times) if self.policy.trigger == "scheduled" else []
        return scheduled + ([self.policy.prune_at] if self.policy.prune_at is not None else [])

    def after_epoch(self, validation_loss: float) -> Event | None:
        """Takes note of a validation loss; judges the last event or, by the plateau trigger, looks at the network.

        Args:
            validation_loss: mean over the samples of a validation split, nats.

        Returns:
            See `after_step`.

        Raises:
            DnmError: the loss is not finite, and no event is in its grace period that could be taken back; and see
                `after_step`.
        """
        if not math.isfinite(validation_loss) and self._watch is None:
            raise DnmError(
                f"the validation loss is {validation_loss}, expected a finite number; lower the learning rate"
            )
        improved = validation_loss < self._best * (1.0 - self.policy.bottleneck_threshold)
        self._waited = 0 if improved else self._waited + 1
        self._best = min(self._best, validation_loss)
        judged = self._note("validation", float(validation_loss))
        if judged is not None:
            return judged
        if self.policy.trigger == "plateau" and self._waited >= self.policy.morphogenesis_patience:
            self._waited = 0
            return self._timed(self._grow)
        return None

    def explain(self) -> str:
        """The last look as a table: candidates, figures per theory, predicted gain, cost, decision and its reason.

        `events[number].table()` is that of an earlier one.
        """
        if not self.events:
            return "no look at the network so far"
        return self.events[-1].table()

    def state_dict(self) -> dict[str, Any]:
        """All that the engine knows, as plain values and tensors; weights and optimizer state are in their own.

        An event in its grace period brings the copy that it would be taken back to.
        """
        watch = None
        if self._watch is not None:
            watch = {name: getattr(self._watch, name) for name in PLAIN}
            watch["terms"] = [asdict(item) for item in self._watch.terms]
            watch["line"] = asdict(self._watch.line)
        return {
            "events": [event.as_dict() for event in self.events],
            "flops": self.flops,
            "seconds": list(self.seconds),
            "calibration": self.calibration.state_dict(),
            "counts": [self._steps, self._samples, self._training_flops],
            "curves": {name: [list(point) for point in points] for name, points in self._curves.items()},
            "bin": [float(self._bin), self._bin_size],
            "plateau": [self._best, self._waited],
            "times": [self._warm_from, self._looked_until],
            "watch": watch,
            "settings": self._settings(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where `state_dict` was taken: edits the model, which must be the start network, as its journal says.

        The model's, the averages' and the optimizers' own `load_state_dict` follow; the run then goes on bit for bit.

        Raises:
            DnmError: the journal does not fit the model, or the state is of other settings; the model is as it was.
        """
        differing = [
            f"{name} {state['settings'].get(name)!r}, here {value!r}"
            for name, value in self._settings().items()
            if state["settings"].get(name) != value
        ]
        if differing:
            raise DnmError(
                f"the state is of a run with {'; '.join(differing)}; give the engine the budget and the policy that it "
                "was taken with"
            )
        self.calibration.load_state_dict(state["calibration"])
        events = [Event.from_dict(values) for values in state["events"]]
        watch = state["watch"]
        settled = [event for number, event in enumerate(events) if not watch or number != watch["event"]]
        entries = [entry for event in settled if event.status != "taken back" for entry in event.entries]
        pending = events[watch["event"]].entries if watch else ()
        for model, optimizers in self._edited():
            journal.replay(model, entries, optimizers)
        restores = [journal.carry_out(model, pending, optimizers) for model, optimizers in self._edited()]
        self._watch = None
        if watch:
            terms, line = [Terms(**item) for item in watch["terms"]], forecast.Line(**watch["line"])
            plain = {name: watch[name] for name in PLAIN}
            self._watch = _Watch(**plain, terms=terms, line=line, restores=restores)
        self.events, self.flops, self.seconds = events, state["flops"], list(state["seconds"])
        self._steps, self._samples, self._training_flops = state["counts"]
        self._curves = {name: [(x, y) for x, y in points] for name, points in state["curves"].items()}
        self._bin, self._bin_size = torch.tensor(state["bin"][0]), state["bin"][1]
        self._best, self._waited = state["plateau"]
        self._warm_from, self._looked_until = state["times"]
        self._cost, self._widths = count(self.model, self.inputs), _widths(trace(self.model, self._some))

    def _check_excluded(self) -> None:
        names = {*self.start_widths, *(path for path, _ in self.model.named_modules())}
        for pattern in self.policy.excluded:
            if "->" not in pattern and not any(fnmatchcase(name, pattern) for name in names):
                raise DnmError(
                    f"Policy: excluded names {pattern!r}, which no place of {type(self.model).__name__} fits; expected "
                    f"names of groups or layers, such as {sorted(names)[:5]}"
                )

    def _settings(self) -> dict[str, Any]:
        return {"budget": asdict(self.budget), **self.policy.as_dict()}

    def _edited(self) -> list[tuple[nn.Module, list[Optimizer]]]:
        return [(self.model, self.optimizers), *((average.module, []) for average in self.averaged)]

    @contextlib.contextmanager
    def _charged(self) -> Iterator[None]:
        """Charges what its block runs, counted operation by operation."""
        with Flops() as counter:
            yield
        self.flops += counter.flops

    def _timed(self, event: Callable[[], Event]) -> Event:
        started, spent, position = time.perf_counter(), self.flops, self.position
        # Two events cannot be told apart by one curve.
        if self._watch is not None:
            self._settle("kept", "the next event came before the end of its grace period")
        made = event().but(flops=self.flops - spent, position=position)
        self.events.append(made)
        self.seconds.append(time.perf_counter() - started)
        return made

    def _outlook(self, loss: float) -> Outlook:
        if self.budget.steps is not None:
            remaining = (self.budget.steps - self._steps) * self._samples / max(1, self._steps)
        else:
            assert self.budget.flops is not None
            remaining = (self.budget.flops - self.spent) / max(1, self._cost.training)
        return Outlook(self._samples, max(0.0, remaining), self.budget.flops is not None, loss)

    def _grow(self) -> Event:
        taken_before = sum(bool(event.entries) for event in self.events if event.kind == "growth")
        if taken_before >= self.policy.max_morphogenesis_events:
            return self._event("growth", (), (), f"{taken_before} events took edits, which is the most allowed")
        if self._outlook(1.0).remaining_samples < 1.0:
            return self._event("growth", (), (), "nothing is left of the run")
        with self._charged():
            graph = trace(self.model, self._some)
            seen = probe.look(
                self.model, self._loss, positions=self._positions, max_bytes=self._max_bytes, seed=self._seed()
            )
        with Products() as counter:
            measured = bottleneck.measure(seen, self.policy.theories, self._labels)
        self.flops += counter.flops
        sandbox = Sandbox(self.model, graph, self._some)
        found = candidates(
            self.model, graph, seen, measured, self._some, sandbox, self._cost, self.policy, seed=self._seed()
        )
        # Counted by formula: watching every operation of so many copies takes longer than running them.
        self.flops += sum(item.tried_flops for item in found)
        if "gradient" in self.policy.theories:
            with self._charged():
                found = with_new_gradients(found, self.model, graph, self._loss, self._some)
        training = self._curves["training"]
        loss = training[-1][1] if training else seen.loss
        outlook = self._outlook(loss)

        def together(edits: Sequence[Edit]) -> Work | None:
            after = sandbox.after(edits)
            self.flops += after.training if after else 0
            return after

        wanted, rows, after = choose(found, self._cost, together, outlook, self.calibration, self.policy)
        if not wanted:
            return self._event("growth", rows, (), "no edit gains more than it costs")
        relative = after.training / self._cost.training
        unit = outlook.unit(self.policy, after.parameters, relative)
        gain = self.calibration.predict([item.terms for item in wanted], unit)
        if gain.value < self.policy.bottleneck_threshold * loss:
            reason = f"a predicted gain of {gain} nats is below bottleneck_threshold x the loss of {loss:.3g}"
            return self._event("growth", [row.refused(reason) for row in rows], (), reason)
        # Capacity is worth its gain as data is: by the logarithm of the samples that pass it.
        until = self.position + self.policy.grace
        end = outlook.end(relative)
        watched = self._samples + self.policy.grace / max(1.0 - self.position, self.policy.grace) * (
            end - self._samples
        )
        accrued = math.log(watched / self._samples) / math.log(end / self._samples)
        edits = [(item.edit, item.terms) for item in wanted]
        done: list[Edit] = []
        before: Applied | None = None

        def take(edit: Edit) -> Applied:
            nonlocal before
            before = self._apply(edit, sandbox.graph(done), before)
            done.append(edit)
            return before

        return self._take("growth", edits, rows, unit * accrued, until, take)

    def _prune(self) -> Event:
        with self._charged():
            graph = trace(self.model, self._some)
            limit = self.policy.prune_tolerance * (self._curves["training"] or [(0.0, 1.0)])[-1][1]
            edits, rows = pruning.choose(self.model, graph, self._loss, self._some, self._cost, self.policy, limit)
        nothing = "no unit can go for the rise of the loss that prune_tolerance allows"
        if not edits:
            return self._event("pruning", rows, (), nothing)
        start = self._probe_loss()

        def take(edit: Edit) -> Applied:
            """Removes as many of the edit's units, the least needed first, as the limit allows once they are gone."""
            assert isinstance(edit, Prune)
            units = edit.units
            while units:
                applied = self._apply(Prune(edit.group, units))
                rise = self._probe_loss() - start
                if rise <= limit:
                    return applied
                applied.undo()
                multiple = multiple_of(self._widths[edit.group], self.policy)
                units = units[: len(units) // 2 // multiple * multiple]
            raise EditError(f"without any of its units the loss rises by more than {limit:.2g} nats")

        terms = [(edit, Terms("Prune", 0.0, {})) for edit in edits]
        return self._take("pruning", terms, rows, 0.0, self.position + self.policy.grace, take)

    def _probe_loss(self) -> float:
        with self._charged(), torch.no_grad(), untouched(self.model, training=False):
            return self._loss().item()

    def _apply(self, edit: Edit, graph: Graph | None = None, after: Applied | None = None) -> Applied:
        with self._charged():
            return apply(
                self.model,
                edit,
                self._more,
                self.optimizers,
                averaged=self.averaged,
                loss=self._loss,
                graph=graph or trace(self.model, self._some),
                after=after,
            )

    def _take(
        self,
        kind: str,
        edits: Sequence[tuple[Edit, Terms]],
        rows: Iterable[Row],
        unit: float,
        until: float,
        take: Callable[[Edit], Applied],
    ) -> Event:
        """Takes edits one after the other and starts to watch them."""
        curve = "validation" if forecast.fit(self._curves["validation"]) else "training"
        line = forecast.fit(self._curves[curve])
        kept = rollback.keep(self.model, self.optimizers, self.averaged) if self.policy.rollback and line else {}
        before, entries, terms, restores, difference = self._cost, [], [], [], 0.0
        rows = list(rows)
        for edit, term in edits:
            try:
                applied = take(edit)
            except DnmError as error:
                rows = [_failed(row, edit, error) for row in rows]
                continue
            entries.append(applied.entry)
            terms.append(term)
            restores.append(applied.restore_shapes)
            difference = max(difference, applied.eval_difference, applied.train_difference)
        if not entries:
            return self._event(kind, rows, (), "every edit failed its checks")
        self._cost, self._widths = count(self.model, self.inputs), _widths(trace(self.model, self._some))
        self._warm_from = self.position
        predicted = self.calibration.predict(terms, unit) if kind == "growth" else None
        status, reason = "kept", "there is no curve yet to forecast the loss from, so it is not judged"
        if line is not None:
            status, reason = "watched", "in its grace period"
            self._watch = _Watch(len(self.events), until, curve, line, unit, terms, kept, restores)
        event = self._event(kind, rows, tuple(entries), reason)
        return event.but(before=before, status=status, predicted=predicted, output_difference=difference)

    def _event(self, kind: str, rows: Iterable[Row], entries: tuple[dict[str, Any], ...], reason: str) -> Event:
        return Event(
            kind=kind,
            step=self._steps,
            samples=self._samples,
            position=self.position,
            rows=tuple(rows),
            entries=entries,
            before=self._cost,
            after=self._cost,
            widths=self._widths,
            flops=0,
            output_difference=0.0,
            predicted=None,
            realised=None,
            settled=None,
            status="no edit",
            reason=reason,
        )

    def _note(self, curve: str, loss: float) -> Event | None:
        """Takes note of a point of a curve, and judges the watched event if it is time; the event if it was taken back.

        Single losses that are not finite are no points: a scaler of gradients skips such steps. After an event they
        are its fault.
        """
        if math.isfinite(loss):
            self._curves[curve].append((float(max(1, self._samples)), loss))
        watch = self._watch
        if watch is None:
            return None
        if not math.isfinite(loss) and watch.kept:
            return self._take_back(f"{curve} loss {loss} in its grace period", None)
        if watch.curve != curve or self.position < watch.until or not math.isfinite(loss):
            return None
        samples = self._curves[curve][-1][0]
        expected = watch.line.loss(samples)
        realised = Estimate(expected.value - loss, expected.standard_error)
        if watch.unit > 0.0 and any(term.growth for term in watch.terms):
            self.calibration.observe(watch.terms, watch.unit, realised)
        said = f"{curve} loss {loss:.4f} at the end of its grace period, forecast without it {expected}"
        if watch.kept and loss > expected.value + ROLLBACK_ERRORS * expected.standard_error:
            return self._take_back(said, realised)
        self._settle("kept", said, realised)
        return None

    def _take_back(self, reason: str, realised: Estimate | None) -> Event:
        """Brings model, averages and optimizers back to where they were before the watched event."""
        watch = self._watch
        assert watch is not None
        edited = set(self.model.parameters())
        for restore in reversed(watch.restores):
            restore()
        rollback.drop(edited - set(self.model.parameters()), self.optimizers)
        rollback.put_back(self.model, self.optimizers, self.averaged, watch.kept)
        self._cost, self._widths = count(self.model, self.inputs), _widths(trace(self.model, self._some))
        self._warm_from = -math.inf
        # Losses of weights that are gone would mislead the next forecast.
        before = self.events[watch.event].samples
        self._curves = {name: [p for p in points if p[0] <= before] for name, points in self._curves.items()}
        return self._settle("taken back", reason, realised)

    def _settle(self, status: str, reason: str, realised: Estimate | None = None) -> Event:
        assert self._watch is not None
        number, self._watch = self._watch.event, None
        self.events[number] = self.events[number].but(
            status=status, reason=reason, realised=realised, settled=self._samples
        )
        return self.events[number]

    def _seed(self) -> int:
        return self.policy.seed + self._steps


def _widths(graph: Graph) -> dict[str, int]:
    return {group.name: group.width for group in graph.groups if group.divisible}


def _failed(row: Row, edit: Edit, error: DnmError) -> Row:
    same = (row.operator, row.place) == (type(edit).__name__, place_of(edit))
    return row.refused(f"failed: {error}") if same else row
