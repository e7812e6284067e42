"""Distillation of the teacher's whole distribution.

    L = (1 - a) H(label, S)  +  a T^2 KL( softmax(t / T) || softmax(s / T) )

(Hinton et al. 2015, arXiv:1503.02531, section 2.) Examples without a label take part in the second
term.
"""

from __future__ import annotations

from pydantic import Field

from limbeck.objectives.rows import RowLoss, hard, kd
from limbeck.recipes.registry import recipe
from limbeck.tasks.rows import Rows, RowsSettings
from limbeck.types import Signals


class KDSettings(RowsSettings):
    """Settings of `kd`."""

    temperature: float = Field(2.0, gt=0, description="divides both sides' scores")
    alpha: float = Field(0.9, ge=0, le=1, description="a: share of the teacher; the rest is labels")


@recipe(
    "kd",
    summary="The teacher's softened distribution over all alternatives.",
    paper="Hinton et al. 2015, arXiv:1503.02531",
    settings=KDSettings,
    needs=frozenset({"teacher"}),
    presets={
        "teacher-only": {"alpha": 1.0},
        "t1": {"temperature": 1.0},
        "t4": {"temperature": 4.0},
        "t8": {"temperature": 8.0},
    },
    over="rows",
)
def distillation(rows: Rows, settings: KDSettings) -> None:
    """Train the student in place."""

    def loss(signals: Signals) -> dict[str, RowLoss]:
        teacher, student = signals.scores["teacher"], signals.scores["student"]
        return {
            "hard": (1 - settings.alpha) * hard(student),
            "kd": settings.alpha * kd(teacher, student, settings.temperature),
        }

    rows.train("kd", loss, settings)
