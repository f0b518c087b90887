"""Files that stages write: whole or not at all, and the same bytes for the same content."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        umask = os.umask(0)
        os.umask(umask)
        # mkstemp makes private files; those in git are readable like any other.
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: Path, content: Any) -> None:
    """Writes JSON with sorted keys; NaN and infinity are refused, as they are not JSON."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Writes rows under the named columns; floats are written in full, None as an empty cell."""
    write_text(path, csv_text(rows, columns))


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """What `write_csv` writes."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    for row in rows:
        # NumPy's floats are floats too, but say so in their repr.
        writer.writerow({key: repr(float(value)) if isinstance(value, float) else value for key, value in row.items()})
    return stream.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, cells as text."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


class Locked(RuntimeError):
    """Another process writes the same outputs."""


@contextlib.contextmanager
def exclusive(path: Path, patience: float = 5.0) -> Iterator[None]:
    """Holds a lock for outputs at `path`: two processes that write the same ones would mix them.

    Args:
        path: of the lock.
        patience: seconds to wait for one that holds it, which may be about to end with a pipeline that was killed.

    Raises:
        Locked: another process holds it.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    with path.open("a+") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                stream.seek(0)
                holder = stream.read().strip() or "unknown"
                raise Locked(
                    f"{path} is locked: process {holder} is writing this stage's outputs; wait until it has ended, or "
                    "end it"
                ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def machine(root: Path) -> dict[str, Any]:
    """What tells one machine and moment from another: host, processor, commit, time, versions."""
    import datetime
    import platform
    import subprocess
    from importlib import metadata

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": commit.stdout.strip(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
    }


def _processor() -> str:
    import platform

    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
