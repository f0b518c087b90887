"""The document's robustness analysis regenerated, with curves over strength."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages import figures
from stages.documented import Documented
from stages.inference import Verdict, rounded
from stages.settings import Row
from stages.tables import CELL_COLUMNS, Cells, markdown, p_value, sign_flip, with_interval
from stages.trained import ARMS

NOT_SET_UP = "robustness has not been measured on any row at this scale"
COLOURS = {"baseline": "tab:gray", "dnm": "tab:red", "scratch": "tab:green"}
UNITS = {
    "gaussian_noise": "standard deviation, of pixels in [0, 1]", "pgd": "PGD-20, radius (L-infinity) in [0, 1]",
    "fgsm": "FGSM, the radius of PGD", "brightness": "factor less 1, up or down", "rotation": "degrees, left or right",
}  # fmt: skip
NAMES = {"baseline": "traditional", "dnm": "DNM", "scratch": "scratch"}


def cells(documented: Documented, rows: Mapping[str, Row], found: Mapping[str, Any], sources) -> Cells:
    """The document's table, and dnm's final architecture from its first step beside it.

    Args:
        documented: the document's figures.
        rows: the settings of the rows that this scale measures.
        found: what `stages.robustness_statistics` found, by entry; the first one fills the table.
        sources: what each row was measured on.
    """
    measured = next(iter(found.values()), None)
    made: Cells = []
    for row, claimed in documented.tables["robustness"].rows.items():
        for column in ("baseline", "dnm", "gain", "scratch"):
            cell = dict.fromkeys(CELL_COLUMNS, "") | {
                "row": row, "column": column, "documented": claimed.values.get(column, ""), "unit": "points",
            }  # fmt: skip
            if measured is None:
                made.append(cell | {"verdict": str(Verdict.NOT_MEASURED), "note": NOT_SET_UP})
                continue
            of = measured["perturbations"][row]
            cell |= {"measured_on": sources[measured["row"]], "protocol": rows[measured["row"]].protocol}
            made.append(cell | (_gain(of) if column == "gain" else _drop(of, column)))
    return made


def page(cells: Cells, found: Mapping[str, Any]) -> str:
    """The table as Markdown, how the strengths were found, and what is lost at others."""
    shown = [
        [
            cell["row"], cell["column"], str(cell["documented"]),
            "not measured" if cell["measured"] == "" else with_interval(
                cell["measured"], cell["low"], cell["high"], signed=True
            ),
            str(cell["verdict"]), cell["note"],
        ]
        for cell in cells
    ]  # fmt: skip
    heads = ["Perturbation", "Column", "Document", "Measured, points", "Verdict", "What it is"]
    parts = ["# Robustness Analysis", "", *markdown(heads, shown), ""]
    for name, measured in found.items():
        parts += [
            f"## {name}: strengths", "",
            "Each seed's baseline gives its strengths: on validation data it loses what the document says.", "",
            *_strengths(measured), "",
            f"## {name}: DNM's drop less that of others", "", *_tests(measured), "",
            f"## {name}: mean drop at other strengths, points", "", *_curves(measured), "",
        ]  # fmt: skip
    return "\n".join(parts)


def figure(title: str, found: Mapping[str, Any]) -> bytes:
    """Mean drops over strength, in units of the calibrated one, a panel for each perturbation."""
    drawing = figures.blank(width=11.0, height=6.5)
    shown = list(found["perturbations"].items())
    axes = drawing.subplots(2, 3).flatten()
    for place, (row, of) in zip(axes, shown, strict=False):
        for arm in ARMS:
            curve = of["curves"][arm]
            factors = [float(factor) for factor in curve]
            place.plot(factors, [-drop for drop in curve.values()], color=COLOURS[arm], label=arm, marker="o")
        place.set(
            title=row, xscale="log", xlabel="strength over the calibrated one", ylabel="change of accuracy, points"
        )
        place.set_xticks(factors, [f"{factor:g}" for factor in factors])
        place.minorticks_off()
        place.grid(alpha=0.3)
    axes[0].legend(title=title)
    for place in axes[len(shown) :]:
        place.set_axis_off()
    return figures.svg(drawing)


def _drop(of: Mapping[str, Any], arm: str) -> dict[str, Any]:
    drops = of["drops"][arm]
    note = f"change of {NAMES[arm]} accuracy; {UNITS[of['perturbation']]}"
    return {
        "measured": rounded(-drops["mean"]), "low": rounded(-drops["high"]), "high": rounded(-drops["low"]),
        "seeds": drops["num_values"], "note": f"control: {note}" if arm == "scratch" else note,
    }  # fmt: skip


def _gain(of: Mapping[str, Any]) -> dict[str, Any]:
    gain = of["gain"]
    return {
        "measured": rounded(gain["mean"]), "low": rounded(gain["low"]), "high": rounded(gain["high"]),
        "seeds": gain["num_seeds"], "verdict": of["verdict"], "note": "by how much less dnm loses than the baseline",
    }  # fmt: skip


def _strengths(measured: Mapping[str, Any]) -> list[str]:
    lines = [
        [
            row, UNITS[of["perturbation"]],
            f"{of['strength']['mean']:.3g} ({of['strength']['minimum']:.3g} to {of['strength']['maximum']:.3g})",
            f"{of['miss']:.2f}" if "miss" in of else "as PGD",
        ]
        for row, of in measured["perturbations"].items()
    ]  # fmt: skip
    heads = ["Perturbation", "Strength is", "Mean (range over seeds)", "Off the wanted drop, at most, points"]
    return markdown(heads, lines)


def _tests(measured: Mapping[str, Any]) -> list[str]:
    lines = []
    for row, of in measured["perturbations"].items():
        gain, scratch = of["gain"], of["controls"]["scratch"]
        holm = p_value(gain["holm_p_value"]) if "holm_p_value" in gain else "-"
        lines += [
            [row, "baseline", with_interval(gain["mean"], gain["low"], gain["high"], signed=True),
             p_value(gain["p_value"]), holm, sign_flip(gain), "-"],
            [row, "scratch", with_interval(scratch["mean"], scratch["low"], scratch["high"], signed=True),
             p_value(scratch["p_value"]), "-",
             sign_flip(scratch),
             with_interval(scratch["clean"]["mean"], scratch["clean"]["low"], scratch["clean"]["high"], signed=True)],
        ]  # fmt: skip
    heads = [
        "Perturbation",
        "Against",
        "Less lost, points",
        "t p",
        "Holm p",
        "Sign-flip p (floor)",
        "Clean accuracy, points",
    ]
    return markdown(heads, lines)


def _curves(measured: Mapping[str, Any]) -> list[str]:
    lines, factors = [], []
    for row, of in measured["perturbations"].items():
        for arm in ARMS:
            factors = list(of["curves"][arm])
            lines.append([row, arm, *(f"{drop:.2f}" for drop in of["curves"][arm].values())])
    return markdown(["Perturbation", "Arm", *(f"{factor} x" for factor in factors)], lines)
