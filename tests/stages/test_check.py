"""The first stage: settings are refused before DVC deletes anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stages import check, cli, outputs

ROOT = Path(__file__).resolve().parents[2]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["check", *arguments])
    check.main()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    return tmp_path


def test_what_it_writes_does_not_depend_on_the_settings(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file, scale in (("params.yaml", "embedded"), ("scales/paper/params.yaml", "paper")):
        run(monkeypatch, "--params", str(ROOT / file), "--scale", scale)
        assert outputs.read_json(root / "metrics" / scale / "settings.json") == {"checked": True}


@pytest.mark.parametrize(
    "file, scale, message",
    [
        ("nope.yaml", "embedded", "nope.yaml: cannot be read"),
        (
            "scales/paper/params.yaml",
            "embedded",
            "scale is paper, expected embedded: the params_file beside",
        ),
    ],
)
def test_it_refuses(root: Path, monkeypatch, capsys, file: str, scale: str, message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--params", str(ROOT / file), "--scale", scale)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {ROOT / file}" if file != "nope.yaml" else "error: ")
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not list(root.iterdir())


def lacking_memory() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    return caught.value


@pytest.mark.parametrize(
    "error, message",
    [
        (FileNotFoundError(2, "No such file", "metrics/x.json"), "metrics/x.json: no such file; run the stages that"),
        (OSError(28, "No space left on device", "x"), "x: No space left on device; mend that"),
        (lacking_memory(), "out of memory (.*); lower batch_size"),
        (AssertionError("Torch not compiled with CUDA enabled"), "execution.device is cuda, but there is none to use"),
        (RuntimeError("Found no NVIDIA driver on your system"), "execution.device is cuda, but there is none to use"),
    ],
)
def test_what_a_user_can_mend_is_told(error: Exception, message: str) -> None:
    told = cli.mendable(error)
    assert told is not None and "\n" not in told
    assert re.search(message.replace("(", r"\(").replace(")", r"\)"), told), told


@pytest.mark.parametrize("error", [RuntimeError("unsupported memory format"), AssertionError("ours"), KeyError("x")])
def test_what_is_ours_is_not(error: Exception) -> None:
    assert cli.mendable(error) is None


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("learning_rate: 0.032", "learning_rate: fast", "learning_rate is str 'fast', expected a number"),
        ("seed: 1", "seed: -1", "data.seed is -1, expected at least 0"),
        ("params_file: params.yaml", "params_file: scales/paper/params.yaml", "scale is paper, expected embedded"),
    ],
)
def test_dvc_deletes_nothing(tmp_path: Path, old: str, new: str, message: str) -> None:
    for name in ("dnm", "stages", "scales"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    kept = [
        tmp_path / "metrics" / "embedded" / name
        for name in ("settings.json", "prepare/cifar10.json", "baseline/cifar10.json", "tables/runs.md")
    ]
    for file in kept:
        outputs.write_text(file, "{}\n")
    own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}

    def execute(*command: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, **own}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    assert execute("git", "init", "-q").returncode == 0
    assert execute(sys.executable, "-m", "dvc", "init", "-q").returncode == 0
    shutil.copy(ROOT / ".dvc" / "config", tmp_path / ".dvc" / "config")
    ended = execute(sys.executable, "-m", "dvc", "repro")
    assert ended.returncode != 0
    assert message in ended.stderr
    assert [file.read_text(encoding="utf-8") for file in kept] == ["{}\n"] * len(kept)
