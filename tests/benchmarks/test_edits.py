"""The bars that tracing and editing must meet, each as a ratio within one run; see `edits.py`."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks import edits

pytestmark = pytest.mark.benchmark


@pytest.fixture(autouse=True)
def one_thread():
    """Processor time is compared, which does not depend on how long a thread waits for another process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def say(capsys: pytest.CaptureFixture):
    """Prints a line past the capture."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    return say


def needs(name: str) -> None:
    """Skips where a peer is not installed."""
    if edits.peer(name) is None:
        pytest.skip(f"{name} is not installed; CONTRIBUTING.md says how ({edits.PEERS[name]})")


def test_against_a_training_step(say):
    seconds = edits.against_a_training_step()
    ratio = seconds["edit"] / seconds["step"]
    say(f"ResNet-50: tracing plus one division is {ratio:.1%} of a training step at batch 32, at most 5%")
    assert ratio <= 0.05


def test_checks(say):
    found = {batch: edits.checks(batch) for batch in (4, 8, 16)}
    said = ", ".join(f"{passes:.2f} at {batch} ({seconds:.2f} timed)" for batch, (passes, seconds) in found.items())
    say(f"ResNet-50: the engine's checks in forward passes on the example inputs: {said}; at most 2 from 8 on")
    assert max(found[8][0], found[16][0]) <= 2.01


def test_against_torch_pruning(say):
    needs("torch_pruning")
    seconds = edits.against_torch_pruning()
    ratio = seconds["dnm"] / seconds["torch_pruning"]
    shares = {name: seconds[name] / seconds["forward"] for name in ("dnm", "torch_pruning")}
    say(
        f"ResNet-50: tracing plus one edit takes {ratio:.2f} of Torch-Pruning's time "
        f"({shares['dnm']:.2f} and {shares['torch_pruning']:.2f} forward passes)"
    )
    assert ratio <= 1.0


@pytest.mark.filterwarnings("ignore:Warning. The input matrix S is not symmetric:UserWarning")
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_against_gromo(kind, say):
    needs("gromo")
    seconds = edits.against_gromo(kind)
    ratios = {name: seconds["gromo"] / seconds[name] for name in ("dnm", "dnm_same_batch")}
    say(
        f"{kind}: a division is {ratios['dnm']:.1f} times faster than one GroMo growth step, at least 10 "
        f"({ratios['dnm_same_batch']:.1f} with all of GroMo's samples as example inputs)"
    )
    assert ratios["dnm"] >= 10.0


def test_memory(say):
    found = edits.memory()
    surgery = found["surgery"] / found["edited"]
    whole = (found["whole"] - found["forward"]) / found["edited"]
    say(
        f"ResNet-50: beside the model an edit holds {surgery:.2f} times the edited layers at most, "
        f"{whole:.2f} with tracing and checks (a forward pass's own tensors not counted); at most 2"
    )
    assert max(surgery, whole) <= 2.0


def test_growth(say):
    points = edits.growth()
    power = edits.exponent(points)
    said = ", ".join(f"{name} {1e6 * seconds / num:.0f}" for name, (num, seconds) in points.items())
    say(f"microseconds of tracing an operation, beyond the forward pass: {said}; time ~ operations^{power:.2f}")
    assert power <= 1.2
