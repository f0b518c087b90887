"""One search for an architecture: successive halving over what a sampler proposes, then the best one trained anew.

Halving is that of ASHA (Li et al. 2020, arXiv:1810.05934, algorithm 2) with one worker: a candidate goes on to the next
rung, trained anew for more epochs, when it is among the best of its rung; as long as none is, a new one is begun. The
sampler is the tree-structured Parzen estimator (Bergstra et al. 2011) of Optuna, or uniform.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch

from dnm import count
from stages import nas_space, outputs, trial
from stages.data import splits
from stages.nas_space import Architecture, Space
from stages.tasks import image_classification as task
from stages.training import Length, train

# By arm, the class of Optuna that proposes.
SAMPLERS = {"nas": "TPESampler", "nas_random": "RandomSampler"}
# So many candidates are drawn at random before the estimator has something to estimate from.
STARTUP = 4
TRIES = 1000


@dataclass(frozen=True)
class Job(trial.Job):
    """A search, by the sampler of its arm, and the training of what it finds.

    Attributes:
        search_flops: counted training FLOPs that the search may spend.
        epochs: of the rungs, the shortest first.
        reduction: one of so many candidates of a rung goes on to the next.
        operators: what DNM does to a network, which says what it can reach.
        max_parameters: of a network, of the baseline's.
        max_training_flops: a sample, of the baseline's.
    """

    search_flops: int = 0
    epochs: tuple[int, ...] = ()
    reduction: int = 0
    operators: tuple[str, ...] = ()
    max_parameters: float = 0.0
    max_training_flops: float = 0.0


@dataclass
class Candidate:
    """A network that was proposed.

    Attributes:
        number: from 0, in the order of the proposals.
        values: by dimension of the space.
        architecture: what they mean.
        scores: validation accuracy (fraction) by epochs that it was trained for.
        flops: that this took, by epochs.
    """

    number: int
    values: dict[str, float]
    architecture: Architecture
    scores: dict[int, float] = field(default_factory=dict)
    flops: dict[int, int] = field(default_factory=dict)


def run(job: Job) -> dict[str, Any]:
    """Searches, and trains what was found as the row's baseline is trained.

    Returns:
        What `stages.trial.run` returns of the last training, and `search`: of every candidate its `number`, `widths`,
        `branches` and `parameters`, by `rungs` its epochs, validation accuracy and FLOPs, and whether it was `chosen`.
    """
    started = time.perf_counter()
    trial.settle(job.execution)
    data = splits.load(Path(job.data))
    space = space_of(job, data)
    kept = Path(job.checkpoint).with_name("candidates.json") if job.checkpoint else None
    candidates = search(
        Proposer(space, job.arm, job.seed),
        Remembered(Trainer(job, data, space), kept),
        budget=job.search_flops,
        epochs=job.epochs,
        reduction=job.reduction,
    )
    best = chosen(candidates)
    shape = best.architecture
    result = trial.run(replace(job, widths=shape.widths, branches=shape.branches or None))
    found = [
        {
            "number": candidate.number,
            "widths": [list(block) for block in candidate.architecture.widths],
            "branches": [list(branch) for branch in candidate.architecture.branches],
            "parameters": space.cost_of(candidate.architecture)[0],
            "rungs": [[epochs, score, candidate.flops[epochs]] for epochs, score in candidate.scores.items()],
            "chosen": candidate is best,
        }
        for candidate in candidates
    ]
    return {**result, "search": found, "machine": {"seconds": time.perf_counter() - started}}


def space_of(job: Job, data: splits.DataSet) -> Space:
    """The space that a job searches: what DNM can reach with its operators, within its limits."""
    height, width, channels = data.train.images.shape[1:]
    classes = len(data.class_names)
    baseline = task.network(job.settings.networks.baseline, channels, classes, torch.Generator())
    cost = count(baseline, torch.zeros(1, channels, height, width))
    return nas_space.space_of(
        job.settings.networks.start,
        (channels, height, width),
        classes,
        job.operators,
        max(1, int(job.max_parameters * cost.parameters)),
        max(1, int(job.max_training_flops * cost.training)),
    )


class Trains(Protocol):
    """What gives candidates their scores."""

    def price(self, candidate: Candidate, epochs: int) -> int:
        """FLOPs that training a candidate for so many epochs takes at most."""
        ...

    def __call__(self, candidate: Candidate, epochs: int) -> tuple[float, int]:
        """Its validation accuracy (fraction) after them, and the FLOPs that they took."""
        ...


def search(
    propose: Callable[[Sequence[Candidate]], Candidate | None],
    trains: Trains,
    *,
    budget: int,
    epochs: Sequence[int],
    reduction: int,
) -> list[Candidate]:
    """Asks for candidates and trains them, until what comes next is more than the budget has left, or nothing does.

    Args:
        propose: gives the next candidate, from those that there are, or None where there are no others.
        trains: trains them.
        budget: FLOPs.
        epochs: of the rungs, rising.
        reduction: see `Job`.

    Returns:
        The candidates that were trained, in order; nothing beyond the budget.

    Raises:
        ValueError: there is no candidate, or the budget does not pay for one.
    """
    candidates: list[Candidate] = []
    spent = 0
    while True:
        going_on = promoted(candidates, epochs, reduction)
        candidate, rung = going_on or (propose(candidates), 0)
        if candidate is None:
            if candidates:
                return candidates
            raise ValueError(
                f"none of {TRIES} samples is a network within the limits: raise max_parameters or max_training_flops"
            )
        price = trains.price(candidate, epochs[rung])
        if spent + price > budget:
            if candidates:
                return candidates
            raise ValueError(
                f"the search may spend {budget:,} FLOPs, and {epochs[0]} epochs of its first candidate take {price:,}: "
                "raise cost, or lower longest"
            )
        if going_on is None:
            candidates.append(candidate)
        candidate.scores[epochs[rung]], candidate.flops[epochs[rung]] = trains(candidate, epochs[rung])
        spent += candidate.flops[epochs[rung]]


def promoted(candidates: Sequence[Candidate], epochs: Sequence[int], reduction: int) -> tuple[Candidate, int] | None:
    """The candidate that goes on and the rung that it goes to, the highest first; None where none does."""
    for rung in range(len(epochs) - 1, 0, -1):
        below = [candidate for candidate in candidates if epochs[rung - 1] in candidate.scores]
        best = sorted(below, key=lambda candidate: (-candidate.scores[epochs[rung - 1]], candidate.number))
        for candidate in best[: len(below) // reduction]:
            if epochs[rung] not in candidate.scores:
                return candidate, rung
    return None


def chosen(candidates: Sequence[Candidate]) -> Candidate:
    """The best of those that were trained longest; the earlier one of two that are equal."""
    longest = max(max(candidate.scores) for candidate in candidates)
    last = [candidate for candidate in candidates if longest in candidate.scores]
    return max(last, key=lambda candidate: (candidate.scores[longest], -candidate.number))


class Proposer:
    """Draws candidates; each is a function of the seed, its number and what is known of those before it.

    Args:
        space: that they are drawn from.
        arm: says by which sampler.
        seed: of the search.
    """

    def __init__(self, space: Space, arm: str, seed: int) -> None:
        self._space, self._sampler, self._seed = space, SAMPLERS[arm], seed

    def __call__(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The next candidate, another network than those before; None where none is found.

        Raises:
            ValueError: Optuna is not installed.
        """
        optuna = _optuna()
        number = len(candidates)
        options = {"n_startup_trials": STARTUP} if self._sampler == "TPESampler" else {}
        sampler = getattr(optuna.samplers, self._sampler)(seed=1000 * (self._seed + 1) + number, **options)
        dimensions = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in self._space.names}
        # A study of its own for each, as a finished trial of Optuna's cannot take the score of a later rung.
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for candidate in candidates:
            study.add_trial(self._trial(optuna, candidate, dimensions))
        known = [candidate.architecture for candidate in candidates]
        for _ in range(TRIES):
            drawn = study.ask(dimensions)
            shape = self._space.architecture(drawn.params)
            if shape is not None and shape not in known:
                return Candidate(number, dict(drawn.params), shape)
            # What failed is as if it had not been.
            study.tell(drawn, state=optuna.trial.TrialState.FAIL)
        return None

    @staticmethod
    def _trial(optuna: ModuleType, candidate: Candidate, dimensions: dict[str, Any]) -> Any:
        # The estimator puts those that were trained longer before others, and among these the better ones.
        return optuna.trial.create_trial(
            state=optuna.trial.TrialState.PRUNED,
            params=candidate.values,
            distributions=dimensions,
            intermediate_values=dict(candidate.scores),
        )


class Trainer:
    """Trains candidates by the row's protocol, its schedule gone through in so many epochs.

    Args:
        job: of the search.
        data: that is trained and validated on.
        space: of the candidates.
    """

    def __init__(self, job: Job, data: splits.DataSet, space: Space) -> None:
        self._job, self._data, self._space = job, data, space
        self._train, self._validation = (trial.split_of(data, name, job) for name in ("train", "validation"))
        self._steps = len(self._train) // job.settings.training.batch_size

    def price(self, candidate: Candidate, epochs: int) -> int:
        """FLOPs that training takes, unless it is stopped early."""
        samples = epochs * self._steps * self._job.settings.training.batch_size
        return samples * self._space.cost_of(candidate.architecture)[1]

    def __call__(self, candidate: Candidate, epochs: int) -> tuple[float, int]:
        """Validation accuracy (fraction) after so many epochs, and the FLOPs that they took."""
        # Weights of its own for each candidate, the same ones in both arms and on every rung.
        seed = 1000 * (self._job.seed + 1) + candidate.number
        shape = candidate.architecture
        own = replace(self._job, seed=seed, widths=shape.widths, branches=shape.branches or None)
        trained = train(
            trial.model_of(own, self._data).to(self._job.execution.device),
            self._train,
            self._validation,
            self._job.settings.training,
            seed=seed,
            length=Length(steps=epochs * self._steps),
            precision=self._job.execution.precision,
        )
        return trained.epochs[-1].validation_accuracy, trained.flops


class Remembered:
    """What another one gave, kept in a file by which an ended search is gone through again without training.

    Args:
        trains: that trains what is not known yet.
        file: of what is known; None keeps nothing.
    """

    def __init__(self, trains: Trains, file: Path | None) -> None:
        self._trains, self._file = trains, file
        self._known = outputs.read_json(file) if file is not None and file.exists() else {}

    def price(self, candidate: Candidate, epochs: int) -> int:
        """The other one's."""
        return self._trains.price(candidate, epochs)

    def __call__(self, candidate: Candidate, epochs: int) -> tuple[float, int]:
        """The other one's, or what it was."""
        name = f"{candidate.number} for {epochs} epochs"
        if name not in self._known:
            self._known[name] = self._trains(candidate, epochs)
            if self._file is not None:
                outputs.write_json(self._file, self._known)
        score, flops = self._known[name]
        return score, flops


def _optuna() -> ModuleType:
    try:
        import optuna
    except ImportError as error:
        raise ValueError(
            "an architecture search needs optuna, which is not installed: `make env` installs it, elsewhere "
            "`pip install optuna==5.0.0`"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
