"""A narrow ResNet-18 that grows while it learns CIFAR-10, in a plain training loop.

    python resnet18_cifar10.py --data FOLDER --download
    python resnet18_cifar10.py --data FOLDER --epochs 2 --batches 20      a trial run

FOLDER holds CIFAR-10 as torchvision keeps it, or images of 32x32 pixels of your own: train/<class>/ and test/<class>/.
With --checkpoint FILE the state is saved after each epoch, and the same command goes on from there, on a CPU to the
same bits. Needs torchvision, and matplotlib for the timeline.
"""

from __future__ import annotations

import argparse
import os
import sys
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision.models.resnet import BasicBlock
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor

from dnm import Budget, Morphogenesis, Policy
from dnm.events import Event
from dnm.timeline import timeline

BATCH_SIZE, LEARNING_RATE = 128, 0.002
POLICY = Policy(
    event_times=(0.08, 0.15, 0.22, 0.29, 0.35),  # fractions of the run
    grace=0.05,  # after which an event is judged
    samples_per_parameter=3.0,  # still to come, below which growing does not pay
    enable_aggressive_growth=True,  # up to eight edits an event, which add half of what they divide
    bottleneck_threshold=0.002,  # grow for a predicted drop of the loss by 0.2%
    max_parameters=4_000_000,
    rewarm=0.01,  # after an event the learning rate rises from 0 again, over 1% of the run
)


def resnet18(num_classes: int, width: int) -> nn.Sequential:
    """ResNet-18 for 32x32 pixels, of torchvision's blocks: a 3x3 stem, no max pooling, `width` instead of 64."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    before = width
    for after, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        layers += [BasicBlock(before, after, stride, shortcut if stride > 1 else None), BasicBlock(after, after)]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes))


def loaders(folder: Path, download: bool) -> tuple[DataLoader, DataLoader, DataLoader, int]:
    """Loaders of training, validation (a tenth of the training images) and test split; the number of classes."""
    plain = Compose([ToTensor(), Normalize((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))])
    varied = Compose([RandomCrop(32, padding=4), RandomHorizontalFlip(), plain])

    def images(train: bool, transform: Compose) -> datasets.ImageFolder | datasets.CIFAR10:
        if (folder / "train").is_dir():
            return datasets.ImageFolder(str(folder / ("train" if train else "test")), transform)
        return datasets.CIFAR10(folder, train, transform, download=download)

    try:
        training, unvaried, test = images(True, varied), images(True, plain), images(False, plain)
    except (RuntimeError, OSError) as error:
        expected = "expected CIFAR-10, which --download fetches, or train/<class>/ and test/<class>/"
        sys.exit(f"{folder}: no images found ({error}); {expected}")
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0)).tolist()
    workers, num = min(4, (os.cpu_count() or 1) - 1), len(order) // 10
    return (
        DataLoader(Subset(training, order[num:]), BATCH_SIZE, shuffle=True, drop_last=True, num_workers=workers),
        DataLoader(Subset(unvaried, order[:num]), BATCH_SIZE, num_workers=workers),
        DataLoader(test, BATCH_SIZE, num_workers=workers),
        len(training.classes),
    )


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader, num_batches: int | None, device: str) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy."""
    model.eval()
    loss = correct = num = 0.0
    for images, labels in islice(loader, num_batches):
        outputs, labels = model(images.to(device)), labels.to(device)
        loss += cross_entropy(outputs, labels, reduction="sum").item()
        correct += (outputs.argmax(1) == labels).sum().item()
        num += len(labels)
    return loss / num, correct / num


def tell(event: Event | None) -> None:
    """Prints an event in one line: when it has happened, and once more if it was taken back."""
    if event is not None:
        edits = ", ".join(f"{row.operator} {row.place}" for row in event.rows if row.taken) or "no edit"
        size = f"{event.before.parameters:,} -> {event.after.parameters:,} parameters"
        print(f"event at step {event.step}: {edits}; {size}; {event.status}: {event.reason}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--download", action="store_true", help="fetch CIFAR-10 (170 MB) into the folder")
    parser.add_argument("--width", type=int, default=16, help="channels to start from; 64 is torchvision's ResNet-18")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batches", type=int, metavar="N", help="stop each epoch after N batches")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="save after each epoch, and go on from there")
    parser.add_argument("--output", type=Path, default=Path(), metavar="FOLDER", help="for timeline.svg")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    training, validation, test, num_classes = loaders(options.data, options.download)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = resnet18(num_classes, options.width).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    probe, targets = (tensor.to(device) for tensor in next(iter(training)))
    budget = Budget(steps=options.epochs * min(options.batches or len(training), len(training)))
    engine = Morphogenesis(
        model,
        optimizer,
        probe,
        lambda: cross_entropy(model(probe), targets),
        labels=targets,
        budget=budget,
        policy=POLICY,
    )
    first = 0
    if options.checkpoint and options.checkpoint.exists():
        state = torch.load(options.checkpoint, map_location=device)
        engine.load_state_dict(state["engine"])  # The first of the three: it gives the model its shape.
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]

    for epoch in range(first, options.epochs):
        torch.manual_seed(epoch)  # A run that goes on sees the batches that it would have seen.
        model.train()
        for images, labels in islice(training, options.batches):
            rate = LEARNING_RATE * min(1.0, engine.position / 0.05, (1.0 - engine.position) / 0.4)
            for group in optimizer.param_groups:
                group["lr"] = rate * engine.learning_rate_factor()
            loss = cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tell(engine.after_step(loss, len(labels)))
        loss, accuracy = evaluate(model, validation, options.batches, device)
        tell(engine.after_epoch(loss))
        if options.checkpoint:
            parts = {"model": model, "optimizer": optimizer, "engine": engine}
            partial = options.checkpoint.with_name(options.checkpoint.name + ".partial")
            torch.save({"epoch": epoch + 1, **{name: part.state_dict() for name, part in parts.items()}}, partial)
            partial.replace(options.checkpoint)
        print(f"epoch {epoch + 1}: validation loss {loss:.4f}, accuracy {accuracy:.2%}")

    for event in [event for event in engine.events if event.entries][-1:]:
        print(event.table())
    options.output.mkdir(parents=True, exist_ok=True)
    timeline(engine.start_widths, engine.events, engine.curves).savefig(options.output / "timeline.svg")
    loss, accuracy = evaluate(model, test, options.batches, device)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"test loss {loss:.4f}, accuracy {accuracy:.2%}, {size:,} parameters")


if __name__ == "__main__":
    main()
