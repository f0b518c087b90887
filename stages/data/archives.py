"""Archives of published data: downloaded whole or not at all, checked, and read without being unpacked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError

from stages.data.errors import DataError, told


@dataclass(frozen=True)
class Archive:
    """A file that a data set's own site publishes.

    Attributes:
        name: of the file.
        url: where it is downloaded from.
        md5: its MD5, as the site or torchvision states it.
    """

    name: str
    url: str
    md5: str


def fetch(folder: Path, archive: Archive, otherwise: str) -> Path:
    """The archive in a folder, downloaded where it is missing.

    Args:
        folder: made where it is missing.
        archive: what is wanted.
        otherwise: what else a user can do when the download fails.

    Raises:
        DataError: it cannot be downloaded, or its checksum is another one.
    """
    path = folder / archive.name
    if not path.exists():
        _download(path, archive, otherwise)
    elif (found := checksum(path)) != archive.md5:
        raise DataError(f"{path}: its MD5 is {found}, expected {archive.md5}; delete the file and download it again")
    return path


def _download(path: Path, archive: Archive, otherwise: str) -> None:
    from torchvision.datasets.utils import download_url

    # torchvision writes under the final name and leaves what is damaged; so it gets another name and no checksum.
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        download_url(archive.url, str(path.parent), filename=partial.name)
        found = checksum(partial)
        if found != archive.md5:
            raise DataError(
                f"{path}: {partial.stat().st_size} bytes with the MD5 {found} came from {archive.url}, expected "
                f"{archive.md5}; the download broke off or the file was changed, and was removed: try again, "
                f"or {otherwise}"
            )
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        # OSError includes everything that urllib raises, of which a server's answer holds a connection.
        if isinstance(error, HTTPError):
            error.close()
        raise DataError(
            f"{path}: no such file, and {archive.url} cannot be downloaded ({told(error)}); {otherwise}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def checksum(path: Path) -> str:
    """The MD5 of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a file that can") from error


def read_members(path: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """Reads files out of a tar archive into memory; nothing is unpacked.

    Raises:
        DataError: the archive is damaged, lacks a file, or has a file that would lie outside of where it is unpacked.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                check_name(path, member.name)
                name = member.name.removeprefix("./")
                stream = archive.extractfile(member) if name in wanted and member.isfile() else None
                if stream is not None:
                    found[name] = stream.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{path}: cannot be unpacked ({told(error)}); delete the file and download it again") from error
    for name in wanted:
        if name not in found:
            raise DataError(
                f"{path}: {name} is not in it, found {', '.join(found) or 'none of its files'}; "
                "delete the file and download it again"
            )
    return found


def check_name(path: Path, name: str) -> None:
    """Refuses a file of an archive whose name leads out of the folder that the archive is unpacked into.

    Raises:
        DataError: it is absolute or has a `..`.
    """
    inner = PurePosixPath(name.replace("\\", "/"))
    if inner.is_absolute() or ".." in inner.parts:
        raise DataError(
            f"{path}: holds {name!r}, expected names inside the archive; it would write elsewhere: "
            "delete the file and download it again"
        )
