"""Recipes over rows learn the candidate lists of a collection."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from typer.testing import CliRunner

from collections_here import made_up
from limbeck import pipeline
from limbeck.bench.budget import equal_settings, systems_of
from limbeck.cli import app
from limbeck.config import RunConfig
from limbeck.errors import ConfigError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers
from limbeck.pipeline.request import validate
from limbeck.recipes import Recipe, find
from limbeck.store import read_json
from limbeck.tasks.task import kind_named
from limbeck.teachers import CrossTeacher, DualTeacher, EnsembleTeacher, Teacher
from recipes_here import ALL, fast, fast_settings
from retrieval_here import a_frozen_pass, a_task, stage_of

RETRIEVAL = kind_named("retrieval")
OVER_ROWS = [name for name, recipe in ALL.items() if recipe.task is None]
NAMES = [name for name in OVER_ROWS if name not in RETRIEVAL.instead]


def on_lists(name: str) -> Recipe:
    return find(name).on(RETRIEVAL.rows_settings)


@pytest.fixture
def teacher(tiny_encoder: Encoder, tiny_ranker: Ranker) -> Teacher:
    """Several: one with vectors, one that reads pairs."""
    dual, cross = DualTeacher("a", tiny_encoder.frozen()), CrossTeacher("b", tiny_ranker)
    return EnsembleTeacher("teacher", (dual, cross), (0.5, 0.5), (0.1, 0.0), (0.2, 1.0))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_over_rows_trains(
    name: str, tmp_path: Path, tiny_encoder: Encoder, teacher: Teacher
) -> None:
    recipe, student = on_lists(name), cut_layers(tiny_encoder, 2)
    given = teacher if "teacher" in recipe.needs else None
    task = a_task(tmp_path, tiny_encoder)
    recipe.train(task, given, student, fast_settings(recipe))
    curves = read_json(tmp_path / "stages" / f"train-{name}" / "curves.json")
    assert len(curves["losses"]) == 2
    assert all(math.isfinite(value) for entry in curves["losses"] for value in entry.values())
    assert student.weights_digest() != cut_layers(tiny_encoder, 2).weights_digest()
    if name == "ca_mkd":
        weights = curves["notes"][-1]
        assert weights["weight of teacher/a"] + weights["weight of teacher/b"] == pytest.approx(1)


def test_scores_are_at_their_natural_temperature(
    tmp_path: Path,
    tiny_encoder: Encoder,
    teacher: EnsembleTeacher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`nkd` by hand: cosines over 0.05, an ensemble's scores over 0.3; an unlabelled query has the
    teacher's first choice in the last two terms.
    """
    recipe, student = on_lists("nkd"), cut_layers(tiny_encoder, 2)
    task = a_task(tmp_path, tiny_encoder)
    settings = fast_settings(recipe, batch_size=12, list_length=4, temperature=2.0)
    stage, _ = stage_of(monkeypatch, recipe.train, task, teacher, student, settings)
    batch, [turn] = stage.source.batch(0), stage.turns
    with torch.no_grad():
        signals = turn.forward(a_frozen_pass(student, task), batch)
        found = {name: float(part) for name, part in turn.loss(signals).parts.items()}
    queries, passages = task.collection.queries.texts, task.collection.passages.texts
    pairs = np.stack([np.repeat(batch.queries, 4), batch.passages[batch.lists.reshape(-1)]], axis=1)
    s = student.frozen().model
    asked = s.encode_query([queries[at] for at in batch.queries], normalize_embeddings=True)
    shown = s.encode_document([passages[at] for at in pairs[:, 1]], normalize_embeddings=True)
    students = np.einsum("bd,bld->bl", asked, shown.reshape(len(asked), 4, -1)) / 0.05
    teachers = task.pair_scores(teacher, pairs).reshape(-1, 4) / 0.3
    hard, target, wrong = [], [], []
    for row, judged in enumerate(batch.labelled.tolist()):
        logs, own = log_softmax(students[row]), log_softmax(teachers[row])
        right = 0 if judged else int(own.argmax())
        others = np.arange(4) != right
        p, q = (log_softmax(each[row, others] / 2.0) for each in (teachers, students))
        hard += [-logs[0]] if judged else []
        target.append(-np.exp(own[right]) * logs[right])
        wrong.append(-1.5 * 4.0 * float((np.exp(p) * q).sum()))
    assert 0 < len(hard) < len(target) == 12
    assert found == {
        "hard": pytest.approx(np.mean(hard), rel=1e-4),
        "target": pytest.approx(np.mean(target), rel=1e-4),
        "non_target": pytest.approx(np.mean(wrong), rel=1e-4),
    }
    assert signals.scores.keys() >= {"teacher", "teacher/a", "teacher/b"}


def test_a_killed_stage_ends_with_the_same_bytes(
    tmp_path: Path, tiny_encoder: Encoder, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temperature that is trained beside the student included."""
    recipe = on_lists("ctkd")
    settings = fast_settings(recipe, max_steps=5, save_steps=2)

    def trained(folder: str) -> str:
        student = cut_layers(tiny_encoder, 2)
        recipe.train(a_task(tmp_path / folder, tiny_encoder), teacher, student, settings)
        return student.weights_digest()

    whole, forward, calls = trained("whole"), Encoder.forward, list[bool]()

    def killed(self: Encoder, features: dict[str, torch.Tensor]) -> torch.Tensor:
        calls.append(self.training)
        if sum(calls) == 8:  # of queries and passages, in the fourth update
            raise KeyboardInterrupt
        return forward(self, features)

    monkeypatch.setattr(Encoder, "forward", killed)
    with pytest.raises(KeyboardInterrupt):
        trained("killed")
    assert trained("killed") == whole
    assert sum(calls) == 8 + 2 * 3  # from the checkpoint after the second update
    curves = [
        read_json(tmp_path / name / "stages" / "train-ctkd" / "curves.json")
        for name in ("whole", "killed")
    ]
    assert curves[0]["notes"] == curves[1]["notes"]


def test_settings_of_lists_are_set_beside_a_recipes_own(
    tmp_path: Path, tiny_encoder_folder: Path
) -> None:
    asked: dict[str, Any] = {"student": str(tiny_encoder_folder), "recipe": "nkd"}
    data = made_up().write(tmp_path / "data")
    request = validate(RunConfig(data, **asked, settings={"list_length": "3", "temperature": "2"}))
    found = request.recipe.settings(**fast(request.recipe))
    assert (found.list_length, found.candidates_per_query) == (3, 6)  # type: ignore[attr-defined]
    assert request.recipe.settings().batch_size == 64  # type: ignore[attr-defined]
    validate(RunConfig(data, **asked, settings=find("nkd").settings(temperature=2.0)))
    with pytest.raises(ConfigError, match="unknown setting 'list_lenght'; did you mean 'list_len"):
        validate(RunConfig(data, **asked, settings={"list_lenght": "3"}))
    with pytest.raises(ConfigError, match="unknown setting 'list_length'"):
        validate(RunConfig("digits", recipe="nkd", settings={"list_length": "3"}))


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("kd", "has a recipe of its own for that. Use --recipe kl"),
        ("supervised", "has a recipe of its own for that. Use --recipe contrastive"),
        ("ca_mkd:features", "models of texts have none. Set feature_weight=0"),
    ],
)
def test_recipes_that_lists_cannot_teach_are_refused(
    recipe: str, says: str, tmp_path: Path
) -> None:
    data, out = made_up().write(tmp_path / "data"), str(tmp_path / "run")
    words = ["distill", str(data), "--recipe", recipe, "--out", out]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 2
    assert says in " ".join(answer.stderr.split())


def test_a_bench_has_one_budget_for_lists_and_rows() -> None:
    systems = systems_of(["nkd", "ctkd"], "pydocs")
    assert systems == ["contrastive", "kl", "nkd", "ctkd"]
    given = {"list_length": "5", "nkd.temperature": "2"}
    found = equal_settings(RETRIEVAL, systems, given, 7)
    assert found["nkd"] == {"max_steps": "7", "list_length": "5", "temperature": "2"}
    assert found["ctkd"] == {"max_steps": "7", "list_length": "5"}
    for named in (["nkd", "kd"], ["kl", "kd"]):
        with pytest.raises(ConfigError, match="--recipes kd: retrieval has a recipe of its own"):
            systems_of(named, "pydocs")


@pytest.mark.slow
def test_several_fitted_teachers_teach_a_whole_run(
    tmp_path: Path, tiny_encoder_folder: Path
) -> None:
    recipe = on_lists("ca_mkd")
    settings = {
        **fast(recipe),
        **{f"teacher_{kind}.max_steps": 2 for kind in ("dual", "cross")},
    }
    asked: dict[str, Any] = {
        "student": str(tiny_encoder_folder),
        "student_layers": 2,
        "recipe": "ca_mkd",
        "teacher": ["a=train:dual", "b=train:cross"],
        "settings": settings,
        "labels": 10,
        "precision": "fp32",
        "store": tmp_path / "store",
    }
    data = made_up().write(tmp_path / "data")
    plan = pipeline.plan(data, **asked)
    assert {part.stage: part.updates for part in plan.parts}["train-ca_mkd"] == 2
    result = pipeline.distill(data, out=tmp_path / "run", **asked)
    named = {row["model"] for row in result.rows}
    assert named >= {"teacher", "teacher/a", "teacher/b", "contrastive", "student"}
