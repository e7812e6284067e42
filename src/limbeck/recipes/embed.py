"""Regression on the teacher's vectors. Reimers and Gurevych 2020, arXiv:2004.09813, eq. 1, for one
language; Kim et al. 2023 (EmbedDistill), arXiv:2301.12005, section 4.2.

    L = (1/n) sum_i ( 1 - cos( W s_i, t_i ) )

s_i and t_i are the student's and the teacher's vectors of text i, a training query or a passage.
No list and no judgement is needed, and no query either: passages alone will do.

Departures: cosine distance, since only directions matter for cosine search; W is the identity when
the widths agree, else a linear map that is trained beside the student and not exported.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import nn

from limbeck.models.encoder import Encoder
from limbeck.objectives.embedding import cosine_distance
from limbeck.recipes.registry import recipe
from limbeck.sources import TextSource
from limbeck.tasks.fit import TrainingSettings, train_model
from limbeck.tasks.retrieval import Retrieval
from limbeck.tasks.retrieval.scorers import embeddings
from limbeck.teachers import Teacher
from limbeck.training import Turn
from limbeck.types import Loss, Signals


class EmbedSettings(TrainingSettings):
    """Settings of `embed`."""

    texts_per_step: int = Field(
        320, ge=1, description="queries and passages in one step, shuffled together"
    )


@recipe(
    "embed",
    summary="The teacher's vectors of queries and passages, without lists or judgements.",
    paper="Reimers and Gurevych 2020, arXiv:2004.09813; Kim et al. 2023, arXiv:2301.12005",
    settings=EmbedSettings,
    needs=frozenset({"teacher", "vectors"}),
)
def embed(task: Retrieval, teacher: Teacher, student: Encoder, settings: EmbedSettings) -> None:
    """Train the student in place."""
    # 1. All training queries and all passages, in one shuffled stream.
    queries = task.training_queries().astype(np.int64)
    passages = np.arange(len(task.collection.passages))
    source = TextSource(queries, passages, settings.texts_per_step, task.run.seed)
    # 2. A map between the widths, where they differ.
    forward, width = embeddings(task, student, teacher)
    bridge = None
    if width != student.dimension:
        with torch.random.fork_rng():
            torch.manual_seed(task.run.seed)
            bridge = nn.Linear(student.dimension, width, bias=False)

    # 3. The equation.
    def loss(signals: Signals) -> Loss:
        taught, own = signals.embeddings["teacher"], signals.embeddings["student"]
        mapped = own if bridge is None else bridge(own)
        return Loss({"embed": cosine_distance(taught, mapped)})

    learners = frozenset({"student"} if bridge is None else {"student", "parts"})
    turn = Turn(forward, loss, trains=learners)
    train_model(task, "embed", student, source, turn, settings, parts=bridge)
