from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from limbeck.errors import DataError
from limbeck.sources import ListSource, QueryList, QueryLists
from limbeck.types import QueryId


def a_list(
    query: int,
    positives: Sequence[int] = (),
    pool: Sequence[int] = (),
) -> QueryList:
    return QueryList(
        query,
        QueryId(f"q{query}"),
        np.array(positives, dtype=np.int64),
        np.array(pool, dtype=np.int64),
    )


LISTS = [
    a_list(0, [10], range(20, 30)),
    a_list(1, [11, 12, 13], range(20, 24)),
    a_list(2, [], [25, 24, 23, 22, 21]),  # unlabelled: slot 0 is the first of its pool
    a_list(3, [10], [20]),  # shorter than any list
    a_list(4, [14], []),
]
SOURCE = ListSource(QueryLists(LISTS), batch_size=5, list_length=4, seed=0)


def shown(source: ListSource, updates: int) -> dict[int, list[list[int]]]:
    """The lists of passages that every query was shown with, by query."""
    found: dict[int, list[list[int]]] = {}
    for update in range(updates):
        batch = source.batch(update)
        for query, row in zip(batch.queries.tolist(), batch.lists, strict=True):
            found.setdefault(query, []).append(batch.passages[row[row >= 0]].tolist())
    return found


def test_slot_0_is_a_positive_or_the_first_of_the_pool() -> None:
    for query, lists in shown(SOURCE, 40).items():
        firsts = {row[0] for row in lists}
        assert firsts == ({25} if query == 2 else set(LISTS[query].positives.tolist()))


def test_positives_are_never_among_what_is_drawn_beside_them() -> None:
    for query, lists in shown(SOURCE, 40).items():
        for row in lists:
            assert len(set(row)) == len(row)
            assert set(row[1:]) <= set(LISTS[query].pool.tolist())
            assert not set(row[1:]) & {row[0], *LISTS[query].positives.tolist()}


def test_every_candidate_is_drawn_about_equally_often() -> None:
    counts = Counter(passage for row in shown(SOURCE, 400)[0] for passage in row[1:])
    assert set(counts) == set(range(20, 30))
    assert all(85 < count < 155 for count in counts.values())  # 120 expected, deviation 9


def test_ragged_lists_have_empty_slots() -> None:
    batch = SOURCE.batch(0)
    lengths = dict(zip(batch.queries.tolist(), (batch.lists >= 0).sum(axis=1), strict=True))
    assert lengths == {0: 4, 1: 4, 2: 4, 3: 2, 4: 1}
    for row in batch.lists:
        filled = row >= 0
        assert filled[: filled.sum()].all()  # no gaps


def test_a_batch_names_each_passage_once_and_who_is_positive_for_whom() -> None:
    batch = SOURCE.batch(3)
    assert (np.diff(batch.passages) > 0).all()
    assert sorted(set(batch.lists[batch.lists >= 0].tolist())) == list(range(len(batch.passages)))
    for row, query in enumerate(batch.queries.tolist()):
        entry = LISTS[query]
        marked = set(batch.passages[batch.not_negatives[row]].tolist())
        assert marked == set(batch.passages.tolist()) & set(entry.positives.tolist())
        assert batch.labelled[row] == bool(len(entry.positives))
    place = batch.queries.tolist().index(3)  # its positive is also query 0's
    assert (
        batch.not_negatives[place].sum()
        == batch.not_negatives[batch.queries.tolist().index(0)].sum()
    )
    assert batch.scores == {}


def test_what_is_no_negative_is_marked_where_another_query_brings_them() -> None:
    marked = replace(LISTS[4], not_negatives=np.array([10, 99]))
    batch = replace(SOURCE, lists=QueryLists([*LISTS[:4], marked])).batch(3)
    place = batch.queries.tolist().index(4)
    assert set(batch.passages[batch.not_negatives[place]].tolist()) == {14, 10}
    assert replace(SOURCE, lists=QueryLists([*LISTS[:4], marked])).digest != SOURCE.digest


def test_the_teachers_scores_go_with_their_passages() -> None:
    """score = 100 * query + passage, so that a wrong alignment shows."""
    scored = [
        replace(
            entry,
            scores={
                "teacher": (
                    100 * entry.query + np.concatenate([entry.positives, entry.pool])
                ).astype(np.float32)
            },
        )
        for entry in LISTS
    ]
    scored[0] = replace(scored[0], scores={})  # nobody was asked about this one
    batch = replace(SOURCE, lists=QueryLists(scored)).batch(1)
    for query, row, scores in zip(batch.queries, batch.lists, batch.scores["teacher"], strict=True):
        filled = row >= 0
        if query:
            assert scores[filled].tolist() == (100 * query + batch.passages[row[filled]]).tolist()
        assert np.isnan(scores[~filled] if query else scores).all()


def test_ranked_lists_are_the_same_in_every_epoch() -> None:
    """The first positive, then the pool from its top; an unlabelled query has its pool."""
    ranked = replace(SOURCE, order="ranked")
    found = {query: {tuple(row) for row in rows} for query, rows in shown(ranked, 30).items()}
    assert found == {
        0: {(10, 20, 21, 22)},
        1: {(11, 20, 21, 22)},
        2: {(25, 24, 23, 22)},
        3: {(10, 20)},
        4: {(14,)},
    }


def test_a_later_stage_goes_on_where_an_earlier_one_stopped() -> None:
    later = replace(SOURCE, batch_size=2, start=3)
    whole = replace(SOURCE, batch_size=2)
    for update in range(5):
        assert np.array_equal(later.batch(update).queries, whole.batch(update + 3).queries)
        assert np.array_equal(later.batch(update).passages, whole.batch(update + 3).passages)


def test_lists_of_judged_queries() -> None:
    lists = QueryLists(LISTS, {"dropped": 2})
    assert [entry.query for entry in lists.judged()] == [0, 1, 3, 4]
    assert [entry.query for entry in lists.of([2, 4])] == [2, 4]
    assert lists.judged().dropped == lists.of([2]).dropped == {"dropped": 2}


def test_draws_depend_on_seed_epoch_and_query_alone() -> None:
    """Another number of queries per update, other queries beside it: the same list."""
    alone = ListSource(QueryLists([LISTS[0]]), batch_size=1, list_length=4, seed=0)
    together = shown(SOURCE, 6)[0]
    assert shown(alone, 6)[0] == together
    assert len({tuple(row) for row in together}) > 1  # another draw each epoch
    assert shown(replace(alone, seed=1), 6)[0] != together


def test_a_batch_is_a_pure_function_of_its_number() -> None:
    later = SOURCE.batch(7)
    SOURCE.batch(2)
    again = SOURCE.batch(7)
    for name in ("queries", "passages", "lists", "labelled", "not_negatives"):
        assert np.array_equal(getattr(later, name), getattr(again, name))


@pytest.mark.parametrize(
    "changed",
    [
        {"lists": QueryLists(LISTS[:4])},
        {"lists": QueryLists([a_list(0, [10], range(20, 31)), *LISTS[1:]])},
        {"lists": QueryLists([replace(LISTS[0], scores={"t": np.arange(11)}), *LISTS[1:]])},
        {"batch_size": 4},
        {"list_length": 3},
        {"seed": 1},
        {"order": "ranked"},
        {"start": 1},
    ],
)
def test_the_digest_says_all_that_the_updates_depend_on(changed) -> None:
    assert replace(SOURCE, **changed).digest != SOURCE.digest
    assert replace(SOURCE).digest == SOURCE.digest


def test_no_list_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no training query with a list"):
        ListSource(QueryLists([]), 1, 2, 0)


# --- passages that were made for one list --------------------------------------------------------


def with_derived() -> ListSource:
    """Query 0 has two draws of three passages, of which one slot is empty; query 1 has one draw."""
    entries = [replace(entry, scores={"t": np.arange(14.0)[: _size(entry)]}) for entry in LISTS[:3]]
    made = [[[100, 101, -1], [102, 103, 104]], [[105, 106, 107], [-1, -1, -1]]]
    for place, rows in enumerate(made):
        derived = np.array(rows)
        scores = {"t": np.where(derived < 0, np.nan, derived)}
        entries[place] = replace(entries[place], derived=derived, derived_scores=scores)
    return ListSource(QueryLists(entries), batch_size=3, list_length=4, seed=0)


def _size(entry: QueryList) -> int:
    return len(entry.positives) + len(entry.pool)


def test_what_was_made_for_a_list_comes_after_it_and_in_no_other() -> None:
    for epoch in range(4):
        batch = with_derived().batch(epoch)
        for row, query in enumerate(batch.queries.tolist()):
            own = batch.lists[row]
            made = [batch.passages[at] if at >= 0 else -1 for at in own[4:]]
            expected = {0: [[100, 101, -1], [102, 103, 104]], 1: [[105, 106, 107], [-1] * 3]}
            assert made == (expected[query][epoch % 2] if query < 2 else [-1] * 3)
            assert all(batch.passages[at] < 100 for at in own[:4] if at >= 0)
            scores = [-1 if np.isnan(score) else int(score) for score in batch.scores["t"][row, 4:]]
            assert scores == made


def test_it_is_nobodys_negative() -> None:
    batch = with_derived().batch(0)
    assert batch.not_negatives[:, batch.passages >= 100].all()
    plain = replace(SOURCE, lists=QueryLists(LISTS[:3]), batch_size=3).batch(0)
    assert (batch.not_negatives[:, batch.passages < 100] == plain.not_negatives).all()
    assert (batch.passages[batch.passages < 100] == plain.passages).all()


def test_the_digest_changes_with_it_alone() -> None:
    source = with_derived()
    entries = [replace(entry, derived=np.empty((1, 0), dtype=int)) for entry in source.lists]
    without = replace(source, lists=QueryLists(entries))
    assert len({source.digest, without.digest}) == 2
    bare = [
        QueryList(e.query, e.query_id, e.positives, e.pool, e.scores, e.not_negatives)
        for e in entries
    ]
    assert replace(source, lists=QueryLists(bare)).digest == without.digest


def test_what_is_shown_is_known_before() -> None:
    source = replace(SOURCE, batch_size=2)
    assert source.shown(5, 4) == [(place, epoch) for place in range(5) for epoch in range(2)]
    assert source.shown(5, 1) == [(place, 0) for place in range(5)]
    for update in range(5):
        batch = source.batch(update)
        for row, query in enumerate(batch.queries.tolist()):
            filled = batch.lists[row][batch.lists[row] >= 0]
            epoch = (2 * update + row) // 5
            assert batch.passages[filled].tolist() == source.drawn(query, epoch).tolist()
