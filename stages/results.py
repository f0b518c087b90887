"""What the stages left in files, read back: trials with their curves and journals, and what was concluded of a row."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import outputs
from stages import settings as settings_module
from stages.schema import SettingsError, build
from stages.settings import Execution, Row
from stages.settings_io import read_yaml

if TYPE_CHECKING:
    from stages.cli import Context

TRAINING_STAGES = ("baseline", "morphogenesis", "contest", "ablation", "nas")
FILES_ALONE = ("ranking", "robustness", "events", "transfer", "few_shot", "detection", "language", "efficiency")
STAGES = (*TRAINING_STAGES, *FILES_ALONE, "report")
# What of a row a stage looks at, as dvc.yaml has it: the baseline is not trained again for another way to grow.
BASELINE_SETTINGS = ("seeds", "data", "networks", "training")
TARGET_SETTINGS = ("data", "training")
TABLES = ("image_classification", "runs", "confidence")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial.

    Attributes:
        arm: baseline, dnm, start or scratch.
        seed: its seed.
        fingerprint: of job, data and code.
        figures: what it measured, by name.
        curve: one mapping an epoch.
        grown: widths, journal and events.
        machine: seconds, date, commit and the like; empty where `machine/` speaks of another trial.
    """

    arm: str
    seed: int
    fingerprint: str
    figures: Mapping[str, float]
    curve: Sequence[Mapping[str, float]]
    grown: Mapping[str, Any]
    machine: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a stage left of a row.

    Attributes:
        settings: those that the stage looks at, flat, by dotted name.
        changed: those of them that differ from the committed ones.
        card: the row's data card.
        digest: SHA-256 of the files' content, without what differs from run to run.
        trials: of a training stage.
        arms: mean figures by arm.
        claims: of the report: interval, verdict and more by claim.
        texts: tables and figures of the report, by name.
        machine: of the stage: its seconds, or empty.
    """

    settings: Mapping[str, Any]
    changed: Mapping[str, Any]
    card: Mapping[str, Any]
    digest: str
    trials: Sequence[Trial] = ()
    arms: Mapping[str, Mapping[str, float]]
    claims: Mapping[str, Mapping[str, Any]]
    texts: Mapping[str, str]
    machine: Mapping[str, Any]


def has_run(context: Context, stage: str) -> bool:
    """Whether a stage left results of the context's row."""
    there = all(file.exists() for file in (*files(context, stage), _card(context)))
    return there and (stage != "report" or context.row_name in outputs.read_json(files(context, stage)[0]))


def read(context: Context, stage: str) -> Results:
    """What `stage` left of the context's row."""
    if stage in TRAINING_STAGES:
        return _read_trials(context, stage)
    return _read_report(context) if stage == "report" else _read_files(context, stage)


def settings(context: Context, stage: str) -> dict[str, Any]:
    """The settings that a stage looks at, flat: `{"training.epochs": 40, ...}`."""
    # Through JSON, for lists as params.yaml has them.
    has_row = stage not in settings_module.OWN_DATA
    row = json.loads(json.dumps(settings_module.as_plain(context.row))) if has_row else {}
    if stage == "baseline":
        row = {name: row[name] for name in BASELINE_SETTINGS}
    if context.entry:
        row |= {stage: json.loads(json.dumps(settings_module.as_plain(getattr(context, stage))))}
    if stage == "transfer":
        target = settings_module.as_plain(context.settings.image_classification[context.transfer.target])
        row["target"] = json.loads(json.dumps({name: target[name] for name in TARGET_SETTINGS}))
    return _flat({**row, "execution": settings_module.as_plain(context.settings.execution)})


def fingerprint(flat: Mapping[str, Any]) -> str:
    """Tells one set of settings from another."""
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]


def files(context: Context, stage: str) -> list[Path]:
    """The files that say what a stage found of the context's row; other rows may share them."""
    if stage == "report":
        return [context.metrics / "statistics" / "image_classification.json"]
    if stage in FILES_ALONE:
        return [context.metrics / stage / f"{context.name}.{ending}" for ending in ("json", "csv")]
    return [
        context.metrics / stage / f"{context.name}.{name}" for name in ("trials.csv", "curves.csv", "journals.json")
    ]


def _read_trials(context: Context, stage: str) -> Results:
    trials_file, curves_file, journals_file = files(context, stage)
    content = [file.read_bytes() for file in (trials_file, curves_file, journals_file, _card(context))]
    curves: dict[tuple[str, int], list[dict[str, float]]] = {}
    for line in outputs.read_csv(curves_file):
        curves.setdefault(_key(line), []).append(_numbers(line))
    grown = {_key(item): item for item in outputs.read_json(journals_file)}
    machine = _machine(context, stage)
    seconds = {_key(item): item for item in machine.get("trials", [])}
    trials = []
    for line in outputs.read_csv(trials_file):
        key, mark = _key(line), line.pop("fingerprint")
        own = seconds.get(key, {})
        # DVC restores a stage's results without what stands under machine/.
        if own.pop("fingerprint", mark) != mark:
            own = {}
        trials.append(
            Trial(
                arm=key[0],
                seed=key[1],
                fingerprint=mark,
                figures=_numbers(line),
                curve=curves[key],
                grown=grown[key],
                machine=own,
            )
        )
    return Results(
        settings=settings(context, stage),
        changed=_changed(context, stage),
        card=outputs.read_json(_card(context)),
        digest=hashlib.sha256(b"\0".join(content)).hexdigest(),
        trials=trials,
        arms=outputs.read_json(context.metrics / stage / f"{context.name}.json"),
        claims={},
        texts={},
        machine=machine if all(trial.machine for trial in trials) else {},
    )


def _read_files(context: Context, stage: str) -> Results:
    texts = {file.name: file.read_text(encoding="utf-8") for file in files(context, stage)}
    content = "\0".join([*texts.values(), _card(context).read_text(encoding="utf-8")])
    summary = json.loads(texts[f"{context.name}.json"])
    arms = summary["rankings" if stage == "ranking" else "arms"]
    if stage == "efficiency":
        arms = {arm: {name: value["mean"] for name, value in of_arm.items()} for arm, of_arm in arms.items()}
    return Results(
        settings=settings(context, stage),
        changed=_changed(context, stage),
        card=outputs.read_json(_card(context)),
        digest=hashlib.sha256(content.encode()).hexdigest(),
        arms=arms,
        claims={},
        texts=texts,
        machine=_machine(context, stage),
    )


def _read_report(context: Context) -> Results:
    (file,) = files(context, "report")
    found = outputs.read_json(file)[context.row_name]
    texts = {"statistics.json": json.dumps(found, indent=1, sort_keys=True) + "\n"}
    for name in TABLES:
        # The lines of this row only: what is said of another one must not make this one's run anew.
        lines = [
            line
            for line in outputs.read_csv(context.metrics / "tables" / f"{name}.csv")
            if line["row"] == context.row.documented_row
        ]
        # The document says nothing of some rows in some tables.
        if lines:
            texts[f"tables/{name}.csv"] = outputs.csv_text(lines, list(lines[0]))
    figure = f"image_classification-{context.row_name}.svg"
    texts[f"figures/{figure}"] = (context.metrics / "figures" / figure).read_text(encoding="utf-8")
    return Results(
        settings=settings(context, "report"),
        changed=_changed(context, "report"),
        card=outputs.read_json(_card(context)),
        digest=hashlib.sha256("\0".join(texts.values()).encode()).hexdigest(),
        arms={arm: {name: value["mean"] for name, value in of_arm.items()} for arm, of_arm in found["arms"].items()},
        claims=found["claims"],
        texts=texts,
        machine={},
    )


def _changed(context: Context, stage: str) -> dict[str, Any]:
    """What a stage looks at and is not as committed; nothing where what is committed cannot be read."""
    file = f"HEAD:./{context.settings.params_file}"
    shown = subprocess.run(["git", "show", file], cwd=context.root, capture_output=True, text=True, check=False)
    if shown.returncode != 0:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        outputs.write_text(path, shown.stdout)
        committed = read_yaml(path)
    # Not the file's own words: a setting may be left at its default there.
    try:
        changes: dict[str, Any] = {"execution": build(Execution, committed["execution"], path, "execution")}
        if stage not in settings_module.OWN_DATA:
            names = {context.row_name, context.transfer.target} if stage == "transfer" else {context.row_name}
            rows = committed["image_classification"]
            changes["image_classification"] = {name: build(Row, rows[name], path, name) for name in names}
        if context.entry:
            kind, entry = type(getattr(context, stage)), committed[stage][context.entry]
            changes[stage] = {context.entry: build(kind, entry, path, stage)}
        old = settings(replace(context, settings=replace(context.settings, **changes)), stage)
    except (KeyError, SettingsError):  # A row or an entry that is new, or of another form than today's.
        return {}
    return {name: value for name, value in settings(context, stage).items() if name not in old or old[name] != value}


def _card(context: Context) -> Path:
    return context.metrics / "prepare" / f"{context.row_name}.json"


def _machine(context: Context, stage: str) -> dict[str, Any]:
    try:
        return outputs.read_json(context.metrics / "machine" / f"{stage}-{context.name}.json")
    except FileNotFoundError:
        return {}


def _key(line: Mapping[str, Any]) -> tuple[str, int]:
    return line["arm"], int(line["seed"])


def _numbers(line: Mapping[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in line.items() if name not in ("arm", "seed")}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf
        for name, inner in value.items()
        for key, leaf in _flat(inner, f"{prefix}{'.' if prefix else ''}{name}").items()
    }
