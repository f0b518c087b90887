"""The stage that prepares data: every source has a reader, and what is refused leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from ruamel.yaml import YAML

from stages import cli, outputs, prepare
from stages.data import registry
from stages.data.settings import Data, Synthetic
from stages.settings_io import read_yaml
from tests.stages.data import samples
from tests.stages.data.samples import settings, tree

ROOT = Path(__file__).resolve().parents[3]


def test_every_source_of_the_settings_has_one_reader() -> None:
    kinds = get_args(Data)
    sources = [source for kind in kinds for source in get_args(get_type_hints(kind)["source"])]
    assert sorted(sources) == sorted(registry.READERS)
    assert all(registry.PUBLISHED[name].source == name for name in registry.PUBLISHED)


@pytest.mark.parametrize("source", ["folder", "imagenet"])
def test_the_environment_overrides_a_folder_of_classes(
    source: str, tmp_path: Path, context: Callable[[Data], cli.Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = samples.write_folders(tmp_path / "elsewhere", ["train", "val"])
    monkeypatch.setenv(f"DNM_{source.upper()}", str(folder))
    prepare.main(context(settings(source, tmp_path / "nowhere")))


def test_folders_are_seen_from_the_repository(tmp_path: Path, context: Callable[[Data], cli.Context]) -> None:
    samples.write_parquets(tmp_path / "files", "stl10")
    prepare.main(context(settings("stl10", Path("files"))))


def test_generated_data_has_a_card(tmp_path: Path, context: Callable[[Data], cli.Context]) -> None:
    data = Synthetic(
        source="synthetic", classes=3, size=8, channels=1, train=30, test=9, difficulty=0.2, seed=1, validation=0.2
    )
    where = context(data)
    prepare.main(where)
    card = outputs.read_json(where.metrics / "prepare" / "row.json")
    assert (card["source"], card["licence"], card["note"]) == ("generated strokes", "MIT, as this repository", "")


def test_bad_data_leaves_what_was_prepared_before(
    tmp_path: Path, context: Callable[[Data], cli.Context], refused: Callable[[Data, str], None]
) -> None:
    data = settings("cifar10", tmp_path / "files")
    samples.write_parquets(tmp_path / "files", "cifar10")
    prepare.main(context(data))
    assert len(tree(tmp_path / "data")) == 1
    (tmp_path / "files" / "test.parquet").write_bytes(b"PAR1")
    refused(data, "test.parquet: cannot be read as Parquet")


def test_the_command_line_ends_in_one_message(tmp_path: Path) -> None:
    samples.write_parquets(tmp_path / "files", "cifar10")
    path = tmp_path / "files" / "train.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    content = read_yaml(ROOT / "params.yaml")
    row = content["image_classification"]["cifar10"]
    row["data"] = {"source": "cifar10", "folder": str(tmp_path / "files"), "seed": 0, "validation": 0.2}
    place = {"scale": "refused", "root": "../..", "params_file": "scales/refused/params.yaml"}
    content["image_classification"] = {"cifar10": row, "medical": content["image_classification"]["medical"]}
    content |= {**place, "transfer": {"medical_natural": content["transfer"]["medical_natural"]}}
    content["nas"] = {"search": content["nas"]["search"]}
    with (tmp_path / "params.yaml").open("w", encoding="utf-8") as stream:
        YAML(typ="safe", pure=True).dump(content, stream)
    command = [sys.executable, "-m", "stages.prepare", "--params", str(tmp_path / "params.yaml"), "--row", "cifar10"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {path}: cannot be read as Parquet")
    assert len(ended.stderr.splitlines()) == 1
    assert not list(ROOT.glob("*/refused")) + list(ROOT.glob("*/*/refused"))
