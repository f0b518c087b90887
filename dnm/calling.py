"""How a model is called: the one place that knows what example inputs may be."""

from __future__ import annotations

from torch import Tensor, nn


def call(model: nn.Module, example_inputs: Tensor | tuple | dict):
    """Runs the model on `example_inputs`: a tensor, a tuple of arguments or a dict of keyword arguments."""
    if isinstance(example_inputs, dict):
        return model(**example_inputs)
    if isinstance(example_inputs, tuple):
        return model(*example_inputs)
    return model(example_inputs)
