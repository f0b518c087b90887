"""The journal rebuilds an architecture; a file holds it with the tensors."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from torch import nn

import dnm
from dnm import journal

EDITS = [dnm.Divide("0", (1, 3)), dnm.Divide("4", (0,), share=0.3, seed=3), dnm.Divide("0", (7, 0, 2), spread=0.0)]
ALL = [
    *EDITS,
    dnm.Divide("0", (0, 2), fill="pair"),
    dnm.Prune("0", (1, 2)),
    dnm.Prune("4", (1,), into=(0,)),
    dnm.AddResidual("2", width=3, seed=5),
    dnm.AddAttention("6", reduction=2),
    dnm.Connect("a.b", "a.c"),
]
PLAN = {"width": 6, "members": [["0.weight", 0, False, [0], 1], ["3.weight", 1, True, [0], 1]]}


def test_replay_rebuilds_the_network(build):
    model, inputs = build("conv")
    taken = [dnm.apply(model, edit, inputs).entry for edit in EDITS]
    start, _ = build("conv")
    written = json.loads(json.dumps(taken))
    assert written == taken
    rebuilt = dnm.replay(start, written)
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
    dnm.replay(fresh, [entry]).load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(inputs), model.eval()(inputs))


@pytest.mark.parametrize("edit", ALL)
def test_entries_are_the_edits(edit):
    entry = json.loads(json.dumps(journal.entry(edit, PLAN)))
    assert journal.edit(entry) == edit
    assert entry["plan"] == PLAN


def test_an_empty_journal_is_the_start_network(build):
    model, _ = build("linear")
    before = repr(model)
    assert repr(dnm.replay(model, [])) == before


BAD = [
    ({"operator": "Grow"}, r"names operator 'Grow', expected one of \['AddAttention', .*'Prune'\]"),
    ({"operator": None}, "names operator None"),
    ({"colour": "red"}, r"journal entry of Divide has unknown fields \['colour'\]"),
    ({"units": [6]}, r"has units 0..5, the edit lists \[6\]"),
    ({"units": []}, "units is empty"),
    ({"units": "some"}, "Divide: units is 'some', expected whole numbers"),
    ({"units": [1.5]}, r"Divide: units is \[1.5\], expected whole numbers"),
    ({"share": 2.0}, "share is 2.0"),
    ({"share": "half"}, "Divide: share is 'half', expected a number"),
    ({"group": 3}, "Divide: group is 3, expected text"),
    ({"seed": 0.5}, "Divide: seed is 0.5, expected a whole number"),
    ({"plan": None}, "the entry has no plan, which says where the edit acted"),
    ({"plan": {}}, "journal entry 1 does not fit this model"),
    (
        {"plan": {"shapes": {}, "width": 6, "members": [["7.weight", 0, False, [0], 1]]}},
        "journal entry 1 does not fit this model",
    ),
    (
        {"plan": {"shapes": {}, "width": 6, "members": [["0.weight", 0, False, [9], 1]]}},
        "journal entry 1 does not fit this model",
    ),
    (
        {"plan": {"shapes": {}, "width": 6, "members": [["0.weight", 5, False, [0], 1]]}},
        "journal entry 1 does not fit this model",
    ),
    ({"plan": {"shapes": {}, "width": 6, "members": [["0.weight", 0]]}}, "journal entry 1 does not fit this model"),
]


def test_replay_refuses_a_network_of_another_width(photograph):
    """Positions in a plan would be valid in a wider network as well, and mean other units there."""
    narrow, wide = (nn.Sequential(nn.Linear(4, n), nn.ReLU(), nn.Linear(n, 2)) for n in (6, 8))
    entry = dnm.apply(narrow, dnm.Divide("0", (1,)), torch.randn(3, 4)).entry
    before = photograph(wide)
    with pytest.raises(dnm.EditError, match=r"0.weight has shape \[8, 4\], when the edit was taken it had \[6, 4\]"):
        dnm.replay(wide, [entry])
    assert photograph(wide) == before


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_entries_leave_the_model_as_it_was(build, photograph, change, message):
    """The entry before them, which fits, is taken back too."""
    model, inputs = build("linear")
    other, _ = build("linear")
    good = [dnm.apply(other, edit, inputs).entry for edit in (dnm.Divide("3", (0,)), dnm.Divide("0", (1,)))]
    before = photograph(model)
    with pytest.raises(dnm.EditError, match=message):
        dnm.replay(model, [good[0], good[1] | change])
    assert photograph(model) == before


@pytest.mark.parametrize("missing", ["group", "units", "operator"])
def test_entries_that_lack_a_field(missing):
    entry = journal.entry(dnm.Divide("0", (1,)), PLAN)
    del entry[missing]
    with pytest.raises(dnm.EditError, match=missing):
        journal.edit(entry)


def test_an_entry_that_is_no_mapping():
    with pytest.raises(dnm.EditError, match="journal entry is a list, expected a mapping"):
        journal.edit([])


def test_the_entry_is_not_changed_by_reading_it():
    entry = journal.entry(dnm.Divide("0", (1,)), PLAN)
    before = dict(entry)
    journal.edit(entry)
    assert entry == before


def test_an_interrupted_replay_is_taken_back(build, photograph, monkeypatch):
    model, inputs = build("linear")
    other, _ = build("linear")
    entries = [dnm.apply(other, edit, inputs).entry for edit in (dnm.Divide("3", (0,)), dnm.Prune("0", (1,)))]
    before = photograph(model)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(journal.OPERATORS["Prune"][1], "_silent", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dnm.replay(model, entries)
    assert photograph(model) == before


class TestFiles:
    @pytest.fixture
    def grown(self, build, tmp_path):
        """A grown network, its journal and the file that holds both."""
        model, inputs = build("conv")
        entries = [dnm.apply(model, edit, inputs).entry for edit in EDITS]
        dnm.save(tmp_path / "grown.safetensors", model, entries)
        return model, entries, tmp_path / "grown.safetensors"

    def test_what_was_saved_is_loaded(self, build, grown):
        model, entries, path = grown
        start, _ = build("conv")
        for parameter in start.parameters():
            nn.init.zeros_(parameter)
        loaded, kept = dnm.load(path, start)
        assert loaded is start and kept == entries
        assert repr(loaded) == repr(model)
        for (name, value), (other, expected) in zip(
            loaded.state_dict().items(), model.state_dict().items(), strict=True
        ):
            assert name == other and torch.equal(value, expected)
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_tied_weights_are_written_once(self, tmp_path):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        dnm.save(tmp_path / "tied", model, [])
        assert set(safetensors.torch.load_file(tmp_path / "tied")) == {"0.weight", "0.bias", "1.bias"}
        start = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        dnm.load(tmp_path / "tied", start)
        assert torch.equal(start[1].weight, model[0].weight)

    def test_views_of_one_storage_are_written_apart(self, tmp_path):
        both = torch.randn(6, 3)
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        model[0].weight, model[1].weight = nn.Parameter(both[:3]), nn.Parameter(both[3:])
        dnm.save(tmp_path / "views", model, [])
        start, _ = dnm.load(tmp_path / "views", nn.Sequential(*[nn.Linear(3, 3, bias=False) for _ in range(2)]))
        assert torch.equal(torch.cat([start[0].weight, start[1].weight]), both)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda model: model.float(), "0.weight is of torch.float64, in the model of torch.float32"),
            (lambda model: model.append(nn.Linear(3, 3).double()), "10.weight is missing"),
            (lambda model: model[9].register_parameter("bias", None), "9.bias is not in the model"),
            (
                lambda model: setattr(model[9], "bias", nn.Parameter(torch.zeros(4).double())),
                r"9.bias has shape \(3,\), the model \(4,\)",
            ),
        ],
    )
    def test_another_start_network_is_refused_and_left_as_it_was(self, build, grown, photograph, change, message):
        start, _ = build("conv")
        change(start)
        before = photograph(start)
        with pytest.raises(dnm.DnmError, match=f"does not fit the start network after its journal: .*{message}"):
            dnm.load(grown[2], start)
        assert photograph(start) == before

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (None, "has no journal in its header; expected a file of dnm.save"),
            ("{", "its journal is damaged"),
            ('{"version": 1}', "its journal is damaged"),
            ('{"version": 7, "journal": [], "shared": {}}', "is of version 7, expected 1"),
            ('{"version": 1, "journal": [], "shared": {"a": "b"}}', "its journal is damaged"),
        ],
    )
    def test_files_that_save_did_not_write(self, tmp_path, header, message):
        path = tmp_path / "file"
        safetensors.torch.save_file({"0.weight": torch.zeros(2, 2)}, path, header and {"dnm": header})
        with pytest.raises(dnm.DnmError, match=message):
            dnm.load(path, nn.Sequential(nn.Linear(2, 2, bias=False)))

    @pytest.mark.parametrize("content", [None, b"", b"not tensors"])
    def test_files_that_cannot_be_read(self, tmp_path, content):
        path = tmp_path / "file"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(dnm.DnmError, match="file: cannot be read as a file of dnm.save"):
            dnm.load(path, nn.Sequential(nn.Linear(2, 2)))

    def test_state_that_is_no_tensor_is_refused(self, tmp_path):
        class Stateful(nn.Linear):
            def get_extra_state(self):
                return {"count": 3}

            def set_extra_state(self, state):
                pass

        with pytest.raises(dnm.DnmError, match="state '_extra_state' is a dict, expected a tensor"):
            dnm.save(tmp_path / "file", Stateful(2, 2), [])
        assert not list(tmp_path.iterdir())
