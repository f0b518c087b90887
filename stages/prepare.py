"""Makes or reads the images of a row, checks and splits them, and writes their data card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stages import cli, outputs
from stages.settings import Cifar10, Synthetic

if TYPE_CHECKING:
    from stages.data.splits import DataSet


def main(context: cli.Context) -> None:
    """Writes `data/prepared/<scale>/<row>.safetensors` and `metrics/<scale>/prepare/<row>.json`."""
    from stages.data import splits
    from stages.data.errors import DataError

    settings = context.row.data
    try:
        dataset = _synthetic(settings) if isinstance(settings, Synthetic) else _cifar10(settings, context.root)
    except DataError as error:
        raise cli.UserError(str(error)) from None
    card = splits.card(dataset)
    with outputs.exclusive(context.root / "runs" / "locks" / f"prepare-{context.settings.scale}-{context.row_name}"):
        splits.save(context.data, dataset)
        outputs.write_json(context.metrics / "prepare" / f"{context.row_name}.json", card)
    counts = ", ".join(f"{card['samples'][name]['total']:,} {name}" for name in card["samples"])
    print(f"prepare {context.row_name}: {dataset.source}; {counts} images")


def _synthetic(settings: Synthetic) -> DataSet:
    from stages.data import splits, synthetic

    train, test, class_names = synthetic.generate(
        classes=settings.classes,
        size=settings.size,
        channels=settings.channels,
        train=settings.train,
        test=settings.test,
        difficulty=settings.difficulty,
        seed=settings.seed,
    )
    train, validation = splits.take_validation(train, settings.validation, settings.seed)
    dataset = splits.DataSet(train, validation, test, class_names, "generated strokes", "MIT, as this repository", "")
    splits.check(dataset)
    return dataset


def _cifar10(settings: Cifar10, root: Path) -> DataSet:
    from stages.data import cifar10, splits

    override = os.environ.get("DNM_CIFAR10")
    train, test, class_names, note = cifar10.read(Path(override) if override else root / settings.folder)
    train, validation = splits.take_validation(train, settings.validation, settings.seed)
    dataset = splits.DataSet(
        train, validation, test, class_names, cifar10.label(note), "none stated (Krizhevsky 2009)", note
    )
    # Some published images stand in it twice; the card counts those in two splits.
    splits.check(dataset, allow_duplicates=True)
    return dataset


if __name__ == "__main__":
    cli.main(main, has_row=True)
