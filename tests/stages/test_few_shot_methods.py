"""Few-shot methods: against closed forms, scikit-learn, and slow code that is written here again from the papers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, max_pool2d, normalize

import dnm
from stages import episodes
from stages import few_shot_methods as methods
from stages.data import splits
from stages.data.few_shot import characters
from stages.data.reading import Reading
from stages.episodes import Episode, Form
from stages.tasks import image_classification as task

WAYS, SHOTS, QUERIES = 3, 4, 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tiny(seed: int = 0) -> nn.Sequential:
    """A network of the family in float64, whose batch norms have seen other data than the tests'."""
    model = task.network(((3,), (4,)), 1, WAYS, torch.Generator().manual_seed(seed)).double()
    model(3 * normal(20, 1, 6, 6, seed=9) + 1)
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias, std=0.3, generator=torch.Generator().manual_seed(seed))
    return model


@pytest.fixture
def support() -> Tensor:
    return normal(WAYS, SHOTS, 1, 6, 6, seed=1) + torch.arange(3.0).view(3, 1, 1, 1, 1)


@pytest.fixture
def queries() -> Tensor:
    return normal(WAYS, QUERIES, 1, 6, 6, seed=2) + torch.arange(3.0).view(3, 1, 1, 1, 1)


def labels(num: int, ways: int = WAYS) -> Tensor:
    return torch.arange(ways).repeat_interleave(num)


# Prototypical networks and the floor.


def test_logits_are_negative_squared_distances_but_for_a_constant_of_each_query() -> None:
    support, queries = normal(2, 3, 4, 6), normal(2, 3, 5, 6, seed=1)
    logits = methods.prototypical_logits(support, queries)
    assert logits.shape == (2, 3, 5, 3)
    distances = (queries.unsqueeze(3) - support.mean(dim=2)[:, None, None]).square().sum(dim=-1)
    constant = logits + distances
    assert torch.allclose(constant, constant[..., :1].expand_as(constant), atol=1e-12)


def brute_loss(support: Tensor, queries: Tensor) -> float:
    """Snell et al. 2017, equations 1 and 2, number by number."""
    total = []
    for way, of_way in enumerate(queries.tolist()):
        for query in of_way:
            distances = []
            for shots in support.tolist():
                prototype = [sum(values) / len(shots) for values in zip(*shots, strict=True)]
                distances.append(sum((a - b) ** 2 for a, b in zip(query, prototype, strict=True)))
            total.append(distances[way] + math.log(sum(math.exp(-distance) for distance in distances)))
    return sum(total) / len(total)


def test_prototypical_loss_is_that_of_the_paper() -> None:
    support, queries = normal(3, 4, 6), normal(3, 5, 6, seed=1)
    found = methods.prototypical_loss(support, queries)
    assert found.item() == pytest.approx(brute_loss(support, queries), rel=1e-5)
    pair = methods.prototypical_loss(torch.stack([support, 2 * support]), torch.stack([queries, queries]))
    expected = (brute_loss(support, queries) + brute_loss(2 * support, queries)) / 2
    assert pair.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["prototypical", "nearest_centroid"])
def test_predictions_are_those_of_scikit_learn(method: str) -> None:
    shape = (8,) if method == "prototypical" else (1, 4, 3)
    support, queries = normal(6, 4, 3, *shape), normal(6, 4, 7, *shape, seed=1)
    found = getattr(methods, method)(support, queries)
    assert found.shape == (6, 4, 7)
    for one, shots, asked in zip(found, support, queries, strict=True):
        peer = NearestCentroid().fit(shots.reshape(12, -1).numpy(), labels(3, 4).numpy())
        assert one.flatten().tolist() == peer.predict(asked.reshape(28, -1).numpy()).tolist()


@pytest.mark.parametrize(("shots", "distance"), [(1, 1.0), (5, 2.0), (5, 0.5)])
def test_two_normal_classes_on_a_line(shots: int, distance: float) -> None:
    # With means m and n of the shots and a query x of m's class, x is nearer to m iff (n - m)(m + n - 2x) > 0; the two
    # factors are independent, as m and n have the same variance, and both have the mean `distance`.
    one = stats.norm.cdf(distance / math.sqrt(2 / shots))
    other = stats.norm.cdf(distance / math.sqrt(2 / shots + 4))
    expected = one * other + (1 - one) * (1 - other)
    num = 2000
    drawn = normal(num, 2, shots + 10, 1, seed=shots)
    drawn[:, 1] += distance
    rows = torch.arange(num * 2 * (shots + 10)).view(num, 2, -1)
    taken = [Episode(one[:, :shots], one[:, shots:]) for one in rows]
    found = np.array(methods.evaluate(methods.prototypical, methods.of_features(drawn.view(-1, 1)), taken)) / 20
    error = found.std(ddof=1) / math.sqrt(num)
    assert abs(found.mean() - expected) < 4 * error
    assert error < 0.01


# The linear classifier.


@pytest.mark.parametrize("shots", [1, 5, 20])
def test_logistic_regression_is_that_of_scikit_learn(shots: int) -> None:
    means = normal(5, 16).repeat_interleave(shots, 0)
    inputs = normalize((normal(2, 5 * shots, 16, seed=1) + means).relu(), dim=-1)
    weights, bias = methods.logistic_regression(inputs, labels(shots, 5).expand(2, -1))
    for number in range(2):
        peer = LogisticRegression(C=1.0, tol=1e-9, max_iter=5000).fit(inputs[number].numpy(), labels(shots, 5).numpy())
        found = (inputs[number] @ weights[number].T + bias[number]).softmax(dim=-1)
        assert np.abs(found.numpy() - peer.predict_proba(inputs[number].numpy())).max() < 1e-4


def test_linear_predictions_are_those_of_scikit_learn_on_unit_features() -> None:
    support, queries = normal(4, 3, 5, 8) * 7, normal(4, 3, 6, 8, seed=1) * 7
    shift = 5 * normal(4, 3, 1, 8, seed=2)
    found = methods.linear(support + shift, queries + shift)
    for one, shots, asked in zip(found, support + shift, queries + shift, strict=True):
        unit = [normalize(values.reshape(-1, 8), dim=-1).numpy() for values in (shots, asked)]
        peer = LogisticRegression(C=1.0, tol=1e-9, max_iter=5000).fit(unit[0], labels(5).numpy())
        assert one.flatten().tolist() == peer.predict(unit[1]).tolist()


# Scores.


def test_what_is_recognised_is_counted_by_episode() -> None:
    # Each row's input is the way that will be predicted for it; of episode i, i % 6 queries are predicted wrong.
    num = 43
    rows = torch.arange(num * 10).view(num, 2, 5)
    guesses = torch.tensor([0, 1]).view(1, 2, 1).repeat(num, 1, 5)
    for number in range(num):
        guesses[number].view(-1)[[2, 3, 4, 7, 8, 9][: number % 6]] += 5
    taken = [Episode(one[:, :2], one[:, 2:]) for one in rows]
    seen = []

    def predict(support: Tensor, queries: Tensor) -> Tensor:
        seen.append((tuple(support.shape[1:]), tuple(queries.shape[1:])))
        return queries.squeeze(-1)

    found = methods.evaluate(predict, methods.of_features(guesses.view(-1, 1)), taken)
    assert set(seen) == {((2, 2, 1), (2, 3, 1))}
    assert found == [6 - number % 6 for number in range(num)]


def test_images_are_those_of_the_rows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)
    split = task.Split.of(pixels, np.arange(12), 2, [100.0], [50.0], "cpu")
    rows = torch.tensor([[3, 1], [11, 0]])
    found = methods.of_images(split)(rows)
    assert found.shape == (2, 2, 1, 8, 8)
    assert torch.allclose(found[1, 0, 0], (torch.from_numpy(pixels[11, ..., 0]).float() - 100) / 50)


# Networks.


def test_the_embedding_is_the_network_without_its_last_layer() -> None:
    widths = ((4,), (6, 6))
    model = methods.embedding(widths, 1, torch.Generator().manual_seed(0))
    whole = task.network(widths, 1, 1, torch.Generator().manual_seed(0))
    assert type(model) is nn.Sequential
    assert [str(layer) for layer in model] == [str(layer) for layer in whole][:-1]
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), whole.parameters(), strict=False))
    assert task.widths_of(model) == widths
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 6)
    assert methods.without_head(whole)[0] is whole[0]


@pytest.mark.parametrize("training", [True, False])
def test_features_are_made_in_eval_mode_and_the_mode_is_put_back(training: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)
    split = task.Split.of(pixels, np.arange(12), 0, [100.0], [50.0], "cpu")
    model = methods.embedding(((4,),), 1, torch.Generator().manual_seed(0)).train(training)
    found = methods.features(model, split, batch_size=5)
    assert model.training == training
    assert not found.requires_grad
    assert torch.allclose(found, model.eval()(split.batch(torch.arange(12))[0]), atol=1e-6)


# MAML.


def written_again(model: nn.Sequential, parameters: list[Tensor], images: Tensor, num: int) -> Tensor:
    """Logits of `tiny`, from its layers' definitions; batch norms take the first `num` images' statistics."""
    found, left = images, list(parameters)
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            found = conv2d(found, left.pop(0), padding=1)
        elif isinstance(layer, nn.BatchNorm2d):
            of_support = found[:num]
            mean = of_support.mean(dim=(0, 2, 3), keepdim=True)
            variance = (of_support - mean).square().mean(dim=(0, 2, 3), keepdim=True)
            scale, shift = left.pop(0), left.pop(0)
            found = (found - mean) / (variance + layer.eps).sqrt() * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
        elif isinstance(layer, nn.ReLU):
            found = found.clamp(min=0)
        elif isinstance(layer, nn.MaxPool2d):
            found = max_pool2d(found, 2)
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            found = found.mean(dim=(2, 3))
        elif isinstance(layer, nn.Linear):
            found = found @ left.pop(0).T + left.pop(0)
    assert not left
    return found


def unrolled_loss(
    model: nn.Sequential, support: Tensor, queries: Tensor, steps: int, rate: float, second_order: bool
) -> Tensor:
    """Finn et al. 2017, equation 1, for one task, by autograd through the updates."""
    parameters: list[Tensor] = list(model.parameters())
    images, num = support.flatten(0, 1), WAYS * SHOTS
    for _ in range(steps):
        loss = cross_entropy(written_again(model, parameters, images, num), labels(SHOTS))
        gradients = torch.autograd.grad(loss, parameters, create_graph=second_order)
        parameters = [value - rate * gradient for value, gradient in zip(parameters, gradients, strict=True)]
    logits = written_again(model, parameters, torch.cat([images, queries.flatten(0, 1)]), num)[num:]
    return cross_entropy(logits, labels(QUERIES))


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_maml_is_that_of_the_paper(steps: int, second_order: bool, support: Tensor, queries: Tensor) -> None:
    model = tiny()
    loss = methods.maml_loss(model, support, queries, steps=steps, rate=0.3, second_order=second_order)
    expected = unrolled_loss(model, support, queries, steps, 0.3, second_order)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    found = torch.autograd.grad(loss, list(model.parameters()))
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_maml_gradient_of_second_order_is_the_slope_of_the_loss(support: Tensor, queries: Tensor) -> None:
    model, step = tiny(), 1e-6
    parameters = list(model.parameters())

    def loss(second_order: bool = True) -> Tensor:
        return methods.maml_loss(model, support, queries, steps=2, rate=0.3, second_order=second_order)

    second, first = (torch.autograd.grad(loss(order), parameters) for order in (True, False))
    for seed in range(3):
        directions = [normal(*parameter.shape, seed=seed + 10) for parameter in parameters]
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter += sign * step * direction
            values.append(loss().item())
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter -= sign * step * direction
        slope = (values[0] - values[1]) / (2 * step)
        along = [
            sum((one * other).sum().item() for one, other in zip(gradients, directions, strict=True))
            for gradients in (second, first)
        ]
        assert along[0] == pytest.approx(slope, rel=1e-5)
        assert along[1] != pytest.approx(slope, rel=1e-2)


@pytest.mark.parametrize("training", [True, False])
def test_maml_leaves_the_network_as_it_was(training: bool, support: Tensor, queries: Tensor) -> None:
    model = tiny().train(training)
    before = copy.deepcopy(model.state_dict())
    methods.maml_loss(model, support, queries, steps=2, rate=0.3, second_order=True).backward()
    methods.maml(model, steps=2, rate=0.3)(support[None], queries[None])
    with pytest.raises(RuntimeError):
        methods.maml(model, steps=2, rate=0.3)(support[None, ..., None], queries[None])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training == training
    assert not any(layer._forward_hooks for layer in model.modules())


def test_maml_predicts_with_the_adapted_network(support: Tensor, queries: Tensor) -> None:
    model, pair = tiny(), (torch.stack([support, -support]), torch.stack([queries, -queries]))
    with torch.no_grad():
        found = methods.maml(model, steps=5, rate=0.5)(*pair)
        plain = methods.maml(model, steps=0, rate=0.5)(*pair)
    for number, sign in enumerate((1, -1)):
        copied = copy.deepcopy(model)
        for _ in range(5):
            copied.zero_grad()
            images = sign * support.flatten(0, 1)
            cross_entropy(written_again(copied, list(copied.parameters()), images, 12), labels(SHOTS)).backward()
            with torch.no_grad():
                for parameter in copied.parameters():
                    assert parameter.grad is not None
                    parameter -= 0.5 * parameter.grad
        both = torch.cat([images, sign * queries.flatten(0, 1)])
        expected = written_again(copied, list(copied.parameters()), both, 12)[12:].argmax(dim=-1)
        assert found[number].flatten().tolist() == expected.tolist()
    assert not torch.equal(found, plain)


# Training on the support alone.


def test_support_alone_trains_a_copy_for_each_episode(support: Tensor, queries: Tensor) -> None:
    model = tiny()
    before = copy.deepcopy(model.state_dict())
    predict = methods.support_alone(model, steps=30, rate=0.02)
    with torch.no_grad():
        found = predict(torch.stack([support, support.flip(0)]), torch.stack([queries, queries.flip(0)]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for number, (shots, asked) in enumerate([(support, queries), (support.flip(0), queries.flip(0))]):
        copied = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(copied.parameters(), lr=0.02, fused=True)
        for _ in range(30):
            optimizer.zero_grad()
            cross_entropy(copied(shots.flatten(0, 1)), labels(SHOTS)).backward()
            optimizer.step()
        copied.eval()
        assert found[number].flatten().tolist() == copied(asked.flatten(0, 1)).argmax(dim=-1).tolist()
    # Two thirds are far above chance: it learned, and each episode its own order of classes.
    right = (found == torch.arange(WAYS)[:, None]).double().mean(dim=(1, 2))
    assert (right > 0.66).all()


METHODS: dict[str, Callable[[nn.Sequential], methods.Predict]] = {
    "prototypical": lambda model: methods.prototypical,
    "nearest_centroid": lambda model: methods.nearest_centroid,
    "linear": lambda model: methods.linear,
    "maml": lambda model: methods.maml(model, steps=10, rate=0.5),
    "support_alone": lambda model: methods.support_alone(model, steps=30, rate=0.03),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_prediction_does_not_depend_on_other_queries(name: str, support: Tensor, queries: Tensor) -> None:
    shots, asked = support[None], torch.cat([queries, 2 * normal(WAYS, 20, 1, 6, 6, seed=3)], dim=1)[None]
    if name in ("prototypical", "linear"):
        shots, asked = shots.flatten(3), asked.flatten(3)
    predict = METHODS[name](tiny())
    with torch.no_grad():
        together = predict(shots, asked)
        one_by_one = torch.cat([predict(shots, asked[:, :, number : number + 1]) for number in range(25)], dim=2)
    assert torch.equal(together, one_by_one)
    assert len(together.unique()) == WAYS


# Meta-training on characters, and growth in it.


@pytest.fixture(scope="module")
def drawn() -> Reading:
    return characters.generate(train=20, validation=1, test=10, drawings=12, size=12, distortion=0.4, seed=0)


def split_of(drawn: Reading, name: str) -> task.Split:
    images = getattr(drawn, name)
    return task.Split.of(images.images, images.labels, 0, *splits.channel_statistics(drawn.train.images), "cpu")


def meta_train(model: nn.Module, drawn: Reading, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    split, form = split_of(drawn, "train"), Form(ways=10, shots=1, queries=3)
    source = episodes.sample(episodes.rows_of_classes(split.labels), form, torch.Generator().manual_seed(seed))
    for episode in islice(source, steps):
        loss = methods.prototypical_loss(*form.parts(model(split.batch(episode.rows)[0])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_meta_training_helps_with_classes_never_trained_on(drawn: Reading) -> None:
    split, form = split_of(drawn, "test"), Form(ways=5, shots=1, queries=8)
    fixed = episodes.fixed(episodes.rows_of_classes(split.labels), form, 200, 0)
    model = methods.embedding(((8,), (16,)), 1, torch.Generator().manual_seed(0))

    def score() -> np.floating:
        inputs = methods.of_features(methods.features(model, split))
        return np.mean(methods.evaluate(methods.prototypical, inputs, fixed)) / 40

    untrained = score()
    meta_train(model, drawn, torch.optim.AdamW(model.parameters(), lr=0.01, fused=True), 120)
    floor = np.mean(methods.evaluate(methods.nearest_centroid, methods.of_images(split), fixed)) / 40
    assert score() > max(floor, untrained) + 0.05


def test_every_division_in_meta_training_is_exact_and_the_optimizer_follows(drawn: Reading) -> None:
    model = methods.embedding(((4,), (6, 6), (8,)), 1, torch.Generator().manual_seed(0)).double()
    split, form = split_of(drawn, "train"), Form(ways=10, shots=1, queries=3)
    images = split.batch(torch.arange(40))[0].double()
    (episode,) = episodes.fixed(episodes.rows_of_classes(split.labels), form, 1, 7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    inputs = split.batch(episode.rows)[0].double()
    groups = [group for group in dnm.trace(model, images).groups if group.divisible]
    # All but the last layer's units, which are the features.
    assert [group.width for group in groups] == [4, 6, 6]

    def step() -> float:
        loss = methods.prototypical_loss(*form.parts(model(inputs)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [step() for _ in range(3)]
    for group in groups:
        before = methods.prototypical_loss(*form.parts(model(inputs))).item()
        held = {id(parameter): optimizer.state[parameter]["exp_avg"].clone() for parameter in model.parameters()}
        applied = dnm.apply(model, dnm.Divide(group.name, (0, 2)), images, optimizer)
        after = methods.prototypical_loss(*form.parts(model(inputs))).item()
        assert after == pytest.approx(before, rel=1e-6)
        assert applied.train_difference < 1e-9
        grown = 0
        for parameter in model.parameters():
            moment, old = optimizer.state[parameter]["exp_avg"], held[id(parameter)]
            assert moment.shape == parameter.shape
            grown += moment.shape != old.shape
            # What neither was divided nor reads what was is as it was.
            kept = moment[tuple(slice(length) for length in old.shape)]
            assert torch.equal(kept[1], old[1])
        assert grown == 4
        losses.append(step())
    assert task.widths_of(model) == ((6,), (8, 8), (8,))
    losses += [step() for _ in range(20)]
    assert losses[-1] < losses[0] - 0.1


def test_a_division_keeps_what_maml_starts_from_and_not_where_its_steps_lead(support: Tensor, queries: Tensor) -> None:
    model = tiny()
    images = support.flatten(0, 1)

    def loss(steps: int) -> float:
        return methods.maml_loss(model, support, queries, steps=steps, rate=0.3, second_order=False).item()

    before = loss(0), loss(2)
    group = next(group for group in dnm.trace(model, images).groups if group.divisible)
    dnm.apply(model, dnm.Divide(group.name, (0, 1)), images)
    assert loss(0) == pytest.approx(before[0], rel=1e-10)
    # The twins' gradients are other ones than the unit's was.
    assert loss(2) != pytest.approx(before[1], rel=1e-3)
    assert loss(2) < loss(0)
