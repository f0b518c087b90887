"""Starts MLflow's UI on this machine, or says where it is, and prints links to the views that are worth opening."""

from __future__ import annotations

import argparse
import os
import sys

from stages import tracking, views
from stages.cli import ROOT


def main() -> None:
    """Serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000)
    arguments = parser.parse_args()
    if not tracking.is_installed():
        print("error: mlflow is not installed; `make env` installs it", file=sys.stderr)
        raise SystemExit(2)
    where = tracking.uri(ROOT)
    is_server = where.startswith("http")
    server = where if is_server else f"http://127.0.0.1:{arguments.port}"
    for name, experiment in tracking.experiments(ROOT).items():
        for view, link in views.links(server, experiment).items():
            print(f"{name} {view}: {link}")
    if is_server:
        return
    print("Ctrl-C ends it", flush=True)
    # Its processes for jobs, of which there are none here, take most of the time to start and a minute to end.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    command = ["-m", "mlflow", "ui", "--workers", "1", "--port", str(arguments.port), "--backend-store-uri", where]
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main()
