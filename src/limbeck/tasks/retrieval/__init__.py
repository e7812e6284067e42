"""Retrieval: texts that answer queries, and everything that a recipe needs to make a retriever."""

from limbeck.tasks.retrieval.kind import RetrievalKind
from limbeck.tasks.retrieval.task import ListSettings, Retrieval

KIND = RetrievalKind()

__all__ = ["KIND", "ListSettings", "Retrieval"]
