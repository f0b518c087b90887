"""How often each kind of edit happened, when, and what it gained, beside the document's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages import cli, outputs

KINDS = ("division", "residual", "attention", "pruning")
BOOTSTRAP_SEED = 0


def of_events(context: cli.Context) -> dict[str, Any]:
    """The statistics of the context's events."""
    from stages import documented

    folder, name = context.metrics / "events", context.entry
    table = documented.load()
    found = events_statistics(
        outputs.read_csv(folder / f"{name}.csv"),
        outputs.read_json(folder / f"{name}.json")["seeds"],
        {kind: table.number("events", kind, "gain") for kind in KINDS},
        as_documented=context.row.as_documented,
    )
    return {"row": context.row_name, "steps": context.events.steps, **found}


def events_statistics(
    lines: Sequence[Mapping[str, str]], seeds: Sequence[int], claimed: Mapping[str, float], *, as_documented: bool
) -> dict[str, Any]:
    """All that is said of one row's events.

    Args:
        lines: seed, event, position, status, kind, edits and gain (points); no line where a kind did not happen.
        seeds: all of them.
        claimed: the document's mean gain by kind, points.
        as_documented: whether it was measured on the documented data under the documented protocol.

    Returns:
        By kind: `events`, how many of a training have such an edit, and `edits`, how many there are, by seed and with
        an interval; `taken_back`, of all events; `position`, mean, first and last, as fractions of the training;
        `gain`, the mean over a seed's events, tested over the seeds that have any; None with fewer than two such seeds;
        `parameters` and `flops`, what such an event adds, mean fractions.
    """
    import numpy as np

    from stages import inference

    kinds: dict[str, Any] = {}
    for kind in KINDS:
        own = [line for line in lines if line["kind"] == kind]
        of_seed = {seed: [line for line in own if int(line["seed"]) == seed] for seed in seeds}
        gains = [float(np.mean([float(line["gain"]) for line in some])) for some in of_seed.values() if some]
        positions = [float(line["position"]) for line in own]
        found: dict[str, Any] = {
            "events": asdict(inference.summary([len(some) for some in of_seed.values()])),
            "edits": asdict(inference.summary([sum(int(line["edits"]) for line in some) for some in of_seed.values()])),
            "taken_back": sum(line["status"] == "taken back" for line in own),
            "all_events": len(own),
            "documented": claimed[kind],
            "gain": None,
            "position": None,
            "verdict": str(inference.Verdict.NOT_MEASURED),
        }
        if own:
            found["position"] = {"mean": float(np.mean(positions)), "first": min(positions), "last": max(positions)}
            for name in ("parameters", "flops"):
                found[name] = float(np.mean([float(line[name]) for line in own]))
        if len(gains) > 1:
            difference = inference.paired_difference(
                gains, [0.0] * len(gains), np.random.default_rng(BOOTSTRAP_SEED)
            )  # fmt: skip
            verdict = inference.verdict(difference, documented=claimed[kind], measured_as_documented=as_documented)
            found |= {"gain": asdict(difference), "verdict": str(verdict)}
        kinds[kind] = found
    tested = [found for found in kinds.values() if found["gain"] is not None]
    for found, p_value in zip(tested, inference.holm([item["gain"]["p_value"] for item in tested]), strict=True):
        found["gain"]["holm_p_value"] = float(p_value)
    return {"kinds": kinds}
