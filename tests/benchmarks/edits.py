"""How long tracing and editing take, as ratios within one run: against a training step, and against peers.

Every function measures one thing and returns it; `test_edits.py` prints it beside its bar. Compared calls take turns,
so that they share the load of their moment, and medians are compared.
"""

from __future__ import annotations

import copy
import importlib
import statistics
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import dnm
from dnm.cost import Flops, _Counter
from dnm.operators import divide
from dnm.recording import untouched

PEERS = {"torch_pruning": "torch-pruning==1.6.1", "gromo": "gromo==0.1.0"}
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
LAYER = "layer3.2.conv1"


def peer(name: str) -> ModuleType | None:
    """A peer's package; None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def medians(rounds: int, pick=statistics.median, **calls: Callable[[], object]) -> dict[str, float]:
    """Median seconds of the processor that each call takes; they take turns, and a first round is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, function in calls.items():
            start = time.process_time()
            function()
            if number:
                seconds[name].append(time.process_time() - start)
    return {name: pick(values) for name, values in seconds.items()}


def resnet(name: str = "resnet50", size: int = 224, batch: int = 2) -> tuple[nn.Module, Tensor]:
    """A ResNet and images for it."""
    torch.manual_seed(0)
    return getattr(torchvision.models, name)(), torch.randn(batch, 3, size, size)


def trace_and_divide(model: nn.Module, group: str, images: Tensor) -> None:
    """Tracing and one division without the engine's checks, taken back at the end (which costs nothing)."""
    edit = dnm.Divide(group, (0,))
    graph = dnm.trace(model, images)
    divide.carry_out(model, edit, divide.plan(model, graph, edit, images))()


def forward(model: nn.Module, images: Tensor) -> Tensor:
    """One forward pass in eval mode, as the engine runs it."""
    with torch.no_grad(), untouched(model, training=False):
        return model(images)


def against_a_training_step(rounds: int = 3) -> dict[str, float]:
    """ResNet-50, images of 224x224: tracing plus one division, over one SGD step on a batch of 32."""
    model, images = resnet()
    batch, labels = torch.randn(32, 3, 224, 224), torch.randint(1000, (32,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()

    return medians(rounds, step=step, edit=lambda: trace_and_divide(model, LAYER, images))


def checks(batch: int, rounds: int = 3) -> tuple[float, float]:
    """ResNet-50: what the engine's own checks add to tracing and dividing, in forward passes on the example inputs.

    Returns:
        By FLOPs counted, those of tracing and dividing left out; and by time.
    """
    model, images = resnet(batch=batch)
    edit = dnm.Divide(LAYER, (0,))
    flops = []
    for call in (
        partial(forward, model, images),
        partial(trace_and_divide, model, LAYER, images),
        lambda: dnm.apply(model, edit, images).undo(),
    ):
        with Flops() as spent:
            call()
        flops.append(spent.flops)
    seconds = medians(
        rounds,
        forward=partial(forward, model, images),
        bare=partial(trace_and_divide, model, LAYER, images),
        whole=lambda: dnm.apply(model, edit, images).undo(),
    )
    return (flops[2] - flops[1]) / flops[0], (seconds["whole"] - seconds["bare"]) / seconds["forward"]


def against_torch_pruning(rounds: int = 9) -> dict[str, float]:
    """ResNet-50, one image of 224x224: tracing plus one edit of the same layer, by both."""
    pruning = peer("torch_pruning")
    assert pruning is not None
    model, images = resnet(batch=1)
    model.eval()
    theirs = copy.deepcopy(model)

    def prune() -> None:
        graph = pruning.DependencyGraph().build_dependency(theirs, example_inputs=images)
        layer = theirs.get_submodule(LAYER)
        graph.get_pruning_group(layer, pruning.prune_conv_out_channels, idxs=[0]).prune()

    return medians(
        rounds,
        forward=lambda: forward(model, images),
        torch_pruning=prune,
        dnm=lambda: trace_and_divide(model, LAYER, images),
    )


def against_gromo(kind: str, units: int = 8, few: int = 8, rounds: int = 7) -> dict[str, float]:
    """A division with tracing and all checks, and GroMo's growth of the same layer by as many units.

    A division needs a few samples, to be traced and checked; GroMo's statistics need many. For a stricter comparison
    `dnm_same_batch` has all of them. GroMo's step is timed at its cheapest: statistics of one layer from one batch, no
    update of the old weights, and no line search for the size of the new ones.

    Args:
        kind: "mlp" (784 - 256 - 256 - 10, 256 samples) or "cnn" (3 convolutions of 32 and 64 channels with batch norm,
            64 images of
            32x32).
        units: how many units are added.
        few: example inputs of the division.
        rounds: how many medians are taken over.
    """
    assert peer("gromo") is not None
    torch.manual_seed(0)
    if kind == "mlp":
        from gromo.containers.growing_mlp import GrowingMLP

        images, labels = torch.randn(256, 784), torch.randint(10, (256,))
        model: nn.Module = nn.Sequential(
            nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )
        start = GrowingMLP(784, 10, 256, 2, activation=nn.ReLU(), device=torch.device("cpu"))
    else:
        from gromo.containers.vgg import VGG

        images, labels = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
        model = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip
        start = VGG(
            [32, 64, "M", 64], target_cfg=[64, 64, "M", 64], num_classes=10, number_of_fc_layers=1, device="cpu"
        )

    growing: list[nn.Module] = []

    def ready() -> None:
        # Growing changes GroMo's model for good: each round has a copy that was made before.
        growing.append(copy.deepcopy(start))

    def gromo() -> None:
        network = growing.pop()
        layer = network._growable_layers[0]
        layer.init_computation()
        network.zero_grad()
        nn.functional.cross_entropy(network(images), labels, reduction="sum").backward()
        layer.update_computation()
        layer.compute_optimal_updates(maximum_added_neurons=units, compute_delta=False)
        layer.set_scaling_factor(1.0)
        layer.apply_change(extension_size=units)
        layer.delete_update()
        layer.reset_computation()

    edit = dnm.Divide("0", tuple(range(units)))
    return medians(
        rounds,
        ready=ready,
        gromo=gromo,
        dnm=lambda: dnm.apply(model, edit, images[:few]).undo(),
        dnm_same_batch=lambda: dnm.apply(model, edit, images).undo(),
    )


def memory() -> dict[str, int]:
    """Bytes that a division of ResNet-50's widest group makes at most at once, and the bytes of the layers it edits.

    Returns:
        `surgery`: of plan and division; `whole`: of `dnm.apply`, with tracing and checks; `forward`: of a forward pass;
        `edited`: of the tensors that change; `model`: of all tensors.
    """
    model, images = resnet(size=64)
    graph = dnm.trace(model, images)
    group = max((g for g in graph.groups if g.divisible), key=lambda g: sum(m.reads for m in g.members))
    edit = dnm.Divide(group.name, (0,))
    state = model.state_dict()
    return {
        "surgery": _peak(lambda: divide.carry_out(model, edit, divide.plan(model, graph, edit, images))()),
        "whole": _peak(lambda: dnm.apply(model, edit, images).undo()),
        "forward": _peak(lambda: forward(model, images)),
        "edited": sum(state[name].nbytes for name in {member.tensor for member in group.members}),
        "model": sum(tensor.nbytes for tensor in state.values()),
    }


def _peak(function: Callable[[], object]) -> int:
    counter: TorchDispatchMode = _Counter()
    with counter:
        function()
    return counter.peak(())  # pyright: ignore[reportAttributeAccessIssue]


class _Operations(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num += 1
        return func(*args, **(kwargs or {}))


def growth(rounds: int = 5) -> dict[str, tuple[int, float]]:
    """Per ResNet: the operations of a forward pass, and the seconds that tracing takes beyond the pass itself."""
    found = {}
    for name in RESNETS:
        model, images = resnet(name, size=32)
        with _Operations() as operations:
            forward(model, images)
        # The least times: the difference of two medians would show the machine's load.
        calls = {"forward": partial(forward, model, images), "trace": partial(dnm.trace, model, images)}
        seconds = medians(rounds, min, **calls)
        found[name] = operations.num, seconds["trace"] - seconds["forward"]
    return found


def exponent(points: dict[str, tuple[int, float]]) -> float:
    """p in seconds ~ operations^p, by least squares on logarithms."""
    operations, seconds = np.log(np.array(list(points.values()))).T
    return float(np.polyfit(operations, seconds, 1)[0])
