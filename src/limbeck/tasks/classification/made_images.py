"""What do teacher and student say of images that a generator makes?

The generator is the player `generator`; noise is a function of the seed and the number of the
update, so that nothing of it is kept. It knows no loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from limbeck.models.image_classifier import ImageClassifier, with_statistics
from limbeck.store import digest
from limbeck.tasks.classification.teachers import ClassTeacher
from limbeck.training import Forward, Pass
from limbeck.types import Scores, Signals


@dataclass(frozen=True)
class Noise:
    """Noise for each update: `turns` times that of `count` images, [turns, count, size]."""

    turns: int
    count: int
    size: int
    seed: int
    updates_per_pass: float = 1.0  # there is no end of it
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of everything it depends on."""
        return digest(["noise", self.turns, self.count, self.size, self.seed])

    def batch(self, update: int) -> np.ndarray:
        """The noise of one update."""
        random = np.random.default_rng([self.seed, update])
        return random.standard_normal((self.turns, self.count, self.size), dtype=np.float32)


def made_images(
    teacher: ClassTeacher, student: ImageClassifier, turn: int, *, statistics: bool = False
) -> Forward:
    """A forward over `Noise`: scores `teacher` and `student` of the images of a turn, in the order
    of the student's classes.

    With `statistics` the embeddings are those of the teacher's BatchNorm layers, as
    `models.image_classifier.with_statistics` names them. A gradient passes to the generator where
    that is what is trained.
    """
    order = [teacher.model.classes.index(name) for name in student.classes]

    def signals(update: Pass, batch: np.ndarray) -> Signals:
        ones = np.ones(len(batch[turn]), dtype=np.int64)
        noise = torch.from_numpy(batch[turn])
        images = update.run("generator", ones, lambda some: {"noise": noise[some]})
        seen = {}
        if statistics:
            seen = update.run_several(
                "teacher", ones, lambda some: {"images": images[some]}, with_statistics
            )
            said = seen.pop("logits")
        else:
            said = update.run("teacher", ones, lambda some: {"images": images[some]})
        own = update.run("student", ones, lambda some: {"images": images[some]})
        scores = {"teacher": Scores.of(said[:, order]), "student": Scores.of(own)}
        return Signals(scores, seen, progress=update.progress, step=update.step)

    return Forward(signals, inputs={"teacher": teacher.digest})
