"""The architecture search: its space, its halving, its cost, and that what it says comes from the lines."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dnm import AddAttention, AddResidual, Divide, apply, count, trace
from stages import (
    arms,
    branches,
    cli,
    documented,
    nas,
    nas_space,
    nas_statistics,
    nas_table,
    nas_trial,
    outputs,
    records,
    results,
    trial,
)
from stages.data import splits
from stages.nas_space import Architecture, Space
from stages.nas_trial import Candidate
from stages.settings import Execution, Nas, Row, Settings, load
from stages.tasks import image_classification as task

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = ("Divide", "AddResidual", "AddAttention")
START, BASELINE = ((4,), (8, 8), (16, 24)), ((8,), (16, 16), (32, 32))


def space(image: tuple[int, int, int] = (3, 16, 16), classes: int = 10, operators: Sequence[str] = OPERATORS) -> Space:
    cost = count(task.network(BASELINE, image[0], classes, torch.Generator()), torch.zeros(1, *image))
    return nas_space.space_of(
        START, image, classes, operators, int(1.15 * cost.parameters), int(1.15 * cost.training)
    )  # fmt: skip


def drawn(of: Space, number: int, seed: int = 0) -> list[Architecture]:
    """Architectures of samples drawn uniformly."""
    generator, found = random.Random(seed), []
    while len(found) < number:
        shape = of.architecture({name: generator.random() for name in of.names})
        if shape is not None:
            found.append(shape)
    return found


def built(shape: Architecture, image: tuple[int, int, int], classes: int) -> torch.nn.Sequential:
    model = task.network(shape.widths, image[0], classes, torch.Generator().manual_seed(0))
    branches.put_in(model, shape.branches, torch.zeros(1, *image), 0)
    return model


@pytest.mark.parametrize("image, classes", [((3, 16, 16), 10), ((1, 17, 13), 4)])
def test_costs_are_those_that_are_counted_and_within_the_limits(image: tuple[int, int, int], classes: int) -> None:
    of = space(image, classes)
    found = drawn(of, 30)
    assert {operator for shape in found for operator, _, _ in shape.branches} == {"AddResidual", "AddAttention"}
    assert {at for shape in found for _, at, _ in shape.branches} == {place.at for place in of.places}
    for shape in found:
        counted = count(built(shape, image, classes), torch.zeros(1, *image))
        assert of.cost_of(shape) == (counted.parameters, counted.training)
        assert counted.parameters <= of.max_parameters and counted.training <= of.max_training_flops


def test_every_sample_is_reached_by_edits() -> None:
    image, inputs = (3, 16, 16), torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for shape in drawn(space(), 6, seed=1):
        model = task.network(START, 3, 10, torch.Generator().manual_seed(0))
        groups = [group.name for group in trace(model, inputs).groups if group.divisible]
        for name, wanted in zip(groups, (width for block in shape.widths for width in block), strict=True):
            while (width := trace(model, inputs).group(name).width) < wanted:
                apply(model, Divide(name, tuple(range(min(width, wanted - width)))), inputs)
        for operator, at, inner in shape.branches:
            edit = AddResidual(at) if operator == "AddResidual" else AddAttention(at)
            apply(model, edit, inputs)
            assert (operator, at, inner) in branches.branches_of(model)
        assert task.widths_of(model) == shape.widths
        again = built(shape, image, 10)
        assert {name: value.shape for name, value in model.state_dict().items()} == {
            name: value.shape for name, value in again.state_dict().items()
        }


def test_the_space_holds_what_dnm_grew_to() -> None:
    """Widths and places of the committed networks."""
    rows = load(ROOT / "params.yaml").image_classification
    for name, row in rows.items():
        card = outputs.read_json(ROOT / "metrics" / "embedded" / "prepare" / f"{name}.json")
        image = (card["channels"], *card["image_size"])
        classes = len(card["classes"])
        cost = count(task.network(row.networks.baseline, image[0], classes, torch.Generator()), torch.zeros(1, *image))
        of = nas_space.space_of(
            row.networks.start, image, classes, row.dnm.operators, int(1.15 * cost.parameters),
            int(1.15 * cost.training),
        )  # fmt: skip
        for item in outputs.read_json(ROOT / "metrics" / "embedded" / "morphogenesis" / f"{name}.journals.json"):
            if item["arm"] == "dnm":
                assert {f"{operator}/{at}" for operator, at, _ in item["branches"]} <= set(of.names)
                widths = [width for block in item["widths"] for width in block]
                assert all(width <= most for width, most in zip(widths, of.most, strict=True))


def test_every_network_of_such_widths_has_a_sample() -> None:
    of = space()
    start = [width for block in START for width in block]
    none = {place.name: 1.0 for place in of.places}
    for wanted in (BASELINE, START, ((6,), (10, 8), (20, 24))):
        widths = [width for block in wanted for width in block]
        fractions = [
            math.log(width / first) / math.log(most / first)
            for width, first, most in zip(widths, start, of.most, strict=True)
        ]
        shape = of.architecture({f"width/{layer}": value for layer, value in enumerate(fractions)} | none)
        assert shape == Architecture(wanted, ())
    # All layers as wide as can be is more than can be: narrowed to what just fits.
    wide = of.architecture(dict.fromkeys(of.names, 1.0))
    assert wide is not None and wide.branches == ()
    parameters, flops = of.cost_of(wide)
    assert 0.85 < max(parameters / of.max_parameters, flops / of.max_training_flops) <= 1.0
    # All branches are too many, whatever the widths; with room for them they are taken.
    assert of.architecture(dict.fromkeys(of.names, 0.0)) is None
    roomy = dataclasses.replace(of, max_parameters=10**6, max_training_flops=10**9)
    everything = roomy.architecture(dict.fromkeys(of.names, 0.0))
    assert everything is not None and everything.widths == START and len(everything.branches) == len(of.places)


def test_operators_bound_the_space() -> None:
    assert space(operators=("Divide",)).names == tuple(f"width/{layer}" for layer in range(5))
    fixed = space(operators=("AddAttention",))
    assert fixed.names and all(name.startswith("AddAttention/") for name in fixed.names)
    assert {shape.widths for shape in drawn(fixed, 5)} == {START}


class Planted:
    """Scores that are known, and what was asked for."""

    def __init__(self, score: Callable[[Candidate, int], float], price: int = 1) -> None:
        self.score, self.flops = score, price
        self.asked: list[tuple[int, int]] = []

    def price(self, candidate: Candidate, epochs: int) -> int:
        return self.flops * epochs

    def __call__(self, candidate: Candidate, epochs: int) -> tuple[float, int]:
        self.asked.append((candidate.number, epochs))
        return self.score(candidate, epochs), self.flops * epochs


def numbered(candidates: Sequence[Candidate]) -> Candidate:
    return Candidate(len(candidates), {}, Architecture(((len(candidates),),), ()))


def halved(trains: nas_trial.Trains, budget: int, epochs: tuple[int, ...] = (1, 3, 9)) -> list[Candidate]:
    return nas_trial.search(numbered, trains, budget=budget, epochs=epochs, reduction=3)


def test_halving_by_hand() -> None:
    trains = Planted(lambda candidate, epochs: 1.0 - 0.01 * candidate.number)
    halved(trains, 27)
    assert trains.asked == [
        (0, 1), (1, 1), (2, 1), (0, 3), (3, 1), (4, 1), (5, 1), (1, 3), (6, 1), (7, 1), (8, 1), (2, 3), (0, 9),
    ]  # fmt: skip
    # What comes next must be paid in full: with one less, the last rung is not begun, and the rest is not spent.
    trains = Planted(lambda candidate, epochs: 1.0 - 0.01 * candidate.number)
    found = halved(trains, 26)
    assert trains.asked[-1] == (2, 3) and sum(sum(candidate.flops.values()) for candidate in found) == 18
    with pytest.raises(ValueError, match="may spend 4 FLOPs, and 1 epochs of its first candidate take 5: raise cost"):
        halved(Planted(lambda candidate, epochs: 0.0, price=5), 4)


@pytest.mark.parametrize("best", [0, 2, 13, 26])
def test_halving_finds_the_best_one(best: int) -> None:
    """However the others do: what is best on every rung goes to the last one."""
    others = random.Random(best)
    scores = [others.random() for _ in range(100)]
    scores[best] = 2.0
    found = halved(Planted(lambda candidate, epochs: scores[candidate.number]), 120)
    assert nas_trial.chosen(found).number == best
    # A candidate that does well for an epoch alone is not chosen.
    late = halved(Planted(lambda candidate, epochs: scores[candidate.number] if epochs < 9 else candidate.number), 120)
    last = [candidate.number for candidate in late if 9 in candidate.scores]
    assert nas_trial.chosen(late).number == max(last) and len(last) > 1


class Plane:
    """A space of fractions whose samples are their own networks."""

    names = ("a", "b", "c")

    def architecture(self, values: dict[str, float]) -> Architecture | None:
        # A corner of it is forbidden.
        if values["a"] > 0.9:
            return None
        return Architecture(((round(10**9 * values["a"]), round(10**9 * values["b"])),), ())


def proposals(arm: str, seed: int, number: int = 40) -> list[Candidate]:
    def score(candidate: Candidate, epochs: int) -> float:
        values = candidate.values
        return 1.0 - abs(values["a"] - 0.7) - abs(values["b"] - 0.2)

    propose = nas_trial.Proposer(Plane(), arm, seed)  # pyright: ignore[reportArgumentType]
    return nas_trial.search(propose, Planted(score), budget=number, epochs=(1,), reduction=3)


def test_the_estimator_comes_nearer_than_chance_to_a_planted_best() -> None:
    seeds = range(6)
    best = {
        arm: [max(candidate.scores[1] for candidate in proposals(arm, seed)) for seed in seeds]
        for arm in ("nas", "nas_random")
    }
    later = {
        arm: [np.mean([candidate.scores[1] for candidate in proposals(arm, seed)[10:]]) for seed in seeds]
        for arm in best
    }
    assert np.mean(best["nas"]) > np.mean(best["nas_random"])
    assert all(found > chance + 0.1 for found, chance in zip(later["nas"], later["nas_random"], strict=True))


def test_both_arms_draw_from_one_space_and_begin_alike() -> None:
    found = {arm: proposals(arm, 3, 12) for arm in ("nas", "nas_random")}
    values = {arm: [candidate.values for candidate in of] for arm, of in found.items()}
    first = nas_trial.STARTUP
    assert values["nas"][:first] == values["nas_random"][:first]
    assert all(one != other for one, other in zip(values["nas"][first:], values["nas_random"][first:], strict=True))
    assert all(0.0 <= value <= 1.0 and of["a"] <= 0.9 for of in values["nas"] for value in of.values())
    assert [proposals("nas", seed, 1)[0].values != values["nas"][0] for seed in (2, 4)] == [True, True]
    # Scores are what the estimator goes by.
    propose = nas_trial.Proposer(Plane(), "nas", 3)  # pyright: ignore[reportArgumentType]
    known = found["nas"][:8]
    again = propose(known)
    assert again is not None and again.values == values["nas"][8]
    turned = [dataclasses.replace(candidate, scores={1: -candidate.scores[1]}) for candidate in known]
    other = propose(turned)
    assert other is not None and other.values != values["nas"][8]


def test_what_was_tried_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas_trial, "TRIES", 50)
    of = space(operators=("AddAttention",))
    few = dataclasses.replace(of, places=of.places[:2])
    trains = Planted(lambda candidate, epochs: 0.5)
    found = nas_trial.search(nas_trial.Proposer(few, "nas", 0), trains, budget=1000, epochs=(1, 3), reduction=2)
    # There are four networks; when all are known, the search is over, whatever it may still spend.
    assert len({candidate.architecture for candidate in found}) == len(found) == 4
    assert trains.asked == [(0, 1), (1, 1), (0, 3), (2, 1), (3, 1), (1, 3)]
    tight = dataclasses.replace(few, max_parameters=10)
    with pytest.raises(ValueError, match="none of 50 samples is a network within the limits: raise max_parameters"):
        nas_trial.search(nas_trial.Proposer(tight, "nas", 0), trains, budget=1000, epochs=(1,), reduction=2)


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match="needs optuna, which is not installed: `make env` installs it"):
        nas_trial.Proposer(space(), "nas", 0)([])


@pytest.fixture(scope="session")
def make_search(make_job: Callable, tiny_row: Row) -> Callable[..., nas_trial.Job]:
    """Makes searches on the tiny row, of some ten candidates."""

    def make(arm: str = "nas", seed: int = 0, **options: Any) -> nas_trial.Job:
        plain = make_job(arm, seed)
        return nas_trial.Job(**{
            **{item.name: getattr(plain, item.name) for item in dataclasses.fields(plain)},
            "search_flops": 700_000_000, "epochs": (1, 2), "reduction": 2, "operators": OPERATORS,
            "max_parameters": 2.0, "max_training_flops": 1.5, **options,
        })  # fmt: skip

    return make


def same(result: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in result.items() if key != "machine"}, sort_keys=True)


@pytest.fixture(scope="module")
def searched(make_search: Callable) -> dict[str, Any]:
    return nas_trial.run(make_search())


def test_costs_add_up(searched: dict[str, Any], make_search: Callable, tiny_data: Path) -> None:
    """Each candidate's FLOPs are those of its network, counted by a pass, times the samples that it saw."""
    job, data = make_search(), splits.load(tiny_data)
    steps = len(data.train) // job.settings.training.batch_size
    image = torch.zeros(1, 3, 8, 8)
    spent = 0
    for candidate in searched["search"]:
        shape = Architecture(
            tuple(map(tuple, candidate["widths"])),
            tuple((name, at, inner) for name, at, inner in candidate["branches"]),
        )
        cost = count(built(shape, (3, 8, 8), len(data.class_names)), image)
        assert candidate["parameters"] == cost.parameters
        for epochs, _, flops in candidate["rungs"]:
            assert flops == cost.training * epochs * steps * job.settings.training.batch_size
            spent += flops
    assert 0.6 * job.search_flops < spent <= job.search_flops
    assert len(searched["search"]) > nas_trial.STARTUP
    (best,) = [candidate for candidate in searched["search"] if candidate["chosen"]]
    last = max(epochs for candidate in searched["search"] for epochs, _, _ in candidate["rungs"])
    scores = {
        candidate["number"]: score
        for candidate in searched["search"]
        for epochs, score, _ in candidate["rungs"]
        if epochs == last
    }
    assert last == 2 and scores[best["number"]] == max(scores.values())


def test_what_is_found_is_trained_like_any_network(searched: dict[str, Any], make_job: Callable) -> None:
    (best,) = [candidate for candidate in searched["search"] if candidate["chosen"]]
    assert searched["widths"] == best["widths"] and searched["branches"] == best["branches"]
    widths = tuple(map(tuple, best["widths"]))
    own = tuple((operator, at, inner) for operator, at, inner in best["branches"]) or None
    alone = trial.run(make_job("anything", 0, widths=widths, branches=own))
    assert {**searched["figures"]} == alone["figures"] and searched["curve"] == alone["curve"]
    assert alone["figures"]["epochs"] == 3


def test_test_data_decide_nothing(
    searched: dict[str, Any], make_search: Callable, tiny_data: Path, tmp_path: Path
) -> None:
    data = splits.load(tiny_data)
    other = dataclasses.replace(data, test=dataclasses.replace(data.test, labels=(data.test.labels + 1) % 3))
    splits.save(tmp_path / "data", other)
    turned = nas_trial.run(make_search(data=str(tmp_path / "data")))
    assert turned["search"] == searched["search"] and turned["curve"] == searched["curve"]
    assert turned["figures"]["test_accuracy"] != searched["figures"]["test_accuracy"]


def test_the_control_begins_alike_and_spends_no_more(searched: dict[str, Any], make_search: Callable) -> None:
    control = nas_trial.run(make_search("nas_random"))
    first = nas_trial.STARTUP
    assert control["search"][: first - 1] != searched["search"][first - 1 :]
    for mine, other in zip(searched["search"][:first], control["search"][:first], strict=True):
        assert (mine["widths"], mine["branches"]) == (other["widths"], other["branches"])
        # On a rung both were trained on, from the same weights on the same batches.
        shared = min(len(mine["rungs"]), len(other["rungs"]))
        assert mine["rungs"][:shared] == other["rungs"][:shared]
    shapes = [[(item["widths"], item["branches"]) for item in found["search"]] for found in (searched, control)]
    assert shapes[0] != shapes[1]
    spent = sum(flops for candidate in control["search"] for _, _, flops in candidate["rungs"])
    assert spent <= make_search().search_flops


def test_a_fresh_process_gives_the_same(searched: dict[str, Any], make_search: Callable) -> None:
    job = make_search()
    script = (
        "import json, pickle, sys\n"
        "from stages import environment, settings\n"
        "job_bytes = sys.stdin.buffer.read()\n"
        f"environment.apply(settings.Execution(**{dataclasses.asdict(job.execution)!r}))\n"
        "from stages import nas_trial\n"
        "assert 'optuna' not in sys.modules\n"
        "print(json.dumps(nas_trial.run(pickle.loads(job_bytes))))\n"
    )
    import pickle

    ended = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(job), capture_output=True, cwd=ROOT, check=False
    )
    assert ended.returncode == 0, ended.stderr.decode()
    assert same(json.loads(ended.stdout)) == same(searched)
    # It says nothing of its own.
    assert ended.stderr == b""


def test_an_ended_search_goes_on_with_the_same_bits(
    searched: dict[str, Any], make_search: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_search(checkpoint=str(tmp_path / "runs" / "checkpoint.pt"))
    train, calls = nas_trial.train, 0

    def ending(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (3, 6):
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr(nas_trial, "train", ending)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            nas_trial.run(job)
    assert same(nas_trial.run(job)) == same(searched)
    # Nothing that was finished was trained again.
    assert calls == 2 + sum(len(candidate["rungs"]) for candidate in searched["search"])


SEARCH = Nas(row="strokes", seeds=2, cost=3.0, rungs=2, reduction=2, longest=0.67, random=True)


@pytest.fixture
def context(tiny_row: Row, tiny_data: Path, execution: Execution, linked_root: Path) -> cli.Context:
    """Where the stages before have run: each in one process, without records."""
    dnm = dataclasses.replace(tiny_row.dnm, operators=OPERATORS)
    settings = Settings(
        scale="tiny", root=".", params_file="params.yaml", execution=execution,
        image_classification={"strokes": dataclasses.replace(tiny_row, dnm=dnm)}, contest={}, ranking={}, ablation={},
        robustness={}, events={}, nas={"search": SEARCH},
    )  # fmt: skip
    found = cli.Context(settings, linked_root, "strokes")
    found.data.parent.mkdir(parents=True)
    found.data.symlink_to(tiny_data)
    outputs.write_json(found.metrics / "prepare" / "strokes.json", {"sha256": "of the data", "source": "strokes"})
    done = arms.run(found, [arms.job(found, arm, seed) for seed in (0, 1) for arm in ("baseline", "dnm")], "first")
    for stage, arm in (("baseline", "baseline"), ("morphogenesis", "dnm")):
        arms.write(found, stage, [result for result in done if result["arm"] == arm], 0.0)
    return dataclasses.replace(found, entry="search")


def test_the_stage(context: cli.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    nas.main(context)
    folder = context.metrics / "nas"
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(files) == {
        f"search.{name}" for name in ("json", "candidates.csv", "trials.csv", "curves.csv", "journals.json")
    }
    spent = {
        line["seed"]: 3.0 * float(line["training_flops"])
        for line in outputs.read_csv(context.metrics / "morphogenesis" / "strokes.trials.csv")
    }
    lines = outputs.read_csv(folder / "search.candidates.csv")
    for arm in nas.ARMS:
        for seed in "01":
            own = [line for line in lines if (line["arm"], line["seed"]) == (arm, seed)]
            assert 0 < sum(int(line["training_flops"]) for line in own) <= round(spent[seed])
            assert len({line["candidate"] for line in own if line["chosen"] == "1"}) == 1
            assert {line["epochs"] for line in own} == {"1", "2"}
    trials = outputs.read_csv(folder / "search.trials.csv")
    assert [(line["arm"], line["seed"]) for line in trials] == [(arm, seed) for arm in nas.ARMS for seed in "01"]
    read_back = results.read(context, "nas")
    assert [one.arm for one in read_back.trials] == ["nas", "nas", "nas_random", "nas_random"]
    assert read_back.settings["nas.cost"] == 3.0
    # Nothing is left to go on from.
    assert not list((context.root / "runs").glob("*/candidates.json"))
    # Two at a time give the same bytes.
    monkeypatch.setenv("DNM_WORKERS", "2")
    nas.main(context)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files

    found = {"search": nas_statistics.of_nas(context)}
    rows, sources = context.settings.image_classification, {"strokes": "strokes"}
    cells = nas_table.cells(documented.load(), rows, found, sources)
    measured = {cell["column"]: cell for cell in cells if cell["row"] == "cifar10"}
    assert all(cell["measured"] != "" for cell in measured.values())
    assert measured["dnm - nas"]["documented"] == pytest.approx(97.2 - 94.3)
    assert all(cell["measured"] == "" and cell["note"] for cell in cells if cell["row"] != "cifar10")
    assert "## search: what was found on strokes" in nas_table.page(cells, found)


def test_what_a_search_is_made_of_is_in_its_fingerprint(context: cli.Context) -> None:
    first = nas.jobs(context)[0]
    code = {str(file.relative_to(context.root)) for file in records.code_files(
        context.root, records.grower_of(first), records.also_of(first)
    )}  # fmt: skip
    assert {"stages/nas_trial.py", "stages/nas_space.py", "stages/branches.py", "dnm/choice.py"} <= code

    def mark(changed: cli.Context) -> str:
        return records.fingerprint(nas.jobs(changed)[0], "data", "code")

    def with_row(**changes: Any) -> cli.Context:
        row = dataclasses.replace(context.row, dnm=dataclasses.replace(context.row.dnm, **changes))
        settings = dataclasses.replace(context.settings, image_classification={"strokes": row})
        return dataclasses.replace(context, settings=settings)

    def with_search(**changes: Any) -> cli.Context:
        entry = dataclasses.replace(context.nas, **changes)
        return dataclasses.replace(context, settings=dataclasses.replace(context.settings, nas={"search": entry}))

    others = [
        with_row(operators=("Divide",)), with_row(max_parameters=1.2), with_row(max_training_flops=1.2),
        with_search(cost=4.0), with_search(rungs=1), with_search(reduction=3), with_search(longest=1.0),
    ]  # fmt: skip
    assert len({mark(context), *(mark(other) for other in others)}) == 1 + len(others)
    assert mark(with_search(random=False)) == mark(context) == mark(with_row(caution=1.0))


def made(seeds: int = 5, ahead: float = 0.05) -> tuple[Any, list[dict[str, str]], list[dict[str, Any]]]:
    """Figures in which nas is ahead of its random control, and behind dnm."""
    draws = np.random.default_rng(7)
    means = {"baseline": 0.6, "nas": 0.65, "nas_random": 0.65 - ahead, "dnm": 0.7}
    figures = {
        arm: {
            seed: {
                "test_accuracy": mean + 0.01 * draws.standard_normal(),
                "parameters": 100 + seed,
                "training_flops": 1000.0 * (2 if arm == "dnm" else 1),
            }
            for seed in range(seeds + (arm in ("baseline", "dnm")))
        }
        for arm, mean in means.items()
    }
    lines = [
        {"arm": arm, "seed": str(seed), "candidate": str(number), "training_flops": str(100 * (number + 1))}
        for arm in ("nas", "nas_random") for seed in range(seeds) for number in (0, 1, 2, 0)
    ]  # fmt: skip
    return figures, lines, []


STATED = {"baseline": 92.1, "nas": 94.3, "dnm": 97.2}


def test_statistics_against_scipy() -> None:
    figures, lines, grown = made()
    found = nas_statistics.nas_statistics(figures, lines, grown, STATED, as_documented=False)
    for name, (arm, other) in nas_statistics.DIFFERENCES.items():
        # The seeds that were searched; the row has one more.
        one, two = (np.array([100 * figures[of][seed]["test_accuracy"] for seed in range(5)]) for of in (arm, other))
        test: Any = stats.ttest_rel(one, two)
        interval = stats.ttest_1samp(one - two, 0).confidence_interval()
        difference = found["differences"][name]
        assert (difference["mean"], difference["low"], difference["high"], difference["p_value"]) == pytest.approx(
            (float(np.mean(one - two)), interval.low, interval.high, float(test.pvalue))
        )
        assert ("verdict" in difference) == (name != "nas - nas_random")
    ours = found["differences"]
    assert ours["dnm - nas"]["documented"] == 2.9 and ours["nas - baseline"]["documented"] == 2.2
    assert {ours[name]["verdict"] for name in ("dnm - nas", "nas - baseline")} == {"direction only"}
    p_values = sorted(ours[name]["p_value"] for name in ("dnm - nas", "nas - baseline"))
    holm = sorted(ours[name]["holm_p_value"] for name in ("dnm - nas", "nas - baseline"))
    assert holm == pytest.approx([2 * p_values[0], max(2 * p_values[0], p_values[1])])
    # 100 + 200 + 300 + 100 of 2000, and 1000 more.
    searches = found["searches"]["nas"]
    assert [searches[name]["mean"] for name in ("search", "total", "candidates")] == pytest.approx([0.35, 0.85, 3.0])
    turned = {**figures, "nas": figures["dnm"], "dnm": figures["nas"]}
    with pytest.raises(cli.UserError, match=r"the searches have the seeds \[0, 1, 2, 3, 4, 5\], and not all of them"):
        nas_statistics.nas_statistics(turned, lines, grown, STATED, as_documented=False)


def test_a_row_without_a_control_says_so() -> None:
    figures, lines, grown = made()
    del figures["nas_random"]
    found = nas_statistics.nas_statistics(figures, lines, grown, STATED, as_documented=False)
    assert "nas - nas_random" not in found["differences"] and list(found["searches"]) == ["nas"]
    rows = {"cifar10": load(ROOT / "params.yaml").image_classification["cifar10"]}
    entries = {"search": {"row": "cifar10", "cost": 1.0, **found}}
    cells = {cell["column"]: cell for cell in nas_table.cells(documented.load(), rows, entries, {"cifar10": "strokes"})
             if cell["row"] == "cifar10"}  # fmt: skip
    for column in ("nas_random", "nas - nas_random"):
        assert cells[column]["measured"] == "" and cells[column]["note"] == nas_table.NOT_RANDOM
    assert cells["nas"]["measured"] != ""


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_committed_table_comes_from_the_lines() -> None:
    """With csv and numpy alone, from what is committed."""
    metrics = ROOT / "metrics" / "embedded"
    cells = {(cell["row"], cell["column"]): cell for cell in read(metrics / "tables" / "nas.csv")}
    image = {(cell["row"], cell["column"]): cell for cell in read(metrics / "tables" / "image_classification.csv")}
    entries = load(ROOT / "params.yaml").nas
    assert {entry.row for entry in entries.values()} == {row for row, _ in cells}
    for name, entry in entries.items():
        row = entry.row
        figures: dict[str, dict[int, dict[str, float]]] = {}
        for file in (metrics / "nas" / f"{name}.trials.csv", metrics / "baseline" / f"{row}.trials.csv",
                     metrics / "morphogenesis" / f"{row}.trials.csv"):  # fmt: skip
            for line in read(file):
                figures.setdefault(line["arm"], {})[int(line["seed"])] = {
                    figure: float(line[figure]) for figure in ("test_accuracy", "parameters", "training_flops")
                }
        seeds = range(entry.seeds)

        def of(arm: str, figure: str, figures: Any = figures, seeds: range = seeds) -> Any:
            return np.array([figures[arm][seed][figure] for seed in seeds])

        def is_mean(cell: dict[str, str], values: Any) -> bool:
            half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
            wanted = (np.mean(values), np.mean(values) - half, np.mean(values) + half)
            return [float(cell[key]) for key in ("measured", "low", "high")] == pytest.approx(
                wanted, rel=1e-5, abs=1e-6
            )

        for arm in ("baseline", "nas", "dnm"):
            assert is_mean(cells[row, arm], 100 * of(arm, "test_accuracy"))
        assert is_mean(image[row, "nas"], 100 * of("nas", "test_accuracy"))
        assert is_mean(cells[row, "dnm - nas"], 100 * (of("dnm", "test_accuracy") - of("nas", "test_accuracy")))
        assert is_mean(cells[row, "parameters"], of("nas", "parameters"))
        lines = read(metrics / "nas" / f"{name}.candidates.csv")
        spent = np.array([
            sum(int(line["training_flops"]) for line in lines if (line["arm"], line["seed"]) == ("nas", str(seed)))
            for seed in seeds
        ])  # fmt: skip
        assert np.all(spent <= entry.cost * of("dnm", "training_flops") + 0.5)
        assert is_mean(cells[row, "search cost"], spent / of("dnm", "training_flops"))
        assert is_mean(cells[row, "total cost"], (spent + of("nas", "training_flops")) / of("dnm", "training_flops"))
        if entry.random:
            assert is_mean(
                cells[row, "nas - nas_random"], 100 * (of("nas", "test_accuracy") - of("nas_random", "test_accuracy"))
            )
        else:
            assert cells[row, "nas_random"]["measured"] == "" and cells[row, "nas_random"]["note"]
