"""Distillation whose temperature is learned against the student.

    L = (1 - a) H(label, S)  +  a tau^2 KL( softmax(t / tau) || softmax(s / tau) )
    tau = tau_0 + R sigmoid(theta)

The student descends L and theta ascends it: theta's gradient is multiplied by -lambda, and lambda
rises from 0 to 1 along half a cosine over the first steps, so that the teacher's distribution
becomes harder to follow as the student learns (Li et al. 2023, arXiv:2211.16231). Nobody has to
search a temperature.

Departures: lambda rises in steps, not epochs. theta is not decayed, and starts at a temperature of
4, where the published code starts at 15.6, decays it and trains it for 240 epochs
(`ctkd:first-of-code`). One temperature for each row (`per_row`) reads both entropies, the
teacher's probability of its first choice and KL(T || S) instead of the 2C probabilities, so that it
knows no order of alternatives.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from limbeck.objectives.adversarial import reversed_gradient
from limbeck.objectives.rows import RowLoss, hard, kd, log_probabilities
from limbeck.recipes.registry import recipe
from limbeck.schedules import cosine_rise
from limbeck.tasks.rows import Parts, Rows, RowsSettings
from limbeck.types import Scores, Signals

HIDDEN = 16  # units of the network that gives each row its temperature


class CTKDSettings(RowsSettings):
    """Settings of `ctkd`."""

    alpha: float = Field(0.9, ge=0, le=1, description="a: share of the teacher; the rest is labels")
    lowest_temperature: float = Field(1.0, gt=0, description="tau_0: the temperature stays above")
    temperature_range: float = Field(20.0, gt=0, description="R: and below tau_0 + R")
    first_temperature: float = Field(4.0, gt=0, description="temperature at the first step")
    temperature_learning_rate: float = Field(0.05, gt=0, description="peak of theta's rate")
    per_row: bool = Field(False, description="a temperature for each row, by a small network")
    ascend: bool = Field(True, description="theta raises the loss; else, a control, lowers it")
    ramp_ratio: float = Field(
        0.1, ge=0, le=1, description="share of the steps in which lambda rises to 1; 0 = 1 at once"
    )


class Temperature(nn.Module):
    """tau [R] of rows, by one theta, or by a network of a row's numbers."""

    def __init__(self, settings: CTKDSettings) -> None:
        super().__init__()
        self.low, self.range = settings.lowest_temperature, settings.temperature_range
        share = (settings.first_temperature - self.low) / self.range
        theta = math.log(share / (1 - share))
        self.theta = nn.Parameter(torch.tensor([theta]))
        self.network: nn.Module | None = None
        if settings.per_row:
            last = nn.Linear(HIDDEN, 1, bias=False)
            nn.init.zeros_(last.weight)  # theta alone at the first step
            self.network = nn.Sequential(nn.Linear(4, HIDDEN), nn.ReLU(), last)

    def forward(self, teacher: Scores, student: Scores, strength: float) -> Tensor:
        """The temperature of each row; -strength multiplies the gradient that it gets."""
        theta = self.theta.expand(len(student.values))
        if self.network is not None:
            theta = theta + self.network(_numbers(teacher, student)).squeeze(1)
        theta = reversed_gradient(theta, strength)
        return self.low + self.range * torch.sigmoid(theta)


@recipe(
    "ctkd",
    summary="A temperature that is learned against the student, harder and harder.",
    paper="Li et al. 2023, arXiv:2211.16231",
    settings=CTKDSettings,
    needs=frozenset({"teacher"}),
    presets={
        "per-row": {"per_row": True},
        "no-ramp": {"ramp_ratio": 0.0},
        "descending": {"ascend": False},
        "first-of-code": {"first_temperature": 15.6212},
    },
    over="rows",
)
def ctkd(rows: Rows, settings: CTKDSettings) -> None:
    """Train the student in place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        temperature = Temperature(settings)

    def loss(signals: Signals) -> dict[str, RowLoss | Tensor]:
        teacher, student = signals.scores["teacher"], signals.scores["student"]
        strength = cosine_rise(signals.progress, settings.ramp_ratio)
        tau = temperature(teacher, student, strength if settings.ascend else -strength)
        return {
            "hard": (1 - settings.alpha) * hard(student),
            "kd": settings.alpha * kd(teacher, student, tau),
            "temperature": tau.mean(),
        }

    parts = Parts(temperature, settings.temperature_learning_rate)
    rows.train("ctkd", loss, settings, parts=parts)


def _numbers(teacher: Scores, student: Scores) -> Tensor:
    """What a row's temperature is made of, [R, 4], without a gradient to student or teacher."""
    mask = teacher.mask & student.mask
    p = log_probabilities(teacher.values.detach(), mask, 1.0)
    q = log_probabilities(student.values.detach(), mask, 1.0)
    entropies = [-(log.exp() * log).sum(dim=1) for log in (p, q)]
    divergence = (p.exp() * (p - q)).sum(dim=1)
    first = p.exp().masked_fill(~mask, 0.0).amax(dim=1)
    return torch.stack([*entropies, first, divergence], dim=1)
