"""What does a recipe work on that makes a retriever?

One object holds what every retrieval recipe needs of one collection in one run: what is there and
what teachers say of it, lists for its queries, forwards, measures and training. It knows no recipe
and no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from limbeck.sources import ListSource, TextSource
from limbeck.tasks import fit
from limbeck.tasks.fit import TrainingSettings
from limbeck.tasks.retrieval.lists import Listing
from limbeck.tasks.retrieval.measures import Measuring
from limbeck.tasks.retrieval.scorers import Scoring
from limbeck.teachers import Teacher
from limbeck.training import Player, Turn


class ListSettings(TrainingSettings):
    """What recipes decide that show queries with lists of passages."""

    queries_per_update: int = Field(64, ge=1, description="queries in one update")
    list_length: int = Field(4, ge=2, description="passages drawn for each query of an update")
    depth: int = Field(32, ge=2, description="candidates kept per query after merging all miners")
    first_rank: int = Field(
        0, ge=0, description="candidates of a judged query before this rank are never its negatives"
    )


@dataclass
class Retrieval(Listing, Scoring, Measuring):
    """One collection in one run, for recipes to work on."""

    def train_stage(
        self,
        name: str,
        players: Sequence[Player],
        source: ListSource | TextSource,
        turn: Turn,
        updates: int,
        settings: TrainingSettings,
        *,
        teacher: Teacher | None = None,
        needs: frozenset[str] = frozenset(),
        parts: Player | None = None,
    ) -> float | None:
        """Train players in place, with what they carry from earlier stages: one stage of one turn.

        The first player is measured on dev; the result is the value of the weights that it ends
        with, None where dev is never asked. What the signals depend on besides weights and examples
        (the teacher, the collection's texts, the models' prompts and lengths) is part of the
        stage's inputs: a stage begun with another teacher is refused.
        """
        stage = f"{name}{self.suffix}"
        value = fit.train_stage(
            self.run,
            stage,
            players,
            source,
            turn,
            updates,
            settings,
            inputs={
                "teacher": None if teacher is None else teacher.digest,
                "collection": self.collection.digest,
                **({"candidates": [each.digest for each in self.given]} if self.given else {}),
            },
            measure=self.dev_measure(settings, updates, players[0]),
            needs=needs,
            parts=parts,
        )
        self.trained.append(f"train-{stage}")
        return value
