"""MLflow: every trial as a run, found again by tags. The only module that knows MLflow.

Metrics files come first: where MLflow is missing or its server is down, a stage says so and goes on.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import outputs
from stages import settings as settings_module

if TYPE_CHECKING:
    from stages.cli import Context

CURVES = ("train_loss", "validation_loss", "validation_accuracy", "learning_rate", "parameters", "flops")


def uri(root: Path) -> str:
    """The tracking store: MLFLOW_TRACKING_URI, or a database in the repository that DVC works for."""
    # `dvc exp run --temp` runs in a copy; the runs belong to the repository that it was started from.
    home = Path(os.environ.get("DVC_ROOT") or root)
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"


def log(context: Context, stage: str, results: Sequence[dict[str, Any]]) -> None:
    """Logs the trials of a stage and row: one parent run, one nested run per arm and seed.

    Runs of the same stage, row and settings are replaced; other settings stay beside them.
    """
    if importlib.util.find_spec("mlflow") is None:
        print("mlflow is not installed: the runs stand in metrics/ only", file=sys.stderr)
        return
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    # A server that is down must not hold up a pipeline for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Its import sets its logger's level anew.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    try:
        _log(context, stage, results)
    except Exception as error:
        # Whatever is wrong with the store (its database raises errors of its own), the stage's files are written.
        print(f"mlflow: runs of {stage} {context.row_name} were not logged: {error}", file=sys.stderr)


def _log(context: Context, stage: str, results: Sequence[dict[str, Any]]) -> None:
    from filelock import FileLock
    from mlflow.tracking import MlflowClient

    locks = context.root / "runs" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    # Two processes that create the database at once break each other.
    with FileLock(locks / "mlflow"):
        client = MlflowClient(uri(context.root))
        experiment = _experiment(client, context)
    parameters = _flat(settings_module.as_plain(context.row))
    tags = {
        "dnm.scale": context.settings.scale,
        "dnm.stage": stage,
        "dnm.row": context.row_name,
        "dnm.measured_on": outputs.read_json(context.metrics / "prepare" / f"{context.row_name}.json")["source"],
        "dnm.fingerprint": _settings_mark(parameters),
    }
    _delete(client, experiment, tags)
    parent = _create(client, experiment, f"{stage} {context.row_name}", {**tags, "dnm.kind": "stage"}, parameters)
    for arm in dict.fromkeys(result["arm"] for result in results):
        values = [result["figures"]["test_accuracy"] for result in results if result["arm"] == arm]
        client.log_metric(parent, f"{arm}.test_accuracy", sum(values) / len(values))
    client.set_terminated(parent)
    for result in results:
        _log_trial(client, experiment, parent, result, tags, parameters)


def _log_trial(client, experiment: str, parent: str, result: dict, tags: dict, parameters: dict) -> None:
    from mlflow.entities import Metric

    arm, seed = result["arm"], result["seed"]
    own = {
        "dnm.kind": "trial",
        "dnm.arm": arm,
        "dnm.seed": str(seed),
        "dnm.trial_fingerprint": result["fingerprint"],
        "mlflow.parentRunId": parent,
    }
    run = _create(client, experiment, f"{arm} seed {seed}", {**tags, **own}, {**parameters, "arm": arm, "seed": seed})
    points = [Metric(key, float(value), 0, 0) for key, value in result["figures"].items()]
    points.append(Metric("seconds", result["machine"]["seconds"], 0, 0))
    for point in result["curve"]:
        points += [Metric(f"curve.{key}", float(point[key]), 0, point["epoch"]) for key in CURVES]
    for start in range(0, len(points), 1000):
        client.log_batch(run, metrics=points[start : start + 1000])
    grown = {key: result[key] for key in ("widths", "journal", "events")}
    client.log_text(run, json.dumps(grown, indent=1), "journal.json")
    client.set_terminated(run)


def _experiment(client, context: Context) -> str:
    name = f"dnm-{context.settings.scale}"
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    if uri(context.root).startswith("http"):
        return client.create_experiment(name)
    # A store without a server would put them under the working directory.
    artifacts = Path(os.environ.get("DVC_ROOT") or context.root) / "mlartifacts" / context.settings.scale
    return client.create_experiment(name, artifact_location=artifacts.as_uri())


def _create(client, experiment: str, name: str, tags: dict[str, str], parameters: dict[str, Any]) -> str:
    from mlflow.entities import Param

    run = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    client.log_batch(run, params=[Param(key, str(value)) for key, value in parameters.items()])
    return run


def _delete(client, experiment: str, tags: dict[str, str]) -> None:
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items() if key != "dnm.measured_on")
    while runs := client.search_runs([experiment], wanted, max_results=1000):
        for run in runs:
            client.delete_run(run.info.run_id)


def _settings_mark(parameters: dict[str, Any]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf
        for name, inner in value.items()
        for key, leaf in _flat(inner, f"{prefix}{'.' if prefix else ''}{name}").items()
    }
