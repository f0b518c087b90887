"""The document's ablation studies regenerated, and ours: other places, times and new units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.ablation_statistics import COMPONENTS
from stages.documented import Documented
from stages.inference import Verdict, rounded
from stages.settings import Row
from stages.tables import CELL_COLUMNS, Cells, markdown, p_value, sign_flip, with_interval

NO_ABLATION = "no ablation is set up on this row at this scale"
ROW = "cifar10"
# What a row of the document is here; the document does not say what its rows are.
ARMS = {
    "baseline": "the baseline network",
    "detection": "the start network with looks and no operator, over the start network",
    "division": "+ divisions",
    "connection": "+ residual branches",
    "full": "+ gates and pruning",
}
THEORIES = {
    "information": "grown with information theory, over grown with no theory",
    "ntk": "+ tangent kernel",
    "manifold": "+ manifold learning",
    "full": "all five (also the expressivity bottleneck and the gradient), over none",
}
CONTROLS = {
    "start": "the start network for as many epochs, never grown",
    "placebo": "looks at the same times, no edit",
    "random": "as many parameters and branches at the same times, at random places",
    "uniform": "as many parameters at the same times, all layers by one factor; the same branches",
    "plateau": "grows when the validation loss falls no more",
    "twin": "units split in two instead of units without output",
    "full": "every operator, and prunes before the end",
}


def components(documented: Documented, rows: Mapping[str, Row], found: Mapping[str, Any], sources) -> Cells:
    """The document's table of components, and the start network that the contributions count from.

    Args:
        documented: the document's figures.
        rows: the settings of the rows that this scale measures.
        found: what `stages.ablation_statistics` found, by ablation.
        sources: what each row was measured on.
    """
    measured = _on_row(rows, found)
    cells: Cells = []
    for name, claimed in documented.tables["ablation_components"].rows.items():
        accuracy = _cell(name, "accuracy", claimed.values.get("accuracy", ""), "%", measured, rows, sources)
        contribution = _cell(
            name, "contribution", claimed.values.get("contribution", ""), "points", measured, rows, sources
        )
        if measured is not None:
            arm = COMPONENTS[name][0] if name in COMPONENTS else name
            accuracy |= _level(measured["arms"][arm]["test_accuracy"], ARMS[name])
            if name in COMPONENTS:
                contribution |= _difference(measured["components"][name], ARMS[name])
            else:
                contribution["note"] = "the first row: the document has none either"
        cells += [accuracy, contribution]
    start = _cell("start", "accuracy", "", "%", measured, rows, sources)
    if measured is not None:
        start |= _level(measured["arms"]["start"]["test_accuracy"], "control: " + CONTROLS["start"])
    return [*cells, start]


def theories(documented: Documented, rows: Mapping[str, Row], found: Mapping[str, Any], sources) -> Cells:
    """The document's table of theories, and the synergy that it speaks of; arguments as for `components`."""
    measured = _on_row(rows, found)
    cells: Cells = []
    for name, claimed in documented.tables["ablation_theories"].rows.items():
        impact = _cell(name, "impact", claimed.values["impact"], "points", measured, rows, sources)
        if measured is not None:
            impact |= _difference(measured["theories"][name], THEORIES[name])
        benefit = _cell(name, "key_benefit", claimed.values["key_benefit"], "", measured, rows, sources)
        benefit |= {"verdict": "", "note": "words, no figure: nothing that could be measured"}
        cells += [impact, benefit]
    stated = [documented.number("ablation_theories", name, "impact") for name in THEORIES]
    synergy = _cell("synergy", "impact", rounded(stated[-1] - sum(stated[:-1])), "points", measured, rows, sources)
    if measured is not None:
        note = "full less the sum of the three parts; the document's own figures give less than nothing"
        synergy |= _figures(measured["synergy"], note)
    return [*cells, synergy]


def controls(rows: Mapping[str, Row], found: Mapping[str, Any], sources) -> Cells:
    """DNM less other arms, test accuracy in points; arguments as for `components`."""
    cells: Cells = []
    for measured in found.values():
        for arm, difference in measured["controls"].items():
            cell = _cell(f"dnm - {arm}", "accuracy", "", "points", measured, rows, sources)
            cells.append(cell | _figures(difference, CONTROLS[arm]))
    return cells


def page(title: str, cells: Cells, found: Mapping[str, Any], table: str) -> str:
    """A table as Markdown, and under it the arms and tests.

    Args:
        title: of the page.
        cells: what `components`, `theories` or `controls` gave.
        found: as there.
        table: key of the statistics that are shown in full: "components", "theories" or "controls".
    """
    shown = [
        [cell["row"], cell["column"], str(cell["documented"]), _shown(cell), str(cell["verdict"]), cell["note"]]
        for cell in cells
    ]
    parts = [f"# {title}", "", *markdown(["Row", "Column", "Document", "Measured", "Verdict", "What it is"], shown), ""]
    for name, measured in found.items():
        parts += [f"## {name}: tests", "", *_tests(measured[table]), ""]
        parts += [f"## {name}: arms", "", *_arms(measured["arms"]), ""]
    return "\n".join(parts)


def _on_row(rows: Mapping[str, Row], found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The ablation on the row that the document's ablations are on."""
    return next((item for item in found.values() if rows[item["row"]].documented_row == ROW), None)


def _cell(row: str, column: str, stated: Any, unit: str, measured: Mapping[str, Any] | None, rows, sources) -> dict:
    cell = dict.fromkeys(CELL_COLUMNS, "") | {"row": row, "column": column, "documented": stated, "unit": unit}
    if measured is None:
        return cell | {"verdict": str(Verdict.NOT_MEASURED), "note": NO_ABLATION}
    return cell | {"measured_on": sources[measured["row"]], "protocol": rows[measured["row"]].protocol}


def _level(figures: Mapping[str, Any], note: str) -> dict[str, Any]:
    return {**_bounds(figures), "seeds": figures["num_values"], "note": note}


def _difference(figures: Mapping[str, Any], note: str) -> dict[str, Any]:
    return {**_figures(figures, note), "verdict": figures["verdict"]}


def _figures(figures: Mapping[str, Any], note: str) -> dict[str, Any]:
    return {**_bounds(figures), "seeds": figures["num_seeds"], "note": note}


def _bounds(figures: Mapping[str, Any]) -> dict[str, float]:
    return {"measured": rounded(figures["mean"]), "low": rounded(figures["low"]), "high": rounded(figures["high"])}


def _shown(cell: Mapping[str, Any]) -> str:
    if cell["measured"] == "":
        return "not measured" if cell["verdict"] == Verdict.NOT_MEASURED else "-"
    return with_interval(cell["measured"], cell["low"], cell["high"], signed=cell["unit"] == "points")


def _tests(figures: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    lines = [
        [
            name, with_interval(found["mean"], found["low"], found["high"], signed=True), p_value(found["p_value"]),
            p_value(found["holm_p_value"]) if "holm_p_value" in found else "-",
            sign_flip(found),
            f"[{found['bootstrap_low']:+.2f}, {found['bootstrap_high']:+.2f}]",
        ]
        for name, found in figures.items()
    ]  # fmt: skip
    return markdown(["Row", "Points", "t p", "Holm p", "Sign-flip p (floor)", "Bootstrap CI"], lines)


def _arms(arms: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    lines = []
    for arm, figures in arms.items():
        accuracy = figures["test_accuracy"]
        lines.append([
            arm, f"{with_interval(accuracy['mean'], accuracy['low'], accuracy['high'])} %", str(accuracy["num_values"]),
            f"{figures['parameters']['mean']:,.0f}", f"{figures['training_flops']['mean'] / 1e9:,.1f}",
            f"{figures['edits']['mean']:.1f}",
        ])  # fmt: skip
    return markdown(["Arm", "Test accuracy", "Seeds", "Parameters", "GFLOP", "Edits"], lines)
