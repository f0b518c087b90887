"""Networks as their trials left them: kept under `runs/` for the stages that look at them, or trained again."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import outputs, records

if TYPE_CHECKING:
    from torch import nn

    from stages.cli import Context
    from stages.data.splits import DataSet
    from stages.trial import Job

# Whose networks are looked at.
ARMS = ("baseline", "dnm", "scratch")


def path(root: Path, mark: str) -> Path:
    """Where the network of the trial of this fingerprint is kept."""
    return root / "runs" / "trained" / f"{mark}.pt"


def is_wanted(context: Context, job: Job) -> bool:
    """Whether a stage will look at what a trial of the row's own arms leaves."""
    entries = (*context.settings.robustness.values(), *context.settings.transfer.values())
    return not context.entry and any(
        entry.row == context.row_name and job.arm in ARMS and job.seed < entry.seeds for entry in entries
    )


def mark(context: Context, job: Job) -> str:
    """The fingerprint of a trial of the row's own arms with today's settings, data and code."""
    card = outputs.read_json(context.metrics / "prepare" / f"{context.row_name}.json")
    return records.fingerprint(job, card["sha256"], records.code_of(context.root, job))


def grown(context: Context) -> dict[int, dict[str, Any]]:
    """What `arms.job` needs to know of the row's `dnm` trials, by seed."""
    folder, row = context.metrics / "morphogenesis", context.row_name
    spent = {
        int(line["seed"]): int(float(line["training_flops"]))
        for line in outputs.read_csv(folder / f"{row}.trials.csv")
        if line["arm"] == "dnm"
    }
    return {
        item["seed"]: {**item, "figures": {"training_flops": spent[item["seed"]]}}
        for item in outputs.read_json(folder / f"{row}.journals.json")
        if item["arm"] == "dnm"
    }


def keep(checkpoint: Path, result: Mapping[str, Any], file: Path) -> None:
    """Keeps the network that a finished trial left in its checkpoint."""
    import torch

    state = torch.load(checkpoint, weights_only=True, map_location="cpu")["model"]
    stream = io.BytesIO()
    torch.save({"model": state, "journal": json.dumps(result["journal"])}, stream)
    outputs.write_bytes(file, stream.getvalue())


def network(job: Job, data: DataSet, file: Path) -> nn.Sequential:
    """The network that a trial ended up with, on its device; it is trained again where the file is not there.

    Args:
        job: of the trial.
        data: that it trains on.
        file: see `path`.
    """
    import torch

    from stages import trial

    if not file.exists():
        checkpoint = file.with_suffix(".part")
        plain = {item.name: getattr(job, item.name) for item in fields(trial.Job)}
        result = trial.run(trial.Job(**{**plain, "checkpoint": str(checkpoint)}))
        keep(checkpoint, result, file)
        checkpoint.unlink()
    content = torch.load(file, weights_only=True)
    model = trial.model_of(job, data)
    if journal := json.loads(content["journal"]):
        from dnm import replay

        replay(model, journal)
    model.load_state_dict(content["model"])
    return model.to(job.execution.device)
