"""The document's domain transfer regenerated: fine-tuning beside its figures, the probe and the controls below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.documented import Documented
from stages.inference import Verdict, rounded
from stages.settings import Row
from stages.settings_checks import PAIRS
from stages.tables import CELL_COLUMNS, Cells, markdown, p_value, plain, sign_flip, with_interval
from stages.transfer import ARMS, PROTOCOLS
from stages.transfer_statistics import DIFFERENCES

# By column: protocol, and the arm or difference that it shows.
COLUMNS = {
    "baseline": ("fine_tuning", "baseline"),
    "dnm": ("fine_tuning", "dnm"),
    "improvement": ("fine_tuning", "improvement"),
    "scratch": ("fine_tuning", "scratch"),
    "untrained": ("fine_tuning", "untrained"),
    "baseline_probe": ("probe", "baseline"),
    "dnm_probe": ("probe", "dnm"),
    "improvement_probe": ("probe", "improvement"),
    "scratch_probe": ("probe", "scratch"),
    "untrained_probe": ("probe", "untrained"),
}
NAMES = {"fine_tuning": "fine-tuned", "probe": "linear probe"}
ABOUT = {
    "baseline": "the fixed network",
    "dnm": "the grown network",
    "improvement": "dnm - baseline, test accuracy, points",
    "scratch": "control: dnm's final architecture, trained on the source from its first step",
    "untrained": "control: the baseline network, never trained on the source",
}
SHOWN = {
    "improvement": "dnm - baseline",
    "over_scratch": "dnm - scratch",
    "over_untrained": "baseline - untrained",
}


def cells(
    documented: Documented, rows: Mapping[str, Row], found: Mapping[str, Any], sources: Mapping[str, str]
) -> Cells:
    """The document's table, with the probe and the controls behind its columns.

    Args:
        documented: the document's figures.
        rows: the settings of all rows of this scale.
        found: what `stages.transfer_statistics` found, by entry.
        sources: what each row was measured on.
    """
    measured = {of_pair["documented_row"]: of_pair for of_pair in found.values()}
    made: Cells = []
    for row, claimed in documented.tables["transfer"].rows.items():
        of_pair = measured.get(row)
        for column, (protocol, shown) in COLUMNS.items():
            stated = claimed.values.get(column, "")
            cell = dict.fromkeys(CELL_COLUMNS, "") | {
                "row": row, "column": column, "documented": plain(stated),
                "unit": "points" if shown == "improvement" else "%",
            }  # fmt: skip
            if of_pair is None:
                made.append(cell | {"verdict": str(Verdict.NOT_MEASURED), "note": _reason(row, rows)})
                continue
            source, target = of_pair["source"], of_pair["target"]
            cell |= {
                "measured_on": f"{source} ({sources[source]}) to {target} ({sources[target]})",
                "protocol": rows[target].protocol,
            }
            note = f"{NAMES[protocol]}; {ABOUT[shown]}"
            figures = of_pair["protocols"][protocol]
            if shown == "improvement":
                difference = figures["differences"][shown]
                cell |= _level(difference) | {"seeds": difference["num_seeds"], "verdict": difference["verdict"]}
            else:
                accuracy = figures["arms"][shown]["test_accuracy"]
                cell |= _level(accuracy) | {"seeds": accuracy["num_values"]}
            made.append(cell | {"note": note})
    return made


def page(documented: Documented, cells: Cells, found: Mapping[str, Any]) -> str:
    """The table as Markdown, and every paired difference below it."""
    table = documented.tables["transfer"]
    at = {(cell["row"], cell["column"]): cell for cell in cells}
    titles = [table.columns[column].title for column in table.columns]
    body = []
    for row, of_row in table.rows.items():
        place = at[row, "baseline"]["measured_on"]
        name = f"measured on {place}, fine-tuned" if place else "not measured at this scale"
        body.append([of_row.title, name, *_shown(at, row, ""), _verdict(at, row, "")])
        if place:
            body.append([of_row.title, "linear probe", *_shown(at, row, "_probe"), _verdict(at, row, "_probe")])
        stated = [at[row, column]["documented"] for column in table.columns]
        body.append([of_row.title, "document", *stated, "-", "-", ""])
    heads = ["Transfer", "Figures", *titles, "Scratch (control)", "Untrained (control)", "Verdict"]
    parts = [
        f"# {table.title}", "",
        "Test accuracy on the target, percent. The document does not say how it transferred: what is fine-tuned is "
        "held against its figures first, and the linear probe too.", "",
        *markdown(heads, body), "",
    ]  # fmt: skip
    for name, of_pair in found.items():
        parts += [f"## {name}: {of_pair['source']} to {of_pair['target']}", "", *_differences(of_pair), ""]
        parts += ["Counted training on the target, mean GFLOP:", "", *_costs(of_pair), ""]
        if of_pair["not_converged"]:
            parts += [f"{of_pair['not_converged']} probes did not converge.", ""]
    reasons = dict.fromkeys(
        f"- {table.rows[cell['row']].title}: {cell['verdict']}: {cell['note']}"
        for cell in cells
        if cell["verdict"] == Verdict.NOT_MEASURED
    )
    return "\n".join([*parts, *(["## Not measured", "", *reasons, ""] if reasons else [])])


def _reason(pair: str, rows: Mapping[str, Row]) -> str:
    there = {row.documented_row for row in rows.values()}
    missing = [name for name in PAIRS.get(pair, ()) if name not in there]
    if missing:
        return f"no data set of {' and '.join(missing)} has been measured at this scale"
    return "this pair has not been measured at this scale"


def _level(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {"measured": rounded(figures["mean"]), "low": rounded(figures["low"]), "high": rounded(figures["high"])}


def _shown(at: Mapping[tuple[str, str], Mapping[str, Any]], row: str, ending: str) -> list[str]:
    shown = []
    for column in ("baseline", "dnm", "improvement", "scratch", "untrained"):
        cell = at[row, column + ending]
        empty = cell["measured"] == ""
        shown.append(
            "-" if empty else with_interval(
                cell["measured"], cell["low"], cell["high"], signed=column == "improvement"
            )
        )  # fmt: skip
    return shown


def _verdict(at: Mapping[tuple[str, str], Mapping[str, Any]], row: str, ending: str) -> str:
    verdict = at[row, f"improvement{ending}"]["verdict"]
    return f"**{verdict}**" if verdict != Verdict.NOT_MEASURED else ""


def _differences(of_pair: Mapping[str, Any]) -> list[str]:
    lines = []
    for protocol in PROTOCOLS:
        for name in DIFFERENCES:
            of = of_pair["protocols"][protocol]["differences"][name]
            lines.append([
                NAMES[protocol], SHOWN[name], with_interval(of["mean"], of["low"], of["high"], signed=True),
                str(of["num_seeds"]), p_value(of["p_value"]), p_value(of["holm_p_value"]), sign_flip(of),
            ])  # fmt: skip
    heads = ["Protocol", "Difference", "Points", "Seeds", "t p", "Holm p over the pairs", "Sign-flip p (floor)"]
    return markdown(heads, lines)


def _costs(of_pair: Mapping[str, Any]) -> list[str]:
    lines = []
    for protocol in PROTOCOLS:
        of_arms = of_pair["protocols"][protocol]["arms"]
        lines.append([NAMES[protocol], *(f"{of_arms[arm]['training_flops'] / 1e9:.2f}" for arm in ARMS)])
    return markdown(["Protocol", *ARMS], lines)
