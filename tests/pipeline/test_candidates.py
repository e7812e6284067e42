"""Candidates that others found join the pools of training queries, and of no others."""

from pathlib import Path

import polars as pl
import pytest

from collections_here import Files
from limbeck.errors import ConfigError, DataError
from limbeck.store import read_json

from .conftest import Distil

pytestmark = pytest.mark.slow


def run_file(path: Path, files: Files, queries: list[str], passages: list[str]) -> Path:
    """A TREC run that finds the same passages for every query."""
    path.write_text(
        "".join(
            f"{query} Q0 {passage} {rank} {10 - rank} tag\n"
            for query in queries
            for rank, passage in enumerate(passages, start=1)
        )
    )
    return path


@pytest.fixture
def training(files: Files) -> list[str]:
    held_out = {query for split in ("dev", "test") for query in files.qrels[split]}
    return [query for query in files.queries if query not in held_out]


def scored(out: Path, stage: str) -> dict[str, set[str]]:
    """The passages that a stage asked the teacher about, by query."""
    found: dict[str, set[str]] = {}
    for path in out.glob(f"stages/{stage}-*/*.parquet"):
        frame = pl.read_parquet(path)
        if {"query_id", "passage_id"} <= set(frame.columns):
            for query, passage in frame.select("query_id", "passage_id").iter_rows():
                found.setdefault(query, set()).add(passage)
    return found


def test_passages_of_a_run_are_scored_for_its_training_queries(
    distil: Distil, files: Files, training: list[str], tmp_path: Path
) -> None:
    passages = ["p50", "p51", "p52", "p53", "p54"]
    test = list(files.qrels["test"])
    given = run_file(tmp_path / "other.trec", files, [*training[:9], *test], passages)
    result = distil(candidates=[given])
    found = scored(tmp_path / "run", "score-dual")
    first = ["p50", "p51"]  # of three sources, eight deep
    assert all(set(first) <= found[query] for query in training[:9])
    told = f"other.trec: 45 candidates given for 9 training queries; {5 * len(test)} of dev and"
    assert any(note.startswith(told) for note in result.notes)
    inputs = read_json(tmp_path / "run" / "stages" / "train-kl" / "inputs.json")["inputs"]
    assert len(inputs["settings"]["candidates"]) == 1


def test_a_run_does_not_go_on_with_other_candidates(
    distil: Distil, files: Files, training: list[str], tmp_path: Path
) -> None:
    given = run_file(tmp_path / "other.trec", files, training[:9], ["p50", "p51"])
    distil(candidates=[given])
    (tmp_path / "run" / "metrics.json").unlink()
    run_file(given, files, training[:9], ["p50", "p52"])
    with pytest.raises(ConfigError, match="begun with other candidates"):
        distil(candidates=[given])
    run_file(given, files, training[:9], ["p50", "p51"])
    distil(candidates=[given])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("q99 Q0 p1 1 1 x", r'other.trec:1: query id "q99" is none of the queries of data'),
        ("q0 Q0 p99 1 1 x", r'other.trec:1: passage id "p99" is none of the passages of data'),
        ("q0 Q0 p1 1 x x", r"other.trec:1: score 'x' is not a number"),
        ("q0 p1", r"other.trec:1: 1 column instead of 3|other.trec:1: 2 columns instead of 3"),
    ],
)
def test_bad_lines_are_refused_before_any_work(
    distil: Distil, tmp_path: Path, line: str, says: str
) -> None:
    (tmp_path / "other.trec").write_text(line + "\n")
    with pytest.raises(DataError, match=says):
        distil(candidates=[tmp_path / "other.trec"])
    assert not (tmp_path / "run" / "stages").exists()


def test_candidates_that_would_change_nothing_are_refused(
    distil: Distil, files: Files, training: list[str], tmp_path: Path
) -> None:
    test = run_file(tmp_path / "test.trec", files, list(files.qrels["test"]), ["p1"])
    with pytest.raises(DataError, match="candidates for no training query of data"):
        distil(candidates=[test])
    given = run_file(tmp_path / "other.trec", files, training[:9], ["p50", "p51"])
    with pytest.raises(ConfigError, match="The candidates of a file of scores are the pairs"):
        distil(candidates=[given], teacher=f"scores:{given}")
    with pytest.raises(ConfigError, match="prod finds the candidates of each round itself"):
        distil(candidates=[given], recipe="prod", teacher="train", settings={})
