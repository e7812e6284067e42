"""Files, collections, tokens and what a model reads of them."""

from limbeck.data.reading import read_collection

__all__ = ["read_collection"]
