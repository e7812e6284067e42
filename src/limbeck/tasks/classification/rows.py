"""How do training examples become rows of classes, and a student learn from them?

What a teacher says of an example is asked once and kept; where images are varied, or its feature
maps are learned from, it reads every update beside the student instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.data.augmentation import Augmentation
from limbeck.errors import ConfigError
from limbeck.models.image_classifier import ImageClassifier
from limbeck.sources.order import update_positions
from limbeck.store import digest
from limbeck.tasks import fit
from limbeck.tasks.classification.task import Classification
from limbeck.tasks.classification.teachers import AnyTeacher, ClassTeacher, MixtureTeacher, Net
from limbeck.tasks.rows import Maps, Parts, Rows, RowsLoss, RowsSettings, mean_of
from limbeck.training import Forward, Pass, Trained, Turn, frozen_player
from limbeck.types import Makes, Scores, Signals

RATES = {  # of learning, where nothing is said
    ("images", "adamw"): 3e-3,
    ("images", "sgd"): 0.05,
    ("texts", "adamw"): 2e-4,
    ("texts", "sgd"): 0.02,
}


@dataclass(frozen=True)
class Shuffled:
    """Positions of training examples, all of them in every epoch, as many in every update."""

    count: int
    size: int
    seed: int
    of: str  # the digest of the examples
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of everything the batches depend on."""
        return digest([self.count, self.size, self.seed, self.of])

    @property
    def updates_per_pass(self) -> float:
        """Number of updates in one pass over all rows."""
        return self.count / self.size

    def batch(self, update: int) -> np.ndarray:
        """The positions of one update."""
        return update_positions(self.count, self.size, seed=self.seed, update=update)[:, 0]


@dataclass(frozen=True)
class ClassRows(Rows):
    """Training examples as rows of classes."""

    task: Classification
    student: Net
    teacher: AnyTeacher | None
    makes: Makes

    @property
    def members(self) -> Mapping[str, ClassTeacher]:
        """The single teachers, by the names of their signals."""
        if self.teacher is None:
            return {}
        several = [each for each, _ in self.teacher.members]
        if len(several) == 1:
            return {"teacher": several[0]}
        return {f"teacher/{each.name}": each for each in several}

    @property
    def teachers(self) -> Sequence[str]:  # type: ignore[override]
        """The signals of the single teachers."""
        return tuple(self.members)

    def maps(self, name: str) -> Maps:
        """The feature maps of the student or a teacher.

        Raises:
            ConfigError: for a model of texts.
        """
        model = self.student if name == "student" else self.members[name].model
        if not isinstance(model, ImageClassifier):
            raise ConfigError(
                f"{name.removeprefix('teacher/')} reads texts and has no feature maps to learn "
                "from. Set feature_weight=0."
            )
        channels, height, width = model.map_shape()
        frozen = model.head if name == "student" else _frozen(model.head)
        order = self._order(model)
        return Maps(channels, height, width, lambda given: frozen(given)[:, order])

    def train(
        self,
        name: str,
        loss: RowsLoss,
        settings: RowsSettings,
        *,
        labelled: bool = False,
        parts: Parts | None = None,
        maps: bool = False,
    ) -> Trained:
        """Train the student in place, by the mean of each part over the examples of an update."""
        task, data = self.task, self.task.dataset
        examples, all_of_them = data.parts["train"], np.arange(len(data.parts["train"]))
        if labelled:
            all_of_them = np.flatnonzero(examples.labels >= 0)
            examples = examples.at(all_of_them)
        size = min(settings.batch_size, len(examples))
        source = Shuffled(len(examples), size, task.run.seed, examples.digest)
        labels = torch.from_numpy(examples.labels)
        live = maps or task.augment != "none"
        read = {"student": self.student.read(examples.inputs)}
        stored: dict[str, Tensor] = {}
        if live:
            read |= {key: each.model.read(examples.inputs) for key, each in self.members.items()}
        else:
            stored = {
                key: torch.from_numpy(task.answers(each)[all_of_them])
                for key, each in self.members.items()
            }

        def signals(update: Pass, chosen: np.ndarray) -> Signals:
            target = labels[chosen].to(update.device)
            varied = self._variation(len(chosen), update.step)
            logits = {key: said[chosen].to(update.device) for key, said in stored.items()}
            embeddings: dict[str, Tensor] = {}
            for key, inputs in read.items():

                def collate(some: np.ndarray, inputs: Any = inputs) -> dict[str, Tensor]:
                    features: dict[str, Tensor] = inputs.collate(chosen[some])
                    if varied is not None:
                        features["images"] = varied(features["images"], some)
                    return features

                outputs = update.run_several(
                    key, inputs.lengths[chosen], collate, _with_maps if maps else _logits
                )
                model = self.student if key == "student" else self.members[key].model
                own = outputs["logits"]
                logits[key] = own if key == "student" else own[:, self._order(model)]
                if maps:
                    embeddings[key] = outputs["maps"]
            if isinstance(self.teacher, MixtureTeacher):
                logits["teacher"] = self._mixed(logits)
            scores = {key: Scores.of(values, target=target) for key, values in logits.items()}
            return Signals(scores, embeddings, progress=update.progress, step=update.step)

        inputs = {} if self.teacher is None else {"teacher": self.teacher.digest}
        if live:
            inputs["augment"] = task.augment
        trains = {"student"} if parts is None else {"student", "parts"}
        turn = Turn(Forward(signals, inputs=inputs), mean_of(loss), frozenset(trains))
        if settings.learning_rate is None:
            rate = RATES[data.form, settings.optimizer]
            settings = settings.model_copy(update={"learning_rate": rate})
        frozen = {key: each.model for key, each in self.members.items()} if live else {}
        return fit.train_model(
            task,
            name,
            self.student,
            source,
            turn,
            settings,
            makes=self.makes,
            parts=None if parts is None else parts.module,
            parts_learning_rate=None if parts is None else parts.learning_rate,
            frozen=[frozen_player(key, model) for key, model in frozen.items()],
        )

    def _variation(self, count: int, update: int) -> Augmentation | None:
        """Augmentation of the images of an update; None where they are not varied."""
        how, shape = self.task.augment, self.task.dataset.image_shape
        if how == "none" or shape is None:
            return None
        return Augmentation(how, count, shape[0], seed=self.task.run.seed, update=update)

    def _order(self, model: Net) -> list[int]:
        """Positions of the data's classes among a model's."""
        return [model.classes.index(name) for name in self.task.dataset.classes]

    @cached_property
    def _weights(self) -> Mapping[str, float]:
        assert self.teacher is not None
        return dict(zip(self.teachers, (w for _, w in self.teacher.members), strict=True))

    def _mixed(self, logits: Mapping[str, Tensor]) -> Tensor:
        """The logarithm of the weighted mean of the teachers' probabilities."""
        log = [
            torch.log_softmax(logits[key].float(), dim=1) + np.log(weight)
            for key, weight in self._weights.items()
        ]
        return torch.logsumexp(torch.stack(log), dim=0)


def _logits(model: nn.Module, features: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"logits": model(features)}


def _with_maps(model: nn.Module, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits and feature maps, from one forward."""
    assert isinstance(model, ImageClassifier)
    maps = model.features(features)
    return {"logits": model.head(maps), "maps": maps}


def _frozen(module: nn.Module) -> nn.Module:
    """The module, whose weights get no gradient."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module
