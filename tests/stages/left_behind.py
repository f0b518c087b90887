"""What stages leave, made up: files of a baseline and a morphogenesis stage as `arms.write` writes them."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from stages import arms, efficiency, outputs, report, statistics
from stages.cli import Context
from stages.settings import Row, Settings

ARMS = {"baseline": ("baseline",), "morphogenesis": ("start", "dnm", "scratch")}
SEEDS = 2
EPOCHS = 3
PARAMETERS = {"baseline": 100, "start": 40, "dnm": 80, "scratch": 80}


def make_context(root: Path, row: Row, execution) -> Context:
    """A context of one row, `strokes`, whose data is prepared."""
    card = {"source": "generated strokes", "sha256": "5a" * 32, "samples": {"train": {"total": 96}}}
    outputs.write_json(root / "metrics" / "embedded" / "prepare" / "strokes.json", card)
    settings = Settings(
        scale="embedded",
        root=".",
        params_file="params.yaml",
        execution=execution,
        image_classification={"strokes": row},
        contest={},
        ranking={},
        ablation={},
        robustness={},
        events={},
        nas={},
    )
    return Context(settings, root, "strokes")


EVENT = {"kind": "growth", "step": 3, "samples": 24, "settled": None, "status": "kept", "widths": {"0": 4}}


def result(arm: str, seed: int, accuracy: float) -> dict[str, Any]:
    """What a trial leaves."""
    points = [
        {
            "epoch": epoch, "step": 6 * epoch, "flops": 1000 * epoch, "learning_rate": 0.1 / epoch,
            "train_loss": 1.0 / epoch, "validation_loss": 2.0 / epoch, "validation_accuracy": 0.2 * epoch + 0.1 * seed,
            "parameters": PARAMETERS[arm],
        }
        for epoch in range(1, EPOCHS + 1)
    ]  # fmt: skip
    journal = [{"operator": "Divide", "group": "0", "units": [1]}] if arm == "dnm" else []
    figures = dict.fromkeys(arms.FIGURES, 1.0) | {
        "test_accuracy": accuracy,
        "epochs": EPOCHS,
        "parameters": PARAMETERS[arm] + seed,
        "training_flops": 1000 * EPOCHS + seed if arm == "baseline" else 2000 + seed,
        "edits": len(journal),
    }
    return {
        "arm": arm, "seed": seed, "figures": figures, "curve": points,
        "events": [EVENT | {"entries": journal}] if journal else [], "journal": journal,
        "start_widths": {"0": 3} if journal else {}, "widths": [[4]], "branches": [], "fingerprint": f"{arm}{seed}",
        "machine": {"seconds": 1.5, "date": "2026-01-02T03:04:05+00:00", "commit": "c0ffee"},
    }  # fmt: skip


def leave(context: Context, stage: str, shift: float = 0.0) -> None:
    """Writes the files of a training stage; `shift` is added to the test accuracies."""
    found = [result(arm, seed, 0.5 + 0.1 * seed + shift) for arm in ARMS[stage] for seed in range(SEEDS)]
    arms.write(context, stage, found, time.perf_counter())


def leave_report(context: Context) -> None:
    """Runs statistics and report on what the training stages left; the report logs itself."""
    counted = [
        {"arm": arm, "seed": seed, **dict.fromkeys(efficiency.FIGURES, 100 + number + seed)}
        for number, arm in enumerate(efficiency.ARMS)
        for seed in range(SEEDS)
    ]
    found = {"batch_size": context.row.training.batch_size, **efficiency.statistics(counted)}
    outputs.write_json(context.metrics / "efficiency" / f"{context.row_name}.json", found)
    of_all = dataclasses.replace(context, row_name="")
    statistics.main(of_all)
    report.main(of_all)
