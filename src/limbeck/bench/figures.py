"""What did each system reach, and is it more than the baselines by more than chance?

A recipe's figures per query are means over its seeds. Every recipe is compared with each baseline
by paired randomisation, p-values corrected by Holm over the recipes, for each baseline apart. Gap
closed is (recipe - contrastive) / (best teacher - contrastive), where teachers are the one of the
comparison and those that recipes fit for themselves. All of it by nDCG@10.

A row is a JSON object, one per system; keys about `contrastive` have no suffix, those about
another baseline end with its name.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from limbeck.bench.arms import asked_of_teacher, trained
from limbeck.bench.budget import BASELINES
from limbeck.evaluation.comparison import against, mean_ci, mean_over_seeds
from limbeck.pipeline.comparing import all_figures, per_query
from limbeck.pipeline.reporting import DECIDES
from limbeck.recipes import find_preset

FIXED = ("bm25", "zero_shot", "teacher", "undistilled")  # systems without a seed
LEAST_GAP = 0.01  # nDCG@10 between teacher and baseline: below, a share of it means nothing
_SEED = 0  # of intervals and tests: the same arms always give the same numbers

Row = dict[str, Any]


def rows_of(
    arms: Mapping[str, Sequence[Path]], wall_seconds: Mapping[str, float]
) -> tuple[str, int, list[Row]]:
    """The split that was measured, its number of queries, and a row per system.

    `arms` are the finished runs of each recipe, one per seed, both baselines among them;
    `wall_seconds` the time of a whole run by its folder's name, where it is known.
    """
    taught = _with_all(arms[BASELINES[1]])
    frames = {name: per_query(taught, name)[1] for name in FIXED}
    for name, outs in arms.items():
        recipe, preset = find_preset(name)
        if recipe.fits and not preset:
            frames[f"{name}, its teacher"] = per_query(_with_all(outs), "teacher")[1]
    others = len(frames)
    best = max(_mean(frames[name]) for name in frames if name.endswith("teacher"))
    per_seed = {name: [per_query(out, "student")[1] for out in outs] for name, outs in arms.items()}
    frames |= {name: mean_over_seeds(found) for name, found in per_seed.items()}
    rows = [_row(name, frame, frames) for name, frame in frames.items()]
    for row in rows[others:]:
        name = row["system"]
        row |= _costs(arms[name], wall_seconds)
        row |= _seeds([_mean(frame) for frame in per_seed[name]])
        if name != BASELINES[0]:
            row["gap_closed"] = gap_closed(_mean(frames[name]), _mean(frames[BASELINES[0]]), best)
    for baseline in BASELINES:
        _add_tests(rows, {name: frames[name] for name in arms}, baseline)
    return per_query(taught, "student")[0], len(frames[BASELINES[0]]), rows


def _with_all(outs: Sequence[Path]) -> Path:
    """The arm of a recipe that measured what stands beside the student, too."""
    return max(outs, key=lambda out: len(all_figures(out)["model"].unique()))


def visible_differences(rows: Sequence[Row], baseline: str) -> dict[str, float | None]:
    """The smallest difference from a baseline that could be seen, by recipe."""
    key = f"visible{_suffix(baseline)}"
    return {row["system"]: row[key] for row in rows if key in row}


def gap_closed(method: float, baseline: float, teacher: float) -> float | None:
    """The share of the way from the baseline to the teacher; None when they are too close.

    (0.67 - 0.64) / (0.69 - 0.64) = 0.6
    """
    gap = teacher - baseline
    return (method - baseline) / gap if gap >= LEAST_GAP else None


def _row(name: str, frame: pl.DataFrame, frames: Mapping[str, pl.DataFrame]) -> Row:
    """What a system reaches, and how far that is from each baseline."""
    estimate = mean_ci(frame[DECIDES].to_numpy(), _SEED)
    return {
        "system": name,
        **{measure: _mean(frame, measure) for measure in frame.columns[1:]},
        f"{DECIDES}_ci": [estimate.low, estimate.high],
        **{f"minus_{baseline}": _mean(frame) - _mean(frames[baseline]) for baseline in BASELINES},
    }


def _costs(outs: Sequence[Path], wall_seconds: Mapping[str, float]) -> Row:
    """What a recipe's runs cost, means over them."""
    training, asked = [trained(out) for out in outs], [asked_of_teacher(out) for out in outs]
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
    """What a recipe reached with each seed, and how much they differ."""
    spread = statistics.stdev(means) if len(means) > 1 else None
    return {"per_seed": list(means), "seed_spread": spread}


def _add_tests(rows: Sequence[Row], frames: Mapping[str, pl.DataFrame], baseline: str) -> None:
    """Write every recipe's test against a baseline into its row."""
    found, suffix = against(baseline, frames, DECIDES, _SEED), _suffix(baseline)
    for row in rows:
        if (each := found.get(row["system"])) is not None:
            row[f"minus_{baseline}_ci"] = [each.difference.low, each.difference.high]
            row[f"p{suffix}"], row[f"p_holm{suffix}"] = each.p, each.p_holm
            row[f"visible{suffix}"] = each.visible if math.isfinite(each.visible) else None


def _suffix(baseline: str) -> str:
    return "" if baseline == BASELINES[0] else f"_{baseline}"


def _mean(frame: pl.DataFrame, measure: str = DECIDES) -> float:
    return float(frame[measure].to_numpy().mean())
