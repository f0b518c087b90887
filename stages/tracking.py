"""MLflow: every trial as a run, found again by tags. With `stages.views`, the only module that knows MLflow.

Files come first: a run is logged from what its stage left under `metrics/`, by the stage or later by `stages.sync`.
Where MLflow is missing, or its server is down or slow, a stage says so and goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.util
import json
import os
import statistics
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import results, timelines, views

if TYPE_CHECKING:
    from stages.cli import Context

CURVES = ("train_loss", "validation_loss", "validation_accuracy", "learning_rate", "parameters", "flops")
CLAIM_FIGURES = ("low", "high", "holm_p_value", "documented")
# Seconds that a server may hold up a stage.
PATIENCE = 15.0
EXPERIMENT = "dnm-"
# What tells the runs of one stage, row and settings from others.
IDENTITY = ("dnm.scale", "dnm.row", "dnm.stage", "dnm.fingerprint")
ABOUT = """Views (top right): verdicts, and arms, also as charts. One run a row and verdict (`dnm.kind` report), one a \
row and training stage (`stage`) and, below it, one an arm and seed (`trial`). Other settings have another \
`dnm.fingerprint` and stand beside, `dnm.changed` says what differs from those committed; what is run again with the \
same settings takes its runs' place.

To search: `tags.dnm.row = 'cifar10' and tags.dnm.arm = 'dnm'`, `tags.dnm.kind = 'report'`, \
`tags.dnm.verdict.improvement = 'contradicted'`, `params.training.epochs = '40'`. Two settings side by side: select \
their runs, Compare."""


def uri(root: Path) -> str:
    """The tracking store: MLFLOW_TRACKING_URI, or a database in the repository that DVC works for."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_home(root) / 'mlflow.db'}"


def is_installed() -> bool:
    """Whether MLflow is there; if it is, it is set up to be quiet and not to wait for long."""
    if importlib.util.find_spec("mlflow") is None:
        return False
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    # It would print two lines for each run that a server takes.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    # Its import sets its logger's level anew.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    return True


def experiments(root: Path) -> dict[str, str]:
    """Names and ids of the scales' experiments."""
    from mlflow.tracking import MlflowClient

    if (where := uri(root)).startswith("sqlite:///") and not Path(where.removeprefix("sqlite:///")).exists():
        return {}
    found = MlflowClient(where).search_experiments(filter_string=f"name LIKE '{EXPERIMENT}%'", order_by=["name ASC"])
    return {experiment.name: experiment.experiment_id for experiment in found}


def log(context: Context, stage: str) -> None:
    """Logs what a stage left of the context's row, or of every row where the context is for all of them.

    Never raises, and waits for a server for `PATIENCE` seconds at most. With DNM_TRACKING=off nothing is logged.
    """
    if (wanted := os.environ.get("DNM_TRACKING", "on")) == "off":
        return
    if wanted != "on":
        print(f"mlflow: DNM_TRACKING is {wanted!r}, expected on or off; taken as on", file=sys.stderr)
    if not is_installed():
        print("mlflow is not installed: the runs stand in metrics/ only", file=sys.stderr)
        return
    try:
        # Outside of the time that a server has.
        import mlflow.tracking  # noqa: F401

        seconds = None if _is_local(uri(context.root)) else PATIENCE
        _within(seconds, lambda: [record(one, stage) for one in _rows(context)])
    except Exception as error:
        # Whatever is wrong with the store (its database raises errors of its own), the stage's files are written.
        runs = " ".join(filter(None, [stage, context.row_name]))
        print(f"mlflow: runs of {runs} were not logged; `make sync` logs them later: {error}", file=sys.stderr)


def record(context: Context, stage: str) -> bool:
    """Logs what a stage left of the context's row: True, or False where the store has it already.

    Runs of the same stage, row and settings with other figures are replaced; other settings stay beside them.
    """
    from filelock import FileLock
    from mlflow.tracking import MlflowClient

    found = results.read(context, stage)
    locks = _home(context.root) / "runs" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    where = uri(context.root)
    # Two processes that create a database at once break each other, two that replace the same runs log them twice.
    with FileLock(locks / "mlflow", timeout=60) if _is_local(where) else contextlib.nullcontext():
        client = MlflowClient(where)
        experiment = _experiment(client, context)
        tags = {
            "dnm.scale": context.settings.scale,
            "dnm.row": context.row_name,
            "dnm.stage": stage,
            "dnm.fingerprint": results.fingerprint(found.settings),
            "dnm.measured_on": found.card["source"],
        }
        if context.entry:
            tags["dnm.entry"] = context.entry
        there = _runs(client, experiment, tags)
        is_there = _is_complete(there, found)
        if not is_there:
            for run in there:
                client.delete_run(run.info.run_id)
            others = dict.fromkeys(results.FILES_ALONE, _log_files) | {"report": _log_report}
            log_it = others.get(stage, _log_trials)
            log_it(client, experiment, context, found, tags)
        if stage == "report":
            _tag_with_verdicts(client, experiment, context, found, tags)
    return not is_there


def _log_trials(client, experiment: str, context: Context, found: results.Results, tags: dict[str, str]) -> None:
    # Where one time is not known, none is, and MLflow's own stand there.
    times = [_times(trial) for trial in found.trials if trial.machine]
    start, end = (min(time[0] for time in times), max(time[1] for time in times)) if times else (None, None)
    own = {"dnm.kind": "stage", **_commit(found.trials[0])}
    name = _name(found, context.name, tags["dnm.stage"])
    parent = _create(client, experiment, name, {**tags, **own}, found, start=start)
    metrics = [(f"{figure}/{arm}", value, 0) for arm, of_arm in found.arms.items() for figure, value in of_arm.items()]
    client.log_batch(parent, metrics=_metrics([*metrics, *_mean_curves(found.trials)]))
    for trial in found.trials:
        _log_trial(client, experiment, parent, found, trial, tags)
    # Last, so that what was cut off is known by it.
    client.set_tag(parent, "dnm.results", found.digest)
    client.set_terminated(parent, end_time=end)


def _log_trial(client, experiment: str, parent: str, found: results.Results, trial: results.Trial, tags) -> None:
    start, end = _times(trial) if trial.machine else (None, None)
    own = {
        "dnm.kind": "trial",
        "dnm.arm": trial.arm,
        "dnm.seed": str(trial.seed),
        "dnm.trial_fingerprint": trial.fingerprint,
        "dnm.widths": json.dumps(trial.grown["widths"]),
        "mlflow.parentRunId": parent,
        **_commit(trial),
    }
    name = _name(found, tags.get("dnm.entry", tags["dnm.row"]), trial.arm, "seed", trial.seed)
    more = {"arm": trial.arm, "seed": trial.seed}
    run = _create(client, experiment, name, {**tags, **own}, found, more, start)
    points = [(name, value, 0) for name, value in trial.figures.items()]
    if trial.machine:
        points.append(("seconds", round(trial.machine["seconds"], 2), 0))
    points += [(f"curve/{key}", point[key], int(point["epoch"])) for point in trial.curve for key in CURVES]
    metrics = _metrics(points, end)
    for first in range(0, len(metrics), 1000):
        client.log_batch(run, metrics=metrics[first : first + 1000])
    if trial.grown["journal"]:
        client.log_text(run, json.dumps(dict(trial.grown), indent=1), "journal.json")
    # Committed results of earlier code have none.
    if trial.grown.get("start_widths"):
        drawing = timelines.figure(trial.grown, trial.curve, found.settings["training.batch_size"])
        client.log_figure(run, drawing, "timeline.svg")
    client.set_terminated(run, end_time=end)


def _log_files(client, experiment: str, context: Context, found: results.Results, tags: dict[str, str]) -> None:
    kind = tags["dnm.stage"]
    run = _create(client, experiment, _name(found, context.name, kind), {**tags, "dnm.kind": kind}, found)
    points = [(f"{figure}/{name}", value, 0) for name, of in found.arms.items() for figure, value in of.items()]
    client.log_batch(run, metrics=_metrics(points))
    for name, text in found.texts.items():
        client.log_text(run, text, name)
    client.set_tag(run, "dnm.results", found.digest)
    client.set_terminated(run)


def _log_report(client, experiment: str, context: Context, found: results.Results, tags: dict[str, str]) -> None:
    own = {"dnm.kind": "report", "mlflow.note.content": _claims_note(found), **_verdicts(found)}
    run = _create(client, experiment, _name(found, context.row_name, "verdict"), {**tags, **own}, found)
    metrics = [(arm, _rounded(values["test_accuracy"]), 0) for arm, values in found.arms.items()]
    for claim, values in found.claims.items():
        shown = {claim: values["mean"], **{f"{claim}/{name}": values[name] for name in CLAIM_FIGURES}}
        metrics += [(name, _rounded(value), 0) for name, value in shown.items()]
    client.log_batch(run, metrics=_metrics(metrics))
    for name, text in found.texts.items():
        client.log_text(run, text, name)
    client.set_tag(run, "dnm.results", found.digest)
    client.set_terminated(run)


def _tag_with_verdicts(client, experiment: str, context: Context, found: results.Results, tags: dict[str, str]) -> None:
    """Lets the runs that a verdict is about be found by it; a baseline may serve several ways to grow, and is not."""
    from mlflow.entities import RunTag

    verdicts = _verdicts(found)
    mark = results.fingerprint(results.settings(context, "morphogenesis"))
    for run in _runs(client, experiment, {**tags, "dnm.stage": "morphogenesis", "dnm.fingerprint": mark}):
        if not verdicts.items() <= run.data.tags.items():
            client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in verdicts.items()])


def _create(
    client,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    found: results.Results,
    more: Mapping[str, Any] | None = None,
    start: int | None = None,
) -> str:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    tags = {**tags, "mlflow.source.name": f"stages.{tags['dnm.stage']}", "mlflow.source.type": "LOCAL"}
    if found.changed:
        tags["dnm.changed"] = ", ".join(f"{name}={_shown(value)}" for name, value in found.changed.items())
    # `dvc exp run` names its experiments.
    if os.environ.get("DVC_EXP_NAME"):
        tags["dnm.dvc_experiment"] = os.environ["DVC_EXP_NAME"]
    run = client.create_run(experiment, start_time=start, run_name=name, tags=tags).info.run_id
    parameters = [Param(key, _shown(value)) for key, value in {**found.settings, **(more or {})}.items()]
    client.log_batch(run, params=parameters)
    card = found.card
    data = Dataset(
        name=f"{tags['dnm.row']}: {card['source']}",
        # As much as MLflow's database holds; all of it is in the profile.
        digest=card["sha256"][:36],
        source_type="local",
        source=json.dumps({"uri": f"data/prepared/{tags['dnm.scale']}/{tags['dnm.row']}.safetensors"}),
        profile=json.dumps(card),
    )
    client.log_inputs(run, [DatasetInput(data, [InputTag("mlflow.data.context", "train, validation, test")])])
    return run


def _name(found: results.Results, *parts: object) -> str:
    """A run's name, with the settings that tell it from others where they are few."""
    changed = ", ".join(f"{name.rsplit('.', 1)[-1]}={_shown(value)}" for name, value in found.changed.items())
    if len(changed) > 60:
        changed = f"{len(found.changed)} settings changed"
    return " ".join(map(str, parts)) + (f", {changed}" if changed else "")


def _mean_curves(trials: Sequence[results.Trial]) -> list[tuple[str, float, int]]:
    """Validation accuracy by epoch, the mean of the seeds of each arm, as far as all of them go."""
    points = []
    for arm in dict.fromkeys(trial.arm for trial in trials):
        curves = [trial.curve for trial in trials if trial.arm == arm]
        for at_epoch in zip(*curves, strict=False):
            mean = statistics.fmean(point["validation_accuracy"] for point in at_epoch)
            points.append((f"validation_accuracy/{arm}", mean, int(at_epoch[0]["epoch"])))
    return points


def _metrics(points: Sequence[tuple[str, float, int]], time: int | None = None) -> list:
    from mlflow.entities import Metric
    from mlflow.utils.time import get_current_time_millis

    now = time or get_current_time_millis()
    return [Metric(name, float(value), now, step) for name, value, step in points]


def _times(trial: results.Trial) -> tuple[int, int]:
    """When a trial began and ended, in milliseconds."""
    end = datetime.datetime.fromisoformat(trial.machine["date"]).timestamp()
    return int(1000 * (end - trial.machine["seconds"])), int(1000 * end)


def _commit(trial: results.Trial) -> dict[str, str]:
    return {"mlflow.source.git.commit": trial.machine["commit"]} if trial.machine.get("commit") else {}


def _verdicts(found: results.Results) -> dict[str, str]:
    return {f"dnm.verdict.{claim}": values["verdict"] for claim, values in found.claims.items()}


def _shown(value: Any) -> str:
    """A setting as params.yaml has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _rounded(value: float) -> float:
    """`value` to six digits, which fit a column."""
    return float(f"{value:.6g}")


def _claims_note(found: results.Results) -> str:
    lines = [
        f"| {name} | {claim['documented']:+g} | {claim['mean']:+.2f} | [{claim['low']:+.2f}, {claim['high']:+.2f}] "
        f"| **{claim['verdict']}** |"
        for name, claim in found.claims.items()
    ]
    seeds = next(iter(found.claims.values()))["num_seeds"]
    heads = ["| dnm - baseline | documented | measured | 95% CI | verdict |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([f"Measured on {found.card['source']}, {seeds} seeds.", "", *heads, *lines])


def _experiment(client, context: Context) -> str:
    name = f"{EXPERIMENT}{context.settings.scale}"
    tags = {"mlflow.note.content": ABOUT, "mlflow.experimentKind": "custom_model_development", **views.tags()}
    found = client.get_experiment_by_name(name)
    if found is not None:
        # What someone has changed there since stays as it is.
        for key in tags.keys() - found.tags.keys():
            client.set_experiment_tag(found.experiment_id, key, tags[key])
        return found.experiment_id
    # A store without a server would put artifacts under the working directory.
    artifacts = None
    if not uri(context.root).startswith("http"):
        artifacts = (_home(context.root) / "mlartifacts" / context.settings.scale).as_uri()
    return client.create_experiment(name, artifact_location=artifacts, tags=tags)


def _runs(client, experiment: str, tags: Mapping[str, str]) -> list:
    """The runs that are not deleted of a stage, row and settings."""
    wanted = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in IDENTITY)
    found, token = [], None
    while True:
        page = client.search_runs([experiment], wanted, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _is_complete(there: Sequence, found: results.Results) -> bool:
    logged = [run for run in there if run.data.tags.get("dnm.results") == found.digest]
    return len(logged) == 1 and len(there) == 1 + len(found.trials)


def _home(root: Path) -> Path:
    # `dvc exp run --temp` runs in a copy; the runs belong to the repository that it was started from.
    return Path(os.environ.get("DVC_ROOT") or root)


def _is_local(where: str) -> bool:
    return where.startswith(("sqlite:", "file:"))


def _rows(context: Context) -> list[Context]:
    if context.row_name:
        return [context]
    return [dataclasses.replace(context, row_name=name) for name in context.settings.documented_rows]


def _within(seconds: float | None, task: Callable[[], object]) -> None:
    """Runs `task`, which is left behind when it takes longer.

    Raises:
        TimeoutError: it does.
    """
    if seconds is None:
        task()
        return
    raised: list[Exception] = []

    def run() -> None:
        try:
            task()
        except Exception as error:
            raised.append(error)

    # A daemon: waiting for a server must not keep the process alive.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"the server has not taken them within {seconds:.0f} s")
    if raised:
        raise raised[0]
