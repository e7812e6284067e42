"""Whole runs of PROD whose ladder is given, and what is refused of ladders."""

from pathlib import Path

import pytest

from limbeck import pipeline
from limbeck.models.encoder import Ranker
from limbeck.teachers import CrossTeacher

from .conftest import Invoke, Staged

pytestmark = pytest.mark.slow


def test_a_rung_may_be_a_teacher_of_an_earlier_run(
    staged: Staged, data: Path, tiny_ranker: Ranker, tmp_path: Path
) -> None:
    ranker = tmp_path / "earlier" / "teacher"
    CrossTeacher("cross", tiny_ranker).save(ranker, card="# card\n", stage="teacher")
    arguments = staged("prod", data, ladder=f"dual/2,{ranker}")
    places = {"out": tmp_path / "run", "store": tmp_path / "store"}
    result = pipeline.distill(**arguments, **places)
    [note] = [note for note in result.notes if note.startswith("rung 2")]
    assert str(ranker) in note
    stages = {path.name for path in (tmp_path / "run" / "stages").glob("train-*")}
    assert "train-prod-step-2" in stages
    assert "train-prod-teacher-2" not in stages


def test_a_rung_may_be_fitted_from_any_base(
    staged: Staged, data: Path, tiny_other_folder: Path, tmp_path: Path
) -> None:
    """In its turn; the one that `--teacher` says is fitted before, and comes last."""
    steps = {"teacher_dual.max_steps": 3, "teacher_cross.max_steps": 3}
    ladder = f"dual/2,big=train:cross:{tiny_other_folder}"
    arguments = {**staged("prod", data, ladder=ladder, **steps), "teacher": "train:dual"}
    planned = pipeline.plan(**arguments, store=tmp_path / "store")
    result = pipeline.distill(**arguments, out=tmp_path / "run", store=tmp_path / "store")
    said = "\n".join(result.notes)
    stages = {path.name for path in (tmp_path / "run" / "stages").glob("train-*")}
    assert {part.stage for part in planned.parts if part.updates} == stages
    assert {"train-teacher_dual", "train-prod-teacher-2-body"} <= stages
    assert "rung 1, dual/2: " in said
    assert "rung 2, big: " in said
    assert "; its base as it comes 0." in said
    assert "rung 3, dual: " in said


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("ladder=train", "Say which kind to fit"),
        ("ladder=dual,no/such", "no/such"),
        ("max_steps=3", "3 steps are too few for 6 stages"),
    ],
)
def test_what_cannot_be_is_refused(invoke: Invoke, data: Path, setting: str, said: str) -> None:
    given = ["--recipe", "prod", "--teacher", "train", "--set", setting]
    answer = invoke("distill", data, *given, settings=False)
    assert answer.exit_code == 2, answer.output
    assert said in answer.stderr
