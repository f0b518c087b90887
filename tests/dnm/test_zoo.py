"""The models of torchvision: each takes every operator unchanged, or is refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import dnm
from dnm.operators import units
from tests.dnm import zoo

LEAST_COVERAGE = 0.9
ALLOWED_BELOW = 2


def _judge(rows: list[zoo.Row]) -> None:
    wrong = {row.name: row.problems for row in rows if row.problems}
    assert not wrong
    low = [row.name for row in rows if row.name in zoo.CLASSIFIERS and row.coverage < LEAST_COVERAGE]
    assert len(low) <= ALLOWED_BELOW, f"groups that can grow cover less than {LEAST_COVERAGE:.0%} of {low}"


def test_models_up_to_100M_parameters(tmp_path):
    chosen = zoo.names(nightly=False)
    rows = zoo.run_apart(chosen, tmp_path)
    assert [row.name for row in rows] == chosen
    _judge(rows)


@pytest.mark.nightly
@pytest.mark.parametrize("name", zoo.names(nightly=True))
def test_models_above_100M_parameters(name, tmp_path):
    _judge(zoo.run_apart([name], tmp_path))


def test_the_committed_table_holds_all_models_and_is_what_a_run_gives():
    table = zoo.committed()
    assert set(table) == set(zoo.names(nightly=False)) | set(zoo.names(nightly=True))
    for name in ("nn.TransformerDecoder", "squeezenet1_1"):
        cells = zoo.line(zoo.check(name)).strip("| ").split(" | ")
        assert table[name][:5] == cells[:5] and table[name][-2:] == cells[-2:]
    low = [name for name in zoo.CLASSIFIERS if float(table[name][4].rstrip("%")) < 100 * LEAST_COVERAGE]
    assert len(low) <= ALLOWED_BELOW
    assert all(cells[-1] == "works" or cells[-1].startswith("refused") for cells in table.values())


class Side(nn.Module):
    """Two convolutions side by side: what one is given moves the other's place in the third."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(13, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(x)
        return self.out(torch.cat([left, self.right(x), left], 1))


def _side() -> tuple[nn.Module, tuple[Tensor]]:
    torch.manual_seed(0)
    return Side().double(), (torch.randn(2, 3, 4, 4, dtype=torch.float64),)


def test_edits_planned_on_one_graph_are_taken_in_turn():
    model, inputs = _side()
    graph = dnm.trace(model, inputs)
    edits = [dnm.Divide("left", (0, 1)), dnm.Divide("right", (2,))]
    plans = [units.plan(graph.group(edit.group)) for edit in edits]
    left, right = units.in_turn(edits, plans)
    starts = {item[0]: item[3] for item in right["members"]}
    assert left == plans[0]
    assert starts == {"right.weight": [0], "right.bias": [0], "out.weight": [6]}
    right, left = units.in_turn(edits[::-1], plans[::-1])
    assert {item[0]: item[3] for item in left["members"]}["out.weight"] == [0, 10]
    prune = dnm.Prune("left", (0, 3))
    _, right = units.in_turn([prune, edits[1]], plans)
    assert {item[0]: item[3] for item in right["members"]}["out.weight"] == [2]
    row = zoo.checked("side", model, inputs)
    assert not row.problems and row.edits["Divide"] == row.edits["Prune"] == 2


def test_the_zoo_sees_a_wrong_place_and_names_the_edits(monkeypatch):
    monkeypatch.setattr(units, "in_turn", lambda edits, plans: list(plans))
    row = zoo.checked("side", *_side())
    assert "Divide changed the output" in row.problems[0]
    assert "left" in row.problems[0] and "right" in row.problems[0]


def test_a_refused_model_is_a_row_too():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2)).double()
    row = zoo.checked("normed", model, (torch.randn(2, 3, dtype=torch.float64),))
    assert row.refusal and "refused" in zoo.line(row)
