"""Teachers that are neither dual nor cross: readers, files of scores, and several at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limbeck.data.collection import Collection, Texts
from limbeck.data.scores import ScoredPairs
from limbeck.errors import ConfigError, DataError, ScoreError, StageError
from limbeck.inference import MAX_DIFFERENCE, Engine
from limbeck.store import StageFolder
from limbeck.teachers import (
    CrossTeacher,
    DualTeacher,
    EnsembleTeacher,
    ReaderTeacher,
    ScoresTeacher,
    Teacher,
    load_teacher,
)
from limbeck.teachers.score_store import ScoreStore
from limbeck.teachers.scoring import embed_collection, score_pairs

PAIRS = np.array([[query, passage] for query in range(12) for passage in range(0, 40, 3)])


@pytest.fixture(params=["sparse", "late"])
def reading(request: Any, tiny_sparse_folder: Path, tiny_late_folder: Path) -> Teacher:
    return load_teacher(str(tiny_sparse_folder if request.param == "sparse" else tiny_late_folder))


@pytest.fixture
def ask(tmp_path: Path, collection: Collection, tokens: Any, engine: Engine) -> Any:
    """Scores pairs in a named stage folder, and what the stage counted."""

    def asked(teacher: Teacher, pairs: np.ndarray = PAIRS, **given: Any) -> Any:
        at = given.pop("at", "score")
        folder = StageFolder(tmp_path / "stages" / at, {})
        settings = {"engine": engine, "store": None, "shard_batches": 2} | given
        scores = score_pairs(teacher, collection, pairs, tokens, folder=folder, **settings)
        return scores, folder.metrics

    return asked


# --- readers -------------------------------------------------------------------------------------


def test_the_folder_says_what_kind_of_reader_it_is(reading: Teacher) -> None:
    assert isinstance(reading, ReaderTeacher)
    assert (reading.kind, reading.in_batch, reading.reads_pairs) == (
        reading.reader.kind,
        False,
        False,
    )
    assert reading.answers is None
    assert reading.temperature == 1.0
    reading.reader.model.similarity_fn_name = "cosine" if reading.kind == "sparse" else "meanmaxsim"
    assert reading.temperature == 0.05
    with pytest.raises(StageError, match="no vectors"):
        _ = reading.similarity


def test_readers_score_as_sentence_transformers(
    reading: ReaderTeacher, ask: Any, collection: Collection
) -> None:
    scores, _ = ask(reading)
    model = reading.reader.model
    queries = model.encode_query(collection.queries.texts)
    passages = model.encode_document(collection.passages.texts)
    expected = model.similarity(queries, passages).numpy()[PAIRS[:, 0], PAIRS[:, 1]]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-4)


def test_each_text_is_read_once_and_a_stored_score_not_at_all(
    reading: ReaderTeacher, ask: Any, tmp_path: Path
) -> None:
    """Passages 0, 3, ... 39 are 14, of which the last has the text of the first; 11 queries."""
    store = ScoreStore(tmp_path / "shared")
    first, counted = ask(reading, at="one", store=store)
    assert counted["texts_embedded"] == counted["teacher_forwards"] == 11 + 13
    assert (counted["pairs_scored"], counted["hits"]) == (0, 0)
    again, counted = ask(reading, at="two", store=store)
    assert np.array_equal(first, again)
    assert (counted["teacher_forwards"], counted["hits"]) == (0, 11 * 13)
    more = np.array([[0, 0], [0, 1], [0, 2], [1, 2]])
    _, counted = ask(reading, more, at="three", store=store)
    assert (counted["texts_embedded"], counted["hits"]) == (2 + 2, 1)
    # the same work in the same folder is read back
    assert np.array_equal(ask(reading, at="one", store=store)[0], first)


def test_a_killed_stage_finishes_its_plan(
    reading: ReaderTeacher, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"engine": Engine("cpu", "fp32", max_batch_tokens=16), "shard_batches": 1}
    expected, _ = ask(reading, at="whole", **small)
    read, calls = type(reading.reader).read, [0]

    def dies(self: Any, texts: Any, role: Any) -> Any:
        calls[0] += role == "passage"
        if calls[0] == 4:
            raise KeyboardInterrupt
        return read(self, texts, role)

    with monkeypatch.context() as patch:
        patch.setattr(type(reading.reader), "read", dies)
        with pytest.raises(KeyboardInterrupt):
            ask(reading, at="killed", **small)
    shards = list((tmp_path / "stages" / "killed" / "pairs").glob("shard-*"))
    assert len(shards) == 3
    found, counted = ask(reading, at="killed", **small)
    assert np.array_equal(found, expected)
    assert counted["texts_embedded"] < 11 + 13


def test_a_score_that_is_not_finite_is_named(reading: ReaderTeacher, ask: Any) -> None:
    with torch.no_grad():
        words = reading.reader.transformer.get_input_embeddings().weight
        words[reading.reader.tokenizer.convert_tokens_to_ids("star")] = float("nan")
    with pytest.raises(ScoreError, match=r"query 'q\d+' and passage 'p\d+'.*not finite"):
        ask(reading)


def test_bf16_is_compared_with_fp32(
    reading: ReaderTeacher, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, _ = ask(reading, at="fp32")
    half = Engine("cpu", "bf16", max_batch_tokens=64)
    found, _ = ask(reading, at="bf16", engine=half)
    assert not np.array_equal(found, exact)
    assert np.abs(found - exact).max() <= 0.1 * np.abs(exact).max()
    monkeypatch.setitem(MAX_DIFFERENCE, "bf16", 1e-9)
    with pytest.raises(ScoreError, match="In bf16 the model gives other scores than in fp32"):
        ask(reading, at="refused", engine=half)


def test_a_reader_is_saved_and_loaded(reading: ReaderTeacher, tmp_path: Path) -> None:
    reading.save(tmp_path / "saved", card="# A teacher\n", stage="teacher")
    found = load_teacher(str(tmp_path / "saved"))
    assert (found.kind, found.digest) == (reading.kind, reading.digest)


# --- scores from a file --------------------------------------------------------------------------


def from_file(collection: Collection, rows: dict[tuple[int, int], float]) -> ScoresTeacher:
    order = sorted(rows, key=lambda pair: (pair[0], -rows[pair]))
    scores = np.array([rows[pair] for pair in order], dtype=np.float32)
    return ScoresTeacher("file", collection, ScoredPairs(np.array(order), scores))


def test_a_file_answers_what_it_holds_and_nothing_else(ask: Any, collection: Collection) -> None:
    teacher = from_file(collection, {(0, 3): 2.5, (0, 5): -1.0, (4, 3): 7.0})
    scores, counted = ask(teacher, np.array([[4, 3], [0, 5], [0, 3], [4, 3]]))
    assert scores.tolist() == [7.0, -1.0, 2.5, 7.0]
    assert (counted["teacher_forwards"], counted["answers"]) == (0, 4)
    assert teacher.answers.tolist() == [[0, 3], [0, 5], [4, 3]]
    with pytest.raises(ScoreError, match="no score of query 'q4' and passage 'p5'"):
        ask(teacher, np.array([[0, 3], [4, 5]]), at="unknown")
    for ask_it in (lambda: teacher.similarity, lambda: teacher.embed("query", PAIRS[:, 0], None)):
        with pytest.raises(StageError, match="no vectors"):
            ask_it()


def test_texts_that_are_equal_share_a_score(ask: Any, collection: Collection) -> None:
    """p39 has the text of p0, q11 that of q0; a pair's own score comes first."""
    teacher = from_file(collection, {(0, 39): 2.0, (11, 0): 3.0, (0, 7): 1.0})
    asked = np.array([[0, 39], [0, 0], [11, 0], [11, 39], [11, 7]])
    assert ask(teacher, asked)[0].tolist() == [2.0, 2.0, 3.0, 2.0, 1.0]


def test_the_temperature_follows_the_deviation(collection: Collection) -> None:
    """Scores 1, 3, 1, 3 deviate by 1; ten times as much, by 10; equal ones by nothing."""
    rows = {(0, 0): 1.0, (0, 1): 3.0, (1, 0): 1.0, (1, 1): 3.0}
    assert from_file(collection, rows).temperature == pytest.approx(0.3)
    tens = {pair: 10 * score for pair, score in rows.items()}
    assert from_file(collection, tens).temperature == pytest.approx(3.0)
    assert from_file(collection, dict.fromkeys(rows, 2.0)).temperature == 1.0


def test_digest_follows_scores_and_collection_not_the_file(
    collection: Collection, tmp_path: Path
) -> None:
    rows = {(0, 3): 2.5, (0, 5): -1.0}
    teacher = from_file(collection, rows)
    assert from_file(collection, {**rows, (0, 5): -1.5}).digest != teacher.digest
    assert from_file(collection, {**rows, (1, 5): -1.5}).digest != teacher.digest
    other = Collection("o", collection.passages, Texts(["q0"], ["another"]), {})
    assert ScoresTeacher("file", other, teacher.known).digest != teacher.digest
    (tmp_path / "run.trec").write_text("q0 Q0 p5 9 -1 x\nq0 Q0 p3 1 2.50 x\n")
    assert load_teacher(str(tmp_path / "run.trec"), collection).digest == teacher.digest
    teacher.save(tmp_path / "saved", card="", stage="teacher")
    again = load_teacher(f"scores:{tmp_path / 'saved' / 'scores.parquet'}", collection)
    assert (again.digest, again.name) == (teacher.digest, "scores.parquet")


def test_what_names_a_file_of_scores(tmp_path: Path, collection: Collection) -> None:
    (tmp_path / "model.tsv").mkdir()
    names = ["scores:x", "scores:x.csv", "a/x.parquet", "x.tsv", "x.tsv.gz", "x.trec", "x.trec.gz"]
    assert all(map(ScoresTeacher.is_named_by, names))
    others = ["x", "org/name", "CrossEncoder:x", "x.csv", "x.gz", str(tmp_path / "model.tsv")]
    assert not any(map(ScoresTeacher.is_named_by, others))
    with pytest.raises(DataError, match=r"no file of scores .*nowhere"):
        load_teacher("scores:nowhere", collection)


# --- several -------------------------------------------------------------------------------------


@pytest.fixture
def five(
    collection: Collection,
    tiny_encoder: Any,
    tiny_ranker: Any,
    tiny_sparse_folder: Path,
    tiny_late_folder: Path,
) -> tuple[Teacher, ...]:
    """One of every kind; the file knows the pairs of query 2 and one other."""
    rows = {(2, int(passage)): float(passage % 5) for passage in range(0, 40, 3)}
    return (
        DualTeacher("dual", tiny_encoder),
        CrossTeacher("cross", tiny_ranker),
        load_teacher(str(tiny_sparse_folder)),
        load_teacher(str(tiny_late_folder)),
        from_file(collection, {**rows, (5, 1): 9.0}),
    )


def test_any_mix_is_the_weighted_sum_of_its_members(
    five: tuple[Teacher, ...], ask: Any, tmp_path: Path
) -> None:
    pairs = PAIRS[PAIRS[:, 0] == 2]
    store = ScoreStore(tmp_path / "shared")
    own = [ask(each, pairs, at=f"own-{at}", store=store)[0] for at, each in enumerate(five)]
    weights = (0.1, 0.2, 0.3, 0.15, 0.25)
    both = EnsembleTeacher.fitted("all", five, weights, own)
    expected = sum(
        weight * (scores - scores.mean()) / scores.std()
        for weight, scores in zip(weights, own, strict=True)
    )
    found, counted = ask(both, pairs, at="all", store=store)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert counted["teacher_forwards"] == 0  # every member was asked before
    assert both.answers.tolist() == five[-1].answers.tolist()
    assert (both.in_batch, both.reads_pairs, both.temperature) == (False, True, 0.3)
    assert not EnsembleTeacher.unscaled("two", (five[0], five[2]), (0.5, 0.5)).reads_pairs


def test_only_what_every_file_knows_can_be_asked(collection: Collection) -> None:
    one = from_file(collection, {(0, 3): 1.0, (0, 5): 2.0, (1, 5): 3.0})
    other = from_file(collection, {(0, 5): 1.0, (0, 3): 9.0, (2, 5): 3.0})
    both = EnsembleTeacher.unscaled("both", (one, other), (0.5, 0.5))
    assert both.answers.tolist() == [[0, 5], [0, 3]]


def test_an_ensemble_within_another_keeps_its_vectors(
    tiny_encoder: Any, ask: Any, collection: Collection, tokens: Any, engine: Engine, tmp_path: Path
) -> None:
    dual = DualTeacher("dual", tiny_encoder)
    inner = EnsembleTeacher("inner", (dual,), (1.0,), (0.5,), (0.25,))
    outer = EnsembleTeacher("outer", (inner, dual), (0.5, 0.5), (0.1, 0.2), (2.0, 0.5))
    assert outer.in_batch
    scores, _ = ask(outer)
    vectors = [
        embed_collection(
            outer,
            collection,
            role,
            np.arange(count),
            tokens,
            folder=StageFolder(tmp_path / "stages" / role, {}),
            store=None,
            engine=engine,
        )
        for role, count in (("query", 12), ("passage", 40))
    ]
    products = (vectors[0] @ vectors[1].T)[PAIRS[:, 0], PAIRS[:, 1]]
    np.testing.assert_allclose(products, scores, atol=1e-4)


def test_an_ensemble_of_every_model_is_saved_and_loaded(
    five: tuple[Teacher, ...], tmp_path: Path
) -> None:
    inner = EnsembleTeacher("inner", five[:1], (1.0,), (0.5,), (0.25,))
    members = (inner, *five[1:4])
    teacher = EnsembleTeacher("t", members, (0.25,) * 4, (1.0, 2.0, 3.0, 4.0), (1.0,) * 4)
    teacher.save(tmp_path / "teacher", card="# A teacher\n", stage="teacher")
    found = load_teacher(str(tmp_path / "teacher"))
    assert found.digest == teacher.digest
    assert isinstance(found, EnsembleTeacher)
    assert [each.kind for each in found.members] == ["ensemble", "cross", "sparse", "late"]


def test_a_member_that_says_the_same_of_everything_is_refused(collection: Collection) -> None:
    members = [from_file(collection, {(0, 0): 1.0})] * 2
    scores = [np.float32([1, 2]), np.float32([3, 3])]
    with pytest.raises(ConfigError, match="gives every pair the same score"):
        EnsembleTeacher.fitted("both", members, (0.5, 0.5), scores)
