"""A classifier fitted on the labels, to teach a smaller one.

    L = -(1/B) sum_b log softmax(z_b)[t_b]

z are its logits, t the right class (the teacher's side of Hinton et al. 2015, arXiv:1503.02531).
"""

from __future__ import annotations

from limbeck.objectives.rows import hard
from limbeck.recipes.registry import recipe
from limbeck.tasks.classification import Classification, ClassTeacher
from limbeck.tasks.classification.teachers import Net
from limbeck.tasks.rows import RowsSettings


@recipe(
    "teacher_classifier",
    summary="Fits a teacher: a larger classifier, on the labels.",
    paper="Hinton et al. 2015, arXiv:1503.02531",
    settings=RowsSettings,
    needs=frozenset({"labels"}),
    task="classification",
    makes="teacher",
)
def teacher_classifier(task: Classification, model: Net, settings: RowsSettings) -> ClassTeacher:
    """The fitted teacher."""
    task.rows(model, None, makes="teacher").train(
        "teacher_classifier",
        lambda signals: {"hard": hard(signals.scores["student"])},
        settings,
        labelled=True,
    )
    return ClassTeacher("classifier", model)
