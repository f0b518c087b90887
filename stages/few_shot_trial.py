"""One trial of few-shot learning: what an arm trains on the training classes, scored on classes never trained on."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnm import Budget, Morphogenesis, count
from stages import episodes, few_shot_training, trial
from stages import few_shot_methods as methods
from stages.data import splits
from stages.episodes import Episode, Form
from stages.few_shot_training import Learning, Taught
from stages.settings import FewShot
from stages.tasks import image_classification as task
from stages.training import Length

# The same episodes for every arm and every seed of training.
EPISODES = {"validation": 1, "test": 2}
# Apart from the seeds of training.
PROBE = 4_000_000

Inputs = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Job(trial.Job):
    """What a trial of few-shot learning is to do; its settings are those of an entry of few_shot.

    Attributes:
        shots: numbers of shots that are measured.
    """

    settings: FewShot  # pyright: ignore[reportIncompatibleVariableOverride]
    shots: tuple[int, ...] = ()


@dataclass(frozen=True)
class Method:
    """A trained way to recognise classes.

    Attributes:
        predict: see `stages.few_shot_methods`.
        inputs: of a split, what `methods.evaluate` takes.
        figures: what its training cost, flat; empty where nothing is trained before there is a support.
        always: whether it is tested even where another method of the arm is the better one.
    """

    predict: methods.Predict
    inputs: Callable[[task.Split], Inputs]
    figures: Mapping[str, float | int]
    always: bool = False


def run(job: Job) -> dict[str, Any]:
    """Trains the methods of an arm, chooses the best one for each number of shots, and tests it.

    Returns:
        Plain values: `arm` and `seed`; `figures`, by method; `scores`, each with `method`, `split`, `shots`, whether it
        is the `chosen` method, and `right`, of each episode how many queries were recognised; `events`, `journal`,
        `start_widths`, `widths` and `branches` as `stages.trial.run`; `machine`.

    Raises:
        FloatingPointError: a training diverged.
    """
    started = time.perf_counter()
    trial.settle(job.execution)
    data = splits.load(Path(job.data))
    split = {name: trial.split_of(data, name, job) for name in ("train", "validation", "test")}
    found, grown = ARMS[job.arm](job, data, split["train"])
    scores = []
    for shots in job.shots:
        drawn = {name: _drawn(job, split[name], name, shots) for name in EPISODES}
        right = {
            (name, "validation"): methods.evaluate(
                method.predict, method.inputs(split["validation"]), drawn["validation"]
            )
            for name, method in found.items()
        }
        # The first one of those that are equal.
        best = max(found, key=lambda name: sum(right[name, "validation"]))
        for name, method in found.items():
            if name == best or method.always:
                right[name, "test"] = methods.evaluate(method.predict, method.inputs(split["test"]), drawn["test"])
        scores += [
            {"method": name, "split": part, "shots": shots, "chosen": name == best, "right": counts}
            for (name, part), counts in right.items()
        ]
    return {
        "arm": job.arm,
        "seed": job.seed,
        "figures": {name: dict(method.figures) for name, method in found.items()},
        "scores": scores,
        **grown,
        "machine": {"seconds": time.perf_counter() - started},
    }


def _drawn(job: Job, split: task.Split, name: str, shots: int) -> list[Episode]:
    settings = job.settings
    num = settings.episodes if name == "test" else settings.validation_episodes
    form = Form(ways=settings.ways, shots=shots, queries=settings.queries)
    drawn = episodes.fixed(episodes.rows_of_classes(split.labels.cpu()), form, num, EPISODES[name])
    device = split.labels.device
    return [Episode(episode.support.to(device), episode.queries.to(device)) for episode in drawn]


Found = tuple[dict[str, Method], dict[str, Any]]


def _nothing(job: Job, data: splits.DataSet, train: task.Split) -> Found:
    """The floor: what is nearest in the raw pixels."""
    return {"nearest_centroid": Method(methods.nearest_centroid, methods.of_images, {})}, {}


def _traditional(job: Job, data: splits.DataSet, train: task.Split) -> Found:
    """Features of a network that classifies the training classes, or training on the support alone."""
    settings, widths = job.settings, job.settings.networks.baseline
    channels = data.train.images.shape[3]
    # Labels of the training classes come first.
    classes = int(data.train.labels.max()) + 1
    network = task.network(widths, channels, classes, _generator(job)).to(job.execution.device)
    taught = _train(job, network, few_shot_training.supervised(settings, network, train, job.seed), train)
    features = methods.without_head(network)
    fresh = task.network(widths, channels, settings.ways, _generator(job)).to(job.execution.device)
    alone = methods.support_alone(fresh, steps=settings.support_alone.steps, rate=settings.support_alone.learning_rate)
    return {
        "linear": Method(methods.linear, _features_of(features), _figures(taught, features, train)),
        "support_alone": Method(alone, methods.of_images, {}),
    }, {}


def _meta_learning(job: Job, data: splits.DataSet, train: task.Split) -> Found:
    """Prototypical networks, and MAML."""
    settings, widths = job.settings, job.settings.networks.baseline
    channels = data.train.images.shape[3]
    method, _ = _prototypical(job, data, train)
    network = task.network(widths, channels, settings.ways, _generator(job)).to(job.execution.device)
    taught = _train(job, network, few_shot_training.maml(settings, network, train, job.seed), train)
    adapted = methods.maml(network, steps=settings.maml.steps, rate=settings.maml.rate)
    # What DNM's objective gives without growing.
    own = dataclasses.replace(method["prototypical"], always=True)
    return {"prototypical": own, "maml": Method(adapted, methods.of_images, _figures(taught, network, train))}, {}


def _prototypical(job: Job, data: splits.DataSet, train: task.Split) -> Found:
    """A prototypical network, which grows where the job says so."""
    settings = job.settings
    baseline = job.arm == "meta_learning"
    widths = job.widths or (settings.networks.baseline if baseline else settings.networks.start)
    model = methods.embedding(widths, data.train.images.shape[3], _generator(job))
    if job.branches:
        from stages import branches

        branches.put_in(model, job.branches, few_shot_training._example(train), job.seed)
    model = model.to(job.execution.device)
    steps = few_shot_training.episodic_steps(settings, train)
    length = Length(steps=steps) if job.flops is None else Length(flops=job.flops)
    if job.flops is not None:
        # As many steps as it pays for, so that the schedule ends with the last one.
        length = Length(steps=max(1, job.flops // few_shot_training.episode_flops(settings, model, train)))
    learning = few_shot_training.prototypical(settings, model, train, job.seed)
    grower = _grower_of(job, data, train, length) if job.grown else None
    taught = few_shot_training.train(
        model, learning, settings.training, length=length, grower=grower, precision=job.execution.precision
    )
    method = Method(methods.prototypical, _features_of(model), _figures(taught, model, train))
    return {"prototypical": method}, _grown(job, taught, model)


ARMS: dict[str, Callable[[Job, splits.DataSet, task.Split], Found]] = {
    "centroid": _nothing,
    "traditional": _traditional,
    "meta_learning": _meta_learning,
    "dnm": _prototypical,
    "start": _prototypical,
    "scratch": _prototypical,
}


def _generator(job: Job) -> torch.Generator:
    return torch.Generator().manual_seed(job.seed)


def _train(job: Job, network: nn.Module, learning: Learning, train: task.Split) -> Taught:
    """Trains a network of the baseline's widths for as many FLOPs as the prototypical network of these widths."""
    settings = job.settings
    fixed = methods.embedding(settings.networks.baseline, train.images.shape[3], torch.Generator())
    flops = few_shot_training.episodic_steps(settings, train) * few_shot_training.episode_flops(settings, fixed, train)
    protocol = settings.training
    if job.arm == "meta_learning":
        protocol = dataclasses.replace(protocol, learning_rate=settings.maml.learning_rate)
    return few_shot_training.train(
        network,
        learning,
        protocol,
        length=Length(steps=max(1, flops // learning.flops())),
        precision=job.execution.precision,
    )


def _features_of(model: nn.Module) -> Callable[[task.Split], Inputs]:
    return lambda split: methods.of_features(methods.features(model, split))


def _figures(taught: Taught, model: nn.Module, train: task.Split) -> dict[str, float | int]:
    cost = count(model, few_shot_training._example(train))
    return {
        "parameters": cost.parameters,
        "forward_flops": cost.forward,
        "training_flops": taught.flops,
        "steps": taught.steps,
        "edits": sum(len(event["entries"]) for event in taught.events if event["status"] != "taken back"),
        "train_loss": taught.loss,
    }


def _grown(job: Job, taught: Taught, model: nn.Sequential) -> dict[str, Any]:
    from stages import branches

    return {
        "events": taught.events,
        "journal": [entry for event in taught.events for entry in event["entries"] if event["status"] != "taken back"],
        "start_widths": taught.start_widths,
        "widths": [list(block) for block in task.widths_of(model)],
        "branches": [list(branch) for branch in branches.branches_of(model)] if job.grown or job.branches else [],
    }


def _grower_of(job: Job, data: splits.DataSet, train: task.Split, length: Length) -> few_shot_training.MakeGrower:
    """What makes the grower of a trial: it looks at one episode of the training split, always the same."""
    from stages import growing

    settings, meta = job.settings, job.settings.meta
    form = Form(ways=meta.ways, shots=meta.shots, queries=meta.queries)
    (episode,) = episodes.fixed(episodes.rows_of_classes(train.labels.cpu()), form, 1, PROBE + job.seed)
    images, labels = train.batch(episode.rows.to(train.images.device))
    baseline = methods.embedding(settings.networks.baseline, train.images.shape[3], torch.Generator())
    cost = count(baseline, few_shot_training._example(train))
    policy = dataclasses.replace(
        growing.policy_of(job, data),
        # Those of the embedding, without a last layer for classes.
        max_parameters=max(1, int(settings.dnm.max_parameters * cost.parameters)),
        max_training_flops=max(1, int(settings.dnm.max_training_flops * cost.training)),
    )

    def make(model: nn.Module, optimizer: torch.optim.Optimizer) -> growing.EngineGrower:
        engine = Morphogenesis(
            model,
            optimizer,
            images,
            lambda: methods.prototypical_loss(*form.parts(model(images))),
            budget=Budget(steps=length.steps, flops=length.flops),
            policy=policy,
            labels=labels,
        )
        return growing.EngineGrower(engine)

    return make
