"""Writes the tables and figures of a scale."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from stages import cli, figures, outputs, tracking
from stages.statistics import ARMS

# What the statistics are of.
FOUND = (
    "image_classification", "nas", "convergence", "contest", "ablation", "events", "robustness", "transfer", "few_shot",
    "detection", "language",
)  # fmt: skip
COLOURS = {"baseline": "tab:gray", "start": "tab:blue", "dnm": "tab:red", "scratch": "tab:green"}


def main(context: cli.Context) -> None:
    """Writes `tables/`, `figures/`, `curves.csv` and `machine/setup.*` under `metrics/<scale>/`."""
    from stages import (
        ablation_table,
        achievements,
        audit,
        contest_table,
        convergence,
        detection_table,
        documented,
        efficiency_table,
        events_table,
        few_shot_table,
        language_table,
        nas_table,
        partial,
        ranking_table,
        robustness_table,
        spot_check,
        tables,
        transfer_table,
    )

    document = documented.load()
    context = partial.measured(context)
    rows, all_rows, tasks = (
        context.settings.documented_rows,
        context.settings.image_classification,
        context.settings.language,
    )
    few_shot = context.settings.few_shot
    sources = {
        name: outputs.read_json(context.metrics / "prepare" / f"{name}.json")["source"]
        for name in (*all_rows, *few_shot, *context.settings.detection, *tasks)
    }
    folder, drawings = context.metrics / "tables", context.metrics / "figures"
    found = {name: outputs.read_json(context.metrics / "statistics" / f"{name}.json") for name in FOUND}
    images, ablations = found["image_classification"], found["ablation"]
    stale = spot_check.stale(context)
    written: dict[str, tables.Cells] = {}

    def put(
        name: str,
        cells: tables.Cells,
        page: Callable[[tables.Cells], str],
        columns: Sequence[str] = tables.CELL_COLUMNS,
    ) -> None:
        outputs.write_csv(folder / f"{name}.csv", cells, columns)
        outputs.write_text(folder / f"{name}.md", page(cells))
        written[name] = cells

    def titled(title: str) -> Callable[[tables.Cells], str]:
        return lambda cells: tables.cells_page(title, cells)

    own = {name: trials for name, trials in stale.items() if name in rows}
    put(
        "image_classification",
        tables.image_classification(document, rows, images, sources, found["nas"]),
        lambda cells: tables.image_classification_page(document, cells, images, own),
    )
    put(
        "nas", nas_table.cells(document, rows, found["nas"], sources), lambda cells: nas_table.page(cells, found["nas"])
    )
    put(
        "convergence",
        convergence.table(document, rows, found["convergence"], sources),
        titled("Convergence Speed Comparison"),
    )
    put(
        "contest",
        contest_table.cells(found["contest"]),
        lambda cells: contest_table.page(found["contest"], sources, stale),
        contest_table.COLUMNS,
    )
    for name, title, key, cells in (
        ("ablation_components", "Component Contribution Analysis", "components",
         ablation_table.components(document, rows, ablations, sources)),
        ("ablation_theories", "Theoretical Framework Impact", "theories",
         ablation_table.theories(document, rows, ablations, sources)),
        ("ablation_controls", tables.OWN_TABLES["ablation_controls"], "controls",
         ablation_table.controls(rows, ablations, sources)),
    ):  # fmt: skip
        put(name, cells, lambda cells, title=title, key=key: ablation_table.page(title, cells, ablations, key))
    put(
        "events",
        events_table.cells(document, rows, found["events"], sources),
        lambda cells: events_table.page(cells, found["events"]),
    )
    put(
        "robustness",
        robustness_table.cells(document, rows, found["robustness"], sources),
        lambda cells: robustness_table.page(cells, found["robustness"]),
    )
    put(
        "transfer",
        transfer_table.cells(document, all_rows, found["transfer"], sources),
        lambda cells: transfer_table.page(document, cells, found["transfer"]),
    )
    put(
        "few_shot",
        few_shot_table.cells(document, few_shot, found["few_shot"], sources),
        lambda cells: few_shot_table.page(document, cells, found["few_shot"]),
        few_shot_table.COLUMNS,
    )
    put(
        "object_detection",
        detection_table.cells(document, found["detection"], sources),
        lambda cells: detection_table.page(document, cells, found["detection"]),
    )
    read = {name: sources[name] for name in tasks}
    put(
        "language",
        language_table.cells(document, found["language"], read),
        lambda cells: language_table.page(document, cells, found["language"], read),
    )
    put(
        "achievements",
        achievements.cells(
            document, images, found["convergence"], found["robustness"], found["events"], found["transfer"],
            found["few_shot"],
        ),
        titled("Key Achievements"),
    )  # fmt: skip
    for name, title, make in (
        ("runs", "Multiple Runs Analysis", tables.runs),
        ("confidence", "Confidence Intervals", tables.confidence),
    ):
        cells = make(document, rows, images, sources)
        put(name, [{key: tables.plain(value) for key, value in cell.items()} for cell in cells], titled(title))
    files = {name: context.metrics / "efficiency" / f"{name}.json" for name in rows}
    counted = {name: outputs.read_json(file) for name, file in files.items() if partial.has_run(context, file)}
    for name, make in (("memory", efficiency_table.memory), ("inference", efficiency_table.inference)):
        cells = make(document, {row: rows[row] for row in counted}, counted, sources)
        put(name, cells, titled(document.tables[name].title))
    put("verdicts", tables.verdicts(document, written), tables.verdicts_page, tables.VERDICT_COLUMNS)

    rankings = {
        name: outputs.read_json(context.metrics / "ranking" / f"{name}.json") for name in context.settings.ranking
    }
    outputs.write_text(folder / "ranking.md", ranking_table.page(rankings, sources))
    files = {name: context.metrics / "machine" / f"efficiency-{name}.json" for name in rows}
    timed = {name: outputs.read_json(file) for name, file in files.items() if file.exists()}
    page = efficiency_table.measured_page(document, rows, timed, sources)
    outputs.write_text(context.metrics / "machine" / "inference.md", page)
    _write(folder / "protocol", "Training Protocols", tables.protocol(document, rows))
    _write(folder / "audit", "The document against itself", audit.audit_rows(audit.audit(document)))
    _write(context.metrics / "machine" / "setup", "Experimental Setup", _setup(context, document))
    outputs.write_text(folder / "index.md", tables.index(document, folder, stale))
    for name, perturbed in found["robustness"].items():
        drawing = robustness_table.figure(f"{perturbed['row']}: {sources[perturbed['row']]}", perturbed)
        outputs.write_bytes(drawings / f"robustness-{name}.svg", drawing)
    for name, budgets in contest_table.by_row(found["contest"]).items():
        outputs.write_bytes(drawings / f"contest-{name}.svg", contest_table.figure(name, sources[name], budgets))
    means: list[dict[str, Any]] = []
    for name in rows:
        means += _curves(context, name, sources[name])
        _timeline(context, name)
    if means:
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
    """Draws how the first seed's network grew, where its journal says from what; that of older code does not."""
    from stages import timelines

    folder = context.metrics / "morphogenesis"
    journals = outputs.read_json(folder / f"{row}.journals.json")
    grown = next(item for item in journals if item["arm"] == "dnm" and item["seed"] == 0)
    if "start_widths" not in grown:
        return
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
