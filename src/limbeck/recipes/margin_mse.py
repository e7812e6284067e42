"""Margin-MSE: the student keeps the teacher's score differences. Hofstaetter et al. 2020,
arXiv:2010.02666, eq. 5.

    L = MSE( beta (s(q,p+) - s(q,p-)),  t(q,p+) - t(q,p-) )     raw scores, no softmax

Departures: every negative of the list is compared with the positive, where the paper has one; beta
brings cosines, which lie in [-1, 1], to the size of a ranker's logits (1 where the teacher's scores
are cosines too); an unlabelled training query compares with the teacher's first choice.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field

from limbeck.models.encoder import Encoder
from limbeck.objectives.pairwise import margin_mse as margin_mse_loss
from limbeck.recipes.registry import recipe
from limbeck.similarity import softmax_temperature
from limbeck.sources import ListSource
from limbeck.tasks.retrieval import ListSettings, Retrieval
from limbeck.tasks.retrieval.fitting import train_taught
from limbeck.teachers import Teacher
from limbeck.types import Loss, Signals


class MarginMSESettings(ListSettings):
    """Settings of `margin_mse`."""

    list_length: int = Field(8, ge=2, description="passages drawn for each query of a step")
    absolute_margin: float | None = Field(
        None,
        description="candidates of a judged query that the teacher scores above its positive minus "
        "this are never its negatives; none = all may be",
    )
    scale: float | None = Field(
        None,
        gt=0,
        description="beta: multiplies similarities; none = what brings them to the teacher's "
        "units: for cosines 1 to cosines, 20 to logits, 6 to an ensemble, 6 deviations to scores "
        "from a file",
    )


@recipe(
    "margin_mse",
    summary="The teacher's score differences between a positive and other candidates.",
    paper="Hofstaetter et al. 2020, arXiv:2010.02666",
    settings=MarginMSESettings,
    needs=frozenset({"teacher", "queries"}),
)
def margin_mse(
    task: Retrieval, teacher: Teacher, student: Encoder, settings: MarginMSESettings
) -> None:
    """Train the student in place."""
    # 1. Candidates of all training queries: by words, and by the teacher's vectors or the base's;
    # of scores from a file, its pairs.
    pools = task.training_pools(teacher, depth=settings.candidates_per_query)
    # 2. The teacher's raw scores of every list, once.
    lists = task.lists(
        pools, negatives_from=settings.range_min, teacher=teacher, margin=settings.absolute_margin
    )
    source = ListSource(lists, settings.batch_size, settings.list_length, task.run.seed)
    # 3. The equation.
    scale = settings.scale or teacher.temperature / softmax_temperature(student.similarity)

    def loss(signals: Signals) -> Loss:
        student = signals.scores["student"]
        first = torch.zeros_like(student.target)  # judged or not, the first slot is compared
        scaled = replace(student, values=scale * student.values, target=first)
        return Loss({"margin_mse": margin_mse_loss(signals.scores["teacher"], scaled)})

    train_taught(task, "margin_mse", student, teacher, source, loss, settings)
