"""Figures have the same bytes every time, and groups stand in the order of the network."""

from __future__ import annotations

from stages import figures, timelines


def test_the_same_bytes() -> None:
    def drawn() -> bytes:
        drawing = figures.blank()
        drawing.subplots().plot([0, 1], [1, 0], label="a line")
        return figures.svg(drawing)

    assert drawn() == drawn() and b"<svg" in drawn() and b"dc:date" not in drawn()


def test_groups_of_a_timeline_are_sorted_by_the_numbers_in_their_names() -> None:
    grown = {"start_widths": {"0": 8, "10": 16, "3": 8, "21.branch.0": 4}, "events": []}
    curve = [{"step": 10, "train_loss": 1.0, "validation_loss": 1.0}]
    drawing = timelines.figure(grown, curve, 8)
    (legend,) = drawing.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0", "3", "10", "21.branch.0"]
