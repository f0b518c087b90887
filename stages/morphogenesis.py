"""Grows the start network of a row, once per seed, and trains its two controls at the same FLOPs.

`start` is never grown; `scratch` has the grown architecture from its first step. Both spend what growing spent, on the
same seed.
"""

from __future__ import annotations

import time

from stages import arms, cli, outputs, tracking


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/morphogenesis/<row>.*`."""
    from stages.trial import Job

    started = time.perf_counter()
    row, execution = context.row, context.settings.execution

    def job(arm: str, seed: int, **options) -> Job:
        return Job(context.row_name, row, execution, str(context.data), arm, seed, **options)

    with outputs.exclusive(
        context.root / "runs" / "locks" / f"morphogenesis-{context.settings.scale}-{context.row_name}"
    ):
        grown = arms.run(context, [job("dnm", seed) for seed in range(row.seeds)], f"dnm {context.row_name}")
        controls = []
        for result in grown:
            flops = result["figures"]["training_flops"]
            widths = tuple(tuple(block) for block in result["widths"])
            controls.append(job("scratch", result["seed"], widths=widths, flops=flops))
            controls.append(job("start", result["seed"], flops=flops))
        results = grown + arms.run(context, controls, f"scratch and start {context.row_name}")
        results.sort(key=lambda result: (("start", "dnm", "scratch").index(result["arm"]), result["seed"]))
        arms.write(context, "morphogenesis", results, started)
        tracking.log(context, "morphogenesis", results)


if __name__ == "__main__":
    cli.main(main, has_row=True)
