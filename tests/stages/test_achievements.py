"""The headline claims: verdicts over several rows, and what each is derived from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stages import achievements, documented, tables

GOOD = {"mean": 4.0, "low": 3.0, "high": 5.0, "num_seeds": 5, "holm_p_value": 0.01, "verdict": "direction only"}
BAD = {"mean": -4.0, "low": -5.0, "high": -3.0, "num_seeds": 10, "holm_p_value": 0.01, "verdict": "contradicted"}
NONE = {"mean": 1.0, "low": -1.0, "high": 3.0, "num_seeds": 5, "holm_p_value": 0.4, "verdict": "not reproduced"}
SAME = {"mean": 1.0, "low": 0.5, "high": 1.5, "num_seeds": 5, "verdict": "direction only"}
LARGER = {"mean": 14.9, "low": 14.8, "high": 15.0, "num_seeds": 5, "verdict": "direction only"}


@pytest.mark.parametrize(
    "verdicts, wanted",
    [
        (["reproduced", "reproduced"], "reproduced"),
        (["reproduced", "direction only"], "direction only"),
        (["reproduced", "not reproduced"], "not reproduced"),
        (["reproduced", "not reproduced", "contradicted"], "contradicted"),
        ([], "not measured at this scale"),
    ],
)
def test_a_claim_over_several_rows(verdicts: list[str], wanted: str) -> None:
    assert achievements.together(verdicts) == wanted


def judged(
    improvements: list[dict],
    size: dict = SAME,
    epochs: dict = GOOD,
    transfers: Sequence[dict] = (GOOD,),
    shots: Sequence[tuple[dict, dict]] = (),
    **events: Any,
) -> dict[str, dict[str, Any]]:
    statistics = {
        f"row{number}": {"claims": {"improvement": claim, "parameters": size}}
        for number, claim in enumerate(improvements)
    }
    convergence = {"row0": {"claims": {"epochs_to_target_change": epochs}}}
    robustness = {"perturbed": {"perturbations": {
        "rotation": {"gain": NONE, "verdict": "not reproduced"}, "fgsm": {"gain": GOOD},
    }}}  # fmt: skip
    transfer = {
        f"pair{number}": {
            "documented_row": f"pair{number}",
            "protocols": {"fine_tuning": {"differences": {"improvement": claim}}},
        }
        for number, claim in enumerate(transfers)
    }
    few_shot = {"characters": {"shots": {
        str(number): {"differences": {"improvement": over_traditional, "over_meta_learning": over_meta}}
        for number, (over_traditional, over_meta) in reversed(list(enumerate(shots, start=1)))
    }}}  # fmt: skip
    cells = achievements.cells(documented.load(), statistics, convergence, robustness, events, transfer, few_shot)
    return {cell["row"]: cell for cell in cells}


def test_each_claim_has_its_own_measure() -> None:
    found = judged([GOOD, NONE])
    assert found["accuracy_improvements"]["verdict"] == "not reproduced"
    assert found["accuracy_improvements"]["measured"] == 2.5
    assert found["training_efficiency"]["verdict"] == "direction only"
    assert found["parameter_efficiency"]["verdict"] == "not reproduced"
    assert judged([GOOD], LARGER)["parameter_efficiency"]["verdict"] == "contradicted"
    assert judged([GOOD])["parameter_efficiency"]["verdict"] == "direction only"
    # Over every transfer and every perturbation; FGSM is beside the document's rows.
    across = found["generalization"]
    assert across["verdict"] == "not reproduced" and across["measured"] == 4.0
    assert "transfer: pair0 +4.0 [+3.0, +5.0]; robustness: rotation +1.0 [-1.0, +3.0]" in across["note"]
    assert judged([GOOD], transfers=[GOOD, BAD])["generalization"]["verdict"] == "contradicted"
    assert judged([GOOD], transfers=[GOOD, BAD])["generalization"]["measured"] == 0.0
    alone = judged([GOOD], transfers=[])["generalization"]
    assert (alone["measured"], alone["verdict"]) == ("", "not reproduced") and "transfer: not measured" in alone["note"]
    assert (found["few_shot"]["measured"], found["few_shot"]["verdict"]) == ("", "not measured at this scale")
    # Excelling is being ahead of both rivals at each number of shots.
    excels = judged([GOOD], shots=[(GOOD, GOOD), (GOOD, NONE)])["few_shot"]
    assert (excels["measured"], excels["verdict"]) == (4.0, "not reproduced")
    assert "over meta-learning: 1 shots +4.0 [+3.0, +5.0], 2 shots +1.0 [-1.0, +3.0]" in excels["note"]
    assert judged([GOOD], shots=[(GOOD, GOOD), (GOOD, BAD)])["few_shot"]["verdict"] == "contradicted"
    assert judged([GOOD], shots=[(GOOD, GOOD)])["few_shot"]["verdict"] == "direction only"
    assert found["consistency"]["measured"] == "1 of 2 rows"
    assert judged([GOOD, BAD])["consistency"]["verdict"] == "contradicted"
    significant = found["all improvements are significant"]
    assert (significant["measured"], significant["verdict"]) == ("false", "not reproduced")
    assert judged([GOOD, GOOD])["all improvements are significant"]["measured"] == "true"
    uncertain = {**GOOD, "holm_p_value": 0.06}
    assert judged([GOOD, uncertain])["all improvements are significant"]["verdict"] == "not reproduced"
    assert found["inference note"]["note"] == "no pruning happened at this scale"
    pruned = judged([GOOD], gains={"kinds": {"pruning": {"flops": -0.08}}})["inference note"]
    assert pruned["measured"] == pytest.approx(8.0) and pruned["verdict"] == "not measured at this scale"


def test_every_claim_of_the_document_is_there() -> None:
    document = documented.load()
    found = judged([GOOD])
    assert list(found)[: len(document.tables["achievements"].rows)] == list(document.tables["achievements"].rows)
    assert all(cell["documented"] for cell in found.values())
    assert all(cell["measured"] != "" or cell["note"] for cell in found.values())


def test_the_index_names_every_table(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").touch()
    (tmp_path / "contest.md").touch()
    document = documented.load()
    page = tables.index(document, tmp_path, {}).splitlines()
    titles = [line.split(" | ")[0].removeprefix("| ") for line in page if line.startswith("| ")]
    assert titles[2 : 2 + len(document.tables)] == [table.title for table in document.tables.values()]
    assert f"| {document.tables['runs'].title} | [runs.md](runs.md), [runs.csv](runs.csv) |" in page
    assert (
        f"| {document.tables['setup'].title} | [machine/setup.md](../machine/setup.md), which differs from run to run |"
        in page
    )
    assert f"| {document.tables['language'].title} | {tables.NOT_YET} |" in page
    assert titles[-1] == tables.OWN_TABLES["contest"]
