"""What edits are worth, learnt from what earlier ones gained: Bayesian linear regression, shrunk to "uniform".

The gain of an edit is taken to be

    unit * growth * (worth[operator] + sum over theories of weight[theory] * covariate[theory])

with `growth` the edit's share of the growth of the network, and `unit` what growing all of it e-fold is expected to
gain (both are given). Before anything was observed each worth is 1 and each weight 0, with the standard deviations
below: every place is as good as any other. Gains that were observed, with their standard errors, move both, by the
closed form for a normal prior and normal errors (Bishop 2006, Pattern Recognition and Machine Learning, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dnm.detect.estimates import Estimate
from dnm.errors import DnmError


@dataclass(frozen=True)
class Terms:
    """What one edit's gain is predicted from.

    Attributes:
        operator: name of the operator.
        growth: its share of the network's growth, in e-foldings of its size.
        covariates: one figure a theory, standardised over the candidates of one look; missing ones count as 0.
    """

    operator: str
    growth: float
    covariates: Mapping[str, float]


class Calibration:
    """The regression. Plain values go in and come out of `state_dict`.

    Args:
        operators: their names; each has a worth.
        theories: their names; each has a weight.
        worth_deviation: prior standard deviation of a worth, whose prior mean is 1.
        weight_deviation: prior standard deviation of a weight, whose prior mean is 0.
    """

    def __init__(
        self,
        operators: Sequence[str],
        theories: Sequence[str],
        *,
        worth_deviation: float = 0.5,
        weight_deviation: float = 0.25,
    ) -> None:
        self.operators, self.theories = tuple(operators), tuple(theories)
        deviations = [worth_deviation] * len(self.operators) + [weight_deviation] * len(self.theories)
        means = [1.0] * len(self.operators) + [0.0] * len(self.theories)
        self._precision = torch.diag(torch.tensor(deviations, dtype=torch.float64).pow(-2))
        self._information = self._precision @ torch.tensor(means, dtype=torch.float64)

    @property
    def coefficients(self) -> dict[str, Estimate]:
        """Worths and weights by name, with their posterior standard deviations."""
        covariance = torch.linalg.inv(self._precision)
        means = (covariance @ self._information).tolist()
        errors = covariance.diagonal().sqrt().tolist()
        names = (*self.operators, *self.theories)
        return {name: Estimate(*pair) for name, pair in zip(names, zip(means, errors, strict=True), strict=True)}

    def predict(self, edits: Sequence[Terms], unit: float) -> Estimate:
        """Gain of edits taken together, in the unit of `unit`, with its posterior standard deviation."""
        row = self._row(edits) * unit
        covariance = torch.linalg.inv(self._precision)
        mean = (row @ covariance @ self._information).item()
        return Estimate(mean, math.sqrt(max(0.0, (row @ covariance @ row).item())))

    def observe(self, edits: Sequence[Terms], unit: float, gain: Estimate) -> None:
        """Learns from what edits taken together gained.

        Raises:
            DnmError: the gain or its standard error is not finite, or the latter not positive.
        """
        if not (math.isfinite(gain.value) and math.isfinite(gain.standard_error) and gain.standard_error > 0.0):
            raise DnmError(f"a gain of {gain} was observed, expected finite figures and a positive standard error")
        row = self._row(edits) * unit / gain.standard_error
        self._precision = self._precision + torch.outer(row, row)
        self._information = self._information + row * (gain.value / gain.standard_error)

    def state_dict(self) -> dict[str, Any]:
        """All that was learnt, as plain values."""
        return {
            "operators": list(self.operators),
            "theories": list(self.theories),
            "precision": self._precision.tolist(),
            "information": self._information.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave.

        Raises:
            DnmError: it is of other operators or theories.
        """
        for name in ("operators", "theories"):
            if list(getattr(self, name)) != list(state[name]):
                raise DnmError(
                    f"the calibration is of {name} {list(state[name])}, expected {list(getattr(self, name))}; use the "
                    "policy that it was learnt with"
                )
        self._precision = torch.tensor(state["precision"], dtype=torch.float64)
        self._information = torch.tensor(state["information"], dtype=torch.float64)

    def _row(self, edits: Sequence[Terms]) -> Tensor:
        row = torch.zeros(len(self.operators) + len(self.theories), dtype=torch.float64)
        for edit in edits:
            if edit.operator not in self.operators:
                raise DnmError(f"operator {edit.operator!r} is not calibrated; expected one of {self.operators}")
            row[self.operators.index(edit.operator)] += edit.growth
            for number, theory in enumerate(self.theories, len(self.operators)):
                row[number] += edit.growth * edit.covariates.get(theory, 0.0)
        return row
