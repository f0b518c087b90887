"""Grow and prune neural networks while they train, without changing what they compute."""

from dnm.cost import Cost, count
from dnm.detect.importance import unit_importance
from dnm.edits import AddAttention, AddResidual, Connect, Divide, Prune
from dnm.engine import Event, Growth, Morphogenesis
from dnm.errors import DnmError, EditError, GraphError, StateError
from dnm.graph import Graph, Group, trace
from dnm.journal import load, replay, save
from dnm.rules import register_rule
from dnm.surgery import Applied, apply, candidates

__all__ = [
    "AddAttention",
    "AddResidual",
    "Applied",
    "Connect",
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
    "Prune",
    "StateError",
    "apply",
    "candidates",
    "count",
    "load",
    "register_rule",
    "replay",
    "save",
    "trace",
    "unit_importance",
]
