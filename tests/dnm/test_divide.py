"""Division into twins: what stays, what changes, and that twins become different."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import dnm

KINDS = ["conv", "flatten", "linear"]


def outputs(model: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In eval and in train mode, of a copy."""
    with torch.no_grad():
        return copy.deepcopy(model).eval()(inputs), copy.deepcopy(model).train()(inputs)


def relative(new: torch.Tensor, old: torch.Tensor) -> float:
    return ((new - old).norm() / old.norm()).item()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("share", [0.5, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_stay(build, kind, share, bias):
    model, inputs = build(kind, bias)
    old = outputs(model, inputs)
    applied = dnm.apply(model, dnm.Divide("0", (1, 3, 4), share=share), inputs)
    new = outputs(model, inputs)
    evaluated, trained = relative(new[0], old[0]), relative(new[1], old[1])
    print(f"{kind:8} share {share} bias {bias!s:5}: output change eval {evaluated:.1e}, train {trained:.1e}")
    assert model[0].weight.shape[0] == 9
    assert max(evaluated, trained) <= 1e-9
    assert (applied.eval_difference, applied.train_difference) == pytest.approx((evaluated, trained), abs=1e-15)


def test_copies_that_do_not_share_the_column_change_the_output(build):
    """The measure above can fail: copies whose incumbents keep the whole column."""
    model, inputs = build("linear")
    old = outputs(model, inputs)
    column = model[3].weight[:, 3:4].detach().clone()
    dnm.apply(model, dnm.Divide("0", (3,)), inputs)
    with torch.no_grad():
        model[3].weight[:, 3:4] = column
    assert min(relative(new, before) for new, before in zip(outputs(model, inputs), old, strict=True)) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_those_of_surgery_by_hand(build, kind):
    model, inputs = build(kind)
    expected = copy.deepcopy(model)
    consumer = {"conv": 4, "flatten": 5, "linear": 3}[kind]
    units, share = [4, 1], 0.3
    dnm.apply(model, dnm.Divide("0", tuple(units), share=share, spread=0.0), inputs)
    for name in ("weight", "bias"):
        old, new = getattr(expected[0], name), getattr(model[0], name)
        assert torch.equal(new, torch.cat([old, old[units]]))
    for name in ("weight", "bias", "running_mean", "running_var"):
        old, new = getattr(expected[1], name), getattr(model[1], name)
        assert torch.equal(new, torch.cat([old, old[units]]))
    assert torch.equal(model[1].num_batches_tracked, expected[1].num_batches_tracked)
    weight = expected[consumer].weight.detach()
    by_channel = weight.reshape(len(weight), 6, -1)
    incumbents = by_channel.clone()
    incumbents[:, units] *= share
    by_hand = torch.cat([incumbents, (1 - share) * by_channel[:, units]], dim=1)
    assert torch.allclose(model[consumer].weight.reshape(by_hand.shape), by_hand, rtol=1e-15, atol=0)
    assert torch.equal(model[consumer].bias, expected[consumer].bias)
    for path, parameter in model.named_parameters():
        if int(path.split(".")[0]) not in (0, 1, consumer):
            assert torch.equal(parameter, expected.get_parameter(path))


def test_twins_differ_by_the_spread():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4000)).double()
    column = model[2].weight[:, 1].detach().clone()
    dnm.apply(model, dnm.Divide("0", (1,), share=0.4, spread=0.5), torch.randn(5, 4, dtype=torch.float64))
    incumbent, copied = model[2].weight[:, 1].detach(), model[2].weight[:, 3].detach()
    assert torch.allclose(incumbent + copied, column)
    difference = incumbent - 0.4 * column
    assert difference.std() / column.std() == pytest.approx(0.5, rel=0.05)
    assert abs(torch.dot(difference, column) / difference.norm() / column.norm()) < 0.05


def test_the_spread_depends_on_the_seed_alone(build):
    columns = {}
    for run, (seed, unrelated) in enumerate([(0, 5), (0, 6), (1, 5)]):
        model, inputs = build("linear")
        torch.manual_seed(unrelated)
        dnm.apply(model, dnm.Divide("0", (2,), seed=seed), inputs)
        columns[run] = model[3].weight.detach()
    assert torch.equal(columns[0], columns[1])
    assert not torch.equal(columns[0], columns[2])


def test_a_column_of_one_number_still_separates():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    dnm.apply(model, dnm.Divide("0", (0,)), torch.randn(4, 3, dtype=torch.float64))
    assert model[2].weight[0, 0] != model[2].weight[0, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_layers_survive(build, kind):
    model, inputs = build(kind)
    changing = {"out_channels", "in_channels", "out_features", "in_features", "num_features"}

    def settings() -> list[dict]:
        return [
            {k: v for k, v in vars(layer).items() if not k.startswith("_") and k not in changing} for layer in model
        ]

    before = copy.deepcopy(settings())
    assert {"momentum", "eps", "affine", "track_running_stats"} <= set(before[1])
    dnm.apply(model, dnm.Divide("0", (0, 5)), inputs)
    assert settings() == before
    assert "8" in repr(model[0]) and "8" in repr(model[1])


def test_the_widened_network_is_one_that_could_have_been_built(build):
    model, inputs = build("conv")
    dnm.apply(model, dnm.Divide("0", (0, 5)), inputs)
    dnm.apply(model, dnm.Divide("4", (1,)), inputs)
    built = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(8, eps=1e-3, momentum=0.3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, padding=2, dilation=2, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ).double()
    assert repr(model) == repr(built)
    built.load_state_dict(model.state_dict())
    for new, old in zip(outputs(built, inputs), outputs(model, inputs), strict=True):
        assert torch.equal(new, old)


def test_many_divisions_stay_exact(build):
    model, inputs = build("conv")
    old = outputs(model, inputs)
    for step in range(4):
        # Units 6 and later are twins themselves.
        dnm.apply(model, dnm.Divide("0", (0, 5 + step), seed=step), inputs)
        dnm.apply(model, dnm.Divide("4", (step,), share=0.3, seed=step), inputs)
    change = max(relative(new, before) for new, before in zip(outputs(model, inputs), old, strict=True))
    print(f"output change after 8 divisions: {change:.1e}")
    assert (model[0].out_channels, model[4].out_channels) == (14, 9)
    assert change <= 1e-9


@pytest.mark.parametrize("settings", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_norms_without_weights_or_statistics(settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, **settings), nn.ReLU(), nn.Linear(6, 3)).double()
    inputs = torch.randn(8, 4, dtype=torch.float64)
    applied = dnm.apply(model, dnm.Divide("0", (0, 1)), inputs)
    assert max(applied.eval_difference, applied.train_difference) <= 1e-9
    assert model[1].num_features == 8


def test_dropout_of_another_group_gets_the_same_mask():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    inputs = torch.randn(8, 4, dtype=torch.float64)
    state = torch.get_rng_state()
    old = model(inputs).detach()
    torch.set_rng_state(state)
    assert not torch.equal(model(inputs), model(inputs))
    torch.set_rng_state(state)
    assert dnm.apply(model, dnm.Divide("0", (2,)), inputs).train_difference <= 1e-9
    assert relative(model(inputs).detach(), old) <= 1e-9


def test_statistics_modes_and_random_state_are_left_as_found(build):
    model, inputs = build("conv")
    model.train()
    model[5].eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    random_state = torch.get_rng_state()
    dnm.apply(model, dnm.Divide("0", (0, 5)), inputs)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, buffer in model.named_buffers():
        old = buffers[name]
        assert torch.equal(buffer if old.dim() == 0 else buffer[: len(old)], old)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parameters_keep_their_identity(build):
    model, inputs = build("conv")
    model[0].weight.requires_grad_(False)
    before = [(name, id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()]
    dnm.apply(model, dnm.Divide("0", (0,)), inputs)
    assert [(name, id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()] == before


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format_is_preserved(build, channels_last):
    model, inputs = build("conv")
    if channels_last:
        model, inputs = (item.to(memory_format=torch.channels_last) for item in (model, inputs))
    dnm.apply(model, dnm.Divide("0", (0,)), inputs)
    for weight in (model[0].weight, model[4].weight):
        assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert weight.is_contiguous() != channels_last


def test_a_divided_network_is_copied_pickled_and_saved(build):
    model, inputs = build("flatten")
    dnm.apply(model, dnm.Divide("0", (0, 2)), inputs)
    expected = outputs(model, inputs)
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saved.seek(0)
    loaded = copy.deepcopy(model)
    for parameter in loaded.parameters():
        nn.init.zeros_(parameter)
    loaded.load_state_dict(torch.load(saved))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert all(torch.equal(new, old) for new, old in zip(outputs(other, inputs), expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_backward_works_while_an_old_loss_is_alive(build, kind):
    model, inputs = build(kind)
    old_loss = model(inputs).square().sum()
    old_loss.backward(retain_graph=True)
    dnm.apply(model, dnm.Divide("0", (0, 2)), inputs)
    reference = copy.deepcopy(model)
    for network in (model, reference):
        network.zero_grad()
        network(inputs).square().sum().backward()
    assert old_loss.requires_grad
    for parameter, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert parameter.grad.shape == parameter.shape
        assert torch.allclose(parameter.grad, other.grad)


OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_twins_separate_within_ten_steps(build, train, kind, name):
    def difference_of_twins(spread: float) -> tuple[float, nn.Module]:
        model, inputs = build(kind)
        optimizer = OPTIMIZERS[name](model.parameters())
        train(model, optimizer, inputs, 5)
        unedited = copy.deepcopy(model)
        dnm.apply(model, dnm.Divide("0", (1,), spread=spread), inputs, optimizer)
        assert torch.equal(model[0].weight[1], model[0].weight[6])
        train(model, optimizer, inputs, 10)
        # Twins that stay equal because nothing learns would prove nothing.
        assert relative(model[0].weight[1], unedited[0].weight[1]) > 1e-2
        return relative(model[0].weight[6], model[0].weight[1]), model

    separated, _ = difference_of_twins(0.5)
    together, model = difference_of_twins(0.0)
    print(f"{kind:8} {name:6}: twins differ by {separated:.1e} after 10 steps, {together:.1e} without d")
    assert separated > 1e-3
    # Not 0: kernels sum the last columns in another order.
    assert together <= 1e-14
    assert torch.allclose(model[1].running_var[1], model[1].running_var[6], rtol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_network_that_is_divided_learns_on_as_one_that_is_not(build, train, name):
    model, inputs = build("linear")
    optimizer = OPTIMIZERS[name](model.parameters())
    first = train(model, optimizer, inputs, 10)[0]
    control = copy.deepcopy(model)
    control_optimizer = OPTIMIZERS[name](control.parameters())
    control_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    dnm.apply(model, dnm.Divide("0", (1, 4)), inputs, optimizer)
    divided, unedited = (
        train(network, held, inputs, 20) for network, held in ((model, optimizer), (control, control_optimizer))
    )
    assert divided[0] == pytest.approx(unedited[0], rel=1e-12)
    assert divided[-1] < first and unedited[-1] < first
