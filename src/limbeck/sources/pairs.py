"""Which pairs of texts does an update see, for methods that learn before anything is judged?

Every epoch shuffles all pairs once; an update takes a number of them, and the passage of each is a
negative of all others.

This module knows no text, no model and no loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from limbeck.errors import DataError
from limbeck.sources.order import update_positions
from limbeck.store import digest, digest_tensors


@dataclass(frozen=True, slots=True)
class PairBatch:
    """The pairs [B] of one update, as positions.

    `same` [B, B] is True where the passage of a column is no negative of a row's query: its own,
    one with its text, one of an equal query, or one of the same document.
    """

    pairs: np.ndarray
    same: np.ndarray


@dataclass(frozen=True, slots=True)
class PairSource:
    """Updates of `pairs_per_step` of some pairs, or of all where there are fewer. `pairs` [n] are
    positions; the columns of `keys` [N, C] tell of all pairs what is equal: queries, passages,
    documents.
    """

    pairs: np.ndarray
    keys: np.ndarray
    pairs_per_step: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.pairs) < 2:
            raise DataError(
                f"{len(self.pairs)} pairs of texts are left to learn from, and two are needed to "
                "tell one from the other. Give more with --pairs, or let the filter keep more."
            )

    @property
    def digest(self) -> str:
        """Digest of everything the updates depend on."""
        arrays = {"pairs": self.pairs.astype(np.int64), "keys": self.keys[self.pairs]}
        tensors = {name: torch.from_numpy(each) for name, each in arrays.items()}
        return digest([digest_tensors(tensors), self.pairs_per_step, self.seed])

    @property
    def updates_per_pass(self) -> float:
        """Number of updates in one pass over all pairs."""
        return len(self.pairs) / self._size

    @property
    def dropped(self) -> Mapping[str, int]:
        """Numbers of pairs that rules left out: none here."""
        return {}

    def batch(self, update: int) -> PairBatch:
        """The pairs of one update."""
        places = update_positions(len(self.pairs), self._size, seed=self.seed, update=update)
        pairs = self.pairs[places[:, 0]]
        same = np.eye(len(pairs), dtype=bool)
        for column in self.keys[pairs].T:  # one by one, since [B, B, C] may be gigabytes
            same |= column[:, None] == column[None]
        return PairBatch(pairs, same)

    @property
    def _size(self) -> int:
        """Number of pairs in one update, none of them twice."""
        return min(self.pairs_per_step, len(self.pairs))
