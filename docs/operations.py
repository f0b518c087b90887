"""Writes operations.md, the table of the operations that `dnm` follows, from `dnm.rules.KINDS`.

Run it after a change of the rules: `python docs/operations.py`.
"""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

from dnm import rules

PAGE = Path(__file__).with_name("operations.md")

HEAD = """\
# Which operations are followed

`dnm.trace` reads a forward pass at ATen level and follows channels by a rule per operation. This page is made by
`docs/operations.py` from `dnm.rules.KINDS`; a test compares the two.

Names are ATen names without `aten::` and without overload. An operation that meets a channel or a parameter and is not
listed here is refused by name before anything is changed. Operations on other tensors (masks made from the inputs, say)
need no rule. [How channels are followed](graph.md) says how to teach another operation with `dnm.register_rule`.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for kind, (rule, names) in rules.KINDS.items():
        said = inspect.getdoc(rule) or ""
        listed = ", ".join(f"`{name}`" for name in sorted(names.split()))
        parts.append(
            f"## {kind[0].upper()}{kind[1:]}\n\n{said}\n\n{textwrap.fill(listed, 120, break_on_hyphens=False)}\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
