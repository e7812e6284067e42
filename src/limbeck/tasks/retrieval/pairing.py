"""Which weak pairs are there to learn from, and which of them does a model agree with?

Pairs of texts beside a collection, their tokens, and the filter that keeps those whose passage a
model finds again among random ones. It knows no recipe and no loss.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from limbeck.data.pairs import Pairs, key, made_pairs
from limbeck.data.tokens import TokenStore
from limbeck.inference import embed
from limbeck.models.encoder import Encoder
from limbeck.selection import Mask, consistent
from limbeck.similarity import comparable
from limbeck.store import digest_tensors, read_parquet, write_parquet
from limbeck.tasks.retrieval.asking import Asking
from limbeck.types import Role, Split

SHARD_PAIRS = 8192  # compared with the pool at a time, fewer where
SHARD_SCORES = 2**26  # scores of them would be more than these
HELD_OUT: tuple[Split, ...] = ("dev", "test")


class Pairing(Asking):
    """Weak pairs beside a collection."""

    def weak_pairs(self) -> Pairs:
        """The pairs that were given, or those that the collection's passages make."""
        if self.pairs is None:
            self.pairs = made_pairs(self.collection)
        return self.pairs

    def learnable_pairs(self) -> np.ndarray:
        """The pairs, as positions, neither of whose texts is that of a dev or test query."""
        texts = self.collection.queries.texts
        held_out = [key(texts[at]) for split in HELD_OUT for at in self.split_queries(split)]
        held = np.isin(self.weak_pairs().keys[:, :2], np.array(held_out, dtype=np.int64))
        return np.flatnonzero(~held.any(axis=1))

    def pair_tokens(self, encoder: Encoder, role: Role) -> TokenStore:
        """The tokens of all pairs' queries or passages, as an encoder reads them."""
        texts = self.weak_pairs().texts(role)
        return self.tokenised(f"pairs-{role}", texts, encoder.tokenizer, encoder.prompt(role))

    def consistent(self, pairs: np.ndarray, encoder: Encoder, *, k: int, pool_size: int) -> Mask:
        """[n] True for those of some pairs, given as positions, whose passage an encoder finds
        among the `k` best of the pool: `pool_size` other passages of these pairs, drawn once.

        What a pair's own document holds, and duplicates of its passage, do not count as passages of
        the pool.
        """
        keys = self.weak_pairs().keys[:, 1:]
        _, firsts = np.unique(keys[pairs, 0], return_index=True)
        drawn = np.random.default_rng(self.run.seed).permutation(len(firsts))[:pool_size]
        pool = np.sort(pairs[firsts[drawn]])
        inputs = {
            "pairs": self.weak_pairs().digest,
            "of them": digest_tensors({"pairs": torch.from_numpy(pairs)}),
            "model": [encoder.content_digest(), *encoder.digests()],
            "k": k,
            "pool": [pool_size, self.run.seed],
            "engine": self.run.engine.training().key(),
        }
        return self.run.first(lambda: self._filtered(pairs, pool, keys, encoder, k, inputs))

    def _filtered(
        self,
        pairs: np.ndarray,
        pool: np.ndarray,
        keys: np.ndarray,
        encoder: Encoder,
        k: int,
        inputs: dict[str, object],
    ) -> Mask:
        """The same, shard by shard: what a killed process compared is read back."""
        stage = self.run.stage("filter-pairs", inputs)
        done = stage.complete
        answers, found = None, []
        size = max(1, min(SHARD_PAIRS, SHARD_SCORES // len(pool)))
        with self.run.progress.task("Filtering pairs", len(pairs), "pairs") as advance:
            for number, start in enumerate(range(0, len(pairs), size)):
                own = pairs[start : start + size]
                path = stage.path / f"shard-{number:05d}.parquet"
                if not path.exists():
                    if answers is None:
                        answers = self._vectors_of(encoder, "passage", pool)
                    asked = self._vectors_of(encoder, "query", own)
                    scores = (asked * self._vectors_of(encoder, "passage", own)).sum(axis=1)
                    others = np.ones((len(own), len(pool)), dtype=bool)
                    for mine, theirs in zip(keys[own].T, keys[pool].T, strict=True):
                        others &= mine[:, None] != theirs[None]
                    kept = consistent(scores, asked @ answers.T, k, others=others)
                    frame = pl.DataFrame({"pair": own, "kept": kept})
                    write_parquet(path, frame, stage=stage.name)
                found.append(read_parquet(path, {"pair": None, "kept": None})["kept"].to_numpy())
                advance(len(own))
        mask: Mask = np.concatenate(found)
        if not done:
            stage.finish(pairs=len(mask), kept=int(mask.sum()))
        return mask

    def _vectors_of(self, encoder: Encoder, role: Role, pairs: np.ndarray) -> np.ndarray:
        """An encoder's vectors of one text of some pairs, to be compared by their dot product."""
        tokens, engine = self.pair_tokens(encoder, role), self.run.engine.training()
        found = embed(encoder, tokens, role, engine=engine, positions=pairs)
        return comparable(found, encoder.similarity)
