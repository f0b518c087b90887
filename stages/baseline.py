"""Trains the fixed baseline network of a row, once per seed."""

from __future__ import annotations

import time

from stages import arms, cli, outputs, tracking


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/baseline/<row>.*`."""
    started = time.perf_counter()
    jobs = [arms.job(context, "baseline", seed) for seed in range(context.row.seeds)]
    with outputs.exclusive(context.root / "runs" / "locks" / f"baseline-{context.settings.scale}-{context.row_name}"):
        results = arms.run(context, jobs, f"baseline {context.row_name}")
        arms.write(context, "baseline", results, started)
        tracking.log(context, "baseline")


if __name__ == "__main__":
    cli.main(main, has_row=True)
