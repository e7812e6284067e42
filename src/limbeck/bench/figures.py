"""What did each system reach, and is it more than the baselines by more than chance?

A recipe's statistics per query, or another unit, are means over its seeds. Every recipe is compared
with each baseline by paired randomisation, p-values corrected by Holm over the recipes, for each
baseline apart. Gap closed is (recipe - first baseline) / (best teacher - first baseline), where
teachers are the one of the comparison and those that recipes fit for themselves. All of it by the
first measure of the runs.

A row is a JSON object, one per system; keys about the first baseline have no suffix, those about
the other end with its name.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from limbeck.bench.arms import teacher_cost, training_cost
from limbeck.evaluation.comparison import against, estimate, mean_over_seeds
from limbeck.evaluation.statistics import Measure, Measures
from limbeck.pipeline.comparing import all_tables, measures_of, table_of
from limbeck.recipes import find_preset

UNDISTILLED = "undistilled"
MIN_GAP = 0.01  # of a perfect value, between teacher and baseline: below, a share means nothing
_SEED = 0  # of intervals and tests: the same arms always give the same numbers

Row = dict[str, Any]


def rows_of(
    arms: Mapping[str, Sequence[Path]],
    baselines: tuple[str, str],
    wall_seconds: Mapping[str, float],
) -> tuple[str, int, list[Row]]:
    """The split that was measured, its number of queries or other units, and a row per system.

    `arms` are the finished runs of each recipe, one per seed, both `baselines` among them: one
    without a teacher, then one with it. `wall_seconds` are those of whole runs, by the folder's
    name, where they are known.
    """
    taught = _with_all(arms[baselines[1]])
    measures = measures_of(taught)
    first = measures.first
    # systems without a seed: what everyone stands beside, and where the student began
    beside = [name for name in dict.fromkeys(all_tables(taught)["model"]) if "/" not in name]
    fixed = [name for name in beside if name not in ("student", UNDISTILLED)]
    tables = {name: table_of(taught, name)[1] for name in (*fixed, UNDISTILLED)}
    for name, outs in arms.items():
        recipe, preset = find_preset(name)
        if recipe.fits and not preset:
            tables[f"{name}, its teacher"] = table_of(_with_all(outs), "teacher")[1]
    others = len(tables)
    reached = [first.of(tables[name]) for name in tables if name.endswith("teacher")]
    best = max(reached) if first.higher_is_better else min(reached)
    per_seed = {name: [table_of(out, "student")[1] for out in outs] for name, outs in arms.items()}
    tables |= {name: mean_over_seeds(found) for name, found in per_seed.items()}
    rows = [_row(name, table, tables, baselines, measures) for name, table in tables.items()]
    for row in rows[others:]:
        name = row["system"]
        row |= _costs(arms[name], wall_seconds)
        row |= _seeds([first.of(table) for table in per_seed[name]])
        if name != baselines[0]:
            least = first.of(tables[baselines[0]])
            row["gap_closed"] = gap_closed(first.of(tables[name]), least, best, first)
    for baseline in baselines:
        suffix = "" if baseline == baselines[0] else f"_{baseline}"
        _add_tests(rows, {name: tables[name] for name in arms}, baseline, suffix, first)
    return table_of(taught, "student")[0], len(tables[baselines[0]]), rows


def _with_all(outs: Sequence[Path]) -> Path:
    """The arm of a recipe that measured the reference systems beside the student, too."""
    return max(outs, key=lambda out: len(all_tables(out)["model"].unique()))


def visible_differences(rows: Sequence[Row], suffix: str) -> dict[str, float | None]:
    """The smallest difference that could be seen from the baseline of a suffix, by recipe."""
    key = f"visible{suffix}"
    return {row["system"]: row[key] for row in rows if key in row}


def gap_closed(method: float, baseline: float, teacher: float, measure: Measure) -> float | None:
    """The share of the way from the baseline to the teacher; None when they are too close, or the
    teacher is worse.

    (0.67 - 0.64) / (0.69 - 0.64) = 0.6
    """
    gap = teacher - baseline
    if abs(gap) < MIN_GAP * measure.perfect or not measure.better(teacher, baseline):
        return None
    return (method - baseline) / gap


def _row(
    name: str,
    table: pl.DataFrame,
    tables: Mapping[str, pl.DataFrame],
    baselines: tuple[str, str],
    measures: Measures,
) -> Row:
    """A system's row: its measures, and the difference of the first from each baseline's."""
    first = measures.first
    found = estimate(table, first, _SEED)
    return {
        "system": name,
        **{measure.name: measure.of(table) for measure in measures.measures},
        f"{first.name}_ci": [found.low, found.high],
        **{
            f"minus_{baseline}": first.of(table) - first.of(tables[baseline])
            for baseline in baselines
        },
    }


def _costs(outs: Sequence[Path], wall_seconds: Mapping[str, float]) -> Row:
    """Costs of a recipe's runs, means over them."""
    training, asked = [training_cost(out) for out in outs], [teacher_cost(out) for out in outs]
    known = [wall_seconds[out.name] for out in outs if out.name in wall_seconds]
    return {
        "updates": training[0].updates,
        "student_tokens": statistics.mean(each.student_tokens for each in training),
        "training_seconds": statistics.mean(each.seconds for each in training),
        "wall_seconds": statistics.mean(known) if known else None,
        "teacher": [each.as_json() for each in asked],
        "teacher_answers": statistics.mean(each.answers for each in asked),
    }


def _seeds(means: Sequence[float]) -> Row:
    """A recipe's value with each seed, and the standard deviation over seeds."""
    spread = statistics.stdev(means) if len(means) > 1 else None
    return {"per_seed": list(means), "seed_spread": spread}


def _add_tests(
    rows: Sequence[Row],
    tables: Mapping[str, pl.DataFrame],
    baseline: str,
    suffix: str,
    measure: Measure,
) -> None:
    """Write every recipe's test against a baseline into its row."""
    found = against(baseline, tables, measure, _SEED)
    for row in rows:
        if (each := found.get(row["system"])) is not None:
            row[f"minus_{baseline}_ci"] = [each.difference.low, each.difference.high]
            row[f"p{suffix}"], row[f"p_holm{suffix}"] = each.p, each.p_holm
            row[f"visible{suffix}"] = each.visible if math.isfinite(each.visible) else None
