"""Figures of layers and groups, and the covariates made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from dnm import trace
from dnm.cost import Flops, Products
from dnm.detect import bottleneck
from dnm.detect.bottleneck import PRINCIPAL, covariates, measure, of_group, unit_gradients
from dnm.detect.estimates import Estimate
from dnm.detect.probe import Probe, look
from dnm.policy import THEORIES


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.left, self.right = nn.Conv2d(6, 5, 1), nn.Conv2d(6, 5, 1)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.left(x) + self.right(x)).mean((2, 3)))


def seen(num: int = 64) -> tuple[Network, Probe, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model, images, labels = Network(), torch.randn(num, 2, 5, 5), torch.arange(num) % 4
    probe = look(model, lambda: nn.functional.cross_entropy(model(images), labels), positions=25)
    return model, probe, images, labels


def test_what_the_figures_take_is_counted() -> None:
    _, probe, _, labels = seen()
    with Products() as told, Flops() as watched:
        measure(probe, THEORIES, labels)
    assert told.flops == watched.flops > 0


def test_every_theory_has_its_figures_with_standard_errors() -> None:
    _, probe, _, labels = seen()
    found = measure(probe, THEORIES, labels)
    assert list(found) == ["first", "left", "right", "head"]
    for figures in found.values():
        assert set(PRINCIPAL.values()) <= set(figures) and "usable_information" in figures
        assert all(math.isfinite(f.value) and math.isfinite(f.standard_error) for f in figures.values())
    assert sum(figures["kernel_share"].value for figures in found.values()) == pytest.approx(1.0)
    for theory in THEORIES:
        names = set(measure(probe, [theory])["first"])
        assert PRINCIPAL[theory] in names
        assert not names & {PRINCIPAL[other] for other in THEORIES if other != theory}


def test_rank_use_is_that_of_the_covariance() -> None:
    model, probe, images, _ = seen()
    model.eval()
    maps = torch.relu(model.norm(model.first(images))).movedim(1, 3).reshape(-1, 6).detach().double().numpy()
    spectrum = np.linalg.eigvalsh(np.cov(maps.T))
    shares = spectrum / spectrum.sum()
    expected = math.exp(-(shares * np.log(shares)).sum()) / 6
    assert measure(probe, ["information"])["left"]["rank_use"].value == pytest.approx(expected, rel=1e-4)


def test_the_gradient_norm_is_that_of_the_weights() -> None:
    model, probe, images, labels = seen()
    model.eval()
    nn.functional.cross_entropy(model(images), labels).backward()
    found = measure(probe, ["gradient"])
    for path in found:
        gradient = model.get_parameter(f"{path}.weight").grad
        assert gradient is not None
        assert found[path]["gradient_norm"].value == pytest.approx(gradient.square().mean().sqrt().item(), rel=1e-4)


def test_the_missing_gain_is_nothing_where_the_weights_can_do_it_all() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)), torch.randn(400, 4)
    target = inputs @ torch.randn(4, 3) * 3
    probe = look(model, lambda: (model(inputs) - target).square().sum(1).mean())
    # What the loss asks of the first layer is a linear function of its inputs; the second has three of the four. A
    # ridge of a tenth of the mean eigenvalue leaves a tenth over, less where eigenvalues are larger.
    found = measure(probe, ["expressivity"])
    assert found["0"]["unexplained"].value < 0.1 < 0.15 < found["1"]["unexplained"].value
    gradients = probe.layers["1"].gradients.double()
    asked = gradients.square().sum((1, 2)).mean().item()
    assert found["1"]["missing_gain"].value == pytest.approx(asked * found["1"]["unexplained"].value, rel=1e-6)


def test_a_group_has_the_figures_of_its_makers_and_readers() -> None:
    model, probe, images, labels = seen()
    found, graph = measure(probe, THEORIES, labels), trace(model, images)
    first = of_group(found, model, graph, "first")
    assert first["kernel_share"] == found["first"]["kernel_share"]
    rank = (found["left"]["rank_use"].value + found["right"]["rank_use"].value) / 2
    assert first["rank_use"].value == pytest.approx(rank)
    sum_ = of_group(found, model, graph, "left")
    share = (found["left"]["kernel_share"].value + found["right"]["kernel_share"].value) / 2
    assert sum_["kernel_share"].value == pytest.approx(share)
    assert sum_["rank_use"] == found["head"]["rank_use"]
    gradients = unit_gradients(probe, model, graph, "first")
    assert gradients is not None
    torch.testing.assert_close(gradients, probe.gradients["first.weight"].double().flatten(1).norm(dim=1))


def test_a_dead_layer_has_fewer_figures_and_no_error() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(40, 4)
    nn.init.zeros_(model.get_parameter("0.weight"))
    nn.init.constant_(model.get_parameter("0.bias"), -1.0)
    probe = look(model, lambda: nn.functional.cross_entropy(model(inputs), torch.arange(40) % 3))
    found = measure(probe, THEORIES, torch.arange(40) % 3)
    assert "dimension" not in found["2"] and "dimension" in found["0"]
    rows = covariates([found["0"], found["2"]], THEORIES)
    assert all(math.isfinite(value) for row in rows for value in row.values())


def figure(name: str, values: list[float], errors: float) -> list[bottleneck.Figures]:
    return [{name: Estimate(value, value * errors)} for value in values]


def test_covariates_are_standardised_logarithms() -> None:
    found = covariates(figure("rank_use", [0.1, 0.2, 0.8], 0.0), ["information"])
    logs = np.log([0.1, 0.2, 0.8])
    expected = (logs - logs.mean()) / logs.std(ddof=1)
    assert [row["information"] for row in found] == pytest.approx(expected)
    # A figure's unit does not matter.
    scaled = covariates(figure("rank_use", [7.0, 14.0, 56.0], 0.0), ["information"])
    assert [row["information"] for row in scaled] == pytest.approx(expected)


def test_covariates_shrink_with_their_standard_errors() -> None:
    values = [0.1, 0.2, 0.8]
    plain = covariates(figure("rank_use", values, 0.0), ["information"])
    some = covariates(figure("rank_use", values, 0.5), ["information"])
    variance = np.log(values).var(ddof=1)
    for one, other in zip(plain, some, strict=True):
        assert other["information"] == pytest.approx(one["information"] * (1 - 0.25 / variance))
    assert all(row["information"] == 0.0 for row in covariates(figure("rank_use", values, 3.0), ["information"]))


def test_covariates_of_nothing_to_compare_are_missing() -> None:
    assert covariates(figure("rank_use", [0.3], 0.0), ["information"]) == [{}]
    assert covariates(figure("rank_use", [0.3, 0.3], 0.0), ["information"]) == [{}, {}]
    assert covariates([{}, *figure("rank_use", [0.3, 0.6], 0.0)], ["information", "gradient"])[0] == {}
