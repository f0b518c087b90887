"""What each kind of edit gains: a growing run that is forked at every event."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dnm import apply, count, journal
from dnm.errors import DnmError
from stages import growing, training, trial
from stages.data import splits
from stages.ranking_trial import Batches, train_on
from stages.tasks import image_classification as task
from stages.training import Length

KINDS = {"Divide": "division", "AddResidual": "residual", "AddAttention": "attention", "Prune": "pruning"}


@dataclass(frozen=True)
class Job(trial.Job):
    """A run of `dnm`, and for how long it is trained from each event on.

    Attributes:
        fork_steps: of each fork, with the learning rate falling to zero.
    """

    fork_steps: int = 0


class ForkingGrower(growing.EngineGrower):
    """Growth by the library's engine, with a copy of what was there before each event."""

    def __init__(self, engine: Any, fork: Any) -> None:
        super().__init__(engine)
        self._fork = fork
        self._done = 0.0

    def after_step(self, done: float, loss: torch.Tensor, num_samples: int) -> bool:
        """As the engine's; forks where it edits."""
        policy = self.engine.policy
        moments = [*policy.event_times, *([policy.prune_at] if policy.prune_at else [])]
        # A step more at either side, as the engine counts its own way.
        near = [moment for moment in moments if self._done - (done - self._done) < moment <= 2 * done - self._done]
        self._done = done
        return self._watched(near, lambda: super(ForkingGrower, self).after_step(done, loss, num_samples))

    def after_epoch(self, validation_loss: float) -> bool:
        """As the engine's; forks where it edits."""
        near = self.engine.policy.trigger == "plateau"
        return self._watched(near, lambda: super(ForkingGrower, self).after_epoch(validation_loss))

    def _watched(self, near: object, act: Any) -> bool:
        if not near:
            return act()
        # Together, so that the copy of the optimizer trains the copy of the model.
        before = copy.deepcopy((self.engine.model, self.engine.optimizers[0]))
        known = len(self.engine.events)
        changed = act()
        for event in self.engine.events[known:]:
            if event.entries:
                self._fork(*before, event)
        return changed


def run(job: Job) -> dict[str, Any]:
    """Trains a growing network, and from each of its events once with each kind of its edits and once with none.

    Returns:
        Plain values: `arm` and `seed`; `events`, each with `position` (fraction of the run), `status`, and by kind the
        number of its `edits`, the `gain` in validation accuracy over no edit at the end of the fork (points), and what
        it adds in `parameters` and forward `flops` (fractions of those before); `machine`.
    """
    started = time.perf_counter()
    trial.settle(job.execution)
    settings = job.settings.training
    data = splits.load(Path(job.data))
    train_split, validation_split = (trial.split_of(data, name, job) for name in ("train", "validation"))
    model = trial.model_of(job, data).to(job.execution.device)
    length = Length(steps=settings.epochs * (len(train_split) // settings.batch_size))
    found: list[dict[str, Any]] = []
    make = growing.grower_of(job, data, train_split, length)

    def fork(before: nn.Module, optimizer_before: torch.optim.Optimizer, event: Any) -> None:
        engine = held[0].engine
        inputs = engine.inputs
        rate = max(group["lr"] for group in engine.optimizers[0].param_groups)

        def accuracy(entries: Iterable[dict[str, Any]]) -> tuple[float, int, int, int]:
            edited, optimizer = copy.deepcopy((before, optimizer_before))
            taken = 0
            for entry in entries:
                try:
                    apply(edited, journal.edit(entry), inputs, [optimizer])
                    taken += 1
                except DnmError:
                    # It stood on an edit of another kind.
                    continue
            cost = count(edited, inputs)
            batches = Batches(train_split, job, seed=1000 * (job.seed + 1) + len(found))
            train_on(edited, optimizer, batches, job.fork_steps, lambda step: rate * (1.0 - step / job.fork_steps))
            return task.evaluate(edited, validation_split)[1], taken, cost.parameters, cost.forward

        without, _, parameters, flops = accuracy([])
        kinds: dict[str, Any] = {}
        for operator, kind in KINDS.items():
            entries = [entry for entry in event.entries if entry["operator"] == operator]
            if entries:
                with_it, taken, parameters_after, flops_after = accuracy(entries)
                kinds[kind] = {
                    "edits": len(entries),
                    "apart": taken,
                    "gain": 100.0 * (with_it - without),
                    "parameters": parameters_after / parameters - 1.0,
                    "flops": flops_after / flops - 1.0,
                }
        found.append({"position": event.position, "number": len(engine.events) - 1, "kinds": kinds})

    held: list[ForkingGrower] = []

    def forking(model: nn.Module, optimizer: torch.optim.Optimizer) -> ForkingGrower:
        held.append(ForkingGrower(make(model, optimizer).engine, fork))
        return held[0]

    training.train(
        model,
        train_split,
        validation_split,
        settings,
        seed=job.seed,
        length=length,
        grower=forking,
        precision=job.execution.precision,
    )
    for item in found:
        item["status"] = held[0].engine.events[item.pop("number")].status
    return {"arm": job.arm, "seed": job.seed, "events": found, "machine": {"seconds": time.perf_counter() - started}}
