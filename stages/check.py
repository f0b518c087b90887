"""Checks a scale's settings: the first stage, because DVC deletes what a stage writes before the stage can refuse."""

from __future__ import annotations

import argparse
from pathlib import Path

from stages import cli, outputs
from stages.schema import SettingsError
from stages.settings import load


def main() -> None:
    """Writes `metrics/<scale>/settings.json`, which never changes: the stages after this one wait for it, no more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings file of a scale")
    parser.add_argument("--scale", help="the scale that it has to be of")
    arguments = parser.parse_args()
    with cli.told(parser.prog):
        settings = load(arguments.params)
        if arguments.scale not in (None, settings.scale):
            raise SettingsError(
                f"{arguments.params}: scale is {settings.scale}, expected {arguments.scale}: the params_file beside "
                f"the dvc.yaml of {arguments.scale} names another scale's settings"
            )
        outputs.write_json(cli.ROOT / "metrics" / settings.scale / "settings.json", {"checked": True})


if __name__ == "__main__":
    main()
