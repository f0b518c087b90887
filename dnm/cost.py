"""Parameters, FLOPs and activation memory: counted, not timed.

Convolutions, matrix products and attention are counted (a multiply-add is two FLOPs); norms, activations and pooling
are not. The formulas are torch's, but for the gradients of convolutions.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor, UntypedStorage, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from dnm.calling import call
from dnm.errors import DnmError


@dataclass(frozen=True)
class Work:
    """What a model has to train and to compute.

    Attributes:
        parameters: number of trainable scalars.
        forward: FLOPs of one forward pass, a sample.
        training: FLOPs of one forward and one backward pass, a sample.
    """

    parameters: int
    forward: int
    training: int


@dataclass(frozen=True)
class Cost(Work):
    """What a model costs.

    Attributes:
        activation_memory: bytes alive at once, at most, during one forward and one backward pass of one sample.
            Counted is every storage that an operation of the two passes makes, whole and once however many views it
            has, from that operation until no tensor and nothing that autograd saved refers to it any more. What an
            operation reads is alive while it runs, and the model's outputs are until the backward pass is over. Not
            counted are storages that no operation of the two passes made (parameters, buffers, inputs), the gradient
            that the backward pass starts from, storages that hold a parameter's `.grad` in the end, from the start of
            their life, and what an operation allocates for itself. Contributions to a parameter's gradient are counted
            until they are summed into it.
    """

    activation_memory: int


class Flops(TorchDispatchMode):
    """Adds up FLOPs over whatever runs in its block, by torch's own formulas.

    `torch.utils.flop_counter.FlopCounterMode` does so too, but its first use imports the compiler, which takes seconds
    in every process; a mode that is not skipped by the compiler does not.

    Attributes:
        flops: counted so far.
    """

    # Operations that are known to have no parts; to ask takes longer than most of them.
    _whole: ClassVar[set[Any]] = {torch.ops.aten.native_batch_norm.default}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __init__(self) -> None:
        # It brings in Triton where there is one, which takes half a second.
        from torch.utils.flop_counter import flop_registry

        super().__init__()
        self._formulas = flop_registry
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        formula = self._formulas.get(func._overloadpacket)
        if formula is None and func not in Flops._whole:
            # Operations arrive whole where the model enters the inference mode itself.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
            Flops._whole.add(func)
        result = self._run(func, args, kwargs)
        if formula is not None:
            flops = _flops(func, formula, args, kwargs, result)
            self.flops += flops
            self._counted(func, args, flops)
        return result

    def _run(self, func, args, kwargs):
        return func(*args, **kwargs)

    def _counted(self, func, args, flops: int) -> None:
        pass


# Which arguments of an operation are factors: the gradient of each takes as many FLOPs as the operation.
FACTORS = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.baddbmm.default: (1, 2),
    torch.ops.aten.convolution.default: (0, 1),
}


class _Ahead(Flops):
    """Counts from a forward pass what the backward pass would take as well.

    Attributes:
        backward: FLOPs of gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backward = 0

    def _counted(self, func, args, flops: int) -> None:
        for place in FACTORS.get(func, ()):
            self.backward += flops * args[place].requires_grad


class Products:
    """Adds up the FLOPs of `product` in its block: for code of many small operations, which `Flops` slows down.

    Attributes:
        flops: counted so far.
    """

    _counting: ClassVar[list[Products]] = []

    def __init__(self) -> None:
        self.flops = 0

    def __enter__(self) -> Products:
        Products._counting.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        Products._counting.remove(self)


def product(first: Tensor, second: Tensor) -> Tensor:
    """A matrix product, shapes `(..., m, k)` and `(..., k, n)`, whose FLOPs are told to those who count."""
    made = first @ second
    for counter in Products._counting:
        counter.flops += 2 * made.numel() * first.shape[-1]
    return made


class _Counter(Flops):
    """Counts the bytes of the storages that operations make and let go as well."""

    def __init__(self) -> None:
        super().__init__()
        # By the address of the storage, which is not given to another one as long as a weak reference is held.
        self._found: dict[int, StorageWeakRef] = {}
        self._alive: dict[int, tuple[StorageWeakRef, int, int]] = {}
        # By how many bytes more are alive after an operation than after the one before it; only of operations that
        # make a storage, since no other one can reach a peak.
        self._changes: list[int] = []

    def _run(self, func, args, kwargs):
        # `torch.tensor` hands over a storage that is as new as one that an operation returns.
        if func is not torch.ops.aten.lift_fresh.default:
            self._find((args, kwargs))
        result = func(*args, **kwargs)
        self._make(result)
        return result

    def _find(self, arguments) -> None:
        for storage in _storages(arguments):
            if storage._cdata not in self._alive and storage._cdata not in self._found:
                self._found[storage._cdata] = StorageWeakRef(storage)

    def _make(self, result) -> None:
        made = {
            storage._cdata: storage
            for storage in _storages(result)
            if storage._cdata not in self._alive and storage._cdata not in self._found
        }
        if not made:
            return
        change = 0
        for address in [address for address, (storage, _, _) in self._alive.items() if storage.expired()]:
            change -= self._alive.pop(address)[2]
        for address, storage in made.items():
            self._alive[address] = StorageWeakRef(storage), len(self._changes), storage.nbytes()
            change += storage.nbytes()
        self._changes.append(change)

    def peak(self, without: Iterable[Tensor]) -> int:
        """Most bytes that were alive at once, storages of the tensors `without` left out from the start of their life.

        They must still be alive: what became of a storage that is gone cannot be told.
        """
        changes = self._changes.copy()
        for address in {storage._cdata for tensor in without for storage in _storages(tensor)}:
            if address in self._alive:
                _, moment, size = self._alive[address]
                changes[moment] -= size
        return max(accumulate(changes), default=0)


def _tensors(value) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, mappings and dataclasses, such as operations and models return."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _tensors([getattr(value, field.name) for field in fields(value)])


def _flops(func, formula, args, kwargs, result) -> int:
    if func is torch.ops.aten.convolution_backward.default:
        # Each gradient takes as many multiply-adds as the forward pass. Torch's formula (2.15) takes the gradient of a
        # grouped convolution's weights for that of a dense one.
        outer, data, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[10]
        from torch.utils.flop_counter import conv_flop_count

        return conv_flop_count(data.shape, weight.shape, outer.shape, transposed) * sum(wanted[:2])
    if func in FACTORS and not kwargs:
        # Torch wraps its formulas to look for tensors in nested arguments, which takes longer than many an operation.
        shapes = [value.shape if isinstance(value, Tensor) else value for value in args]
        return formula.__wrapped__(*shapes, out_shape=result.shape)
    return formula(*args, **kwargs, out_val=result)


def _storages(value) -> Iterator[UntypedStorage]:
    """The storages behind every dense or COO tensor in `value`; not the empty ones, which an `out=` may fill later."""
    for tensor in _tensors(value):
        if tensor.layout is torch.sparse_coo:
            yield from _storages((tensor._indices(), tensor._values()))
        elif tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            if storage.nbytes():
                yield storage


def first_sample(example_inputs: Tensor | tuple | dict):
    """A copy of a batch's first sample, on the CPU, keeping the batch dimension: all that counting needs."""
    if isinstance(example_inputs, dict):
        return {key: first_sample(value) for key, value in example_inputs.items()}
    if isinstance(example_inputs, tuple):
        return tuple(first_sample(value) for value in example_inputs)
    if isinstance(example_inputs, Tensor):
        sample = example_inputs[:1] if example_inputs.dim() else example_inputs
        return sample.detach().to("cpu", copy=True)
    return example_inputs


@contextmanager
def _apart(model: nn.Module) -> Iterator[None]:
    """Hides what is not the model's: gradient mode, autocast, random state, garbage collector, fused layers."""
    collecting, fused = gc.isenabled(), torch.backends.mha.get_fastpath_enabled()
    mkldnn = torch.backends.mkldnn.enabled
    try:
        # Tensors in a reference cycle would be alive until the collector happens to run.
        gc.disable()
        # Frozen attention layers, and LSTMs where oneDNN is there, run as one operation otherwise: torch has no formula
        # for it, and oneDNN's workspace depends on the machine. All else is slow without oneDNN.
        torch.backends.mha.set_fastpath_enabled(False)
        if any(isinstance(module, nn.LSTM) for module in model.modules()):
            torch.backends.mkldnn.enabled = False
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.random.fork_rng(devices=[]),
        ):
            torch.default_generator.manual_seed(0)
            yield
    finally:
        if torch.backends.mkldnn.enabled != mkldnn:
            torch.backends.mkldnn.enabled = mkldnn
        torch.backends.mha.set_fastpath_enabled(fused)
        if collecting:
            gc.enable()


def count(model: nn.Module, example_inputs: Tensor | tuple | dict) -> Cost:
    """Counts the parameters of `model`, and its FLOPs and memory on the first sample of `example_inputs`.

    A copy runs on the CPU in eval mode, so model and inputs are left untouched, whatever mode, device or gradient mode
    is found; dropout masks and batch statistics are not part of the cost. The backward pass is counted as autograd runs
    it, from the sum of all real outputs that require a gradient to the parameters that do; no gradient is taken of the
    inputs. The figures do not depend on the machine, as long as the version of torch is the same.

    Args:
        model: its outputs may be a tensor or tuples, lists, mappings and dataclasses of tensors.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments, batch first.

    Returns:
        The cost. Where every parameter is frozen there is no backward pass: `training` equals `forward`, and
        `activation_memory` is that of the forward pass.

    Raises:
        DnmError: some parameter is not frozen, but no real output requires a gradient.
    """
    with _apart(model):
        # Not on the meta device, whose convolutions import the compiler.
        shadow = copy.deepcopy(model).cpu().eval()
        counter = _Counter()
        work, left_out = _passes(shadow, first_sample(example_inputs), counter)
        left_out += [parameter.grad for parameter in shadow.parameters() if parameter.grad is not None]
        return Cost(work.parameters, work.forward, work.training, counter.peak(left_out))


def count_work(model: nn.Module, example_inputs: Tensor | tuple | dict) -> Work:
    """As `count`, without the memory, in about half the time, and on the model itself.

    Args:
        model: on the CPU, in eval mode; its gradients are cleared.
        example_inputs: as for `count`.

    Raises:
        DnmError: as `count`.
    """
    with _apart(model):
        work, _ = _passes(model, first_sample(example_inputs), Flops())
        model.zero_grad(set_to_none=True)
        return work


def count_ahead(model: nn.Module, example_inputs: Tensor | tuple | dict) -> Work:
    """As `count_work`, but of the backward pass counts what the forward pass tells, in half the time again.

    It is the same where every convolution and matrix product has a part in the outputs and attention is made of such
    products.
    """
    with _apart(model):
        with _Ahead() as counter:
            call(model, first_sample(example_inputs))
        trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
        return Work(sum(trained), counter.flops, counter.flops + counter.backward)


def _passes(model: nn.Module, inputs: Tensor | tuple | dict, counter: Flops) -> tuple[Work, list[Tensor]]:
    """One forward and one backward pass in the counter's sight; and the gradients that the latter began from."""
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    with counter:
        outputs = call(model, inputs)
    forward = counter.flops
    # Summed out of the counter's sight, as no loss is part of the model.
    losses = [tensor.sum() for tensor in _tensors(outputs) if tensor.requires_grad and tensor.is_floating_point()]
    if trained and not losses:
        raise DnmError(
            f"{type(model).__name__} returns {type(outputs).__name__} without a real tensor that requires a "
            f"gradient, but has {sum(trained)} trained parameters; return the tensors that the loss is computed "
            "from, alone or in tuples, lists, mappings and dataclasses, or freeze the parameters"
        )
    begun: list[Tensor] = []
    if losses:
        for loss in losses:
            loss.register_hook(begun.append)
        with counter:
            # Gradients to start from are not passed in: to check their shapes, torch imports sympy.
            torch.autograd.backward(losses)
    return Work(sum(trained), forward, counter.flops), begun
