"""What fits into the time there is?

Updates, list length and candidate depth are chosen so that the parts of a run, as a short probe
foretells them, fit; and which teachers are fitted, where that was left open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from limbeck.errors import ConfigError
from limbeck.tasks.costs import Speeds
from limbeck.tasks.parts import Forecast, Work
from limbeck.tasks.retrieval import Retrieval

SPARE = 0.85  # share of the budget that is planned: probes are short and machines are shared
LEAST_UPDATES = 30
MOST_UPDATES = 1000
LIST_LENGTHS = (8, 4, 2)
DEPTHS = (64, 32, 16, 8)


@dataclass(frozen=True, slots=True)
class Decided:
    """What a budget chose; None where it has no say. `fits`: the kinds of teacher to fit."""

    updates: int | None = None
    teacher_updates: int | None = None
    list_length: int | None = None
    depth: int | None = None
    fits: tuple[str, ...] | None = None


def fit_budget(
    task: Retrieval,
    speeds: Speeds,
    choices: Sequence[tuple[str, ...]],
    work: Callable[[Decided], Work],
    seconds: float,
) -> Decided:
    """The largest plan that fits: fitting a teacher, its scores, students and measuring.

    `choices` are the kinds of teacher that may be fitted, the dearest choice first; one that is
    empty where none is. `work` says what a run does once that is decided.

    Raises:
        ConfigError: when not even the smallest plan fits, saying what would.
    """

    def seconds_of(plan: tuple[tuple[str, ...], int, int], updates: int) -> float:
        fits, length, depth = plan
        decided = Decided(updates, updates, length, depth, fits)
        return sum(part.seconds for part in Forecast(task, work(decided), speeds).parts())

    plans = list(product(choices, LIST_LENGTHS, DEPTHS))
    least = seconds_of(plans[-1], LEAST_UPDATES) / SPARE
    if least > seconds:
        raise ConfigError(
            f"--budget {seconds:.0f}s is too short: this collection needs about {least:.0f}s for "
            f"the smallest useful run. Try --budget {int(least / 60) + 1}m."
        )
    for plan in plans:
        few = seconds_of(plan, LEAST_UPDATES)
        each = (seconds_of(plan, 2 * LEAST_UPDATES) - few) / LEAST_UPDATES
        updates = MOST_UPDATES
        if each > 0:
            updates = min(LEAST_UPDATES + int((SPARE * seconds - few) / each), MOST_UPDATES)
        if updates >= (4 * LEAST_UPDATES if plan != plans[-1] else LEAST_UPDATES):
            break
    fits, length, depth = plan
    chosen = fits if len(choices) > 1 else None
    return Decided(updates, updates if fits else None, length, depth, chosen)
