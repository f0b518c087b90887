"""One small network for every kind of rule: the groups that are read off it, and that each of them can be divided."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dnm
from dnm.rules import KINDS


class Net(nn.Module):
    """Layers, and a function that calls them."""

    def __init__(self, run: Callable, **layers) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = run

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(self, *inputs)


def linear(reads: int, makes: int, bias: bool = False) -> nn.Linear:
    return nn.Linear(reads, makes, bias=bias)


def conv(reads: int, makes: int, size: int = 1, bias: bool = False, **options) -> nn.Conv2d:
    return nn.Conv2d(reads, makes, size, bias=bias, **options)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def described(graph: dnm.Graph) -> dict[str, str]:
    """By group: its width, and its members as `tensor/dimension`, with their places where these are not all.

    `<` marks what reads; `@` gives the starts of the blocks, `*` the places that a unit has; `uniform`, and the reason
    where it is not divisible.
    """
    found = {}
    for group in graph.groups:
        words = [str(group.width)] + ["uniform"] * group.uniform + ["eval"] * (not group.exact_in_train)
        for member in group.members:
            starts = "" if member.starts == (0,) else "@" + ",".join(map(str, member.starts))
            repeat = "" if member.repeat == 1 else f"*{member.repeat}"
            words.append(f"{'<' if member.reads else ''}{member.tensor}/{member.dimension}{starts}{repeat}")
        found[group.name] = " ".join(words) + (f": {group.reason}" if group.reason else "")
    return found


ROWS, MAPS, TOKENS = (5,), (2, 4, 4), (6, 5)
# By kind of rule: a forward pass, the layers that it calls, the shape of a sample, and every group but the output's.
CASES: dict[str, list[tuple]] = {
    "unchanged": [
        (
            lambda n, x: n.b(F.linear(x, n.a.weight.clone().contiguous())),
            dict(a=linear(5, 4), b=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(n.a(x).detach().clone().contiguous()),
            dict(a=linear(5, 4), b=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
    ],
    "element-wise": [
        (
            lambda n, x: n.c(torch.sigmoid(n.a(x)) * n.b(x) + n.shift),
            dict(a=linear(5, 4), b=linear(5, 4), c=linear(4, 2), shift=parameter(4)),
            ROWS,
            ["a: 4 shift/0 a.weight/0 b.weight/0 <c.weight/1"],
        ),
        (
            lambda n, x: n.b(n.a(x) * torch.arange(4.0)),
            dict(a=linear(5, 4), b=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/0 <b.weight/1: mul in Net (Net) combines them with a tensor whose size would not follow"],
        ),
    ],
    "re-striding": [
        (
            lambda n, x: n.b(_restrided(n.a(x))),
            dict(a=linear(5, 4), b=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
    ],
    "overwriting": [
        (
            lambda n, x: n.b(torch.mul(*F.linear(x, n.a.weight, _cut(n.shift)).chunk(2, 1))),
            dict(a=linear(5, 8), b=linear(4, 2), shift=parameter(8)),
            ROWS,
            ["a: 4 shift/0@0,4 a.weight/0@0,4 <b.weight/1"],
        ),
    ],
    "moving": [
        (
            lambda n, x: n.b(n.a(x)[:, :4]),
            dict(a=linear(5, 4), b=linear(4, 2)),
            ROWS,
            [
                "a: 4 a.weight/0 <b.weight/1: the model's code holds their number fixed (a view, a split or a check)",
            ],
        ),
        (
            lambda n, x: n.b(n.a(x).permute(0, 2, 3, 1)),
            dict(a=conv(2, 4), b=linear(4, 2)),
            MAPS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(n.a(x).flatten(1)),
            dict(a=conv(2, 3), b=linear(48, 2)),
            MAPS,
            ["a: 3 a.weight/0 <b.weight/1*16"],
        ),
        (
            lambda n, x: n.b(F.pixel_shuffle(n.a(x), 2)),
            dict(a=conv(2, 12), b=conv(3, 2)),
            MAPS,
            ["a: 3 a.weight/0*4 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(F.pixel_unshuffle(n.a(x), 2)),
            dict(a=conv(2, 3), b=conv(12, 2)),
            MAPS,
            ["a: 3 a.weight/0 <b.weight/1*4"],
        ),
        (
            lambda n, x: n.b(n.a(x).view(-1, 4)),
            dict(a=linear(5, 4), b=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/0 <b.weight/1: the model's code holds their number fixed (a view, a split or a check)"],
        ),
    ],
    "padding": [
        (
            lambda n, x: n.b(F.pad(n.a(x), (1, 1, 1, 1), value=2.0)),
            dict(a=conv(2, 4), b=conv(4, 2, 3)),
            MAPS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(F.pad(n.a(x), (0, 2))),
            dict(a=linear(5, 4), b=linear(6, 2)),
            ROWS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
    ],
    "splitting": [
        (
            lambda n, x: (lambda first, second: n.b(first) + n.c(second))(*n.a(x).chunk(2, 1)),
            dict(a=linear(5, 8), b=linear(4, 2), c=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/0@0,4 <b.weight/1 <c.weight/1"],
        ),
        (
            lambda n, x: n.b(torch.mul(*n.a(x).chunk(2, 1))),
            dict(a=linear(5, 8), b=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/0@0,4 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(torch.mul(*n.a(x).split(4, 1))),
            dict(a=linear(5, 8), b=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/0@0,4 <b.weight/1: the model's code holds their number fixed (a view, a split or a check)"],
        ),
    ],
    "gating": [
        (
            lambda n, x: n.b(F.glu(n.a(x), -1)),
            dict(a=linear(5, 8), b=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/0@0,4 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(F.glu(n.a(x), 1)),
            dict(a=linear(5, 4), b=linear(4, 2)),
            TOKENS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
    ],
    "concatenating": [
        (
            lambda n, x: n.b(n.a(x) * torch.cat([n.norm.running_var, n.norm.running_var]).mean()),
            dict(a=linear(5, 4), b=linear(4, 2), norm=nn.BatchNorm1d(2)),
            ROWS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
        (
            lambda n, x: n.c(torch.cat([n.a(x), n.b(x), n.a(x)], 1)),
            dict(a=linear(5, 4), b=linear(5, 3), c=linear(11, 2)),
            ROWS,
            ["a: 4 a.weight/0 <c.weight/1@0,7", "b: 3 b.weight/0 <c.weight/1@4"],
        ),
        (
            lambda n, x: n.b(torch.cat([n.first.expand(len(x), -1, -1), n.a(x)], 1)),
            dict(a=linear(5, 4), b=linear(4, 2), first=parameter(1, 1, 4)),
            TOKENS,
            ["a: 4 first/2 a.weight/0 <b.weight/1"],
        ),
    ],
    "pooling and resizing": [
        (
            lambda n, x: n.b(F.max_pool2d(n.a(x), 2).flatten(1)),
            dict(a=conv(2, 4), b=linear(16, 2)),
            MAPS,
            ["a: 4 a.weight/0 <b.weight/1*4"],
        ),
        (
            lambda n, x: n.b(F.adaptive_avg_pool2d(n.a(x), 1).flatten(1)),
            dict(a=conv(2, 4), b=linear(4, 2)),
            MAPS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(F.interpolate(F.max_pool2d(n.a(x), 2), scale_factor=2)),
            dict(a=conv(2, 4), b=conv(4, 2)),
            MAPS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
    ],
    "averaging": [
        (
            lambda n, x: n.b(n.a(x).mean((2, 3))),
            dict(a=conv(2, 4), b=linear(4, 2)),
            MAPS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(n.a(x) - n.a(x).mean(1, keepdim=True)),
            dict(a=linear(5, 4), b=linear(4, 2)),
            ROWS,
            ["a: 4 uniform a.weight/0 <b.weight/1"],
        ),
    ],
    "summing": [
        (
            lambda n, x: n.b(n.a(x).sum((2, 3))),
            dict(a=conv(2, 4), b=linear(4, 2)),
            MAPS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(n.a(x) * n.a(x).sum(1, keepdim=True)),
            dict(a=linear(5, 4), b=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/0 <b.weight/1: sum in Net (Net) is taken over them"],
        ),
    ],
    "largest": [
        (
            lambda n, x: n.b(n.a(x).amax((2, 3))),
            dict(a=conv(2, 4), b=linear(4, 2)),
            MAPS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(n.a(x) - n.a(x).amax(1, keepdim=True)),
            dict(a=linear(5, 4), b=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/0 <b.weight/1: amax in Net (Net) compares them with one another"],
        ),
    ],
    "along a dimension": [
        (
            lambda n, x: n.b(n.a(x).softmax(1)),
            dict(a=linear(5, 4), b=linear(4, 2)),
            TOKENS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(n.a(x).softmax(2)),
            dict(a=linear(5, 4), b=linear(4, 2)),
            TOKENS,
            ["a: 4 a.weight/0: _softmax in Net (Net) goes along them"],
        ),
    ],
    "convolution": [
        (
            lambda n, x: n.b(n.a(x)),
            dict(a=conv(2, 4, 3, bias=True), b=conv(4, 2)),
            MAPS,
            ["a: 4 a.weight/0 a.bias/0 <b.weight/1"],
        ),
        (
            lambda n, x: n.c(n.b(n.a(x))),
            dict(a=conv(2, 4), b=conv(4, 8, 3, groups=4, bias=True, padding=1), c=conv(8, 2)),
            MAPS,
            ["a: 4 a.weight/0 b.weight/0*2 b.bias/0*2 <c.weight/1*2"],
        ),
        (
            lambda n, x: n.c(n.b(n.a(x))),
            dict(a=conv(2, 6), b=conv(6, 3, groups=3), c=conv(3, 2)),
            MAPS,
            ["a: 3 a.weight/0*2 b.weight/0 <c.weight/1"],
        ),
        (
            lambda n, x: n.c(n.b(n.a(x))),
            dict(a=conv(2, 3), b=nn.ConvTranspose2d(3, 4, 2, bias=True), c=conv(4, 2)),
            MAPS,
            ["a: 3 a.weight/0 <b.weight/0", "b: 4 b.weight/1 b.bias/0 <c.weight/1"],
        ),
        (
            lambda n, x: n.c(n.b(n.a(x))),
            dict(a=conv(2, 3), b=nn.ConvTranspose2d(3, 6, 2, groups=3, bias=True), c=conv(6, 2)),
            MAPS,
            ["a: 3 a.weight/0 b.weight/0 b.bias/0*2 <c.weight/1*2"],
        ),
        (
            lambda n, x: n.b(F.conv2d(x, n.a.weight, groups=2)),
            dict(a=conv(2, 4, groups=2), b=conv(4, 2)),
            MAPS,
            ["a: 4 a.weight/0 <b.weight/1: the grouped convolution in Net (Net) reads channels of fixed number"],
        ),
    ],
    "linear": [
        (
            lambda n, x: n.b(n.a(x)),
            dict(a=linear(5, 4, True), b=linear(4, 2, True)),
            ROWS,
            ["a: 4 a.weight/0 a.bias/0 <b.weight/1"],
        ),
        (lambda n, x: n.a(x) @ n.b, dict(a=linear(5, 4), b=parameter(4, 2)), ROWS, ["a: 4 <b/0 a.weight/0"]),
        (lambda n, x: (n.b @ n.a(x).t()).t(), dict(a=linear(5, 4), b=parameter(2, 4)), ROWS, ["a: 4 <b/1 a.weight/0"]),
        (
            lambda n, x: n.b(torch.mul(*(F.linear(x, half) for half in n.a.weight.chunk(2)))),
            dict(a=linear(5, 6), b=linear(3, 2)),
            ROWS,
            ["a: 3 a.weight/0@0,3 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(F.linear(x, n.a.weight[:3]) * F.linear(x, n.a.weight[3:])),
            dict(a=linear(5, 6), b=linear(3, 2)),
            ROWS,
            ["a: 3 a.weight/0@0,3 <b.weight/1: the model's code holds their number fixed (a view, a split or a check)"],
        ),
        (
            lambda n, x: n.c(n.b(n.a(x).transpose(1, 2)).transpose(1, 2)),
            dict(a=linear(5, 4), b=linear(6, 6, True), c=linear(4, 2)),
            TOKENS,
            ["a: 4 a.weight/0 <c.weight/1"],
        ),
    ],
    "products of activations": [
        (
            lambda n, x: n.d((n.a(x) @ n.b(x).transpose(1, 2)).softmax(2) @ n.c(x)),
            dict(a=linear(5, 4), b=linear(5, 4), c=linear(5, 3), d=linear(3, 2)),
            TOKENS,
            ["a: 4 a.weight/0 b.weight/0: bmm in Net (Net) is taken over them", "c: 3 c.weight/0 <d.weight/1"],
        ),
        (
            lambda n, x: n.b(torch.baddbmm(n.a(x), x.softmax(2)[:, :, :1], n.a(x)[:, :1])),
            dict(a=linear(5, 4), b=linear(4, 2)),
            TOKENS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
    ],
    "attention": [
        (
            lambda n, x: n.d(_heads(n.a(x) * torch.arange(2.0).repeat(2), n.b(x), n.c(x))),
            dict(a=linear(5, 4), b=linear(5, 4), c=linear(5, 4), d=linear(4, 2)),
            TOKENS,
            [
                "a: 2 a.weight/0*2 b.weight/0*2 c.weight/0*2 <d.weight/1*2: "
                "mul in Net (Net) combines them with a tensor whose size would not follow"
            ],
        ),
        (
            lambda n, x: n.d(_heads(n.a(x), n.b(x), n.c(x), torch.arange(2.0))),
            dict(a=linear(5, 4), b=linear(5, 4), c=linear(5, 4), d=linear(4, 2)),
            TOKENS,
            ["a: 2 a.weight/0*2 b.weight/0*2 c.weight/0*2 <d.weight/1*2"],
        ),
        (
            lambda n, x: n.d(_heads(n.a(x), n.b(x), n.c(x), 1.0, 0.5 * n.training)),
            dict(a=linear(5, 4), b=linear(5, 4), c=linear(5, 4), d=linear(4, 2)),
            TOKENS,
            ["a: 2 eval a.weight/0*2 b.weight/0*2 c.weight/0*2 <d.weight/1*2"],
        ),
        (
            lambda n, x: n.d(_heads(n.a(x), n.b(x), n.c(x))),
            dict(a=linear(5, 4), b=linear(5, 4), c=linear(5, 4), d=linear(4, 2)),
            TOKENS,
            ["a: 2 a.weight/0*2 b.weight/0*2 c.weight/0*2 <d.weight/1*2"],
        ),
        (
            lambda n, x: n.d(_heads(n.a(x), n.b(x[:, :3]), n.c(x[:, :3]))),
            dict(a=linear(5, 4), b=linear(5, 4), c=linear(5, 4), d=linear(4, 2)),
            TOKENS,
            ["a: 2 a.weight/0*2 b.weight/0*2 c.weight/0*2 <d.weight/1*2"],
        ),
    ],
    "batch norm": [
        (
            lambda n, x: n.b(n.norm(n.a(x))),
            dict(a=conv(2, 4), norm=nn.BatchNorm2d(4), b=conv(4, 2)),
            MAPS,
            ["a: 4 a.weight/0 norm.weight/0 norm.bias/0 <b.weight/1 norm.running_mean/0 norm.running_var/0"],
        ),
    ],
    "group norm": [
        (
            lambda n, x: n.b(n.norm(n.a(x))),
            dict(a=conv(2, 6), norm=nn.GroupNorm(3, 6), b=conv(6, 2)),
            MAPS,
            ["a: 3 a.weight/0*2 norm.weight/0*2 norm.bias/0*2 <b.weight/1*2"],
        ),
        (
            lambda n, x: n.b(n.norm(n.a(x))),
            dict(a=conv(2, 6), norm=nn.GroupNorm(1, 6), b=conv(6, 2)),
            MAPS,
            ["a: 6 uniform a.weight/0 norm.weight/0 norm.bias/0 <b.weight/1"],
        ),
    ],
    "layer norm": [
        (
            lambda n, x: n.b(n.norm(n.a(x))),
            dict(a=linear(5, 4), norm=nn.LayerNorm(4), b=linear(4, 2)),
            TOKENS,
            ["a: 4 uniform a.weight/0 norm.weight/0 norm.bias/0 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(n.norm(n.a(x))),
            dict(a=linear(5, 4), norm=nn.RMSNorm(4), b=linear(4, 2)),
            TOKENS,
            ["a: 4 uniform a.weight/0 norm.weight/0 <b.weight/1"],
        ),
    ],
    "embedding": [
        (
            lambda n, x: n.b(n.a((x > 0).long()) + n.place),
            dict(a=nn.Embedding(2, 4), b=linear(4, 2), place=parameter(5, 4)),
            ROWS,
            ["a: 4 place/1 a.weight/1 <b.weight/1"],
        ),
        (
            lambda n, x: n.b(n.a((x > 0).long())),
            dict(a=nn.Embedding(2, 4), b=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/1 <b.weight/1"],
        ),
    ],
    "new tensor of the same shape": [
        (
            lambda n, x: n.b(n.a(x) + torch.ones_like(n.a(x))),
            dict(a=linear(5, 4), b=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
    ],
    "new tensor": [
        (
            lambda n, x: n.b(torch.cat([n.a(x).new_ones(len(x), 3), n.a(x)], 1)),
            dict(a=linear(5, 4), b=linear(7, 2)),
            ROWS,
            ["a: 4 a.weight/0 <b.weight/1@3"],
        ),
        (
            lambda n, x: n.b(n.a(x) + n.a(x).new_full((1,), 2.0)),
            dict(a=linear(5, 4), b=linear(4, 2)),
            ROWS,
            ["a: 4 a.weight/0 <b.weight/1"],
        ),
    ],
}


def _restrided(x: Tensor) -> Tensor:
    return x.clone().as_strided_(x.shape, x.stride())


def _cut(bias: Tensor) -> Tensor:
    bias = bias.clone()
    bias[len(bias) // 2 :].zero_()
    return bias


def _heads(query: Tensor, key: Tensor, value: Tensor, turn: Tensor | float = 1.0, rate: float = 0.0) -> Tensor:
    query, key, value = (t.unflatten(2, (-1, 2)).transpose(1, 2) for t in (query, key, value))
    return F.scaled_dot_product_attention(query * turn, key, value, dropout_p=rate).transpose(1, 2).flatten(2)


def test_every_kind_of_rule_has_a_case():
    assert set(CASES) == set(KINDS)


@pytest.mark.parametrize(
    "run, layers, shape, expected",
    [pytest.param(*case, id=f"{kind} {number}") for kind, cases in CASES.items() for number, case in enumerate(cases)],
)
def test_groups_are_those_expected_and_each_can_be_divided(run, layers, shape, expected):
    torch.manual_seed(0)
    model, inputs = Net(run, **copy.deepcopy(layers)).double(), torch.randn(3, *shape, dtype=torch.float64)
    _randomise_norms(model)
    graph = dnm.trace(model, inputs)
    found = [f"{name}: {text}" for name, text in described(graph).items()]
    assert [text for text in found if not text.endswith("the model's output width never changes")] == expected
    for group in graph.groups:
        if group.divisible:
            chosen = tuple(range(group.width)) if group.uniform else (group.width // 2,)
            applied = dnm.apply(model, dnm.Divide(group.name, chosen), inputs)
            assert max(applied.eval_difference, applied.train_difference) < 1e-12
            assert dnm.trace(model, inputs).group(group.name).width == group.width + len(chosen)


def _randomise_norms(model: nn.Module) -> None:
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "norm" in name and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)


REFUSED = {
    "re-striding": (
        lambda n, x: n.b(n.a(x).clone().as_strided_((3, 4), (1, 3))),
        dict(a=linear(5, 4), b=linear(4, 2)),
        "aten::as_strided_ in Net .* moves channels in a way that is not followed",
    ),
    "overwriting": (
        lambda n, x: n.b(F.linear(x, n.a.weight.clone().zero_())),
        dict(a=linear(5, 4), b=linear(4, 2)),
        "mm in Net .* has a weight that is computed",
    ),
    "element-wise": (
        lambda n, x: n.b(F.linear(x, n.a.weight * 2.0)),
        dict(a=linear(5, 4), b=linear(4, 2)),
        "mm in Net .* has a weight that is computed",
    ),
    "concatenating": (
        lambda n, x: n.b(F.linear(x, torch.cat([n.a.weight, n.c.weight]))),
        dict(a=linear(5, 2), c=linear(5, 2), b=linear(4, 2)),
        "cat in Net .* puts parameters together",
    ),
    "averaging": (
        lambda n, x: n.b(n.a(x) * n.scale.mean()),
        dict(a=linear(5, 4), b=linear(4, 2), scale=parameter(4)),
        "mean in Net .* is taken over the parameter scale",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(kind):
    run, layers, message = REFUSED[kind]
    with pytest.raises(dnm.GraphError, match=message):
        dnm.trace(Net(run, **copy.deepcopy(layers)), torch.randn(3, 5))


def test_an_operation_without_a_rule_is_refused_by_name():
    model = Net(lambda n, x: n.b(torch.special.i0(n.a(x))), a=linear(5, 4), b=linear(4, 2))
    with pytest.raises(dnm.GraphError, match=r"aten::i0 in Net \(Net\) is not known"):
        dnm.trace(model, torch.randn(3, 5))
