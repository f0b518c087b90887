"""The ranking as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.ranking_statistics import TITLES
from stages.tables import markdown

ABOUT = """\
Start networks are trained for a while and looked at. Each is then trained on from that state with every edit that \
could be made and with none, on the same batches, the learning rate falling to zero; what an edit gains is the \
validation loss without it minus the loss with it. Correlations are Spearman's, of ranks within each state, with 95% \
bootstrap intervals over the candidates."""


def page(rankings: Mapping[str, Mapping[str, Any]], sources: Mapping[str, str]) -> str:
    """The rankings as Markdown.

    Args:
        rankings: what `stages.ranking` left, by name.
        sources: what each row was measured on.
    """
    parts = ["# Ranking quality", "", ABOUT]
    for name, found in rankings.items():
        parts += ["", f"## {name}: {found['row']}, measured on {sources[found['row']]}", ""]
        parts += [
            f"{found['candidates']} candidates in {found['states']} states, {found['continuations']} continuations of "
            f"{found['steps']} steps each. Two continuations of one candidate agree with a rank correlation of "
            f"{found['reliability']['one']:.2f}, means of all with {found['reliability']['mean']:.2f} "
            f"(Spearman-Brown): no ranking can be expected above {found['ceiling']:.2f}.",
            "",
        ]
        lines = []
        for ranking, values in sorted(found["rankings"].items(), key=lambda item: -item[1]["spearman"]):
            interval = f"[{values['low']:+.2f}, {values['high']:+.2f}]"
            title = TITLES.get(ranking, f"the covariate of the theory {ranking} alone")
            lines.append([ranking, f"{values['spearman']:+.2f}", interval, title])
        parts += markdown(["ranking", "Spearman", "95% CI", "what it is"], lines)
        parts += ["", "Mean realised gain by operator, nats, one figure a state:", ""]
        gains = [[operator, ", ".join(f"{gain:+.4f}" for gain in of)] for operator, of in found["gains"].items()]
        parts += markdown(["operator", "gains"], gains)
    return "\n".join([*parts, ""])
