"""Grows an encoder as its settings say, and names what it has become, so that it can be built again.

What is grown is the width of feed-forward layers, heads, and residual branches behind attention, feed-forward layers
and the last norm; the width of a token's state stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from dnm import AddResidual, Budget, Morphogenesis, Policy, count
from dnm.operators import branch
from stages.growing import EngineGrower
from stages.language_models import Block
from stages.language_training import Texts, example, loss_of
from stages.settings import Dnm
from stages.training import Length

# Heads and width inside the feed-forward layer, per block.
Blocks = tuple[tuple[int, int], ...]
# Operator, path of the layer behind which the branch stands, and its inner width.
Branch = tuple[str, str, int]
# The width of a token's state; and branches where they would add to positions, to scores or inside a layer. Behind
# queries they stay possible: heads have the same name.
EXCLUDED = ("table", "positions", "sides", "out", "*.key", "*.value", "*.feed_forward.1")
# Of `dnm.Policy` and of the settings alike.
_SAME = (
    "trigger", "event_times", "bottleneck_threshold", "morphogenesis_patience", "max_morphogenesis_events",
    "enable_aggressive_growth", "operators", "theories", "fill", "samples_per_parameter", "caution", "grace",
    "rollback", "rewarm", "prune_tolerance",
)  # fmt: skip


def grower_of(
    dnm: Dnm,
    reference: nn.Module,
    texts: Texts,
    kind: str,
    length: Length,
    seed: int,
    excluded: tuple[str, ...] = EXCLUDED,
) -> Callable[[nn.Module, torch.optim.Optimizer], EngineGrower]:
    """What makes the grower of a trial, once there are a network and its optimizer.

    Args:
        dnm: how it grows.
        reference: the fixed encoder, which the limits are relative to.
        texts: of which the first ones are looked at.
        kind: see `stages.language_training.loss_of`.
        length: of the run.
        seed: of what is drawn.
        excluded: places that do not grow.
    """
    probe, labels = texts.batch(torch.arange(min(dnm.probe_size, len(texts))))
    cost = count(reference, example(probe.shape[1]))
    # What a layer's information is about: the class, or whether there is an answer.
    classes = {"classes": labels, "spans": (labels > 0).any(-1).long(), "numbers": None}[kind]
    policy = Policy(
        **{name: getattr(dnm, name) for name in _SAME},
        excluded=excluded,
        prune_at=dnm.prune_at or None,
        max_parameters=max(1, int(dnm.max_parameters * cost.parameters)),
        max_training_flops=max(1, int(dnm.max_training_flops * cost.training)),
        seed=seed,
    )

    def make(model: nn.Module, optimizer: torch.optim.Optimizer) -> EngineGrower:
        engine = Morphogenesis(
            model,
            optimizer,
            probe,
            lambda: loss_of(kind, model(probe), probe, labels),
            budget=Budget(steps=length.steps, flops=length.flops),
            policy=policy,
            labels=classes,
        )
        return EngineGrower(engine)

    return make


def blocks_of(model: nn.Module) -> Blocks:
    """Heads and feed-forward width of each block of an encoder, branches aside."""
    found = []
    for block in model.modules():
        if isinstance(block, Block):
            heads = _linear(block.attention.query).out_features // block.attention.head_size
            found.append((heads, _linear(block.feed_forward[0]).out_features))
    return tuple(found)


def branches_of(model: nn.Module) -> list[Branch]:
    """The branches of an encoder, those behind one layer in the order in which the data passes them."""
    found: list[Branch] = []
    wrapped: set[nn.Module] = set()
    for path, module in model.named_modules():
        own: list[Branch] = []
        while isinstance(module, branch.Residual) and module not in wrapped:
            wrapped.add(module)
            own.insert(0, ("AddResidual", path, module.inner))
            module = module.layer
        found += own
    return found


def put_in(model: nn.Module, branches: Iterable[Branch], seed: int) -> None:
    """Puts branches into an encoder, initialised as growth initialises them: the identity at first.

    Args:
        model: made by `stages.language_models.encoder`.
        branches: what `branches_of` gave.
        seed: of their weights.
    """
    for number, (_, at, inner) in enumerate(branches):
        parent, _, name = at.rpartition(".")
        layer = model.get_submodule(at)
        # Of what the layer gives, `num x length x channels`.
        plan = {"channels": _channels(layer), "dimension": 2, "num_dimensions": 3}
        wrapper, _ = branch.wrapped(layer, AddResidual(at), plan, inner, seed=1000 * seed + number)
        setattr(model.get_submodule(parent), name, wrapper)


def _channels(layer: nn.Module) -> int:
    inside = _inside(layer)
    return inside.normalized_shape[0] if isinstance(inside, nn.LayerNorm) else _linear(inside).out_features


def _linear(layer: nn.Module) -> nn.Linear:
    inside = _inside(layer)
    assert isinstance(inside, nn.Linear)
    return inside


def _inside(layer: nn.Module) -> nn.Module:
    while isinstance(layer, branch.Residual):
        layer = layer.layer
    return layer
