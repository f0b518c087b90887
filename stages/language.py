"""Trains on a language task: a bag of embeddings, an LSTM, a small transformer, and one that grows, with its controls.

`baseline` is the bidirectional LSTM. `dnm` grows the encoder `start`, for as many epochs as the `transformer` is
trained; `start` and `scratch` (the encoder that dnm ended up with, from its first step) spend the FLOPs that this took.
Where the settings name a pre-trained encoder, it is the transformer, and what dnm and start begin with; scratch begins
with random weights.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, Any

from stages import arms, cli, outputs, tracking
from stages.settings import FineTuned

if TYPE_CHECKING:
    from stages.language_trial import Job

FIXED = ("bag", "baseline", "transformer")
CONTROLS = ("start", "scratch")
ARMS = (*FIXED, "dnm", *CONTROLS)
FIGURES = (
    "score", "validation_score", "exact_match", "answerable_f1", "unanswerable_f1", "threshold", "test_loss",
    "validation_loss", "train_loss", "parameters", "forward_flops", "training_flops", "epochs", "steps", "edits",
)  # fmt: skip
COLUMNS = ("task", "arm", "seed", *FIGURES, "fingerprint")
CURVE = ("epoch", "step", "flops", "learning_rate", "train_loss", "validation_loss", "parameters")
SUMMARISED = ("score", "parameters", "training_flops", "edits")


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/language/<task>.*`."""
    started = time.perf_counter()
    with outputs.exclusive(context.root / "runs" / "locks" / f"language-{context.settings.scale}-{context.name}"):
        from stages import language_trial

        title = f"language {context.name}"
        results = arms.run(context, first(context), title, task=language_trial.run)
        grown = [result for result in results if result["arm"] == "dnm"]
        results += arms.run(context, after(context, grown), f"{title}, controls", task=language_trial.run)
        results.sort(key=lambda result: (ARMS.index(result["arm"]), result["seed"]))
        folder = context.metrics / "language"
        outputs.write_csv(folder / f"{context.name}.csv", lines(context.name, results), COLUMNS)
        points = [
            {"arm": result["arm"], "seed": result["seed"], **point} for result in results for point in result["curve"]
        ]
        outputs.write_csv(folder / f"{context.name}.curves.csv", points, ("arm", "seed", *CURVE))
        outputs.write_text(folder / f"{context.name}.journals.json", journals(results))
        outputs.write_json(folder / f"{context.name}.json", {"arms": means(results)})
        arms.write_machine(context, "language", results, started)
        tracking.log(context, "language")


def first(context: cli.Context) -> list[Job]:
    """The trials that need no other's result."""
    return [_job(context, arm, seed) for arm in (*FIXED, "dnm") for seed in range(context.language.seeds)]


def after(context: cli.Context, grown: list[dict[str, Any]]) -> list[Job]:
    """The controls of what dnm's trials gave."""
    return [_job(context, arm, result["seed"], result) for arm in CONTROLS for result in grown]


def _job(context: cli.Context, arm: str, seed: int, grown: dict[str, Any] | None = None) -> Job:
    from stages.language_trial import Job

    own: dict[str, Any] = {} if grown is None else {"flops": grown["figures"]["training_flops"]}
    if grown is not None and arm == "scratch":
        own["blocks"] = tuple((heads, inner) for heads, inner in grown["blocks"])
        own["branches"] = tuple((operator, at, inner) for operator, at, inner in grown["branches"]) or None
    if isinstance(context.language.networks, FineTuned):
        from stages.data.language import encoders

        own["encoder"] = str(encoders.folder_of(context.language.networks.encoder.folder, context.root))
    execution, data = context.settings.execution, str(context.data)
    return Job(context.name, context.language, execution, data, arm, seed, grown=arm == "dnm", **own)


def lines(task: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each trial."""
    return [
        {
            "task": task, "arm": result["arm"], "seed": result["seed"], **result["figures"],
            "fingerprint": result["fingerprint"],
        }
        for result in results
    ]  # fmt: skip


def journals(results: list[dict[str, Any]]) -> str:
    """What became of the encoders, as JSON, one trial a line."""
    keys = ("arm", "seed", "start_widths", "blocks", "branches", "journal", "events")
    of_encoders = [{key: result[key] for key in keys} for result in results if result["blocks"]]
    return "[\n" + ",\n".join(json.dumps(item, sort_keys=True, allow_nan=False) for item in of_encoders) + "\n]\n"


def means(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By arm the means over the seeds; scores are fractions."""
    return {
        arm: {
            figure: statistics.fmean(result["figures"][figure] for result in results if result["arm"] == arm)
            for figure in SUMMARISED
        }
        for arm in ARMS
    }


if __name__ == "__main__":
    cli.main(main, section="language")
