"""Normalised distillation: what the teacher says of the right class, and of the wrong ones apart.

    L = H(label, S)  -  P_t log S_t  -  gamma T^2 sum_{i != t} hatP_i log hatS_i

P and S are softmax of teacher and student at temperature 1, t the right class; hat marks the
softmax at temperature T over the wrong classes alone, so that both sides sum to 1 and can become
equal (Yang et al. 2022, arXiv:2208.10139; Yang et al. 2023, arXiv:2303.13005).

Departures: an example without a label has the teacher's first choice in the last two terms.
`not-normalized`, the control, takes P and S at T over all classes there: the cross-entropy form of
plain distillation. `dkd` has T^2 KL((P_t, 1 - P_t) || (S_t, 1 - S_t)) at T as its second term (Zhao
et al. 2022, arXiv:2203.08679). `labels-only` has twice the first term, and no teacher, to see what
a larger loss does by itself; AdamW hardly sees its scale.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from limbeck.objectives.rows import (
    RowLoss,
    dkd_target,
    hard,
    labelled_by,
    nkd_non_target,
    nkd_target,
)
from limbeck.recipes.registry import recipe
from limbeck.tasks.rows import Rows, RowsSettings
from limbeck.types import Signals


class NKDSettings(RowsSettings):
    """Settings of `nkd`."""

    temperature: float = Field(
        1.0, gt=0, description="T: of the wrong classes' term, and of a binary one"
    )
    label_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy with the label")
    target: Literal["weighted", "binary"] = Field(
        "weighted",
        description="the right class's term: cross-entropy weighted by the teacher's belief, or "
        "binary = KL of the right class against all others",
    )
    target_weight: float = Field(1.0, ge=0, description="weight of the right class's term")
    non_target_weight: float = Field(1.5, ge=0, description="gamma: weight of the wrong classes'")
    normalized: bool = Field(True, description="softmax over the wrong classes alone")


@recipe(
    "nkd",
    summary="The teacher's word on the right class, and its order of the wrong ones, normalised.",
    paper="Yang et al. 2022, arXiv:2208.10139; Yang et al. 2023, arXiv:2303.13005",
    settings=NKDSettings,
    needs=frozenset({"teacher"}),
    presets={
        "target-only": {"non_target_weight": 0.0},
        "non-target-only": {"target_weight": 0.0},
        "not-normalized": {"normalized": False},
        "cifar": {"non_target_weight": 3.5, "temperature": 3.0},
        "dkd": {"target": "binary", "non_target_weight": 8.0, "temperature": 4.0},
        "labels-only": {"label_weight": 2.0, "target_weight": 0.0, "non_target_weight": 0.0},
    },
    over="rows",
)
def nkd(rows: Rows, settings: NKDSettings) -> None:
    """Train the student in place."""

    def loss(signals: Signals) -> dict[str, RowLoss]:
        teacher, student = signals.scores["teacher"], signals.scores["student"]
        taught = labelled_by(teacher, student)
        wrong = nkd_non_target(
            teacher, taught, settings.temperature, normalized=settings.normalized
        )
        if settings.target == "binary":
            right = dkd_target(teacher, taught, settings.temperature)
        else:
            right = nkd_target(teacher, taught)
        return {
            "hard": settings.label_weight * hard(student),
            "target": settings.target_weight * right,
            "non_target": settings.non_target_weight * wrong,
        }

    rows.train("nkd", loss, settings)
