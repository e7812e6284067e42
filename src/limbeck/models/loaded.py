"""Which model is an object that somebody has loaded already?

An object of one of the four classes of sentence-transformers is copied to the CPU in fp32 and
wrapped as `limbeck.models.loading` would wrap its folder, so that both have the same digest. The
object itself is left as it is. This module does not know what the model is for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from limbeck.errors import ModelError
from limbeck.models.encoder import Encoder, Ranker, WrappedModel
from limbeck.models.loading import is_transformer, name_passage_prompt
from limbeck.models.quiet import quiet
from limbeck.models.reading import LateReader, SparseReader

_WRAPPERS: Mapping[str, type[WrappedModel]] = {
    "SentenceTransformer": Encoder,
    "CrossEncoder": Ranker,
    "SparseEncoder": SparseReader,
    "MultiVectorEncoder": LateReader,
}


def wrap(model: object) -> WrappedModel:
    """A loaded model as Limbeck reads it; one of Limbeck's own stays as it is.

    Raises:
        ModelError: when it is of another class, or cannot be read as its folder could not.
    """
    if isinstance(model, WrappedModel):
        return model
    kind = _class_of(model)
    if kind is None:
        raise ModelError(
            f"A {type(model).__module__}.{type(model).__qualname__} cannot be used as a model. "
            f"Give a {' or '.join(_WRAPPERS)} of sentence-transformers, a folder or a hub name."
        )
    own: Any = copy.deepcopy(model)
    if not len(own) or not is_transformer(own[0]):
        first = type(own[0]).__name__ if len(own) else "nothing"
        raise ModelError(
            f"The {kind} starts with {first}. Limbeck reads models that start with a Transformer; "
            "name another model."
        )
    with quiet():
        own = own.to("cpu").float().eval()
    if kind == "CrossEncoder":
        if len(own) != 1 or own[0].transformer_task != "sequence-classification":
            raise ModelError(
                "The CrossEncoder has no sequence-classification head, as Limbeck reads rankers. "
                "Name another model."
            )
        own.activation_fn = torch.nn.Identity()  # raw scores
    else:
        name_passage_prompt(own.prompts)
    return _WRAPPERS[kind](own)


def name_of_model(model: WrappedModel) -> str:
    """Name of a loaded model: the end of the path or hub name that it came from."""
    path = str(getattr(model.transformer.config, "_name_or_path", "") or "")
    return Path(path).name or type(model).__name__.lower()


def class_of(model: WrappedModel) -> str:
    """The class of sentence-transformers that a model wraps, or would without its export."""
    return next(name for name, wrapper in _WRAPPERS.items() if isinstance(model, wrapper))


def _class_of(model: object) -> str | None:
    """The class of sentence-transformers that an object belongs to, or None."""
    for cls in type(model).__mro__:
        if cls.__module__.startswith("sentence_transformers.") and cls.__name__ in _WRAPPERS:
            return cls.__name__
    return None
