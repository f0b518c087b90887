"""The network of resnet18_cifar10.py, grown in Lightning's trainer.

    python lightning_cifar10.py --data FOLDER --download
    python lightning_cifar10.py --data FOLDER --epochs 2 --batches 20      a trial run

Lightning's own checkpoints hold the growth too: trainer.fit(module, ..., ckpt_path=...) with the start network goes on
where they were written. Needs Lightning and torchvision.
"""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from resnet18_cifar10 import LEARNING_RATE, POLICY, arguments, loaders, resnet18, tell
from torch import Tensor
from torch.nn.functional import cross_entropy

from dnm.lightning import MorphogenesisCallback


class Classifier(pl.LightningModule):
    """Nothing in it knows of growth."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.network = resnet18(num_classes, width)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        return cross_entropy(self.network(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, labels = batch
        outputs = self.network(images)
        self.log("val_loss", cross_entropy(outputs, labels))
        self.log("val_accuracy", (outputs.argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters())
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=total)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def main() -> None:
    options = arguments()
    training, validation, _, num_classes = loaders(options.data, options.download)
    pl.seed_everything(0)
    images, labels = next(iter(training))
    growth = MorphogenesisCallback(
        "network", images, lambda outputs: cross_entropy(outputs, labels.to(outputs.device)), policy=POLICY
    )
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        limit_train_batches=options.batches,
        limit_val_batches=options.batches,
        default_root_dir=options.output,
        logger=False,
        callbacks=[growth],
    )
    module = Classifier(num_classes, options.width)
    trainer.fit(module, training, validation)
    assert growth.engine is not None
    for event in growth.engine.events:
        tell(event)
    print({name: round(float(value), 4) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
