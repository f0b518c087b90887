"""Two networks on which every operator has a place, and the edits that fit them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import dnm


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.second = nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """`num x width x rows x columns` to the same."""
        return inputs + self.second(torch.relu(self.norm(self.first(inputs))))


class ResidualNet(nn.Module):
    """A stem, two residual blocks, a linear head; inputs `num x 3 x 8 x 8`, outputs `num x 4`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.body = nn.Sequential(Block(6, 5), nn.MaxPool2d(2), Block(6, 4))
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        return self.head(self.body(self.stem(images)).mean((2, 3)))


class Encoder(nn.Module):
    """Patches through two of torch's own encoder layers; inputs `num x 3 x 8 x 8`, outputs `num x 4`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.position = nn.Parameter(0.1 * torch.randn(1, 4, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 4))

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.encoder(tokens).mean(1))


NETWORKS = {"convolutional": ResidualNet, "attentive": Encoder}

# One of every operator.
EDITS = {
    "convolutional": (
        dnm.Divide("stem.0", (1, 2), seed=1),
        dnm.Prune("body.0.first", (3,)),
        dnm.AddResidual("body.2.second", width=3, seed=2),
        dnm.AddAttention("body.0.second", reduction=2, seed=3),
        dnm.Connect("body.0.first", "body.2.first"),
    ),
    "attentive": (
        dnm.Divide("encoder.layers.0.linear1", (0, 3), seed=1),
        dnm.Divide("embed", (0, 1), seed=2),
        dnm.Prune("encoder.layers.1.linear1", (5,)),
        dnm.AddResidual("encoder.layers.0.norm1", width=3, seed=3),
        dnm.AddAttention("embed", reduction=2, seed=4),
        dnm.Connect("head.0", "head.2"),
    ),
}


def images(num: int = 4, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """A batch for both networks."""
    return torch.randn(num, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def start(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The network before any edit, the same at every call, in eval mode; its norms have seen data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[kind]().to(dtype)
    settle(model, images(dtype=dtype))
    return model.eval()


def edited(kind: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, list[dict]]:
    """The network after one of every operator, with no branch at its identity any more; and its journal."""
    model, inputs = start(kind, dtype), images(dtype=dtype)
    journal = [dnm.apply(model, edit, inputs).entry for edit in EDITS[kind]]
    settle(model, inputs)
    return model, journal


def settle(model: nn.Module, inputs: Tensor, seed: int = 0) -> None:
    """Gives every parameter a value of its own, entries that start at 0 or 1 too, and norms the statistics of data."""
    generator = torch.Generator().manual_seed(seed)
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
        model.train()
        for _ in range(2):
            model(inputs + torch.randn(inputs.shape, generator=generator, dtype=torch.float64).to(inputs))
    for module, training in modes:
        module.training = training


def distance(first: Tensor, second: Tensor) -> float:
    """Norm of the difference over the norm of the second."""
    return ((first.double() - second.double()).norm() / second.double().norm()).item()
