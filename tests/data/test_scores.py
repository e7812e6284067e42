"""Files of scores: what they hold, and what is refused with its line or row."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from limbeck.data.collection import Collection, Texts
from limbeck.data.scores import ScoredPairs, read_candidates, read_scores
from limbeck.errors import DataError

COLLECTION = Collection(
    "three",
    Texts(["p0", "p1", "p2"], ["cat", "dog", "bird"]),
    Texts(["q0", "q1", "7"], ["old cat", "new dog", "red sun"]),
    {},
)
# q1's passages best first, then the query of id 7
EXPECTED = [[0, 0], [1, 2], [1, 0], [2, 1]]
SCORES = [0.5, 3.0, -1.25, 2.0]
TSV = "q1\tp0\t-1.25\nq0\tp0\t0.5\n7\tp1\t2\nq1\tp2\t3e0\n"
TREC = "q1 Q0 p0 2 -1.25 x\nq0 Q0 p0 1 0.5 x\n7\tQ0\tp1\t1\t2\tx\n\nq1 Q0 p2 1 3.0 x\n"


def written(tmp_path: Path, content: str, name: str = "scores.tsv") -> Path:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return path


def table(tmp_path: Path, **changes: Any) -> Path:
    columns = {
        "query_id": ["q1", "q0", "7", "q1"],
        "passage_id": ["p0", "p0", "p1", "p2"],
        "score": [-1.25, 0.5, 2.0, 3.0],
        **changes,
    }
    path = tmp_path / "scores.parquet"
    pl.DataFrame(
        {name: value for name, value in columns.items() if value is not None}
    ).write_parquet(path)
    return path


def check(found: ScoredPairs) -> None:
    assert found.pairs.tolist() == EXPECTED
    assert found.scores.tolist() == SCORES
    assert found.scores.dtype == np.float32
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scores.tsv", TSV),
        ("scores.tsv", "\ufeffquery-id\tcorpus-id\tscore\r\n" + TSV.replace("\n", "\r\n")),
        ("scores.tsv.gz", TSV),
        ("run.trec", TREC),
        ("anything", TREC),
    ],
)
def test_text_in_either_layout(tmp_path: Path, name: str, content: str) -> None:
    check(read_scores(written(tmp_path, content, name), COLLECTION))


def test_parquet(tmp_path: Path) -> None:
    check(read_scores(table(tmp_path, more=[1, 2, 3, 4]), COLLECTION))


def test_ids_that_are_numbers_are_texts(tmp_path: Path) -> None:
    path = table(tmp_path, query_id=[7, 7], passage_id=["p1", "p0"], score=[1, 4])
    assert read_scores(path, COLLECTION).pairs.tolist() == [[2, 0], [2, 1]]


def test_a_pair_twice_with_one_score_is_merged_and_told(tmp_path: Path) -> None:
    found = read_scores(written(tmp_path, TSV + "q0\tp0\t0.50\nq0\tp0\t0.5\n"), COLLECTION)
    assert found.pairs.tolist() == EXPECTED
    assert found.notes[1:] == ("scores.tsv: 2 repeated pairs (same score) merged",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("query\tpassage\tscore\n", "is empty"),
        (TSV + "q0\tp1\n", "scores.tsv:5: 2 columns instead of 3"),
        (TSV + "q0 p1 1 2\n", "scores.tsv:5: 4 columns instead of 3"),
        ("q0 p1 0.5\n", "scores.tsv:1: 3 columns between spaces"),
        (TSV + "q0\tp1\thigh\n", "scores.tsv:5: score 'high' is not a number"),
        ("q0\tp1\thigh\n", "scores.tsv:1: score 'high' is not a number"),
        (TSV + "\nq9\tp1\t1\n", 'scores.tsv:6: query id "q9" is none of the queries of three'),
        (TSV + "q0\tp9\t1\n", 'scores.tsv:5: passage id "p9" is none of the passages of three'),
        (TSV + "q0\tp1\tnan\n", "scores.tsv:5: the score is nan, not a finite number"),
        (TSV + "q0\tp1\t1e39\n", r"scores.tsv:5: the score is 1e\+39, not a finite number"),
        (TSV + "q0\tp0\t0.6\n", 'query "q0" and passage "p0" score 0.6 here and 0.5 in .*:2'),
    ],
)
def test_what_is_refused_in_text_names_its_line(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_scores(written(tmp_path, content), COLLECTION)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"score": None}, r"no column 'score' \(it has query_id, passage_id\)"),
        ({"query_id": [1.0, 2.0, 3.0, 4.0]}, "column 'query_id' holds Float64, not ids"),
        ({"score": ["1", "2", "3", "4"]}, "column 'score' holds String, not numbers"),
        ({"score": [1.0, None, 2.0, 3.0]}, "row 2: a value is missing"),
        ({"score": [1.0, 2.0, 3.0, float("nan")]}, "row 4: the score is nan"),
        ({"passage_id": ["p0", "p0", "x", "p2"]}, 'row 3: passage id "x"'),
        ({"passage_id": ["p0", "p0", "p1", "p0"]}, 'row 4: query "q1" and .* in .*, row 1'),
        ({"query_id": [], "passage_id": [], "score": []}, "holds Null"),
    ],
)
def test_what_is_refused_in_parquet_names_its_row(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        read_scores(table(tmp_path, **changes), COLLECTION)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file of scores"):
        read_scores(tmp_path / "nothing.tsv", COLLECTION)
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_scores(written(tmp_path, TSV, "scores.parquet"), COLLECTION)
    whole = written(tmp_path, TSV * 500, "scores.tsv.gz")
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"scores.tsv.gz:\d+: cannot be read"):
        read_scores(whole, COLLECTION)
    latin = tmp_path / "latin.tsv"
    latin.write_bytes(TSV.encode() + b"q0\tp\xe9\t1\n")
    with pytest.raises(DataError, match=r"latin.tsv:5: byte 5 of the line is not UTF-8"):
        read_scores(latin, COLLECTION)


@pytest.mark.parametrize(
    ("name", "content", "shape"),
    [
        ("scores.tsv", TSV, "query id, passage id and score, separated by tabs"),
        ("run.tsv", TREC, "a TREC run, by its scores"),
    ],
)
def test_it_is_said_what_a_file_was_read_as(
    tmp_path: Path, name: str, content: str, shape: str
) -> None:
    found = read_scores(written(tmp_path, content, name), COLLECTION)
    assert found.notes == (f"{name}: read as {shape}",)


RANKS = {
    "from 1, in order": "q0\tp2\t1\nq0\tp0\t2\nq1\tp1\t1\n",
    "from 0": "q0\tp2\t0\nq0\tp0\t1\nq1\tp1\t0\n",
    "in no order": "q0\tp0\t2\nq1\tp1\t1\nq0\tp2\t1\n",
    "with gaps": "q0\tp2\t3\nq0\tp0\t8\nq1\tp1\t5\n",
}


@pytest.mark.parametrize("kind", sorted(RANKS))
def test_what_could_be_ranks_is_refused_until_a_header_says_it(tmp_path: Path, kind: str) -> None:
    """MS MARCO's runs end in the rank: as scores their order would be the wrong way round."""
    path = written(tmp_path, RANKS[kind], "run.tsv")
    for read in (read_scores, read_candidates):
        with pytest.raises(DataError, match=r"could be ranks, the lowest best.*in a first line"):
            read(path, COLLECTION)
    scores = read_scores(written(tmp_path, "qid\tpid\tscore\n" + RANKS[kind]), COLLECTION)
    assert scores.pairs.tolist() == [[0, 0], [0, 2], [1, 1]]
    ranks = written(tmp_path, "qid\tpid\trank\n" + RANKS[kind], "run.tsv")
    with pytest.raises(DataError, match="holds ranks, by its header, and a rank is no score"):
        read_scores(ranks, COLLECTION)
    found = read_candidates(ranks, COLLECTION)
    assert found.pairs.tolist() == [[0, 2], [0, 0], [1, 1]]
    assert found.notes[0].startswith("run.tsv: read as query id, passage id and rank (by its")


@pytest.mark.parametrize(
    "content",
    [
        "q0\tp2\t2\nq0\tp0\t1\nq1\tp1\t3\nq1\tp0\t1\n",  # whole numbers with a gap, falling
        "q0\tp2\t1\nq0\tp0\t1\n",  # equal ones
        "q0\tp2\t1\nq1\tp0\t1\n",  # one passage a query: there is no order to get wrong
        "q0\tp2\t-1\nq0\tp0\t1\n",
    ],
)
def test_whole_numbers_that_are_no_ranks_are_scores(tmp_path: Path, content: str) -> None:
    assert len(read_scores(written(tmp_path, content), COLLECTION).scores) > 1


def test_a_run_whose_scores_rise_with_its_ranks_is_refused(tmp_path: Path) -> None:
    """Distances, for example: the best has the lowest."""
    distances = "q0 Q0 p1 1 0.2 x\nq0 Q0 p0 2 0.9 x\nq1 Q0 p2 1 0.1 x\n"
    with pytest.raises(DataError, match=r"the scores rise with the rank.*distances times -1"):
        read_scores(written(tmp_path, distances, "run.trec"), COLLECTION)
    one_falls = distances + "q1 Q0 p0 2 0.05 x\n"
    assert len(read_scores(written(tmp_path, one_falls, "run.trec"), COLLECTION).scores) == 4


def test_what_is_gzipped_is_seen_by_its_content(tmp_path: Path) -> None:
    plain = written(tmp_path, TSV)
    plain.write_bytes(gzip.compress(TSV.encode()))
    check(read_scores(plain, COLLECTION))
    named = tmp_path / "run.trec.gz"
    named.write_text(TREC)
    check(read_scores(named, COLLECTION))
