"""Does a better teacher make a better student?

Every teacher of `--teachers` is fitted once, with seed 0, or taken as it is; then it teaches the
same student with every seed, by one recipe, at equal updates, on the same data and labels. The
table has each teacher, its base as it comes, and its students; paired tests compare the students of
each with those of the first.

    python benchmarks/teachers.py DATA --work DIR --labels 500 --name nl2bash-500-teachers \\
        --teachers small=train:dual,large=train:dual:path/to/mpnet,as-it-is=path/to/mpnet

Teachers and students are runs of their own below `--work`: the same command goes on where it was
stopped. Two of them at once, with one `--work`, share the runs between them.
"""

from __future__ import annotations

import fcntl
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ledger import Bench, data_of, numbers, parser, write_results
from limbeck.bench.budget import given_to, given_to_teachers
from limbeck.bench.page import table
from limbeck.config.teacher_spec import KINDS, TeacherSpec, parse_specs
from limbeck.errors import ConfigError, LimbeckError
from limbeck.evaluation.comparison import against, estimate, mean_over_seeds
from limbeck.evaluation.measures import RETRIEVAL
from limbeck.pipeline.comparing import all_tables, table_of
from limbeck.pipeline.fitting import kinds_of
from limbeck.pipeline.reporting import METRICS

TEACHERS = "small=train:dual"
RECIPE = "kl"
FITTING = "fit"  # begins the names of the runs that fit a teacher
POLL_SECONDS = 2.0
DECIDES = RETRIEVAL.first
_SEED = 0  # of intervals and tests


@dataclass(frozen=True)
class Arm:
    """One run: a teacher that is fitted (`seed` None), or a student of one."""

    spec: TeacherSpec
    seed: int | None
    work: Path

    @property
    def name(self) -> str:
        return f"{self.spec.name}-{FITTING if self.seed is None else self.seed}"

    @property
    def out(self) -> Path:
        return self.work / self.name

    @property
    def done(self) -> bool:
        return (self.out / METRICS).exists()

    @property
    def fit(self) -> Arm | None:
        """The run that has to be done before."""
        waits = self.spec.fitted and self.seed is not None
        return Arm(self.spec, None, self.work) if waits else None


def main() -> int:
    asked = options()
    bench = Bench.of(asked)
    specs = parse_specs(asked.teachers.split(","))
    if not all(spec.name for spec in specs) or len(specs) < 2:
        raise ConfigError("--teachers: name each, two at least, as in small=train:dual,big=PATH.")
    fits = [Arm(spec, None, bench.work) for spec in specs if spec.fitted]
    arms = [*fits, *(Arm(spec, seed, bench.work) for spec in specs for seed in asked.seeds)]
    while left := [arm for arm in arms if not arm.done]:
        if not any(taken(arm, bench, asked) for arm in left):
            time.sleep(POLL_SECONDS)
    with locked(bench.work, "results") as mine:
        if mine:
            finish(arms, specs, bench, asked)
    return 0


def taken(arm: Arm, bench: Bench, asked: Any) -> bool:
    """Run an arm, unless it has to wait or another process has it."""
    if arm.fit is not None and not arm.fit.done:
        return False
    with locked(bench.work, arm.name) as mine:
        if not mine or arm.done:
            return mine
        settings = dict(given_to(RECIPE, addressed(bench, "")))
        teacher = str(arm.spec)
        if arm.seed is None:
            fitting = given_to_teachers(bench.settings)
            own = addressed(bench, f"{arm.spec.name}.")
            fitting |= {
                f"teacher_{kind}.{key}": own[key]
                for kind in kinds_of(arm.spec, KINDS)
                for key in own
            }
            settings = {"max_steps": 1, "eval_steps": 0, **fitting}
        elif arm.fit is not None:
            teacher = str(arm.fit.out / "teacher")
        alone = arm.seed is not None and (arm.spec.fitted or arm.seed != min(asked.seeds))
        bench.arm(arm.name, RECIPE, arm.seed or 0, teacher, settings, student_alone=alone)
        return True


def addressed(bench: Bench, to: str) -> dict[str, object]:
    """The settings that begin with a teacher's name, without it; those of everyone for ""."""
    return {
        key.removeprefix(to): value
        for key, value in bench.settings.items()
        if key.startswith(to) and "." not in key.removeprefix(to)
    }


@contextmanager
def locked(work: Path, name: str) -> Iterator[bool]:
    """Whether this process has the lock of a run; the kernel lets go of a killed one's."""
    folder = work / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def finish(arms: Sequence[Arm], specs: Sequence[TeacherSpec], bench: Bench, asked: Any) -> None:
    """Write the results."""
    students = {
        f"student of {spec.name}": [
            table_of(arm.out, "student")[1]
            for arm in arms
            if arm.spec == spec and arm.seed is not None
        ]
        for spec in specs
    }
    frames = {name: mean_over_seeds(found) for name, found in students.items()}
    baseline = next(iter(frames))
    rows = [row(name, frame) for name, frame in beside(arms, specs).items()]
    tests = against(baseline, frames, DECIDES, _SEED)
    for name, frame in frames.items():
        means = [DECIDES.of(each) for each in students[name]]
        found = {
            **row(name, frame),
            "per_seed": means,
            "seed_spread": statistics.stdev(means) if len(means) > 1 else None,
        }
        if name in tests:
            test = tests[name]
            found["minus_first"] = test.difference.value
            found["minus_first_ci"] = [test.difference.low, test.difference.high]
            found |= {"p": test.p, "p_holm": test.p_holm}
        rows.append(found)
    record = {
        "benchmark": "teachers",
        "data": data_of(arms[0].out),
        "split": table_of(arms[-1].out, "student")[0],
        "queries": len(frames[baseline]),
        "teachers": {str(spec.name): spec.shown for spec in specs},
        "recipe": RECIPE,
        "first": baseline,
        "labels": bench.labels,
        "student_layers": bench.student_layers,
        "precision": bench.precision,
        "seeds": asked.seeds,
        "assignments": [f"{key}={value}" for key, value in bench.settings.items()],
        "smallest_visible_difference": {name: test.visible for name, test in tests.items()},
        "rows": rows,
    }
    name = asked.name or f"teachers-{record['data']['name']}"
    write_results(asked.results, name, record, page(record))


def beside(arms: Sequence[Arm], specs: Sequence[TeacherSpec]) -> dict[str, pl.DataFrame]:
    """What stands beside the students: BM25, bases as they come, and each teacher."""
    found: dict[str, pl.DataFrame] = {}
    for spec in specs:
        first = next(arm for arm in arms if arm.spec == spec)  # which measured all
        for system in all_tables(first.out)["model"].unique(maintain_order=True):
            if system == "teacher":
                found[f"teacher {spec.name}: {spec.shown}"] = table_of(first.out, system)[1]
            elif system in ("bm25", "undistilled") or system.startswith("zero_shot"):
                found.setdefault(system, table_of(first.out, system)[1])
    return found


def row(name: str, frame: pl.DataFrame) -> dict[str, Any]:
    """What a system reaches."""
    found = estimate(frame, DECIDES, _SEED)
    figures = {measure.name: measure.of(frame) for measure in RETRIEVAL.measures}
    return {"system": name, **figures, f"{DECIDES.name}_ci": [found.low, found.high]}


def page(record: dict[str, Any]) -> str:
    """The results for people."""
    data = record["data"]
    labelled = f"{data['labelled']:,} labelled and {data['unlabelled']:,} unlabelled"
    cells = []
    for found in record["rows"]:
        low, high = found[f"{DECIDES.name}_ci"]
        spread, minus = found.get("seed_spread"), found.get("minus_first")
        cells.append(
            [
                found["system"],
                f"{found[DECIDES.name]:.4f}",
                f"{low:.3f} to {high:.3f}",
                "" if spread is None else f"{spread:.4f}",
                f"{found['R@100']:.3f}",
                "" if minus is None else f"{minus:+.4f}",
                "" if minus is None else f"{found['p_holm']:.4f}",
            ]
        )
    headings = ["system", DECIDES.name, "95 %", "± seeds", "R@100", "- first", "p (Holm)"]
    seeds = ", ".join(map(str, record["seeds"]))
    settings = "; ".join(record["assignments"]) or "defaults"
    words = (
        f"Students of {record['student_layers'] or 'the default'} layers by `{record['recipe']}`, "
        f"seeds {seeds}; figures per query are means over them, ± is the standard deviation of "
        "the seeds' means. Tests are of paired randomisation over "
        f"{record['queries']:,} {record['split']} queries, against the {record['first']}, "
        "corrected by Holm. Every teacher was fitted once, with seed 0."
    )
    return "\n\n".join(
        [
            f"# Teachers: {data['name']}, {labelled} training queries",
            words,
            table(headings, cells),
            f"Settings: {settings}. Data digest {data['digest'][:16]}.",
        ]
    )


def options() -> Any:
    asked = parser(__doc__)
    asked.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    asked.add_argument("--teachers", default=TEACHERS, help="NAME=TEACHER,... ; the first is first")
    return asked.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LimbeckError as error:
        sys.exit(str(error))
