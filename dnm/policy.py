"""When to look at a network, what an edit is worth in what is left of the run, and what it costs.

Worth and cost of an edit follow one scaling law, loss = N^-a + (D / r)^-a up to a factor (Hoffmann et al. 2022,
arXiv:2203.15556, equation 2, with one exponent), in which N is the number of parameters, D the number of samples, and
r the number of samples per parameter at which both terms are equal. With q = D / (r N) for the samples D that are still
to come, as what is new will be trained on no others:

    gain of growing N e-fold        unit  = a * loss / (1 + q^-a) * s
    loss of seeing e times less     price = a * loss * q^-a / (1 + q^-a)

where s is the share of all samples that are still to come, seen ones included in all. An edit adds to N, and where the
budget is one of FLOPs it takes from D: a network that is large for what is left (q below 1) is not grown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from dnm.edits import FILLS
from dnm.errors import DnmError

# Hoffmann et al. 2022 found 0.34 for parameters and 0.28 for data.
EXPONENT = 0.3
OPERATORS = ("Divide", "AddResidual", "AddAttention", "Connect")
THEORIES = ("information", "tangent", "manifold", "expressivity", "gradient")
TRIGGERS = ("scheduled", "plateau")
AGGRESSIVE_EDITS = 8


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a run is: exactly one of the two.

    Attributes:
        steps: optimizer steps; growing costs no steps then, and limits on size must hold it.
        flops: counted FLOPs of training, what looking and checking cost included.

    Raises:
        DnmError: none or both are given, or one that is not positive.
    """

    steps: int | None = None
    flops: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.steps, self.flops) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise DnmError(
                f"the budget is {self.steps} steps and {self.flops} FLOPs, expected one of them, a positive number"
            )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When to look, what may be done, how far.

    Attributes:
        trigger: "scheduled" looks at `event_times`; "plateau" after `morphogenesis_patience` epochs whose validation
            loss is not below the best one before by more than `bottleneck_threshold`, relative.
        event_times: fractions of the budget, increasing, in (0, 1).
        morphogenesis_patience: epochs, at least 1.
        bottleneck_threshold: the least predicted drop of the loss, relative, for which an event takes its edits.
        max_morphogenesis_events: events that take edits, at most; those taken back count.
        enable_aggressive_growth: several edits an event, and divisions that add half of a group; else one edit an
            event, and divisions that add a quarter.
        max_edits_per_event: None takes `AGGRESSIVE_EDITS` with aggressive growth, and 1 without.
        added_fraction: what a division adds to a group, as a fraction of its width, in (0, 1]; None takes a half
            with aggressive growth, and a quarter without.
        operators: what may be done, of `OPERATORS`.
        excluded: places that stay as they are: names of groups and layers as `Event.table` shows them, with `*`, `?`
            and `[...]` as in a shell.
        theories: what is looked at, of `THEORIES`; with none, every place is as good as any other.
        fill: of new units, as in `Divide`.
        multiple: units come in multiples of this in groups of at least four times as many; in narrower ones, of the
            largest power of two in a quarter of the width, but two at least.
        samples_per_parameter: samples still to come at which a network's size is in balance with them.
        max_parameters: the network never has more trainable scalars; None: no limit.
        max_training_flops: a forward and backward pass of one sample never costs more; None: no limit.
        caution: standard errors that are taken off a predicted gain before it is compared with its cost.
        grace: how long an event's gain is watched before it is judged, as a fraction of the budget, in (0, 1).
        rollback: whether an event is taken back whose validation loss at the end of its grace period is above the
            forecast without it by more than two standard errors.
        rewarm: how long the learning rate rises from 0 again after an event, as a fraction of the budget; 0: not.
        prune_at: fraction of the budget at which units are pruned, once; None: never.
        prune_tolerance: predicted rise of the loss that pruning may cost, relative.
        seed: of all that is drawn.

    Raises:
        DnmError: a setting is of the wrong type or out of its range.
    """

    trigger: str = "scheduled"
    event_times: tuple[float, ...] = (0.03, 0.06, 0.09, 0.12)
    morphogenesis_patience: int = 8
    bottleneck_threshold: float = 0.0
    max_morphogenesis_events: int = 5
    enable_aggressive_growth: bool = False
    max_edits_per_event: int | None = None
    added_fraction: float | None = None
    operators: tuple[str, ...] = ("Divide",)
    excluded: tuple[str, ...] = ()
    theories: tuple[str, ...] = THEORIES
    fill: str = "zero"
    multiple: int = 8
    samples_per_parameter: float = 3.0
    max_parameters: int | None = None
    max_training_flops: int | None = None
    caution: float = 0.0
    grace: float = 0.02
    rollback: bool = True
    rewarm: float = 0.0
    prune_at: float | None = None
    prune_tolerance: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("event_times", "operators", "excluded", "theories"):
            self._check(not isinstance(getattr(self, name), str), name, "a sequence, not a single string")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, known in (("operators", OPERATORS), ("theories", THEORIES)):
            for item in getattr(self, name):
                self._check(item in known, name, f"some of {known}")
        self._check(all(isinstance(item, str) for item in self.excluded), "excluded", "strings")
        self._check(self.trigger in TRIGGERS, "trigger", f"one of {TRIGGERS}")
        self._check(self.fill in FILLS, "fill", f"one of {FILLS}")
        times = self.event_times
        self._check(
            all(_number(time) and 0.0 < time < 1.0 for time in times) and list(times) == sorted(set(times)),
            "event_times",
            "increasing fractions strictly between 0 and 1",
        )
        for name in ("morphogenesis_patience", "max_morphogenesis_events", "multiple"):
            self._check(_whole(getattr(self, name)) and getattr(self, name) >= 1, name, "a whole number of at least 1")
        for name in ("max_parameters", "max_training_flops", "max_edits_per_event"):
            value = getattr(self, name)
            self._check(value is None or (_whole(value) and value >= 1), name, "a positive whole number, or None")
        for name in ("bottleneck_threshold", "caution", "rewarm", "prune_tolerance"):
            self._check(_number(getattr(self, name)) and getattr(self, name) >= 0.0, name, "a number of at least 0")
        self._check(
            _number(self.samples_per_parameter) and self.samples_per_parameter > 0.0,
            "samples_per_parameter",
            "a positive number",
        )
        self._check(_number(self.grace) and 0.0 < self.grace < 1.0, "grace", "a fraction strictly between 0 and 1")
        self._check(
            self.prune_at is None or (_number(self.prune_at) and 0.0 < self.prune_at < 1.0),
            "prune_at",
            "a fraction strictly between 0 and 1, or None",
        )
        fraction = self.added_fraction
        self._check(
            fraction is None or (_number(fraction) and 0.0 < fraction <= 1.0), "added_fraction", "in (0, 1], or None"
        )
        self._check(_whole(self.seed), "seed", "a whole number")

    def _check(self, fits: bool, name: str, expected: str) -> None:
        if not fits:
            raise DnmError(f"Policy: {name} is {getattr(self, name)!r}, expected {expected}")

    @property
    def edits_per_event(self) -> int:
        """Edits of one event, at most."""
        if self.max_edits_per_event is not None:
            return self.max_edits_per_event
        return AGGRESSIVE_EDITS if self.enable_aggressive_growth else 1

    @property
    def fraction(self) -> float:
        """What a division adds to a group, as a fraction of its width."""
        if self.added_fraction is not None:
            return self.added_fraction
        return 0.5 if self.enable_aggressive_growth else 0.25

    def excludes(self, place: str) -> bool:
        """Whether a place is to stay as it is."""
        return any(fnmatchcase(place, pattern) for pattern in self.excluded)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Outlook:
    """What is left of a run.

    Attributes:
        samples: seen so far.
        remaining_samples: that will be seen if the network stays as it is.
        priced: whether a dearer network sees fewer: whether the budget is one of FLOPs.
        loss: where it is now, nats.
    """

    samples: int
    remaining_samples: float
    priced: bool
    loss: float

    def end(self, relative_cost: float) -> float:
        """Samples seen at the end with a network that costs so many times as much as today's."""
        return self.samples + self.remaining_samples / (relative_cost if self.priced else 1.0)

    def unit(self, policy: Policy, parameters: int, relative_cost: float) -> float:
        """Gain of growing the network e-fold, nats, by the end of the run; see the module."""
        to_come = 1.0 - self.samples / self.end(relative_cost)
        return EXPONENT * self.loss / (1.0 + self._balance(policy, parameters, relative_cost) ** -EXPONENT) * to_come

    def price(self, policy: Policy, parameters: int, from_cost: float, to_cost: float) -> float:
        """What is lost by the end of the run, nats, by seeing fewer samples as the relative cost rises; see the module.

        The network has `parameters` at `to_cost`.
        """
        balance = self._balance(policy, parameters, to_cost) ** -EXPONENT
        fewer = math.log(self.end(from_cost)) - math.log(self.end(to_cost))
        return EXPONENT * self.loss * balance / (1.0 + balance) * fewer

    def _balance(self, policy: Policy, parameters: int, relative_cost: float) -> float:
        to_come = max(1.0, self.end(relative_cost) - self.samples)
        return to_come / (policy.samples_per_parameter * parameters)
