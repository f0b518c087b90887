"""`params.yaml` as frozen, checked dataclasses; the meaning, unit and range of each key stand beside its field."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from stages import settings_checks
from stages.data.settings import Data
from stages.schema import SettingsError, build, within
from stages.settings_io import read_yaml


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Convolutional networks as widths: the channels of each 3x3 convolution, per block; pooling joins the blocks."""

    baseline: tuple[tuple[int, ...], ...] = within(1, 4096)
    start: tuple[tuple[int, ...], ...] = within(1, 4096)  # what DNM grows from; nowhere wider than the baseline


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training run, under the document's names."""

    batch_size: int = within(2, 1_000_000)  # samples a step, at most the training samples
    learning_rate: float = within(1e-8, 100.0)  # the largest of the schedule
    optimizer: Literal["AdamW", "SGD"]
    weight_decay: float = within(0.0, 1.0)  # decoupled (AdamW) or added to the gradient (SGD)
    epochs: int = within(1, 1_000_000)  # of baseline and dnm; start and scratch get dnm's FLOPs
    early_stopping: bool  # stop after `patience` epochs without a lower validation loss
    patience: int = within(1, 1_000_000)  # epochs
    schedule: Literal["constant", "trapezoid"]  # trapezoid: up over warmup, flat, down to zero from decay_from on
    warmup: float = within(0.0, 0.9)  # fraction of the steps, at most decay_from; of a trapezoid
    decay_from: float = within(0.0, 1.0)  # fraction of the steps; of a trapezoid
    crop_padding: int = within(0, 16)  # pixels, fewer than the image has; random crops of the padded image
    flip: bool  # random horizontal flips
    gradient_clipping: float = within(0.0, 1e9)  # largest gradient norm; 0 is none


@dataclass(frozen=True, kw_only=True)
class Dnm:
    """How DNM grows; names as in the document.

    Its `bottleneck_threshold` (the least predicted relative drop of the validation loss for which an edit is made) and
    `morphogenesis_patience` (epochs without such a drop before the detector is asked) belong to its plateau trigger.
    """

    REFUSED: ClassVar[dict[str, str]] = {
        "trigger: plateau": "is not available yet, expected trigger: scheduled, with event_times",
        **dict.fromkeys(
            ("bottleneck_threshold", "morphogenesis_patience"),
            "is a setting of the plateau trigger, which is not available yet; remove it: events come at event_times",
        ),
    }

    trigger: Literal["scheduled"]
    event_times: tuple[float, ...] = within(0.0, 1.0)  # fractions of the steps, rising
    max_morphogenesis_events: int = within(0, 1000)  # at least as many as event_times
    enable_aggressive_growth: bool  # two groups an event, doubled; otherwise one, +25%
    max_parameters: float = within(0.0, 1000.0)  # of the baseline's
    max_training_flops: float = within(0.0, 1000.0)  # a step, of the baseline's
    probe_size: int = within(2, 1_000_000)  # training samples that the detector looks at, or all where there are fewer


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table."""

    documented_row: Literal["cifar10", "cifar100", "imagenet", "fashion_mnist", "stl10"]  # one row of settings each
    protocol: Literal["documented", "tuned"]  # documented: training is the document's training_config
    as_documented: bool  # whether data, training and dnm are the document's: only then can a figure be reproduced
    seeds: int = within(2, 1000)  # an interval takes two
    data: Data
    networks: Networks
    training: Training
    dnm: Dnm


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How trials run; what stands here can change bits, so it is part of every fingerprint."""

    cpu_caps: bool  # the same instruction set on every x86-64 CPU with AVX2, for the same bits
    threads: int = within(1, 256)  # a trial
    device: Literal["cpu", "cuda"]
    precision: Literal["float32", "bfloat16"]
    keep_records: bool  # finished trials leave a record in git and are not run again


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All of a scale's settings."""

    scale: str  # also the name of its folder of results: lower-case letters, digits, _ and -
    root: str  # the repository's root as seen from the settings file
    params_file: str  # the settings file as seen from the root: params.yaml or scales/<scale>/params.yaml
    execution: Execution
    image_classification: dict[str, Row]  # by name: lower-case letters, digits, _ and -


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
        raise SettingsError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    settings = build(Settings, raw, path, "")
    settings_checks.check(settings, path)
    return settings


def as_plain(value: Any) -> Any:
    """A dataclass of settings as mappings, lists and scalars."""
    return asdict(value)
