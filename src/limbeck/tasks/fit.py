"""How is a model trained, whatever the task?

Settings of training, players that the optimiser moves, and one stage of one turn. What examples
are, what a forward makes of them and how good a model is, the task says; none of it is known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

from pydantic import Field
from torch import nn

from limbeck.errors import ConfigError
from limbeck.schedules import cosine, linear_warmup_decay, shared_out, stairs
from limbeck.settings import Settings
from limbeck.training import (
    Forward,
    Player,
    Run,
    Source,
    Stage,
    Trained,
    Turn,
    Validation,
    train,
    trained_player,
)
from limbeck.types import Makes

PASSES = 10  # over the training queries, when the number of steps is not given ...
MIN_STEPS, MAX_STEPS = 40, 300  # ... within these bounds
SPARE = 0.85  # share of a budget that is planned: probes are short and machines are shared
FEWEST_STEPS, MOST_STEPS = 30, 1000  # that a budget chooses
EVALUATIONS = 3  # on dev, when the steps between them are not given
AT_THE_END = 2**31 - 1  # eval_steps of stages that are measured on dev after their last step only


class TrainingSettings(Settings):
    """Settings shared by all recipes that train a model.

    `between` names settings that decide which stages there are and on which lists, and nothing
    within a stage.
    """

    between: ClassVar[frozenset[str]] = frozenset()

    max_steps: int | None = Field(
        None, ge=1, description="optimiser steps; none = 10 passes over its queries, 40 to 300"
    )
    learning_rate: float = Field(2e-4, gt=0, description="peak of the learning rate")
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="share of the steps spent warming up")
    schedule: Literal["linear", "cosine", "steps"] = Field(
        "linear",
        description="how the learning rate falls after its peak: in a line to 0, along a cosine to "
        "0, or to a tenth at 62.5, 75 and 87.5 percent of the steps",
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="AdamW, or SGD with a momentum of 0.9 (Nesterov's)"
    )
    weight_decay: float = Field(0.0, ge=0, description="the optimiser's decay of matrices")
    clip: float = Field(
        1.0, gt=0, description="largest norm of a model's gradient; above it, it is scaled down"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout while training")
    eval_steps: int | None = Field(
        None,
        ge=0,
        description="steps between evaluations on dev, the last step always being one; none = a "
        "third of all steps, 0 = never",
    )
    keep: Literal["best", "last"] = Field("best", description="which weights to keep, by dev")
    save_steps: int = Field(
        100, ge=1, description="steps between checkpoints: at most so many are lost to a kill"
    )

    def eval_every(self, steps: int) -> int:
        """Steps between evaluations on dev in a stage of so many steps; 0 = never."""
        return math.ceil(steps / EVALUATIONS) if self.eval_steps is None else self.eval_steps


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """Choices made by a budget; None where it has no say. `fits`: the kinds of teacher to fit."""

    max_steps: int | None = None
    teacher_max_steps: int | None = None
    list_length: int | None = None
    candidates_per_query: int | None = None
    fits: tuple[str, ...] | None = None


def steps_within(seconds: float, estimate: Callable[[int], float]) -> int:
    """Number of steps that a run may make in so many seconds, between `FEWEST_STEPS` and
    `MOST_STEPS`; 0 when not even the fewest fit.

    `estimate` gives the seconds of a run of so many steps, which grow by the same for every step.

    Example:
        >>> steps_within(100, lambda steps: 25 + 0.5 * steps), steps_within(40, lambda n: 25 + n)
        (120, 0)
    """
    least = estimate(FEWEST_STEPS)
    left = SPARE * seconds - least
    if left < 0:
        return 0
    more = estimate(MOST_STEPS) - least
    share = left / more if more > left else 1.0
    return FEWEST_STEPS + int(share * (MOST_STEPS - FEWEST_STEPS))


@runtime_checkable
class Trainable(Protocol):
    """Interface of a model to the stage that trains it."""

    def digests(self) -> list[str]:
        """Digests of everything its outputs depend on besides weights and inputs."""

    def plain_attention(self) -> AbstractContextManager[None]:
        """The attention kernel that training uses, as long as the context lasts."""


class Examples(Source, Protocol):
    """A source that knows how many updates see each of its examples once, and how many it lacks."""

    @property
    def updates_per_pass(self) -> float:
        """Number of updates in one pass over all examples."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """Numbers of examples that rules left out, by reason."""


class Trainer(Protocol):
    """A task: it trains one stage, and adds its own inputs of the stage and its measure on dev."""

    def train_stage(
        self,
        name: str,
        players: Sequence[Player],
        source: Examples,
        turn: Turn | Sequence[Turn],
        updates: int,
        settings: TrainingSettings,
        *,
        parts: Player | None = None,
    ) -> Trained:
        """Train players in place; the first one is measured on dev."""


def updates_of(settings: TrainingSettings, updates_per_pass: float) -> int:
    """Number of steps that settings stand for, given how many see every example once."""
    return settings.max_steps or default_updates(updates_per_pass)


def default_updates(updates_per_pass: float) -> int:
    """Default number of steps: `PASSES` passes, within bounds."""
    return min(max(math.ceil(PASSES * updates_per_pass), MIN_STEPS), MAX_STEPS)


def turns_of(turn: Turn | Sequence[Turn]) -> Sequence[Turn]:
    """The turns of a stage, where one may be given alone."""
    return [turn] if isinstance(turn, Turn) else turn


def share_updates(updates: int, shares: Sequence[float]) -> list[int]:
    """Share out updates among stages by `shared_out`, where the number was given as an option.

    Raises:
        ConfigError: when there are fewer updates than stages.
    """
    try:
        return shared_out(updates, shares)
    except ValueError as error:
        raise ConfigError(f"{error}. Ask for more with --set max_steps=...") from error


def player(
    name: str,
    module: nn.Module,
    settings: TrainingSettings,
    updates: int,
    *,
    makes: Makes | None = "student",
) -> Player:
    """A player whose learning rate rises, and ends at 0 after `updates` steps over all stages.

    Its dropout becomes that of the settings. `makes` says what it is to become.
    """
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = settings.dropout
    falls = {"linear": linear_warmup_decay, "cosine": cosine, "steps": stairs}[settings.schedule]
    return trained_player(
        name,
        module,
        learning_rate=settings.learning_rate,
        schedule=falls(int(settings.warmup_ratio * updates), updates),
        weight_decay=settings.weight_decay,
        optimizer=settings.optimizer,
        makes=makes,
    )


def train_model(
    task: Trainer,
    name: str,
    model: nn.Module,
    source: Examples,
    turn: Turn | Sequence[Turn],
    settings: TrainingSettings,
    *,
    makes: Makes = "student",
    parts: nn.Module | None = None,
    parts_learning_rate: float | None = None,
    frozen: Sequence[Player] = (),
) -> Trained:
    """Train the player `student` (and `parts`) in place, beside frozen players: one stage of one
    turn. The player has this name whatever it is to become, since its dropout is seeded by it.
    """
    updates = updates_of(settings, source.updates_per_pass)
    of_parts = settings
    if parts_learning_rate is not None:
        of_parts = settings.model_copy(update={"learning_rate": parts_learning_rate})
    return task.train_stage(
        name,
        [player("student", model, settings, updates, makes=makes), *frozen],
        source,
        turn,
        updates,
        settings,
        parts=None if parts is None else player("parts", parts, of_parts, updates, makes=None),
    )


def train_stage(
    run: Run,
    name: str,
    players: Sequence[Player],
    source: Examples,
    turn: Turn | Sequence[Turn],
    updates: int,
    settings: TrainingSettings,
    *,
    inputs: Mapping[str, object],
    measure: Validation | None,
    parts: Player | None = None,
) -> Trained:
    """Train players in place, with their state from earlier stages: one stage of one turn, or of
    several.

    `inputs` are what the task's examples and signals depend on besides the players, the source and
    the forward's own inputs: a stage begun with other ones is refused.
    """
    models = [player.model for player in players if isinstance(player.model, Trainable)]
    turns = turns_of(turn)
    forwards = [each.forward for each in turns if isinstance(each.forward, Forward)]
    stage = Stage(
        f"train-{name}",
        players,
        source,
        turns,
        updates,
        parts=parts,
        settings={
            **settings.model_dump(exclude=set(settings.between)),
            "models": [model.digests() for model in models],
            "signals": {name: value for each in forwards for name, value in each.inputs.items()},
            **inputs,
        },
        measure=measure,
        clip=settings.clip,
    )
    with ExitStack() as attention:
        for model in models:
            attention.enter_context(model.plain_attention())
        trained = train(stage, replace(run, save_steps=settings.save_steps))
    return replace(trained, dropped=source.dropped)
