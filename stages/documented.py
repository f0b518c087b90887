"""The figures and claims of the benchmark document, each at its address: table, row, column.

`documented.yaml` holds them in the digits that the document prints. Nothing here says whether they hold.

    >>> documented = load()
    >>> documented.figure("image_classification", "cifar10", "improvement")
    5.1
    >>> documented.figure("events", "division", "frequency")
    Range(low=2, high=4)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from stages.settings_io import read_yaml

PATH = Path(__file__).with_name("documented.yaml")


class UnknownFigure(LookupError):
    """An address at which the document has no figure."""


class Range(NamedTuple):
    """A range or an interval, both ends included."""

    low: float
    high: float


@dataclass(frozen=True)
class Below:
    """A figure of which the document prints an upper bound alone, as in "< 0.001"."""

    bound: float


# bool stands first because it is an int too; None is a plateau that the document says there is none of.
Figure = bool | int | float | str | Range | Below | None


class Address(NamedTuple):
    """Where a figure stands."""

    table: str
    row: str
    column: str

    def __str__(self) -> str:
        return "/".join(self)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its title in the document and the unit printed behind its figures, if any."""

    title: str
    unit: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row: its title in the document and its figures by column; empty cells are left out."""

    title: str
    values: Mapping[str, Figure]


@dataclass(frozen=True, kw_only=True)
class Note:
    """What the document says beside a table, or how it prints a cell; the kinds stand in `documented.yaml`."""

    kind: str
    text: str
    row: str | None = None
    column: str | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the document; `columns` and `rows` keep its order."""

    title: str
    columns: Mapping[str, Column]
    rows: Mapping[str, Row]
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Command:
    """Shell lines that the document gives its readers."""

    purpose: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script that the document lists, and the tables (or `table/row`) that its subject covers."""

    subject: str
    covers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Documented:
    """The whole document."""

    tables: Mapping[str, Table]
    commands: Mapping[str, Command]
    scripts: Mapping[str, Script]

    def figure(self, table: str, row: str, column: str) -> Figure:
        """Returns what the document states at an address.

        Raises:
            UnknownFigure: there is no such table, row or column, or the document leaves the cell empty.
        """
        address = Address(table, row, column)
        if table not in self.tables:
            raise UnknownFigure(_unknown(address, table, "a table", self.tables))
        found = self.tables[table]
        if row not in found.rows:
            raise UnknownFigure(_unknown(address, row, f"a row of {table}", found.rows))
        if column not in found.columns:
            raise UnknownFigure(_unknown(address, column, f"a column of {table}", found.columns))
        values = found.rows[row].values
        if column not in values:
            raise UnknownFigure(
                f"no documented figure at {address}: the document leaves this cell empty. "
                f"Cells of {row} with a figure: {', '.join(values)}. Iterate over addresses() to visit only those."
            )
        return values[column]

    def number(self, table: str, row: str, column: str) -> float:
        """Returns the figure at an address as a number.

        Raises:
            UnknownFigure: as `figure`.
            TypeError: the figure is a range, a bound, a text, a switch or None.
        """
        value = self.figure(table, row, column)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(
                f"got {value!r} at {Address(table, row, column)}, expected a number: "
                "read ranges, bounds, texts and switches with figure()"
            )
        return value

    def numbers(self, table: str, column: str) -> dict[str, float]:
        """Returns the numbers of a column by row; rows with an empty cell are left out.

        Raises:
            UnknownFigure: there is no such table or column.
            TypeError: a figure of the column is no number.
        """
        if table not in self.tables:
            raise UnknownFigure(_unknown(Address(table, "*", column), table, "a table", self.tables))
        found = self.tables[table]
        if column not in found.columns:
            raise UnknownFigure(_unknown(Address(table, "*", column), column, f"a column of {table}", found.columns))
        return {row: self.number(table, row, column) for row in found.rows if column in found.rows[row].values}

    def addresses(self) -> Iterator[Address]:
        """Yields every address that holds a figure, in the order of `documented.yaml`."""
        for table_id, table in self.tables.items():
            for row_id, row in table.rows.items():
                for column_id in row.values:
                    yield Address(table_id, row_id, column_id)


def load(path: Path = PATH) -> Documented:
    """Returns the document as transcribed in a YAML file.

    Raises:
        ValueError: the file has a key that no field is for; the message names it.
    """
    return parse(read_yaml(path))


def parse(content: Mapping[str, Any]) -> Documented:
    """Returns the document from the mapping that its YAML file holds.

    Raises:
        ValueError: a key is unknown or missing; the message names it and the nearest known one.
    """
    _check_keys("documented.yaml", content, ("tables", "commands", "scripts"))
    tables = {name: _table(name, body) for name, body in content["tables"].items()}
    return Documented(
        tables=tables,
        commands={
            name: Command(purpose=body["purpose"], lines=tuple(body["lines"]))
            for name, body in content["commands"].items()
        },
        scripts={
            name: Script(subject=body["subject"], covers=tuple(body["covers"]))
            for name, body in content["scripts"].items()
        },
    )


def _table(name: str, body: Mapping[str, Any]) -> Table:
    _check_keys(name, body, ("title", "columns", "rows"), ("notes",))
    columns = {}
    for column_id, column in body["columns"].items():
        _check_keys(f"{name}/columns/{column_id}", column, ("title",), ("unit",))
        columns[column_id] = Column(**column)
    rows = {}
    for row_id, row in body["rows"].items():
        _check_keys(f"{name}/{row_id}", row, ("title", "values"))
        _check_keys(f"{name}/{row_id}/values", row["values"], (), columns)
        values = {column: _figure(Address(name, row_id, column), value) for column, value in row["values"].items()}
        rows[row_id] = Row(title=row["title"], values=values)
    notes = []
    for note in body.get("notes", ()):
        _check_keys(f"{name}/notes", note, ("kind", "text"), ("row", "column"))
        _check_keys(f"{name}/notes/row", {note["row"]} if "row" in note else (), (), rows)
        _check_keys(f"{name}/notes/column", {note["column"]} if "column" in note else (), (), columns)
        notes.append(Note(**note))
    return Table(title=body["title"], columns=columns, rows=rows, notes=tuple(notes))


def _figure(address: Address, value: Any) -> Figure:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list) and len(value) == 2:
        return Range(*value)
    if isinstance(value, Mapping) and set(value) == {"below"}:
        return Below(value["below"])
    raise ValueError(f"{address}: got {value!r}, expected a number, a text, true or false, [low, high] or {{below: x}}")


def _check_keys(place: str, keys: Iterable[str], required: Iterable[str], optional: Iterable[str] = ()) -> None:
    keys, required = list(keys), list(required)
    known = [*required, *optional]
    for key in keys:
        if key not in known:
            raise ValueError(f"{place}: unknown key {key!r}.{_nearest(key, known)} Known: {', '.join(known)}.")
    for key in required:
        if key not in keys:
            raise ValueError(f"{place}: the key {key!r} is missing; got {', '.join(keys) or 'nothing'}.")


def _unknown(address: Address, key: str, kind: str, known: Iterable[str]) -> str:
    known = list(known)
    return (
        f"no documented figure at {address}: {key!r} is not {kind}.{_nearest(key, known)} "
        f"Known: {', '.join(known)}. Use one of them, or transcribe the figure into {PATH.name}."
    )


def _nearest(key: str, known: Iterable[str]) -> str:
    matches = get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""
