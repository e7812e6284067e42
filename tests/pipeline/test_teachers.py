"""Whole runs with one teacher of each kind and with several, and what is refused of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from collections_here import Files
from limbeck import pipeline
from limbeck.cli import app
from limbeck.errors import DataError, ModelError
from limbeck.models.encoder import Encoder
from limbeck.record import read_record
from limbeck.teachers import load_teacher

from .conftest import Distil, Invoke, metrics_of
from .test_bad_input import refused

pytestmark = pytest.mark.slow

Write = Callable[..., Path]


def overlap(files: Files, query: str, passage: str) -> float:
    """How many words of the query the passage has, and something small to tell ties apart."""
    shared = set(files.queries[query].split()) & set(files.corpus[passage].split())
    return len(shared) + (sum(map(ord, query + passage)) % 97) / 1000


@pytest.fixture
def scored(files: Files, tmp_path: Path) -> Write:
    """A file of scores of all passages for the queries of `which` splits ("" = unlabelled)."""

    def write(
        which: tuple[str, ...] = ("train", "", "dev", "test"),
        name: str = "scores.tsv",
        **extra: str,
    ) -> Path:
        judged = {query: split for split, grades in files.qrels.items() for query in grades}
        lines = [
            f"{query}\t{passage}\t{overlap(files, query, passage)}"
            for query in files.queries
            if judged.get(query, "") in which
            for passage in files.corpus
        ]
        path = tmp_path / name
        path.write_text("\n".join([*lines, *extra.values(), ""]))
        return path

    return write


def notes_of(result: Any) -> str:
    return "\n".join(result.notes)


# --- one teacher ---------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["kl", "margin_mse"])
@pytest.mark.parametrize("kind", ["sparse", "late"])
def test_a_reader_teaches(
    distil: Distil,
    kind: str,
    recipe: str,
    tiny_sparse_folder: Path,
    tiny_late_folder: Path,
    tmp_path: Path,
) -> None:
    teacher = str(tiny_sparse_folder if kind == "sparse" else tiny_late_folder)
    settings = {"scale": 20.0} if recipe == "margin_mse" else {}
    result = distil(teacher=teacher, recipe=recipe, settings=settings)
    rows = {str(row["model"]): row for row in result.rows}
    assert list(rows) == ["bm25", "zero_shot", "undistilled", "teacher", "student"]
    assert "scores in 28 lists" in notes_of(result)
    assert f"from a {kind} teacher" in (tmp_path / "run" / "student" / "README.md").read_text()
    again = pipeline.evaluate(teacher, tmp_path / "data", precision="fp32")
    figure = {str(row["model"]): row["nDCG@10"] for row in again.rows}["model"]
    assert 0 <= figure <= 1


def test_scores_from_a_file_teach(distil: Distil, scored: Write, tmp_path: Path) -> None:
    """Its dev and test queries are scored too: it is compared and measured, on its own pairs."""
    result = distil(teacher=str(scored()), force_teacher=False)
    rows = {str(row["model"]): row for row in result.rows}
    assert {"teacher", "contrastive", "student"} <= set(rows)
    assert rows["teacher"]["nDCG@10"] > 0.9  # a query's words stand in its positive
    said = notes_of(result)
    assert (
        "scores.tsv: 2,400 scores, for 28 of 28 training, 6 of 6 dev, 6 of 6 test queries" in said
    )
    assert "nDCG@10 on dev; the student trained without it" in said
    counted = metrics_of(tmp_path / "run")
    asked = [counted[name] for name in counted if name.startswith("score-teacher")]
    assert asked
    assert all(metrics["teacher_forwards"] == 0 for metrics in asked)
    assert distil(teacher=str(scored()), force_teacher=False).rows == result.rows


def test_what_a_file_does_not_cover_is_not_measured_and_said(
    distil: Distil, scored: Write, files: Files
) -> None:
    some = scored(("train", ""), dev=f"{next(iter(files.qrels['dev']))}\tp0\t1.0")
    result = distil(teacher=f"scores:{some}", force_teacher=False)
    assert "teacher" not in {row["model"] for row in result.rows}
    assert "contrastive" not in {row["model"] for row in result.rows}
    said = notes_of(result)
    assert "teacher: not measured on test, since it has scores for 0 of 6 test queries" in said
    assert (
        "compared on dev with a student trained without it, since it has scores for 1 of 6" in said
    )
    assert "28 of 28 training, 1 of 6 dev, 0 of 6 test" in said


def test_queries_and_positives_that_a_file_lacks_are_counted(
    distil: Distil, files: Files, tmp_path: Path
) -> None:
    """Training queries have three passages each, the positive where the query's number is even."""
    lines = []
    for query in [
        *files.qrels["train"],
        *(set(files.queries) - {q for g in files.qrels.values() for q in g}),
    ]:
        [positive] = files.qrels["train"].get(query, {"p0": 1})
        others = [passage for passage in files.corpus if passage != positive][:3]
        shown = [positive, *others] if int(query[1:]) % 2 == 0 else others
        lines += [f"{query}\t{passage}\t{overlap(files, query, passage)}" for passage in shown]
    lines = [line for line in lines if not line.startswith("q1\t")]
    (tmp_path / "s.trec").write_text("\n".join([*lines, ""]))
    result = distil(teacher=f"scores:{tmp_path / 's.trec'}")
    said = notes_of(result)
    assert "s.trec: " in said
    assert "27 of 28 training" in said
    assert "positives left out: the teacher has no score: 10" in said  # q1's among them
    assert "training queries without two passages to compare" in said


def test_the_scores_of_one_run_teach_another(
    distil: Distil, tiny_ranker_folder: Path, tmp_path: Path
) -> None:
    """A stage's scores.parquet is such a file: the same pairs, the same scores."""
    distil(teacher=str(tiny_ranker_folder))
    tables = sorted((tmp_path / "run" / "stages").glob("score-teacher-*/scores.parquet"))
    table = max(tables, key=lambda path: path.stat().st_size)
    result = distil(teacher=str(table), out=tmp_path / "second")
    assert (tmp_path / "second" / "student" / "model.safetensors").exists()
    assert "scores.parquet: " in notes_of(result)


# --- several -------------------------------------------------------------------------------------


def test_several_teach_as_their_weighted_mean(
    distil: Distil,
    scored: Write,
    tiny_ranker_folder: Path,
    tiny_late_folder: Path,
    tmp_path: Path,
) -> None:
    """A ranker, a late-interaction model and a file; both folders are called `model`."""
    given = {
        "teacher": [str(tiny_ranker_folder), str(tiny_late_folder), str(scored())],
        "teacher_weights": [1, 1, 2],
    }
    result = distil(**given)
    rows = {str(row["model"]): row for row in result.rows}
    members = ["teacher/model-1", "teacher/model-2", "teacher/scores.tsv"]
    assert [name for name in rows if name.startswith("teacher")] == ["teacher", *members]
    said = notes_of(result)
    assert "the weighted mean of model-1 (0.25), model-2 (0.25), scores.tsv (0.5)" in said

    record = read_record(tmp_path / "run")
    assert record is not None
    assert record["asked"]["teacher"] == given["teacher"]
    assert record["asked"]["teacher_weights"] == [1.0, 1.0, 2.0]
    scale = record["teachers"]
    assert scale["weights"] == [0.25, 0.25, 0.5]
    digests = [load_teacher(spec).digest for spec in given["teacher"][:2]]
    assert scale["digests"][:2] == digests
    # the scale of the file is that of its 16 best passages of every training query
    table = pl.read_csv(tmp_path / "scores.tsv", separator="\t", has_header=False)
    table.columns = ["query", "passage", "score"]
    training = [f"q{at}" for at in [*range(20), *range(32, 40)]]
    best = (
        table.filter(pl.col("query").is_in(training))
        .group_by("query")
        .agg(pl.col("score").top_k(16))
    )
    kept = np.concatenate([np.array(scores, dtype=np.float32) for scores in best["score"]])
    assert scale["means"][2] == pytest.approx(float(kept.mean()), rel=1e-5)
    assert scale["deviations"][2] == pytest.approx(float(kept.std()), rel=1e-5)

    assert distil(**given).rows == result.rows  # finished, and repeated
    with_others = {**given, "teacher_weights": [1, 1, 1]}
    with pytest.raises(Exception, match="holds another run: teacher_weights"):
        distil(**with_others)


@pytest.fixture
def two_encoders(tiny_encoder: Encoder, tiny_encoder_folder: Path, tmp_path: Path) -> list[str]:
    """The encoder that the student is cut from, and another one."""
    with torch.no_grad():
        for weights in tiny_encoder.parameters():
            weights *= 0.9
    tiny_encoder.save(tmp_path / "other", card="# Another\n", stage="test")
    return [str(tiny_encoder_folder), str(tmp_path / "other")]


def test_several_encoders_score_whole_updates(
    distil: Distil, two_encoders: list[str], tmp_path: Path
) -> None:
    """Equal weights; what either said to one run is not asked again by another."""
    result = distil(teacher=two_encoders)
    assert "the weighted mean of model (0.5), other (0.5)" in notes_of(result)
    stages = metrics_of(tmp_path / "run")
    assert any(name.startswith("encode-teacher-passages") for name in stages)
    assert sum(stage.get("texts_embedded", 0) for stage in stages.values()) > 0
    again = distil(teacher=two_encoders, out=tmp_path / "again")
    stages = metrics_of(tmp_path / "again")
    assert sum(stage.get("texts_embedded", 0) for stage in stages.values()) == 0
    assert [row["nDCG@10"] for row in again.rows] == [row["nDCG@10"] for row in result.rows]
    students = [tmp_path / name / "student" / "model.safetensors" for name in ("run", "again")]
    assert students[0].read_bytes() == students[1].read_bytes()


def test_embed_takes_several_encoders(
    arguments: dict[str, Any], data: Path, two_encoders: list[str]
) -> None:
    given = {**arguments, "recipe": "embed", "settings": {"max_steps": 4, "texts_per_step": 16}}
    result = pipeline.distill(data, **{**given, "teacher": two_encoders})
    assert result.rows[-1]["model"] == "student"


def test_a_budget_knows_what_such_teachers_cost(
    distil: Distil, scored: Write, tiny_sparse_folder: Path, tmp_path: Path
) -> None:
    """Updates are settings of the fast run, so only list length and depth are left to choose."""
    several = [str(scored(("train", ""))), str(tiny_sparse_folder)]
    distil(teacher=several, budget_seconds=600.0)
    record = read_record(tmp_path / "run")
    assert record is not None
    assert record["decided"]["candidates_per_query"] > 0


# --- fitted, from any base, alone and in company -------------------------------------------------


def test_a_teacher_is_fitted_from_a_larger_base_with_its_own_tokenizer(
    distil: Distil, tiny_other_folder: Path, tmp_path: Path
) -> None:
    """Its stages carry the base's name, and the base is measured as it comes."""
    result = distil(teacher=f"train:cross:{tiny_other_folder}", seed=3)
    rows = [str(row["model"]) for row in result.rows]
    assert rows == [
        *["bm25", "zero_shot", "zero_shot/larger", "undistilled", "teacher"],
        *["teacher/dual-larger", "student"],
    ]
    stages = metrics_of(tmp_path / "run")
    trained = {name for name in stages if name.startswith("train-")}
    assert trained == {"train-teacher_dual-larger", "train-teacher_cross-larger", "train-kl"}
    assert any(name.startswith("encode-base-larger-passages") for name in stages)
    assert len(list((tmp_path / "run" / "stages" / "tokens").glob("passage-*"))) == 2
    teacher = load_teacher(str(tmp_path / "run" / "teacher"))
    assert teacher.kind == "cross"
    assert teacher.ranker.transformer.config.hidden_size == 48
    costs = {str(row["model"]): row["training_share_of_limit"] for row in result.rows}
    assert costs["teacher"] is not None
    assert costs["teacher/dual-larger"] is not None


def test_the_students_base_by_name_is_the_default(
    distil: Distil, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    distil(teacher=f"train:dual:{tiny_encoder_folder}")
    stages = metrics_of(tmp_path / "run")
    assert {name for name in stages if name.startswith("train-teacher")} == {"train-teacher_dual"}


def test_fitted_and_given_teachers_teach_together(
    distil: Distil, tiny_other_folder: Path, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    """All have vectors, so the mean has, too; it is kept whole, and teaches another run alike."""
    given = ["train:dual", f"big=train:dual:{tiny_other_folder}", f"asis={tiny_other_folder}"]
    result = distil(teacher=given, teacher_weights=[1, 2, 1])
    rows = [str(row["model"]) for row in result.rows]
    members = ["teacher/dual", "teacher/big", "teacher/asis"]
    assert rows[4:] == ["teacher", *members, "student"]
    assert "the weighted mean of dual (0.25), big (0.5), asis (0.25)" in notes_of(result)
    record = read_record(tmp_path / "run")
    assert record is not None
    assert record["asked"]["teacher"] == given
    assert record["teachers"]["names"] == ["dual", "big", "asis"]
    costs = {str(row["model"]): row["training_share_of_limit"] for row in result.rows}
    assert costs["teacher/big"] is not None
    assert costs["teacher/asis"] is None
    kept = load_teacher(str(tmp_path / "run" / "teacher"))
    assert [member.digest for member in kept.members] == record["teachers"]["digests"]  # type: ignore[attr-defined]
    assert distil(teacher=given, teacher_weights=[1, 2, 1]).rows == result.rows


def test_the_best_of_all_kinds_joins_others(
    distil: Distil, scored: Write, tiny_ranker_folder: Path, tmp_path: Path
) -> None:
    """A file of scores among them cannot be asked about other pairs later, and says so."""
    result = distil(teacher=["train", str(scored())])
    assert "the best on dev" in notes_of(result)
    assert "teacher/train" in [row["model"] for row in result.rows]
    with pytest.raises(ModelError, match="a file of scores"):
        load_teacher(str(tmp_path / "run" / "teacher"))


# --- refused before any work ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("q0\tp1", ["scores.tsv:2401: 2 columns instead of 3"]),
        ("q99\tp1\t1", ['scores.tsv:2401: query id "q99" is none of the queries of']),
        ("q0\tp1\tNaN", ["scores.tsv:2401: the score is nan, not a finite number"]),
        ("q0\tp1\t77", ['query "q0" and passage "p1" score 77 here and', "Keep one"]),
    ],
)
def test_bad_lines_of_a_file(
    invoke: Invoke, data: Path, scored: Write, tmp_path: Path, line: str, says: list[str]
) -> None:
    refused(invoke, tmp_path / "run", data, "--teacher", scored(extra=line), says=says)


def test_bad_tables_and_files_without_training_queries(
    invoke: Invoke, data: Path, scored: Write, tmp_path: Path
) -> None:
    out, table = tmp_path / "run", tmp_path / "scores.parquet"
    pl.DataFrame({"query_id": ["q0"], "score": [1.0]}).write_parquet(table)
    refused(invoke, out, data, "--teacher", table, says=["no column 'passage_id'"])
    says = ["There is no file of scores", "Check the path"]
    refused(invoke, out, data, "--teacher", tmp_path / "none.tsv", says=says)
    says = ["No training query of data has scores of two passages"]
    refused(invoke, out, data, "--teacher", scored(("dev", "test")), says=says)
    (tmp_path / "empty.tsv").write_text("")
    refused(invoke, out, data, "--teacher", tmp_path / "empty.tsv", says=["is empty"])


def test_files_that_share_no_training_query(
    invoke: Invoke, data: Path, scored: Write, tmp_path: Path
) -> None:
    two = ["--teacher", scored(("train",), "a.tsv"), "--teacher", scored(("",), "b.tsv")]
    refused(invoke, tmp_path / "run", data, *two, says=["No training query of data has scores of"])


def test_weights_and_combinations_that_make_no_sense(
    invoke: Invoke, data: Path, scored: Write, tmp_path: Path, two_encoders: list[str]
) -> None:
    out, two = tmp_path / "run", ["--teacher", two_encoders[0], "--teacher", two_encoders[1]]
    # of a repeated option the fast run's own would count, too: --teacher train:dual
    arguments = ["--out", out, "--student", two_encoders[0], "--recipe", "kl"]
    for given, says in (
        ([*two, "--teacher-weights", "0.5"], "1 numbers for 2 teachers"),
        ([*two, "--teacher-weights", "1,2,3"], "3 numbers for 2 teachers"),
        ([*two, "--teacher-weights", "1,0"], "each must be a number above 0"),
        ([*two, "--teacher-weights", "1,-2"], "each must be a number above 0"),
        ([*two, "--teacher-weights", "1,nan"], "each must be a number above 0"),
        ([*two, "--teacher-weights", "1;2"], "not a list of numbers"),
        ([*two[:2], "--teacher-weights", "1"], "1 numbers for 1 teachers"),
        ([*two, "--teacher", "train:duel"], "no such teacher to fit"),
        (["--teacher", "a=x", "--teacher", "a=train"], "Two teachers are named 'a'"),
        (["--teacher", "train:dual:no/such/base"], "no/such/base"),
        ([*two, "--teacher", tmp_path / "nowhere"], "no model folder"),
        ([*two, "--teacher", scored(), "--recipe", "embed"], "needs a teacher with vectors"),
    ):
        words = [str(word) for word in ["distill", data, *arguments, *given]]
        answer = CliRunner().invoke(app, words)
        assert answer.exit_code == 2, answer.output
        assert says in answer.stderr
        assert not (out / "stages").exists()


def test_readers_have_no_vectors_to_embed(
    invoke: Invoke, data: Path, tmp_path: Path, tiny_late_folder: Path
) -> None:
    given = ["--teacher", tiny_late_folder, "--recipe", "embed"]
    says = ["needs a teacher with vectors", "--recipe kl"]
    refused(invoke, tmp_path / "run", data, *given, says=says, settings=False)


def test_a_constant_file_is_refused_as_a_teacher(
    invoke: Invoke, data: Path, files: Files, tmp_path: Path
) -> None:
    lines = [f"{query}\t{passage}\t0.5" for query in files.queries for passage in files.corpus]
    (tmp_path / "same.tsv").write_text("\n".join(lines))
    answer = invoke("distill", data, "--teacher", tmp_path / "same.tsv")
    assert answer.exit_code == 3, answer.output
    assert "The teacher is constant" in answer.stderr


def test_evaluate_measures_a_file_only_where_it_covers_the_split(data: Path, scored: Write) -> None:
    result = pipeline.evaluate(f"scores:{scored(('test',))}", data, precision="fp32")
    assert {str(row["model"]): row["nDCG@10"] for row in result.rows}["model"] > 0.9
    with pytest.raises(DataError, match="measured on dev: it has scores for 0 of 6 dev queries"):
        pipeline.evaluate(f"scores:{scored(('test',))}", data, split="dev", precision="fp32")


def test_a_dry_run_tells_of_several(data: Path, scored: Write, arguments: dict[str, Any]) -> None:
    given = {**arguments, "teacher": [str(scored()), str(scored(name="other.tsv"))]}
    lines = pipeline.dry_run(data, **given)
    assert "bring the teachers to one scale" in lines
    assert any(line.startswith("other.tsv: 2,400 scores") for line in lines)
