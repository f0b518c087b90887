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


def few(example_inputs, num: int = 4):
    """The first samples; of two, a batch norm of a map of one position would divide by next to nothing."""
    if isinstance(example_inputs, dict):
        return {key: few(value, num) for key, value in example_inputs.items()}
    if isinstance(example_inputs, tuple):
        return tuple(few(value, num) for value in example_inputs)
    return example_inputs[:num] if isinstance(example_inputs, Tensor) and example_inputs.dim() else example_inputs
