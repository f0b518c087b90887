"""The journal rebuilds an architecture."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import dnm
from dnm import journal

EDITS = [dnm.Divide("0", (1, 3)), dnm.Divide("4", (0,), share=0.3, seed=3), dnm.Divide("0", (7, 0, 2), spread=0.0)]


def test_replay_rebuilds_the_network(build):
    model, inputs = build("conv")
    taken = [dnm.apply(model, edit, inputs).entry for edit in EDITS]
    start, _ = build("conv")
    written = json.loads(json.dumps(taken))
    assert written == taken
    rebuilt = dnm.replay(start, written, inputs)
    assert rebuilt is start
    assert repr(rebuilt) == repr(model)
    assert (rebuilt[0].out_channels, rebuilt[4].in_channels, rebuilt[4].out_channels) == (11, 11, 6)
    # From the same weights it is the same network, not only the same architecture.
    for (name, value), (other_name, other) in zip(
        rebuilt.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert name == other_name and torch.equal(value, other)


def test_replay_gives_a_place_for_trained_weights(build, train):
    model, inputs = build("flatten")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    train(model, optimizer, inputs, 2)
    entry = dnm.apply(model, dnm.Divide("0", (1, 3)), inputs, optimizer).entry
    train(model, optimizer, inputs, 2)
    fresh, _ = build("flatten")
    nn.init.normal_(fresh[0].weight)
    dnm.replay(fresh, [entry], inputs).load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(inputs), model.eval()(inputs))


@pytest.mark.parametrize("edit", EDITS)
def test_entries_are_the_edits(edit):
    assert journal.edit(json.loads(json.dumps(journal.entry(edit)))) == edit


def test_an_empty_journal_is_the_start_network(build):
    model, inputs = build("linear")
    before = repr(model)
    assert repr(dnm.replay(model, [], inputs)) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operator": "Prune"}, r"names operator 'Prune', expected one of \['Divide'\]"),
        ({"operator": None}, "names operator None"),
        ({"colour": "red"}, "journal entry of Divide does not fit: .*colour"),
        ({"group": "nowhere"}, "group 'nowhere' does not exist"),
        ({"units": [6]}, r"has units 0..5, the edit lists \[6\]"),
        ({"units": []}, "units is empty"),
        ({"share": 2.0}, "share is 2.0"),
    ],
)
def test_bad_entries(build, change, message):
    model, inputs = build("linear")
    before = repr(model)
    with pytest.raises(dnm.EditError, match=message):
        dnm.replay(model, [journal.entry(dnm.Divide("0", (1,))) | change], inputs)
    assert repr(model) == before


@pytest.mark.parametrize("missing", ["group", "units", "operator"])
def test_entries_that_lack_a_field(missing):
    entry = journal.entry(dnm.Divide("0", (1,)))
    del entry[missing]
    with pytest.raises(dnm.EditError, match=missing):
        journal.edit(entry)


def test_the_entry_is_not_changed_by_reading_it():
    entry = journal.entry(dnm.Divide("0", (1,)))
    before = dict(entry)
    journal.edit(entry)
    assert entry == before
