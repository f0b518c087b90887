"""Grows a trial's network as its settings say: what of the library a trial of a growing arm runs through."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dnm import Budget, Event, Morphogenesis, Policy, count
from stages.data import splits
from stages.tasks import image_classification as task
from stages.training import Length

if TYPE_CHECKING:
    from stages.trial import Job

# Estimates are kept as far as they mean something: files stay small, and the last bit of a decomposition, which is
# another one on another processor, stays out of them.
DIGITS = 4


class EngineGrower:
    """Growth by the library's engine.

    Args:
        engine: of the library.
    """

    def __init__(self, engine: Morphogenesis) -> None:
        self.engine = engine

    @property
    def events(self) -> list[dict[str, Any]]:
        """The engine's events."""
        return [_rounded(event) for event in self.engine.events]

    @property
    def start_widths(self) -> dict[str, int]:
        """The engine's."""
        return dict(self.engine.start_widths)

    @property
    def flops(self) -> int:
        """What the engine's looking and checking cost so far."""
        return self.engine.flops

    def after_step(self, done: float, loss: torch.Tensor, num_samples: int) -> bool:
        """Tells the engine of a step; whether it looked at the network or took an event back."""
        return self.engine.after_step(loss, num_samples) is not None

    def after_epoch(self, validation_loss: float) -> bool:
        """Tells the engine of a validation loss; whether it looked at the network or took an event back."""
        return self.engine.after_epoch(validation_loss) is not None

    def learning_rate_factor(self) -> float:
        """The engine's."""
        return self.engine.learning_rate_factor()

    def state_dict(self) -> dict[str, Any]:
        """The engine's."""
        return self.engine.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The engine's."""
        self.engine.load_state_dict(state)


def grower_of(
    job: Job, data: splits.DataSet, train_split: task.Split, length: Length
) -> Callable[[nn.Module, torch.optim.Optimizer], EngineGrower]:
    """What makes the grower of a trial, once there are a network and its optimizer."""
    num = min(job.settings.dnm.probe_size, len(train_split))
    probe, labels = train_split.batch(torch.arange(num, device=train_split.images.device))
    policy = policy_of(job, data)

    def make(model: nn.Module, optimizer: torch.optim.Optimizer) -> EngineGrower:
        engine = Morphogenesis(
            model,
            optimizer,
            probe,
            lambda: task.loss(model(probe), labels),
            budget=Budget(steps=length.steps, flops=length.flops),
            policy=policy,
            labels=labels,
        )
        return EngineGrower(engine)

    return make


def policy_of(job: Job, data: splits.DataSet) -> Policy:
    """The library's policy by a trial's settings."""
    dnm = job.settings.dnm
    shape = data.train.images.shape
    sample = torch.zeros(1, shape[3], shape[1], shape[2])
    baseline = task.network(job.settings.networks.baseline, shape[3], len(data.class_names), torch.Generator())
    cost = count(baseline, sample)
    return Policy(
        trigger=dnm.trigger,
        event_times=dnm.event_times,
        bottleneck_threshold=dnm.bottleneck_threshold,
        morphogenesis_patience=dnm.morphogenesis_patience,
        max_morphogenesis_events=dnm.max_morphogenesis_events,
        enable_aggressive_growth=dnm.enable_aggressive_growth,
        operators=dnm.operators,
        theories=dnm.theories,
        fill=dnm.fill,
        samples_per_parameter=dnm.samples_per_parameter,
        caution=dnm.caution,
        grace=dnm.grace,
        rollback=dnm.rollback,
        rewarm=dnm.rewarm,
        prune_at=dnm.prune_at or None,
        prune_tolerance=dnm.prune_tolerance,
        max_parameters=max(1, int(dnm.max_parameters * cost.parameters)),
        max_training_flops=max(1, int(dnm.max_training_flops * cost.training)),
        seed=job.seed,
    )


def _rounded(event: Event) -> dict[str, Any]:
    """The event as plain values, its estimates as pairs of value and standard error."""

    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.{DIGITS}g}")
        if isinstance(value, dict) and value.keys() == {"value", "standard_error"}:
            return [short(value["value"]), short(value["standard_error"])]
        if isinstance(value, dict):
            return {key: short(inner) for key, inner in value.items()}
        return [short(inner) for inner in value] if isinstance(value, list) else value

    values = event.as_dict()
    return {key: value if key == "entries" else short(value) for key, value in values.items()}
