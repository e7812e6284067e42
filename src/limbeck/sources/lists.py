"""Which queries does an update see, and which passages beside each of them?

Every training query has a list to draw from: its judged positives, if any, and a ranked pool of
other candidates. An update takes a number of queries and, for each, a short list: slot 0 holds a
positive (for an unlabelled query the first of its pool), the others are drawn from the pool
without replacement, or are its first ones in every epoch. Draws depend on (seed, epoch, query)
alone.

This module knows no text, no model and no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from limbeck.errors import DataError
from limbeck.negatives import draw, generator
from limbeck.sources.order import update_positions
from limbeck.store import digest
from limbeck.types import QueryId


@dataclass(frozen=True, slots=True)
class QueryList:
    """What one training query can be shown with, all as positions in the collection.

    `positives` are its judged positives (none: an unlabelled query); `pool` its other candidates,
    best first; `scores` the teacher's raw scores of positives and pool, in that order, where the
    teacher scores pairs. `spared` are passages that are never its negatives, though another query
    of the update brings them: likely false negatives, and positives of a query with its text.
    """

    query: int
    query_id: QueryId
    positives: np.ndarray
    pool: np.ndarray
    scores: np.ndarray | None = None
    spared: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class ListBatch:
    """The queries and passages of one update; each distinct passage once.

    Shapes: `queries` [B] and `passages` [P], positions in the collection; `lists` [B, L], columns
    into `passages`, -1 = empty slot; `labelled` [B] bool, slot 0 is a judged positive;
    `spared` [B, P] bool, this passage is no negative of this query: a judged positive, or one that
    is spared; `teacher` [B, L], the teacher's raw scores of the lists (0 in empty slots), where it
    scores pairs.
    """

    queries: np.ndarray
    passages: np.ndarray
    lists: np.ndarray
    labelled: np.ndarray
    spared: np.ndarray
    teacher: np.ndarray | None


@dataclass(frozen=True, slots=True)
class ListSource:
    """Updates of `queries_per_update` queries with lists of `list_length` passages each.

    `order` "ranked" shows every query the same list in every epoch: its first positive, then the
    first of its pool. `start` is how many updates earlier stages made of the same queries: a later
    stage goes on in the middle of an epoch.
    """

    lists: Sequence[QueryList]
    queries_per_update: int
    list_length: int
    seed: int
    order: Literal["random", "ranked"] = "random"
    start: int = 0

    def __post_init__(self) -> None:
        if not self.lists:
            raise DataError(
                "There is no training query with a list to learn from. Add queries (judged or "
                "not) to queries.jsonl, or use --recipe embed, which can learn from passages alone."
            )

    @property
    def digest(self) -> str:
        """What the updates depend on."""
        return digest(
            {
                "lists": [
                    [
                        entry.query_id,
                        entry.positives.tolist(),
                        entry.pool.tolist(),
                        entry.spared.tolist(),
                        None if entry.scores is None else entry.scores.tolist(),
                    ]
                    for entry in self.lists
                ],
                "queries_per_update": self.queries_per_update,
                "list_length": self.list_length,
                "seed": self.seed,
                "order": self.order,
                "start": self.start,
            }
        )

    @property
    def updates_per_pass(self) -> float:
        """How many updates see everything once."""
        return len(self.lists) / self.queries_per_update

    def batch(self, update: int) -> ListBatch:
        """The queries of one update with a freshly drawn list each."""
        places = update_positions(
            len(self.lists),
            self.queries_per_update,
            seed=self.seed,
            update=self.start + update,
        )
        drawn = [self._draw(self.lists[place], epoch) for place, epoch in places.tolist()]
        chosen = [self.lists[place] for place in places[:, 0]]
        passages = np.unique(np.concatenate([positions for positions, _ in drawn]))
        rows, length = len(drawn), self.list_length
        lists = np.full((rows, length), -1, dtype=np.int64)
        scored = chosen[0].scores is not None
        teacher = np.zeros((rows, length), dtype=np.float32) if scored else None
        spared = np.zeros((rows, len(passages)), dtype=bool)
        for row, ((positions, scores), entry) in enumerate(zip(drawn, chosen, strict=True)):
            lists[row, : len(positions)] = np.searchsorted(passages, positions)
            spared[row] = np.isin(passages, np.append(entry.positives, entry.spared))
            if teacher is not None and scores is not None:
                teacher[row, : len(positions)] = scores
        return ListBatch(
            queries=np.array([entry.query for entry in chosen], dtype=np.int64),
            passages=passages,
            lists=lists,
            labelled=np.array([len(entry.positives) > 0 for entry in chosen]),
            spared=spared,
            teacher=teacher,
        )

    def _draw(self, entry: QueryList, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """One list: a positive or the pool's first in slot 0, then others of the pool."""
        judged = len(entry.positives)
        everyone = np.arange(judged + len(entry.pool))
        firsts, others = everyone[: max(1, judged)], everyone[max(1, judged) :]
        length = self.list_length
        if self.order == "ranked":
            slots = np.concatenate([firsts[:1], others[: length - 1]])
        else:
            random = generator(self.seed, epoch, entry.query_id)
            slots = np.concatenate([draw(firsts, 1, random), draw(others, length - 1, random)])
        everything = np.concatenate([entry.positives, entry.pool])
        scores = None if entry.scores is None else entry.scores[slots]
        return everything[slots], scores


def judged_lists(lists: Sequence[QueryList]) -> list[QueryList]:
    """Those of queries with a positive."""
    return [entry for entry in lists if len(entry.positives)]
