"""What the networks of a row cost: parameters, FLOPs and memory counted, latency and process memory measured.

Architectures are enough for that: they are built anew from the settings and the journals of the trials, without data
or weights. The memory of a training step is

    batch size x activation memory of a sample + 4 bytes x parameters x (weights + gradients + the optimizer's moments)

with two moments for AdamW and one for SGD with momentum, and the activation memory of `dnm.count`, in float32. Not in
it: the batch itself and the data set, buffers such as the norms' running statistics, batch statistics that are kept for
the backward pass, what kernels and the allocator take for themselves, the interpreter and its libraries, and the copies
that autocast makes or the halves that it saves. Contributions to a gradient that do not grow with the batch are counted
as if they did. Nor is what growing itself takes for a while: its copy of the network and what it looks at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stages import arms, cli, outputs, tracking
from stages.settings import NONE, Training

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dnm import Cost
    from stages.data.splits import DataSet
    from stages.trial import Job

ARMS = ("baseline", "dnm", "dnm_before_pruning", "scratch", "start")
# The stages whose trials the arms' networks come from.
STAGES = {"baseline": "baseline", "dnm": "morphogenesis", "scratch": "morphogenesis", "start": "morphogenesis"}
# FLOPs are those of one sample, the activation memory is in bytes of one sample, the training memory in MiB of a step.
FIGURES = ("parameters", "forward_flops", "sample_training_flops", "activation_memory", "training_memory")
COLUMNS = ("arm", "seed", *FIGURES)
MOMENTS = {"AdamW": 2, "SGD": 1}
BYTES = 4
MIB = 2**20
TIMED_SEED = 0
IN_PROCESSES = ("baseline", "dnm")
BOOTSTRAP_SEED = 0

Lines = Sequence[Mapping[str, Any]]


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/efficiency/<row>.json` and `.csv`, and `machine/efficiency-<row>.json`."""
    started = time.perf_counter()
    with outputs.exclusive(context.root / "runs" / "locks" / f"efficiency-{context.settings.scale}-{context.row_name}"):
        data = blank(outputs.read_json(context.metrics / "prepare" / f"{context.row_name}.json"))
        grown = _grown(context)
        lines = []
        for seed in range(context.row.seeds):
            lines += seed_lines(networks(context, data, grown[seed]), seed, example(data), context.row.training)
        check(lines, _trials(context), context.row_name)
        lines.sort(key=lambda line: (ARMS.index(line["arm"]), line["seed"]))
        folder, training = context.metrics / "efficiency", context.row.training
        outputs.write_csv(folder / f"{context.row_name}.csv", lines, COLUMNS)
        outputs.write_json(
            folder / f"{context.row_name}.json",
            {
                "batch_size": training.batch_size,
                "optimizer": training.optimizer,
                "image": list(example(data).shape[1:]),
                "classes": len(data.class_names),
                **statistics(lines),
            },
        )
        # Of a row that the document does not have no page shows times.
        if context.row.documented_row != NONE:
            measured = measure(context, data, grown[TIMED_SEED], lines)
            measured["stage_seconds"] = time.perf_counter() - started
            outputs.write_json(context.metrics / "machine" / f"efficiency-{context.row_name}.json", measured)
        tracking.log(context, "efficiency")


def blank(card: Mapping[str, Any]) -> DataSet:
    """A data set with one black image of the shape and with the classes that a data card tells of."""
    import numpy as np

    from stages.data.splits import DataSet, Images

    height, width = card["image_size"]
    images = Images(np.zeros((1, height, width, card["channels"]), np.uint8), np.zeros(1, np.int64))
    return DataSet(images, images, images, tuple(card["classes"]), card["source"], card["licence"], card["note"])


def example(data: DataSet) -> Tensor:
    """One sample: `1 x channels x height x width`."""
    import torch

    height, width, channels = data.train.images.shape[1:]
    return torch.zeros(1, channels, height, width)


def networks(context: cli.Context, data: DataSet, grown: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The networks of one seed by arm, with weights as at their start.

    Args:
        context: of the row.
        data: of the row's shape; its images are not read.
        grown: what the seed's trial of `dnm` left: seed, widths, branches and journal.

    Returns:
        `baseline`; `dnm` as it ended; `dnm_before_pruning`, which has the units that were pruned after the last growth,
        and equals `dnm` where none were; `scratch`, of the shape of `dnm`, but built rather than grown; `start`.

    Raises:
        UserError: the journal does not fit the settings' start network.
    """
    from dnm import EditError, replay
    from stages import trial

    seed = grown["seed"]
    jobs = {arm: arms.job(context, arm, seed) for arm in ("baseline", "start")}
    found: dict[str, nn.Module] = {arm: trial.model_of(job, data) for arm, job in jobs.items()}
    found["scratch"] = trial.model_of(_shaped(context, grown), data)
    for arm, journal in (("dnm", grown["journal"]), ("dnm_before_pruning", before_pruning(grown["journal"]))):
        try:
            found[arm] = replay(trial.model_of(jobs["start"], data), journal)
        except EditError as error:
            raise cli.UserError(
                f"{context.row_name}: {arm} of seed {seed} cannot be rebuilt: {error}; the settings or the library are "
                "not those that it grew with: run the stage morphogenesis again"
            ) from error
    return {arm: found[arm] for arm in ARMS}


def _shaped(context: cli.Context, grown: Mapping[str, Any]) -> Job:
    """The trial that begins with the shape of a grown network."""
    from stages.trial import Job

    widths, branches = arms.shape_of(dict(grown))
    execution = context.settings.execution
    return Job(
        context.row_name, context.row, execution, "", "scratch", grown["seed"], widths=widths, branches=branches
    )  # fmt: skip


def before_pruning(journal: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The journal without the pruning that came last; earlier pruning stays, as what grew later stands on it."""
    kept = list(journal)
    while kept and kept[-1]["operator"] == "Prune":
        kept.pop()
    return kept


def seed_lines(models: Mapping[str, nn.Module], seed: int, sample: Tensor, training: Training) -> list[dict[str, Any]]:
    """The counted figures of one seed's networks, one mapping an arm.

    Args:
        models: by arm.
        seed: theirs.
        sample: `1 x channels x height x width`.
        training: batch size and optimizer.
    """
    from dnm import count

    costs = {arm: count(model, sample) for arm, model in models.items()}
    assert costs["scratch"] == costs["dnm"], (
        f"seed {seed}: the network built from widths and branches costs {costs['scratch']}, expected what the grown "
        f"one does, {costs['dnm']}"
    )
    return [
        {
            "arm": arm,
            "seed": seed,
            "parameters": cost.parameters,
            "forward_flops": cost.forward,
            "sample_training_flops": cost.training,
            "activation_memory": cost.activation_memory,
            "training_memory": training_memory(cost, training),
        }
        for arm, cost in costs.items()
    ]


def training_memory(cost: Cost, training: Training) -> float:
    """Counted memory of a training step, in MiB; what is in it and what is not stands at the head of this module."""
    copies = 2 + MOMENTS[training.optimizer]
    return (training.batch_size * cost.activation_memory + BYTES * cost.parameters * copies) / MIB


def check(lines: Lines, trials: Mapping[tuple[str, int], Mapping[str, str]], row: str) -> None:
    """Refuses networks that are not those of the trials.

    Args:
        lines: counted figures.
        trials: what the trials wrote, by arm and seed.
        row: for messages.

    Raises:
        UserError: a trial is missing, or its network had other parameters or FLOPs.
    """
    for line in lines:
        arm, seed = line["arm"], line["seed"]
        if arm not in STAGES:
            continue
        again = f"run the stage {STAGES[arm]} again"
        if (arm, seed) not in trials:
            raise cli.UserError(f"{row}: there is no trial of {arm} with seed {seed}, expected one a seed; {again}")
        for figure in ("parameters", "forward_flops"):
            if line[figure] != int(trials[arm, seed][figure]):
                raise cli.UserError(
                    f"{row}: {arm} of seed {seed}, built anew, has {figure} {line[figure]}, its trial had "
                    f"{trials[arm, seed][figure]}; the settings or the library are not those of the trial: {again}"
                )


def statistics(lines: Lines) -> dict[str, Any]:
    """What the seeds say of the counted figures.

    Args:
        lines: of the CSV file, one an arm and seed, cells as numbers or as text.

    Returns:
        `seeds`: how many; `pruned`: in how many of them units were pruned after the last growth; `arms`: per arm and
        figure its mean, deviation, extremes and 95% interval; and paired differences, all in percent: `overhead`, by
        arm, the training memory over that of `baseline`; `saved`, by arm, 100 (1 - forward FLOPs over those of
        `baseline`), which is how the document computes its speed-ups from times; `pruning`, the same of `dnm` over
        `dnm_before_pruning`.
    """
    import numpy as np

    from stages import inference

    by_arm: dict[str, dict[int, dict[str, float]]] = {}
    for line in lines:
        figures = {figure: float(line[figure]) for figure in FIGURES}
        by_arm.setdefault(line["arm"], {})[int(line["seed"])] = figures
    seeds = {arm: sorted(of_arm) for arm, of_arm in by_arm.items()}
    if set(seeds) != set(ARMS) or len({tuple(of_arm) for of_arm in seeds.values()}) != 1:
        raise cli.UserError(
            f"the arms and their seeds are {seeds}, expected the same seeds of each of {', '.join(ARMS)}; run the "
            "stage efficiency again"
        )

    def values(arm: str, figure: str) -> list[float]:
        return [by_arm[arm][seed][figure] for seed in seeds[arm]]

    def percent(arm: str, over: str, figure: str, sign: float) -> dict[str, Any]:
        ratios = zip(values(arm, figure), values(over, figure), strict=True)
        changes = [sign * 100.0 * (own / other - 1.0) for own, other in ratios]
        generator = np.random.default_rng(BOOTSTRAP_SEED)
        return asdict(inference.paired_difference(changes, [0.0] * len(changes), generator))

    compared = [arm for arm in ARMS if arm != "baseline"]
    pairs = zip(values("dnm", "parameters"), values("dnm_before_pruning", "parameters"), strict=True)
    return {
        "seeds": len(seeds["dnm"]),
        "pruned": sum(own < before for own, before in pairs),
        "arms": {arm: {figure: asdict(inference.summary(values(arm, figure))) for figure in FIGURES} for arm in by_arm},
        "overhead": {arm: percent(arm, "baseline", "training_memory", 1.0) for arm in compared},
        "saved": {arm: percent(arm, "baseline", "forward_flops", -1.0) for arm in compared},
        "pruning": percent("dnm", "dnm_before_pruning", "forward_flops", -1.0),
    }


def measure(context: cli.Context, data: DataSet, grown: Mapping[str, Any], lines: Lines) -> dict[str, Any]:
    """Latency and process memory of one seed's networks, on this machine.

    Args:
        context: of the row.
        data: of the row's shape; its images are not read.
        grown: what the seed's trial of `dnm` left.
        lines: counted figures; those of the seed are repeated, to tell which networks were timed.

    Returns:
        `latency`, see `stages.latency.latencies`; `memory`, by arm, see `stages.latency.peak_memory`, or the `reason`
        why there is none; `counted`, parameters and FLOPs by arm; `load`, processes that wanted to run in the minute
        before, on the average; threads, device and machine.
    """
    from stages import latency

    execution = context.settings.execution
    own = [line for line in lines if line["seed"] == grown["seed"]]
    return {
        "seed": grown["seed"],
        "threads": execution.threads,
        "device": execution.device,
        "cpu_caps": execution.cpu_caps,
        "precision": execution.precision,
        "batch_size": context.row.training.batch_size,
        "machine": outputs.machine(context.root),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "counted": {line["arm"]: {name: line[name] for name in ("parameters", "forward_flops")} for line in own},
        "latency": latency.latencies(
            networks(context, data, grown),
            example(data),
            threads=execution.threads,
            device=execution.device,
            compiled=context.settings.latency.compiled,
            seconds=context.settings.latency.seconds,
        ),
        "memory": process_memory(context, data, grown),
    }


def process_memory(context: cli.Context, data: DataSet, grown: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Memory of processes that train `baseline` and a network of the shape of `dnm`, see `measure`."""
    from stages import latency, trials

    jobs = (arms.job(context, "baseline", grown["seed"]), _shaped(context, grown))
    found: dict[str, dict[str, Any]] = {}
    for arm, job in zip(IN_PROCESSES, jobs, strict=True):
        try:
            (found[arm],) = trials.run(latency.peak_memory, [(job, data)], title=f"memory of {arm} {context.row_name}")
        except trials.WorkerEnded as error:
            found[arm] = {"reason": str(error)}
    return found


def _grown(context: cli.Context) -> dict[int, dict[str, Any]]:
    """What the trials of `dnm` left, by seed."""
    file = context.metrics / "morphogenesis" / f"{context.row_name}.journals.json"
    found = {item["seed"]: item for item in outputs.read_json(file) if item["arm"] == "dnm"}
    if missing := [seed for seed in range(context.row.seeds) if seed not in found]:
        raise cli.UserError(
            f"{file}: has no trial of dnm with seed {', '.join(map(str, missing))}, expected {context.row.seeds} "
            "seeds; run the stage morphogenesis again"
        )
    for seed, item in found.items():
        if absent := {"widths", "branches", "journal"} - set(item):
            raise cli.UserError(
                f"{file}: the trial of dnm with seed {seed} has no {' and no '.join(sorted(absent))}; it is of an "
                "older release: run the stage morphogenesis again"
            )
    return found


def _trials(context: cli.Context) -> dict[tuple[str, int], dict[str, str]]:
    """What the trials wrote, by arm and seed."""
    lines: Iterable[dict[str, str]] = (
        line
        for stage in dict.fromkeys(STAGES.values())
        for line in outputs.read_csv(context.metrics / stage / f"{context.row_name}.trials.csv")
    )
    return {(line["arm"], int(line["seed"])): line for line in lines}


if __name__ == "__main__":
    cli.main(main, has_row=True)
