"""LEAD: its loss by hand, and on a toy collection who learns, from which layers, and when."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers
from limbeck.models.loading import load_encoder
from limbeck.recipes import RecipeResult, find
from limbeck.recipes.lead import LeadSettings, joint_loss
from limbeck.selection import last_pairs, layer_pairs, spread_pairs
from limbeck.settings import parse_settings
from limbeck.tasks.retrieval import Retrieval
from limbeck.teachers import CrossTeacher, DualTeacher
from limbeck.training.players import weights
from limbeck.types import Scores
from retrieval_here import Trained, a_task, encoded, in_memory, trained_stages

SMALL: dict[str, object] = {
    "max_steps": 6,
    "teacher_max_steps": 2,
    "batch_size": 5,
    "list_length": 3,
    "candidates_per_query": 8,
    "learning_rate": 1e-3,
    "joint_teacher_learning_rate": 1e-3,
    "ranker_batch_size": 4,
    "redraw_steps": 2,
}
# for the tests that all recipes share (recipes_here.py)
FAST: dict[str, object] = {
    "max_steps": 24,
    "teacher_max_steps": 8,
    "pairs": 2,
    "redraw_steps": 3,
    "joint_teacher_learning_rate": 1e-3,
}
OTHERWISE: dict[str, object] = {"pairs": 1}


# --- the loss by hand ----------------------------------------------------------------------------


A1 = [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]
A2 = [[2.0, 0.0, 1.0], [3.0, 1.0, 0.0]]
B1 = [[0.5, 0.0, 0.0], [0.0, 1.0, 0.0]]
B2 = [[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
T = [[3.0, 1.0, -1.0], [2.0, 0.0, 1.0]]
S = [[2.0, 1.0, 0.0], [0.5, 1.5, -0.5]]


def scores(values: list[list[float]]) -> Scores:
    """A positive in column 0."""
    return Scores.of(torch.tensor(values, dtype=torch.float64, requires_grad=True))


def parts_of(**changes: object) -> dict[str, float]:
    layers = [(scores(A1), scores(B1)), (scores(A2), scores(B2))]
    loss = joint_loss(scores(T), scores(S), layers, LeadSettings(**changes))
    found = {name: float(part.detach()) for name, part in loss.parts.items()}
    return found | {"L": float(loss.total.detach())}


def test_the_joint_loss_of_two_queries_and_two_pairs() -> None:
    """CE of the teacher's layers 1.395495 and 0.288726: weights 0.472359 and 0.527641 at 10, of KLs
    0.064938 and 0.249684. KL(t || s) is 0.422760, KL(s || t) 0.577919.
    """
    found = parts_of()
    assert found == pytest.approx(
        {
            "L_tch": 0.275269,
            "L_stu": 0.907606,
            "L_rep": 0.422760 + 0.577919,
            "L_lyr": 0.162418,
            "L": 2.345971,
        },
        abs=2e-6,
    )
    assert parts_of(train_teacher=False) == pytest.approx(
        {"L_stu": 0.907606, "L_rep": 0.422760, "L_lyr": 0.162418, "L": 1.492784}, abs=2e-6
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"weigh": "uniform"}, 0.157311),  # the mean, not the sum 0.314622
        ({"layer_temperature": 1.0}, 0.203780),
        ({"layer_weight": 0.5}, 0.081209),
    ],
)
def test_how_pairs_of_layers_count(changes: dict[str, object], expected: float) -> None:
    assert parts_of(**changes)["L_lyr"] == pytest.approx(expected, abs=2e-6)


def gradients(detach: bool) -> dict[str, torch.Tensor]:
    """Of L_rep + L_lyr alone."""
    given = {name: scores(value) for name, value in (("t", T), ("s", S), ("a", A1), ("b", B1))}
    pairs = [(given["a"], given["b"])]
    parts = joint_loss(given["t"], given["s"], pairs, LeadSettings(detach=detach)).parts
    (parts["L_rep"] + parts["L_lyr"]).backward()
    none = torch.zeros(2, 3, dtype=torch.float64)
    return {
        name: none if each.values.grad is None else each.values.grad for name, each in given.items()
    }


def test_who_is_moved_by_the_divergences() -> None:
    """Published: both sides, the teacher by both KLs. Detached, d KL(p || q) / d log q-side: q - p
    over the number of queries, for the student by the first KL, for the teacher by the second.
    """
    both, detached = gradients(False), gradients(True)
    assert all(gradient.norm() > 1e-3 for gradient in both.values())
    assert detached["a"].norm() == 0
    p, q = (torch.tensor(each, dtype=torch.float64).softmax(dim=1) for each in (T, S))
    torch.testing.assert_close(detached["s"], (q - p) / 2)
    torch.testing.assert_close(detached["t"], (p - q) / 2)
    assert not torch.allclose(both["s"], detached["s"])


def test_a_constant_per_row_changes_nothing_and_equals_have_nothing_to_learn() -> None:
    shift = torch.tensor([[5.0], [-3.0]], dtype=torch.float64)
    plain = [scores(each) for each in (T, S, A1, B1)]
    moved = [replace(each, values=each.values + shift) for each in plain]
    losses = [joint_loss(t, s, [(a, b)], LeadSettings()).parts for t, s, a, b in (plain, moved)]
    for name, part in losses[0].items():
        torch.testing.assert_close(part, losses[1][name])
    same = joint_loss(scores(T), scores(T), [(scores(A1), scores(A1))], LeadSettings()).parts
    assert same["L_rep"].tolist() == same["L_lyr"].tolist() == 0.0


# --- on a toy collection -------------------------------------------------------------------------


Ran = tuple[list[Trained], RecipeResult, Retrieval, Encoder]
Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def lead(tmp_path_factory: pytest.TempPathFactory, _encoder: Encoder) -> Run:
    """Every stage of a run, what it tells, its task and its student."""

    def lead(teacher: object = None, **changes: object) -> Ran:
        recipe = find("lead")
        task = a_task(tmp_path_factory.mktemp("run"), copy.deepcopy(_encoder), in_memory())
        settings = parse_settings(recipe.settings, {**SMALL, **changes})
        student = cut_layers(_encoder, 2)
        with pytest.MonkeyPatch.context() as patch:
            stages, told = trained_stages(patch, recipe.function, task, teacher, student, settings)
        return stages, told, task, student

    return lead


@pytest.fixture(scope="module")
def whole(lead: Run) -> Ran:
    """The run by default, for tests that only look at it."""
    return lead()


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return a.weights_digest() == b.weights_digest()


def test_both_are_warmed_up_alone_and_then_learn_together(whole: Ran) -> None:
    stages, told, task, student = whole
    assert [stage.name for stage in stages] == ["lead-teacher", "lead-student", "lead-joint"]
    assert [stage.stage.updates for stage in stages] == [2, 2, 4]
    alone, warmed, joint = stages
    assert same(joint.before["teacher"], alone.after["student"])
    assert same(joint.before["student"], warmed.after["student"])
    assert same(joint.after["student"], student)
    assert same(joint.after["teacher"], told.teacher.encoder)
    for player in joint.stage.everyone:
        assert not same(joint.before[player.name], joint.after[player.name])
        assert player.steps == 4
        assert player.schedule(4) == 0.0
        assert weights(player.model).keys() == weights(joint.before[player.name]).keys()
    [turn] = joint.stage.turns
    assert turn.trains == {"student", "teacher"}
    assert {p.name: p.makes for p in joint.stage.everyone} == {
        "student": "student",
        "teacher": "teacher",
    }
    assert told.fitted
    labelled = set(task.labelled_queries().tolist())
    for stage in (alone, warmed):
        assert {entry.query for entry in stage.stage.source.lists} == labelled
    assert {entry.query for entry in joint.stage.source.lists} == set(
        task.training_queries().tolist()
    )


def test_the_candidates_are_mined_once(whole: Ran) -> None:
    stages, _, task, _ = whole
    pools = [
        {entry.query: entry.pool.tolist() for entry in stage.stage.source.lists} for stage in stages
    ]
    assert pools[0] == pools[1] == {query: pools[2][query] for query in pools[0]}
    for stage in stages:
        for entry in stage.stage.source.lists:
            assert not np.isin(entry.pool, task.positives_of(entry.query, "train")).any()


def by_hand(task: Retrieval, stage: Trained, layers: list[tuple[int, int]]) -> dict[str, float]:
    """L of a stage's first update, from texts and models cut after a layer."""
    batch, collection = stage.stage.source.batch(0), task.collection
    queries = [collection.queries.texts[at] for at in batch.queries]
    passages = [collection.passages.texts[at] for at in batch.passages]

    def rows(name: str, layer: int) -> list[np.ndarray]:
        model = cut_layers(stage.before[name], layer, "first")
        cosines = encoded(model, queries, "query") @ encoded(model, passages, "passage").T / 0.05
        found = []
        for row, target in enumerate(batch.lists[:, 0].tolist()):
            kept = ~batch.not_negatives[row]
            kept[target] = True
            own = np.flatnonzero(kept)
            found.append(
                log_softmax(np.append(cosines[row, target], cosines[row, own[own != target]]))
            )
        return found

    def kl(p: list[np.ndarray], q: list[np.ndarray]) -> float:
        return float(np.mean([(np.exp(a) * (a - b)).sum() for a, b in zip(p, q, strict=True)]))

    def ce(p: list[np.ndarray]) -> float:
        return float(np.mean([-a[0] for a, known in zip(p, batch.labelled, strict=True) if known]))

    t, s = rows("teacher", 4), rows("student", 2)
    taught = [(rows("teacher", a), rows("student", b)) for a, b in layers]
    weigh = np.exp([-ce(a) / 10 for a, _ in taught])
    weigh = weigh / weigh.sum()
    return {
        "L_tch": pytest.approx(ce(t), rel=1e-3),
        "L_stu": pytest.approx(ce(s), rel=1e-3),
        "L_rep": pytest.approx(kl(t, s) + kl(s, t), rel=1e-3),
        "L_lyr": pytest.approx(
            sum(w * kl(a, b) for w, (a, b) in zip(weigh, taught, strict=True)), rel=1e-3
        ),
    }


def test_the_joint_loss_of_an_update_from_texts(whole: Ran) -> None:
    stages, _, task, _ = whole
    _, parts = stages[-1].first_parts(task)
    assert parts == by_hand(task, stages[-1], layer_pairs(4, 2, 2, task.run.seed, 0))


def pairs_read(stage: Trained, step: int) -> list[tuple[str, str]]:
    """The layers that the loss of a step reads, the teacher's first."""
    read: list[str] = []

    class Noted(dict):
        def __getitem__(self, name: str) -> Scores:
            read.append(name)
            return Scores.of(torch.zeros(1, 2))

        def __contains__(self, name: object) -> bool:
            return True

    class Seen:
        scores = Noted()

        def widest(self, *names: str) -> list[Scores]:
            return [self.scores[name] for name in names]

    seen = Seen()
    seen.step = step
    [turn] = stage.stage.turns
    turn.loss(seen)
    layers = [name for name in read if "layer" in name]
    return [
        (int(a.rpartition("/")[2]), int(b.rpartition("/")[2]))
        for a, b in zip(layers[::2], layers[1::2], strict=True)
    ]


def test_pairs_are_drawn_anew_every_so_many_steps(whole: Ran) -> None:
    stages, _, task, _ = whole
    for step in range(20):
        assert pairs_read(stages[-1], step) == layer_pairs(4, 2, 2, task.run.seed, step // 2)
    assert len({tuple(pairs_read(stages[-1], step)) for step in range(20)}) > 2


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "fixed"), [("last", last_pairs), ("skip", spread_pairs)])
def test_fixed_pairs(lead: Run, preset: str, fixed: Callable[..., object]) -> None:
    stages, _, _, _ = lead(**find("lead").presets[preset], pairs=1)
    assert pairs_read(stages[-1], 0) == pairs_read(stages[-1], 9) == fixed(4, 2, 1)


def test_the_last_layers_alone(lead: Run) -> None:
    stages, _, _, _ = lead(**find("lead").presets["final-scores"])
    [turn] = stages[-1].stage.turns
    assert turn.forward.gives == {
        f"{name}{over}" for name in ("student", "teacher") for over in ("", "/in_batch")
    }
    assert set(stages[-1].losses[0]) == {"L_tch", "L_stu", "L_rep"}


def test_a_frozen_teacher_never_moves(lead: Run) -> None:
    stages, told, _, _ = lead(**find("lead").presets["frozen-teacher"])
    joint = stages[-1]
    assert same(joint.after["teacher"], stages[0].after["student"])
    assert same(told.teacher.encoder, stages[0].after["student"])
    assert told.fitted
    assert set(joint.losses[0]) == {"L_stu", "L_rep", "L_lyr"}
    assert len(told.notes) == 3  # its layers are told of once


def test_a_given_teacher_of_another_width_and_tokenizer_stays_as_it_is(
    lead: Run, tiny_other_folder: Path
) -> None:
    """Width 48 and 3 layers beside 32 and 2, a vocabulary of its own; a copy of it is trained."""
    encoder = load_encoder(str(tiny_other_folder))
    before = encoder.weights_digest()
    stages, told, _, _ = lead(DualTeacher("teacher", encoder))
    assert [stage.name for stage in stages] == ["lead-student", "lead-joint"]
    assert stages[-1].before["teacher"].transformer.config.hidden_size == 48
    assert encoder.weights_digest() == before != told.teacher.encoder.weights_digest()
    assert all(np.isfinite(list(parts.values())).all() for parts in stages[-1].losses)
    assert told.fitted
    assert told.teacher.name == "teacher"
    _, told, _, _ = lead(DualTeacher("teacher", encoder), train_teacher=False)
    assert told.teacher.encoder is encoder
    assert not told.fitted


def test_a_cross_encoder_teaches_over_own_candidates(lead: Run, tiny_ranker: Ranker) -> None:
    """L_rep from texts; the student's scores are cut to each query's own list."""
    stages, told, task, _ = lead(CrossTeacher("teacher", tiny_ranker), pairs=1)
    joint, collection = stages[-1], task.collection
    batch = joint.stage.source.batch(0)
    assert len(batch.queries) == 4
    both = []
    for row, query in enumerate(batch.queries.tolist()):
        columns = [at for at in batch.lists[row].tolist() if at >= 0]
        asked = collection.queries.texts[query]
        texts = [collection.passages.texts[at] for at in batch.passages[columns]]
        t = log_softmax(
            tiny_ranker.model.predict(
                [(asked, text) for text in texts], activation_fn=torch.nn.Identity()
            )
        )
        student = joint.before["student"]
        s = log_softmax(
            encoded(student, texts, "passage") @ encoded(student, [asked], "query")[0] / 0.05
        )
        both.append(((np.exp(t) - np.exp(s)) * (t - s)).sum())
    _, parts = joint.first_parts(task)
    assert parts["L_rep"] == pytest.approx(np.mean(both), rel=1e-3)
    assert not same(joint.after["teacher"], tiny_ranker)
    assert told.teacher.kind == "cross"


def test_notes_say_what_every_layer_ranks(whole: Ran) -> None:
    _, told, _, _ = whole
    heads = [note.partition(":")[0] for note in told.notes]
    assert heads == [
        f"{who}'s layers {when} the joint steps, nDCG@10 on dev, re-ranked (entropy in nats)"
        for when in ("before", "after")
        for who in ("teacher", "student")
    ]
    for note, depth in zip(told.notes, (4, 2, 4, 2), strict=True):
        figures = note.partition("nats): ")[2].split(", ")
        assert [figure.partition(":")[0] for figure in figures] == [
            str(n + 1) for n in range(depth)
        ]
        for figure in figures:
            quality, nats = figure.partition(": ")[2].rstrip(")").split(" (")
            assert 0 <= float(quality) <= 1
            assert 0 <= float(nats) <= np.log(10) + 0.01
