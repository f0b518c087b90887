"""Where a row's images, or a task's texts, come from: one dataclass a kind of source; each key's meaning beside it.

A `folder` is seen from the repository's root. An environment variable takes its place for every row of its source:
DNM_ and the source in capitals, as in DNM_CIFAR10 or DNM_PNEUMONIA_MNIST.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stages.schema import within


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Images drawn by `stages.data.synthetic`."""

    source: Literal["synthetic"]
    classes: int = within(2, 1000)
    size: int = within(8, 64)  # height and width, pixels
    channels: int = within(1, 3)
    train: int = within(2)  # samples before the validation split is taken
    test: int = within(1)  # samples
    difficulty: float = within(0.0, 1.0)
    seed: int = within(0)  # of the classes and samples
    validation: float = within(0.01, 0.5)  # fraction of train


@dataclass(frozen=True, kw_only=True)
class Lesions:
    """Grey images of tissue with lesions, drawn by `stages.data.lesions`."""

    source: Literal["lesions"]
    classes: int = within(2, 6)  # kinds of lesion, none being the first
    size: int = within(8, 64)  # height and width, pixels
    train: int = within(2)  # samples before the validation split is taken
    test: int = within(1)  # samples
    difficulty: float = within(0.0, 1.0)
    seed: int = within(0)  # of the samples
    validation: float = within(0.01, 0.5)  # fraction of train

    @property
    def channels(self) -> int:
        """Of the images, which are grey."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Digits:
    """scikit-learn's handwritten digits, distorted by `stages.data.digits`: 16 x 16 pixels, one channel."""

    source: Literal["digits"]
    train: int = within(20)  # samples before the validation split is taken; with test at most 1,797
    test: int = within(1)  # samples
    distortion: float = within(0.0, 1.0)
    seed: int = within(0)  # of the splits and distortions
    validation: float = within(0.01, 0.5)  # fraction of train


@dataclass(frozen=True, kw_only=True)
class Files:
    """A published data set from its Parquet files or its own archives, which are downloaded where both are missing."""

    source: Literal["cifar10", "cifar100", "fashion_mnist", "stl10"]
    folder: str  # train.parquet and test.parquet, their shards as Hugging Face names them, or the archives
    seed: int = within(0)  # of the validation split
    validation: float = within(0.01, 0.5)  # fraction of train


@dataclass(frozen=True, kw_only=True)
class Npz:
    """A published data set in one npz file, with a validation split of its own."""

    source: Literal["pneumonia_mnist"]
    folder: str  # of the file, or the file; downloaded where it is missing


@dataclass(frozen=True, kw_only=True)
class Folder:
    """PNG and JPEG files in one folder a class, made square RGB images: ImageNet, or images of one's own."""

    source: Literal["imagenet", "folder"]
    folder: str  # train/<class>/ and, as test images, test/<class>/ or (always for ImageNet) val/<class>/
    size: int = within(8, 512)  # height and width, pixels: the shorter side is scaled to it, the longer one cropped
    per_class: int = within(0)  # images of a class and split, the first by name; 0 takes all
    seed: int = within(0)  # of the validation split
    validation: float = within(0.01, 0.5)  # fraction of train; not used where val/ stands beside test/


Data = Synthetic | Lesions | Digits | Files | Npz | Folder


@dataclass(frozen=True, kw_only=True)
class Characters:
    """Characters drawn by `stages.data.few_shot.characters`: no class is in two splits."""

    source: Literal["characters"]
    train: int = within(2, 10_000)  # classes
    validation: int = within(2, 10_000)  # classes
    test: int = within(2, 10_000)  # classes
    drawings: int = within(2, 10_000)  # of a class
    size: int = within(8, 64)  # height and width, pixels
    distortion: float = within(0.0, 1.0)
    seed: int = within(0)  # of the classes and drawings


@dataclass(frozen=True, kw_only=True)
class Omniglot:
    """Omniglot's published archives, which are downloaded where they are missing; an alphabet is in one split."""

    source: Literal["omniglot"]
    folder: str  # of the archives
    background: tuple[str, ...]  # archives, without .zip, whose alphabets are trained on
    evaluation: tuple[str, ...]  # archives whose alphabets are the test split, and left out of training
    validation: tuple[str, ...]  # alphabets of background that are the validation split
    turned: bool  # whether training characters turned by 90, 180 and 270 degrees count as further classes
    size: int = within(8, 105)  # height and width that drawings are averaged down to, pixels


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """Images in miniImageNet's layouts."""

    source: Literal["class_folders"]
    folder: str  # train/<class>/, val/<class>/ and test/<class>/, or images/ and a list for each of them
    size: int = within(8, 512)  # height and width, pixels: the shorter side is scaled to it, the longer one cropped
    per_class: int = within(0)  # images of a class, the first by name or in the list; 0 takes all


# Of few-shot learning: splits that have no class in common.
FewShotData = Characters | Omniglot | ClassFolders


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Scenes of objects with boxes, drawn by `stages.data.detection.scenes`."""

    source: Literal["scenes"]
    size: int = within(32, 256)  # height and width, pixels
    classes: int = within(2, 32)
    imbalance: float = within(1.0, 1000.0)  # how much more frequent the first class is than the last, along 1/rank
    fewest: int = within(1, 6)  # objects of a scene
    most: int = within(1, 6)  # at least fewest
    smallest: float = within(0.08, 0.8)  # an object's longer side, before it is turned, as a fraction of the image's
    largest: float = within(0.08, 0.8)  # at least smallest
    train: int = within(1)  # scenes
    validation: int = within(1)  # scenes
    test: int = within(1)  # scenes
    difficulty: float = within(0.0, 1.0)  # scales clutter, loss of contrast and noise
    seed: int = within(0)  # of all scenes


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """A published set of pictures with boxes, in its own layout; all pixels are held in memory."""

    source: Literal["coco", "voc", "open_images"]
    folder: str  # of COCO's annotations/, of one year of VOC as VOCdevkit/VOC2007, of Open Images' tables
    train: str  # name of the split that is trained on: train2017, trainval, train
    test: str  # name of another one that has annotations: val2017, test, test
    size: int = within(32, 1024)  # height and width, pixels: the longer side is scaled to it, the rest is black
    images: int = within(0)  # of each split, the first ones; 0 takes all
    flat: float = within(0.0, 0.01)  # most boxes without area that are left out, a fraction; COCO has 2 of 860,001
    seed: int = within(0)  # of the validation split
    validation: float = within(0.01, 0.5)  # fraction of the images that are trained on


# Of object detection.
DetectionData = Scenes | Annotated


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """Sentences written by `stages.data.language.grammars`."""

    source: Literal["acceptability", "entailment", "sentiment", "questions"]
    train: int = within(4)  # samples before the validation split is taken; even, as they come in pairs
    test: int = within(2)  # samples, even
    clauses: int = within(1, 3)  # how deep sentences nest, or how many facts they tell
    seed: int = within(0)  # of the sentences and of the validation split
    validation: float = within(0.01, 0.5)  # fraction of train


@dataclass(frozen=True, kw_only=True)
class Glue:
    """One of GLUE's tasks, from files."""

    source: Literal["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"]
    folder: str  # train.parquet and validation.parquet, their shards or parts, or GLUE's train.tsv and dev.tsv
    seed: int = within(0)  # of the validation split
    validation: float = within(0.01, 0.5)  # fraction of train


@dataclass(frozen=True, kw_only=True)
class Squad:
    """SQuAD 2.0, from files."""

    source: Literal["squad2"]
    folder: str  # train.parquet and validation.parquet, their shards, or train-v2.0.json and dev-v2.0.json
    seed: int = within(0)  # of the validation split, which parts articles, not questions
    validation: float = within(0.01, 0.5)  # fraction of train


Language = Grammar | Glue | Squad
