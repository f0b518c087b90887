"""Random networks and random edits: whatever `candidates` offers is taken, keeps its promise and can be taken back.

`DNM_RANDOM_NETWORKS=500 pytest tests/dnm/test_random_networks.py` looks at 500 networks that no one has looked at yet.
"""

from __future__ import annotations

import copy
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import dnm
from tests.dnm.networks import distance, settle

EXAMPLES = os.environ.get("DNM_RANDOM_NETWORKS")
SETTINGS = settings(
    max_examples=int(EXAMPLES or 30),
    derandomize=EXAMPLES is None,
    deadline=None,
    database=None,
    phases=(Phase.generate,) if EXAMPLES else (Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def norm(kind: str, width: int) -> nn.Module:
    """A norm of maps."""
    return {"batch": nn.BatchNorm2d(width), "group": nn.GroupNorm(2, width), "layer": nn.GroupNorm(1, width)}.get(
        kind, nn.Identity()
    )


class Convolution(nn.Module):
    """Convolution, norm, activation."""

    def __init__(self, width: int, out: int, kind: str) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, out, 3, padding=1, bias=kind == "none")
        self.norm, self.activation = norm(kind, out), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.convolution(x)))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is a projection where widths differ."""

    def __init__(self, width: int, out: int, kind: str) -> None:
        super().__init__()
        self.first, self.second = Convolution(width, out + 2, kind), nn.Conv2d(out + 2, out, 1)
        self.shortcut = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class Dense(nn.Module):
    """New channels beside the old ones, and a projection of all."""

    def __init__(self, width: int, out: int, kind: str) -> None:
        super().__init__()
        self.grow, self.join = Convolution(width, 2, kind), nn.Conv2d(width + 2, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([x, self.grow(x)], 1))


class Separable(nn.Module):
    """Depthwise, then pointwise; a squeeze-and-excitation gate between."""

    def __init__(self, width: int, out: int, kind: str) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), norm(kind, width)
        self.squeeze, self.excite = nn.Linear(width, 2), nn.Linear(2, width)
        self.pointwise = nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.norm(self.depthwise(x)))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        return self.pointwise(x * gate[:, :, None, None])


class Grouped(nn.Module):
    """A bottleneck around a grouped convolution."""

    def __init__(self, width: int, out: int, kind: str) -> None:
        super().__init__()
        self.reduce = Convolution(width, 4, kind)
        self.grouped, self.norm = nn.Conv2d(4, 8, 3, padding=1, groups=2), norm(kind, 8)
        self.expand = nn.Conv2d(8, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(torch.tanh(self.norm(self.grouped(self.reduce(x)))))


class GatedHalves(nn.Module):
    """A gated linear unit: one half of the channels gates the other."""

    def __init__(self, width: int, out: int, kind: str) -> None:
        super().__init__()
        self.wide, self.project = nn.Conv2d(width, 6, 3, padding=1), nn.Conv2d(3, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.wide(x).chunk(2, 1)
        return self.project(value * torch.sigmoid(gate))


class Shuffle(nn.Module):
    """A channel shuffle in two groups between two convolutions."""

    def __init__(self, width: int, out: int, kind: str) -> None:
        super().__init__()
        # With a norm of two groups: see test_a_shuffle_of_groups.
        self.before = Convolution(width, 4, "batch" if kind == "group" else kind)
        self.after = nn.Conv2d(4, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        num, channels, rows, columns = x.shape
        x = x.view(num, 2, channels // 2, rows, columns).transpose(1, 2).reshape(num, channels, rows, columns)
        return self.after(x)


class Twice(nn.Module):
    """One convolution that is called twice, and one whose output meets its own input."""

    def __init__(self, width: int, out: int, kind: str) -> None:
        super().__init__()
        self.into, self.shared, self.out = nn.Conv2d(width, 5, 1), nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.into(x))
        return self.out(torch.relu(self.shared(torch.relu(self.shared(x)))))


class Pool(nn.Module):
    """Half the size, by maxima or means."""

    def __init__(self, width: int, out: int, kind: str) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2) if kind in ("batch", "none") else nn.AvgPool2d(2)
        self.project = nn.Conv2d(width, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.pool(x) if x.shape[-1] > 1 else x)


class Attention(nn.Module):
    """Self-attention over tokens: torch's module, or one projection and scaled dot products."""

    def __init__(self, width: int, out: int, kind: str) -> None:
        super().__init__()
        self.norm, self.own = nn.LayerNorm(width), kind in ("batch", "none")
        if self.own:
            self.attention: nn.Module = nn.MultiheadAttention(width, 2, batch_first=kind == "batch")
        else:
            self.heads, self.size = 2, 3
            self.qkv, self.attention = nn.Linear(width, 18), nn.Linear(6, width)
        self.first, self.second = nn.Linear(width, 5), nn.Linear(5, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.own:
            x = x + self.attention(y, y, y, need_weights=False)[0]
        else:
            num, tokens, _ = y.shape
            q, k, v = self.qkv(y).view(num, tokens, 3, -1, self.size).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            x = x + self.attention(y.transpose(1, 2).reshape(num, tokens, -1))
        return x + self.second(nn.functional.gelu(self.first(x)))


class SwiGlu(nn.Module):
    """A gated feed-forward layer over tokens, called twice."""

    def __init__(self, width: int, out: int, kind: str) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width) if kind == "batch" else nn.LayerNorm(width)
        self.gate, self.value, self.out = nn.Linear(width, 4), nn.Linear(width, 4), nn.Linear(4, width)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            y = self.norm(x)
            x = x + self.out(nn.functional.silu(self.gate(y)) * self.value(y))
        return x


MAPS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Convolution, ResidualBlock, Dense, Separable, Grouped, GatedHalves, Shuffle, Twice, Pool,
    )
}  # fmt: skip
TOKENS: dict[str, Any] = {kind.__name__: kind for kind in (Attention, SwiGlu)}
NORMS = ("batch", "group", "layer", "none")


class Network(nn.Module):
    """Pieces on maps, then pieces on tokens, then a linear layer; inputs `num x 3 x 4 x 4`, outputs `num x 3`."""

    def __init__(self, maps: list[tuple[str, str, int]], tokens: list[tuple[str, str]], end: str) -> None:
        super().__init__()
        width = 4
        stem: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
        for name, kind, out in maps:
            stem.append(MAPS[name](width, out, kind))
            width = out
        self.maps = nn.Sequential(*stem)
        self.tokens = nn.Sequential(*(TOKENS[name](width, width, kind) for name, kind in tokens))
        # A rewritten `nn.Sequential` (Connect) can be called, and not be counted or indexed any more.
        self.end, self.mixes = end, bool(tokens)
        with torch.no_grad():
            places = self.maps.eval()(torch.zeros(1, 3, 4, 4))[0, 0].numel()
        self.head = nn.Linear(width * places if end == "flatten" else width, 3)
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        x = self.maps(images)
        if self.mixes:
            num, _, rows, columns = x.shape
            x = self.tokens(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(num, -1, rows, columns)
        x = x.flatten(1) if self.end == "flatten" else x.mean((2, 3)) if self.end == "mean" else x.amax((2, 3))
        return self.head(x)


networks = st.tuples(
    st.lists(st.tuples(st.sampled_from(sorted(MAPS)), st.sampled_from(NORMS), st.sampled_from([2, 4, 6])), max_size=4),
    st.lists(st.tuples(st.sampled_from(sorted(TOKENS)), st.sampled_from(NORMS)), max_size=2),
    st.sampled_from(["flatten", "mean", "max"]),
)
choices = st.lists(
    st.tuples(st.sampled_from(["Divide", "Prune", "AddResidual", "AddAttention", "Connect"]), st.integers(0, 999)),
    min_size=1,
    max_size=4,
)


def build(description: tuple) -> tuple[nn.Module, Tensor]:
    """The network of a description, the same every time, and a batch for it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = Network(*description).double(), torch.randn(4, 3, 4, 4, dtype=torch.float64)
    settle(model, inputs)
    return model, inputs


def choose(model: nn.Module, inputs: Tensor, operator: str, number: int) -> dnm.edits.Edit | None:
    """One of the candidates of an operator, with more than its least width; None where it has none."""
    found = [edit for edit in dnm.candidates(model, inputs) if type(edit).__name__ == operator]
    if not found:
        return None
    draw = random.Random(number)
    edit = draw.choice(found)
    if not isinstance(edit, dnm.Divide | dnm.Prune):
        return edit
    group = dnm.trace(model, inputs).group(edit.group)
    if isinstance(edit, dnm.Prune):
        return dnm.Prune(group.name, tuple(draw.sample(range(group.width), draw.randint(1, group.width - 1))))
    if group.uniform:
        return dnm.Divide(group.name, edit.units, share=draw.choice([0.3, 0.5]), seed=number)
    units = tuple(draw.sample(range(group.width), draw.randint(1, group.width)))
    fill = draw.choice(["twin", "zero", "pair"])
    if fill == "pair":
        units = units[: len(units) // 2 * 2]
        fill = "pair" if units else "twin"
    return dnm.Divide(group.name, units or (0,), fill=fill, share=draw.choice([0.3, 0.5, 0.9]), seed=number)


def seen(model: nn.Module, inputs: Tensor, training: bool) -> Tensor:
    """Outputs of a copy, so that no statistic moves."""
    with torch.no_grad():
        return copy.deepcopy(model).train(training)(inputs)


def shape_of(model: nn.Module) -> list:
    """All that is not a value: names, shapes, and every number that the layers hold."""
    return [
        [(name, tuple(value.shape)) for name, value in [*model.named_parameters(), *model.named_buffers()]],
        repr(model),
        [
            (name, key, value)
            for name, module in model.named_modules()
            for key, value in sorted(vars(module).items())
            if isinstance(value, int | float | tuple) and not key.startswith("_")
        ],
    ]


def photograph(model: nn.Module) -> tuple:
    """The shape, the objects and the values of a model."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return shape_of(model), [id(tensor) for _, tensor in tensors], [tensor.detach().clone() for _, tensor in tensors]


def assert_same(model: nn.Module, before: tuple) -> None:
    """Bit for bit what it was."""
    now = photograph(model)
    assert now[:2] == before[:2]
    assert all(torch.equal(new, old) for new, old in zip(now[2], before[2], strict=True))


@SETTINGS
@given(networks, choices)
def test_edits_keep_their_promises(description, operators):
    model, inputs = build(description)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(inputs).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer_before = copy.deepcopy(optimizer.state_dict())
    before, taken, journal = [], [], []
    for operator, number in operators:
        edit = choose(model, inputs, operator, number)
        if edit is None:
            continue
        graph = dnm.trace(model, inputs)
        before.append(photograph(model))
        in_eval, in_train = seen(model, inputs, False), seen(model, inputs, True)
        applied = dnm.apply(model, edit, inputs, optimizer)
        if not isinstance(edit, dnm.Prune):
            assert distance(seen(model, inputs, False), in_eval) < 1e-9, edit
            if not isinstance(edit, dnm.Divide) or graph.group(edit.group).exact_in_train:
                assert distance(seen(model, inputs, True), in_train) < 1e-9, edit
        if isinstance(edit, dnm.Divide | dnm.Prune):
            # The width may not tell: the last group of a grouped convolution makes channels that stand alone.
            change = len(edit.units) if isinstance(edit, dnm.Divide) else -len(edit.units)
            for tensor, dimension, _, starts, repeat in applied.entry["plan"]["members"]:
                old = dict(before[-1][0][0])[tensor][dimension]
                assert dict(shape_of(model)[0])[tensor][dimension] == old + change * len(starts) * repeat
        taken.append(applied)
        journal.append(applied.entry)

    replayed = dnm.replay(build(description)[0], journal)
    assert shape_of(replayed) == shape_of(model)
    with tempfile.TemporaryDirectory() as folder:
        dnm.save(Path(folder) / "model", model, journal)
        loaded, loaded_journal = dnm.load(Path(folder) / "model", build(description)[0])
    assert loaded_journal == journal
    for training in (False, True):
        assert torch.equal(seen(loaded, inputs, training), seen(model, inputs, training))

    trained = copy.deepcopy(model).train()
    trainer = torch.optim.AdamW(trained.parameters(), lr=0.01)
    for _ in range(2):
        trainer.zero_grad()
        loss = (trained(inputs) - 1.0).square().mean()
        loss.backward()
        trainer.step()
    assert torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in trained.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(trained.parameters(), model.parameters(), strict=True))

    for applied, photo in zip(reversed(taken), reversed(before), strict=True):
        applied.undo()
        assert_same(model, photo)
    assert str(optimizer.state_dict()) == str(optimizer_before)


@SETTINGS
@given(networks, st.integers(0, 999))
def test_refusals_change_nothing(description, number):
    model, inputs = build(description)
    draw, graph, photo = random.Random(number), dnm.trace(model, inputs), None
    name = draw.choice(graph.groups).name
    group = graph.group(name)
    paths = [path for path, _ in model.named_modules()]
    edits = [
        dnm.Divide("nothing", (0,)),
        dnm.Divide(name, (group.width,)),
        dnm.Prune(name, tuple(range(group.width))),
        dnm.AddResidual(draw.choice(["nothing", ""])),
        dnm.AddAttention("head"),
        dnm.Connect("maps.0", "head"),
    ]
    for edit in [
        dnm.AddResidual(draw.choice(paths)),
        dnm.AddAttention(draw.choice(paths)),
        *([dnm.Connect(*pair)] if (pair := draw.sample(paths, 2)) else []),
        *(dnm.Divide(other.name, (0,)) for other in graph.groups if not other.divisible or other.uniform),
    ]:
        # Whatever is no candidate may fit or not; where it does not, this is said, and nothing has changed.
        model, inputs = build(description)
        photo = photograph(model)
        try:
            applied = dnm.apply(model, edit, inputs)
        except dnm.DnmError as error:
            assert len(str(error)) > 20, error
        else:
            applied.undo()
        assert_same(model, photo)
    for edit in edits:
        with pytest.raises(dnm.EditError, match=r".{20}"):
            dnm.apply(model, edit, inputs)
        assert_same(model, photo)


def test_a_shuffle_of_groups():
    # Two groups in a norm and two in the shuffle look like one order; with three in the norm they no longer are.
    model, inputs = build(([("Shuffle", "batch", 2)], [], "flatten"))
    model.maps[1].before.norm = nn.GroupNorm(2, 4).double()
    assert "holds their number fixed" in dnm.trace(model, inputs).group("maps.1.before.convolution").reason
    for edit in dnm.candidates(model, inputs):
        if isinstance(edit, dnm.Divide):
            dnm.apply(model, edit, inputs).undo()


def test_a_layer_of_one_unit_can_be_read():
    for kind in NORMS:
        model, inputs = build(([("Grouped", "batch", 2)], [("Attention", kind)], "mean"))
        group = dnm.trace(model, inputs).group("tokens.0.first")
        dnm.apply(model, dnm.Prune(group.name, tuple(range(1, group.width))), inputs)
        found = {group.name: group for group in dnm.trace(model, inputs).groups}
        assert "a single channel may be broadcast" in found["tokens.0.first"].reason
        assert sum(group.divisible for group in found.values()) > 1
        for edit in dnm.candidates(model, inputs):
            if not isinstance(edit, dnm.Connect):
                dnm.apply(model, edit, inputs).undo()
