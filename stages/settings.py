"""`params.yaml` as frozen, checked dataclasses; the meaning, unit and range of each key stand beside its field."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

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
    """How DNM grows; the document's settings under its names. What they do in detail: `dnm.Policy`."""

    trigger: Literal["scheduled", "plateau"]  # at event_times, or where the validation loss falls no more
    event_times: tuple[float, ...] = within(0.0, 1.0)  # fractions of the run, rising; of trigger: scheduled
    bottleneck_threshold: float = within(0.0, 1.0)  # least predicted drop of the loss, relative, for which to edit
    morphogenesis_patience: int = within(1, 1_000_000)  # epochs without such a drop; of trigger: plateau
    max_morphogenesis_events: int = within(1, 1000)  # that edit
    enable_aggressive_growth: bool  # up to eight edits an event, groups +50%; otherwise one, +25%
    operators: tuple[Literal["Divide", "AddResidual", "AddAttention"], ...]  # what is done to the network
    theories: tuple[Literal["information", "tangent", "manifold", "expressivity", "gradient"], ...]  # what is looked at
    samples_per_parameter: float = within(1e-9, 1e9)  # still to come, at which a network's size is in balance with them
    caution: float = within(0.0, 1e9)  # standard errors taken off a predicted gain
    grace: float = within(0.0, 1.0)  # fraction of the run after which an event is judged
    rollback: bool  # whether what hurt is taken back then
    rewarm: float = within(0.0, 1.0)  # fraction of the run in which the learning rate rises anew after an event; 0: not
    prune_at: float = within(0.0, 1.0)  # fraction of the run at which units are pruned, once; 0: never
    prune_tolerance: float = within(0.0, 1.0)  # rise of the loss that pruning may cost, relative
    max_parameters: float = within(0.0, 1000.0)  # of the baseline's
    max_training_flops: float = within(0.0, 1000.0)  # a sample, of the baseline's
    probe_size: int = within(2, 1_000_000)  # training samples that are looked at, or all where there are fewer


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
class Contest:
    """Growing against fixed networks of several widths at equal FLOPs; see `stages.contest`."""

    row: str  # of image_classification: data, protocol, start and baseline networks, and how DNM grows
    pflop: float = within(1e-9, 1e9)  # 10^15 counted training FLOPs a trial
    seeds: int = within(2, 1000)  # each arm trains on all of them
    factors: tuple[float, ...] = within(1e-3, 1000.0)  # widths of the fixed networks, of start's


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Predicted beside realised gains of every edit that could be made to half-trained networks; `stages.ranking`."""

    row: str  # of image_classification: data, protocol and start network
    seeds: int = within(1, 1000)  # each trains a start network of its own
    moments: tuple[int, ...] = within(1, 1_000_000)  # steps after which it is looked at
    steps: int = within(2, 1_000_000)  # that it is then trained with each edit and with none, the rate falling to 0
    continuations: int = within(2, 100)  # of each, on other batches


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
    contest: dict[str, Contest]  # by name: lower-case letters, digits, _ and -
    ranking: dict[str, Ranking]  # by name: lower-case letters, digits, _ and -


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
