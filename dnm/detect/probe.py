"""What one forward and one backward pass on a probe batch leave behind for every theory: sampled, bounded in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dnm import layers
from dnm.errors import DnmError
from dnm.recording import untouched

BYTES = 4


@dataclass(frozen=True)
class LayerProbe:
    """What passed one layer at sampled positions, float32, on the layer's device.

    Attributes:
        inputs: what the layer weighs at a position, shape `(num_samples, num_sampled, num_inputs)`: the features of a
            linear layer, the patch of a convolution, channel by channel.
        outputs: what it makes of them, shape `(num_samples, num_sampled, num_outputs)`.
        gradients: of each sample's own loss with respect to `outputs`, same shape.
        centre: which of `inputs` are the features at the position itself, shape `(num_features,)`: all of a linear
            layer's, the middle of a patch.
        positions: number of positions of a sample, of which `num_sampled` were drawn without replacement.
        bias: whether the layer adds one.
    """

    inputs: Tensor
    outputs: Tensor
    gradients: Tensor
    centre: Tensor
    positions: int
    bias: bool

    @property
    def features(self) -> Tensor:
        """The layer's input at the sampled positions, shape `(num_samples, num_sampled, num_features)`."""
        return self.inputs[:, :, self.centre]

    @property
    def scale(self) -> float:
        """What a sum over the sampled positions is multiplied with to estimate one over all of them."""
        return self.positions / self.inputs.shape[1]


@dataclass(frozen=True)
class Probe:
    """A network seen on a probe batch.

    Attributes:
        layers: by path, in the order in which the data passes them.
        gradients: of the loss with respect to every trained parameter that it depends on, by name.
        loss: mean over samples.
        num_samples: in the batch.
        left_out: paths of layers that carry weights and are not in `layers`, and why.
    """

    layers: Mapping[str, LayerProbe]
    gradients: Mapping[str, Tensor]
    loss: float
    num_samples: int
    left_out: Mapping[str, str]


def look(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    positions: int = 8,
    max_bytes: int = 256 * 2**20,
    seed: int = 0,
) -> Probe:
    """Runs one forward and one backward pass and keeps what the theories need of it.

    Args:
        model: looked at in eval mode; its gradients, buffers, mode and random state are left as found.
        loss: computes the loss on the probe batch with `model`, as a mean over samples; the first dimension of every
            layer's input is the sample.
        positions: positions of a sample that are kept of each layer, at most.
        max_bytes: what is kept of all layers together is never more than this; fewer positions are kept where it
            would be. What the two passes themselves take is that of a training step.
        seed: of the positions.

    Returns:
        What was seen. Linear and dense convolution layers are looked at; transposed and grouped convolutions are not.

    Raises:
        DnmError: the loss is no finite scalar or depends on no trained parameter, no layer can be looked at, or
            `max_bytes` does not even hold one position.
    """
    if positions < 1:
        raise DnmError(f"positions is {positions}, expected at least 1")
    recorder = _Recorder(model, positions, max_bytes, seed)
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    try:
        with untouched(model, training=False), torch.enable_grad():
            value = loss()
            if value.dim() or not math.isfinite(value.item()):
                raise DnmError(
                    f"the probe loss is {value.detach().tolist()!r}, expected a finite scalar: a mean over samples"
                )
            if not names or not value.requires_grad:
                raise DnmError(
                    "the probe loss depends on no trained parameter; expected loss(model(inputs), targets) of the "
                    "model that is looked at, with gradients enabled"
                )
            found = torch.autograd.grad(value, list(names.values()), allow_unused=True)
    finally:
        recorder.remove()
    gradients = {
        name: gradient.detach() for name, gradient in zip(names, found, strict=True) if gradient is not None
    }  # fmt: skip
    return Probe(recorder.probes(), gradients, value.item(), recorder.num_samples, recorder.left_out)


class _Recorder:
    """Hooks on every layer that can be looked at; they keep samples of what passes, not what passes."""

    def __init__(self, model: nn.Module, positions: int, max_bytes: int, seed: int) -> None:
        self.num_samples = 0
        self.left_out: dict[str, str] = {}
        self._positions, self._max_bytes = positions, max_bytes
        self._seen: dict[str, tuple[Tensor, Tensor, int]] = {}
        self._gradients: dict[str, Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._hooks: list[Any] = []
        self._modules: dict[str, nn.Module] = {}
        for path, module in model.named_modules():
            reason = _refusal(module)
            if reason is None:
                self._modules[path] = module
                self._hooks.append(module.register_forward_hook(self._hook(path)))
            elif reason:
                self.left_out[path] = reason
        if not self._modules:
            raise DnmError(
                f"{type(model).__name__} holds no linear or dense convolution layer; there is nothing to look at"
            )
        sizes = [_width(module) for module in self._modules.values()]
        self._bytes_per_position = BYTES * sum(num_inputs + 2 * num_outputs for num_inputs, num_outputs in sizes)

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def probes(self) -> dict[str, LayerProbe]:
        found = {}
        for path, module in self._modules.items():
            if path not in self._seen:
                self.left_out.setdefault(path, "it is not called where gradients are recorded")
            elif path not in self._gradients:
                self.left_out.setdefault(path, "the loss does not depend on it")
            else:
                inputs, outputs, positions = self._seen[path]
                # A mean over samples leaves 1/num_samples of each sample's own gradient.
                gradients = self._gradients[path] * self.num_samples
                centre = _centre(module).to(inputs.device)
                bias = getattr(module, "bias", None) is not None
                found[path] = LayerProbe(inputs, outputs, gradients, centre, positions, bias)
        if not found:
            raise DnmError(
                "no layer was seen in the probe's forward and backward pass; expected a loss that calls the model. "
                f"Left out: {self.left_out}"
            )
        # In the order of the data, not of the model's attributes.
        return {path: found[path] for path in self._seen if path in found}

    def _hook(self, path: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            reason = self._unfit(path, module, args, output)
            if reason is not None:
                self.left_out[path] = reason
                self._seen.pop(path, None)
            if path in self.left_out or not output.requires_grad:
                return
            which, total = self._draw(module, output)
            with torch.no_grad():
                self._seen[path] = _gather_inputs(module, args[0], output, which), _gather(module, output, which), total

            def keep(gradient: Tensor) -> None:
                self._gradients[path] = _gather(module, gradient, which)

            output.register_hook(keep)

        return hook

    def _unfit(self, path: str, module: nn.Module, args: tuple, output: Tensor) -> str | None:
        """Why what passes a layer is not kept."""
        if path in self._seen:
            return "it is called more than once, for different maps"
        if not args or not isinstance(args[0], Tensor):
            return "its input is a keyword argument, expected a positional one"
        data = args[0]
        self.num_samples = self.num_samples or len(data)
        batched = data.dim() >= 2 if isinstance(module, nn.Linear) else data.dim() == output.dim() == _rank(module)
        if len(data) != self.num_samples or not batched:
            return (
                f"its input has shape {tuple(data.shape)}; expected samples in the first dimension, {self.num_samples} "
                "as in the first layer"
            )
        return None

    def _draw(self, module: nn.Module, output: Tensor) -> tuple[Tensor, int]:
        """Positions of each sample, flat, shape `(num_samples, num_sampled)`, and how many there are."""
        channels = output.shape[-1 if isinstance(module, nn.Linear) else 1]
        total = output[0].numel() // channels
        budget = self._max_bytes // (self._bytes_per_position * len(output))
        num = min(self._positions, total, budget)
        if num < 1:
            raise DnmError(
                f"max_bytes is {self._max_bytes}, but one position of each layer takes "
                f"{self._bytes_per_position * len(output)} bytes for {len(output)} samples; raise it or make the probe "
                "batch smaller"
            )
        if num == total:
            which = torch.arange(total).expand(len(output), total)
        else:
            # Each sample has positions of its own, so that the mean over samples covers the whole map.
            which = torch.rand(len(output), total, generator=self._generator).argsort(dim=1)[:, :num]
        return which.to(output.device), total


def _refusal(module: nn.Module) -> str | None:
    """Why a layer is not looked at; None where it is, empty where it is no layer of this kind."""
    if isinstance(module, nn.Linear):
        return None
    if isinstance(module, _ConvTransposeNd):
        return "transposed convolutions are not looked at"
    if isinstance(module, _ConvNd):
        return None if module.groups == 1 else "grouped convolutions are not looked at"
    return ""


def _rank(module: nn.Module) -> int:
    """Dimensions of a convolution's batch."""
    return module.weight.dim() if isinstance(module, _ConvNd) else 0


def _width(module: nn.Module) -> tuple[int, int]:
    """Numbers of inputs and outputs at a position."""
    weight = layers.get(module, "weight")
    return weight[0].numel(), weight.shape[0]


def _centre(module: nn.Module) -> Tensor:
    num_inputs, _ = _width(module)
    if not isinstance(module, _ConvNd):
        return torch.arange(num_inputs)
    kernel = module.kernel_size
    offset = 0
    for extent in kernel:
        offset = offset * extent + extent // 2
    return torch.arange(0, num_inputs, math.prod(kernel)) + offset


def _gather(module: nn.Module, maps: Tensor, which: Tensor) -> Tensor:
    """The channels at positions of a layer's output, or of its gradient."""
    maps = maps.detach()
    if isinstance(module, nn.Linear):
        flat = maps.reshape(len(maps), -1, maps.shape[-1])
    else:
        flat = maps.flatten(2).movedim(1, 2)
    return flat[torch.arange(len(maps), device=maps.device)[:, None], which].float()


def _gather_inputs(module: nn.Module, data: Tensor, output: Tensor, which: Tensor) -> Tensor:
    """What a layer weighs at positions of its output."""
    if not isinstance(module, _ConvNd):
        return _gather(module, data, which)
    num_dimensions = len(module.kernel_size)
    padding = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = nn.functional.pad(data.detach(), padding, mode=mode)
    position, places = which, []
    for extent in reversed(output.shape[2:]):
        places.append(position % extent)
        position = position // extent
    index: list[Tensor] = []
    for dimension, place in enumerate(reversed(places)):
        offsets = torch.arange(module.kernel_size[dimension], device=data.device) * module.dilation[dimension]
        shape = [1] * num_dimensions
        shape[dimension] = -1
        corner = (place * module.stride[dimension]).reshape(*which.shape, *[1] * num_dimensions)
        index.append(corner + offsets.reshape(1, 1, *shape))
    samples = torch.arange(len(data), device=data.device).reshape(-1, 1, *[1] * num_dimensions)
    # Channels last while indexing, then channel by channel as the weight has them.
    patches = padded.movedim(1, -1)[(samples, *index)]
    return patches.movedim(-1, 2).flatten(2).float()
