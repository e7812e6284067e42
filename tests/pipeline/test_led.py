"""Whole runs of LED with a teacher that is named: a sparse encoder, or a ranker besides."""

from pathlib import Path

import pytest

from limbeck import pipeline
from limbeck.models.loading import load_encoder
from limbeck.pipeline.plan_file import Plan

from .conftest import Invoke, Staged, metrics_of

pytestmark = pytest.mark.slow


def trained_as_planned(planned: Plan, out: Path) -> bool:
    """Whether the stages that train, and their steps, are those of the plan."""
    wanted = {part.stage: part.updates for part in planned.parts if part.updates}
    found = {
        name: kept["updates"] for name, kept in metrics_of(out).items() if name.startswith("train-")
    }
    return wanted == found


def test_a_sparse_encoder_is_the_lexical_teacher(
    staged: Staged, data: Path, tiny_sparse_folder: Path, tmp_path: Path
) -> None:
    """It finds, it orders, it is shown beside the student, and it is planned."""
    asked = {**staged("led", data), "teacher": str(tiny_sparse_folder)}
    planned = pipeline.plan(**asked, store=tmp_path / "store")
    result = pipeline.distill(**asked, out=tmp_path / "run", store=tmp_path / "store")
    assert trained_as_planned(planned, tmp_path / "run")
    assert {"mine-teacher", "score-teacher"} <= {part.stage for part in planned.parts}
    assert [row["model"] for row in result.rows][-2:] == ["teacher", "student"]
    assert not (tmp_path / "run" / "teacher").exists()
    stages = {path.name.rpartition("-")[0] for path in (tmp_path / "run" / "stages").iterdir()}
    assert {"mine-teacher", "score-teacher"} <= stages
    assert "score-bm25" not in stages


def test_a_ranker_is_fitted_besides(
    staged: Staged, data: Path, tiny_sparse_folder: Path, tmp_path: Path
) -> None:
    settings = {"lexical": str(tiny_sparse_folder), "teacher_dual.max_steps": 3}
    asked = {**staged("led", data, **settings), "recipe": "led:with-ranker"}
    asked |= {"teacher": "train:dual"}
    planned = pipeline.plan(**asked, store=tmp_path / "store")
    result = pipeline.distill(**asked, out=tmp_path / "run", store=tmp_path / "store")
    assert trained_as_planned(planned, tmp_path / "run")
    assert load_encoder(tmp_path / "run" / "teacher").dimension == 32
    assert [row["model"] for row in result.rows][-2:] == ["teacher", "student"]
    assert sum("of its first 10 on dev are BM25's" in note for note in result.notes) == 2


def test_what_cannot_be_is_refused(
    invoke: Invoke, data: Path, tiny_sparse_folder: Path, tiny_ranker_folder: Path
) -> None:
    for given, said in (
        (["--teacher", tiny_ranker_folder], "Its teacher is of the kind sparse"),
        (
            ["--teacher", "train", "--set", f"lexical={tiny_sparse_folder}"],
            f"--teacher {tiny_sparse_folder}",
        ),
        (
            ["--teacher", "train", "--candidates", data / "qrels" / "train.tsv"],
            "takes none from a file",
        ),
    ):
        answer = invoke("distill", data, "--recipe", "led", *given, settings=False)
        assert answer.exit_code == 2, answer.output
        assert said in answer.stderr
