"""The document's headline claims, each judged from the tables that speak of it.

A claim over several rows is one over each of them: it is `reproduced` or holds in `direction only` where all of them do
at least, `contradicted` where one of them is, and `not reproduced` otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stages.documented import Documented
from stages.inference import Verdict, rounded
from stages.tables import CELL_COLUMNS, Cells, plain

# "Comparable" parameters, as it is read here: the document gives no margin. Percent.
COMPARABLE = 5.0
SIGNIFICANT = 0.05


def cells(
    documented: Documented,
    statistics: Mapping[str, Any],
    convergence: Mapping[str, Any],
    robustness: Mapping[str, Any],
    events: Mapping[str, Any],
    transfer: Mapping[str, Any],
    few_shot: Mapping[str, Any],
) -> Cells:
    """One line a claim.

    Args:
        documented: the document's figures.
        statistics: of image classification, by row.
        convergence: by row.
        robustness: by entry.
        events: by entry.
        transfer: by entry.
        few_shot: by entry; the first one is judged, which fills the table.
    """
    improvements = {name: found["claims"]["improvement"] for name, found in statistics.items()}
    sizes = {name: found["claims"]["parameters"] for name, found in statistics.items()}
    epochs = {
        name: found["claims"]["epochs_to_target_change"]
        for name, found in convergence.items()
        if found["claims"]["epochs_to_target_change"]["verdict"] != Verdict.NOT_MEASURED
    }
    drops = {row: of for found in robustness.values() for row, of in found["perturbations"].items() if "verdict" in of}
    domains = {
        of_pair["documented_row"]: of_pair["protocols"]["fine_tuning"]["differences"]["improvement"]
        for of_pair in transfer.values()
    }
    robust = {row: of["gain"] | {"verdict": of["verdict"]} for row, of in drops.items()}
    significant = [
        name for name, claim in improvements.items() if claim["low"] > 0 and claim["holm_p_value"] < SIGNIFICANT
    ]
    table = documented.tables["achievements"]
    made = {
        "accuracy_improvements": _over_rows(improvements, "points"),
        "training_efficiency": _over_rows(epochs, "%") | {
            "note": f"epochs to the target accuracy, dnm over baseline: {_each(epochs)}"
        },
        "parameter_efficiency": {
            "measured": rounded(_mean(sizes.values())), "unit": "% more parameters", "seeds": _seeds(sizes),
            "verdict": together([_with_parameters(improvements[name], sizes[name]) for name in sizes]),
            "note": f"comparable is read as at most {COMPARABLE:g}% more, with the interval; {_each(sizes)}",
        },
        "generalization": _generalization(domains, robust),
        "few_shot": _few_shot(next(iter(few_shot.values()), {"shots": {}})["shots"]),
        "consistency": {
            "measured": f"{sum(claim['low'] > 0 for claim in improvements.values())} of {len(improvements)} rows",
            "seeds": _seeds(improvements),
            "verdict": together([_ahead(claim) for claim in improvements.values()]),
            "note": "image classification alone: dnm above the baseline with an interval that excludes 0",
        },
    }  # fmt: skip
    lines: Cells = []
    for row, claimed in table.rows.items():
        stated = ", ".join(plain(value) for value in claimed.values.values())
        lines.append(
            dict.fromkeys(CELL_COLUMNS, "") | {"row": row, "column": "claim", "documented": stated} | made[row]
        )
    lines.append(
        dict.fromkeys(CELL_COLUMNS, "")
        | {
            "row": "all improvements are significant", "column": "claim", "documented": "true",
            "measured": str(len(significant) == len(improvements)).lower(), "seeds": _seeds(improvements),
            "verdict": together([
                _ahead(claim) if claim["holm_p_value"] < SIGNIFICANT else str(Verdict.NOT_REPRODUCED)
                for claim in improvements.values()
            ]),
            "note": f"{len(significant)} of {len(improvements)} rows above 0 with Holm-corrected p < {SIGNIFICANT}",
        }
    )  # fmt: skip
    pruned = [
        found["kinds"]["pruning"] for found in events.values() if found["kinds"]["pruning"].get("flops") is not None
    ]
    note = "pruning and optimized architectures make inference faster"
    lines.append(
        dict.fromkeys(CELL_COLUMNS, "")
        | {"row": "inference note", "column": "claim", "documented": note}
        | (
            {
                "measured": rounded(-100.0 * pruned[0]["flops"]), "unit": "% of the forward FLOPs saved by pruning",
                "verdict": str(Verdict.NOT_MEASURED),
                "note": "times differ from run to run and have no verdict; counted FLOPs stand in for them",
            }
            if pruned
            else {"verdict": str(Verdict.NOT_MEASURED), "note": "no pruning happened at this scale"}
        )
    )  # fmt: skip
    return lines


def together(verdicts: Sequence[str]) -> str:
    """The verdict on a claim that is made of each of several."""
    if not verdicts:
        return str(Verdict.NOT_MEASURED)
    if Verdict.CONTRADICTED in verdicts:
        return str(Verdict.CONTRADICTED)
    if set(verdicts) == {str(Verdict.REPRODUCED)}:
        return str(Verdict.REPRODUCED)
    good = {str(Verdict.REPRODUCED), str(Verdict.DIRECTION_ONLY)}
    return str(Verdict.DIRECTION_ONLY if set(verdicts) <= good else Verdict.NOT_REPRODUCED)


def _over_rows(claims: Mapping[str, Mapping[str, Any]], unit: str) -> dict[str, Any]:
    if not claims:
        return {"verdict": str(Verdict.NOT_MEASURED), "note": "on no row", "unit": unit}
    return {
        "measured": rounded(_mean(claims.values())), "unit": unit, "seeds": _seeds(claims),
        "verdict": together([claim["verdict"] for claim in claims.values()]),
        "note": f"mean over rows; {_each(claims)}",
    }  # fmt: skip


def _generalization(
    domains: Mapping[str, Mapping[str, Any]], robust: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The claim of a robust performance across domains, which is one over every transfer and every perturbation."""
    shown = {"transfer": domains, "robustness": robust}
    return {
        "measured": rounded(_mean(domains.values())) if domains else "", "unit": "points",
        "seeds": _seeds({**domains, **robust}),
        "verdict": together([claim["verdict"] for claims in shown.values() for claim in claims.values()]),
        "note": "mean improvement of transfer by fine-tuning; " + "; ".join(
            f"{name}: {_each(claims) if claims else 'not measured'}" for name, claims in shown.items()
        ),
    }  # fmt: skip


def _few_shot(shots: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The claim of excelling, which is one over both rivals of the document's table at each number of shots."""
    claims = {
        rival: {f"{number} shots": shots[str(number)]["differences"][name] for number in sorted(map(int, shots))}
        for rival, name in (("traditional", "improvement"), ("meta-learning", "over_meta_learning"))
    }
    gains = claims["traditional"]
    return {
        "measured": rounded(_mean(gains.values())) if gains else "", "unit": "points", "seeds": _seeds(gains),
        "verdict": together([claim["verdict"] for of in claims.values() for claim in of.values()]),
        "note": "excels is read as ahead of both rivals; mean over the shots against the traditional one; " + "; ".join(
            f"over {rival}: {_each(of) if of else 'not measured'}" for rival, of in claims.items()
        ),
    }  # fmt: skip


def _with_parameters(improvement: Mapping[str, Any], size: Mapping[str, Any]) -> str:
    return str(Verdict.CONTRADICTED) if size["low"] > COMPARABLE else improvement["verdict"]


def _ahead(claim: Mapping[str, Any]) -> str:
    """Whether dnm is ahead at all: what the document's figure is plays no part."""
    if claim["low"] > 0:
        return str(Verdict.DIRECTION_ONLY)
    return str(Verdict.CONTRADICTED if claim["high"] < 0 else Verdict.NOT_REPRODUCED)


def _each(claims: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {of['mean']:+.1f} [{of['low']:+.1f}, {of['high']:+.1f}]" for name, of in claims.items())


def _mean(claims: Iterable[Mapping[str, Any]]) -> float:
    means = [claim["mean"] for claim in claims]
    return sum(means) / len(means)


def _seeds(claims: Mapping[str, Mapping[str, Any]]) -> str:
    numbers = sorted({claim["num_seeds"] for claim in claims.values()})
    return " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1]))) if numbers else ""
