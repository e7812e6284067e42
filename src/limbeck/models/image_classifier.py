"""Which small nets classify images, and how are they kept?

`ConvNet` and `WideResNet` map images [B, channels, height, width] in [0, 1] to raw logits. Both
normalise each channel first, by numbers of the training images that lie in the model's folder. This
module knows no training and no data set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from limbeck.errors import ConfigError, ModelError
from limbeck.models.loading import IMAGE_NETS
from limbeck.store import check_whole, digest, digest_tensors, new_folder, read_tensors

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
GROUPS = 4  # of a cnn's channels that are normalised together
NAMES = "cnn, cnn-WIDTH with a multiple of 4, or wrn-DEPTH-WIDTH with a depth of 6n + 4"
_NAMES = re.compile(r"cnn(?:-(?P<channels>\d+))?|wrn-(?P<depth>\d+)-(?P<width>\d+)")


class Images:
    """Images [n, height, width, channels] as a net reads them; each counts as one token."""

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


@dataclass(frozen=True)
class Shape:
    """The images that a net reads: height, width and channels, the mean and the standard deviation
    of each channel, and the names of the classes in the order of its logits.
    """

    image: tuple[int, int, int]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, images: np.ndarray, classes: Sequence[str]) -> Shape:
        """The shape of images [n, height, width, channels], bytes or numbers in [0, 1], with their
        own mean and deviation.
        """
        height, width, channels = images.shape[1:]
        most = 255 if images.dtype == np.uint8 else 1
        means = images.mean(axis=(0, 1, 2), dtype=np.float64) / most
        deviations = images.std(axis=(0, 1, 2), dtype=np.float64) / most
        return cls(
            (height, width, channels),
            tuple(round(float(each), 4) for each in means),
            tuple(round(max(float(each), 1e-3), 4) for each in deviations),
            tuple(classes),
        )


class ImageClassifier(nn.Module):
    """A net of images: `body` gives its last feature maps [B, C, h, w], `head` their logits."""

    kind: ClassVar[str]
    sizes: dict[str, int]  # that say how it is built
    body: nn.Module
    head: nn.Module

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.reads = shape
        self.means: Tensor
        self.deviations: Tensor
        for name in ("means", "deviations"):
            values = torch.tensor(getattr(shape, name)).reshape(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, in the order of its logits."""
        return self.reads.classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that it reads."""
        return self.reads.image

    def features(self, features: dict[str, Tensor]) -> Tensor:
        """The last feature maps of a batch, [B, C, h, w]."""
        maps: Tensor = self.body((features["images"] - self.means) / self.deviations)
        return maps

    def kept_statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The mean and variance [C] that each BatchNorm layer keeps of its data, by its name."""
        return {
            name: (module.running_mean.clone(), module.running_var.clone())
            for name, module in self.named_modules()
            if isinstance(module, nn.BatchNorm2d)
            and module.running_mean is not None
            and module.running_var is not None
        }

    def map_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its feature maps."""
        height, width, channels = self.reads.image
        training = self.training
        with torch.no_grad():
            image = torch.zeros((1, channels, height, width), device=self.means.device)
            maps = self.eval().features({"images": image})
        self.train(training)
        return maps.shape[1], maps.shape[2], maps.shape[3]

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """The logits of a batch, [B, classes], fp32."""
        logits: Tensor = self.head(self.features(features))
        return logits.float()

    def read(self, inputs: Sequence[str] | np.ndarray) -> Images:
        """Images of its own size.

        Raises:
            ModelError: for others.
        """
        if not isinstance(inputs, np.ndarray) or inputs.shape[1:] != self.reads.image:
            given = "texts" if not isinstance(inputs, np.ndarray) else _sized(inputs.shape[1:])
            raise ModelError(
                f"The model reads {_sized(self.reads.image)}, not {given}. Name another."
            )
        return Images(inputs)

    def digests(self) -> list[str]:
        """Digests of everything its outputs depend on besides weights and images."""
        return [digest(self._config())]

    def plain_attention(self) -> Any:
        """It has none."""
        return _nothing()

    def content_digest(self) -> str:
        """Weights, shape and classes."""
        return digest([*self.digests(), digest_tensors(self.state_dict())])

    def parameter_count(self) -> int:
        """Number of parameters."""
        return sum(each.numel() for each in self.parameters())

    def size_bytes(self) -> int:
        """Size of the weights in bytes."""
        return sum(each.numel() * each.element_size() for each in self.parameters())

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write `config.json`, weights and card."""
        with new_folder(folder, stage=stage) as temporary:
            text = json.dumps(self._config(), indent=1, ensure_ascii=False) + "\n"
            (temporary / CONFIG).write_text(text, encoding="utf-8")
            tensors = {name: value.cpu().contiguous() for name, value in self.state_dict().items()}
            (temporary / WEIGHTS).write_bytes(save(tensors))
            (temporary / "README.md").write_text(card, encoding="utf-8")

    def _config(self) -> dict[str, object]:
        reads = self.reads
        return {
            "model_type": self.kind,
            **self.sizes,
            "image_shape": list(reads.image),
            "image_mean": list(reads.means),
            "image_std": list(reads.deviations),
            "classes": list(reads.classes),
        }


class ConvNet(ImageClassifier):
    """Three convolutions, the second of stride 2, each normalised in groups of channels: an image's
    logits depend on no other image. `width` is the number of channels of the first.
    """

    kind = IMAGE_NETS[0]

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__(shape)
        if width % GROUPS or width < 1:
            raise ModelError(f"A cnn of width {width}: the width must be a multiple of {GROUPS}.")
        self.sizes = {"width": width}
        height, across, channels = shape.image
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
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.0), nn.Linear(before * pixels, len(shape.classes))
        )


class WideResNet(ImageClassifier):
    """Three groups of (depth - 4) / 6 pre-activation blocks with 16, 32 and 64 times `width`
    channels, the second and third group of stride 2, then the mean over positions.

    Normalises by its batch (BatchNorm): in training, logits depend on the images beside them.

    Source: Zagoruyko and Komodakis 2016, arXiv:1605.07146, table 1.
    """

    kind = IMAGE_NETS[1]

    def __init__(self, shape: Shape, depth: int, width: int) -> None:
        super().__init__(shape)
        if depth < 10 or (depth - 4) % 6 or width < 1:
            raise ModelError(
                f"A wide residual net {depth}-{width}: the depth must be 10, 16, 22, 28 ... "
                "(6n + 4), and the width 1 at least."
            )
        self.sizes = {"depth": depth, "width": width}
        blocks: list[nn.Module] = [nn.Conv2d(shape.image[2], 16, 3, padding=1, bias=False)]
        before = 16
        for group, channels in enumerate((16 * width, 32 * width, 64 * width)):
            for block in range((depth - 4) // 6):
                stride = 2 if group and not block else 1
                blocks.append(_Block(before, channels, stride))
                before = channels
        self.body = nn.Sequential(*blocks, nn.BatchNorm2d(before), nn.ReLU())
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.0),
            nn.Linear(before, len(shape.classes)),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class _Block(nn.Module):
    """Two convolutions after their normalisations, beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(before)
        self.conv_in = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.second = nn.BatchNorm2d(after)
        self.dropout = nn.Dropout(0.0)
        self.conv_out = nn.Conv2d(after, after, 3, padding=1, bias=False)
        changes = before != after or stride != 1
        self.shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False) if changes else None

    def forward(self, maps: Tensor) -> Tensor:
        """Feature maps [B, before, h, w] to [B, after, h / stride, w / stride]."""
        active = functional.relu(self.first(maps))
        beside = maps if self.shortcut is None else self.shortcut(active)
        found: Tensor = self.conv_in(active)
        found = self.conv_out(self.dropout(functional.relu(self.second(found))))
        return found + beside


def with_statistics(model: nn.Module, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """The `logits` of a batch, and of every image the mean (`mean/LAYER`, [B, C]) and the mean
    square (`square/LAYER`) of what each BatchNorm layer reads: their means over images give those
    of the batch.
    """
    found: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):

            def note(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                maps = given[0].float()
                found[f"mean/{name}"] = maps.mean(dim=(2, 3))
                found[f"square/{name}"] = maps.square().mean(dim=(2, 3))

            hooks.append(module.register_forward_pre_hook(note))
    try:
        found["logits"] = model(features)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def fresh_image_classifier(name: str, shape: Shape, seed: int, option: str) -> ImageClassifier:
    """A net with new weights, the same for the same seed: `cnn` (of width 4), `cnn-8`, `wrn-16-2`.

    Raises:
        ConfigError, ModelError: when there is no net of this name.
    """
    found = _NAMES.fullmatch(name)
    if found is None:
        raise ConfigError(f"{option} {name!r} is no net of images, and no folder. Use {NAMES}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if found["depth"]:
            return WideResNet(shape, int(found["depth"]), int(found["width"]))
        return ConvNet(shape, int(found["channels"] or GROUPS))


def load_image_classifier(folder: Path, about: dict[str, Any]) -> ImageClassifier:
    """The net in a folder whose `config.json` says this, on the CPU.

    Raises:
        ModelError: when it is not whole.
    """
    check_whole(folder)
    try:
        height, width, channels = (int(each) for each in about["image_shape"])
        shape = Shape(
            (height, width, channels),
            tuple(float(each) for each in about["image_mean"]),
            tuple(float(each) for each in about["image_std"]),
            tuple(str(each) for each in about["classes"]),
        )
        if not len(shape.means) == len(shape.deviations) == channels:
            raise ValueError(f"image_mean and image_std must have {channels} numbers")
        found: ImageClassifier
        if about["model_type"] == WideResNet.kind:
            found = WideResNet(shape, int(about["depth"]), int(about["width"]))
        else:
            found = ConvNet(shape, int(about["width"]))
        found.load_state_dict(read_tensors(folder / WEIGHTS))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{folder} does not hold a whole net: {error}. Make it again, or name another."
        ) from error
    return found.eval()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _sized(shape: Sequence[int]) -> str:
    height, width, channels = shape
    return f"images of {width} x {height} pixels and {channels} channels"
