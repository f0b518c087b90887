"""The document's few-shot learning regenerated: its columns, and the floor and the controls behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.documented import Documented
from stages.few_shot_statistics import DIFFERENCES
from stages.inference import Verdict, rounded
from stages.settings import FewShot
from stages.tables import CELL_COLUMNS, Cells, markdown, p_value, plain, sign_flip, with_interval

# The intervals of all other tables are over seeds; those over episodes stand beside them.
COLUMNS = (*CELL_COLUMNS[:5], "episode_low", "episode_high", "episodes", *CELL_COLUMNS[5:])
DOCUMENTED = ("traditional", "meta_learning", "dnm", "improvement")
CONTROLS = ("over_meta_learning", "prototypical", "start", "scratch", "centroid")
NOT_SET_UP = "no data set of few-shot learning has been measured at this scale"
NAMES = {
    "linear": "a linear classifier on features",
    "support_alone": "training on the support alone",
    "prototypical": "prototypical networks",
    "maml": "MAML",
}
ABOUT = {
    "dnm": "a prototypical network that grew while it was trained",
    "improvement": "dnm - traditional, test accuracy, points",
    "over_meta_learning": "dnm - meta_learning, test accuracy, points",
    "prototypical": "control: the prototypical network of the baseline's widths, never grown",
    "start": "control: the start network, never grown, at dnm's FLOPs",
    "scratch": "control: dnm's final architecture from the first step, at dnm's FLOPs",
    "centroid": "floor: the nearest mean image, in raw pixels; nothing is trained",
}
HEADS = {
    "over_meta_learning": "DNM - Meta-Learning",
    "prototypical": "Prototypical (control)",
    "start": "Start (control)",
    "scratch": "Scratch (control)",
    "centroid": "Nearest centroid (floor)",
}


def cells(
    documented: Documented, entries: Mapping[str, FewShot], found: Mapping[str, Any], sources: Mapping[str, str]
) -> Cells:
    """One line for each row of the document and column, its own ones first.

    Args:
        documented: the document's figures.
        entries: the settings of few-shot learning at this scale; the first entry fills the table.
        found: what `stages.few_shot_statistics` found, by entry.
        sources: what each entry was measured on.
    """
    name = next(iter(found), None)
    made: Cells = []
    for row, claimed in documented.tables["few_shot"].rows.items():
        shots = row.removeprefix("shots_")
        for column in (*DOCUMENTED, *CONTROLS):
            cell = dict.fromkeys(COLUMNS, "") | {
                "row": row, "column": column, "documented": plain(claimed.values.get(column, "")),
                "unit": "points" if column in DIFFERENCES else "%",
            }  # fmt: skip
            if name is None:
                made.append(cell | {"verdict": str(Verdict.NOT_MEASURED), "note": NOT_SET_UP})
                continue
            of, entry = found[name], entries[name]
            cell |= {
                "measured_on": f"{sources[name]}, {entry.ways} ways",
                "protocol": "tuned",
            }
            if shots in of["shots"]:
                made.append(cell | _measured(of["shots"][shots], column))
            else:
                made.append(cell | {"verdict": str(Verdict.NOT_MEASURED), "note": of["not_measured"][shots]})
    return made


def _measured(of: Mapping[str, Any], column: str) -> dict[str, Any]:
    if column in DIFFERENCES:
        figures, seeds = of["differences"][column], of["differences"][column]["num_seeds"]
        episodes = figures["episodes"]
        more = {"documented": figures["documented"], "verdict": figures["verdict"]}
    else:
        arm = of["arms"][column]
        figures, episodes, more = arm["accuracy"], arm["episodes"], {}
        seeds = figures["num_values"]
    note = ABOUT.get(column, "")
    if column in ("traditional", "meta_learning"):
        chosen = of["arms"][column]["chosen"]
        note = "; ".join(f"{NAMES[method]} on {num} of {seeds} seeds" for method, num in sorted(chosen.items()))
        note = f"by validation episodes: {note}"
    return {
        "measured": rounded(figures["mean"]),
        # What is not trained has one seed, and no interval over them.
        "low": rounded(figures["low"]) if "low" in figures else "",
        "high": rounded(figures["high"]) if "high" in figures else "",
        "episode_low": rounded(episodes["low"]),
        "episode_high": rounded(episodes["high"]),
        "episodes": episodes["num_values"],
        "seeds": seeds,
        "note": note,
        **more,
    }


def page(documented: Documented, cells: Cells, found: Mapping[str, Any]) -> str:
    """The table as Markdown, and below it the differences, what methods were chosen by, and what training took."""
    table = documented.tables["few_shot"]
    at = {(cell["row"], cell["column"]): cell for cell in cells}
    heads = ["Shots", "Figures", *(table.columns[column].title for column in DOCUMENTED)]
    heads += [HEADS[column] for column in CONTROLS]
    body = []
    for row, of_row in table.rows.items():
        place = at[row, "dnm"]["measured_on"] if at[row, "dnm"]["measured"] != "" else ""
        measured = [_shown(at[row, column]) for column in (*DOCUMENTED, *CONTROLS)]
        body.append([of_row.title, f"measured on {place}" if place else "not measured at this scale", *measured])
        if place:
            episodes = [_over_episodes(at[row, column]) for column in (*DOCUMENTED, *CONTROLS)]
            body.append([of_row.title, "95% CI over episodes", *episodes])
        stated = [plain(at[row, column]["documented"]) or "-" for column in (*DOCUMENTED, *CONTROLS)]
        body.append([of_row.title, "document", *stated])
    parts = [f"# {table.title}", ""]
    for name, of in list(found.items())[:1]:
        parts += [
            f"Measured on {name}: episodes of {of['ways']} classes that no network was trained on, {of['queries']} "
            "drawings of each to be recognised. Test accuracy in percent, mean and 95% interval over seeds; every "
            "arm sees the same episodes. The document names neither data nor protocol, so nothing is measured as "
            "documented, and `direction only` is the best that a figure can get.", "",
        ]  # fmt: skip
    parts += [*markdown(heads, body), ""]
    for name, of in found.items():
        parts += [f"## {name}: differences in test accuracy", "", *_differences(of), ""]
        parts += [
            f"## {name}: what methods were chosen by", "",
            f"Mean accuracy on {of['validation_episodes']} validation episodes, percent:", "", *_validation(of), "",
            f"## {name}: what was trained", "", *_trained(of), "",
        ]  # fmt: skip
    reasons = [
        f"- {table.rows[cell['row']].title}: {cell['verdict']}: {cell['note']}"
        for cell in cells
        if cell["column"] == "dnm" and cell["verdict"] == Verdict.NOT_MEASURED
    ]
    return "\n".join([*parts, *(["## Not measured", "", *reasons, ""] if reasons else [])])


def _shown(cell: Mapping[str, Any]) -> str:
    if cell["measured"] == "":
        return "-"
    if cell["low"] == "":
        return f"{cell['measured']:.2f}"
    signed = cell["column"] in DIFFERENCES
    shown = with_interval(cell["measured"], cell["low"], cell["high"], signed=signed)
    return f"{shown} **{cell['verdict']}**" if cell["verdict"] else shown


def _over_episodes(cell: Mapping[str, Any]) -> str:
    sign = "+" if cell["column"] in DIFFERENCES else ""
    return f"[{cell['episode_low']:{sign}.2f}, {cell['episode_high']:{sign}.2f}]"


def _by_shots(of: Mapping[str, Any]) -> list[tuple[str, Any]]:
    # Files keep their keys in the order of text, in which 10 is before 5.
    return sorted(of["shots"].items(), key=lambda item: int(item[0]))


def _differences(of: Mapping[str, Any]) -> list[str]:
    lines = []
    for shots, of_shots in _by_shots(of):
        for name, (treatment, control) in DIFFERENCES.items():
            test = of_shots["differences"][name]
            episodes = test["episodes"]
            lines.append([
                shots, f"{treatment} - {control}", with_interval(test["mean"], test["low"], test["high"], signed=True),
                f"[{episodes['low']:+.2f}, {episodes['high']:+.2f}]", str(test["num_seeds"]), p_value(test["p_value"]),
                p_value(test["holm_p_value"]), sign_flip(test), test.get("verdict", ""),
            ])  # fmt: skip
    heads = [
        "Shots", "Difference", "Points", "CI over episodes", "Seeds", "t p", "Holm p over the shots",
        "Sign-flip p (floor)", "Verdict",
    ]  # fmt: skip
    return markdown(heads, lines)


def _validation(of: Mapping[str, Any]) -> list[str]:
    lines = [
        [shots, *(f"{of_shots['validation'][method]:.2f}" for method in NAMES)] for shots, of_shots in _by_shots(of)
    ]
    return markdown(["Shots", *NAMES.values()], lines)


def _trained(of: Mapping[str, Any]) -> list[str]:
    lines = [
        [
            item["arm"], item["method"], f"{item['parameters']:,.0f}", f"{item['training_flops'] / 1e9:,.2f}",
            f"{item['steps']:,.0f}", f"{item['edits']:.1f}",
        ]
        for item in of["trained"]
    ]  # fmt: skip
    return markdown(["Arm", "Method", "Parameters", "Counted training, GFLOP", "Steps", "Edits"], lines)
