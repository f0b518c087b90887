"""torchvision's one-stage detectors for small images: FCOS and RetinaNet on a plain network or on a ResNet-18.

What a plain network grew is written in the terms of image classification: the widths of its convolutions, block by
block, and branches by the number of the layer in `stages.tasks.image_classification.network` that they stand behind.

FCOS: Tian et al. 2019, arXiv:1904.01355. RetinaNet: Lin et al. 2017, arXiv:1708.02002. Feature pyramids: Lin et al.
2017, arXiv:1612.03144. Labels are 0, 1, ...: these detectors have no class for the background.

Images are batches in memory, float32, `num x 3 x height x width`, already normalised, all of one size.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.resnet import BasicBlock

from stages import branches as branching
from stages.branches import Branch
from stages.data.detection.annotations import Picture
from stages.tasks.image_classification import Widths, network

Detector = FCOS | RetinaNet
RESNET18_STAGES = (1, 2, 4, 8)  # their channels, of the first one's
RESNET18_WIDTH = 64
# The score of every place at first. Both papers take 0.01, for many thousands of places and long trainings; with it the
# first hundreds of steps teach hardly more than that there is something.
PRIOR = 0.05
_GROUP = 8  # channels of a group norm in the heads


def plain_backbone(
    widths: Widths,
    pyramid: int,
    generator: torch.Generator,
    levels: int = 2,
    branches: Iterable[Branch] = (),
    seed: int = 0,
) -> BackboneWithFPN:
    """The plain convolutional network of image classification under a feature pyramid.

    Args:
        widths: per block, the output channels of its convolutions; each block but the first halves the maps.
        pyramid: channels of the pyramid's maps, a multiple of 8.
        generator: source of the initial weights.
        levels: how many blocks, the last ones, the pyramid reads; it adds one more level, of half the last one's size.
        branches: that the network has besides, as `branches_of` gives them.
        seed: of the branches' weights.

    Returns:
        The backbone; its convolutions are `body.block<number>.<place>`.
    """
    # PyTorch draws first values of its own before the network's replace them.
    with torch.random.fork_rng(devices=[]):
        whole = network(widths, 3, 1, generator)
    if own := list(branches):
        side = 2 ** len(widths)
        branching.put_in(whole, own, torch.zeros(1, 3, side, side), seed)
    blocks: list[list[nn.Module]] = [[]]
    for layer in list(whole)[:-3]:
        if isinstance(_inner(layer), nn.MaxPool2d):
            blocks.append([])
        blocks[-1].append(layer)
    if not 1 <= levels <= len(blocks):
        raise ValueError(f"levels is {levels}, expected 1 to {len(blocks)}, the number of blocks")
    body = nn.Sequential(OrderedDict((f"block{number}", nn.Sequential(*block)) for number, block in enumerate(blocks)))
    read = range(len(blocks) - levels, len(blocks))
    with _drawn(generator):
        return BackboneWithFPN(
            body, {f"block{number}": str(number) for number in read}, [widths[number][-1] for number in read], pyramid
        )


def resnet18_backbone(
    pyramid: int, generator: torch.Generator, levels: int = 3, width: int = RESNET18_WIDTH
) -> BackboneWithFPN:
    """ResNet-18 (He et al. 2016, arXiv:1512.03385), not pre-trained, under a feature pyramid.

    Args:
        pyramid: channels of the pyramid's maps, a multiple of 8.
        generator: source of the initial weights.
        levels: how many of its four stages, the first ones, the pyramid reads: maps of a quarter of the image's size
            and halves of it; it adds one more level.
        width: channels of its first stage; each later one has twice as many as the one before.
    """
    if not 1 <= levels <= len(RESNET18_STAGES):
        raise ValueError(f"levels is {levels}, expected 1 to {len(RESNET18_STAGES)}")
    channels = [width * factor for factor in RESNET18_STAGES]
    with _drawn(generator):
        read = {f"layer{number + 1}": str(number) for number in range(levels)}
        return BackboneWithFPN(_resnet18(channels), read, channels[:levels], pyramid)


def _resnet18(channels: Sequence[int]) -> nn.Sequential:
    """The layers of torchvision's, by its names, with other numbers of channels and without the last layer."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, channels[0], 7, 2, 3, bias=False),
        bn1=nn.BatchNorm2d(channels[0]),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, 2, 1),
    )
    inputs = channels[0]
    for number, outputs in enumerate(channels):
        stride = 2 if number else 1
        down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        first = BasicBlock(inputs, outputs, stride, down if number else None)
        layers[f"layer{number + 1}"] = nn.Sequential(first, BasicBlock(outputs, outputs))
        inputs = outputs
    for layer in nn.Sequential(layers).modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layers)


def widths_of(detector: Detector) -> Widths:
    """The widths of a plain backbone, from which it is built again."""
    return tuple(
        tuple(layer.out_channels for layer in map(_inner, block) if isinstance(layer, nn.Conv2d))
        for block in _blocks(detector)
    )


def branches_of(detector: Detector) -> list[Branch]:
    """The branches of a plain backbone, from which it is built again."""
    layers = nn.Sequential(*(layer for block in _blocks(detector) for layer in block))
    return branching.branches_of(layers)


def _blocks(detector: Detector) -> list[nn.Sequential]:
    body: Any = detector.backbone.body
    return list(body.children())


def _inner(layer: nn.Module) -> nn.Module:
    """The layer that a branch wraps."""
    found: object = layer
    while hasattr(found, "layer"):
        found = getattr(found, "layer")  # noqa: B009
    assert isinstance(found, nn.Module)
    return found


def fcos(backbone: BackboneWithFPN, classes: int, size: int, generator: torch.Generator, convolutions: int = 2) -> FCOS:
    """FCOS for images of one size.

    Objects of a level are those whose farthest side lies within 2 to 4 strides of a point, half of what it is for large
    images, and any smaller one at the first level and any larger one at the last.

    Args:
        backbone: makes the maps.
        classes: number of classes.
        size: height and width of the images, pixels.
        generator: source of the initial weights of the head.
        convolutions: of each of the head's two towers.
    """
    strides = _strides(backbone, size)
    channels = backbone.out_channels
    norm = partial(nn.GroupNorm, max(1, channels // _GROUP))
    with _drawn(generator):
        # A norm over 32 groups, its own, cannot be taken over few channels.
        head = _FCOSHead(32, 1, classes, num_convs=1)
        head.classification_head = FCOSClassificationHead(channels, 1, classes, convolutions, PRIOR, norm)
        head.regression_head = FCOSRegressionHead(channels, 1, convolutions, norm_layer=norm)
    _start(head, generator)
    # Boxes of no size have hardly a gradient; these begin with sides of two strides.
    _set_bias(head.regression_head.bbox_reg, 2.0)
    model = FCOS(
        backbone,
        classes,
        anchor_generator=AnchorGenerator(tuple((stride // 2,) for stride in strides), ((1.0,),) * len(strides)),
        head=head,
        center_sampling_radius=3.0,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=50,
        topk_candidates=200,
    )
    return _finish(model)


def retinanet(backbone: BackboneWithFPN, classes: int, size: int, generator: torch.Generator) -> RetinaNet:
    """RetinaNet for images of one size, with nine anchors of 2 to 3.2 strides at each place.

    Args:
        backbone: makes the maps.
        classes: number of classes.
        size: height and width of the images, pixels.
        generator: source of the initial weights of the head.
    """
    strides = _strides(backbone, size)
    sizes = tuple(tuple(round(2 * stride * 2 ** (third / 3)) for third in range(3)) for stride in strides)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(strides))
    with _drawn(generator):
        norm = partial(nn.GroupNorm, max(1, backbone.out_channels // _GROUP))
        head = _RetinaNetHead(backbone.out_channels, anchors.num_anchors_per_location()[0], classes, norm_layer=norm)
    _start(head, generator)
    _set_bias(head.classification_head.cls_logits, -math.log((1 - PRIOR) / PRIOR))
    model = RetinaNet(
        backbone,
        classes,
        anchor_generator=anchors,
        head=head,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=50,
        topk_candidates=200,
    )
    return _finish(model)


class Maps(nn.Module):
    """What of a detector has weights, as a module that can be traced, counted and edited; it shares them.

    The detector itself cannot be traced: in eval mode it chooses among places by their scores, in train mode it returns
    losses.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The head's outputs of all levels together, each `num x places x values`."""
        return self.head(list(self.backbone(images).values()))


def target(picture: Picture, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """What a detector is trained on: boxes (`num x 4`) and labels (`num`) of the objects that are not ignored."""
    kept = ~picture.ignored
    return {
        "boxes": torch.from_numpy(picture.boxes[kept]).to(device),
        "labels": torch.from_numpy(picture.labels[kept]).to(device),
    }


def training_loss(model: Detector, images: Tensor, targets: Sequence[dict[str, Tensor]]) -> Tensor:
    """The sum of a detector's losses on a batch: of classes, boxes and, for FCOS, centreness.

    Args:
        model: in train mode; `Maps` of it may be in eval mode, for a look that leaves batch statistics alone.
        images: `num x 3 x height x width`, normalised.
        targets: of each image, as `target` makes them.

    Raises:
        ValueError: the detector is in eval mode, in which it has no losses.
    """
    if not model.training:
        raise ValueError(f"{type(model).__name__} is in eval mode, in which it has no losses; call .train() before")
    losses = model(images, list(targets))
    return torch.stack(list(losses.values())).sum()


@torch.no_grad()
def predict(model: Detector, images: Tensor, batch_size: int = 100) -> list[dict[str, Tensor]]:
    """What a detector finds, in eval mode; the mode is put back.

    Returns:
        For each image boxes (`num x 4`, (x1, y1, x2, y2) in pixels), scores and labels (`num`), the surest first, on
        the CPU.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    found: list[dict[str, Tensor]] = []
    try:
        with _Portable():
            for start in range(0, len(images), batch_size):
                found += model(images[start : start + batch_size])
    finally:
        for module in training:
            module.training = True
    return [{name: values.cpu() for name, values in item.items()} for item in found]


class _Stack(nn.Module):
    """Stands in for torchvision's transform, which scales and normalises each image by itself."""

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None):
        images = torch.stack(images) if isinstance(images, list) else images
        height, width = images.shape[-2:]
        return ImageList(images, [(height, width)] * len(images)), targets

    def postprocess(self, result: list[dict[str, Tensor]], *_sizes) -> list[dict[str, Tensor]]:
        return result


class _Portable(TorchFunctionMode):
    """Takes roots, logarithms and exponentials of targets and scores in NumPy.

    Torch takes them in MKL's vector library, whose last bits differ between makers of CPUs. No gradient passes them in
    these detectors. The mode slows every operation in its block, so the block is to be small.
    """

    _OWN = {torch.sqrt: np.sqrt, torch.log: np.log, torch.exp: np.exp}  # noqa: RUF012

    def __torch_function__(self, func, types, args=(), kwargs=None):
        own = self._OWN.get(func)
        if own is None or kwargs or args[0].requires_grad or args[0].device.type != "cpu" or args[0].itemsize < 4:
            return func(*args, **(kwargs or {}))
        # Of places outside of all boxes torchvision takes roots too, and drops them.
        with np.errstate(all="ignore"):
            return torch.from_numpy(own(args[0].numpy()))


class _FCOSHead(FCOSHead):
    def compute_loss(self, *args) -> dict[str, Tensor]:
        with _Portable():
            return super().compute_loss(*args)


class _RetinaNetHead(RetinaNetHead):
    def compute_loss(self, *args):
        with _Portable():
            return super().compute_loss(*args)


@contextlib.contextmanager
def _drawn(generator: torch.Generator) -> Iterator[None]:
    """Within the block what torchvision draws from the global generator comes from this one."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield


def _start(head: nn.Module, generator: torch.Generator) -> None:
    """Gives the convolutions before a norm the initial weights of He et al. 2015, arXiv:1502.01852.

    Torchvision's have a standard deviation of 0.01, which no norm minds but Adam's steps do.
    """
    for name, module in head.named_modules():
        if isinstance(module, nn.Conv2d) and ".conv." in name:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)


def _set_bias(layer: nn.Conv2d, value: float) -> None:
    assert layer.bias is not None
    nn.init.constant_(layer.bias, value)


def _finish(model):
    model.transform = _Stack()
    return model.to(memory_format=torch.channels_last)


def _strides(backbone: BackboneWithFPN, size: int) -> list[int]:
    """Pixels between neighbouring places of each level."""
    training = [module for module in backbone.modules() if module.training]
    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, 3, size, size))
    for module in training:
        module.training = True
    sides = [level.shape[-1] for level in maps.values()]
    strides = [size // side for side in sides]
    # Torchvision divides the image's size by a map's to place its points: with other maps they would be off.
    if strides[0] < 4 or sides[-1] * strides[0] * 2 ** (len(sides) - 1) != size:
        raise ValueError(
            f"the backbone's maps of {size} pixels have sides of {sides}, expected a quarter of {size} or less, and "
            "each half of the one before; choose a size that all poolings divide, fewer levels or more blocks"
        )
    return strides
