"""What growing costs beside training, within one run: time, FLOPs and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from dnm import Budget, Morphogenesis, Policy, count, replay
from stages.settings import load
from stages.tasks import image_classification as task

pytestmark = pytest.mark.benchmark

ROOT = Path(__file__).resolve().parents[2]
# As in the workstation row.
CLASSES, BATCH_SIZE, PROBE = 10, 128, 256
# Every look takes its edit: with a budget of steps nothing has a price.
POLICY = Policy(event_times=(0.08, 0.15, 0.22, 0.29, 0.35))
NUM_LOOKS = len(POLICY.event_times)
# Every layer at every event, as in the contest, and about to its sizes.
EVERYWHERE = replace(POLICY, enable_aggressive_growth=True, added_fraction=0.25)
MEMORY_STEPS = 40
# Thirty epochs of CIFAR-10 less a tenth, at 64 images a step.
REAL_STEPS = 30 * 45_000 // 64


def small() -> nn.Sequential:
    """The network that the workstation row starts from."""
    row = load(ROOT / "scales/workstation/params.yaml").image_classification["cifar10"]
    return task.network(row.networks.start, 3, CLASSES, torch.Generator().manual_seed(0))


def resnet() -> nn.Module:
    """torchvision's ResNet-18."""
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=CLASSES)


def problem(num: int = 2048) -> tuple[Tensor, Tensor]:
    """Random images of 3x32x32, and the classes that a random network gives them."""
    images = torch.randn(num, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    teacher = task.network(((8, 8), (16,)), 3, CLASSES, torch.Generator().manual_seed(2))
    with torch.no_grad():
        scores = teacher(images)
    return images.contiguous(memory_format=torch.channels_last), (scores - scores.mean(0)).argmax(1)


def train(
    model: nn.Module, batch_size: int, num_steps: int, policy: Policy | None = POLICY, num_probes: int = PROBE
) -> tuple[Morphogenesis | None, float]:
    """Trains a model, with growth where there is a policy; the engine, and how many seconds it took with all looks."""
    images, labels = problem()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    engine = None
    if policy is not None:
        probe, targets = images[:num_probes], labels[:num_probes]
        engine = Morphogenesis(
            model,
            optimizer,
            probe,
            lambda: nn.functional.cross_entropy(model(probe), targets),
            labels=targets,
            budget=Budget(steps=num_steps),
            policy=policy,
        )
    order = torch.Generator().manual_seed(3)
    model.train()
    start = time.perf_counter()
    for _ in range(num_steps):
        rows = torch.randint(len(images), (batch_size,), generator=order)
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if engine is not None:
            engine.after_step(loss, batch_size)
    return engine, time.perf_counter() - start


def measured(
    model: nn.Module, batch_size: int, num_steps: int, policy: Policy = POLICY, num_probes: int = PROBE
) -> dict[str, float]:
    """What the events of a run take.

    Returns:
        `event` and `step`: seconds that one of them takes; `flops`: of all events; `edits`: in all.
    """
    engine, seconds = train(model, batch_size, num_steps, policy, num_probes)
    assert engine is not None
    assert len(engine.events) == NUM_LOOKS and all(event.entries for event in engine.events)
    looking = sum(engine.seconds)
    return {
        "event": looking / NUM_LOOKS,
        "step": (seconds - looking) / num_steps,
        "flops": engine.flops,
        "edits": len(engine.journal),
    }


def peak(num_steps: int, num_probes: int, journal: list[dict[str, Any]] | None) -> dict[str, Any]:
    """What training the small network takes of this process's memory.

    Args:
        num_steps: of the run.
        num_probes: samples of the probe batch.
        journal: of the edits that the network has from the start, without an engine; None: it grows.

    Returns:
        The most memory before and after, MB, and the journal of what has grown.
    """
    torch.set_num_threads(1)
    before, model = most_memory(), small()
    if journal is None:
        engine, _ = train(model, BATCH_SIZE, num_steps, num_probes=num_probes)
        assert engine is not None
        return {"before": before, "after": most_memory(), "journal": engine.journal}
    train(replay(model, journal), BATCH_SIZE, num_steps, policy=None)
    return {"before": before, "after": most_memory()}


def most_memory() -> float:
    """The most memory that this process has had so far, MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def in_a_process(*arguments: Any) -> dict[str, Any]:
    """`peak` in a process of its own."""
    code = "import json, sys; from tests.benchmarks import test_engine as here; "
    code += "print(json.dumps(here.peak(*json.load(sys.stdin))))"
    given = json.dumps(arguments)
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=given, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture(autouse=True)
def one_thread():
    """Looks are many small operations, which a second thread does not speed up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def say(capsys: pytest.CaptureFixture) -> Callable[[str], None]:
    """Prints a line past the capture."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    return say


def test_time_and_flops(say):
    contests = load(ROOT / "scales/workstation/params.yaml").contest
    model = small()
    found = measured(model, BATCH_SIZE, 1000, EVERYWHERE, BATCH_SIZE)
    cost = BATCH_SIZE * count(model, torch.zeros(1, 3, 32, 32)).training
    steps = found["event"] / found["step"]
    say(
        f"the contest's start network, 128 images of 32x32: an event of {found['edits'] / NUM_LOOKS:g} edits takes "
        f"{found['event']:.2f} s, as long as {steps:.1f} steps"
    )
    shares = {}
    for name, contest in contests.items():
        # The steps that its budget can pay for the grown network: fewer than it takes.
        num_steps = int(1e15 * contest.pflop / cost)
        shares[name] = NUM_LOOKS * steps / (num_steps + NUM_LOOKS * steps), found["flops"] / (1e15 * contest.pflop)
        say(
            f"five of them {shares[name][0]:.2%} of the time and {shares[name][1]:.2%} of the FLOPs of a run of "
            f"{contest.pflop:g} PFLOP, {num_steps:,} steps"
        )
    assert max(max(share) for share in shares.values()) <= 0.02


def test_resnet(say):
    found = measured(resnet(), 64, num_steps=300)
    steps = found["event"] / found["step"]
    share = NUM_LOOKS * steps / (REAL_STEPS + NUM_LOOKS * steps)
    say(
        f"ResNet-18, 64 images of 32x32: an event takes as long as {steps:.1f} steps; five of them {share:.2%} of the "
        f"{REAL_STEPS:,} steps of 30 epochs of CIFAR-10, at most 2%"
    )
    assert share <= 0.02


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc/self/status")
def test_memory(say):
    ratios = {}
    for num_probes in (BATCH_SIZE, PROBE):
        growing = in_a_process(MEMORY_STEPS, num_probes, None)
        assert len(growing["journal"]) == NUM_LOOKS
        grown = in_a_process(MEMORY_STEPS, num_probes, growing["journal"])
        ratios[num_probes] = growing["after"] / grown["after"]
        say(
            f"most memory of a process that trains the small network, {BATCH_SIZE} images a step, with growth by a "
            f"probe batch of {num_probes}: {growing['after']:,.0f} MB; that trains the grown one: "
            f"{grown['after']:,.0f} MB; either before it begins: {grown['before']:,.0f} MB; ratio "
            f"{ratios[num_probes]:.2f}"
        )
    # A look takes the memory of a training step on the probe batch.
    assert ratios[BATCH_SIZE] <= 1.2
