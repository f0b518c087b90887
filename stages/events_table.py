"""The document's table of events regenerated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.documented import Documented
from stages.inference import Verdict, rounded
from stages.settings import Row
from stages.tables import CELL_COLUMNS, Cells, markdown, p_value, plain, sign_flip, with_interval

NOT_SET_UP = "no events have been looked at on any row at this scale"
# What the document's words come to, as fractions of a training; it says no more.
TIMES = {"Early-mid training": (0.0, 0.67), "Mid training": (0.33, 0.67), "Late training": (0.67, 1.0),
         "Throughout": (0.0, 1.0)}  # fmt: skip


def cells(documented: Documented, rows: Mapping[str, Row], found: Mapping[str, Any], sources) -> Cells:
    """The document's table.

    Args:
        documented: the document's figures.
        rows: the settings of the rows that this scale measures.
        found: what `stages.events_statistics` found, by entry; the first one fills the table.
        sources: what each row was measured on.
    """
    measured = next(iter(found.values()), None)
    made: Cells = []
    for kind, claimed in documented.tables["events"].rows.items():
        for column in ("frequency", "gain", "timing"):
            cell = dict.fromkeys(CELL_COLUMNS, "") | {"row": kind, "column": column}
            cell["documented"] = plain(claimed.values[column])
            if measured is None:
                made.append(cell | {"verdict": str(Verdict.NOT_MEASURED), "note": NOT_SET_UP})
                continue
            cell |= {"measured_on": sources[measured["row"]], "protocol": rows[measured["row"]].protocol}
            of = measured["kinds"][kind]
            if column == "frequency":
                made.append(cell | _frequency(of, claimed.values[column]))
            elif column == "gain":
                made.append(cell | _gain(of, measured["steps"]))
            else:
                made.append(cell | _timing(of, str(claimed.values[column])))
    return made


def page(cells: Cells, found: Mapping[str, Any]) -> str:
    """The table as Markdown, with the tests of the gains."""
    lines = [
        [cell["row"], cell["column"], cell["documented"], _shown(cell), cell["unit"], cell["verdict"], cell["note"]]
        for cell in cells
    ]
    heads = ["Event type", "Column", "Document", "Measured", "Unit", "Verdict", "What it is"]
    parts = ["# Morphogenesis Event Impact", "", *markdown(heads, lines), ""]
    for name, measured in found.items():
        tests = [
            [kind, str(gain["num_seeds"]), with_interval(gain["mean"], gain["low"], gain["high"], signed=True),
             p_value(gain["p_value"]), p_value(gain["holm_p_value"]),
             sign_flip(gain),
             f"{100 * of['parameters']:+.1f}%", f"{100 * of['flops']:+.1f}%",
             f"{of['taken_back']} of {of['all_events']}"]
            for kind, of in measured["kinds"].items() if (gain := of["gain"]) is not None
        ]  # fmt: skip
        heads = ["Event type", "Seeds", "Gain, points", "t p", "Holm p", "Sign-flip p (floor)", "Parameters",
                 "Forward FLOPs", "Taken back"]  # fmt: skip
        parts += [f"## {name}: gains over no edit after {measured['steps']} steps", "", *markdown(heads, tests), ""]
    return "\n".join(parts)


def _frequency(of: Mapping[str, Any], stated: Any) -> dict[str, Any]:
    events, edits = of["events"], of["edits"]
    inside = stated.low <= events["mean"] <= stated.high
    return {
        "measured": rounded(events["mean"]), "low": rounded(events["low"]), "high": rounded(events["high"]),
        "unit": "events a training", "seeds": events["num_values"],
        "note": f"{'inside' if inside else 'outside of'} the document's range; {edits['mean']:.1f} edits a training",
    }  # fmt: skip


def _gain(of: Mapping[str, Any], steps: int) -> dict[str, Any]:
    gain = of["gain"]
    if gain is None:
        return {"verdict": of["verdict"], "unit": "points", "note": "it happened on fewer than two seeds"}
    return {
        "measured": rounded(gain["mean"]), "low": rounded(gain["low"]), "high": rounded(gain["high"]),
        "unit": "points", "seeds": gain["num_seeds"], "verdict": of["verdict"],
        "note": f"validation accuracy with the event's edits of this kind, less without any edit, after {steps} steps",
    }  # fmt: skip


def _timing(of: Mapping[str, Any], stated: str) -> dict[str, Any]:
    position = of["position"]
    if position is None:
        return {"verdict": str(Verdict.NOT_MEASURED), "note": "it never happened"}
    low, high = TIMES[stated]
    inside = low <= position["mean"] <= high
    return {
        "measured": rounded(position["mean"]), "low": rounded(position["first"]), "high": rounded(position["last"]),
        "unit": "of the training",
        "note": f"mean, and first and last; {'inside' if inside else 'outside of'} {low:g} to {high:g}, as the "
        "document's words are read here; when DNM grows is a setting",
    }  # fmt: skip


def _shown(cell: Mapping[str, Any]) -> str:
    if cell["measured"] == "":
        return "not measured"
    return with_interval(cell["measured"], cell["low"], cell["high"], signed=cell["column"] == "gain")
