"""Writes the tables and figures of a scale."""

from __future__ import annotations

import os
from typing import Any

from stages import cli, figures, outputs, tracking
from stages.statistics import ARMS

COLOURS = {"baseline": "tab:gray", "start": "tab:blue", "dnm": "tab:red", "scratch": "tab:green"}


def main(context: cli.Context) -> None:
    """Writes `tables/`, `figures/`, `curves.csv` and `machine/setup.*` under `metrics/<scale>/`."""
    from stages import audit, contest_table, documented, ranking_table, spot_check, tables

    document = documented.load()
    rows = context.settings.image_classification
    statistics = outputs.read_json(context.metrics / "statistics" / "image_classification.json")
    sources = {name: outputs.read_json(context.metrics / "prepare" / f"{name}.json")["source"] for name in rows}
    folder = context.metrics / "tables"

    stale = spot_check.stale(context)
    cells = tables.image_classification(document, rows, statistics, sources)
    outputs.write_csv(folder / "image_classification.csv", cells, tables.CELL_COLUMNS)
    outputs.write_text(
        folder / "image_classification.md",
        tables.image_classification_page(document, cells, statistics, stale),
    )
    contests = outputs.read_json(context.metrics / "statistics" / "contest.json")
    outputs.write_csv(folder / "contest.csv", contest_table.cells(contests), contest_table.COLUMNS)
    outputs.write_text(folder / "contest.md", contest_table.page(contests, sources, stale))
    rankings = {
        name: outputs.read_json(context.metrics / "ranking" / f"{name}.json") for name in context.settings.ranking
    }
    outputs.write_text(folder / "ranking.md", ranking_table.page(rankings, sources))
    for name, budgets in contest_table.by_row(contests).items():
        drawing = contest_table.figure(name, sources[name], budgets)
        outputs.write_bytes(context.metrics / "figures" / f"contest-{name}.svg", drawing)
    for name, title, make in (
        ("runs", "Multiple Runs Analysis", tables.runs),
        ("confidence", "Confidence Intervals", tables.confidence),
    ):
        cells = make(document, rows, statistics, sources)
        outputs.write_csv(
            folder / f"{name}.csv", [{k: tables.plain(v) for k, v in c.items()} for c in cells], tables.CELL_COLUMNS
        )
        outputs.write_text(folder / f"{name}.md", tables.cells_page(title, cells))
    _write(folder / "protocol", "Training Protocols", tables.protocol(document, rows))
    _write(folder / "audit", "The document against itself", audit.audit_rows(audit.audit(document)))
    _write(context.metrics / "machine" / "setup", "Experimental Setup", _setup(context, document))
    means: list[dict[str, Any]] = []
    for name in rows:
        means += _curves(context, name, sources[name])
        _timeline(context, name)
    outputs.write_csv(context.metrics / "curves.csv", means, list(means[0]))
    tracking.log(context, "report")


def _write(path, title: str, lines: list[dict[str, Any]]) -> None:
    from stages import tables

    plain = [{key: tables.plain(value) for key, value in line.items()} for line in lines]
    outputs.write_csv(path.with_suffix(".csv"), plain, list(plain[0]))
    outputs.write_text(
        path.with_suffix(".md"), tables.page(title, list(plain[0]), [list(line.values()) for line in plain])
    )


def _setup(context: cli.Context, document) -> list[dict[str, Any]]:
    from importlib import metadata

    machine = outputs.machine(context.root)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = {"numpy": "numpy", "scipy": "scipy", "matplotlib": "matplotlib", "sklearn": "scikit-learn"}
    found = {
        "gpu": "none used" if context.settings.execution.device == "cpu" else context.settings.execution.device,
        "cpu": f"{machine['processor']}, {machine['cores']} cores",
        "ram": f"{memory:.0f} GiB",
        "storage": "not read",
        "pytorch": machine["torch"],
        "cuda": "not used" if context.settings.execution.device == "cpu" else "see torch",
        "cudnn": "not used" if context.settings.execution.device == "cpu" else "see torch",
        **{name: metadata.version(package) for name, package in packages.items()},
    }
    lines = []
    for block, row in document.tables["setup"].rows.items():
        for column, stated in row.values.items():
            lines.append({"block": block, "entry": column, "documented": stated, "here": found[column]})
    for entry in ("date", "commit", "python", "system"):
        lines.append({"block": "ours", "entry": entry, "documented": "not stated", "here": machine[entry]})
    return lines


def _curves(context: cli.Context, row: str, source: str) -> list[dict[str, Any]]:
    """Draws validation accuracy over counted training FLOPs.

    Returns:
        The mean curves of the arms, one mapping a point, for `dvc plots`.
    """
    import numpy as np

    drawing = figures.blank()
    axes = drawing.subplots()
    means = []
    for arm, colour in COLOURS.items():
        runs = _costs_and_accuracies(context, row, arm)
        for cost, accuracy in runs:
            axes.plot(cost, accuracy, color=colour, linewidth=0.6, alpha=0.3)
        # Seeds of an arm may spend different amounts: the mean goes as far as all of them.
        grid = np.linspace(max(cost[0] for cost, _ in runs), min(cost[-1] for cost, _ in runs), 50)
        mean = np.mean([np.interp(grid, cost, accuracy) for cost, accuracy in runs], axis=0)
        axes.plot(grid, mean, color=colour, label=arm, linewidth=2)
        means += [
            {"row": row, "arm": arm, "gflop": round(float(cost), 4), "validation_accuracy": round(float(accuracy), 3)}
            for cost, accuracy in zip(grid, mean, strict=True)
        ]
    axes.set(xlabel="training cost (GFLOP, counted)", ylabel="validation accuracy (%)", title=f"{row}: {source}")
    axes.grid(alpha=0.3)
    axes.legend(title="mean of the seeds")
    outputs.write_bytes(context.metrics / "figures" / f"image_classification-{row}.svg", figures.svg(drawing))
    return means


def _timeline(context: cli.Context, row: str) -> None:
    """Draws how the first seed's network grew."""
    from stages import timelines

    folder = context.metrics / "morphogenesis"
    journals = outputs.read_json(folder / f"{row}.journals.json")
    grown = next(item for item in journals if item["arm"] == "dnm" and item["seed"] == 0)
    lines = outputs.read_csv(folder / f"{row}.curves.csv")
    curve = [line for line in lines if line["arm"] == "dnm" and line["seed"] == "0"]
    batch_size = context.settings.image_classification[row].training.batch_size
    drawing = timelines.figure(grown, curve, batch_size)
    outputs.write_bytes(context.metrics / "figures" / f"timeline-{row}.svg", figures.svg(drawing))


def _costs_and_accuracies(context: cli.Context, row: str, arm: str) -> list[tuple[list[float], list[float]]]:
    runs: dict[str, tuple[list[float], list[float]]] = {}
    for point in outputs.read_csv(context.metrics / ARMS[arm] / f"{row}.curves.csv"):
        if point["arm"] == arm:
            cost, accuracy = runs.setdefault(point["seed"], ([], []))
            cost.append(float(point["flops"]) / 1e9)
            accuracy.append(100 * float(point["validation_accuracy"]))
    return list(runs.values())


if __name__ == "__main__":
    cli.main(main, has_row=False)
