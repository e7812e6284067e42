"""What is a classifier?

An example in, a raw logit for each class out. An `ImageClassifier` reads small images and keeps
its own format; `TextClassifier` is an encoder under a linear head, in a folder that transformers'
`AutoModelForSequenceClassification` opens. Both carry the names of their classes, in order: a
position alone never says which class is meant. This module knows no training and no data set.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from limbeck.data.collate import Collator, collator_for
from limbeck.data.tokens import TokenStore, tokenize_here
from limbeck.errors import ModelError
from limbeck.models.encoder import Encoder, WrappedModel
from limbeck.models.image_classifier import CONFIG, ImageClassifier, load_image_classifier
from limbeck.models.layers import fresh_head
from limbeck.models.loading import IMAGE_NETS, load_sequence_classifier
from limbeck.models.pretrained_images import HEAD, load_pretrained_images

Inputs = Sequence[str] | np.ndarray


class Read(Protocol):
    """Inputs as a model reads them: their lengths in tokens, [n], and tensors of some of them."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each."""

    def collate(self, positions: np.ndarray) -> dict[str, Tensor]:
        """The tensors that the model's forward takes."""


class Classifier(Protocol):
    """Interface of a classifier, as tasks use it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, in the order of its logits."""

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Height, width and channels of the images that it reads; None of texts."""

    def read(self, inputs: Inputs) -> Read:
        """Inputs as it reads them."""

    def content_digest(self) -> str:
        """Digest of everything its logits depend on."""

    def parameter_count(self) -> int:
        """Number of parameters."""

    def size_bytes(self) -> int:
        """Size of the weights in bytes."""

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write it into a folder; equal models give equal bytes."""


class Texts:
    """Texts as a `TextClassifier` reads them."""

    def __init__(self, tokens: TokenStore, collator: Collator) -> None:
        self.tokens, self.collator = tokens, collator

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each, special ones included."""
        return np.array([self.collator.length(int(each)) for each in self.tokens.lengths])

    def collate(self, positions: np.ndarray) -> dict[str, Tensor]:
        """Ids and masks, padded to the longest."""
        return self.collator.singles([self.tokens[at] for at in positions.tolist()])


class TextClassifier(WrappedModel):
    """Logits [B, classes] of texts, by a `...ForSequenceClassification` of transformers.

    What pools the tokens is the head's own: for BERT the pooler on the first token, whose weights
    are new where the encoder comes without.
    """

    image_shape: None = None  # it reads none

    @classmethod
    def of(cls, encoder: Encoder, classes: Sequence[str], seed: int) -> TextClassifier:
        """An encoder's body under a fresh head, the same for the same seed."""
        with fresh_head(encoder, seed, classes) as folder:
            return cls(load_sequence_classifier(folder))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, in the order of its logits."""
        names = self.transformer.config.id2label
        return tuple(str(names[at]) for at in range(len(names)))

    def read(self, inputs: Inputs) -> Texts:
        """Texts, in tokens.

        Raises:
            ModelError: for images.
        """
        if isinstance(inputs, np.ndarray):
            raise ModelError("The model reads texts, not images. Name another.")
        collator = collator_for(self.tokenizer, max_length=self.max_length)
        return Texts(tokenize_here(inputs, self.tokenizer), collator)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """The logits of a batch, fp32."""
        logits: Tensor = self.model(dict(features))["scores"]
        return logits.reshape(len(logits), -1).float()

    def _kind_of_score(self) -> str:
        return "logit"


def load_classifier(path: str | Path) -> ImageClassifier | TextClassifier:
    """The classifier in a folder, on the CPU, in fp32.

    Raises:
        ModelError: when it is none, or not whole.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ModelError(f"There is no folder {str(path)!r}. Name the folder of a classifier.")
    config = folder / CONFIG
    if not config.is_file():
        raise ModelError(f"There is no classifier in {folder}: it has no {CONFIG}. Name a folder.")
    try:
        about = json.loads(config.read_text(encoding="utf-8"))
        kind = about.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{config} cannot be read ({error}). Name another folder.") from error
    if kind in IMAGE_NETS:
        return load_image_classifier(folder, about)
    if any(str(name).endswith(HEAD) for name in about.get("architectures") or ()):
        return load_pretrained_images(folder)
    return TextClassifier(load_sequence_classifier(folder))
