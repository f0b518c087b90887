"""What each arm is worth on language tasks, and whether DNM is worth more, as the document says.

The rows are the document's: GLUE's average goes over the tasks that a scale has, seed by seed, each with the same
weight; CoLA is one of them, and stands alone as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages import cli, outputs
from stages.language import ARMS
from stages.settings import FineTuned, Language
from stages.settings_checks import GLUE

BOOTSTRAP_SEED = 0
# By name: treatment and control of a paired difference in score.
DIFFERENCES = {
    "improvement": ("dnm", "baseline"),
    "over_transformer": ("dnm", "transformer"),
    "over_start": ("dnm", "start"),
    "over_scratch": ("dnm", "scratch"),
    "over_bag": ("baseline", "bag"),
}
# Those that the document speaks of, of the second one by the difference of two columns.
CLAIMS = ("improvement", "over_transformer")
ROWS = ("glue_average", "squad2", "cola")

# By arm and seed, in percent.
Scores = dict[str, dict[int, float]]


def of_language(context: cli.Context) -> dict[str, Any]:
    """The statistics of all language tasks of a scale."""
    from stages import documented

    table, entries = documented.load(), context.settings.language
    files = {name: outputs.read_csv(context.metrics / "language" / f"{name}.csv") for name in entries}
    claimed = {
        row: {column: table.number("language", row, column) for column in ("improvement", "dnm", "transformer")}
        for row in ROWS
    }
    return language_statistics(files, entries, claimed)


def language_statistics(
    files: Mapping[str, Sequence[Mapping[str, str]]],
    entries: Mapping[str, Language],
    claimed: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """All that is said of a scale's language tasks.

    Args:
        files: by entry its lines: arm, seed, score (a fraction), parameters, training FLOPs, edits, exact match.
        entries: the settings of the tasks.
        claimed: by row the document's improvement, in points, and its scores of dnm and the transformer, in percent.

    Returns:
        `rows`, of the document's rows that are measured: the entries that they are over, by arm the `score` in
        percent, and the `differences` of `DIFFERENCES` in points, with a verdict for those of `CLAIMS`, Holm's
        correction being over the rows; `tasks`, by entry the same of that task alone and without verdicts, and by arm
        the means of parameters, training FLOPs and edits and, of questions, the exact match in percent; and
        `pre_trained`, the entries with a pre-trained encoder, where there are such.

    Raises:
        UserError: the arms of a task, or the tasks, have different seeds.
    """
    scores = {name: _scores(name, lines) for name, lines in files.items()}
    task_of = {entry.task: name for name, entry in entries.items()}
    over = {
        "glue_average": [name for name, entry in entries.items() if entry.task in GLUE],
        **{row: [task_of[row]] for row in ("squad2", "cola") if row in task_of},
    }
    rows = {}
    for row in ROWS:
        names = over.get(row)
        if not names:
            continue
        is_all = row != "glue_average" or {entries[name].task for name in names} == set(GLUE)
        as_documented = is_all and all(entries[name].as_documented for name in names)
        average = _average([scores[name] for name in names])
        rows[row] = {
            "entries": names,
            "as_documented": as_documented,
            **_compared(average, claimed[row], as_documented=as_documented),
        }
    _correct(list(rows.values()))
    tasks = {
        name: {"task": entries[name].task, **_compared(of, None, as_documented=False), **_figures(files[name])}
        for name, of in scores.items()
    }
    pre_trained = [name for name, entry in entries.items() if isinstance(entry.networks, FineTuned)]
    return {"rows": rows, "tasks": tasks} | ({"pre_trained": pre_trained} if pre_trained else {})


def _scores(name: str, lines: Sequence[Mapping[str, str]]) -> Scores:
    found: Scores = {arm: {} for arm in ARMS}
    for line in lines:
        found[line["arm"]][int(line["seed"])] = 100.0 * float(line["score"])
    known = {arm: sorted(of_arm) for arm, of_arm in found.items()}
    if any(seeds != known["dnm"] for seeds in known.values()):
        raise cli.UserError(f"{name}: the arms have different seeds ({known}); run the language stage again")
    return found


def _average(scores: Sequence[Scores]) -> Scores:
    """Seed by seed over the tasks."""
    seeds = [sorted(of["dnm"]) for of in scores]
    if any(own != seeds[0] for own in seeds):
        raise cli.UserError(f"the tasks have different seeds ({seeds}); run the language stages again")
    return {arm: {seed: sum(of[arm][seed] for of in scores) / len(scores) for seed in seeds[0]} for arm in ARMS}


def _compared(scores: Scores, claimed: Mapping[str, float] | None, *, as_documented: bool) -> dict[str, Any]:
    import numpy as np

    from stages import inference

    seeds = sorted(scores["dnm"])
    values = {arm: [scores[arm][seed] for seed in seeds] for arm in ARMS}
    differences = {}
    for name, (treatment, control) in DIFFERENCES.items():
        generator = np.random.default_rng(BOOTSTRAP_SEED)
        difference = inference.paired_difference(values[treatment], values[control], generator)
        differences[name] = asdict(difference)
        if claimed is not None and name in CLAIMS:
            stated = claimed["improvement"] if name == "improvement" else claimed["dnm"] - claimed["transformer"]
            stated = round(stated, 1)
            judged = inference.verdict(difference, documented=stated, measured_as_documented=as_documented)
            differences[name] |= {"documented": stated, "verdict": str(judged)}
    return {
        "arms": {arm: {"score": asdict(inference.summary(values[arm]))} for arm in ARMS},
        "differences": differences,
    }


def _figures(lines: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    import numpy as np

    def mean(arm: str, figure: str) -> float | None:
        found = [float(line[figure]) for line in lines if line["arm"] == arm and line[figure] != ""]
        return float(np.mean(found)) if found else None

    counted = {arm: {figure: mean(arm, figure) for figure in ("parameters", "training_flops", "edits")} for arm in ARMS}
    exact = {arm: mean(arm, "exact_match") for arm in ARMS}
    return {
        "counted": counted,
        "exact_match": {arm: 100.0 * value for arm, value in exact.items() if value is not None},
    }


def _correct(rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds Holm's correction over the rows to each difference."""
    from stages import inference

    for name in DIFFERENCES:
        family = [row["differences"][name] for row in rows]
        corrected = inference.holm([difference["p_value"] for difference in family]) if family else []
        for difference, p_value in zip(family, corrected, strict=True):
            difference["holm_p_value"] = float(p_value)
