"""Edits that are tried on a copy: the work is that of the edited model, and the model is left alone."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from dnm import AddAttention, AddResidual, Divide, Prune, apply, count, trace
from dnm.cost import Work
from dnm.edits import Edit
from dnm.sandbox import Sandbox

EDITS: tuple[Edit, ...] = (
    Divide("0", (1, 2)),
    Divide("3", (0,)),
    Prune("3", (4,)),
    AddResidual("2", width=3),
    AddAttention("2", reduction=2),
)
INPUTS = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
        ),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    )


def really(edits: tuple[Edit, ...]) -> Work:
    edited = model()
    for edit in edits:
        apply(edited, edit, INPUTS)
    cost = count(edited, INPUTS)
    return Work(cost.parameters, cost.forward, cost.training)


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox(model(), trace(model(), INPUTS), INPUTS)


def test_work_is_that_of_the_edited_model_in_any_order_of_asking(sandbox: Sandbox) -> None:
    pairs = list(itertools.permutations(EDITS, 2))
    for edits in [*((edit,) for edit in EDITS), *pairs, *pairs[::-1], *((edit,) for edit in EDITS)]:
        assert sandbox.after(edits) == really(edits), edits


def test_graphs_of_what_others_were_counted_on_are_known(sandbox: Sandbox) -> None:
    edits = EDITS[:2] + EDITS[3:]
    for number in range(len(edits)):
        sandbox.after(edits[: number + 1])
    assert sandbox.graph(edits) is None
    edited = model()
    for number, edit in enumerate(edits):
        assert sandbox.graph(edits[:number]) == trace(edited, INPUTS)
        apply(edited, edit, INPUTS)


def test_attention_in_one_operation_is_counted_as_it_is() -> None:
    torch.manual_seed(0)
    encoder, inputs = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), torch.randn(2, 5, 8)
    graph = trace(encoder, inputs)
    edit = Divide(next(group.name for group in graph.groups if group.divisible), (0, 1))
    found = Sandbox(encoder, graph, inputs).after([edit])
    apply(encoder, edit, inputs)
    cost = count(encoder, inputs)
    assert found == Work(cost.parameters, cost.forward, cost.training)


def test_edits_that_do_not_fit_leave_no_trace(sandbox: Sandbox) -> None:
    wanted = really(EDITS[:1])
    assert sandbox.after([Divide("nowhere", (0,))]) is None
    assert sandbox.after([EDITS[0], Divide("0", (17,))]) is None
    assert sandbox.after([Divide("0", (17,)), EDITS[0]]) is None
    assert sandbox.after(EDITS[:1]) == wanted
    # Fits behind the first alone.
    assert sandbox.after([EDITS[0], Divide("0", (5,))]) == really((EDITS[0], Divide("0", (5,))))
    assert sandbox.after([Divide("0", (5,))]) is None


def test_the_model_is_left_alone() -> None:
    own = model().train()
    nn.functional.cross_entropy(own(INPUTS), torch.arange(6) % 5).backward()
    before, gradients = copy.deepcopy(own), [copy.deepcopy(parameter.grad) for parameter in own.parameters()]
    sandbox = Sandbox(own, trace(own, INPUTS), INPUTS)
    for edit in EDITS:
        sandbox.after([edit])
    assert all(module.training for module in own.modules())
    assert [name for name, _ in own.named_modules()] == [name for name, _ in before.named_modules()]
    for found, wanted, gradient in zip(own.parameters(), before.parameters(), gradients, strict=True):
        assert torch.equal(found, wanted)
        assert found.grad is not None and gradient is not None and torch.equal(found.grad, gradient)
    for found, wanted in zip(own.buffers(), before.buffers(), strict=True):
        assert torch.equal(found, wanted)
