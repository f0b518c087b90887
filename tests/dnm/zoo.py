"""The zoo: every operator on the models of torchvision, each compared once with the model before.

`python -m tests.dnm.zoo` takes all models up to 100M parameters and writes their rows into docs/zoo.md, `--nightly` the
larger ones, names just these; rows that were not taken anew stay as they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.regnet import ResBottleneckBlock
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import StochasticDepth
from torchvision.ops.misc import FrozenBatchNorm2d

import dnm
from dnm import journal, surgery
from dnm.graph import tensors_in
from dnm.operators import units
from dnm.recording import untouched
from stages import environment, trials

# Norm of the difference over norm.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}

TABLE = Path(__file__).parents[2] / "docs" / "zoo.md"
CLASSIFIERS = models.list_models(module=models)
DETECTORS = models.list_models(module=models.detection)
SEGMENTERS = models.list_models(module=models.segmentation)
TRANSFORMERS = ["nn.TransformerEncoder", "nn.TransformerDecoder"]
# The smallest images, in pixels, that the auxiliary heads, windows and extra layers of these models can read; deep
# networks that normalise over fewer positions amplify rounding in train mode.
OWN_SIZES = {
    "inception_v3": 299, "maxvit_t": 224, "ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320,
    "efficientnet_b5": 128, "efficientnet_b6": 128, "efficientnet_b7": 128, "efficientnet_v2_m": 128,
    "efficientnet_v2_l": 128,
}  # fmt: skip


# In float64 these would need more than 24 GB; they are taken in float32 alone.
HUGE = ("vit_h_14", "regnet_y_128gf")


def build(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A model of the zoo without dropout, with random parameters and batch-norm statistics, and inputs for it."""
    with _no_init():
        model, inputs = _made(name)
    for module in model.modules():
        if isinstance(module, (nn.modules.dropout._DropoutNd, StochasticDepth)):
            module.p = 0.0
    torch.manual_seed(0)
    _randomise(model)
    inputs = tuple(item.to(dtype) for item in inputs)
    return model.to(dtype), inputs


def _made(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    if name == "nn.TransformerEncoder":
        layer = nn.TransformerEncoderLayer(24, 4, 40, dropout=0.0, batch_first=True)
        return nn.Sequential(nn.Linear(6, 24), nn.TransformerEncoder(layer, 2), nn.Linear(24, 5)), (random(2, 7, 6),)
    if name == "nn.TransformerDecoder":
        return Decoder(), (random(2, 7, 6), random(2, 5, 6))
    size = next((size for start, size in OWN_SIZES.items() if name.startswith(start)), 64)
    if name in DETECTORS:
        return models.get_model(name, weights=None, weights_backbone=None).get_submodule("backbone"), (
            random(2, 3, size, size),
        )
    if name in SEGMENTERS:
        return models.get_model(name, weights=None, weights_backbone=None), (random(2, 3, size, size),)
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if name.startswith("vit"):
        size = 56 if name == "vit_h_14" else 64
        options["image_size"] = size
    return models.get_model(name, weights=None, **options), (random(2, 3, size, size),)


class Decoder(nn.Module):
    """A decoder between an embedding of either sequence and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.targets, self.memory = nn.Linear(6, 24), nn.Linear(6, 24)
        layer = nn.TransformerDecoderLayer(24, 4, 40, dropout=0.0, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)
        self.head = nn.Linear(24, 5)

    def forward(self, targets: Tensor, memory: Tensor) -> Tensor:
        return self.head(self.decoder(self.targets(targets), self.memory(memory)))


@contextlib.contextmanager
def _no_init() -> Iterator[None]:
    """Within the block nn.init leaves tensors as they are, which spares large models their slow first values."""
    names = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(nn.init, name, lambda tensor, *args, **kwargs: tensor))
        yield


def _randomise(model: nn.Module) -> None:
    """Weights that keep the size of what passes, norms with any scale, shift and statistics.

    The last norm of a residual branch is small, as where training starts: a hundred branches as large as what they are
    added to would amplify the rounding of float32 beyond any tolerance, without any edit.
    """
    with torch.no_grad():
        for module in model.modules():
            norm = isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, FrozenBatchNorm2d))
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is None or (isinstance(tensor, nn.Parameter) is False and not norm):
                    continue
                if not tensor.is_floating_point():
                    continue
                if norm and (name == "weight" or name == "running_var"):
                    tensor.uniform_(0.5, 1.5)
                elif tensor.dim() > 1:
                    bound = (3.0 / tensor[0].numel()) ** 0.5
                    tensor.uniform_(-bound, bound)
                else:
                    tensor.normal_(0.0, 0.1)
        for module in model.modules():
            last = {Bottleneck: "bn3", BasicBlock: "bn2", ResBottleneckBlock: "f.c.1"}.get(type(module))
            if last is not None:
                module.get_submodule(last).weight.mul_(0.2)  # pyright: ignore[reportCallIssue]


@dataclass
class Row:
    """What was found on one model.

    Attributes:
        name: of the model.
        parameters: their number.
        groups: number of channel groups.
        divisible: how many of them can grow.
        coverage: part of the weights that they reach.
        edits: by operator, how many edits were taken together.
        differences: by operator and mode, the relative change of the outputs.
        problems: what was found wrong.
        refusal: why the model was refused; else empty.
    """

    name: str
    parameters: int = 0
    groups: int = 0
    divisible: int = 0
    coverage: float = 0.0
    edits: dict[str, int] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    refusal: str = ""


def check(name: str) -> Row:
    """Every operator on a model of the zoo."""
    torch.set_num_threads(1)
    return checked(name, *build(name, torch.float32 if name in HUGE else torch.float64))


def checked(name: str, model: nn.Module, inputs: tuple) -> Row:
    """Every operator on a model: in float64 and Divide in float32 too, or all in float32 where that is what it is."""
    row = Row(name)
    row.parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        graph = dnm.trace(model, inputs)
    except dnm.DnmError as error:
        row.refusal = str(error)
        return row
    row.groups, row.divisible = len(graph.groups), sum(group.divisible for group in graph.groups)
    row.coverage = coverage(model, graph)
    try:
        _operators(model, graph, inputs, row)
    except dnm.DnmError as error:
        row.refusal = str(error)
    return row


def _operators(model: nn.Module, graph: dnm.Graph, inputs: tuple, row: Row) -> None:
    edits = surgery.possible(model, graph, inputs)
    kinds = (dnm.Divide, dnm.AddResidual, dnm.AddAttention, dnm.Connect)
    if next(model.parameters()).dtype == torch.float64:
        _compare(model, graph, edits, kinds, inputs, row)
        model.float()
        inputs = tuple(item.float() for item in inputs)
        kinds = (dnm.Divide,)
    row.edits["Prune"] = _grow_and_prune(model, graph, inputs, row)
    _compare(model, graph, edits, kinds, inputs, row)


def _compare(model: nn.Module, graph: dnm.Graph, edits: list, kinds: tuple, inputs: tuple, row: Row) -> None:
    before = {training: outputs(model, inputs, training) for training in (False, True)}
    for kind in kinds:
        _together(model, graph, [edit for edit in edits if isinstance(edit, kind)], inputs, before, row)


def _together(model: nn.Module, graph: dnm.Graph, edits: list, inputs: tuple, before: dict, row: Row) -> None:
    """Takes all edits of one kind, compares once, and takes them back; looks for a guilty one where they changed it."""
    if not edits:
        return
    kind, dtype = type(edits[0]).__name__, next(model.parameters()).dtype
    key = "Divide float32" if kind == "Divide" and dtype == torch.float32 else kind
    tolerance = TOLERANCES[dtype]
    row.edits[key] = len(edits)
    found = _compared(model, graph, edits, inputs, before)
    for mode, difference in found.items():
        row.differences[f"{key} {mode}"] = difference
    if not all(difference <= tolerance for difference in found.values()):
        guilty = _bisected(model, graph, edits, inputs, before, tolerance)
        row.problems.append(f"{key} changed the output ({found}): {guilty}")


def _bisected(model, graph, edits: list, inputs, before, tolerance: float) -> list:
    while len(edits) > 1:
        half = len(edits) // 2
        for part in (edits[:half], edits[half:]):
            found = _compared(model, graph, part, inputs, before)
            if not all(difference <= tolerance for difference in found.values()):
                edits = part
                break
        else:
            # Only together do they change anything.
            return edits
    return edits


def _compared(model: nn.Module, graph: dnm.Graph, edits: list, inputs: tuple, before: dict) -> dict[str, float]:
    """Relative change of the outputs by edits that are taken together and then taken back."""
    photograph = _photograph(model)
    restores = carried_out(model, graph, edits, inputs)
    num = sum(parameter.numel() for parameter in model.parameters())
    try:
        return {
            "train" if training else "eval": change(before[training], outputs(model, inputs, training))
            for training in (False, True)
        }
    finally:
        for restore in reversed(restores):
            restore()
        assert num > sum(parameter.numel() for parameter in model.parameters()), "the edits added nothing"
        assert photograph == _photograph(model), "taking back did not leave the model as found"


def carried_out(model: nn.Module, graph: dnm.Graph, edits: list, inputs: tuple) -> list[Callable[[], None]]:
    """Takes edits of one kind that were all found on one graph; returns what takes each back."""
    operator = journal.OPERATORS[type(edits[0]).__name__][1]
    plans = [operator.plan(model, graph, edit, inputs) for edit in edits]
    if isinstance(edits[0], (dnm.Divide, dnm.Prune)):
        plans = units.in_turn(edits, plans)
    elif isinstance(edits[0], dnm.Connect):
        # From the inside out: what contains a rewritten module can be rewritten, not the other way round.
        order = sorted(range(len(edits)), key=lambda number: -plans[number]["ancestor"].count("."))
        edits, plans = [edits[number] for number in order], [plans[number] for number in order]
    restores: list[Callable[[], None]] = []
    try:
        for edit, plan in zip(edits, plans, strict=True):
            restores.append(operator.carry_out(model, edit, plan))
    except BaseException:
        for restore in reversed(restores):
            restore()
        raise
    return restores


def _grow_and_prune(model: nn.Module, graph: dnm.Graph, inputs: tuple, row: Row) -> int:
    """Adds a silent unit to every group and prunes just these: the state must be what it was, bit for bit."""
    groups = [group for group in graph.groups if group.divisible and not group.uniform]
    if not groups:
        return 0
    before = {name: tensor for name, tensor in model.state_dict().items()}
    grown = carried_out(model, graph, [dnm.Divide(group.name, (0,), "zero") for group in groups], inputs)
    restores = []
    try:
        wider = dnm.trace(model, inputs)
        for group in groups:
            if wider.group(group.name).width != group.width + 1:
                row.problems.append(f"{group.name} was divided and is not wider by one")
        prunes = [dnm.Prune(group.name, (group.width,)) for group in groups]
        restores = carried_out(model, wider, prunes, inputs)
        after = model.state_dict()
        wrong = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
        if wrong:
            row.problems.append(f"growing and pruning changed {wrong[:3]} ({len(wrong)} tensors)")
    finally:
        for restore in [*reversed(restores), *reversed(grown)]:
            restore()
    return len(groups)


def outputs(model: nn.Module, inputs: tuple, training: bool) -> list[Tensor]:
    """The tensors that the model returns in a mode, which leaves no trace in its buffers."""
    with torch.no_grad(), untouched(model, training):
        return tensors_in(model(*inputs))


def change(before: list[Tensor], after: list[Tensor]) -> float:
    """Norm of the difference over norm, over all outputs together."""
    assert [tensor.shape for tensor in before] == [tensor.shape for tensor in after]
    difference = sum(
        (new.double() - old.double()).square().sum().item() for old, new in zip(before, after, strict=True)
    )
    return (difference / sum(old.double().square().sum().item() for old in before)) ** 0.5


def _photograph(model: nn.Module) -> list:
    """What taking an edit back must leave: modules, their plain attributes, and where every tensor lies."""
    found: list = []
    for name, module in model.named_modules():
        plain = {key: value for key, value in vars(module).items() if isinstance(value, (bool, int, float, str, tuple))}
        tensors = [*module._parameters.values(), *module._buffers.values()]
        found.append((name, id(module), plain, [t if t is None else (t.data_ptr(), t.shape) for t in tensors]))
    return found


def coverage(model: nn.Module, graph) -> float:
    """Part of the weights of convolutions, linear layers and attention projections with a dimension that can grow."""
    weights = {}
    for path, module in model.named_modules():
        own = f"{path}." if path else ""
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            names = ["weight"]
        elif isinstance(module, nn.MultiheadAttention):
            names = ["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"]
        else:
            continue
        for name in names:
            tensor = module._parameters.get(name)
            if tensor is not None:
                weights[own + name] = tensor.numel()
    covered = {member.tensor for group in graph.groups if group.divisible for member in group.members}
    return sum(size for name, size in weights.items() if name in covered) / sum(weights.values())


def names(nightly: bool) -> list[str]:
    """The models up to 100M parameters, or those above, the largest first."""
    found = {}
    for name in [*TRANSFORMERS, *CLASSIFIERS, *DETECTORS, *SEGMENTERS]:
        known = name not in TRANSFORMERS
        found[name] = models.get_model_weights(name)["DEFAULT"].meta["num_params"] if known else 0
    ordered = sorted(found, key=lambda name: -found[name])
    return [name for name in ordered if (found[name] > 100e6) == nightly]


def run(chosen: list[str], finished: Callable[[str, Row], None] = lambda name, row: None) -> list[Row]:
    """`check` on several models, each in a process of its own, as many at once as there are cores."""
    return trials.run(check, chosen, title="zoo", finished=finished, preload=("torch._dynamo", "torchvision"))


def run_apart(chosen: list[str], folder: Path) -> list[Row]:
    """`run` in a process whose arithmetic may take the paths that are fastest here, not the same ones everywhere.

    Args:
        chosen: names of models.
        folder: for the rows on their way.
    """
    file = folder / "rows.json"
    fast = {name: value for name, value in os.environ.items() if name not in environment.CPU_CAPS}
    command = [sys.executable, "-m", "tests.dnm.zoo", "--rows", str(file), *chosen]
    subprocess.run(command, cwd=TABLE.parents[1], env=fast, check=True)
    return [Row(**values) for values in json.loads(file.read_text())]


COLUMNS = {"Divide": "Divide", "Divide float32": "Divide, float32", "AddResidual": "AddResidual",
           "AddAttention": "AddAttention", "Connect": "Connect"}  # fmt: skip
HEADER = [
    "<!-- Generated by `python -m tests.dnm.zoo`; do not edit. -->",
    "# The zoo",
    "",
    "Every operator on torchvision's models, on the backbones of its detectors and on its segmentation models, with",
    "random weights and batch-norm statistics and no dropout (`tests/dnm/zoo.py`). All candidates of an operator are",
    "taken together; a cell gives their number and the relative change of the outputs (norm of the difference over",
    "norm) in eval and in train mode, in float64 unless it says float32 (at most 1e-9 and 1e-4). Prune: that many",
    "groups were given a silent unit, which was pruned again: every tensor is what it was, bit for bit. Coverage: the",
    "part of the weights of convolutions and linear layers, attention projections included, with a dimension in a",
    "group that can grow. The two models above 400M parameters are taken in float32 alone.",
    "",
]


def line(row: Row) -> str:
    """A row of the table."""
    cells = [row.name, f"{row.parameters / 1e6:.1f}M", str(row.groups), str(row.divisible), f"{row.coverage:.1%}"]
    for kind in COLUMNS:
        found = [row.differences.get(f"{kind} {mode}") for mode in ("eval", "train")]
        cells.append("" if None in found else f"{row.edits[kind]}: {found[0]:.0e} {found[1]:.0e}")
    wrong = "wrong: " + "; ".join(row.problems) if row.problems else "works"
    cells += [str(row.edits.get("Prune", "")), f"refused: {row.refusal}" if row.refusal else wrong]
    return "| " + " | ".join(cells) + " |"


def committed() -> dict[str, list[str]]:
    """The cells of the table's rows, by model."""
    rows = [text.strip("| \n").split(" | ") for text in TABLE.read_text().splitlines() if text.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells] for cells in rows[1:]}


def write(rows: list[Row]) -> None:
    """Writes the table: new rows, and the old ones of other models."""
    lines = {row.name: line(row) for row in rows}
    if TABLE.exists():
        for text in TABLE.read_text().splitlines():
            name = text.split(" | ")[0].strip("| ")
            if text.startswith("| ") and name != "model":
                lines.setdefault(name, text)
    order = [*TRANSFORMERS, *CLASSIFIERS, *DETECTORS, *SEGMENTERS]
    titles = ["model", "parameters", "groups", "divisible", "coverage", *COLUMNS.values(), "Prune", "verdict"]
    table = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    table += [lines[name] for name in order if name in lines]
    TABLE.write_text("\n".join([*HEADER, *table]) + "\n")


def main(arguments: list[str]) -> None:
    """Takes the models named in the arguments and writes their rows."""
    if arguments == ["--nightly"]:
        # The largest take five times their size in float64: one after the other.
        for name in names(nightly=True):
            write(run([name]))
    elif arguments[:1] == ["--rows"]:
        Path(arguments[1]).write_text(json.dumps([asdict(row) for row in run(arguments[2:])]))
    else:
        run(arguments or names(nightly=False), lambda name, row: write([row]))


if __name__ == "__main__":
    main(sys.argv[1:])
