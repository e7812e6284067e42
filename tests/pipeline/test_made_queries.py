"""Whole runs on a corpus that came without queries."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from collections_here import Files
from limbeck import pipeline
from limbeck.data.derived import DerivedTexts
from limbeck.errors import ConfigError
from limbeck.evaluation.measures import RETRIEVAL
from limbeck.indexing.runs import data_of
from limbeck.report.queries import queries_of
from limbeck.store import read_json

from .conftest import FAST, Distil, metrics_of

pytestmark = pytest.mark.slow


@pytest.fixture
def files(files: Files) -> Files:
    """Passages alone, of two sentences each."""
    return Files({id_: f"{text[:20]}. {text}" for id_, text in files.corpus.items()}, {})


@pytest.fixture
def data(files: Files, tmp_path: Path) -> Path:
    folder = files.write(tmp_path / "data")
    (folder / "queries.jsonl").unlink()
    return folder


def test_figures_of_made_queries_are_labelled_wherever_they_stand(distil: Distil) -> None:
    result = distil()
    assert result.out is not None
    rows = read_json(result.out / "metrics.json")["rows"]
    assert all(row["synthetic"] for row in rows)
    assert {row["split"] for row in rows} == {"test"}
    assert result.table.count("test, synthetic") == len(rows)
    assert any(note.startswith("synthetic: ") for note in result.notes)
    assert not any("BM25" in sentence for sentence in result.advice)
    per_query = pl.read_parquet(result.out / "per_query.parquet")
    assert set(per_query["split"]) == {"test, synthetic"}
    kept = DerivedTexts.read(result.out / "stages" / "made-queries" / "queries.parquet")
    assert set(per_query["query_id"]) <= set(kept.frame["derived_id"])
    shown = queries_of(result.out, data_of(result.out), RETRIEVAL)
    assert shown is not None
    assert all(row.text and row.judged for row in shown.rows)


def test_figures_of_judged_queries_are_not_labelled(finished: Any) -> None:
    assert not any("synthetic" in row for row in finished.result.rows)
    assert not (finished.out / "stages" / "made-queries").exists()


def test_a_model_writes_the_queries_and_a_stopped_run_goes_on(
    distil: Distil, tiny_writer_folder: Path, tmp_path: Path
) -> None:
    first = distil(query_model=tiny_writer_folder)
    stage = tmp_path / "run" / "stages" / "made-queries"
    written = (stage / "shard-00000.parquet").read_bytes()
    queries = set(DerivedTexts.read(stage / "shard-00000.parquet").frame["derived_id"])
    per_query = pl.read_parquet(tmp_path / "run" / "per_query.parquet")
    assert set(per_query["query_id"]) <= queries
    student = (tmp_path / "run" / "student" / "model.safetensors").read_bytes()
    for lost in ("metrics.json", "stages/made-queries", "stages/train-kl", "student"):
        path = tmp_path / "run" / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = distil(query_model=tiny_writer_folder)
    assert (stage / "shard-00000.parquet").read_bytes() == written
    assert (tmp_path / "run" / "student" / "model.safetensors").read_bytes() == student
    assert again.notes == first.notes
    assert metrics_of(tmp_path / "run")["made-queries"]["passages"] == 60
    assert set(per_query["query_id"]) <= set(data_of(tmp_path / "run").queries.ids)


def test_a_model_is_refused_where_there_are_queries(
    arguments: dict[str, Any], tiny_writer_folder: Path, finished: Any
) -> None:
    given = {**arguments, "settings": FAST, "query_model": tiny_writer_folder}
    with pytest.raises(ConfigError, match="has queries of its own"):
        pipeline.distill(finished.data, **given)


def test_a_model_is_refused_beside_files_that_name_queries(
    distil: Distil, tiny_writer_folder: Path
) -> None:
    with pytest.raises(ConfigError, match="no file of scores or candidates can name yet"):
        distil(query_model=tiny_writer_folder, candidates=["run.trec"])


def test_a_dry_run_writes_no_queries(
    arguments: dict[str, Any], data: Path, tiny_writer_folder: Path, tmp_path: Path
) -> None:
    lines = pipeline.dry_run(data, **{**arguments, "query_model": tiny_writer_folder})
    assert "write other queries with the --query-model" in lines
    assert not (tmp_path / "run").exists()
