"""What does one arm of a benchmark cost and reach, and where are figures kept?

An arm is a run folder of `limbeck.pipeline.distill` under the benchmark's work folder, beside one
score store that all arms share. A finished arm is read back. Results go to `benchmarks/results`, as
JSON and as Markdown: data by name and digest alone, models by digest, no paths.

This module knows no benchmark.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import polars as pl

from limbeck import store
from limbeck.cli.progress import on_stderr
from limbeck.models.loading import OFFLINE, load_encoder
from limbeck.pipeline import distill
from limbeck.pipeline.asking import OFFLINE_LAYERS
from limbeck.recipes import find
from limbeck.record import environment, read_record

RESULTS = Path(__file__).parent / "results"
FITTED = "train"  # --teacher train[:KIND] fits one
UPDATES = 300  # where --set says nothing: what recipes choose for themselves depends on their data


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    asked = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("data", help="a folder in the BEIR layout, or pydocs")
    asked.add_argument("--work", type=Path, required=True, help="folder of the arms; resumable")
    asked.add_argument("--teacher", default="train:dual", help="train[:KIND] or a model's folder")
    asked.add_argument("--labels", type=int, help="judged training queries to keep")
    asked.add_argument("--student", help="the encoder to start from; the offline model")
    asked.add_argument("--student-layers", type=int, help="layers of the student")
    asked.add_argument("--max-length", type=int, help="tokens of a text that models read")
    asked.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    asked.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of every recipe that has it; RECIPE.KEY=VALUE of one recipe",
    )
    asked.add_argument("--name", help="of the files of results")
    asked.add_argument("--results", type=Path, default=RESULTS, help="benchmarks/results")
    return asked


def numbers(text: str) -> list[int]:
    """The seeds in `0,1,2`."""
    return [int(part) for part in text.split(",")]


def settings_of(recipe: str, assignments: Sequence[str]) -> dict[str, object]:
    """What `--set` says to one recipe: `key=value` where it has the key, `recipe.key=value`."""
    fields, found = find(recipe).settings.model_fields, {}
    for key, _, value in (assignment.partition("=") for assignment in assignments):
        name, dot, rest = key.rpartition(".")
        if not dot and rest in fields:
            found.setdefault(rest, value)
        elif name == recipe:
            found[rest] = value
    return found


@dataclass(frozen=True, slots=True)
class Bench:
    """What the arms of one benchmark have in common."""

    data: str
    work: Path
    labels: int | None
    student: str | None
    student_layers: int | None
    precision: str
    assignments: Sequence[str]

    @classmethod
    def of(cls, asked: argparse.Namespace) -> Bench:
        """From the command line; with `--max-length`, models start from one that reads no more."""
        student, layers = asked.student, asked.student_layers
        if asked.max_length is not None:
            layers = OFFLINE_LAYERS if student is None and layers is None else layers
            student = _shortened(student, asked.max_length, asked.work)
        return cls(
            asked.data,
            asked.work,
            asked.labels,
            student,
            layers,
            asked.precision,
            asked.assignments,
        )

    def arm(
        self, name: str, recipe: str, seed: int, teacher: str, settings: Mapping[str, object]
    ) -> Path:
        """The folder of a finished run.

        A weak teacher is used all the same: its row in the table says what it is worth.
        """
        out = self.work / name
        print(f"== {name}", flush=True)
        with on_stderr() as progress:
            distill(
                self.data,
                out=out,
                teacher=teacher,
                student=self.student,
                student_layers=self.student_layers,
                recipe=recipe,
                settings=settings,
                labels=self.labels,
                seed=seed,
                store=self.work / "store",
                precision=self.precision,
                force_teacher=True,
                progress=progress,
            )
        return out

    def teacher(self, teacher: str) -> tuple[str, Path | None]:
        """A teacher's folder, and the run that fitted it, if it had to be.

        The run that fits makes one update of a student and no more.
        """
        if teacher.partition(":")[0] != FITTED:
            return teacher, None
        settings = {"updates": 1, "measures": 0, **self.fitting()}
        out = self.arm("teacher", "kl", 0, teacher, settings)
        return str(out / "teacher"), out

    def fitting(self) -> dict[str, str]:
        """The assignments to recipes that fit a teacher, as `distill` takes them."""
        pairs = (assignment.partition("=") for assignment in self.assignments)
        return {key: value for key, _, value in pairs if key.startswith("teacher_")}


def _shortened(student: str | None, tokens: int, work: Path) -> str:
    """A folder with the encoder that reads at most so many tokens."""
    folder = work / f"base-{tokens}"
    if not folder.exists():
        encoder = load_encoder(student or OFFLINE)
        encoder.model.max_seq_length = encoder.max_length = tokens
        encoder.save(folder, card="", stage="base")
    return str(folder)


def stage_metrics(out: Path) -> dict[str, dict[str, Any]]:
    """What each finished stage of a run counted, by the stage's name."""
    return {
        path.parent.name: store.read_json(path)["metrics"]
        for path in sorted((out / "stages").glob("*/done.json"))
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """Pairs and texts that a model was asked for: computed in this run, or spared by the store."""

    forwards: int
    spared: int


def asked_of_teacher(out: Path) -> Asked:
    """What a run asked of its teacher."""
    return _asked(out, base=False)


def asked_of_base(out: Path) -> Asked:
    """What a run asked of the base encoder, which mines and is no teacher."""
    return _asked(out, base=True)


def _asked(out: Path, *, base: bool) -> Asked:
    found = [
        metrics
        for name, metrics in stage_metrics(out).items()
        if "teacher_forwards" in metrics
        and name.startswith(("encode-base-", "score-base-")) == base
    ]
    return Asked(
        sum(metrics["teacher_forwards"] for metrics in found),
        sum(metrics["hits"] for metrics in found),
    )


def per_query(out: Path, model: str) -> tuple[str, pl.DataFrame]:
    """The split that a run measured a system on, and its figures per query."""
    frame = store.read_parquet(out / "per_query.parquet").filter(pl.col("model") == model)
    return str(frame["split"][0]), frame.drop("model", "split")


def data_of(out: Path) -> dict[str, Any]:
    """Name, digest and sizes of what a run learned from."""
    record = read_record(out)
    assert record is not None  # the run is finished
    found: dict[str, Any] = record["collection"]
    return found


def write_results(folder: Path, name: str, record: Mapping[str, object], page: str) -> None:
    """`NAME.json`, and the page with the environment below it as `NAME.md`."""
    surroundings = environment()
    below = ", ".join(f"{key} {value}" for key, value in surroundings.items())
    store.write_json(
        folder / f"{name}.json", {**record, "environment": surroundings}, stage="results"
    )
    store.write_text(folder / f"{name}.md", f"{page}\n\nMeasured with: {below}.\n", stage="results")
    print(f"\n{page}\n\nWritten to {folder / name}.json and .md")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is words, the others are figures."""
    marks = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, marks, *rows))


def as_json(asked: Asked) -> dict[str, int]:
    """For a results file."""
    return asdict(asked)
