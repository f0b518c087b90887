"""The audit: what it finds in the document, and that it computes this from the figures."""

from __future__ import annotations

import copy
import doctest
from typing import Any

import pytest

import stages.audit
from stages.audit import Finding, agrees, audit, audit_rows, half_unit
from stages.documented import PATH, parse
from stages.settings_io import read_yaml

# Typed out by hand from the document.
FAILING = {
    "accuracy_range_image_classification",
    "accuracy_range_few_shot",
    "convergence_range",
    "parameter_efficiency",
    "target_before_plateau",
    "early_stopping_and_training_time",
    "events_most",
    "event_gains_and_improvements",
    "event_gains_and_ablation",
    "edits_are_events",
    "detection_alone",
    "theory_sum",
    "theory_synergy",
    "memory_precision",
    "inference_precision",
    "percent_means_one_thing",
    "pruning_makes_smaller",
    "transfer_helps",
    "interval_runs",
    "improvements_tested",
    "interval_width_cifar10",
    "interval_width_cifar100",
    "no_missing_unit",
    "no_qualifier",
    "scripts_listed",
    "scripts_cover_rows",
}

FOUND = {
    "theory_sum": ("5.7", "5.1"),
    "theory_synergy": ("-0.6", "above 0"),
    "events_fewest": ("4", "at most 5"),
    "events_most": ("10", "at most 5"),
    "convergence_range": ("56.25, 62.5, 46.67", "15 to 40"),
    "component_sum": ("5.1", "5.1"),
    "memory_overhead": ("16.7, 16.7, 21.4", "16.7, 16.7, 21.4"),
    "inference_speedup": ("4.1, 3.2, 3.3", "4.1, 3.2, 3.3"),
    "interval_centres": ("5.1, 10.5, 6.5", "5.1, 10.5, 6.5"),
    "improvements_tested": ("3 of 22", "all 22"),
    "scripts_listed": ("1 of 3", "all 3"),
    "transfer_helps": ("-12.6, 0", "above 0"),
    # t(0.975, 18) = 2.1009 times the standard error 0.31 sqrt(2 / 10).
    "interval_width_cifar10": ("+/- 0.29", "+/- 0.90"),
}


@pytest.fixture(scope="module")
def transcribed() -> dict[str, Any]:
    return read_yaml(PATH)


@pytest.fixture
def content(transcribed: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(transcribed)


def _findings(content: dict[str, Any]) -> dict[str, Finding]:
    return {finding.id: finding for finding in audit(parse(content))}


def test_what_fails(content: dict[str, Any]) -> None:
    findings = audit(parse(content))
    assert len({finding.id for finding in findings}) == len(findings) == 55
    assert {finding.id for finding in findings if not finding.holds} == FAILING


@pytest.mark.parametrize("name", FOUND)
def test_computed_figures(content: dict[str, Any], name: str) -> None:
    finding = _findings(content)[name]
    assert (finding.found, finding.expected) == FOUND[name]


def test_exceptions_are_named(content: dict[str, Any]) -> None:
    findings = _findings(content)
    for name, rows in {
        "accuracy_range_image_classification": "cifar100",
        "target_before_plateau": "cifar100, imagenet",
        "interval_runs": "imagenet",
        "edits_are_events": "connection",
        "no_missing_unit": "87.6",
    }.items():
        assert rows in findings[name].sentence


def test_findings_are_addressed(content: dict[str, Any]) -> None:
    documented = parse(content)
    addresses = set(documented.addresses())
    for finding in audit(documented):
        assert set(finding.where) <= addresses, finding.id
        assert finding.where or finding.id == "scripts_listed"
        assert finding.sentence.endswith(".")


# Each: the cell's address, the value that is put there, and which checks change sides.
ALTERED = [
    ("image_classification/cifar100/dnm", 78.2, {"difference_image_classification", "final_accuracy_dnm", "run_means"}),
    ("image_classification/cifar100/nas", 79.0, {"dnm_ranks_first"}),
    ("object_detection/coco/improvement", 7.3, {"difference_object_detection"}),
    ("language/cola/dnm", 61.8, {"difference_language"}),
    ("robustness/rotation/gain", 5.5, {"difference_robustness"}),
    ("few_shot/shots_5/improvement", 30.4, {"difference_few_shot", "few_shot_falls"}),
    ("transfer/medical_to_natural/improvement", 2.8, {"difference_transfer", "accuracy_range_transfer"}),
    ("achievements/accuracy_improvements/range", [3, 10.5], {"accuracy_range_image_classification"}),
    ("achievements/accuracy_improvements/range", [5, 40], {"accuracy_range_few_shot"}),
    ("achievements/training_efficiency/range", [15, 63], {"convergence_range"}),
    ("image_classification/stl10/training_time", -41, {"training_time_range"}),
    ("convergence/imagenet/target", 77, {"target_reached_baseline"}),
    ("convergence/cifar10/dnm_epochs_to_target", 201, {"target_within_training"}),
    ("convergence/cifar10/baseline_final_accuracy", 92.3, {"final_accuracy_baseline"}),
    ("protocol/dnm_config/max_morphogenesis_events", 10, {"events_most"}),
    ("protocol/dnm_config/max_morphogenesis_events", 3, {"events_fewest"}),
    ("events/division/gain", 0.7, {"event_gains_and_ablation", "event_gains_and_improvements"}),
    ("ablation_components/detection/contribution", 0.0, {"component_steps", "component_sum", "detection_alone"}),
    ("ablation_components/full/accuracy", 97.4, {"component_steps", "component_ends"}),
    ("ablation_theories/full/impact", 5.7, {"theory_sum", "theory_full"}),
    ("ablation_theories/full/impact", 5.9, {"theory_synergy", "theory_full"}),
    ("memory/imagenet/overhead", 21.5, {"memory_overhead"}),
    ("inference/cifar10/dnm", 11.7, {"inference_speedup"}),
    ("confidence/imagenet/interval", [5.9, 7.3], {"interval_centres"}),
    ("confidence/cifar10/improvement", 5.2, {"interval_centres", "interval_means"}),
    ("confidence/cifar10/interval", [4.8, 5.4], {"interval_width_cifar10"}),
    ("confidence/cifar100/interval", [0.5, 20.5], {"interval_p_values"}),
    ("runs/cifar10/mean", 97.7, {"run_means", "run_extremes", "run_spreads"}),
    ("runs/cifar100/std", 0.75, {"run_spreads"}),
    ("runs/cifar100/std", 0.29, {"run_spreads"}),
]


@pytest.mark.parametrize(("address", "value", "changed"), ALTERED)
def test_altered_figures_change_the_findings(
    content: dict[str, Any], address: str, value: Any, changed: set[str]
) -> None:
    before = _findings(content)
    table, row, column = address.split("/")
    content["tables"][table]["rows"][row]["values"][column] = value
    after = _findings(content)
    sides = {name for name in before if before[name].holds != after[name].holds}
    assert changed <= sides
    # What does not read the altered cell stays as it was.
    assert all(address in map(str, before[name].where) for name in before if before[name] != after[name])


def test_plateaus_and_stopping(content: dict[str, Any]) -> None:
    rows = content["tables"]["convergence"]["rows"]
    for row in rows.values():
        row["values"]["baseline_plateau_at"] = None
    findings = _findings(content)
    assert findings["target_before_plateau"].holds
    assert findings["early_stopping_and_training_time"].holds


def test_print_and_scripts(content: dict[str, Any]) -> None:
    content["tables"]["few_shot"]["notes"] = []
    content["scripts"]["run_all_benchmarks.py"] = {"subject": "everything", "covers": list(content["tables"])}
    content["scripts"]["generate_report.py"] = {"subject": "report", "covers": []}
    findings = _findings(content)
    assert findings["no_missing_unit"].holds
    assert findings["scripts_listed"].holds
    assert findings["scripts_cover_rows"].holds


def test_rows_of_the_table(content: dict[str, Any]) -> None:
    findings = audit(parse(content))
    rows = audit_rows(findings)
    assert len(rows) == len(findings)
    assert all(list(row) == ["check", "where", "stated", "computed", "holds"] for row in rows)
    (row,) = (row for row in rows if row["check"] == "theory_sum")
    assert row == {
        "check": "theory_sum",
        "where": "ablation_theories: impact of information, ntk, manifold, full",
        "stated": "5.1",
        "computed": "5.7",
        "holds": False,
    }


@pytest.mark.parametrize(
    ("computed", "stated", "expected"),
    [
        (5.05, 5.1, True),
        (5.04, 5.1, False),
        (5.149, 5.1, True),
        (5.151, 5.1, False),
        (24.6, 25, True),
        (24.4, 25, False),
    ],
)
def test_half_a_unit(computed: float, stated: float, expected: bool) -> None:
    assert agrees(computed, stated) == expected


def test_printed_digits() -> None:
    assert [half_unit(value) for value in (6.0, 10, 0.001, 0.31)] == [0.05, 0.5, 0.0005, 0.005]
    assert doctest.testmod(stages.audit).failed == 0
