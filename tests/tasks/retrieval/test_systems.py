"""What systems cost is measured on the models themselves, whatever is known already."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from collections_here import made_up
from limbeck.data.collection import Collection
from limbeck.data.scores import ScoredPairs
from limbeck.evaluation.measures import read_trec
from limbeck.evaluation.table import Cost
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers
from limbeck.store import read_json
from limbeck.tasks.retrieval import systems
from limbeck.tasks.retrieval.systems import (
    measure_bm25,
    measure_encoder,
    measure_teacher,
)
from limbeck.tasks.retrieval.task import Retrieval
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
from limbeck.teachers.teacher import LiveRanker
from retrieval_here import a_task, in_memory

Made = Callable[[str], Teacher]


@pytest.fixture
def made(
    tiny_encoder: Encoder,
    tiny_ranker: Ranker,
    tiny_sparse_folder: Path,
    tiny_late_folder: Path,
) -> Made:
    """A teacher of a kind; the ensemble's dual member is another encoder than the task's base."""
    dual = DualTeacher("dual", cut_layers(tiny_encoder, 3))
    cross = CrossTeacher("cross", tiny_ranker)
    numbers = {"weights": (0.5, 0.5), "means": (0.1, -2.0), "deviations": (0.3, 1.5)}
    ensemble = EnsembleTeacher("ensemble", (dual, cross), **numbers)
    made: dict[str, Teacher] = {"dual": dual, "cross": cross, "ensemble": ensemble}
    for kind, folder in (("sparse", tiny_sparse_folder), ("late", tiny_late_folder)):
        made[kind] = load_teacher(str(folder))
    return made.__getitem__


def live(task: Retrieval, teacher: Teacher, passages: np.ndarray) -> LiveRanker:
    """What ranks live queries on a task's collection."""
    return teacher.live_ranker(task.collection, task.tokens, task.run.engine, passages)


@contextmanager
def texts_read(*models: Encoder | Ranker) -> Iterator[Counter[int]]:
    """How many rows each model's forward was given, by place."""
    counts: Counter[int] = Counter()
    hooks = [
        model.register_forward_pre_hook(
            lambda _, inputs, at=at: counts.update({at: len(inputs[0]["input_ids"])})
        )
        for at, model in enumerate(models)
    ]
    yield counts
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("kind", ["dual", "cross", "sparse", "late", "ensemble"])
def test_a_live_ranker_gives_the_teachers_scores(
    tmp_path: Path, tiny_encoder: Encoder, made: Made, kind: str
) -> None:
    task, teacher = a_task(tmp_path, tiny_encoder), made(kind)
    passages, query = np.array([7, 30, 2, 11]), 3
    ranker = live(task, teacher, np.append(np.arange(5, 35)[::-1], 2))
    found = ranker(task.collection.queries.texts[query], passages)
    pairs = np.stack([np.full(4, query), passages], axis=1)
    np.testing.assert_allclose(found, task.pair_scores(teacher, pairs), atol=1e-5)


def test_a_cross_encoders_cost_is_real_though_the_store_knows_every_score(
    tmp_path: Path, tiny_encoder: Encoder, tiny_ranker: Ranker
) -> None:
    store, teacher = ScoreStore(tmp_path / "store"), CrossTeacher("cross", tiny_ranker)
    for name in ("first", "second"):
        task = a_task(tmp_path / name, tiny_encoder)
        task.store = store
        with texts_read(tiny_ranker) as read:
            measured = measure_teacher(task, "teacher", teacher, "test")
    # 6 queries, for each of which 40 passages are put in order
    [scored] = (tmp_path / "second" / "stages").glob("score-cross-*")
    assert read_json(scored / "done.json")["metrics"]["pairs_scored"] == 0
    assert read[0] == (systems.TIMED_RERANKINGS + 1) * 40  # the first one twice: it warms up
    cost = measured.cost
    assert cost.ms_per_query is not None
    assert cost.passages_per_second is not None
    assert cost.ms_per_query > 0
    assert cost.passages_per_second > 0
    assert cost.parameters == tiny_ranker.parameter_count()
    assert cost.tokens_per_second is not None
    per_query = cost.tokens_per_second / cost.passages_per_second
    assert per_query == pytest.approx(3 + 8 + 3)  # the words of a query, of a passage, and between
    assert cost.megabytes == pytest.approx(tiny_ranker.parameter_count() * 4 / 1e6)


def test_an_ensembles_dual_members_read_queries_alone(
    tmp_path: Path, tiny_encoder: Encoder, made: Made
) -> None:
    task, teacher = a_task(tmp_path, tiny_encoder), made("ensemble")
    assert isinstance(teacher, EnsembleTeacher)
    dual, cross = teacher.members
    assert isinstance(dual, DualTeacher)
    assert isinstance(cross, CrossTeacher)
    measure_teacher(task, "teacher", teacher, "test")  # from now on, all scores are known
    with texts_read(dual.encoder, cross.ranker) as read:
        ranker = live(task, teacher, np.arange(40))
        assert read == {0: 40}
        ranker("red cat", np.arange(10))
        assert read == {0: 41, 1: 10}
    assert task.run.engine.matmul_rate is None
    cost = measure_teacher(task, "teacher", teacher, "test").cost
    assert cost.share_of_limit is None
    models = (dual.encoder, cross.ranker)
    assert cost.parameters == sum(model.parameter_count() for model in models)


@pytest.mark.parametrize("kind", ["sparse", "late"])
def test_what_reads_each_text_alone_has_a_cost(
    tmp_path: Path, tiny_encoder: Encoder, made: Made, kind: str
) -> None:
    teacher = made(kind)
    assert isinstance(teacher, ReaderTeacher)
    cost = measure_teacher(a_task(tmp_path, tiny_encoder), "teacher", teacher, "test").cost
    assert cost.ms_per_query is not None
    assert cost.ms_per_query > 0
    assert cost.parameters == teacher.reader.parameter_count()
    assert cost.tokens_per_second is cost.useful_flops_per_second is None


def test_scores_that_were_computed_elsewhere_have_no_cost_here(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    task = a_task(tmp_path, tiny_encoder)
    queries = task.split_queries("test")
    pairs = np.array([[query, passage] for query in queries for passage in range(40)])
    scores = np.linspace(0, 1, len(pairs), dtype=np.float32)
    teacher = ScoresTeacher("file", task.collection, ScoredPairs(pairs, scores))
    assert measure_teacher(task, "teacher", teacher, "test").cost == Cost()


@pytest.mark.parametrize("kind", ["bm25", "student", "dual", "cross", "scores"])
def test_no_system_finds_a_querys_own_passage(
    tmp_path: Path, tiny_encoder: Encoder, made: Made, kind: str
) -> None:
    """Every query of test is a passage, too. What is kept finds it first, in its run and table."""
    files = made_up(passages=40, labelled=12, unlabelled=6)
    for at, query in enumerate(files.qrels["test"]):
        files.qrels["test"][query] = {f"p{at + 20}": 1}
        files.corpus[query] = files.queries[query]
    collection = in_memory(files)

    def ranked(collection: Collection, folder: Path) -> list[list[str]]:
        task = a_task(folder, tiny_encoder, collection)
        if kind == "bm25":
            found = measure_bm25(task, "test")
        elif kind == "student":
            found = measure_encoder(task, "student", cut_layers(tiny_encoder, 2), "test")
        elif kind == "scores":
            asked = task.split_queries("test")
            pairs = np.stack([np.repeat(asked, 46), np.tile(np.arange(46), len(asked))], axis=1)
            scores = (pairs[:, 1] >= 40).astype(np.float32) - np.arange(len(pairs)) / 1e4
            order = np.lexsort((-scores, pairs[:, 0]))
            known = ScoredPairs(pairs[order], scores[order])
            teacher = ScoresTeacher("file", collection, known)
            found = measure_teacher(task, "file", teacher, "test")
        else:
            found = measure_teacher(task, kind, made(kind), "test")
        run = read_trec(folder / "stages" / found.stage / "run.trec")
        assert list(found.per_query["query_id"]) == list(files.qrels["test"])
        return [[query, *passages] for query, passages in run.items()]

    assert all(query not in found for query, *found in ranked(collection, tmp_path / "without"))
    kept = ranked(replace(collection, keep_own_passage=True), tmp_path / "kept")
    assert all(query in found for query, *found in kept)
