"""The README's figures are those of the committed tables, and its example prints what it says."""

import csv
import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("scale", ["embedded", "workstation"])
def test_results_are_the_tables(scale):
    with (ROOT / f"metrics/{scale}/tables/image_classification.csv").open(newline="") as stream:
        cells = {row["column"]: row for row in csv.DictReader(stream) if row["row"] == "cifar10"}
    for column, sign in (("baseline", ""), ("dnm", ""), ("start", ""), ("scratch", ""), ("improvement", "+"),
                         ("training_time", "+"), ("parameters", "+")):  # fmt: skip
        value, low, high = (float(cells[column][key]) for key in ("measured", "low", "high"))
        unit = "" if sign else "%"
        assert f"| {value:{sign}.2f}{unit} [{low:{sign}.2f}, {high:{sign}.2f}] |" in README, column
        if sign:
            assert f"{value:+.2f} [{low:+.2f}, {high:+.2f}] | **{cells[column]['verdict']}** |" in README, column


def test_the_other_rows_are_the_tables():
    rows: dict[str, dict[str, dict[str, str]]] = {}
    with (ROOT / "metrics/embedded/tables/image_classification.csv").open(newline="") as stream:
        for cell in csv.DictReader(stream):
            rows.setdefault(cell["row"], {})[cell["column"]] = cell
    for name, cells in rows.items():
        if name == "cifar10":
            continue
        said = []
        for column in ("baseline", "dnm", "improvement", "start", "scratch"):
            sign, unit = ("+", "") if column == "improvement" else ("", "%")
            value, low, high = (float(cells[column][key]) for key in ("measured", "low", "high"))
            said.append(f"{value:{sign}.2f}{unit} [{low:{sign}.2f}, {high:{sign}.2f}]")
        said.insert(3, f"**{cells['improvement']['verdict']}**")
        assert f"| {' | '.join(said)} |" in README, name


FIGURE = re.compile(r"([+-]?\d+(?:\.\d+)?)[%a-z ]* \[([+-]?\d+(?:\.\d+)?), ([+-]?\d+(?:\.\d+)?)\]")


def test_every_figure_with_an_interval_is_one_of_a_committed_table():
    known = []
    for file in ROOT.glob("metrics/*/tables/*.csv"):
        with file.open(newline="") as stream:
            for row in csv.DictReader(stream):
                if row.get("low") and row.get("measured"):
                    known.append([float(row[key]) for key in ("measured", "low", "high")])
    for file in ROOT.glob("metrics/*/tables/*.md"):
        text = re.sub(r"\| \[", "[", file.read_text(encoding="utf-8"))
        known += [list(map(float, found)) for found in FIGURE.findall(text)]
    results = README[README.index("## Results") : README.index("## Growing a model of your own")]
    said = FIGURE.findall(results)
    assert len(said) > 50
    for figures in said:
        steps = [0.5001 * 10.0 ** -len(figure.partition(".")[2]) for figure in figures]
        assert any(
            all(abs(float(figure) - value) <= step for figure, value, step in zip(figures, values, steps, strict=True))
            for values in known
        ), figures


def test_the_verdicts_are_counted():
    with (ROOT / "metrics/embedded/tables/verdicts.csv").open(newline="") as stream:
        verdicts = [row["verdict"] for row in csv.DictReader(stream)]
    count = verdicts.count
    said = re.search(
        r"of (\d+) claims (\d+) are reproduced, of (\d+) the direction only, (\d+) are not reproduced, "
        r"(\d+) are contradicted, (\d+) are not measured",
        " ".join(README.split()),
    )
    assert said is not None
    assert [int(number) for number in said.groups()] == [
        len(verdicts),
        *(count(name) for name in ("reproduced", "direction only", "not reproduced", "contradicted")),
        count("not measured at this scale"),
    ]


def test_the_example_prints_what_it_says():
    code, printed = re.search(r"```python\n(.*?)```\s+prints\s+```\n(.*?)```", README, re.S).groups()
    stream = io.StringIO()
    torch.manual_seed(0)
    with redirect_stdout(stream):
        exec(code, {})
    # The size of a rounding error is the machine's own.
    number = re.compile(r"tensor\(([^,]*),")
    assert float(number.search(stream.getvalue())[1]) < 1e-6
    assert number.sub("tensor(", stream.getvalue()) == number.sub("tensor(", printed)


def test_every_place_it_names_exists():
    for place in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / place).exists(), place
