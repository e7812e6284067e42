"""Lists against hand-worked numbers, against brute force, and under every awkward shape."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import ConfigError, ScoreError
from limbeck.search import BM25, search_dense, search_others

TEXTS = ["red apple pie", "green apple", "blue sky", "apple apple apple"]


def test_bm25_scores_worked_by_hand() -> None:
    """Terms: red apple pie | green apple | blue sky | apple x 3; N = 4, mean length 10 / 4 = 2.5.

    idf(apple) = ln(1 + (4 - 3 + 0.5) / (3 + 0.5)) = ln(1 + 1.5 / 3.5).
    Weight = idf * tf / (tf + 1.2 * (1 - 0.75 + 0.75 * length / 2.5)).
    """
    positions, scores = BM25.build(TEXTS).search(["apples"], k=4)
    idf = math.log(1 + 1.5 / 3.5)

    def weight(frequency: int, length: int) -> float:
        return idf * frequency / (frequency + 1.2 * (0.25 + 0.75 * length / 2.5))

    assert positions.tolist() == [[3, 1, 0, -1]]
    assert scores[0, :3] == pytest.approx([weight(3, 3), weight(1, 2), weight(1, 3)], rel=1e-6)
    assert scores[0, 3] == -np.inf


def test_a_repeated_query_word_counts_as_often_as_it_is_said() -> None:
    index = BM25.build(TEXTS)
    once, twice = index.search(["sky"], k=1)[1], index.search(["sky sky"], k=1)[1]
    assert twice[0, 0] == pytest.approx(2 * once[0, 0])


def test_bm25_gives_only_passages_that_share_a_word() -> None:
    index = BM25.build(TEXTS)
    positions, _ = index.search(["sky", "unheard of", "", "the"], k=3)
    assert positions.tolist() == [[2, -1, -1], [-1] * 3, [-1] * 3, [-1] * 3]


def test_bm25_breaks_ties_by_position_at_every_depth() -> None:
    index = BM25.build(["other words", *["same text"] * 9])
    for k in range(1, 12):
        positions, _ = index.search(["same"], k)
        assert positions[0].tolist() == [*range(1, 10), -1, -1][:k]


def test_bm25_survives_texts_without_any_word() -> None:
    for texts in ([], ["", "the of", "?!"]):
        positions, _ = BM25.build(texts).search(["apple", ""], k=2)
        assert positions.tolist() == [[-1, -1], [-1, -1]]
    assert BM25.build(["", "apple", "\x00 🍎"]).search(["apple"], k=2)[0].tolist() == [[1, -1]]


def test_bm25_finds_other_scripts_and_single_letters() -> None:
    index = BM25.build(["ls -l", "ls -a", "水 果", "תפוח ירוק"])
    assert index.search(["l", "水", "תפוח"], k=1)[0].tolist() == [[0], [2], [3]]


def test_bm25_stems_in_the_language_asked_for() -> None:
    index = BM25.build(["die Häuser", "der Baum"], language="german")
    assert index.search(["Haus", "die"], k=1)[0].tolist() == [[0], [-1]]
    assert BM25.build(["casas"], language="portuguese").search(["casa"], k=1)[0].tolist() == [[0]]
    with pytest.raises(ConfigError, match=r"'klingon'.*english"):
        BM25.build(TEXTS, language="klingon")


def test_bm25_does_not_depend_on_the_other_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(list("abcdefghij"), 6)) for _ in range(200)]
    index = BM25.build(texts)
    together = index.search(texts, k=20)
    monkeypatch.setattr("limbeck.search._POSTINGS_AT_ONCE", 1)
    for one, other in zip(together, index.search(texts, k=20), strict=True):
        np.testing.assert_array_equal(one, other)


def test_dense_search_worked_by_hand() -> None:
    """q = (1, 2): products with (1, 0), (0, 1), (1, 1), (-1, 0) are 1, 2, 3, -1."""
    passages = np.array([[1, 0], [0, 1], [1, 1], [-1, 0]], dtype=np.float32)
    positions, scores = search_dense(np.array([[1, 2]], dtype=np.float32), passages, k=6)
    assert positions.tolist() == [[2, 1, 0, 3, -1, -1]]
    assert scores.tolist() == [[3, 2, 1, -1, -np.inf, -np.inf]]


@settings(max_examples=60, deadline=None)
@given(
    queries=st.integers(0, 5),
    passages=st.integers(0, 40),
    k=st.integers(1, 50),
    memory=st.sampled_from([1, 500, 3000, 2**20]),
    seed=st.integers(0, 2**20),
)
def test_dense_search_is_a_stable_sort(
    queries: int, passages: int, k: int, memory: int, seed: int
) -> None:
    """Small whole numbers are exact in float32 and often tie: the oracle is a stable sort."""
    random = np.random.default_rng(seed)
    Q = random.integers(-1, 2, (queries, 3)).astype(np.float32)
    P = random.integers(-1, 2, (passages, 3)).astype(np.float32)
    positions, scores = search_dense(Q, P, k, memory_bytes=memory)
    products = Q @ P.T
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    filled = min(k, passages)
    assert positions.shape == scores.shape == (queries, k)
    np.testing.assert_array_equal(positions[:, :filled], order)
    np.testing.assert_array_equal(scores[:, :filled], np.take_along_axis(products, order, axis=1))
    assert (positions[:, filled:] == -1).all()
    assert (scores[:, filled:] == -np.inf).all()


def test_dense_search_goes_on_where_a_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a stable sort, whatever the width of blocks; each passage stands there twice."""
    monkeypatch.setattr("limbeck.search._PASSAGES_AT_ONCE", 7)
    random = np.random.default_rng(0)
    P = np.repeat(random.integers(-3, 4, (40, 5)), 2, axis=0).astype(np.float32)
    Q = random.integers(-3, 4, (6, 5)).astype(np.float32)
    order = np.argsort(-(Q @ P.T), axis=1, kind="stable")
    np.testing.assert_array_equal(search_dense(Q, P, 9)[0], order[:, :9])


def test_dense_search_reads_a_memory_map(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    P = random.standard_normal((500, 8), dtype=np.float32)
    np.save(tmp_path / "vectors.npy", P)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    Q = random.standard_normal((3, 8), dtype=np.float32)
    np.testing.assert_array_equal(search_dense(Q, mapped, 5)[0], search_dense(Q, P, 5)[0])


@pytest.mark.parametrize("k", [10, 2000])
@pytest.mark.parametrize("queries", [1, 300])
def test_dense_search_stays_under_its_cap(queries: int, k: int) -> None:
    random = np.random.default_rng(0)
    P = random.standard_normal((30_000, 4), dtype=np.float32)
    Q = random.standard_normal((queries, 4), dtype=np.float32)
    cap = 2**20
    tracemalloc.start()
    try:
        positions, scores = search_dense(Q, P, k, memory_bytes=cap)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - positions.nbytes - scores.nbytes < cap


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("queries", [1, 2])
def test_damaged_vectors_are_refused_by_position(bad: float, queries: int) -> None:
    P = np.ones((50, 2), dtype=np.float32)
    P[33, 1] = bad
    Q = np.ones((queries, 2), dtype=np.float32)
    with pytest.raises(ScoreError, match="query 0 and passage 33 "):
        search_dense(Q, P, k=3, memory_bytes=1000)


@pytest.mark.parametrize("queries", [1, 40])
def test_bfloat16_passages_give_the_exact_products_of_what_they_hold(
    monkeypatch: pytest.MonkeyPatch, queries: int
) -> None:
    monkeypatch.setattr("limbeck.search._WIDENED_AT_ONCE", 7)
    random = np.random.default_rng(0)
    held = torch.from_numpy(random.standard_normal((100, 8), dtype=np.float32)).bfloat16()
    Q = random.standard_normal((queries, 8), dtype=np.float32)
    positions, scores = search_dense(Q, held, 9, memory_bytes=20_000)
    expected, products = search_dense(Q, held.float().numpy(), 9)
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_allclose(scores, products, rtol=1e-6)


def test_bfloat16_passages_stay_under_the_cap() -> None:
    held = torch.ones(30_000, 64, dtype=torch.bfloat16)
    Q = np.ones((300, 64), dtype=np.float32)
    cap = 2**20
    tracemalloc.start()
    try:
        found = search_dense(Q, held, 10, memory_bytes=cap)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - sum(part.nbytes for part in found) < cap


def test_shapes_and_types_that_do_not_fit_are_refused() -> None:
    Q, P = np.ones((2, 3), dtype=np.float32), np.ones((4, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="at least 1"):
        search_dense(Q, P, 0)
    with pytest.raises(ValueError, match="float32"):
        search_dense(Q, torch.from_numpy(P), 1)
    with pytest.raises(ValueError, match="at least 1"):
        BM25.build(TEXTS).search(["apple"], 0)
    with pytest.raises(ValueError, match="do not fit"):
        search_dense(Q[:, :2], P, 1)
    with pytest.raises(ValueError, match="do not fit"):
        search_dense(Q[0], P, 1)
    with pytest.raises(ValueError, match="float32"):
        search_dense(Q.astype(np.float16), P, 1)


def test_masked_passages_are_never_found() -> None:
    passages = np.eye(5, dtype=np.float32)[[0, 0, 1, 0, 2]]
    mask = np.array([False, True, True, True, False])
    positions, scores = search_dense(passages[:1], passages, 4, mask=mask, memory_bytes=2048)
    assert positions.tolist() == [[1, 3, 2, -1]]
    assert scores.tolist() == [[1.0, 1.0, 0.0, -np.inf]]


def test_no_query_finds_its_own_passage() -> None:
    """As if it were not there: for own passages that are found first, in between, last, not at all
    and for queries without one.
    """
    chance = np.random.default_rng(0)
    queries = chance.standard_normal((40, 6)).astype(np.float32)
    passages = chance.standard_normal((9, 6)).astype(np.float32)
    own = np.arange(40) % 10 - 1
    for k in (1, 4, 8, 12):
        found, scores = search_others(lambda n: search_dense(queries, passages, n), k, own)
        for row, left_out in enumerate(own):
            mask = np.arange(9) != left_out
            expected = search_dense(queries[row : row + 1], passages, k, mask=mask)
            kept = expected[1][0] > -np.inf
            assert found[row].tolist() == np.where(kept, expected[0][0], -1).tolist()
            np.testing.assert_allclose(scores[row], expected[1][0], rtol=1e-6)


def test_scores_of_pairs_are_those_of_a_search() -> None:
    index = BM25.build(TEXTS)
    queries = [*TEXTS[:3], "nothing of this"]
    found, scores = index.search(queries, k=len(TEXTS))
    asked = [np.arange(len(TEXTS))[::-1]] * 4
    for own, positions, values in zip(index.scores(queries, asked), found, scores, strict=True):
        wanted = np.zeros(len(TEXTS), dtype=np.float32)
        wanted[positions[positions >= 0]] = values[positions >= 0]
        np.testing.assert_array_equal(own, wanted[::-1])
