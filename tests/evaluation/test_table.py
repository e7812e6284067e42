"""Rows, the printed table and the advice that come from per-query numbers."""

import json

import polars as pl
import pytest
from rich.console import Console

from limbeck.evaluation.table import Cost, advice, as_rich, as_text, row

FRAME = pl.DataFrame(
    {"query_id": ["a", "b"], "nDCG@10": [0.5, 0.5], "RR@10": [1.0, 1.0], "R@100": [0.0, 0.0]}
)


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
    }


def test_the_plain_table() -> None:
    rows = [
        row("bm25", "test", FRAME, cost=Cost(ms_per_query=0.25), seed=0),
        row("student", "test", FRAME, cost=Cost(1.5, 12_345.6, 11_160_000, 144.4), seed=0),
    ]
    bm25 = "0.500 [0.500, 0.500]  1.000 [1.000, 1.000]  0.000 [0.000, 0.000]       0.2"
    measures = "               nDCG@10                 RR@10                 R@100"
    assert as_text(rows).splitlines() == [
        f"model               split{measures}  ms/query  passages/s  parameters   MB",
        f"BM25                test   {bm25}           -           -    -",
        f"student, distilled  test   {bm25[:-3]}1.5      12,346      11.2 M  144",
    ]


def test_a_row_without_figures_has_dashes() -> None:
    text = as_text(
        [{"model": "mine", "split": "test"}, row("x", "dev", FRAME, cost=Cost(), seed=0)]
    )
    assert text.splitlines()[1].split() == ["mine", "test", *"-" * 7]


def test_the_table_of_a_terminal_has_the_same_cells() -> None:
    rows = [row("teacher", "test", FRAME, cost=Cost(megabytes=90.0), seed=0)]
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(as_rich(rows))
    for cell in ["teacher", "nDCG@10", "0.500 [0.500, 0.500]", "90.0"]:
        assert cell in captured.get()


def test_an_empty_table_is_its_headings() -> None:
    assert as_text([]).splitlines() == [
        "model  split  ms/query  passages/s  parameters  MB",
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
    (sentence,) = advice([of("student", 0.31), of(rival, 0.42)])
    assert sentence.startswith("On test the student (0.310 nDCG@10) ")
    assert words in sentence
    assert "(0.420)" in sentence


def test_no_advice_when_it_wins_ties_or_cannot_be_compared() -> None:
    assert advice([of("student", 0.42), of("bm25", 0.31), of("zero_shot", 0.42)]) == []
    assert advice([of("student", 0.31), of("teacher", 0.9)]) == []  # a teacher should be better
    assert advice([of("student", 0.31, "dev"), of("bm25", 0.9, "test")]) == []
    assert advice([of("bm25", 0.9)]) == []
    assert advice([{"model": "student", "split": "test"}, of("bm25", 0.9)]) == []
