"""What is a classifier?

An example in, a raw logit for each class out. `ConvNet` reads small images and keeps its own
format; `TextClassifier` is an encoder under a linear head, in a folder that transformers'
`AutoModelForSequenceClassification` opens. Both carry the names of their classes, in order: a
position alone never says which class is meant. This module knows no training and no data set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from limbeck.data.collate import Collator, collator_for
from limbeck.data.tokens import TokenStore, tokenize_here
from limbeck.errors import ModelError
from limbeck.models.encoder import Encoder, WrappedModel
from limbeck.models.layers import fresh_head
from limbeck.models.loading import CONVNET, load_sequence_classifier
from limbeck.store import check_whole, digest, digest_tensors, new_folder, read_tensors

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
GROUPS = 4  # of channels that are normalised together
Inputs = Sequence[str] | np.ndarray


class Read(Protocol):
    """Inputs as a model reads them: their lengths in tokens, [n], and tensors of some of them."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each."""

    def collate(self, positions: np.ndarray) -> dict[str, Tensor]:
        """The tensors that the model's forward takes."""


class Classifier(Protocol):
    """What tasks ask of a classifier."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, in the order of its logits."""

    def read(self, inputs: Inputs) -> Read:
        """Inputs as it reads them."""

    def content_digest(self) -> str:
        """What its logits depend on."""

    def parameter_count(self) -> int:
        """How many numbers the weights are."""

    def size_bytes(self) -> int:
        """How many bytes the weights take."""

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write it into a folder; equal models give equal bytes."""


class Images:
    """Images [n, height, width, channels] as a `ConvNet` reads them; each counts as one token."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    @property
    def lengths(self) -> np.ndarray:
        """One of each."""
        return np.ones(len(self.images), dtype=np.int64)

    def collate(self, positions: np.ndarray) -> dict[str, Tensor]:
        """Channels first, numbers in [0, 1]."""
        chosen = torch.from_numpy(self.images[positions]).permute(0, 3, 1, 2).contiguous()
        return {"images": chosen / 255 if chosen.dtype == torch.uint8 else chosen}


class ConvNet(nn.Module):
    """Logits [B, classes] of images [B, channels, height, width] in [0, 1].

    Three convolutions, the second of stride 2, each normalised in groups of channels: an image's
    logits depend on no other image. `width` is the number of channels of the first.
    """

    def __init__(self, width: int, shape: Sequence[int], classes: Sequence[str]) -> None:
        super().__init__()
        if width % GROUPS:
            raise ModelError(f"A cnn of width {width}: the width must be a multiple of {GROUPS}.")
        self.width, self.classes = width, tuple(classes)
        self.shape = tuple(int(each) for each in shape)  # height, width, channels of an image
        height, across, channels = self.shape
        layers: list[nn.Module] = []
        before = channels
        for after, stride in ((width, 1), (2 * width, 2), (2 * width, 1)):
            layers += [
                nn.Conv2d(before, after, 3, stride=stride, padding=1),
                nn.GroupNorm(GROUPS, after),
                nn.ReLU(),
            ]
            before = after
        pixels = -(-height // 2) * -(-across // 2)
        layers += [nn.Flatten(), nn.Dropout(0.0), nn.Linear(before * pixels, len(classes))]
        self.layers = nn.Sequential(*layers)

    @classmethod
    def fresh(cls, width: int, shape: Sequence[int], classes: Sequence[str], seed: int) -> ConvNet:
        """One with new weights, the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(width, shape, classes)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """The logits of a batch, fp32."""
        logits: Tensor = self.layers(features["images"])
        return logits.float()

    def read(self, inputs: Inputs) -> Images:
        """Images of its own size.

        Raises:
            ModelError: for others.
        """
        if not isinstance(inputs, np.ndarray) or inputs.shape[1:] != self.shape:
            given = "texts" if not isinstance(inputs, np.ndarray) else _sized(inputs.shape[1:])
            raise ModelError(f"The model reads {_sized(self.shape)}, not {given}. Name another.")
        return Images(inputs)

    def digests(self) -> list[str]:
        """What its outputs depend on besides weights and images."""
        return [digest([CONVNET, self.width, list(self.shape), list(self.classes)])]

    def plain_attention(self) -> Any:
        """It has none."""
        return _nothing()

    def content_digest(self) -> str:
        """Weights, shape and classes."""
        return digest([*self.digests(), digest_tensors(self.state_dict())])

    def parameter_count(self) -> int:
        """How many numbers the weights are."""
        return sum(each.numel() for each in self.parameters())

    def size_bytes(self) -> int:
        """How many bytes the weights take."""
        return sum(each.numel() * each.element_size() for each in self.parameters())

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write `config.json`, weights and card."""
        config = {
            "model_type": CONVNET,
            "width": self.width,
            "image_shape": list(self.shape),
            "classes": list(self.classes),
        }
        with new_folder(folder, stage=stage) as temporary:
            text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
            (temporary / CONFIG).write_text(text, encoding="utf-8")
            tensors = {name: value.cpu().contiguous() for name, value in self.state_dict().items()}
            (temporary / WEIGHTS).write_bytes(save(tensors))
            (temporary / "README.md").write_text(card, encoding="utf-8")


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


def load_classifier(path: str | Path) -> ConvNet | TextClassifier:
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
    if kind != CONVNET:
        return TextClassifier(load_sequence_classifier(folder))
    check_whole(folder)
    try:
        found = ConvNet(int(about["width"]), about["image_shape"], about["classes"])
        found.load_state_dict(read_tensors(folder / WEIGHTS))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{folder} does not hold a whole cnn: {error}. Make it again, or name another."
        ) from error
    return found.eval()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _sized(shape: Sequence[int]) -> str:
    height, width, channels = shape
    return f"images of {width} x {height} pixels and {channels} channels"
