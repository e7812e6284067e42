"""Which recipe makes the best student at equal cost?

    api.py       `bench` and `dry_run`: what a comparison is asked for, checked, run and kept
    budget.py    what each recipe is set to, and whether that is the same for all
    jobs.py      arms run one after the other, or several at once
    arms.py      one run of a recipe with a seed: what it reached and what it cost
    figures.py   arms -> a row per system, with paired tests against the baselines
    page.py      rows -> a page for people

None of it knows a method: recipes are names with settings.
"""

import sys
from types import ModuleType
from typing import Any

from limbeck.bench.api import Benched, bench, dry_run

__all__ = ["Benched", "bench", "dry_run"]


class _Callable(ModuleType):
    """A module that `limbeck.bench(...)` can call: function and package have one name there."""

    def __call__(self, *arguments: Any, **named: Any) -> Benched:
        return bench(*arguments, **named)


sys.modules[__name__].__class__ = _Callable
