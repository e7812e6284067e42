"""Each recipe's loss on one batch, computed again from texts, with numpy and plain encoders."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers, with_dimension
from limbeck.recipes import find
from limbeck.sources import ListBatch
from limbeck.tasks.retrieval import Retrieval
from limbeck.teachers import CrossTeacher, DualTeacher
from limbeck.training import Pass, Stage, frozen_player
from retrieval_here import a_task, encoded, stage_of

LISTS = {"batch_size": 7, "list_length": 4, "candidates_per_query": 8, "max_steps": 1}


@dataclass(frozen=True)
class Caught:
    """What a recipe would train on: its first batch, and the parts of its loss there."""

    task: Retrieval
    stage: Stage
    parts: dict[str, float]

    @property
    def batch(self) -> ListBatch:
        return self.stage.source.batch(0)

    def similarities(self, encoder: Encoder) -> np.ndarray:
        """The cosine of every query of the batch with every passage of it."""
        texts = self.task.collection
        queries = [texts.queries.texts[at] for at in self.batch.queries]
        passages = [texts.passages.texts[at] for at in self.batch.passages]
        return encoded(encoder, queries, "query") @ encoded(encoder, passages, "passage").T

    def rows(self) -> list[tuple[int, bool, list[int], set[int]]]:
        """Per row: its number, is it judged, the columns of its list, the other positives' columns.

        Read from the collection's judgements, not from the batch's own marks.
        """
        found = []
        for row, query in enumerate(self.batch.queries.tolist()):
            columns = [at for at in self.batch.lists[row].tolist() if at >= 0]
            judged = set(self.task.positives_of(query, "train").tolist())
            others = {
                at
                for at, passage in enumerate(self.batch.passages.tolist())
                if passage in judged and at != columns[0]
            }
            found.append((row, bool(judged), columns, others))
        return found

    def pair_scores(self, ranker: Ranker) -> list[np.ndarray]:
        """A ranker's logits of every row's own list."""
        texts, found = self.task.collection, []
        for row, _, columns, _ in self.rows():
            query = texts.queries.texts[self.batch.queries[row]]
            passages = [texts.passages.texts[self.batch.passages[at]] for at in columns]
            pairs = [(query, passage) for passage in passages]
            found.append(ranker.model.predict(pairs, activation_fn=torch.nn.Identity()))
        return found

    def contrastive(self, scores: np.ndarray, temperature: float) -> float:
        """Judged rows alone: the positive against all that is no positive of the row."""
        losses = []
        for row, judged, columns, others in self.rows():
            if judged:
                kept = [at for at in range(scores.shape[1]) if at not in others]
                logs = log_softmax(scores[row, kept] / temperature)
                losses.append(-logs[kept.index(columns[0])])
        return float(np.mean(losses))


def divergence(teacher: np.ndarray, student: np.ndarray) -> float:
    """KL(softmax(teacher) || softmax(student)) of one row."""
    p, q = log_softmax(teacher), log_softmax(student)
    return float((np.exp(p) * (p - q)).sum())


Catch = Callable[..., Caught]


@pytest.fixture
def catch(tmp_path: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Catch:
    def catch(name: str, *models: object, **settings: object) -> Caught:
        recipe, task = find(name), a_task(tmp_path, tiny_encoder)
        chosen = {k: v for k, v in LISTS.items() if k in recipe.settings.model_fields}
        given = recipe.settings(**{**chosen, **settings})
        stage, run = stage_of(monkeypatch, recipe.function, task, *models, given)
        players = {p.name: frozen_player(p.name, p.model) for p in stage.everyone}
        place = {"stage": "s/0", "update": 0, "progress": 0.0, "bytes_per_token": {}}
        [turn] = stage.turns
        with torch.no_grad():
            signals = turn.forward(Pass(run, players, frozenset(), **place), stage.source.batch(0))
            parts = turn.loss(signals).parts
        return Caught(task, stage, {part: float(value) for part, value in parts.items()})

    return catch


@pytest.fixture
def student(tiny_encoder: Encoder) -> Encoder:
    return cut_layers(tiny_encoder, 2)


@pytest.fixture
def dual(tiny_encoder: Encoder) -> DualTeacher:
    return DualTeacher("dual", tiny_encoder.frozen())


@pytest.fixture
def cross(tiny_ranker: Ranker) -> CrossTeacher:
    return CrossTeacher("cross", tiny_ranker)


def test_contrastive(catch: Catch, student: Encoder) -> None:
    found = catch("contrastive", None, student, temperature=0.1)
    expected = found.contrastive(found.similarities(student), 0.1)
    assert found.parts == {"contrastive": pytest.approx(expected, rel=1e-4)}


def test_kl_with_a_dual_teacher_is_over_the_whole_update(
    catch: Catch, student: Encoder, dual: DualTeacher
) -> None:
    """0.05 divides the teacher's cosines when nothing is said."""
    found = catch("kl", dual, student, temperature=0.1, contrastive_weight=0.3)
    s, t = found.similarities(student), found.similarities(dual.encoder)
    assert not found.batch.labelled.all()  # unlabelled queries take part
    rows = []
    for row, _, _, others in found.rows():
        kept = [at for at in range(s.shape[1]) if at not in others]
        rows.append(divergence(t[row, kept] / 0.05, s[row, kept] / 0.1))
    assert found.parts == {
        "kl": pytest.approx(np.mean(rows), rel=1e-4),
        "contrastive": pytest.approx(0.3 * found.contrastive(s, 0.1), rel=1e-4),
    }


def test_kl_with_a_ranker_is_over_own_lists(
    catch: Catch, student: Encoder, cross: CrossTeacher
) -> None:
    """1 divides its logits when nothing is said; without a contrastive term there is none."""
    for given, temperature in ((None, 1.0), (2.0, 2.0)):
        found = catch("kl", cross, student, teacher_temperature=given, contrastive_weight=0.0)
        s, t = found.similarities(student), found.pair_scores(cross.ranker)
        rows = [
            divergence(t[row] / temperature, s[row, columns] / 0.05)
            for row, _, columns, _ in found.rows()
        ]
        assert found.parts == {"kl": pytest.approx(np.mean(rows), rel=1e-4)}


@pytest.mark.parametrize("kind", ["dual", "cross"])
def test_margin_mse(
    catch: Catch, student: Encoder, dual: DualTeacher, cross: CrossTeacher, kind: str
) -> None:
    """beta is 1 beside cosines and 20 beside logits; an unlabelled query compares with the best."""
    teacher = dual if kind == "dual" else cross
    found = catch("margin_mse", teacher, student)
    scaled = found.similarities(student) * (1.0 if kind == "dual" else 20.0)
    if kind == "cross":
        taught = found.pair_scores(cross.ranker)
    else:
        everyone = found.similarities(dual.encoder)
        taught = [everyone[row, columns] for row, _, columns, _ in found.rows()]
    rows = []
    for row, judged, columns, _ in found.rows():
        s, t = scaled[row, columns], taught[row]
        rows.append(np.mean([(s[0] - s[at] - (t[0] - t[at])) ** 2 for at in range(1, len(s))]))
        if not judged:
            assert t[0] == max(t)
    assert found.parts == {"margin_mse": pytest.approx(np.mean(rows), rel=1e-4)}


@pytest.mark.parametrize("dimension", [None, 16])
def test_embed(catch: Catch, student: Encoder, dual: DualTeacher, dimension: int | None) -> None:
    """1 - cosine; a student of another width goes through the map beside it first."""
    if dimension:
        student = with_dimension(student, dimension, seed=0)
    found = catch("embed", dual, student, texts_per_step=20)
    texts, batch = found.task.collection, found.stage.source.batch(0)
    queries = [texts.queries.texts[at] for at in batch.queries]
    passages = [texts.passages.texts[at] for at in batch.passages]
    assert queries
    s, t = (
        np.concatenate([encoded(e, queries, "query"), encoded(e, passages, "passage")])
        for e in (student, dual.encoder)
    )
    assert (found.stage.parts is None) == (dimension is None)
    if found.stage.parts is not None:
        s = s @ found.stage.parts.model.weight.detach().numpy().T
    cosines = (s * t).sum(axis=1) / np.linalg.norm(s, axis=1) / np.linalg.norm(t, axis=1)
    assert found.parts == {"embed": pytest.approx(np.mean(1 - cosines), rel=1e-4)}


def test_teacher_dual(catch: Catch, tiny_encoder: Encoder) -> None:
    found = catch("teacher_dual", tiny_encoder, temperature=0.2)
    expected = found.contrastive(found.similarities(tiny_encoder), 0.2)
    assert found.parts == {"contrastive": pytest.approx(expected, rel=1e-4)}
    assert found.batch.labelled.all()


def test_teacher_cross(catch: Catch, dual: DualTeacher) -> None:
    found = catch("teacher_cross", dual)
    ranker = found.stage.players[0].model
    rows = [-log_softmax(scores)[0] for scores in found.pair_scores(ranker)]
    assert found.parts == {"listwise": pytest.approx(np.mean(rows), rel=1e-4)}
    body = dual.encoder.transformer.state_dict()
    own = ranker.transformer.bert.state_dict()
    assert all(torch.equal(body[name], own[name]) for name in body if "pooler" not in name)
