"""LED on a toy collection: whose negatives, how often, in whose order, by which losses."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from limbeck.errors import ConfigError, ModelError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers
from limbeck.models.loading import load_sparse
from limbeck.objectives.listwise import cross_entropy, distillation_kl
from limbeck.recipes import RecipeResult, find
from limbeck.search import BM25
from limbeck.settings import parse_settings
from limbeck.tasks.retrieval import Retrieval
from limbeck.teachers import CrossTeacher, DualTeacher, Teacher, load_teacher
from limbeck.types import Scores
from retrieval_here import Trained, a_task, encoded, in_memory, trained_stages

SMALL: dict[str, object] = {
    "max_steps": 10,
    "batch_size": 5,
    "list_length": 6,
    "candidates_per_query": 8,
    "learning_rate": 1e-3,
}
# for the tests that all recipes share (recipes_here.py)
FAST: dict[str, object] = {"list_length": 6, "save_steps": 1}
ALL_COUNT: dict[str, object] = {"ranker_weight": 1.0}
OTHERWISE: dict[str, object] = {"rank_gap": 2.0}
ELSEWHERE = {"lexical"}

Ran = tuple[list[Trained], RecipeResult, Retrieval]
Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def led(tmp_path_factory: pytest.TempPathFactory, _encoder: Encoder) -> Run:
    """Both stages of a run, what it tells, and its task."""

    def led(teacher: Teacher | None = None, preset: str = "", **changes: object) -> Ran:
        recipe = find("led")
        task = a_task(tmp_path_factory.mktemp("run"), copy.deepcopy(_encoder), in_memory())
        presets = recipe.presets[preset] if preset else {}
        settings = parse_settings(recipe.settings, {**presets, **SMALL, **changes})
        student = cut_layers(_encoder, 2)
        with pytest.MonkeyPatch.context() as patch:
            stages, told = trained_stages(patch, recipe.function, task, teacher, student, settings)
        return stages, told, task

    return led


@pytest.fixture(scope="module")
def whole(led: Run) -> Ran:
    """The run by default, for tests that only look at it."""
    return led()


def lists_of(stage: Trained) -> list:
    return list(stage.stage.source.lists)


def found_by(task: Retrieval, encoder: Encoder, query: int, depth: int = 8) -> list[int]:
    """The best passages of a query by plain sentence-transformers."""
    queries = encoded(encoder, [task.collection.queries.texts[query]], "query")
    answers = encoded(encoder, task.collection.passages.texts, "passage")
    return np.argsort(-(answers @ queries[0]), kind="stable")[:depth].tolist()


def by_words(task: Retrieval, query: int) -> np.ndarray:
    """BM25's score of every passage."""
    texts = task.collection.passages.texts
    [scores] = BM25.build(texts).scores(
        [task.collection.queries.texts[query]], [np.arange(len(texts))]
    )
    return scores


def similarities(task: Retrieval, encoder: Encoder, batch) -> np.ndarray:
    queries = [task.collection.queries.texts[at] for at in batch.queries]
    passages = [task.collection.passages.texts[at] for at in batch.passages]
    return encoded(encoder, queries, "query") @ encoded(encoder, passages, "passage").T


# --- the steps -----------------------------------------------------------------------------------


def test_it_starts_from_the_warmed_up_student(whole: Ran) -> None:
    (warmup, main), told, task = whole
    assert [warmup.name, main.name] == ["led-warmup", "led"]
    assert [warmup.stage.updates, main.stage.updates] == [3, 7]
    former, later = warmup.after["student"], main.before["student"]
    assert former.weights_digest() == later.weights_digest()
    rates = [s.stage.players[0].optimizer.param_groups[0]["initial_lr"] for s in (warmup, main)]
    assert rates == [1e-3, 1e-4]
    judged = set(task.labelled_queries().tolist())
    assert {entry.query for entry in lists_of(main)} <= judged
    assert told.teacher is None
    assert [note.partition(":")[0] for note in told.notes] == ["warmed-up student", "student"]


@pytest.mark.parametrize(
    ("preset", "of_dense", "of_words"), [("", 1, 2), ("equal", 1, 1), ("dense-negatives", 1, 0)]
)
def test_candidates_stand_in_the_pool_for_each_source(
    led: Run, preset: str, of_dense: int, of_words: int
) -> None:
    (warmup, main), _, task = led(preset=preset)
    assert len(lists_of(main)) == len(task.labelled_queries())
    both = 0
    for entry in lists_of(main):
        dense = found_by(task, warmup.after["student"], entry.query)
        scores = by_words(task, entry.query)
        words = [at for at in np.argsort(-scores, kind="stable")[:8].tolist() if scores[at] > 0]
        times: dict[int, int] = dict.fromkeys(dense, of_dense)
        for at in words if of_words else ():
            times[at] = times.get(at, 0) + of_words
        both += sum(at in words for at in dense)
        positives = task.positives_of(entry.query, "train")
        assert entry.positives.tolist() == positives.tolist()
        assert dict(zip(entry.pool.tolist(), entry.copies.tolist(), strict=True)) == {
            at: count for at, count in times.items() if at not in positives
        }
    assert both > 0


def test_lists_have_the_positive_first_and_no_other(whole: Ran) -> None:
    (_, main), _, task = whole
    for update in range(main.stage.updates):
        batch = main.stage.source.batch(update)
        for query, row in zip(batch.queries.tolist(), batch.lists, strict=True):
            shown = batch.passages[row[row >= 0]].tolist()
            positives = task.positives_of(query, "train").tolist()
            assert [at in positives for at in shown] == [True] + [False] * (len(shown) - 1)
            assert len(set(shown)) == len(shown)


# --- the losses ----------------------------------------------------------------------------------


def hinge(teacher: np.ndarray, student: np.ndarray) -> list[float]:
    """The cost of every ordered pair of a list."""
    pairs = [(a, b) for a in range(len(teacher)) for b in range(len(teacher))]
    return [max(0.0, student[b] - student[a]) for a, b in pairs if teacher[a] > teacher[b]]


@pytest.mark.parametrize("positive", [True, False])
def test_the_loss_of_one_update(led: Run, positive: bool) -> None:
    """Contrastive over the update, and the order of BM25 in each query's own list."""
    (warmup, main), _, task = led(with_positive=positive, rank_weight=0.7)
    batch = main.stage.source.batch(0)
    s = similarities(task, warmup.after["student"], batch) / 0.05
    contrastive, costs = [], []
    for row, query in enumerate(batch.queries.tolist()):
        judged = task.positives_of(query, "train").tolist()
        target = int(batch.lists[row, 0])
        kept = [
            at
            for at, passage in enumerate(batch.passages.tolist())
            if passage not in judged or at == target
        ]
        contrastive.append(-log_softmax(s[row, kept])[kept.index(target)])
        columns = [at for at in batch.lists[row].tolist() if at >= 0][0 if positive else 1 :]
        costs += hinge(by_words(task, query)[batch.passages[columns]], s[row, columns])
    assert sum(costs) > 0
    _, parts = main.first_parts(task)
    assert parts == {
        "contrastive": pytest.approx(np.mean(contrastive), rel=1e-4),
        "rank": pytest.approx(0.7 * np.mean(costs), rel=1e-3),
    }


def test_a_ranker_teaches_besides_on_all_queries(led: Run, tiny_ranker: Ranker) -> None:
    ranker = CrossTeacher("teacher", tiny_ranker)
    (_, main), told, task = led(ranker, "with-ranker")
    assert told.teacher is ranker
    assert not told.fitted
    batch, collection = main.stage.source.batch(0), task.collection
    assert {entry.query for entry in lists_of(main)} == set(task.training_queries().tolist())
    s = similarities(task, main.before["student"], batch) / 0.05
    kd = []
    for row, query in enumerate(batch.queries.tolist()):
        columns = [at for at in batch.lists[row].tolist() if at >= 0]
        texts = [collection.passages.texts[at] for at in batch.passages[columns]]
        pairs = [(collection.queries.texts[query], text) for text in texts]
        r = tiny_ranker.model.predict(pairs, activation_fn=torch.nn.Identity())
        p, q = log_softmax(r / 3), log_softmax(s[row, columns] / 3)
        kd.append(9 * float((np.exp(p) * (p - q)).sum()))
    _, parts = main.first_parts(task)
    assert parts["ranker"] == pytest.approx(1.5 * np.mean(kd), rel=1e-3)
    assert set(parts) == {"contrastive", "rank", "ranker"}


def test_without_the_rank_term_nobody_is_asked(led: Run) -> None:
    (_, main), _, task = led(preset="no-rank-term")
    assert set(main.first_parts(task)[1]) == {"contrastive"}
    assert not list(task.run.folder.glob("stages/score-*"))


def test_numbers_of_the_authors_code() -> None:
    """In-batch contrastive 0.440190 and 0.546006; KL of the ranker at T = 3, times 9, and at 1."""
    s = Scores.of(
        torch.tensor([[3.0, 1.0, 0.0, 2.0], [0.5, 0.0, 2.0, 1.0]]), target=torch.tensor([0, 2])
    )
    assert float(cross_entropy(s)) == pytest.approx(0.493098, abs=1e-6)
    r, s = Scores.of(torch.tensor([[4.0, 1.0, -1.0]])), Scores.of(torch.tensor([[2.0, 1.5, 0.0]]))
    assert float(distillation_kl(r, s, temperature=3.0)) == pytest.approx(0.879861, abs=1e-5)
    assert float(distillation_kl(r, s, temperature=1.0)) == pytest.approx(0.363031, abs=1e-5)


# --- a sparse encoder ----------------------------------------------------------------------------


def test_a_sparse_encoder_finds_and_orders(led: Run, tiny_sparse_folder: Path) -> None:
    """As plain sentence-transformers has it; and it does not move."""
    sparse = load_teacher(str(tiny_sparse_folder)).renamed("teacher")
    (warmup, main), told, task = led(sparse)
    assert told.teacher is sparse
    assert load_sparse(tiny_sparse_folder).weights_digest() == sparse.reader.weights_digest()
    model, collection = sparse.reader.model, task.collection
    passages = model.encode_document(collection.passages.texts).to_dense()
    for entry in lists_of(main):
        [asked] = model.encode_query([collection.queries.texts[entry.query]]).to_dense()
        scores = (passages @ asked).numpy()
        shown = np.append(entry.positives, entry.pool)
        np.testing.assert_allclose(entry.scores["lexical"], scores[shown], rtol=1e-4)
        dense = found_by(task, warmup.after["student"], entry.query)
        least = np.sort(scores)[-8]
        for at, count in zip(entry.pool.tolist(), entry.copies.tolist(), strict=True):
            assert count == (at in dense) + 2 * bool(scores[at] >= least - 1e-4)


def test_a_ranker_and_a_sparse_encoder(
    led: Run, tiny_encoder: Encoder, tiny_sparse_folder: Path
) -> None:
    """One is `--teacher`, the other a setting."""
    ranker = DualTeacher("teacher", tiny_encoder.frozen())
    (_, main), told, task = led(ranker, "with-ranker", lexical=str(tiny_sparse_folder))
    assert told.teacher is ranker
    assert list(task.run.folder.glob("stages/mine-lexical-*"))
    assert set(main.first_parts(task)[1]) == {"contrastive", "rank", "ranker"}


def test_a_lexical_teacher_that_cannot_be_is_refused(
    tiny_sparse_folder: Path, tiny_encoder_folder: Path
) -> None:
    settings = find("led").settings
    with pytest.raises(ConfigError, match=f"--teacher {tiny_sparse_folder}"):
        settings(lexical=str(tiny_sparse_folder))
    with pytest.raises(ModelError, match="Name a SparseEncoder"):
        settings(lexical=str(tiny_encoder_folder), ranker_weight=1.0)
