"""Detectors: how they are built, what they learn and return, and that edits of their backbones are exact."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dnm
from stages import detectors
from stages.data.detection import scenes
from stages.data.detection.annotations import Picture
from stages.detection_scoring import score
from stages.detectors import Detector, Maps, predict, training_loss
from tests.stages.data.detection.rows import settings

SIZE, CLASSES = 64, 8
WIDTHS = ((8,), (12,), (16, 16), (24,))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fcos_plain(seed: int = 0) -> Detector:
    source = generator(seed)
    return detectors.fcos(detectors.plain_backbone(WIDTHS, 16, source), CLASSES, SIZE, source)


def retinanet_plain(seed: int = 0) -> Detector:
    source = generator(seed)
    return detectors.retinanet(detectors.plain_backbone(WIDTHS, 16, source), CLASSES, SIZE, source)


def fcos_resnet(seed: int = 0) -> Detector:
    source = generator(seed)
    return detectors.fcos(detectors.resnet18_backbone(16, source), CLASSES, SIZE, source, convolutions=1)


def retinanet_resnet(seed: int = 0) -> Detector:
    source = generator(seed)
    return detectors.retinanet(detectors.resnet18_backbone(16, source, levels=2), CLASSES, SIZE, source)


ALL = [fcos_plain, retinanet_plain, fcos_resnet, retinanet_resnet]
Make = Callable[..., Detector]


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """Four scenes of few large objects."""
    of = settings("few_large", size=SIZE, difficulty=0.0)
    return [scenes.draw(of, 0, row) for row in range(4)]


@pytest.fixture(scope="module")
def images(pictures: list[Picture]) -> torch.Tensor:
    """Their pixels, normalised."""
    pixels = torch.from_numpy(np.stack([picture.image for picture in pictures]))  # type: ignore[arg-type]
    return (pixels.permute(0, 3, 1, 2).float() - 128) / 64


@pytest.mark.parametrize("make", [fcos_plain, retinanet_plain])
def test_a_detector_learns_four_scenes_by_heart(make: Make, pictures: list[Picture], images: torch.Tensor) -> None:
    model = make().train()
    targets = [detectors.target(picture) for picture in pictures]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005, fused=True)
    losses = []
    for _ in range(40):
        loss = training_loss(model, images, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.4 * losses[0], losses
    found = score(predict(model, images), pictures, CLASSES)
    assert found.mean_50 > 0.5, found


@pytest.mark.parametrize("make", ALL)
def test_what_a_detector_returns(make: Make, images: torch.Tensor) -> None:
    model = make().train()
    frozen = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    frozen.eval()
    buffers = {name: values.clone() for name, values in model.named_buffers()}
    # Scores near 0.01 are below the threshold, so let some be higher.
    biased = model.head.classification_head.cls_logits.bias
    torch.nn.init.constant_(biased, 0.0)
    found = predict(model, images, batch_size=3)
    assert model.training
    assert not frozen.training
    assert all(torch.equal(values, buffers[name]) for name, values in model.named_buffers())
    assert len(found) == 4
    for item in found:
        num = len(item["labels"])
        assert 0 < num <= 50
        assert item["boxes"].shape == (num, 4)
        assert item["boxes"].dtype == item["scores"].dtype == torch.float32
        assert item["labels"].dtype == torch.int64
        assert not any(values.requires_grad for values in item.values())
        assert 0 <= item["boxes"].min() <= item["boxes"].max() <= SIZE
        assert 0 <= item["labels"].min() <= item["labels"].max() < CLASSES
        assert (item["scores"].diff() <= 0).all()
        assert 0.05 < item["scores"].min() <= item["scores"].max() <= 1
    # Neither the size of batches nor neighbours matter in eval mode.
    alone = predict(model, images[2:3])[0]
    assert torch.allclose(alone["scores"], found[2]["scores"], atol=1e-5)
    torch.nn.init.constant_(biased, -30.0)
    assert [len(item["labels"]) for item in predict(model, images)] == [0] * 4


@pytest.mark.parametrize("make", ALL)
def test_initial_weights_come_from_the_generator(make: Make) -> None:
    before = torch.get_rng_state()
    first, again, other = (make(seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if first[name].dim() > 1]
    assert all(not torch.equal(first[name], other[name]) for name in drawn)
    assert any(name.startswith("backbone.body") for name in drawn)
    assert any(name.startswith("backbone.fpn") for name in drawn)
    assert any(name.startswith("head") for name in drawn)


def test_a_plain_backbone_is_the_network_of_image_classification() -> None:
    from stages.tasks.image_classification import network

    backbone = detectors.plain_backbone(WIDTHS, 16, generator())
    layers = [layer for block in backbone.body.values() for layer in block]
    own = list(network(WIDTHS, 3, 1, generator()))[:-3]
    assert [type(layer) for layer in layers] == [type(layer) for layer in own]
    for layer, twin in zip(layers, own, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), twin.parameters(), strict=True))
    maps = backbone(torch.zeros(2, 3, SIZE, SIZE))
    assert [tuple(level.shape) for level in maps.values()] == [(2, 16, 16, 16), (2, 16, 8, 8), (2, 16, 4, 4)]
    maps = detectors.resnet18_backbone(16, generator())(torch.zeros(2, 3, SIZE, SIZE))
    assert [tuple(level.shape) for level in maps.values()] == [(2, 16, size, size) for size in (16, 8, 4, 2)]


@pytest.mark.parametrize("make", [fcos_plain, retinanet_plain])
def test_losses_without_objects_and_with_ignored_ones(
    make: Make, pictures: list[Picture], images: torch.Tensor
) -> None:
    model = make().train()
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    alone = training_loss(model, images, [nothing] * 4)
    assert alone.isfinite()
    alone.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    some = [detectors.target(picture) for picture in pictures]
    assert training_loss(model, images, some) != alone
    with pytest.raises(ValueError, match=r"is in eval mode, in which it has no losses; call \.train\(\) before"):
        training_loss(model.eval(), images, some)


def test_ignored_objects_are_no_targets() -> None:
    picture = Picture(
        image=np.zeros((SIZE, SIZE, 3), np.uint8),
        height=SIZE,
        width=SIZE,
        boxes=np.array([(1, 1, 5, 5), (2, 2, 9, 9), (3, 3, 6, 6)], np.float32),
        labels=np.array([4, 5, 6]),
        crowd=np.array([False, True, False]),
        difficult=np.array([False, False, True]),
        place="made up",
    )
    found = detectors.target(picture)
    assert found["boxes"].tolist() == [[1, 1, 5, 5]]
    assert found["labels"].tolist() == [4]


def test_small_objects_have_places() -> None:
    # Of each object of 6 pixels or more some place of the first level is trained to find it.
    model = fcos_plain().train()
    seen: list[torch.Tensor] = []
    compute = model.head.compute_loss

    def record(targets, outputs, anchors, matched):
        seen.extend(matched)
        return compute(targets, outputs, anchors, matched)

    model.head.compute_loss = record
    boxes = [(x, y, x + side, y + side) for side in (6, 12, 24, 44) for x in (0, 2, 9, 19) for y in (1, 8)]
    for box in boxes:
        item = {"boxes": torch.tensor([box], dtype=torch.float32), "labels": torch.tensor([1])}
        training_loss(model, torch.zeros(2, 3, SIZE, SIZE), [item, item])
    assert len(seen) == 2 * len(boxes)
    assert all((matched == 0).any() for matched in seen)


@pytest.mark.parametrize(
    ("widths", "size", "levels", "message"),
    [
        (WIDTHS, 64, 5, "levels is 5, expected 1 to 4, the number of blocks"),
        (WIDTHS, 64, 3, r"maps of 64 pixels have sides of \[32, 16, 8, 4\], expected a quarter of 64 or less"),
        (WIDTHS, 50, 2, r"maps of 50 pixels have sides of \[12, 6, 3\], expected a quarter of 50 or less"),
        (WIDTHS, 56, 2, r"maps of 56 pixels have sides of \[14, 7, 4\], expected a quarter of 56 or less, and each"),
    ],
)
def test_backbones_that_do_not_fit_are_refused(widths: tuple, size: int, levels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detectors.fcos(detectors.plain_backbone(widths, 16, generator(), levels), CLASSES, size, generator())


def test_too_many_levels_of_a_resnet_are_refused() -> None:
    with pytest.raises(ValueError, match="levels is 5, expected 1 to 4"):
        detectors.resnet18_backbone(16, generator(), levels=5)


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("make", [fcos_plain, retinanet_plain])
def test_nothing_is_taken_from_vector_libraries(make: Make, pictures: list[Picture], images: torch.Tensor) -> None:
    # What ATen computes with MKL's vector library, whose last bits depend on the maker of the CPU.
    vectored = {
        "acos",
        "asin",
        "atan",
        "cos",
        "erf",
        "erfc",
        "erfinv",
        "exp",
        "log",
        "log10",
        "sin",
        "sqrt",
        "tan",
        "tanh",
    }
    model = make().train()
    torch.nn.init.constant_(model.head.classification_head.cls_logits.bias, 0.0)
    with _Operations() as seen:
        training_loss(model, images, [detectors.target(picture) for picture in pictures]).backward()
        found = predict(model, images)
    assert len(found[0]["boxes"])
    assert "convolution" in seen.names
    assert not vectored & {name.rstrip("_") for name in seen.names}


def test_roots_are_rounded_exactly() -> None:
    values = torch.rand(1000, generator=generator())
    with detectors._Portable():
        assert np.array_equal(torch.sqrt(values).numpy(), np.sqrt(values.numpy()))
        # Where a gradient passes, torch's own is needed.
        leaf = values.clone().requires_grad_()
        torch.sqrt(leaf).sum().backward()
    assert leaf.grad is not None
    assert torch.allclose(leaf.grad, 0.5 / values.sqrt())


def outputs(model: Detector, images: torch.Tensor, training: bool) -> dict[str, torch.Tensor]:
    """The head's outputs in a mode, in double precision; batch statistics are left alone."""
    maps = copy.deepcopy(Maps(model)).train(training)
    with torch.no_grad():
        return {name: values.double() for name, values in maps(images).items()}


@pytest.mark.parametrize("make", [fcos_plain, retinanet_plain, fcos_resnet])
def test_divisions_change_nothing(make: Make, pictures: list[Picture], images: torch.Tensor) -> None:
    model = make().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, fused=True)
    targets = [detectors.target(picture) for picture in pictures]
    training_loss(model, images, targets).backward()
    optimizer.step()
    maps = Maps(model)
    graph = dnm.trace(maps, images)
    groups = [group for group in graph.groups if group.divisible]
    body = [group.name for group in groups if group.name.startswith("backbone.body")]
    pyramid = [group.name for group in groups if group.name.startswith("backbone.fpn")]
    assert len(body) >= len(WIDTHS)
    assert pyramid
    chosen = [body[0], body[-2], pyramid[-1]]
    parameters = {id(parameter) for parameter in model.parameters()}
    loss = training_loss(model, images, targets)
    before = [outputs(model, images, training) for training in (False, True)]
    for name in chosen:
        width = graph.group(name).width
        applied = dnm.apply(maps, dnm.Divide(name, (0, width - 1)), images, optimizer)
        assert applied.eval_difference < 1e-5
        assert applied.train_difference < 1e-5
        assert dnm.trace(Maps(model), images).group(name).width == width + 2
    assert {id(parameter) for parameter in model.parameters()} == parameters
    for training, old in zip((False, True), before, strict=True):
        new = outputs(model, images, training)
        for key in old:
            assert (new[key] - old[key]).norm() < 1e-4 * old[key].norm()
    model.train()
    assert training_loss(model, images, targets).item() == pytest.approx(loss.item(), rel=1e-4)
    training_loss(model, images, targets).backward()
    optimizer.step()


def test_a_backbone_alone_can_be_edited(images: torch.Tensor) -> None:
    model = fcos_plain()
    name = next(group.name for group in dnm.trace(model.backbone, images).groups if group.divisible)
    applied = dnm.apply(model.backbone, dnm.Divide(name, (1,)), images)
    assert applied.eval_difference < 1e-5
    assert applied.train_difference < 1e-5


@pytest.mark.parametrize("make", [fcos_plain, retinanet_plain])
def test_a_whole_detector_cannot_be_read(make: Make, images: torch.Tensor) -> None:
    with pytest.raises(dnm.GraphError, match="aten::index in .* takes its places from channels"):
        dnm.trace(make(), (images,))


def test_costs_are_counted() -> None:
    plain, resnet = (dnm.count(Maps(make()), torch.zeros(1, 3, SIZE, SIZE)) for make in (fcos_plain, fcos_resnet))
    assert plain.parameters == sum(parameter.numel() for parameter in fcos_plain().parameters())
    # The first convolution takes no gradient of its input, all others do.
    assert 2.5 < plain.training / plain.forward <= 3
    assert resnet.training > 5 * plain.training
