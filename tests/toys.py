"""Toy players and sources: small enough to see through, real enough to train."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.inference import Engine
from limbeck.schedules import constant
from limbeck.store import digest
from limbeck.training import Pass, Player, Run, trained_player


@dataclass(frozen=True)
class Batch:
    queries: np.ndarray  # [B, T] token ids
    passages: np.ndarray  # [B * M, T], the positive of query b at b * M


@dataclass(frozen=True)
class Tokens:
    """Random token ids: B queries and M passages each per update, by (seed, update)."""

    seed: int = 0
    B: int = 4
    M: int = 3
    T: int = 5
    vocabulary: int = 20

    @property
    def digest(self) -> str:
        return digest([self.seed, self.B, self.M, self.T, self.vocabulary])

    def batch(self, update: int) -> Batch:
        random = np.random.default_rng([self.seed, update])
        passages = random.integers(self.vocabulary, size=(self.B * self.M, self.T))
        queries = passages[:: self.M].copy()
        queries[:, 0] = 0  # nearly its positive
        return Batch(queries, passages)


class Bag(nn.Module):
    """Mean of word vectors, then layers; gives the last one, or all of them stacked [n, N, D]."""

    def __init__(
        self,
        width: int = 8,
        layers: int = 2,
        dropout: float = 0.0,
        vocabulary: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.words = nn.Embedding(vocabulary, width)
            self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.dropout = nn.Dropout(dropout)

    def states(self, features: dict[str, Tensor]) -> Tensor:
        state = self.words(features["ids"]).mean(dim=1)
        states = []
        for layer in self.layers:
            state = self.dropout(torch.tanh(layer(state)))
            states.append(state)
        return torch.stack(states, dim=1)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.states(features)[:, -1]


class PairScorer(nn.Module):
    """A cross-encoder in small: one score from both texts at once."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.bag = Bag(seed=seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed + 100)
            self.head = nn.Linear(8, 1)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.head(self.bag(features)).squeeze(-1)


class Sleeper(nn.Module):
    """A model that takes as long as its batch says."""

    def content_digest(self) -> str:
        return "sleeper"

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        time.sleep(float(features["seconds"]))
        return features["seconds"]


def outputs(forward: Pass, player: str, ids: np.ndarray, call=None) -> Tensor:
    """A player's outputs over rows of token ids."""
    lengths = np.full(len(ids), ids.shape[1])
    return forward.run(player, lengths, lambda chosen: {"ids": torch.tensor(ids[chosen])}, call)


def pair_outputs(forward: Pass, player: str, batch: Batch) -> Tensor:
    """A pair scorer's scores of each query's own passages: [B, M]."""
    M = len(batch.passages) // len(batch.queries)
    pairs = np.concatenate([np.repeat(batch.queries, M, axis=0), batch.passages], axis=1)
    return outputs(forward, player, pairs).view(-1, M)


def dual_scores(forward: Pass, player: str, batch: Batch) -> Tensor:
    """A bag's scores of every passage of the update for every query: [B, B * M]."""
    queries = outputs(forward, player, batch.queries)
    passages = outputs(forward, player, batch.passages)
    return 5.0 * queries @ passages.T  # far enough apart to be learned from


def own(scores: Tensor) -> Tensor:
    """The block diagonal [B, M] of in-batch scores [B, B * M]."""
    B = len(scores)
    return scores.view(B, B, -1)[torch.arange(B), torch.arange(B)]


def a_player(name: str, model: nn.Module, rate: float = 0.05) -> Player:
    return trained_player(name, model, learning_rate=rate, schedule=constant())


def a_run(folder: Path, **settings) -> Run:
    return Run(folder, seed=0, engine=Engine("cpu", "fp32"), **settings)
