"""The three rows of generated scenes, with few scenes each."""

from __future__ import annotations

from typing import Any

from stages.data.detection.scenes import Scenes

ROWS: dict[str, dict[str, Any]] = {
    "many_small": {"classes": 6, "imbalance": 1.0, "fewest": 3, "most": 6, "smallest": 0.14, "largest": 0.24},
    "few_large": {"classes": 8, "imbalance": 1.0, "fewest": 1, "most": 2, "smallest": 0.4, "largest": 0.7},
    "long_tail": {"classes": 20, "imbalance": 20.0, "fewest": 1, "most": 5, "smallest": 0.2, "largest": 0.42},
}


def settings(row: str, **changes: Any) -> Scenes:
    """Settings of a row."""
    few = {"size": 64, "train": 12, "validation": 6, "test": 8, "difficulty": 0.3, "seed": 0}
    return Scenes(source="scenes", **(ROWS[row] | few | changes))
