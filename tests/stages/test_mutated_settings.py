"""Whatever is done to a settings file: it runs, or it ends in one message before any output is touched."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from dnm.policy import THEORIES
from stages import cli, documented, prepare, settings_checks, statistics, training, trial
from stages.data import registry, splits
from stages.data.errors import DataError
from stages.data.registry import PUBLISHED
from stages.settings import Row, Settings, as_plain, load
from stages.settings_io import read_yaml
from stages.tasks import image_classification as task

ROOT = Path(__file__).resolve().parents[2]
FILES = {load(path).scale: path for path in (ROOT / "params.yaml", *sorted(ROOT.glob("scales/*/params.yaml")))}
TEXTS = {scale: path.read_text(encoding="utf-8") for scale, path in FILES.items()}
CONTENTS = {scale: read_yaml(path) for scale, path in FILES.items()}
DOCUMENT = documented.load()
ROW = "cifar10"
# The same examples on every run: a check that fails by chance is none.
EXAMPLES = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)

SCALARS = [
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 10**6, 10**9, 2**63, 10**400, 0.0, -0.0, 0.5, 1.0, 1.5, -1e-9, 1e-320,
    1e300, math.nan, math.inf, -math.inf, "", " ", "1e-4", "0,5", "yes", "no", "null", "~", "AdamW", "SGD", "adamw",
    "cuda", "gpu", "plateau", "documented", "synthetic", "digits", "cifar10", "cifar_10", "imagenet", "..", "/", "a/b",
    "x" * 2000, "a\nb", "a\tb", "\0", "\x1b[31m", "é", "\u202e", [], {}, [[]], [None], [0.1, 0.1], [0.3, 0.2], [[8]],
    [[8], [16, 16]], [[4]] * 7, {"source": "digits"}, {"source": ["digits"]}, {1: 2}, {"": 1}, [1] * 500,
]  # fmt: skip
TOKENS = [
    "nan", ".nan", ".inf", "-.inf", "1e-4", "1e5", "1e400", "1_000", "0x10", "0o17", "017", "1e", "--1", "+1", "yes",
    "Yes", "on", "null", "~", "''", '"', "'", "[", "]", "{", "}", "[1, 2", "{a: 1", "&a 1", "*a", "*unknown",
    "&a [*a]", "!!int x", "!!str 1", "!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "!!python/name:os.system x",
    "!tag 1", "2026-11-24", "2026-11-24T13:58:00Z", "12:30:45", "|", ">", "|\n  a\n  b", "%YAML 1.1", "---", "...",
    "- 1", "? a", ": 1", "a: b: c", "# nothing", "@x", "`x`", "\t1", "\x00", "\x07", "0x" + "f" * 6000, "9" * 5000,
    "\ufeff1",
]  # fmt: skip
WAYS = ("replace", "replace", "replace", "delete", "rename", "add", "swap", "nest")
DAMAGES = ("token", "token", "token", "twice", "gone", "indent", "cut", "bytes", "tail", "binary")
# A stage for each row and one over all of them.
STAGES = ((prepare, True), (statistics, False))


def places(content: Any, at: tuple = ()) -> Iterator[tuple]:
    """The place of every value below `content`."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield (*at, key)
        yield from places(value, (*at, key))


PLACES = {scale: list(places(content)) for scale, content in CONTENTS.items()}


def parent(content: Any, place: tuple) -> Any:
    for key in place[:-1]:
        content = content[key]
    return content


@st.composite
def changed_contents(draw: st.DrawFn) -> bytes:
    """A settings file of the repository with one or two values or keys changed."""
    scale = draw(st.sampled_from(sorted(CONTENTS)))
    content = copy.deepcopy(CONTENTS[scale])
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        place = draw(st.sampled_from(PLACES[scale]))
        try:
            holder = parent(content, place)
            holder[place[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # the first change took it away
        match draw(st.sampled_from(WAYS)):
            case "replace":
                holder[place[-1]] = draw(st.sampled_from(SCALARS) | st.integers() | st.floats() | st.text(max_size=20))
            case "delete":
                del holder[place[-1]]
            case "rename" if isinstance(holder, dict):
                key = place[-1]
                name = draw(st.sampled_from([key[:-1], key + "s", key.upper(), "x", "", 1, None, 2.5]))
                holder[name] = holder.pop(place[-1])
            case "add" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["bottleneck_threshold", "seed", "sources", "lr", "a\nb", "k" * 300]))] = 1
            case "swap":
                other = draw(st.sampled_from(PLACES[scale]))
                with contextlib.suppress(KeyError, IndexError, TypeError):
                    found = parent(content, other)[other[-1]]
                    # Not into itself: that is no tree.
                    if other != place[: len(other)]:
                        holder[place[-1]] = copy.deepcopy(found)
            case "nest":
                holder[place[-1]] = [{"value": holder[place[-1]]}]
    stream = io.StringIO()
    try:
        YAML(typ="safe", pure=True).dump(content, stream)
    except Exception:
        # What the writer cannot write (too long a number), JSON's writer or nobody can.
        return json.dumps(content, default=str, skipkeys=True).encode()
    return stream.getvalue().encode("utf-8", "surrogatepass")


@st.composite
def changed_texts(draw: st.DrawFn) -> bytes:
    """The text of a settings file of the repository, damaged."""
    text = TEXTS[draw(st.sampled_from(sorted(TEXTS)))]
    lines = text.splitlines(keepends=True)
    number = draw(st.integers(0, len(lines) - 1))
    head, colon, _ = lines[number].partition(":")
    match draw(st.sampled_from(DAMAGES)):
        case "token":
            lines[number] = f"{head}{colon or ':'} {draw(st.sampled_from(TOKENS))}\n"
        case "twice":
            lines.insert(draw(st.integers(0, len(lines))), lines[number])
        case "gone":
            del lines[number]
        case "indent":
            lines[number] = draw(st.sampled_from(["\t", " ", "  ", "- ", "    - "])) + lines[number]
        case "cut":
            return text.encode()[: draw(st.integers(0, len(text)))]
        case "bytes":
            content, place = text.encode(), draw(st.integers(0, len(text)))
            return content[:place] + draw(st.binary(min_size=1, max_size=8)) + content[place:]
        case "tail":
            lines = lines[number:]
        case "binary":
            return draw(st.binary(max_size=300))
    return "".join(lines).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with results of every scale, which the command line takes for the repository."""
    root = tmp_path_factory.mktemp("repository")
    for scale in FILES:
        for name in ("prepare/cifar10.json", "statistics/image_classification.json"):
            file = root / "metrics" / scale / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}\n", encoding="utf-8")
    with (
        mock.patch.object(cli, "ROOT", root),
        # Process-wide, and no part of reading settings.
        mock.patch.object(cli, "_end_with_pipeline", lambda: None),
        mock.patch.object(cli, "_demand_own_library", lambda: None),
        mock.patch.object(cli.environment, "apply", lambda execution: None),
    ):
        yield root


def tree(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def outcome(root: Path, content: bytes, stage: types.ModuleType, has_row: bool) -> cli.Context | str:
    """What the command line of a stage makes of a settings file: the context it would run in, or its message."""
    file, reached = root / "params.yaml", []
    file.write_bytes(content)
    before = tree(root)
    arguments = ["stage", "--params", str(file), *(["--row", ROW] if has_row else [])]
    said, printed = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", arguments),
        mock.patch.object(stage, "main", reached.append),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(printed),
    ):
        try:
            cli.main(stage.main, has_row=has_row)
        except SystemExit as ended:
            assert ended.code == 2
            assert reached == []
            message = said.getvalue()
            assert message.startswith(f"error: {file}: "), message
            assert message.count("\n") == 1 and message.endswith("\n"), message
            assert len(message) < 2500
    assert printed.getvalue() == ""
    assert tree(root) == before
    if not reached:
        return said.getvalue()
    assert said.getvalue() == ""
    return reached[0]


def check_that_it_would_run(found: Settings) -> None:
    """What trials and tables do with settings, as far as that needs no data."""
    json.dumps(as_plain(found), allow_nan=False)
    for row in found.documented_rows.values():
        DOCUMENT.number("image_classification", row.documented_row, "baseline")
    for entry in found.transfer.values():
        DOCUMENT.number("transfer", entry.documented_row, "improvement")
    for row in found.image_classification.values():
        samples = settings_checks.training_samples(row.data)
        total = row.training.epochs * ((50_000 if samples is None else samples) // row.training.batch_size)
        assert total > 0 or samples is None
        assert all(0.0 < time < 1.0 for time in row.dnm.event_times)
        for step in {0, total // 2, max(0, total - 1)}:
            assert 0 <= training.learning_rate(row.training, step, 1, max(1, total)) < math.inf
        check_that_its_networks_fit(row)


def check_that_its_networks_fit(row: Row) -> None:
    size = settings_checks.image_size(row.data)
    known = PUBLISHED.get(row.data.source)
    channels = known.channels if known else getattr(row.data, "channels", 3)
    parameters = []
    for widths in (row.networks.start, row.networks.baseline):
        # The meta device computes shapes alone.
        with torch.device("meta"):
            model = task.network(widths, channels, 10, torch.Generator(device="cpu"))
            assert model(torch.zeros(2, channels, size, size)).shape == (2, 10)
        parameters.append(sum(parameter.numel() for parameter in model.parameters()))
        int(row.dnm.max_parameters * parameters[-1])
    assert parameters[0] <= parameters[1]


@pytest.mark.parametrize("mutated", [changed_contents, changed_texts])
def test_it_runs_or_ends_in_one_message(repository: Path, mutated: Callable[[], st.SearchStrategy[bytes]]) -> None:
    tried: dict[bytes, bool] = {}

    @settings(EXAMPLES, max_examples=240)
    @given(content=mutated(), stage=st.sampled_from(STAGES))
    def check(content: bytes, stage: tuple[types.ModuleType, bool]) -> None:
        found = outcome(repository, content, *stage)
        tried[content] = not isinstance(found, str)
        if not isinstance(found, str):
            check_that_it_would_run(found.settings)

    check()
    # Of both ways to change a file more than 200, no two alike, and neither all refused nor hardly any.
    assert len(tried) > 100
    assert sum(tried.values()) >= 5 and sum(not runs for runs in tried.values()) >= 50


@st.composite
def extreme_rows(draw: st.DrawFn) -> dict[str, Any]:
    """A small row whose settings lie at the ends of their ranges, or in the middle."""
    classes = draw(st.sampled_from([2, 3]))
    blocks = draw(st.integers(1, 4))
    widths = [[draw(st.sampled_from([1, 2, 9])) for _ in range(draw(st.integers(1, 2)))] for _ in range(blocks)]
    times = sorted(draw(st.sets(st.sampled_from([1e-300, 0.001, 0.5, 0.9999]), max_size=3)))
    return {
        "documented_row": draw(st.sampled_from(["cifar10", "imagenet"])),
        "protocol": "tuned",
        "as_documented": False,
        "seeds": draw(st.sampled_from([2, 1000])),
        "data": {
            "source": "synthetic",
            "classes": classes,
            "size": draw(st.sampled_from([8, 9, 15])),
            "channels": draw(st.sampled_from([1, 3])),
            "train": draw(st.integers(2 * classes, 40)),
            "test": draw(st.sampled_from([1, 2, 20])),
            "difficulty": draw(st.sampled_from([0, 0.5, 1])),
            "seed": draw(st.sampled_from([0, 1, 2**63 - 1])),
            "validation": draw(st.sampled_from([0.01, 0.2, 0.5])),
        },
        "networks": {"baseline": [[width + 3 for width in block] for block in widths], "start": widths},
        "training": {
            "batch_size": draw(st.sampled_from([2, 3, 16, 33])),
            "learning_rate": draw(st.sampled_from([1e-8, 0.01, 100])),
            "optimizer": draw(st.sampled_from(["AdamW", "SGD"])),
            "weight_decay": draw(st.sampled_from([0, 0.05, 1])),
            "epochs": draw(st.sampled_from([1, 3])),
            "early_stopping": draw(st.booleans()),
            "patience": draw(st.sampled_from([1, 1_000_000])),
            "schedule": draw(st.sampled_from(["constant", "trapezoid"])),
            "warmup": draw(st.sampled_from([0.0, 0.5, 0.9])),
            "decay_from": draw(st.sampled_from([0.0, 0.5, 1.0])),
            "crop_padding": draw(st.sampled_from([0, 1, 7, 16])),
            "flip": draw(st.booleans()),
            "gradient_clipping": draw(st.sampled_from([0, 1e-9, 1e9])),
        },
        "dnm": {
            "trigger": "scheduled" if times else "plateau",
            "event_times": times,
            "bottleneck_threshold": draw(st.sampled_from([0, 0.02, 1])),
            "morphogenesis_patience": draw(st.sampled_from([1, 1_000_000])),
            "max_morphogenesis_events": draw(st.sampled_from([1, 1000])),
            "enable_aggressive_growth": draw(st.booleans()),
            "operators": draw(st.lists(st.sampled_from(("Divide", "AddResidual", "AddAttention")), unique=True)),
            "theories": draw(st.lists(st.sampled_from(THEORIES), unique=True)),
            "samples_per_parameter": draw(st.sampled_from([1e-9, 4, 1e9])),
            "caution": draw(st.sampled_from([0, 1, 1e9])),
            "grace": draw(st.sampled_from([1e-300, 0.1, 0.9999])),
            "rollback": draw(st.booleans()),
            "rewarm": draw(st.sampled_from([0, 1e-300, 0.1, 1])),
            "prune_at": draw(st.sampled_from([0, 1e-300, 0.7, 0.9999])),
            "prune_tolerance": draw(st.sampled_from([0, 0.1, 1])),
            "max_parameters": draw(st.sampled_from([0, 1.15, 1000])),
            "max_training_flops": draw(st.sampled_from([0, 1.15, 1000])),
            "probe_size": draw(st.sampled_from([2, 16, 1_000_000])),
        },
    }


def test_what_loads_at_the_ends_of_its_ranges_trains(tmp_path: Path) -> None:
    trained = 0

    @settings(EXAMPLES, max_examples=60)
    @given(row=extreme_rows())
    def check(row: dict[str, Any]) -> None:
        nonlocal trained
        file = tmp_path / "params.yaml"
        rows = CONTENTS["embedded"]["image_classification"]
        other = {**rows[ROW], "documented_row": "none"}
        content = {
            **CONTENTS["embedded"],
            "image_classification": {ROW: row, "other": other, "medical": rows["medical"]},
        }
        for section in ("ablation", "robustness", "events"):
            content[section] = {name: {**entry, "seeds": 2} for name, entry in content[section].items()}
        # Searches and transfers ask more of a row.
        content["nas"] = {"search": {**content["nas"]["search"], "row": "other"}}
        content["transfer"] = {"moved": {**content["transfer"]["medical_natural"], "target": "other"}}
        with file.open("w", encoding="utf-8") as stream:
            YAML(typ="safe", pure=True).dump(content, stream)
        try:
            found = load(file)
        except cli.SettingsError:
            return
        settings_, execution = found.image_classification[ROW], found.execution
        try:
            data = registry.load(settings_.data, tmp_path)
        except DataError as error:
            # Which is only known once they are drawn.
            assert "samples equal another one" in str(error) or "stand in an earlier split" in str(error)
            return
        splits.save(tmp_path / "data", data)
        for arm in ("baseline", "dnm"):
            # What the stage tells as one message.
            with contextlib.suppress(FloatingPointError):
                result = trial.run(trial.Job(ROW, settings_, execution, str(tmp_path / "data"), arm, 0))
                assert result["figures"]["epochs"] >= 1
        trained += 1

    check()
    assert trained >= 10


@pytest.mark.parametrize(
    "stage, change",
    [
        ("prepare", lambda text: text.replace("difficulty: 0.42", "difficulty: hard", 1)),
        ("baseline", lambda text: text.replace("learning_rate: 0.032", "learning_rat: 0.032", 1)),
        ("morphogenesis", lambda text: text.replace("trigger: scheduled", "trigger: sometimes", 1)),
        ("statistics", lambda text: text[: len(text) // 2]),
        ("report", lambda text: text.replace("scale: embedded", "scale: ../embedded", 1)),
    ],
)
def test_stages_end_before_they_touch_an_output(stage: str, change: Callable[[str], str], tmp_path: Path) -> None:
    for name in ("dnm", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "metrics" / "embedded" / stage).mkdir(parents=True)
    (tmp_path / "metrics" / "embedded" / stage / "cifar10.json").write_text("{}\n", encoding="utf-8")
    (tmp_path / "params.yaml").write_text(change(TEXTS["embedded"]), encoding="utf-8")
    before = tree(tmp_path)
    row = [] if stage in ("statistics", "report") else ["--row", ROW]
    ended = subprocess.run(
        [sys.executable, "-B", "-m", f"stages.{stage}", *row], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: params.yaml: ")
    assert len(ended.stderr.splitlines()) == 1
    assert tree(tmp_path) == before
