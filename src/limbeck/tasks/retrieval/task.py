"""What does a recipe work on that makes a retriever?

One object holds what every retrieval recipe needs of one collection in one run: what is there and
what teachers say of it, lists for its queries, measures and training. It knows no recipe, no
scorer and no loss.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from limbeck.data.collection import Collection
from limbeck.models.encoder import Encoder
from limbeck.settings import Settings
from limbeck.tasks import fit
from limbeck.tasks.fit import Examples, TrainingSettings, default_updates
from limbeck.tasks.retrieval import systems
from limbeck.tasks.retrieval.lists import Listing
from limbeck.tasks.retrieval.measures import Measuring
from limbeck.tasks.retrieval.pairing import Pairing
from limbeck.tasks.retrieval.teaching import check_teacher, combine
from limbeck.tasks.rows import Rows
from limbeck.tasks.task import Checked, Combined, Measured, Task
from limbeck.teachers import Teacher
from limbeck.training import Player, Trained, Turn
from limbeck.types import Split


class ShownSettings(Settings):
    """Settings that decide which queries and passages an update shows."""

    batch_size: int = Field(64, ge=1, description="queries in one step")
    list_length: int = Field(4, ge=2, description="passages drawn for each query of a step")
    candidates_per_query: int = Field(
        32, ge=2, description="candidates kept per query after merging all miners"
    )
    range_min: int = Field(
        0, ge=0, description="candidates of a judged query before this rank are never its negatives"
    )


class ListSettings(ShownSettings, TrainingSettings):
    """Settings shared by all recipes over lists: those that show queries with lists of passages."""


@dataclass
class Retrieval(Listing, Measuring, Pairing, Task):
    """One collection in one run, for recipes to work on."""

    @property
    def data(self) -> Collection:
        """The collection."""
        return self.collection

    def reference_systems(self, split: Split) -> list[Measured]:
        """BM25, and the encoders as they come that the student and teachers are made from."""
        return [
            self.measure_bm25(split),
            self.measure_teacher("zero_shot", self.base, split),
            *(
                self.measure_teacher(f"zero_shot/{name}", base, split)
                for name, base in self.bases.items()
            ),
        ]

    def beside(self, split: Split) -> list[Measured]:
        """BM25."""
        return [self.measure_bm25(split)]

    def measure(self, name: str, system: Encoder | Teacher, split: Split) -> Measured:
        """An encoder or a teacher on a split."""
        if isinstance(system, Encoder):
            return self.measure_encoder(name, system, split)
        return self.measure_teacher(name, system, split)

    def unmeasured(self, teacher: Teacher, split: Split) -> str | None:
        """Why a teacher cannot be measured on a split, in words; None when it can."""
        return systems.unmeasured(self, teacher, split)

    def check_teacher(self, teacher: Teacher, settings: Settings) -> Checked:
        """Check a teacher by its scores of candidates."""
        return check_teacher(self, teacher, settings.model_dump().get("teacher_temperature"))

    def combine(self, teachers: Sequence[Teacher], weights: Sequence[float]) -> Combined:
        """Several teachers as their weighted mean, each on one scale; one alone as it is."""
        return combine(self, teachers, weights)

    def from_base(self, base: str | None) -> tuple[Self, Encoder]:
        """The task whose base mines, and a copy of that base's encoder."""
        task = self if base is None else self.on_base(self.bases[base], base)
        return task, copy.deepcopy(task.base.encoder)

    def named(self, teacher: Teacher, name: str) -> Teacher:
        """The teacher under a name; itself where it has that, with the digest that it knows."""
        return teacher if teacher.name == name else teacher.renamed(name)

    def alone(self, settings: Settings, recipe: type[Settings]) -> Any:
        """Settings that a recipe shares with the student's, but for the temperature, which has
        another meaning in every loss; as many updates, though of fewer queries.
        """
        own = settings.model_dump(exclude_unset=True, exclude_none=True)
        shared = {key: value for key, value in own.items() if key in recipe.model_fields}
        shared.pop("temperature", None)
        found = recipe(**shared)
        if isinstance(found, ListSettings) and found.max_steps is None:
            passes = len(self.training_queries()) / found.batch_size
            found = found.model_copy(update={"max_steps": default_updates(passes)})
        return found

    def rows(self, student: Encoder, teacher: Teacher | None) -> Rows:
        """A row per training query, whose alternatives are the passages of its list."""
        from limbeck.tasks.retrieval.rows import ListRows

        return ListRows(self, student, teacher)

    def write_results(self, out: Path, systems_: Sequence[Measured]) -> None:
        """Write one TREC run per system."""
        systems.write_runs(self.run.folder, out, systems_)

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
        """Train players in place, with their state from earlier stages: one stage of one turn.

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
                **self.derived_inputs,
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
