"""A dual encoder fine-tuned on the judged queries, to teach smaller ones.

    L = -(1/B) sum_b log softmax(s_b / tau)[p_b]

over all passages of the update: positives, mined negatives and those of the other queries, after
Karpukhin et al. 2020, arXiv:2004.04906, section 3. Negatives are mined by words and by the encoder
before it is fine-tuned.
"""

from __future__ import annotations

from pydantic import Field

from limbeck.models.encoder import Encoder
from limbeck.recipes.registry import recipe
from limbeck.similarity import softmax_temperature
from limbeck.sources import ListSource
from limbeck.tasks.retrieval import ListSettings, Retrieval
from limbeck.tasks.retrieval.fitting import train_contrastive
from limbeck.teachers import DualTeacher


class DualSettings(ListSettings):
    """Settings of `teacher_dual`."""

    learning_rate: float = Field(1e-4, gt=0, description="peak of the learning rate")
    temperature: float | None = Field(
        None,
        gt=0,
        description="divides similarities before the softmax; none = 0.05 for cosines, 1 for dot "
        "products",
    )


@recipe(
    "teacher_dual",
    summary="Fits a teacher: a dual encoder on judged queries with mined and in-batch negatives.",
    paper="Karpukhin et al. 2020, arXiv:2004.04906",
    settings=DualSettings,
    needs=frozenset({"labels"}),
    makes="teacher",
)
def teacher_dual(task: Retrieval, encoder: Encoder, settings: DualSettings) -> DualTeacher:
    """The fitted teacher; the encoder is trained in place."""
    # 1. Candidates of the judged queries, by words and by the encoder as it comes.
    pools = task.pools(
        task.labelled_queries(), depth=settings.candidates_per_query, miner=task.base
    )
    # 2. One positive and some mined negatives per query.
    lists = task.lists(pools, negatives_from=settings.range_min)
    source = ListSource(lists, settings.batch_size, settings.list_length, task.run.seed)
    # 3. The equation.
    temperature = settings.temperature or softmax_temperature(encoder.similarity)
    train_contrastive(task, "teacher_dual", encoder, source, settings, temperature, makes="teacher")
    return DualTeacher("dual", encoder)
