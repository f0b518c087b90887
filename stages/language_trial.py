"""One trial on texts: one arm, one seed, from tokens to scores. Its result depends on the job alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dnm import count
from stages import language_growing, language_models, language_scoring, trial
from stages.data.language import prepared
from stages.data.language.prepared import DataSet, Part
from stages.growing import EngineGrower
from stages.language_growing import Blocks
from stages.language_scoring import Prediction
from stages.language_training import Texts, evaluate, example, train
from stages.settings import FineTuned, Language, Readers
from stages.training import Length


@dataclass(frozen=True)
class Job(trial.Job):
    """What a trial on texts is to do; its settings are those of an entry of language.

    The arm is "bag", "baseline" (the LSTM), "transformer", "dnm", "start" or "scratch". A trial that was ended begins
    again.

    Attributes:
        blocks: of an encoder; None takes the arm's own from the settings.
        encoder: folder of a pre-trained encoder, where the settings name one.
    """

    settings: Language  # pyright: ignore[reportIncompatibleVariableOverride]
    blocks: Blocks | None = None
    encoder: str | None = None


def run(job: Job) -> dict[str, Any]:
    """Runs a trial.

    Returns:
        Plain values: `figures` (flat; scores are fractions), `curve` (one mapping an epoch), `events`, `journal` (of
        the edits that the network has), `start_widths` (by group), `blocks` and `branches` of an encoder, and
        `machine`, which alone differs from run to run.

    Raises:
        ValueError: there are fewer texts than a batch takes.
        DataError: the data or the pre-trained encoder cannot be used.
        FloatingPointError: the training diverged.
    """
    started = time.perf_counter()
    trial.settle(job.execution)
    settings, device = job.settings.training, job.execution.device
    data = prepared.load(Path(job.data))
    texts, validation, test = (Texts.of(getattr(data, name), device) for name in prepared.SPLITS)
    model = model_of(job, data).to(device)
    length = Length(steps=settings.epochs * (len(texts) // settings.batch_size))
    if job.flops is not None:
        length = Length(flops=job.flops)
    grower = None
    if job.grown:
        grower = grower_of(job, data, model, texts, length)
    spent, epochs = train(
        model,
        texts,
        validation,
        data.kind,
        settings,
        rate=rate_of(job),
        seed=job.seed,
        length=length,
        grower=grower,
        precision=job.execution.precision,
    )
    validation_loss, *of_validation = evaluate(model, validation, data.kind)
    test_loss, *of_test = evaluate(model, test, data.kind)
    cost = count(model, example(texts.ids.shape[1]))
    blocks, branches = shape_of(job, model)
    return {
        "arm": job.arm,
        "seed": job.seed,
        "figures": {
            **scores(data, of_validation, of_test),
            "test_loss": test_loss,
            "validation_loss": validation_loss,
            "train_loss": epochs[-1].train_loss,
            "parameters": cost.parameters,
            "forward_flops": cost.forward,
            "training_flops": spent.flops,
            "epochs": len(epochs),
            "steps": spent.steps,
            "edits": sum(len(event["entries"]) for event in spent.events if event["status"] != "taken back"),
        },
        "curve": [asdict(epoch) for epoch in epochs],
        "events": spent.events,
        "journal": [entry for event in spent.events for entry in event["entries"] if event["status"] != "taken back"],
        "start_widths": spent.start_widths,
        "blocks": blocks,
        "branches": branches,
        "machine": {"seconds": time.perf_counter() - started},
    }


def scores(data: DataSet, validation: list[np.ndarray], test: list[np.ndarray]) -> dict[str, float | None]:
    """What predictions of validation and test data are worth, as fractions.

    Args:
        data: the task.
        validation: predictions and margins, as `evaluate` gives them.
        test: likewise.

    Returns:
        `score`, which tables show, and `validation_score`: the mean of the task's metrics, or of questions F1;
        `exact_match`, `answerable_f1`, `unanswerable_f1` and `threshold` of questions, which was chosen on the
        validation data; None elsewhere.
    """
    of_questions = dict.fromkeys(("exact_match", "answerable_f1", "unanswerable_f1", "threshold"), None)
    if data.kind != "spans":
        found = {
            name: language_scoring.glue(data.metrics, predictions, part.labels)["score"]
            for name, part, (predictions, _) in (
                ("score", data.test, test), ("validation_score", data.validation, validation),
            )
        }  # fmt: skip
        return {**found, **of_questions}
    known = answers_of(data.validation, *validation)
    threshold, best = language_scoring.choose_threshold(known, data.validation.answers)
    found = language_scoring.squad(answers_of(data.test, *test), data.test.answers, threshold)
    # Answering nothing is what -inf says; a table has finite numbers.
    least = min(item.no_answer for item in known)
    of_questions |= {name: found.get(name) for name in of_questions if name != "threshold"}
    return {
        "score": found["f1"], "validation_score": best, **of_questions,
        "threshold": threshold if np.isfinite(threshold) else least - 1.0,
    }  # fmt: skip


def answers_of(part: Part, spans: np.ndarray, margins: np.ndarray) -> list[Prediction]:
    """What spans (`num x 2`) say in the contexts, and how much better no answer is (`num`)."""
    rows = np.arange(len(spans))
    starts, ends = part.offsets[rows, spans[:, 0], 0], part.offsets[rows, spans[:, 1], 1]
    return [
        Prediction(answer=context[start:end], no_answer=float(margin))
        for context, start, end, margin in zip(part.contexts, starts, ends, margins, strict=True)
    ]


def rate_of(job: Job) -> float:
    """The largest learning rate of an arm."""
    own = {"bag": job.settings.networks.bag.learning_rate, "baseline": job.settings.networks.bilstm.learning_rate}
    return own.get(job.arm, job.settings.training.learning_rate)


def model_of(job: Job, data: DataSet) -> nn.Module:
    """The trial's network as it begins, on the CPU."""
    networks = job.settings.networks
    if isinstance(networks, FineTuned) and job.arm not in ("bag", "baseline"):
        return pretrained_of(job, data)
    generator = torch.Generator().manual_seed(job.seed)
    if job.arm == "bag":
        return language_models.bag_of_embeddings(
            **_ends(data), width=networks.bag.width, hidden=networks.bag.hidden, generator=generator
        )
    if job.arm == "baseline":
        return language_models.bilstm(
            **_ends(data), width=networks.bilstm.width, hidden=networks.bilstm.hidden, generator=generator
        )
    assert isinstance(networks, Readers)
    own = networks.transformer if job.arm == "transformer" else networks.start
    model = encoder_of(job.settings, data, job.blocks or own, job.seed)
    language_growing.put_in(model, job.branches or (), job.seed)
    return model


def pretrained_of(job: Job, data: DataSet) -> nn.Module:
    """The pre-trained encoder; where the job gives blocks, one of that shape that nothing was learnt by."""
    from stages import language_encoders

    assert job.encoder is not None
    folder, outputs = Path(job.encoder), _ends(data)["outputs"]
    if job.blocks is None:
        return language_encoders.pretrained(folder, data, outputs, job.seed)
    model = language_encoders.untrained(folder, data, outputs, job.blocks, job.seed)
    language_growing.put_in(model, job.branches or (), job.seed)
    return model


def grower_of(
    job: Job, data: DataSet, model: nn.Module, texts: Texts, length: Length
) -> Callable[[nn.Module, torch.optim.Optimizer], EngineGrower]:
    """What makes the grower of the trial's network; its limits are relative to the transformer.

    A pre-trained encoder is the transformer at first.
    """
    dnm, networks = job.settings.dnm, job.settings.networks
    if isinstance(networks, FineTuned):
        from stages import language_encoders

        assert isinstance(model, language_encoders.PretrainedEncoder)
        return language_growing.grower_of(dnm, model, texts, data.kind, length, job.seed, model.excluded)
    reference = encoder_of(job.settings, data, networks.transformer, 0)
    return language_growing.grower_of(dnm, reference, texts, data.kind, length, job.seed)


def shape_of(job: Job, model: nn.Module) -> tuple[list[list[int]], list[list[Any]]]:
    """Blocks and branches of an encoder; nothing of another network."""
    if isinstance(model, language_models.Encoder):
        blocks = language_growing.blocks_of(model)
    elif isinstance(job.settings.networks, FineTuned) and job.arm not in ("bag", "baseline"):
        from stages import language_encoders

        assert isinstance(model, language_encoders.PretrainedEncoder)
        blocks = language_encoders.blocks_of(model)
    else:
        return [], []
    return [list(block) for block in blocks], [list(branch) for branch in language_growing.branches_of(model)]


def encoder_of(settings: Language, data: DataSet, blocks: tuple[tuple[int, ...], ...], seed: int) -> nn.Module:
    """An encoder for a task, on the CPU."""
    assert isinstance(settings.networks, Readers)
    return language_models.encoder(
        **_ends(data),
        length=data.train.ids.shape[1],
        width=settings.networks.width,
        blocks=[(heads, inner) for heads, inner in blocks],
        head_size=settings.networks.head_size,
        generator=torch.Generator().manual_seed(seed),
    )


def _ends(data: DataSet) -> dict[str, Any]:
    """What a task's data say of both ends of a network."""
    outputs = {"classes": len(data.class_names), "numbers": 1, "spans": 2}[data.kind]
    return {"vocabulary": data.vocabulary, "outputs": outputs, "head": "spans" if data.kind == "spans" else "classes"}
