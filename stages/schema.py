"""Frozen dataclasses from plain values: every key known, every value of its type and in its range, or one message."""

from __future__ import annotations

import datetime
import difflib
import math
import reprlib
import types
from collections.abc import Iterable
from dataclasses import MISSING, field, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LONGEST_TEXT = 1000
# Beyond it a whole number fits no tensor's size, and far beyond it no float and no message.
LARGEST = 2**63 - 1


class SettingsError(Exception):
    """A settings file that cannot be used; the message names the file, the key, what was found and expected."""


def within(low: float, high: float = math.inf, **options: Any) -> Any:
    """A field whose number (or each of whose numbers) lies in `[low, high]`."""
    return field(metadata={"low": low, "high": high}, **options)


def build(kind: type, raw: Any, path: Path, where: str) -> Any:
    """An object of a dataclass from a mapping that a file holds at `where`.

    Raises:
        SettingsError: a key or value does not fit.
    """
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: {where or 'the file'} is {_shown(raw)}, expected a mapping of {_names(kind)}")
    known = {item.name: item for item in fields(kind)}
    for key in raw:
        if key not in known:
            near = _near(key, known)
            hint = f"; did you mean {near!r}?" if near else f"; known keys: {', '.join(known)}"
            raise SettingsError(f"{path}: {_join(where, key)} is not a setting{hint}")
    missing = [name for name, item in known.items() if name not in raw and item.default is MISSING]
    if missing:
        raise SettingsError(f"{path}: {_join(where, missing[0])} is missing; add it")
    types_ = get_type_hints(kind)
    return kind(**{
        name: _value(types_[name], raw[name], path, _join(where, name), known[name].metadata)
        for name in known
        if name in raw
    })  # fmt: skip


def _value(kind: Any, raw: Any, path: Path, where: str, limits: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(arguments, raw, path, where)
    if origin is dict:
        if not isinstance(raw, dict) or not raw:
            raise SettingsError(f"{path}: {where} is {_shown(raw)}, expected a mapping with at least one entry")
        for key in raw:
            if not isinstance(key, str):
                raise SettingsError(f"{path}: {where} has the key {_shown(key)}, expected text: write it in quotes")
        return {key: _value(arguments[1], value, path, _join(where, key), limits) for key, value in raw.items()}
    if origin is tuple:
        if not isinstance(raw, list):
            raise SettingsError(f"{path}: {where} is {_shown(raw)}, expected a list")
        return tuple(_value(arguments[0], item, path, f"{where}[{i}]", limits) for i, item in enumerate(raw))
    if origin is Literal:
        if raw not in arguments or isinstance(raw, bool):
            near = _near(raw, arguments)
            hint = f"; did you mean {near!r}?" if near else ""
            raise SettingsError(f"{path}: {where} is {_shown(raw)}, expected one of {', '.join(arguments)}{hint}")
        return raw
    if hasattr(kind, "__dataclass_fields__"):
        return build(kind, raw, path, where)
    return _scalar(kind, raw, path, where, limits)


def _union(kinds: tuple, raw: Any, path: Path, where: str) -> Any:
    """One of several dataclasses: by its source or, where they have none, by a key that the first one lacks."""
    if not all("source" in kind.__dataclass_fields__ for kind in kinds):
        found = set(raw) if isinstance(raw, dict) else set()
        own = [{item.name for item in fields(kind)} - {item.name for item in fields(kinds[0])} for kind in kinds]
        chosen = next((kind for kind, keys in zip(kinds, own, strict=True) if found & keys), kinds[0])
        return build(chosen, raw, path, where)
    sources = {name: kind for kind in kinds for name in get_args(get_type_hints(kind)["source"])}
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: {where} is {_shown(raw)}, expected a mapping with a source")
    source = raw.get("source")
    if not isinstance(source, str) or source not in sources:
        near = _near(source, sources)
        hint = f"; did you mean {near!r}?" if near else ""
        raise SettingsError(f"{path}: {where}.source is {_shown(source)}, expected one of {', '.join(sources)}{hint}")
    return build(sources[source], raw, path, where)


def _scalar(kind: type, raw: Any, path: Path, where: str, limits: Any) -> Any:
    fits = isinstance(raw, kind) or (kind is float and isinstance(raw, int))
    if not fits or (isinstance(raw, bool) and kind is not bool):
        hint = ""
        if isinstance(raw, str) and kind in (int, float):
            hint = "; YAML reads this as text: write a plain number, such as 0.0001 or 1.0e-4"
        raise SettingsError(f"{path}: {where} is {_shown(raw)}, expected {_article(kind)}{hint}")
    if isinstance(raw, str) and not (raw.isprintable() and 0 < len(raw) <= LONGEST_TEXT):
        raise SettingsError(
            f"{path}: {where} is {_shown(raw)}, expected 1 to {LONGEST_TEXT} printable characters on one line"
        )
    if isinstance(raw, int) and abs(raw) > LARGEST:
        raise SettingsError(f"{path}: {where} is {_shown(raw)}, expected one between -2^63 and 2^63")
    if limits and (raw == math.inf or not limits["low"] <= raw <= limits["high"]):
        top = limits["high"]
        high = f" and at most {top}" if top != math.inf else " and finite" if raw == math.inf else ""
        raise SettingsError(f"{path}: {where} is {raw}, expected at least {limits['low']}{high}")
    return float(raw) if kind is float else raw


def _article(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _near(found: Any, known: Iterable[str]) -> str | None:
    """The known name that is most like what was found."""
    near = difflib.get_close_matches(found[:LONGEST_TEXT], known, n=1) if isinstance(found, str) else []
    return near[0] if near else None


class _Excerpt(reprlib.Repr):
    """The start of a value on one line, in bounded time: aliases make a few lines of YAML as large as one likes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write very long ones.
        return repr(x) if abs(x) <= LARGEST else f"of {x.bit_length()} bits"

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, bool | float | bytes | datetime.date):
            return super().repr_instance(x, level)
        return f"<{type(x).__name__}>"


def _shown(raw: Any) -> str:
    return "missing" if raw is None else f"{type(raw).__name__} {_Excerpt().repr(raw)}"


def _join(where: str, key: Any) -> str:
    shown = key if isinstance(key, str) and key.isprintable() and 0 < len(key) <= 60 else _shown(key)
    return f"{where}.{shown}" if where else shown


def _names(kind: type) -> str:
    return ", ".join(item.name for item in fields(kind))
