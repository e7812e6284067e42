"""A student over HTTP: search, embeddings and re-ranking (the extra `serve`)."""

from limbeck.serving.limits import Limits
from limbeck.serving.server import Server, prepare

__all__ = ["Limits", "Server", "prepare"]
