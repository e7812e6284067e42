"""Rows, the printed table and the advice that come from per-query numbers."""

import json
from functools import partial

import polars as pl
import pytest

from limbeck.cli.output import one_line
from limbeck.evaluation.measures import RETRIEVAL
from limbeck.evaluation.statistics import BLEU, Mean, Measures
from limbeck.evaluation.table import Cost, Metrics, advice, aligned, as_text
from limbeck.evaluation.table import row as any_row

FRAME = pl.DataFrame(
    {"query_id": ["a", "b"], "nDCG@10": [0.5, 0.5], "RR@10": [1.0, 1.0], "R@100": [0.0, 0.0]}
)


NDCG = RETRIEVAL.first
row = partial(any_row, measures=RETRIEVAL)


def of(model: str, value: float, split: str = "test") -> dict[str, object]:
    return {"model": model, "split": split, "nDCG@10": value}


def test_a_row_is_json_with_the_agreed_keys() -> None:
    found = row("student", "test", FRAME, cost=Cost(1.5, 800.0, 11_000_000, 44.0), seed=0)
    assert json.loads(json.dumps(found)) == {
        "model": "student",
        "split": "test",
        "queries": 2,
        "nDCG@10": 0.5,
        "nDCG@10_ci": [0.5, 0.5],
        "RR@10": 1.0,
        "RR@10_ci": [1.0, 1.0],
        "R@100": 0.0,
        "R@100_ci": [0.0, 0.0],
        "ms_per_query": 1.5,
        "passages_per_second": 800.0,
        "parameters": 11_000_000,
        "megabytes": 44.0,
        "tokens_per_second": None,
        "useful_flops_per_second": None,
        "share_of_limit": None,
        "training_tokens_per_second": None,
        "training_useful_flops_per_second": None,
        "training_share_of_limit": None,
    }


def test_the_plain_table() -> None:
    student = Cost(
        ms_per_query=1.5,
        passages_per_second=12_345.6,
        parameters=11_160_000,
        megabytes=144.4,
        share_of_limit=0.417,
        training_share_of_limit=0.052,
    )
    rows = [
        row("bm25", "test", FRAME, cost=Cost(ms_per_query=0.25), seed=0),
        row("student", "test", FRAME, cost=student, seed=0),
    ]
    bm25 = "0.500 [0.500, 0.500]  1.000 [1.000, 1.000]  0.000 [0.000, 0.000]       0.2"
    measures = "               nDCG@10                 RR@10                 R@100"
    student_cells = f"{bm25[:-3]}1.5      12,346      11.2 M  144         42%           5%"
    costs = "  ms/query  passages/s  parameters   MB  read/limit  train/limit"
    assert as_text(rows).splitlines() == [
        f"model               split{measures}{costs}",
        f"BM25                test   {bm25}           -           -    -           -            -",
        f"student, distilled  test   {student_cells}",
    ]


def test_a_row_without_figures_has_dashes() -> None:
    text = as_text(
        [{"model": "mine", "split": "test"}, row("x", "dev", FRAME, cost=Cost(), seed=0)]
    )
    assert text.splitlines()[1].split() == ["mine", "test", *"-" * 9]


def test_an_empty_table_is_its_headings() -> None:
    assert as_text([]).splitlines() == [
        "model  split  ms/query  passages/s  parameters  MB  read/limit  train/limit",
    ]


@pytest.mark.parametrize(
    ("rival", "words"),
    [
        ("bm25", "loses to BM25"),
        ("zero_shot", "loses to the base encoder"),
        ("undistilled", "loses to itself before distillation"),
    ],
)
def test_advice_when_the_student_loses(rival: str, words: str) -> None:
    (sentence,) = advice([of("student", 0.31), of(rival, 0.42)], NDCG)
    assert sentence.startswith("On test the student (0.310 nDCG@10) ")
    assert words in sentence
    assert "(0.420)" in sentence


def test_no_advice_when_it_wins_ties_or_cannot_be_compared() -> None:
    for rows in (
        [of("student", 0.42), of("bm25", 0.31), of("zero_shot", 0.42)],
        [of("student", 0.31), of("teacher", 0.9)],  # a teacher should be better
        [of("student", 0.31, "dev"), of("bm25", 0.9, "test")],
        [of("bm25", 0.9)],
        [{"model": "student", "split": "test"}, of("bm25", 0.9)],
    ):
        assert advice(rows, NDCG) == []


def test_advice_where_less_is_better() -> None:
    """nDCG@10 in name only: 0.42 errors are worse than 0.31."""
    errors = Mean(name="nDCG@10", higher_is_better=False)
    assert advice([of("student", 0.31), of("undistilled", 0.42)], errors) == []
    assert len(advice([of("student", 0.42), of("undistilled", 0.31)], errors)) == 1


def test_a_row_of_another_measure_and_unit() -> None:
    """One sentence of 4 right tokens: BLEU 100."""
    table = pl.DataFrame(
        {"sentence_id": ["a"], **{column: [4.0] for column in BLEU().columns}}
        | {f"{what}_{n}": [5.0 - n] for what in ("matches", "ngrams") for n in (1, 2, 3, 4)}
    )
    measures = Measures(unit="sentence", units="sentences", measures=(BLEU(),))
    found = any_row("student", "test", table, measures=measures, cost=Cost(), seed=0)
    assert (found["sentences"], found["BLEU"]) == (1, pytest.approx(100))
    written = {"measures": measures.model_dump(mode="json"), "rows": [found]}
    whole = json.loads(json.dumps({**written, "notes": [], "advice": []}))
    assert Metrics.model_validate_json(json.dumps(whole)).measures == measures
    del whole["rows"][0]["sentences"]
    with pytest.raises(ValueError, match="'sentences' is None"):
        Metrics.model_validate_json(json.dumps(whole))


def test_metrics_that_name_no_measures_are_of_retrieval() -> None:
    written = {"rows": [row("bm25", "test", FRAME, cost=Cost(), seed=0)], "notes": [], "advice": []}
    assert Metrics.model_validate_json(json.dumps(written)).measures == RETRIEVAL


def test_wide_characters_take_two_columns() -> None:
    cells = [["system", "nDCG@10"], ["教師", "0.5"], ["student", "0.25"]]
    assert aligned(cells, words=1).split("\n") == [
        "system   nDCG@10",
        "教師         0.5",
        "student     0.25",
    ]
    assert one_line("文字" * 50, width=10) == "文字文字…"
    assert one_line("a" * 20, width=10) == "a" * 9 + "…"
    assert one_line("a" * 10, width=10) == "a" * 10
