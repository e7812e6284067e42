"""How large is a number at this update? Factors as pure functions of the update's index.

Updates are counted from 0, so a schedule has nothing to save: resuming at update n asks for n. A
learning rate is its peak times the factor; any other number that changes while a stage runs can use
the same functions.

This module knows no optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

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


def stairs(
    warmup: int, total: int, at: Sequence[float] = (0.625, 0.75, 0.875), factor: float = 0.1
) -> Schedule:
    """Rises from 0 to 1 over `warmup` updates, and is multiplied by `factor` at each of these
    shares of `total`; by default those of 240 epochs of CIFAR-100, at 150, 180 and 210.

    Raises:
        ValueError: unless 0 <= warmup <= total and total >= 1.

    Example:
        >>> schedule = stairs(0, 8)
        >>> [round(schedule(update), 3) for update in range(8)]
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.01, 0.001]
    """
    _check(warmup, total)
    return lambda update: (
        update / warmup
        if update < warmup
        else factor ** sum(update >= share * total for share in at)
    )


def cosine_rise(done: float, total: float) -> float:
    """(1 - cos(pi done / total)) / 2: rises from 0 to 1 along half a cosine and stays there; 1
    where `total` is 0.

    Source: the curriculum of Li et al. 2023, arXiv:2211.16231.

    Example:
        >>> [round(cosine_rise(done, 10), 6) for done in (0, 1, 2, 5, 9, 10, 50)]
        [0.0, 0.024472, 0.095492, 0.5, 0.975528, 1.0, 1.0]
    """
    return 0.5 * (1.0 - math.cos(math.pi * done / total)) if done < total else 1.0


def shared_out(total: int, shares: Sequence[float]) -> list[int]:
    """Split `total` updates among several stages, by their shares: whole numbers that add up to
    `total`, at least 1 for every share above 0.

    Raises:
        ValueError: when there are fewer updates than stages.

    Example:
        >>> shared_out(10, [0.5, 0.25, 0.25]), shared_out(3, [0.98, 0.01, 0.0, 0.01])
        ([5, 3, 2], [1, 1, 0, 1])
    """
    stages = sum(share > 0 for share in shares)
    if total < stages:
        raise ValueError(f"{total} steps are too few for {stages} stages")
    wanted = [total * share / sum(shares) for share in shares]
    counts = [max(1, math.floor(want)) if want > 0 else 0 for want in wanted]
    while sum(counts) != total:  # the stage that is furthest from its share gives or takes one
        step = 1 if sum(counts) < total else -1
        at = max(
            (at for at, want in enumerate(wanted) if want > 0 and counts[at] + step > 0),
            key=lambda at: (step * (wanted[at] - counts[at]), -at),
        )
        counts[at] += step
    return counts


def phases(steps: int, first: int, *, counter: Literal["exact", "code"] = "exact") -> list[int]:
    """Numbers of a round's `steps` that the player that begins makes, and that the other makes.

    `exact` gives the first one `first`. `code` is the counter of AR2's published code: it changes
    at x < first and x > first, so that the first player makes the step x = first as well.

    Raises:
        ValueError: when the first player would make more steps than there are.

    Example:
        >>> phases(2000, 500), phases(2000, 500, counter="code")
        ([500, 1500], [501, 1499])
    """
    begins = first if counter == "exact" or first == 0 else first + 1
    if not 0 <= begins <= steps:
        raise ValueError(f"{begins} of {steps} steps cannot be the first player's")
    return [begins, steps - begins]


def _done(update: int, warmup: int, total: int) -> float:
    """The share, in [0, 1], of the updates after the warm-up that came before this one."""
    return min(1.0, (update - warmup) / max(1, total - warmup))


def _check(warmup: int, total: int) -> None:
    if not (0 <= warmup <= total and total >= 1):
        raise ValueError(f"a warm-up of {warmup} steps does not fit into {total} steps in all")
