"""What `dnm` raises, so that a caller can tell a model it cannot read from an edit that does not fit."""


class DnmError(Exception):
    """Base of every error of this library; the message names the object, what was found, expected and what to do."""


class GraphError(DnmError):
    """The model holds something through which the channels cannot be followed."""


class EditError(DnmError):
    """The edit does not fit the graph, or it would change what the model computes."""


class StateError(DnmError):
    """The state of an optimizer cannot follow the edit."""
