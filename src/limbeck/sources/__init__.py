"""Where do the examples of an update come from? Pure functions of the update's number."""

from limbeck.sources.lists import ListBatch, ListSource, QueryList, QueryLists
from limbeck.sources.texts import TextBatch, TextSource

__all__ = ["ListBatch", "ListSource", "QueryList", "QueryLists", "TextBatch", "TextSource"]
