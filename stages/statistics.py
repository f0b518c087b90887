"""Turns per-seed figures into paired differences, intervals, tests and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stages import cli, outputs
from stages.settings import Row, row_of

ARMS = {"baseline": "baseline", "start": "morphogenesis", "dnm": "morphogenesis", "scratch": "morphogenesis"}
# What a claim is about: its column in the document, the figure of a trial, and how two arms are compared.
CLAIMS = {
    "improvement": ("test_accuracy", "points"),
    "training_time": ("training_flops", "percent"),
    "parameters": ("parameters", "percent"),
}
CONTROLS = ("scratch", "start")
BOOTSTRAP_SEED = 0

Trials = dict[str, dict[int, dict[str, float]]]


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/statistics/*.json` and, from them, `metrics/<scale>/summary.json`."""
    from stages import (
        ablation_statistics,
        contest_statistics,
        convergence,
        detection_statistics,
        documented,
        events_statistics,
        few_shot_statistics,
        language_statistics,
        nas_statistics,
        partial,
        robustness_statistics,
        transfer_statistics,
    )

    table = documented.load()
    context = partial.measured(context)
    rows = context.settings.documented_rows
    trials = {name: read_trials(context, name) for name in rows}
    content = {
        name: row_statistics(
            trials[name],
            row,
            {claim: table.number("image_classification", row.documented_row, claim) for claim in CLAIMS},
        )
        for name, row in rows.items()
    }
    outputs.write_json(context.metrics / "statistics" / "image_classification.json", content)
    outputs.write_json(
        context.metrics / "statistics" / "convergence.json",
        {
            name: convergence.row_convergence(
                convergence.curves_of(_curves(context, name)),
                row,
                convergence.claims_of(table, row.documented_row),
                trials[name],
            )
            for name, row in rows.items()
        },
    )
    of_sections = {
        "ablation": ablation_statistics.of_ablation,
        "contest": contest_statistics.of_contest,
        "detection": detection_statistics.of_detection,
        "events": events_statistics.of_events,
        "few_shot": few_shot_statistics.of_few_shot,
        "nas": nas_statistics.of_nas,
        "robustness": robustness_statistics.of_robustness,
        "transfer": transfer_statistics.of_transfer,
    }
    found_of = {
        section: {
            name: of_entry(replace(context, row_name=row_of(section, name, entry), entry=name))
            for name, entry in getattr(context.settings, section).items()
        }
        for section, of_entry in of_sections.items()
    }
    transfer_statistics.correct(found_of["transfer"])
    detection_statistics.correct(found_of["detection"])
    for section, found in found_of.items():
        outputs.write_json(context.metrics / "statistics" / f"{section}.json", found)
    found_language = language_statistics.of_language(context)
    outputs.write_json(context.metrics / "statistics" / "language.json", found_language)
    outputs.write_json(
        context.metrics / "summary.json",
        {
            **{name: summary(found) for name, found in content.items()},
            "contest": {name: contest_summary(found) for name, found in found_of["contest"].items()},
        },
    )


def contest_summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """What one wants to know first of a contest: test accuracies in percent, and regret in points; rounded."""
    from stages.inference import rounded

    best = found["arms"][found["best"]]
    figures = {
        "dnm": found["arms"]["dnm"]["test_accuracy"]["mean"],
        "best fixed": best["test_accuracy"]["mean"],
        "regret": found["regret"]["mean"],
    }
    return {name: round(rounded(value), 2) for name, value in figures.items()}


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """What one wants to know first of a row, for `dvc metrics diff` and `dvc exp show`.

    Returns:
        Test accuracies in percent, the improvement in points with its interval and verdict, training FLOPs and
        parameters of dnm over baseline in percent; rounded to two decimals.
    """
    from stages.inference import rounded

    def shown(value: float) -> float:
        # By way of the tables' six digits, or half a hundredth could end on two sides.
        return round(rounded(value), 2)

    claims = found["claims"]
    improvement = claims["improvement"]
    return {
        **{arm: shown(found["arms"][arm]["test_accuracy"]["mean"]) for arm in ("baseline", "dnm")},
        **{claim: shown(claims[claim]["mean"]) for claim in CLAIMS},
        "interval": f"[{shown(improvement['low']):.2f}, {shown(improvement['high']):.2f}]",
        "verdict": improvement["verdict"],
    }


def read_trials(context: cli.Context, row: str) -> Trials:
    """The per-seed figures of a row, by arm and seed."""
    trials: Trials = {}
    for stage in dict.fromkeys(ARMS.values()):
        trials |= read_arms(context.metrics / stage / f"{row}.trials.csv")
    return trials


def _curves(context: cli.Context, row: str) -> list[dict[str, str]]:
    return [
        line
        for stage in dict.fromkeys(ARMS.values())
        for line in outputs.read_csv(context.metrics / stage / f"{row}.curves.csv")
    ]


def read_arms(file: Path) -> Trials:
    """The per-seed figures in a file of trials, by arm and seed."""
    trials: Trials = {}
    for line in outputs.read_csv(file):
        arm, seed = line.pop("arm"), int(line.pop("seed"))
        line.pop("fingerprint")
        trials.setdefault(arm, {})[seed] = {key: float(value) for key, value in line.items()}
    return trials


def row_statistics(trials: Trials, row: Row, claimed: Mapping[str, float]) -> dict[str, Any]:
    """Everything that the tables say of one row.

    Args:
        trials: figures by arm and seed; every arm has the same seeds.
        row: the row's settings.
        claimed: the document's figures of the row, by column.

    Returns:
        `arms`: per arm and figure its mean, deviation, extremes and 95% interval, accuracies in percent;
        `claims`: per claim the paired difference dnm - baseline, its verdict and Holm-corrected p-value;
        `controls`: per control the paired difference dnm - control in test accuracy, in points.
    """
    import numpy as np

    from stages import inference

    seeds = {arm: sorted(of_arm) for arm, of_arm in trials.items()}
    if len({tuple(values) for values in seeds.values()}) != 1:
        raise cli.UserError(f"the arms have different seeds ({seeds}), expected the same; run their stages again")

    def values(arm: str, figure: str) -> list[float]:
        scale = 100.0 if figure.endswith("accuracy") else 1.0
        return [scale * trials[arm][seed][figure] for seed in seeds[arm]]

    def generator() -> np.random.Generator:
        # One stream for each figure, so that no figure depends on how many others there are.
        return np.random.default_rng(BOOTSTRAP_SEED)

    arms = {
        arm: {
            figure: asdict(inference.summary(values(arm, figure)))
            for figure in ("test_accuracy", "parameters", "training_flops", "epochs", "edits")
        }
        for arm in trials
    }
    claims = {}
    for claim, (figure, unit) in CLAIMS.items():
        treatment, control = values("dnm", figure), values("baseline", figure)
        if unit == "percent":
            treatment = [100.0 * (new / old - 1.0) for new, old in zip(treatment, control, strict=True)]
            control = [0.0] * len(treatment)
        difference = inference.paired_difference(treatment, control, generator())
        verdict = inference.verdict(difference, documented=claimed[claim], measured_as_documented=row.as_documented)
        claims[claim] = {
            **asdict(difference), "unit": unit, "documented": claimed[claim], "verdict": str(verdict),
        }  # fmt: skip
    corrected = inference.holm([claim["p_value"] for claim in claims.values()])
    for claim, p_value in zip(claims.values(), corrected, strict=True):
        claim["holm_p_value"] = float(p_value)
    controls = {
        control: asdict(
            inference.paired_difference(values("dnm", "test_accuracy"), values(control, "test_accuracy"), generator())
        )
        for control in CONTROLS
    }
    return {"arms": arms, "claims": claims, "controls": controls}


if __name__ == "__main__":
    cli.main(main, has_row=False)
