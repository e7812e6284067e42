"""Does E5's filter find the wrong ones among weak pairs, and does it help to leave them out?

Pairs of a collection, made of its passages or (`--pairs-of judged`) its training queries with their
passages, a share of which gets the passage of another pair. The same student learns from them
without any filter, with one of k = 1, 2, 5, and from the right pairs alone (the oracle): first
without any label, then with a teacher and some labels on top.

    python benchmarks/noisy_pairs.py DATA --work DIR --noise 0.4 --labels 500 --pairs-of judged

Everything below `--work` is a run: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ledger import Bench, data_of, numbers, parser, write_results
from limbeck.cli.progress import on_stderr
from limbeck.data import read_collection
from limbeck.data.collection import positives
from limbeck.data.pairs import made_pairs
from limbeck.errors import LimbeckError
from limbeck.evaluation.comparison import against, mean_over_seeds
from limbeck.pipeline import distill
from limbeck.pipeline.comparing import table_of
from limbeck.store import read_parquet
from limbeck.tasks.retrieval import KIND
from limbeck.types import QueryId

Rows = list[tuple[str, str]]
ARMS: dict[str, int | None] = {"no-filter": None, "k1": 1, "k2": 2, "k5": 5, "oracle": None}
_NOISE_SEED, _TEST_SEED = 0, 0


def main() -> int:
    asked = options()
    asked.work.mkdir(parents=True, exist_ok=True)
    rows = pairs_of(asked.data, asked.pairs_of)
    right, noisy = corrupted(rows, asked.noise)
    files = {
        "noisy": written(asked.work / f"noisy-{round(100 * asked.noise)}.jsonl", noisy),
        "oracle": written(
            asked.work / "right.jsonl", [noisy[at] for at in np.flatnonzero(right).tolist()]
        ),
    }
    bench = Bench.of(asked)
    teacher, _ = bench.teacher(asked.teacher)
    parts: dict[str, dict[str, Any]] = {}
    for labelled in (False, True):
        frames = {}
        for arm, k in ARMS.items():
            outs = [
                trained(asked, bench, arm, seed, k, files, teacher, labelled)
                for seed in asked.seeds
            ]
            frames[arm] = mean_over_seeds([table_of(out, "student")[1] for out in outs])
            if not labelled:
                parts[arm] = {"filter": filtered(outs, right)} if k else {}
        tests = against("no-filter", frames, KIND.measures.first, _TEST_SEED)
        for arm, frame in frames.items():
            found: dict[str, Any] = {"quality": KIND.measures.first.of(frame)}
            if arm in tests:
                found |= {"difference": tests[arm].difference.value, "p": tests[arm].p}
            parts[arm]["with labels" if labelled else "without"] = found
    record = {
        "benchmark": "noisy_pairs",
        "data": data_of(outs[0]),
        "pairs": {"of": asked.pairs_of, "all": len(rows), "wrong": int((~right).sum())},
        "labels": asked.labels,
        "steps": asked.steps,
        "seeds": asked.seeds,
        "settings": bench.settings,
        "arms": parts,
    }
    default = f"{record['data']['name']}-noisy-pairs-{round(100 * asked.noise)}"
    write_results(asked.results, asked.name or default, record, page(record))
    return 0


def trained(
    asked: Any,
    bench: Bench,
    arm: str,
    seed: int,
    k: int | None,
    files: dict[str, Path],
    teacher: str,
    labelled: bool,
) -> Path:
    """The folder of a finished run. With labels it goes on from what was pre-trained without."""
    without = asked.work / f"{arm}-{seed}"
    out = asked.work / f"{arm}-labels-{seed}" if labelled else without
    given = {"k": "none" if k is None else k, "max_steps": asked.steps, "pretrain_share": 1.0}
    if labelled:
        given |= {"max_steps": 2 * asked.steps, "pretrain_share": 0.5}
    print(f"== {out.name}", flush=True)
    with on_stderr() as progress:
        distill(
            asked.data,
            out=out,
            recipe="e5",
            teacher=teacher,
            student=bench.student,
            student_layers=bench.student_layers,
            settings={**bench.settings, **given},
            pairs=files["oracle" if arm == "oracle" else "noisy"],
            labels=asked.labels,
            seed=seed,
            store=asked.work / "store",
            precision=bench.precision,
            force_teacher=True,
            student_alone=True,
            reuse_from=[without] if labelled else [],
            progress=progress,
        )
    return out


def pairs_of(data: str, source: str) -> Rows:
    """The weak pairs of a collection, all of them right as far as one knows."""
    collection = read_collection(data)
    if source == "made":
        return list(made_pairs(collection).rows())
    queries, passages = collection.queries, collection.passages
    train = collection.qrels.get("train", {})
    return [
        (queries.texts[queries.index[query]], passages.texts[passages.index[passage]])
        for query in collection.labelled
        for passage in positives(train[QueryId(query)])
    ]


def corrupted(
    rows: list[tuple[str, str]], share: float
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Which pairs stay right [n], and the pairs, of which the others get each other's passages."""
    random = np.random.default_rng(_NOISE_SEED)
    wrong = random.permutation(len(rows))[: round(share * len(rows))]
    noisy = list(rows)
    for at, other in zip(wrong.tolist(), np.roll(wrong, 1).tolist(), strict=True):
        noisy[at] = rows[at][0], rows[other][1]
    right = np.array([new == old for new, old in zip(noisy, rows, strict=True)])
    return right, noisy


def written(path: Path, rows: Rows) -> Path:
    """A file of pairs."""
    lines = [json.dumps({"query": query, "passage": passage}) + "\n" for query, passage in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def filtered(outs: list[Path], right: np.ndarray) -> dict[str, float]:
    """Precision and recall of what a filter kept, where keeping right pairs is the aim, and the
    share that it kept: means over seeds.
    """
    found = []
    for out in outs:
        shards = sorted((out / "stages" / "filter-pairs").glob("shard-*.parquet"))
        frames = [read_parquet(shard, {"pair": None, "kept": None}) for shard in shards]
        pairs = np.concatenate([frame["pair"].to_numpy() for frame in frames])
        kept = np.concatenate([frame["kept"].to_numpy() for frame in frames])
        hits = int((kept & right[pairs]).sum())
        found.append((hits / max(1, kept.sum()), hits / max(1, right[pairs].sum()), kept.mean()))
    names = ("precision", "recall", "kept")
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))


def page(record: dict[str, Any]) -> str:
    """The results as Markdown."""
    pairs, measure = record["pairs"], KIND.measures.first.name
    told = (
        f"{pairs['wrong']:,} of {pairs['all']:,} pairs ({pairs['of']}) have the passage of another "
        f"one. {measure} of the student after {record['steps']} steps on pairs, and after as many "
        f"more with a teacher and {record['labels']} labels; means over seeds {record['seeds']}, "
        "in brackets the difference to no filter and p of the paired test."
    )
    lines = [
        f"# Wrong pairs on {record['data']['name']}",
        "",
        told,
        "",
        f"| arm | precision | recall | kept | {measure} without labels | with |",
        "|---|---|---|---|---|---|",
    ]
    for arm, found in record["arms"].items():
        told = found.get("filter")
        cells = (
            [f"{told[name]:.3f}" for name in ("precision", "recall", "kept")] if told else [""] * 3
        )
        for part in ("without", "with labels"):
            own = found[part]
            test = f" ({own['difference']:+.3f}, {own['p']:.3f})" if "p" in own else ""
            cells.append(f"{own['quality']:.3f}{test}")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def options() -> argparse.Namespace:
    asked = parser(__doc__)
    asked.add_argument("--noise", type=float, default=0.4, help="share of wrong pairs")
    asked.add_argument("--pairs-of", choices=("made", "judged"), default="made")
    asked.add_argument("--steps", type=int, default=300, help="on pairs, and as many with labels")
    asked.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    return asked.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LimbeckError as error:
        sys.exit(str(error))
