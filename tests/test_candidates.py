"""Pools worked by hand, files that round-trip, and mining that is killed and goes on."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from limbeck.candidates import Candidates, merge, mine_dense, mine_lexical
from limbeck.data.collection import Collection, Texts
from limbeck.errors import ConfigError, ScoreError, StoreError
from limbeck.store import read_parquet, write_parquet
from limbeck.types import PassageId, Qrels, QueryId
from processes import Coded

QUERIES, PASSAGES, WIDTH = 23, 40, 4


def make_collection(passages: int = PASSAGES) -> Collection:
    """Queries and passages of a few letters each; query 5 shares no word with any passage."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(list("bcdfghjk"), 3)) for _ in range(passages)]
    queries = [" ".join(random.choice(list("bcdfghjk"), 2)) for _ in range(QUERIES)]
    queries[5] = "nothing shared"
    qrels: Qrels = {QueryId("q3"): {PassageId("p7"): 2, PassageId("p8"): 0}}
    return Collection(
        "toy",
        Texts([f"p{i}" for i in range(passages)], texts),
        Texts([f"q{i}" for i in range(QUERIES)], queries),
        {"train": qrels},
    )


def every_query() -> np.ndarray:
    return np.arange(QUERIES, dtype=np.int32)


def vectors(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)


def assert_same(one: Candidates, other: Candidates) -> None:
    for field in fields(Candidates):
        left, right = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_array_equal(left, right, err_msg=field.name)
        assert getattr(left, "dtype", None) == getattr(right, "dtype", None), field.name


def pool(source: str, lists: list[list[int]], queries: list[int] | None = None) -> Candidates:
    """One search's result; the score of rank r is 10 - r."""
    depth = max(map(len, lists), default=0)
    found = np.full((len(lists), depth), -1, dtype=np.int32)
    for row, passages in enumerate(lists):
        found[row, : len(passages)] = passages
    scores = np.broadcast_to(10 - np.arange(depth, dtype=np.float32), found.shape)
    chosen = list(range(len(lists))) if queries is None else queries
    return Candidates.of(source, np.array(chosen, dtype=np.int32), found, scores)


def lists_of(candidates: Candidates) -> list[list[int]]:
    return [candidates.for_query(place).tolist() for place in range(len(candidates))]


def test_empty_slots_of_a_search_are_no_candidates() -> None:
    candidates = pool("bm25", [[4, 2], [], [7]])
    assert lists_of(candidates) == [[4, 2], [], [7]]
    assert candidates.ranks.tolist() == [[0], [1], [0]]
    assert candidates.scores.tolist() == [[10], [9], [10]]


def test_merge_takes_turns_by_rank_and_keeps_what_every_source_said() -> None:
    """bm25: 1 2 3, dense: 3 4 1. In turns: 1, 3, 2, 4, (3 and 1 were met before)."""
    merged = merge([pool("bm25", [[1, 2, 3], []]), pool("dense", [[3, 4, 1], [9]])], depth=10)
    assert merged.sources == ("bm25", "dense")
    assert lists_of(merged) == [[1, 3, 2, 4], [9]]
    assert merged.ranks.tolist() == [[0, 2], [2, 0], [1, -1], [-1, 1], [-1, 0]]
    expected = [[10, 8], [8, 10], [9, np.nan], [np.nan, 9], [np.nan, 10]]
    np.testing.assert_array_equal(merged.scores, np.array(expected, dtype=np.float32))


def test_merge_cuts_every_pool_at_the_depth() -> None:
    pools = [pool("a", [[1, 2], [3]]), pool("b", [[5, 1], [3]])]
    assert lists_of(merge(pools, depth=2)) == [[1, 5], [3]]


def test_a_merged_pool_can_be_merged_again() -> None:
    a, b, c = pool("a", [[1, 2]]), pool("b", [[2, 3]]), pool("c", [[9, 1]])
    merged = merge([merge([a, b], depth=5), c], depth=5)
    assert merged.sources == ("a", "b", "c")
    assert lists_of(merged) == [[1, 9, 2, 3]]
    assert merged.ranks.tolist() == [[0, -1, 1], [-1, -1, 0], [1, 0, -1], [-1, 1, -1]]


def test_merging_one_pool_only_cuts_it() -> None:
    candidates = pool("a", [[3, 1, 2], [], [5]])
    assert_same(merge([candidates], depth=10), candidates)


def test_merge_in_blocks_equals_merge_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    pools = [
        pool(name, [random.permutation(20)[: random.integers(8)].tolist() for _ in range(50)])
        for name in "abc"
    ]
    whole = merge(pools, depth=9)
    monkeypatch.setattr("limbeck.candidates.SHARD_QUERIES", 7)
    assert_same(merge(pools, depth=9), whole)


def test_pools_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        merge([pool("a", [[1]]), pool("a", [[2]])], depth=5)
    with pytest.raises(ValueError, match="different queries"):
        merge([pool("a", [[1]], [0]), pool("b", [[2]], [1])], depth=5)


def test_kept_drops_candidates_and_no_query() -> None:
    candidates = pool("a", [[1, 2], [3], [], [4, 5]])
    kept = candidates.kept(np.isin(candidates.passages, [2, 5]))
    assert lists_of(kept) == [[2], [], [], [5]]
    assert kept.ranks.tolist() == [[1], [1]]
    assert_same(candidates.kept(np.ones(5, dtype=bool)), candidates)


def test_a_table_carries_ids_and_comes_back_whole(tmp_path: Path) -> None:
    collection = make_collection()
    merged = merge([pool("a", [[1, 2], [], [3]]), pool("b", [[2], [], [5]])], depth=5)
    frame = merged.to_frame(collection)
    assert frame["query_id"].to_list() == ["q0", "q0", "q1", "q2", "q2"]
    assert frame["passage_id"].to_list() == ["p1", "p2", None, "p3", "p5"]
    assert frame["rank/b"].to_list() == [None, 0, None, None, 0]
    write_parquet(tmp_path / "candidates.parquet", frame, stage="test")
    back = read_parquet(tmp_path / "candidates.parquet")
    assert_same(Candidates.from_frame(back, collection), merged)


def test_ids_count_when_a_table_is_read() -> None:
    collection = make_collection()
    frame = pool("a", [[1, 2]]).to_frame(collection)
    turned = Collection(
        "turned",
        Texts(collection.passages.ids[::-1], collection.passages.texts[::-1]),
        collection.queries,
        collection.qrels,
    )
    read = Candidates.from_frame(frame, turned)
    assert [turned.passages.ids[passage] for passage in read.passages] == ["p1", "p2"]


def test_ids_of_another_collection_are_refused() -> None:
    frame = pool("a", [[39]]).to_frame(make_collection())
    with pytest.raises(StoreError, match="passage 'p39', which is not in the collection"):
        Candidates.from_frame(frame, make_collection(passages=10))
    unknown = frame.with_columns(query_id=pl.lit("q99"))
    with pytest.raises(StoreError, match="query 'q99', which is not"):
        Candidates.from_frame(unknown, make_collection())


def test_no_queries_at_all(tmp_path: Path) -> None:
    none = np.zeros(0, dtype=np.int32)
    mined = mine_lexical(make_collection(), none, depth=5, folder=tmp_path / "mine")
    assert len(mined) == 0
    collection = make_collection()
    assert_same(Candidates.from_frame(mined.to_frame(collection), collection), mined)
    assert len(merge([mined, mine_nothing("b")], depth=5)) == 0


def mine_nothing(source: str) -> Candidates:
    none = np.zeros((0, 3), dtype=np.int32)
    return Candidates.of(source, none[:, 0], none, none.astype(np.float32))


def mine(kind: str, folder: Path, depth: int = 6) -> Candidates:
    """Either mining of the toy collection, in shards of five queries: 5 + 5 + 5 + 5 + 3."""
    collection = make_collection()
    if kind == "lexical":
        return mine_lexical(collection, every_query(), depth=depth, folder=folder, shard_queries=5)
    return mine_dense(
        collection,
        every_query(),
        vectors(QUERIES, 1),
        vectors(PASSAGES, 2),
        source="student",
        depth=depth,
        folder=folder,
        shard_queries=5,
    )


def metrics(folder: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((folder / "done.json").read_text())["metrics"]
    return found


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("shard-*.parquet"))}


def test_lexical_mining_finds_what_the_words_say(tmp_path: Path) -> None:
    mined = mine("lexical", tmp_path / "mine")
    assert mined.sources == ("bm25",)
    texts = make_collection().passages.texts
    for place, query in enumerate(make_collection().queries.texts):
        for passage in mined.for_query(place):
            assert set(query.split()) & set(texts[passage].split())
    assert len(mined.for_query(5)) == 0
    assert metrics(tmp_path / "mine") == {
        "queries": QUERIES,
        "queries_searched": QUERIES,
        "queries_without_candidates": 1,
        "candidates": len(mined.passages),
    }


def test_dense_mining_equals_a_full_sort(tmp_path: Path) -> None:
    mined = mine("dense", tmp_path / "mine")
    products = vectors(QUERIES, 1) @ vectors(PASSAGES, 2).T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :6]
    assert lists_of(mined) == expected.tolist()
    np.testing.assert_allclose(
        mined.scores.reshape(QUERIES, 6), np.take_along_axis(products, expected, axis=1), rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["lexical", "dense"])
def test_finished_mining_is_only_read(kind: str, tmp_path: Path) -> None:
    first = mine(kind, tmp_path / "mine")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "mine").iterdir()}
    assert_same(mine(kind, tmp_path / "mine"), first)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "mine").iterdir()} == before


@pytest.mark.parametrize(
    ("kind", "kill_at", "left"),
    [
        ("lexical", 1, QUERIES),  # before the folder says what it is for
        ("lexical", 2, QUERIES),  # before the first shard is in place
        ("lexical", 4, QUERIES - 10),
        ("dense", 5, QUERIES - 15),
        ("dense", 7, 0),  # every shard is there, the seal is not
    ],
)
def test_killed_mining_goes_on_after_the_last_whole_shard(
    kind: str, kill_at: int, left: int, tmp_path: Path
) -> None:
    whole = mine(kind, tmp_path / "whole")
    folder = tmp_path / "killed"
    program = (
        "from pathlib import Path\n"
        "from test_candidates import mine\n"
        f"mine({kind!r}, Path({str(folder)!r}))\n"
    )
    killed = Coded(program, log=tmp_path / "log", kill_at=f"killed:{kill_at}")
    assert killed.ended() == -signal.SIGKILL, killed.log.read_text()
    assert_same(mine(kind, folder), whole)
    assert metrics(folder)["queries_searched"] == left
    assert shard_bytes(folder) == shard_bytes(tmp_path / "whole")


def test_a_folder_of_another_mining_is_refused(tmp_path: Path) -> None:
    mine("dense", tmp_path / "mine")
    with pytest.raises(StoreError, match="depth differ"):
        mine("dense", tmp_path / "mine", depth=7)
    other = vectors(PASSAGES, 3)
    with pytest.raises(StoreError, match=r"\(passage_vectors differ"):
        mine_dense(
            make_collection(),
            every_query(),
            vectors(QUERIES, 1),
            other,
            source="student",
            depth=6,
            folder=tmp_path / "mine",
            shard_queries=5,
        )


@pytest.mark.parametrize("sealed", [True, False])
def test_a_damaged_shard_is_named(sealed: bool, tmp_path: Path) -> None:
    mine("lexical", tmp_path / "mine")
    shard = tmp_path / "mine" / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-40])
    if not sealed:
        (tmp_path / "mine" / "done.json").unlink()
    with pytest.raises(StoreError, match=r"shard-00001\.parquet (is damaged|has)"):
        mine("lexical", tmp_path / "mine")


def test_a_shard_of_other_queries_is_refused(tmp_path: Path) -> None:
    mine("lexical", tmp_path / "mine")
    (tmp_path / "mine" / "done.json").unlink()
    folder = tmp_path / "mine"
    shutil.copy(folder / "shard-00000.parquet", folder / "shard-00001.parquet")
    with pytest.raises(StoreError, match=r"shard-00001\.parquet is damaged.*other queries"):
        mine("lexical", folder)


def test_callers_mistakes_are_refused(tmp_path: Path) -> None:
    collection, queries = make_collection(), every_query()
    with pytest.raises(ValueError, match="twice"):
        mine_lexical(collection, queries[[1, 1]], depth=5, folder=tmp_path / "mine")
    klingon = replace(collection, language="klingon")
    with pytest.raises(ConfigError, match="klingon"):
        mine_lexical(klingon, queries, depth=5, folder=tmp_path / "a")
    with pytest.raises(ValueError, match="22 query vectors for 23 queries"):
        mine_dense(
            collection,
            queries,
            vectors(22, 1),
            vectors(PASSAGES, 2),
            source="x",
            depth=5,
            folder=tmp_path / "mine",
        )


def test_nan_vectors_stop_the_mining(tmp_path: Path) -> None:
    damaged = vectors(PASSAGES, 2)
    damaged[4] = np.nan
    with pytest.raises(ScoreError, match="passage 4 "):
        mine_dense(
            make_collection(),
            every_query(),
            vectors(QUERIES, 1),
            damaged,
            source="x",
            depth=5,
            folder=tmp_path / "mine",
        )


def test_a_querys_own_passage_is_no_candidate_of_it(tmp_path: Path) -> None:
    """Of these passages every tenth is a query, too; each finds as many others as before."""
    collection = make_collection()
    asked = Texts([f"p{at}" for at in range(0, 40, 10)], collection.passages.texts[::10])
    own = replace(collection, queries=asked, qrels={})
    queries, places = np.arange(4, dtype=np.int32), range(0, 40, 10)
    given = vectors(40, 1)
    mined = {
        "bm25": lambda it, name: mine_lexical(it, queries, depth=5, folder=tmp_path / name),
        "dense": lambda it, name: mine_dense(
            it, queries, given[::10], given, source="d", depth=5, folder=tmp_path / name
        ),
    }
    for name, mine in mined.items():
        kept = lists_of(mine(replace(own, keep_own_passage=True), f"{name}-kept"))
        found = lists_of(mine(own, name))
        for at, before, after in zip(places, kept, found, strict=True):
            assert at in before
            assert at not in after
            assert after[:4] == [passage for passage in before if passage != at]
            assert len(after) == 5
