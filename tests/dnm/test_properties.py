"""One registry of operators and networks, and what must hold for all of them: whatever the type or the optimizer."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import dnm
from dnm import journal, layers, reindex, surgery
from dnm.operators import insert, prune, units

# Networks: tiny, each with one topology of its own; `width` is that of the group which is edited.


class Chain(nn.Module):
    """Convolutions and batch norms, one after the other."""

    def __init__(self, width: int = 6, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1), norm(width), nn.ReLU(), nn.Conv2d(width, 5, 3, padding=1),
            nn.BatchNorm2d(5), nn.Tanh(),
        )  # fmt: skip
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def group_normed(width: int = 6) -> Chain:
    """Two channels a group: a unit is a group."""
    return Chain(width, lambda num: nn.GroupNorm(num // 2, num))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.tanh(self.norm(self.first(x))))


class Residual(nn.Module):
    """A group that a stem and the block on its shortcut make together."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(2, width, 3, padding=1), Block(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.block(self.stem(x))).mean((2, 3)))


class Mix(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, width, 3, padding=1), nn.Conv2d(2, 3, 1)
        self.last = nn.Conv2d(2 * width + 3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left = torch.tanh(self.left(x))
        return self.last(torch.cat([left, self.right(x), left.square()], 1))


class Concatenation(nn.Module):
    """A group that is read in two blocks, with another one between."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.mix, self.head = Mix(width), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(x)).mean((2, 3)))


class Cell(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(2, width, 1, bias=False), nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.squeeze, self.excite = nn.Conv2d(width, 3, 1), nn.Conv2d(3, width, 1)
        self.project = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(nn.functional.silu(self.norm(self.expand(x))))
        gate = torch.sigmoid(self.excite(torch.tanh(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.project(x * gate)


class Depthwise(nn.Module):
    """An inverted residual's middle: a depthwise convolution and a gate."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.cell, self.head = Cell(width), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.cell(x)).mean((2, 3)))


class Grouped(nn.Module):
    """Groups of a convolution are the units: two channels in, two out."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, width, 1), nn.Tanh(), nn.Conv2d(width, width, 3, padding=1, groups=width // 2), nn.Tanh(),
            nn.Conv2d(width, 4, 1),
        )  # fmt: skip
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)).mean((2, 3)))


class Flattened(nn.Module):
    """A channel owns four columns of the linear layer."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(4 * width, 6), nn.Tanh(), nn.Linear(6, 6),
        )  # fmt: skip
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


class Mlp(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, hidden), nn.Linear(hidden, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Tokens(nn.Module):
    """A normed residual stream and a hidden layer beside it."""

    def __init__(self, width: int = 7) -> None:
        super().__init__()
        self.embed, self.mlp, self.head = nn.Linear(5, 6), Mlp(width), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mlp(self.embed(x)).mean(1))


class Stream(nn.Module):
    """The normed residual stream itself, which can only be doubled."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed, self.norm, self.up = nn.Linear(5, width), nn.LayerNorm(width), nn.Linear(width, 6)
        self.down, self.head = nn.Linear(6, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.down(torch.tanh(self.up(self.norm(x)))))


class Attending(nn.Module):
    """Heads of attention with sizes of its own, q, k and v in one matrix."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.size = 2
        self.qkv, self.out = nn.Linear(6, 3 * width * self.size), nn.Linear(width * self.size, 6)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (p.unflatten(-1, (-1, self.size)).transpose(1, 2) for p in parts)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Attention(nn.Module):
    """Heads as units; the fused matrix holds three blocks."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.embed, self.attention, self.head = nn.Linear(5, 6), Attending(width), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.embed(x))
        return self.head((x + self.attention(x)).mean(1))


class Encoder(nn.Module):
    """torch's own encoder layer, by its feed-forward width."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


class Text(nn.Module):
    """An embedding's columns."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, width)
        self.body = nn.Sequential(nn.Linear(width, 6), nn.Tanh(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embed(x))).mean(1))


@dataclass(frozen=True)
class Network:
    """Attributes: what builds it; the shape of a sample (None: tokens); the group to edit; where the others go.

    `unit` is the number of channels that a unit has, for building it anew at another width.
    """

    build: Callable[..., nn.Module]
    shape: tuple[int, ...] | None
    group: str
    at: str
    gate: str | None = None
    ends: tuple[str, str] | None = None
    unit: int = 1
    uniform: bool = False


IMAGE, TOKENS = (2, 4, 4), (4, 5)
NETWORKS = {
    "chain": Network(Chain, IMAGE, "body.0", "body.4", "body.1", ("body.0", "body.3")),
    "residual": Network(Residual, IMAGE, "stem", "block", "block", ("block.first", "block.second")),
    "concatenation": Network(Concatenation, IMAGE, "mix.left", "mix", "mix.left", ("mix.left", "mix.last")),
    "depthwise": Network(
        Depthwise, IMAGE, "cell.expand", "cell.norm", "cell.depthwise", ("cell.expand", "cell.project")
    ),
    "grouped": Network(Grouped, IMAGE, "body.0", "body.2", "body.4", ("body.0", "body.4"), unit=2),
    "group norm": Network(group_normed, IMAGE, "body.0", "body.1", "body.0", ("body.1", "body.3"), unit=2),
    "flattened": Network(Flattened, IMAGE, "body.0", "body.5", "body.1", ("body.5", "body.7")),
    "tokens": Network(Tokens, TOKENS, "mlp.up", "mlp", None, ("mlp.norm", "mlp.down")),
    "stream": Network(Stream, TOKENS, "embed", "down", uniform=True),
    "attention": Network(Attention, TOKENS, "attention.qkv", "attention"),
    "encoder": Network(Encoder, TOKENS, "layer.linear1", "layer.linear2"),
    "text": Network(Text, None, "embed", "body.0", None, ("body.0", "body.2")),
}


OPERATORS = ("twin", "zero", "pair", "prune", "merge", "residual", "attention", "connect")
DIVISIONS = ("twin", "zero", "pair")


def edit_of(operator: str, name: str, **settings) -> dnm.surgery.Edit:
    """The operator's edit on a network; `merge` only makes sense behind a `twin`."""
    network = NETWORKS[name]
    if operator in DIVISIONS:
        few = (1, 0) if operator == "pair" else (1,)
        return dnm.Divide(network.group, tuple(range(4)) if network.uniform else few, fill=operator, **settings)
    if operator == "prune":
        return dnm.Prune(network.group, (1,))
    if operator == "residual":
        return dnm.AddResidual(network.at, width=3, **settings)
    if operator == "attention":
        assert network.gate
        return dnm.AddAttention(network.gate, reduction=1, **settings)
    assert network.ends and operator == "connect"
    return dnm.Connect(*network.ends)


def fits(operator: str, name: str) -> bool:
    network = NETWORKS[name]
    if operator in ("attention", "connect"):
        return bool(network.gate if operator == "attention" else network.ends)
    return operator != "merge" and not (network.uniform and operator in ("zero", "pair", "prune"))


CASES = [(operator, name) for operator in OPERATORS for name in NETWORKS if fits(operator, name)]

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "AMSGrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.003, centered=True, momentum=0.9),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
}


def rotated(cases: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Every case once, every optimizer equally often: pairs of operator and optimizer, and of network and optimizer."""
    names = list(OPTIMIZERS)
    return [(*case, names[(number + number // len(names)) % len(names)]) for number, case in enumerate(cases)]


def batch_of(name: str, seed: int, dtype: torch.dtype = torch.float64, num: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    shape = NETWORKS[name].shape
    if shape is None:
        return torch.randint(9, (num, 4), generator=generator)
    return torch.randn(num, *shape, generator=generator, dtype=torch.float64).to(dtype)


def build(name: str, dtype: torch.dtype = torch.float64, seed: int = 0, **settings) -> nn.Module:
    """A network none of whose entries is 0 or 1 any more, with statistics of data."""
    torch.manual_seed(seed)
    model = NETWORKS[name].build(**settings).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        for number in range(2):
            model(batch_of(name, 100 + number, dtype))
    return model


class Run:
    """A network in training: deterministic batches and a loss whose gradients do not vanish."""

    def __init__(self, name: str, optimizer: str | None = "AdamW", steps: int = 3, seed: int = 0, named: bool = False):
        self.name, self.model = name, build(name, seed=seed)
        parameters = self.model.named_parameters() if named else self.model.parameters()
        self.optimizer = OPTIMIZERS[optimizer or "SGD"](parameters)
        self.inputs = batch_of(name, 0)
        self.num = 0
        self.train(steps)

    def backward(self) -> float:
        # Batches come round again, so that steps of one size follow one another.
        outputs = self.model(batch_of(self.name, self.num % 2))
        loss = (outputs - torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)).square().mean()
        loss.backward()
        return loss.item()

    def train(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            self.optimizer.zero_grad()
            losses.append(self.backward())
            self.optimizer.step()
            self.num += 1
        return losses

    def apply(self, edit, **settings) -> surgery.Applied:
        return dnm.apply(self.model, edit, self.inputs, self.optimizer, **settings)


def outputs_of(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """In eval and in train mode, of a copy."""
    with torch.no_grad():
        return copy.deepcopy(model).eval()(inputs), copy.deepcopy(model).train()(inputs)


def change(new: Tensor, old: Tensor) -> float:
    return ((new.double() - old.double()).norm() / old.double().norm()).item()


def added(model: nn.Module, entry: dict) -> list[tuple[Tensor, int, Tensor, Tensor, bool]]:
    """After a division: per tensor its dimension, the listed units' positions, the new ones', and whether it reads."""
    plan, edit = entry["plan"], journal.edit(entry)
    assert isinstance(edit, dnm.Divide)
    found = []
    for member in units.members(plan):
        tensor = layers.get(model, member.tensor)
        size = tensor.shape[member.dimension] - len(edit.units) * member.repeat * len(member.starts)
        places = units.widen(member, size, plan["width"], edit.units)
        found.append((tensor, member.dimension, places.listed, places.added, member.reads))
    return found


# What an edit does to the function.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("operator", "name"), [case for case in CASES if case[0] != "prune"])
def test_the_function_stays(operator, name, dtype):
    model, inputs = build(name, dtype), batch_of(name, 0, dtype)
    old = outputs_of(model, inputs)
    num = sum(parameter.numel() for parameter in model.parameters())
    applied = dnm.apply(model, edit_of(operator, name), inputs)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}[dtype]
    for new, before, said in zip(
        outputs_of(model, inputs), old, (applied.eval_difference, applied.train_difference), strict=True
    ):
        assert change(new, before) <= tolerance
        assert said <= tolerance
    assert sum(parameter.numel() for parameter in model.parameters()) > num
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_division_that_forgets_one_tensor_is_noticed(name, monkeypatch):
    """The check above can fail: the outgoing columns stay whole."""
    monkeypatch.setattr(dnm.operators.divide, "_outgoing", dnm.operators.divide._incoming)
    model, inputs = build(name), batch_of(name, 0)
    with pytest.raises(dnm.EditError, match="changed the model's output by .* in eval mode"):
        dnm.apply(model, edit_of("twin", name), inputs)


@pytest.mark.parametrize(("operator", "name"), [case for case in CASES if case[0] in (*DIVISIONS, "prune")])
def test_the_grown_network_is_one_that_could_have_been_built(operator, name):
    """Built anew at the new width, with the weights copied, it gives the same bits and gradients."""
    model, inputs, network = build(name), batch_of(name, 0), NETWORKS[name]
    edit = edit_of(operator, name)
    dnm.apply(model, edit, inputs)
    start = inspect.signature(network.build).parameters["width"].default
    new = start + network.unit * len(edit.units) * (-1 if operator == "prune" else 1)
    other = network.build(new).double()
    assert repr(other) == repr(model)
    other.load_state_dict(model.state_dict())
    for one in (model, other):
        one.zero_grad()
        one.train()(inputs).square().sum().backward()
    for (path, parameter), again in zip(model.named_parameters(), other.parameters(), strict=True):
        assert parameter.grad is not None and torch.equal(parameter.grad, again.grad), path
    assert all(torch.equal(a, b) for a, b in zip(outputs_of(model, inputs), outputs_of(other, inputs), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_pruning_what_zero_added_restores_everything(name, photograph):
    if NETWORKS[name].uniform:
        pytest.skip("a norm is taken over the group")
    run = Run(name, "AMSGrad")
    before = photograph(run.model, run.optimizer)
    entry = run.apply(edit_of("zero", name)).entry
    assert photograph(run.model, run.optimizer) != before
    run.apply(dnm.Prune(NETWORKS[name].group, (entry["plan"]["width"],)))
    assert photograph(run.model, run.optimizer) == before


@pytest.mark.parametrize(("name", "optimizer"), list(zip(NETWORKS, [*OPTIMIZERS, *OPTIMIZERS], strict=False)))
def test_twins_are_merged_again(name, optimizer):
    """With function, gradients and moments as they were."""
    if NETWORKS[name].uniform:
        pytest.skip("a norm is taken over the group")
    run = Run(name, optimizer)
    control, state = copy.deepcopy((run.model, run.optimizer.state_dict()))
    gradients = [parameter.grad.clone() for parameter in run.model.parameters()]
    width = run.apply(dnm.Divide(NETWORKS[name].group, (1, 0), share=0.3)).entry["plan"]["width"]
    run.apply(dnm.Prune(NETWORKS[name].group, (width, width + 1), into=(1, 0)))
    for new, old in zip(outputs_of(run.model, run.inputs), outputs_of(control, run.inputs), strict=True):
        assert change(new, old) <= 1e-12
    for number, (path, new) in enumerate(run.model.named_parameters()):
        assert torch.allclose(new, control.get_parameter(path), rtol=1e-12, atol=1e-14), path
        assert torch.allclose(new.grad, gradients[number], rtol=1e-12, atol=1e-14), path
    for number, entries in run.optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            expected = state["state"][number][key]
            assert torch.allclose(torch.as_tensor(value), torch.as_tensor(expected), rtol=1e-12, atol=1e-20), key


def test_merging_by_hand():
    """Units 0 and 2 compute 2x and 3x: merged into 0, what is read of them is 2x times the sum of the weights."""
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [7.0], [3.0]]))
        model[1].weight.copy_(torch.tensor([[10.0, 100.0, 1000.0]]))
    dnm.apply(model, dnm.Prune("0", (2,), into=(0,)), torch.ones(2, 1).double())
    assert model[0].weight.tolist() == [[2.0], [7.0]]
    assert model[1].weight.tolist() == [[1010.0, 100.0]]


def test_net2net_by_hand():
    """Unit 1 of two is divided at 1/4: y = 3 relu(x) + 8 relu(-x) becomes 3 relu(x) + 2 relu(-x) + 6 relu(-x)."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[0].bias.copy_(torch.tensor([0.5, 0.25]))
        model[2].weight.copy_(torch.tensor([[3.0, 8.0]]))
    dnm.apply(model, dnm.Divide("0", (1,), share=0.25, spread=0.0), torch.randn(4, 1).double())
    assert model[0].weight.tolist() == [[1.0], [-1.0], [-1.0]]
    assert model[0].bias.tolist() == [0.5, 0.25, 0.25]
    assert model[2].weight.tolist() == [[3.0, 2.0, 6.0]]


def test_pruning_folds_the_mean_by_hand():
    """y = 5 * (2x) + 3 * (x) + 1 without the first unit: its mean over x = 1, 3 is 4, so the bias becomes 1 + 5 * 4."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [1.0]]))
        model[1].weight.copy_(torch.tensor([[5.0, 3.0]]))
        model[1].bias.fill_(1.0)
    dnm.apply(model, dnm.Prune("0", (0,)), torch.tensor([[1.0], [3.0]]).double())
    assert (model[1].weight.tolist(), model[1].bias.tolist()) == ([[3.0]], [21.0])


class Loop(nn.Module):
    """One layer that reads the units it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.again, self.head = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + torch.tanh(self.again(x)))


def test_pruning_where_a_layer_reads_the_units_that_it_makes():
    torch.manual_seed(0)
    model, inputs = Loop().double(), torch.randn(50, 5).double()
    mean = model.embed(inputs).mean(0)[1]
    expected = model.again.bias + model.again.weight[:, 1] * mean
    dnm.apply(model, dnm.Prune("embed", (1,)), inputs)
    assert torch.allclose(model.again.bias, expected[[0, 2, 3]])
    assert model.again.weight.shape == (3, 3)


def test_pruning_takes_statistics_anew_only_behind_the_units():
    run = Run("chain")
    first, second = (copy.deepcopy(run.model.body[number]) for number in (1, 4))
    run.apply(dnm.Prune("body.0", (1, 3)))
    kept = [0, 2, 4, 5]
    assert torch.equal(run.model.body[1].running_mean, first.running_mean[kept])
    assert torch.equal(run.model.body[1].running_var, first.running_var[kept])
    maps = copy.deepcopy(run.model.body[:4]).eval()(run.inputs)
    assert torch.allclose(run.model.body[4].running_mean, maps.mean((0, 2, 3)))
    assert torch.allclose(run.model.body[4].running_var, maps.transpose(0, 1).flatten(1).var(1))
    assert not torch.allclose(run.model.body[4].running_mean, second.running_mean, rtol=1e-3)
    assert torch.equal(run.model.body[4].num_batches_tracked, second.num_batches_tracked)


# What an edit does to the training.


@pytest.mark.parametrize(("operator", "name", "optimizer"), rotated([c for c in CASES if c[0] in DIVISIONS]))
def test_new_units_learn_within_two_steps_and_twins_separate_within_ten(operator, name, optimizer):
    run = Run(name, optimizer)
    entry = run.apply(edit_of(operator, name)).entry
    places, members = added(run.model, entry), units.members(entry["plan"])

    def slopes(reads: bool) -> Tensor:
        """Size of the gradient per new unit, over all tensors in which it stands."""
        found = torch.zeros(len(entry["units"]), dtype=torch.float64)
        for (tensor, dimension, _, new, _), member in zip(places, members, strict=True):
            if member.reads == reads and isinstance(tensor, nn.Parameter):
                rows = tensor.grad.index_select(dimension, new).movedim(dimension, 0)
                # Blocks, units, positions of a unit.
                by_unit = rows.reshape(len(member.starts), len(found), -1)
                found += by_unit.square().sum((0, 2))
        return found

    def apart() -> float:
        """How far new units' incoming weights are from those that they were divided from."""
        pairs = [
            [tensor.detach().index_select(dimension, at).flatten() for at in (listed, new)]
            for tensor, dimension, listed, new, reads in places
            if not reads and isinstance(tensor, nn.Parameter)
        ]
        old, new = (torch.cat(side) for side in zip(*pairs, strict=True))
        return change(new, old)

    start = apart()
    assert start == 0.0 if operator == "twin" else start > 1e-2
    moved = [torch.zeros(()), torch.zeros(())]
    for _ in range(2):
        run.train(1)
        moved = [total + slopes(reads) for total, reads in zip(moved, (False, True), strict=True)]
    assert all(bool((total > 1e-20).all()) for total in moved)
    run.train(8)
    assert apart() > 1e-4


@pytest.mark.parametrize("name", [name for name in NETWORKS if not NETWORKS[name].uniform])
def test_twins_without_a_difference_never_separate(name):
    """The measure above can fail. Not 0: kernels sum the last columns in another order."""
    run = Run(name, "SGD")
    places = added(run.model, run.apply(dnm.Divide(NETWORKS[name].group, (1,), spread=0.0)).entry)
    run.train(10)
    for tensor, dimension, listed, new, reads in places:
        if not reads and isinstance(tensor, nn.Parameter):
            first, second = (tensor.detach().index_select(dimension, at) for at in (listed, new))
            assert torch.allclose(first, second, rtol=0, atol=1e-12)


INSERTIONS = ("residual", "attention", "connect")


@pytest.mark.parametrize(("operator", "name", "optimizer"), rotated([c for c in CASES if c[0] in INSERTIONS]))
def test_new_parameters_learn_within_two_steps(operator, name, optimizer):
    run = Run(name, optimizer)
    old = {id(parameter) for parameter in run.model.parameters()}
    run.apply(edit_of(operator, name))
    new = {path: parameter for path, parameter in run.model.named_parameters() if id(parameter) not in old}
    assert new
    start = {path: parameter.detach().clone() for path, parameter in new.items()}
    slopes = dict.fromkeys(new, 0.0)
    for _ in range(2):
        run.train(1)
        for path, parameter in new.items():
            slopes[path] += parameter.grad.norm().item()
    assert min(slopes.values()) > 1e-10, slopes
    run.train(1)
    for path, parameter in new.items():
        assert not torch.equal(parameter, start[path]), path


@pytest.mark.parametrize("operator", [operator for operator in OPERATORS if operator != "merge"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_first_updates_are_of_the_usual_size(operator, optimizer):
    """At most three times the largest of the ten updates before; of new parameters, of all updates before."""
    fitting = [name for name in NETWORKS if fits(operator, name)]
    name = fitting[(list(OPTIMIZERS).index(optimizer) + OPERATORS.index(operator)) % len(fitting)]
    run = Run(name, optimizer, steps=0)

    def sizes() -> dict[int, float]:
        before = {id(p): p.detach().clone() for p in run.model.parameters()}
        run.train(1)
        return {id(p): (p.detach() - before[id(p)]).square().mean().sqrt().item() for p in run.model.parameters()}

    history = [sizes() for _ in range(24)]
    usual, ever = (max(max(step.values()) for step in part) for part in (history[-10:], history))
    run.apply(edit_of(operator, name))
    found = [sizes() for _ in range(10)]
    old = max(size for step in found for key, size in step.items() if key in history[0])
    new = max((size for step in found for key, size in step.items() if key not in history[0]), default=0.0)
    print(f"{operator:9} {name:13} {optimizer:8}: {old / usual:.2f} of the usual size, new ones {new / ever:.2f}")
    assert old <= 3 * usual
    assert new <= 3 * ever


def test_lost_second_moments_would_make_larger_updates():
    """The measure above can fail."""
    run = Run("chain", "Adam", steps=24)
    before = [p.detach().clone() for p in run.model.parameters()]
    run.train(1)
    usual = max((p.detach() - old).abs().max() for p, old in zip(run.model.parameters(), before, strict=True))
    run.apply(edit_of("zero", "chain"))
    for state in run.optimizer.state.values():
        state["exp_avg_sq"].zero_()
    before = [p.detach().clone() for p in run.model.parameters()]
    run.train(1)
    sizes = [(p.detach() - old).abs().max() for p, old in zip(run.model.parameters(), before, strict=True)]
    assert max(sizes) > 3 * usual


# What can be taken back.


@pytest.mark.parametrize(("operator", "name", "optimizer"), rotated(CASES))
def test_undo_restores_everything_bit_for_bit(photograph, operator, name, optimizer):
    run = Run(name, optimizer)
    run.model.train()
    next(run.model.children()).eval()
    run.backward()
    average = AveragedModel(run.model)
    before = photograph(run.model, run.optimizer), photograph(average)
    order = [(path, id(module)) for path, module in run.model.named_modules()]
    applied = run.apply(edit_of(operator, name), averaged=average)
    after = photograph(run.model, run.optimizer), photograph(average)
    assert all(new != old for new, old in zip(after, before, strict=True))
    # Mode, random state and hooks are as they were after the edit already.
    assert after[0][-1] == before[0][-1]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in run.model.modules())
    applied.undo()
    assert (photograph(run.model, run.optimizer), photograph(average)) == before
    assert [(path, id(module)) for path, module in run.model.named_modules()] == order
    with pytest.raises(dnm.EditError, match="was taken back already"):
        applied.undo()


def test_training_goes_on_after_undo_as_if_nothing_had_happened():
    runs = [Run("depthwise", "RAdam"), Run("depthwise", "RAdam")]
    for operator in ("twin", "prune", "residual"):
        runs[0].apply(edit_of(operator, "depthwise")).undo()
    assert runs[0].train(3) == runs[1].train(3)
    for new, old in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(new, old)


def _in_train_mode(run: Run) -> None:
    with torch.no_grad():
        run.model(run.inputs)


def _one_parameter(run: Run) -> None:
    with torch.no_grad():
        run.model.head.bias[0] += 1e-12


CHANGES: dict[str, tuple[Callable[[Run], object], str]] = {
    "a step": (lambda run: run.train(1), ".*"),
    "a backward pass": (lambda run: run.backward(), "the gradient of .*"),
    "batch statistics": (_in_train_mode, "body.1.running_mean"),
    "one entry": (_one_parameter, "head.bias"),
    "loading": (lambda run: run.model.load_state_dict(build("chain", width=7, seed=1).state_dict()), ".*"),
    "another type": (lambda run: run.model.float(), ".*"),
    "another parameter": (
        lambda run: setattr(run.model.head, "bias", nn.Parameter(torch.zeros(3).double())),
        "head.bias",
    ),
    "the optimizer's state": (lambda run: run.optimizer.state[run.model.head.bias]["exp_avg"].zero_(), ".*'exp_avg'.*"),
    "twins later": (lambda run: run.apply(dnm.Divide("body.3", (0,))), ".*"),
    "the same group later": (lambda run: run.apply(dnm.Divide("body.0", (0,))), ".*"),
    "a branch later": (lambda run: run.apply(dnm.AddResidual("body.0")), ".*"),
    "a gate later": (lambda run: run.apply(dnm.AddAttention("body.3")), ".*"),
    "a connection later": (lambda run: run.apply(dnm.Connect("body.0", "body.3")), ".*"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_undo_is_refused_once_something_has_changed(photograph, what):
    run = Run("chain", "Adam")
    applied = run.apply(dnm.Divide("body.0", (1,)))
    make, named = CHANGES[what]
    make(run)
    before = photograph(run.model, run.optimizer)
    with pytest.raises(dnm.EditError, match=f"cannot be taken back: {named} has changed since; keep a copy"):
        applied.undo()
    assert photograph(run.model, run.optimizer) == before


@pytest.mark.parametrize("settings", [{"fused": True}, {"foreach": True}, {}], ids=str)
def test_undo_notices_steps_that_leave_version_counters_alone(settings):
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.randn(5, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **settings)
    model(inputs).square().sum().backward()
    applied = dnm.apply(model, dnm.Divide("0", (0,)), inputs, optimizer)
    optimizer.step()
    optimizer.zero_grad()
    with pytest.raises(dnm.EditError, match="cannot be taken back: 0.weight has changed since"):
        applied.undo()


def test_edits_are_undone_in_turn(photograph):
    run = Run("chain")
    before, taken = [], []
    for edit in (
        dnm.Divide("body.0", (1,)),
        dnm.AddResidual("body.0"),
        dnm.Prune("body.3", (2,)),
        dnm.Divide("body.3", (0,)),
    ):
        before.append(photograph(run.model, run.optimizer))
        taken.append(run.apply(edit))
    for applied, old in zip(taken[::-1], before[::-1], strict=True):
        applied.undo()
        assert photograph(run.model, run.optimizer) == old


def test_gradients_that_were_cleared_stay_cleared():
    run = Run("chain")
    applied = run.apply(dnm.Divide("body.0", (1,)))
    run.optimizer.zero_grad()
    applied.undo()
    assert all(parameter.grad is None for parameter in run.model.parameters())


class Interrupted(BaseException):
    """Like KeyboardInterrupt: not an Exception."""


# Stage: where it is, at which of its calls it fails, and the operators that pass it.
STAGES = [
    (reindex, "_set", 1, ("twin", "zero", "pair", "prune")),
    (reindex, "_set", 3, ("twin", "zero", "pair", "prune")),
    (reindex, "state_kind", 2, ("twin", "zero", "pair", "prune")),
    (layers, "integers", 1, ("twin", "zero", "pair", "prune")),
    (layers, "integers", 3, ("twin", "zero", "pair", "prune")),
    (units, "carry_out", 1, ("twin", "prune")),
    (units, "carry_out", 2, ("twin", "prune")),
    (dnm.operators.fresh, "calibrate", 1, ("zero", "pair")),
    (prune, "_folds", 1, ("prune",)),
    (prune, "_re_estimate", 1, ("prune",)),
    (prune, "_re_estimate", 2, ("prune",)),
    (insert, "enrol", 1, INSERTIONS),
    (insert, "exchange", 1, INSERTIONS),
    (insert, "exchange", 2, INSERTIONS),
    (surgery, "_left", 1, ("twin", "prune", *INSERTIONS)),
    (surgery, "_differences", 1, ("twin", "prune", *INSERTIONS)),
    (surgery, "_check_enrolled", 1, ("twin", "prune", *INSERTIONS)),
    (surgery, "_look", 1, ("twin", "prune", *INSERTIONS)),
]


@pytest.mark.parametrize("error", [Interrupted, RuntimeError])
@pytest.mark.parametrize(
    ("module", "function", "number", "operator"),
    [(module, function, number, operator) for module, function, number, all_ in STAGES for operator in all_],
    ids=lambda value: getattr(value, "__name__", str(value)).rpartition(".")[2],
)
def test_a_failure_at_any_stage_restores_everything(photograph, monkeypatch, module, function, number, operator, error):
    run = Run("chain", "AMSGrad")
    run.backward()
    average = AveragedModel(run.model)
    before = photograph(run.model, run.optimizer), photograph(average)
    original, calls = getattr(module, function), []

    def failing(*arguments, **options):
        calls.append(None)
        if len(calls) == number:
            raise error("in the middle")
        return original(*arguments, **options)

    monkeypatch.setattr(module, function, failing)
    with pytest.raises(Interrupted if error is Interrupted else dnm.EditError, match="in the middle"):
        run.apply(edit_of(operator, "chain"), averaged=average)
    assert len(calls) >= number
    assert (photograph(run.model, run.optimizer), photograph(average)) == before


# Files and replay.


@pytest.mark.parametrize(("operator", "name", "optimizer"), rotated(CASES))
def test_saved_loaded_and_continued_is_uninterrupted(tmp_path, operator, name, optimizer):
    run = Run(name, optimizer, named=True)
    entries = [run.apply(edit_of(operator, name)).entry]
    run.train(2)
    dnm.save(tmp_path / "model", run.model, entries)
    state, num = copy.deepcopy(run.optimizer.state_dict()), run.num
    # NAdam's own `load_state_dict` gives a scalar of its state the type of the parameters.
    run.optimizer.load_state_dict(copy.deepcopy(state))
    expected = run.train(3)
    # Other weights, and an optimizer that has not stepped.
    again = Run(name, optimizer, steps=0, seed=7, named=True)
    _, kept = dnm.load(tmp_path / "model", again.model, again.optimizer)
    again.optimizer.load_state_dict(state)
    again.num = num
    assert kept == entries
    assert again.train(3) == expected
    for (path, new), (other, old) in zip(again.model.state_dict().items(), run.model.state_dict().items(), strict=True):
        assert path == other and torch.equal(new, old)


@pytest.mark.parametrize("name", NETWORKS)
def test_replay_on_another_start_network_gives_the_same_architecture(name):
    run, edits, entries = Run(name), [], []
    for operator in ("twin", "residual", "prune", "attention", "connect"):
        if fits(operator, name):
            edit = edit_of(operator, name)
            # The layer at a wrapped place is one level deeper.
            if isinstance(edit, (dnm.Divide, dnm.Prune)):
                groups = [g for g in dnm.trace(run.model, run.inputs).groups if g.divisible and not g.uniform]
                edit = edit if not edits or not groups else dnm.Prune(groups[-1].name, (0,))
            try:
                entries.append(run.apply(edit).entry)
            except dnm.EditError as error:
                assert "is not a place" in str(error) or "cannot be rewritten" in str(error)
                continue
            edits.append(edit)
    assert len(edits) >= 2
    again = dnm.replay(build(name, seed=3), entries)
    found, expected = again.state_dict(), run.model.state_dict()
    assert {path: value.shape for path, value in found.items()} == {p: value.shape for p, value in expected.items()}
    assert repr(again) == repr(run.model)
    assert [journal.edit(entry) for entry in entries] == edits
    again.load_state_dict(expected)
    assert all(
        torch.equal(a, b) for a, b in zip(outputs_of(again, run.inputs), outputs_of(run.model, run.inputs), strict=True)
    )


# Optimizers, averages and models as they are found.


@pytest.mark.parametrize("operator", INSERTIONS)
def test_new_parameters_join_the_group_of_their_neighbour(operator):
    model, inputs = build("chain"), batch_of("chain", 0)
    names = {"residual": "body.4.branch", "attention": "body.1.", "connect": "body.connection0"}
    body = [("body." + path, p) for path, p in model.body.named_parameters()]
    other = torch.optim.SGD(model.head.parameters(), lr=0.5)
    first, second = [item for item in body if "3." in item[0]], [item for item in body if "3." not in item[0]]
    # What makes the channels: the first convolution for the gate, the second one for the others.
    own, rest = (second, first) if operator == "attention" else (first, second)
    optimizer = torch.optim.AdamW([{"params": rest, "lr": 0.1}, {"params": own, "lr": 0.01, "weight_decay": 0.3}])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    groups = [len(group["params"]) for group in optimizer.param_groups]
    applied = dnm.apply(model, edit_of(operator, "chain"), inputs, (item for item in (other, optimizer)))
    known = [*other.param_groups[0]["params"], *optimizer.param_groups[0]["params"], *(p for _, p in own)]
    new = [(path, p) for path, p in model.named_parameters() if not any(p is old for old in known)]
    assert new and all(path.startswith(names[operator]) for path, _ in new)
    assert [len(group["params"]) for group in optimizer.param_groups] == [groups[0], groups[1] + len(new)]
    assert [id(p) for p in optimizer.param_groups[1]["params"][groups[1] :]] == [id(p) for _, p in new]
    assert set(optimizer.param_groups[1]["param_names"][groups[1] :]) == {path for path, _ in new}
    assert (len(other.param_groups[0]["params"]), other.param_groups[0]["lr"]) == (2, 0.5)
    # The scheduler goes on with what it holds, and steps reach the new parameters at its rate.
    for _ in range(2):
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025, 0.0025])
    assert all(p in optimizer.state for _, p in new)
    with pytest.raises(dnm.EditError, match="has changed since"):
        applied.undo()


def test_new_parameters_beside_a_frozen_layer_join_the_last_group():
    model, inputs = build("chain"), batch_of("chain", 0)
    model.body.requires_grad_(False)
    optimizer = torch.optim.SGD([{"params": [model.head.weight]}, {"params": [model.head.bias], "lr": 0.2}], lr=0.1)
    dnm.apply(model, dnm.AddResidual("body.4"), inputs, optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1 + 6]
    assert all(p.requires_grad for p in model.body[4].branch.parameters())
    assert not any(p.requires_grad for p in model.body[4].layer.parameters())


def test_an_optimizer_that_makes_its_state_beforehand_makes_that_of_new_parameters():
    run = Run("chain", None, steps=0)
    run.optimizer = torch.optim.Adagrad(run.model.parameters(), lr=0.05, initial_accumulator_value=0.25)
    run.apply(dnm.AddResidual("body.4"))
    new = run.optimizer.param_groups[0]["params"][-1]
    assert torch.equal(run.optimizer.state[new]["sum"], torch.full_like(new, 0.25))
    run.train(2)


@pytest.mark.parametrize(("operator", "name"), [case for case in CASES if case[1] in ("chain", "depthwise", "tokens")])
def test_averages_take_the_same_edit(operator, name):
    run = Run(name)
    average = AveragedModel(run.model, use_buffers=True)
    for _ in range(3):
        run.train(1)
        average.update_parameters(run.model)
    held, old = average.module, outputs_of(average.module, run.inputs)
    run.apply(edit_of(operator, name), averaged=[average])
    assert average.module is held
    shapes = {path: value.shape for path, value in run.model.state_dict().items()}
    assert {path: value.shape for path, value in held.state_dict().items()} == shapes
    if operator != "prune":
        for new, before in zip(outputs_of(held, run.inputs), old, strict=True):
            assert change(new, before) <= 1e-9
    # It goes on averaging: with what it held, not with the model's own values.
    count = int(average.n_averaged)
    expected = {
        path: p + (q - p) / (count + 1)
        for (path, p), q in zip(held.named_parameters(), run.model.parameters(), strict=True)
    }
    average.update_parameters(run.model)
    for path, parameter in held.named_parameters():
        assert torch.allclose(parameter, expected[path], rtol=1e-9, atol=1e-12), path


@pytest.mark.parametrize(("operator", "name"), [case for case in CASES if case[1] in ("chain", "depthwise", "tokens")])
def test_half_of_the_parameters_have_no_gradient(operator, name):
    """Where there is one it follows; where there is none there is none."""
    run = Run(name, "AdamW")
    for number, parameter in enumerate(run.model.parameters()):
        if number % 2:
            parameter.grad = None
            run.optimizer.state.pop(parameter)
    found = {path: parameter.grad is None for path, parameter in run.model.named_parameters()}
    run.apply(edit_of(operator, name))
    names = {id(p): path for path, p in run.model.named_parameters()}
    wrapped = {path.replace(".layer.", "."): p for path, p in run.model.named_parameters()}
    for path, none in found.items():
        parameter = wrapped[path]
        assert (parameter.grad is None) == none, names[id(parameter)]
        assert none or parameter.grad.shape == parameter.shape
    run.train(1)


@pytest.mark.parametrize(("operator", "name"), [case for case in CASES if case[1] in ("chain", "encoder", "text")])
def test_a_frozen_model_in_eval_mode_and_without_an_optimizer(operator, name):
    model, inputs = build(name), batch_of(name, 0)
    model.requires_grad_(False).eval()
    old = outputs_of(model, inputs)
    kept = {id(parameter) for parameter in model.parameters()}
    dnm.apply(model, edit_of(operator, name), inputs)
    assert not any(module.training for module in model.modules())
    assert kept <= {id(parameter) for parameter in model.parameters()}
    assert not any(parameter.requires_grad for parameter in model.parameters() if id(parameter) in kept)
    if operator != "prune":
        assert change(model(inputs), old[0]) <= 1e-9


@pytest.mark.parametrize("operator", ["twin", "prune", *INSERTIONS])
def test_modes_of_parts_stay(operator):
    """A frozen batch norm inside a network in training, also below a layer that is wrapped."""
    model, inputs = build("residual"), batch_of("residual", 0)
    model.train()
    model.block.norm.eval()
    dnm.apply(model, edit_of(operator, "residual"), inputs)
    modes = {path.removesuffix(".layer").rpartition(".")[2]: m.training for path, m in model.named_modules()}
    assert modes["norm"] is False
    assert all(training for path, training in modes.items() if path not in ("norm",)), modes


class Tied(nn.Module):
    """A table that is also the output layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(9, 5), nn.Linear(5, 9, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.table(x)))


def test_tied_weights_are_refused_with_the_reason(photograph):
    model, inputs = Tied(), torch.randint(9, (4, 3))
    before = photograph(model)
    with pytest.raises(dnm.EditError, match=r"group 'table' cannot be divided: .*both makes and reads them \(tied"):
        dnm.apply(model, dnm.Divide("table", (0,)), inputs)
    assert photograph(model) == before


class Masked(nn.Module):
    """Its second input has positions, not samples, in its first dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)) * mask[:, None])


def test_inputs_without_samples_in_their_first_dimension():
    torch.manual_seed(0)
    model, inputs = Masked().double(), (torch.randn(3, 4, 5).double(), torch.tensor([1.0, 1.0, 0.0, 1.0]).double())
    applied = dnm.apply(model, dnm.Divide("first", (0,)), inputs)
    assert max(applied.eval_difference, applied.train_difference) < 1e-9


class Elsewhere(nn.Module):
    """Calls its layer by a reference that the tree of modules does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 2)
        self.steps = [self.first, self.last]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = torch.tanh(step(x))
        return x


def test_a_branch_that_would_never_be_called_is_refused(photograph):
    model, inputs = Elsewhere(), torch.randn(4, 5)
    before = photograph(model)
    with pytest.raises(
        dnm.EditError, match="the new module at first is never called, as the model's code calls the old"
    ):
        dnm.apply(model, dnm.AddResidual("first"), inputs)
    assert photograph(model) == before


def test_a_module_with_hooks_is_not_rewritten(photograph):
    run = Run("chain")
    run.model.body.register_forward_hook(lambda module, inputs, output: output)
    before = photograph(run.model, run.optimizer)
    with pytest.raises(dnm.EditError, match=r"body \(Sequential\) has hooks, which a rewritten one would lose"):
        run.apply(edit_of("connect", "chain"))
    assert photograph(run.model, run.optimizer) == before


@pytest.mark.parametrize("operator", ["twin", "zero", *INSERTIONS])
def test_one_sample_is_too_few_for_batch_statistics(photograph, operator):
    """Over feature vectors; torch's own error names neither the batch nor what to do."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 6), nn.BatchNorm1d(6))
    model, inputs = nn.Sequential(body, nn.Linear(6, 2)), torch.randn(1, 5)
    edits = {
        "residual": dnm.AddResidual("0.2"),
        "connect": dnm.Connect("0.0", "0.3"),
    }
    before = photograph(model)
    edit = edits.get(operator) or dnm.Divide("0.0", (0,), fill=operator if operator in DIVISIONS else "twin")
    with pytest.raises(dnm.DnmError, match="Expected more than 1 value per channel"):
        dnm.apply(model, edit, inputs)
    assert photograph(model) == before


# What is refused, in words.

HEAD = "is not a place to insert at; expected a module inside the model that is called"
WRONG = {
    "prune nothing": (lambda: dnm.Prune("body.0", ()), r"Prune\('body.0'\): units is empty; name at least one unit"),
    "prune twice": (
        lambda: dnm.Prune("body.0", (1, 1)),
        r"Prune\('body.0'\): units \(1, 1\) repeat; name each unit once",
    ),
    "prune all": (
        lambda: dnm.Prune("body.3", (0, 1, 2, 3, 4)),
        "group 'body.3' has 5 units, the edit removes 5; leave one",
    ),
    "prune outside": (lambda: dnm.Prune("body.3", (5,)), r"group 'body.3' has units 0..4, the edit lists \[5\]"),
    "heir outside": (lambda: dnm.Prune("body.3", (0,), into=(5,)), r"group 'body.3' has units 0..4, into lists \[5\]"),
    "too few heirs": (
        lambda: dnm.Prune("body.3", (0, 1), into=(2,)),
        "into names 1 units for 2 removed ones, expected as many",
    ),
    "heir that goes": (
        lambda: dnm.Prune("body.3", (0, 1), into=(1, 2)),
        r"units \[1\] are removed and cannot take over",
    ),
    "prune the output": (
        lambda: dnm.Prune("head", (0,)),
        "group 'head' cannot be pruned: the model's output width never",
    ),
    "no such group": (
        lambda: dnm.Prune("body", (0,)),
        "group 'body' does not exist; the groups of this model are: body.0",
    ),
    "units as text": (lambda: dnm.Prune("body.0", "12"), "Prune: units is '12', expected whole numbers"),
    "one unit": (lambda: dnm.Prune("body.0", 1), "Prune: units is 1, expected whole numbers"),
    "truth values": (lambda: dnm.Prune("body.0", (True,)), r"Prune: units is \(True,\), expected whole numbers"),
    "group by number": (lambda: dnm.Divide(0, (1,)), "Divide: group is 0, expected text"),
    "share as text": (lambda: dnm.Divide("body.0", (1,), share="half"), "Divide: share is 'half', expected a number"),
    "seed of a fraction": (
        lambda: dnm.Divide("body.0", (1,), seed=1.5),
        "Divide: seed is 1.5, expected a whole number",
    ),
    "huge seed": (
        lambda: dnm.Divide("body.0", (1,), seed=2**70),
        "Divide: seed is .*, expected a whole number of less",
    ),
    "gradmax": (lambda: dnm.Divide("body.0", (1,), fill="gradmax"), "needs the loss: pass dnm.apply"),
    "residual width": (
        lambda: dnm.AddResidual("body.0", width=-1),
        r"AddResidual\('body.0'\): width is -1, expected at least 0",
    ),
    "residual at the model": (lambda: dnm.AddResidual(""), rf"AddResidual\(''\): '' {HEAD}"),
    "residual nowhere": (lambda: dnm.AddResidual("neck"), rf"AddResidual\('neck'\): 'neck' {HEAD}"),
    "reduction": (
        lambda: dnm.AddAttention("body.0", reduction=0),
        r"AddAttention\('body.0'\): reduction is 0, expected at least 1",
    ),
    "gate on features": (
        lambda: dnm.AddAttention("head"),
        r"AddAttention\('head'\): the layer returns a tensor of 2 .*expected maps",
    ),
    "connect to itself": (lambda: dnm.Connect("body.0", "body.0"), "source and target are one layer"),
    "connect by number": (lambda: dnm.Connect("body.0", 3), "Connect: target is 3, expected text"),
    "connect back": (
        lambda: dnm.Connect("body.3", "body.0"),
        "body does not call the source once and then the target once",
    ),
    "connect at the top": (lambda: dnm.Connect("body", "head"), "expected the same layout"),
    "not an edit": (
        lambda: {"operator": "Divide"},
        r"{'operator': 'Divide'} is not an edit; expected one of \['AddAttention'",
    ),
    "a class": (lambda: dnm.Prune, "is not an edit"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_edits_change_nothing(photograph, what):
    make, message = WRONG[what]
    run = Run("chain")
    before = photograph(run.model, run.optimizer)
    with pytest.raises(dnm.EditError, match=message):
        run.apply(make())
    assert photograph(run.model, run.optimizer) == before


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        (
            "stream",
            dnm.Divide("embed", (0,)),
            "a norm is taken over its 4 units, so they can only be divided all together",
        ),
        ("stream", dnm.Divide("embed", (0, 1, 2, 3), fill="zero"), "a norm is taken .*fill is 'zero', expected 'twin'"),
        ("stream", dnm.Prune("embed", (0,)), "group 'embed' cannot be pruned: a norm is taken over its 4 units"),
        ("tokens", dnm.AddAttention("mlp"), "expected maps; a gate that takes a mean over tokens"),
        ("residual", dnm.Connect("stem", "block"), "only the model itself contains both"),
        ("flattened", dnm.Connect("body.0", "body.5"), "expected the same layout"),
        ("attention", dnm.Connect("attention.qkv", "attention.out"), r"attention \(Attending\) cannot be rewritten"),
    ],
)
def test_edits_that_do_not_fit_the_network(photograph, name, edit, message):
    run = Run(name)
    before = photograph(run.model, run.optimizer)
    with pytest.raises(dnm.EditError, match=message):
        run.apply(edit)
    assert photograph(run.model, run.optimizer) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizers": ["SGD"]}, "optimizers holds a str, expected a torch Optimizer"),
        ({"optimizers": [nn.Linear(1, 1)]}, "optimizers holds a Linear, expected a torch Optimizer"),
        ({"averaged": nn.Linear(1, 1)}, "averaged holds a Linear, expected a torch AveragedModel"),
        ({"averaged": ["EMA"]}, "averaged holds a str, expected a torch AveragedModel"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(dnm.EditError, match=message):
        dnm.apply(build("chain"), edit_of("twin", "chain"), batch_of("chain", 0), **arguments)


def test_numbers_of_other_libraries_are_taken_as_they_are():
    np = pytest.importorskip("numpy")
    edit = dnm.Divide("a", np.array([2, 0]), share=np.float64(0.25), seed=np.int64(7))
    assert edit == dnm.Divide("a", (2, 0), share=0.25, seed=7)
    assert [type(value) for value in (*edit.units, edit.share, edit.seed)] == [int, int, float, int]
    assert dnm.Prune("a", torch.tensor([1, 2])).units == (1, 2)
