"""A cross-encoder fitted list-wise on what a fitted dual encoder finds.

    L = -(1/B) sum_b log softmax(s_b)[0]

over the query's own list: a positive in slot 0, then candidates that the dual encoder ranks high
(localised contrastive estimation, Gao et al. 2021, arXiv:2101.08751, eq. 2). The body starts from
the dual encoder's weights, the head is new.
"""

from __future__ import annotations

from pydantic import Field

from limbeck.models.layers import ranker_from_encoder
from limbeck.recipes.registry import recipe
from limbeck.sources import ListSource
from limbeck.tasks.retrieval import ListSettings, Retrieval
from limbeck.tasks.retrieval.fitting import train_listwise
from limbeck.teachers import CrossTeacher, DualTeacher


class CrossSettings(ListSettings):
    """Settings of `teacher_cross`."""

    learning_rate: float = Field(1e-4, gt=0, description="peak of the learning rate")
    batch_size: int = Field(32, ge=1, description="queries in one step")


@recipe(
    "teacher_cross",
    summary="Fits a teacher: a cross-encoder, list-wise on what the fitted dual encoder finds.",
    paper="Gao et al. 2021, arXiv:2101.08751",
    settings=CrossSettings,
    needs=frozenset({"labels"}),
    makes="teacher",
)
def teacher_cross(task: Retrieval, dual: DualTeacher, settings: CrossSettings) -> CrossTeacher:
    """The fitted teacher; the dual encoder stays as it is."""
    # 1. Candidates of the judged queries, by words and by the fitted dual encoder.
    pools = task.pools(task.labelled_queries(), depth=settings.candidates_per_query, miner=dual)
    lists = task.lists(pools, negatives_from=settings.range_min)
    source = ListSource(lists, settings.batch_size, settings.list_length, task.run.seed)
    # 2. The dual encoder's body under a new head.
    ranker = ranker_from_encoder(dual.encoder, task.run.seed)
    # 3. The equation.
    train_listwise(task, "teacher_cross", ranker, source, settings)
    return CrossTeacher("cross", ranker)
