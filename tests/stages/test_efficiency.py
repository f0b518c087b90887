"""What networks cost: counts against closed forms, architectures rebuilt, folding, timing, and the tables."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from dnm import AddAttention, AddResidual, Divide, Prune, apply, count
from stages import branches, cli, documented, efficiency, efficiency_table, latency, outputs, tables, tracking, trial
from stages.settings import Execution, Latency, Row, Settings
from stages.tasks import image_classification as task

ROW, CLASSES, CHANNELS, SIZE = "strokes", 3, 3, 8
CARD = {
    "sha256": "5a" * 32,
    "channels": CHANNELS, "image_size": [SIZE, SIZE], "classes": ["a", "b", "c"], "source": "generated strokes",
    "licence": "MIT", "note": "",
}  # fmt: skip
FIGURES = ("parameters", "forward_flops", "sample_training_flops", "activation_memory", "training_memory")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy|alembic).*")


@pytest.fixture
def context(tmp_path: Path, tiny_row: Row, execution: Execution) -> cli.Context:
    given: dict[str, Any] = {
        "scale": "tiny", "root": ".", "params_file": "params.yaml", "execution": execution,
        "image_classification": {ROW: tiny_row}, "latency": Latency(compiled=False, seconds=0.5),
    }  # fmt: skip
    sections: dict[str, Any] = {field.name: {} for field in dataclasses.fields(Settings) if field.name not in given}
    return cli.Context(Settings(**given, **sections), tmp_path, ROW)


@functools.cache
def grown(row: Row, seed: int, pruned: bool) -> dict[str, Any]:
    """What a trial leaves of a network that grew from the row's start network and, maybe, lost units in the end."""
    model = task.network(row.networks.start, CHANNELS, CLASSES, torch.Generator().manual_seed(seed))
    images = torch.randn(8, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    edits: list[Any] = [
        Divide("4", (0, 1, 2)),
        AddAttention("5", reduction=2),
        AddResidual("8", width=5),
        Divide("0", tuple(range(seed + 1))),
    ]
    if pruned:
        edits += [Prune("4", (0, 3)), Prune("7", (1,))]
    journal = [apply(model, edit, images).entry for edit in edits]
    return {
        "arm": "dnm", "seed": seed, "journal": json.loads(json.dumps(journal)),
        "widths": [list(block) for block in task.widths_of(model)],
        "branches": [list(found) for found in branches.branches_of(model)],
    }  # fmt: skip


def lines_of(context: cli.Context, pruned: tuple[bool, ...] = (True, True)) -> list[dict[str, Any]]:
    data = efficiency.blank(CARD)
    return [
        line
        for seed, own in enumerate(pruned)
        for line in efficiency.seed_lines(
            efficiency.networks(context, data, grown(context.row, seed, own)),
            seed,
            efficiency.example(data),
            context.row.training,
        )
    ]


def at(lines: list[dict[str, Any]], arm: str, seed: int = 0) -> dict[str, Any]:
    (found,) = [line for line in lines if (line["arm"], line["seed"]) == (arm, seed)]
    return found


def plain_counts(first: int, second: int, third: int) -> tuple[int, int, int]:
    """Parameters, forward and training FLOPs of widths ((first,), (second, third)) on the tiny images, by hand.

    The gradients of weights and of inputs take a forward pass each, but for the images, of which no gradient is taken.
    """
    half = SIZE // 2
    convolutions = [(CHANNELS, first, SIZE), (first, second, half), (second, third, half)]
    parameters = sum(9 * i * o + 2 * o for i, o, _ in convolutions) + third * CLASSES + CLASSES
    flops = [2 * 3 * 3 * i * o * size * size for i, o, size in convolutions] + [2 * third * CLASSES]
    return parameters, sum(flops), 3 * sum(flops) - flops[0]


def test_fixed_networks_cost_what_the_closed_forms_say(context: cli.Context) -> None:
    lines = lines_of(context)
    for arm, widths in (("baseline", (8, 12, 12)), ("start", (4, 6, 6))):
        for seed in (0, 1):
            line = at(lines, arm, seed)
            found = line["parameters"], line["forward_flops"], line["sample_training_flops"]
            assert found == plain_counts(*widths)


def test_a_grown_and_pruned_network_is_rebuilt(context: cli.Context) -> None:
    data, item = efficiency.blank(CARD), grown(context.row, 0, True)
    models = efficiency.networks(context, data, item)
    assert tuple(models) == ("baseline", "dnm", "dnm_before_pruning", "scratch", "start")
    # Both grew from 4, 6, 6: a unit more, three more; then two and one went.
    widths = {arm: task.widths_of(model) for arm, model in models.items() if isinstance(model, nn.Sequential)}
    assert widths["start"] == ((4,), (6, 6)) and widths["dnm_before_pruning"] == ((5,), (9, 6))
    assert widths["dnm"] == widths["scratch"] == ((5,), (7, 5))
    shapes = {arm: {k: v.shape for k, v in model.state_dict().items()} for arm, model in models.items()}
    assert shapes["dnm"] == shapes["scratch"] != shapes["dnm_before_pruning"]
    parameters, flops, _ = plain_counts(5, 7, 5)
    # The gate behind the second norm, of ratio 2 when it had 9 channels, and the branch of width 5 behind the third.
    gate, branch = (7 * 4 + 4) + (4 * 7 + 7), 9 * 5 * 5 + 2 * 5 + 9 * 5 * 5 + 2 * 5
    line = at(lines_of(context), "dnm")
    assert line["parameters"] == parameters + gate + branch
    assert line["forward_flops"] == flops + 2 * (7 * 4 + 4 * 7) + 2 * 2 * 9 * 5 * 5 * (SIZE // 2) ** 2
    cost = count(models["dnm"], efficiency.example(data))
    assert line["activation_memory"] == cost.activation_memory > at(lines_of(context), "start")["activation_memory"]


def test_without_pruning_both_are_one(context: cli.Context) -> None:
    lines = lines_of(context, (False, False))
    assert {k: at(lines, "dnm")[k] for k in FIGURES} == {k: at(lines, "dnm_before_pruning")[k] for k in FIGURES}
    pruned = lines_of(context)
    assert at(pruned, "dnm_before_pruning") == at(lines, "dnm_before_pruning")
    assert at(pruned, "dnm")["parameters"] < at(lines, "dnm")["parameters"]


def test_only_the_last_pruning_is_left_out() -> None:
    journal = [{"operator": name, "number": i} for i, name in enumerate(("Prune", "Divide", "Prune", "Prune"))]
    assert [entry["number"] for entry in efficiency.before_pruning(journal)] == [0, 1]
    assert efficiency.before_pruning(journal[:2]) == journal[:2] and efficiency.before_pruning([]) == []
    assert len(journal) == 4


def test_a_shape_that_is_not_the_grown_one_is_found(context: cli.Context) -> None:
    item = copy.deepcopy(grown(context.row, 0, True))
    item["widths"][1][0] += 1
    data = efficiency.blank(CARD)
    with pytest.raises(AssertionError, match="seed 0: the network built from widths and branches costs"):
        efficiency.seed_lines(
            efficiency.networks(context, data, item), 0, efficiency.example(data), context.row.training
        )


def test_a_journal_of_another_start_network_is_refused(context: cli.Context, tiny_row: Row) -> None:
    wider = dataclasses.replace(tiny_row, networks=dataclasses.replace(tiny_row.networks, start=((4,), (7, 6))))
    settings = dataclasses.replace(context.settings, image_classification={ROW: wider})
    other = dataclasses.replace(context, settings=settings)
    with pytest.raises(cli.UserError, match="strokes: dnm of seed 0 cannot be rebuilt: .*run the stage morphogenesis"):
        efficiency.networks(other, efficiency.blank(CARD), grown(tiny_row, 0, True))


@pytest.mark.parametrize(("optimizer", "copies"), [("AdamW", 4), ("SGD", 3)])
def test_memory_of_a_training_step(context: cli.Context, optimizer: str, copies: int) -> None:
    training = dataclasses.replace(context.row.training, optimizer=optimizer, batch_size=16)
    data = efficiency.blank(CARD)
    models = efficiency.networks(context, data, grown(context.row, 0, True))
    for line in efficiency.seed_lines(models, 0, efficiency.example(data), training):
        expected = 16 * line["activation_memory"] + 4 * line["parameters"] * copies
        assert line["training_memory"] * 1024 * 1024 == expected


def test_activation_memory_of_a_network_of_one_layer() -> None:
    """Nothing but the output is alive: the input and the weights are not counted, nor the gradient of the latter."""
    model = nn.Sequential(nn.Conv2d(CHANNELS, 5, 1, bias=False))
    assert count(model, torch.zeros(1, CHANNELS, SIZE, SIZE)).activation_memory == 4 * 5 * SIZE * SIZE


def test_networks_that_are_not_the_trials_are_refused(context: cli.Context) -> None:
    lines = lines_of(context)
    trials = {
        (line["arm"], line["seed"]): {name: str(line[name]) for name in ("parameters", "forward_flops")}
        for line in lines
        if line["arm"] != "dnm_before_pruning"
    }
    efficiency.check(lines, trials, ROW)
    for figure, stage in (("parameters", "baseline"), ("forward_flops", "morphogenesis")):
        arm = "baseline" if stage == "baseline" else "start"
        wrong = {**trials, (arm, 1): {**trials[arm, 1], figure: "7"}}
        message = f"{arm} of seed 1, built anew, has {figure} .*, its trial had 7.*run the stage {stage} again"
        with pytest.raises(cli.UserError, match=message):
            efficiency.check(lines, wrong, ROW)
    del trials["scratch", 0]
    with pytest.raises(cli.UserError, match="no trial of scratch with seed 0.*run the stage morphogenesis again"):
        efficiency.check(lines, trials, ROW)


def written(context: cli.Context, items: list[dict[str, Any]]) -> None:
    """The files of the stages before."""
    data, lines = efficiency.blank(CARD), []
    for item in items:
        models = efficiency.networks(context, data, item)
        lines += [(arm, item["seed"], count(model, efficiency.example(data))) for arm, model in models.items()]
    outputs.write_json(context.metrics / "prepare" / f"{ROW}.json", CARD)
    outputs.write_text(context.metrics / "morphogenesis" / f"{ROW}.journals.json", json.dumps(items))
    for stage, arms in (("baseline", ["baseline"]), ("morphogenesis", ["start", "dnm", "scratch"])):
        found = [
            {"arm": arm, "seed": seed, "parameters": cost.parameters, "forward_flops": cost.forward}
            for arm, seed, cost in lines
            if arm in arms
        ]
        outputs.write_csv(context.metrics / stage / f"{ROW}.trials.csv", found, list(found[0]))


def test_the_stage(context: cli.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [grown(context.row, seed, True) for seed in (0, 1)]
    written(context, items)
    seen = []
    slow = latency.latencies

    def quick(networks: dict[str, nn.Module], *arguments: Any, **options: Any) -> Any:
        seen.append({arm: count(model, arguments[0]).parameters for arm, model in networks.items()})
        return slow(networks, *arguments, **options, repetitions=2, warm_ups=0, batch_sizes=(1, 4))

    monkeypatch.setattr(latency, "latencies", quick)
    process = {"peak_mib": 300.0, "before_mib": 200.0}
    monkeypatch.setattr(efficiency, "process_memory", lambda *_: {"baseline": process, "dnm": process})
    efficiency.main(context)
    folder = context.metrics / "efficiency"
    lines = outputs.read_csv(folder / f"{ROW}.csv")
    assert [(line["arm"], line["seed"]) for line in lines] == [
        (arm, seed) for arm in ("baseline", "dnm", "dnm_before_pruning", "scratch", "start") for seed in "01"
    ]
    assert list(lines[0]) == ["arm", "seed", *FIGURES]
    counted = lines_of(context)
    for line in lines:
        own = at(counted, line["arm"], int(line["seed"]))
        assert [float(line[figure]) for figure in FIGURES] == [own[figure] for figure in FIGURES]
    found = outputs.read_json(folder / f"{ROW}.json")
    assert found["batch_size"] == 16 and found["optimizer"] == "AdamW"
    assert found["image"] == [3, 8, 8] and found["classes"] == 3
    assert {name: found[name] for name in efficiency.statistics(lines)} == efficiency.statistics(lines)
    # Seed 0's networks are the ones that are timed, and nothing of it stands among what is the same on every run.
    assert seen == [{line["arm"]: line["parameters"] for line in counted if line["seed"] == 0}]
    assert not any("_ms" in file.read_text(encoding="utf-8") for file in folder.iterdir())
    machine = outputs.read_json(context.metrics / "machine" / f"efficiency-{ROW}.json")
    for arm in efficiency.ARMS:
        assert machine["latency"]["eager"]["4"][arm]["repetitions"] == 2
        assert machine["latency"]["compiled"]["1"][arm] == {"reason": latency.NOT_COMPILED}
    content = {file.name: file.read_bytes() for file in folder.iterdir()}
    efficiency.main(context)
    assert content == {file.name: file.read_bytes() for file in folder.iterdir()}
    from mlflow.tracking import MlflowClient

    # It stands in MLflow, once, with the means of the lines.
    client = MlflowClient(tracking.uri(context.root))
    (run,) = client.search_runs([client.get_experiment_by_name("dnm-tiny").experiment_id])
    assert run.data.tags["dnm.stage"] == "efficiency"
    for arm in ("dnm", "dnm_before_pruning"):
        own = [float(line["parameters"]) for line in lines if line["arm"] == arm]
        assert run.data.metrics[f"parameters/{arm}"] == sum(own) / 2
    assert not tracking.record(context, "efficiency")


@pytest.mark.parametrize("compiled", [False, True])
def test_settings_say_how_networks_are_timed(context: cli.Context, monkeypatch, compiled: bool) -> None:
    settings = dataclasses.replace(context.settings, latency=Latency(compiled=compiled, seconds=0.25))
    written(context, [grown(context.row, seed, True) for seed in (0, 1)])
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(latency, "latencies", lambda *arguments, **options: asked.append(options) or {})
    monkeypatch.setattr(efficiency, "process_memory", lambda *_: {})
    efficiency.main(dataclasses.replace(context, settings=settings))
    assert [(options["compiled"], options["seconds"]) for options in asked] == [(compiled, 0.25)]


def test_a_row_that_the_document_does_not_have_is_counted_and_not_timed(context: cli.Context, monkeypatch) -> None:
    row = dataclasses.replace(context.row, documented_row="none")
    context = dataclasses.replace(
        context, settings=dataclasses.replace(context.settings, image_classification={ROW: row})
    )
    written(context, [grown(context.row, seed, True) for seed in (0, 1)])
    monkeypatch.setattr(latency, "latencies", lambda *arguments, **options: pytest.fail("it was timed"))
    efficiency.main(context)
    assert len(outputs.read_csv(context.metrics / "efficiency" / f"{ROW}.csv")) == 10
    assert not (context.metrics / "machine").exists()


def test_the_stage_says_which_trials_are_missing(context: cli.Context) -> None:
    items = [grown(context.row, seed, True) for seed in (0, 1)]
    written(context, items)
    file = context.metrics / "morphogenesis" / f"{ROW}.journals.json"
    outputs.write_text(file, json.dumps(items[:1]))
    with pytest.raises(cli.UserError, match="no trial of dnm with seed 1, expected 2 seeds"):
        efficiency.main(context)
    outputs.write_text(file, json.dumps([items[0], {k: v for k, v in items[1].items() if k != "branches"}]))
    with pytest.raises(cli.UserError, match="dnm with seed 1 has no branches; it is of an older release"):
        efficiency.main(context)
    assert not (context.metrics / "efficiency").exists()


def made_up(seeds: int = 6) -> list[dict[str, Any]]:
    """Lines of a CSV file, as text."""
    random = np.random.default_rng(4)
    scales = {"baseline": 10.0, "dnm": 11.5, "dnm_before_pruning": 12.5, "scratch": 11.0, "start": 3.0}
    return [
        {"arm": arm, "seed": str(seed), **{f: repr(float(scale * random.uniform(80, 120))) for f in FIGURES}}
        for arm, scale in scales.items()
        # In no order that the arms share.
        for seed in (range(seeds) if arm == "dnm" else reversed(range(seeds)))
    ]


def by_seed(lines: list[dict[str, Any]], arm: str, figure: str) -> np.ndarray:
    return np.array([float(x[figure]) for x in sorted(lines, key=lambda x: int(x["seed"])) if x["arm"] == arm])


def test_statistics_by_numpy() -> None:
    lines = made_up()
    found = efficiency.statistics(lines)
    differences = {
        ("overhead", "dnm"): by_seed(lines, "dnm", "training_memory") / by_seed(lines, "baseline", "training_memory")
        - 1,
        ("overhead", "scratch"): by_seed(lines, "scratch", "training_memory")
        / by_seed(lines, "baseline", "training_memory")
        - 1,
        ("saved", "dnm"): 1 - by_seed(lines, "dnm", "forward_flops") / by_seed(lines, "baseline", "forward_flops"),
        ("pruning", ""): 1
        - by_seed(lines, "dnm", "forward_flops") / by_seed(lines, "dnm_before_pruning", "forward_flops"),
    }
    for (name, arm), shares in differences.items():
        percent = 100 * shares
        half = stats.t.ppf(0.975, len(percent) - 1) * np.std(percent, ddof=1) / math.sqrt(len(percent))
        difference = found[name][arm] if arm else found[name]
        assert difference["mean"] == pytest.approx(np.mean(percent))
        assert difference["low"] == pytest.approx(np.mean(percent) - half)
        assert difference["high"] == pytest.approx(np.mean(percent) + half)
        assert difference["num_seeds"] == 6
    assert found["arms"]["start"]["training_memory"]["mean"] == pytest.approx(
        np.mean(by_seed(lines, "start", "training_memory"))
    )
    fewer = by_seed(lines, "dnm", "parameters") < by_seed(lines, "dnm_before_pruning", "parameters")
    assert found["pruned"] == fewer.sum() and found["seeds"] == 6


def test_statistics_refuse_arms_of_different_seeds() -> None:
    lines = made_up()
    with pytest.raises(cli.UserError, match="expected the same seeds of each of baseline, dnm"):
        efficiency.statistics(lines[1:])
    with pytest.raises(cli.UserError, match="expected the same seeds"):
        efficiency.statistics([line for line in lines if line["arm"] != "start"])


def stirred(model: nn.Sequential) -> nn.Sequential:
    """The network in eval mode, with norms that do something and branches that are not the identity."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("running_var"):
                tensor.uniform_(0.3, 3.0, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(std=0.4, generator=generator)
    return model.eval()


def with_branches(*edits: Any) -> nn.Sequential:
    model = task.network(((5,), (6, 7)), CHANNELS, CLASSES, torch.Generator().manual_seed(0))
    images = torch.randn(8, CHANNELS, SIZE, SIZE)
    for edit in edits:
        apply(model, edit, images)
    return stirred(model)


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("edits", "left", "layers"),
    [
        ((), 0, 10),
        # Layers 0, 1, 2 are convolution, norm and ReLU. A gate between the first two keeps the norm.
        ((AddAttention("0"),), 1, 11),
        ((AddAttention("1"),), 0, 11),
        ((AddAttention("2"),), 0, 10),
        # The two norms of a branch go in any case.
        ((AddResidual("0", width=3),), 1, 11),
        ((AddResidual("1", width=3), AddAttention("1")), 0, 11),
        ((AddResidual("2", width=3),), 0, 10),
        ((AddResidual("4", width=3), AddAttention("5"), AddResidual("8"), AddResidual("12")), 1, 12),
    ],
)  # fmt: skip
def test_folding(edits: tuple[Any, ...], left: int, layers: int) -> None:
    model = with_branches(*edits)
    images = torch.randn(16, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    folded = latency.fold(model)
    assert isinstance(folded, nn.Sequential)
    expected = model(images)
    torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    latency.check_folded(model, folded, images)
    assert norms(folded) == left and len(folded) == layers
    # A convolution that took a norm in has a bias from then on.
    assert sum(isinstance(m, nn.Conv2d) and m.bias is not None for m in folded.modules()) == norms(model) - left
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_norms_that_cannot_be_folded_stay() -> None:
    unlike = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    fresh = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert norms(latency.fold(unlike)) == norms(latency.fold(fresh)) == 1
    outside = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4))
    assert norms(latency.fold(outside)) == 1


def test_a_wrong_fold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = with_branches(), torch.randn(4, CHANNELS, SIZE, SIZE)
    folded = latency.fold(model)
    assert isinstance(folded, nn.Sequential)
    with torch.no_grad():
        folded.get_parameter("0.bias").add_(0.01)
    with pytest.raises(AssertionError, match="folding batch norms changed the outputs by"):
        latency.check_folded(model, folded, images)
    # Of a network as it is made, whose norms do nothing, a fold that drops them would pass but for what is drawn.
    fresh = task.network(((5,), (6, 7)), CHANNELS, CLASSES, torch.Generator().manual_seed(0))
    latency.prepared(fresh, images[:1])
    monkeypatch.setattr(latency, "fuse_conv_bn_eval", lambda convolution, norm: convolution)
    with pytest.raises(AssertionError, match="folding batch norms changed the outputs by"):
        latency.prepared(fresh, images[:1])


class Clock:
    """Time that passes when a call says so."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, []

    def __call__(self) -> float:
        return self.now

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.order.append(name)
            self.now += seconds

        return run


def test_rounds_are_interleaved_and_warm_ups_left_out() -> None:
    clock = Clock()
    calls = {"a": clock.call("a", 1.0), "b": clock.call("b", 2.0), "c": clock.call("c", 4.0)}
    times = latency.interleaved(
        calls, repetitions=20, warm_ups=2, seconds=1e9, clock=clock, processor_clock=lambda: clock.now / 2
    )
    assert times == {"a": [(1.0, 0.5)] * 20, "b": [(2.0, 1.0)] * 20, "c": [(4.0, 2.0)] * 20}
    rounds = [tuple(clock.order[start : start + 3]) for start in range(0, len(clock.order), 3)]
    assert len(rounds) == 22 and {frozenset(one) for one in rounds} == {frozenset("abc")}
    # Not always behind the same other one.
    assert len(set(rounds[2:])) > 3


def test_time_is_bounded() -> None:
    clock = Clock()
    calls = {"a": clock.call("a", 1.0), "b": clock.call("b", 2.0)}
    # Three seconds of warm-up; rounds begin at 3, 6 and 9 seconds, not at 12.
    times = latency.interleaved(calls, repetitions=50, warm_ups=1, seconds=10.0, clock=clock)
    assert [len(values) for values in times.values()] == [3, 3]
    once = latency.interleaved(calls, repetitions=50, warm_ups=5, seconds=0.0, clock=clock)
    assert [len(values) for values in once.values()] == [1, 1]


def test_median_and_quartiles() -> None:
    times = [0.004, 0.001, 0.002, 0.003, 0.1]
    found = latency.summary([(seconds, seconds / 2) for seconds in times])
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75])
    assert found["median_ms"] == pytest.approx(1000 * median) and found["repetitions"] == 5
    assert (found["low_ms"], found["high_ms"]) == pytest.approx((1000 * low, 1000 * high))
    assert found["processor_ms"] == pytest.approx(500 * median)
    one = latency.summary([(0.5, 0.25)])
    assert one == {"median_ms": 500, "low_ms": 500, "high_ms": 500, "processor_ms": 250, "repetitions": 1}


class Recorder(nn.Module):
    """Says of every pass in which state it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(CHANNELS, 2, 1)
        self.passes: list[tuple[int, bool, bool, int]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        state = (len(images), self.training, torch.is_inference_mode_enabled(), torch.get_num_threads())
        self.passes.append(state)
        return self.layer(images)

    def __deepcopy__(self, memo: dict[int, Any]) -> Recorder:
        return self


def test_networks_are_timed_in_eval_and_inference_mode_with_the_threads_given() -> None:
    recorder, before = Recorder(), torch.get_num_threads()
    networks = {"first": recorder, "second": with_branches()}
    found = latency.latencies(
        networks, torch.zeros(1, CHANNELS, SIZE, SIZE), threads=2, batch_sizes=(1, 5), repetitions=3, warm_ups=1
    )
    assert torch.get_num_threads() == before
    # Two passes check the fold; then a warm-up and three that are timed, for each batch size.
    assert recorder.passes[2:] == [(size, False, True, 2) for size in (1, 5) for _ in range(4)]
    for size in ("1", "5"):
        for name in networks:
            cell = found["eager"][size][name]
            assert 0 < cell["low_ms"] <= cell["median_ms"] <= cell["high_ms"] and cell["repetitions"] == 3
            assert found["compiled"][size][name] == {"reason": "compilation was not asked for"}


def test_where_a_network_cannot_be_compiled_the_reason_stands() -> None:
    asked = []

    def compiler(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        asked.append((function.__code__, options))
        if len(asked) % 2:
            raise RuntimeError("\n  no compiler here\nmore of it")
        return function

    networks = {"first": with_branches(), "second": with_branches(AddAttention("2"))}
    found = latency.latencies(
        networks, torch.zeros(1, CHANNELS, SIZE, SIZE), threads=1, compiled=True, batch_sizes=(1, 2), repetitions=2,
        warm_ups=0, compiler=compiler,
    )  # fmt: skip
    for size in ("1", "2"):
        assert list(found["compiled"][size]) == ["first", "second"]
        assert found["compiled"][size]["first"] == {"reason": "RuntimeError: no compiler here"}
        assert found["compiled"][size]["second"]["median_ms"] > 0
    assert all(options == {"fullgraph": True, "dynamic": False} for _, options in asked)
    # Torch keeps what it compiled by code object.
    assert len({id(code) for code, _ in asked}) == 4


def test_peak_of_a_process_grows_with_what_it_holds() -> None:
    # A young process: of an old one the system may reclaim pages meanwhile.
    code = (
        "import json, psutil, numpy as np; from stages import latency; "
        "found = [psutil.Process().memory_info().rss / 2**20, latency.peak_resident()]; "
        "block = np.ones(int((found[1] - found[0] + 256) * 2**20), np.uint8); "
        "found.append(latency.peak_resident()); del block; found.append(latency.peak_resident()); "
        "print(json.dumps(found))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    resident, before, holding, after = json.loads(ended.stdout)
    assert before >= resident - 1
    assert 192 < holding - before < 288
    # What was let go again was there all the same.
    assert after > before + 192


def test_memory_of_processes_that_train(context: cli.Context) -> None:
    found = efficiency.process_memory(context, efficiency.blank(CARD), grown(context.row, 0, True))
    assert list(found) == ["baseline", "dnm"]
    for values in found.values():
        assert set(values) == {"before_mib", "peak_mib"}
        assert 50 < values["before_mib"] <= values["peak_mib"] < 4096


def test_a_process_that_is_ended_leaves_the_reason(context: cli.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages import trials

    def ended(*arguments: Any, title: str) -> list[Any]:
        raise trials.WorkerEnded(f"{title}: ended")

    monkeypatch.setattr(trials, "run", ended)
    found = efficiency.process_memory(context, efficiency.blank(CARD), grown(context.row, 0, True))
    assert found["dnm"] == {"reason": "memory of dnm strokes: ended"}


def test_a_trial_takes_the_blank_data(context: cli.Context) -> None:
    """What the networks are built on is what a trial would build them on."""
    data = efficiency.blank({**CARD, "channels": 1, "image_size": [6, 9], "classes": ["a", "b"]})
    assert efficiency.example(data).shape == (1, 1, 6, 9)
    job = trial.Job(ROW, context.row, context.settings.execution, "", "baseline", 0)
    model = trial.model_of(job, data)
    assert model.get_parameter("0.weight").shape[1] == 1 and model(efficiency.example(data)).shape == (1, 2)


@pytest.fixture
def found(context: cli.Context) -> dict[str, Any]:
    lines = lines_of(context)
    return {ROW: {"batch_size": 16, "optimizer": "AdamW", **efficiency.statistics(lines)}}


def by_place(cells: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    assert all(tuple(cell) == tables.CELL_COLUMNS for cell in cells)
    assert all(cell["measured"] != "" or cell["note"] for cell in cells)
    return {(cell["row"], cell["column"]): cell for cell in cells}


def test_the_table_of_memory(context: cli.Context, found: dict[str, Any]) -> None:
    document, sources = documented.load(), {ROW: "generated strokes"}
    rows = context.settings.image_classification
    cells = by_place(efficiency_table.memory(document, rows, found, sources))
    columns = ("baseline", "dnm", "overhead", "dnm_before_pruning", "scratch")
    assert list(cells) == [(row, column) for row in ("cifar10", "cifar100", "imagenet") for column in columns]
    lines = lines_of(context)
    mib = {arm: np.array([at(lines, arm, seed)["training_memory"] for seed in (0, 1)]) for arm in efficiency.ARMS}
    for arm in ("baseline", "dnm", "dnm_before_pruning", "scratch"):
        cell = cells["cifar10", arm]
        assert cell["measured"] == pytest.approx(mib[arm].mean(), rel=1e-5) and cell["unit"] == "MiB"
        assert cell["measured_on"] == "generated strokes" and cell["seeds"] == 2 and cell["verdict"] == ""
    assert cells["cifar10", "baseline"]["documented"] == "1.2 GB" and cells["cifar10", "dnm"]["documented"] == "1.4 GB"
    assert "training step of 16 samples" in cells["cifar10", "baseline"]["note"]
    percent = 100 * (mib["dnm"] / mib["baseline"] - 1)
    half = stats.t.ppf(0.975, 1) * np.std(percent, ddof=1) / math.sqrt(2)
    overhead = cells["cifar10", "overhead"]
    assert overhead["documented"] == "16.7" and overhead["unit"] == "%"
    assert (overhead["measured"], overhead["low"], overhead["high"]) == pytest.approx(
        (percent.mean(), percent.mean() - half, percent.mean() + half), rel=1e-5
    )
    # The words as evaluation.md defines them; the data is not the document's.
    low, high = overhead["low"], overhead["high"]
    expected = "direction only" if low > 0 else "contradicted" if high < 0 else "not reproduced"
    assert overhead["verdict"] == expected
    before = cells["cifar10", "dnm_before_pruning"]
    share = 100 * (mib["dnm_before_pruning"] / mib["baseline"] - 1).mean()
    assert "after the last growth of 2 of 2 networks" in before["note"] and f"{share:+.1f}%" in before["note"]
    for row in ("cifar100", "imagenet"):
        for column in columns:
            cell = cells[row, column]
            assert cell["measured"] == "" and cell["note"] == tables.NO_ROW
            assert cell["verdict"] == "not measured at this scale"


@pytest.mark.parametrize(
    ("low", "mean", "high", "as_documented", "expected"),
    [
        (10.0, 15.0, 20.0, True, "reproduced"),
        (10.0, 15.0, 20.0, False, "direction only"),
        (2.0, 3.0, 4.0, True, "direction only"),
        (-1.0, 1.0, 3.0, True, "not reproduced"),
        (-3.0, -2.0, -1.0, True, "contradicted"),
    ],
)
def test_the_verdict_on_memory(
    context: cli.Context,
    found: dict[str, Any],
    low: float,
    mean: float,
    high: float,
    as_documented: bool,
    expected: str,
) -> None:
    found[ROW]["overhead"]["dnm"] |= {"low": low, "mean": mean, "high": high}
    rows = {ROW: dataclasses.replace(context.row, as_documented=as_documented)}
    cells = by_place(efficiency_table.memory(documented.load(), rows, found, {ROW: "strokes"}))
    cell = cells["cifar10", "overhead"]
    assert (cell["measured"], cell["low"], cell["high"], cell["verdict"]) == (mean, low, high, expected)


def test_the_documents_speedups_are_time_saved() -> None:
    rows = documented.load().tables["inference"].rows
    assert len(rows) == 3
    others = 0
    for row in rows.values():
        baseline, dnm, speedup = (float(str(row.values[name])) for name in ("baseline", "dnm", "speedup"))
        assert round(efficiency_table.saved(baseline, dnm), 1) == speedup
        others += round(100 * (baseline / dnm - 1), 1) != speedup
    assert others == 3


def test_the_table_of_inference(context: cli.Context, found: dict[str, Any]) -> None:
    document, sources = documented.load(), {ROW: "generated strokes"}
    cells = by_place(efficiency_table.inference(document, context.settings.image_classification, found, sources))
    columns = ("baseline", "dnm", "speedup", "pruning")
    assert list(cells) == [(row, column) for row in ("cifar10", "cifar100", "imagenet") for column in columns]
    lines = lines_of(context)
    flops = {arm: np.array([at(lines, arm, seed)["forward_flops"] for seed in (0, 1)]) for arm in efficiency.ARMS}
    for arm, stated in (("baseline", "12.3 ms"), ("dnm", "11.8 ms")):
        cell = cells["cifar10", arm]
        assert cell["measured"] == pytest.approx(flops[arm].mean() / 1e6, rel=1e-5)
        assert cell["unit"] == "MFLOP" and cell["documented"] == stated and "in place of ms" in cell["note"]
    speedup = cells["cifar10", "speedup"]
    assert speedup["measured"] == "" and speedup["documented"] == "4.1"
    ratio = (flops["dnm"] / flops["baseline"]).mean()
    assert f"dnm's forward FLOPs are {ratio:.6g} times the baseline's" in speedup["note"]
    assert "branches take more time" in speedup["note"] and "machine/" in speedup["note"]
    assert speedup["verdict"] == "not measured at this scale"
    pruning = cells["cifar10", "pruning"]
    assert pruning["measured"] == pytest.approx(100 * (1 - flops["dnm"] / flops["dnm_before_pruning"]).mean(), rel=1e-5)
    assert pruning["documented"] == "pruning and optimized architectures make inference faster"
    assert {cells[row, c]["note"] for row in ("cifar100", "imagenet") for c in columns} == {tables.NO_ROW}


def test_the_tables_where_nothing_was_pruned(context: cli.Context) -> None:
    rows, sources = context.settings.image_classification, {ROW: "strokes"}
    lines = lines_of(context, (False, False))
    found = {ROW: {"batch_size": 16, "optimizer": "AdamW", **efficiency.statistics(lines)}}
    memory = by_place(efficiency_table.memory(documented.load(), rows, found, sources))
    assert memory["cifar10", "dnm_before_pruning"]["measured"] == memory["cifar10", "dnm"]["measured"]
    assert "no units were pruned after the last growth in any of 2" in memory["cifar10", "dnm_before_pruning"]["note"]
    pruning = by_place(efficiency_table.inference(documented.load(), rows, found, sources))["cifar10", "pruning"]
    assert pruning["measured"] == "" and pruning["verdict"] == "not measured at this scale"
    assert "no units were pruned" in pruning["note"]


def test_seeds_that_grew_alike_have_an_interval_without_width(context: cli.Context) -> None:
    lines = [line | {"seed": seed} for seed in (0, 1, 2) for line in lines_of(context) if line["seed"] == 0]
    found = {ROW: {"batch_size": 16, "optimizer": "AdamW", **efficiency.statistics(lines)}}
    rows, sources = context.settings.image_classification, {ROW: "strokes"}
    cell = by_place(efficiency_table.memory(documented.load(), rows, found, sources))["cifar10", "overhead"]
    assert cell["low"] == cell["measured"] == cell["high"] != 0 and efficiency_table.NO_WIDTH in cell["note"]
    varied = {ROW: {"batch_size": 16, "optimizer": "AdamW", **efficiency.statistics(lines_of(context))}}
    cell = by_place(efficiency_table.memory(documented.load(), rows, varied, sources))["cifar10", "overhead"]
    assert cell["low"] < cell["high"] and efficiency_table.NO_WIDTH not in cell["note"]


def test_the_page_of_what_was_measured(context: cli.Context) -> None:
    def cell(milliseconds: float) -> dict[str, float]:
        return {
            "median_ms": milliseconds, "low_ms": 0.9 * milliseconds, "high_ms": 1.1 * milliseconds,
            "processor_ms": milliseconds / 2 + 1, "repetitions": 7,
        }  # fmt: skip

    times = {"baseline": 8.0, "dnm": 6.0, "dnm_before_pruning": 7.0, "scratch": 6.5, "start": 2.0}
    slow = {arm: cell(10 * time) for arm, time in times.items()}
    reason = {arm: {"reason": "no C++ compiler"} for arm in times}
    machine = {
        "seed": 0, "threads": 1, "device": "cpu", "cpu_caps": True, "precision": "float32", "batch_size": 16,
        "load": 2.5,
        "machine": {"processor": "Made Up", "cores": 4, "torch": "9", "date": "2030-01-01", "commit": "a" * 40},
        "counted": {arm: {"parameters": 100, "forward_flops": 2_000_000 + 1000 * len(arm)} for arm in times},
        "latency": {
            "eager": {"1": {arm: cell(time) for arm, time in times.items()}, "128": slow},
            "compiled": {"1": reason, "128": {arm: cell(time) for arm, time in times.items()}},
        },
        "memory": {"baseline": {"peak_mib": 301.0, "before_mib": 205.0}, "dnm": {"reason": "it was ended"}},
    }  # fmt: skip
    rows = {ROW: context.row, "clothes": dataclasses.replace(context.row, documented_row="fashion_mnist")}
    page = efficiency_table.measured_page(
        documented.load(), rows, {ROW: machine}, {ROW: "generated strokes", "clothes": "digits"}
    )
    table = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert "8.000 [7.200, 8.800] 5.000 | 80.000 [72.000, 88.000] 41.000 | not measured | 8.000" in table["baseline"]
    assert table["dnm_before_pruning"].count("not measured") == 1
    # 100 (1 - 6 / 8), and 100 (1 - 4 / 5) of the processor's time at first, 100 (1 - 31 / 41) then.
    saved = "+25.0%, of the processor +20.0% | +25.0%, of the processor +24.4% | not measured | +25.0%"
    assert saved in table["saved by dnm"]
    assert "- compiled, batch of 1: no C++ compiler" in page and "compiled, batch of 128: " not in page
    assert "- baseline: 301 MiB, 205 MiB of which before" in page and "- dnm: not measured: it was ended" in page
    assert "Made Up, 4 cores, threads: 1" in page and "load 2.5" in page
    strokes, clothes = page.split("## clothes")
    assert "12.3 ms for the baseline and 11.8 ms for dnm, 4.1% faster" in strokes
    assert "1.2 GB for the baseline and 1.4 GB for dnm, 16.7% more memory" in strokes
    assert "Not measured on this machine" in clothes and "no such figures of this row" in clothes
    assert "Not measured on this machine" not in strokes
