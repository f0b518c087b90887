"""The architecture search as a table: what it reaches beside baseline, DNM and a random search, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.documented import Documented
from stages.inference import Verdict, rounded
from stages.nas_statistics import DIFFERENCES
from stages.settings import Row
from stages.tables import CELL_COLUMNS, NO_ROW, NO_SEARCH, Cells, by_row, markdown, p_value, sign_flip, with_interval

ARMS = {
    "baseline": "test accuracy of the row's baseline, on the search's seeds",
    "nas": "test accuracy of the best architecture, trained anew as the baseline is",
    "nas_random": "control: the same with random candidates, at the same search cost",
    "dnm": "test accuracy of dnm, on the search's seeds",
}
COSTS = {
    "search": ("search cost", "x DNM run", "counted FLOPs of all that the search trained"),
    "total": ("total cost", "x DNM run", "search and final training"),
    "candidates": ("candidates", "", "architectures that a search trained, on one rung at least"),
}
NOT_RANDOM = "the random control is not set up for this row"


def cells(documented: Documented, rows: Mapping[str, Row], found: Mapping[str, Any], sources) -> Cells:
    """One line for each row of the document and figure.

    Args:
        documented: the document's figures.
        rows: the settings of the rows that this scale measures.
        found: what `stages.nas_statistics` found, by entry; the first one of a row fills it.
        sources: what each row was measured on.
    """
    measured = {row.documented_row: name for name, row in rows.items()}
    first = by_row(found)
    made: Cells = []
    for row, claimed in documented.tables["image_classification"].rows.items():
        name = measured.get(row)
        of = first.get(name) if name else None
        for column in (*ARMS, *DIFFERENCES, "parameters", *(title for title, _, _ in COSTS.values())):
            cell = dict.fromkeys(CELL_COLUMNS, "") | {"row": row, "column": column}
            if column in ARMS:
                cell |= {"documented": claimed.values.get(column, ""), "unit": "%"}
            if name is None or of is None:
                reason = NO_ROW if name is None else NO_SEARCH
                made.append(cell | {"verdict": str(Verdict.NOT_MEASURED), "note": reason})
                continue
            cell |= {"measured_on": sources[name], "protocol": rows[name].protocol}
            made.append(cell | _measured(of, column))
    return made


def page(cells: Cells, found: Mapping[str, Any]) -> str:
    """The table as Markdown, the tests of the differences, and the networks that were found."""
    shown = [
        [
            cell["row"], cell["column"], str(cell["documented"]),
            "not measured" if cell["measured"] == "" else with_interval(
                cell["measured"], cell["low"], cell["high"], signed=cell["column"] in DIFFERENCES
            ),
            cell["unit"], str(cell["seeds"]), str(cell["verdict"]), cell["note"],
        ]
        for cell in cells
    ]  # fmt: skip
    heads = ["Row", "Figure", "Document", "Measured", "Unit", "Seeds", "Verdict", "What it is"]
    parts = ["# Architecture search", "", *markdown(heads, shown), "", "## Differences in test accuracy", ""]
    tests = [
        [
            of["row"], name, with_interval(*(rounded(test[key]) for key in ("mean", "low", "high")), signed=True),
            p_value(test["p_value"]), p_value(test["holm_p_value"]) if "holm_p_value" in test else "-",
            sign_flip(test), str(test["num_seeds"]),
        ]
        for of in found.values()
        for name, test in of["differences"].items()
    ]  # fmt: skip
    parts += markdown(["Row", "Difference", "Points", "t p", "Holm p", "Sign-flip p (floor)", "Seeds"], tests)
    for name, of in found.items():
        networks = [
            [
                item["arm"], str(item["seed"]), str(item["widths"]).replace(" ", ""),
                ", ".join(f"{operator} {at}" for operator, at, _ in item["branches"]) or "-",
                f"{item['parameters']:,.0f}", f"{item['training_flops'] / 1e9:,.1f}",
                f"{100.0 * item['test_accuracy']:.2f}",
            ]
            for item in of["found"]
        ]  # fmt: skip
        heads = ["Search", "Seed", "Widths", "Branches", "Parameters", "Final training, GFLOP", "Test accuracy, %"]
        parts += ["", f"## {name}: what was found on {of['row']}", "", *markdown(heads, networks)]
    return "\n".join([*parts, ""])


def _measured(of: Mapping[str, Any], column: str) -> dict[str, Any]:
    if column in ARMS:
        if column not in of["arms"]:
            return {"verdict": str(Verdict.NOT_MEASURED), "note": NOT_RANDOM}
        return _figure(of["arms"][column]["test_accuracy"]) | {"note": ARMS[column]}
    if column in DIFFERENCES:
        if column not in of["differences"]:
            return {"verdict": str(Verdict.NOT_MEASURED), "note": NOT_RANDOM}
        test = of["differences"][column]
        shown = {"documented": test.get("documented", ""), "verdict": test.get("verdict", ""), "unit": "points"}
        return shown | {
            "measured": rounded(test["mean"]), "low": rounded(test["low"]), "high": rounded(test["high"]),
            "seeds": test["num_seeds"], "note": "paired over seeds, test accuracy",
        }  # fmt: skip
    if column == "parameters":
        return _figure(of["arms"]["nas"]["parameters"]) | {"note": "of the best architecture"}
    key = next(key for key, (title, _, _) in COSTS.items() if title == column)
    _, unit, note = COSTS[key]
    return _figure(of["searches"]["nas"][key]) | {
        "unit": unit, "note": f"{note}; at most {of['cost']:g}" if key == "search" else note,
    }  # fmt: skip


def _figure(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "measured": rounded(summary["mean"]), "low": rounded(summary["low"]), "high": rounded(summary["high"]),
        "seeds": summary["num_values"],
    }  # fmt: skip
