"""AR2 on a toy collection: whose turn it is, for how many steps, on whose candidates.

What a stage began and ended with is read off the stage itself, and off the files it left.
"""

import copy
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from limbeck.errors import ConfigError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers
from limbeck.objectives.listwise import kl_divergence
from limbeck.recipes import RecipeResult, find
from limbeck.settings import parse_settings
from limbeck.store import digest_tensors, read_json, read_tensors
from limbeck.tasks.retrieval import Retrieval
from limbeck.teachers import CrossTeacher, DualTeacher
from retrieval_here import Trained, a_task, encoded, in_memory, trained_stages

SMALL: dict[str, object] = {
    "max_steps": 20,
    "teacher_max_steps": 4,
    "batch_size": 5,
    "list_length": 4,
    "candidates_per_query": 8,
    "learning_rate": 1e-3,
    "game_learning_rate": 1e-3,
    "ranker_learning_rate": 1e-3,
    "ranker_batch_size": 4,
    "rounds": 3,
    "adversarial_weight": 0.5,
}
# for the tests that all recipes share (recipes_here.py)
FAST: dict[str, object] = {"rounds": 2, "ranker_share": 0.4}

PHASES = [f"ar2-{at}-{who}" for at in (1, 2, 3) for who in ("ranker", "retriever")]

Ran = tuple[list[Trained], RecipeResult, Retrieval, Encoder]
Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def ar2(tmp_path_factory: pytest.TempPathFactory, _encoder: Encoder) -> Run:
    """Every stage of a run, what it tells, its task and its student."""

    def ar2(teacher: object = None, **changes: object) -> Ran:
        recipe = find("ar2")
        task = a_task(tmp_path_factory.mktemp("run"), copy.deepcopy(_encoder), in_memory())
        settings = parse_settings(recipe.settings, {**SMALL, **changes})
        student = cut_layers(_encoder, 2)
        with pytest.MonkeyPatch.context() as patch:
            stages, told = trained_stages(patch, recipe.function, task, teacher, student, settings)
        return stages, told, task, student

    return ar2


@pytest.fixture(scope="module")
def whole(ar2: Run) -> Ran:
    """The run by default, for tests that only look at it."""
    return ar2()


def named(stages: list[Trained], name: str) -> Trained:
    return next(stage for stage in stages if stage.name == f"ar2-{name}")


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return a.weights_digest() == b.weights_digest()


# --- the game ------------------------------------------------------------------------------------


def test_phases_come_in_order_with_exact_counts(whole: Ran) -> None:
    """20 updates: 6 before the game, then 5, 5 and 4; the ranker makes a third as many of each."""
    stages, told, task, _ = whole
    names = ["ar2-warmup-retriever", "ar2-warmup-ranker-body", "ar2-warmup-ranker", *PHASES]
    assert [stage.name for stage in stages] == names
    counts = [stage.stage.updates for stage in stages]
    assert counts == [6, 4, 4, 2, 5, 2, 5, 1, 4]
    for stage, count in zip(stages, counts, strict=True):  # as it was written
        done = read_json(task.run.folder / "stages" / stage.stage.name / "done.json")["metrics"]
        assert done["updates"] == count
    assert told.notes[0].startswith("warm-up: ")
    assert [note.partition(";")[0] for note in told.notes[1:]] == [
        "round 1: 2 ranker and 5 retriever steps",
        "round 2: 2 ranker and 5 retriever steps",
        "round 3: 1 ranker and 4 retriever steps",
    ]


def test_the_codes_counter_gives_the_ranker_one_step_more(ar2: Run) -> None:
    stages, _, _, _ = ar2(counter="code")
    assert [stage.stage.updates for stage in stages][3:] == [3, 4, 3, 4, 2, 3]


def test_one_plays_while_the_other_stays_to_the_bit(whole: Ran) -> None:
    stages, told, _, _ = whole
    for at in (1, 2, 3):
        rank, retrieve = named(stages, f"{at}-ranker"), named(stages, f"{at}-retriever")
        assert set(rank.before) == {"ranker"}
        assert set(retrieve.before) == {"student", "ranker"}
        assert not same(rank.before["ranker"], rank.after["ranker"])
        assert not same(retrieve.before["student"], retrieve.after["student"])
        assert same(retrieve.before["ranker"], rank.after["ranker"])
        assert same(retrieve.after["ranker"], retrieve.before["ranker"])
        if at < 3:
            later = named(stages, f"{at + 1}-ranker"), named(stages, f"{at + 1}-retriever")
            assert same(later[0].before["ranker"], retrieve.after["ranker"])
            assert same(later[1].before["student"], retrieve.after["student"])
    warm = named(stages, "warmup-retriever"), named(stages, "warmup-ranker")
    assert same(named(stages, "1-retriever").before["student"], warm[0].after["student"])
    assert same(named(stages, "1-ranker").before["ranker"], warm[1].after["student"])
    assert same(told.teacher.ranker, named(stages, "3-ranker").after["ranker"])


def test_optimisers_and_schedules_run_on_over_the_rounds(whole: Ran) -> None:
    """Steps add up, the state each stage began with is what the former one left, and all ends at 0.

    Also in the files: the digest of a stage's start is that of the former stage's state.
    """
    stages, _, task, _ = whole
    for who, name, total in (("ranker", "ranker", 5), ("retriever", "student", 14)):
        turns = [named(stages, f"{at}-{who}") for at in (1, 2, 3)]
        player = turns[0].stage.players[0]
        assert all(turn.stage.players[0] is player for turn in turns)
        assert player.steps == total
        assert player.schedule(total) == 0.0
        assert player.schedule(total - 1) > 0.0
        steps = [int(turn.states[name]["steps"]) for turn in turns]
        assert steps == np.cumsum([turn.stage.updates for turn in turns]).tolist()
        for former, later in pairwise(turns):
            folder = task.run.folder / "stages"
            left = read_tensors(folder / former.stage.name / "state.safetensors")
            mine = {
                key.removeprefix(f"{name}/"): value
                for key, value in left.items()
                if key.startswith(f"{name}/")
            }
            assert any(key.startswith("optimizer/") for key in mine)
            begun = read_json(folder / later.stage.name / "inputs.json")["inputs"]["players"]
            assert begun[name] == digest_tensors(mine)


def test_every_round_is_on_what_the_retriever_found_before_it(whole: Ran) -> None:
    stages, _, task, _ = whole
    answers = {}
    before = {1: named(stages, "warmup-retriever").after["student"]}
    before |= {at + 1: named(stages, f"{at}-retriever").after["student"] for at in (1, 2)}
    for at, miner in before.items():
        answers[at] = encoded(miner, task.collection.passages.texts, "passage")
        for who in ("ranker", "retriever"):
            stage = named(stages, f"{at}-{who}")
            for entry in stage.stage.source.lists:
                asked = encoded(miner, [task.collection.queries.texts[entry.query]], "query")[0]
                found = np.argsort(-(answers[at] @ asked), kind="stable")[:8].tolist()
                assert entry.pool.tolist() == [p for p in found if p not in entry.positives]
            for update in range(stage.stage.updates):
                batch = stage.stage.source.batch(update)
                for query, row in zip(batch.queries.tolist(), batch.lists, strict=True):
                    shown = batch.passages[row[row >= 0]][1:]
                    assert not np.isin(shown, task.positives_of(query, "train")).any()
    warm = named(stages, "warmup-ranker").stage.source.lists
    first = named(stages, "1-ranker").stage.source.lists
    assert [entry.pool.tolist() for entry in warm] == [entry.pool.tolist() for entry in first]


def test_the_ranker_learns_on_judged_queries_and_the_retriever_on_all(whole: Ran) -> None:
    stages, _, task, _ = whole
    labelled = set(task.labelled_queries().tolist())
    for at in (1, 2, 3):
        rank, retrieve = (named(stages, f"{at}-{who}") for who in ("ranker", "retriever"))
        assert {entry.query for entry in rank.stage.source.lists} == labelled
        assert {entry.query for entry in retrieve.stage.source.lists} == set(
            task.training_queries().tolist()
        )
    starts = [named(stages, f"{at}-retriever").stage.source.start for at in (1, 2, 3)]
    assert starts == [0, 5, 10]


# --- the losses ----------------------------------------------------------------------------------


def by_hand(
    task: Retrieval, stage: Trained, weight: float, *, with_positive: bool = True
) -> dict[str, float]:
    """L_adv and L_reg of a stage's first update, from texts."""
    batch, collection = stage.stage.source.batch(0), task.collection
    student, ranker = stage.before["student"], stage.before["ranker"]
    adversarial, regulariser = [], []
    for row, query in enumerate(batch.queries.tolist()):
        columns = [at for at in batch.lists[row].tolist() if at >= 0]
        texts = [collection.passages.texts[passage] for passage in batch.passages[columns]]
        asked = collection.queries.texts[query]
        z = encoded(student, texts, "passage") @ encoded(student, [asked], "query")[0] / 0.05
        pairs = [(asked, text) for text in texts]
        s = ranker.model.predict(pairs, activation_fn=torch.nn.Identity())
        logs = log_softmax(z)
        regulariser.append(-(np.exp(log_softmax(s)) * logs).sum())
        if batch.labelled[row]:
            rewards = -np.log1p(np.exp(s - s[0]))
            adversarial.append((rewards * logs)[0 if with_positive else 1 :].sum())
    assert 0 < len(adversarial) < len(regulariser)
    return {
        "L_adv": pytest.approx(weight * np.mean(adversarial), rel=1e-3),
        "L_reg": pytest.approx((1 - weight) * np.mean(regulariser), rel=1e-3),
        "judged": len(adversarial),
    }


@pytest.mark.parametrize("with_positive", [True, False])
def test_the_retrievers_losses(ar2: Run, whole: Ran, with_positive: bool) -> None:
    stages, _, task, _ = whole if with_positive else ar2(with_positive=False, rounds=1)
    stage = named(stages, "1-retriever")
    expected = by_hand(task, stage, 0.5, with_positive=with_positive)
    expected.pop("judged")
    _, parts = stage.first_parts(task)
    assert parts == expected


def test_the_sum_of_the_authors_code(ar2: Run) -> None:
    stages, _, task, _ = ar2(reduction="sum", rounds=1)
    stage = named(stages, "1-retriever")
    expected = by_hand(task, stage, 0.5)
    _, parts = stage.first_parts(task)
    assert parts["L_adv"] / expected["judged"] == expected["L_adv"]


def test_the_rankers_loss(whole: Ran) -> None:
    stages, _, task, _ = whole
    stage = named(stages, "1-ranker")
    batch, rows = stage.stage.source.batch(0), []
    for row, query in enumerate(batch.queries.tolist()):
        columns = [at for at in batch.lists[row].tolist() if at >= 0]
        texts = [task.collection.passages.texts[passage] for passage in batch.passages[columns]]
        pairs = [(task.collection.queries.texts[query], text) for text in texts]
        s = stage.before["ranker"].model.predict(pairs, activation_fn=torch.nn.Identity())
        rows.append(-log_softmax(s)[0])
    _, parts = stage.first_parts(task)
    assert parts == {"L_D": pytest.approx(np.mean(rows), rel=1e-4)}


@pytest.mark.slow
def test_lambda_nought_is_plain_distillation(ar2: Run) -> None:
    """The one part that is left is KL(pi || p) and pi's entropy, over all queries alike."""
    stages, _, task, _ = ar2(**find("ar2").presets["lambda-zero"], rounds=1)
    stage = named(stages, "1-retriever")
    signals, parts = stage.first_parts(task)
    assert parts == {"L_reg": by_hand(task, stage, 0.0)["L_reg"]}
    s, z = signals.scores["ranker"], signals.scores["student"]
    both = {"teacher_temperature": 1.0, "student_temperature": 0.05}
    pi = s.values.masked_fill(~s.mask, -torch.inf).softmax(dim=1)
    entropy = -torch.xlogy(pi, pi).sum(dim=1).mean()
    plain = kl_divergence(s, z, **both) + entropy
    assert parts["L_reg"] == pytest.approx(float(plain), rel=1e-5)
    alone, _, _, _ = ar2(adversarial_weight=1.0, rounds=1)
    assert set(named(alone, "1-retriever").losses[0]) == {"L_adv"}


# --- rankers and rounds --------------------------------------------------------------------------


def test_a_frozen_ranker_never_moves(ar2: Run) -> None:
    stages, told, _, _ = ar2(**find("ar2").presets["frozen-ranker"])
    names = [stage.name for stage in stages]
    assert names[3:] == [f"ar2-{at}-retriever" for at in (1, 2, 3)]
    warm = named(stages, "warmup-ranker").after["student"]
    assert same(told.teacher.ranker, warm)
    assert told.fitted


def test_a_given_ranker_plays_without_a_warm_up_and_stays_as_it_is(
    ar2: Run, tiny_ranker: Ranker
) -> None:
    before = tiny_ranker.weights_digest()
    stages, told, _, _ = ar2(CrossTeacher("teacher", tiny_ranker), rounds=1)
    assert [stage.name for stage in stages] == [
        *["ar2-warmup-retriever", "ar2-1-ranker", "ar2-1-retriever"]
    ]
    assert same(named(stages, "1-ranker").before["ranker"], tiny_ranker)
    assert tiny_ranker.weights_digest() == before != told.teacher.ranker.weights_digest()
    assert told.fitted
    _, told, _, _ = ar2(CrossTeacher("teacher", tiny_ranker), rounds=1, ranker_share=0.0)
    assert told.teacher.ranker.weights_digest() == before
    assert not told.fitted


def test_another_teacher_is_refused(ar2: Run, tiny_encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="name a CrossEncoder with --teacher"):
        ar2(DualTeacher("teacher", tiny_encoder))


def test_the_best_of_warm_up_and_rounds_is_kept_or_the_last(ar2: Run, whole: Ran) -> None:
    stages, _, task, student = whole
    turns = [
        named(stages, at) for at in ("warmup-retriever", *(f"{n}-retriever" for n in (1, 2, 3)))
    ]
    figures = []
    for turn in turns:
        done = read_json(task.run.folder / "stages" / turn.stage.name / "done.json")["metrics"]
        values = [value for _, value in done["measured"]]
        figures.append(max(values) if turn is turns[0] else values[-1])
    best = int(np.argmax(figures))  # of equal ones the first
    assert same(student, turns[best].after["student"])
    last, _, _, kept = ar2(keep="last")
    assert same(kept, named(last, "3-retriever").after["student"])
    game = named(last, "1-retriever").before["student"]  # begins with the warm-up's last weights
    assert same(game, named(last, "warmup-retriever").after["student"])


def test_the_ranker_is_saved_as_a_plain_cross_encoder(whole: Ran, tmp_path) -> None:
    from sentence_transformers import CrossEncoder

    _, told, _, _ = whole
    told.teacher.save(tmp_path / "teacher", card="# card\n", stage="teacher")
    plain = CrossEncoder(str(tmp_path / "teacher"), device="cpu")
    pairs = [("old cat", "list files"), ("red sun", "the sea")]
    identity = torch.nn.Identity()
    ours = told.teacher.ranker.model.predict(pairs, activation_fn=identity)
    np.testing.assert_allclose(plain.predict(pairs, activation_fn=identity), ours, atol=1e-5)
