"""How is a model fitted on judged queries, so that it can teach or begin to learn?

Three pieces that several recipes are built of: a retriever by its judged positives, a ranker by the
same, an ensemble's weights by dev. Where the lists come from is their business.
"""

from __future__ import annotations

import numpy as np

from limbeck.candidates import Candidates
from limbeck.models.encoder import Encoder, Ranker
from limbeck.objectives.listwise import cross_entropy
from limbeck.sources import ListSource
from limbeck.tasks.retrieval import Retrieval, TrainingSettings
from limbeck.teachers.teachers import CrossTeacher, DualTeacher, EnsembleTeacher
from limbeck.training import Turn
from limbeck.types import Loss, Signals


def train_contrastive(
    task: Retrieval,
    name: str,
    encoder: Encoder,
    source: ListSource,
    settings: TrainingSettings,
    temperature: float,
) -> None:
    """Train an encoder in place: L = -(1/B) sum_b log softmax(s_b / temperature)[p_b] over all
    passages of the update, its own positive, its mined negatives and those of the other queries.

    Source: Karpukhin et al. 2020, arXiv:2004.04906, section 3.
    """

    def loss(signals: Signals) -> Loss:
        return Loss({"contrastive": cross_entropy(signals.scores["student/in_batch"], temperature)})

    turn = Turn(
        task.score_update(encoder),
        loss,
        trains=frozenset({"student"}),
        gives=frozenset({"student", "student/in_batch"}),
    )
    task.train_model(name, encoder, source, turn, settings, needs=frozenset({"student/in_batch"}))


def train_listwise(
    task: Retrieval, name: str, ranker: Ranker, source: ListSource, settings: TrainingSettings
) -> None:
    """Train a ranker in place: L = -(1/B) sum_b log softmax(s_b)[0] over each query's own list.

    Source: Gao et al. 2021, arXiv:2101.08751, eq. 2.
    """

    def loss(signals: Signals) -> Loss:
        return Loss({"listwise": cross_entropy(signals.scores["student"])})

    forward, student = task.rank_update(ranker), frozenset({"student"})
    turn = Turn(forward, loss, trains=student, gives=student)
    task.train_model(name, ranker, source, turn, settings, needs=student)


def fit_weights(
    task: Retrieval, dual: DualTeacher, cross: CrossTeacher, pools: Candidates
) -> EnsembleTeacher:
    """The ensemble of the two that ranks these pools of dev queries best (nDCG@10).

    Its weights are a pair (w, 1 - w) in steps of 0.1; on a tie the more even one.
    """
    pairs = task.pool_pairs(pools)
    scores = [task.pair_scores(member, pairs) for member in (dual, cross)]
    candidates = [
        EnsembleTeacher.fitted("ensemble", (dual, cross), (w, 1 - w), scores)
        for w in np.linspace(0.0, 1.0, 11).round(1).tolist()
    ]

    def worth(ensemble: EnsembleTeacher) -> tuple[float, float]:
        results = task.ranked(pools, ensemble.combine(scores))
        quality = task.quality(results, "dev")["nDCG@10"].to_numpy().mean()
        return float(quality), min(ensemble.weights)

    return max(candidates, key=worth)
