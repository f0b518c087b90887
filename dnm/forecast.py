"""Where a loss would go without an edit: a power of the number of samples seen.

Losses of one run fall about as such a power (Hestness et al. 2017, arXiv:1712.00409; Hoffmann et al. 2022,
arXiv:2203.15556, equation 2): a straight line in the logarithms of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dnm.detect.estimates import Estimate

# The line is fitted to the points of the last stretch in which the number of samples grew by this factor.
STRETCH = 2.0
# Points without which there is no line with a standard error.
MIN_POINTS = 3
# How far a loss may be from the best power law, relative, without any edit: what the scatter around it does not show.
MODEL_ERROR = 0.05


@dataclass(frozen=True)
class Line:
    """ln(loss) as a line in ln(samples), fitted by least squares.

    Attributes:
        slope: the power with which the loss falls; positive where it falls.
        at: ln(samples) around which the line is fitted.
        level: ln(loss) of the line there.
        variance: of single points around the line.
        num_points: that it was fitted to.
        spread: sum of squared distances from `at`.
    """

    slope: float
    at: float
    level: float
    variance: float
    num_points: int
    spread: float

    def loss(self, samples: float) -> Estimate:
        """What one more point at `samples` would be, in nats.

        Its standard error holds that of the line, the scatter of single points, and `MODEL_ERROR`.
        """
        away = math.log(samples) - self.at
        value = math.exp(self.level - self.slope * away)
        variance = self.variance * (1.0 + 1.0 / self.num_points + away**2 / self.spread)
        return Estimate(value, value * math.sqrt(variance + MODEL_ERROR**2))


def fit(points: Sequence[tuple[float, float]], stretch: float = STRETCH) -> Line | None:
    """Fits the line to the last points of a curve.

    Args:
        points: pairs of samples seen (above 0, increasing) and loss (nats).
        stretch: points are used whose number of samples is at least that of the last one over this factor.

    Returns:
        The line; None where fewer than three points lie in the stretch, all lie at one number of samples, or a loss in
        it is not positive.
    """
    used = [(samples, loss) for samples, loss in points if samples * stretch >= points[-1][0]]
    if len(used) < MIN_POINTS or min(loss for _, loss in used) <= 0.0:
        return None
    used = [(math.log(samples), math.log(loss)) for samples, loss in used]
    at = sum(x for x, _ in used) / len(used)
    level = sum(y for _, y in used) / len(used)
    spread = sum((x - at) ** 2 for x, _ in used)
    if spread == 0.0:
        return None
    rise = sum((x - at) * (y - level) for x, y in used) / spread
    rest = sum((y - level - rise * (x - at)) ** 2 for x, y in used)
    return Line(-rise, at, level, rest / (len(used) - 2), len(used), spread)
