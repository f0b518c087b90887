"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images").

Their binary archives are used. torchvision reads those with pickles, and loading a pickle runs whatever code stands in
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from stages.data.archives import Archive, read_members
from stages.data.errors import DataError
from stages.data.published import Published
from stages.data.reading import check_labels, joined
from stages.data.splits import Images

_SIZE, _CHANNELS = 32, 3
_PIXELS = _SIZE * _SIZE * _CHANNELS
_FINE_LABELS = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


def _unpack(
    data: Published, paths: Sequence[Path], *, train: tuple[str, ...], test: str, label_bytes: int
) -> tuple[Images, Images]:
    (path,) = paths
    members = read_members(path, (*train, test))
    parts = [_records(f"{path}: {name}", members.pop(name), label_bytes, data) for name in (*train, test)]
    return joined(parts[:-1]), parts[-1]


def _records(place: str, content: bytes, label_bytes: int, data: Published) -> Images:
    """Reads records of label bytes, the last of which counts, and 32 x 32 red, green and blue bytes."""
    length = label_bytes + _PIXELS
    if len(content) == 0 or len(content) % length:
        raise DataError(
            f"{place}: {len(content)} bytes, expected a multiple of {length}, {label_bytes} for labels and 3 x 32 x 32 "
            "for pixels each; the archive is damaged or of another kind: delete it and download it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, length)
    labels = records[:, label_bytes - 1].astype(np.int64)
    check_labels(f"{place}: record", "label", labels, 0, len(data.class_names) - 1, data.name)
    planes = records[:, label_bytes:].reshape(-1, _CHANNELS, _SIZE, _SIZE)
    return Images(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels, f"{place}: record {{}}".format)


CIFAR10 = Published(
    source="cifar10",
    name="CIFAR-10",
    licence="none stated (Krizhevsky 2009)",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    size=_SIZE,
    channels=_CHANNELS,
    archives=(
        Archive(
            "cifar-10-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
        ),
    ),
    unpack=partial(
        _unpack,
        train=tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)),
        test="cifar-10-batches-bin/test_batch.bin",
        label_bytes=1,
    ),
)

CIFAR100 = Published(
    source="cifar100",
    name="CIFAR-100",
    licence="none stated (Krizhevsky 2009)",
    class_names=tuple(_FINE_LABELS.split()),
    size=_SIZE,
    channels=_CHANNELS,
    label_columns=("fine_label", "label", "labels"),
    archives=(
        Archive(
            "cifar-100-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
        ),
    ),
    # A coarse label stands before the fine one.
    unpack=partial(
        _unpack,
        train=("cifar-100-binary/train.bin",),
        test="cifar-100-binary/test.bin",
        label_bytes=2,
    ),
)
