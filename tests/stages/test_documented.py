"""The transcription against counts typed from the document, and against the document itself where it is at hand."""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest

import stages.documented
from stages import settings_io
from stages.documented import PATH, Address, Below, Documented, Range, UnknownFigure, load, parse
from stages.settings_io import read_yaml

DOCUMENT = Path(__file__).parents[2].parent / "shared" / "design" / "documented_benchmarks.md"

# Table: rows, columns, cells that the document leaves empty.
SHAPES = {
    "achievements": (6, 2, 4),
    "image_classification": (5, 6, 0),
    "object_detection": (3, 4, 0),
    "few_shot": (4, 4, 0),
    "language": (3, 4, 0),
    "convergence": (3, 7, 0),
    "events": (4, 3, 0),
    "ablation_components": (5, 2, 1),
    "ablation_theories": (4, 2, 0),
    "memory": (3, 3, 0),
    "inference": (3, 3, 0),
    "transfer": (3, 3, 0),
    "robustness": (4, 3, 0),
    "confidence": (3, 3, 0),
    "runs": (2, 5, 0),
    "setup": (4, 11, 30),
    "protocol": (2, 11, 11),
}

SAMPLES = {
    "achievements/accuracy_improvements/range": Range(3, 10),
    "achievements/training_efficiency/range": Range(15, 40),
    "image_classification/cifar10/training_time": -25,
    "image_classification/stl10/parameters": 18,
    "object_detection/open_images/sota": 54.7,
    "few_shot/shots_20/dnm": 87.6,
    "language/cola/transformer": 56.3,
    "convergence/imagenet/target": 70,
    "convergence/cifar100/baseline_plateau_at": 100,
    "convergence/cifar100/dnm_plateau_at": None,
    "events/division/frequency": Range(2, 4),
    "events/attention/timing": "Late training",
    "ablation_components/connection/contribution": 1.1,
    "ablation_theories/manifold/impact": 1.6,
    "ablation_theories/ntk/key_benefit": "Capacity estimation",
    "memory/imagenet/overhead": 21.4,
    "inference/cifar100/dnm": 12.1,
    "transfer/medical_to_natural/baseline": 58.4,
    "robustness/adversarial/baseline": -23.1,
    "confidence/cifar10/interval": Range(4.2, 6.0),
    "confidence/imagenet/p_value": Below(0.001),
    "runs/cifar100/std": 0.48,
    "setup/framework/cuda": "11.8",
    "setup/inference/gpu": "NVIDIA RTX 3060 (12GB)",
    "protocol/training_config/optimizer": "AdamW",
    "protocol/training_config/early_stopping": True,
    "protocol/dnm_config/max_morphogenesis_events": 5,
}

HEADINGS = {
    "Image Classification": "image_classification",
    "Object Detection": "object_detection",
    "Few-Shot Learning": "few_shot",
    "Natural Language Processing": "language",
    "Morphogenesis Event Impact": "events",
    "Component Contribution Analysis": "ablation_components",
    "Theoretical Framework Impact": "ablation_theories",
    "Memory Usage Comparison": "memory",
    "Inference Speed": "inference",
    "Domain Transfer Performance": "transfer",
    "Robustness Analysis": "robustness",
    "Confidence Intervals": "confidence",
}


@pytest.fixture(scope="module")
def documented() -> Documented:
    return load()


@pytest.fixture(scope="module")
def document() -> str:
    if not DOCUMENT.exists():
        pytest.skip("the document is not beside this checkout")
    # Its arrows were decoded once too often.
    return DOCUMENT.read_text(encoding="utf-8").replace("‚Üí", "→")


def test_shapes(documented: Documented) -> None:
    assert set(documented.tables) == set(SHAPES)
    for name, (num_rows, num_columns, num_empty) in SHAPES.items():
        table = documented.tables[name]
        num_figures = sum(address.table == name for address in documented.addresses())
        assert (len(table.rows), len(table.columns)) == (num_rows, num_columns), name
        assert num_figures == num_rows * num_columns - num_empty, name


def test_addresses_are_distinct_and_resolve(documented: Documented) -> None:
    addresses = list(documented.addresses())
    assert len(addresses) == len(set(addresses)) == 211
    for address in addresses:
        documented.figure(*address)


@pytest.mark.parametrize("address", SAMPLES)
def test_samples(documented: Documented, address: str) -> None:
    value = documented.figure(*address.split("/"))
    assert value == SAMPLES[address]
    assert type(value) is type(SAMPLES[address])


def test_samples_cover_every_table() -> None:
    assert {address.partition("/")[0] for address in SAMPLES} == set(SHAPES)


def test_claims_and_annotations(documented: Documented) -> None:
    kinds = {(name, note.kind) for name, table in documented.tables.items() for note in table.notes}
    assert kinds >= {
        ("confidence", "claim"),
        ("inference", "footnote"),
        ("few_shot", "missing_unit"),
        ("events", "qualifier"),
    }
    assert [note.row for note in documented.tables["few_shot"].notes if note.kind == "missing_unit"] == ["shots_20"]
    assert len(documented.commands) == 5
    assert len(documented.scripts) == 5


def test_scripts_cover_known_places(documented: Documented) -> None:
    for script in documented.scripts.values():
        for place in script.covers:
            table, _, row = place.partition("/")
            assert table in documented.tables
            assert not row or row in documented.tables[table].rows


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (("few_shots", "shots_1", "dnm"), ["few_shots/shots_1/dnm", "not a table", "Did you mean 'few_shot'?"]),
        (("few_shot", "shot_1", "dnm"), ["not a row of few_shot", "Did you mean 'shots_1'?", "Use one of them"]),
        (("few_shot", "shots_1", "dmn"), ["not a column of few_shot", "Did you mean 'dnm'?", "documented.yaml"]),
        (("ablation_components", "baseline", "contribution"), ["leaves this cell empty", "accuracy", "addresses()"]),
    ],
)
def test_unknown_figures_are_named(documented: Documented, address: tuple[str, str, str], words: list[str]) -> None:
    with pytest.raises(UnknownFigure) as error:
        documented.figure(*address)
    assert isinstance(error.value, LookupError)
    for word in words:
        assert word in str(error.value)


def test_only_numbers_are_numbers(documented: Documented) -> None:
    assert documented.number("events", "division", "gain") == 3.2
    assert documented.numbers("ablation_components", "contribution").keys() == {
        "detection",
        "division",
        "connection",
        "full",
    }
    for address in (
        Address("events", "division", "frequency"),
        Address("protocol", "training_config", "early_stopping"),
        Address("convergence", "cifar10", "dnm_plateau_at"),
    ):
        with pytest.raises(TypeError, match=f"{address}, expected a number"):
            documented.number(*address)
    with pytest.raises(UnknownFigure, match="Did you mean 'memory'"):
        documented.numbers("memry", "dnm")
    with pytest.raises(UnknownFigure, match="Did you mean 'overhead'"):
        documented.numbers("memory", "overheads")


def test_unknown_keys_are_refused() -> None:
    original = read_yaml(PATH)
    content = deepcopy(original)
    content["tables"]["memory"]["rows"]["cifar10"]["values"]["overheads"] = 1
    with pytest.raises(ValueError, match=r"memory/cifar10/values: unknown key 'overheads'\. Did you mean 'overhead'"):
        parse(content)
    content = deepcopy(original)
    content["tables"]["few_shot"]["notes"][1]["row"] = "shots_2"
    with pytest.raises(ValueError, match="few_shot/notes/row: unknown key 'shots_2'"):
        parse(content)
    content = deepcopy(original)
    content["tables"]["memory"]["rows"]["cifar10"]["values"]["dnm"] = [1, 2, 3]
    with pytest.raises(ValueError, match=r"memory/cifar10/dnm: got \[1, 2, 3\], expected"):
        parse(content)
    del content["scripts"]
    with pytest.raises(ValueError, match="the key 'scripts' is missing"):
        parse(content)


def test_examples() -> None:
    assert doctest.testmod(stages.documented).failed == 0


def _tables(text: str) -> Iterator[tuple[str, list[list[str]]]]:
    heading, lines = "", []
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
        if line.startswith("|"):
            lines.append([cell.strip().replace("**", "") for cell in line.strip().strip("|").split("|")])
        elif lines:
            del lines[1]
            yield heading, lines
            lines = []


def _cell(text: str) -> object:
    """Reads a cell: a number, a pair for a range, the bound of "< x", the text otherwise, None for a dash."""
    if text == "-":
        return None
    if found := re.fullmatch(r"< ([\d.]+)", text):
        return Below(float(found[1]))
    if found := re.fullmatch(r"\[([\d.]+)%, ([\d.]+)%\]", text):
        return (float(found[1]), float(found[2]))
    if found := re.fullmatch(r"(\d+)-(\d+) per training", text):
        return (int(found[1]), int(found[2]))
    if found := re.fullmatch(r"([+-]?[\d.]+)(%|GB)?( \(\w+\))?", text):
        return float(found[1])
    return text


def test_every_table_of_the_document_is_transcribed(document: str) -> None:
    assert {heading for heading, _ in _tables(document)} == HEADINGS.keys()


@pytest.mark.parametrize("heading", HEADINGS)
def test_cells_equal_the_document(documented: Documented, document: str, heading: str) -> None:
    name = HEADINGS[heading]
    grid = dict(_tables(document))[heading]
    if name == "memory":
        grid = [list(line) for line in zip(*grid, strict=True)]
    table = documented.tables[name]
    assert [column.title for column in table.columns.values()] == grid[0][1:]
    assert [row.title for row in table.rows.values()] == [line[0] for line in grid[1:]]
    num_figures = 0
    for (row_id, row), line in zip(table.rows.items(), grid[1:], strict=True):
        for (column_id, column), text in zip(table.columns.items(), line[1:], strict=True):
            expected = _cell(text)
            assert row.values.get(column_id) == expected, (row_id, column_id)
            num_figures += expected is not None
            marked = any(
                note.kind == "missing_unit" and (note.row, note.column) == (row_id, column_id) for note in table.notes
            )
            if expected is not None and column.unit is not None:
                assert (column.unit in text) != marked, (row_id, column_id)
    assert num_figures == sum(address.table == name for address in documented.addresses())


def _assignments(document: str) -> dict[str, dict[str, dict]]:
    found = {}
    for block in re.findall(r"```python\n(.*?)```", document, re.DOTALL):
        for statement in ast.parse(block).body:
            assert isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
            found[statement.targets[0].id] = ast.literal_eval(statement.value)
    return found


def test_code_blocks_equal_the_document(documented: Documented, document: str) -> None:
    blocks = _assignments(document)
    for name in ("training_config", "dnm_config"):
        assert documented.tables["protocol"].rows[name].values == blocks[name]
    runs = documented.tables["runs"].rows.values()
    assert {row.title: row.values for row in runs} == blocks["runs_analysis"]
    for row in documented.tables["convergence"].rows.values():
        for arm, block in (("baseline", "traditional_convergence"), ("dnm", "dnm_convergence")):
            stated = blocks[block][row.title]
            assert stated == {
                f"epochs_to_{row.values['target']}%": row.values[f"{arm}_epochs_to_target"],
                "final_accuracy": row.values[f"{arm}_final_accuracy"],
                "plateau_at": row.values[f"{arm}_plateau_at"],
            }


def test_setup_and_commands_equal_the_document(documented: Documented, document: str) -> None:
    setup = documented.tables["setup"]
    entries = re.findall(r"^  - (\w+): (.+?)\s*$", document, re.MULTILINE)
    assert entries == [
        (setup.columns[column].title, value) for row in setup.rows.values() for column, value in row.values.items()
    ]
    (shell,) = re.findall(r"```bash\n(.*?)```", document, re.DOTALL)
    lines = [line for line in shell.splitlines() if line and not line.startswith("#")]
    assert lines == [line for command in documented.commands.values() for line in command.lines]
    listed = re.findall(r"^- `(\w+\.py)` - (.+?)\s*$", document, re.MULTILINE)
    assert listed == [(name, script.subject) for name, script in documented.scripts.items()]
    ranges = re.findall(r"^- \*\*(.+?)\*\*: (\d+)-(\d+)%", document, re.MULTILINE)
    assert [(title, Range(int(low), int(high))) for title, low, high in ranges] == [
        (row.title, row.values["range"])
        for row in documented.tables["achievements"].rows.values()
        if "range" in row.values
    ]


def _without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    monkeypatch.setattr(settings_io, "find_spec", lambda name: None if name in missing else object())


def test_both_readers_agree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    pytest.importorskip("ruamel.yaml")
    scalars = ["1e-3", "1e5", "12e03", "1.", ".5", "-.5", "+5", "1_000", "017", "-017", "08", "0o17", "0x1F", "0b11"]
    scalars += ["yes", "no", "on", "off", "true", "False", "null", "~", "1:30"]
    path = tmp_path / "scalars.yaml"
    path.write_text("base: &base {a: 1, b: 2}\nmerged: {<<: *base, b: 3}\n")
    with path.open("a") as stream:
        stream.writelines(f"- {scalar}\n" if place else f"list:\n- {scalar}\n" for place, scalar in enumerate(scalars))
    expected, expected_document = read_yaml(path), read_yaml(PATH)
    assert expected["list"][0] == 0.001
    _without(monkeypatch, "ruamel")
    found = read_yaml(path)
    assert found == expected
    assert [type(value) for value in found["list"]] == [type(value) for value in expected["list"]]
    assert read_yaml(PATH) == expected_document


@pytest.mark.parametrize("missing", ["ruamel", "yaml"])
def test_both_readers_refuse_a_key_that_stands_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    pytest.importorskip("yaml")
    pytest.importorskip("ruamel.yaml")
    path = tmp_path / "twice.yaml"
    path.write_text("a: 1\na: 2\n")
    _without(monkeypatch, missing)
    with pytest.raises(Exception, match="found duplicate key"):
        read_yaml(path)


def test_no_reader_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _without(monkeypatch, "ruamel", "yaml")
    with pytest.raises(ImportError, match="install ruamel.yaml"):
        read_yaml(PATH)
