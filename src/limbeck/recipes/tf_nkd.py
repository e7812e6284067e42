"""Normalised distillation without a teacher: the student's own belief in the right class.

    L = H(label, S)  -  w log S_t          w = S_t + 1 - (mean of S_t over the batch), no gradient

S is the student's softmax, t the right class (Yang et al. 2022, arXiv:2208.10139, tf-NKD, for
labels of one class). It puts more weight on easy examples.
"""

from __future__ import annotations

from limbeck.objectives.rows import hard, tf_nkd
from limbeck.recipes.registry import recipe
from limbeck.tasks.rows import Rows, RowsSettings


@recipe(
    "tf_nkd",
    summary="NKD without a teacher: labels weighted by the student's own belief in them.",
    paper="Yang et al. 2022, arXiv:2208.10139",
    settings=RowsSettings,
    needs=frozenset({"labels"}),
    over="rows",
)
def teacher_free(rows: Rows, settings: RowsSettings) -> None:
    """Train the student in place."""
    rows.train(
        "tf_nkd",
        lambda signals: {
            "hard": hard(signals.scores["student"]),
            "target": tf_nkd(signals.scores["student"]),
        },
        settings,
        labelled=True,
    )
