"""Gradients and optimizer state follow an edit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import dnm

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "AMSGrad": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, amsgrad=True),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
    "NAdam": lambda parameters: torch.optim.NAdam(parameters, lr=0.01),
    "RAdam": lambda parameters: torch.optim.RAdam(parameters, lr=0.01),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, centered=True),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01),
    "Adamax": lambda parameters: torch.optim.Adamax(parameters, lr=0.01, eps=1e-30),
    "Adadelta": lambda parameters: torch.optim.Adadelta(parameters, lr=0.5, eps=1e-30),
}
FIRST = {"exp_avg", "exp_inf", "momentum_buffer", "grad_avg", "prev"}
SECOND = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"}
NEITHER = {"acc_delta", "step_size"}
UNITS, SHARE = [4, 1], 0.3
INCOMING = ("0.weight", "0.bias", "1.weight", "1.bias")
CONSUMER = {"conv": "4.weight", "flatten": "5.weight", "linear": "3.weight"}


def by_hand(path: str, tensor: torch.Tensor, degree: int, consumer: str) -> torch.Tensor:
    """What a tensor of the parameter at `path` must become when units 4 and 1 of six are divided."""
    if path in INCOMING:
        incumbents = tensor.clone()
        incumbents[UNITS] *= SHARE**degree
        return torch.cat([incumbents, tensor[UNITS] * (1 - SHARE) ** degree])
    if path == consumer:
        channels = tensor.reshape(len(tensor), 6, -1)
        return torch.cat([channels, channels[:, UNITS]], dim=1).reshape(len(tensor), -1, *tensor.shape[2:])
    return tensor


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["conv", "flatten"])
def test_moments_follow(build, train, kind, name):
    model, inputs = build(kind)
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, inputs, 4)
    old = {path: copy.deepcopy(optimizer.state[parameter]) for path, parameter in model.named_parameters()}
    dnm.apply(model, dnm.Divide("0", tuple(UNITS), share=SHARE), inputs, optimizer)
    compared = set()
    for path, parameter in model.named_parameters():
        assert list(optimizer.state[parameter]) == list(old[path])
        for key, value in optimizer.state[parameter].items():
            if key in FIRST | SECOND | NEITHER:
                degree = 0 if key in NEITHER else 1 if key in FIRST else 2
                expected = by_hand(path, old[path][key], degree, CONSUMER[kind])
                assert value.shape == parameter.shape
                assert torch.allclose(value, expected, rtol=1e-14, atol=0)
                compared.add(key)
            else:
                assert value is old[path][key] or value == old[path][key]
    assert compared
    # The state that followed is one the optimizer can go on with.
    train(model, optimizer, inputs, 1)


@pytest.mark.parametrize("kind", CONSUMER)
def test_gradients_follow(build, kind):
    model, inputs = build(kind)
    model(inputs).square().mean().backward()
    old = {path: parameter.grad.clone() for path, parameter in model.named_parameters()}
    dnm.apply(model, dnm.Divide("0", tuple(UNITS), share=SHARE, spread=0.0), inputs)
    for path, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, by_hand(path, old[path], 1, CONSUMER[kind]), rtol=1e-14, atol=0)
    followed = {path: parameter.grad.clone() for path, parameter in model.named_parameters()}
    model.zero_grad()
    model(inputs).square().mean().backward()
    # Without d they are the gradients of the divided network.
    for path, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, followed[path], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", [*OPTIMIZERS, "RMSprop with momentum"])
def test_moments_are_those_of_a_network_that_was_divided_all_along(build, train, name):
    """A twin network, divided without d before every step, shows its gradients to an optimizer that never moves it."""
    make = OPTIMIZERS.get(name, lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, momentum=0.9, eps=1e-30))
    edit = dnm.Divide("0", tuple(UNITS), share=SHARE, spread=0.0)
    # Without biases: those before a norm have gradients of rounding only.
    model, inputs = build("linear", bias=False)
    optimizer = make(model.parameters())
    twin = copy.deepcopy(model)
    dnm.apply(twin, edit, inputs)
    watcher = make(twin.parameters())
    for group in watcher.param_groups:
        group["lr"] = 0.0
        group["weight_decay"] = 0.0
    for step in range(5):
        divided = copy.deepcopy(model)
        dnm.apply(divided, edit, inputs)
        twin.load_state_dict(divided.state_dict())
        batch = inputs + 0.1 * step
        for network, held in ((twin, watcher), (model, optimizer)):
            held.zero_grad()
            (network(batch) - 1.0).square().mean().backward()
            held.step()
    dnm.apply(model, edit, inputs, optimizer)
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        for key in (FIRST | SECOND | NEITHER) & set(optimizer.state[parameter]):
            expected = watcher.state[other][key]
            atol = 1e-12 * expected.abs().max().item()
            assert torch.allclose(optimizer.state[parameter][key], expected, rtol=1e-9, atol=atol), key


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_first_updates_keep_their_size(build, train, name):
    def update_sizes(moments: str) -> tuple[float, list[float]]:
        model, inputs = build("conv")
        optimizer = OPTIMIZERS[name](model.parameters())
        train(model, optimizer, inputs, 30)

        def update() -> float:
            before = [parameter.detach().clone() for parameter in model.parameters()]
            train(model, optimizer, inputs, 1)
            moved = [(p.detach() - old).square().mean() for p, old in zip(model.parameters(), before, strict=True)]
            return max(moved).sqrt().item()

        usual = max(update() for _ in range(10))
        dnm.apply(model, dnm.Divide("0", (0, 2, 5)), inputs, optimizer)
        if moments == "second lost":
            for state in optimizer.state.values():
                state["exp_avg_sq"].zero_()
        return usual, [update() for _ in range(10)]

    usual, sizes = update_sizes("kept")
    print(f"{name}: largest of the first ten updates is {max(sizes) / usual:.2f} of the largest of the ten before")
    assert max(sizes) < 2.0 * usual
    if name == "AdamW":
        usual, sizes = update_sizes("second lost")
        assert max(sizes) > 2.0 * usual


class Strange(torch.optim.Optimizer):
    """Keeps whatever it is told to."""

    def __init__(self, parameters, kept: dict) -> None:
        super().__init__(parameters, {})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter].update({key: value(parameter) for key, value in kept.items()})

    def step(self, closure=None):
        """Does nothing."""


@pytest.mark.parametrize(
    ("kept", "named"),
    [
        ({"exp_avg": lambda p: torch.zeros(3)}, r"'exp_avg' of shape \(3,\)"),
        ({"factored": lambda p: torch.zeros(p.shape[0])}, r"'factored' of shape \(6,\)"),
        ({"history": lambda p: [torch.zeros_like(p)]}, "'history' a list"),
    ],
)
def test_unknown_state_is_refused_before_anything_changes(build, train, photograph, kept, named):
    model, inputs = build("linear")
    known = OPTIMIZERS["AdamW"](model.parameters())
    train(model, known, inputs, 2)
    strange = Strange(model.parameters(), kept)
    before = photograph(model, known)
    with pytest.raises(dnm.StateError, match=f"Strange: state {named}"):
        dnm.apply(model, dnm.Divide("0", (1,)), inputs, [known, strange])
    assert photograph(model, known) == before


def test_state_of_parameters_that_do_not_change_is_not_looked_at(build):
    model, inputs = build("linear")
    strange = Strange(model[5].parameters(), {"history": lambda p: [p]})
    dnm.apply(model, dnm.Divide("0", (1,)), inputs, strange)
    assert model[0].out_features == 7


def test_state_of_unknown_name_follows_as_a_mean_of_gradients(build):
    """Exact for those; a second moment is left too large, which makes steps smaller."""
    kept = {"curvature": lambda p: torch.arange(p.numel()).double().view_as(p) + 1, "bias": lambda p: p.detach() - 9.0}
    kept["mask"] = lambda p: p.detach() > 0
    for fill in ("twin", "zero"):
        model, inputs = build("linear")
        strange = Strange(model.parameters(), kept)
        old = {key: value.clone() for key, value in strange.state[model[0].weight].items()}
        dnm.apply(model, dnm.Divide("0", (4, 1), share=SHARE, fill=fill), inputs, strange)
        new = strange.state[model[0].weight]
        assert torch.equal(new["mask"], torch.cat([old["mask"], old["mask"][UNITS]]))
        for key in ("curvature", "bias"):
            if fill == "twin":
                assert torch.allclose(new[key], by_hand("0.weight", old[key], 1, ""))
            else:
                # Nowhere negative: it may divide a step, so new units do not start at 0.
                start = old[key].mean(0).expand(2, -1) if key == "curvature" else torch.zeros(2, 7).double()
                assert torch.equal(new[key], torch.cat([old[key], start]))


def test_new_units_start_without_momentum_and_with_the_mean_square(build, train):
    model, inputs = build("linear")
    optimizer = OPTIMIZERS["AMSGrad"](model.parameters())
    train(model, optimizer, inputs, 3)
    old = {path: copy.deepcopy(optimizer.state[parameter]) for path, parameter in model.named_parameters()}
    dnm.apply(model, dnm.Divide("0", (4, 1), fill="zero"), inputs, optimizer)
    for path, dimension in (("0.weight", 0), ("1.bias", 0), ("3.weight", 1)):
        state = optimizer.state[model.get_parameter(path)]
        for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            first, last = state[key].narrow(dimension, 0, 6), state[key].narrow(dimension, 6, 2)
            mean = old[path][key].mean(dimension, keepdim=True)
            assert torch.equal(first, old[path][key])
            assert torch.equal(last, torch.zeros_like(last) if key == "exp_avg" else mean.expand_as(last))


def test_lbfgs_is_refused_once_it_has_state(build):
    model, inputs = build("linear")
    optimizer = torch.optim.LBFGS(model.parameters())
    dnm.apply(model, dnm.Divide("0", (1,)), inputs, optimizer)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    for edit in (dnm.Divide("0", (1,)), dnm.Divide("3", (1,)), dnm.AddResidual("2")):
        with pytest.raises(dnm.StateError, match="LBFGS: its state lies over all parameters at once"):
            dnm.apply(model, edit, inputs, optimizer)


def test_adafactor_is_refused_by_the_name_of_its_state(build, train):
    model, inputs = build("linear")
    optimizer = torch.optim.Adafactor(model.parameters())
    train(model, optimizer, inputs, 1)
    with pytest.raises(dnm.StateError, match=r"Adafactor: state 'row_var' of shape \(6, 1\) cannot follow"):
        dnm.apply(model, dnm.Divide("0", (1,)), inputs, optimizer)


def test_scalars_stay(build):
    model, inputs = build("linear")
    kept = {"count": lambda p: 3, "level": lambda p: torch.tensor([0.5]), "nothing": lambda p: None}
    strange = Strange(model.parameters(), kept)
    dnm.apply(model, dnm.Divide("0", (1,)), inputs, strange)
    assert strange.state[model[0].weight] == {"count": 3, "level": torch.tensor([0.5]), "nothing": None}


def test_several_optimizers_and_parameter_groups(build, train):
    model, inputs = build("conv")
    first = torch.optim.SGD(
        [{"params": [model[0].weight], "lr": 0.05}, {"params": [model[0].bias, *model[1].parameters()], "lr": 0.01}],
        momentum=0.9,
    )
    second = torch.optim.AdamW([*model[4:].parameters()], lr=0.01)
    for _ in range(2):
        model.zero_grad()
        (model(inputs) - 1.0).square().mean().backward()
        first.step()
        second.step()
    groups = [[id(p) for group in held.param_groups for p in group["params"]] for held in (first, second)]
    scheduler = torch.optim.lr_scheduler.StepLR(first, 1)
    dnm.apply(model, dnm.Divide("0", tuple(UNITS)), inputs, (held for held in (first, second)))
    assert [[id(p) for group in held.param_groups for p in group["params"]] for held in (first, second)] == groups
    assert scheduler.optimizer is first and [group["lr"] for group in first.param_groups] == [0.05, 0.01]
    for held in (first, second):
        for parameter, state in held.state.items():
            assert all(value.shape == parameter.shape for value in state.values() if value.dim() > 0)
    assert first.state[model[0].weight]["momentum_buffer"].shape[0] == 8
    assert second.state[model[4].weight]["exp_avg"].shape[1] == 8


def test_an_optimizer_that_has_not_stepped_is_left_empty(build):
    model, inputs = build("linear")
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    dnm.apply(model, dnm.Divide("0", (1,)), inputs, optimizer)
    assert not optimizer.state


@pytest.mark.parametrize(
    "fused",
    [
        False,
        True,
    ],
)
def test_memory_format_does_not_change_the_training(train, fused):
    """The fused kernels read weights and moments in storage order, so these must agree."""

    def weights(channels_last: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
        model, inputs = model.double(), torch.randn(8, 3, 8, 8, dtype=torch.float64)
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
        train(model, optimizer, inputs, 4)
        dnm.apply(model, dnm.Divide("0", (0, 2)), inputs, optimizer)
        train(model, optimizer, inputs, 4)
        return model[2].weight.detach()

    assert torch.allclose(weights(True), weights(False), rtol=1e-9, atol=1e-12)
