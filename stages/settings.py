"""`params.yaml` as frozen, checked dataclasses; the meaning, unit and range of each key stand beside its field."""

from __future__ import annotations

import difflib
import math
import types
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from stages.settings_io import read_yaml


class SettingsError(Exception):
    """A settings file that cannot be used; the message names the file, the key, what was found and expected."""


def _within(low: float, high: float = math.inf, **options: Any) -> Any:
    """A field whose number (or each of whose numbers) lies in `[low, high]`."""
    return field(metadata={"low": low, "high": high}, **options)


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Images drawn by `stages.data.synthetic`."""

    source: Literal["synthetic"]
    classes: int = _within(2, 1000)
    size: int = _within(8, 64)  # height and width, pixels
    channels: int = _within(1, 3)
    train: int = _within(2)  # samples before the validation split is taken
    test: int = _within(1)  # samples
    difficulty: float = _within(0.0, 1.0)
    seed: int = _within(0)  # of the classes and samples
    validation: float = _within(0.01, 0.5)  # fraction of train


@dataclass(frozen=True, kw_only=True)
class Cifar10:
    """CIFAR-10 from files; the environment variable DNM_CIFAR10 overrides the folder."""

    source: Literal["cifar10"]
    folder: str  # train.parquet and test.parquet; downloaded into it where it is missing
    seed: int = _within(0)  # of the validation split
    validation: float = _within(0.01, 0.5)  # fraction of train


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Convolutional networks as widths: the channels of each 3x3 convolution, per block; pooling joins the blocks."""

    baseline: tuple[tuple[int, ...], ...] = _within(1, 4096)
    start: tuple[tuple[int, ...], ...] = _within(1, 4096)  # what DNM grows from


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training run, under the document's names."""

    batch_size: int = _within(2)  # samples a step
    learning_rate: float = _within(1e-8, 100.0)  # the largest of the schedule
    optimizer: Literal["AdamW", "SGD"]
    weight_decay: float = _within(0.0, 1.0)  # decoupled (AdamW) or added to the gradient (SGD)
    epochs: int = _within(1)  # of baseline and dnm; start and scratch get dnm's FLOPs
    early_stopping: bool  # stop after `patience` epochs without a lower validation loss
    patience: int = _within(1)  # epochs
    schedule: Literal["constant", "trapezoid"]  # trapezoid: up over warmup, flat, down to zero from decay_from on
    warmup: float = _within(0.0, 0.9)  # fraction of the steps
    decay_from: float = _within(0.0, 1.0)  # fraction of the steps
    crop_padding: int = _within(0, 16)  # pixels; random crops of the padded image
    flip: bool  # random horizontal flips
    gradient_clipping: float = _within(0.0)  # largest gradient norm; 0 is none


@dataclass(frozen=True, kw_only=True)
class Dnm:
    """How DNM grows; names as in the document."""

    trigger: Literal["scheduled"]
    event_times: tuple[float, ...] = _within(0.0, 1.0)  # fractions of the steps
    max_morphogenesis_events: int = _within(0, 1000)
    enable_aggressive_growth: bool  # two groups an event, doubled; otherwise one, +25%
    max_parameters: float = _within(0.0)  # of the baseline's
    max_training_flops: float = _within(0.0)  # a step, of the baseline's
    probe_size: int = _within(2)  # training samples that the detector looks at


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table."""

    documented_row: str  # row in documented.yaml
    protocol: Literal["documented", "tuned"]
    as_documented: bool  # whether data and protocol are the document's: only then can a figure be reproduced
    seeds: int = _within(1, 1000)
    data: Synthetic | Cifar10
    networks: Networks
    training: Training
    dnm: Dnm


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How trials run; what stands here can change bits, so it is part of every fingerprint."""

    cpu_caps: bool  # the same instruction set on every x86-64 CPU with AVX2, for the same bits
    threads: int = _within(1, 256)  # a trial
    device: Literal["cpu", "cuda"]
    precision: Literal["float32", "bfloat16"]
    keep_records: bool  # finished trials leave a record in git and are not run again


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All of a scale's settings."""

    scale: str
    root: str  # the repository's root as seen from the settings file
    params_file: str  # the settings file as seen from the root
    execution: Execution
    image_classification: dict[str, Row]


def load(path: Path) -> Settings:
    """Reads and checks a settings file.

    Raises:
        SettingsError: it cannot be used.
    """
    try:
        raw = read_yaml(path)
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); give an existing file with --params"
        ) from error
    except Exception as error:
        # The reader's own message says line and column; its type depends on which reader is installed.
        raise SettingsError(f"{path}: is not valid YAML: {error}") from error
    settings = _build(Settings, raw, path, "")
    for name, row in settings.image_classification.items():
        _check_row(path, f"image_classification.{name}", row)
    return settings


def as_plain(value: Any) -> Any:
    """A dataclass of settings as mappings, lists and scalars."""
    return asdict(value)


def _check_row(path: Path, where: str, row: Row) -> None:
    if isinstance(row.data, Synthetic) and row.data.channels == 2:
        raise SettingsError(f"{path}: {where}.data.channels is 2, expected 1 or 3")
    if len(row.dnm.event_times) > row.dnm.max_morphogenesis_events:
        raise SettingsError(
            f"{path}: {where}.dnm.event_times lists {len(row.dnm.event_times)} events, "
            f"max_morphogenesis_events allows {row.dnm.max_morphogenesis_events}; drop times or raise the limit"
        )
    shapes = [[len(block) for block in widths] for widths in (row.networks.baseline, row.networks.start)]
    if shapes[0] != shapes[1] or not all(shapes[0]) or not shapes[0]:
        raise SettingsError(
            f"{path}: {where}.networks: baseline has blocks of {shapes[0]} layers and start of {shapes[1]}; expected "
            "the same, none empty, so that start can grow to the baseline's family"
        )
    if row.training.warmup > row.training.decay_from:
        raise SettingsError(
            f"{path}: {where}.training.warmup is {row.training.warmup}, expected at most decay_from "
            f"({row.training.decay_from})"
        )


def _build(kind: type, raw: Any, path: Path, where: str) -> Any:
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: {where or 'the file'} is {_shown(raw)}, expected a mapping of {_names(kind)}")
    known = {item.name: item for item in fields(kind)}
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
            raise SettingsError(f"{path}: {_join(where, key)} is not a setting{hint}")
    missing = [name for name, item in known.items() if name not in raw and item.default is MISSING]
    if missing:
        raise SettingsError(f"{path}: {_join(where, missing[0])} is missing; add it")
    types_ = get_type_hints(kind)
    return kind(**{
        name: _value(types_[name], raw[name], path, _join(where, name), known[name].metadata)
        for name in known
        if name in raw
    })  # fmt: skip


def _value(kind: Any, raw: Any, path: Path, where: str, limits: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(arguments, raw, path, where)
    if origin is dict:
        if not isinstance(raw, dict) or not raw:
            raise SettingsError(f"{path}: {where} is {_shown(raw)}, expected a mapping with at least one entry")
        for key in raw:
            if not isinstance(key, str):
                raise SettingsError(f"{path}: {where} has the key {_shown(key)}, expected text: write it in quotes")
        return {key: _value(arguments[1], value, path, _join(where, key), limits) for key, value in raw.items()}
    if origin is tuple:
        if not isinstance(raw, list):
            raise SettingsError(f"{path}: {where} is {_shown(raw)}, expected a list")
        return tuple(_value(arguments[0], item, path, f"{where}[{i}]", limits) for i, item in enumerate(raw))
    if origin is Literal:
        if raw not in arguments or isinstance(raw, bool):
            near = difflib.get_close_matches(str(raw), arguments, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SettingsError(f"{path}: {where} is {_shown(raw)}, expected one of {', '.join(arguments)}{hint}")
        return raw
    if hasattr(kind, "__dataclass_fields__"):
        return _build(kind, raw, path, where)
    return _scalar(kind, raw, path, where, limits)


def _union(kinds: tuple, raw: Any, path: Path, where: str) -> Any:
    sources = {get_args(get_type_hints(kind)["source"])[0]: kind for kind in kinds}
    source = raw.get("source") if isinstance(raw, dict) else None
    if source not in sources:
        raise SettingsError(f"{path}: {where}.source is {_shown(source)}, expected one of {', '.join(sources)}")
    return _build(sources[source], raw, path, where)


def _scalar(kind: type, raw: Any, path: Path, where: str, limits: Any) -> Any:
    fits = isinstance(raw, kind) or (kind is float and isinstance(raw, int))
    if not fits or (isinstance(raw, bool) and kind is not bool):
        hint = ""
        if isinstance(raw, str) and kind in (int, float):
            hint = "; YAML reads this as text: write a plain number, such as 0.0001 or 1.0e-4"
        raise SettingsError(f"{path}: {where} is {_shown(raw)}, expected {_article(kind)}{hint}")
    if limits and (raw == math.inf or not limits["low"] <= raw <= limits["high"]):
        top = limits["high"]
        high = f" and at most {top}" if top != math.inf else " and finite" if raw == math.inf else ""
        raise SettingsError(f"{path}: {where} is {raw}, expected at least {limits['low']}{high}")
    return float(raw) if kind is float else raw


def _article(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _shown(raw: Any) -> str:
    return "missing" if raw is None else f"{type(raw).__name__} {raw!r}"


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _names(kind: type) -> str:
    return ", ".join(item.name for item in fields(kind))
