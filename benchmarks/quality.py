"""Which recipe makes the best student from one teacher, at equal updates?

Fits or takes one teacher, then trains every recipe with every seed on the same data, labels,
updates and queries per update. Every recipe's figures per query are means over its seeds; they are
compared with `contrastive` by paired randomisation, p-values corrected by Holm over the other
recipes. Gap closed is (recipe - contrastive) / (teacher - contrastive), by nDCG@10.

    python benchmarks/quality.py DATA --work DIR --labels 500 --name nl2bash-500
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ledger import (
    UPDATES,
    Bench,
    as_json,
    asked_of_teacher,
    data_of,
    numbers,
    parser,
    per_query,
    settings_of,
    stage_metrics,
    table,
    write_results,
)
from limbeck.evaluation.comparison import compare, mean_ci, mean_over_seeds
from limbeck.recipes import find
from limbeck.settings import parse_settings

DECIDES = "nDCG@10"
BASELINE = "contrastive"
RECIPES = "contrastive,embed,margin_mse,kl"
LEAST_GAP = 0.01  # nDCG@10 between teacher and baseline: below, a share of it means nothing
FIXED = ("bm25", "zero_shot", "teacher", "undistilled")  # systems without a seed


def main() -> int:
    asked = options()
    recipes = list(dict.fromkeys([BASELINE, *asked.recipes.split(",")]))
    settings = {recipe: equal_settings(recipe, asked.assignments) for recipe in recipes}
    refuse_unequal(settings)
    bench = Bench.of(asked)
    teacher, fitted = bench.teacher(asked.teacher)
    arms = {
        recipe: [
            bench.arm(f"{recipe}-{seed}", recipe, seed, teacher, settings[recipe])
            for seed in asked.seeds
        ]
        for recipe in recipes
    }
    taught = next((out for name, outs in arms.items() if name != BASELINE for out in outs), fitted)
    if taught is None:
        sys.exit("Name a recipe besides contrastive, or let a teacher be fitted.")
    frames, per_seed = measured(arms, taught)
    split = per_query(taught, "teacher")[0]
    rows = [
        row(name, frame, frames, per_seed.get(name), arms.get(name, []))
        for name, frame in frames.items()
    ]
    visible = add_comparisons(rows, frames, [name for name in recipes if name != BASELINE])
    data = data_of(arms[BASELINE][0])
    record = {
        "benchmark": "quality",
        "data": data,
        "split": split,
        "queries": len(frames[BASELINE]),
        "labels": asked.labels,
        "max_length": asked.max_length,
        "student_layers": asked.student_layers,
        "teacher": asked.teacher if fitted is not None else "given",
        "precision": asked.precision,
        "seeds": asked.seeds,
        "settings": settings,
        "assignments": asked.assignments,
        "smallest_visible_difference": visible,
        "rows": rows,
    }
    write_results(asked.results, asked.name or str(data["name"]), record, page(record))
    return 0


def options() -> Any:
    asked = parser(__doc__)
    asked.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    asked.add_argument("--recipes", default=RECIPES)
    return asked.parse_args()


def equal_settings(recipe: str, assignments: Sequence[str]) -> dict[str, object]:
    """A recipe's settings, updates included; one without lists takes as many texts as
    `contrastive` does.
    """
    found = {"updates": str(UPDATES), **settings_of(recipe, assignments)}
    if "texts_per_update" in find(recipe).settings.model_fields:
        lists: Any = parse_settings(find(BASELINE).settings, settings_of(BASELINE, assignments))
        texts = lists.queries_per_update * (1 + lists.list_length)
        found.setdefault("texts_per_update", str(texts))
    return found


def refuse_unequal(settings: Mapping[str, Mapping[str, object]]) -> None:
    """Leave when recipes would make different numbers of updates, or of queries in one."""
    for key in ("updates", "queries_per_update"):
        values = {}
        for recipe, own in settings.items():
            parsed = parse_settings(find(recipe).settings, own)
            if hasattr(parsed, key):
                values[recipe] = getattr(parsed, key)
        if len(set(values.values())) > 1:
            sys.exit(f"{key} must be the same for all recipes, not {values}.")


def measured(
    arms: Mapping[str, Sequence[Path]], taught: Path
) -> tuple[dict[str, pl.DataFrame], dict[str, list[float]]]:
    """Figures per query of every system, means over seeds for recipes; each seed's nDCG@10."""
    frames = {name: per_query(taught, name)[1] for name in FIXED}
    per_seed = {}
    for recipe, outs in arms.items():
        found = [per_query(out, "student")[1] for out in outs]
        frames[recipe] = mean_over_seeds(found)
        per_seed[recipe] = [mean(frame) for frame in found]
    return frames, per_seed


def mean(frame: pl.DataFrame, measure: str = DECIDES) -> float:
    return float(frame[measure].to_numpy().mean())


def gap_closed(method: float, baseline: float, teacher: float) -> float | None:
    """The share of the way from the baseline to the teacher; None when they are too close.

    (0.67 - 0.64) / (0.69 - 0.64) = 0.6
    """
    gap = teacher - baseline
    return (method - baseline) / gap if gap >= LEAST_GAP else None


def row(
    name: str,
    frame: pl.DataFrame,
    frames: Mapping[str, pl.DataFrame],
    per_seed: Sequence[float] | None,
    outs: Sequence[Path],
) -> dict[str, Any]:
    """One system: what it reaches, how much seeds differ, what its arms cost."""
    estimate = mean_ci(frame[DECIDES].to_numpy(), 0)
    found: dict[str, Any] = {
        "system": name,
        **{measure: mean(frame, measure) for measure in frame.columns[1:]},
        f"{DECIDES}_ci": [estimate.low, estimate.high],
        f"minus_{BASELINE}": mean(frame) - mean(frames[BASELINE]),
    }
    if per_seed is None:
        return found
    trained = [stage_metrics(out)[f"train-{name}"] for out in outs]
    answers = [asked_of_teacher(out) for out in outs]
    found |= {
        "per_seed": list(per_seed),
        "seed_spread": statistics.stdev(per_seed) if len(per_seed) > 1 else None,
        "updates": trained[0]["updates"],
        "student_tokens": statistics.mean(each["padded_tokens"] for each in trained),
        "training_seconds": statistics.mean(each["seconds"] for each in trained),
        "teacher": [as_json(each) for each in answers],
        "teacher_answers": 0
        if name == BASELINE
        else statistics.mean(each.forwards + each.spared for each in answers),
    }
    if name != BASELINE:
        found["gap_closed"] = gap_closed(
            mean(frame), mean(frames[BASELINE]), mean(frames["teacher"])
        )
    return found


def add_comparisons(
    rows: Sequence[dict[str, Any]], frames: Mapping[str, pl.DataFrame], recipes: Sequence[str]
) -> dict[str, float]:
    """Write each recipe's p against the baseline into its row; what differences could be seen."""
    found = {
        each.other: each
        for each in compare(frames[BASELINE], {name: frames[name] for name in recipes}, DECIDES, 0)
    }
    for entry in rows:
        if entry["system"] in found:
            each = found[entry["system"]]
            entry |= {"p": each.p, "p_holm": each.p_holm, "visible": each.visible}
    return {name: each.visible for name, each in found.items()}


def page(record: Mapping[str, Any]) -> str:
    """The results as Markdown: what could be seen at all, then the figures."""
    data, seeds = record["data"], record["seeds"]
    visible = ", ".join(
        f"{name} {value:.4f}" for name, value in record["smallest_visible_difference"].items()
    )
    headings = [
        "system",
        DECIDES,
        "95 %",
        "± seeds",
        "RR@10",
        "R@100",
        f"- {BASELINE}",
        "p (Holm)",
        "gap closed",
        "updates",
        "student tokens",
        "teacher answers",
        "seconds",
    ]
    cells = [_cells(entry) for entry in record["rows"]]
    labelled = f"{data['labelled']:,} labelled and {data['unlabelled']:,} unlabelled"
    seen = (
        f"Smallest visible difference from {BASELINE} in {DECIDES} (two-sided 5 %, power 80 %, "
        f"{record['queries']:,} {record['split']} queries): {visible}."
    )
    words = (
        f"Seeds {', '.join(map(str, seeds))}; figures per query are means over them, ± is the "
        "standard deviation of the seeds' means. Costs are means per run: tokens that the student "
        "read in training, padding included; answers (pairs or texts) that its teacher was asked "
        "for; seconds of training, measurements on dev included."
    )
    made_of = (
        f"Data: {data['name']}, {data['passages']:,} passages, digest {data['digest'][:16]}. "
        f"Teacher: {record['teacher']}. Student: {record['student_layers'] or 'default'} layers. "
        f"Settings: {' '.join(record['assignments']) or 'defaults'}."
    )
    title = f"# Quality: {data['name']}, {labelled} training queries"
    return "\n\n".join([title, seen, words, table(headings, cells), made_of])


def _cells(entry: Mapping[str, Any]) -> list[str]:
    low, high = entry[f"{DECIDES}_ci"]
    minus = entry[f"minus_{BASELINE}"]
    return [
        entry["system"],
        f"{entry[DECIDES]:.4f}",
        f"[{low:.3f}, {high:.3f}]",
        _figure(entry.get("seed_spread"), ".4f"),
        f"{entry['RR@10']:.4f}",
        f"{entry['R@100']:.4f}",
        "" if entry["system"] == BASELINE else f"{minus:+.4f}",
        _figure(entry.get("p_holm"), ".4f"),
        _share(entry),
        _figure(entry.get("updates"), ",d"),
        _figure(entry.get("student_tokens"), ",.0f"),
        _figure(entry.get("teacher_answers"), ",.0f"),
        _figure(entry.get("training_seconds"), ",.0f"),
    ]


def _share(entry: Mapping[str, Any]) -> str:
    if "gap_closed" not in entry:
        return ""
    return "undefined" if entry["gap_closed"] is None else f"{entry['gap_closed']:.0%}"


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    sys.exit(main())
