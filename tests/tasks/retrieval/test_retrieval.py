"""Signals, lists and measures of retrieval, against plain sentence-transformers and by hand."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck.candidates import Candidates
from limbeck.data.collection import Collection, Texts
from limbeck.data.scores import ScoredPairs
from limbeck.errors import StageError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers, with_dimension
from limbeck.objectives.listwise import cross_entropy
from limbeck.sources import ListBatch, ListSource, TextBatch
from limbeck.tasks.fit import TrainingSettings, player
from limbeck.tasks.retrieval import Retrieval, asking
from limbeck.tasks.retrieval.scorers import cross, dual, embeddings, from_batch, stored, taught
from limbeck.teachers import CrossTeacher, DualTeacher, EnsembleTeacher, ScoresTeacher
from limbeck.teachers.score_store import ScoreStore
from limbeck.training import Turn, forward, frozen_player
from limbeck.types import Loss, PassageId, QueryId, Signals
from retrieval_here import a_frozen_pass, a_task, encoded, in_memory, signals_of


@pytest.fixture
def task(tmp_path: Path, tiny_encoder: Encoder) -> Retrieval:
    return a_task(tmp_path, tiny_encoder)


@pytest.fixture
def student(tiny_encoder: Encoder) -> Encoder:
    return cut_layers(tiny_encoder, 2)


# Query 0 has two positives in the update (passages 3 and 8), query 24 is not judged, query 1 has
# an empty slot.
BATCH = ListBatch(
    queries=np.array([0, 24, 1]),
    passages=np.array([3, 5, 8, 21, 30]),
    lists=np.array([[0, 3, 1], [4, 2, 0], [1, 3, -1]]),
    labelled=np.array([True, False, True]),
    not_negatives=np.array([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]], dtype=bool),
    scores={},
)


def by_hand(task: Retrieval, encoder: Encoder) -> np.ndarray:
    """The cosine of every query of the batch with every passage of it: [3, 5]."""
    queries = encoded(encoder, [task.collection.queries.texts[at] for at in BATCH.queries], "query")
    texts = [task.collection.passages.texts[at] for at in BATCH.passages]
    return queries @ encoded(encoder, texts, "passage").T


# --- signals -------------------------------------------------------------------------------------


def test_a_layers_scores_are_those_of_a_model_that_ends_there(
    task: Retrieval, tiny_encoder: Encoder, tiny_ranker: Ranker
) -> None:
    """Layers that nobody asked for cost nothing, and those that were asked for move no score."""
    asked = dual(task, "student", tiny_encoder, layers=[2, 4])
    found = asked.scores(a_frozen_pass(tiny_encoder, task), BATCH)
    assert found.keys() == asked.gives
    plain = dual(task, "student", tiny_encoder)
    assert plain.gives == {"student", "student/in_batch"}
    for name, each in plain.scores(a_frozen_pass(tiny_encoder, task), BATCH).items():
        assert torch.equal(found[name].values, each.values)
        last = found[name.replace("student", "student/layer/4")]
        torch.testing.assert_close(last.values, each.values)
        assert torch.equal(last.mask, each.mask)
    cut = cut_layers(tiny_encoder, 2, "first")
    second = found["student/layer/2/in_batch"].values
    np.testing.assert_allclose(second.numpy(), by_hand(task, cut), atol=1e-5)
    for row, columns in enumerate(BATCH.lists):  # cut to own candidates: rows of the whole matrix
        own = found["student/layer/2"].values[row]
        assert torch.equal(own[columns >= 0], second[row, columns[columns >= 0]])

    asked = cross(task, "student", tiny_ranker, layers=[1, 3])
    found = asked.scores(a_frozen_pass(tiny_ranker, task), BATCH)
    assert found.keys() == asked.gives == {"student", "student/layer/1", "student/layer/3"}
    torch.testing.assert_close(found["student/layer/3"].values, found["student"].values)
    assert not torch.allclose(found["student/layer/1"].values, found["student"].values)
    assert torch.equal(found["student/layer/1"].mask, found["student"].mask)


def test_scores_are_those_of_plain_sentence_transformers(task: Retrieval, student: Encoder) -> None:
    teacher = DualTeacher("teacher", task.base.encoder)
    both = forward(dual(task, "student", student), stored(task, "teacher", teacher))
    signals = signals_of(both, BATCH, student, task)
    assert set(signals.scores) == both.gives
    for name, encoder in (("student", student), ("teacher", teacher.encoder)):
        expected = by_hand(task, encoder)
        everyone, own = signals.scores[f"{name}/in_batch"], signals.scores[name]
        np.testing.assert_allclose(everyone.values.numpy(), expected, atol=1e-5)
        for row, columns in enumerate(BATCH.lists):
            filled = columns >= 0
            found = own.values[row].numpy()[filled]
            np.testing.assert_allclose(found, expected[row, columns[filled]], atol=1e-5)
    assert (signals.progress, signals.step) == (0.25, 0)


def test_masks_and_targets(task: Retrieval, student: Encoder) -> None:
    signals = signals_of(forward(dual(task, "student", student)), BATCH, student, task)
    assert set(signals.scores) == {"student", "student/in_batch"}
    own, everyone = signals.scores["student"], signals.scores["student/in_batch"]
    assert own.mask.tolist() == [[True] * 3, [True] * 3, [True, True, False]]
    assert own.target.tolist() == [0, -1, 0]  # the second query is not judged
    # the other positive of the first row is masked, its target is not
    assert everyone.mask.tolist() == [[True, True, False, True, True], [True] * 5, [True] * 5]
    assert everyone.target.tolist() == [0, -1, 1]
    assert own.weight.tolist() == everyone.weight.tolist() == [1, 1, 1]


def test_a_batch_is_left_as_it_was(task: Retrieval, student: Encoder) -> None:
    before = BATCH.not_negatives.copy()
    signals_of(forward(dual(task, "student", student)), BATCH, student, task)
    assert np.array_equal(BATCH.not_negatives, before)


def test_scores_of_any_number_of_teachers_come_from_the_batch(
    task: Retrieval, student: Encoder
) -> None:
    """NaN is a pair that nobody was asked about: masked, and no target where it is the positive."""
    first = np.array([[3.0, 1, 2], [0, -1, -2], [5, 4, np.nan]], dtype=np.float32)
    second = np.array([[np.nan, 1, 2], [0, np.nan, -2], [5, 4, np.nan]], dtype=np.float32)
    batch = replace(BATCH, scores={"one": first, "two": second})
    own, one, two = dual(task, "student", student), from_batch("one"), from_batch("two")
    scores = signals_of(forward(own, one, two), batch, student, task).scores
    assert set(scores) == {"student", "student/in_batch", "one", "two"}
    assert torch.equal(scores["one"].mask, scores["student"].mask)
    assert torch.equal(scores["one"].target, scores["student"].target)
    assert scores["two"].mask.tolist() == (~np.isnan(second)).tolist()
    assert scores["two"].target.tolist() == [-1, -1, 0]
    for name, expected in (("one", first), ("two", second)):
        assert scores[name].values.tolist() == np.nan_to_num(expected).tolist()


def test_the_widest_scores_are_those_that_everybody_named_has(
    task: Retrieval, student: Encoder
) -> None:
    batch = replace(BATCH, scores={"pairs": np.zeros((3, 3), dtype=np.float32)})
    scorers = dual(task, "student", student), stored(task, "dual", task.base), from_batch("pairs")
    signals = signals_of(forward(*scorers), batch, student, task)
    scores = signals.scores
    both = signals.widest("student", "dual")
    assert [id(each) for each in both] == [
        id(scores["student/in_batch"]),
        id(scores["dual/in_batch"]),
    ]
    three = ("student", "dual", "pairs")
    assert [id(each) for each in signals.widest(*three)] == [id(scores[name]) for name in three]
    with pytest.raises(StageError, match="reads the signal 'teacher', but the forward gives only"):
        signals.widest("student", "teacher")


def test_vectors_that_somebody_holds_are_not_read_again(
    task: Retrieval, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = task.vectors(task.base, "passage")

    def read_again(*_: object, **__: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(asking, "embed_collection", read_again)
    assert task.unshared().vectors(task.base, "passage") is held


def test_a_former_student_and_a_ranker_are_asked_in_the_update(
    task: Retrieval, student: Encoder, tiny_encoder: Encoder, tiny_ranker: Ranker
) -> None:
    everybody = forward(
        dual(task, "student", student),
        dual(task, "reference", tiny_encoder),
        cross(task, "ranker", tiny_ranker),
    )
    update = a_frozen_pass(student, task, reference=tiny_encoder, ranker=tiny_ranker)
    signals = everybody(update, BATCH).scores
    # 3 queries and 5 passages, each once; 8 pairs
    counted = {name: count.items for name, count in update.counts.items()}
    assert counted == {"student": 8, "reference": 8, "ranker": 8}
    assert set(signals) == {"student", "student/in_batch", "reference", "reference/in_batch"} | {
        "ranker"
    }
    for name, encoder in (("student", student), ("reference", tiny_encoder)):
        found = signals[f"{name}/in_batch"].values.numpy()
        np.testing.assert_allclose(found, by_hand(task, encoder), atol=1e-5)
    alone = forward(cross(task, "student", tiny_ranker))
    ranked = signals_of(alone, BATCH, tiny_ranker, task).scores["student"]
    assert torch.equal(signals["ranker"].values, ranked.values)
    for name in ("reference", "ranker"):  # row for row what the student is asked
        assert torch.equal(signals[name].mask, signals["student"].mask)
        assert torch.equal(signals[name].target, signals["student"].target)


def test_each_distinct_text_is_encoded_once(tmp_path: Path, student: Encoder) -> None:
    """Query 1 twice; passages 2 and 4 have one text: 2 + 3 texts are encoded."""
    collection = Collection(
        "repeats",
        Texts([f"p{at}" for at in range(5)], ["cat", "dog", "bird", "sun", "bird"]),
        Texts(["q0", "q1"], ["old cat", "new bird"]),
        {},
    )
    task = a_task(tmp_path, student, collection)
    batch = ListBatch(
        queries=np.array([1, 0, 1]),
        passages=np.array([0, 2, 3, 4]),
        lists=np.array([[1, 0], [0, 3], [3, 2]]),
        labelled=np.array([True, True, True]),
        not_negatives=np.zeros((3, 4), dtype=bool),
    )
    update = a_frozen_pass(student, task)
    values = dual(task, "student", student).scores(update, batch)["student/in_batch"].values
    assert update.counts["student"].items == 2 + 3
    assert torch.equal(values[0], values[2])
    assert torch.equal(values[:, 1], values[:, 3])


def test_a_ranker_scores_each_querys_own_list(
    tmp_path: Path, tiny_encoder: Encoder, tiny_ranker: Ranker
) -> None:
    collection = in_memory()
    task = a_task(tmp_path, tiny_encoder, collection)
    alone = forward(cross(task, "student", tiny_ranker))
    scores = signals_of(alone, BATCH, tiny_ranker, task).scores["student"]
    for row, columns in enumerate(BATCH.lists):
        query = collection.queries.texts[BATCH.queries[row]]
        passages = [collection.passages.texts[BATCH.passages[at]] for at in columns if at >= 0]
        expected = tiny_ranker.model.predict(
            [(query, passage) for passage in passages], activation_fn=torch.nn.Identity()
        )
        np.testing.assert_allclose(scores.values[row].numpy()[columns >= 0], expected, atol=1e-5)
    assert scores.mask.tolist() == (BATCH.lists >= 0).tolist()
    assert scores.values[2, 2] == 0
    assert scores.target.tolist() == [0, -1, 0]  # the second query is not judged


@pytest.mark.parametrize("dimension", [None, 16])
def test_embeddings_align_student_and_teacher(
    task: Retrieval, student: Encoder, dimension: int | None
) -> None:
    """Rows are the queries, then the passages; the teacher keeps its own width."""
    if dimension:
        student = with_dimension(student, dimension, seed=0)
    both, width = embeddings(task, student, task.base)
    assert width == 32
    batch = TextBatch(queries=np.array([24, 0]), passages=np.array([7, 2, 30]))
    found = signals_of(both, batch, student, task).embeddings
    for name, encoder in (("student", student), ("teacher", task.base.encoder)):
        queries = [task.collection.queries.texts[at] for at in batch.queries]
        passages = [task.collection.passages.texts[at] for at in batch.passages]
        parts = encoded(encoder, queries, "query"), encoded(encoder, passages, "passage")
        expected = np.concatenate(parts)
        np.testing.assert_allclose(found[name].numpy(), expected, atol=1e-5)
    assert found["student"].shape == (5, dimension or 32)


def test_embeddings_of_passages_alone(task: Retrieval, student: Encoder) -> None:
    both, _ = embeddings(task, student, task.base)
    nothing = np.array([], dtype=np.int64)
    found = signals_of(both, TextBatch(nothing, np.array([3])), student, task).embeddings
    assert found["student"].shape == found["teacher"].shape == (1, 32)


# --- lists ---------------------------------------------------------------------------------------


@dataclass
class Table:
    """A ranker whose score of (query, passage) is 10 - passage, and 20 more for passage 9."""

    name: str = "table"
    kind: str = "cross"
    digest: str = "table"
    in_batch: bool = False
    answers: None = None

    def score_pairs(self, pairs: np.ndarray, work: object) -> np.ndarray:
        return (10 - pairs[:, 1] + 20 * (pairs[:, 1] == 9)).astype(np.float32)


@pytest.fixture
def listed(tmp_path: Path, tiny_encoder: Encoder) -> Retrieval:
    """q0 has the positives p0 and p1, q1 has p2, q2 and q3 are not judged; p8 repeats p3."""
    words = ["cat", "dog", "bird", "fish", "sea", "sun", "moon", "star", "fish", "red"]
    collection = Collection(
        "listed",
        Texts([f"p{at}" for at in range(10)], words),
        Texts(["q0", "q1", "q2", "q3"], ["old cat", "old bird", "old sun", "old moon"]),
        {
            "train": {
                QueryId("q0"): {PassageId("p0"): 1, PassageId("p1"): 2, PassageId("p4"): 0},
                QueryId("q1"): {PassageId("p2"): 1},
            }
        },
    )
    return a_task(tmp_path, tiny_encoder, collection)


def scores_of(collection: Collection, rows: list[tuple[int, int, float]]) -> ScoresTeacher:
    """A teacher of these (query, passage, score) rows."""
    ordered = sorted(rows, key=lambda row: (row[0], -row[2]))
    pairs = np.array([row[:2] for row in ordered])
    scores = np.array([row[2] for row in ordered], dtype=np.float32)
    return ScoresTeacher("file", collection, ScoredPairs(pairs, scores))


def pools(*found: list[int]) -> Candidates:
    width = max(map(len, found))
    rows = np.array([[*row, *[-1] * (width - len(row))] for row in found], dtype=np.int32)
    scores = np.zeros(rows.shape, dtype=np.float32)
    return Candidates.of("made-up", np.arange(len(found), dtype=np.int32), rows, scores)


def test_lists_keep_positives_and_pool_apart(listed: Retrieval) -> None:
    lists = listed.lists(pools([1, 4, 0, 5], [6, 7], [5, 3], [9, 8]))
    assert [entry.query_id for entry in lists] == ["q0", "q1", "q2", "q3"]
    assert [entry.positives.tolist() for entry in lists] == [[0, 1], [2], [], []]
    # positives leave the pool, also where they were found; judged negatives stay
    assert [entry.pool.tolist() for entry in lists] == [[4, 5], [6, 7], [5, 3], [9, 3]]
    assert not any(entry.scores for entry in lists)
    assert not any(lists.dropped.values())


def test_a_text_stands_in_a_list_once(listed: Retrieval) -> None:
    """p8 has the text of p3: whichever comes first, it is p3."""
    [entry] = listed.lists(pools([8, 5, 3]))
    assert entry.pool.tolist() == [3, 5]


def test_queries_without_two_passages_are_left_out_and_counted(listed: Retrieval) -> None:
    """q0 has two positives, q1 only its positive, q2 a single candidate, q3 two."""
    lists = listed.lists(pools([], [2], [5], [5, 6]))
    assert [entry.query_id for entry in lists] == ["q0", "q3"]
    assert lists.dropped["training queries without two passages to compare"] == 2


def test_with_a_teacher_an_unlabelled_pool_is_in_its_order(listed: Retrieval) -> None:
    lists = listed.lists(pools([7, 5], [7, 5], [5, 9, 4], [6, 5]), teacher=Table())
    assert [entry.pool.tolist() for entry in lists] == [[7, 5], [7, 5], [9, 4, 5], [5, 6]]
    for entry in lists:
        shown = np.concatenate([entry.positives, entry.pool])
        assert entry.scores["teacher"].tolist() == [10 - at + 20 * (at == 9) for at in shown]


def test_scores_of_a_file_are_its_queries_candidates(listed: Retrieval) -> None:
    """q0's file has its positive p1 but not p0, q1's not its p2, q2's one passage, q3's p8 = p3."""
    pairs = [(0, 4, 1.0), (0, 1, 3.0), (0, 9, 2.0), (1, 5, 1.0), (1, 6, 2.0), (2, 7, 1.0)]
    pairs += [(3, 8, 1.0), (3, 0, 5.0)]
    teacher = scores_of(listed.collection, pairs)
    assert listed.askable_queries(teacher).tolist() == [0, 1, 2, 3]
    found = listed.pools(np.arange(4), depth=32, miner=listed.base, scorer=teacher)
    pools_found = [found.for_query(place).tolist() for place in range(4)]
    assert pools_found == [[1, 9, 4], [6, 5], [7], [0, 8]]
    shallow = listed.pools(np.array([3, 0]), depth=2, miner=listed.base, scorer=teacher)
    assert [shallow.for_query(place).tolist() for place in range(2)] == [[0, 8], [1, 9]]

    lists = listed.lists(found, teacher=teacher)
    assert [entry.query_id for entry in lists] == ["q0", "q1", "q3"]
    assert [entry.positives.tolist() for entry in lists] == [[1], [], []]
    assert [entry.pool.tolist() for entry in lists] == [[9, 4], [6, 5], [0, 3]]
    assert [entry.scores["teacher"].tolist() for entry in lists] == [[3, 2, 1], [2, 1], [5, 1]]
    assert lists.entries[0].not_negatives.tolist() == [
        0
    ]  # the positive without a score is no negative either
    assert lists.dropped["positives left out: the teacher has no score"] == 2
    assert lists.dropped["training queries without two passages to compare"] == 1


def test_queries_that_a_file_has_no_score_of_are_not_asked_about(listed: Retrieval) -> None:
    teacher = scores_of(listed.collection, [(2, 0, 1.0), (2, 1, 0.5)])
    assert listed.askable_queries(teacher).tolist() == [2]
    found = listed.pools(np.arange(4), depth=8, miner=listed.base, scorer=teacher)
    assert np.diff(found.offsets).tolist() == [0, 0, 2, 0]


def test_likely_false_negatives_leave_and_are_counted(listed: Retrieval) -> None:
    """q0's best positive scores 10, q1's 8: with a margin of 5, scores up to 5 and up to 3 stay."""
    lists = listed.lists(pools([4, 5, 9], [3, 7, 6], [9, 4]), teacher=Table(), margin=5.0)
    assert [entry.pool.tolist() for entry in lists] == [[5], [7], [9, 4]]
    assert lists.dropped["candidates dropped: scored near the positive"] == 4
    assert lists.entries[0].scores["teacher"].tolist() == [10, 9, 5]
    # nor are they negatives where another query brings them; unlabelled queries keep everything
    assert [entry.not_negatives.tolist() for entry in lists] == [[4, 9], [3, 6], []]


def test_what_is_ranked_too_high_is_no_negative(listed: Retrieval) -> None:
    lists = listed.lists(pools([4, 0, 5, 6], [7, 6], [9, 4]), negatives_from=1)
    assert [entry.pool.tolist() for entry in lists] == [[5, 6], [6], [9, 4]]
    assert [entry.not_negatives.tolist() for entry in lists] == [[4], [7], []]
    assert lists.dropped["candidates dropped: ranked too high"] == 2


def test_positives_of_a_query_with_the_same_text_are_no_negatives(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    """q0 and q1 are one text with a positive each, q2 is it once more, not judged."""
    collection = Collection(
        "twins",
        Texts([f"p{at}" for at in range(5)], ["cat", "dog", "bird", "fish", "sea"]),
        Texts(["q0", "q1", "q2"], ["old cat", "old cat", "old cat"]),
        {"train": {QueryId(f"q{at}"): {PassageId(f"p{at}"): 1} for at in range(2)}},
    )
    lists = a_task(tmp_path, tiny_encoder, collection).lists(pools([1, 3], [0, 4], [0, 1, 3]))
    assert [entry.pool.tolist() for entry in lists] == [[3], [4], [0, 1, 3]]
    assert [entry.not_negatives.tolist() for entry in lists] == [[1], [0], []]


@pytest.fixture
def own(tmp_path: Path, tiny_encoder: Encoder) -> Retrieval:
    """The queries p0 (judged), p3 (not judged) and p1 (dev) are passages; p5 repeats p3's text."""
    words = ["cat", "dog", "bird", "fish", "sea", "fish", "moon"]
    collection = Collection(
        "own",
        Texts([f"p{at}" for at in range(7)], words),
        Texts(["p0", "p3", "p1"], ["cat", "fish", "dog"]),
        {
            "train": {QueryId("p0"): {PassageId("p2"): 1}},
            "dev": {QueryId("p1"): {PassageId("p4"): 1, PassageId("p1"): 0}},
        },
    )
    return a_task(tmp_path, tiny_encoder, collection)


def test_a_querys_own_text_is_no_negative_of_it(own: Retrieval) -> None:
    """Neither in its list, from whatever pool, nor where another query brings it."""
    lists = own.lists(pools([0, 4, 6], [5, 0, 4]))
    assert [entry.pool.tolist() for entry in lists] == [[4, 6], [0, 4]]
    assert [entry.not_negatives.tolist() for entry in lists] == [[0], [3]]
    batch = ListSource(lists, 2, 3, seed=0).batch(0)
    [row] = np.flatnonzero(batch.queries == 0)
    assert batch.not_negatives[row].tolist() == [at in (0, 2) for at in batch.passages]
    kept = replace(own, collection=replace(own.collection, keep_own_passage=True))
    lists = kept.lists(pools([0, 4, 6], [5, 0, 4]))
    assert [entry.pool.tolist() for entry in lists] == [[0, 4, 6], [3, 0, 4]]


def test_an_own_passage_that_others_found_is_left_out(own: Retrieval) -> None:
    teacher = scores_of(own.collection, [(0, 0, 9.0), (0, 2, 1.0), (0, 4, 2.0), (1, 0, 1.0)])
    found = own.pools(np.arange(2), depth=8, miner=own.base, scorer=teacher)
    assert [found.for_query(place).tolist() for place in range(2)] == [[4, 2], [0]]
    given = ScoredPairs(np.array([[0, 0], [0, 6], [1, 3]]), np.ones(3, dtype=np.float32))
    found = replace(own, given=[given]).pools(np.arange(2), depth=8, miner=own.base)
    assert all(at not in found.for_query(place) for place, at in enumerate([0, 3]))


def test_dev_is_measured_without_own_passages(own: Retrieval, student: Encoder) -> None:
    queries = np.array([2, 0])
    found = own.first_stage(student, queries, np.array([1, 2, 4]), depth=3)
    assert {query: set(passages) for query, passages in found.items()} == {
        "p1": {"p2", "p4"},
        "p0": {"p1", "p2", "p4"},
    }


def test_a_source_is_scored_where_it_is_drawn_and_nowhere_else(listed: Retrieval) -> None:
    """Three updates of two queries: what they show has its score, and only that was asked for."""
    lists = listed.lists(pools([4, 5, 9, 6, 7], [3, 7, 6, 5, 9], [5, 9, 4, 3], [6, 5, 9, 4]))
    asked: list[tuple[int, int]] = []

    class Counting(Table):
        def score_pairs(self, pairs: np.ndarray, work: object) -> np.ndarray:
            asked.extend(map(tuple, pairs.tolist()))
            return super().score_pairs(pairs, work)

    plain = ListSource(lists, 2, 3, seed=0, start=1)
    scored = listed.scored(plain, 3, "t", Counting())
    shown = set()
    for update in range(3):
        batch, before = scored.batch(update), plain.batch(update)
        assert np.array_equal(batch.lists, before.lists)
        assert np.array_equal(batch.passages, before.passages)
        for query, row, scores in zip(batch.queries, batch.lists, batch.scores["t"], strict=True):
            passages = batch.passages[row[row >= 0]]
            assert scores[row >= 0].tolist() == [10 - at + 20 * (at == 9) for at in passages]
            shown |= {(int(query), int(passage)) for passage in passages}
    assert sorted(asked) == sorted(shown)
    everything = sum(len(entry.positives) + len(entry.pool) for entry in lists)
    unknown = sum(int(np.isnan(entry.scores["t"]).sum()) for entry in scored.lists)
    assert unknown == everything - len(shown) > 0


def test_ranks_of_the_first_positive(listed: Retrieval) -> None:
    """q0's positives are p0 and p1, q1's is p2; p8 counts as p3, whose text it has.

    The teacher reads its positives too, found or not: it puts 9 first and then goes by number.
    """
    found = pools([5, 1, 0, 6], [9, 3, 8, 2], [4, 5])
    assert listed.positive_ranks(found).tolist() == [2, 3, np.inf]
    assert listed.positive_ranks(found, Table()).tolist() == [1, 2, np.inf]
    missed = pools([5, 9], [9, 3])
    assert listed.positive_ranks(missed).tolist() == [np.inf, np.inf]
    assert listed.positive_ranks(missed, Table()).tolist() == [2, 2]


# --- measures ------------------------------------------------------------------------------------


def dev_ndcg(task: Retrieval, score: object) -> float:
    """nDCG@10 of dev by hand: each query has one positive, so it is 1 / log2(1 + its rank)."""
    candidates = task.dev_pools()
    judged = [task.positives_of(query, "dev") for query in candidates.queries.tolist()]
    passages = np.unique(np.concatenate([candidates.passages, *judged]))
    values = []
    for query, [positive] in zip(candidates.queries.tolist(), judged, strict=True):
        scores = score(query, passages)
        rank = 1 + int((scores > scores[passages.tolist().index(positive)]).sum())
        values.append(1 / np.log2(1 + rank) if rank <= 10 else 0.0)
    return float(np.mean(values))


def test_dev_measures_an_encoder_among_pooled_passages(task: Retrieval, student: Encoder) -> None:
    player = frozen_player("student", student)
    measure = task.dev_measure(TrainingSettings(max_steps=10, eval_steps=3), 10, player)
    queries = encoded(student, task.collection.queries.texts, "query")
    passages = encoded(student, task.collection.passages.texts, "passage")
    expected = dev_ndcg(task, lambda query, among: passages[among] @ queries[query])
    assert 0 < expected < 1
    found = measure.value({"student": player})
    assert found == pytest.approx(expected, abs=1e-6)
    assert measure.name == "dev nDCG@10, pooled"
    assert (measure.every, measure.keep, measure.player) == (3, "best", "student")


def test_dev_measures_a_ranker_on_each_querys_pool(task: Retrieval, tiny_ranker: Ranker) -> None:
    player = frozen_player("student", tiny_ranker)
    measure = task.dev_measure(TrainingSettings(), 10, player)
    candidates, values = task.dev_pools(), []
    for place, query in enumerate(candidates.queries.tolist()):
        among = candidates.for_query(place).tolist()
        texts = [task.collection.passages.texts[at] for at in among]
        question = task.collection.queries.texts[query]
        scores = tiny_ranker.model.predict([(question, text) for text in texts])
        [positive] = task.positives_of(query, "dev")
        found = positive in among
        rank = 1 + int((scores > scores[among.index(positive)]).sum()) if found else 99
        values.append(1 / np.log2(1 + rank) if rank <= 10 else 0.0)
    value = measure.value({"student": player})
    assert value == pytest.approx(np.mean(values), abs=1e-6)
    assert measure.name == "dev nDCG@10, re-ranked"


def test_without_dev_nothing_is_measured(listed: Retrieval, student: Encoder) -> None:
    assert listed.dev_measure(TrainingSettings(), 10, frozen_player("student", student)) is None


def test_no_measures_are_taken_when_none_are_wanted(task: Retrieval, student: Encoder) -> None:
    settings = TrainingSettings(eval_steps=0)
    assert task.dev_measure(settings, 10, frozen_player("student", student)) is None


# --- where passages come from --------------------------------------------------------------------


def test_pools_are_merged_by_rank_vectors_first(task: Retrieval) -> None:
    queries = task.training_queries()
    found = task.pools(queries, depth=6, miner=task.base)
    asked = encoded(
        task.base.encoder, [task.collection.queries.texts[at] for at in queries], "query"
    )
    answers = encoded(task.base.encoder, task.collection.passages.texts, "passage")
    for place in range(len(queries)):
        pool = found.for_query(place)
        assert len(pool) == len(set(pool.tolist())) == 6
        assert pool[0] == int((answers @ asked[place]).argmax())


def test_pools_of_one_miner_alone(task: Retrieval) -> None:
    queries = task.training_queries()
    words, vectors = (
        task.lexical(queries, depth=6),
        task.mined(queries, depth=6, miner=task.base),
    )
    assert (words.sources, vectors.sources) == (("bm25",), ("base",))
    asked = encoded(
        task.base.encoder, [task.collection.queries.texts[at] for at in queries], "query"
    )
    answers = encoded(task.base.encoder, task.collection.passages.texts, "passage")
    for place in range(len(queries)):
        best = np.argsort(-(answers @ asked[place]), kind="stable")[:6]
        assert vectors.for_query(place).tolist() == best.tolist()


def test_what_a_model_in_training_says_is_not_shared(
    task: Retrieval, student: Encoder, tmp_path: Path
) -> None:
    task.store = ScoreStore(tmp_path / "store")
    queries = task.training_queries()
    moving = DualTeacher("student", student.frozen())
    own = task.unshared().mined(queries, depth=5, miner=moving)
    assert not task.store.list()
    task.mined(queries, depth=5, miner=task.base)
    assert {entry.name for entry in task.store.list()} == {"base"}
    assert len(own) == len(queries)


# --- training ------------------------------------------------------------------------------------


def test_players_go_from_stage_to_stage(
    task: Retrieval, tiny_encoder: Encoder, tiny_ranker: Ranker
) -> None:
    """Two stages of 3 updates by one player equal one of 6, and dev says how good it is."""
    lists = task.lists(task.pools(task.labelled_queries(), depth=6, miner=task.base))
    settings = TrainingSettings(learning_rate=1e-3, eval_steps=1000, keep="last", dropout=0.1)

    def turn(encoder: Encoder) -> Turn:
        def loss(signals: Signals) -> Loss:
            return Loss({"contrastive": cross_entropy(signals.scores["student/in_batch"], 0.05)})

        return Turn(forward(dual(task, "student", encoder)), loss, trains=frozenset({"student"}))

    whole, halves = cut_layers(tiny_encoder, 2), cut_layers(tiny_encoder, 2)
    one, two = (player("student", model, settings, 6) for model in (whole, halves))
    assert [two.schedule(step) for step in (0, 3, 6)] == [1.0, 0.5, 0.0]
    source = ListSource(lists, 5, 3, seed=0)
    frozen = frozen_player("ranker", tiny_ranker)
    before = tiny_ranker.weights_digest()
    # dropout is seeded by the stage's name and update: without it the two would be equal
    for part in [*whole.modules(), *halves.modules()]:
        if isinstance(part, torch.nn.Dropout):
            assert part.p == 0.1
            part.p = 0.0
    task.train_stage("whole", [one, frozen], source, turn(whole), 6, settings)
    task.train_stage("first", [two, frozen], source, turn(halves), 3, settings)
    later = replace(source, start=3)
    value = task.train_stage("second", [two, frozen], later, turn(halves), 3, settings).quality
    assert (one.steps, two.steps) == (6, 6)
    assert halves.weights_digest() == whole.weights_digest()
    assert tiny_ranker.weights_digest() == before
    ended = frozen_player("student", halves)
    assert value == task.dev_measure(settings, 6, ended).value({"student": ended})


def test_lists_feed_a_source_whose_positives_are_judged(task: Retrieval) -> None:
    lists = task.lists(task.pools(task.training_queries(), depth=8, miner=task.base))
    batch = ListSource(lists, 6, 4, seed=0).batch(0)
    for row, query in enumerate(batch.queries.tolist()):
        judged = set(task.positives_of(query, "train").tolist())
        slots = batch.passages[batch.lists[row][batch.lists[row] >= 0]].tolist()
        assert batch.labelled[row] == bool(judged)
        assert (slots[0] in judged) == bool(judged)
        assert not judged & set(slots[1:])


def test_only_a_teacher_with_vectors_scores_in_batch(
    task: Retrieval, tiny_encoder: Encoder, tiny_ranker: Ranker
) -> None:
    vectors, pairs = DualTeacher("d", tiny_encoder), CrossTeacher("c", tiny_ranker)
    both = EnsembleTeacher("e", (vectors, pairs), (0.5, 0.5), (0.0, 0.0), (1.0, 1.0))
    assert taught(task, "teacher", vectors).gives == {"teacher", "teacher/in_batch"}
    assert taught(task, "teacher", both).gives == {"teacher"}
