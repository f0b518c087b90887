"""An edit is taken whole or not at all."""

from __future__ import annotations

import copy

import pytest
import torch

import dnm
from dnm import surgery


@pytest.fixture
def trained(build, train):
    """A network with gradients, an optimizer with moments, and inputs; some layers in eval mode."""
    model, inputs = build("conv")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, inputs, 2)
    model[5].eval()
    return model, optimizer, inputs


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda: dnm.Divide("0", ()), "units is empty; name at least one unit"),
        (lambda: dnm.Divide("0", (1, 2, 1)), r"units \(1, 2, 1\) repeat; name each unit once"),
        (lambda: dnm.Divide("0", (1,), fill="ones"), "fill is 'ones', expected one of"),
        (lambda: dnm.Divide("0", (1, 2, 3), fill="pair"), "3 units for pairs, expected an even number"),
        (lambda: dnm.Divide("0", (1,), share=0.0), "share is 0.0, expected a number strictly between 0 and 1"),
        (lambda: dnm.Divide("0", (1,), share=1.0), "share is 1.0"),
        (lambda: dnm.Divide("0", (1,), share=float("nan")), "share is nan"),
        (lambda: dnm.Divide("0", (1,), spread=-0.1), "spread is -0.1, expected a finite number of at least 0"),
        (lambda: dnm.Divide("0", (1,), spread=float("inf")), "spread is inf"),
        (lambda: dnm.Divide("0", (1,), spread=float("nan")), "spread is nan"),
        (lambda: dnm.Divide("1", (1,)), "group '1' does not exist; the groups of this model are: 0, 4, 9"),
        (lambda: dnm.Divide("0", (2, 6)), r"group '0' has units 0..5, the edit lists \[6\]"),
        (lambda: dnm.Divide("0", (-1,)), r"group '0' has units 0..5, the edit lists \[-1\]"),
        (lambda: dnm.Divide("9", (0,)), "group '9' cannot be divided: the model's output width never changes"),
        (lambda: "divide", "'divide' is not an edit; expected one of .*'Divide', 'Prune'"),
        (lambda: None, "None is not an edit"),
    ],
)
def test_bad_edits_change_nothing(trained, photograph, edit, message):
    model, optimizer, inputs = trained
    before = photograph(model, optimizer)
    with pytest.raises(dnm.EditError, match=message):
        dnm.apply(model, edit(), inputs, optimizer)
    assert photograph(model, optimizer) == before


def test_an_unreadable_model_changes_nothing(trained, photograph):
    model, optimizer, inputs = trained
    model.insert(2, torch.nn.Flatten(2, 3))
    before = photograph(model, optimizer)
    with pytest.raises(dnm.GraphError, match="Sequential does not run on the example inputs in eval mode"):
        dnm.apply(model, dnm.Divide("0", (1,)), inputs, optimizer)
    assert photograph(model, optimizer) == before


class Interrupted(BaseException):
    """Like KeyboardInterrupt: not an Exception."""


def raising(output: torch.Tensor) -> torch.Tensor:
    raise Interrupted


NAN = (lambda output: output * float("nan"), dnm.EditError, "changed the model's output by nan .*was taken back")
FAILURES = {
    "change in eval mode": (False, lambda output: output * (1 + 1e-7), dnm.EditError, "by 1.0e-07 .*at most 1e-09"),
    "change in train mode": (True, lambda output: output * (1 + 1e-7), dnm.EditError, "by 1.0e-07 .*at most 1e-09"),
    "NaN in eval mode": (False, *NAN),
    "NaN in train mode": (True, *NAN),
    "interrupted in eval mode": (False, raising, Interrupted, None),
    "interrupted in train mode": (True, raising, Interrupted, None),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_an_edit_that_fails_its_check_is_taken_back(trained, photograph, failure):
    model, optimizer, inputs = trained
    training, spoil, error, message = FAILURES[failure]
    spoiled = []

    def after_the_edit(layer, arguments, output):
        if model[4].in_channels == 8 and model.training == training:
            spoiled.append(model[0].out_channels)
            return spoil(output)
        return None

    model[9].register_forward_hook(after_the_edit)
    before = photograph(model, optimizer)
    with pytest.raises(error, match=message):
        dnm.apply(model, dnm.Divide("0", (1, 2)), inputs, optimizer)
    assert spoiled == [8]
    assert photograph(model, optimizer) == before


def test_training_goes_on_after_an_edit_was_taken_back(trained, train):
    model, optimizer, inputs = trained
    control = copy.deepcopy(model)
    control_optimizer = torch.optim.AdamW(control.parameters())
    control_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    hook = model[4].register_forward_hook(lambda layer, _, output: output + layer.in_channels - 6)
    with pytest.raises(dnm.EditError):
        dnm.apply(model, dnm.Divide("0", (1, 2)), inputs, optimizer)
    hook.remove()
    assert train(model, optimizer, inputs, 3) == train(control, control_optimizer, inputs, 3)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), control.parameters(), strict=True))


EDITS = (dnm.Divide("0", (1, 2), fill="twin"), dnm.AddResidual("2", width=3), dnm.Divide("4", (0, 3), fill="zero"))


def test_outputs_that_an_edit_leaves_are_not_computed_again_before_the_next(build, monkeypatch):
    calls = []
    original = surgery._outputs
    monkeypatch.setattr(surgery, "_outputs", lambda *arguments: calls.append(None) or original(*arguments))
    found = {}
    for known in (False, True):
        model, inputs = build("conv")
        calls.clear()
        applied = None
        taken = []
        for edit in EDITS:
            applied = dnm.apply(model, edit, inputs, after=applied if known else None)
            taken.append((applied.entry, applied.eval_difference, applied.train_difference))
        weights = {name: value.tolist() for name, value in model.state_dict().items()}
        found[known] = len(calls), taken, weights
    assert found[True][1:] == found[False][1:]
    # In both modes, before and after.
    assert found[False][0] == 4 * len(EDITS)
    assert found[True][0] == 4 + 2 * (len(EDITS) - 1)


def test_outputs_in_a_mode_that_the_edit_before_did_not_look_at_are_computed(build):
    model, inputs = build("conv")
    pruned = dnm.apply(model, dnm.Prune("0", (5,)), inputs)
    divided = dnm.apply(model, EDITS[2], inputs, after=pruned)
    assert divided.train_difference == pytest.approx(0.0, abs=1e-5)
    assert set(divided._outputs.by_mode) == {False, True}


def test_a_model_that_has_changed_since_the_edit_before_is_found_out(build, photograph):
    model, inputs = build("conv")
    first = dnm.apply(model, EDITS[0], inputs)
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    before = photograph(model)
    with pytest.raises(dnm.EditError, match="changed the model's output by"):
        dnm.apply(model, EDITS[1], inputs, after=first)
    assert photograph(model) == before


def test_a_loss_from_before_a_refused_edit_can_still_go_backward(build):
    model, inputs = build("linear")
    loss = model(inputs).square().sum()
    with pytest.raises(dnm.EditError):
        dnm.apply(model, dnm.Divide("0", (99,)), inputs)
    loss.backward()


def test_bad_state_is_refused_before_the_model_changes(trained, photograph):
    model, optimizer, inputs = trained
    optimizer.state[model[4].weight]["exp_avg"] = torch.zeros(3)
    before = photograph(model, optimizer)
    with pytest.raises(dnm.StateError, match=r"AdamW: state 'exp_avg' of shape \(3,\) cannot follow"):
        dnm.apply(model, dnm.Divide("0", (1,)), inputs, optimizer)
    assert photograph(model, optimizer) == before


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: {"input": x}])
def test_example_inputs_are_a_tensor_a_tuple_or_a_dict(build, wrap):
    model, inputs = build("conv")
    applied = dnm.apply(model, dnm.Divide("0", (1,)), wrap(inputs))
    assert max(applied.eval_difference, applied.train_difference) <= 1e-9
    assert model[0].out_channels == 7


def test_what_was_done_is_returned(build):
    model, inputs = build("linear")
    edit = dnm.Divide("3", [2, 0], share=0.25, seed=7)
    applied = dnm.apply(model, edit, inputs)
    assert applied.edit is edit
    assert edit.units == (2, 0)
    members = [["3.weight", 0, False, [0], 1], ["3.bias", 0, False, [0], 1], ["5.weight", 1, True, [0], 1]]
    assert applied.entry == {
        "operator": "Divide", "group": "3", "units": [2, 0], "fill": "twin", "share": 0.25, "spread": 0.5, "seed": 7,
        "plan": {
            "width": 5, "members": members, "shapes": {"3.weight": [5, 6], "3.bias": [5], "5.weight": [3, 5]},
        },
    }  # fmt: skip


def test_single_precision_has_a_tolerance_of_its_own(build):
    model, inputs = build("conv")
    applied = dnm.apply(model.float(), dnm.Divide("0", (1,)), inputs.float())
    assert 0.0 <= max(applied.eval_difference, applied.train_difference) < 1e-5


@pytest.mark.parametrize("error", [dnm.GraphError, dnm.EditError, dnm.StateError])
def test_errors_have_one_base(error):
    assert issubclass(error, dnm.DnmError)
