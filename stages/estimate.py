"""What a stage's trials cost, counted, and how fast such trials run here."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass, replace

from stages import ablation, cli, contest, detection, few_shot, language, nas, outputs, settings_checks, transfer
from stages.settings import OWN_DATA
from stages.statistics import ARMS

# Training images of the sources whose settings do not say so, before the validation split.
PUBLISHED_IMAGES = {
    "cifar10": 50_000, "cifar100": 50_000, "fashion_mnist": 60_000, "stl10": 5_000, "imagenet": 1_281_167,
}  # fmt: skip
IMAGENET_CLASSES = 1000
MEASURED_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The trials of one arm.

    Attributes:
        arm: which.
        todo: how many are run.
        recorded: how many have a record of today's settings, data and code, and are not.
        flops: training FLOPs of one; None where the size of the data is not known.
        how: "" where `flops` is exact, "<=" where it is a bound, "~" where it is what the last ones spent.
    """

    arm: str
    todo: int
    recorded: int
    flops: int | None
    how: str


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast one trial trains here.

    Attributes:
        flops: a second; None where that cannot be told here.
        source: where the figure comes from.
    """

    flops: float | None
    source: str


def trials_of(context: cli.Context, stage: str) -> list[Trials]:
    """The trials of a stage of the context's row, by arm; none of stages that train nothing."""
    if stage == "contest":
        return _contest_trials(context)
    if stage == "ablation":
        return _ablation_trials(context)
    if stage == "transfer":
        return _transfer_trials(context)
    if stage == "nas":
        return _nas_trials(context)
    if stage == "few_shot":
        return _few_shot_trials(context)
    if stage == "detection":
        return _detection_trials(context)
    if stage == "language":
        return _language_trials(context)
    arms = [arm for arm, of in ARMS.items() if of == stage and context.row_name]
    recorded = _recorded(context, context.row_name) if arms else {}
    full = _baseline_flops(context) if arms else None
    last = {arm: _last_flops(context, arm) for arm in (*arms, "baseline")}
    found = []
    for arm in arms:
        flops, how = full, "<=" if context.row.training.early_stopping else ""
        if flops is not None and arm != "baseline":
            if last[arm] and last["baseline"]:
                flops, how = round(flops * last[arm] / last["baseline"]), "~"
            else:
                flops, how = round(flops * max(1.0, context.row.dnm.max_training_flops)), "<="
        known = recorded.get(arm, 0)
        found.append(Trials(arm=arm, todo=context.row.seeds - known, recorded=known, flops=flops, how=how))
    return found


def _contest_trials(context: cli.Context) -> list[Trials]:
    settings = context.contest
    recorded = _recorded(context, context.entry)
    return [
        Trials(
            arm=arm,
            todo=settings.seeds - recorded.get(arm, 0),
            recorded=recorded.get(arm, 0),
            flops=round(settings.pflop * contest.PETA),
            how="<=",
        )
        for arm in contest.arm_names(context.row, settings)
    ]


def _ablation_trials(context: cli.Context) -> list[Trials]:
    seeds, full = context.ablation.seeds, _baseline_flops(context)
    recorded = _recorded(context, context.entry)
    most = None if full is None else round(full * max(1.0, context.row.dnm.max_training_flops))
    return [
        Trials(arm=arm, todo=seeds - recorded.get(arm, 0), recorded=recorded.get(arm, 0), flops=most, how="<=")
        for arm in ablation.ARMS
    ]


def _nas_trials(context: cli.Context) -> list[Trials]:
    full, limit = _baseline_flops(context), max(1.0, context.row.dnm.max_training_flops)
    # A search, whose price is that of growing, and the training of what it found.
    grown = _last_flops(context, "dnm") or (full or 0) * limit
    flops = None if full is None else round(context.nas.cost * grown + limit * full)
    recorded = _recorded(context, context.entry)
    return [
        Trials(
            arm=arm,
            todo=context.nas.seeds - recorded.get(arm, 0),
            recorded=recorded.get(arm, 0),
            flops=flops,
            how="<=",
        )
        for arm in nas.arm_names(context.nas)
    ]


def _transfer_trials(context: cli.Context) -> list[Trials]:
    """Fine-tuning alone: networks that their trials did not leave would be trained again, and probes cost little."""
    settings = context.transfer
    target = replace(context, row_name=settings.target, entry="")
    training, source, shape = target.row.training, _data(context), _data(target)
    recorded, full = _recorded(context, context.entry), None
    if source is not None and shape is not None:
        from dnm import count

        model, example = _baseline(context, (source[0], source[1], shape[2], shape[3]))
        steps = settings.epochs * (shape[3] // training.batch_size)
        full = count(model, example).training * training.batch_size * steps
    found = []
    for arm in transfer.ARMS:
        is_fixed = arm in ("baseline", "untrained")
        most = 1.0 if is_fixed else max(1.0, context.row.dnm.max_training_flops)
        known = recorded.get(arm, 0)
        found.append(
            Trials(
                arm=arm,
                todo=settings.seeds - known,
                recorded=known,
                flops=None if full is None else round(full * most),
                how="" if is_fixed and not training.early_stopping else "<=",
            )
        )
    return found


def _few_shot_trials(context: cli.Context) -> list[Trials]:
    """Training alone; meta-learning trains two methods, each for as many FLOPs as the fixed prototypical network."""
    settings, full = context.few_shot, _few_shot_flops(context)
    grown = max(1.0, settings.dnm.max_training_flops)
    costs = {"centroid": 0.0, "traditional": 1.0, "meta_learning": 2.0}
    found = []
    for arm in few_shot.ARMS:
        found.append(
            Trials(
                arm=arm,
                todo=1 if arm == "centroid" else settings.seeds,
                recorded=0,
                flops=None if full is None else round(full * costs.get(arm, grown)),
                how="" if arm == "centroid" else "<=",
            )
        )
    return found


def _few_shot_flops(context: cli.Context) -> int | None:
    """Counted FLOPs of the fixed prototypical network's training."""
    settings = context.few_shot
    file = context.metrics / "prepare" / f"{context.name}.json"
    card = outputs.read_json(file) if file.exists() else {}
    samples = card["samples"]["train"]["total"] if card else settings_checks.training_samples(settings.data)
    if samples is None:
        return None
    import torch

    from dnm import count
    from stages import few_shot_methods

    # Generated characters are grey.
    channels, size = card.get("channels", 1), settings_checks.image_size(settings.data)
    model = few_shot_methods.embedding(settings.networks.baseline, channels, torch.Generator())
    images = settings.meta.ways * (settings.meta.shots + settings.meta.queries)
    steps = settings.training.epochs * samples // images
    return count(model, torch.zeros(1, channels, size, size)).training * images * steps


def _language_trials(context: cli.Context) -> list[Trials]:
    """What the last trials spent, where there are such: texts are counted batch by batch."""
    file = context.metrics / "language" / f"{context.entry}.csv"
    last: dict[str, list[float]] = {}
    for line in outputs.read_csv(file) if file.exists() else []:
        last.setdefault(line["arm"], []).append(float(line["training_flops"]))
    return [
        Trials(
            arm=arm,
            todo=context.language.seeds,
            recorded=0,
            flops=round(statistics.fmean(last[arm])) if arm in last else None,
            how="~",
        )
        for arm in language.ARMS
    ]


def _detection_trials(context: cli.Context) -> list[Trials]:
    settings, full = context.detection, _detection_flops(context)
    grown = max(1.0, settings.dnm.max_training_flops)
    found = []
    for arm in detection.ARMS:
        most = 1.0 if arm in ("baseline", "sota") else grown
        found.append(
            Trials(
                arm=arm,
                todo=settings.seeds,
                recorded=0,
                flops=None if full is None else round(full * most),
                how="" if arm == "baseline" else "<=",
            )
        )
    return found


def _detection_flops(context: cli.Context) -> int | None:
    """Counted FLOPs of the baseline detector's training."""
    settings = context.detection
    file = context.metrics / "prepare" / f"{context.name}.json"
    card = outputs.read_json(file) if file.exists() else {}
    samples = card["samples"]["train"]["total"] if card else settings_checks.training_samples(settings.data)
    classes = len(card["classes"]) if card else getattr(settings.data, "classes", None)
    if samples is None or classes is None:
        return None
    import torch

    from stages import detection_training, detectors

    size, generator, form = settings.data.size, torch.Generator(), settings.detector
    backbone = detectors.plain_backbone(settings.networks.baseline, form.pyramid, generator, form.levels)
    if form.head == "retinanet":
        detector = detectors.retinanet(backbone, classes, size, generator)
    else:
        detector = detectors.fcos(backbone, classes, size, generator, form.convolutions)
    training = settings.training
    step = detection_training.step_flops(detector, torch.zeros(1, 3, size, size), training)
    return step * detection_training.steps_of(training, samples)


def _recorded(context: cli.Context, folder: str) -> dict[str, int]:
    """How many trials of each arm have a record of today in a folder."""
    from stages import spot_check

    card = context.metrics / "prepare" / f"{context.row_name}.json"
    if not context.settings.execution.keep_records or not card.exists():
        return {}
    return Counter(
        state.job.arm for state in spot_check.states(context) if state.today and state.folder == folder
    )  # fmt: skip


def _last_flops(context: cli.Context, arm: str) -> float:
    """What the arm's last trials spent, on the average; 0 where there are none."""
    spent = [flops for (of, _), flops in _spent(context, ARMS[arm], context.row_name).items() if of == arm]
    return statistics.fmean(spent) if spent else 0.0


def _spent(context: cli.Context, stage: str, row: str) -> dict[tuple[str, str], float]:
    file = context.metrics / stage / f"{row}{'' if stage == 'language' else '.trials'}.csv"
    found: dict[tuple[str, str], float] = {}
    # A trial that trains several networks has a line for each.
    for line in outputs.read_csv(file) if file.exists() else []:
        key = line["arm"], line["seed"]
        found[key] = found.get(key, 0.0) + float(line["training_flops"])
    return found


def _baseline_flops(context: cli.Context) -> int | None:
    """Counted FLOPs of a baseline trial that is not stopped early."""
    shape = _data(context)
    if shape is None:
        return None
    from dnm import count

    samples, settings = shape[3], context.row.training
    model, example = _baseline(context, shape)
    return count(model, example).training * settings.batch_size * (samples // settings.batch_size) * settings.epochs


def _baseline(context: cli.Context, shape: tuple[int, int, int, int]):
    import torch

    from stages.tasks import image_classification as task

    channels, size, classes, _ = shape
    model = task.network(context.row.networks.baseline, channels, classes, torch.Generator())
    return model, torch.zeros(1, channels, size, size)


def _data(context: cli.Context) -> tuple[int, int, int, int] | None:
    """Channels, size, classes and training samples: from the data card or, before there is one, as published."""
    card = context.metrics / "prepare" / f"{context.row_name}.json"
    settings = context.row.data
    if card.exists():
        found = outputs.read_json(card)
        samples = found["samples"]["train"]["total"]
        return found["channels"], found["image_size"][0], len(found["classes"]), samples
    from stages.data import digits
    from stages.data.registry import PUBLISHED

    size, samples = settings_checks.image_size(settings), settings_checks.training_samples(settings)
    if samples is None and settings.source in PUBLISHED_IMAGES:
        kept = 1 - getattr(settings, "validation", 0.0)
        most = IMAGENET_CLASSES * getattr(settings, "per_class", 0) or PUBLISHED_IMAGES[settings.source]
        samples = round(kept * most)
    if samples is None:
        return None
    if settings.source in PUBLISHED:
        return PUBLISHED[settings.source].channels, size, len(PUBLISHED[settings.source].class_names), samples
    if settings.source == "digits":
        return 1, size, len(digits.CLASS_NAMES), samples
    return getattr(settings, "channels", 3), size, getattr(settings, "classes", IMAGENET_CLASSES), samples


def speed(context: cli.Context, stage: str) -> Speed:
    """How fast the trials of a stage train: as the last ones did on such a processor, or by a short measurement."""
    file = context.metrics / "machine" / f"{stage}-{context.row_name}.json"
    if file.exists():
        spent, machine = _spent(context, stage, context.row_name), outputs.read_json(file)
        here = outputs.machine(context.root)["processor"]
        ran = [
            (spent[trial["arm"], str(trial["seed"])], trial["seconds"], trial["date"][:10])
            for trial in machine["trials"]
            if (trial["arm"], str(trial["seed"])) in spent and trial["processor"] == here
        ]
        if ran:
            source = f"{file.relative_to(context.root)} ({here}, {ran[-1][2]})"
            return Speed(flops=sum(run[0] for run in ran) / sum(run[1] for run in ran), source=source)
    if stage in OWN_DATA:
        return Speed(flops=None, source=f"no {stage.replace('_', '-')} trials have run on such a processor")
    return _measure(context)


def _measure(context: cli.Context) -> Speed:
    """Trains the baseline network on noise for a moment."""
    import torch

    from dnm import count
    from stages import training
    from stages.tasks import image_classification as task

    execution, settings, shape = context.settings.execution, context.row.training, _data(context)
    if execution.device == "cuda" and not torch.cuda.is_available():
        return Speed(flops=None, source="execution.device is cuda, and there is none here")
    if shape is None:
        return Speed(flops=None, source="the size of the data is not known before the prepare stage")
    torch.set_num_threads(execution.threads)
    model, example = _baseline(context, shape)
    cost = count(model, example).training * settings.batch_size
    model = model.to(execution.device)
    optimizer = training.make_optimizer(model, settings)
    images = torch.rand(settings.batch_size, *example.shape[1:], device=execution.device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.zeros(settings.batch_size, dtype=torch.int64, device=execution.device)
    steps, started = -1, 0.0
    while steps < 1 or time.perf_counter() - started < MEASURED_SECONDS:
        with torch.autocast(execution.device, torch.bfloat16, enabled=execution.precision == "bfloat16"):
            loss = task.loss(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # Waits for the device.
        loss.item()
        steps += 1
        # The first step prepares the kernels.
        started = started or time.perf_counter()
    seconds = time.perf_counter() - started
    source = f"{seconds:.0f} s of training steps on noise on this machine, just now, one trial alone"
    return Speed(flops=steps * cost / seconds, source=source)
