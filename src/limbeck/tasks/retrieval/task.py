"""What does a recipe work on that makes a retriever?

One object holds what every retrieval recipe needs of one collection in one run: what is there and
what teachers say of it, lists for its queries, measures and training. It knows no recipe, no
scorer and no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from limbeck.models.encoder import Encoder
from limbeck.tasks import fit
from limbeck.tasks.fit import Examples, TrainingSettings
from limbeck.tasks.retrieval import systems
from limbeck.tasks.retrieval.lists import Listing
from limbeck.tasks.retrieval.measures import Measuring
from limbeck.tasks.retrieval.systems import Measured
from limbeck.teachers import Teacher
from limbeck.training import Player, Trained, Turn
from limbeck.types import Split


class ListSettings(TrainingSettings):
    """What recipes decide that show queries with lists of passages."""

    queries_per_update: int = Field(64, ge=1, description="queries in one update")
    list_length: int = Field(4, ge=2, description="passages drawn for each query of an update")
    depth: int = Field(32, ge=2, description="candidates kept per query after merging all miners")
    first_rank: int = Field(
        0, ge=0, description="candidates of a judged query before this rank are never its negatives"
    )


@dataclass
class Retrieval(Listing, Measuring):
    """One collection in one run, for recipes to work on."""

    def train_stage(
        self,
        name: str,
        players: Sequence[Player],
        source: Examples,
        turn: Turn,
        updates: int,
        settings: TrainingSettings,
        *,
        parts: Player | None = None,
    ) -> Trained:
        """Train players in place, with what they carry from earlier stages: one stage of one turn.

        The first player is measured on dev. What the signals depend on besides weights and examples
        (a teacher's vectors, the collection's texts, the models' prompts and lengths) is part of
        the stage's inputs: a stage begun with another teacher is refused.
        """
        trained = fit.train_stage(
            self.run,
            f"{name}{self.suffix}",
            players,
            source,
            turn,
            updates,
            settings,
            inputs={
                "collection": self.collection.digest,
                **({"candidates": [each.digest for each in self.given]} if self.given else {}),
            },
            measure=self.dev_measure(settings, updates, players[0]),
            parts=parts,
        )
        self.trained.append(trained)
        return trained

    def measure_bm25(self, split: Split) -> Measured:
        """BM25 over the whole collection."""
        return systems.measure_bm25(self, split)

    def measure_encoder(self, name: str, encoder: Encoder, split: Split) -> Measured:
        """An encoder as first stage over the whole collection."""
        return systems.measure_encoder(self, name, encoder, split)

    def measure_teacher(self, name: str, teacher: Teacher, split: Split) -> Measured:
        """A teacher: first stage when it is one encoder, else re-ranking pooled candidates."""
        return systems.measure_teacher(self, name, teacher, split)
