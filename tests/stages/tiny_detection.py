"""Object detection of which every trial takes a moment."""

from __future__ import annotations

import dataclasses

from stages.data.settings import Scenes
from stages.settings import Detection, DetectorForm, Networks, Rival, Row


def entry(row: Row) -> Detection:
    """An entry whose training and growth are those of a tiny row."""
    return Detection(
        documented_row="pascal_voc",
        seeds=2,
        data=Scenes(
            source="scenes", size=32, classes=3, imbalance=1.0, fewest=1, most=2, smallest=0.4, largest=0.7,
            train=24, validation=4, test=8, difficulty=0.0, seed=5,
        ),
        networks=Networks(baseline=((8,), (8,), (12, 12)), start=((4,), (4,), (8, 8))),
        detector=DetectorForm(head="fcos", pyramid=8, levels=1, convolutions=1),
        resnet=Rival(width=8, levels=1),
        training=dataclasses.replace(row.training, epochs=8, batch_size=4, crop_padding=0),
        dnm=dataclasses.replace(row.dnm, operators=("Divide", "AddResidual"), max_parameters=4.0, probe_size=8),
    )  # fmt: skip
