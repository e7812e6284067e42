"""A dual encoder and a cross-encoder that teach together, as the ensembles of Hofstaetter et al.
2020, arXiv:2010.02666, section 3.3, do.

    t(q, p) = sum_i w_i (t_i(q, p) - mean_i) / deviation_i

Means and deviations are those of each member on the pooled candidates of dev; the weights are the
pair (w, 1 - w), in steps of 0.1, that ranks these candidates best (nDCG@10; on a tie the more even
pair).

Departures: members are brought to one scale and weighted, where the paper takes a plain mean of
rankers whose scores share a unit.
"""

from __future__ import annotations

from pydantic import Field

from limbeck.errors import ConfigError
from limbeck.recipes.registry import recipe
from limbeck.settings import Settings
from limbeck.tasks.retrieval import Retrieval
from limbeck.tasks.retrieval.fitting import fit_weights
from limbeck.teachers import CrossTeacher, DualTeacher, EnsembleTeacher


class EnsembleSettings(Settings):
    """Settings of `teacher_ensemble`."""

    candidates_per_query: int = Field(
        32, ge=2, description="candidates per dev query that weights are fitted on"
    )


@recipe(
    "teacher_ensemble",
    summary="Fits a teacher: a weighted sum of the dual and the cross-encoder, weights from dev.",
    paper="Ensembles as in Hofstaetter et al. 2020, arXiv:2010.02666, section 3.3",
    settings=EnsembleSettings,
    needs=frozenset({"labels", "dev"}),
    makes="teacher",
)
def teacher_ensemble(
    task: Retrieval, dual: DualTeacher, cross: CrossTeacher, settings: EnsembleSettings
) -> EnsembleTeacher:
    """The fitted teacher; its members stay as they are."""
    queries = task.split_queries("dev")
    if not len(queries):
        raise ConfigError(
            "An ensemble's weights are fitted on dev, and the collection has none. "
            "Use --teacher train:dual or train:cross."
        )
    # Both members score the same pools; the weights that rank them best.
    pools = task.pools(queries, depth=settings.candidates_per_query, miner=dual)
    return fit_weights(task, dual, cross, pools)
