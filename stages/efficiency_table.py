"""The tables of memory and inference speed: counted figures, and the page of what was measured on one machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stages.documented import Documented
from stages.inference import PairedDifference, Verdict, rounded, verdict
from stages.settings import Row
from stages.tables import CELL_COLUMNS, NO_ROW, Cells, markdown, plain

MEMORY_COLUMNS = ("baseline", "dnm", "overhead", "dnm_before_pruning", "scratch")
INFERENCE_COLUMNS = ("baseline", "dnm", "speedup", "pruning")
# The document's own, where the measured figure has another: of inference it prints them in the titles.
DOCUMENTED_UNITS = {"memory": "GB", "inference": "ms"}
MEGA = 10**6
TIMES = "times differ from run to run and stand in machine/inference.md"
NO_WIDTH = "all seeds are alike, so the interval has no width"
MODES = ("eager", "compiled")
ABOUT = """\
Median latency in ms of the networks of one seed, with its quartiles in brackets and, behind them, the median of the \
processor's time in ms, which other processes disturb less; on noise, in eval and inference mode and float32. Batch \
norms are folded into the convolutions of every network, rounds are interleaved. Weights play no part: the networks \
are built anew. `dnm` and `scratch` are one architecture, as is `dnm_before_pruning` where nothing was pruned: what \
differs between them is noise. All of this differs from machine to machine and from run to run; no verdict is taken \
from it."""

Value = Callable[[Mapping[str, Any], str, Any, Row], dict[str, Any]]


def memory(
    documented: Documented, rows: Mapping[str, Row], found: Mapping[str, Any], sources: Mapping[str, str]
) -> Cells:
    """Counted memory of a training step, one line per row and column of the document's table, and per control.

    Args:
        documented: the document's figures.
        rows: the settings of the rows that this scale measures.
        found: what `stages.efficiency` left, by row.
        sources: what each row was measured on.
    """
    return _cells("memory", MEMORY_COLUMNS, documented, rows, found, sources, _memory)


def inference(
    documented: Documented, rows: Mapping[str, Row], found: Mapping[str, Any], sources: Mapping[str, str]
) -> Cells:
    """Counted FLOPs of a forward pass in place of its time; arguments as of `memory`.

    The document's speed-ups are the time that is saved, 100 (1 - dnm / baseline): 4.1% from 12.3 to 11.8 ms, where
    100 (baseline / dnm - 1) would be 4.2%. The same is taken of FLOPs.
    """
    return _cells("inference", INFERENCE_COLUMNS, documented, rows, found, sources, _inference)


def saved(baseline: float, dnm: float) -> float:
    """What is saved, in percent, as the document computes its speed-ups."""
    return 100.0 * (1.0 - dnm / baseline)


def _cells(
    table: str,
    columns: tuple[str, ...],
    documented: Documented,
    rows: Mapping[str, Row],
    found: Mapping[str, Any],
    sources: Mapping[str, str],
    value: Value,
) -> Cells:
    measured = {row.documented_row: name for name, row in rows.items()}
    cells: Cells = []
    for row, claimed in documented.tables[table].rows.items():
        for column in columns:
            stated = claimed.values.get(column)
            cell = dict.fromkeys(CELL_COLUMNS, "") | {
                "row": row, "column": column, "documented": _stated(documented, table, column, stated),
                "unit": _unit(table, column),
            }  # fmt: skip
            if row in measured:
                name = measured[row]
                cell |= {
                    "measured_on": sources[name],
                    "protocol": rows[name].protocol,
                    "seeds": found[name]["seeds"],
                    **value(found[name], column, stated, rows[name]),
                }
            else:
                cell |= {"verdict": str(Verdict.NOT_MEASURED), "note": NO_ROW}
            cells.append(cell)
    return cells


def _stated(documented: Documented, table: str, column: str, stated: Any) -> str:
    if column == "pruning":
        return "; ".join(note.text for note in documented.tables[table].notes if note.kind == "footnote")
    if stated is None:
        return ""
    # The measured figure has another unit than the document's, so the latter stands with it.
    return f"{plain(stated)} {DOCUMENTED_UNITS[table]}" if column in ("baseline", "dnm") else plain(stated)


def _unit(table: str, column: str) -> str:
    if column in ("overhead", "speedup", "pruning"):
        return "%"
    return "MiB" if table == "memory" else "MFLOP"


def _memory(found: Mapping[str, Any], column: str, stated: Any, row: Row) -> dict[str, Any]:
    if column == "overhead":
        difference = PairedDifference(**found["overhead"]["dnm"])
        judged = verdict(difference, documented=stated, measured_as_documented=row.as_documented)
        note = "counted memory of a training step, dnm over baseline"
        return _difference(difference) | {"verdict": str(judged), "note": _with_width(note, difference)}
    notes = {
        "baseline": f"counted memory of a training step of {found['batch_size']} samples, not of a process; the "
        "document does not say of what its GB are",
        "dnm": "the same, of the network as it ended; what growing itself takes for a while is not in it",
    }
    if column == "dnm_before_pruning":
        pruned = _pruned(found)
        note = f"control: {pruned}" if found["pruned"] == 0 else f"control: with the units that were pruned, {pruned}"
        notes[column] = f"{note}; {_over(found, column)}"
    if column == "scratch":
        notes[column] = f"control: the shape of dnm from the first step, built anew; {_over(found, column)}"
    return _level(found["arms"][column]["training_memory"], 1.0) | {"note": notes[column]}


def _inference(found: Mapping[str, Any], column: str, stated: Any, row: Row) -> dict[str, Any]:
    if column in ("baseline", "dnm"):
        note = f"MFLOP of one sample's forward pass, counted, in place of ms: {TIMES}"
        return _level(found["arms"][column]["forward_flops"], MEGA) | {"note": note}
    if column == "pruning" and found["pruned"] == 0:
        return {"verdict": str(Verdict.NOT_MEASURED), "note": f"{_pruned(found)}, so nothing can be faster by it"}
    if column == "speedup":
        # FLOPs saved in its place would mislead: branches take more time than their FLOPs say.
        saved_flops = PairedDifference(**found["saved"]["dnm"])
        note = f"{TIMES}; dnm's forward FLOPs are {rounded(1.0 - saved_flops.mean / 100.0)} times the baseline's, and "
        return {"verdict": str(Verdict.NOT_MEASURED), "note": note + "branches take more time than their FLOPs say"}
    difference = PairedDifference(**found["pruning"])
    note = f"forward FLOPs, not time, that pruning saved, {_pruned(found)}: {TIMES}"
    return _difference(difference) | {"verdict": str(Verdict.NOT_MEASURED), "note": _with_width(note, difference)}


def _level(figures: Mapping[str, float], scale: float) -> dict[str, Any]:
    return {
        "measured": rounded(figures["mean"] / scale),
        "low": rounded(figures["low"] / scale),
        "high": rounded(figures["high"] / scale),
    }


def _difference(difference: PairedDifference) -> dict[str, Any]:
    return {
        "measured": rounded(difference.mean),
        "low": rounded(difference.low),
        "high": rounded(difference.high),
        "seeds": difference.num_seeds,
    }


def _with_width(note: str, difference: PairedDifference) -> str:
    return f"{note}; {NO_WIDTH}" if difference.standard_deviation == 0.0 else note


def _pruned(found: Mapping[str, Any]) -> str:
    if found["pruned"] == 0:
        return f"no units were pruned after the last growth in any of {found['seeds']} networks"
    return f"after the last growth of {found['pruned']} of {found['seeds']} networks"


def _over(found: Mapping[str, Any], arm: str) -> str:
    return f"{found['overhead'][arm]['mean']:+.1f}% over baseline"


def measured_page(
    documented: Documented, rows: Mapping[str, Row], measured: Mapping[str, Any], sources: Mapping[str, str]
) -> str:
    """What was measured on one machine, as Markdown; for `machine/`.

    Args:
        documented: the document's figures.
        rows: the settings of the rows that this scale measures.
        measured: `machine/efficiency-<row>.json` by row, of those that there are.
        sources: what each row was measured on.
    """
    parts = ["# Inference speed and process memory", "", ABOUT]
    for name, row in rows.items():
        parts += ["", f"## {name}, the shape of {sources[name]}", ""]
        if name in measured:
            parts += _measured_row(measured[name])
        else:
            parts += ["Not measured on this machine: run the stage efficiency of this row."]
        parts += ["", _document_says(documented, row.documented_row)]
    return "\n".join([*parts, ""])


def _measured_row(found: Mapping[str, Any]) -> list[str]:
    machine = found["machine"]
    caps = ", its instruction set capped by execution.cpu_caps" if found["cpu_caps"] else ""
    load = "load not known" if found["load"] is None else f"load {found['load']:.1f} before"
    sizes = list(found["latency"]["eager"])
    places = [(mode, size) for mode in MODES for size in sizes]
    lines = []
    for arm, counted in found["counted"].items():
        cells = [_latency(found["latency"][mode][size][arm]) for mode, size in places]
        lines.append([arm, str(counted["parameters"]), f"{counted['forward_flops'] / MEGA:.3f}", *cells])
    saving = [_saving(found["latency"][mode][size]) for mode, size in places]
    flops = {arm: counted["forward_flops"] for arm, counted in found["counted"].items()}
    lines.append(["saved by dnm", "", f"{saved(flops['baseline'], flops['dnm']):+.1f}%", *saving])
    heads = ["network", "parameters", "MFLOP", *(f"{mode}, batch of {size}" for mode, size in places)]
    reasons = dict.fromkeys(
        f"- {mode}, batch of {size}: {cell['reason']}"
        for mode, size in places
        for cell in found["latency"][mode][size].values()
        if "reason" in cell
    )
    return [
        f"{machine['processor']}, {machine['cores']} cores, threads: {found['threads']}{caps}, device: "
        f"{found['device']}, {load}; torch {machine['torch']}, {machine['date']}, commit {machine['commit'][:12]}; "
        f"seed {found['seed']}.",
        "",
        *markdown(heads, lines),
        *(["", "Not measured:", "", *reasons] if reasons else []),
        "",
        f"Memory of a process that trains the network in batches of {found['batch_size']}, {found['precision']}, the "
        "most that was resident:",
        "",
        *(f"- {arm}: {_process(values)}" for arm, values in found["memory"].items()),
    ]


def _latency(cell: Mapping[str, Any]) -> str:
    if "reason" in cell:
        return "not measured"
    return f"{cell['median_ms']:.3f} [{cell['low_ms']:.3f}, {cell['high_ms']:.3f}] {cell['processor_ms']:.3f}"


def _saving(cells: Mapping[str, Mapping[str, Any]]) -> str:
    if any("reason" in cells[arm] for arm in ("baseline", "dnm")):
        return "not measured"
    took, computed = (saved(cells["baseline"][key], cells["dnm"][key]) for key in ("median_ms", "processor_ms"))
    return f"{took:+.1f}%, of the processor {computed:+.1f}%"


def _process(values: Mapping[str, Any]) -> str:
    if "reason" in values:
        return f"not measured: {values['reason']}"
    shown = f"{values['peak_mib']:.0f} MiB, {values['before_mib']:.0f} MiB of which before the first step"
    if "device_peak_mib" in values:
        shown += f"; {values['device_peak_mib']:.0f} MiB on the device"
    return shown


def _document_says(documented: Documented, row: str) -> str:
    said = []
    for table, last, name in (("inference", "speedup", "faster"), ("memory", "overhead", "more memory")):
        if row in documented.tables[table].rows:
            values, unit = documented.tables[table].rows[row].values, DOCUMENTED_UNITS[table]
            said.append(
                f"{plain(values['baseline'])} {unit} for the baseline and {plain(values['dnm'])} {unit} for dnm, "
                f"{plain(values[last])}% {name}"
            )
    if not said:
        return "The document has no such figures of this row."
    return f"The document: {'; '.join(said)}. Of which network, batch and machine it does not say beside them."
