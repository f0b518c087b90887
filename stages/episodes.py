"""Episodes of few-shot learning (Vinyals et al. 2016, arXiv:1606.04080): a few classes, a few drawings of each to learn
from, and others of the same classes to be recognised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from stages.data.errors import DataError
from stages.data.splits import Images


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form of an episode.

    Attributes:
        ways: classes.
        shots: drawings of a class to learn from, the support.
        queries: other drawings of a class, to be recognised.
    """

    ways: int
    shots: int
    queries: int

    @property
    def drawings(self) -> int:
        """What an episode takes of a class."""
        return self.shots + self.queries

    def parts(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Cuts what was made of the images at `Episode.rows`, one after another.

        Args:
            values: `ways * (shots + queries) x ...`.

        Returns:
            Those of the support, `ways x shots x ...`, and of the queries, `ways x queries x ...`.
        """
        support, queries = values.split([self.ways * self.shots, self.ways * self.queries])
        return support.unflatten(0, (self.ways, self.shots)), queries.unflatten(0, (self.ways, self.queries))


@dataclass(frozen=True)
class Episode:
    """Rows of a split.

    Attributes:
        support: int64, `ways x shots`; a row of it is a class.
        queries: int64, `ways x queries`, of the same classes.
    """

    support: Tensor
    queries: Tensor

    @property
    def rows(self) -> Tensor:
        """All rows, the support before the queries: int64, `ways * (shots + queries)`."""
        return torch.cat([self.support.flatten(), self.queries.flatten()])


def shortage(split: Images, class_names: Sequence[str], form: Form) -> str:
    """Why a split has no such episodes, for a message or a table; empty where it has.

    Args:
        split: with labels that number `class_names`.
        class_names: of all splits.
        form: of the episodes.
    """
    counts = torch.bincount(torch.from_numpy(split.labels), minlength=len(class_names))
    present = torch.nonzero(counts).flatten().tolist()
    if len(present) < form.ways:
        return f"{len(present)} classes, expected at least {form.ways} for {form.ways} ways"
    smallest = min(present, key=lambda label: int(counts[label]))
    found = int(counts[smallest])
    if found >= form.drawings:
        return ""
    reason = (
        f"class {class_names[smallest]} has {found} drawings, expected at least {form.drawings}, {form.shots} shots "
        f"and {form.queries} queries"
    )
    if found <= form.shots:
        reason += f": {form.shots} shots leave no query and cannot be measured on it"
    return reason


def check(split: Images, class_names: Sequence[str], form: Form, where: str) -> None:
    """Refuses a split that has no such episodes.

    Args:
        split: see `shortage`.
        class_names: see `shortage`.
        form: of the episodes.
        where: how messages call the split.

    Raises:
        DataError: it has too few classes, or a class has too few drawings.
    """
    reason = shortage(split, class_names, form)
    if reason:
        raise DataError(f"{where}: {reason}; ask for fewer, or take data that has more")


def rows_of_classes(labels: Tensor) -> list[Tensor]:
    """The rows of each class that is there, in the order of the labels (int64, `num`)."""
    return [torch.nonzero(labels == label).flatten() for label in labels.unique(sorted=True)]


def sample(classes: Sequence[Tensor], form: Form, generator: torch.Generator) -> Iterator[Episode]:
    """Draws episodes without end.

    Classes are dealt like cards: none comes again before all have come, but where an episode would hold one twice.
    So all come equally often, and an episode's classes are still as likely to be any ones as any others.

    Args:
        classes: the rows of each class, int64; at least `form.ways` of at least `form.drawings` each.
        form: of the episodes.
        generator: source of classes and drawings.
    """
    assert len(classes) >= form.ways, "see `check`"
    assert min(len(rows) for rows in classes) >= form.drawings, "see `check`"
    waiting: list[int] = []
    while True:
        if len(waiting) < form.ways:
            shuffled = torch.randperm(len(classes), generator=generator).tolist()
            # Those of the last round that still wait come first; in this round they come after this episode.
            filling = [number for number in shuffled if number not in waiting][: form.ways - len(waiting)]
            waiting += filling + [number for number in shuffled if number not in filling]
        chosen, waiting = waiting[: form.ways], waiting[form.ways :]
        drawn = [
            classes[number][torch.randperm(len(classes[number]), generator=generator)[: form.drawings]]
            for number in chosen
        ]
        rows = torch.stack(drawn)
        yield Episode(rows[:, : form.shots], rows[:, form.shots :])


def fixed(classes: Sequence[Tensor], form: Form, num: int, seed: int) -> list[Episode]:
    """The first `num` episodes of a seed: the same for every arm, seed of training and machine."""
    return list(islice(sample(classes, form, torch.Generator().manual_seed(seed)), num))
