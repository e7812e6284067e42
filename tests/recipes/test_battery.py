"""What every registered recipe must be able to do; a new one is held to it by being there."""

import copy
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from typer.testing import CliRunner

from limbeck.cli import app
from limbeck.config.teacher_spec import KINDS as STANDS_ON
from limbeck.errors import ConfigError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers
from limbeck.models.loading import load_encoder
from limbeck.recipes import Recipe
from limbeck.settings import Settings, describe, parse_settings, written
from limbeck.store import digest, read_json
from limbeck.tasks import fit
from limbeck.tasks.retrieval import Retrieval
from limbeck.teachers import (
    CrossTeacher,
    DualTeacher,
    EnsembleTeacher,
    Teacher,
    load_teacher,
)
from limbeck.training import Pass, Run, Stage, Trained, frozen_player, train
from recipes_here import ALL, RECIPES, beside, fast_settings, has_stages, settings_to_test
from retrieval_here import a_task, stage_of

NEEDS = {name: recipe.needs | recipe.settings().needs for name, recipe in RECIPES.items()}
STUDENT = [name for name, recipe in RECIPES.items() if recipe.makes == "student"]
# every kind of teacher that a recipe can learn from; "dual" also where it needs none
KINDS = {
    name: ["dual", "cross", "ensemble"]
    if NEEDS[name] & {"teacher", "vectors"} == {"teacher"}
    else ["dual"]
    for name in RECIPES
}
TAUGHT = [(name, kind) for name in STUDENT for kind in KINDS[name]]
TO_TEST = settings_to_test()


@pytest.fixture
def teachers(tiny_encoder: Encoder, tiny_ranker: Ranker) -> dict[str, Teacher]:
    """One of each kind, by the kind's name."""
    dual, cross = DualTeacher("dual", tiny_encoder.frozen()), CrossTeacher("cross", tiny_ranker)
    ensemble = EnsembleTeacher("both", (dual, cross), (0.5, 0.5), (0.0, 0.0), (1.0, 1.0))
    return {"dual": dual, "cross": cross, "ensemble": ensemble}


def arguments(
    recipe: Recipe,
    task: Retrieval,
    encoder: Encoder,
    teachers: dict[str, Teacher],
    kind: str,
    settings: Settings,
) -> tuple[object, ...]:
    """What a recipe is called with before its settings; the model that it trains is made here."""
    if recipe.makes == "student":
        teacher = teachers[kind] if "teacher" in recipe.needs | settings.needs else None
        return task, teacher, cut_layers(encoder, 2)
    stands_on = STANDS_ON[recipe.name.removeprefix("teacher_")]
    return task, *([teachers[kind] for kind in stands_on] or [copy.deepcopy(encoder)])


Train = Callable[..., Encoder]


@pytest.fixture
def trained(tmp_path: Path, tiny_encoder: Encoder, teachers: dict[str, Teacher]) -> Train:
    def trained(name: str, folder: str, *, kind: str = "dual", seed: int = 0) -> Encoder:
        recipe = RECIPES[name]
        task = a_task(tmp_path / folder, tiny_encoder, seed=seed)
        settings = fast_settings(recipe)
        given = arguments(recipe, task, tiny_encoder, teachers, kind, settings)
        recipe.function(*given, settings)
        return given[2]

    return trained


# --- settings and docs ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_settings_go_through_text_and_back(name: str) -> None:
    cls = ALL[name].settings
    described = describe(cls)
    assert [setting.name for setting in described] == list(cls.model_fields)
    for setting in described:
        assert len(setting.description) >= 10, f"{name}: {setting.name} is not described"
    as_text = {setting.name: written(setting.default) for setting in described}
    assert parse_settings(cls, as_text) == cls()
    assert cls(**cls().model_dump()) == cls()
    with pytest.raises(ConfigError, match="unknown setting"):
        parse_settings(cls, {"nonsense": 1})
    for values in ALL[name].presets.values():
        parse_settings(cls, values)


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_says_what_it_is(name: str) -> None:
    recipe = ALL[name]
    assert recipe.summary.endswith(".")
    assert "arXiv:" in recipe.paper
    module = __import__(recipe.function.__module__, fromlist=["_"])
    assert "arXiv:" in module.__doc__
    lines = Path(module.__file__).read_text().splitlines()
    long = has_stages(recipe) or recipe.data_free  # many stages, or two players that learn
    assert len(lines) <= (240 if long else 110)  # a page
    assert recipe.needs <= {"labels", "queries", "teacher", "vectors", "dev", "pairs"}


# --- two updates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), TAUGHT)
def test_two_updates_train_a_student_that_can_be_saved(
    name: str, kind: str, trained: Train, tmp_path: Path, tiny_encoder: Encoder
) -> None:
    student = trained(name, "run", kind=kind)
    curves = list(tmp_path.glob("run/stages/train-*/curves.json"))
    losses = [entry for path in curves for entry in read_json(path)["losses"]]
    if RECIPES[name].fits or "pairs" in RECIPES[name].needs:
        assert len(losses) > 16
    else:
        assert len(losses) == fast_settings(RECIPES[name]).model_dump()["max_steps"]
    assert all(math.isfinite(value) for entry in losses for value in entry.values())
    assert student.weights_digest() != cut_layers(tiny_encoder, 2).weights_digest()
    student.save(tmp_path / "saved", card="# card\n", stage="student")
    assert load_encoder(tmp_path / "saved").weights_digest() == student.weights_digest()


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENT)
def test_the_seed_decides_the_weights(name: str, trained: Train) -> None:
    digests = [
        trained(name, folder, seed=seed).weights_digest()
        for folder, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


# --- every setting counts ------------------------------------------------------------------------


OTHERWISE: dict[str, object] = {"warmup_ratio": 0.5, "eval_steps": 2, "clip": 1e-3}


def another(recipe: Recipe, settings: Settings, name: str) -> object:
    """A value of a setting other than the one it has."""
    value, annotation = getattr(settings, name), recipe.settings.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice != value)
    for given in (beside(recipe.name, "OTHERWISE", {}), OTHERWISE):
        if name in given:
            return given[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return value[:1]
    if value is None:
        return 0.7
    if isinstance(value, float):
        return 0.3 if value == 0 else value * 1.5
    return value + 1


def fingerprint(stage: Stage, run: Any) -> str:
    """What a stage will do, read off the stage itself and not off its settings."""
    players = []
    for player in stage.everyone:
        groups = [] if player.optimizer is None else player.optimizer.param_groups
        players.append(
            [
                type(player.optimizer).__name__,
                [[group["initial_lr"], group["weight_decay"]] for group in groups],
                [player.schedule(step) for step in range(stage.updates + 1)],
                [part.p for part in player.model.modules() if isinstance(part, torch.nn.Dropout)],
            ]
        )
    frozen = {p.name: frozen_player(p.name, p.model) for p in stage.everyone}
    place = {"stage": "s/0", "update": 0, "progress": 0.5, "bytes_per_token": {}}
    [turn] = stage.turns
    with torch.no_grad():
        signals = turn.forward(Pass(run, frozen, frozenset(), **place), stage.source.batch(0))
    scores = {
        name: replace(each, values=each.values.clone().requires_grad_())
        for name, each in signals.scores.items()
    }
    looks: list[object] = []
    for step in (0, stage.updates - 1):  # as the first step and as the last
        loss = turn.loss(replace(signals, scores=scores, step=step))
        looks.append({name: float(part.detach()) for name, part in loss.parts.items()})
        if scores and loss.total.requires_grad:  # and where it pulls
            pulls = torch.autograd.grad(
                loss.total, [each.values for each in scores.values()], allow_unused=True
            )
            looks.append([None if pull is None else float(pull.norm()) for pull in pulls])
    measure = stage.measure and [stage.measure.every, stage.measure.keep]
    return digest(
        [players, looks, stage.source.digest, stage.updates, measure, run.save_steps, stage.clip]
    )


class _Differs(Exception):
    """A stage is not what it was with the plain settings."""


class Recorded:
    """Stages that were trained once, with the plain settings: each one's fingerprint, what it came
    to, and the state of its players. With other settings a stage is not trained again: it is looked
    at with that state, and ends the recipe where it differs. So a setting costs no training.
    """

    def __init__(self) -> None:
        self.stages: list[tuple[str, Trained, dict[str, dict[str, torch.Tensor]]]] = []

    def train(self, found: list[str], stage: Stage, run: Run) -> Trained:
        trained = train(stage, run)
        found.append(fingerprint(stage, run))
        states = {
            player.name: {key: value.clone() for key, value in player.state().items()}
            for player in stage.everyone
        }
        self.stages.append((found[-1], trained, states))
        return trained

    def repeat(self, found: list[str], stage: Stage, run: Run) -> Trained:
        if len(found) == len(self.stages):
            raise _Differs  # one more
        plain, trained, states = self.stages[len(found)]
        players = {player.name: player for player in stage.everyone}
        if stage.name != trained.stage or players.keys() != states.keys():
            raise _Differs
        for name, player in players.items():
            player.load_state(states[name])
            player.model.eval()
        found.append(fingerprint(stage, run))
        if found[-1] != plain:
            raise _Differs
        return trained


@pytest.mark.slow
@pytest.mark.parametrize("name", TO_TEST)
def test_every_setting_changes_what_a_stage_does(
    name: str,
    tmp_path: Path,
    tiny_encoder: Encoder,
    teachers: dict[str, Teacher],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a teacher of some kind; what is inherited from a base class, for one recipe that does.
    The stages of a recipe that has many are looked at when they have been trained.
    """
    recipe = RECIPES[name]
    base = {"max_steps": 12, **beside(name, "ALL_COUNT", {})}
    folders, recorded = itertools.count(), Recorded()

    def found(does: Callable[..., Any], kind: str, **changes: object) -> list[str]:
        settings = fast_settings(recipe, **{**base, **changes})
        number = next(folders)
        task = a_task(tmp_path / str(number), tiny_encoder)
        if number:  # what stages were encoded, mined and scored from the same inputs is taken over
            task = replace(task, run=replace(task.run, reuse_from=[tmp_path / "0"]))
        given = arguments(recipe, task, tiny_encoder, teachers, kind, settings)
        if not has_stages(recipe):
            return [fingerprint(*stage_of(monkeypatch, recipe.function, *given, settings))]
        stages: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(fit, "train", partial(does, stages))
            try:
                recipe.function(*given, settings)
            except _Differs:
                stages.append("differs")
        return stages

    first, *others = KINDS[name]
    plain = {first: found(recorded.train, first)}
    assert found(recorded.repeat, first) == plain[first]
    for setting in TO_TEST[name]:
        value = another(recipe, fast_settings(recipe, **base), setting)
        if found(recorded.repeat, first, **{setting: value}) != plain[first]:
            continue
        for kind in others:
            plain[kind] = plain.get(kind) or found(recorded.repeat, kind)
        assert any(
            found(recorded.repeat, kind, **{setting: value}) != plain[kind] for kind in others
        ), f"{setting} = {value} changes nothing"


# --- teachers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in STUDENT])
def test_a_teacher_is_fitted_on_others_that_stay_and_is_read_back(
    name: str, tmp_path: Path, tiny_encoder: Encoder, teachers: dict[str, Teacher]
) -> None:
    recipe = RECIPES[name]
    task = a_task(tmp_path / "run", tiny_encoder)
    settings = fast_settings(recipe)
    given = arguments(recipe, task, tiny_encoder, teachers, "", settings)
    before = {kind: teacher.digest for kind, teacher in teachers.items()}
    teacher = recipe.function(*given, settings)
    assert {kind: each.digest for kind, each in teachers.items()} == before
    assert name == f"teacher_{teacher.kind}"
    teacher.save(tmp_path / "saved", card="# card\n", stage="teacher")
    assert load_teacher(str(tmp_path / "saved")).digest == teacher.digest


def test_the_command_line_lists_every_recipe() -> None:
    listed = json.loads(CliRunner().invoke(app, ["recipes", "--json"]).stdout)
    assert [entry["name"] for entry in listed] == list(ALL)
    for entry in listed:
        fields = ALL[entry["name"]].settings.model_fields
        assert [setting["name"] for setting in entry["settings"]] == list(fields)
