"""Who teaches classes: one classifier, or several as one?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from limbeck.models.classifier import TextClassifier
from limbeck.models.image_classifier import ImageClassifier
from limbeck.store import digest, write_json

Net = ImageClassifier | TextClassifier


@dataclass(frozen=True)
class ClassTeacher:
    """A classifier that teaches."""

    name: str
    model: Net
    kind: ClassVar[str] = "classifier"

    @property
    def digest(self) -> str:
        """Digest of everything its answers depend on."""
        return self.model.content_digest()

    @property
    def members(self) -> Sequence[tuple[ClassTeacher, float]]:
        """Itself, with the weight 1."""
        return ((self, 1.0),)

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write it into a folder."""
        self.model.save(folder, card=card, stage=stage)


@dataclass(frozen=True)
class MixtureTeacher:
    """Several classifiers that teach as one, by the weighted mean of their probabilities."""

    name: str
    several: tuple[ClassTeacher, ...]
    weights: tuple[float, ...]
    kind: ClassVar[str] = "mixture"

    @property
    def digest(self) -> str:
        """Digest of everything its answers depend on."""
        return digest([[each.digest for each in self.several], list(self.weights)])

    @property
    def members(self) -> Sequence[tuple[ClassTeacher, float]]:
        """Its classifiers and their weights, whose sum is 1."""
        return tuple(zip(self.several, self.weights, strict=True))

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write each classifier into a folder of its name, the weights into `mixture.json`, and the
        card.
        """
        for member in self.several:
            member.save(folder / member.name, card=card, stage=stage)
        weights = {member.name: weight for member, weight in self.members}
        write_json(folder / "mixture.json", {"weights": weights}, stage=stage)
        (folder / "README.md").write_text(card, encoding="utf-8")


AnyTeacher = ClassTeacher | MixtureTeacher


def nets_of(system: Net | AnyTeacher) -> list[Net]:
    """The models behind a system that is measured."""
    if isinstance(system, ClassTeacher | MixtureTeacher):
        return [member.model for member, _ in system.members]
    return [system]
