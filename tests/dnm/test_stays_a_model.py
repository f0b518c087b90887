"""Whatever PyTorch does with a model, it does with an edited one; what cannot follow an edit is refused."""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle
import shutil
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as registry
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import dnm
from tests.dnm.networks import EDITS, NETWORKS, distance, edited, images, settle, start

EXACT = 1e-12

MISSING = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]

BOTH = pytest.mark.parametrize("kind", NETWORKS)
# Every operator on both networks.
EVERY = pytest.mark.parametrize(
    ("kind", "edit"),
    [
        pytest.param(kind, edit, id=f"{kind}-{type(edit).__name__}{number}")
        for kind, edits in EDITS.items()
        for number, edit in enumerate(edits)
    ],
)


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the model returns, without a graph."""
    with torch.no_grad():
        return model(inputs)


def changed_alone(model: nn.Module, edit: dnm.edits.Edit, inputs: Tensor) -> nn.Module:
    """The start network with one edit whose branch is no longer at its identity."""
    dnm.apply(model, edit, inputs)
    settle(model, inputs)
    return model


# Copies


@BOTH
def test_pickle(kind):
    model, _ = edited(kind)
    restored = pickle.loads(pickle.dumps(model))
    assert torch.equal(outputs(restored, images()), outputs(model, images()))
    restored.train(), model.train()
    assert torch.equal(outputs(restored, images()), outputs(model, images()))


@BOTH
def test_torch_save(kind):
    model, _ = edited(kind)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(outputs(torch.load(file, weights_only=False), images()), outputs(model, images()))


@BOTH
def test_a_deep_copy_lives_alone(kind):
    model, _ = edited(kind)
    inputs = images()
    expected, keys = outputs(model, inputs), {name: value.clone() for name, value in model.state_dict().items()}
    other = copy.deepcopy(model)
    assert torch.equal(outputs(other, inputs), expected)
    for edit in dnm.candidates(other, inputs):
        if isinstance(edit, dnm.Divide | dnm.AddResidual):
            changed_alone(copy.deepcopy(other), edit, inputs)
    changed_alone(other, dnm.candidates(other, inputs)[0], inputs)
    assert distance(outputs(other, inputs), expected) > 1e-3
    assert torch.equal(outputs(model, inputs), expected)
    assert all(torch.equal(value, keys[name]) for name, value in model.state_dict().items())
    assert len(model.state_dict()) == len(keys)


@BOTH
def test_a_state_dict_fits_the_replayed_network(kind):
    model, journal = edited(kind)
    other = dnm.replay(start(kind), journal)
    assert distance(outputs(other, images()), outputs(model, images())) > 1e-3
    assert str(other.load_state_dict(model.state_dict())) == "<All keys matched successfully>"
    assert torch.equal(outputs(other, images()), outputs(model, images()))
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in model.named_parameters()]


# Types, layouts, devices


@BOTH
def test_to_another_type_and_back(kind):
    model, _ = edited(kind, torch.float32)
    expected = outputs(model, images(dtype=torch.float32))
    model.to(torch.float64)
    assert {value.dtype for value in model.state_dict().values()} <= {torch.float64, torch.int64}
    assert distance(outputs(model, images()), expected) < 1e-5
    model.to(torch.float32)
    assert torch.equal(outputs(model, images(dtype=torch.float32)), expected)


@BOTH
def test_to_another_device(kind):
    model, _ = edited(kind)
    model.to("meta")
    assert {value.device.type for value in [*model.parameters(), *model.buffers()]} == {"meta"}


@BOTH
def test_channels_last(kind):
    model, _ = edited(kind)
    expected = outputs(model, images())
    model.to(memory_format=torch.channels_last)
    assert distance(outputs(model, images().contiguous(memory_format=torch.channels_last)), expected) < EXACT


@EVERY
def test_edits_of_a_model_in_channels_last(kind, edit):
    plain = changed_alone(start(kind), edit, images())
    model = start(kind).to(memory_format=torch.channels_last)
    inputs = images().contiguous(memory_format=torch.channels_last)
    weights = {parameter for parameter in model.parameters() if parameter.dim() == 4}
    assert weights
    dnm.apply(model, edit, inputs)
    assert all(parameter.is_contiguous(memory_format=torch.channels_last) for parameter in weights)
    settle(model, inputs)
    assert distance(outputs(model, inputs), outputs(plain, images())) < 1e-9


@BOTH
def test_autocast(kind):
    model, _ = edited(kind, torch.float32)
    inputs = images(dtype=torch.float32)
    expected = outputs(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(inputs)
        loss = found.square().sum()
    loss.backward()
    assert found.dtype is torch.bfloat16
    assert 0 < distance(found.detach(), expected) < 0.05
    assert all(parameter.grad is not None and parameter.grad.dtype is torch.float32 for parameter in model.parameters())


@EVERY
def test_edits_inside_autocast(kind, edit):
    # Inside autocast PyTorch keeps the copies of the weights that it made.
    model, inputs = start(kind, torch.float32), images(dtype=torch.float32)
    expected = outputs(model, inputs)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        model(inputs)
        applied = dnm.apply(model, edit, inputs)
        inside = model(inputs)
        inside.square().sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        if not isinstance(edit, dnm.Prune):
            assert distance(inside.detach(), expected) < 0.05
            assert distance(outputs(model, inputs), expected) < 0.05
        model.zero_grad()
        applied.undo()
        assert distance(outputs(model, inputs), expected) < 0.05
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@EVERY
def test_edits_of_frozen_weights(kind, edit):
    # A linear layer without gradients is another operation where its input lies transposed.
    model, inputs = start(kind).requires_grad_(False), images()
    expected = outputs(model, inputs)
    assert dnm.trace(model, inputs).groups == dnm.trace(start(kind), inputs).groups
    dnm.apply(model, edit, inputs)
    if not isinstance(edit, dnm.Prune):
        assert distance(outputs(model, inputs), expected) < 1e-9


def test_looking_inside_autocast_does_not_keep_gradients_away():
    model, inputs = start("attentive", torch.float32), images(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        dnm.candidates(model, inputs)
        model(inputs).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# Compilers and exporters


@pytest.fixture
def compiler():
    """Forgets what other tests compiled, before and after."""
    torch.compiler.reset()
    with warnings.catch_warnings():
        # The compiler's own imports warn of one another.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
    torch.compiler.reset()


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_to_machine_code(compiler):
    model, _ = edited("convolutional", torch.float32)
    inputs = images(dtype=torch.float32)
    assert distance(outputs(torch.compile(model), inputs), outputs(model, inputs)) < 1e-5


@BOTH
def test_compiled_after_the_edits(kind, compiler):
    model, _ = edited(kind)
    compiled = torch.compile(model, backend="aot_eager")
    assert distance(outputs(compiled, images()), outputs(model, images())) < EXACT
    compiled(images()).square().sum().backward()
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    model(images()).square().sum().backward()
    for gradient, (name, parameter) in zip(found, model.named_parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-9, atol=1e-9, msg=name)


@BOTH
def test_compiled_before_the_edits(kind, compiler):
    model, inputs = start(kind), images()
    compiled = torch.compile(model, backend="eager")
    before = outputs(compiled, inputs)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(dnm.GraphError, match=r"the model is compiled; edit the module inside it \(`model._orig"):
        dnm.apply(compiled, EDITS[kind][0], inputs)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for edit in EDITS[kind]:
        dnm.apply(compiled._orig_mod, edit, inputs)
        settle(model, inputs)
        expected = outputs(model, inputs)
        assert distance(expected, before) > 1e-3
        # The old wrapper notices too, and compiles again.
        assert distance(outputs(compiled, inputs), expected) < EXACT
        assert distance(outputs(torch.compile(model, backend="eager"), inputs), expected) < EXACT


@BOTH
def test_compiled_in_place(kind, compiler):
    model, inputs = start(kind), images()
    groups = dnm.trace(model, inputs).groups
    seen = []

    def backend(graph, example_inputs):
        seen.append(graph)
        return graph

    model.compile(backend=backend)
    expected = outputs(model, inputs)
    num = len(seen)
    assert num > 0
    # The compiler would take seconds for the code that records, and a compiled model could not be recorded.
    assert dnm.trace(model, inputs).groups == groups
    applied = dnm.apply(model, EDITS[kind][0], inputs)
    assert len(seen) == num
    assert applied.eval_difference < EXACT
    assert distance(outputs(model, inputs), expected) < EXACT
    assert len(seen) > num


@BOTH
def test_export(kind):
    model, _ = edited(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        program = torch.export.export(model, (images(),))
    assert distance(outputs(program.module(), images(seed=1)), outputs(model, images(seed=1))) < EXACT


@BOTH
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_onnx(kind, tmp_path):
    from onnx.reference import ReferenceEvaluator

    model, _ = edited(kind, torch.float32)
    inputs = images(dtype=torch.float32)
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (inputs,), path, dynamo=True)
    found = torch.from_numpy(ReferenceEvaluator(str(path)).run(None, {"images": inputs.numpy()})[0])
    assert distance(found, outputs(model, inputs)) < 1e-5


@BOTH
def test_fused_attention_never_passes_a_branch_by(kind):
    # In eval mode and without gradients torch's encoder layers hand their weights to one fused operation.
    model, _ = edited(kind)
    assert distance(outputs(model, images()), model(images()).detach()) < EXACT


def test_fused_attention_comes_back_with_the_edit_taken_back():
    model, inputs = start("attentive"), images()
    layer = model.encoder.layers[0]
    assert layer.activation_relu_or_gelu == 1
    applied = dnm.apply(model, dnm.AddResidual("encoder.layers.0.linear1", width=2), inputs)
    assert layer.activation_relu_or_gelu == 0
    assert model.encoder.layers[1].activation_relu_or_gelu == 1
    applied.undo()
    assert layer.activation_relu_or_gelu == 1


# Functions of parameters


@BOTH
def test_functional_call(kind):
    model, _ = edited(kind)
    inputs = images()
    own = dict(model.named_parameters())
    assert torch.equal(torch.func.functional_call(model, own, (inputs,)), model(inputs))
    halved = {name: parameter.detach() / 2 for name, parameter in own.items()}
    found = torch.func.functional_call(model, halved, (inputs,))
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter /= 2
    assert distance(found, other(inputs)) < EXACT
    assert distance(found, model(inputs)) > 1e-3


@BOTH
def test_functional_gradients(kind):
    model, _ = edited(kind)
    inputs = images()

    def loss(parameters: dict[str, Tensor], batch: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (batch,)).square().mean()

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    found = torch.func.grad(loss)(parameters, inputs)
    model(inputs).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12, msg=name)
    # The other kernels have no rule for vmap, of which they warn.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, inputs[:, None])
    for name, gradient in each.items():
        torch.testing.assert_close(gradient.mean(0), found[name], rtol=1e-9, atol=1e-12, msg=name)


# In the middle of training


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> float:
    """One optimizer step."""
    optimizer.zero_grad()
    loss = (model(images(seed=seed)) - 1.0).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


@BOTH
@pytest.mark.parametrize("use_buffers", [False, True])
def test_averaged_weights_take_the_same_edits(kind, use_buffers):
    model, inputs = start(kind).train(), images()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=use_buffers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for number, edit in enumerate(EDITS[kind]):
        for seed in range(2):
            step(model, optimizer, seed)
            average.update_parameters(model)
        average.eval()
        expected = outputs(average, inputs)
        dnm.apply(model, edit, inputs, optimizer, averaged=average)
        assert [(name, value.shape) for name, value in average.module.state_dict().items()] == [
            (name, value.shape) for name, value in model.state_dict().items()
        ]
        if not isinstance(edit, dnm.Prune):
            assert distance(outputs(average, inputs), expected) < 1e-9, number
    shadows = [value.clone() for value in average.module.parameters()]
    step(model, optimizer, 9)
    average.update_parameters(model)
    for old, new, current in zip(shadows, average.module.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * current)


@BOTH
def test_an_edit_that_fails_leaves_the_average_alone(kind):
    model, inputs = start(kind).train(), images()
    average = AveragedModel(start("attentive" if kind == "convolutional" else "convolutional"))
    model_before = {name: value.clone() for name, value in model.state_dict().items()}
    before = {name: value.clone() for name, value in average.state_dict().items()}
    with pytest.raises(Exception, match=r"."):
        dnm.apply(model, EDITS[kind][0], inputs, averaged=average)
    for old, new in ((model_before, model.state_dict()), (before, average.state_dict())):
        assert list(old) == list(new)
        assert all(torch.equal(value, new[name]) for name, value in old.items())


@BOTH
def test_scaler_and_schedule_go_on(kind):
    model, inputs = start(kind, torch.float32).train(), images(dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    rates, losses = [], []

    def one_step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = (model(inputs) - 1.0).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(loss.item())

    for edit in EDITS[kind]:
        one_step()
        # Between backward and step, where gradients are scaled, is as good a moment as any.
        dnm.apply(model, edit, inputs, optimizer)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        one_step()
        assert len(optimizer.param_groups) == 1
        assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in model.parameters()}
        moved = sum(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
        assert moved > len(before) / 2
    assert scaler.get_scale() == 1024.0
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == len(rates)
    assert all(torch.isfinite(torch.tensor(losses)))


@EVERY
def test_gradients_accumulate_across_an_edit(kind, edit):
    model, inputs = start(kind), images()
    model(images(seed=1)).square().sum().backward()
    gradients = {id(parameter): parameter.grad.clone() for parameter in model.parameters()}
    dnm.apply(model, edit, inputs)
    for parameter in model.parameters():
        if id(parameter) in gradients:
            assert parameter.grad is not None
            assert parameter.grad.shape == parameter.shape
            if parameter.shape == gradients[id(parameter)].shape:
                assert torch.equal(parameter.grad, gradients[id(parameter)])
    kept = {id(parameter): parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None}
    model(images(seed=2)).square().sum().backward()
    other = copy.deepcopy(model)
    other.zero_grad()
    other(images(seed=2)).square().sum().backward()
    for parameter, alone in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, alone.grad + kept.get(id(parameter), 0.0))


@EVERY
@pytest.mark.parametrize("and_back", [False, True])
def test_a_loss_from_before_the_edit_is_right_or_an_error(kind, edit, and_back):
    model, inputs = start(kind), images()
    loss, other = model(inputs).square().sum(), copy.deepcopy(model)
    held = list(model.parameters())
    applied = dnm.apply(model, edit, inputs)
    if and_back:
        applied.undo()
    try:
        loss.backward()
    except RuntimeError:
        assert isinstance(edit, dnm.Divide | dnm.Prune)
        assert not and_back
        return
    assert and_back or not isinstance(edit, dnm.Divide | dnm.Prune)
    other(inputs).square().sum().backward()
    for parameter, expected in zip(held, other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)


@BOTH
def test_a_loss_from_before_two_edits_is_an_error(kind):
    # A division and a pruning of as many units: every shape is what it was, the values are not.
    model, inputs = start(kind), images()
    group = EDITS[kind][0].group
    loss = model(inputs).square().sum()
    dnm.apply(model, dnm.Divide(group, (0,)), inputs)
    dnm.apply(model, dnm.Prune(group, (1,)), inputs)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# What cannot follow


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def refused(model: nn.Module, inputs: Tensor, message: str) -> None:
    """Trace, candidates and apply refuse the model, which stays as it is."""
    before = [(name, value.clone()) for name, value in model.named_parameters()]
    for action in (
        lambda: dnm.trace(model, inputs),
        lambda: dnm.candidates(model, inputs),
        lambda: dnm.apply(model, dnm.AddResidual("stem.0"), inputs),
    ):
        with pytest.raises(dnm.GraphError, match=message):
            action()
    assert [name for name, _ in before] == [name for name, _ in model.named_parameters()]


def test_distributed_wrappers_are_refused(one_process):
    wrapped = nn.parallel.DistributedDataParallel(start("convolutional"))
    refused(wrapped, images(), "the model is a DistributedDataParallel, .*; edit `model.module` on every rank .*anew")
    dnm.apply(wrapped.module, EDITS["convolutional"][0], images())
    again = nn.parallel.DistributedDataParallel(wrapped.module)
    assert torch.equal(outputs(again, images()), outputs(wrapped.module, images()))


def test_sharded_models_are_refused(one_process):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = start("convolutional")
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(dnm.GraphError, match=r"the model is sharded \(fully_shard\).*edit the module before"):
        dnm.trace(model, images())


@pytest.mark.parametrize("name", ["DataParallel", "FullyShardedDataParallel"])
def test_other_parallel_wrappers_are_refused(name):
    if name == "DataParallel":
        wrapped = nn.DataParallel(start("convolutional"))
    else:
        wrapped = type(name, (nn.Sequential,), {})(start("convolutional"))
    refused(wrapped, images(), f"the model is a {name}, .*; edit `model.module`")


@pytest.mark.parametrize("make", ["script", "trace"])
def test_scripted_models_are_refused(make):
    model = start("convolutional")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(model) if make == "script" else torch.jit.trace(model, images())
    refused(scripted, images(), "the model is a (Recursive|TopLevel).*, whose code is fixed; edit the module it was")
    outer = nn.Sequential(model.stem, nn.Sequential(scripted))
    refused(outer, images(), "1.0 is a ")


def test_a_captured_cuda_graph_is_refused():
    # What torch.cuda.make_graphed_callables leaves behind: a forward on the instance, which replays the graph.
    model = start("convolutional")
    old = model.body[0].forward
    model.body[0].forward = lambda inputs: old(inputs)
    refused(model, images(), r"body\.0 \(Block\) has a forward of its own .*del module.forward.*capture anew")
    del model.body[0].forward
    dnm.apply(model, EDITS["convolutional"][0], images())


# Nothing left behind


def hooks() -> list[dict]:
    """Every hook that is registered for all modules."""
    named = {name: value for name, value in vars(registry).items() if name.startswith("_global_")}
    return [dict(value) for value in named.values() if isinstance(value, dict)]


def traces_of(model: nn.Module, inputs: Tensor) -> list:
    """All that looking at a model may not change."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [
        [(name, id(tensor), tensor.tolist(), sorted(vars(tensor)), tensor.requires_grad) for name, tensor in tensors],
        [None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist()) for _, tensor in tensors],
        [(module.training, sorted(vars(module))) for module in model.modules()],
        [
            (name, len(value))
            for module in model.modules()
            for name, value in vars(module).items()
            if name.endswith("_hooks")
        ],
        hooks(),
        torch.get_rng_state().tolist(),
        (inputs.tolist(), sorted(vars(inputs)), inputs.requires_grad, inputs.grad),
        torch.backends.mha.get_fastpath_enabled(),
        torch.is_grad_enabled(),
    ]


@BOTH
def test_looking_leaves_nothing_behind(kind):
    model, _ = edited(kind)
    inputs = images()
    model.train()
    next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)).eval()
    model(inputs).sum().backward()
    before = traces_of(model, inputs)
    dnm.trace(model, inputs)
    assert traces_of(model, inputs) == before
    dnm.candidates(model, inputs)
    assert traces_of(model, inputs) == before
    for edit in (dnm.Divide("nowhere", (0,)), dnm.AddResidual("nowhere"), dnm.Connect("no", "where")):
        with pytest.raises(dnm.EditError):
            dnm.apply(model, edit, inputs)
        assert traces_of(model, inputs) == before


@EVERY
def test_an_edit_leaves_nothing_behind(kind, edit):
    model, inputs = start(kind), images()
    model.train()
    next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)).eval()
    attributes = {name: sorted(vars(module)) for name, module in model.named_modules()}
    modes = {name: module.training for name, module in model.named_modules()}
    buffers = {name: id(buffer) for name, buffer in model.named_buffers()}
    random, globally = torch.get_rng_state(), hooks()
    before = traces_of(model, inputs)
    applied = dnm.apply(model, edit, inputs)
    assert torch.equal(torch.get_rng_state(), random)
    assert hooks() == globally
    assert not any(vars(tensor) for tensor in [*model.parameters(), *model.buffers(), inputs])
    found = dict(model.named_modules())
    if isinstance(edit, dnm.Divide | dnm.Prune):
        assert {name: sorted(vars(module)) for name, module in found.items()} == attributes
        assert {name: module.training for name, module in found.items()} == modes
    if isinstance(edit, dnm.Divide) and kind == "attentive":
        assert {name: id(buffer) for name, buffer in model.named_buffers()} == buffers
    for module in found.values():
        assert not [value for name, value in vars(module).items() if name.endswith("_hooks") and value]
    applied.undo()
    assert traces_of(model, inputs) == before


class Remembering(nn.Module):
    """Keeps what it computed, as models do that show their attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 2)
        self.kept: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """`num x 8` to `num x 2`."""
        hidden = torch.relu(self.first(inputs))
        self.kept.append(hidden)
        return self.second(hidden)


def test_tensors_that_a_model_keeps_carry_nothing():
    model = Remembering()
    inputs = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    dnm.apply(model, dnm.Divide("first", (0, 1)), inputs)
    assert model.kept
    assert not any(vars(tensor) for tensor in model.kept)


def test_inputs_that_a_model_writes_into_carry_nothing():
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.layer = nn.Parameter(torch.ones(8)), nn.Linear(8, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(inputs.add_(self.shift))

    inputs = torch.zeros(3, 8)
    dnm.trace(Writing(), inputs)
    assert vars(inputs) == {}
