"""What reads each text alone, but not into one vector of numbers?

A sparse encoder turns a text into weights of some words of its vocabulary; a late-interaction model
turns it into one vector per token. Both wrap a class of sentence-transformers, whose own
`encode_query` and `encode_document` do the reading: prompts, lengths, query expansion and skipped
tokens are as their library has them. How two readings become a score is said here.

This module knows no training, no teacher and no collection.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import ModelError, ScoreError
from limbeck.limit import Lengths
from limbeck.models.encoder import WrappedModel
from limbeck.models.quiet import quiet
from limbeck.similarity import sparse_dots, sums_of_maxima
from limbeck.store import digest
from limbeck.types import Role

Reading = tuple[Tensor, ...]  # of one text: tensors with a row per word or token, on the CPU


class Reader(WrappedModel):
    """Base class of sparse encoders and late-interaction models."""

    kind: ClassVar[Literal["sparse", "late"]]

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        model.max_seq_length = self.max_length  # no longer than there are positions

    def read(self, texts: Sequence[str], role: Role) -> list[Reading]:
        """The readings of texts, together as one batch, on the device that the model is on."""
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        with quiet():
            return self._readings(encode, list(texts))

    def scores(self, queries: Sequence[Reading], passage: Reading) -> NDArray[np.float32]:
        """The raw score [n] of each of n queries with one passage.

        Raises:
            ScoreError: when nothing of the passage counts, and then it can have no score.
        """
        counts = torch.tensor([len(query[0]) for query in queries])
        together = tuple(torch.cat(rows) for rows in zip(*queries, strict=True))
        owners = torch.repeat_interleave(torch.arange(len(queries)), counts)
        found: NDArray[np.float32] = self._scores(together, owners, counts, passage).numpy()
        return found

    def forward_flops(self, lengths: Lengths) -> float | None:
        """FLOPs are not known: most of a sparse encoder's work comes after its layers, in its
        vocabulary.
        """
        return None

    @property
    @abstractmethod
    def score_unit(self) -> Literal["cosine", "dot", "maxsim", "meanmaxsim"]:
        """Unit of this model's scores."""

    def _kind_of_score(self) -> str:
        return self.score_unit

    @abstractmethod
    def _readings(self, encode: Any, texts: list[str]) -> list[Reading]:
        """Encode texts with sentence-transformers."""

    @abstractmethod
    def _scores(self, queries: Reading, owners: Tensor, counts: Tensor, passage: Reading) -> Tensor:
        """Scores [n] of queries given as the rows [N] of all of them, whose `owners` [N] they are;
        `counts` [n] rows each.
        """


class SparseReader(Reader):
    """A `SparseEncoder`: a reading is the places [W] and weights [W] of the words that count.

    Raises:
        ModelError: when it compares texts by something else than dot product or cosine.
    """

    kind: ClassVar[Literal["sparse", "late"]] = "sparse"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        if model.similarity_fn_name not in ("cosine", "dot"):
            raise ModelError(
                f"The sparse encoder compares texts by {model.similarity_fn_name}; Limbeck knows "
                "cosine and dot. Name another model."
            )
        for part in model:  # what sentence-transformers fills in when it first reads a text
            if getattr(part, "embedding_dimension", 0) is None:
                part.embedding_dimension = self.transformer.config.vocab_size

    @property
    def score_unit(self) -> Literal["cosine", "dot", "maxsim", "meanmaxsim"]:
        """The dot product of weights, or their cosine."""
        return "cosine" if self.model.similarity_fn_name == "cosine" else "dot"

    @property
    def words(self) -> int:
        """Number of words that a weight is given to."""
        return int(self.model.get_embedding_dimension())

    def config_digest(self) -> str:
        """Digest of the configuration, and of how many words of a text may count."""
        return digest([super().config_digest(), self.model.max_active_dims])

    def _readings(self, encode: Any, texts: list[str]) -> list[Reading]:
        found = encode(texts, batch_size=len(texts), convert_to_sparse_tensor=False).float().cpu()
        if self.score_unit == "cosine":
            found = torch.nn.functional.normalize(found, dim=-1)
        places = [row.nonzero().squeeze(1) for row in found]
        return [(at, row[at]) for at, row in zip(places, found, strict=True)]

    def _scores(self, queries: Reading, owners: Tensor, counts: Tensor, passage: Reading) -> Tensor:
        return sparse_dots(queries, owners, passage, count=len(counts))


class LateReader(Reader):
    """A `MultiVectorEncoder`: a reading is the vectors [T, D] of the tokens that count.

    A query's score with a passage is MaxSim: for each token of the query the largest similarity to
    a token of the passage, added up (for some models divided by the number of tokens). Khattab and
    Zaharia 2020 (ColBERT), arXiv:2004.12832, section 3.3.
    """

    kind: ClassVar[Literal["sparse", "late"]] = "late"

    @property
    def score_unit(self) -> Literal["cosine", "dot", "maxsim", "meanmaxsim"]:
        """The sum of the largest similarities, or their mean."""
        return "meanmaxsim" if self.model.similarity_fn_name == "meanmaxsim" else "maxsim"

    def _readings(self, encode: Any, texts: list[str]) -> list[Reading]:
        found = encode(texts, batch_size=len(texts))
        return [(vectors.float().cpu(),) for vectors in found]

    def _scores(self, queries: Reading, owners: Tensor, counts: Tensor, passage: Reading) -> Tensor:
        if not len(passage[0]):
            raise ScoreError(
                "The model skips every token of the passage, so it has no score. Leave the passage "
                "out, or use another teacher."
            )
        total = sums_of_maxima(queries[0], owners, passage[0], count=len(counts))
        return total / counts.clamp(min=1) if self.score_unit == "meanmaxsim" else total
