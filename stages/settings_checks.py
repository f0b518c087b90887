"""What no field of the settings can know alone: what they say together has to be possible."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from stages.data.settings import Data, Digits, Synthetic
from stages.schema import SettingsError

if TYPE_CHECKING:
    from stages.settings import Dnm, Networks, Row, Settings, Training

# Height and width of the images of sources that have no setting for it.
SIZES = {"digits": 16, "cifar10": 32, "cifar100": 32, "fashion_mnist": 28, "stl10": 96, "pneumonia_mnist": 28}
DIGITS = 1797
LARGEST_DRAWN = 2**32  # bytes of pixels that a generated data set may hold
IMAGENET_SIZE = 224
NAME = "at most 60 lower-case letters, digits, _ and -, a letter or digit first"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")


def check(settings: Settings, path: Path) -> None:
    """Refuses settings that contradict each other or that no trial could run with.

    Raises:
        SettingsError: the message names the key, what was found and what is expected.
    """
    rows = settings.image_classification
    try:
        _check_places(settings)
        for name, row in rows.items():
            _demand(_is_name(name), f"image_classification has a row {name[:60]!r}", NAME)
            where = f"image_classification.{name}"
            earlier = next(other for other in rows if rows[other].documented_row == row.documented_row)
            _demand(
                earlier == name,
                f"{where}.documented_row is {row.documented_row}, that of {earlier} too",
                "another: a table has one line for each",
            )
            _check_data(f"{where}.data", row.data)
            _check_networks(f"{where}.networks", row.networks, row.data)
            _check_training(f"{where}.training", row.training, row.data)
            _check_dnm(f"{where}.dnm", row.dnm)
            _check_protocol(where, row)
        for section in ("contest", "ranking"):
            for name, entry in getattr(settings, section).items():
                _demand(_is_name(name), f"{section} has an entry {name[:60]!r}", NAME)
                _demand(
                    name not in rows, f"{section} has an entry {name!r}", "a name that no row has: records lie by it"
                )
                where = f"{section}.{name}"
                _demand(entry.row in rows, f"{where}.row is {entry.row[:60]!r}", f"one of {', '.join(rows)}")
        for name, contest in settings.contest.items():
            _demand_each_once(f"contest.{name}.factors", contest.factors)
        for name, ranking in settings.ranking.items():
            _demand_each_once(f"ranking.{name}.moments", ranking.moments)
            _demand(name not in settings.contest, f"ranking has an entry {name!r}", "a name that no contest has")
            states = ranking.seeds * len(ranking.moments)
            _demand(states >= 2, f"ranking.{name}: seeds and moments make {states} states", "at least 2")
    except _Impossible as error:
        raise SettingsError(f"{path}: {error}") from None


def image_size(data: Data) -> int:
    """Height and width of a row's images, in pixels."""
    return getattr(data, "size", None) or SIZES[data.source]


def training_samples(data: Data) -> int | None:
    """The most training samples that a row can have once its validation split is taken, where settings tell."""
    if isinstance(data, Synthetic):
        # Samples come class by class, and each class gives its own part of the validation split.
        each, more = divmod(data.train, data.classes)
        return sum(
            count * (size - _validation(size, data.validation))
            for size, count in ((each, data.classes - more), (each + 1, more))
        )
    if isinstance(data, Digits):
        # How many there are of each digit is not known here; rounding takes at most half a sample from each part.
        return min(data.train - 1, math.floor((1 - data.validation) * data.train) + 5)
    return None


class _Impossible(Exception):
    """Settings that cannot be; the message lacks the file."""


def _demand(fits: bool, found: str, expected: str) -> None:
    if not fits:
        raise _Impossible(f"{found}, expected {expected}")


def _demand_each_once(where: str, items: Sequence[object]) -> None:
    _demand(len(set(items)) == len(items), f"{where} is {list(items)}", "each once")


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def _validation(size: int, fraction: float) -> int:
    return min(max(1, math.floor(fraction * size + 0.5)), size - 1)


def _check_places(settings: Settings) -> None:
    _demand(_is_name(settings.scale), f"scale is {settings.scale[:60]!r}", NAME)
    # One file for a scale, so that no two write the same results.
    file = "params.yaml" if settings.scale == "embedded" else f"scales/{settings.scale}/params.yaml"
    _demand(
        settings.params_file == file,
        f"params_file is {settings.params_file[:60]!r}",
        f"{file!r}, the place of the scale {settings.scale}",
    )
    root = "/".join([".."] * (len(PurePosixPath(file).parts) - 1)) or "."
    _demand(settings.root == root, f"root is {settings.root[:60]!r}", f"{root!r}, as seen from {file}")


def _check_data(where: str, data: Data) -> None:
    if isinstance(data, Synthetic):
        _demand(data.channels != 2, f"{where}.channels is 2", "1 or 3")
        _demand(
            data.train >= 2 * data.classes,
            f"{where}.train is {data.train}",
            f"at least {2 * data.classes}: one image of each class to train on and one to validate on",
        )
        drawn = (data.train + data.test) * data.size**2 * data.channels
        _demand(
            drawn <= LARGEST_DRAWN,
            f"{where}: train and test take {drawn} bytes of pixels",
            f"at most {LARGEST_DRAWN}; lower train, test or size",
        )
    if isinstance(data, Digits):
        _demand(
            data.train + data.test <= DIGITS,
            f"{where}: train and test are {data.train} and {data.test}",
            f"at most {DIGITS} together: there are no more digits",
        )


def _check_networks(where: str, networks: Networks, data: Data) -> None:
    shapes = [[len(block) for block in widths] for widths in (networks.baseline, networks.start)]
    _demand(
        shapes[0] == shapes[1] and all(shapes[0]) and bool(shapes[0]),
        f"{where}: baseline has blocks of {shapes[0]} layers and start of {shapes[1]}",
        "the same, none empty, so that start can grow to the baseline's family",
    )
    blocks, size = len(shapes[0]), image_size(data)
    # Each block but the first halves height and width, rounded down.
    most = size.bit_length()
    _demand(
        blocks <= most,
        f"{where}: baseline and start have {blocks} blocks",
        f"at most {most}: pooling between them leaves nothing of {size} x {size} pixels",
    )
    for number, (widths, narrow) in enumerate(zip(networks.baseline, networks.start, strict=True)):
        _demand(
            all(start <= baseline for start, baseline in zip(narrow, widths, strict=True)),
            f"{where}.start[{number}] is {list(narrow)}",
            f"nowhere wider than the baseline's {list(widths)}: start costs less, and grows",
        )


def _check_training(where: str, training: Training, data: Data) -> None:
    size, most = image_size(data), training_samples(data)
    _demand(
        training.warmup <= training.decay_from,
        f"{where}.warmup is {training.warmup}",
        f"at most decay_from ({training.decay_from})",
    )
    _demand(
        training.crop_padding < size,
        f"{where}.crop_padding is {training.crop_padding}",
        f"less than the {size} pixels of the images: a crop has to show some of them",
    )
    if most is not None:
        _demand(
            training.batch_size <= most,
            f"{where}.batch_size is {training.batch_size}",
            f"at most {most}, the training samples left by the validation split",
        )


def _check_dnm(where: str, dnm: Dnm) -> None:
    times = dnm.event_times
    for number, time in enumerate(times):
        _demand(0.0 < time < 1.0, f"{where}.event_times[{number}] is {time}", "a fraction strictly between 0 and 1")
    for number, (before, after) in enumerate(pairwise(times), start=1):
        _demand(
            before < after,
            f"{where}.event_times[{number}] is {after} after {before}",
            "rising times, each once",
        )
    _demand(
        bool(times) == (dnm.trigger == "scheduled"),
        f"{where}.event_times lists {len(times)} with trigger: {dnm.trigger}",
        "at least one time with trigger: scheduled, and none with trigger: plateau",
    )
    _demand(0.0 < dnm.grace < 1.0, f"{where}.grace is {dnm.grace}", "a fraction strictly between 0 and 1")
    _demand(dnm.prune_at < 1.0, f"{where}.prune_at is {dnm.prune_at}", "less than 1, or 0 for never")
    _demand_each_once(f"{where}.operators", dnm.operators)
    _demand_each_once(f"{where}.theories", dnm.theories)


def _check_protocol(where: str, row: Row) -> None:
    if row.protocol == "documented":
        _demand_stated(f"{where}.training", row.training, "training_config", "write protocol: tuned otherwise")
        _demand(
            row.training.schedule == "constant",
            f"{where}.training.schedule is {row.training.schedule}",
            "constant, as the document states one learning rate; write protocol: tuned otherwise",
        )
    if row.as_documented:
        otherwise = "write as_documented: false otherwise"
        size, part = image_size(row.data), getattr(row.data, "per_class", 0)
        _demand(row.protocol == "documented", f"{where}.as_documented is true with protocol: {row.protocol}", "false")
        _demand_stated(f"{where}.dnm", row.dnm, "dnm_config", otherwise)
        _demand(
            row.data.source == row.documented_row,
            f"{where}.data.source is {row.data.source}",
            f"{row.documented_row}, the document's data; {otherwise}",
        )
        _demand(
            row.data.source != "imagenet" or (size >= IMAGENET_SIZE and part == 0),
            f"{where}.data has size {size} and per_class {part}",
            f"at least {IMAGENET_SIZE} and 0, which is all images; {otherwise}",
        )


def _demand_stated(where: str, settings: Training | Dnm, block: str, otherwise: str) -> None:
    """Demands what a block of the document's protocol states."""
    from stages import documented

    for key, stated in documented.load().tables["protocol"].rows[block].values.items():
        found = getattr(settings, key, "not in force")
        _demand(found == stated, f"{where}.{key} is {found}", f"{stated}, as the document states; {otherwise}")
