"""Grow neural networks while they train, without changing what they compute."""

from dnm.cost import Cost, count
from dnm.edits import Divide
from dnm.engine import Event, Growth, Morphogenesis
from dnm.errors import DnmError, EditError, GraphError, StateError
from dnm.graph import Graph, Group, trace
from dnm.journal import replay
from dnm.surgery import Applied, apply

__all__ = [
    "Applied",
    "Cost",
    "Divide",
    "DnmError",
    "EditError",
    "Event",
    "Graph",
    "GraphError",
    "Group",
    "Growth",
    "Morphogenesis",
    "StateError",
    "apply",
    "count",
    "replay",
    "trace",
]
