"""What may the body of a request say?

Clients of OpenAI's, Cohere's and Jina's APIs send more fields than are used here, and send `null`
for those they leave out: unknown fields are ignored, and `null` is as good as nothing. What is
used is checked strictly: no number in quotes, no list for a text.

This module does not know how many texts may be sent, or what is done with them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, model_validator

from limbeck.indexing import By
from limbeck.serving.limits import MAX_HITS
from limbeck.types import Role

_ROLES = {"search_query": "query", "document": "passage", "search_document": "passage"}


class _Body(BaseModel):
    """Base class of all request bodies."""

    model_config = ConfigDict(extra="ignore", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if isinstance(value, dict):
            return {key: each for key, each in value.items() if each is not None}
        return value


class SearchBody(_Body):
    """The body of POST /search."""

    query: str
    k: int = Field(10, ge=1, le=MAX_HITS)
    by: By = "student"


def _one_or_more(value: object) -> object:
    """The texts of `input`; ids of tokens are refused in words of their own."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and any(isinstance(each, int | list) for each in value):
        raise ValueError(
            "ids of tokens are not taken, since they are of another model's vocabulary. Send texts "
            "(in LangChain: check_embedding_ctx_length=False)"
        )
    return value


def _role(value: object) -> object:
    """A role by the names that other APIs have for it."""
    return _ROLES.get(value, value) if isinstance(value, str) else value


class EmbeddingsBody(_Body):
    """The body of POST /v1/embeddings."""

    input: Annotated[list[str], FailFast(), BeforeValidator(_one_or_more)]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    input_type: Annotated[Role, BeforeValidator(_role)] = "passage"


def _documents(value: object) -> object:
    """Documents that are texts or objects."""
    if isinstance(value, list):
        for at, each in enumerate(value):
            if not isinstance(each, str | dict):
                raise ValueError(
                    f"document {at} is neither a text nor an object. Send texts, or objects with "
                    "`text`"
                )
    return value


class RerankBody(_Body):
    """The body of POST /rerank.

    The text of a document that is an object is what it has under `rank_fields`, joined by spaces.
    """

    query: str
    documents: Annotated[list[str | dict[str, Any]], BeforeValidator(_documents)]
    top_n: int | None = Field(None, ge=1)
    model: str | None = None
    rank_fields: Annotated[list[str], FailFast(), Field(min_length=1)] = ["text"]
    return_documents: bool = False
