"""PROD on a toy collection: which stages, from which start, on whose candidates, by which losses.

What a stage began and ended with is read off the stage itself, and off the files it left.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from limbeck.errors import ConfigError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers, layer_count
from limbeck.recipes import RecipeResult, find
from limbeck.settings import parse_settings
from limbeck.store import digest_tensors, read_json, read_tensors
from limbeck.tasks.retrieval import Retrieval, ladder
from limbeck.tasks.retrieval.fitting import train_taught
from limbeck.teachers import CrossTeacher, DualTeacher
from retrieval_here import Trained, a_task, encoded, in_memory, trained_stages

SMALL: dict[str, object] = {
    "max_steps": 22,
    "teacher_max_steps": 4,
    "batch_size": 5,
    "list_length": 3,
    "candidates_per_query": 8,
    "learning_rate": 1e-3,
    "warmup_ratio": 0.0,
    "ranker_batch_size": 4,
    "student_rank_to": 8,  # of the toy's queries few are confusing by the paper's ranks
    "teacher_rank_to": 8,
    "strictly": False,
}
# for the tests that all recipes share (recipes_here.py)
FAST: dict[str, object] = {
    "max_steps": 16,
    "teacher_max_steps": 4,
    "student_rank_to": 8,
    "teacher_rank_to": 8,
    "strictly": False,
}
ALL_COUNT: dict[str, object] = {
    "max_steps": 32,
    "data_share": 0.25,
    "data_passes": 1.0,
    "ladder": ("dual/2", "cross"),
}
KILLS = ["score:3"]
OTHERWISE: dict[str, object] = {"data_rounds": 0, "student_rank_to": 1, "teacher_rank_to": 1}

WARMUPS = ["prod-a-teacher", "prod-a-student", "prod-b-teacher", "prod-b-student"]
WHOLE = [
    *WARMUPS,
    *["prod-step-1", "prod-teacher-2", "prod-step-2", "prod-teacher-3", "prod-step-3"],
    "prod-data-1",
]

Ran = tuple[list[Trained], RecipeResult, Retrieval]
Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def prod(tmp_path_factory: pytest.TempPathFactory, _encoder: Encoder) -> Run:
    """Every stage of a run, what it tells, and its task; every rung counts as an improvement."""

    def prod(
        teacher: object = None,
        *,
        climbs: bool = True,
        splits: tuple[str, ...] = ("dev",),
        patches: Mapping[str, object] | None = None,
        **changes: object,
    ) -> Ran:
        recipe, collection = find("prod"), in_memory()
        if "dev" not in splits:
            collection.qrels.pop("dev")
        task = a_task(tmp_path_factory.mktemp("run"), copy.deepcopy(_encoder), collection)
        settings = parse_settings(recipe.settings, {**SMALL, **changes})
        student = cut_layers(_encoder, 2)
        with pytest.MonkeyPatch.context() as patch:
            if climbs:
                patch.setattr("limbeck.recipes.prod.judge", always_above)
            for name, value in (patches or {}).items():
                patch.setattr(name, value)
            stages, told = trained_stages(patch, recipe.function, task, teacher, student, settings)
        return stages, told, task

    return prod


@pytest.fixture(scope="module")
def whole(prod: Run) -> Ran:
    """The run by default, for tests that only look at it."""
    return prod()


def always_above(*given: object) -> ladder.Verdict:
    return replace(ladder.judge(*given), passed=True)  # type: ignore[arg-type]


def of_student(stages: list[Trained]) -> list[Trained]:
    return [stage for stage in stages if "teacher" not in stage.name]


def named(stages: list[Trained], name: str) -> Trained:
    return next(stage for stage in stages if stage.name == f"prod-{name}")


def same(a: Encoder, b: Encoder) -> bool:
    return a.weights_digest() == b.weights_digest()


def found_by(task: Retrieval, encoder: Encoder, query: int, depth: int = 8) -> list[int]:
    """The best passages of a query by plain sentence-transformers."""
    queries = encoded(encoder, [task.collection.queries.texts[query]], "query")
    answers = encoded(encoder, task.collection.passages.texts, "passage")
    return np.argsort(-(answers @ queries[0]), kind="stable")[:depth].tolist()


# --- the steps -----------------------------------------------------------------------------------


def test_stages_come_in_the_papers_order_with_exact_counts(whole: Ran) -> None:
    """22 updates: 0.15 and 0.15 for the warm-ups, 0.2 for each of three steps, 0.1 for the data."""
    stages, told, task = whole
    assert [stage.name for stage in stages] == WHOLE
    counts = {stage.name: stage.stage.updates for stage in stages}
    shared = [counts[f"prod-{n}"] for n in ("a-student", "b-student", "step-1", "step-2", "step-3")]
    assert shared == [3, 3, 5, 5, 4]
    assert 1 <= counts["prod-data-1"] <= 2
    assert (counts["prod-a-teacher"], counts["prod-b-teacher"]) == (2, 2)
    assert (counts["prod-teacher-2"], counts["prod-teacher-3"]) == (4, 4)
    for stage in stages:  # as it was written
        done = read_json(task.run.folder / "stages" / stage.stage.name / "done.json")["metrics"]
        assert done["updates"] == stage.stage.updates
        student = stage.stage.players[0]
        assert student.steps == stage.stage.updates
        assert student.schedule(stage.stage.updates) == 0.0
    assert told.teacher.kind == "ensemble"
    assert told.fitted
    assert [note.partition(":")[0] for note in told.notes] == [
        *["rung 1, dual/2", "rung 2, dual", "rung 3, ensemble", "data step 1"]
    ]


def test_every_stage_begins_where_the_students_last_one_ended(whole: Ran) -> None:
    """Also in the files: the digest of what a stage began with is that of what the former left."""
    stages, _, task = whole
    assert layer_count(named(stages, "a-teacher").before["student"]) == 2  # dual/2 of 4 layers
    students = of_student(stages)
    for former, later in pairwise(students):
        assert same(former.after["student"], later.before["student"])
        assert not same(later.before["student"], later.after["student"])
        left = read_tensors(task.run.folder / "stages" / former.stage.name / "state.safetensors")
        start = {
            name.removeprefix("student/"): value
            for name, value in left.items()
            if name.startswith("student/model/")
        } | {"steps": torch.tensor(0)}
        begun = read_json(task.run.folder / "stages" / later.stage.name / "inputs.json")["inputs"]
        assert begun["players"]["student"] == digest_tensors(start)
        if "reference" in begun["players"]:
            assert begun["players"]["reference"] == digest_tensors(start)
    a, b = named(stages, "a-teacher"), named(stages, "b-teacher")
    assert same(a.after["student"], b.before["student"])


def test_the_former_student_stands_by_from_the_second_step_on_and_never_moves(whole: Ran) -> None:
    stages, _, task = whole
    for stage in of_student(stages):
        steps = stage.name.removeprefix("prod-")
        has = steps in ("step-2", "step-3", "data-1")
        assert ("reference" in stage.before) == has, steps
        if has:
            assert same(stage.before["reference"], stage.before["student"])
            assert same(stage.after["reference"], stage.before["reference"])
            signals, parts = stage.first_parts(task)
            assert parts["reg"] == pytest.approx(0.0, abs=1e-6)
            over = "/in_batch" if steps == "step-2" else ""  # a dual encoder teaches there
            own, former = signals.scores["student" + over], signals.scores["reference" + over]
            assert torch.equal(own.values, former.values)


def test_the_regulariser_has_no_gradient_at_the_start(prod: Run, whole: Ran) -> None:
    """Step 0 by the loss without the regulariser moves the student as step 0 with it."""
    with_it, _, _ = whole
    without, _, _ = prod(reg_weight=0.0)
    assert "reference" not in named(without, "step-2").before
    one, two = named(with_it, "step-2"), named(without, "step-2")
    assert same(one.before["student"], two.before["student"])
    first, second = (stage.losses for stage in (one, two))
    assert first[0]["hard"] == pytest.approx(second[0]["hard"], rel=1e-5)
    assert first[1]["hard"] == pytest.approx(second[1]["hard"], rel=1e-4)  # after one step
    assert first[1]["kd"] == pytest.approx(second[1]["kd"], rel=1e-4)
    assert first[-1]["reg"] > 1e-5  # it holds from the second step on
    assert first[-1]["kd"] != pytest.approx(second[-1]["kd"], rel=1e-4)


def test_teachers_never_move_while_they_teach(whole: Ran) -> None:
    stages, told, _ = whole
    dual = named(stages, "teacher-2").after["student"]
    assert same(told.teacher.members[0].encoder, dual)
    assert same(told.teacher.members[1].ranker, named(stages, "teacher-3").after["student"])


@pytest.mark.slow
def test_candidates_come_from_the_stated_miner(whole: Ran) -> None:
    """By words, by teacher 1 halfway, by teacher 1, then by the student of the step before."""
    stages, _, task = whole
    halfway = named(stages, "a-teacher").after["student"]
    one = named(stages, "b-teacher").after["student"]
    miners = {
        **dict.fromkeys(["b-teacher", "b-student", "step-1"], halfway),
        **dict.fromkeys(["teacher-2", "step-2"], one),
        **dict.fromkeys(["teacher-3", "step-3"], named(stages, "step-2").after["student"]),
        "data-1": named(stages, "step-3").after["student"],
    }
    for name, miner in miners.items():
        for entry in named(stages, name).stage.source.lists:
            wanted = found_by(task, miner, entry.query)
            assert entry.pool.tolist() == [at for at in wanted if at not in entry.positives], name
    lexical = task.lexical(task.labelled_queries(), depth=8)
    for name in ("a-teacher", "a-student"):
        for place, entry in enumerate(named(stages, name).stage.source.lists):
            found = lexical.for_query(place).tolist()
            assert entry.pool.tolist() == [at for at in found if at not in entry.positives]


def test_no_mined_negative_is_a_labelled_positive(whole: Ran) -> None:
    stages, _, task = whole
    for stage in stages:
        for update in range(stage.stage.updates):
            batch = stage.stage.source.batch(update)
            for query, row in zip(batch.queries.tolist(), batch.lists, strict=True):
                shown = batch.passages[row[row >= 0]]
                assert not np.isin(shown[1:], task.positives_of(query, "train")).any()


def test_unlabelled_queries_are_taught_and_never_judged(whole: Ran) -> None:
    stages, _, task = whole
    labelled = set(task.labelled_queries().tolist())
    everyone = set(task.training_queries().tolist())
    for stage in stages:
        seen = {entry.query for entry in stage.stage.source.lists}
        step = stage.name.startswith("prod-step")
        assert seen == everyone if step else seen <= labelled


def test_later_steps_go_on_through_the_queries(whole: Ran) -> None:
    stages, _, _ = whole
    sources = [named(stages, f"step-{at}").stage.source for at in (1, 2, 3)]
    assert [source.start for source in sources] == [0, 5, 10]


# --- the losses ----------------------------------------------------------------------------------


def divergence(teacher: np.ndarray, student: np.ndarray) -> float:
    p, q = log_softmax(teacher), log_softmax(student)
    return float((np.exp(p) * (p - q)).sum())


def similarities(task: Retrieval, encoder: Encoder, batch) -> np.ndarray:
    queries = [task.collection.queries.texts[at] for at in batch.queries]
    passages = [task.collection.passages.texts[at] for at in batch.passages]
    return encoded(encoder, queries, "query") @ encoded(encoder, passages, "passage").T


@pytest.mark.slow
def test_a_dual_encoder_teaches_over_the_whole_update(prod: Run) -> None:
    """Cosines over 0.05 on both sides, both softmaxes at tau, tau squared before the KL."""
    stages, _, task = prod(tau=2.0, hard_weight=0.2, soft_weight=0.7)
    stage = named(stages, "step-1")
    batch = stage.stage.source.batch(0)
    s = similarities(task, stage.before["student"], batch) / 0.05
    t = similarities(task, named(stages, "b-teacher").after["student"], batch) / 0.05
    kd, hard = [], []
    for row, query in enumerate(batch.queries.tolist()):
        others = set(task.positives_of(query, "train").tolist())
        target = int(batch.lists[row, 0])
        kept = [
            at
            for at, passage in enumerate(batch.passages.tolist())
            if passage not in others or at == target
        ]
        kd.append(4.0 * divergence(t[row, kept] / 2, s[row, kept] / 2))
        if batch.labelled[row]:
            hard.append(-log_softmax(s[row, kept])[kept.index(target)])
    _, parts = stage.first_parts(task)
    assert parts == {
        "hard": pytest.approx(0.2 * np.mean(hard), rel=1e-4),
        "kd": pytest.approx(0.7 * np.mean(kd), rel=1e-3),
    }


@pytest.mark.slow
def test_a_cross_encoder_teaches_over_own_lists(prod: Run) -> None:
    stages, _, task = prod(ladder="dual,cross", tau=2.0)
    stage, ranker = named(stages, "step-2"), named(stages, "teacher-2").after["student"]
    batch = stage.stage.source.batch(0)
    s = similarities(task, stage.before["student"], batch) / 0.05
    kd, hard = [], []
    for row, query in enumerate(batch.queries.tolist()):
        columns = [at for at in batch.lists[row].tolist() if at >= 0]
        pairs = [
            (task.collection.queries.texts[query], task.collection.passages.texts[passage])
            for passage in batch.passages[columns]
        ]
        t = ranker.model.predict(pairs, activation_fn=torch.nn.Identity())
        kd.append(4.0 * divergence(t / 2, s[row, columns] / 2))
        if batch.labelled[row]:
            hard.append(-log_softmax(s[row, columns])[0])
    assert 0 < len(hard) < len(kd)
    _, parts = stage.first_parts(task)
    assert parts == {
        "hard": pytest.approx(0.1 * np.mean(hard), rel=1e-4),
        "kd": pytest.approx(0.9 * np.mean(kd), rel=1e-3),
        "reg": pytest.approx(0.0, abs=1e-6),
    }


# --- the ladder ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_rung_that_is_no_better_is_skipped_and_the_one_before_teaches_on(
    prod: Run, tiny_encoder_folder: Path, tiny_encoder: Encoder
) -> None:
    """Judged for real: the second rung is the first one's equal."""
    given = DualTeacher("teacher", tiny_encoder.frozen())
    stages, told, task = prod(given, climbs=False, ladder=str(tiny_encoder_folder))
    assert told.notes[0].startswith(f"rung 1, {tiny_encoder_folder}: ")
    assert "skipped" not in told.notes[0]  # the first never is
    assert ", skipped: +0.0000 to the one before, p = 1.0000" in told.notes[1]
    assert told.teacher is not given
    assert same(told.teacher.encoder, tiny_encoder)
    assert not told.fitted
    assert [stage.name for stage in stages][4:6] == ["prod-step-1", "prod-step-2"]
    # teacher 1, which mines, is then a dual encoder of all layers
    assert layer_count(named(stages, "a-teacher").before["student"]) == 4
    one = named(stages, "b-teacher").after["student"]
    for name in ("step-1", "step-2"):
        for entry in named(stages, name).stage.source.lists:
            wanted = found_by(task, one, entry.query)
            assert entry.pool.tolist() == [at for at in wanted if at not in entry.positives]


def test_the_strongest_teacher_alone(prod: Run) -> None:
    preset = find("prod").presets["strongest-teacher-only"]
    stages, told, _ = prod(**preset)
    names = [stage.name for stage in stages]
    assert names == [*WARMUPS, "prod-teacher-1", "prod-step-1", "prod-data-1"]
    assert "reference" not in named(stages, "step-1").before
    assert told.teacher.kind == "ensemble"
    students = [stage.stage.updates for stage in of_student(stages)]
    assert sum(students[:3]) == 20  # the same updates in all, but for the data step's


def test_without_dev_the_ladder_has_no_ensemble_and_nobody_is_skipped(prod: Run) -> None:
    stages, told, _ = prod(climbs=False, splits=())
    assert told.notes[0] == "rung ensemble: left out, since its weights are fitted on dev"
    assert all("not measured, since there is no dev split" in note for note in told.notes[1:3])
    assert [stage.name for stage in stages][4:7] == ["prod-step-1", "prod-teacher-2", "prod-step-2"]
    assert same(told.teacher.encoder, named(stages, "teacher-2").after["student"])


def test_a_given_teacher_comes_last(prod: Run, tiny_ranker: Ranker) -> None:
    given = CrossTeacher("teacher", tiny_ranker)
    before = tiny_ranker.weights_digest()
    stages, told, _ = prod(given, ladder="dual/2")
    assert told.teacher is given
    assert not told.fitted
    assert tiny_ranker.weights_digest() == before
    assert [stage.name for stage in stages][4:6] == ["prod-step-1", "prod-step-2"]


def test_too_few_updates_for_the_stages_are_refused(prod: Run) -> None:
    with pytest.raises(ConfigError, match="5 steps are too few for 6 stages"):
        prod(max_steps=5)


# --- the data step -------------------------------------------------------------------------------


def test_the_data_step_sees_what_the_teacher_solves_and_the_student_does_not(prod: Run) -> None:
    """Ranks by hand: the student's in what it finds, the teacher's in that and the positives."""
    stages, told, task = prod(
        ladder="dual", student_rank_from=2, student_rank_to=6, teacher_rank_to=3
    )
    student, teacher = named(stages, "step-1").after["student"], told.teacher.encoder
    passages = task.collection.passages.texts
    answers = encoded(teacher, passages, "passage")
    wanted = set()
    for query in task.labelled_queries().tolist():
        positives = set(task.positives_of(query, "train").tolist())
        found = found_by(task, student, query)
        ranks = [at + 1 for at, passage in enumerate(found) if passage in positives]
        scores = answers @ encoded(teacher, [task.collection.queries.texts[query]], "query")[0]
        shown = sorted({*found, *positives}, key=lambda passage: -scores[passage])
        taught = 1 + next(at for at, passage in enumerate(shown) if passage in positives)
        if ranks and 2 <= ranks[0] <= 6 and taught <= 3:
            wanted.add(query)
    source = named(stages, "data-1").stage.source
    assert {entry.query for entry in source.lists} == wanted
    assert 0 < len(wanted) < len(task.labelled_queries())
    judged = len(task.labelled_queries())
    assert told.notes[-1] == f"data step 1: {len(wanted)} of {judged} queries are confusing"


def test_the_data_step_takes_negatives_in_rank_order_at_its_own_rate(prod: Run) -> None:
    stages, _, task = prod(data_learning_rate=7e-4, data_share=0.3, data_passes=2.0)
    stage = named(stages, "data-1")
    source, lists = stage.stage.source, {}
    for update in range(6):
        batch = source.batch(update)
        for query, row in zip(batch.queries.tolist(), batch.lists, strict=True):
            lists.setdefault(query, set()).add(tuple(batch.passages[row[row >= 0]].tolist()))
    for entry in source.lists:
        positive = task.positives_of(entry.query, "train")[0]
        assert lists[entry.query] == {(positive, *entry.pool[:2].tolist())}
    group = stage.stage.players[0].optimizer.param_groups[0]
    assert group["initial_lr"] == 7e-4
    assert stage.stage.updates == min(7, -(-2 * len(source.lists) // 5))


def test_a_random_subset_is_of_the_same_size(prod: Run, whole: Ran) -> None:
    picked, _, task = whole
    control, _, _ = prod(**find("prod").presets["random-subset"])
    queries = [
        {entry.query for entry in named(stages, "data-1").stage.source.lists}
        for stages in (picked, control)
    ]
    assert len(queries[0]) == len(queries[1]) < len(task.labelled_queries())
    assert queries[0] != queries[1]
    assert queries[1] <= set(task.labelled_queries().tolist())


def test_nothing_confusing_ends_it(prod: Run) -> None:
    stages, told, _ = prod(student_rank_from=8, student_rank_to=7)
    assert stages[-1].name == "prod-step-3"
    assert told.notes[-1] == "data step 1: 0 of 12 queries are confusing"


def test_data_rounds_go_on_while_dev_rises(prod: Run) -> None:
    """Every round is mined anew, by the student of the round before; dev's figures are given."""
    figures = iter([0.1, 0.1, 0.1, 0.2, 0.3, 0.3, 0.4])
    patches = {"limbeck.recipes.prod.train_taught": rising(figures)}
    stages, told, task = prod(max_steps=60, data_rounds=4, data_share=0.4, patches=patches)
    assert [stage.name for stage in stages][-3:] == [f"prod-data-{at}" for at in (1, 2, 3)]
    one, two = named(stages, "data-1"), named(stages, "data-2")
    assert same(one.after["student"], two.before["reference"])
    for entry in two.stage.source.lists:
        wanted = found_by(task, one.after["student"], entry.query)
        assert entry.pool.tolist() == [at for at in wanted if at not in entry.positives]
    assert told.notes[-1].startswith("data step 3: ")


def rising(figures: Iterator[float]) -> Callable[..., object]:
    def trained(*given: object, **named: object) -> object:
        return replace(train_taught(*given, **named), quality=next(figures))  # type: ignore[arg-type]

    return trained
