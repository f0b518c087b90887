"""Branches of a grown network, named and built again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from dnm import AddAttention, AddResidual, Divide, apply, count, trace
from stages import branches, records, trial
from stages.tasks import image_classification as task

SEED, CLASSES = 3, 4


def network() -> torch.nn.Sequential:
    return task.network(((4,), (6, 6)), 3, CLASSES, torch.Generator().manual_seed(SEED))


def test_a_network_with_branches_is_built_again() -> None:
    grown, inputs = network(), torch.randn(8, 3, 8, 8)
    assert branches.branches_of(grown) == []
    for edit in (
        AddResidual("9", width=5),
        AddAttention("9", reduction=2),
        AddResidual("11"),
        AddAttention("2", reduction=4),
        AddAttention("3", reduction=4),
    ):
        apply(grown, edit, inputs)
    inner = next(group for group in trace(grown, inputs).groups if group.width == 5)
    apply(grown, Divide(inner.name, (0, 1)), inputs)
    found = branches.branches_of(grown)
    assert found == [
        ("AddAttention", "2", 1), ("AddAttention", "3", 1), ("AddResidual", "9", 7), ("AddAttention", "9", 3),
        ("AddResidual", "11", 6),
    ]  # fmt: skip
    again = network()
    plain = again.eval()(inputs)
    branches.put_in(again, found, inputs[:1], 0)
    assert branches.branches_of(again) == found
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in grown.state_dict().items()
    }
    assert count(again, inputs) == count(grown, inputs)
    assert task.widths_of(again) == ((4,), (6, 6))
    # The identity at first, other weights with another seed.
    assert torch.equal(again.eval()(inputs), plain)
    other = network()
    branches.put_in(other, found, inputs[:1], 1)
    assert not torch.equal(again.get_parameter("2.squeeze.weight"), other.get_parameter("2.squeeze.weight"))


def test_a_trial_of_a_network_with_branches(make_job: Callable) -> None:
    job = make_job("scratch", 1, widths=((4,), (6, 6)), branches=(("AddResidual", "9", 5),), flops=20_000_000)
    result = trial.run(job)
    assert result["branches"] == [["AddResidual", "9", 5]] and result["events"] == []
    plain = trial.run(dataclasses.replace(job, branches=None))
    assert result["figures"]["parameters"] > plain["figures"]["parameters"] and plain["branches"] == []
    root = Path(trial.__file__).parents[1]
    assert root / "dnm/operators/branch.py" in records.code_files(root, records.grower_of(job))
    assert records.grower_of(dataclasses.replace(job, branches=None)) is None
