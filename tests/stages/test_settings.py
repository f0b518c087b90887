"""Settings files: those of the repository are sound, and every mistake is refused in words."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from ruamel.yaml import YAML

from dnm import count
from stages import documented, settings_checks
from stages.data import digits, lesions, pneumonia_mnist, registry
from stages.data.errors import DataError
from stages.data.registry import PUBLISHED, READERS
from stages.data.settings import Digits, Files, Folder, Lesions, Npz, Synthetic
from stages.schema import SettingsError
from stages.settings import Detection, Row, Settings, Transfer, as_plain, load
from stages.settings_io import read_yaml
from stages.tasks import image_classification as task

ROOT = Path(__file__).resolve().parents[2]
SCALES = [ROOT / "params.yaml", *sorted(ROOT.glob("scales/*/params.yaml"))]
ROW = ("image_classification", "cifar10")
DATA, NETWORKS, TRAINING, DNM = ((*ROW, section) for section in ("data", "networks", "training", "dnm"))


def images_of(settings: Settings, row: str) -> tuple[int, int, int]:
    """Channels, size and classes of a row's images."""
    data = settings.image_classification[row].data
    if isinstance(data, Npz):
        return 1, pneumonia_mnist._SIZE, len(pneumonia_mnist.CLASS_NAMES)
    if isinstance(data, Synthetic | Lesions):
        return data.channels, data.size, data.classes
    if isinstance(data, Digits):
        return 1, digits.SIZE, len(digits.CLASS_NAMES)
    if isinstance(data, Folder):
        return 3, data.size, 1000
    assert isinstance(data, Files)
    found = PUBLISHED[data.source]
    return found.channels, found.size, len(found.class_names)


@pytest.fixture(params=SCALES, ids=lambda path: path.parent.name if path.parent != ROOT else "embedded")
def scale_file(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_the_scales_load(scale_file: Path) -> None:
    settings = load(scale_file)
    assert scale_file == ROOT / settings.params_file
    assert (scale_file.parent / settings.root).resolve() == ROOT
    assert settings.scale == ("embedded" if scale_file.parent == ROOT else scale_file.parent.name)


def test_there_are_three_scales() -> None:
    assert [load(path).scale for path in SCALES] == ["embedded", "paper", "workstation"]


def test_the_pipelines_of_all_scales_are_the_same_bytes() -> None:
    copies = sorted(ROOT.glob("scales/*/dvc.yaml"))
    assert len(copies) == len(SCALES) - 1
    for file in copies:
        assert file.read_bytes() == (ROOT / "dvc.yaml").read_bytes(), file


def test_the_start_network_costs_at_most_35_percent_of_the_baseline(scale_file: Path) -> None:
    settings = load(scale_file)
    for name, row in settings.image_classification.items():
        channels, size, classes = images_of(settings, name)
        start, baseline = (
            count(task.network(widths, channels, classes, torch.Generator()), torch.zeros(1, channels, size, size))
            for widths in (row.networks.start, row.networks.baseline)
        )
        assert start.training <= 0.35 * baseline.training, (name, start.training / baseline.training)


def test_every_row_of_the_document_has_an_embedded_row() -> None:
    rows = load(ROOT / "params.yaml").documented_rows
    assert [row.documented_row for row in rows.values()] == list(documented.load().tables["image_classification"].rows)


def test_the_paper_scale_is_the_document() -> None:
    settings, document = load(ROOT / "scales/paper/params.yaml"), documented.load()
    assert list(settings.documented_rows) == list(document.tables["image_classification"].rows)
    protocol = document.tables["protocol"].rows
    for name, row in settings.documented_rows.items():
        assert (row.documented_row, row.data.source, row.protocol) == (name, name, "documented")
        assert row.seeds == document.figure("runs", "cifar10", "runs")
        for block, section in (("training_config", row.training), ("dnm_config", row.dnm)):
            stated = {key: value for key, value in protocol[block].values.items() if hasattr(section, key)}
            assert {key: getattr(section, key) for key in stated} == stated


def test_what_the_checks_know_of_the_sources() -> None:
    sizes = {source: found.size for source, found in PUBLISHED.items()}
    sizes |= {"digits": digits.SIZE, "pneumonia_mnist": pneumonia_mnist._SIZE}
    assert sizes == settings_checks.SIZES
    # The others have a setting for it.
    assert READERS.keys() - sizes.keys() == {"synthetic", "lesions", "imagenet", "folder"}
    train, test = digits.generate(train=1000, test=settings_checks.DIGITS - 1000, distortion=0.0, seed=0)
    assert len(train) + len(test) == settings_checks.DIGITS


def test_the_rows_that_settings_may_measure_are_the_documents() -> None:
    stated = get_args(get_type_hints(Row)["documented_row"])
    assert sorted(stated) == sorted([*documented.load().tables["image_classification"].rows, "none"])


def test_the_transfers_that_settings_may_hold_are_the_documents() -> None:
    table = documented.load().tables["transfer"]
    assert list(get_args(get_type_hints(Transfer)["documented_row"])) == list(table.rows)
    embedded = load(ROOT / "params.yaml").transfer
    assert [entry.documented_row for entry in embedded.values()] == list(table.rows)
    rows = documented.load().tables["image_classification"].rows
    for row, pair in settings_checks.PAIRS.items():
        assert table.rows[row].title == " → ".join(rows[name].title for name in pair)


def test_the_rows_of_detection_are_the_documents() -> None:
    rows = list(documented.load().tables["object_detection"].rows)
    assert list(get_args(get_type_hints(Detection)["documented_row"])) == rows
    assert [entry.documented_row for entry in load(ROOT / "params.yaml").detection.values()] == rows


def test_several_rows_may_be_none_of_the_documents(tmp_path: Path) -> None:
    content = read_yaml(ROOT / "params.yaml")
    content["image_classification"]["others"] = content["image_classification"]["medical"]
    found = load(write(tmp_path / "params.yaml", content))
    assert set(found.image_classification) - set(found.documented_rows) == {"medical", "others"}


@pytest.mark.parametrize("train, classes, validation", [(20, 10, 0.5), (23, 10, 0.2), (101, 3, 0.25), (1000, 7, 0.01)])
def test_training_samples_are_those_that_are_left(train: int, classes: int, validation: float) -> None:
    data = Synthetic(
        source="synthetic", classes=classes, size=8, channels=1, train=train, test=1, difficulty=0.9, seed=0,
        validation=validation,
    )  # fmt: skip
    assert settings_checks.training_samples(data) == len(registry.load(data, ROOT).train)


@pytest.mark.parametrize("train, classes, validation", [(20, 6, 0.5), (101, 5, 0.25)])
def test_training_samples_of_lesions(train: int, classes: int, validation: float) -> None:
    data = Lesions(
        source="lesions", classes=classes, size=8, train=train, test=1, difficulty=0.9, seed=0, validation=validation
    )
    found = registry.load(data, ROOT)
    assert settings_checks.training_samples(data) == len(found.train)
    assert (found.train.images.shape[3], found.class_names) == (data.channels, lesions.CLASS_NAMES[:classes])


@pytest.mark.parametrize("train, validation, seed", [(20, 0.5, 0), (400, 0.2, 4), (1000, 0.37, 1), (1790, 0.01, 2)])
def test_no_more_digits_are_left_than_the_checks_allow(train: int, validation: float, seed: int) -> None:
    data = Digits(source="digits", train=train, test=7, distortion=0.5, seed=seed, validation=validation)
    try:
        left = len(registry.load(data, ROOT).train)
    except DataError:
        left = 0
    assert left <= (settings_checks.training_samples(data) or 0)


def test_embedded_runs_are_long_enough_for_patience_and_plateaus() -> None:
    for row in load(ROOT / "params.yaml").image_classification.values():
        assert row.training.epochs >= 40


def changed(content: dict, place: tuple[str, ...], value: Any) -> dict:
    """A copy with `value` at `place`, or without the key where the value is `...`."""
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


def write(path: Path, content: Any) -> Path:
    with path.open("w", encoding="utf-8") as stream:
        YAML(typ="safe", pure=True).dump(content, stream)
    return path


PRUNED = {"row": "cifar10", "seeds": 2, "steps": 2, "prune_at": 0.5, "prune_tolerance": 0.1}
CHARACTERS = read_yaml(ROOT / "params.yaml")["few_shot"]["characters"]
SCENES = read_yaml(ROOT / "params.yaml")["detection"]["coco"]
PICTURES = read_yaml(ROOT / "scales" / "paper" / "params.yaml")["detection"]["coco"]["data"]

MISTAKES = {
    "unknown key": ((*TRAINING, "learning_rat"), 0.1, "learning_rat is not a setting; did you mean 'learning_r"),
    "far from any key": ((*TRAINING, "qqq"), 1, "training.qqq is not a setting; known keys: batch_size"),
    "unknown key at the top": (("scal",), "x", "scal is not a setting; did you mean 'scale'?"),
    "missing key": ((*TRAINING, "epochs"), ..., "image_classification.cifar10.training.epochs is missing"),
    "missing section": (("execution",), ..., "execution is missing; add it"),
    "text for a number": ((*TRAINING, "learning_rate"), "1e-4 ", "as text: write a plain number, such as 0.0001"),
    "text for a whole number": ((*TRAINING, "epochs"), "forty", "epochs is str 'forty', expected a whole number"),
    "fraction for a whole number": ((*ROW, "seeds"), 2.5, "seeds is float 2.5, expected a whole number"),
    "truth for a number": ((*ROW, "seeds"), True, "seeds is bool True, expected a whole number"),
    "number for truth": ((*TRAINING, "flip"), 1, "flip is int 1, expected true or false"),
    "number for text": (("scale",), 3, "scale is int 3, expected text"),
    "nothing": ((*TRAINING, "epochs"), None, "epochs is missing, expected a whole number"),
    "mapping for a number": ((*TRAINING, "epochs"), {"a": 1}, "epochs is dict {'a': 1}, expected a whole number"),
    "number for a mapping": ((*ROW, "training"), 3, "training is int 3, expected a mapping of batch_size"),
    "number for a list": ((*DNM, "event_times"), 0.5, "event_times is float 0.5, expected a list"),
    "text in a list": ((*NETWORKS, "start"), [[4], ["8", 8], [16, 24]], r"start\[1\]\[0\] is str '8', expected"),
    "below the range": ((*TRAINING, "epochs"), 0, "epochs is 0, expected at least 1 and at most"),
    "above the range": ((*DATA, "difficulty"), 1.5, "difficulty is 1.5, expected at least 0.0 and at most 1.0"),
    "out of range in a list": ((*DNM, "event_times"), [0.1, 1.2], r"event_times\[1\] is 1.2, expected at least"),
    "not a number": ((*TRAINING, "learning_rate"), float("nan"), "learning_rate is nan, expected"),
    "infinite": ((*DNM, "max_parameters"), float("inf"), "max_parameters is inf, expected at least 0.0 and at most 1"),
    "unknown choice": ((*TRAINING, "optimizer"), "adamw", "expected one of AdamW, SGD; did you mean 'AdamW'?"),
    "truth for a choice": ((*TRAINING, "optimizer"), True, "optimizer is bool True, expected one of AdamW, SGD"),
    "unknown source": ((*DATA, "source"), "mnist", "data.source is str 'mnist', expected one of synthetic, lesi"),
    "no source": ((*DATA, "source"), ..., "data.source is missing, expected one of synthetic, lesions, digits, cifar"),
    "keys of another source": ((*DATA, "source"), "stl10", "data.channels is not a setting; known keys: source, fo"),
    "a key of another source": ((*DATA, "folder"), "x", "data.folder is not a setting"),
    "two channels": ((*DATA, "channels"), 2, "channels is 2, expected 1 or 3"),
    "no times": ((*DNM, "event_times"), [], "lists 0 with trigger: scheduled, expected at least one time with trigger"),
    "a time at the end": ((*DNM, "event_times"), [0.5, 1.0], r"event_times\[1\] is 1.0, expected a fraction strictly"),
    "times of a plateau": ((*DNM, "trigger"), "plateau", "lists 3 with trigger: plateau, expected at least one time"),
    "no grace": ((*DNM, "grace"), 0.0, "grace is 0.0, expected a fraction strictly between 0 and 1"),
    "pruned at the end": ((*DNM, "prune_at"), 1.0, "prune_at is 1.0, expected less than 1, or 0 for never"),
    "an operator twice": ((*DNM, "operators"), ["Divide", "Divide"], "operators is .*, expected each once"),
    "another operator": ((*DNM, "operators"), ["Connect"], r"operators\[0\] is str .Connect., expected one of "),
    "a theory twice": ((*DNM, "theories"), ["tangent", "tangent"], "theories is .*, expected each once"),
    "another theory": ((*DNM, "theories"), ["tangents"], r"theories\[0\] is str .tangents., expected one of .*; did"),
    "other depths": ((*NETWORKS, "start"), [[4], [8], [16, 24]], r"blocks of \[1, 2, 2\] layers and start of"),
    "empty block": ((*NETWORKS, "start"), [[4], [], [16, 24]], "expected the same, none empty"),
    "a block that is no list": ((*NETWORKS, "start"), [4, [8, 8], [16, 24]], r"start\[0\] is int 4, expected a list"),
    "deeper than the pixels": ((*NETWORKS,), {"baseline": [[8]] * 6, "start": [[4]] * 6}, "6 blocks, expected at mo"),
    "wider than the baseline": ((*NETWORKS, "start"), [[4], [8, 17], [16, 24]], r"start\[1\] is \[8, 17\], expected"),
    "batch of more than there are": ((*TRAINING, "batch_size"), 641, "is 641, expected at most [0-9]+, the training"),
    "crops beside the image": ((*TRAINING, "crop_padding"), 16, "padding is 16, expected less than the 16 pixels"),
    "more seeds than the row": (("ablation", "parts", "seeds"), 11, "ablation.parts.seeds is 11, expected at most"),
    "never pruned": (("events", "gains", "prune_at"), 0.0, "gains.prune_at is 0, expected a fraction of the run"),
    "a row that is not there": (("robustness", "perturbed", "row"), "x", "perturbed.row is 'x', expected one of"),
    "a row's name": (("events", "cifar10"), PRUNED, "events has an entry 'cifar10', expected a name that no row has"),
    "another section's name": (("events", "parts"), PRUNED, "an entry 'parts', expected a name that no ablation has"),
    "more seeds than the source": (
        ("transfer", "cifar10_stl10", "seeds"), 11, "cifar10_stl10.seeds is 11, expected at most the source's 10"
    ),
    "a source that is not there": (("transfer", "cifar10_stl10", "source"), "x", "source is 'x', expected one of cifa"),
    "a target that is not there": (("transfer", "cifar10_stl10", "target"), "x", "target is 'x', expected one of cifa"),
    "to where it comes from": (
        ("transfer", "medical_natural", "target"), "medical", "target is medical, expected another row than source"
    ),
    "another pair's row": (
        ("transfer", "medical_natural", "documented_row"), "cifar10_to_stl10", "is cifar10_to_stl10, that of cifar10_"
    ),
    "another pair's data": (
        ("transfer", "cifar10_stl10", "target"), "cifar100", "leads from cifar10 to cifar100, expected cifar10 to stl10"
    ),
    "an unknown pair": (("transfer", "medical_natural", "documented_row"), "medical_to_art", "expected one of cifar10"),
    "more ways than test classes": (
        ("few_shot", "characters", "data", "test"), 4, "characters.ways is 5, expected at most the 4 classes of test"
    ),
    "more ways than training classes": (
        ("few_shot", "characters", "meta", "ways"), 61, "meta.ways is 61, expected at most the 60 training classes"
    ),
    "too few drawings to train on": (
        ("few_shot", "characters", "meta", "shots"), 36, "meta takes 41 drawings of a class, expected at most the 40"
    ),
    "nothing to learn from": (
        ("few_shot", "characters", "queries"), 40, "queries takes 41 drawings of a class, expected at most the 40"
    ),
    "more characters than memory": (
        ("few_shot", "characters", "data"), {**CHARACTERS["data"], "train": 10**4, "drawings": 10**4},
        "all characters take 25753600000 bytes of pixels, expected at most 4294967296; lower their numbers, drawings"
    ),
    "features of another number": (
        ("few_shot", "characters", "networks", "start"), [[4], [6], [24]], "start ends with 24 channels, expected the"
    ),
    "few-shot learning that stops early": (
        ("few_shot", "characters", "training", "early_stopping"), True, "early_stopping is true, expected false"
    ),
    "few-shot learning by plateau": (
        ("few_shot", "characters", "dnm"), {**CHARACTERS["dnm"], "trigger": "plateau", "event_times": []},
        "dnm.trigger is plateau, expected scheduled"
    ),
    "too few test episodes": (("few_shot", "characters", "episodes"), 599, "episodes is 599, expected at least 600"),
    "a few-shot source like another": (
        ("few_shot", "characters", "data", "source"), "character", "did you mean 'characters'?"
    ),
    "a row's name for few-shot learning": (
        ("few_shot", "cifar10"), CHARACTERS, "few_shot has an entry 'cifar10', expected a name that no row has"
    ),
    "a detector's row twice": (
        ("detection", "open_images", "documented_row"), "coco", "documented_row is coco, that of coco too, expected an"
    ),
    "a detector's unknown row": (("detection", "coco", "documented_row"), "voc", "expected one of coco, pascal_voc, o"),
    "fewer objects than the fewest": (
        ("detection", "coco", "data", "most"), 2, "coco.data.most is 2, expected at least fewest, which is 4"
    ),
    "smaller objects than the smallest": (
        ("detection", "coco", "data", "largest"), 0.1, "data.largest is 0.1, expected at least smallest, which is 0.14"
    ),
    "more scenes than memory": (
        ("detection", "coco", "data", "train"), 10**6, "all scenes take .* bytes of pixels, expected at most 42949672"
    ),
    "a detector's source like another": (("detection", "coco", "data", "source"), "scene", "did you mean 'scenes'?"),
    "tested on what is trained on": (
        ("detection", "coco", "data"), {**PICTURES, "test": "train2017"}, "test is train2017, expected another split"
    ),
    "channels that no norm divides": (
        ("detection", "coco", "detector", "pyramid"), 20, "detector.pyramid is 20, expected a multiple of 8"
    ),
    "more levels than blocks": (
        ("detection", "coco", "detector", "levels"), 5, "detector.levels is 5, expected at most 4, the number of blo"
    ),
    "maps that are too large": (
        ("detection", "coco", "detector", "levels"), 3, "largest maps have sides of 32, expected a quarter of the 64"
    ),
    "other towers than RetinaNet's": (
        ("detection", "coco", "detector", "head"), "retinanet", "convolutions is 1 with head: retinanet, expected 4"
    ),
    "a size that no pooling divides": (
        ("detection", "coco", "data", "size"), 72, "data.size is 72, expected a multiple of 16: the maps of detector"
    ),
    "a size that the rival's poolings do not divide": (
        ("detection", "coco", "data", "size"), 48, "data.size is 48, expected a multiple of 32: the maps of resnet.lev"
    ),
    "a detector's crops": (
        ("detection", "coco", "training", "crop_padding"), 2, "crop_padding is 2, expected 0: a crop would cut objects"
    ),
    "a detector that stops early": (
        ("detection", "coco", "training", "early_stopping"), True, "early_stopping is true, expected false: detectors"
    ),
    "a detector by plateau": (
        ("detection", "coco", "dnm"), {**SCENES["dnm"], "trigger": "plateau", "event_times": []},
        "dnm.trigger is plateau, expected scheduled: detectors"
    ),
    "a detector's batch of more than there are": (
        ("detection", "coco", "training", "batch_size"), 10**5, "batch_size is 100000, expected at most [0-9]+, the tr"
    ),
    "a few-shot entry's name for detection": (
        ("detection", "characters"), SCENES, "detection has an entry 'characters', expected a name that no few_shot has"
    ),
    "too many kinds of lesion": (("image_classification", "medical", "data", "classes"), 7, "expected at least 2 and"),
    "a search on more seeds": (("nas", "search", "seeds"), 11, "nas.search.seeds is 11, expected at most the row"),
    "a rung of no epoch": (("nas", "search", "rungs"), 5, r"the first of 5 rungs has 0.11 of 40 epochs, expected"),
    "nothing on the last rung": (("nas", "search", "longest"), 0, "the first of 2 rungs has 0 of 40 epochs, expected"),
    "no halving": (("nas", "search", "reduction"), 1, "nas.search.reduction is 1, expected at least 2 and at most 100"),
    "a search for nothing": (("nas", "search", "cost"), 0, "nas.search.cost is 0, expected at least 0.001 and at most"),
    "a search of nothing": ((*DNM, "operators"), [], "search.row is cifar10, whose dnm.operators is empty, expected"),
    "another fill": ((*DNM, "fill"), "twins", "fill is str 'twins', expected one of zero, twin, pair, gradmax; did"),
    "one image a class": ((*DATA, "train"), 19, "data.train is 19, expected at least 20: one image of each class to"),
    "more than memory": ((*DATA, "test"), 10**7, "take 76802[0-9]+ bytes of pixels, expected at most 4294967296"),
    "more digits than there are": (
        ("image_classification", "fashion_mnist", "data", "test"), 1600, "are [0-9]+ and 1600, expected at most 1797"
    ),
    "times that fall": ((*DNM, "event_times"), [0.2, 0.1], r"event_times\[1\] is 0.1 after 0.2, expected rising times"),
    "a time twice": ((*DNM, "event_times"), [0.1, 0.1], r"event_times\[1\] is 0.1 after 0.1, expected rising times"),
    "unknown documented row": ((*ROW, "documented_row"), "cifar-10", "did you mean 'cifar10'"),
    "a documented row twice": ((*ROW[:1], "cifar100", "documented_row"), "cifar10", "is cifar10, that of cifar10 too"),
    "one seed": ((*ROW, "seeds"), 1, "seeds is 1, expected at least 2 and at most 1000"),
    "called documented": ((*ROW, "protocol"), "documented", "batch_size is 64, expected 128, as the document states"),
    "called as documented": ((*ROW, "as_documented"), True, "is true with protocol: tuned, expected false"),
    "a scale's name": (("scale",), "../x", "scale is '../x', expected at most 60 lower-case letters"),
    "another scale": (("scale",), "paper", "params_file is 'params.yaml', expected 'scales/paper/params.yaml'"),
    "another root": (("root",), "..", "root is '..', expected '.', as seen from params.yaml"),
    "control character": (("root",), "a\0b", r"root is str 'a\\x00b', expected 1 to 1000 printable characters"),
    "empty text": (("root",), "", "root is str '', expected 1 to 1000 printable characters"),
    "a list of sources": ((*DATA, "source"), ["synthetic"], r"source is list \['synthetic'\], expected one of"),
    "a source like another": ((*DATA, "source"), "cifar_10", "did you mean 'cifar10'?"),
    "data that is a list": ((*ROW, "data"), [1], r"data is list \[1\], expected a mapping with a source"),
    "warm-up into the decay": ((*TRAINING, "warmup"), 0.5, "warmup is 0.5, expected at most decay_from"),
    "no rows": (("image_classification",), {}, "image_classification is dict {}, expected a mapping with at least one"),
    "a row that is a number": (("image_classification",), {10: {}}, "image_classification has the key int 10"),
}  # fmt: skip


@pytest.mark.parametrize("place, value, message", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_refused(place: tuple[str, ...], value: Any, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "params.yaml", changed(read_yaml(ROOT / "params.yaml"), place, value))
    with pytest.raises(SettingsError, match=message) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_crops_of_a_target_fit_into_its_sources_images(tmp_path: Path) -> None:
    content = read_yaml(ROOT / "params.yaml")
    content["image_classification"]["cifar10"]["training"]["crop_padding"] = 8
    assert load(write(tmp_path / "params.yaml", content)).transfer
    medical = content["image_classification"]["medical"]
    medical["data"]["size"], medical["training"]["crop_padding"] = 8, 1
    with pytest.raises(SettingsError, match="crop_padding of cifar10 is 8, expected less than the 8 pixels of medical"):
        load(write(tmp_path / "params.yaml", content))


def test_a_row_whose_name_is_no_file_name_is_refused(tmp_path: Path) -> None:
    content = read_yaml(ROOT / "params.yaml")
    content["image_classification"] = {"../x\ny": content["image_classification"]["cifar10"]}
    with pytest.raises(
        SettingsError, match=r"has a row '\.\./x\\ny', expected at most 60 lower-case letters"
    ) as caught:
        load(write(tmp_path / "params.yaml", content))
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    place = (*ROW, "training", "weight_decay")
    row = load(write(tmp_path / "p.yaml", changed(read_yaml(ROOT / "params.yaml"), place, 1))).image_classification
    # A figure's bits and a fingerprint must not depend on whether somebody wrote 1 or 1.0.
    assert repr(row["cifar10"].training.weight_decay) == "1.0"


# Thirty lines that stand for 2^30 words.
LAUGHS = "- &l0 [x, x]\n" + "".join(f"- &l{n} [*l{n - 1}, *l{n - 1}]\n" for n in range(1, 30))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the file is missing, expected a mapping of scale"),
        ("# nothing but words\n", "the file is missing, expected a mapping"),
        ("- 1\n", r"the file is list \[1\], expected a mapping"),
        ("scale: [1\nroot: .\n", "is not valid YAML: "),
        ("scale: a\nscale: b\n", "is not valid YAML: "),
        ("scale: \x00\n", "is not valid YAML: "),
        (f"- 0x{'f' * 9000}\n", r"the file is list \[of 36000 bits\], expected"),
        (LAUGHS, r"the file is list \[\['x', 'x'\], \[\['x', 'x'\], \['x', 'x'\]\], .*\.\.\.\], expected"),
        ('"a\\nb": 1\n', r"params.yaml: str 'a\\nb' is not a setting"),
        (f"{'k' * 500}: 1\n", r"params.yaml: str 'k+\.\.\.k+' is not a setting"),
        ("[" * 5000, "is not valid YAML: "),
        ("a: !!python/object/apply:os.abort []\n", "is not valid YAML: "),
        ("&a [*a]\n", r"the file is list \[\[\[\[\.\.\.\]\]\]\], expected"),
    ],
    ids=[
        "empty", "comment", "list", "open bracket", "key twice", "control character", "long number", "many aliases",
        "line break in a key", "long key", "deep", "code", "recursion",
    ],
)  # fmt: skip
def test_files_that_are_no_settings(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        load(file)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(b"scale: \xff\xfe\n")
    with pytest.raises(SettingsError, match="is not valid YAML: "):
        load(file)


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read .*--params"):
        load(tmp_path / "params.yaml")


def test_settings_are_frozen_and_become_plain_values_again(scale_file: Path) -> None:
    settings = load(scale_file)
    with pytest.raises(AttributeError):
        settings.scale = "other"  # type: ignore[misc]
    plain = as_plain(settings)
    raw = read_yaml(scale_file)
    assert plain.keys() == raw.keys()
    assert plain["execution"] == raw["execution"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--row", "nope"], "error: params.yaml: row 'nope' does not exist; the rows are cifar10"),
        (["--row", "cifar10", "--params", "nope.yaml"], "error: nope.yaml: cannot be read"),
    ],
)
def test_the_command_line_ends_in_one_message(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "stages.baseline", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(message)
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""
