"""Contrastive training on judged queries: the baseline that every distillation has to beat.

    L = -(1/B) sum_b log softmax(s_b / tau)[p_b]      (InfoNCE, van den Oord et al. 2018, eq. 4)

s_b are the student's similarities of query b with every passage of the update: its own positive
p_b, its own mined negatives, and those of all other queries (Karpukhin et al. 2020,
arXiv:2004.04906, section 3.2, with more than one mined negative). No teacher is involved.

Departures: other positives of the row are masked, since they are no negatives.
"""

from __future__ import annotations

from pydantic import Field

from limbeck.models.encoder import Encoder
from limbeck.recipes.registry import recipe
from limbeck.similarity import softmax_temperature
from limbeck.sources import ListSource
from limbeck.tasks.retrieval import ListSettings, Retrieval
from limbeck.tasks.retrieval.fitting import train_contrastive


class ContrastiveSettings(ListSettings):
    """Settings of `contrastive`."""

    temperature: float | None = Field(
        None,
        gt=0,
        description="divides similarities before the softmax; none = 0.05 for cosines, 1 for dot "
        "products",
    )


@recipe(
    "contrastive",
    summary="Judged positives against mined and in-batch negatives, without a teacher.",
    paper="van den Oord et al. 2018, arXiv:1807.03748; Karpukhin et al. 2020, arXiv:2004.04906",
    settings=ContrastiveSettings,
    needs=frozenset({"labels"}),
)
def contrastive(
    task: Retrieval, teacher: object, student: Encoder, settings: ContrastiveSettings
) -> None:
    """Train the student in place."""
    # 1. Candidates of the judged queries, by words and by the base encoder.
    pools = task.pools(
        task.labelled_queries(), depth=settings.candidates_per_query, miner=task.base
    )
    # 2. One positive and some mined negatives per query; every passage serves every query.
    lists = task.lists(pools, negatives_from=settings.range_min)
    source = ListSource(lists, settings.batch_size, settings.list_length, task.run.seed)
    # 3. The equation.
    temperature = settings.temperature or softmax_temperature(student.similarity)
    train_contrastive(task, "contrastive", student, source, settings, temperature, makes="student")
