"""What fits into the time there is?

Updates, list length and candidate depth are chosen so that the estimated run time fits; and which
teachers are fitted, where that was left open. How run time is estimated is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

from limbeck.errors import ConfigError
from limbeck.tasks.fit import FEWEST_STEPS, SPARE, BudgetPlan, steps_within

ENOUGH_STEPS = 120  # not to save on the rest
LIST_LENGTHS = (8, 4, 2)
DEPTHS = (64, 32, 16, 8)


def fit_budget(
    choices: Sequence[tuple[str, ...]],
    estimate: Callable[[BudgetPlan], float],
    seconds: float,
) -> BudgetPlan:
    """The largest plan that fits: fitting a teacher, its scores, students and measuring.

    `choices` are the kinds of teacher that may be fitted, the dearest choice first; one that is
    empty where none is. `estimate` gives the seconds of a run once that is decided.

    Raises:
        ConfigError: when not even the smallest plan fits, saying what would.
    """

    @cache
    def seconds_of(fits: tuple[str, ...], length: int, depth: int, updates: int) -> float:
        return estimate(BudgetPlan(updates, updates, length, depth, fits))

    def updates_for(fits: tuple[str, ...], length: int, depth: int) -> int:
        """Number of updates that fit beside the other work; 0 when not even the least does."""
        return steps_within(seconds, lambda steps: seconds_of(fits, length, depth, steps))

    for fits, length in product(choices, LIST_LENGTHS):
        for depth in DEPTHS if updates_for(fits, length, DEPTHS[-1]) >= ENOUGH_STEPS else ():
            if (updates := updates_for(fits, length, depth)) >= ENOUGH_STEPS:
                return _decided(choices, fits, updates, length, depth)
    fits, length, depth = choices[-1], LIST_LENGTHS[-1], DEPTHS[-1]
    if updates := updates_for(fits, length, depth):
        return _decided(choices, fits, updates, length, depth)
    least = seconds_of(fits, length, depth, FEWEST_STEPS) / SPARE
    raise ConfigError(
        f"--budget {seconds:.0f}s is too short: this collection needs about {least:.0f}s for the "
        f"smallest useful run. Try --budget {int(least / 60) + 1}m."
    )


def _decided(
    choices: Sequence[tuple[str, ...]],
    fits: tuple[str, ...],
    updates: int,
    length: int,
    depth: int,
) -> BudgetPlan:
    """A plan, with None for the choices that were not open."""
    chosen = fits if len(choices) > 1 else None
    return BudgetPlan(updates, updates if fits else None, length, depth, chosen)
