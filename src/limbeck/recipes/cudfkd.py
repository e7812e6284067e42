"""Distillation without data: a generator makes images, harder and harder ones.

In every step the generator learns, from noise z, with x = G(z):

    L_G = H(T, first choice of T)  +  D_BN(x)  -  b H(mean_x T)  -  a KL( T || S ) where both agree

and then the student does, from fresh images:

    l_i = mean_c |t_ic - s_ic|                               L = sum_i v_i l_i / sum_i v_i

T and S are softmax of the logits t and s of teacher and student, D_BN the distance of the images'
statistics from those that the teacher's BatchNorm kept of its data. Two curricula run: a rises from
0, so that images become hard for the student, but not wrong; and v_i, the weight of an image by its
loss, is less strict the further the threshold lambda has risen (Li et al. 2022, arXiv:2208.13648).

Departures: v is of each image, as the paper has it; in the published code it is of the batch
(`cudfkd:batch-weights`). The generator learns in every step, where the published one does in one of
ten of 100,000 (`generator_every`). Both curricula are told in shares of the steps. The teacher's
temperature in its mean is 1, and AdamW moves the generator, its rate falling with the student's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from limbeck.models.image_classifier import ImageClassifier
from limbeck.models.image_generator import ImageGenerator
from limbeck.objectives.data_free import (
    batch_entropy,
    hard_not_wrong,
    statistics_distance,
    unsureness,
)
from limbeck.objectives.weighting import self_paced
from limbeck.recipes.registry import RecipeResult, recipe
from limbeck.tasks.classification import Classification, ClassTeacher
from limbeck.tasks.classification.made_images import Noise, made_images
from limbeck.tasks.fit import TrainingSettings, player
from limbeck.training import Turn, frozen_player
from limbeck.types import Loss, Signals


class CuDFKDSettings(TrainingSettings):
    """Settings of `cudfkd`."""

    max_steps: int = Field(2000, ge=1, description="steps of the student")
    batch_size: int = Field(64, ge=2, description="images made for one step")
    learning_rate: float = Field(0.05, gt=0, description="peak of the student's rate")
    optimizer: Literal["adamw", "sgd"] = Field("sgd", description="the student's")
    schedule: Literal["linear", "cosine", "steps"] = Field(
        "cosine", description="how both learning rates fall"
    )
    keep: Literal["best", "last"] = Field(
        "last", description="which weights to keep; best is chosen by dev, that is by real data"
    )
    generator_every: int = Field(1, ge=1, description="steps from one of the generator to the next")
    generator_learning_rate: float = Field(3e-3, gt=0, description="peak of the generator's rate")
    generator_channels: int = Field(32, ge=1, description="channels of its last feature maps")
    noise_size: int = Field(64, ge=1, description="numbers of noise that an image is made of")
    balance: float = Field(5.0, ge=0, description="b: weight of the classes' entropy")
    adversarial_weight: float = Field(5.0, ge=0, description="a at its end")
    adversarial_from: float = Field(0.25, ge=0, le=1, description="share of steps where a rises")
    adversarial_to: float = Field(0.75, ge=0, le=1, description="and where it has risen")
    agreeing: bool = Field(True, description="a counts only images on whose class both agree")
    weights: Literal["image", "batch", "none"] = Field("image", description="what v is of")
    first_threshold: float = Field(2.0, gt=0, description="lambda at the first step, in the loss")
    last_threshold: float = Field(12.0, gt=0, description="and at the last")

    def eval_every(self, steps: int) -> int:
        """Steps between evaluations on dev: a twentieth where nothing is said."""
        return max(1, steps // 20) if self.eval_steps is None else self.eval_steps


@recipe(
    "cudfkd",
    summary="Without data: a generator makes images, harder and harder ones.",
    paper="Li et al. 2022, arXiv:2208.13648",
    settings=CuDFKDSettings,
    needs=frozenset({"teacher"}),
    presets={
        "no-curriculum": {"adversarial_weight": 0.0, "weights": "none"},
        "constant": {"adversarial_from": 0.0, "adversarial_to": 0.0, "weights": "none"},
        "images-only": {"weights": "none"},
        "batch-weights": {"weights": "batch"},
        "disagreeing": {"agreeing": False},
    },
    task="classification",
    data_free=True,
)
def cudfkd(
    task: Classification, teacher: ClassTeacher, student: ImageClassifier, settings: CuDFKDSettings
) -> RecipeResult:
    """Train the student in place."""
    assert isinstance(teacher.model, ImageClassifier)  # with BatchNorm, as the task saw to
    image = student.image_shape
    generator = ImageGenerator(
        settings.noise_size, settings.generator_channels, image, task.run.seed
    )
    kept = teacher.model.kept_statistics()

    # 1. The generator, by frozen teacher and student.
    def generator_loss(signals: Signals) -> Loss:
        teacher, student = signals.scores["teacher"], signals.scores["student"]
        seen = {}
        for layer in kept:
            mean = signals.embeddings[f"mean/{layer}"].mean(dim=0)
            square = signals.embeddings[f"square/{layer}"].mean(dim=0)
            seen[layer] = mean, square - mean.square()
        a = _risen(signals.progress, settings)
        hard = hard_not_wrong(teacher, student, agreeing=settings.agreeing)
        return Loss(
            {
                "unsure": unsureness(teacher),
                "statistics": statistics_distance(seen, kept),
                "balance": -settings.balance * batch_entropy(teacher),
                "adversarial": a * hard,
            }
        )

    # 2. The student, by fresh images of the generator.
    def student_loss(signals: Signals) -> Loss:
        teacher, student = signals.scores["teacher"], signals.scores["student"]
        losses = (teacher.values.detach() - student.values).abs().mean(dim=1)
        rise = settings.last_threshold - settings.first_threshold
        threshold = settings.first_threshold + rise * signals.progress
        if settings.weights == "batch":  # one weight, by which nothing is divided
            v = self_paced(losses.detach().mean().unsqueeze(0), threshold)
            return Loss({"logits": v[0] * losses.mean()}, {"weight": v[0]})
        v = torch.ones_like(losses)
        if settings.weights == "image":
            v = self_paced(losses.detach(), threshold)
        return Loss({"logits": (v * losses).sum() / v.sum()}, {"weight": v.mean()})

    # 3. Both in turns.
    steps = settings.max_steps
    turns = [
        Turn(
            made_images(teacher, student, 0, statistics=True),
            generator_loss,
            frozenset({"generator"}),
            settings.generator_every,
        ),
        Turn(made_images(teacher, student, 1), student_loss, frozenset({"student"})),
    ]
    of_generator = settings.model_copy(
        update={"learning_rate": settings.generator_learning_rate, "optimizer": "adamw"}
    )
    own_steps = -(-steps // settings.generator_every)
    trained = task.train_stage(
        "cudfkd",
        [player("student", student, settings, steps), frozen_player("teacher", teacher.model)],
        Noise(2, settings.batch_size, settings.noise_size, task.run.seed),
        turns,
        steps,
        settings,
        parts=player("generator", generator, of_generator, own_steps, makes=None),
    )
    return RecipeResult(None, False, _course(trained.measured, steps))


def _risen(progress: float, settings: CuDFKDSettings) -> float:
    """The weight a at a share of the steps."""
    first, last = settings.adversarial_from, settings.adversarial_to
    if progress < first:
        return 0.0
    return settings.adversarial_weight * min(1.0, (progress - first) / max(last - first, 1e-9))


def _course(measured: Sequence[tuple[int, float]], steps: int) -> tuple[str, ...]:
    """Course of the student's quality over the last three quarters of training, on dev."""
    late = [value for step, value in measured if step > steps / 4]
    if len(late) < 2:
        return ()
    best = max(value for _, value in measured)
    told = (
        f"accuracy on dev over the last 75% of the steps: mean {np.mean(late):.3f}, standard "
        f"deviation {np.std(late):.3f}; best {best:.3f}, last {late[-1]:.3f}"
    )
    return (told,)
