"""Which prompts does a model read its texts with, and which should it?

Some encoders were trained with words before every query and passage, and rank worse without them.
A folder of sentence-transformers can name them, but early ones do not; for those the name of the
model is all there is to go by.

This module does not know where a model is used.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

from limbeck.models.encoder import Encoder

_E5 = ("query: ", "passage: ")
_BGE = ("Represent this sentence for searching relevant passages: ", "")
_BGE_ZH = ("为这个句子生成表示以用于检索相关文章：", "")  # noqa: RUF001  (their colon)

# Name of a model, in lower case -> what its authors put before queries and passages.
_TRAINED_WITH = (
    (re.compile(r"e5-(small|base|large)(?!.*instruct)"), _E5),
    (re.compile(r"bge-(small|base|large)-en"), _BGE),
    (re.compile(r"bge-(small|base|large)-zh"), _BGE_ZH),
)


def with_prompts(encoder: Encoder, query: str | None, passage: str | None) -> Encoder:
    """The encoder with other words before queries or passages; None leaves them as they are.

    They are saved with it, as sentence-transformers' prompts `query` and `document`.

    Raises:
        ModelError: when the encoder leaves its prompts out of its pooling.
    """
    model = copy.deepcopy(encoder.model)
    if query is not None:
        model.prompts["query"] = query
    if passage is not None:
        model.prompts["document"] = passage
    prompted = Encoder(model)
    prompted.max_length = encoder.max_length
    return prompted


def add_prompts(encoder: Encoder, query: str, passage: str) -> None:
    """Put words before queries and passages of an encoder that has none, in place; one that names
    any of its own keeps them.

    Raises:
        ModelError: when the encoder leaves its prompts out of its pooling.
    """
    if not any(encoder.prompt(role) for role in ("query", "passage")):
        encoder.model.prompts |= {"query": query, "document": passage}
        Encoder(encoder.model)  # which refuses what it cannot read


def missing_prompts(spec: str, encoder: Encoder) -> tuple[str, str] | None:
    """The prompts of queries and passages that a model was trained with but its folder does not
    name, by the name of the model; None when there are none, or that is not known.
    """
    if any(encoder.prompt(role) for role in ("query", "passage")):
        return None
    for name in (Path(spec).name, Path(_published_as(encoder)).name):
        for pattern, prompts in _TRAINED_WITH:
            if pattern.search(name.lower()):
                return prompts
    return None


def _published_as(encoder: Encoder) -> str:
    """The name that the configuration in the model's folder gives it; often none."""
    config = getattr(encoder.model, "config", None)  # what was exported has none
    path = Path(str(getattr(config, "name_or_path", ""))) / "config.json"
    if not path.is_file():
        return ""
    return str(json.loads(path.read_text(encoding="utf-8")).get("_name_or_path") or "")
