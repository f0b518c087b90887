"""Saved views of an experiment for MLflow's UI, in the form in which MLflow 3.17 itself keeps them: tags.

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
        *(f"metrics.`{name}`" for name in ("improvement", "improvement/low", "improvement/high")),
        "tags.`dnm.verdict.improvement`",
        *(f"metrics.`{name}`" for name in ("baseline", "dnm", "start", "scratch", "training_time", "parameters")),
        "tags.`dnm.measured_on`",
    ),
    "arms": (
        *(f"metrics.`{name}`" for name in ("test_accuracy", "parameters", "training_flops", "edits", "seconds")),
        "tags.`dnm.widths`",
    ),
}
KINDS = {"verdicts": "report", "arms": "trial"}
# Means over the seeds, and in charts their range.
GROUPS = {
    "arms": {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": name} for name in ("dnm.row", "dnm.arm", "dnm.changed")],
    }
}


def tags() -> dict[str, str]:
    """The views as tags of an experiment."""
    return {f"{PREFIX}{name}": _view(name) for name in COLUMNS}


def links(server: str, experiment: str) -> dict[str, str]:
    """Where to look first: the verdicts, the arms' means, and their curves."""
    runs = f"{server.rstrip('/')}/#/experiments/{experiment}/runs?viewStateShareKey="
    return {"verdicts": f"{runs}verdicts", "arms": f"{runs}arms", "curves": f"{runs}arms&compareRunsMode=CHART"}


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
        "columnWidths": {"attributes.`Run Name`": 360, **{name: 190 if "tags" in name else 130 for name in columns}},
        "groupBy": GROUPS.get(name),
        "runsHiddenMode": "SHOW_ALL",
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"})
