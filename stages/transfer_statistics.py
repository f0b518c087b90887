"""What transfer is worth, arm by arm, and whether DNM's networks are worth more, as the document says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages import cli, outputs
from stages.transfer import ARMS, PROTOCOLS

BOOTSTRAP_SEED = 0
# By name: treatment and control of a paired difference in test accuracy.
DIFFERENCES = {
    "improvement": ("dnm", "baseline"),
    "over_scratch": ("dnm", "scratch"),
    "over_untrained": ("baseline", "untrained"),
}
CLAIM = "improvement"


def of_transfer(context: cli.Context) -> dict[str, Any]:
    """The statistics of the context's transfer, without what is corrected over all of them."""
    from stages import documented

    settings, rows = context.transfer, context.settings.image_classification
    folder, name = context.metrics / "transfer", context.entry
    target = rows[settings.target]
    found = transfer_statistics(
        outputs.read_csv(folder / f"{name}.csv"),
        documented.load().number("transfer", settings.documented_row, CLAIM),
        # The document does not say how it transfers: as it trains is how its target is measured as documented.
        as_documented=rows[settings.source].as_documented
        and target.as_documented
        and settings.epochs == target.training.epochs,
    )
    probes = outputs.read_json(folder / f"{name}.json")["probes"]
    not_converged = sum(of_arm["not_converged"] for of_arm in probes.values())
    own = {
        "documented_row": settings.documented_row,
        "source": settings.source,
        "target": settings.target,
        "epochs": settings.epochs,
        "not_converged": not_converged,
    }
    return {**own, **found}


def transfer_statistics(
    lines: Sequence[Mapping[str, str]], claimed: float, *, as_documented: bool
) -> dict[str, dict[str, Any]]:
    """All that is said of one pair.

    Args:
        lines: arm, seed, protocol, test accuracy (a fraction) and training FLOPs.
        claimed: the document's improvement, in points.
        as_documented: whether it was measured on the documented data under the documented protocol.

    Returns:
        `protocols`, by protocol: `arms`, by arm the test accuracy in percent and the mean of the training FLOPs;
        `differences`, the paired ones of `DIFFERENCES`, in points, dnm's over the baseline with a verdict.

    Raises:
        UserError: the arms have different seeds.
    """
    import numpy as np

    from stages import inference

    figures: dict[str, dict[str, dict[int, tuple[float, float]]]] = {}
    for line in lines:
        of_arm = figures.setdefault(line["protocol"], {}).setdefault(line["arm"], {})
        of_arm[int(line["seed"])] = 100.0 * float(line["test_accuracy"]), float(line["training_flops"])
    found: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        arms = figures.get(protocol, {})
        known = {arm: sorted(arms.get(arm, {})) for arm in ARMS}
        seeds = known["baseline"]
        if any(of_arm != seeds for of_arm in known.values()):
            raise cli.UserError(f"{protocol}: the arms have different seeds ({known}); run the transfer stage again")
        accuracy = {arm: [arms[arm][seed][0] for seed in seeds] for arm in ARMS}
        differences = {}
        for name, (treatment, control) in DIFFERENCES.items():
            generator = np.random.default_rng(BOOTSTRAP_SEED)
            difference = inference.paired_difference(accuracy[treatment], accuracy[control], generator)
            differences[name] = asdict(difference)
            if name == CLAIM:
                judged = inference.verdict(difference, documented=claimed, measured_as_documented=as_documented)
                differences[name] |= {"documented": claimed, "verdict": str(judged)}
        of_arms = {
            arm: {
                "test_accuracy": asdict(inference.summary(accuracy[arm])),
                "training_flops": float(np.mean([arms[arm][seed][1] for seed in seeds])),
            }
            for arm in ARMS
        }
        found[protocol] = {"arms": of_arms, "differences": differences}
    return {"protocols": found}


def correct(found: Mapping[str, dict[str, Any]]) -> None:
    """Adds Holm's correction over the pairs to each difference, a family for each protocol and kind of difference."""
    from stages import inference

    for protocol in PROTOCOLS:
        for name in DIFFERENCES:
            family = [of_pair["protocols"][protocol]["differences"][name] for of_pair in found.values()]
            corrected = inference.holm([difference["p_value"] for difference in family]) if family else []
            for difference, p_value in zip(family, corrected, strict=True):
                difference["holm_p_value"] = float(p_value)
