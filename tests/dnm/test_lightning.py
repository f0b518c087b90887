"""The callback in the real trainer: it grows, counts as a plain loop does, and resumes exactly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dnm.errors import DnmError
from dnm.events import Event
from dnm.policy import Policy

with warnings.catch_warnings():
    # Deprecations inside of Lightning's own dependencies.
    warnings.simplefilter("ignore")
    pl = pytest.importorskip("lightning.pytorch")
    from dnm.lightning import MorphogenesisCallback

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(160, 2, 6, 6, generator=generator)
    filters = torch.randn(3, 2, 3, 3, generator=generator)
    return TensorDataset(images, nn.functional.conv2d(images, filters).square().mean((2, 3)).argmax(1))


class Classifier(pl.LightningModule):
    def __init__(self, schedule: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.schedule = schedule
        self.network = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(4, 3)
        self.rates: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        self.log("val_loss", nn.functional.cross_entropy(self.network(images), labels))

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        if not self.schedule:
            return optimizer
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Whole(Classifier):
    def __init__(self, schedule: bool = False) -> None:
        super().__init__(schedule)
        self.network.append(nn.Linear(4, 3))
        del self.head


POLICY: dict[str, Any] = {
    "event_times": (0.25, 0.5),
    "enable_aggressive_growth": True,
    "operators": ("Divide", "AddResidual"),
    "theories": ("gradient",),
    "bottleneck_threshold": 0.0,
    "samples_per_parameter": 0.1,
    "multiple": 2,
    "grace": 0.3,
}


def callback(on_event: Callable[[Event], None] = lambda event: None, **changes: Any) -> MorphogenesisCallback:
    images, labels = data()[:32]
    return MorphogenesisCallback(
        "network",
        images,
        lambda out: nn.functional.cross_entropy(out, labels),
        policy=Policy(**{**POLICY, **changes}),
        on_event=on_event,
    )


def trainer(folder: Path, *callbacks: Any, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 4,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 1,
        "default_root_dir": folder,
        "callbacks": list(callbacks),
    }
    return pl.Trainer(**{**settings, **options})


def loader() -> DataLoader:
    return DataLoader(data(), batch_size=16)


def test_it_grows_in_the_trainer(tmp_path: Path) -> None:
    seen: list[Event] = []
    grower, module = callback(seen.append, rollback=False), Whole()
    trainer(tmp_path, grower, enable_checkpointing=False).fit(module, loader(), loader())
    engine = grower.engine
    assert engine is not None and engine.budget.steps == 40
    assert [event.step for event in engine.events] == [10, 20] and engine.journal
    assert [event.step for event in seen] == [10, 20]
    assert module.network[0].out_channels > 4
    assert engine.position == 1.0 and engine._samples == 4 * 160
    # One validation an epoch; the sanity check is none.
    assert [samples for samples, _ in engine.curves["validation"]] == [160, 320, 480, 640]
    trained = {id(p) for group in engine.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in module.parameters()}


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    grower = callback(event_times=())
    run = trainer(tmp_path, grower, enable_checkpointing=False, accumulate_grad_batches=3, max_epochs=1)
    run.fit(Whole(), loader(), loader())
    engine = grower.engine
    # Ten batches are three steps of three and one of one.
    assert engine is not None and engine.budget.steps == 4 and engine._steps == 4 and engine._samples == 160


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_checkpoint_rebuilds_the_network_and_goes_on_exactly(tmp_path: Path, stop: int) -> None:
    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole, first = Whole(), callback()
    trainer(tmp_path, first, keep).fit(whole, loader(), loader())
    assert first.engine is not None and len(first.engine.journal) >= 3
    resumed, second = Whole(), callback()
    path = tmp_path / f"epoch={stop - 1}.ckpt"
    trainer(tmp_path, second, enable_checkpointing=False).fit(resumed, loader(), loader(), ckpt_path=path)
    assert second.engine is not None and second.engine.events == first.engine.events
    ours, theirs = whole.state_dict(), resumed.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_an_event_is_taken_back_after_a_resume(tmp_path: Path) -> None:
    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(tmp_path, callback(), keep, max_epochs=4).fit(Whole(), loader(), loader())
    module, grower = Whole(), callback()

    class Worse(pl.Callback):
        def on_train_batch_start(self, *arguments: Any) -> None:
            assert grower.engine is not None
            grower.engine._bin = torch.tensor(1000.0)

    run = trainer(tmp_path, grower, Worse(), enable_checkpointing=False)
    run.fit(module, loader(), loader(), ckpt_path=tmp_path / "epoch=1.ckpt")
    engine = grower.engine
    assert engine is not None and engine.events[1].status == "taken back" and engine.events[1].entries
    trained = {id(p) for group in engine.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in module.parameters()} == {id(p) for p in engine.optimizers[0].state}


def test_the_learning_rate_rises_again_and_schedulers_never_see_it(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watch(pl.Callback):
        def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
            seen.append(optimizer.param_groups[0]["lr"])

    grower, module = callback(event_times=(0.5,), rewarm=0.2), Whole(schedule=True)
    trainer(tmp_path, grower, Watch(), enable_checkpointing=False).fit(module, loader(), loader())
    scheduled = [0.01 * 0.9**step for step in range(41)]
    assert module.rates == pytest.approx(scheduled[1:])
    # The event is behind step 20; the rate of the next 8 steps is lower while they are taken.
    factors = [rate / expected for rate, expected in zip(seen, scheduled, strict=False)]
    assert factors[:20] == pytest.approx([1.0] * 20)
    assert factors[20:28] == pytest.approx([number / 8 for number in range(8)])
    assert factors[28:] == pytest.approx([1.0] * 12)
    assert grower.engine is not None and not grower.engine.optimizers[0]._optimizer_step_pre_hooks


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    images, labels = data()[:32]
    other = MorphogenesisCallback("body", images, lambda out: nn.functional.cross_entropy(out, labels))
    with pytest.raises(DnmError, match=r"Whole has no submodule 'body', expected one of \['network'\]"):
        trainer(tmp_path, other, enable_checkpointing=False).fit(Whole(), loader(), loader())
    with pytest.raises(DnmError, match="the trainer makes .* steps; give it max_epochs or max_steps"):
        trainer(tmp_path, callback(), enable_checkpointing=False, max_epochs=-1).fit(Whole(), loader(), loader())
    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="plain")
    trainer(tmp_path, keep, max_epochs=1).fit(Whole(), loader(), loader())
    with pytest.raises(DnmError, match="holds no state of"):
        trainer(tmp_path, callback(), enable_checkpointing=False).fit(
            Whole(), loader(), loader(), ckpt_path=tmp_path / "plain.ckpt"
        )
