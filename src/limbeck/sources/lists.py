"""Which queries does an update see, and which passages beside each of them?

Every training query has a list to draw from: its judged positives, if any, and a ranked pool of
other candidates. An update takes a number of queries and, for each, a short list: slot 0 holds a
positive (for an unlabelled query the first of its pool), the others are drawn from the pool
without replacement, or are its first ones in every epoch. Draws depend on (seed, epoch, query)
alone. After them come passages that were made for this list, if any were.

This module knows no text, no model and no loss.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from limbeck.errors import DataError
from limbeck.negatives import draw, generator
from limbeck.sources.order import update_positions
from limbeck.store import digest
from limbeck.types import QueryId


@dataclass(frozen=True, slots=True)
class QueryList:
    """A training query with the passages that may be shown with it, all as positions in the
    collection.

    `positives` are its judged positives (none: an unlabelled query); `pool` its other candidates,
    best first; `scores`, by the name of the teacher, its raw scores of positives and pool, in that
    order, NaN where it was not asked. `not_negatives` are passages that are never its negatives,
    though another query of the update brings them: likely false negatives, and positives of a query
    with its text. `copies` say how often each of the pool stands in it, where that is not once: the
    oftener, the likelier it is drawn.

    `derived` are passages made for its lists, which no other list has and which are nobody's
    negatives, a row for each draw [draws, S], -1 = none; a list of epoch e ends with the row e
    modulo `draws`. `derived_scores` are as `scores`, [draws, S].
    """

    query: int
    query_id: QueryId
    positives: np.ndarray
    pool: np.ndarray
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    not_negatives: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    derived: np.ndarray = field(default_factory=lambda: np.empty((1, 0), dtype=np.int64))
    derived_scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    copies: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class QueryLists:
    """The lists of many queries; `dropped` counts what rules left out of them, by reason."""

    entries: Sequence[QueryList]
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[QueryList]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def judged(self) -> QueryLists:
        """The lists of queries with a positive."""
        return replace(self, entries=[entry for entry in self.entries if len(entry.positives)])

    def of(self, queries: Collection[int]) -> QueryLists:
        """The lists of some queries, given as positions in the collection."""
        return replace(self, entries=[entry for entry in self.entries if entry.query in queries])

    @property
    def scored_by(self) -> list[str]:
        """The names of the teachers whose scores are here."""
        return sorted({name for entry in self.entries for name in entry.scores})


@dataclass(frozen=True, slots=True)
class ListBatch:
    """The queries and passages of one update; each distinct passage once.

    Shapes: `queries` [B] and `passages` [P], positions in the collection; `lists` [B, L], columns
    into `passages`, -1 = empty slot, those of passages made for a list after all others;
    `labelled` [B] bool, slot 0 is a judged positive; `not_negatives` [B, P] bool, this passage is
    no negative of this query: a judged positive, one made for any list, or what its list names so;
    `scores` by the name of the teacher, raw scores of the lists [B, L], NaN in empty slots and
    where it was not asked.
    """

    queries: np.ndarray
    passages: np.ndarray
    lists: np.ndarray
    labelled: np.ndarray
    not_negatives: np.ndarray
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListSource:
    """Updates of `batch_size` queries with lists of `list_length` passages each, and what was made
    for a list besides.

    `order` "ranked" shows every query the same list in every epoch: its first positive, then the
    first of its pool. `start` is how many updates earlier stages made of the same queries: a later
    stage goes on in the middle of an epoch.
    """

    lists: QueryLists
    batch_size: int
    list_length: int
    seed: int
    order: Literal["random", "ranked"] = "random"
    start: int = 0

    def __post_init__(self) -> None:
        if not len(self.lists):
            raise DataError(
                "There is no training query with a list to learn from. Add queries (judged or "
                "not) to queries.jsonl, or use --recipe embed, which can learn from passages alone."
            )

    @property
    def digest(self) -> str:
        """Digest of everything the updates depend on."""
        return digest(
            {
                "lists": [
                    [
                        entry.query_id,
                        entry.positives.tolist(),
                        entry.pool.tolist(),
                        entry.not_negatives.tolist(),
                        {name: scores.tolist() for name, scores in entry.scores.items()},
                        *_derived(entry),
                        *([] if entry.copies is None else [entry.copies.tolist()]),
                    ]
                    for entry in self.lists
                ],
                "batch_size": self.batch_size,
                "list_length": self.list_length,
                "seed": self.seed,
                "order": self.order,
                "start": self.start,
            }
        )

    @property
    def updates_per_pass(self) -> float:
        """Number of updates in one pass over all lists."""
        return len(self.lists) / self.batch_size

    @property
    def dropped(self) -> Mapping[str, int]:
        """Numbers of passages and queries that rules left out of the lists, by reason."""
        return self.lists.dropped

    def batch(self, update: int) -> ListBatch:
        """The queries of one update with a freshly drawn list each."""
        places = self._places(update)
        chosen = [self.lists.entries[place] for place in places[:, 0]]
        slots = [
            self._draw(entry, epoch) for entry, epoch in zip(chosen, places[:, 1], strict=True)
        ]
        drawn = [
            np.concatenate([entry.positives, entry.pool])[own]
            for entry, own in zip(chosen, slots, strict=True)
        ]
        draws = [
            epoch % len(entry.derived) for entry, epoch in zip(chosen, places[:, 1], strict=True)
        ]
        made = [entry.derived[draw] for entry, draw in zip(chosen, draws, strict=True)]
        for_one = np.unique(np.concatenate(made))
        passages = np.unique(np.concatenate([*drawn, for_one[for_one >= 0]]))
        rows, length = len(drawn), self.list_length + max(map(len, made))
        lists = np.full((rows, length), -1, dtype=np.int64)
        scores = {
            name: np.full((rows, length), np.nan, dtype=np.float32) for name in self.lists.scored_by
        }
        not_negatives = np.zeros((rows, len(passages)), dtype=bool)
        for row, (positions, own, entry) in enumerate(zip(drawn, slots, chosen, strict=True)):
            lists[row, : len(positions)] = np.searchsorted(passages, positions)
            not_negatives[row] = np.isin(passages, np.append(entry.positives, entry.not_negatives))
            for name, values in entry.scores.items():
                scores[name][row, : len(positions)] = values[own]
            after = self.list_length + np.flatnonzero(made[row] >= 0)
            lists[row, after] = np.searchsorted(passages, made[row][made[row] >= 0])
            for name, values in entry.derived_scores.items():
                scores[name][row, self.list_length : self.list_length + len(made[row])] = values[
                    draws[row]
                ]
        not_negatives[:, np.isin(passages, for_one)] = True
        return ListBatch(
            queries=np.array([entry.query for entry in chosen], dtype=np.int64),
            passages=passages,
            lists=lists,
            labelled=np.array([len(entry.positives) > 0 for entry in chosen]),
            not_negatives=not_negatives,
            scores=scores,
        )

    def shown(self, updates: int, draws: int) -> list[tuple[int, int]]:
        """What the first updates show: places of queries among the lists, and their epoch modulo
        `draws`, each pair once and in order.
        """
        places = np.concatenate([self._places(update) for update in range(updates)])
        return sorted({(place, epoch % draws) for place, epoch in places.tolist()})

    def drawn(self, place: int, epoch: int) -> np.ndarray:
        """The list of the query at a place in an epoch, as positions in the collection."""
        entry = self.lists.entries[place]
        found: np.ndarray = np.concatenate([entry.positives, entry.pool])[self._draw(entry, epoch)]
        return found

    def _places(self, update: int) -> np.ndarray:
        """Places and epochs [B, 2] of the queries of an update."""
        return update_positions(
            len(self.lists), self.batch_size, seed=self.seed, update=self.start + update
        )

    def _draw(self, entry: QueryList, epoch: int) -> np.ndarray:
        """One list: a positive or the pool's first in slot 0, then others of the pool. Positions
        among the query's positives and pool.
        """
        judged = len(entry.positives)
        everyone = np.arange(judged + len(entry.pool))
        firsts, others = everyone[: max(1, judged)], everyone[max(1, judged) :]
        length = self.list_length
        if self.order == "ranked":
            return np.concatenate([firsts[:1], others[: length - 1]])
        random = generator(self.seed, epoch, entry.query_id)
        copies = None if entry.copies is None else entry.copies[len(entry.copies) - len(others) :]
        return np.concatenate([draw(firsts, 1, random), draw(others, length - 1, random, copies)])


def _derived(entry: QueryList) -> list[object]:
    """What was made for a query's lists, for a digest; nothing where nothing was."""
    if not entry.derived.size:
        return []
    scores = {name: scores.tolist() for name, scores in entry.derived_scores.items()}
    return [entry.derived.tolist(), scores]
