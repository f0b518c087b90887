"""Grows a trial's network as its settings say: what of the library a trial of a growing arm runs through."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dnm import Growth, Morphogenesis, count
from stages.data import splits
from stages.tasks import image_classification as task
from stages.training import Length

if TYPE_CHECKING:
    from stages.trial import Job

# What `enable_aggressive_growth` switches: groups divided at an event, and the fraction that each grows by.
AGGRESSIVE = (2, 1.0)
CAREFUL = (1, 0.25)


class ScheduledGrower:
    """Growth at scheduled times.

    Args:
        engine: of the library.
        probe_loss: computes the loss on the engine's example inputs.
    """

    def __init__(self, engine: Morphogenesis, probe_loss: Callable[[], torch.Tensor]) -> None:
        self._engine = engine
        self._probe_loss = probe_loss

    @property
    def events(self) -> list[dict[str, Any]]:
        """The engine's events."""
        return [event.as_dict() for event in self._engine.events]

    @property
    def flops(self) -> int:
        """What the engine's looking and checking cost so far."""
        return self._engine.flops

    def after_step(self, done: float) -> bool:
        """Lets the engine look, if it is time; whether it did."""
        return self._engine.step(self._probe_loss) is not None

    def after_epoch(self, done: float, validation_loss: float) -> bool:
        """Nothing depends on the validation loss here."""
        return False

    def learning_rate_factor(self) -> float:
        """The schedule's own rate."""
        return 1.0

    def state_dict(self) -> dict[str, Any]:
        """The engine's."""
        return self._engine.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The engine's."""
        self._engine.load_state_dict(state)


def grower_of(
    job: Job, data: splits.DataSet, train_split: task.Split, length: Length
) -> Callable[[nn.Module, torch.optim.Optimizer], ScheduledGrower]:
    """What makes the grower of a trial, once there are a network and its optimizer."""
    settings = job.settings.dnm
    num = min(settings.probe_size, len(train_split))
    probe, labels = train_split.batch(torch.arange(num, device=train_split.images.device))
    growth = _growth(job, data, length)

    def make(model: nn.Module, optimizer: torch.optim.Optimizer) -> ScheduledGrower:
        engine = Morphogenesis(model, growth, probe, optimizer)
        return ScheduledGrower(engine, lambda: task.loss(model(probe), labels))

    return make


def _growth(job: Job, data: splits.DataSet, length: Length) -> Growth:
    if length.steps is None:
        raise ValueError(f"{job.row}: scheduled events are set in steps; the run's length is {length.flops} FLOPs")
    dnm = job.settings.dnm
    edits, fraction = AGGRESSIVE if dnm.enable_aggressive_growth else CAREFUL
    shape = data.train.images.shape
    sample = torch.zeros(1, shape[3], shape[1], shape[2])
    baseline = task.network(job.settings.networks.baseline, shape[3], len(data.class_names), torch.Generator())
    cost = count(baseline, sample)
    return Growth(
        at_steps=tuple(sorted({max(1, round(time * length.steps)) for time in dnm.event_times})),
        edits_per_event=edits,
        fraction=fraction,
        max_parameters=int(dnm.max_parameters * cost.parameters),
        max_training_flops=int(dnm.max_training_flops * cost.training),
        seed=job.seed,
    )
