"""Which class does a model give a new input, and how sure is it?

A model is read off its folder, inputs from a file or from objects in memory. This module knows no
run and no measure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.data.new_inputs import read_new_inputs
from limbeck.errors import ConfigError, DataError
from limbeck.inference import Engine, plan_batches
from limbeck.models.forward import forward
from limbeck.types import Progress, Silent

if TYPE_CHECKING:
    from limbeck.tasks.classification.teachers import Net

_OWN = "limbeck-"  # how the `model_type` of Limbeck's own nets begins
_HEADS = ("ForSequenceClassification", "ForImageClassification")


def is_classifier(folder: Path) -> bool:
    """Whether a folder's `config.json` is of a classifier: one of Limbeck's own nets, or a
    transformer with a head for two classes or more. With one label it is a ranker.
    """
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architectures = about.get("architectures") or ()
    except (OSError, ValueError, AttributeError):
        return False
    if str(about.get("model_type")).startswith(_OWN):
        return True
    labels = about.get("id2label") or range(2)  # which transformers does not write of two
    return len(labels) > 1 and any(str(each).endswith(_HEADS) for each in architectures)


def predict(
    model: Net, inputs: Any, *, top: int, engine: Engine, progress: Progress
) -> list[dict[str, object]]:
    """The class of each input and its probability, in order; with `top` above 1 the most probable
    classes, too. Inputs are a file, a list of texts, or an array of images.

    Raises:
        ConfigError, DataError, ModelError: for inputs that the model does not read.
    """
    ids, given = _inputs(inputs, model.image_shape)
    logits = class_logits(model, given, engine, progress).astype(np.float64)
    shares = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    order = np.argsort(-shares, axis=1, kind="stable")[:, :top]
    found: list[dict[str, object]] = []
    for name, best, own in zip(ids, order, shares, strict=True):
        classes: list[dict[str, object]] = [
            {"label": model.classes[at], "probability": round(float(own[at]), 6)} for at in best
        ]
        found.append({"id": name, **classes[0], **({"top": classes} if top > 1 else {})})
    return found


def class_logits(
    model: Net, inputs: Sequence[str] | np.ndarray, engine: Engine, progress: Progress | None = None
) -> np.ndarray:
    """A model's logits, [inputs, classes], the classes in the model's order."""
    read = model.read(inputs)
    training = model.training
    model.eval().to(engine.device)
    found = np.empty((len(inputs), len(model.classes)), dtype=np.float32)
    with (progress or Silent()).task("predict", len(inputs), "inputs") as done:
        for positions in plan_batches(read.lengths, engine.max_batch_tokens):
            found[positions] = forward(
                model, read.collate(positions), device=engine.device, precision=engine.precision
            )
            done(len(positions))
    model.train(training)
    return found


def _inputs(
    inputs: Any, shape: tuple[int, int, int] | None
) -> tuple[Sequence[str], Sequence[str] | np.ndarray]:
    """Ids and inputs.

    Raises:
        ConfigError: for objects of another kind.
        DataError: for what cannot be used.
    """
    if isinstance(inputs, str | Path):
        return read_new_inputs(str(inputs), shape)
    ids = [str(at) for at in range(len(inputs))]
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "fiub":
        return ids, _images(inputs)
    texts = list(inputs)
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigError(
                f"Input {at} is a {type(text).__name__}, not a text. Give a list of texts, an "
                "array of images [n, height, width, channels], or the name of a file."
            )
        if not text.strip():
            raise DataError(f"Input {at} is an empty text. Leave it out.")
    return ids, texts


def _images(images: np.ndarray) -> np.ndarray:
    """Images as models read them, from 0 to 1; whole numbers are taken to be from 0 to 255.

    Raises:
        DataError: for other shapes and numbers.
    """
    if images.ndim != 4:
        raise DataError(
            f"The array has the shape {list(images.shape)}. Images have the shape "
            "[n, height, width, channels]; one alone is images[None]."
        )
    scaled = images.astype(np.float32) / (1 if images.dtype.kind == "f" else 255)
    if scaled.size and not (scaled.min() >= 0 and scaled.max() <= 1):  # also not a number
        raise DataError(
            f"The images have numbers from {images.min():g} to {images.max():g}. Give floats from "
            "0 to 1, or whole numbers from 0 to 255."
        )
    return scaled
