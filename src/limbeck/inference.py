"""How do many texts become vectors, or pairs become scores, at full speed?

Texts are sorted by length and cut into batches under a token budget, so that little is padded; the
batches are known before the first one runs. In bf16 the first rows are also computed in fp32, and a
model that does not survive the lower precision is refused.

This module knows no file, no id and no collection: texts are positions in a token store.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.data.tokens import TokenStore
from limbeck.errors import ConfigError, ScoreError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.types import Progress, Role, Silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Positions = NDArray[np.int64]
    Vectors = NDArray[np.float32]

Precision = Literal["fp32", "bf16"]

# Measured on MiniLM-L6 texts of 95 tokens, CPU seconds per text against 16384: 2048 takes 0.7 of
# them in fp32 and bf16 alike (activations stay in the cache). A GPU wants large batches.
CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 16384

COMPARED_ROWS = 8  # of the first batch, in bf16 and fp32
LEAST_COSINE = 0.999  # between a vector in bf16 and in fp32
MOST_DIFFERENCE = (
    0.1  # between a logit in bf16 and in fp32, as a share of the largest logit (at least 1)
)


@dataclass(frozen=True, slots=True)
class Engine:
    """Where and how a model runs.

    `device` is a name torch knows; `max_batch_tokens` bounds a batch, padding included.
    """

    device: str
    precision: Precision
    max_batch_tokens: int = CPU_BATCH_TOKENS


def choose_engine(backend: str = "auto", precision: str = "auto") -> Engine:
    """The engine for this machine: a GPU when torch sees one, bf16 where the device computes in it.

    Raises:
        ConfigError: when the backend or precision is unknown.
    """
    if backend not in ("auto", "torch"):
        raise ConfigError(f"There is no backend {backend!r}. Choose auto or torch.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"There is no precision {precision!r}. Choose auto, fp32 or bf16.")
    half = precision == "bf16" or (precision == "auto" and _computes_bf16(device))
    tokens = GPU_BATCH_TOKENS if device == "cuda" else CPU_BATCH_TOKENS
    return Engine(device, "bf16" if half else "fp32", tokens)


def plan_batches(lengths: Sequence[int] | NDArray[np.int64], max_tokens: int) -> list[Positions]:
    """Which positions go together: longest first, each batch at most `max_tokens` with its padding.

    A text that is longer than the budget is a batch of its own. Equal lengths keep their order.

    Example:
        >>> [batch.tolist() for batch in plan_batches([2, 9, 3, 3], max_tokens=6)]
        [[1], [2, 3], [0]]
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    ordered = np.asarray(lengths, dtype=np.int64)[order]
    batches = []
    start = 0
    while start < len(order):
        count = max(1, max_tokens // max(1, int(ordered[start])))
        batches.append(order[start : start + count])
        start += count
    return batches


def embed_batches(
    encoder: Encoder,
    tokens: TokenStore,
    role: Role,
    plan: Sequence[Positions],
    engine: Engine,
) -> Iterator[tuple[Positions, Vectors]]:
    """The vectors of a planned batch after the other: positions [b] and [b, D] fp32.

    Raises:
        ScoreError: when a vector is not finite, or bf16 gives other vectors than fp32.
    """
    collator = encoder.collator(role)
    with _running(encoder, engine):
        for number, positions in enumerate(plan):
            features = collator.singles([tokens[int(position)] for position in positions])
            vectors = _call(encoder, features, engine)
            if number == 0 and engine.precision == "bf16":
                _compare_vectors(encoder, features, vectors, engine)
            if not np.isfinite(vectors).all():
                bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
                raise ScoreError(
                    f"The encoder gave a vector that is not finite for {role} "
                    f"{int(positions[bad])}. Check its weights, or use --precision fp32."
                )
            yield positions, vectors


def embed(
    encoder: Encoder,
    tokens: TokenStore,
    role: Role,
    *,
    engine: Engine,
    positions: Positions | None = None,
    progress: Progress | None = None,
) -> Vectors:
    """The vectors of the texts at `positions` (all by default), in that order: [n, D] fp32.

    `tokens` were made with the role's prompt: `tokenize(..., prompt=encoder.prompt(role))`.

    Raises:
        ScoreError: when a vector is not finite, or bf16 gives other vectors than fp32.
    """
    wanted = np.arange(len(tokens)) if positions is None else np.asarray(positions, dtype=np.int64)
    collator = encoder.collator(role)
    stored = tokens.lengths[wanted]
    plan = plan_batches(
        [collator.length(int(length)) for length in stored], engine.max_batch_tokens
    )
    vectors = np.empty((len(wanted), encoder.dimension), dtype=np.float32)
    batches = embed_batches(encoder, tokens, role, [wanted[batch] for batch in plan], engine)
    label = "Encoding queries" if role == "query" else "Encoding passages"
    with (progress or Silent()).task(label, len(wanted), "texts") as done:
        for rows, (_, found) in zip(plan, batches, strict=True):
            vectors[rows] = found
            done(len(rows))
    return vectors


def pair_lengths(
    ranker: Ranker, query_tokens: TokenStore, passage_tokens: TokenStore, pairs: Positions
) -> Positions:
    """How many tokens each pair takes, for `plan_batches`: [n] int64."""
    collator = ranker.collator
    queries = query_tokens.lengths[pairs[:, 0]]
    passages = passage_tokens.lengths[pairs[:, 1]]
    lengths = [
        collator.pair_length(int(query), int(passage))
        for query, passage in zip(queries, passages, strict=True)
    ]
    return np.asarray(lengths, dtype=np.int64)


def score_batches(
    ranker: Ranker,
    query_tokens: TokenStore,
    passage_tokens: TokenStore,
    pairs: Positions,
    plan: Sequence[Positions],
    engine: Engine,
) -> Iterator[tuple[Positions, Vectors]]:
    """The raw logits of a planned batch after the other: rows of `pairs` [b], and scores [b] fp32.

    Shapes: `pairs` [n, 2] int64, query position and passage position.

    Raises:
        ScoreError: when a score is not finite, or bf16 gives other scores than fp32.
    """
    collator = ranker.collator
    with _running(ranker, engine):
        for number, rows in enumerate(plan):
            features = collator.pairs(
                [query_tokens[int(query)] for query in pairs[rows, 0]],
                [passage_tokens[int(passage)] for passage in pairs[rows, 1]],
            )
            scores = _call(ranker, features, engine)
            if number == 0 and engine.precision == "bf16":
                _compare_scores(ranker, features, scores, engine)
            if not np.isfinite(scores).all():
                query, passage = pairs[rows[np.flatnonzero(~np.isfinite(scores))[0]]]
                raise ScoreError(
                    f"The ranker gave a score that is not finite for query {query} and passage "
                    f"{passage}. Check its weights, or use --precision fp32."
                )
            yield rows, scores


def score(
    ranker: Ranker,
    query_tokens: TokenStore,
    passage_tokens: TokenStore,
    pairs: Positions,
    *,
    engine: Engine,
    progress: Progress | None = None,
) -> Vectors:
    """The raw logit of every pair, in order: [n] fp32.

    Shapes: `pairs` [n, 2] int64, query position and passage position.

    Raises:
        ScoreError: when a score is not finite, or bf16 gives other scores than fp32.
    """
    lengths = pair_lengths(ranker, query_tokens, passage_tokens, pairs)
    plan = plan_batches(lengths, engine.max_batch_tokens)
    scores = np.empty(len(pairs), dtype=np.float32)
    with (progress or Silent()).task("Scoring pairs", len(pairs), "pairs") as done:
        for rows, found in score_batches(ranker, query_tokens, passage_tokens, pairs, plan, engine):
            scores[rows] = found
            done(len(rows))
    return scores


@contextmanager
def _running(model: nn.Module, engine: Engine) -> Iterator[None]:
    """The model on the engine's device in eval mode, and back in the mode it was in afterwards."""
    training = model.training
    model.to(engine.device)
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _call(model: nn.Module, features: dict[str, Tensor], engine: Engine) -> Vectors:
    """The model's output for a batch, in the engine's precision, as fp32 on the CPU."""
    moved = {name: value.to(engine.device) for name, value in features.items()}
    with (
        torch.inference_mode(),
        torch.autocast(engine.device, torch.bfloat16, enabled=engine.precision == "bf16"),
    ):
        output: Vectors = model(moved).float().cpu().numpy()
    return output


def _exactly(model: nn.Module, features: dict[str, Tensor], engine: Engine) -> Vectors:
    """The output for the first rows of a batch in fp32."""
    first = {name: value[:COMPARED_ROWS] for name, value in features.items()}
    return _call(model, first, Engine(engine.device, "fp32"))


def _compare_vectors(
    encoder: Encoder, features: dict[str, Tensor], vectors: Vectors, engine: Engine
) -> None:
    """Refuse an encoder whose vectors turn in bf16."""
    exact = _exactly(encoder, features, engine)
    found = vectors[: len(exact)]
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
    cosines = (exact * found).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    if np.isfinite(exact).all() and not cosines.min() >= LEAST_COSINE:
        raise ScoreError(
            f"In bf16 the encoder gives other vectors than in fp32 (cosine {cosines.min():.4f}, "
            f"at least {LEAST_COSINE} expected). Use --precision fp32."
        )


def _compare_scores(
    ranker: Ranker, features: dict[str, Tensor], scores: Vectors, engine: Engine
) -> None:
    """Refuse a ranker whose scores move in bf16."""
    exact = _exactly(ranker, features, engine)
    difference = np.abs(exact - scores[: len(exact)]).max() / max(1.0, np.abs(exact).max())
    if np.isfinite(exact).all() and not difference <= MOST_DIFFERENCE:
        raise ScoreError(
            f"In bf16 the ranker gives other scores than in fp32 (they differ by {difference:.2f} "
            f"of the largest, at most {MOST_DIFFERENCE} expected). Use --precision fp32."
        )


def _computes_bf16(device: str) -> bool:
    """Whether the device multiplies matrices in bf16, rather than imitating it."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if platform.system() != "Linux":
        return False
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    flags = next((line for line in about.splitlines() if line.startswith("flags")), "").split()
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)
