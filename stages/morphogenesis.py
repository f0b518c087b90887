"""Grows the start network of a row, once per seed, and trains its two controls at the same FLOPs.

`start` is never grown; `scratch` has the grown architecture from its first step. Both spend what growing spent, on the
same seed.
"""

from __future__ import annotations

import time

from stages import arms, cli, outputs, tracking


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/morphogenesis/<row>.*`."""
    started = time.perf_counter()
    with outputs.exclusive(
        context.root / "runs" / "locks" / f"morphogenesis-{context.settings.scale}-{context.row_name}"
    ):
        jobs = [arms.job(context, "dnm", seed) for seed in range(context.row.seeds)]
        grown = arms.run(context, jobs, f"dnm {context.row_name}")
        controls = [arms.job(context, arm, result["seed"], result) for result in grown for arm in ("scratch", "start")]
        results = grown + arms.run(context, controls, f"scratch and start {context.row_name}")
        results.sort(key=lambda result: (("start", "dnm", "scratch").index(result["arm"]), result["seed"]))
        arms.write(context, "morphogenesis", results, started)
        tracking.log(context, "morphogenesis")


if __name__ == "__main__":
    cli.main(main, has_row=True)
