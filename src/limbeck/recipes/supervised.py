"""Cross-entropy with the labels: the baseline that every distillation has to beat.

    L = -(1/B) sum_b log softmax(s_b)[t_b]

s are the student's logits, t the right alternative (the hard part of Hinton et al. 2015,
arXiv:1503.02531). Examples without a label take no part.
"""

from __future__ import annotations

from limbeck.objectives.rows import hard
from limbeck.recipes.registry import recipe
from limbeck.tasks.rows import Rows, RowsSettings


@recipe(
    "supervised",
    summary="Cross-entropy with the labels, without a teacher.",
    paper="Hinton et al. 2015, arXiv:1503.02531",
    settings=RowsSettings,
    needs=frozenset({"labels"}),
    over="rows",
)
def supervised(rows: Rows, settings: RowsSettings) -> None:
    """Train the student in place."""
    rows.train(
        "supervised",
        lambda signals: {"hard": hard(signals.scores["student"])},
        settings,
        labelled=True,
    )
