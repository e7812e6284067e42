"""Which texts does an update see, for methods that need no lists?

Queries and passages are shuffled together; an update takes a number of them.

This module knows no text, no model and no loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from limbeck.errors import DataError
from limbeck.sources.order import update_positions
from limbeck.store import digest


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Positions in the collection of the queries [B] and passages [P] of one update."""

    queries: np.ndarray
    passages: np.ndarray


@dataclass(frozen=True, slots=True)
class TextSource:
    """Updates of `texts_per_step` texts, drawn from given queries and passages alike."""

    queries: np.ndarray
    passages: np.ndarray
    texts_per_step: int
    seed: int

    def __post_init__(self) -> None:
        if not len(self.queries) and not len(self.passages):
            raise DataError("There is no text to learn from: the collection has no passage.")

    @property
    def digest(self) -> str:
        """Digest of everything the updates depend on."""
        return digest(
            [self.queries.tolist(), self.passages.tolist(), self.texts_per_step, self.seed]
        )

    @property
    def updates_per_pass(self) -> float:
        """Number of updates in one pass over all texts."""
        return (len(self.queries) + len(self.passages)) / self.texts_per_step

    @property
    def dropped(self) -> Mapping[str, int]:
        """Numbers of texts that rules left out: none."""
        return {}

    def batch(self, update: int) -> TextBatch:
        """The texts of one update."""
        count = len(self.queries) + len(self.passages)
        chosen = update_positions(count, self.texts_per_step, seed=self.seed, update=update)[:, 0]
        asked = chosen[chosen < len(self.queries)]
        answered = chosen[chosen >= len(self.queries)] - len(self.queries)
        return TextBatch(
            queries=np.sort(self.queries[asked]), passages=np.sort(self.passages[answered])
        )
