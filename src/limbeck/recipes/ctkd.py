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

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from limbeck.models.temperature import LearnedTemperature
from limbeck.objectives.rows import RowLoss, hard, kd
from limbeck.recipes.registry import recipe
from limbeck.schedules import cosine_rise
from limbeck.tasks.rows import Parts, Rows, RowsSettings
from limbeck.types import Signals


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

    @model_validator(mode="after")
    def _between(self) -> Self:
        high = self.lowest_temperature + self.temperature_range
        if not self.lowest_temperature < self.first_temperature < high:
            raise ValueError(
                f"first_temperature is {self.first_temperature:g} and must be between "
                f"lowest_temperature ({self.lowest_temperature:g}) and {high:g}, temperature_range "
                "above it"
            )
        return self


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
        temperature = LearnedTemperature(
            settings.lowest_temperature,
            settings.temperature_range,
            settings.first_temperature,
            per_row=settings.per_row,
        )

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
