"""The shapes that every method must fit, each as one small stage that really trains."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from limbeck.data.derived import DerivedTexts
from limbeck.errors import StageError
from limbeck.objectives.embedding import squared_error
from limbeck.objectives.listwise import cross_entropy, distillation_kl, kl_divergence
from limbeck.store import read_json
from limbeck.training import Pass, Scorer, Stage, Turn, forward, frozen_copy, frozen_player, train
from limbeck.training.distributed import Group
from limbeck.types import Loss, Scores, Signals
from toys import (
    Bag,
    PairScorer,
    Tokens,
    a_player,
    a_run,
    dual_scores,
    outputs,
    own,
    pair_outputs,
)


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def losses(run, stage: str) -> list[dict[str, float]]:
    from limbeck.store import read_json

    return read_json(run.folder / "stages" / stage / "curves.json")["losses"]


def test_one_student_and_one_teacher(tmp_path: Path) -> None:
    student, teacher = a_player("student", Bag(seed=1)), frozen_player("teacher", Bag(seed=2))
    before, taught_by = copy.deepcopy(student.model), copy.deepcopy(teacher.model)

    def forward(update, batch):
        return Signals(
            {
                "student": Scores.of(dual_scores(update, "student", batch)),
                "teacher/t": Scores.of(dual_scores(update, "teacher", batch)),
            }
        )

    def loss(signals):
        teacher, student = signals.scores["teacher/t"], signals.scores["student"]
        return Loss({"kl": distillation_kl(teacher, student, temperature=1.0)})

    turn = Turn(forward, loss, trains=frozenset({"student"}))
    run = a_run(tmp_path)
    train(Stage("kl", [student, teacher], Tokens(), [turn], updates=40), run)
    curve = [entry["kl"] for entry in losses(run, "kl")]
    assert np.mean(curve[-5:]) < 0.5 * np.mean(curve[:5])
    assert same(teacher.model, taught_by)
    assert not same(student.model, before)
    assert student.steps == 40


def test_two_players_learn_from_one_loss(tmp_path: Path) -> None:
    """Teacher and student together: gradients of one loss reach both, each with its optimiser."""
    student, teacher = a_player("student", Bag(seed=1)), a_player("teacher", PairScorer(seed=2))
    before = copy.deepcopy(student.model), copy.deepcopy(teacher.model)

    def forward(update, batch):
        return Signals(
            {
                "student": Scores.of(own(dual_scores(update, "student", batch))),
                "teacher/t": Scores.of(pair_outputs(update, "teacher", batch)),
            }
        )

    def loss(signals):
        t, s = signals.scores["teacher/t"], signals.scores["student"]
        both = {"teacher_temperature": 1.0, "student_temperature": 1.0}
        return Loss(
            {
                "student": cross_entropy(s),
                "teacher": cross_entropy(t),
                "kl": kl_divergence(t, s, **both),
            }
        )

    turn = Turn(forward, loss, trains=frozenset({"student", "teacher"}))
    run = a_run(tmp_path)
    train(Stage("together", [student, teacher], Tokens(), [turn], updates=30), run)
    assert not same(student.model, before[0])
    assert not same(teacher.model, before[1])
    assert (student.steps, teacher.steps) == (30, 30)
    curve = losses(run, "together")
    assert set(curve[0]) == {"student", "teacher", "kl"}
    assert curve[-1]["student"] < curve[0]["student"]
    assert curve[-1]["teacher"] < curve[0]["teacher"]


def test_two_turns_train_two_players_by_turns(tmp_path: Path) -> None:
    """A game: each turn trains one player while the other only answers, with its own period."""
    retriever, ranker = a_player("retriever", Bag(seed=1)), a_player("ranker", PairScorer(seed=2))

    def rank(update, batch):
        return Signals({"ranker": Scores.of(pair_outputs(update, "ranker", batch))})

    def play(update, batch):
        judged = pair_outputs(update, "ranker", batch)
        assert not judged.requires_grad
        return Signals(
            {
                "ranker": Scores.of(judged),
                "retriever": Scores.of(own(dual_scores(update, "retriever", batch))),
            }
        )

    def learn(signals):
        t, s = signals.scores["ranker"], signals.scores["retriever"]
        return Loss({"regulariser": distillation_kl(t, s, temperature=1.0)})

    turns = [
        Turn(rank, lambda signals: Loss({"rank": cross_entropy(signals.scores["ranker"])}),
             trains=frozenset({"ranker"}), every=3),
        Turn(play, learn, trains=frozenset({"retriever"})),
    ]  # fmt: skip
    run = a_run(tmp_path)
    train(Stage("game", [retriever, ranker], Tokens(), turns, updates=10), run)
    assert (ranker.steps, retriever.steps) == (4, 10)  # updates 0, 3, 6, 9
    assert [set(entry) for entry in losses(run, "game")][:2] == [
        {"rank", "regulariser"},
        {"regulariser"},
    ]


def test_three_teachers_and_a_frozen_former_self(tmp_path: Path) -> None:
    student = a_player("student", Bag(seed=1))
    teachers = [frozen_player(f"teacher/{n}", Bag(seed=10 + n)) for n in range(3)]
    reference = frozen_copy(student, "reference")
    start = copy.deepcopy(student.model)
    first_regulariser = []

    def forward(update, batch):
        everyone = ["student", "reference", *(teacher.name for teacher in teachers)]
        return Signals({n: Scores.of(own(dual_scores(update, n, batch))) for n in everyone})

    def loss(signals):
        s = signals.scores["student"]
        parts = {
            name: distillation_kl(signals.scores[name], s, temperature=4.0) / 3
            for name in signals.scores
            if name.startswith("teacher/")
        }
        stay = distillation_kl(signals.scores["reference"], s, temperature=4.0)
        first_regulariser.append(float(stay.detach()))
        return Loss({**parts, "hard": 0.1 * cross_entropy(s), "stay": stay})

    turn = Turn(forward, loss, trains=frozenset({"student"}))
    train(
        Stage("ladder", [student, reference, *teachers], Tokens(), [turn], updates=5),
        a_run(tmp_path),
    )
    assert first_regulariser[0] == pytest.approx(0.0, abs=1e-6)  # the same weights at the start
    assert first_regulariser[-1] > 1e-4
    assert same(reference.model, start)
    assert not same(student.model, start)


def test_texts_made_during_the_stage(tmp_path: Path) -> None:
    """Each update writes texts, records them with their parent, and learns from them."""
    student = a_player("student", Bag(seed=1))
    made: list[DerivedTexts] = []

    def forward(update, batch):
        written = batch.passages.copy()
        written[:, -1] = 19  # the "generated" word
        texts = [" ".join(map(str, row)) for row in written]
        parents = [" ".join(map(str, row)) for row in batch.passages]
        made.append(
            DerivedTexts.of("toy", {(p, 0): t for p, t in zip(parents, texts, strict=True)})
        )
        queries = outputs(update, "student", batch.queries)
        both = outputs(update, "student", np.concatenate([batch.passages, written]))
        M = len(batch.passages) // len(batch.queries)
        target = torch.arange(len(batch.queries)) * M
        return Signals({"student": Scores.of(queries @ both.T, target=target)})

    turn = Turn(
        forward,
        lambda signals: Loss({"contrast": cross_entropy(signals.scores["student"])}),
        trains=frozenset({"student"}),
    )
    run = a_run(tmp_path)
    train(Stage("written", [student], Tokens(), [turn], updates=30), run)
    curve = [entry["contrast"] for entry in losses(run, "written")]
    assert np.mean(curve[-5:]) < np.mean(curve[:5])
    assert len(made[0].frame) == 12
    assert made[0].frame["derived_id"].n_unique() == len(set(made[0].frame["text"]))


def test_a_generator_learns_through_a_frozen_player_and_its_inputs(tmp_path: Path) -> None:
    """Data-free: what one player makes is another's input, and the gradient comes back."""

    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(5)
                self.layer = nn.Linear(4, 6)

        def forward(self, features):
            return torch.tanh(self.layer(features["noise"]))

    class Classifier(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self.layer = nn.Linear(6, 3)

        def forward(self, features):
            return self.layer(features["made"])

    def stage(run, generator):
        teacher = frozen_player("teacher", Classifier(1))

        def forward(update, batch):
            noise = torch.tensor(batch.queries[:, :4], dtype=torch.float32) / 20
            lengths = np.ones(len(noise), dtype=np.int64)
            made = update.run("generator", lengths, lambda chosen: {"noise": noise[chosen]})
            values = update.run("teacher", lengths, lambda chosen: {"made": made[chosen]})
            return Signals({"teacher/t": Scores.of(values, target=torch.zeros(4).long())})

        def loss(signals):
            return Loss({"confident": cross_entropy(signals.scores["teacher/t"])})

        turn = Turn(forward, loss, trains=frozenset({"generator"}))
        taught_by = copy.deepcopy(teacher.model)
        train(Stage("generate", [generator, teacher], Tokens(), [turn], updates=30), run)
        assert same(teacher.model, taught_by)

    generator = a_player("generator", Generator())
    run = a_run(tmp_path / "plain")
    stage(run, generator)
    curve = [entry["confident"] for entry in losses(run, "generate")]
    assert curve[-1] < 0.8 * curve[0]
    again = a_player("generator", Generator())  # every slice computed a second time: same weights
    stage(a_run(tmp_path / "cached", activation_bytes=0, train_tokens=2), again)
    for a, b in zip(generator.trainable, again.trainable, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_layer_scores(tmp_path: Path) -> None:
    """Every layer of both models is a scorer; depths and widths may differ."""
    student, teacher = (
        a_player("student", Bag(8, 2, seed=1)),
        frozen_player("t", Bag(12, 4, seed=2)),
    )

    def layers(update, player, batch):
        call = lambda model, features: model.states(features)  # noqa: E731
        queries = outputs(update, player, batch.queries, call)  # [B, N, D]
        passages = outputs(update, player, batch.passages, call)
        return torch.einsum("bnd,pnd->nbp", queries, passages)

    def forward(update, batch):
        s, t = layers(update, "student", batch), layers(update, "t", batch)
        named = {f"student/layer/{n}": Scores.of(values) for n, values in enumerate(s)}
        return Signals(named | {f"t/layer/{n}": Scores.of(values) for n, values in enumerate(t)})

    def loss(signals):
        pairs = [(1, 0), (3, 1)]
        return Loss(
            {
                f"layer/{a}-{b}": distillation_kl(
                    signals.scores[f"t/layer/{a}"],
                    signals.scores[f"student/layer/{b}"],
                    temperature=1.0,
                )
                for a, b in pairs
            }
        )

    run = a_run(tmp_path)
    turn = Turn(forward, loss, trains=frozenset({"student"}))
    train(Stage("layers", [student, teacher], Tokens(), [turn], updates=40), run)
    curve = losses(run, "layers")
    for part in ("layer/1-0", "layer/3-1"):
        assert np.mean([e[part] for e in curve[-5:]]) < np.mean([e[part] for e in curve[:5]])


def test_class_logits_without_any_passage(tmp_path: Path) -> None:
    """A plain classifier: rows are examples, alternatives are classes, labels the target."""

    class Examples:
        digest = "fixed"

        def batch(self, update: int):
            random = np.random.default_rng(update)
            x = random.normal(size=(16, 6)).astype(np.float32)
            return x, (x[:, 0] > 0).astype(np.int64)

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.layer = nn.Linear(6, 2)

        def forward(self, features):
            return self.layer(features["x"])

    def forward(update, batch):
        x, y = batch
        values = update.run("student", np.ones(len(x), int), lambda i: {"x": torch.tensor(x[i])})
        labels = torch.tensor(y)
        return Signals({"student": Scores.of(values, target=labels)})

    turn = Turn(
        forward,
        lambda signals: Loss({"hard": cross_entropy(signals.scores["student"])}),
        trains=frozenset({"student"}),
    )
    student, run = a_player("student", Classifier()), a_run(tmp_path)
    train(Stage("classes", [student], Examples(), [turn], updates=60), run)
    curve = [entry["hard"] for entry in losses(run, "classes")]
    assert curve[-1] < 0.5 * curve[0]


def test_parts_are_trained_beside_the_players(tmp_path: Path) -> None:
    """A learned projection from the student's width to the teacher's."""
    student = a_player("student", Bag(8, seed=1))
    teacher = frozen_player("teacher", Bag(12, seed=2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        projection = a_player("projection", nn.Linear(8, 12, bias=False))
    before = projection.model.weight.detach().clone()

    def forward(update, batch):
        return Signals(
            embeddings={
                "student": update.model("projection")(outputs(update, "student", batch.passages)),
                "teacher/t": outputs(update, "teacher", batch.passages),
            }
        )

    def loss(signals):
        e = signals.embeddings
        return Loss({"embed": squared_error(e["teacher/t"], e["student"])})

    turn = Turn(forward, loss, trains=frozenset({"student", "projection"}))
    run = a_run(tmp_path)
    stage = Stage("embed", [student, teacher], Tokens(), [turn], updates=40, parts=projection)
    train(stage, run)
    assert not torch.equal(before, projection.model.weight)
    curve = [entry["embed"] for entry in losses(run, "embed")]
    assert np.mean(curve[-5:]) < 0.5 * np.mean(curve[:5])


def kl_stage(name: str, student, updates: int, source=None) -> Stage:
    teacher = frozen_player("teacher", Bag(seed=2))

    def forward(update, batch):
        return Signals(
            {n: Scores.of(dual_scores(update, n, batch)) for n in ("student", "teacher")}
        )

    def loss(signals):
        return Loss(
            {
                "kl": distillation_kl(
                    signals.scores["teacher"], signals.scores["student"], temperature=1.0
                )
            }
        )

    turn = Turn(forward, loss, trains=frozenset({"student"}))
    return Stage(name, [student, teacher], source or Tokens(), [turn], updates=updates)


def test_optimiser_and_schedule_state_go_from_one_stage_into_the_next(tmp_path: Path) -> None:
    """Two stages of 10 updates equal one of 20, when the second continues on the same examples."""

    class Later(Tokens):
        def batch(self, update: int):
            return super().batch(update + 10)

    whole, halves = a_player("student", Bag(seed=1)), a_player("student", Bag(seed=1))
    for player in (whole, halves):
        player.schedule = lambda step: 1.0 - step / 20
    train(kl_stage("whole", whole, 20), a_run(tmp_path / "whole"))
    run = a_run(tmp_path / "halves")
    train(kl_stage("first", halves, 10), run)
    train(kl_stage("second", halves, 10, Later()), run)
    assert halves.steps == 20
    assert same(whole.model, halves.model)
    # ... and a rerun that reads both finished stages back has the same weights and state
    again = a_player("student", Bag(seed=1))
    train(kl_stage("first", again, 10), run)
    train(kl_stage("second", again, 10, Later()), run)
    assert same(again.model, whole.model)
    state, expected = again.state(), whole.state()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


def test_a_stage_is_refused_when_it_is_built() -> None:
    student, teacher = a_player("student", Bag()), frozen_player("teacher", Bag())

    def nothing(*_):
        raise AssertionError("never called")

    with pytest.raises(StageError, match="trains \\['teacher'\\]"):
        Stage(
            "s", [student, teacher], Tokens(), [Turn(nothing, nothing, frozenset({"teacher"}))], 1
        )
    with pytest.raises(StageError, match="two players of one name"):
        Stage("s", [student, student], Tokens(), [], 1)
    one, other = (Scorer("t", frozenset({"t", extra}), nothing) for extra in ("t/a", "t/b"))
    with pytest.raises(StageError, match=r"Two scorers of one forward give the scores \['t'\]"):
        forward(one, other)


def test_a_signal_that_nobody_gives_is_refused_in_the_first_update(tmp_path: Path) -> None:
    student = a_player("student", Bag())

    def scores(update, batch):
        return {"student": Scores.of(dual_scores(update, "student", batch))}

    turn = Turn(
        forward(Scorer("student", frozenset({"student"}), scores)),
        lambda signals: Loss({"hard": signals.scores["teacher"].values.sum()}),
        trains=frozenset({"student"}),
    )
    with pytest.raises(StageError, match=r"reads the signal 'teacher'.* gives only \['student'\]"):
        train(Stage("s", [student], Tokens(), [turn], 1), a_run(tmp_path))
    assert student.steps == 0


def test_the_loss_knows_the_update_and_may_log_numbers_beside_itself(tmp_path: Path) -> None:
    student, steps = a_player("student", Bag()), []

    def scores(update, batch):
        return {"student": Scores.of(dual_scores(update, "student", batch))}

    def loss(signals):
        steps.append((signals.step, signals.progress))
        hard = cross_entropy(signals.scores["student"])
        return Loss({"hard": hard}, notes={"doubled": 2 * hard})

    turn = Turn(
        forward(Scorer("student", frozenset({"student"}), scores)),
        loss,
        trains=frozenset({"student"}),
    )
    train(Stage("noted", [student], Tokens(), [turn], 4), a_run(tmp_path))
    assert steps == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]
    curves = read_json(tmp_path / "stages" / "noted" / "curves.json")
    assert [entry["update"] for entry in curves["notes"]] == [0, 1, 2, 3]
    assert [entry["doubled"] for entry in curves["notes"]] == [
        pytest.approx(2 * entry["hard"]) for entry in curves["losses"]
    ]
    assert all(set(entry) == {"hard"} for entry in curves["losses"])


def test_a_loss_that_is_not_finite_stops_the_stage(tmp_path: Path) -> None:
    student = a_player("student", Bag())

    def forward(update, batch):
        return Signals({"student": Scores.of(dual_scores(update, "student", batch) * torch.nan)})

    turn = Turn(
        forward,
        lambda signals: Loss({"hard": signals.scores["student"].values.sum()}),
        trains=frozenset({"student"}),
    )
    with pytest.raises(StageError, match=r"step 0: the loss is not finite \(\{'hard': nan\}\)"):
        train(Stage("nan", [student], Tokens(), [turn], 3), a_run(tmp_path))


class ByBatch(nn.Module):
    """A linear map of word counts, normalised by its batch."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(20, 4), nn.BatchNorm1d(4))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.layers(nn.functional.one_hot(features["ids"], 20).float().mean(dim=1))


def test_a_player_with_batch_statistics_reads_its_items_at_once(tmp_path: Path) -> None:
    """However small micro-batches and memory are, its outputs are those of one whole batch."""

    def trained(name: str, **limits: int) -> nn.Module:
        player = a_player("student", ByBatch())

        def forward(update, batch):
            values = outputs(update, "student", batch.passages)
            return Signals({"student": Scores.of(values)})

        def loss(signals):
            return Loss({"hard": cross_entropy(signals.scores["student"])})

        turn = Turn(forward, loss, trains=frozenset({"student"}))
        run = replace(a_run(tmp_path / name), **limits)
        train(Stage("train", [player], Tokens(), [turn], updates=3), run)
        return player.model

    whole = trained("whole")
    assert not torch.equal(whole.layers[1].running_mean, torch.zeros(4))
    assert same(whole, trained("small", train_tokens=5, activation_bytes=1))


def test_several_processes_cannot_share_out_a_batch_that_is_normalised(tmp_path: Path) -> None:
    player = a_player("student", ByBatch())
    run = replace(a_run(tmp_path), group=Group(0, 2))
    update = Pass(
        run,
        {"student": player},
        frozenset({"student"}),
        stage="train",
        update=0,
        progress=0.0,
        bytes_per_token={},
    )
    with pytest.raises(StageError, match=r"normalises by its batch, which 2 processes"):
        outputs(update, "student", Tokens().batch(0).passages)
