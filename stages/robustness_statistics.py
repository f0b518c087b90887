"""What is lost under perturbations, arm by arm, and whether DNM loses less, as the document says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages import cli, outputs
from stages.robustness import PERTURBATIONS
from stages.trained import ARMS

BOOTSTRAP_SEED = 0
CONTROLS = ("scratch",)
# Beside the document's rows: at the strength of the adversarial one.
ALSO = {"fgsm": "fgsm"}


def of_robustness(context: cli.Context) -> dict[str, Any]:
    """The statistics of the context's robustness."""
    from stages import documented

    folder, name = context.metrics / "robustness", context.entry
    table = documented.load()
    found = robustness_statistics(
        outputs.read_csv(folder / f"{name}.csv"),
        outputs.read_json(folder / f"{name}.json")["calibration"],
        {row: table.number("robustness", row, "gain") for row in PERTURBATIONS},
        as_documented=context.row.as_documented,
    )
    return {"row": context.row_name, "images": context.robustness.images, **found}


def robustness_statistics(
    lines: Sequence[Mapping[str, str]],
    calibration: Mapping[str, Mapping[str, Mapping[str, float]]],
    claimed: Mapping[str, float],
    *,
    as_documented: bool,
) -> dict[str, Any]:
    """All that is said of one row's networks.

    Args:
        lines: arm, seed, perturbation, strength, factor, and accuracies (fractions) without and with it.
        calibration: by seed and perturbation what the baseline's strength does on validation data (fractions).
        claimed: the document's gains, in points, by its rows.
        as_documented: whether it was measured on the documented data under the documented protocol.

    Returns:
        By row of the document, and for FGSM: `drops`, by arm the drop of accuracy in points at the strength itself;
        `gain`, by how much less dnm drops than the baseline, paired, with verdict and Holm-corrected p-value;
        `controls`, the same against other arms, with the difference in clean accuracy beside it; `curves`, by arm the
        mean drop at each factor; `strength`; and `miss`, by how many points the baselines' drops on validation data
        are off what was wanted, at most.
    """
    import numpy as np

    from stages import inference

    figures: dict[str, dict[str, dict[float, dict[int, tuple[float, float, float]]]]] = {}
    for line in lines:
        clean, accuracy = 100.0 * float(line["clean"]), 100.0 * float(line["accuracy"])
        by_factor = figures.setdefault(line["perturbation"], {}).setdefault(line["arm"], {})
        by_factor.setdefault(float(line["factor"]), {})[int(line["seed"])] = clean, accuracy, float(line["strength"])
    found: dict[str, Any] = {}
    for row, name in (PERTURBATIONS | ALSO).items():
        arms = figures[name]
        seeds = sorted(arms["baseline"][1.0])
        if any(sorted(arms[arm][1.0]) != seeds for arm in ARMS):
            known = {arm: sorted(arms[arm][1.0]) for arm in ARMS}
            raise cli.UserError(f"{name}: the arms have different seeds ({known}); run the robustness stage again")

        def drops(arm: str, factor: float, arms: Any = arms, seeds: Sequence[int] = seeds) -> list[float]:
            return [arms[arm][factor][seed][0] - arms[arm][factor][seed][1] for seed in seeds]

        def paired(treatment: Sequence[float], control: Sequence[float]) -> inference.PairedDifference:
            return inference.paired_difference(treatment, control, np.random.default_rng(BOOTSTRAP_SEED))

        gain = paired(drops("baseline", 1.0), drops("dnm", 1.0))
        clean = {arm: [arms[arm][1.0][seed][0] for seed in seeds] for arm in ARMS}
        found[row] = {
            "perturbation": name,
            "drops": {arm: asdict(inference.summary(drops(arm, 1.0))) for arm in ARMS},
            "gain": asdict(gain),
            "controls": {
                arm: {**asdict(paired(drops(arm, 1.0), drops("dnm", 1.0))),
                      "clean": asdict(paired(clean["dnm"], clean[arm]))}
                for arm in CONTROLS
            },
            "curves": {
                arm: {f"{factor:g}": float(np.mean(drops(arm, factor))) for factor in sorted(arms[arm])}
                for arm in ARMS
            },
            "strength": asdict(inference.summary([arms["baseline"][1.0][seed][2] for seed in seeds])),
        }  # fmt: skip
        if row in claimed:
            verdict = inference.verdict(gain, documented=claimed[row], measured_as_documented=as_documented)
            off = [abs(of[name]["clean"] - of[name]["perturbed"] - of[name]["wanted"]) for of in calibration.values()]
            found[row] |= {"documented": claimed[row], "verdict": str(verdict), "miss": 100.0 * max(off)}
    corrected = inference.holm([found[row]["gain"]["p_value"] for row in claimed])
    for row, p_value in zip(claimed, corrected, strict=True):
        found[row]["gain"]["holm_p_value"] = float(p_value)
    return {"perturbations": found}
