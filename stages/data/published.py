"""Published sets of small images: from Parquet files or, where a folder has none, from their sites' own archives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.data import archives, parquet, pictures
from stages.data.reading import Reading
from stages.data.splits import Images


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is known of a data set.

    Attributes:
        source: its name in settings.
        name: its name in tables.
        licence: as its authors state it.
        class_names: of labels 0, 1, ...
        size: height and width, pixels.
        channels: 1 or 3.
        label_columns: what Parquet files may call the labels.
        archives: files of its own site.
        unpack: reads the archives, whose checksums were compared, given this and their paths: training and test
            images.
    """

    source: str
    name: str
    licence: str
    class_names: tuple[str, ...]
    size: int
    channels: int
    label_columns: tuple[str, ...] = ("label", "labels")
    archives: tuple[archives.Archive, ...]
    unpack: Callable[[Published, Sequence[Path]], tuple[Images, Images]]

    @property
    def otherwise(self) -> str:
        """What a user can do where files are missing."""
        names = " and ".join(archive.name for archive in self.archives)
        return (
            f"put train.parquet and test.parquet or {names} there, or set DNM_{self.source.upper()} to a folder that "
            "has them"
        )


def read(data: Published, folder: Path) -> Reading:
    """Reads the Parquet files of a folder or, where it has none, the archives, which are downloaded if missing.

    Raises:
        DataError: as `parquet.read`, `archives.fetch` and the data set's `unpack`.
    """
    if parquet.present(folder):
        train, notes = parquet.read(folder, "train", data)
        test, test_notes = parquet.read(folder, "test", data)
        note = " and ".join(sorted(notes | test_notes))
    else:
        paths = [archives.fetch(folder, archive, data.otherwise) for archive in data.archives]
        train, test = data.unpack(data, paths)
        note = pictures.LOSSLESS
    return Reading(
        train=train,
        test=test,
        class_names=data.class_names,
        # An encoding that loses something is said in every table.
        source=data.name if note == pictures.LOSSLESS else f"{data.name} ({note})",
        licence=data.licence,
        note=note,
        published=True,
    )
