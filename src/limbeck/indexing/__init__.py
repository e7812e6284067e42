"""Passages as vectors on disk: built once, changed in place, searched by a student."""

from limbeck.indexing.building import Changed, add, build, delete
from limbeck.indexing.checking import Checked, check
from limbeck.indexing.files import Index, open_index
from limbeck.indexing.runs import check_searchable
from limbeck.indexing.searching import BY, By, Hit, Searcher, find_index, open_searcher

__all__ = [
    "BY",
    "By",
    "Changed",
    "Checked",
    "Hit",
    "Index",
    "Searcher",
    "add",
    "build",
    "check",
    "check_searchable",
    "delete",
    "find_index",
    "open_index",
    "open_searcher",
]
