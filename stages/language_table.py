"""The document's table on language regenerated: its rows and columns, its figures beside, controls and tasks below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.documented import Documented
from stages.inference import Verdict, rounded
from stages.language import ARMS
from stages.language_statistics import DIFFERENCES
from stages.tables import CELL_COLUMNS, Cells, markdown, p_value, plain, sign_flip, with_interval

COLUMNS = ("baseline", "transformer", "dnm", "improvement", "over_transformer", "bag", "start", "scratch")
ABOUT = {
    "baseline": "a bidirectional LSTM",
    "transformer": "a small encoder",
    "dnm": "an encoder that grows",
    "improvement": "dnm - baseline, points",
    "over_transformer": "dnm - transformer, points; the document's is the difference of its columns",
    "bag": "control: mean of the embeddings, which sees no order",
    "start": "control: the encoder that dnm grows from, never grown, at dnm's FLOPs",
    "scratch": "control: dnm's final encoder from the first step, at dnm's FLOPs",
}
# Where a task's settings name a pre-trained encoder.
ABOUT_PRE_TRAINED = {
    "transformer": "a pre-trained encoder, fine-tuned",
    "dnm": "a pre-trained encoder that grows while it is fine-tuned",
    "start": "control: the pre-trained encoder, never grown, at dnm's FLOPs",
    "scratch": "control: dnm's final encoder from random weights, at dnm's FLOPs",
}
TITLES = {"bag": "Bag of embeddings (control)", "start": "Start (control)", "scratch": "Scratch (control)"}
SHOWN = {
    "improvement": "dnm - baseline",
    "over_transformer": "dnm - transformer",
    "over_start": "dnm - start",
    "over_scratch": "dnm - scratch",
    "over_bag": "baseline - bag",
}
# What a score is, by task; accuracy elsewhere.
METRICS = {
    "cola": "Matthews correlation", "squad2": "F1", "mrpc": "mean of accuracy and F1", "qqp": "mean of accuracy and F1",
    "stsb": "mean of Pearson and Spearman correlation",
}  # fmt: skip
NO_TASK = "no task of this row has been measured at this scale"


def cells(documented: Documented, found: Mapping[str, Any], sources: Mapping[str, str]) -> Cells:
    """One line for each row of the document and column, or control.

    Args:
        documented: the document's figures.
        found: what `stages.language_statistics` found.
        sources: what each task was measured on, by entry.
    """
    made: Cells = []
    for row, claimed in documented.tables["language"].rows.items():
        of_row = found["rows"].get(row)
        for column in COLUMNS:
            cell = dict.fromkeys(CELL_COLUMNS, "") | {
                "row": row, "column": column, "documented": plain(claimed.values.get(column, "")),
                "unit": "points" if column in DIFFERENCES else "%",
            }  # fmt: skip
            if of_row is None:
                made.append(cell | {"verdict": str(Verdict.NOT_MEASURED), "note": NO_TASK})
                continue
            names = of_row["entries"]
            cell |= {
                "measured_on": "; ".join(dict.fromkeys(sources[name] for name in names)),
                "protocol": "documented" if of_row["as_documented"] else "tuned",
            }
            note = f"{_metric(row, names, found)}; {about(column, names, found)}"
            if column in DIFFERENCES:
                of = of_row["differences"][column]
                cell |= {"documented": plain(of["documented"]), "verdict": of["verdict"], "seeds": of["num_seeds"]}
            else:
                of = of_row["arms"][column]["score"]
                cell |= {"seeds": of["num_values"]}
            made.append(
                cell
                | {key: rounded(of[of_key]) for key, of_key in (("measured", "mean"), ("low", "low"), ("high", "high"))}
                | {"note": note}
            )
    return made


def page(documented: Documented, cells: Cells, found: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """The table as Markdown, the tests of the differences, and each task alone."""
    table = documented.tables["language"]
    at = {(cell["row"], cell["column"]): cell for cell in cells}
    body = []
    for row, of_row in table.rows.items():
        is_there = row in found["rows"]
        verdicts = [_verdict(at[row, column]) for column in ("improvement", "over_transformer")]
        name = _metric(row, found["rows"][row]["entries"], found) if is_there else str(Verdict.NOT_MEASURED)
        body.append([of_row.title, name, *(_shown(at[row, column]) for column in COLUMNS), *verdicts])
        stated = [at[row, column]["documented"] or "-" for column in COLUMNS]
        body.append([of_row.title, "document", *stated, "", ""])
    titles = {name: column.title for name, column in table.columns.items()} | TITLES
    heads = [
        "Task", "Figures", *(titles.get(name) or SHOWN[name] for name in COLUMNS), "Verdict",
        f"Verdict, {SHOWN['over_transformer']}",
    ]  # fmt: skip
    parts = [
        f"# {table.title}", "",
        "Scores times 100, mean and 95% interval over the seeds; Matthews correlation goes from -100 to 100. The "
        "baseline is a bidirectional LSTM.", "",
        *markdown(heads, body), "",
    ]  # fmt: skip
    for row, of_row in found["rows"].items():
        measured = ", ".join(f"{name} ({sources[name]})" for name in of_row["entries"])
        parts += [f"## {table.rows[row].title}: {measured}", "", *_differences(of_row), ""]
    if found.get("pre_trained"):
        shown = "; ".join(f"{name}: {what.removeprefix('control: ')}" for name, what in ABOUT_PRE_TRAINED.items())
        parts += [f"Fine-tuned: {', '.join(found['pre_trained'])}. There {shown}.", ""]
    if found["tasks"]:
        parts += ["## Task by task", "", *_tasks(found["tasks"]), ""]
        parts += ["Differences in score, points:", "", *_gains(found["tasks"]), ""]
        parts += ["Counted, mean over the seeds:", "", *_costs(found["tasks"]), ""]
    missing = [table.rows[row].title for row in table.rows if row not in found["rows"]]
    if missing:
        parts += ["## Not measured", "", *(f"- {name}: {NO_TASK}" for name in missing), ""]
    return "\n".join(parts)


def about(column: str, names: Sequence[str], found: Mapping[str, Any]) -> str:
    """What stands in a column of a row that is over these tasks."""
    pre_trained = [name in found.get("pre_trained", ()) for name in names]
    other = ABOUT_PRE_TRAINED.get(column)
    if other is None or not any(pre_trained):
        return ABOUT[column]
    return other if all(pre_trained) else f"{other}; of some tasks, {ABOUT[column]}"


def _metric(row: str, names: list[str], found: Mapping[str, Any]) -> str:
    """What a row's figure is; of an average, of which tasks."""
    if row != "glue_average":
        return METRICS[row]
    return f"average of {', '.join(found['tasks'][name]['task'] for name in names)}"


def _shown(cell: Mapping[str, Any]) -> str:
    if cell["measured"] == "":
        return "-"
    signed = cell["column"] in DIFFERENCES
    return with_interval(cell["measured"], cell["low"], cell["high"], signed=signed)


def _verdict(cell: Mapping[str, Any]) -> str:
    return f"**{cell['verdict']}**" if cell["verdict"] != Verdict.NOT_MEASURED else ""


def _differences(of_row: Mapping[str, Any]) -> list[str]:
    lines = [
        [
            SHOWN[name], with_interval(of["mean"], of["low"], of["high"], signed=True), str(of["num_seeds"]),
            p_value(of["p_value"]), p_value(of["holm_p_value"]), sign_flip(of),
            f"**{of['verdict']}**" if "verdict" in of else "-",
        ]
        for name, of in ((name, of_row["differences"][name]) for name in SHOWN)
    ]  # fmt: skip
    heads = ["Difference", "Points", "Seeds", "t p", "Holm p over the rows", "Sign-flip p (floor)", "Verdict"]
    return markdown(heads, lines)


def _tasks(tasks: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, of in tasks.items():
        shown = [of["arms"][arm]["score"] for arm in ARMS]
        figures = [with_interval(one["mean"], one["low"], one["high"]) for one in shown]
        lines.append([name, of["task"], METRICS.get(of["task"], "accuracy"), *figures])
        if of["exact_match"]:
            lines.append([name, of["task"], "exact match", *(f"{of['exact_match'][arm]:.2f}" for arm in ARMS)])
    return markdown(["Task", "It stands for", "Score", *ARMS], lines)


def _gains(tasks: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, of in tasks.items():
        shown = [of["differences"][column] for column in SHOWN]
        lines.append([name, *(with_interval(one["mean"], one["low"], one["high"], signed=True) for one in shown)])
    return markdown(["Task", *SHOWN.values()], lines)


def _costs(tasks: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, of in tasks.items():
        counted = of["counted"]
        lines.append([name, "parameters", *(f"{counted[arm]['parameters']:,.0f}" for arm in ARMS)])
        lines.append([name, "training, GFLOP", *(f"{counted[arm]['training_flops'] / 1e9:,.2f}" for arm in ARMS)])
        lines.append([name, "edits", *(f"{counted[arm]['edits']:.1f}" if arm == "dnm" else "-" for arm in ARMS)])
    return markdown(["Task", "Figure", *ARMS], lines)
