"""What is one stage of training: who plays, from which examples, by which losses, how long?

A stage is a description; `limbeck.training.loop.train` carries it out. It is checked when it is
built: a turn that trains an unknown or frozen player, or a stage that asks for signals that no
forward declares, is refused before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from limbeck.errors import StageError
from limbeck.types import Loss, Signals

if TYPE_CHECKING:
    from limbeck.training.passes import Pass
    from limbeck.training.players import Player


class Source(Protocol):
    """Where examples come from: a pure function of the update's number."""

    @property
    def digest(self) -> str:
        """What the examples depend on, so that a stage is never resumed on other data."""

    def batch(self, update: int) -> Any:
        """The examples of one update; the same number always gives the same batch."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One backward pass: how signals are made, what is wrong with them, and who learns from it.

    `gives` names the scores and embeddings that `forward` makes. Every `every`-th update takes
    this turn, the first one included.
    """

    forward: Callable[[Pass, Any], Signals]
    loss: Callable[[Signals], Loss]
    trains: frozenset[str]
    gives: frozenset[str] = frozenset()
    every: int = 1


@dataclass(frozen=True, slots=True)
class Measure:
    """How good is the stage so far? Higher is better; asked every `every` updates and at the end.

    `keep` says which weights the stage ends with: the best measured ones, or the last.
    """

    name: str
    value: Callable[[Mapping[str, Player]], float]
    player: str
    every: int
    keep: Literal["best", "last"] = "best"


@dataclass(frozen=True, slots=True)
class Stage:
    """Players, a source of examples and the turns they take, for a number of updates.

    `parts` is a player that is trained but never exported (a learned temperature, an adapter).
    `needs` names signals that the losses read. `settings` (JSON-able) joins the digest of the
    stage, so a folder made with other settings is not taken for this one. `clip` is the largest
    gradient norm of each trained player.
    """

    name: str
    players: Sequence[Player]
    source: Source
    turns: Sequence[Turn]
    updates: int
    parts: Player | None = None
    needs: frozenset[str] = frozenset()
    settings: Mapping[str, object] = field(default_factory=dict)
    measure: Measure | None = None
    clip: float = 1.0

    def __post_init__(self) -> None:
        names = [player.name for player in self.everyone]
        if len(set(names)) < len(names):
            raise StageError(f"Stage {self.name!r} has two players of one name: {names}.")
        trainable = {p.name for p in self.everyone if p.optimizer is not None}
        for number, turn in enumerate(self.turns):
            if unknown := turn.trains - trainable:
                raise StageError(
                    f"Turn {number} of stage {self.name!r} trains {sorted(unknown)}, but only "
                    f"{sorted(trainable)} have an optimiser."
                )
        given = frozenset().union(*(turn.gives for turn in self.turns))
        if missing := self.needs - given:
            raise StageError(
                f"Stage {self.name!r} needs the signals {sorted(missing)}, but its turns only give "
                f"{sorted(given)}. Use a teacher or a setting that gives them."
            )

    @property
    def everyone(self) -> list[Player]:
        """All players, the parts last."""
        return [*self.players, *([self.parts] if self.parts is not None else [])]
