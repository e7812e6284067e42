"""How does an image classifier of transformers teach, or learn?

A folder with a `...ForImageClassification` (ViT, ResNet ...) and its `preprocessor_config.json`
opens as an `ImageClassifier` that resizes and normalises images as its processor would; it is saved
so that transformers opens it again. This module knows no training and no data set.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck.errors import ConfigError, ModelError
from limbeck.models.image_classifier import ImageClassifier, Images, Shape
from limbeck.models.quiet import quiet
from limbeck.store import check_whole, new_folder

HEAD = "ForImageClassification"  # ends the name of the architecture
PROCESSOR = "preprocessor_config.json"
CHANNELS = 3
SIZE = 224  # pixels, where neither processor nor model says


class PretrainedImages(ImageClassifier):
    """Logits [B, classes] of images of any size, of one or three channels, by a model of
    transformers. Images are resized with bilinear interpolation.
    """

    kind = "transformers"

    def __init__(self, shape: Shape, model: Any) -> None:
        super().__init__(shape)
        self.model: nn.Module = model

    def map_shape(self) -> tuple[int, int, int]:
        """None that is learned from.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("A model of transformers shows no feature maps. Set feature_weight=0.")

    def features(self, features: dict[str, Tensor]) -> Tensor:
        """The images as the model reads them, [B, 3, height, width]."""
        images, size = features["images"], self.reads.image[:2]
        if images.shape[1] == 1:
            images = images.expand(-1, CHANNELS, -1, -1)
        if tuple(images.shape[2:]) != size:
            images = functional.interpolate(images, size, mode="bilinear", antialias=True)
        return (images - self.means) / self.deviations

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """The logits of a batch, fp32."""
        logits: Tensor = self.model(pixel_values=self.features(features)).logits
        return logits.float()

    def read(self, inputs: Sequence[str] | np.ndarray) -> Images:
        """Images of any size.

        Raises:
            ModelError: for texts.
        """
        if not isinstance(inputs, np.ndarray):
            raise ModelError("The model reads images, not texts. Name another.")
        return Images(inputs)

    def with_classes(self, classes: Sequence[str], seed: int) -> PretrainedImages:
        """The same body under a fresh head for other classes, the same for the same seed."""
        theirs: Any = self.model
        config = copy.deepcopy(theirs.config)
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: at for at, name in enumerate(classes)}
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = type(theirs)(config)
        new, own = model.state_dict(), theirs.state_dict()
        kept = {name: own[name] for name in new if new[name].shape == own[name].shape}
        model.load_state_dict(kept, strict=False)
        reads = self.reads
        return PretrainedImages(
            Shape(reads.image, reads.means, reads.deviations, tuple(classes)), model.eval()
        )

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write model, processor and card."""
        height, width, _ = self.reads.image
        processor = {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(self.reads.means),
            "image_std": list(self.reads.deviations),
            "resample": 2,  # bilinear
            "rescale_factor": 1 / 255,
            "size": {"height": height, "width": width},
            "image_processor_type": "ViTImageProcessor",
        }
        with new_folder(folder, stage=stage) as temporary:
            model: Any = self.model
            model.should_save_on_this_rank = lambda is_main_process: is_main_process
            model.save_pretrained(temporary)
            text = json.dumps(processor, indent=2) + "\n"
            (temporary / PROCESSOR).write_text(text, encoding="utf-8")
            (temporary / "README.md").write_text(card, encoding="utf-8")

    def _config(self) -> dict[str, object]:
        reads = self.reads
        told: Any = self.model.config
        return {
            "model_type": told.model_type,
            "image_shape": list(reads.image),
            "image_mean": list(reads.means),
            "image_std": list(reads.deviations),
            "classes": list(reads.classes),
        }


def load_pretrained_images(folder: Path) -> PretrainedImages:
    """The model in a folder, on the CPU, in fp32. No pickle is opened and no code of it run.

    Raises:
        ModelError: when it is not whole, or has no safetensors.
    """
    from transformers import AutoModelForImageClassification

    check_whole(folder)
    try:
        with quiet():
            model, loaded = AutoModelForImageClassification.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"{folder} cannot be opened: {error}") from error
    if loaded["missing_keys"]:
        names = ", ".join(sorted(loaded["missing_keys"])[:3])
        raise ModelError(f"{folder} lacks weights ({names}). Make it again, or name another.")
    names = model.config.id2label
    classes = tuple(str(names[at]) for at in range(len(names)))
    return PretrainedImages(_shape(folder, model, classes), model.float().eval())


def _shape(folder: Path, model: Any, classes: tuple[str, ...]) -> Shape:
    """Shape of the images that a model reads, from its processor.

    Raises:
        ModelError: when that cannot be read.
    """
    path = folder / PROCESSOR
    about: Mapping[str, Any] = {}
    try:
        if path.is_file():
            about = json.loads(path.read_text(encoding="utf-8"))
        given = about.get("crop_size") or about.get("size")
        given = given or getattr(model.config, "image_size", None) or SIZE
        if isinstance(given, Mapping):
            edge = given.get("shortest_edge")
            size = (int(given.get("height", edge)), int(given.get("width", edge)))
        else:
            size = (int(given), int(given))
        normal = about.get("do_normalize", bool(about))
        means = about["image_mean"] if normal else (0.0,) * CHANNELS
        deviations = about["image_std"] if normal else (1.0,) * CHANNELS
        if not len(means) == len(deviations) == CHANNELS:
            raise ValueError(f"image_mean and image_std must have {CHANNELS} numbers")
        return Shape(
            (*size, CHANNELS),
            tuple(float(each) for each in means),
            tuple(float(each) for each in deviations),
            classes,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{path} does not say how images are read ({error}). Mend it, or name another model."
        ) from error
