"""How large is a number at this update? Factors as pure functions of the update's index.

Updates are counted from 0, so a schedule has nothing to save: resuming at update n asks for n. A
learning rate is its peak times the factor; any other number that changes while a stage runs can use
the same functions.

This module knows no optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """The factor 1 at every update."""
    return lambda update: 1.0


def linear_warmup_decay(warmup: int, total: int) -> Schedule:
    """Rises from 0 to 1 over `warmup` updates, then falls in a line to 0 at `total`.

    Equal to `transformers.get_linear_schedule_with_warmup`: with a warm-up, update 0 has factor 0.
    After `total` the factor stays 0.

    Raises:
        ValueError: unless 0 <= warmup <= total and total >= 1.

    Example:
        >>> schedule = linear_warmup_decay(2, 6)
        >>> [schedule(update) for update in range(7)]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    _check(warmup, total)
    return lambda update: update / warmup if update < warmup else 1.0 - _done(update, warmup, total)


def cosine(warmup: int, total: int) -> Schedule:
    """Rises from 0 to 1 over `warmup` updates, then falls along half a cosine to 0 at `total`.

    Equal to `transformers.get_cosine_schedule_with_warmup` up to `total`.
    After `total` the factor stays 0.

    Raises:
        ValueError: unless 0 <= warmup <= total and total >= 1.
    """
    _check(warmup, total)
    return lambda update: (
        update / warmup
        if update < warmup
        else 0.5 * (1.0 + math.cos(math.pi * _done(update, warmup, total)))
    )


def _done(update: int, warmup: int, total: int) -> float:
    """The share, in [0, 1], of the updates after the warm-up that came before this one."""
    return min(1.0, (update - warmup) / max(1, total - warmup))


def _check(warmup: int, total: int) -> None:
    if not (0 <= warmup <= total and total >= 1):
        raise ValueError(f"a warm-up of {warmup} updates does not fit into {total} updates in all")
