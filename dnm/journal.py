"""Every edit taken, as data: enough to rebuild the architecture from the start network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from torch import Tensor, nn

from dnm.edits import Divide
from dnm.errors import EditError
from dnm.graph import trace
from dnm.operators import divide

OPERATORS = {"Divide": (Divide, divide)}


def entry(edit: Divide) -> dict:
    """`edit` as a mapping of plain values, for JSON."""
    values = asdict(edit)
    values["units"] = list(edit.units)
    return {"operator": type(edit).__name__, **values}


def edit(entry: dict) -> Divide:
    """The edit that a journal's entry describes.

    Raises:
        EditError: the entry names an operator or a field that does not exist.
    """
    values = dict(entry)
    operator = values.pop("operator", None)
    if operator not in OPERATORS:
        raise EditError(f"journal entry names operator {operator!r}, expected one of {sorted(OPERATORS)}")
    try:
        return OPERATORS[operator][0](**values)
    except TypeError as error:
        raise EditError(f"journal entry of {operator} does not fit: {error}") from error


def replay(start_model: nn.Module, journal: Iterable[dict], example_inputs: Tensor | tuple | dict) -> nn.Module:
    """Takes the journal's edits on `start_model`, in place.

    Returns:
        The same object, with the architecture that the journal describes.

    Raises:
        EditError: an entry does not fit; the entries before it have been taken.
    """
    for item in journal:
        change = edit(item)
        OPERATORS[type(change).__name__][1].apply(start_model, trace(start_model, example_inputs), change)
    return start_model
