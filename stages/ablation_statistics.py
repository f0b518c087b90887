"""What each part of DNM adds: paired differences between the arms of an ablation, and verdicts on the document's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from stages import cli, statistics

# By row of the document: the arm that has the part, and the arm that lacks it.
COMPONENTS = {
    "detection": ("placebo", "start"),
    "division": ("division", "placebo"),
    "connection": ("connection", "division"),
    "full": ("full", "connection"),
}
THEORIES = {
    "information": ("information", "none"),
    "ntk": ("ntk", "information"),
    "manifold": ("manifold", "ntk"),
    "full": ("all", "none"),
}
# Ours: DNM beside growth at other places, at other times, with other new units, and beside none.
CONTROLS = ("start", "placebo", "random", "uniform", "plateau", "twin", "full")
BOOTSTRAP_SEED = 0

Trials = Mapping[str, Mapping[int, Mapping[str, float]]]


def of_ablation(context: cli.Context) -> dict[str, Any]:
    """The statistics of the context's ablation; `dnm` and `baseline` are the row's, on the ablation's seeds."""
    from stages import documented

    row = statistics.read_trials(context, context.row_name)
    seeds = range(context.ablation.seeds)
    trials = {arm: {seed: row[arm][seed] for seed in seeds} for arm in ("baseline", "dnm")}
    trials |= statistics.read_arms(context.metrics / "ablation" / f"{context.entry}.trials.csv")
    table = documented.load()
    claimed = {
        "components": {name: table.number("ablation_components", name, "contribution") for name in COMPONENTS},
        "theories": {name: table.number("ablation_theories", name, "impact") for name in THEORIES},
    }
    found = ablation_statistics(trials, claimed, as_documented=context.row.as_documented)
    return {"row": context.row_name, **found}


def ablation_statistics(
    trials: Trials, claimed: Mapping[str, Mapping[str, float]], *, as_documented: bool
) -> dict[str, Any]:
    """All that is said of one ablation.

    Args:
        trials: figures by arm and seed; every arm has the same seeds.
        claimed: the document's figures, in points, by row of the tables `components` and `theories`.
        as_documented: whether it was measured on the documented data under the documented protocol.

    Returns:
        `arms`: by arm test accuracy (percent), parameters, training FLOPs and edits, each with its interval;
        `components` and `theories`: by row the paired difference of the two arms in test accuracy, points, with its
        verdict and Holm-corrected p-value over the rows of the table; `synergy`: full less the sum of the parts,
        points; `controls`: paired differences of `dnm` to other arms, points.
    """
    import numpy as np

    from stages import inference

    seeds = sorted(trials["dnm"])
    if any(sorted(of_arm) != seeds for of_arm in trials.values()):
        found_seeds = {arm: sorted(of_arm) for arm, of_arm in trials.items()}
        raise cli.UserError(f"the arms have different seeds ({found_seeds}), expected the same; run the ablation again")
    accuracies = {
        arm: np.array([100.0 * of_arm[seed]["test_accuracy"] for seed in seeds]) for arm, of_arm in trials.items()
    }

    def paired(treatment, control) -> Any:
        return inference.paired_difference(treatment, control, np.random.default_rng(BOOTSTRAP_SEED))

    def rows(pairs: Mapping[str, tuple[str, str]], documented: Mapping[str, float]) -> dict[str, Any]:
        found = {}
        for name, (arm, without) in pairs.items():
            difference = paired(accuracies[arm], accuracies[without])
            verdict = inference.verdict(
                difference, documented=documented[name], measured_as_documented=as_documented
            )  # fmt: skip
            found[name] = {
                **asdict(difference), "arm": arm, "without": without, "documented": documented[name],
                "verdict": str(verdict),
            }  # fmt: skip
        corrected = inference.holm([row["p_value"] for row in found.values()])
        for row, p_value in zip(found.values(), corrected, strict=True):
            row["holm_p_value"] = float(p_value)
        return found

    parts = sum(accuracies[arm] - accuracies[without] for arm, without in list(THEORIES.values())[:-1])
    full, base = THEORIES["full"]
    return {
        "arms": {
            arm: {
                "test_accuracy": asdict(inference.summary(accuracies[arm])),
                **{
                    figure: asdict(inference.summary([of_arm[seed][figure] for seed in seeds]))
                    for figure in ("parameters", "training_flops", "edits")
                },
            }
            for arm, of_arm in trials.items()
        },
        "components": rows(COMPONENTS, claimed["components"]),
        "theories": rows(THEORIES, claimed["theories"]),
        "synergy": asdict(paired(accuracies[full] - accuracies[base], parts)),
        "controls": {arm: asdict(paired(accuracies["dnm"], accuracies[arm])) for arm in CONTROLS},
    }
