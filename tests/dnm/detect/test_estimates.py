"""Jackknife and halves, against closed forms and on batches that are in order."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from dnm.detect.estimates import Estimate, classes, halves, jackknife, samples
from dnm.errors import DnmError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_estimate_is_two_numbers_that_stay():
    estimate = Estimate(1.5, 0.25)
    assert estimate.as_dict() == {"value": 1.5, "standard_error": 0.25}
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(estimate, "value", 2.0)


@pytest.mark.parametrize("groups", [37, 1000])
def test_of_a_mean_with_a_group_a_row_the_error_is_the_textbook_one(groups):
    rows = normal(37)
    estimate = jackknife(torch.mean, rows, groups)
    assert estimate.value == pytest.approx(float(rows.mean()), rel=1e-14)
    assert estimate.standard_error == pytest.approx(float(rows.std()) / math.sqrt(37), rel=1e-12)


def test_of_a_mean_with_equal_groups_the_error_is_that_of_the_groups_means():
    rows = normal(40)
    left: list[torch.Tensor] = []

    def mean(kept: torch.Tensor) -> torch.Tensor:
        left.append(kept)
        return kept.mean()

    estimate = jackknife(mean, rows, 5)
    of_groups = torch.stack([(rows.sum() - kept.sum()) / 8 for kept in left[1:]])
    assert [len(kept) for kept in left] == [40] + [32] * 5
    assert estimate.standard_error == pytest.approx(float(of_groups.std()) / math.sqrt(5), rel=1e-12)


def test_with_unequal_groups_the_error_is_right_on_average():
    # 11 rows in 4 groups: 3, 3, 3 and 2.
    variances = [jackknife(torch.mean, normal(11, seed=seed), 4).standard_error ** 2 for seed in range(400)]
    assert sum(variances) / 400 == pytest.approx(1 / 11, rel=0.12)


def test_of_a_ratio_of_means_the_error_is_the_delta_methods():
    rows = normal(4000, 2) + 5
    estimate = jackknife(lambda kept: kept[:, 0].mean() / kept[:, 1].mean(), rows, 4000)
    residual = rows[:, 0] - estimate.value * rows[:, 1]
    assert estimate.standard_error == pytest.approx(float(residual.std() / rows[:, 1].mean()) / 4000**0.5, rel=1e-2)


@pytest.mark.parametrize("labels", [torch.arange(512) % 8, torch.arange(512) // 64], ids=["periodic", "sorted"])
def test_rows_in_order_do_no_harm(labels):
    textbook = float(labels.double().std()) / math.sqrt(512)
    assert 0.5 < jackknife(torch.mean, labels.double()).standard_error / textbook < 1.6
    first = halves(512, 0)
    assert abs(float(labels[first].double().mean() - labels[~first].double().mean())) < 4 * 2 * textbook
    assert labels[first].unique().numel() == 8


def test_positions_of_a_sample_stay_together():
    rows = normal(12, 3, 2)
    known = {tuple(row.flatten().tolist()) for row in rows}

    def statistic(kept: torch.Tensor) -> float:
        assert {tuple(row.flatten().tolist()) for row in kept} <= known
        return float(kept.mean())

    jackknife(statistic, rows, 4)


def test_the_seed_alone_decides():
    rows, state = normal(50), torch.get_rng_state()
    assert jackknife(torch.var, rows, seed=3) == jackknife(torch.var, rows, seed=3)
    assert jackknife(torch.var, rows, seed=3) != jackknife(torch.var, rows, seed=4)
    assert torch.equal(halves(50, 3), halves(50, 3)) and not torch.equal(halves(50, 3), halves(50, 4))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("num", [2, 9, 101])
def test_halves_are_halves_of_every_class(num):
    labels = torch.randint(5, (num,), generator=torch.Generator().manual_seed(num))
    first = halves(num, 1, labels)
    assert abs(2 * int(first.sum()) - num) <= 1
    for label in labels.unique():
        assert abs(int((labels[first] == label).sum()) - int((labels[~first] == label).sum())) <= 1


@pytest.mark.parametrize("rows, groups", [(normal(1), 8), (normal(9), 1)])
def test_too_few_rows_or_groups_are_refused(rows, groups):
    with pytest.raises(DnmError, match=r"jackknife: got \d rows in 1 groups, expected at least 2 of both"):
        jackknife(torch.mean, rows, groups)


@pytest.mark.parametrize(
    "tensor, message",
    [
        (torch.zeros(3), r"features: got shape \(3,\), expected 2 or 3 dimensions with the sample first"),
        (torch.zeros(1, 4), r"features: got shape \(1, 4\), expected at least 2 samples, none empty"),
        (torch.zeros(4, 0), r"features: got shape \(4, 0\), expected at least 2 samples, none empty"),
        (torch.tensor([[1.0], [math.nan], [math.inf]]), "features: 2 of 3 numbers are not finite"),
        (torch.zeros(4, 2, dtype=torch.complex64), "features: got torch.complex64, expected real numbers"),
    ],
)
def test_features_that_cannot_be_read_are_refused_by_name(tensor, message):
    with pytest.raises(DnmError, match=message):
        samples(tensor, "features")


def test_samples_are_read_in_float64_and_left_alone():
    tensor = torch.randn(4, 2, dtype=torch.float16, requires_grad=True)
    data = samples(tensor, "features")
    assert data.dtype == torch.float64 and not data.requires_grad and torch.equal(data.half(), tensor)


def test_labels_become_consecutive():
    assert classes(torch.tensor([7, -2, 7, 40]), 4).tolist() == [1, 0, 1, 2]
    assert classes(torch.tensor([True, False]), 2).tolist() == [1, 0]


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(4, dtype=torch.int64), torch.eye(3, dtype=torch.int64)])
def test_labels_that_are_no_classes_are_refused(labels):
    with pytest.raises(DnmError, match=r"labels: got torch.\w+ of shape .*expected one integer for each of 3 samples"):
        classes(labels, 3)


def test_people_read_figure_and_error() -> None:
    assert str(Estimate(0.123456, 0.01234)) == "0.123 ± 0.012"
    assert str(Estimate(12.0, math.nan)) == "12"
