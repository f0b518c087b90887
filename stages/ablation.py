"""Growing with parts of it left out, and growing elsewhere: what each part of DNM adds, and what its places do.

All arms train for the row's epochs, from the same start network on the same seeds as the row's `dnm`.

- `start` is never grown. `placebo` looks when DNM does, at the same cost, and may do nothing.
- `division` may divide, `connection` add residual branches as well; `full` adds gates to these, and prunes.
- `none` looks at no theory, so that no place is better than another; `information`, `ntk` and `manifold` look at that
  one and those before it; `all` looks at the expressivity bottleneck and the gradient as well. They have every
  operator: with divisions alone most groups grow at every event, whatever is looked at.
- `plateau` grows when the validation loss falls no more; `twin` splits units in two instead of adding some without
  output.
- `random` and `uniform` grow at DNM's times to its sizes, with as many branches, at places that a rule gives.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stages import arms, cli, contest, outputs, tracking
from stages.settings import OPERATORS, Ablation, Dnm

if TYPE_CHECKING:
    from stages.trial import Job

COMPONENTS = ("placebo", "division", "connection", "full")
THEORIES = ("none", "information", "ntk", "manifold", "all")
OWN = ("plateau", "twin")
ARMS = ("start", *COMPONENTS, *THEORIES, *OWN, *contest.RULES)


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/ablation/<ablation>.*`."""
    started = time.perf_counter()
    with outputs.exclusive(context.root / "runs" / "locks" / f"ablation-{context.settings.scale}-{context.name}"):
        results = arms.run(context, jobs(context, grown(context)), f"ablation {context.name}")
        results.sort(key=lambda result: (ARMS.index(result["arm"]), result["seed"]))
        arms.write(context, "ablation", results, started)
        tracking.log(context, "ablation")


def grown(context: cli.Context) -> list[dict[str, Any]]:
    """Seeds and events of the row's `dnm` trials that the ablation's seeds have."""
    journals = outputs.read_json(context.metrics / "morphogenesis" / f"{context.row_name}.journals.json")
    return [item for item in journals if item["arm"] == "dnm" and item["seed"] < context.ablation.seeds]


def jobs(context: cli.Context, of_dnm: list[dict[str, Any]]) -> list[Job]:
    """All trials, seed by seed.

    Args:
        context: of an ablation.
        of_dnm: as `grown` gives them.
    """
    found = []
    for item in of_dnm:
        seed, plan = item["seed"], contest.plan_of(item["events"])
        found.append(_job(context, "start", seed, context.row.dnm))
        for arm in (*COMPONENTS, *THEORIES, *OWN):
            found.append(_job(context, arm, seed, variant(arm, context.row.dnm, context.ablation), grown=True))
        found += [_job(context, rule, seed, context.row.dnm, grown=True, plan=plan) for rule in contest.RULES]
    return found


def variant(arm: str, dnm: Dnm, ablation: Ablation) -> Dnm:
    """How the network of an arm grows."""
    changed: dict[str, dict[str, Any]] = {
        "placebo": {"operators": ()},
        "division": {"operators": OPERATORS[:1]},
        "connection": {"operators": OPERATORS[:2]},
        "full": {"operators": OPERATORS, "prune_at": ablation.prune_at, "prune_tolerance": ablation.prune_tolerance},
        "none": {"operators": OPERATORS, "theories": ()},
        "information": {"operators": OPERATORS, "theories": ("information",)},
        "ntk": {"operators": OPERATORS, "theories": ("information", "tangent")},
        "manifold": {"operators": OPERATORS, "theories": ("information", "tangent", "manifold")},
        "all": {"operators": OPERATORS},
        "plateau": {"trigger": "plateau"},
        "twin": {"fill": "twin"},
    }
    return replace(dnm, **changed[arm])


def _job(context: cli.Context, arm: str, seed: int, dnm: Dnm, **options: Any) -> Job:
    from stages.trial import Job

    row, execution, data = replace(context.row, dnm=dnm), context.settings.execution, str(context.data)
    return Job(context.row_name, row, execution, data, arm, seed, **options)


if __name__ == "__main__":
    cli.main(main, section="ablation")
