"""The one way from settings to the checked data of few-shot learning."""

from __future__ import annotations

import os
from pathlib import Path

from stages.data import few_shot
from stages.data.few_shot import characters, folders, omniglot
from stages.data.settings import Characters, FewShotData, Omniglot
from stages.data.splits import DataSet


def load(settings: FewShotData, root: Path) -> DataSet:
    """Makes or reads a data set and checks it.

    Args:
        settings: where it comes from. An environment variable, DNM_ and the source in capitals, takes the place of its
            folder.
        root: the repository, which folders are seen from.

    Raises:
        DataError: it cannot be used.
    """
    if isinstance(settings, Characters):
        found = characters.generate(
            train=settings.train,
            validation=settings.validation,
            test=settings.test,
            drawings=settings.drawings,
            size=settings.size,
            distortion=settings.distortion,
            seed=settings.seed,
        )
        return few_shot.data_set(found)
    folder = root / (os.environ.get(f"DNM_{settings.source.upper()}") or settings.folder)
    if isinstance(settings, Omniglot):
        found = omniglot.read(
            folder,
            background=settings.background,
            evaluation=settings.evaluation,
            validation=settings.validation,
            turned=settings.turned,
            size=settings.size,
        )
        return few_shot.data_set(found)
    return few_shot.data_set(folders.read(folder, size=settings.size, per_class=settings.per_class))
