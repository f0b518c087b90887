"""Trains the fixed baseline network of a row, once per seed."""

from __future__ import annotations

import time

from stages import arms, cli, outputs, tracking


def main(context: cli.Context) -> None:
    """Writes `metrics/<scale>/baseline/<row>.*`."""
    from stages.trial import Job

    started = time.perf_counter()
    row = context.row
    jobs = [
        Job(context.row_name, row, context.settings.execution, str(context.data), "baseline", seed)
        for seed in range(row.seeds)
    ]
    with outputs.exclusive(context.root / "runs" / "locks" / f"baseline-{context.settings.scale}-{context.row_name}"):
        results = arms.run(context, jobs, f"baseline {context.row_name}")
        arms.write(context, "baseline", results, started)
        tracking.log(context, "baseline", results)


if __name__ == "__main__":
    cli.main(main, has_row=True)
