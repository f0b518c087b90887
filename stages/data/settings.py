"""Where a row's images come from: one dataclass a kind of source; what each key means stands beside its field.

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


Data = Synthetic | Digits | Files | Npz | Folder
