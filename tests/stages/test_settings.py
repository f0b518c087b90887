"""Settings files: those of the repository are sound, and every mistake is refused in words."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from dnm import count
from stages.settings import Cifar10, Settings, SettingsError, Synthetic, as_plain, load
from stages.settings_io import read_yaml
from stages.tasks import image_classification as task

ROOT = Path(__file__).resolve().parents[2]
SCALES = [ROOT / "params.yaml", *sorted(ROOT.glob("scales/*/params.yaml"))]
ROW = ("image_classification", "cifar10")
DATA, NETWORKS, TRAINING, DNM = ((*ROW, section) for section in ("data", "networks", "training", "dnm"))


def images_of(settings: Settings, row: str) -> tuple[int, int, int]:
    """Channels, size and classes of a row's images."""
    data = settings.image_classification[row].data
    if isinstance(data, Synthetic):
        return data.channels, data.size, data.classes
    assert isinstance(data, Cifar10)
    return 3, 32, 10


@pytest.fixture(params=SCALES, ids=lambda path: path.parent.name if path.parent != ROOT else "embedded")
def scale_file(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_the_scales_load(scale_file: Path) -> None:
    settings = load(scale_file)
    assert scale_file == ROOT / settings.params_file
    assert (scale_file.parent / settings.root).resolve() == ROOT
    assert settings.scale == ("embedded" if scale_file.parent == ROOT else scale_file.parent.name)


def test_there_are_two_scales_at_least() -> None:
    assert {"main", "workstation"} <= {"main" if path.parent == ROOT else path.parent.name for path in SCALES}


def test_the_pipelines_of_all_scales_are_the_same_bytes() -> None:
    copies = sorted(ROOT.glob("scales/*/dvc.yaml"))
    assert copies
    for file in copies:
        assert file.read_bytes() == (ROOT / "dvc.yaml").read_bytes(), file


def test_the_start_network_costs_at_most_35_percent_of_the_baseline(scale_file: Path) -> None:
    settings = load(scale_file)
    for name, row in settings.image_classification.items():
        channels, size, classes = images_of(settings, name)
        start, baseline = (
            count(task.network(widths, channels, classes, torch.Generator()), torch.zeros(1, channels, size, size))
            for widths in (row.networks.start, row.networks.baseline)
        )
        assert start.training <= 0.35 * baseline.training, (name, start.training / baseline.training)


def test_embedded_runs_are_long_enough_for_patience_and_plateaus() -> None:
    for row in load(ROOT / "params.yaml").image_classification.values():
        assert row.training.epochs >= 40


def changed(content: dict, place: tuple[str, ...], value: Any) -> dict:
    """A copy with `value` at `place`, or without the key where the value is `...`."""
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


def write(path: Path, content: Any) -> Path:
    with path.open("w", encoding="utf-8") as stream:
        YAML(typ="safe", pure=True).dump(content, stream)
    return path


MISTAKES = {
    "unknown key": ((*TRAINING, "learning_rat"), 0.1, "learning_rat is not a setting; did you mean 'learning_r"),
    "far from any key": ((*TRAINING, "qqq"), 1, "training.qqq is not a setting; known keys: batch_size"),
    "unknown key at the top": (("scal",), "x", "scal is not a setting; did you mean 'scale'?"),
    "missing key": ((*TRAINING, "epochs"), ..., "image_classification.cifar10.training.epochs is missing"),
    "missing section": (("execution",), ..., "execution is missing; add it"),
    "text for a number": ((*TRAINING, "learning_rate"), "1e-4 ", "as text: write a plain number, such as 0.0001"),
    "text for a whole number": ((*TRAINING, "epochs"), "forty", "epochs is str 'forty', expected a whole number"),
    "fraction for a whole number": ((*ROW, "seeds"), 2.5, "seeds is float 2.5, expected a whole number"),
    "truth for a number": ((*ROW, "seeds"), True, "seeds is bool True, expected a whole number"),
    "number for truth": ((*TRAINING, "flip"), 1, "flip is int 1, expected true or false"),
    "number for text": (("scale",), 3, "scale is int 3, expected text"),
    "nothing": ((*TRAINING, "epochs"), None, "epochs is missing, expected a whole number"),
    "mapping for a number": ((*TRAINING, "epochs"), {"a": 1}, "epochs is dict {'a': 1}, expected a whole number"),
    "number for a mapping": ((*ROW, "training"), 3, "training is int 3, expected a mapping of batch_size"),
    "number for a list": ((*DNM, "event_times"), 0.5, "event_times is float 0.5, expected a list"),
    "text in a list": ((*NETWORKS, "start"), [[4], ["8", 8], [16, 24]], r"start\[1\]\[0\] is str '8', expected"),
    "below the range": ((*TRAINING, "epochs"), 0, "epochs is 0, expected at least 1$"),
    "above the range": ((*DATA, "difficulty"), 1.5, "difficulty is 1.5, expected at least 0.0 and at most 1.0"),
    "out of range in a list": ((*DNM, "event_times"), [0.1, 1.2], r"event_times\[1\] is 1.2, expected at least"),
    "not a number": ((*TRAINING, "learning_rate"), float("nan"), "learning_rate is nan, expected"),
    "infinite": ((*DNM, "max_parameters"), float("inf"), "max_parameters is inf, expected at least 0.0 and finite"),
    "unknown choice": ((*TRAINING, "optimizer"), "adamw", "expected one of AdamW, SGD; did you mean 'AdamW'?"),
    "truth for a choice": ((*TRAINING, "optimizer"), True, "optimizer is bool True, expected one of AdamW, SGD"),
    "unknown source": ((*DATA, "source"), "mnist", "data.source is str 'mnist', expected one of synthetic, cifa"),
    "no source": ((*DATA, "source"), ..., "data.source is missing, expected one of synthetic, cifar10"),
    "a key of another source": ((*DATA, "folder"), "x", "data.folder is not a setting"),
    "two channels": ((*DATA, "channels"), 2, "channels is 2, expected 1 or 3"),
    "more times than events": ((*DNM, "max_morphogenesis_events"), 4, "lists 5 events, .* allows 4"),
    "other depths": ((*NETWORKS, "start"), [[4], [8], [16, 24]], r"blocks of \[1, 2, 2\] layers and start of"),
    "empty block": ((*NETWORKS, "start"), [[4], [], [16, 24]], "expected the same, none empty"),
    "warm-up into the decay": ((*TRAINING, "warmup"), 0.5, "warmup is 0.5, expected at most decay_from"),
    "no rows": (("image_classification",), {}, "image_classification is dict {}, expected a mapping with at least one"),
    "a row that is a number": (("image_classification",), {10: {}}, "image_classification has the key int 10"),
}  # fmt: skip


@pytest.mark.parametrize("place, value, message", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_refused(place: tuple[str, ...], value: Any, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "params.yaml", changed(read_yaml(ROOT / "params.yaml"), place, value))
    with pytest.raises(SettingsError, match=message) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    place = (*ROW, "training", "weight_decay")
    row = load(write(tmp_path / "p.yaml", changed(read_yaml(ROOT / "params.yaml"), place, 1))).image_classification
    # A figure's bits and a fingerprint must not depend on whether somebody wrote 1 or 1.0.
    assert repr(row["cifar10"].training.weight_decay) == "1.0"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the file is missing, expected a mapping of scale"),
        ("# nothing but words\n", "the file is missing, expected a mapping"),
        ("- 1\n", r"the file is list \[1\], expected a mapping"),
        ("scale: [1\nroot: .\n", "is not valid YAML: "),
        ("scale: a\nscale: b\n", "is not valid YAML: "),
        ("scale: \x00\n", "is not valid YAML: "),
    ],
    ids=["empty", "comment", "list", "open bracket", "key twice", "control character"],
)
def test_files_that_are_no_settings(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        load(file)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(b"scale: \xff\xfe\n")
    with pytest.raises(SettingsError, match="is not valid YAML: "):
        load(file)


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read .*--params"):
        load(tmp_path / "params.yaml")


def test_settings_are_frozen_and_become_plain_values_again(scale_file: Path) -> None:
    settings = load(scale_file)
    with pytest.raises(AttributeError):
        settings.scale = "other"  # type: ignore[misc]
    plain = as_plain(settings)
    raw = read_yaml(scale_file)
    assert plain.keys() == raw.keys()
    assert plain["execution"] == raw["execution"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--row", "nope"], "error: params.yaml: row 'nope' does not exist; the rows are cifar10"),
        (["--row", "cifar10", "--params", "nope.yaml"], "error: nope.yaml: cannot be read"),
    ],
)
def test_the_command_line_ends_in_one_message(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "stages.baseline", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(message)
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""
