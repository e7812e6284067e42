"""Measures against numbers worked by hand, pytrec_eval itself and trec_eval's way with ties."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import pytrec_eval

from limbeck.errors import ConfigError, DataError, ScoreError, StoreError
from limbeck.evaluation.measures import MEASURES, Run, per_query, read_trec, run_of, write_trec
from limbeck.types import PassageId, Qrels, QueryId


def run(**queries: dict[str, float]) -> Run:
    return {
        QueryId(query): {PassageId(passage): score for passage, score in scores.items()}
        for query, scores in queries.items()
    }


def qrels(**queries: dict[str, int]) -> Qrels:
    return {
        QueryId(query): {PassageId(passage): grade for passage, grade in grades.items()}
        for query, grades in queries.items()
    }


def only(frame: pl.DataFrame, measure: str) -> float:
    value = frame[measure].item()
    assert isinstance(value, float)
    return value


def test_graded_ndcg_by_hand() -> None:
    """Ranking b (0), a (2), c (1): DCG = 2/log2(3) + 1/log2(4) = 1.261860 + 0.5.
    Ideal a, c: 2/log2(2) + 1/log2(3) = 2.630930. The first relevant passage is at rank 2.
    """
    frame = per_query(run(q={"b": 3.0, "a": 2.0, "c": 1.0}), qrels(q={"a": 2, "b": 0, "c": 1}))
    assert frame.columns == ["query_id", *MEASURES]
    assert only(frame, "nDCG@10") == pytest.approx(
        (2 / math.log2(3) + 0.5) / (2 + 1 / math.log2(3))
    )
    assert only(frame, "nDCG@10") == pytest.approx(0.669672, abs=1e-6)
    assert only(frame, "RR@10") == 0.5
    assert only(frame, "R@100") == 1.0


def test_cutoffs() -> None:
    """The one positive at rank 11: out of reach of both @10 measures, within R@100; then at 101."""
    deep = {f"n{i:03}": 200.0 - i for i in range(10)} | {"a": 1.0}
    frame = per_query(run(q=deep), qrels(q={"a": 1}))
    assert frame.row(0) == ("q", 0.0, 0.0, 1.0)
    deeper = {f"n{i:03}": 200.0 - i for i in range(100)} | {"a": 1.0}
    assert per_query(run(q=deeper), qrels(q={"a": 1})).row(0) == ("q", 0.0, 0.0, 0.0)


def test_every_judged_query_counts_in_the_order_of_the_judgements() -> None:
    """z is not in the run, y found nothing, n has only negatives, e no judgement, x is extra."""
    frame = per_query(
        run(a={"p": 1.0}, y={}, n={"p": 1.0}, x={"p": 1.0}),
        qrels(z={"p": 1}, a={"p": 1}, y={"p": 1}, n={"p": 0, "m": -1}, e={}),
    )
    assert frame["query_id"].to_list() == ["z", "a", "y", "n", "e"]
    for measure in MEASURES:
        assert frame[measure].to_list() == [0.0, 1.0, 0.0, 0.0, 0.0]


def test_an_empty_run_and_no_judgements() -> None:
    assert per_query({}, qrels(q={"p": 1})).row(0) == ("q", 0.0, 0.0, 0.0)
    empty = per_query(run(q={"p": 1.0}), {})
    assert len(empty) == 0
    assert empty.schema == {"query_id": pl.String, **dict.fromkeys(MEASURES, pl.Float64)}


@pytest.mark.parametrize("nearly", [1.0, 1.0 + 1e-9])
def test_ties_as_trec_eval(nearly: float) -> None:
    """Equal in fp32: the id that sorts last comes first, for every measure alike."""
    tied = run(q={"a": nearly, "b": 1.0})
    frame = per_query(tied, qrels(q={"a": 1}))
    assert only(frame, "RR@10") == 0.5
    assert only(frame, "nDCG@10") == pytest.approx(1 / math.log2(3))
    assert only(per_query(tied, qrels(q={"b": 1})), "RR@10") == 1.0


def test_equals_pytrec_eval_on_random_graded_runs_with_ties() -> None:
    generator = np.random.default_rng(0)
    ids = [f"p{i}" for i in range(60)]
    judged: dict[str, dict[str, int]] = {}
    found: dict[str, dict[str, float]] = {}
    for query in (f"q{i}" for i in range(40)):
        picked = generator.choice(ids, 12, replace=False).tolist()
        judged[query] = dict(zip(picked, generator.integers(-1, 4, 12).tolist(), strict=True))
        scores = generator.integers(0, 12, 60).astype(float).tolist()
        found[query] = dict(zip(ids, scores, strict=True))
    frame = per_query(run(**found), qrels(**judged))
    oracle = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10", "recall.100", "recip_rank"})
    for query, values in oracle.evaluate(found).items():
        ours = frame.row(by_predicate=pl.col("query_id") == query, named=True)
        assert ours["nDCG@10"] == pytest.approx(values["ndcg_cut_10"])
        assert ours["R@100"] == pytest.approx(values["recall_100"])
        expected = values["recip_rank"] if values["recip_rank"] >= 0.1 else 0.0
        assert ours["RR@10"] == pytest.approx(expected)


def test_the_run_is_left_as_it_was() -> None:
    given = run(q={"b": 1.0, "a": 2.0})
    per_query(given, qrels(q={"a": 1}))
    assert given == run(q={"b": 1.0, "a": 2.0})
    assert list(given[QueryId("q")]) == ["b", "a"]


def test_run_of_search_results() -> None:
    positions = np.array([[2, 0], [1, -1]], dtype=np.int32)
    scores = np.array([[0.5, 0.25], [1.0, 0.0]], dtype=np.float32)
    passages = [PassageId(name) for name in "abc"]
    found = run_of([QueryId("q"), QueryId("r")], passages, positions, scores)
    assert found == run(q={"c": 0.5, "a": 0.25}, r={"b": 1.0})


def test_a_score_that_is_not_a_number_is_refused_with_its_ids() -> None:
    with pytest.raises(ScoreError, match="query 'q' and passage 'bad'"):
        per_query(run(q={"a": 1.0, "bad": math.nan}), qrels(q={"a": 1}))


@pytest.mark.parametrize("name", ["nDGC@10", "RR@", "", "a b", "R@x"])
def test_an_unknown_measure_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown measure"):
        per_query(run(q={"a": 1.0}), qrels(q={"a": 1}), [name])


def test_trec_file_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "student.trec"
    write_trec(path, run(q={"b": 0.5, "a": 2.0}, r={"c": -1.0}), tag="student", stage="evaluate")
    assert path.read_text() == (
        "q Q0 a 1 2.0 student\nq Q0 b 2 0.5 student\nr Q0 c 1 -1.0 student\n"
    )


def test_trec_files_round_trip_odd_ids_and_full_scores(tmp_path: Path) -> None:
    """White space of every kind, %, emoji and right-to-left text; fp32 scores keep all digits."""
    odd = ["a b", "100%", "%20", "tab\tnew\nline\r", "\u00a0\u2028", "🦊 狐", "مرحبا"]
    scores = {name: float(np.float32(1 / (i + 3))) for i, name in enumerate(odd)}
    given = {QueryId(name): {PassageId(p): s for p, s in scores.items()} for name in odd}
    path = tmp_path / "odd.trec"
    write_trec(path, given, tag="my run", stage="evaluate")
    assert all(len(line.split()) == 6 for line in path.read_text().split("\n")[:-1])
    assert read_trec(path) == given


def test_a_file_read_back_measures_the_same(tmp_path: Path) -> None:
    given = run(q={"a": 1.0, "b": 1.0, "c": 0.1 + 0.2})
    path = tmp_path / "run.trec"
    write_trec(path, given, tag="t", stage="evaluate")
    judged = qrels(q={"a": 1, "c": 2})
    assert per_query(read_trec(path), judged).equals(per_query(given, judged))


@pytest.mark.parametrize("line", ["q Q0 p 1 2.0", "q Q0 p 1 high tag", "q Q0 p 1 2.0 tag more"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "run.trec"
    path.write_text(f"q Q0 p 1 2.0 tag\n\n{line}\n")
    with pytest.raises(DataError, match=r"run\.trec:3: expected"):
        read_trec(path)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_trec(tmp_path / "none.trec")
    (tmp_path / "binary.trec").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read"):
        read_trec(tmp_path / "binary.trec")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError):
        write_trec(tmp_path / "folder", run(q={}), tag="t", stage="evaluate")
