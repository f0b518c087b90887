"""Counted FLOPs against closed forms and torch's own counter; counted memory against sums worked out by hand."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import dnm
from dnm.cost import Products, count_ahead, count_work, first_sample, product

FLOAT, LONG = 4, 8


class Calls(nn.Module):
    """A model that is a function of its layers and inputs."""

    def __init__(self, function: Callable, *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs, **named):
        return self.function(*self.layers, *inputs, **named)


@dataclass
class Output:
    """What a model may return."""

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    labels: Tensor | None = None


def attention(inputs: Tensor) -> Tensor:
    """Self-attention of two heads without weights; `batch x tokens x width` to the same."""
    heads = inputs.unflatten(-1, (2, -1)).transpose(1, 2)
    return functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)


def chain(*layers: nn.Module, frozen: bool = False) -> nn.Sequential:
    return nn.Sequential(*layers).requires_grad_(not frozen)


def memory(model: nn.Module, *shape: int) -> int:
    return dnm.count(model, torch.randn(3, *shape)).activation_memory


# FLOPs


def test_linear_layers_in_closed_form():
    model = chain(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3))
    first, others = 2 * 7 * 6, 2 * (6 * 5 + 5 * 3)
    assert dnm.count(model, torch.randn(9, 7)) == dnm.Cost(
        parameters=(7 + 1) * 6 + 6 * 5 + (5 + 1) * 3,
        forward=first + others,
        # Backward: a product for the weights and one for the inputs, which the first layer does not need.
        training=2 * first + 3 * others,
        # The most is alive where tanh's gradient is made: relu's and tanh's output, the model's, and the gradients of
        # tanh's output and input. One step later tanh's output is gone and relu's gradient there, which is as large as
        # relu's output.
        activation_memory=FLOAT * max(6 + 5 + 3 + 5 + 5, 6 + 3 + 5 + 6, 6 + 3 + 6 + 6),
    )


def test_convolutions_in_closed_form():
    model = chain(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 2), dilation=1),
        nn.Flatten(),
        nn.Linear(6 * 16, 2),
    )
    first, second, third = 2 * 64 * 4 * 3 * 9, 2 * 16 * 6 * 4 * 15, 2 * 96 * 2
    cost = dnm.count(model, torch.randn(5, 3, 8, 8))
    assert cost.forward == first + second + third
    assert cost.training == 2 * first + 3 * (second + third)
    assert cost.parameters == (3 * 9 + 1) * 4 + 2 * 4 + (4 * 15 + 1) * 6 + (96 + 1) * 2


@pytest.mark.parametrize("kind", ["conv", "flatten", "linear"])
@pytest.mark.parametrize("divided", [False, True])
def test_equal_to_torchs_counter(build, kind, divided):
    model, inputs = build(kind)
    if divided:
        dnm.apply(model, dnm.Divide("0", (0, 2, 3)), inputs)
    check_against_torch(model, inputs)


OTHERS = {
    "one dimension": (lambda: chain(nn.Conv1d(2, 3, 5, dilation=2), nn.Conv1d(3, 2, 3)), (2, 20)),
    "volumes": (lambda: chain(nn.Conv3d(2, 3, 3), nn.ReLU(), nn.Conv3d(3, 2, 2)), (2, 5, 6, 7)),
    "positions": (lambda: chain(nn.Linear(6, 5), nn.Linear(5, 4, bias=False)), (3, 2, 6)),
    "attention": (lambda: chain(nn.Linear(6, 8), Calls(attention), nn.Linear(8, 3)), (5, 6)),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), (5, 8)),
    "recurrent": (lambda: chain(nn.GRU(4, 5), Calls(lambda outputs: outputs[0]), nn.Linear(5, 2)), (7, 4)),
    "shared": (lambda: Calls(lambda layer, inputs: layer(inputs) + layer(layer(inputs)), nn.Linear(6, 6)), (6,)),
    "checkpointed": (
        lambda: Calls(lambda layer, inputs: checkpoint(layer, layer(inputs), use_reentrant=False), nn.Linear(6, 6)),
        (6,),
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_equal_to_torchs_counter_on_other_layers(kind):
    model, shape = OTHERS[kind]
    check_against_torch(model(), torch.randn(3, *shape))


def frozen_first(model):
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: chain(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)),
        lambda: frozen_first(chain(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 2))),
        lambda: chain(nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(6, 5, bias=False)),
        lambda: chain(nn.Flatten(2), nn.Linear(64, 8), Calls(lambda x: x @ x.transpose(1, 2)), nn.Linear(4, 3)),
    ],
)
def test_the_backward_pass_is_known_ahead(make):
    model, inputs = make().eval(), torch.randn(2, 4, 8, 8)
    ahead = count_ahead(model, inputs)
    assert ahead == count_work(model, inputs) and ahead.training == dnm.count(model, inputs).training > ahead.forward


def test_products_are_told_to_all_who_count():
    first, second = torch.randn(4, 3, 5), torch.randn(5, 7)
    with Products() as outer:
        product(first, second)
        with Products() as inner:
            assert torch.equal(product(second.T, second), second.T @ second)
    product(first, second)
    assert (inner.flops, outer.flops) == (2 * 7 * 7 * 5, 2 * 12 * 7 * 5 + 2 * 7 * 7 * 5)


@pytest.mark.parametrize(
    ("layer", "multiply_adds"),
    [
        (nn.Conv2d(4, 8, 3, groups=2), 3 * 3 * 8 * 2 * 9),
        (nn.Conv2d(4, 8, 3, groups=4), 3 * 3 * 8 * 1 * 9),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), 5 * 5 * 4 * 3 * 9),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), 5 * 5 * 4 * 6 * 9),
    ],
)
def test_grouped_and_transposed_convolutions(layer, multiply_adds):
    # Behind a 1x1 convolution, so that the gradient of the input is taken too: three times the forward pass.
    first = 2 * 5 * 5 * 4 * 4
    cost = dnm.count(chain(nn.Conv2d(4, 4, 1), layer), torch.randn(3, 4, 5, 5))
    assert (cost.forward, cost.training) == (first + 2 * multiply_adds, 2 * first + 3 * 2 * multiply_adds)


def check_against_torch(model: nn.Module, inputs: Tensor) -> None:
    cost = dnm.count(model, inputs)
    model.eval()
    with FlopCounterMode(display=False) as training:
        outputs = model(inputs[:1])
        forward = training.get_total_flops()
        outputs.sum().backward()
    assert (cost.forward, cost.training) == (forward, training.get_total_flops())
    assert 0 < cost.forward < cost.training


def test_layers_that_torch_would_fuse_when_they_are_frozen():
    encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    trained = dnm.count(encoder, torch.randn(2, 5, 8))
    assert trained.forward == 2 * (5 * 8 * 3 * 8 + 2 * 5 * 5 * 8 + 5 * 8 * 8 + 2 * 5 * 8 * 12)
    frozen = dnm.count(encoder.requires_grad_(False), torch.randn(2, 5, 8))
    assert (frozen.forward, frozen.training) == (trained.forward, trained.forward)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("frozen", [False, True])
def test_lstms_without_the_machines_own_kernel(frozen):
    before = torch.backends.mkldnn.enabled
    cost = dnm.count(nn.LSTM(4, 5, batch_first=True).requires_grad_(not frozen), torch.randn(2, 7, 4))
    assert cost.forward == 2 * 7 * (4 + 5) * 4 * 5
    assert torch.backends.mkldnn.enabled == before


def test_layers_under_the_models_own_inference_mode():
    model = Calls(torch.inference_mode()(lambda layer, inputs: layer(inputs)), nn.Linear(7, 6))
    cost = dnm.count(model.requires_grad_(False), torch.randn(2, 3, 7))
    assert cost == dnm.Cost(0, forward=2 * 3 * 7 * 6, training=2 * 3 * 7 * 6, activation_memory=FLOAT * 3 * 6)


# Memory


@pytest.mark.parametrize(("first", "hidden", "last"), [(7, 6, 5), (7, 5, 60), (2, 600, 1)])
def test_a_trained_chain_keeps_what_backward_needs(first, hidden, last):
    model = chain(nn.Linear(first, hidden), nn.ReLU(), nn.Linear(hidden, last))
    # At the end of backward through relu: its output (saved by both neighbours), the model's output, the gradients of
    # relu's output and input. Its input was let go in the forward pass; the weights' gradients are larger, but not
    # counted.
    assert memory(model, first) == FLOAT * (hidden + last + hidden + hidden)


def test_a_chain_that_saves_inputs_keeps_both_sides_of_the_activation():
    model = chain(nn.Linear(7, 6), nn.GELU(), nn.Linear(6, 50))
    # GELU saves its input, the last layer its own; the gradient of the last layer's input is the first that is made.
    # One step later the gradient of GELU's input takes the place of GELU's output.
    assert memory(model, 7) == FLOAT * (6 + 6 + 50 + 6)


def test_a_frozen_chain_keeps_two_layers_at_most():
    widths = (7, 6, 11, 4, 9)
    model = chain(*[nn.Linear(*pair, bias=False) for pair in pairwise(widths)], frozen=True)
    cost = dnm.count(model, torch.randn(3, 7))
    assert cost.activation_memory == FLOAT * (6 + 11)
    assert cost.parameters == 0
    assert cost.training == cost.forward == 2 * (7 * 6 + 6 * 11 + 11 * 4 + 4 * 9)
    # Trained, all but the last are saved; the output is held; two gradients are alive at the second product.
    assert memory(chain(*model), 7) == FLOAT * max(6 + 11 + 4 + 9 + 4, 6 + 11 + 9 + 4 + 11, 6 + 9 + 11 + 6)


def test_what_only_frozen_layers_read_is_not_saved():
    frozen, head = chain(nn.Linear(7, 600), nn.ReLU(), nn.Linear(600, 6), frozen=True), nn.Linear(6, 5)
    # Forward only, below the head: the frozen layer's output and that of relu.
    assert memory(nn.Sequential(*frozen, head), 7) == FLOAT * (600 + 600)
    # With the first layer trained, relu's output is saved, for backward passes through the frozen layer.
    trained = nn.Sequential(nn.Linear(7, 600), *frozen[1:], head)
    assert memory(trained, 7) == FLOAT * (600 + 5 + 600 + 600)


@pytest.mark.parametrize("inplace", [False, True])
def test_relu_in_place_needs_no_second_tensor(inplace):
    assert memory(chain(nn.Linear(7, 6), nn.ReLU(inplace), frozen=True), 7) == FLOAT * (6 if inplace else 6 + 6)
    # In training too, as long as nothing else is larger: relu's gradient is never made in place.
    frozen = chain(nn.Linear(7, 60), nn.ReLU(inplace), frozen=True)
    model = nn.Sequential(*frozen, nn.Linear(60, 6), nn.ReLU(inplace), nn.Linear(6, 5))
    assert memory(model, 7) == FLOAT * (60 + 6 + 5 + 6 + 6 if inplace else 60 + 60)


@pytest.mark.parametrize(("segments", "blocks"), [(2, 2), (4, 3), (3, 5)])
def test_checkpoints_trade_memory_for_flops(segments, blocks):
    width = 8

    def run(*arguments):
        *layers, inputs = arguments
        for layer in layers:
            inputs = checkpoint(layer, inputs, use_reentrant=False)
        return inputs

    layers = [
        chain(*[layer for _ in range(blocks) for layer in (nn.Linear(width, width), nn.Tanh())])
        for _ in range(segments)
    ]
    inputs = torch.randn(3, width)
    plain, checkpointed = dnm.count(nn.Sequential(*layers), inputs), dnm.count(Calls(run, *layers), inputs)
    # The output of every tanh is saved, and two gradients are alive at once.
    assert plain.activation_memory == FLOAT * width * (segments * blocks + 2)
    # The outputs of the segments, those inside the last one again, and one gradient: before a second one is made, the
    # tanh that is done with has let go its output.
    assert checkpointed.activation_memory == FLOAT * width * (segments + blocks + 1)
    assert checkpointed.activation_memory < plain.activation_memory
    # Every layer runs once more.
    assert checkpointed.forward == plain.forward
    assert checkpointed.training - plain.training == plain.forward


def test_a_storage_counts_once_and_whole_whatever_its_views():
    def views(layer, inputs):
        hidden = layer(inputs)
        return hidden[:, :1], hidden.view(2, -1), hidden.t(), hidden.detach()

    model = Calls(views, nn.Linear(7, 6)).requires_grad_(False)
    assert memory(model, 7) == FLOAT * 6
    # The view keeps the whole of it.
    model = Calls(lambda layer, inputs: layer(layer(inputs)[:, :1].expand(-1, 7).detach())[:, :1], nn.Linear(7, 600))
    assert memory(model.requires_grad_(False), 7) == FLOAT * (600 + 600)


def test_whole_numbers_and_masks_count_with_their_own_size():
    model = Calls(lambda inputs: (inputs.argmax(-1), inputs > 0))
    assert memory(model, 7) == LONG + 7


def test_sparse_tensors_count_with_their_values_and_indices():
    assert memory(Calls(lambda inputs: inputs.to_sparse()), 7) == 7 * (FLOAT + 2 * LONG)


def test_tensors_that_are_made_inside_count_and_found_ones_do_not():
    found = torch.randn(100, 7)
    assert memory(Calls(lambda inputs: inputs + found[:50][:1]), 7) == FLOAT * 7
    assert memory(Calls(lambda inputs: inputs * torch.tensor([1.0] * 7)), 7) == FLOAT * (7 + 7)
    assert memory(Calls(lambda inputs: torch.add(inputs, 1, out=torch.empty(0))), 7) == FLOAT * 7
    norm = nn.BatchNorm1d(7).requires_grad_(False)
    assert memory(norm, 7) == FLOAT * 7


def test_outputs_are_held_through_the_backward_pass():
    def pair(layer, inputs):
        outputs = layer(inputs)
        return outputs, outputs.detach().repeat(100, 1)

    # Both outputs, and nothing that backward makes but the weights' gradients.
    assert memory(Calls(pair, nn.Linear(7, 6)), 7) == FLOAT * (6 + 600)


def test_contributions_to_a_shared_weight_count_until_they_are_summed():
    layer = nn.Linear(20, 20, bias=False)
    model = Calls(lambda layer, inputs: layer(layer(inputs)), layer)
    hidden = 20
    # Hidden layer, output and the hidden layer's gradient, and both contributions; their sum is the gradient.
    assert memory(model, 20) == FLOAT * (hidden + hidden + 2 * 20 * 20)


@pytest.mark.parametrize("sparse", [False, True])
def test_embeddings_of_whole_numbers(sparse):
    model = chain(nn.Embedding(10, 4, sparse=sparse), nn.Linear(4, 2))
    cost = dnm.count(model, torch.randint(10, (3, 5)))
    assert cost.parameters == 10 * 4 + (4 + 1) * 2
    assert (cost.forward, cost.training) == (2 * 5 * 4 * 2, 3 * 2 * 5 * 4 * 2)
    assert cost.activation_memory == FLOAT * 5 * (4 + 2 + 4)
    # The gradient of the sum is one vector for all; the weights' is larger, but not counted.
    bag = Calls(lambda layer, inputs: layer(inputs).sum(1), nn.Embedding(10, 4, sparse=sparse))
    assert dnm.count(bag, torch.randint(10, (3, 5))).activation_memory == FLOAT * (5 * 4 + 4)


def test_memory_is_independent_of_batch_and_of_gradients_that_were_there():
    model = chain(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 5))
    fresh = dnm.count(model, torch.randn(1, 7))
    model(torch.randn(4, 7)).sum().backward()
    assert dnm.count(model, torch.randn(50, 7)) == fresh


def test_memory_is_proportional_to_the_size_of_a_number():
    model = chain(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 5))
    single, double = memory(model, 7), dnm.count(model.double(), torch.randn(3, 7).double()).activation_memory
    assert double == 2 * single > 0


@pytest.mark.parametrize("often", [False, True])
def test_memory_does_not_depend_on_when_cycles_are_collected(often):
    def cycles(inputs):
        for _ in range(3):
            cycle = [inputs + 1]
            cycle.append(cycle)
            del cycle
            [[] for _ in range(5000)]
        return inputs

    threshold, enabled = gc.get_threshold(), gc.isenabled()
    try:
        gc.set_threshold(10)
        (gc.enable if often else gc.disable)()
        assert memory(Calls(cycles), 7) == 3 * FLOAT * 7
        assert gc.isenabled() == often
    finally:
        gc.set_threshold(*threshold)
        (gc.enable if enabled else gc.disable)()


# What may be counted


@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_the_callers_modes_change_nothing(context):
    def modes():
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")

    model, inputs = chain(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5)), torch.randn(3, 7)
    expected = dnm.count(model, inputs)
    assert 0 < expected.forward < expected.training
    with context():
        before = modes()
        assert dnm.count(model, inputs) == dnm.count(model, torch.randn(3, 7)) == expected
        assert modes() == before


@pytest.mark.parametrize(
    "wrap",
    [
        lambda one, two: (one, two),
        lambda one, two: [one, (two, "a name", None, 3)],
        lambda one, two: {"boxes": {"one": one}, "scores": [two]},
        lambda one, two: OrderedDict([("0", one), ("pool", two)]),
        lambda one, two: Output(one, hidden=(two,), labels=one.argmax(-1)),
        lambda one, two: (Output(one), two.argmax(-1), two, one.to(torch.complex64)),
        lambda one, two: torch.cat([one, two], -1).sum(),
    ],
)
def test_every_output_that_requires_a_gradient_is_trained(wrap):
    layers = nn.Linear(7, 6), nn.Linear(6, 5), nn.Linear(6, 4)

    def run(trunk, first, second, inputs):
        hidden = trunk(inputs)
        return wrap(first(hidden), second(hidden))

    cost = dnm.count(Calls(run, *layers), torch.randn(3, 7))
    assert (cost.forward, cost.training) == (2 * (7 * 6 + 6 * 9), 2 * (2 * 7 * 6 + 3 * 6 * 9))


def test_frozen_parameters_are_not_trainable():
    model = chain(nn.Linear(7, 6), nn.Linear(6, 5))
    model[0].requires_grad_(False)
    cost = dnm.count(model, torch.randn(2, 7))
    assert cost.parameters == 7 * 5
    assert cost.training == 2 * 7 * 6 + 2 * (2 * 6 * 5)


def test_no_gradient_is_taken_of_inputs_that_require_one():
    model, inputs = chain(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5)), torch.randn(3, 7)
    expected = dnm.count(model, inputs)
    leaf = inputs.clone().requires_grad_()
    assert dnm.count(model, leaf) == dnm.count(model, leaf * 2) == expected
    assert leaf.grad is None
    frozen = dnm.count(model.requires_grad_(False), leaf)
    assert frozen.training == frozen.forward == expected.forward


def test_a_norm_in_train_mode_and_a_batch_of_one():
    model = chain(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.Linear(6, 5)).train()
    assert dnm.count(model, torch.randn(1, 7)) == dnm.count(model, torch.randn(9, 7))


def test_outputs_without_a_gradient_are_refused():
    model = Calls(lambda layer, inputs: {"class": layer(inputs).argmax(-1)}, nn.Linear(7, 6))
    with pytest.raises(
        dnm.DnmError, match="Calls returns dict without a real tensor that requires a gradient, but has 48"
    ):
        dnm.count(model, torch.randn(3, 7))
    assert dnm.count(model.requires_grad_(False), torch.randn(3, 7)).training == 2 * 7 * 6


# What is left alone


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: {"input": x}])
def test_a_sample_of_any_batch_and_the_model_left_alone(build, photograph, wrap):
    model, inputs = build("conv")
    model(inputs).sum().backward()
    before = photograph(model)
    assert dnm.count(model, wrap(inputs)) == dnm.count(model, wrap(inputs[:3]))
    assert photograph(model) == before


@pytest.mark.parametrize("training", [False, True])
def test_modes_gradients_buffers_and_random_state_are_left_alone(photograph, training):
    def noisy(layer, norm, inputs):
        return norm(layer(functional.dropout(inputs + torch.randn_like(inputs), training=True)))

    model = Calls(noisy, nn.Linear(7, 6), nn.BatchNorm1d(6, momentum=None)).train(training)
    model(torch.randn(4, 7)).sum().backward()
    before, gradients = photograph(model), [parameter.grad for parameter in model.parameters()]
    first = dnm.count(model, torch.zeros(4, 7))
    assert photograph(model) == before
    assert all(old is new.grad for old, new in zip(gradients, model.parameters(), strict=True))
    torch.randn(1)
    assert dnm.count(model, torch.zeros(4, 7)) == first


def test_a_choice_at_random_is_the_same_in_every_count():
    model = Calls(
        lambda layer, inputs: layer(inputs) if torch.rand(()) < 0.5 else layer(layer(inputs)), nn.Linear(7, 7)
    )
    assert len({dnm.count(model, torch.randn(2, 7)) for _ in range(20)}) == 1


def test_inputs_are_left_alone():
    left, right = torch.randn(3, 7), (torch.randn(3, 7), torch.tensor(2.0))
    before = copy.deepcopy((left, right))

    def overwrite(layer, left, right, name):
        assert (left.shape, right[0].shape, right[1].shape, name) == ((1, 7), (1, 7), (), "sum")
        return layer(left.relu_()) + layer(right[0].mul_(right[1].zero_()))

    cost = dnm.count(Calls(overwrite, nn.Linear(7, 6)), {"left": left, "right": right, "name": "sum"})
    assert cost.forward == 2 * 2 * 7 * 6
    torch.testing.assert_close((left, right), before, rtol=0, atol=0)


def test_the_first_sample_is_a_copy_that_keeps_the_batch_dimension():
    batch = torch.arange(6).view(3, 2)
    sample = first_sample((batch, {"mask": batch > 2}, None))
    assert sample[0].tolist() == [[0, 1]]
    assert sample[1]["mask"].tolist() == [[False, False]]
    assert sample[2] is None
    assert sample[0].untyped_storage().nbytes() == 2 * LONG


def test_a_failing_model_leaves_no_mode_behind():
    def fail(inputs):
        raise ValueError("on purpose")

    before = gc.isenabled(), torch.backends.mha.get_fastpath_enabled(), torch.get_rng_state().tolist()
    with torch.no_grad():
        with pytest.raises(ValueError, match="on purpose"):
            dnm.count(Calls(fail), torch.randn(2, 7, generator=torch.Generator()))
        assert not torch.is_grad_enabled()
    assert (gc.isenabled(), torch.backends.mha.get_fastpath_enabled(), torch.get_rng_state().tolist()) == before


def test_the_compiler_is_not_imported():
    program = """
import sys, torch, dnm
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
print(dnm.count(model, torch.randn(2, 3, 8, 8)).training > 0)
print([name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor", "sympy"))])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["True", "[]"]
