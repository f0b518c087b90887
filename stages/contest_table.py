"""The contest as a page and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from stages import figures
from stages.tables import markdown

TITLES = {
    "regret": "(a) regret: dnm - the best fixed network, points; aim >= -0.3, and an event in every trial",
    "share": "(b) part of the budget at which dnm validates as well as scratch in the end, median; aim <= 0.75",
    "baseline": "(c) dnm - baseline, points; aim > 0",
    "random": "(d) dnm - random, points; aim > 0",
    "uniform": "(d) dnm - uniform, points; aim > 0",
    "start_share": "start network's FLOPs over the best fixed network's; at most a quarter",
}
ABOUT = """\
Every trial of a budget spends the same counted FLOPs, what growing looks at and checks included. `scratch` is the \
network that `dnm` ends up with, in that shape from its first step; `random` and `uniform` grow at the same times to \
the same numbers of parameters; `x1.5` is the start network with every layer so many times as wide. The best fixed \
network is chosen by its test accuracy, which is to dnm's disadvantage."""
COLUMNS = ("contest", "row", "pflop", "arm", "seeds", "test_accuracy", "low", "high", "parameters", "training_flops")
DRAWN = {
    "dnm": "tab:red",
    "scratch": "tab:green",
    "random": "tab:orange",
    "uniform": "tab:purple",
    "baseline": "tab:gray",
}


def cells(contests: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line per contest and arm: accuracy in percent with its 95% interval."""
    from stages.inference import rounded

    return [
        {
            "contest": name,
            "row": found["row"],
            "pflop": found["pflop"],
            "arm": arm,
            "seeds": values["test_accuracy"]["num_values"],
            "test_accuracy": rounded(values["test_accuracy"]["mean"]),
            "low": rounded(values["test_accuracy"]["low"]),
            "high": rounded(values["test_accuracy"]["high"]),
            "parameters": rounded(values["parameters"]["mean"]),
            "training_flops": rounded(values["training_flops"]["mean"]),
        }
        for name, found in contests.items()
        for arm, values in found["arms"].items()
    ]


def by_row(contests: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The contests by row and, as it is written, budget; in the order of the budgets."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for contest in sorted(contests.values(), key=lambda contest: contest["pflop"]):
        budget = format(Decimal(repr(contest["pflop"])), "f")
        found.setdefault(contest["row"], {})[budget] = contest
    return found


def page(
    contests: Mapping[str, Mapping[str, Any]], sources: Mapping[str, str], stale: Mapping[str, Sequence[str]]
) -> str:
    """The contest as Markdown.

    Args:
        contests: what `stages.contest_statistics` found, by name.
        sources: what each row was measured on.
        stale: by row, the records that are not of today's settings, data and code.
    """
    parts = [
        "# The contest",
        "",
        ABOUT,
    ]
    for row, budgets in by_row(contests).items():
        parts += ["", f"## {row}, measured on {sources[row]}", ""]
        heads = ["arm", *(f"{budget} PFLOP" for budget in budgets)]
        arms = dict.fromkeys(arm for found in budgets.values() for arm in found["arms"])
        parts += ["Test accuracy in percent with 95% interval, and mean number of parameters:", ""]
        parts += markdown(heads, [[arm, *(_arm(found, arm) for found in budgets.values())] for arm in arms])
        parts += ["", "Aims, with 95% intervals of paired differences, and whether they are reached:", ""]
        lines = [[title, *(_aim(found, aim) for found in budgets.values())] for aim, title in TITLES.items()]
        parts += markdown(["aim", *heads[1:]], lines)
        if old := [name for name in stale.get(row, ()) if name.partition("/")[0] in contests]:
            parts += ["", f"Measured with other settings, data or code than today's: {', '.join(old)}."]
    return "\n".join([*parts, ""])


def figure(row: str, source: str, budgets: Mapping[str, Any]) -> bytes:
    """Test accuracy over the budget, as SVG."""
    drawing = figures.blank()
    axes = drawing.subplots()
    where = [float(budget) for budget in budgets]
    arms = dict.fromkeys(arm for found in budgets.values() for arm in found["arms"])
    for arm in sorted(arms, key=lambda arm: arm in DRAWN):
        points = [
            (budget, found["arms"][arm]["test_accuracy"])
            for budget, found in zip(where, budgets.values(), strict=True)
            if arm in found["arms"]
        ]
        means = [values["mean"] for _, values in points]
        reach = [[values["mean"] - values["low"] for _, values in points]]
        reach += [[values["high"] - values["mean"] for _, values in points]]
        axes.errorbar(
            [budget for budget, _ in points],
            means,
            yerr=reach,
            color=DRAWN.get(arm, "lightgray"),
            label=arm,
            marker="o",
            markersize=3,
            linewidth=2 if arm == "dnm" else 1,
            capsize=2,
        )
    axes.set_xscale("log")
    axes.set_xticks(where, [f"{budget:g}" for budget in where])
    axes.minorticks_off()
    axes.set(xlabel="training cost (PFLOP, counted)", ylabel="test accuracy (%)", title=f"{row}: {source}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figures.svg(drawing)


def _arm(found: Mapping[str, Any], arm: str) -> str:
    if arm not in found["arms"]:
        return ""
    values, parameters = found["arms"][arm]["test_accuracy"], found["arms"][arm]["parameters"]["mean"]
    best = " (best fixed)" if arm == found["best"] else ""
    return f"{values['mean']:.2f} [{values['low']:.2f}, {values['high']:.2f}], {parameters / 1000:.0f}k{best}"


def _aim(found: Mapping[str, Any], aim: str) -> str:
    if aim == "share":
        by_seed = found["share"]["by_seed"].values()
        reached = [share for share in by_seed if share is not None]
        median = found["share"]["median"]
        shown = "never in half of the trials" if median is None else f"{median:.2f}"
        shown += f" ({len(reached)} of {len(by_seed)} trials reach it)"
    elif aim == "start_share":
        shown = "-" if found[aim] is None else f"{found[aim]:.3f}"
    else:
        values = found[aim]
        shown = f"{values['mean']:+.2f} [{values['low']:+.2f}, {values['high']:+.2f}]"
        if aim == "regret":
            shown += f" to {found['best']}; {min(found['events'].values())} to {max(found['events'].values())} events"
    return f"{shown}: {'reached' if found['reached'][aim] else '**not reached**'}"
