"""Growth inside Lightning's trainer; needs the extra `dnm[lightning]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

try:
    import lightning.pytorch as pl
    from lightning.pytorch.utilities.data import extract_batch_size
except ImportError as error:
    raise ImportError(
        f'dnm.lightning needs Lightning ({error}); install it with: pip install "dnm[lightning]"'
    ) from error

from dnm.calling import call
from dnm.errors import DnmError
from dnm.events import Event
from dnm.morphogenesis import Morphogenesis
from dnm.policy import Budget, Policy


class MorphogenesisCallback(pl.Callback):
    """Grows a part of a LightningModule while the trainer trains it.

    Checkpoints of the trainer hold all of it: `trainer.fit(module, ckpt_path=...)` with the start network rebuilds the
    grown one and goes on bit for bit.

    Args:
        module: name of the LightningModule's attribute that is to grow; it holds the layers, not the training.
        inputs: a probe batch for that attribute, 128 to 512 samples, on the CPU.
        loss: computes the loss from what the attribute makes of the probe batch, as a mean over samples.
        policy: when to look and what may be done.
        budget: of the run; None takes the steps that the trainer is going to make.
        labels: classes of the probe's samples, shape `(num_samples,)`, for figures that need them.
        monitor: name under which the module logs its validation loss.
        on_event: called with every look at the network, and with an event again when it is taken back.

    Attributes:
        engine: the engine, once training has begun.
    """

    def __init__(
        self,
        module: str,
        inputs: Tensor | tuple | dict,
        loss: Callable[[Any], Tensor],
        *,
        policy: Policy | None = None,
        budget: Budget | None = None,
        labels: Tensor | None = None,
        monitor: str = "val_loss",
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self.engine: Morphogenesis | None = None
        self._module, self._inputs, self._loss, self._labels = module, inputs, loss, labels
        self._policy, self._budget, self._monitor, self._on_event = policy, budget, monitor, on_event
        self._names: list[list[list[str]]] | None = None
        self._samples = self._step = 0
        self._hooks: list[RemovableHandle] = []

    @property
    def state_key(self) -> str:
        """Several parts of a module may grow, each with a callback of its own."""
        return f"dnm.MorphogenesisCallback({self._module})"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Sees to it that a checkpoint finds the shapes that it was made with.

        Raises:
            DnmError: there is no such attribute, or the trainer runs several processes.
        """
        if stage != "fit":
            return
        if trainer.world_size != 1:
            raise DnmError(f"the trainer runs {trainer.world_size} processes; growth needs one: Trainer(devices=1)")
        model = getattr(pl_module, self._module, None)
        if not isinstance(model, nn.Module):
            raise DnmError(
                f"{type(pl_module).__name__} has no submodule {self._module!r}, expected one of "
                f"{[name for name, _ in pl_module.named_children()]}"
            )
        # The trainer loads the weights before it gives callbacks their state. Its only earlier word of the checkpoint
        # goes to this hook of the module.
        own = pl_module.on_load_checkpoint

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            self._rebuild(model, checkpoint.get("callbacks", {}))
            own(checkpoint)

        pl_module.on_load_checkpoint = on_load_checkpoint

    def _rebuild(self, model: nn.Module, states: Mapping[str, Any]) -> None:
        if self.state_key not in states:
            raise DnmError(
                f"the checkpoint holds no state of {self.state_key}, only of {sorted(states)}; it was not written by a "
                "run with this callback"
            )
        state = states[self.state_key]
        self.engine = self._make(model, [], Budget(**state["engine"]["settings"]["budget"]))
        self.engine.load_state_dict(state["engine"])
        self._names, (self._samples, self._step) = state["names"], state["counts"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Makes the engine, or gives the one of a checkpoint its optimizers."""
        # What `setup` has put over the class's own.
        vars(pl_module).pop("on_load_checkpoint", None)
        optimizers = [getattr(item, "optimizer", item) for item in trainer.optimizers]
        model = getattr(pl_module, self._module)
        if self.engine is None:
            total = trainer.estimated_stepping_batches
            if self._budget is None and not isinstance(total, int):
                raise DnmError(f"the trainer makes {total} steps; give it max_epochs or max_steps, or give a budget")
            self.engine = self._make(model, optimizers, self._budget or Budget(steps=int(total)))
        elif self._names is not None:
            _arrange(optimizers, model, self._names)
        self.engine.optimizers = optimizers
        # The engine and the loss see the same batch.
        self._inputs = trainer.strategy.batch_to_device(self._inputs)
        self.engine.inputs = self._inputs
        if self.engine.policy.rewarm:
            for optimizer in optimizers:
                self._rewarm(optimizer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tells the engine of a step: of the last batch, where gradients of several are accumulated."""
        assert self.engine is not None
        self._samples += extract_batch_size(batch)
        if trainer.global_step == self._step:
            return
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        samples, self._samples, self._step = self._samples, 0, trainer.global_step
        # Lightning has divided it by the number of batches.
        self._say(self.engine.after_step(loss * trainer.accumulate_grad_batches, samples))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells the engine of a validation loss."""
        if trainer.sanity_checking or self.engine is None or self._monitor not in trainer.callback_metrics:
            return
        self._say(self.engine.after_epoch(float(trainer.callback_metrics[self._monitor])))

    def _say(self, event: Event | None) -> None:
        if event is not None:
            self._on_event(event)

    def state_dict(self) -> dict[str, Any]:
        """The engine's, and the order of parameters in the optimizers, which edits change."""
        if self.engine is None:
            return {}
        return {
            "engine": self.engine.state_dict(),
            "names": [_names(optimizer, self.engine.model) for optimizer in self.engine.optimizers],
            "counts": [self._samples, self._step],
        }

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes its hooks off the optimizers."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _make(self, model: nn.Module, optimizers: list[Optimizer], budget: Budget) -> Morphogenesis:
        return Morphogenesis(
            model,
            optimizers,
            self._inputs,
            lambda: self._loss(call(model, self._inputs)),
            budget=budget,
            policy=self._policy,
            labels=self._labels,
        )

    def _rewarm(self, optimizer: Optimizer) -> None:
        """Lowers the learning rate while a step is taken, and only then: schedulers go on from what they have set."""
        rates: list[float] = []

        def lower(*unused: Any) -> None:
            assert self.engine is not None
            rates[:] = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * self.engine.learning_rate_factor()

        def put_back(*unused: Any) -> None:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

        self._hooks += [optimizer.register_step_pre_hook(lower), optimizer.register_step_post_hook(put_back)]


def _names(optimizer: Optimizer, model: nn.Module) -> list[list[str]]:
    """The model's parameters in the optimizer's groups; others, which no edit moves, have no name here."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[known.get(id(item), "") for item in group["params"]] for group in optimizer.param_groups]


def _arrange(optimizers: list[Optimizer], model: nn.Module, names: list[list[list[str]]]) -> None:
    """Puts parameters into the groups and the order in which a checkpoint has their state.

    A new optimizer has them in the model's order, an optimizer whose model grew has those of inserted layers last.

    Raises:
        DnmError: an optimizer has other parameters.
    """
    by_name = dict(model.named_parameters())
    for number, (optimizer, groups) in enumerate(zip(optimizers, names, strict=True)):
        own = {id(parameter) for parameter in by_name.values()}
        for group, wanted in zip(optimizer.param_groups, groups, strict=True):
            others = iter([item for item in group["params"] if id(item) not in own])
            group["params"] = [by_name[name] if name else next(others) for name in wanted]
        found = sorted(name for group in _names(optimizer, model) for name in group)
        if found != sorted(name for group in groups for name in group):
            raise DnmError(
                f"optimizer {number} does not train the parameters that it had in the checkpoint; configure_optimizers "
                "must be that of the run that wrote it"
            )
