"""What no field of the settings can know alone: what they say together has to be possible."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from stages.data.settings import (
    Characters,
    Data,
    DetectionData,
    Digits,
    FewShotData,
    Grammar,
    Lesions,
    Scenes,
    Synthetic,
)
from stages.schema import SettingsError

if TYPE_CHECKING:
    from stages.settings import (
        Detection,
        Dnm,
        FewShot,
        FineTuned,
        Language,
        Nas,
        Networks,
        Readers,
        Row,
        Settings,
        Training,
    )

# Height and width of the images of sources that have no setting for it.
SIZES = {"digits": 16, "cifar10": 32, "cifar100": 32, "fashion_mnist": 28, "stl10": 96, "pneumonia_mnist": 28}
DIGITS = 1797
LARGEST_DRAWN = 2**32  # bytes of pixels that a generated data set may hold
IMAGENET_SIZE = 224
# What the document's data sets of a transfer are, by its rows; of the third it names none.
PAIRS = {"cifar10_to_stl10": ("cifar10", "stl10"), "imagenet_to_cifar100": ("imagenet", "cifar100")}
# GLUE's tasks, and the tasks that generated sentences stand for.
GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
STANDS_FOR = {"acceptability": "cola", "entailment": "rte", "sentiment": "sst2", "questions": "squad2"}
NAME = "at most 60 lower-case letters, digits, _ and -, a letter or digit first"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")


def check(settings: Settings, path: Path) -> None:
    """Refuses settings that contradict each other or that no trial could run with.

    Raises:
        SettingsError: the message names the key, what was found and what is expected.
    """
    from stages.settings import OWN_DATA, SECTIONS

    rows = settings.image_classification
    try:
        _check_places(settings)
        for name, row in rows.items():
            _demand(_is_name(name), f"image_classification has a row {name[:60]!r}", NAME)
            where = f"image_classification.{name}"
            earlier = next(other for other in rows if rows[other].documented_row == row.documented_row)
            _demand(
                earlier == name or row.documented_row == "none",
                f"{where}.documented_row is {row.documented_row}, that of {earlier} too",
                "another: a table has one line for each",
            )
            _check_data(f"{where}.data", row.data)
            _check_networks(f"{where}.networks", row.networks, row.data)
            _check_training(f"{where}.training", row.training, row.data)
            _check_dnm(f"{where}.dnm", row.dnm)
            _check_protocol(where, row)
        taken = dict.fromkeys(rows, "row")
        for section in SECTIONS:
            for name, entry in getattr(settings, section).items():
                _demand(_is_name(name), f"{section} has an entry {name[:60]!r}", NAME)
                other = taken.setdefault(name, section)
                _demand(
                    other == section,
                    f"{section} has an entry {name!r}",
                    f"a name that no {other} has: records lie by it",
                )
                where = f"{section}.{name}"
                for key in () if section in OWN_DATA else ("source", "target") if section == "transfer" else ("row",):
                    row_name = getattr(entry, key)
                    _demand(row_name in rows, f"{where}.{key} is {row_name[:60]!r}", f"one of {', '.join(rows)}")
        for name, contest in settings.contest.items():
            _demand_each_once(f"contest.{name}.factors", contest.factors)
        for name, ranking in settings.ranking.items():
            _demand_each_once(f"ranking.{name}.moments", ranking.moments)
            states = ranking.seeds * len(ranking.moments)
            _demand(states >= 2, f"ranking.{name}: seeds and moments make {states} states", "at least 2")
        for section in ("ablation", "robustness", "events", "nas", "transfer"):
            for name, entry in getattr(settings, section).items():
                most, whose = rows[entry.row].seeds, "source" if section == "transfer" else "row"
                _demand(
                    entry.seeds <= most, f"{section}.{name}.seeds is {entry.seeds}", f"at most the {whose}'s {most}"
                )
        _check_transfer(settings)
        for name, entry in settings.few_shot.items():
            _check_few_shot(f"few_shot.{name}", entry)
        _check_detection(settings.detection)
        _check_language(settings)
        for section in ("ablation", "events"):
            for name, entry in getattr(settings, section).items():
                _demand(entry.prune_at > 0.0, f"{section}.{name}.prune_at is 0", "a fraction of the run above 0")
        for name, nas in settings.nas.items():
            row = rows[nas.row]
            _demand(
                bool(row.dnm.operators),
                f"nas.{name}.row is {nas.row}, whose dnm.operators is empty",
                "at least one operator there: it says what can be searched",
            )
            first = shortest_rung(nas, row.training.epochs)
            _demand(
                first >= 0.5,
                f"nas.{name}: the first of {nas.rungs} rungs has {first:.2g} of {row.training.epochs} epochs",
                "at least one, rounded; lower rungs or reduction, or raise longest",
            )
    except _Impossible as error:
        raise SettingsError(f"{path}: {error}") from None


def shortest_rung(nas: Nas, epochs: int) -> float:
    """Epochs of the first rung of a search, not rounded."""
    return nas.longest * epochs / nas.reduction ** (nas.rungs - 1)


def image_size(data: Data | FewShotData | DetectionData) -> int:
    """Height and width of the images, in pixels."""
    return getattr(data, "size", None) or SIZES[data.source]


def training_samples(data: Data | FewShotData | DetectionData) -> int | None:
    """The most training samples that there can be once a validation split is taken, where settings tell."""
    if isinstance(data, Synthetic | Lesions):
        # Samples come class by class, and each class gives its own part of the validation split.
        each, more = divmod(data.train, data.classes)
        return sum(
            count * (size - _validation(size, data.validation))
            for size, count in ((each, data.classes - more), (each + 1, more))
        )
    if isinstance(data, Characters):
        return data.train * data.drawings
    if isinstance(data, Scenes):
        return data.train
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
    if isinstance(data, Synthetic | Lesions):
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


def _check_networks(where: str, networks: Networks, data: Data | FewShotData | DetectionData) -> None:
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


def _check_training(where: str, training: Training, data: Data | FewShotData | DetectionData) -> None:
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


def _check_few_shot(where: str, entry: FewShot) -> None:
    data, meta = entry.data, entry.meta
    if isinstance(data, Characters):
        drawn = (data.train + data.validation + data.test) * data.drawings * data.size**2
        _demand(
            drawn <= LARGEST_DRAWN,
            f"{where}.data: all characters take {drawn} bytes of pixels",
            f"at most {LARGEST_DRAWN}; lower their numbers, drawings or size",
        )
        _demand(
            meta.ways <= data.train, f"{where}.meta.ways is {meta.ways}", f"at most the {data.train} training classes"
        )
        for split in ("train", "validation", "test"):
            _demand(
                entry.ways <= getattr(data, split),
                f"{where}.ways is {entry.ways}",
                f"at most the {getattr(data, split)} classes of {split}",
            )
        for key, taken in (("meta", meta.shots + meta.queries), ("queries", 1 + entry.queries)):
            _demand(
                taken <= data.drawings,
                f"{where}.{key} takes {taken} drawings of a class",
                f"at most the {data.drawings} that there are",
            )
    for key in ("background", "evaluation", "validation"):
        names = getattr(data, key, None)
        if isinstance(names, tuple):
            _demand(bool(names), f"{where}.data.{key} is empty", "at least one name")
            _demand_each_once(f"{where}.data.{key}", names)
    _check_networks(f"{where}.networks", entry.networks, data)
    features = [widths[-1][-1] for widths in (entry.networks.baseline, entry.networks.start)]
    _demand(
        features[0] == features[1],
        f"{where}.networks.start ends with {features[1]} channels",
        f"the baseline's {features[0]}: they are the features, the network's outputs, which growth leaves as they are",
    )
    _check_training(f"{where}.training", entry.training, data)
    _check_dnm(f"{where}.dnm", entry.dnm)
    _demand_fixed_times(where, entry, "training on episodes has no validation loss by epoch")


def _demand_fixed_times(where: str, entry: FewShot | Detection, why: str) -> None:
    """Demands that neither the end of training nor events wait for the validation loss, and says why."""
    training, dnm = entry.training, entry.dnm
    _demand(not training.early_stopping, f"{where}.training.early_stopping is true", f"false: {why}")
    _demand(dnm.trigger == "scheduled", f"{where}.dnm.trigger is {dnm.trigger}", f"scheduled: {why}")


def _check_detection(entries: Mapping[str, Detection]) -> None:
    for name, entry in entries.items():
        where, data = f"detection.{name}", entry.data
        earlier = next(other for other in entries if entries[other].documented_row == entry.documented_row)
        _demand(
            earlier == name,
            f"{where}.documented_row is {entry.documented_row}, that of {earlier} too",
            "another: a table has one line for each",
        )
        if isinstance(data, Scenes):
            for low, high in (("fewest", "most"), ("smallest", "largest")):
                least, greatest = getattr(data, low), getattr(data, high)
                _demand(least <= greatest, f"{where}.data.{high} is {greatest}", f"at least {low}, which is {least}")
            drawn = 3 * (data.train + data.validation + data.test) * data.size**2
            _demand(
                drawn <= LARGEST_DRAWN,
                f"{where}.data: all scenes take {drawn} bytes of pixels",
                f"at most {LARGEST_DRAWN}; lower their numbers or size",
            )
        else:
            _demand(data.train != data.test, f"{where}.data.test is {data.test}", "another split than train")
        _check_networks(f"{where}.networks", entry.networks, data)
        _check_detector(where, entry)
        _check_training(f"{where}.training", entry.training, data)
        _demand(
            entry.training.crop_padding == 0,
            f"{where}.training.crop_padding is {entry.training.crop_padding}",
            "0: a crop would cut objects",
        )
        _check_dnm(f"{where}.dnm", entry.dnm)
        _demand_fixed_times(where, entry, "detectors are trained without a validation loss by epoch")


def _check_detector(where: str, entry: Detection) -> None:
    form, blocks, size = entry.detector, len(entry.networks.baseline), image_size(entry.data)
    _demand(form.pyramid % 8 == 0, f"{where}.detector.pyramid is {form.pyramid}", "a multiple of 8")
    _demand(
        form.levels <= blocks, f"{where}.detector.levels is {form.levels}", f"at most {blocks}, the number of blocks"
    )
    _demand(
        form.head == "fcos" or form.convolutions == 4,
        f"{where}.detector.convolutions is {form.convolutions} with head: retinanet",
        "4, which its towers have",
    )
    first = blocks - form.levels
    _demand(
        first >= 2,
        f"{where}.detector.levels is {form.levels} of {blocks} blocks, so that the largest maps have sides of "
        f"{size >> first}",
        f"a quarter of the {size} pixels or less: fewer levels, or more blocks",
    )
    # Halvings of the image's size at the last level of either backbone; the pyramid adds one.
    for key, halvings in (("detector", blocks), ("resnet", entry.resnet.levels + 2)):
        _demand(
            size % 2**halvings == 0,
            f"{where}.data.size is {size}",
            f"a multiple of {2**halvings}: the maps of {key}.levels would not be halves of each other",
        )


def _check_transfer(settings: Settings) -> None:
    entries, rows = settings.transfer, settings.image_classification
    for name, entry in entries.items():
        where = f"transfer.{name}"
        earlier = next(other for other in entries if entries[other].documented_row == entry.documented_row)
        _demand(
            earlier == name,
            f"{where}.documented_row is {entry.documented_row}, that of {earlier} too",
            "another: a table has one line for each",
        )
        _demand(
            entry.target != entry.source, f"{where}.target is {entry.target}", "another row than source: nothing moves"
        )
        found = tuple(rows[row].documented_row for row in (entry.source, entry.target))
        wanted = PAIRS.get(entry.documented_row, found)
        _demand(
            found == wanted,
            f"{where}.documented_row is {entry.documented_row} and leads from {found[0]} to {found[1]}",
            f"{wanted[0]} to {wanted[1]}: source and target are rows with these documented_row",
        )
        size, padding = image_size(rows[entry.source].data), rows[entry.target].training.crop_padding
        _demand(
            padding < size,
            f"{where}: crop_padding of {entry.target} is {padding}",
            f"less than the {size} pixels of {entry.source}, which images are brought to",
        )


def _check_language(settings: Settings) -> None:
    entries = settings.language
    for name, entry in entries.items():
        where, source = f"language.{name}", entry.data.source
        earlier = next(other for other in entries if entries[other].task == entry.task)
        _demand(
            earlier == name,
            f"{where}.task is {entry.task}, that of {earlier} too",
            "another: a table has one line for each",
        )
        meant = STANDS_FOR.get(source, source)
        _demand(entry.task == meant, f"{where}.task is {entry.task}", f"{meant}, as its data.source is {source}")
        first = next(iter(entries.values()))
        _demand(
            entry.seeds == first.seeds,
            f"{where}.seeds is {entry.seeds}",
            f"{first.seeds}, as the first task has: GLUE's average goes over all tasks seed by seed",
        )
        _check_texts(where, entry)
        _check_readers(f"{where}.networks", entry.networks)
        _check_dnm(f"{where}.dnm", entry.dnm)
        if entry.as_documented:
            otherwise = "write as_documented: false otherwise"
            _demand(source == entry.task, f"{where}.data.source is {source}", f"the published data; {otherwise}")
            _demand(not entry.cut, f"{where}.cut is true", f"false: no text is left out; {otherwise}")
            _demand_stated(f"{where}.training", entry.training, "training_config", otherwise)
            _demand_stated(f"{where}.dnm", entry.dnm, "dnm_config", otherwise)


def _check_texts(where: str, entry: Language) -> None:
    training = entry.training
    _demand(
        training.warmup <= training.decay_from,
        f"{where}.training.warmup is {training.warmup}",
        f"at most decay_from ({training.decay_from})",
    )
    for name in ("crop_padding", "flip", "early_stopping"):
        found = getattr(training, name)
        _demand(not found, f"{where}.training.{name} is {found}", "0 or false: texts have none")
    if isinstance(entry.data, Grammar):
        for name in ("train", "test"):
            found = getattr(entry.data, name)
            _demand(found % 2 == 0, f"{where}.data.{name} is {found}", "an even number: samples are in pairs")
        # Pairs are not parted, so that the split may take one sample more.
        most = entry.data.train - _validation(entry.data.train, entry.data.validation)
        _demand(
            training.batch_size < most,
            f"{where}.training.batch_size is {training.batch_size}",
            f"less than {most}, the training samples left by the validation split",
        )


def _check_readers(where: str, networks: Readers | FineTuned) -> None:
    from stages.settings import Readers

    if not isinstance(networks, Readers):
        # What a pre-trained encoder looks like stands in its files, which need not be there yet.
        return
    for name in ("transformer", "start"):
        for number, block in enumerate(getattr(networks, name)):
            _demand(len(block) == 2, f"{where}.{name}[{number}] is {list(block)}", "[heads, feed-forward width]")
    of = networks.transformer, networks.start
    _demand(
        len(of[0]) == len(of[1]) > 0,
        f"{where}: transformer has {len(of[0])} blocks and start {len(of[1])}",
        "as many, at least one: growth adds no block",
    )
    for number, (full, narrow) in enumerate(zip(*of, strict=True)):
        _demand(
            all(start <= most for start, most in zip(narrow, full, strict=True)),
            f"{where}.start[{number}] is {list(narrow)}",
            f"nowhere wider than the transformer's {list(full)}: start costs less, and grows",
        )


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
