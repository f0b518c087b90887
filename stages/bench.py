"""The benchmark document's commands, each as targets of the DVC pipeline that measures what they are about."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from stages import cli, outputs
from stages.cli import ROOT, UserError
from stages.settings import Settings, load

ROWS = ("cifar10", "cifar100", "imagenet", "fashion-mnist", "stl10")
ARM_STAGES = {"baseline": "baseline", "dnm": "morphogenesis"}
SCALES = ("embedded", "workstation", "paper")
# What `--output` copies of a scale's results, and what says that a folder is of this kind.
COPIED = ("tables", "figures", "machine/setup.csv", "machine/setup.md", "machine/inference.md")
SOURCE, REPORT = "source.json", "report.md"
FIRST_PAGES = ("image_classification", "confidence", "runs", "protocol", "audit")


def main(arguments: Sequence[str] | None = None) -> None:
    """Ends with 0, with 1 if a stage failed, or with 2 and one message where the user can mend something."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if getattr(options, "results", None) and (options.plan or options.output):
        parser.error("--results takes neither --plan nor --output: it reads a folder that --output made")
    with cli.told(parser.prog, "what was finished is kept: run it again"):
        status = _run(options)
    raise SystemExit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnm-bench",
        description=__doc__,
        epilog="Each command runs what is out of date and nothing else; --plan says what that is. What stands in the "
        "tables is measured on the scale's own data: generated images at the embedded scale.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--scale", choices=SCALES, default="embedded", help="settings to run with (default: embedded)")
    common.add_argument("--plan", action="store_true", help="say what would run and for how long, and run nothing")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for row in ROWS:
        command = commands.add_parser(
            row, parents=[common], help=f"train on the {row} row of Image Classification", description=main_of_row(row)
        )
        command.add_argument("--baseline", action="store_true", help="the fixed baseline network")
        command.add_argument("--dnm", action="store_true", help="the growing network and its controls")
    commands.add_parser(
        "few-shot", parents=[common], help="recognise classes never trained on from 1, 5, 10 and 20 drawings of each"
    )
    commands.add_parser(
        "efficiency", parents=[common], help="memory and inference of every row's networks, and what they come from"
    )
    command = commands.add_parser("all", parents=[common], help="every row, the statistics, tables and figures")
    command.add_argument("--output", type=Path, metavar="DIR", help="copy the finished tables and figures to DIR")
    command = commands.add_parser(
        "report",
        parents=[common],
        help="the tables and figures",
        description="Brings a scale's tables and figures up to date; with --results, writes DIR/report.md from the "
        "tables and figures that `dnm-bench all --output DIR` copied, and runs nothing.",
    )
    command.add_argument("--output", type=Path, metavar="DIR", help="copy the tables and figures to DIR")
    command.add_argument("--results", type=Path, metavar="DIR", help="a folder that --output made")
    return parser


def main_of_row(row: str) -> str:
    """What the help of a row's command says."""
    return f"Trains the {row} row of Image Classification: with neither --baseline nor --dnm, both."


def _run(options: argparse.Namespace) -> int:
    if getattr(options, "results", None):
        print(f"report: {render(options.results)}")
        return 0
    _demand_pipeline()
    folder = ROOT if options.scale == "embedded" else ROOT / "scales" / options.scale
    # Before DVC is asked: it deletes what a stage is to write before the stage can refuse its settings.
    settings = load(folder / "params.yaml")
    output: Path | None = getattr(options, "output", None)
    if output:
        _demand_place(output)
    targets = _targets(options, settings)
    if options.plan:
        print(plan(settings, targets))
        return 0
    status = repro(targets)
    if status:
        print(f"error: dvc repro ended with {status}; what it says stands above", file=sys.stderr)
        return 1
    _show(options, settings)
    if output:
        export(settings.scale, output)
        print(f"copied to {output}; a page of all: dnm-bench report --results {output}")
    return 0


def _demand_pipeline() -> None:
    if not (ROOT / "dvc.yaml").exists():
        raise UserError(f"{ROOT} has no dvc.yaml; dnm-bench runs in a clone of the repository, not from a wheel")
    if importlib.util.find_spec("dvc") is None:
        raise UserError("dvc is not installed here; run `make env` and use .venv/bin/dnm-bench")


def _targets(options: argparse.Namespace, settings: Settings) -> list[str]:
    file = settings.params_file.replace("params.yaml", "dvc.yaml")
    prefix = "" if file == "dvc.yaml" else f"{file}:"
    if options.command == "all":
        return [file]
    if options.command == "report":
        return [f"{prefix}report"]
    if options.command == "efficiency":
        return [f"{prefix}efficiency@{row}" for row in settings.documented_rows]
    if options.command == "few-shot":
        return [f"{prefix}few_shot@{entry}" for entry in settings.few_shot]
    row = _row(options.command)
    if row not in settings.image_classification:
        raise UserError(
            f"{settings.params_file}: the {settings.scale} scale has no row {row}; its rows are "
            f"{', '.join(settings.image_classification)}"
        )
    chosen = [arm for arm in ARM_STAGES if getattr(options, arm)] or list(ARM_STAGES)
    return [f"{prefix}{ARM_STAGES[arm]}@{row}" for arm in chosen]


def _row(command: str) -> str:
    return command.replace("-", "_")


def repro(targets: Sequence[str]) -> int:
    """Runs `dvc repro` and returns its status."""
    # The stages' `python` is the one that runs here.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "dvc", "repro", *targets]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=False).returncode


def plan(settings: Settings, targets: Sequence[str]) -> str:
    """What `dvc repro` of the targets would run, with trials, counted cost and time."""
    from stages import environment
    from stages import plan as planning

    environment.apply(settings.execution)
    stages, looked_at = planning.out_of_date(ROOT, targets)
    return planning.page(settings, ROOT, stages, looked_at)


def _show(options: argparse.Namespace, settings: Settings) -> None:
    metrics = ROOT / "metrics" / settings.scale
    if options.command in ("all", "report"):
        print(f"tables: {metrics / 'tables'}, figures: {metrics / 'figures'}")
        return
    if options.command == "efficiency":
        print(f"counted: {metrics / 'efficiency'}, measured: {metrics / 'machine'}; tables: dnm-bench report")
        return
    if options.command == "few-shot":
        for entry, of in settings.few_shot.items():
            source = outputs.read_json(metrics / "prepare" / f"{entry}.json")["source"]
            print(f"{entry}, {settings.scale} scale, {of.ways} ways, measured on {source}, mean test accuracy:")
            for arm, figures in outputs.read_json(metrics / "few_shot" / f"{entry}.json")["arms"].items():
                shown = ", ".join(
                    f"{100 * value:.2f}% ({name.partition('/')[2].replace('_', ' ')})"
                    # 5 before 10.
                    for name, value in sorted(figures.items(), key=lambda item: (len(item[0]), item[0]))
                )
                print(f"  {arm}: {shown}")
        print("with intervals, tests and verdicts: dnm-bench report")
        return
    row = _row(options.command)
    source = outputs.read_json(metrics / "prepare" / f"{row}.json")["source"]
    print(f"{row}, {settings.scale} scale, measured on {source}:")
    for arm in [arm for arm in ARM_STAGES if getattr(options, arm)] or ARM_STAGES:
        for name, found in outputs.read_json(metrics / ARM_STAGES[arm] / f"{row}.json").items():
            spread = f" (standard deviation {100 * found['test_accuracy_std']:.2f})"
            print(
                f"  {name}: test accuracy {100 * found['test_accuracy']:.2f}%{spread}, {found['seeds']} seeds, "
                f"{found['parameters']:.0f} parameters, {found['training_flops'] / 1e9:.1f} GFLOP a trial"
            )
    print("with intervals, tests and verdicts: dnm-bench report")


def _demand_place(folder: Path) -> None:
    """Demands a folder that can be written without taking anything from anybody.

    Raises:
        UserError: it cannot.
    """
    if (ROOT / "metrics") in (folder.resolve(), *folder.resolve().parents):
        raise UserError(f"{folder} belongs to the pipeline's own results; give --output another folder")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give --output a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SOURCE).exists():
        raise UserError(f"{folder} holds files that dnm-bench did not write; give --output a new or empty folder")


def export(scale: str, folder: Path) -> None:
    """Copies a scale's tables and figures to a folder, in the place of those that an earlier call copied."""
    _demand_place(folder)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    for name in COPIED:
        source, place = ROOT / "metrics" / scale / name, folder / name
        if place.is_dir():
            shutil.rmtree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place)
        elif source.exists():
            shutil.copy(source, place)
    content = {"scale": scale, "commit": commit.stdout.strip(), "uncommitted_changes": bool(changed)}
    outputs.write_json(folder / SOURCE, content)


def render(folder: Path) -> Path:
    """Writes one page of a folder's tables and figures, and returns its path.

    Raises:
        UserError: the folder is none that `export` made.
    """
    if not (folder / SOURCE).exists():
        raise UserError(f"{folder / SOURCE} is missing; make the folder with: dnm-bench all --output {folder}")
    source = outputs.read_json(folder / SOURCE)
    changes = " with uncommitted changes" if source["uncommitted_changes"] else ""
    pages = list((folder / "tables").glob("*.md"))
    if not pages:
        raise UserError(f"{folder / 'tables'} holds no table; make them with: dnm-bench all --output {folder}")
    pages.sort(key=lambda path: (FIRST_PAGES.index(path.stem) if path.stem in FIRST_PAGES else 99, path.stem))
    setup = folder / "machine" / "setup.md"
    parts = [
        "# Benchmarks",
        "",
        f"The {source['scale']} scale, at commit {source['commit'] or 'unknown'}{changes}.",
        "",
    ]
    for path in [*pages, *([setup] if setup.exists() else [])]:
        # Under this page's own title.
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
        parts += [f"#{line}" if line.startswith("#") else line for line in lines] + [""]
    figures = sorted((folder / "figures").glob("*.svg"))
    parts += [part for path in figures for part in (f"![{path.stem}](figures/{path.name})", "")]
    outputs.write_text(folder / REPORT, "\n".join(parts))
    return folder / REPORT


if __name__ == "__main__":
    main()
