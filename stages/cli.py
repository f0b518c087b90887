"""What every stage's command line has in common: which settings, which row, one way to fail."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stages import environment, outputs, trials
from stages.data.errors import DataError
from stages.schema import SettingsError
from stages.settings import (
    Ablation,
    Contest,
    Detection,
    Events,
    FewShot,
    Language,
    Nas,
    Ranking,
    Robustness,
    Row,
    Settings,
    Transfer,
    load,
    row_of,
)

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Context:
    """Where a stage reads and writes.

    Attributes:
        settings: the scale's settings.
        root: the repository.
        row_name: the row that the stage is for, whose data it reads, or an entry with data of its own; empty for stages
            over all rows.
        entry: the entry of a section that the stage is for, which is held on the row; empty for others.
    """

    settings: Settings
    root: Path
    row_name: str
    entry: str = ""

    @property
    def row(self) -> Row:
        """The row's settings."""
        return self.settings.image_classification[self.row_name]

    @property
    def contest(self) -> Contest:
        """The contest's settings."""
        return self.settings.contest[self.entry]

    @property
    def ranking(self) -> Ranking:
        """The ranking's settings."""
        return self.settings.ranking[self.entry]

    @property
    def ablation(self) -> Ablation:
        """The ablation's settings."""
        return self.settings.ablation[self.entry]

    @property
    def robustness(self) -> Robustness:
        """The robustness's settings."""
        return self.settings.robustness[self.entry]

    @property
    def events(self) -> Events:
        """The events' settings."""
        return self.settings.events[self.entry]

    @property
    def transfer(self) -> Transfer:
        """The transfer's settings."""
        return self.settings.transfer[self.entry]

    @property
    def nas(self) -> Nas:
        """The architecture search's settings."""
        return self.settings.nas[self.entry]

    @property
    def few_shot(self) -> FewShot:
        """The settings of few-shot learning."""
        return self.settings.few_shot[self.entry]

    @property
    def detection(self) -> Detection:
        """The settings of object detection."""
        return self.settings.detection[self.entry]

    @property
    def language(self) -> Language:
        """The language task's settings."""
        return self.settings.language[self.entry]

    @property
    def name(self) -> str:
        """What the results of a stage are named by: the entry, or the row."""
        return self.entry or self.row_name

    @property
    def metrics(self) -> Path:
        """The folder of this scale's results."""
        return self.root / "metrics" / self.settings.scale

    @property
    def data(self) -> Path:
        """The row's prepared data."""
        return self.root / "data" / "prepared" / self.settings.scale / f"{self.row_name}.safetensors"


def main(stage: Callable[[Context], None], *, has_row: bool = False, section: str = "") -> None:
    """Runs a stage from the command line; what the user can mend ends in one message and exit code 2.

    Args:
        stage: what it does.
        has_row: whether it is for one row.
        section: of the settings; where given, it is for one entry of it, and the row that this is held on.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings file of a scale")
    if has_row:
        parser.add_argument("--row", required=True, help="row of the table, as in the settings file")
    if section:
        parser.add_argument("--entry", required=True, help=f"name under {section} in the settings file")
    arguments = parser.parse_args()
    _end_with_pipeline()
    with told(parser.prog):
        row, entry = arguments.row if has_row else "", arguments.entry if section else ""
        context = make_context(arguments.params, row, section, entry)
        trials.begin(_name(), context.settings.execution)
        stage(context)


def _name() -> str:
    """Of the stage that this process runs."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.rpartition(".")[2] if spec else ""


@contextlib.contextmanager
def told(program: str, interrupted: str = "nothing was written") -> Iterator[None]:
    """Ends the process with one message: exit code 2 for what the user can mend, 130 for his interruption."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"{program}: interrupted; {interrupted}", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        message = mendable(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None


class UserError(Exception):
    """Something that the user can mend; the message says how."""


def mendable(error: Exception) -> str | None:
    """What to tell a user of an error that he can mend, or None for one that is ours."""
    first = next(iter(str(error).splitlines()), "")
    if isinstance(error, SettingsError | UserError | DataError | outputs.Locked):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return f"{error.filename}: no such file; run the stages that write it first: dvc repro"
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or first}; mend that and run it again"
    # Torch has no errors of their own for these two, on every device.
    short = any(text in str(error).lower() for text in ("out of memory", "not enough memory", "allocate memory"))
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and short):
        return f"out of memory ({first}); lower batch_size or the networks' widths, or set DNM_WORKERS=1"
    if isinstance(error, RuntimeError | AssertionError) and ("NVIDIA" in first or "CUDA enabled" in first):
        return f"execution.device is cuda, but there is none to use ({first}); write cpu, or run it where there is one"
    return None


def make_context(params: Path, row: str, section: str = "", entry: str = "") -> Context:
    """Reads the settings and sets the process up for them.

    Raises:
        SettingsError: the settings cannot be used, or the row or entry does not exist.
    """
    settings = load(params)
    own = ROOT / settings.params_file
    if own.exists() and not own.samefile(params):
        # What it gives would stand where the results of the scale's own settings belong.
        raise SettingsError(
            f"{params}: scale is {settings.scale}, whose settings are {own}; expected another scale or that file"
        )
    rows = settings.image_classification
    if row and row not in rows:
        raise SettingsError(f"{params}: row {row!r} does not exist; the rows are {', '.join(rows)}")
    entries = getattr(settings, section) if section else {}
    if section and entry not in entries:
        raise SettingsError(f"{params}: {section}.{entry} does not exist; there are {', '.join(entries)}")
    _demand_own_library()
    environment.apply(settings.execution)
    return Context(settings, ROOT, row_of(section, entry, entries[entry]) if section else row, entry)


def _end_with_pipeline() -> None:
    """Ends this process soon after a `dvc` above it is gone: one that was killed cannot end what it had started."""
    # DVC brings it; where there is none, there is no pipeline to end with.
    with contextlib.suppress(ImportError):
        import psutil

        above = [process for process in psutil.Process().parents() if _is_dvc(process.cmdline())]
        if above:
            threading.Thread(target=_wait_and_end, args=(above[0].wait,), daemon=True).start()


def _is_dvc(command: list[str]) -> bool:
    return any(Path(part).name == "dvc" for part in command[:4])


def _wait_and_end(wait: Callable[[], object]) -> None:
    wait()
    print("the pipeline that started this stage is gone: ending", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _demand_own_library() -> None:
    # With an editable install of another checkout, figures would come from code that is not the one beside them.
    found = importlib.util.find_spec("dnm")
    origin = Path(found.origin).resolve() if found and found.origin else None
    if origin is None or ROOT not in origin.parents:
        raise UserError(f"dnm is imported from {origin}, expected from {ROOT}; run stages from the repository's root")
