"""Retrieval: texts that answer queries, and everything that a recipe needs to make a retriever."""

from limbeck.tasks.retrieval.task import ListSettings, Retrieval

__all__ = ["ListSettings", "Retrieval"]
