"""Which recipe makes the best student at equal cost?

    api.py       `bench` and `dry_run`: what a comparison is asked for, checked, run and kept
    budget.py    what each recipe is set to, and whether that is the same for all
    jobs.py      arms run one after the other, or several at once
    arms.py      one run of a recipe with a seed: what it reached and what it cost
    figures.py   arms -> a row per system, with paired tests against the baselines
    page.py      rows -> a page for people

None of it knows a method: recipes are names with settings.
"""

from limbeck.bench.api import Benched, bench, dry_run

__all__ = ["Benched", "bench", "dry_run"]
