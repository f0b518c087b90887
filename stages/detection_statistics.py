"""How well each arm finds objects, and whether DNM does it better, as the document says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages import cli, outputs
from stages.detection import ARMS

BOOTSTRAP_SEED = 0
# By name: treatment and control of a paired difference in mAP. The document has figures of the first two.
DIFFERENCES = {
    "improvement": ("dnm", "baseline"),
    "over_sota": ("dnm", "sota"),
    "over_start": ("dnm", "start"),
    "over_scratch": ("dnm", "scratch"),
}
CLAIMS = ("improvement", "over_sota")
# By name: the figure of a trial. The document says mAP; its figures are held against the first one.
MEASURES = {"map": "test_map", "map_50": "test_map_50"}
TRAINED = ("parameters", "forward_flops", "training_flops", "steps", "edits")


def of_detection(context: cli.Context) -> dict[str, Any]:
    """The statistics of the context's entry of object detection, without what is corrected over all of them."""
    from stages import documented

    settings = context.detection
    row = settings.documented_row
    stated = {
        arm: documented.load().number("object_detection", row, arm) for arm in ("dnm", "sota", "improvement")
    }  # fmt: skip
    # The document's figures have one digit.
    claimed = {"improvement": stated["improvement"], "over_sota": round(stated["dnm"] - stated["sota"], 1)}
    lines = outputs.read_csv(context.metrics / "detection" / f"{context.entry}.trials.csv")
    card = outputs.read_json(context.metrics / "prepare" / f"{context.entry}.json")
    own = {
        "documented_row": row,
        "head": settings.detector.head,
        "resnet_width": settings.resnet.width,
        "size": card["image_size"][0],
        "classes": len(card["classes"]),
        "samples": {name: {key: of[key] for key in ("total", "objects")} for name, of in card["samples"].items()},
    }
    return {**own, **detection_statistics(lines, claimed)}


def detection_statistics(lines: Sequence[Mapping[str, str]], claimed: Mapping[str, float]) -> dict[str, Any]:
    """All that is said of one data set.

    Args:
        lines: of every trial, as `stages.detection` writes them.
        claimed: the document's differences in mAP, in points.

    Returns:
        `arms`, by arm: of each of `MEASURES` its mean and interval over seeds, times 100, and the means of `TRAINED`;
        `differences`, by measure the paired ones of `DIFFERENCES` in points, those of `CLAIMS` in mAP@[.5:.95] with a
        verdict.

    Raises:
        UserError: the arms have different seeds.
    """
    import numpy as np

    from stages import inference

    figures: dict[str, dict[int, Mapping[str, str]]] = {arm: {} for arm in ARMS}
    for line in lines:
        figures[line["arm"]][int(line["seed"])] = line
    seeds = {arm: sorted(of_arm) for arm, of_arm in figures.items()}
    if len({tuple(of_arm) for of_arm in seeds.values()}) != 1:
        raise cli.UserError(f"the arms have different seeds ({seeds}); run the detection stage again")

    def values(arm: str, figure: str) -> list[float]:
        return [float(figures[arm][seed][figure]) for seed in seeds[arm]]

    precision = {
        measure: {arm: [100.0 * value for value in values(arm, figure)] for arm in ARMS}
        for measure, figure in MEASURES.items()
    }
    differences: dict[str, dict[str, Any]] = {}
    for measure, of_arms in precision.items():
        differences[measure] = {}
        for name, (treatment, control) in DIFFERENCES.items():
            difference = inference.paired_difference(
                of_arms[treatment], of_arms[control], np.random.default_rng(BOOTSTRAP_SEED)
            )
            found = asdict(difference)
            if name in CLAIMS and measure == "map":
                # The document names neither its detectors nor its protocol, so nothing is measured as documented.
                verdict = inference.verdict(difference, documented=claimed[name], measured_as_documented=False)
                found |= {"documented": claimed[name], "verdict": str(verdict)}
            differences[measure][name] = found
    return {
        "arms": {
            arm: {
                **{measure: asdict(inference.summary(of_arms[arm])) for measure, of_arms in precision.items()},
                **{figure: float(np.mean(values(arm, figure))) for figure in TRAINED},
            }
            for arm in ARMS
        },
        "differences": differences,
    }


def correct(found: Mapping[str, dict[str, Any]]) -> None:
    """Adds Holm's correction over the data sets to each difference, a family for each measure and kind of it."""
    from stages import inference

    for measure in MEASURES:
        for name in DIFFERENCES:
            family = [of["differences"][measure][name] for of in found.values()]
            corrected = inference.holm([difference["p_value"] for difference in family]) if family else []
            for difference, p_value in zip(family, corrected, strict=True):
                difference["holm_p_value"] = float(p_value)
