"""How is one model fitted, in one stage?

Pieces that several recipes are built of: a retriever by its judged positives, a ranker by the same,
a student by a teacher and a loss, an ensemble's weights by dev. Where lists come from, and what a
loss says, is the recipes' business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field

from limbeck.candidates import Candidates
from limbeck.models.encoder import Encoder, Ranker
from limbeck.objectives.listwise import cross_entropy
from limbeck.sources import ListSource, PairSource
from limbeck.tasks.fit import AT_THE_END, TrainingSettings, train_model, updates_of
from limbeck.tasks.retrieval.scorers import cross, dual, paired, taught
from limbeck.tasks.retrieval.task import ListSettings, Retrieval
from limbeck.teachers import CrossTeacher, DualTeacher, EnsembleTeacher, Teacher
from limbeck.training import Trained, Turn, forward, frozen_player
from limbeck.types import Loss, Makes, Signals


class WarmedSettings(ListSettings):
    """Settings shared by recipes of several stages, of which the first warms the student up."""

    max_steps: int | None = Field(
        None, ge=1, description="the student's steps over all stages; none = 10 passes, 40 to 300"
    )
    eval_steps: int | None = Field(
        None,
        ge=0,
        description="steps between evaluations on dev, a stage's last step always being one; "
        "none = only that one, 0 = never",
    )
    list_length: int = Field(8, ge=2, description="passages drawn for each query of a step")
    temperature: float | None = Field(
        None,
        gt=0,
        description="divides the student's similarities; none = 0.05 for cosines, 1 for dot "
        "products",
    )
    warmup_share: float = Field(
        0.3, gt=0, le=0.5, description="share of the student's steps before it is taught"
    )

    def eval_every(self, steps: int) -> int:
        """Steps between evaluations on dev in a stage of so many steps; 0 = never."""
        return steps if self.eval_steps is None else self.eval_steps

    def of_stage(self, steps: int | None, rate: float, keep: Literal["best", "last"]) -> Self:
        """The same for one stage: its steps, its learning rate, the weights it ends with."""
        changes = {
            "max_steps": steps,
            "learning_rate": rate,
            "keep": keep,
            "eval_steps": (steps or AT_THE_END) if self.eval_steps is None else self.eval_steps,
        }
        return self.model_copy(update=changes)


class StagedSettings(WarmedSettings):
    """Settings shared by those of them that fit their own teachers."""

    teacher_max_steps: int | None = Field(
        None, ge=2, description="steps of each fitted teacher; none = 10 passes, 40 to 300"
    )
    teacher_learning_rate: float = Field(1e-4, gt=0, description="peak of a fitted teacher's rate")
    ranker_batch_size: int = Field(16, ge=1, description="queries in one step of a cross-encoder")


class _PairContrast(TrainingSettings):
    """All that `train_on_pairs` depends on but for its pairs."""

    temperature: float


class _Contrast(ListSettings):
    """All that `train_contrastive` depends on but for its lists, whichever recipe calls it."""

    temperature: float


def common(settings: ListSettings) -> ListSettings:
    """Settings shared by all recipes over lists, without those that this one adds: for a loss that
    needs none of them, so that a stage is the same whatever recipe it is part of.
    """
    return ListSettings(**_common(settings))


def _common(settings: ListSettings) -> dict[str, Any]:
    return settings.model_dump(include=set(ListSettings.model_fields))


def train_contrastive(
    task: Retrieval,
    name: str,
    encoder: Encoder,
    source: ListSource,
    settings: ListSettings,
    temperature: float,
    *,
    makes: Makes,
) -> Trained:
    """Train an encoder in place: L = -(1/B) sum_b log softmax(s_b / temperature)[p_b] over all
    passages of the update, its own positive, its mined negatives and those of the other queries.

    Source: Karpukhin et al. 2020, arXiv:2004.04906, section 3.
    """

    def loss(signals: Signals) -> Loss:
        return Loss({"contrastive": cross_entropy(signals.scores["student/in_batch"], temperature)})

    turn = Turn(forward(dual(task, "student", encoder)), loss, trains=frozenset({"student"}))
    given = _Contrast(**_common(settings), temperature=temperature)
    return train_model(task, name, encoder, source, turn, given, makes=makes)


def train_on_pairs(
    task: Retrieval,
    name: str,
    encoder: Encoder,
    source: PairSource,
    settings: TrainingSettings,
    temperature: float,
    *,
    makes: Makes,
) -> Trained:
    """Train an encoder in place on weak pairs: L = -(1/B) sum_i log softmax(s_i / temperature)[i],
    where the passages of all pairs of the update are the alternatives of each query.

    Source: Wang et al. 2022, arXiv:2212.03533, section 3.2.
    """

    def loss(signals: Signals) -> Loss:
        return Loss({"contrastive": cross_entropy(signals.scores["student/in_batch"], temperature)})

    turn = Turn(forward(paired(task, "student", encoder)), loss, trains=frozenset({"student"}))
    shared = settings.model_dump(include=set(TrainingSettings.model_fields))
    given = _PairContrast(**shared, temperature=temperature)
    return train_model(task, name, encoder, source, turn, given, makes=makes)


def train_listwise(
    task: Retrieval, name: str, ranker: Ranker, source: ListSource, settings: ListSettings
) -> Trained:
    """Train a ranker, a teacher, in place: L = -(1/B) sum_b log softmax(s_b)[0] over each query's
    own list.

    Source: Gao et al. 2021, arXiv:2101.08751, eq. 2.
    """

    def loss(signals: Signals) -> Loss:
        return Loss({"listwise": cross_entropy(signals.scores["student"])})

    turn = Turn(forward(cross(task, "student", ranker)), loss, trains=frozenset({"student"}))
    return train_model(task, name, ranker, source, turn, common(settings), makes="teacher")


def train_taught(
    task: Retrieval,
    name: str,
    student: Encoder,
    teacher: Teacher,
    source: ListSource,
    loss: Callable[[Signals], Loss],
    settings: TrainingSettings,
    *,
    former: bool = False,
) -> Trained:
    """Train a student in place by a loss that reads `student` and `teacher`, both `/in_batch` too
    where the teacher has vectors, and `reference` where the student as it is now stands by, frozen.

    A teacher without vectors whose scores the lists do not carry yet is asked for what the source
    shows in this stage, and no more.
    """
    if not teacher.in_batch and "teacher" not in source.lists.scored_by:
        updates = updates_of(settings, source.updates_per_pass)
        source = task.scored(source, updates, "teacher", teacher)
    scorers, frozen = [dual(task, "student", student)], []
    if former:
        reference = student.frozen()
        scorers.append(dual(task, "reference", reference))
        frozen.append(frozen_player("reference", reference))
    scorers.append(taught(task, "teacher", teacher))
    turn = Turn(forward(*scorers), loss, trains=frozenset({"student"}))
    return train_model(task, name, student, source, turn, settings, frozen=frozen)


def fit_weights(
    task: Retrieval, by_vectors: DualTeacher, by_pairs: CrossTeacher, pools: Candidates
) -> EnsembleTeacher:
    """The ensemble of the two that ranks these pools of dev queries best (nDCG@10).

    Its weights are a pair (w, 1 - w) in steps of 0.1; on a tie the more even one.
    """
    pairs = task.pool_pairs(pools)
    scores = [task.pair_scores(member, pairs) for member in (by_vectors, by_pairs)]
    candidates = [
        EnsembleTeacher.fitted("ensemble", (by_vectors, by_pairs), (w, 1 - w), scores)
        for w in np.linspace(0.0, 1.0, 11).round(1).tolist()
    ]

    def worth(ensemble: EnsembleTeacher) -> tuple[float, float]:
        results = task.ranked(pools, ensemble.combine(scores))
        quality = task.quality(results, "dev")["nDCG@10"].to_numpy().mean()
        return float(quality), min(ensemble.weights)

    return max(candidates, key=worth)
