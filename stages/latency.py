"""How fast networks answer on this machine, and how much memory a process takes that trains one.

All of it differs from machine to machine and from run to run: nothing deterministic may depend on it.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dnm.operators import branch

if TYPE_CHECKING:
    from stages.data.splits import DataSet
    from stages.trial import Job

BATCH_SIZES = (1, 128)
REPETITIONS = 200
WARM_UPS = 3
# Bounds one batch size; a round that has begun is finished.
SECONDS = 8.0
# Of the largest output; a folded network adds up the same products in another order.
FOLDING_TOLERANCE = 1e-4
NOT_COMPILED = "compilation was not asked for"
TRAINING_STEPS = 5
LONGEST_REASON = 200
# Parameters of glibc's `mallopt` (malloc.h), and the most that the second one takes.
TRIM_THRESHOLD, MMAP_THRESHOLD, LARGEST_KEPT = -1, -3, 2**25
FOLDED = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))


def fold(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose batch norms are part of the convolutions before them.

    A norm is folded where it reads what its convolution returns: both stand in one `nn.Sequential`, one behind the
    other, and nothing is inserted between them. A branch behind the norm reads the same values before and after; a
    branch behind the convolution keeps the norm where it is. Norms without running statistics stay too.
    """
    folded = copy.deepcopy(model).eval()
    for sequence in [module for module in folded.modules() if type(module) is nn.Sequential]:
        kept: list[Any] = []
        for child in sequence:
            wrapper, layer = _unwrapped(child)
            if kept and _belong_together(kept[-1], layer):
                kept[-1] = fuse_conv_bn_eval(kept[-1], layer)
                if wrapper is None:
                    continue
                wrapper.layer = nn.Identity()
            kept.append(child)
        del sequence[:]
        sequence.extend(kept)
    return folded


def _unwrapped(child: nn.Module) -> tuple[branch.Residual | branch.Gated | None, Any]:
    """The layer under the branches that stand behind it, and the innermost of them."""
    wrapper, layer = None, child
    while isinstance(layer, branch.Residual | branch.Gated):
        wrapper, layer = layer, layer.layer
    return wrapper, layer


def _belong_together(before: nn.Module, layer: nn.Module) -> bool:
    return any(
        isinstance(before, convolution) and isinstance(layer, norm) and layer.running_mean is not None
        for convolution, norm in FOLDED
    )


def prepared(model: nn.Module, example: Tensor) -> nn.Module:
    """The network as it is timed: folded, in channels-last memory format.

    Its norms get statistics and weights drawn at random first: those of a network that was never trained, zeros and
    ones, would let a fold that forgets them pass.

    Args:
        model: not changed.
        example: one sample, on the CPU.
    """
    drawn = copy.deepcopy(model).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in drawn.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                for tensor, low, high in (
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.5, 1.5),
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.2, 0.2),
                ):
                    if tensor is not None:
                        tensor.uniform_(low, high, generator=generator)
    folded = fold(drawn).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    noise = torch.randn(example.shape, generator=generator)
    check_folded(drawn, folded, noise)
    return folded


def check_folded(model: nn.Module, folded: nn.Module, images: Tensor) -> None:
    """Fails where two networks do not answer alike, but for rounding; both in eval mode."""
    with torch.inference_mode():
        expected, found = model(images), folded(images)
    difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    assert difference <= FOLDING_TOLERANCE * largest, (
        f"folding batch norms changed the outputs by {difference:.3g}, expected at most {FOLDING_TOLERANCE} of the "
        f"largest, {largest:.3g}"
    )


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    repetitions: int = REPETITIONS,
    warm_ups: int = WARM_UPS,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
    processor_clock: Callable[[], float] = time.process_time,
) -> dict[str, list[tuple[float, float]]]:
    """Times calls in turn, one of each a round: what else the machine does then slows all of them alike.

    The order of a round is drawn anew, or each call would find the caches as one and the same other call left them.

    Args:
        calls: what is timed, by name.
        repetitions: rounds.
        warm_ups: rounds before them that are not timed.
        seconds: after which no round begins, warm-ups included; one is timed in any case.
        clock: seconds.
        processor_clock: seconds that this process was computing, all of its threads together.

    Returns:
        By name, for each call, how many seconds it took by the two clocks.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    order, draw = list(calls), random.Random(0)
    began = clock()
    for _ in range(warm_ups):
        for call in calls.values():
            call()
    for number in range(repetitions):
        if number and clock() - began >= seconds:
            break
        draw.shuffle(order)
        for name in order:
            computed, started = processor_clock(), clock()
            calls[name]()
            took = clock() - started
            times[name].append((took, processor_clock() - computed))
    return times


def summary(times: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Figures of what `interleaved` gave of one call, in ms: see `latencies`."""
    took = [1000.0 * seconds for seconds, _ in times]
    low, median, high = statistics.quantiles(took, n=4, method="inclusive") if len(took) > 1 else took * 3
    return {
        "median_ms": median,
        "low_ms": low,
        "high_ms": high,
        "processor_ms": 1000.0 * statistics.median(computed for _, computed in times),
        "repetitions": len(times),
    }


def latencies(
    networks: Mapping[str, nn.Module],
    example: Tensor,
    *,
    threads: int,
    device: str = "cpu",
    compiled: bool = False,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    repetitions: int = REPETITIONS,
    warm_ups: int = WARM_UPS,
    seconds: float = SECONDS,
    compiler: Callable[..., Any] = torch.compile,
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Times networks in eval and inference mode, in float32, batch norms folded, as they are and compiled.

    Args:
        networks: by name; not changed.
        example: one sample, `1 x channels x height x width`, on the CPU; they are timed on noise of its shape.
        threads: of torch.
        device: where they are timed.
        compiled: whether they are compiled too, which takes long.
        batch_sizes: samples at once.
        repetitions: see `interleaved`.
        warm_ups: likewise.
        seconds: likewise, for one batch size and mode; compilation comes on top.
        compiler: compiles a function.

    Returns:
        By mode (`eager`, `compiled`), batch size and name: `median_ms`, with `low_ms` and `high_ms`, the quartiles;
        `processor_ms`, the median of the processor's time, in which waiting for other processes is not; and
        `repetitions`. Or the `reason` why there are none.
    """
    bounds = {"repetitions": repetitions, "warm_ups": warm_ups, "seconds": seconds}
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {"eager": {}, "compiled": {}}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        ready = {name: prepared(model, example).to(device) for name, model in networks.items()}
        generator = torch.Generator().manual_seed(0)
        for batch_size in batch_sizes:
            noise = torch.randn((batch_size, *example.shape[1:]), generator=generator)
            images = noise.to(device, memory_format=torch.channels_last)
            with torch.inference_mode():
                times = interleaved({name: _call(model, images) for name, model in ready.items()}, **bounds)
                found["eager"][str(batch_size)] = {name: summary(values) for name, values in times.items()}
                found["compiled"][str(batch_size)] = (
                    _compiled(ready, images, compiler, bounds)
                    if compiled
                    else {name: {"reason": NOT_COMPILED} for name in ready}
                )
    finally:
        torch.set_num_threads(before)
    return found


def keep_freed_memory() -> None:
    """Makes this process keep memory that it frees, where its allocator is glibc's.

    By default, what large tensors leave at the heap's end goes back to the system and is asked for again, page by page,
    in the next pass or not, as the heap happens to lie: networks took up to two thirds longer in some processes.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(TRIM_THRESHOLD, 2**30)
        allocator.mallopt(MMAP_THRESHOLD, LARGEST_KEPT)


def _compiled(
    networks: Mapping[str, nn.Module], images: Tensor, compiler: Callable[..., Any], bounds: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    calls = {}
    for number, (name, model) in enumerate(networks.items()):
        try:
            # In one piece: parts that are left uncompiled would be timed as if they were not.
            function = compiler(_own_code(model, number), fullgraph=True, dynamic=False)
            function(images)
            calls[name] = _call(function, images)
        except Exception as error:
            # Whatever a compiler raises, it is the reason for a missing figure, and no reason to end.
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            found[name] = {"reason": f"{type(error).__name__}: {first}"[:LONGEST_REASON]}
    times = interleaved(calls, **bounds) if calls else {}
    return {name: found.get(name) or summary(times[name]) for name in networks}


def _own_code(model: nn.Module, number: int) -> Callable[[Tensor], Any]:
    """A function that calls the network, with a code object of its own.

    Torch keeps what it compiled by code object and tries one after the other: with one for all networks, those that
    were compiled last would pay for the others, and beyond eight there are no more.
    """

    def forward(images: Tensor) -> Any:
        return model(images)

    forward.__code__ = forward.__code__.replace(co_name=f"forward_{number}")
    return forward


def _call(function: Callable[[Tensor], Any], images: Tensor) -> Callable[[], None]:
    def call() -> None:
        function(images)
        if images.is_cuda:
            torch.cuda.synchronize()

    return call


def peak_memory(job: tuple[Job, DataSet]) -> dict[str, float]:
    """Trains a trial's network for a few steps on noise; for a fresh process (`stages.trials.run`).

    Args:
        job: the trial, and a data set of the right shape, whose images are not read.

    Returns:
        `peak_mib`, the most memory that was resident, in MiB, and `before_mib`, the same before the first step, which
        is Python, torch and the network; on a GPU also `device_peak_mib`, the most that torch had allocated there.
    """
    from stages import trial
    from stages.tasks import image_classification as task
    from stages.training import Length, train

    what, data = job
    trial.settle(what.execution)
    settings, device = what.settings.training, what.execution.device
    generator = torch.Generator().manual_seed(what.seed)
    size, classes = (settings.batch_size, *data.train.images.shape[1:]), len(data.class_names)
    images = torch.randint(256, size, dtype=torch.uint8, generator=generator).numpy()
    labels = torch.randint(classes, (settings.batch_size,), generator=generator).numpy()
    channels = size[-1]
    split = task.Split.of(images, labels, settings.crop_padding, [127.5] * channels, [64.0] * channels, device)
    plain = task.Split.of(images, labels, 0, [127.5] * channels, [64.0] * channels, device)
    model = trial.model_of(what, data).to(device)
    # Brings in the kernels, which is not the network's.
    task.evaluate(model, plain, 1)
    before = peak_resident()
    train(
        model, split, plain, settings, seed=what.seed, length=Length(steps=TRAINING_STEPS),
        precision=what.execution.precision,
    )  # fmt: skip
    found = {"before_mib": before, "peak_mib": peak_resident()}
    if device == "cuda":
        found["device_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def peak_resident() -> float:
    """The most memory that this process had resident so far, in MiB."""
    # The kernel hands `ru_maxrss` of a parent on to what it starts; this counts from the process's own beginning.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
