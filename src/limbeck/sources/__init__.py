"""Where do the examples of an update come from? Pure functions of the update's number."""

from limbeck.sources.lists import ListBatch, ListSource, QueryList, QueryLists
from limbeck.sources.pairs import PairBatch, PairSource
from limbeck.sources.texts import TextBatch, TextSource

__all__ = [
    "ListBatch",
    "ListSource",
    "PairBatch",
    "PairSource",
    "QueryList",
    "QueryLists",
    "TextBatch",
    "TextSource",
]
