"""The document's object detection regenerated: its columns in mAP@[.5:.95], mAP@.5 and the controls behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.detection import ARMS
from stages.detection_statistics import DIFFERENCES
from stages.documented import Documented
from stages.inference import Verdict, rounded
from stages.tables import CELL_COLUMNS, Cells, markdown, p_value, plain, sign_flip, with_interval

DOCUMENTED = ("baseline", "sota", "dnm", "improvement")
CONTROLS = ("over_sota", "start", "scratch")
# By the ending of a column's name: the measure, and how it is written.
ENDINGS = {"": "map", "_50": "map_50"}
MEASURES = {"map": "mAP@[.5:.95]", "map_50": "mAP@.5"}
NOT_SET_UP = "no data set of this row has been measured at this scale"
HEADS = {"over_sota": "DNM - SOTA", "start": "Start (control)", "scratch": "Scratch (control)"}


def cells(documented: Documented, found: Mapping[str, Any], sources: Mapping[str, str]) -> Cells:
    """One line for each row of the document and column, its own ones first.

    Args:
        documented: the document's figures.
        found: what `stages.detection_statistics` found, by entry.
        sources: what each entry was measured on.
    """
    measured = {of["documented_row"]: name for name, of in found.items()}
    made: Cells = []
    for row, claimed in documented.tables["object_detection"].rows.items():
        name = measured.get(row)
        for ending, measure in ENDINGS.items():
            for column in (*DOCUMENTED, *CONTROLS):
                # The document says mAP and no more: its figures are held against the stricter one.
                stated = claimed.values.get(column, "") if measure == "map" else ""
                cell = dict.fromkeys(CELL_COLUMNS, "") | {
                    "row": row, "column": column + ending, "documented": plain(stated),
                    "unit": f"points of {MEASURES[measure]}" if column in DIFFERENCES else f"{MEASURES[measure]} x 100",
                }  # fmt: skip
                if name is None:
                    made.append(cell | {"verdict": str(Verdict.NOT_MEASURED), "note": NOT_SET_UP})
                    continue
                made.append(
                    cell | {"measured_on": sources[name], "protocol": "tuned"} | _measured(found[name], measure, column)
                )
    return made


def _measured(of: Mapping[str, Any], measure: str, column: str) -> dict[str, Any]:
    if column in DIFFERENCES:
        figures = of["differences"][measure][column]
        seeds = figures["num_seeds"]
        more = {key: figures[key] for key in ("documented", "verdict") if key in figures}
    else:
        figures = of["arms"][column][measure]
        seeds, more = figures["num_values"], {}
    return {
        "measured": rounded(figures["mean"]),
        "low": rounded(figures["low"]),
        "high": rounded(figures["high"]),
        "seeds": seeds,
        "note": _about(of, column),
        **more,
    }


def _about(of: Mapping[str, Any], column: str) -> str:
    return {
        "baseline": f"{of['head']} on the fixed plain network",
        "sota": f"{of['head']} on a ResNet-18 of {of['resnet_width']} to {8 * of['resnet_width']} channels, at the "
        "baseline's training FLOPs",
        "dnm": f"{of['head']} on a network that grew while the detector was trained",
        "improvement": "dnm - baseline",
        "over_sota": "dnm - sota",
        "start": "control: the start network, never grown, at dnm's FLOPs",
        "scratch": "control: dnm's final architecture from the first step, at dnm's FLOPs",
    }[column]


def page(documented: Documented, cells: Cells, found: Mapping[str, Any]) -> str:
    """The table as Markdown, and below it the differences and what was trained."""
    table = documented.tables["object_detection"]
    at = {(cell["row"], cell["column"]): cell for cell in cells}
    columns = (*DOCUMENTED, *CONTROLS)
    heads = ["Dataset", "Figures", *(table.columns[column].title for column in DOCUMENTED)]
    heads += [HEADS[column] for column in CONTROLS]
    body = []
    for row, of_row in table.rows.items():
        place = at[row, "dnm"]["measured_on"]
        if place:
            for ending, measure in ENDINGS.items():
                shown = [_shown(at[row, column + ending]) for column in columns]
                body.append([of_row.title, f"{MEASURES[measure]}, measured on {place}", *shown])
        else:
            body.append([of_row.title, "not measured at this scale", *["-"] * len(columns)])
        body.append([of_row.title, "document", *(plain(at[row, column]["documented"]) or "-" for column in columns)])
    parts = [
        f"# {table.title}", "",
        "Mean average precision times 100, mean and 95% interval over seeds. The document says mAP and neither which, "
        "nor its detectors, nor its protocol: it is held against mAP@[.5:.95], nothing is measured as documented, and "
        "`direction only` is the best that a figure can get.", "",
        *markdown(heads, body), "",
    ]  # fmt: skip
    for name, of in found.items():
        counts = "; ".join(
            f"{split} {of['samples'][split]['total']:,} images with {of['samples'][split]['objects']:,} objects"
            for split in ("train", "validation", "test")
        )
        parts += [
            f"## {name}", "",
            f"{of['classes']} classes, {of['size']} pixels; {counts}. Differences in mAP:", "", *_differences(of), "",
            "What was trained, means over seeds:", "", *_trained(of), "",
        ]  # fmt: skip
    reasons = [
        f"- {table.rows[cell['row']].title}: {cell['verdict']}: {cell['note']}"
        for cell in cells
        if cell["column"] == "dnm" and cell["verdict"] == Verdict.NOT_MEASURED
    ]
    return "\n".join([*parts, *(["## Not measured", "", *reasons, ""] if reasons else [])])


def _shown(cell: Mapping[str, Any]) -> str:
    signed = cell["column"].removesuffix("_50") in DIFFERENCES
    shown = with_interval(cell["measured"], cell["low"], cell["high"], signed=signed)
    return f"{shown} **{cell['verdict']}**" if cell["verdict"] else shown


def _differences(of: Mapping[str, Any]) -> list[str]:
    lines = []
    for measure, title in MEASURES.items():
        for name, (treatment, control) in DIFFERENCES.items():
            test = of["differences"][measure][name]
            lines.append([
                title, f"{treatment} - {control}", with_interval(test["mean"], test["low"], test["high"], signed=True),
                str(test["num_seeds"]), p_value(test["p_value"]), p_value(test["holm_p_value"]), sign_flip(test),
                test.get("verdict", ""),
            ])  # fmt: skip
    heads = [
        "Measure", "Difference", "Points", "Seeds", "t p", "Holm p over the data sets", "Sign-flip p (floor)",
        "Verdict",
    ]  # fmt: skip
    return markdown(heads, lines)


def _trained(of: Mapping[str, Any]) -> list[str]:
    lines = []
    for arm in ARMS:
        figures = of["arms"][arm]
        lines.append([
            arm, f"{figures['parameters']:,.0f}", f"{figures['forward_flops'] / 1e6:,.2f}",
            f"{figures['training_flops'] / 1e9:,.2f}", f"{figures['steps']:,.0f}", f"{figures['edits']:.1f}",
        ])  # fmt: skip
    return markdown(["Arm", "Parameters", "Forward, MFLOP", "Counted training, GFLOP", "Steps", "Edits"], lines)
