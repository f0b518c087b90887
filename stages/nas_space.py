"""The architectures that DNM can reach from a row's start network, as numbers that a sampler draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from dnm import Policy, trace
from dnm.choice import insertions, multiple_of
from stages.branches import Branch
from stages.tasks import image_classification as task

KERNEL = 9  # weights of a 3x3 convolution, for each pair of channels
REDUCTION = 4  # of gates, as growth inserts them
# How much of a branch's dimension stands for its being there. Residual branches on maps cost as much as layers: with
# more of them hardly anything would be left for widths.
SHARES = {"AddResidual": 0.2, "AddAttention": 0.5}
# So fine a factor tells any two networks apart that are not much larger than a thousand channels.
HALVINGS = 12


@dataclass(frozen=True)
class Architecture:
    """A network as `stages.trial.Job` takes it: widths by block, and branches."""

    widths: task.Widths
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class Place:
    """Where one operator may put a branch.

    Attributes:
        operator: "AddResidual" or "AddAttention".
        at: path of the layer behind which it stands.
        layer: number of the convolution that makes its channels, or None of the last layer, whose width is fixed.
        positions: pixels that it sees; 0 where a branch is of matrices instead of convolutions.
    """

    operator: str
    at: str
    layer: int | None
    positions: int

    @property
    def name(self) -> str:
        """Its name as a dimension of the space."""
        return f"{self.operator}/{self.at}"


@dataclass(frozen=True)
class Space:
    """What is searched.

    Widths lie between the start network's and the most that the limits allow a layer alone, in the numbers in which
    growth adds units; each branch that growth could insert is there or not, as wide as growth makes it. Every
    dimension is a fraction.

    Attributes:
        start: widths of the start network.
        image: channels, height and width.
        classes: of the data.
        divides: whether layers may be wider than the start network's.
        places: of branches.
        max_parameters: that a network may have.
        max_training_flops: that a sample may cost, forward and backward.
    """

    start: task.Widths
    image: tuple[int, int, int]
    classes: int
    divides: bool
    places: tuple[Place, ...]
    max_parameters: int
    max_training_flops: int

    @property
    def names(self) -> tuple[str, ...]:
        """The dimensions: one of each layer that may be wider, one of each branch."""
        return (*self._widths, *(place.name for place in self.places))

    @property
    def _widths(self) -> tuple[str, ...]:
        return tuple(f"width/{layer}" for layer in range(len(self._start))) if self.divides else ()

    @property
    def _start(self) -> list[int]:
        return [width for block in self.start for width in block]

    @cached_property
    def most(self) -> list[int]:
        """The largest width of each layer, all others as in the start network."""
        found = []
        for layer in range(len(self._start)):
            widths, step = self._start, self._steps()[layer]
            while self.divides and self.fits([*widths[:layer], widths[layer] + step, *widths[layer + 1 :]], ()):
                widths[layer] += step
            found.append(widths[layer])
        return found

    def architecture(self, values: Mapping[str, float]) -> Architecture | None:
        """The network of a sample: one that is over a limit is narrowed in all layers alike until it fits.

        Args:
            values: in [0, 1], by dimension; of a width how far it is on the way from the start network's to the most,
                on a logarithmic scale; a branch is there where its value is below the operator's share.

        Returns:
            None where the branches alone are too much for the start network's widths.
        """
        places = [place for place in self.places if values[place.name] < SHARES[place.operator]]

        def at(factor: float) -> list[int]:
            return [
                first + step * round(first * ((last / first) ** (factor * values[name]) - 1.0) / step)
                for first, last, step, name in zip(self._start, self.most, self._steps(), self._widths, strict=True)
            ] if self.divides else self._start  # fmt: skip

        if not self.fits(at(0.0), places):
            return None
        low, high = 0.0, 1.0
        if self.fits(at(high), places):
            low = high
        else:
            for _ in range(HALVINGS):
                middle = (low + high) / 2.0
                low, high = (middle, high) if self.fits(at(middle), places) else (low, middle)
        widths = at(low)
        rest = iter(widths)
        return Architecture(
            tuple(tuple(next(rest) for _ in block) for block in self.start),
            tuple((place.operator, place.at, self._inner(place, widths)) for place in places),
        )

    def cost_of(self, shape: Architecture) -> tuple[int, int]:
        """What `cost` says of an architecture of the space."""
        there = {(operator, at) for operator, at, _ in shape.branches}
        places = [place for place in self.places if (place.operator, place.at) in there]
        return self.cost([width for block in shape.widths for width in block], places)

    def fits(self, widths: Sequence[int], places: Sequence[Place]) -> bool:
        """Whether a network is within both limits."""
        parameters, flops = self.cost(widths, places)
        return parameters <= self.max_parameters and flops <= self.max_training_flops

    def cost(self, widths: Sequence[int], places: Sequence[Place]) -> tuple[int, int]:
        """Parameters, and FLOPs of a forward and backward pass of one sample, as `dnm.count` counts them.

        Counting by a pass takes a hundredth of a second, and one sample of the space takes many.
        """
        channels, height, width = self.image
        inputs, parameters, flops, layer, first = channels, 0, 0, 0, 0
        for number, block in enumerate(self.start):
            positions = (height >> number) * (width >> number)
            for _ in block:
                weights = KERNEL * inputs * widths[layer]
                parameters += weights + 2 * widths[layer]
                flops += 2 * weights * positions
                # Nothing is trained before the first layer: it passes no gradient on.
                first = first or flops
                inputs, layer = widths[layer], layer + 1
        parameters += (inputs + 1) * self.classes
        flops += 2 * inputs * self.classes
        for place in places:
            outer, inner = self._channels(place, widths), self._inner(place, widths)
            maps = place.operator == "AddResidual" and place.positions > 0
            weights = 2 * outer * inner * (KERNEL if maps else 1)
            parameters += weights + (2 * (outer + inner) if maps else outer + inner)
            flops += 2 * weights * (place.positions if maps else 1)
        return parameters, 3 * flops - first

    def _steps(self) -> list[int]:
        return [multiple_of(width, Policy()) for width in self._start]

    def _channels(self, place: Place, widths: Sequence[int]) -> int:
        return self.classes if place.layer is None else widths[place.layer]

    def _inner(self, place: Place, widths: Sequence[int]) -> int:
        channels = self._channels(place, widths)
        return channels if place.operator == "AddResidual" else max(1, channels // min(REDUCTION, channels))


def space_of(
    start: task.Widths,
    image: tuple[int, int, int],
    classes: int,
    operators: Sequence[str],
    max_parameters: int,
    max_training_flops: int,
) -> Space:
    """The space from a start network, with branches wherever growth could insert them; see `Space`."""
    model = task.network(start, image[0], classes, torch.Generator())
    graph = trace(model, torch.zeros(4, *image))
    at = {place.path: place for place in graph.places}
    layers = [name for name, child in model.named_children() if isinstance(child, torch.nn.Conv2d)]
    places = []
    for operator in ("AddResidual", "AddAttention"):
        for edit in insertions(model, graph, operator) if operator in operators else ():
            found = at[edit.at]
            near = found.near.partition(".")[0]
            positions = math.prod(found.positions) if found.num_dimensions == len(image) + 1 else 0
            places.append(Place(operator, edit.at, layers.index(near) if near in layers else None, positions))
    # As the data passes them, which is how a network's branches are named.
    order = [name for name, _ in model.named_children()]
    places.sort(key=lambda place: order.index(place.at))
    return Space(start, image, classes, "Divide" in operators, tuple(places), max_parameters, max_training_flops)
