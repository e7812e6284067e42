"""How much arithmetic do models do, and how much could this machine do?

Arithmetic is counted as FLOP (a multiplication and an addition are two) of a transformer's layers,
for the tokens of texts without padding: what was useful, however it was batched. Embeddings,
poolers, heads and normalisations are left out; in the models here they are below a hundredth. The
machine's limit is the rate of its best plain matrix product.

This module knows no model, only its config, and not what the arithmetic was for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

TRAINED = 3  # forwards that a forward and its backward cost: one each, for inputs and for weights

# Rows, inner and columns of the products that are probed: those of small encoders on a CPU, where
# they reach the rate of larger ones; a GPU needs more at a time.
PROBED = {
    "cpu": ((2048, 384, 384), (2048, 384, 1536), (2048, 1536, 384), (1024, 1024, 1024)),
    "cuda": ((8192, 4096, 4096), (8192, 8192, 8192)),
}
PROBE_SECONDS = 0.2
MIN_TURNS = 2  # of works that are compared

# model_type of transformers -> names in its config: layers, width, width inside a layer
_NAMES = {
    **dict.fromkeys(
        ("bert", "camembert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta"),
        ("num_hidden_layers", "hidden_size", "intermediate_size"),
    ),
    "distilbert": ("n_layers", "dim", "hidden_dim"),
}

Lengths = Sequence[int] | NDArray[np.int64]
Name = TypeVar("Name")


def forward_flops(config: Any, lengths: Lengths) -> float | None:
    """FLOP of one forward pass over texts of these lengths, in tokens, by a transformer of this
    config; None when its architecture is none of those counted here.

    A layer of width w and inner width m does 2 n (4 w^2 + 2 w m) for the n tokens of a text, 3 w m
    where its inner part is gated, and 4 w for every token that a token sees.
    """
    if config.model_type not in _NAMES:
        return None
    layers, width, inner = (getattr(config, name) for name in _NAMES[config.model_type])
    tokens = np.asarray(lengths, dtype=np.float64)
    gated = config.model_type == "modernbert"
    products = 2 * tokens * (4 * width**2 + (3 if gated else 2) * width * inner)
    seen = layers * tokens**2
    if gated:
        near = config.layer_types.count("sliding_attention")
        seen = (layers - near) * tokens**2 + near * _near(tokens, config.local_attention // 2)
    return float((layers * products + 4 * width * seen).sum())


def matmul_rate(
    device: str,
    precision: Literal["fp32", "bf16"],
    *,
    threads: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """FLOP/s of torch's best matrix product on a device, measured for `PROBE_SECONDS`.

    On a processor with so many threads; torch's own number of them is put back afterwards.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return _best_product(device, precision, clock)
    finally:
        torch.set_num_threads(before)


def rates_in_turns(
    works: Mapping[Name, Callable[[], object]],
    flops: float,
    *,
    seconds: float,
    clock: Callable[[], float],
) -> dict[Name, float]:
    """FLOP/s of works of so many FLOP each, by the shortest time that each took on a clock.

    They take turns, so that what slows the machine slows them all; a first turn warms up, and
    others follow, two at least, until all together took so many seconds.
    """
    best = dict.fromkeys(works, float("inf"))
    spent = 0.0
    for turn in count(-1):
        if turn >= MIN_TURNS and spent >= seconds:
            break
        for name, work in works.items():
            started = clock()
            work()
            taken = clock() - started
            if turn >= 0:
                best[name] = min(best[name], taken)
                spent += taken
    return {name: flops / max(taken, 1e-9) for name, taken in best.items()}


def _best_product(
    device: str, precision: Literal["fp32", "bf16"], clock: Callable[[], float]
) -> float:
    """The highest FLOP/s of the probed products, repeated in turns."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    kind = torch.device(device).type
    shapes = PROBED[kind]
    factors = [
        (
            torch.ones(rows, inner, dtype=dtype, device=device),
            torch.ones(inner, columns, dtype=dtype, device=device),
        )
        for rows, inner, columns in shapes
    ]
    best, ends = 0.0, clock() + PROBE_SECONDS
    for (rows, inner, columns), (left, right) in cycle(zip(shapes, factors, strict=True)):
        started = clock()
        torch.mm(left, right)
        if kind == "cuda":
            torch.cuda.synchronize()
        now = clock()
        if now > started:
            best = max(best, 2 * rows * inner * columns / (now - started))
        if now > ends:
            break
    return best


@dataclass(slots=True)
class Effort:
    """Work of models over some seconds: tokens read, without padding, and the FLOP that reading
    took. Either is None once a model took part of which it is not known.

    Either is None once a model took part of which it is not known.
    """

    tokens: int | None = 0
    flops: float | None = 0.0
    seconds: float = 0.0

    def read(self, lengths: Lengths | None, flops: float | None) -> None:
        """Count texts of these lengths, in tokens, and the FLOP to read them; None = not known."""
        if self.tokens is not None:
            self.tokens = None if lengths is None else self.tokens + int(np.sum(lengths))
        self.flops = None if self.flops is None or flops is None else self.flops + flops

    def include(self, other: Effort) -> None:
        """Add the work counted elsewhere, and its seconds."""
        self.read(None if other.tokens is None else [other.tokens], other.flops)
        self.seconds += other.seconds

    def speed(self, limit: float | None) -> dict[str, float | None]:
        """All of it and its rates, for the metrics of a stage; `limit` is a `matmul_rate`.

        A rate is None where nothing was read, and where the arithmetic or the limit is not known.
        """
        done = self.tokens != 0 and self.seconds > 0
        rate = self.flops / self.seconds if done and self.flops is not None else None
        return {
            "tokens": self.tokens,
            "useful_flops": self.flops,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds if done and self.tokens else None,
            "useful_flops_per_second": rate,
            "share_of_limit": None if rate is None or limit is None else rate / limit,
        }


def _near(tokens: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Number of tokens that those of a text see, all together, when each sees `reach` to either
    side.
    """
    inside = np.minimum(tokens, reach + 1)
    before = inside * (inside - 1) / 2 + (tokens - inside) * reach
    return np.asarray(tokens + 2 * before, dtype=np.float64)
