"""What an architecture search reaches and costs, beside the baseline and DNM of the same seeds, and a random search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages import cli, outputs
from stages.statistics import read_arms

BOOTSTRAP_SEED = 0
# Differences in test accuracy, by name: of which arm to which.
DIFFERENCES = {
    "nas - baseline": ("nas", "baseline"),
    "dnm - nas": ("dnm", "nas"),
    "nas - nas_random": ("nas", "nas_random"),
}


def of_nas(context: cli.Context) -> dict[str, Any]:
    """The statistics of the context's architecture search."""
    from stages import documented

    row, name, metrics = context.row_name, context.entry, context.metrics
    figures = read_arms(metrics / "nas" / f"{name}.trials.csv")
    for stage, arm in (("baseline", "baseline"), ("morphogenesis", "dnm")):
        figures[arm] = read_arms(metrics / stage / f"{row}.trials.csv")[arm]
    table = documented.load()
    stated = {
        arm: table.number("image_classification", context.row.documented_row, arm) for arm in ("baseline", "nas", "dnm")
    }
    found = nas_statistics(
        figures,
        outputs.read_csv(metrics / "nas" / f"{name}.candidates.csv"),
        outputs.read_json(metrics / "nas" / f"{name}.journals.json"),
        stated,
        as_documented=context.row.as_documented,
    )
    return {"row": row, "cost": context.nas.cost, **found}


def nas_statistics(
    figures: Mapping[str, Mapping[int, Mapping[str, float]]],
    candidates: Sequence[Mapping[str, str]],
    grown: Sequence[Mapping[str, Any]],
    stated: Mapping[str, float],
    *,
    as_documented: bool,
) -> dict[str, Any]:
    """All that is said of one row's searches.

    Args:
        figures: of trained networks, by arm and seed; baseline and dnm have the searches' seeds at least.
        candidates: lines of all that was trained in the searches.
        grown: widths and branches of what was found, by arm and seed.
        stated: the document's test accuracies of the row, in percent, by arm.
        as_documented: whether it was measured on the documented data under the documented protocol.

    Returns:
        `arms`: test accuracy (percent) and parameters on the searches' seeds; `searches`, by arm: FLOPs of the search
        and of search and final training together, in multiples of the seed's DNM run, and the number of candidates;
        `differences`: paired, in points, those that the document's figures speak of with verdict and Holm-corrected
        p-value; `found`: the networks, one for each arm and seed.
    """
    import numpy as np

    from stages import inference

    seeds = sorted(figures["nas"])
    lacking = {arm: sorted(of_arm) for arm, of_arm in figures.items() if not set(seeds) <= set(of_arm)}
    if lacking:
        raise cli.UserError(
            f"the searches have the seeds {seeds}, and not all of them are in {lacking}; run them again"
        )

    def values(arm: str, figure: str) -> list[float]:
        scale = 100.0 if figure.endswith("accuracy") else 1.0
        return [scale * figures[arm][seed][figure] for seed in seeds]

    differences: dict[str, Any] = {}
    for name, (arm, other) in DIFFERENCES.items():
        if arm in figures and other in figures:
            difference = inference.paired_difference(
                values(arm, "test_accuracy"), values(other, "test_accuracy"), np.random.default_rng(BOOTSTRAP_SEED)
            )
            differences[name] = asdict(difference)
            if arm in stated and other in stated:
                # The document's figures have one digit.
                claimed = round(stated[arm] - stated[other], 1)
                verdict = inference.verdict(difference, documented=claimed, measured_as_documented=as_documented)
                differences[name] |= {"documented": claimed, "verdict": str(verdict)}
    judged = [of for of in differences.values() if "verdict" in of]
    for of, p_value in zip(judged, inference.holm([of["p_value"] for of in judged]), strict=True):
        of["holm_p_value"] = float(p_value)
    searches = {arm: figures[arm] for arm in ("nas", "nas_random") if arm in figures}
    return {
        "arms": {
            arm: {figure: asdict(inference.summary(values(arm, figure))) for figure in ("test_accuracy", "parameters")}
            for arm in figures
            if arm in (*searches, "baseline", "dnm")
        },
        "searches": {
            arm: {
                name: asdict(inference.summary(of_seeds))
                for name, of_seeds in _costs(arm, seeds, figures, candidates).items()
            }
            for arm in searches
        },
        "differences": differences,
        "found": [
            {
                **{key: item[key] for key in ("arm", "seed", "widths", "branches")},
                **{
                    figure: figures[item["arm"]][item["seed"]][figure]
                    for figure in ("parameters", "training_flops", "test_accuracy")
                },
            }
            for item in grown
        ],
    }


def _costs(
    arm: str,
    seeds: Sequence[int],
    figures: Mapping[str, Mapping[int, Mapping[str, float]]],
    candidates: Sequence[Mapping[str, str]],
) -> dict[str, list[float]]:
    """By name and seed, what the searches of an arm cost."""
    found: dict[str, list[float]] = {"search": [], "total": [], "candidates": []}
    for seed in seeds:
        own = [line for line in candidates if line["arm"] == arm and int(line["seed"]) == seed]
        spent, unit = sum(int(line["training_flops"]) for line in own), figures["dnm"][seed]["training_flops"]
        found["search"].append(spent / unit)
        found["total"].append((spent + figures[arm][seed]["training_flops"]) / unit)
        found["candidates"].append(float(len({line["candidate"] for line in own})))
    return found
