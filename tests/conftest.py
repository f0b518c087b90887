"""What all tests share: a repeatable process, a place for MLflow outside the repository, a tiny row and its data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import environment
from stages.data.settings import Synthetic
from stages.settings import Dnm, Execution, Networks, Row, Training

EXECUTION = Execution(cpu_caps=True, threads=1, device="cpu", precision="float32", keep_records=False)

# The caps count only for libraries that are not imported yet; a plugin may have been faster.
if not {"numpy", "torch"} & set(sys.modules):
    environment.apply(EXECUTION)

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def mlflow_outside_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Sends runs and artifacts of code that logs in passing to a temporary folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path_factory.getbasetemp() / "mlflow"))


@pytest.fixture(scope="session")
def execution() -> Execution:
    """How the tests' trials run."""
    return EXECUTION


@pytest.fixture(scope="session")
def tiny_row() -> Row:
    """A row whose trials take a fraction of a second."""
    return Row(
        documented_row="cifar10",
        protocol="tuned",
        as_documented=False,
        seeds=2,
        data=Synthetic(
            source="synthetic", classes=3, size=8, channels=3, train=120, test=60, difficulty=0.2, seed=1,
            validation=0.2,
        ),
        networks=Networks(baseline=((8,), (12, 12)), start=((4,), (6, 6))),
        training=Training(
            batch_size=16, learning_rate=0.004, optimizer="AdamW", weight_decay=0.05, epochs=3, early_stopping=False,
            patience=20, schedule="trapezoid", warmup=0.05, decay_from=0.4, crop_padding=2, flip=True,
            gradient_clipping=0.0,
        ),
        dnm=Dnm(
            trigger="scheduled", event_times=(0.2, 0.5), max_morphogenesis_events=2, enable_aggressive_growth=False,
            operators=("Divide",), theories=("expressivity", "gradient"), samples_per_parameter=1e-3, caution=0.0,
            grace=0.2, rollback=True, rewarm=0.0, prune_at=0.0, prune_tolerance=0.0, bottleneck_threshold=0.0,
            morphogenesis_patience=2, max_parameters=1.15, max_training_flops=1.15, probe_size=32,
        ),
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_data(tiny_row: Row, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared data of `tiny_row`: 96 training, 24 validation and 60 test images."""
    from stages.data import splits
    from stages.data.registry import load

    path = tmp_path_factory.mktemp("prepared") / "tiny.safetensors"
    splits.save(path, load(tiny_row.data, path.parent))
    return path


@pytest.fixture(scope="session")
def make_job(tiny_row: Row, tiny_data: Path, execution: Execution) -> Callable:
    """Makes jobs on the tiny row: `make_job(arm, seed, settings=..., ...)`."""
    from stages.trial import Job

    def make(arm: str = "baseline", seed: int = 0, *, settings: Row = tiny_row, **options) -> Job:
        return Job(**{
            "row": "tiny", "settings": settings, "execution": execution, "data": str(tiny_data), "arm": arm,
            "seed": seed, "grown": arm == "dnm", **options,
        })  # fmt: skip

    return make
