"""Saved views of an experiment for MLflow's UI, in the format in which MLflow 3.17 itself keeps them: tags.

A version that does not know them shows its own columns.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

PREFIX = "mlflow.sharedViewState."
COLUMNS = {
    "verdicts": (
        "tags.`dnm.changed`",
        *(f"tags.`dnm.verdict.{claim}`" for claim in ("improvement", "training_time", "parameters")),
        *(f"metrics.`{name}`" for name in ("improvement", "improvement/low", "improvement/high")),
        *(f"metrics.`{name}`" for name in ("baseline", "dnm", "start", "scratch", "training_time", "parameters")),
    ),
    "trials": (
        "tags.`dnm.changed`",
        *(f"metrics.`{name}`" for name in ("test_accuracy", "parameters", "training_flops", "edits", "seconds")),
        "tags.`dnm.widths`",
    ),
}
COLUMNS["curves"] = COLUMNS["trials"]
KINDS = {"verdicts": "report", "trials": "trial", "curves": "trial"}
# Means over the seeds, with their range.
GROUPS = {
    "curves": {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": name} for name in ("dnm.row", "dnm.arm", "dnm.changed")],
    }
}


def tags() -> dict[str, str]:
    """The views as tags of an experiment."""
    return {f"{PREFIX}{name}": _view(name) for name in COLUMNS}


def link(server: str, experiment: str, name: str) -> str:
    """Where a view is shown."""
    chart = "&compareRunsMode=CHART" if name in GROUPS else ""
    return f"{server.rstrip('/')}/#/experiments/{experiment}/runs?viewStateShareKey={name}{chart}"


def _view(name: str) -> str:
    columns = list(COLUMNS[name])
    state: dict[str, Any] = {
        "searchFilter": f"tags.dnm.kind = '{KINDS[name]}'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": columns,
        # Widths count only for columns whose order is given.
        "columnOrder": ["attributes.`Run Name`", "runDateAndNestInfo", *columns],
        "columnWidths": {"attributes.`Run Name`": 340, **dict.fromkeys(columns, 150)},
        "groupBy": GROUPS.get(name),
        "runsHiddenMode": "SHOW_ALL",
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"})
