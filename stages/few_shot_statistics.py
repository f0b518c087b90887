"""How well each arm recognises classes never trained on, and whether DNM does it better, as the document says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages import cli, outputs

BOOTSTRAP_SEED = 0
# What is shown of the lines: by name, the arm, and the method where it is not the chosen one.
SHOWN = {
    "traditional": ("traditional", ""),
    "meta_learning": ("meta_learning", ""),
    "dnm": ("dnm", ""),
    "prototypical": ("meta_learning", "prototypical"),
    "start": ("start", ""),
    "scratch": ("scratch", ""),
    "centroid": ("centroid", ""),
}
# By name: treatment and control of a paired difference in test accuracy. The document has figures of the first two.
DIFFERENCES = {
    "improvement": ("dnm", "traditional"),
    "over_meta_learning": ("dnm", "meta_learning"),
    "over_prototypical": ("dnm", "prototypical"),
    "over_start": ("dnm", "start"),
    "over_scratch": ("dnm", "scratch"),
}
CLAIMS = ("improvement", "over_meta_learning")


def of_few_shot(context: cli.Context) -> dict[str, Any]:
    """The statistics of the context's entry of few-shot learning."""
    from stages import documented
    from stages.few_shot import documented_shots

    settings, folder, name = context.few_shot, context.metrics / "few_shot", context.entry
    claimed = {}
    for row, shots in documented_shots().items():
        stated = {
            arm: documented.load().number("few_shot", row, arm) for arm in ("dnm", "meta_learning", "improvement")
        }
        # The document's figures have one digit.
        over = round(stated["dnm"] - stated["meta_learning"], 1)
        claimed[shots] = {"improvement": stated["improvement"], "over_meta_learning": over}
    found = few_shot_statistics(outputs.read_csv(folder / f"{name}.csv"), claimed)
    own = {
        "ways": settings.ways,
        "queries": settings.queries,
        "validation_episodes": settings.validation_episodes,
        "not_measured": outputs.read_json(folder / f"{name}.json")["not_measured"],
        "trained": trained(outputs.read_csv(folder / f"{name}.trials.csv")),
    }
    return {**own, **found}


def few_shot_statistics(
    lines: Sequence[Mapping[str, str]], claimed: Mapping[int, Mapping[str, float]]
) -> dict[str, Any]:
    """All that is said of one data set.

    Args:
        lines: of every trial, method, split and number of shots, as `stages.few_shot` writes them.
        claimed: the document's differences by number of shots, in points.

    Returns:
        `shots`, by number: `arms`, by arm of `SHOWN` the test `accuracy` in percent over seeds (of one seed its value
        alone), its interval over `episodes` of the mean over seeds, and by method how many seeds `chosen` it;
        `validation`, by method the mean accuracy that it was chosen by; `differences`, the paired ones of
        `DIFFERENCES` in points over seeds, with an interval over `episodes` as well and Holm's correction over the
        numbers of shots, those of `CLAIMS` with a verdict.

    Raises:
        UserError: the arms have different seeds or episodes.
    """
    import numpy as np

    from stages import inference

    found: dict[str, Any] = {}
    for shots in sorted({int(line["shots"]) for line in lines}):
        of_shots = [line for line in lines if int(line["shots"]) == shots]
        tested = {shown: _tested(of_shots, *SHOWN[shown]) for shown in SHOWN}
        seeds = {shown: sorted(of) for shown, of in tested.items() if shown != "centroid"}
        lengths = {len(right) for of in tested.values() for right in of.values()}
        if len({tuple(values) for values in seeds.values()}) != 1 or len(lengths) != 1 or not tested["centroid"]:
            raise cli.UserError(
                f"{shots} shots: the arms have different seeds ({seeds}) or numbers of episodes ({sorted(lengths)}); "
                "run the few_shot stage again"
            )
        # In percent, `seeds x episodes`.
        accuracy = {shown: np.array([of[seed] for seed in sorted(of)]) for shown, of in tested.items()}
        arms = {}
        for shown, values in accuracy.items():
            over_seeds = values.mean(axis=1)
            level = asdict(inference.summary(over_seeds)) if len(over_seeds) > 1 else {"mean": float(over_seeds[0])}
            arms[shown] = {
                "accuracy": {**level, "num_values": len(over_seeds)},
                "episodes": _over_episodes(values.mean(axis=0)),
                "chosen": dict(Counter(
                    line["method"] for line in of_shots
                    if line["arm"] == SHOWN[shown][0] and line["split"] == "test" and line["chosen"] == "1"
                )) if not SHOWN[shown][1] else {},
            }  # fmt: skip
        differences = {}
        for name, (treatment, control) in DIFFERENCES.items():
            one, other = accuracy[treatment], accuracy[control]
            difference = inference.paired_difference(
                one.mean(axis=1), other.mean(axis=1), np.random.default_rng(BOOTSTRAP_SEED)
            )
            differences[name] = {**asdict(difference), "episodes": _over_episodes((one - other).mean(axis=0))}
            if name in CLAIMS:
                stated = claimed[shots][name]
                # The document names neither its data nor its protocol, so nothing is measured as documented.
                verdict = inference.verdict(difference, documented=stated, measured_as_documented=False)
                differences[name] |= {"documented": stated, "verdict": str(verdict)}
        validated: dict[str, list[float]] = {}
        for line in of_shots:
            if line["split"] == "validation" and line["arm"] in ("traditional", "meta_learning"):
                validated.setdefault(line["method"], []).append(100.0 * float(line["accuracy"]))
        validation = {method: float(np.mean(values)) for method, values in validated.items()}
        found[str(shots)] = {"arms": arms, "differences": differences, "validation": validation}
    for name in DIFFERENCES:
        family = [of["differences"][name] for of in found.values()]
        corrected = inference.holm([difference["p_value"] for difference in family]) if family else []
        for difference, p_value in zip(family, corrected, strict=True):
            difference["holm_p_value"] = float(p_value)
    return {"shots": found}


def trained(lines: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """By arm and method the means over seeds of parameters, counted training FLOPs, steps and edits."""
    import numpy as np

    figures = ("parameters", "training_flops", "steps", "edits")
    kinds = dict.fromkeys((line["arm"], line["method"]) for line in lines)
    return [
        {"arm": arm, "method": method}
        | {
            figure: float(
                np.mean([float(line[figure]) for line in lines if (line["arm"], line["method"]) == (arm, method)])
            )
            for figure in figures
        }
        for arm, method in kinds
    ]


def _tested(lines: Sequence[Mapping[str, str]], arm: str, method: str) -> dict[int, list[float]]:
    """By seed the accuracies of the test episodes, in percent, by the arm's chosen method or the given one."""
    return {
        int(line["seed"]): [100.0 * int(right) / int(line["queries"]) for right in line["right"].split()]
        for line in lines
        if line["arm"] == arm
        and line["split"] == "test"
        and (line["method"] == method if method else line["chosen"] == "1")
    }


def _over_episodes(values: Any) -> dict[str, float]:
    from stages import inference

    found = inference.summary(values)
    return {"num_values": found.num_values, "low": found.low, "high": found.high}
