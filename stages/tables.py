"""The document's tables, regenerated: every figure beside the documented one, with its interval and verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.documented import Below, Documented, Range
from stages.inference import Verdict, rounded
from stages.settings import Row

Cells = list[dict[str, Any]]

NO_ROW = "no data set of this row has been measured at this scale"
NO_SEARCH = "no architecture search of this row has been measured at this scale"
CELL_COLUMNS = (
    "row", "column", "documented", "measured", "low", "high", "unit", "seeds", "measured_on", "protocol", "verdict",
    "note",
)  # fmt: skip
ARMS = ("baseline", "nas", "dnm", "start", "scratch")
CLAIMS = ("improvement", "training_time", "parameters")
NOTES = {
    "improvement": "dnm - baseline, test accuracy, points",
    "training_time": "counted training FLOPs, dnm over baseline",
    "parameters": "at the end of training, dnm over baseline",
    "start": "control: the start network, never grown, at dnm's FLOPs",
    "scratch": "control: dnm's final architecture from the first step, at dnm's FLOPs",
}
VERDICT_COLUMNS = ("table", "row", "column", "documented", "measured", "low", "high", "unit", "seeds", "verdict")
# Tables that say again what another one says.
REPEATED = ("confidence", "runs")
# Tables of ours, by name.
OWN_TABLES = {
    "verdicts": "Every verdict",
    "contest": "Growing against fixed networks at equal FLOPs",
    "ranking": "Predicted beside realised gains",
    "ablation_controls": "Growth at other places and times, with other new units",
    "nas": "Architecture search",
    "audit": "The document against itself",
}
MEASURED_TIMES = ("setup",)
NOT_YET = "not measured at this scale: no stage for it is set up"
TITLES = {"start": "Start (control)", "scratch": "Scratch (control)"}


def image_classification(
    documented: Documented,
    rows: Mapping[str, Row],
    statistics: Mapping[str, Any],
    sources: Mapping[str, str],
    searches: Mapping[str, Any],
) -> Cells:
    """One line per row and column of the document's table, and per control.

    Args:
        documented: the document's figures.
        rows: the settings of the rows that this scale measures.
        statistics: what `stages.statistics` found, by row.
        sources: what each row was measured on.
        searches: what `stages.nas_statistics` found, by entry.
    """
    costs: dict[str, float] = {}
    found = {name: {**of, "arms": {**of["arms"]}} for name, of in statistics.items()}
    for name, search in by_row(searches).items():
        found[name]["arms"]["nas"] = search["arms"]["nas"]
        costs[name] = search["searches"]["nas"]["search"]["mean"]
    measured = {row.documented_row: name for name, row in rows.items()}
    cells: Cells = []
    for row, claimed in documented.tables["image_classification"].rows.items():
        for column in (*ARMS, *CLAIMS):
            cell = dict.fromkeys(CELL_COLUMNS, "") | {
                "row": row, "column": column, "documented": claimed.values.get(column, ""),
                "unit": "points" if column == "improvement" else "%",
            }  # fmt: skip
            name = measured.get(row)
            if name is None or (column == "nas" and "nas" not in found[name]["arms"]):
                cell |= {"verdict": str(Verdict.NOT_MEASURED), "note": NO_ROW if name is None else NO_SEARCH}
            else:
                cell |= _measured(found[name], column)
                if column == "nas":
                    cell["note"] = (
                        f"a search of {costs[name]:.2f} times a DNM run's training FLOPs; table nas says more"
                    )
                cell |= {"measured_on": sources[name], "protocol": rows[name].protocol}
            cells.append(cell)
    return cells


def by_row(searches: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture search that fills each row: the first one that is held on it."""
    return {found["row"]: found for found in reversed(list(searches.values()))}


def _measured(found: Mapping[str, Any], column: str) -> dict[str, Any]:
    if column in CLAIMS:
        claim = found["claims"][column]
        figures, seeds, verdict = claim, claim["num_seeds"], claim["verdict"]
    else:
        figures = found["arms"][column]["test_accuracy"]
        # A single arm's level is no claim: what is claimed is a difference.
        seeds, verdict = figures["num_values"], ""
    return {
        "measured": rounded(figures["mean"]),
        "low": rounded(figures["low"]),
        "high": rounded(figures["high"]),
        "seeds": seeds,
        "verdict": verdict,
        "note": NOTES.get(column, ""),
    }


def image_classification_page(
    documented: Documented, cells: Cells, statistics: Mapping[str, Any], stale: Mapping[str, Sequence[str]]
) -> str:
    """The table as Markdown: measured, documented, the verdicts, and dnm against its controls.

    Args:
        documented: the document's figures.
        cells: what `image_classification` gave.
        statistics: what `stages.statistics` found, by row.
        stale: by row, the records that are not of today's settings, data and code.
    """
    table = documented.tables["image_classification"]
    columns = [column for column in (*ARMS, *CLAIMS)]
    titles = [TITLES.get(column) or table.columns[column].title for column in columns]
    at = {(cell["row"], cell["column"]): cell for cell in cells}

    def line(row: str, show: Callable[[dict[str, Any]], str], name: str) -> list[str]:
        return [table.rows[row].title, name, *(show(at[row, column]) for column in columns)]

    body = []
    for row in table.rows:
        place = at[row, "dnm"]["measured_on"]
        body.append(line(row, _shown, f"measured on {place}" if place else "not measured at this scale"))
        body.append(line(row, _documented, "document"))
    parts = ["# Image Classification", "", *markdown(["Dataset", "Figures", *titles], body), ""]
    for name, found in statistics.items():
        parts += [f"## Claims: {name}", "", *_claims(found), ""]
        parts += ["DNM against its controls, test accuracy in points:", "", *_controls(found), ""]
    reasons = dict.fromkeys(
        f"- {table.rows[cell['row']].title}, {titles[columns.index(cell['column'])]}: {cell['verdict']}: {cell['note']}"
        for cell in cells
        if cell["verdict"] == Verdict.NOT_MEASURED and (cell["note"] == NO_SEARCH or cell["column"] == "dnm")
    )
    own = {name: [trial for trial in trials if "/" not in trial] for name, trials in stale.items()}
    parts += _stale(own)
    if reasons:
        parts += ["## Not measured", "", *reasons, ""]
    return "\n".join(parts)


def _claims(found: Mapping[str, Any]) -> list[str]:
    heads = [
        "Claim", "Documented", "Measured", "95% CI", "Seeds", "t p", "Holm p", "Sign-flip p (floor)", "Bootstrap CI",
        "Verdict",
    ]  # fmt: skip
    lines = []
    for name, claim in found["claims"].items():
        lines.append([
            NOTES[name], _signed(claim["documented"]), _signed(claim["mean"]), _interval(claim["low"], claim["high"]),
            str(claim["num_seeds"]), p_value(claim["p_value"]), p_value(claim["holm_p_value"]),
            sign_flip(claim),
            _interval(claim["bootstrap_low"], claim["bootstrap_high"]), f"**{claim['verdict']}**",
        ])  # fmt: skip
    return markdown(heads, lines)


def _controls(found: Mapping[str, Any]) -> list[str]:
    lines = [
        [
            f"dnm - {name}",
            _signed(control["mean"]),
            _interval(control["low"], control["high"]),
            p_value(control["p_value"]),
        ]
        for name, control in found["controls"].items()
    ]
    return markdown(["Difference", "Measured", "95% CI", "t p"], lines)


def runs(documented: Documented, rows: Mapping[str, Row], statistics: Mapping[str, Any], sources) -> Cells:
    """The spread of DNM's test accuracy over seeds, beside the document's, in percent."""
    names = {"mean": "mean", "std": "standard_deviation", "min": "minimum", "max": "maximum", "runs": "num_values"}

    def value(found: Mapping[str, Any], column: str) -> dict[str, Any]:
        figures = found["arms"]["dnm"]["test_accuracy"]
        return {"measured": rounded(figures[names[column]]), "seeds": figures["num_values"]}

    return _plain_table("runs", documented, rows, statistics, sources, value)


def confidence(documented: Documented, rows: Mapping[str, Row], statistics: Mapping[str, Any], sources) -> Cells:
    """The improvement, its interval and p-value beside the document's; its claim that all are significant last."""

    def value(found: Mapping[str, Any], column: str) -> dict[str, Any]:
        claim = found["claims"]["improvement"]
        shown = {
            "improvement": rounded(claim["mean"]),
            "interval": f"[{rounded(claim['low'])}, {rounded(claim['high'])}]",
            "p_value": rounded(claim["p_value"]),
        }[column]
        return {"measured": shown, "seeds": claim["num_seeds"], "verdict": claim["verdict"]}

    cells = _plain_table("confidence", documented, rows, statistics, sources, value)
    claims = {name: found["claims"]["improvement"] for name, found in statistics.items()}
    improved = [name for name, claim in claims.items() if claim["low"] > 0 and claim["holm_p_value"] < 0.05]
    cells.append(
        dict.fromkeys(CELL_COLUMNS, "")
        | {
            "row": "all rows measured",
            "column": "all improvements are significant",
            "documented": "true",
            "measured": str(len(improved) == len(claims)).lower(),
            "note": f"{len(improved)} of {len(claims)} measured rows have an improvement with Holm-corrected p < 0.05",
        }
    )
    return cells


def verdicts(documented: Documented, written: Mapping[str, Cells]) -> Cells:
    """Every cell of the document's tables that has a verdict, in the document's order.

    Args:
        documented: the document.
        written: the cells of all tables, by name.
    """
    return [
        {"table": name} | {key: plain(cell[key]) for key in VERDICT_COLUMNS[1:]}
        for name in documented.tables
        if name not in REPEATED
        for cell in written.get(name, ())
        if cell.get("verdict") and plain(cell["documented"]) != ""
    ]


def verdicts_page(cells: Cells) -> str:
    """How many verdicts there are of each kind, and all of them, as Markdown."""
    counts = [[str(verdict), str(sum(cell["verdict"] == verdict for cell in cells))] for verdict in Verdict]
    lines = [
        [
            f"[{cell['table'].replace('_', ' ')}]({cell['table']}.md)",
            " ".join(dict.fromkeys((cell["row"].replace("_", " "), cell["column"].replace("_", " ")))),
            cell["documented"],
            with_interval(*(float(cell[key]) for key in ("measured", "low", "high")))
            if cell["low"]
            else cell["measured"] or "-",
            cell["unit"],
            cell["seeds"],
            cell["verdict"],
        ]
        for cell in cells
    ]
    heads = ["Table", "Figure", "Documented", "Measured", "Unit", "Seeds", "Verdict"]
    return "\n".join(
        ["# Every verdict", "", *markdown(["Verdict", "Figures"], counts), "", *markdown(heads, lines), ""]
    )


def _plain_table(table: str, documented: Documented, rows: Mapping[str, Row], statistics, sources, value) -> Cells:
    measured = {row.documented_row: name for name, row in rows.items()}
    cells: Cells = []
    for row, claimed in documented.tables[table].rows.items():
        for column, title in documented.tables[table].columns.items():
            cell = dict.fromkeys(CELL_COLUMNS, "") | {
                "row": row, "column": column, "documented": plain(claimed.values.get(column, "")),
                "unit": title.unit or "",
            }  # fmt: skip
            if row in measured:
                name = measured[row]
                cell |= {
                    "measured_on": sources[name],
                    "protocol": rows[name].protocol,
                    **value(statistics[name], column),
                }
            else:
                cell |= {"verdict": str(Verdict.NOT_MEASURED), "note": NO_ROW}
            cells.append(cell)
    return cells


def protocol(documented: Documented, rows: Mapping[str, Row]) -> Cells:
    """The documented training and growth settings beside those in force."""
    lines: Cells = []
    for block, claimed in documented.tables["protocol"].rows.items():
        for setting, stated in claimed.values.items():
            line = {"block": block, "setting": setting, "documented": plain(stated)}
            for name, row in rows.items():
                section = row.training if block == "training_config" else row.dnm
                in_force = getattr(section, setting, None)
                if setting == "patience" and not row.training.early_stopping:
                    in_force = None
                if setting == "morphogenesis_patience" and row.dnm.trigger != "plateau":
                    in_force = None
                line[name] = "not in force" if in_force is None else plain(in_force)
            lines.append(line)
    for name_of in ("schedule", "event_times", "max_parameters"):
        line = {"block": "ours", "setting": name_of, "documented": "not stated"}
        for name, row in rows.items():
            line[name] = plain(getattr(row.training, name_of, None) or getattr(row.dnm, name_of, ""))
        lines.append(line)
    return lines


def index(documented: Documented, folder: Path, stale: Mapping[str, Sequence[str]]) -> str:
    """The document's tables in its order, and ours, with what holds them, as Markdown.

    Args:
        documented: the document.
        folder: where the tables have been written.
        stale: by row or data, the records that are not of today's settings, data and code.
    """

    def place(name: str) -> str:
        if name in MEASURED_TIMES:
            return f"[machine/{name}.md](../machine/{name}.md), which differs from run to run"
        return f"[{name}.md]({name}.md), [{name}.csv]({name}.csv)" if (folder / f"{name}.csv").exists() else NOT_YET

    lines = [[table.title, place(name)] for name, table in documented.tables.items()]
    own = [[title, f"[{name}.md]({name}.md)"] for name, title in OWN_TABLES.items() if (folder / f"{name}.md").exists()]
    heads = markdown(["Table of the document", "Here"], lines)
    return "\n".join(["# Tables", "", *heads, "", *markdown(["Ours", "Here"], own), "", *_stale(stale)])


def _stale(stale: Mapping[str, Sequence[str]]) -> list[str]:
    found = [f"- {name}: {', '.join(trials)}" for name, trials in stale.items() if trials]
    return ["## Stale", "", "Measured with other settings, data or code than today's:", "", *found, ""] if found else []


def cells_page(title: str, cells: Cells) -> str:
    """Cells as one Markdown table."""
    shown = [column for column in CELL_COLUMNS if any(cell[column] != "" for cell in cells)]
    return page(title, [column.replace("_", " ") for column in shown], [[plain(c[k]) for k in shown] for c in cells])


def page(title: str, heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown page with one table."""
    return "\n".join([f"# {title}", "", *markdown(heads, lines), ""])


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    body = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return [f"| {' | '.join(line)} |" for line in [list(heads), ["---"] * len(heads), *body]]


def plain(value: Any) -> str:
    """A figure or setting as a person writes it."""
    if isinstance(value, Range):
        return f"[{value.low}, {value.high}]"
    if isinstance(value, Below):
        return f"< {value.bound}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def _shown(cell: Mapping[str, Any]) -> str:
    if cell["measured"] == "":
        return "not measured"
    value, low, high = cell["measured"], cell["low"], cell["high"]
    if cell["column"] in CLAIMS:
        return f"{_signed(value)} {_interval(low, high)}"
    return f"{value:.2f}% [{low:.2f}, {high:.2f}]"


def _documented(cell: Mapping[str, Any]) -> str:
    if cell["documented"] == "":
        return "-"
    return _signed(cell["documented"], 1) if cell["column"] in CLAIMS else f"{cell['documented']}%"


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}"


def _interval(low: float, high: float) -> str:
    return f"[{low:+.2f}, {high:+.2f}]"


def with_interval(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """A figure and its interval, two digits."""
    if signed:
        return f"{_signed(value)} {_interval(low, high)}"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def sign_flip(difference: Mapping[str, Any]) -> str:
    """The sign-flip p of a paired difference, and the least that its seeds can give."""
    return f"{p_value(difference['sign_flip_p'])} ({p_value(difference['sign_flip_floor'])})"


def p_value(value: float) -> str:
    """Four digits, or that it is smaller."""
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
