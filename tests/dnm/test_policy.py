"""Settings are checked; gain and price are the derivatives of one scaling law."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dnm.errors import DnmError
from dnm.policy import EXPONENT, Budget, Outlook, Policy

POLICY = Policy(samples_per_parameter=4.0)


def law(parameters: float, samples: float) -> float:
    """The scaling law, scaled to 1 nat at 1,000 parameters and 10,000 samples."""

    def raw(parameters: float, samples: float) -> float:
        return parameters**-EXPONENT + (samples / 4.0) ** -EXPONENT

    return raw(parameters, samples) / raw(1000.0, 10_000.0)


def test_gain_and_price_are_the_slopes_of_the_scaling_law() -> None:
    # Nothing was seen yet, so that whatever is added is trained on everything.
    outlook = Outlook(samples=0, remaining_samples=10_000.0, priced=True, loss=1.0)
    small = 1e-5
    gain = (law(1000.0, 10_000.0) - law(1000.0 * math.exp(small), 10_000.0)) / small
    assert outlook.unit(POLICY, 1000, 1.0) == pytest.approx(gain, rel=1e-4)
    lost = law(1000.0, 10_000.0 * math.exp(-small)) - law(1000.0, 10_000.0)
    assert outlook.price(POLICY, 1000, 1.0, math.exp(small)) == pytest.approx(lost, rel=1e-4)


def test_growth_in_proportion_pays_exactly_where_samples_outnumber_what_the_size_needs() -> None:
    for parameters, pays in ((2400, True), (2600, False)):
        outlook = Outlook(samples=0, remaining_samples=10_000.0, priced=True, loss=1.0)
        small = 1e-4
        gain = small * outlook.unit(POLICY, parameters, math.exp(small))
        assert (gain > outlook.price(POLICY, parameters, 1.0, math.exp(small))) is pays


def test_late_growth_gains_less_and_costs_less() -> None:
    early = Outlook(samples=1000, remaining_samples=9000.0, priced=True, loss=1.0)
    late = Outlook(samples=9000, remaining_samples=1000.0, priced=True, loss=1.0)
    # A ninth of the samples to come, and a network that is larger for them.
    assert late.unit(POLICY, 1000, 1.0) < early.unit(POLICY, 1000, 1.0) / 9.0
    assert late.price(POLICY, 1000, 1.0, 2.0) < early.price(POLICY, 1000, 1.0, 2.0)


def test_a_budget_of_steps_has_no_price() -> None:
    outlook = Outlook(samples=100, remaining_samples=900.0, priced=False, loss=1.0)
    assert outlook.price(POLICY, 1000, 1.0, 8.0) == 0.0
    assert outlook.end(8.0) == 1000.0


def test_aggressive_growth_is_more_edits_and_larger_ones() -> None:
    careful, aggressive = Policy(), Policy(enable_aggressive_growth=True)
    assert (careful.edits_per_event, careful.fraction) == (1, 0.25)
    assert (aggressive.edits_per_event, aggressive.fraction) == (8, 0.5)
    assert Policy(max_edits_per_event=7).edits_per_event == 7
    assert Policy(enable_aggressive_growth=True, added_fraction=1.0).fraction == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trigger": "sometimes"}, r"trigger is 'sometimes', expected one of \('scheduled', 'plateau'\)"),
        ({"event_times": (0.3, 0.2)}, "event_times is .* expected increasing fractions"),
        ({"event_times": (0.0,)}, "event_times"),
        ({"event_times": ("0.5",)}, "event_times"),
        ({"morphogenesis_patience": 0}, "morphogenesis_patience is 0, expected a whole number of at least 1"),
        ({"max_morphogenesis_events": 2.5}, "max_morphogenesis_events is 2.5"),
        ({"operators": ("Prune",)}, r"operators is \('Prune',\), expected some of"),
        ({"theories": ("astrology",)}, "theories"),
        ({"excluded": "layer1"}, "excluded is 'layer1', expected a sequence, not a single string"),
        ({"excluded": (1,)}, "excluded is .*, expected strings"),
        ({"fill": "magic"}, "fill is 'magic'"),
        ({"max_parameters": 0}, "max_parameters is 0, expected a positive whole number, or None"),
        ({"bottleneck_threshold": -0.1}, "bottleneck_threshold is -0.1"),
        ({"caution": math.nan}, "caution is nan"),
        ({"samples_per_parameter": 0.0}, "samples_per_parameter is 0.0, expected a positive number"),
        ({"grace": 1.0}, "grace is 1.0"),
        ({"prune_at": 0.0}, "prune_at is 0.0"),
        ({"added_fraction": 1.5}, r"added_fraction is 1.5, expected in \(0, 1\], or None"),
        ({"seed": True}, "seed is True"),
    ],
)
def test_a_setting_out_of_range_is_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DnmError, match=message):
        Policy(**settings)


def test_a_budget_is_one_positive_number() -> None:
    for bad in ({}, {"steps": 1, "flops": 1}, {"steps": 0}, {"flops": -5}):
        with pytest.raises(DnmError, match="expected one of them, a positive number"):
            Budget(**bad)
