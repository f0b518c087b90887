"""Episodes: what they are drawn from, how often, and when there are none."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest
import torch

from stages import episodes
from stages.data.errors import DataError
from stages.data.splits import Images
from stages.episodes import Episode, Form

FORM = Form(ways=3, shots=2, queries=4)


def classes(*sizes: int) -> list[torch.Tensor]:
    """The rows of classes of such sizes, which lie mixed in their split."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return episodes.rows_of_classes(labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))])


def draw(of: list[torch.Tensor], form: Form, num: int, seed: int = 0) -> list[Episode]:
    return list(islice(episodes.sample(of, form, torch.Generator().manual_seed(seed)), num))


def split(*sizes: int, first: int = 0) -> Images:
    labels = np.repeat(np.arange(first, first + len(sizes)), sizes)
    return Images(np.zeros((len(labels), 8, 8, 1), np.uint8), labels)


def classes_of(episode: Episode, of: list[torch.Tensor]) -> list[int]:
    """The class of each way, having checked that all its drawings are of that class."""
    found = []
    for support, queries in zip(episode.support, episode.queries, strict=True):
        rows = {*support.tolist(), *queries.tolist()}
        (label,) = [number for number, one in enumerate(of) if rows <= set(one.tolist())]
        found.append(label)
    return found


def test_rows_of_classes_are_in_the_order_of_the_labels() -> None:
    found = episodes.rows_of_classes(torch.tensor([7, 3, 7, 5, 3]))
    assert [rows.tolist() for rows in found] == [[1, 4], [3], [0, 2]]


def test_support_and_queries_are_other_drawings_of_the_same_classes() -> None:
    of = classes(9, 6, 12, 7, 8)
    for episode in draw(of, FORM, 200):
        assert episode.support.shape == (3, 2)
        assert episode.queries.shape == (3, 4)
        assert len(set(episode.rows.tolist())) == 18
        assert len(set(classes_of(episode, of))) == 3


@pytest.mark.parametrize(("num", "ways"), [(7, 5), (5, 5), (6, 4), (10, 2), (11, 3)])
def test_every_class_comes_equally_often(num: int, ways: int) -> None:
    of = classes(*[6] * num)
    counts = Counter[int]()
    for number, episode in enumerate(draw(of, Form(ways=ways, shots=2, queries=4), 20 * num), 1):
        counts.update(classes_of(episode, of))
        assert max(counts.values()) - min(counts[label] for label in range(num)) <= 1
        assert counts.total() == ways * number
    assert set(counts.values()) == {20 * ways}


def test_any_classes_come_together_as_often_as_others() -> None:
    of, num = classes(*[2] * 6), 4000
    pairs = Counter[tuple[int, int]]()
    for episode in draw(of, Form(ways=4, shots=1, queries=1), num):
        pairs.update(combinations(sorted(classes_of(episode, of)), 2))
    # Each of the 15 pairs is in an episode with probability 6/15.
    expected, deviation = 0.4 * num, (num * 0.4 * 0.6) ** 0.5
    assert len(pairs) == 15
    assert all(abs(found - expected) < 4 * deviation for found in pairs.values()), pairs


def test_every_drawing_comes_equally_often_on_average() -> None:
    of, num = classes(5, 5, 5), 3000
    support, queries = Counter[int](), Counter[int]()
    for episode in draw(of, Form(ways=3, shots=1, queries=3), num):
        support.update(episode.support.flatten().tolist())
        queries.update(episode.queries.flatten().tolist())
    for counts, chance in ((support, 1 / 5), (queries, 3 / 5)):
        deviation = (num * chance * (1 - chance)) ** 0.5
        assert all(abs(counts[row] - num * chance) < 4.5 * deviation for row in range(15)), counts


def test_fixed_episodes_are_those_of_their_seed() -> None:
    of = classes(9, 6, 12, 7, 8)
    first, again, fewer, other = (
        torch.stack([episode.rows for episode in episodes.fixed(of, FORM, num, seed)])
        for num, seed in ((30, 1), (30, 1), (10, 1), (30, 2))
    )
    assert torch.equal(first, again)
    assert torch.equal(first[:10], fewer)
    assert not torch.equal(first, other)


def test_fixed_episodes_are_those_that_results_were_measured_on() -> None:
    of = episodes.rows_of_classes(torch.arange(6).repeat_interleave(10))
    (episode,) = episodes.fixed(of, Form(ways=3, shots=1, queries=2), 1, 0)
    assert episode.rows.tolist() == [29, 58, 34, 28, 20, 53, 52, 39, 33]


def test_parts_are_those_of_the_rows() -> None:
    of = classes(9, 6, 12, 7, 8)
    (episode,) = draw(of, FORM, 1)
    values = torch.arange(42.0)[:, None] * torch.tensor([1.0, 10.0])
    support, queries = FORM.parts(values[episode.rows])
    assert torch.equal(support, values[episode.support])
    assert torch.equal(queries, values[episode.queries])


def test_a_class_that_just_has_enough_is_taken() -> None:
    of = [*classes(6, 6), torch.arange(6)]
    assert len(draw(of, FORM, 5)) == 5
    names = ["a", "b", "c"]
    assert episodes.shortage(split(6, 9, 6), names, FORM) == ""
    episodes.check(split(6, 9, 6), names, FORM, "some data")


def test_a_class_with_too_few_drawings_is_named() -> None:
    message = "^some data: class c has 5 drawings, expected at least 6, 2 shots and 4 queries; ask for fewer, or take"
    with pytest.raises(DataError, match=message):
        episodes.check(split(8, 7, 5, first=0), ["a", "b", "c"], FORM, "some data")


def test_labels_of_other_splits_do_not_count() -> None:
    with pytest.raises(DataError, match="class d has 5 drawings"):
        episodes.check(split(8, 5, 7, first=2), ["a", "b", "c", "d", "e"], FORM, "some data")


@pytest.mark.parametrize("shots", [20, 25])
def test_twenty_shots_cannot_be_measured_on_twenty_drawings(shots: int) -> None:
    message = (
        f"^Omniglot: class a has 20 drawings, expected at least {shots + 15}, {shots} shots and 15 queries: "
        f"{shots} shots leave no query and cannot be measured on it; ask for fewer"
    )
    with pytest.raises(DataError, match=message):
        episodes.check(split(*[20] * 5), list("abcde"), Form(ways=5, shots=shots, queries=15), "Omniglot")
    reason = episodes.shortage(split(*[20] * 5), list("abcde"), Form(ways=5, shots=19, queries=15))
    assert "cannot be measured" not in reason


def test_too_few_classes_are_told() -> None:
    with pytest.raises(DataError, match="^some data: 2 classes, expected at least 3 for 3 ways; ask for fewer"):
        episodes.check(split(8, 8, first=1), ["a", "b", "c", "d"], FORM, "some data")
