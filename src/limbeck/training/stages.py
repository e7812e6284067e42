"""What is one stage of training: who plays, from which examples, by which losses, how long?

A stage is a description; `limbeck.training.loop.train` carries it out. It is checked when it is
built: a turn that trains an unknown or frozen player, or two scorers of one name, are refused
before anything runs. It knows no task and no method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from limbeck.errors import StageError
from limbeck.types import Loss, Scores, Signals

if TYPE_CHECKING:
    from limbeck.training.passes import Pass
    from limbeck.training.players import Player


class Source(Protocol):
    """Source of examples: a pure function of the update's number."""

    @property
    def digest(self) -> str:
        """Digest of everything the examples depend on, so that a stage is never resumed on other
        data.
        """

    def batch(self, update: int) -> Any:
        """The examples of one update; the same number always gives the same batch."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores of the examples of an update by one model, teacher or file.

    `scores(update, batch)` gives the scores named in `gives`: `NAME`, `NAME/in_batch`,
    `NAME/layer/3` ... `inputs` (JSON-able) are what they depend on besides players and batch.
    """

    name: str
    gives: frozenset[str]
    scores: Callable[[Pass, Any], dict[str, Scores]]
    inputs: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Forward:
    """A forward pass: the signals of a batch. `inputs` as in `Scorer`, by scorer."""

    signals: Callable[[Pass, Any], Signals]
    gives: frozenset[str] = frozenset()
    inputs: Mapping[str, object] = field(default_factory=dict)

    def __call__(self, update: Pass, batch: Any) -> Signals:
        """The signals of a batch in an update."""
        return self.signals(update, batch)


def forward(*scorers: Scorer) -> Forward:
    """The forward pass in which these scorers score each batch, in this order.

    Raises:
        StageError: when two scorers give scores of one name.
    """
    gives = [name for scorer in scorers for name in scorer.gives]
    if twice := sorted({name for name in gives if gives.count(name) > 1}):
        raise StageError(f"Two scorers of one forward give the scores {twice}. Name them apart.")

    def signals(update: Pass, batch: Any) -> Signals:
        scores: dict[str, Scores] = {}
        for scorer in scorers:
            scores |= scorer.scores(update, batch)
        return Signals(scores, progress=update.progress, step=update.step)

    inputs = {scorer.name: dict(scorer.inputs) for scorer in scorers if scorer.inputs}
    return Forward(signals, frozenset(gives), inputs)


@dataclass(frozen=True, slots=True)
class Turn:
    """One backward pass: how signals are made, the loss on them, and which players learn from it.

    Every `every`-th update takes this turn, the first one included.
    """

    forward: Callable[[Pass, Any], Signals]
    loss: Callable[[Signals], Loss]
    trains: frozenset[str]
    every: int = 1


@dataclass(frozen=True, slots=True)
class Validation:
    """How a stage's quality is measured while it trains. Higher is better; asked every `every`
    updates and at the end.

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
    `settings` (JSON-able) joins the digest of the stage, so a folder made with other settings is
    not taken for this one. `clip` is the largest gradient norm of each trained player.
    """

    name: str
    players: Sequence[Player]
    source: Source
    turns: Sequence[Turn]
    updates: int
    parts: Player | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    measure: Validation | None = None
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

    @property
    def everyone(self) -> list[Player]:
        """All players, the parts last."""
        return [*self.players, *([self.parts] if self.parts is not None else [])]
