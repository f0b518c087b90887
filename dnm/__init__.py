"""Grow and prune neural networks while they train, without changing what they compute."""

from dnm.cost import Cost, count
from dnm.detect.importance import unit_importance
from dnm.edits import AddAttention, AddResidual, Connect, Divide, Prune
from dnm.errors import DnmError, EditError, GraphError, StateError
from dnm.events import Event
from dnm.graph import Graph, Group, trace
from dnm.journal import load, replay, save
from dnm.morphogenesis import Morphogenesis
from dnm.policy import Budget, Policy
from dnm.rules import register_rule
from dnm.surgery import Applied, apply, candidates

__all__ = [
    "AddAttention",
    "AddResidual",
    "Applied",
    "Budget",
    "Connect",
    "Cost",
    "Divide",
    "DnmError",
    "EditError",
    "Event",
    "Graph",
    "GraphError",
    "Group",
    "Morphogenesis",
    "Policy",
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
