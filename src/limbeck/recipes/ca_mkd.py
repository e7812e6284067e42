"""Several teachers, each weighted in each example by how right it is there.

    e_k = -log softmax(t_k)[c]                       of teacher k, c the right alternative
    w_k = (1 - softmax(e)_k) / (K - 1)               of K teachers; they add up to 1
    L   = H(label, S)  +  alpha sum_k w_k T^2 KL( softmax(t_k / T) || softmax(s / T) )
          +  beta sum_k v_k mean( (r_k(f) - F_k)^2 )

The last term is of feature maps, where models have them: F_k are teacher k's, r_k(f) the student's,
brought to their size and mapped by a convolution that is trained beside it; v_k are weights as w_k,
of what teacher k's own head makes of r_k(f) (Zhang et al. 2022, arXiv:2201.00007).

Departures: an example without a label has equal weights. The losses are weighted averages; the
published code divides them by K once more (`ca_mkd:code` does). v is detached: else a student
lowers its loss by spoiling what a teacher's head makes of its maps. Maps are learned from only in
`ca_mkd:features`, and from the first step. The trained map is a 1 x 1 convolution and ReLU, without
BatchNorm.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from limbeck.models.map_adapters import MapAdapters
from limbeck.objectives.rows import RowLoss, hard, kd
from limbeck.objectives.weighting import Trust, of_teachers
from limbeck.recipes.registry import recipe
from limbeck.tasks.rows import Parts, Rows, RowsSettings
from limbeck.types import Scores, Signals


class CAMKDSettings(RowsSettings):
    """Settings of `ca_mkd`."""

    temperature: float = Field(4.0, gt=0, description="T: divides both sides' scores")
    alpha: float = Field(1.0, ge=0, description="weight of the teachers' scores")
    feature_weight: float = Field(0.0, ge=0, description="beta: weight of the feature maps")
    weights: Trust = Field(
        "confidence", description="of teachers: by how right, or, baselines, how sure they are"
    )
    detached: bool = Field(True, description="no gradient through the weights of feature maps")

    @property
    def needs(self) -> frozenset[str]:
        """Feature maps, where they count."""
        return frozenset({"maps"} if self.feature_weight else ())


@recipe(
    "ca_mkd",
    summary="Several teachers, each weighted in each example by how right it is.",
    paper="Zhang et al. 2022, arXiv:2201.00007",
    settings=CAMKDSettings,
    needs=frozenset({"teacher"}),
    presets={
        "features": {"feature_weight": 16.7},
        "code": {"feature_weight": 16.7, "alpha": 0.3333, "detached": False},
        "entropy": {"weights": "entropy"},
        "equal": {"weights": "equal"},
    },
    over="rows",
    withstands=True,
)
def ca_mkd(rows: Rows, settings: CAMKDSettings) -> None:
    """Train the student in place."""
    adapters, theirs = None, {}
    if settings.feature_weight:
        theirs = {name: rows.maps(name) for name in rows.teachers}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            sizes = [(each.channels, each.height, each.width) for each in theirs.values()]
            adapters = MapAdapters(rows.maps("student").channels, sizes)

    def loss(signals: Signals) -> dict[str, RowLoss | Tensor]:
        student = signals.scores["student"]
        teachers = [signals.scores[name] for name in rows.teachers]
        # 1. Weights of the teachers, and their scores.
        w = of_teachers(teachers, settings.weights)
        kds = [kd(each, student, settings.temperature) for each in teachers]
        taught = torch.stack([each.values for each in kds])
        parts: dict[str, RowLoss | Tensor] = {
            "hard": hard(student),
            "kd": settings.alpha * RowLoss((w * taught).sum(dim=0), student.weight),
        }
        for name, weight in zip(rows.teachers, w, strict=True):
            parts[f"weight of {name}"] = weight.mean()
        # 2. Their feature maps.
        if adapters is not None:
            adapted = adapters(signals.embeddings["student"])
            judged = [
                Scores.of(theirs[name].head(own), target=student.target)
                for name, own in zip(rows.teachers, adapted, strict=True)
            ]
            v = of_teachers(judged, settings.weights)
            v = v.detach() if settings.detached else v
            errors = [
                (own - signals.embeddings[name]).pow(2).mean(dim=(1, 2, 3))
                for name, own in zip(rows.teachers, adapted, strict=True)
            ]
            both = RowLoss((v * torch.stack(errors)).sum(dim=0), student.weight)
            parts["features"] = settings.feature_weight * both
        return parts

    parts = None if adapters is None else Parts(adapters)
    rows.train("ca_mkd", loss, settings, parts=parts, maps=adapters is not None)
