"""`params.yaml` as frozen, checked dataclasses; the meaning, unit and range of each key stand beside its field."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from stages import settings_checks
from stages.data import settings as data_settings
from stages.data.settings import Data, DetectionData, FewShotData
from stages.schema import SettingsError, build, within
from stages.settings_io import read_yaml

# A row's `documented_row` where the document's image tables have no such row.
NONE = "none"
Operator = Literal["Divide", "AddResidual", "AddAttention"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)


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
    operators: tuple[Operator, ...]  # what is done to the network
    theories: tuple[Literal["information", "tangent", "manifold", "expressivity", "gradient"], ...]  # what is looked at
    samples_per_parameter: float = within(1e-9, 1e9)  # still to come, at which a network's size is in balance with them
    caution: float = within(0.0, 1e9)  # standard errors taken off a predicted gain
    grace: float = within(0.0, 1.0)  # fraction of the run after which an event is judged
    rollback: bool  # whether what hurt is taken back then
    rewarm: float = within(0.0, 1.0)  # fraction of the run in which the learning rate rises anew after an event; 0: not
    fill: Literal["zero", "twin", "pair", "gradmax"] = "zero"  # of new units
    prune_at: float = within(0.0, 1.0)  # fraction of the run at which units are pruned, once; 0: never
    prune_tolerance: float = within(0.0, 1.0)  # rise of the loss that pruning may cost, relative
    max_parameters: float = within(0.0, 1000.0)  # of the baseline's
    max_training_flops: float = within(0.0, 1000.0)  # a sample, of the baseline's
    probe_size: int = within(2, 1_000_000)  # training samples that are looked at, or all where there are fewer


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table."""

    # One row of settings each; none is for what the document's image tables do not have, as what is transferred from.
    documented_row: Literal["cifar10", "cifar100", "imagenet", "fashion_mnist", "stl10", "none"]
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
class Ablation:
    """Growing with parts left out, and with growth at other places than DNM's; `stages.ablation`."""

    row: str  # of image_classification: data, protocol, start network, and how DNM grows
    seeds: int = within(2, 1000)  # the row's first ones
    prune_at: float = within(0.0, 1.0)  # of the arm that prunes as well, as in dnm
    prune_tolerance: float = within(0.0, 1.0)  # likewise


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Accuracy of a row's networks on perturbed images; see `stages.robustness`."""

    row: str  # of image_classification
    seeds: int = within(2, 1000)  # the row's first ones
    images: int = within(1, 1_000_000)  # of the test split that attacks are made on, or all where there are fewer


@dataclass(frozen=True, kw_only=True)
class Events:
    """What each kind of edit gains over none, in runs of DNM that prune as well; see `stages.events`."""

    row: str  # of image_classification
    seeds: int = within(2, 1000)  # the row's first ones
    steps: int = within(1, 1_000_000)  # after which a network with edits is compared with one without
    prune_at: float = within(0.0, 1.0)  # as in dnm
    prune_tolerance: float = within(0.0, 1.0)  # as in dnm


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What networks trained on one row are worth on the data of another one; see `stages.transfer`."""

    documented_row: Literal["cifar10_to_stl10", "imagenet_to_cifar100", "medical_to_natural"]  # one entry each
    source: str  # of image_classification: whose networks
    target: str  # of image_classification: whose data, and whose protocol networks are fine-tuned by
    seeds: int = within(2, 1000)  # the source's first ones
    epochs: int = within(1, 1_000_000)  # of fine-tuning

    @property
    def row(self) -> str:
        """The row that it is held on: whose trials leave the networks."""
        return self.source


@dataclass(frozen=True, kw_only=True)
class Nas:
    """A search over the architectures that DNM can reach, its cost counted; see `stages.nas`."""

    row: str  # of image_classification: data, protocol, start and baseline networks, DNM's operators and limits
    seeds: int = within(2, 1000)  # the row's first ones
    cost: float = within(1e-3, 1e6)  # of a search, in training FLOPs of the seed's DNM run; the final training aside
    rungs: int = within(1, 20)  # of successive halving
    reduction: int = within(2, 100)  # one of so many candidates goes on to the next rung, for so many times the epochs
    longest: float = within(0.0, 1.0)  # epochs of the last rung, of the row's
    random: bool  # whether a search of random candidates stands beside it, for as many FLOPs


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A network that reads texts and is no encoder."""

    width: int = within(1, 65536)  # of an embedding
    hidden: int = within(1, 65536)  # units of the hidden layer, or of each direction of an LSTM
    learning_rate: float = within(1e-8, 100.0)  # in the place of the training's


@dataclass(frozen=True, kw_only=True)
class Readers:
    """Networks that read texts; encoders as blocks, each of them [heads, width inside its feed-forward layer]."""

    bag: Reader  # mean of the embeddings: a control, which sees no order
    bilstm: Reader  # the table's baseline
    width: int = within(1, 65536)  # of a token's state in an encoder
    head_size: int = within(1, 4096)  # of queries, keys and values
    transformer: tuple[tuple[int, ...], ...] = within(1, 65536)
    start: tuple[tuple[int, ...], ...] = within(1, 65536)  # what DNM grows from; nowhere wider than the transformer


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """An encoder that was trained before, as `save_pretrained` of `transformers` writes one; DNM_ENCODER overrides."""

    folder: str  # of config.json, model.safetensors and tokenizer.json, as seen from the root; nothing is downloaded


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """Networks that read texts, with a pre-trained encoder in the place of ones that nothing was learnt by before."""

    bag: Reader  # as of Readers, in the encoder's tokens
    bilstm: Reader  # likewise
    encoder: Pretrained  # what is fine-tuned: unchanged (transformer, start) and growing (dnm)


@dataclass(frozen=True, kw_only=True)
class Language:
    """A language task; see `stages.language`."""

    # What it is, or stands for, in tables; one entry each.
    task: Literal["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "squad2"]
    as_documented: bool  # whether data, training and dnm are the document's: only then can a figure be reproduced
    seeds: int = within(2, 1000)  # the same for all tasks, as GLUE's average goes over them
    data: data_settings.Language
    # The most subwords, three marks and 256 bytes included; a pre-trained encoder brings its own.
    vocabulary: int = within(259, 1_000_000)
    length: int = within(5, 65536)  # tokens that the models read
    cut: bool  # whether longer texts lose their end; they are refused otherwise
    networks: Readers | FineTuned
    training: Training  # crop_padding: 0, flip: false and early_stopping: false, which texts do not have
    dnm: Dnm  # limits are relative to the transformer


@dataclass(frozen=True, kw_only=True)
class MetaEpisodes:
    """The episodes that few-shot learners are trained on."""

    ways: int = within(2, 10_000)  # classes, of prototypical networks and dnm; of MAML as many as in test episodes
    shots: int = within(1, 10_000)  # drawings of a class to learn from
    queries: int = within(1, 10_000)  # other drawings of a class, to be recognised


@dataclass(frozen=True, kw_only=True)
class Maml:
    """How MAML adapts a network to an episode; what it starts from is trained for as many FLOPs as the other arms."""

    steps: int = within(1, 100)  # of gradient descent on the support
    rate: float = within(1e-6, 100.0)  # of their learning
    second_order: bool  # whether these steps are differentiated too when what they start from is trained
    learning_rate: float = within(1e-8, 100.0)  # the largest, of what they start from


@dataclass(frozen=True, kw_only=True)
class SupportAlone:
    """How a network is trained on an episode's support and nothing else."""

    steps: int = within(1, 100_000)  # of AdamW, each on the whole support
    learning_rate: float = within(1e-8, 100.0)


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Recognising classes never trained on from a few drawings of each; see `stages.few_shot`."""

    seeds: int = within(2, 1000)  # an interval takes two
    data: FewShotData
    networks: Networks  # start's last layer is as wide as the baseline's: features are as many in every arm
    ways: int = within(2, 1000)  # classes of a validation or test episode
    queries: int = within(1, 1000)  # drawings of each to be recognised
    episodes: int = within(600, 1_000_000)  # of the test split, for each number of shots
    validation_episodes: int = within(2, 1_000_000)  # by which the better one of two methods is chosen
    meta: MetaEpisodes
    training: Training  # its epochs count the drawings that prototypical networks and dnm see in all episodes
    maml: Maml
    support_alone: SupportAlone
    dnm: Dnm


@dataclass(frozen=True, kw_only=True)
class DetectorForm:
    """What of a detector is the same in every arm; see `stages.detectors`."""

    head: Literal["fcos", "retinanet"]
    pyramid: int = within(8, 1024)  # channels of the feature pyramid's maps, a multiple of 8
    levels: int = within(1, 6)  # blocks of the plain network that it reads, the last ones; it adds one level more
    convolutions: int = within(1, 8)  # of each of the head's towers; RetinaNet's have four


@dataclass(frozen=True, kw_only=True)
class Rival:
    """ResNet-18 under a feature pyramid, trained for the baseline's FLOPs."""

    width: int = within(8, 64)  # channels of its first stage; the published network has 64
    levels: int = within(1, 4)  # stages that the pyramid reads, the first ones; it adds one level more


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Finding objects in pictures; see `stages.detection`."""

    documented_row: Literal["coco", "pascal_voc", "open_images"]  # one entry each
    seeds: int = within(2, 1000)  # an interval takes two
    data: DetectionData
    networks: Networks  # backbones; pooling halves the maps between blocks
    detector: DetectorForm
    resnet: Rival
    training: Training
    dnm: Dnm  # its limits are those of whole detectors


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How trials run; what stands here can change bits, so it is part of every fingerprint."""

    cpu_caps: bool  # the same instruction set on every x86-64 CPU with AVX2, for the same bits
    threads: int = within(1, 256)  # a trial
    device: Literal["cpu", "cuda"]
    precision: Literal["float32", "bfloat16"]
    keep_records: bool  # finished trials leave a record in git and are not run again


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How networks are timed; see `stages.latency`."""

    compiled: bool  # whether they are timed compiled as well, which takes a minute or two a row
    seconds: float = within(0.01, 86400.0)  # of timing, for one batch size and mode


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
    ablation: dict[str, Ablation]  # by name: lower-case letters, digits, _ and -
    robustness: dict[str, Robustness]  # by name: lower-case letters, digits, _ and -
    events: dict[str, Events]  # by name: lower-case letters, digits, _ and -
    nas: dict[str, Nas]  # by name: lower-case letters, digits, _ and -
    transfer: dict[str, Transfer] = field(default_factory=dict)  # by name: lower-case letters, digits, _ and -
    latency: Latency = field(default_factory=lambda: Latency(compiled=False, seconds=1.0))
    few_shot: dict[str, FewShot] = field(default_factory=dict)  # by name: lower-case letters, digits, _ and -
    detection: dict[str, Detection] = field(default_factory=dict)  # by name: lower-case letters, digits, _ and -
    language: dict[str, Language] = field(default_factory=dict)  # by name: lower-case letters, digits, _ and -

    @property
    def documented_rows(self) -> dict[str, Row]:
        """Those of image_classification that the document's image tables have."""
        return {name: row for name, row in self.image_classification.items() if row.documented_row != NONE}


# Sections with entries that are held on a row, and those whose entries have data of their own.
ON_ROWS = ("contest", "ranking", "ablation", "robustness", "events", "nas", "transfer")
OWN_DATA = ("few_shot", "detection", "language")
SECTIONS = (*ON_ROWS, *OWN_DATA)


def row_of(section: str, name: str, entry: Any) -> str:
    """The row that an entry is held on; the entry itself where it has data of its own, prepared under its name."""
    return entry.row if section in ON_ROWS else name


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
