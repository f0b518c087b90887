"""The probe: what it keeps, against torch's own unfold, autograd and per-sample gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from dnm.detect.probe import look
from dnm.errors import DnmError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 5, (3, 1), padding=(2, 0), dilation=(2, 1), padding_mode="reflect"),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(20, 4),
    )


def batch(num: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num, 3, 9, 8, generator=generator), torch.arange(num) % 4


def probe_of(model: nn.Sequential, images: torch.Tensor, labels: torch.Tensor, **options):
    return look(model, lambda: nn.functional.cross_entropy(model(images), labels), **options)


def test_inputs_are_the_patches_that_unfold_makes() -> None:
    model, (images, labels) = network(), batch()
    found = probe_of(model, images, labels, positions=1000)
    patches = nn.functional.unfold(images, 3, padding=1, stride=2).movedim(1, 2)
    assert torch.equal(found.layers["0"].inputs, patches)
    assert found.layers["0"].positions == 20
    model.eval()
    assert torch.equal(found.layers["0"].outputs, model[0](images).flatten(2).movedim(1, 2))
    maps = nn.functional.pad(model[:3](images), (0, 0, 2, 2), mode="reflect")
    # Unfold knows no padding but zeros, so the padded maps are unfolded.
    assert torch.equal(found.layers["3"].inputs, nn.functional.unfold(maps, (3, 1), dilation=(2, 1)).movedim(1, 2))
    assert torch.equal(found.layers["3"].features, model[:3](images).flatten(2).movedim(1, 2))
    assert torch.equal(found.layers["7"].inputs[:, 0], model[:7](images))


def test_a_sampled_position_keeps_its_patch_output_and_gradient_together() -> None:
    model, (images, labels) = network(), batch()
    every = probe_of(model, images, labels, positions=1000)
    some = probe_of(model, images, labels, positions=3, seed=5)
    for path in ("0", "3"):
        layer, whole = some.layers[path], every.layers[path]
        assert layer.inputs.shape[1] == 3 and layer.scale == whole.positions / 3
        drawn = set()
        for sample in range(10):
            for place in range(3):
                same = (whole.inputs[sample] == layer.inputs[sample, place]).all(1)
                index = int(same.nonzero()[0])
                drawn.add((sample, index))
                assert torch.equal(whole.outputs[sample, index], layer.outputs[sample, place])
                torch.testing.assert_close(whole.gradients[sample, index], layer.gradients[sample, place])
        assert len(drawn) == 30, "positions of a sample are drawn without replacement"
        assert len({index for _, index in drawn}) > 3, "each sample has positions of its own"


def test_gradients_are_those_of_each_samples_own_loss() -> None:
    model, (images, labels) = network(), batch()
    found = probe_of(model, images, labels, positions=1000)
    shadow = copy.deepcopy(model).eval()
    parameters = {name: p.detach() for name, p in shadow.named_parameters()}

    def loss(parameters, image, label):
        return nn.functional.cross_entropy(functional_call(shadow, parameters, image[None]), label[None])

    own = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)
    for path in ("0", "3", "7"):
        layer = found.layers[path]
        made = torch.einsum("npo,npi->noi", layer.gradients, layer.inputs)
        torch.testing.assert_close(made, own[f"{path}.weight"].flatten(2), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.gradients[f"{path}.weight"], own[f"{path}.weight"].mean(0))


def test_the_model_is_left_as_found() -> None:
    model, (images, labels) = network().train(), batch()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    probe_of(model, images, labels, positions=2)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())


def test_memory_is_bounded_by_the_setting() -> None:
    model, (images, labels) = network(), batch()
    for limit in (20_000, 40_000, 10**9):
        found = probe_of(model, images, labels, positions=1000, max_bytes=limit)
        kept = sum(4 * t.numel() for x in found.layers.values() for t in (x.inputs, x.outputs, x.gradients))
        assert kept <= limit
    with pytest.raises(DnmError, match="max_bytes is 1000, but one position of each layer takes"):
        probe_of(model, images, labels, max_bytes=1000)


def test_what_cannot_be_looked_at_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(6, 6)
            self.depthwise = nn.Conv1d(6, 6, 3, padding=1, groups=6)
            self.unused = nn.Linear(2, 2)
            self.turned = nn.Linear(6, 6)
            self.dead = nn.Linear(6, 1)
            self.last = nn.Linear(6, 2)

        def forward(self, x):
            x = self.shared(self.shared(x))
            x = self.depthwise(x.movedim(1, 2)).movedim(1, 2)
            x = self.turned(x.transpose(0, 1)).transpose(0, 1)
            self.dead(x)
            return self.last(x.mean(1))

    torch.manual_seed(0)
    model = Odd()
    inputs = torch.randn(4, 5, 6)
    found = look(model, lambda: model(inputs).square().mean())
    assert set(found.layers) == {"last"}
    reasons = dict(found.left_out)
    assert "more than once" in reasons.pop("shared")
    assert "grouped" in reasons.pop("depthwise")
    assert "not called" in reasons.pop("unused")
    assert "(5, 4, 6)" in reasons.pop("turned")
    assert "does not depend" in reasons.pop("dead")
    assert not reasons


def test_bad_losses_are_told() -> None:
    model, (images, labels) = network(), batch()
    with pytest.raises(DnmError, match="expected a finite scalar"):
        look(model, lambda: model(images))
    with pytest.raises(DnmError, match="expected a finite scalar"):
        look(model, lambda: model(images).sum() * float("nan"))
    with pytest.raises(DnmError, match="depends on no trained parameter"):
        look(model, lambda: torch.ones(()))
    with pytest.raises(DnmError, match="no linear or dense convolution"):
        look(nn.ReLU(), lambda: torch.ones(()))
    with pytest.raises(DnmError, match="positions is 0"):
        probe_of(model, images, labels, positions=0)
