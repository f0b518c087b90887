"""Few-shot learning of which every trial takes a moment."""

from __future__ import annotations

import dataclasses

from stages.data.settings import Characters
from stages.settings import Dnm, FewShot, Maml, MetaEpisodes, Networks, Row, SupportAlone


def entry(row: Row) -> FewShot:
    """An entry whose training and growth are those of a tiny row; fewer episodes than settings may have."""
    dnm: Dnm = dataclasses.replace(row.dnm, operators=("Divide", "AddResidual"), max_parameters=4.0)
    return FewShot(
        seeds=2,
        data=Characters(
            source="characters", train=8, validation=4, test=5, drawings=24, size=8, distortion=0.3, seed=3
        ),
        networks=Networks(baseline=((8,), (12,)), start=((4,), (12,))),
        ways=3,
        queries=3,
        episodes=24,
        validation_episodes=6,
        meta=MetaEpisodes(ways=4, shots=3, queries=2),
        training=dataclasses.replace(row.training, epochs=4, crop_padding=1),
        maml=Maml(steps=1, rate=0.2, second_order=True, learning_rate=0.01),
        support_alone=SupportAlone(steps=3, learning_rate=0.01),
        dnm=dnm,
    )  # fmt: skip
