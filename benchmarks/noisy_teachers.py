"""Does it help to weigh teachers when one of them learned from wrong labels?

Two classifiers learn from all labels of `digits`, a third from labels of which a share is wrong: of
any examples, by chance, so that it becomes unsure; or, `--whole-classes`, of all examples of some
classes, each taken for the next class, so that it is sure and wrong. The three teach small students
by several recipes, at equal steps, over several seeds. The oracle is taught by the two good ones.

    python benchmarks/noisy_teachers.py --work DIR --noise 0.4
    python benchmarks/noisy_teachers.py --work DIR --noise 0.4 --whole-classes

Everything below `--work` is a run: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ledger import RESULTS, numbers, write_results
from limbeck.bench import bench
from limbeck.cli.progress import on_stderr
from limbeck.data.labelled import read_labelled
from limbeck.errors import LimbeckError
from limbeck.evaluation.comparison import against, mean_over_seeds
from limbeck.pipeline import distill
from limbeck.pipeline.comparing import table_of
from limbeck.tasks.classification import KIND

RECIPES = "supervised,kd,nkd,ctkd,self_paced,ca_mkd,ca_mkd:equal,ca_mkd:entropy"
STUDENT, TEACHER = "cnn-4", "cnn-32"
CONFIDENT, EQUAL = "ca_mkd", "ca_mkd:equal"
STEPS = 300
_NOISE_SEED, _TEST_SEED = 0, 0


def main() -> int:
    asked = options()
    good = {name: str(fitted(asked, name, "digits", seed)) for name, seed in (("a", 1), ("b", 2))}
    kind = f"{'wrong' if asked.whole_classes else 'noisy'}-{round(100 * asked.noise)}"
    noisy = with_wrong_labels(asked.work / f"{kind}.npz", asked.noise, asked.whole_classes)
    bad = fitted(asked, f"bad-{kind}", str(noisy), 3)
    name = f"digits-{kind}"
    for suffix, recipes, teachers in (
        ("", asked.recipes.split(","), {**good, "bad": str(bad)}),
        ("-oracle", ["kd", "ca_mkd"], good),
    ):
        with on_stderr() as progress:
            found = bench(
                "digits",
                out=asked.work / f"{name}{suffix}",
                recipes=recipes,
                seeds=asked.seeds,
                max_steps=STEPS,
                teacher=[f"{each}={path}" for each, path in teachers.items()],
                student=STUDENT,
                precision="fp32",
                jobs=asked.jobs,
                progress=progress,
            )
        record = {
            **found.record,
            "benchmark": "noisy_teachers",
            "wrong_labels_of_the_bad_teacher": kind,
        }
        if {CONFIDENT, EQUAL} <= set(recipes):
            record["minus_equal"] = against_equal(asked.work / f"{name}{suffix}", asked.seeds)
        write_results(asked.results, f"{name}{suffix}", record, found.page)
    return 0


def against_equal(work: Path, seeds: list[int]) -> dict[str, float]:
    """How much more accurate weights by confidence are than equal ones, and p of the paired test of
    examples, as means over seeds.
    """
    frames = {
        recipe: mean_over_seeds(
            [table_of(work / f"{recipe.replace(':', '-')}-{seed}", "student")[1] for seed in seeds]
        )
        for recipe in (EQUAL, CONFIDENT)
    }
    found = against(EQUAL, frames, KIND.measures.first, _TEST_SEED)[CONFIDENT]
    return {"difference": found.difference.value, "p": found.p}


def fitted(asked: Any, name: str, data: str, seed: int) -> Path:
    """The folder of a teacher that learned from data."""
    out: Path = asked.work / name
    settings = {"max_steps": STEPS}
    distill(
        data,
        out=out,
        recipe="supervised",
        student=TEACHER,
        seed=seed,
        settings=settings,
        precision="fp32",
    )
    return out / "student"


def with_wrong_labels(path: Path, share: float, whole_classes: bool) -> Path:
    """`digits` in a file, a share of whose training labels were replaced by others."""
    data, random = read_labelled("digits"), np.random.default_rng(_NOISE_SEED)
    arrays: dict[str, Any] = {}
    for split, part in data.parts.items():
        key, labels = {"dev": "val"}.get(split, split), part.labels.copy()
        if split == "train":
            wrong = random.random(len(labels)) < share
            moved = random.integers(1, len(data.classes), len(labels))
            given = (labels + moved) % len(data.classes)
            if whole_classes:  # of the first ones, in a circle
                first = round(share * len(data.classes))
                wrong, given = labels < first, (labels + 1) % first
            labels = np.where(wrong, given, labels)
        images = np.rint(np.asarray(part.inputs)[..., 0] * 255).astype(np.uint8)
        arrays |= {f"{key}_images": images, f"{key}_labels": labels.astype(np.uint8)}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def options() -> Any:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--work", type=Path, required=True, help="folder of the runs; resumable")
    asked.add_argument("--noise", type=float, default=0.4, help="share of wrong labels")
    asked.add_argument(
        "--whole-classes", action="store_true", help="of all examples of a share of the classes"
    )
    asked.add_argument("--seeds", type=numbers, default=list(range(10)))
    asked.add_argument("--recipes", default=RECIPES)
    asked.add_argument("--jobs", type=int, default=1, help="arms at once, of one thread each")
    asked.add_argument("--results", type=Path, default=RESULTS, help="benchmarks/results")
    return asked.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LimbeckError as error:
        sys.exit(str(error))
