"""Reads YAML files, with the same result on a machine that lacks the usual reader.

ruamel.yaml is preferred because it reads YAML 1.2, as DVC does. PyYAML reads YAML 1.1, where `1e-3` is a
string, `017` is fifteen and `no` is false, and it lets a key stand twice; the fallback mends all of these.
"""

from __future__ import annotations

import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

_TAG = "tag:yaml.org,2002:"
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$")
_FLOAT = re.compile(
    r"^(?:[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


def read_yaml(path: Path) -> Any:
    """Returns the content of a YAML file, read as YAML 1.2.

    Raises:
        ImportError: neither ruamel.yaml nor PyYAML is installed.
        OSError: the file cannot be read.
    """
    with path.open(encoding="utf-8") as stream:
        if find_spec("ruamel") is not None and find_spec("ruamel.yaml") is not None:
            from ruamel.yaml import YAML

            with warnings.catch_warnings():
                # Of an anchor that stands twice, which YAML allows.
                warnings.simplefilter("ignore")
                # The C reader that `pure` rules out is an optional extra of ruamel.yaml and follows YAML 1.1.
                return YAML(typ="safe", pure=True).load(stream)
        if find_spec("yaml") is not None:
            return _read_with_pyyaml(stream)
    raise ImportError(f"cannot read {path}: install ruamel.yaml (or PyYAML): pip install ruamel.yaml")


def _read_with_pyyaml(stream: TextIO) -> Any:
    import yaml

    mended = (_TAG + "bool", _TAG + "int", _TAG + "float")

    class Loader(yaml.SafeLoader):
        pass

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in mended]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
        text = loader.construct_scalar(node).replace("_", "").lower()
        return int(text, 0 if text.lstrip("+-")[:2] in ("0b", "0o", "0x") else 10)

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [loader.construct_object(key) for key, _ in node.value if key.tag != _TAG + "merge"]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"found duplicate key {key!r}", node.start_mark)
        loader.flatten_mapping(node)
        return loader.construct_mapping(node, deep=True)

    # The first pattern that matches wins: an integer also fits the pattern of floats.
    Loader.add_implicit_resolver(_TAG + "bool", _BOOL, list("tTfF"))
    Loader.add_implicit_resolver(_TAG + "int", _INT, list("-+0123456789"))
    Loader.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+.0123456789"))
    Loader.add_constructor(_TAG + "int", integer)
    Loader.add_constructor(_TAG + "map", mapping)
    return yaml.load(stream, Loader=Loader)
