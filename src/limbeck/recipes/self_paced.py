"""Distillation that begins with the examples that are easy to follow.

    l_b = (1 - a) H(label, S_b)  +  a T^2 KL( softmax(t_b / T) || softmax(s_b / T) )
    L   = sum_b v_b l_b / sum_b v_b           v_b a weight that falls with l_b, see below

With lambda the threshold: `log`, v = (1 + e^-lambda) / (1 + e^(l - lambda)); `linear`,
v = max(0, 1 - l / lambda); `hard`, v = 1 where l < lambda (the student's side of Li et al. 2022,
arXiv:2208.13648; self-paced learning: Kumar et al. 2010). lambda rises in a line over the steps, so
that harder examples come in.

Departures: lambda is a quantile of the losses of the step, since no absolute number fits every
loss; the published one rises from 2 by 1e-4 in each step.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from limbeck.objectives.rows import RowLoss, hard, kd
from limbeck.objectives.weighting import Pace, self_paced
from limbeck.recipes.registry import recipe
from limbeck.tasks.rows import Rows, RowsSettings
from limbeck.types import Signals


class SelfPacedSettings(RowsSettings):
    """Settings of `self_paced`."""

    temperature: float = Field(2.0, gt=0, description="T: divides both sides' scores")
    alpha: float = Field(0.9, ge=0, le=1, description="a: share of the teacher; the rest is labels")
    pace: Pace = Field("log", description="how an example's weight falls with its loss")
    first_quantile: float = Field(
        0.5, gt=0, le=1, description="lambda at the first step, as a quantile of the step's losses"
    )
    last_quantile: float = Field(0.95, gt=0, le=1, description="and at the last")


@recipe(
    "self_paced",
    summary="The teacher's distribution, easy examples first.",
    paper="Kumar et al. 2010; Li et al. 2022, arXiv:2208.13648",
    settings=SelfPacedSettings,
    needs=frozenset({"teacher"}),
    presets={"hard": {"pace": "hard"}, "linear": {"pace": "linear"}},
    over="rows",
)
def paced(rows: Rows, settings: SelfPacedSettings) -> None:
    """Train the student in place."""

    def loss(signals: Signals) -> dict[str, RowLoss | Tensor]:
        teacher, student = signals.scores["teacher"], signals.scores["student"]
        label = (1 - settings.alpha) * hard(student)
        each = label + settings.alpha * kd(teacher, student, settings.temperature)
        rise = settings.last_quantile - settings.first_quantile
        losses = each.values.detach()
        threshold = torch.quantile(losses, settings.first_quantile + rise * signals.progress)
        v = self_paced(losses, threshold, settings.pace)
        return {"paced": RowLoss(each.values, each.weight * v), "weight": v.mean()}

    rows.train("self_paced", loss, settings)
