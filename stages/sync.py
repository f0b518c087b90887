"""Logs to MLflow what it does not have yet of the committed and new results of every scale."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages import cli, results, tracking
from stages.cli import ROOT, Context, UserError
from stages.schema import SettingsError, build
from stages.settings import SECTIONS, Settings, load, row_of
from stages.settings_io import read_yaml

# The pipeline's stages whose settings, as dvc.lock has them, are those of what a stage left; the last one overrides.
SETTINGS_FROM = {
    "baseline": ("prepare@{row}", "baseline@{row}"),
    "morphogenesis": ("morphogenesis@{row}",),
    "contest": ("contest@{row}",),
    "ranking": ("ranking@{row}",),
    "ablation": ("ablation@{row}",),
    "robustness": ("robustness@{row}",),
    "events": ("events@{row}",),
    "transfer": ("transfer@{row}",),
    "nas": ("nas@{row}",),
    "few_shot": ("few_shot@{row}",),
    "detection": ("detection@{row}",),
    "language": ("language@{row}",),
    "efficiency": ("efficiency@{row}",),
    "report": ("morphogenesis@{row}", "statistics"),
}


def main() -> None:
    """Exits with 0 if all results are in the store, with 1 if some could not be logged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, action="append", help="settings file of a scale; default: all scales")
    arguments = parser.parse_args()
    files = arguments.params or [ROOT / "params.yaml", *sorted(ROOT.glob("scales/*/params.yaml"))]
    with cli.told(parser.prog, "what was logged is kept: run it again"):
        raise SystemExit(sync(files))


def sync(files: list[Path], root: Path = ROOT) -> int:
    """Logs what is missing of the scales with these settings files.

    Returns:
        How many results could not be logged.

    Raises:
        UserError: MLflow is not installed.
        SettingsError: a settings file cannot be used.
    """
    if not tracking.is_installed():
        raise UserError("mlflow is not installed; `make env` installs it")
    logged, there, failed = 0, 0, 0
    for scale, stage, row, context in _results(files, root):
        try:
            if tracking.record(_as_run(context, stage), stage):
                logged += 1
                print(f"{scale}: {stage} {row} logged")
            else:
                there += 1
        except (SettingsError, UserError) as error:
            failed += 1
            print(f"{scale}: {stage} {row} was not logged: {error}", file=sys.stderr)
        except Exception as error:
            # The store's own errors are of many kinds; what it does not take now it does not take a moment later.
            print(f"error: {scale}: {stage} {row} was not logged: {error}", file=sys.stderr)
            failed += 1
            break
    print(f"sync: {logged} logged, {there} were there already, {failed} failed")
    return min(failed, 1)


def _results(files: list[Path], root: Path) -> Iterator[tuple[str, str, str, Context]]:
    """Scale, stage, row and context of everything that was measured, in the order of the pipeline."""
    for file in files:
        settings = load(file)
        for stage in results.STAGES:
            contexts = [Context(settings, root, row) for row in settings.image_classification]
            if stage in SECTIONS:
                entries = getattr(settings, stage)
                contexts = [
                    Context(settings, root, row_of(stage, name, entry), name) for name, entry in entries.items()
                ]
            for context in contexts:
                if results.has_run(context, stage):
                    yield settings.scale, stage, context.name, context


def _as_run(context: Context, stage: str) -> Context:
    """The context with the settings that the stage's results come from, which params.yaml may have left behind.

    Raises:
        UserError: dvc.lock does not know these results, or knows them under settings of an earlier version.
    """
    settings = context.settings
    params = context.root / settings.params_file
    lock = params.parent / "dvc.lock"
    stages = read_yaml(lock)["stages"] if lock.exists() else {}
    used = [name.format(row=context.name) for name in SETTINGS_FROM[stage]]
    if not all(name in stages for name in used):
        raise UserError(f"{lock.name} has no entry for {', '.join(used)}; run `dvc repro {params.parent / 'dvc.yaml'}`")
    known = {out["path"]: out["md5"] for out in stages[used[-1]]["outs"]}
    for file in results.files(context, stage):
        name = file.relative_to(context.root).as_posix()
        if known.get(name) != hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest():
            raise UserError(
                f"{name} is not what {used[-1]} left, so its settings are not known; run `dvc repro`, or restore it"
            )
    content = copy.deepcopy(read_yaml(params))
    for name in used:
        # The statistics list no settings, as they depend on the file: the row's are those that it grew with.
        for key, value in stages[name].get("params", {}).get(settings.params_file, {}).items():
            _set(content, key.split("."), value)
    try:
        return dataclasses.replace(context, settings=build(Settings, content, lock, ""))
    except SettingsError as error:
        raise UserError(
            f"{used[-1]} ran with settings of an earlier version ({error}); run "
            f"`dvc repro {params.parent / 'dvc.yaml'}`"
        ) from error


def _set(content: dict[str, Any], place: list[str], value: Any) -> None:
    for key in place[:-1]:
        content = content.setdefault(key, {})
    content[place[-1]] = value


if __name__ == "__main__":
    main()
