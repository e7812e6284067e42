"""ADAM on a toy collection: which passages an update shows, which of them each term sees."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from collections_here import made_up
from limbeck import pipeline
from limbeck.data.dark import Dark
from limbeck.errors import ConfigError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers
from limbeck.objectives.listwise import cross_entropy, distillation_kl
from limbeck.recipes import find
from limbeck.settings import parse_settings
from limbeck.sources import ListSource
from limbeck.store import read_json
from limbeck.tasks.fit import train_model
from limbeck.tasks.retrieval import Retrieval
from limbeck.tasks.retrieval.opening import _check_mask
from limbeck.tasks.retrieval.scorers import dual, from_batch
from limbeck.tasks.task import Method
from limbeck.teachers import CrossTeacher, DualTeacher, Teacher
from limbeck.teachers.score_store import ScoreStore
from limbeck.training import Turn, forward
from limbeck.types import Loss, Signals
from retrieval_here import Trained, a_task, trained_stages

SMALL: dict[str, object] = {
    "max_steps": 8,
    "batch_size": 6,
    "list_length": 8,
    "candidates_per_query": 8,
    "learning_rate": 1e-3,
    "reinforced": 0.25,
    "weakened": 0.25,
}
# for the tests that all recipes share (recipes_here.py)
FAST: dict[str, object] = {"list_length": 6, "reinforced": 0.2, "weakened": 0.2}
OTHERWISE: dict[str, object] = {
    "dark_draws": 1,
    "reinforced": 0.4,
    "weakened": 0.4,
    "warmup_share": 0.5,
    "drop_to": 0.9,
    "theta_start": 0.2,
    "theta_end": 0.9,
}

Run = Callable[..., tuple[list[Trained], Retrieval]]


@pytest.fixture(scope="module")
def adam(tmp_path_factory: pytest.TempPathFactory, _encoder: Encoder) -> Run:
    def adam(teacher: Teacher, **changes: object) -> tuple[list[Trained], Retrieval]:
        recipe = find("adam")
        task = a_task(tmp_path_factory.mktemp("run"), copy.deepcopy(_encoder))
        settings = parse_settings(recipe.settings, {**SMALL, **changes})
        student = cut_layers(_encoder, 2)
        with pytest.MonkeyPatch.context() as patch:
            stages, _ = trained_stages(patch, recipe.function, task, teacher, student, settings)
        return stages, task

    return adam


@pytest.fixture
def teacher(tiny_ranker: Ranker) -> CrossTeacher:
    return CrossTeacher("teacher", tiny_ranker)


def rows_of(signals: Signals, name: str) -> tuple[np.ndarray, np.ndarray]:
    scores = signals.scores[name]
    return scores.values.numpy().astype(np.float64), scores.mask.numpy()


def softmax(values: np.ndarray) -> np.ndarray:
    shares = np.exp(values - values.max())
    return shares / shares.sum()


def divergence(t: np.ndarray, s: np.ndarray) -> float:
    p, q = softmax(t), softmax(s)
    return float((p * (np.log(p) - np.log(q))).sum())


def test_the_student_is_warmed_up_and_then_sees_lists_with_dark_examples(
    adam: Run, teacher: CrossTeacher
) -> None:
    [warmup, stage], task = adam(teacher)
    assert [warmup.name, stage.name] == ["adam-warmup", "adam"]
    assert [warmup.stage.updates, stage.stage.updates] == [2, 6]
    assert warmup.after["student"].weights_digest() == stage.before["student"].weights_digest()
    assert all(not len(entry.derived[0]) for entry in warmup.stage.source.lists)
    own = len(task.collection.passages)
    batch = stage.stage.source.batch(0)
    assert batch.lists.shape == (6, 8)
    filled = batch.lists[:, :4][batch.lists[:, :4] >= 0]
    assert (batch.passages[filled] < own).all()
    assert (batch.passages[batch.lists[:, 4:]] >= own).all()  # none is empty here


def test_the_loss_is_that_of_the_paper(adam: Run, teacher: CrossTeacher) -> None:
    """Computed again with numpy from the scores of the first update, at a threshold that parts the
    queries.
    """
    settings = {"tau": 2.0, "alpha": 0.5, "warmup_share": 0.0}
    [stage], task = adam(teacher, **settings)
    signals, _ = stage.first_parts(task)
    (s, seen), (t, scored) = rows_of(signals, "student"), rows_of(signals, "teacher")
    assert (seen == scored).all()
    conf = np.array([softmax(t[row, :4][seen[row, :4]])[0] for row in range(6)])
    theta = float(np.sort(conf)[2:4].mean())
    [stage], task = adam(teacher, **settings, theta_start=theta)
    signals, parts = stage.first_parts(task)
    v = conf > theta
    assert v.sum() == 3
    s = s / 0.05  # the student's similarities are cosines
    dark = [divergence(t[r][seen[r]] / 2, s[r][seen[r]] / 2) for r in range(6)]
    clean = [divergence(t[r, :4][seen[r, :4]] / 2, s[r, :4][seen[r, :4]] / 2) for r in range(6)]
    assert parts["dark"] == pytest.approx(0.5 * 4 * np.mean(np.array(dark)[v]), rel=1e-4)
    assert parts["plain"] == pytest.approx(0.5 * 4 * np.mean(np.array(clean)[~v]), rel=1e-4)
    everyone = signals.scores["student/in_batch"]
    rows = [
        -math.log(
            softmax((everyone.values[row][everyone.mask[row]] / 0.05).numpy().astype(float))[
                int(everyone.mask[row][: everyone.target[row]].sum())
            ]
        )
        for row in range(6)
        if everyone.target[row] >= 0
    ]
    assert parts["contrastive"] == pytest.approx(np.mean(rows), rel=1e-4)


def test_dark_examples_are_nobodys_positive_or_negative(adam: Run, teacher: CrossTeacher) -> None:
    [stage], task = adam(teacher, warmup_share=0.0)
    signals, _ = stage.first_parts(task)
    batch = stage.stage.source.batch(0)
    own = len(task.collection.passages)
    scores = signals.scores["student/in_batch"]
    assert not scores.mask[:, torch.from_numpy(batch.passages >= own)].any()
    assert (batch.passages[batch.lists[:, 0]] < own).all()


def test_texts_and_scores_are_kept_and_are_those_of_the_lists(
    adam: Run, teacher: CrossTeacher
) -> None:
    stages, task = adam(teacher, dark_draws=2)
    source = stages[-1].stage.source
    folders = {path.name.rpartition("-")[0]: path for path in task.run.folder.glob("stages/*-*")}
    texts = pl.read_parquet(folders["dark"] / "texts.parquet")
    dark = Dark(2, 2, (0.2, 0.5), (0.3, 0.7), task.run.seed)
    place, entry = next(
        (place, entry) for place, entry in enumerate(source.lists) if (entry.derived[0] >= 0).all()
    )
    passages = [task.collection.passages.texts[at] for at in source.drawn(place, 0)]
    made = dark.examples(entry.query_id, 0, passages[0], passages[1:])
    kept = texts.filter(pl.col("parent_id") == entry.query_id).sort("draw")
    assert kept["text"].to_list()[:4] == made
    query = task.collection.queries.texts[entry.query]
    scores = teacher.score_texts(query, made, task.run.engine)
    np.testing.assert_allclose(entry.derived_scores["teacher"][0], scores, atol=1e-5)
    assert {len(each.derived) for each in source.lists} == {2}


def test_the_same_draws_are_asked_about_once(
    tmp_path: Path, tiny_encoder: Encoder, teacher: CrossTeacher
) -> None:
    """By another run with the same store: nothing is asked again."""
    recipe = find("adam")
    settings = parse_settings(recipe.settings, {**SMALL, "warmup_share": 0.0})
    asked = []
    for name in ("a", "b"):
        task = replace(a_task(tmp_path / name, tiny_encoder), store=ScoreStore(tmp_path / "store"))
        recipe.function(task, teacher, cut_layers(tiny_encoder, 2), settings)
        found = [
            read_json(path)["metrics"]
            for path in (tmp_path / name).glob("stages/score-*/done.json")
        ]
        asked.append(sum(each["pairs_scored"] for each in found))
    assert asked[0] > 100
    assert asked[1] == 0


def test_plain_is_plain_distillation_bit_for_bit(
    tmp_path: Path, tiny_encoder: Encoder, teacher: CrossTeacher
) -> None:
    """No dark examples and theta 0: the spec's check 7."""
    recipe = find("adam")
    plain = {**SMALL, **recipe.presets["plain"], "list_length": 4, "warmup_share": 0.0}
    settings = parse_settings(recipe.settings, plain)
    found = cut_layers(tiny_encoder, 2)
    recipe.function(a_task(tmp_path / "adam", tiny_encoder), teacher, found, settings)

    def loss(signals: Signals) -> Loss:
        student = signals.scores["student"]
        student = replace(student, values=student.values / 0.05)
        kd = distillation_kl(signals.scores["teacher"], student, temperature=1.0)
        return Loss({"a": cross_entropy(signals.scores["student/in_batch"], 0.05), "b": kd})

    task, student = a_task(tmp_path / "kd", tiny_encoder), cut_layers(tiny_encoder, 2)
    lists = task.lists(task.training_pools(teacher, depth=8), teacher=teacher)
    turn = Turn(
        forward(dual(task, "student", student), from_batch("teacher")), loss, frozenset({"student"})
    )
    train_model(task, "kd", student, ListSource(lists, 6, 4, 0), turn, settings)
    assert student.weights_digest() == found.weights_digest()


@pytest.mark.parametrize(
    ("preset", "slots", "parts"),
    [
        ("reinforced-only", 8, {"contrastive", "dark", "plain"}),
        ("noisy-only", 8, {"contrastive", "dark", "plain"}),
        ("mask", 8, {"contrastive", "dark", "plain"}),
        ("no-selection", 8, {"contrastive", "dark", "plain"}),
        ("selection-only", 0, {"contrastive", "dark"}),
        ("plain", 0, {"contrastive", "dark", "plain"}),
        ("soft-weights", 8, {"contrastive", "dark"}),
    ],
)
def test_presets_are_the_ablations_at_equal_length(
    adam: Run, teacher: CrossTeacher, preset: str, slots: int, parts: set[str]
) -> None:
    default = {
        key: find("adam").settings.model_fields[key].default
        for key in ("reinforced", "weakened", "list_length")
    }
    changes = {**default, "max_steps": 2, "warmup_share": 0.0, **find("adam").presets[preset]}
    [stage], task = adam(teacher, **changes)
    batch = stage.stage.source.batch(0)
    assert batch.lists.shape[1] == 16
    own = len(task.collection.passages)
    made = batch.passages[batch.lists[batch.lists >= 0]] >= own
    assert made.sum() == 6 * slots
    assert stage.losses[0].keys() >= parts
    assert ("plain" in stage.losses[0]) == ("plain" in parts)
    notes = read_json(task.run.folder / "stages" / "train-adam" / "curves.json")["notes"][0]
    assert (notes["entropy_dark"] == notes["entropy_clean"]) == (slots == 0)
    if preset in ("no-selection", "plain"):
        assert notes["selected"] == 1
        assert stage.losses[0]["plain"] == 0
    if preset == "mask":
        kept = next(task.run.folder.glob("stages/dark-*/texts.parquet"))
        assert pl.read_parquet(kept)["text"].str.contains("[MASK]", literal=True).sum() > 0


def test_nobody_selected_is_a_loss_of_0(adam: Run, teacher: CrossTeacher) -> None:
    """Check 6; theta 1 is above any confidence."""
    [stage], task = adam(teacher, theta_start=1.0, theta_end=1.0, warmup_share=0.0, max_steps=2)
    _, parts = stage.first_parts(task)
    assert parts["dark"] == 0.0
    assert parts["plain"] > 0
    assert all(math.isfinite(value) for entry in stage.losses for value in entry.values())


def test_without_judgements_the_student_is_not_warmed_up(
    tmp_path: Path, tiny_encoder: Encoder, teacher: CrossTeacher
) -> None:
    task = a_task(tmp_path, tiny_encoder)
    qrels = {split: judged for split, judged in task.collection.qrels.items() if split != "train"}
    task = replace(task, collection=replace(task.collection, qrels=qrels))
    recipe = find("adam")
    settings = parse_settings(recipe.settings, {**SMALL, "max_steps": 2})
    with pytest.MonkeyPatch.context() as patch:
        stages, _ = trained_stages(
            patch, recipe.function, task, teacher, cut_layers(tiny_encoder, 2), settings
        )
    assert [stage.name for stage in stages] == ["adam"]
    assert stages[0].losses[0]["contrastive"] == 0
    assert stages[0].losses[0]["dark"] + stages[0].losses[0]["plain"] > 0


def test_passages_made_for_training_are_in_no_search_and_no_measure(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    task = a_task(tmp_path, tiny_encoder)
    made = task.with_derived(["a passage made of nothing", task.collection.passages.texts[3]])
    queries = task.training_queries()
    plain = task.pools(queries, depth=9, miner=task.base)
    pools = made.pools(queries, depth=9, miner=task.base)
    assert pools.passages.tolist() == plain.passages.tolist()
    assert len(made.vectors(task.base, "passage")) == len(task.collection.passages)
    encoder = cut_layers(tiny_encoder, 2)
    values = [
        each.measure_encoder(f"student-{number}", encoder, "test").per_query
        for number, each in enumerate((task, made))
    ]
    assert values[0].equals(values[1])
    own = len(task.collection.passages)
    assert len(made.tokens_of(encoder, "passage")) == own
    tokens = made.tokens_shown(encoder.tokenizer, "passage", "")
    assert len(tokens) == own + 2
    assert tokens[own + 1].tolist() == tokens[3].tolist()
    assert tokens.lengths[own:].tolist() == [len(tokens[own]), len(tokens[own + 1])]
    teacher = DualTeacher("t", tiny_encoder.frozen())
    scores = made.pair_scores(teacher, np.array([[0, 3], [0, own + 1], [0, own]]))
    assert scores[0] == scores[1] != scores[2]


def test_new_texts_and_a_mask_are_needed_where_there_are_some() -> None:
    settings: Any = find("adam").settings
    assert settings().needs == {"texts"}
    assert settings(**find("adam").presets["plain"]).needs == set()
    assert settings(weaken="mask").needs == {"texts", "mask"}
    assert settings(weaken="mask", weakened=0).needs == {"texts"}


def test_the_teacher_gets_no_gradient_and_says_the_same_twice(
    adam: Run, teacher: CrossTeacher, tmp_path: Path, tiny_encoder: Encoder
) -> None:
    before = teacher.digest
    adam(teacher, max_steps=2)
    assert CrossTeacher("again", teacher.ranker).digest == before
    assert all(parameter.grad is None for parameter in teacher.ranker.parameters())
    pairs = np.array([[0, 1], [1, 2]])
    scores = [
        a_task(tmp_path / name, tiny_encoder).pair_scores(teacher, pairs).tolist()
        for name in ("a", "b")
    ]
    assert scores[0] == scores[1]


def test_a_file_of_scores_is_refused_before_any_work(
    tmp_path: Path, tiny_encoder_folder: Path
) -> None:
    """By presets without dark examples it can teach."""
    files = made_up()
    scores = tmp_path / "some.trec"
    shown = list(enumerate(files.corpus))[:5]
    rows = [f"{query} Q0 {found} {at} {-at} x" for query in files.queries for at, found in shown]
    scores.write_text("\n".join(rows))
    data = files.write(tmp_path / "data")
    given = {
        "teacher": f"scores:{scores}",
        "student": str(tiny_encoder_folder),
        "out": tmp_path / "r",
    }
    with pytest.raises(ConfigError, match=r"adam writes passages.*knows its own pairs only"):
        pipeline.dry_run(data, recipe="adam", **given)
    assert pipeline.dry_run(data, recipe="adam:plain", **given)


def test_a_mask_token_that_is_not_everybodys_is_refused(
    tiny_encoder: Encoder, tiny_ranker: Ranker
) -> None:
    ranker = copy.deepcopy(tiny_ranker)
    method = Method("adam", frozenset({"mask"}), (), ())
    _check_mask(method, tiny_encoder, CrossTeacher("t", ranker), {})
    ranker.tokenizer.mask_token = "<mask>"
    with pytest.raises(ConfigError, match=r"'\[MASK\]' and '<mask>'.*weaken=drop"):
        _check_mask(method, tiny_encoder, CrossTeacher("t", ranker), {})
