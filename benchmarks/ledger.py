"""What do benchmarks have in common, and where are figures kept?

An arm is a run folder of `limbeck.pipeline.distill` under the benchmark's work folder, beside one
score store that all arms share. A finished arm is read back. What arms of a comparison of recipes
have to share besides is `limbeck.bench`'s business. Results go to `benchmarks/results`, as
JSON and as Markdown: data by name and digest alone, models by digest, no paths.

This module knows no benchmark.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from limbeck import store
from limbeck.bench.budget import given_to_teachers
from limbeck.bench.page import measured_with
from limbeck.cli.options import parse_assignments
from limbeck.cli.progress import on_stderr
from limbeck.config.teacher_spec import TeacherSpec
from limbeck.models.loading import OFFLINE, load_encoder
from limbeck.pipeline import distill
from limbeck.record import environment, read_record
from limbeck.tasks.retrieval.opening import OFFLINE_LAYERS

RESULTS = Path(__file__).parent / "results"


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    asked = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("data", help="a folder in the BEIR layout, or pydocs")
    asked.add_argument("--work", type=Path, required=True, help="folder of the arms; resumable")
    asked.add_argument(
        "--teacher", default="train:dual", help="train[:KIND[:BASE]] or a model's folder"
    )
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


@dataclass(frozen=True, slots=True)
class Bench:
    """What the arms of one benchmark have in common."""

    data: str
    work: Path
    labels: int | None
    student: str | None
    student_layers: int | None
    precision: str
    settings: Mapping[str, str]  # as --set names them

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
            parse_assignments(asked.assignments),
        )

    def arm(
        self,
        name: str,
        recipe: str,
        seed: int,
        teacher: str,
        settings: Mapping[str, object],
        *,
        student_alone: bool = False,
    ) -> Path:
        """The folder of a finished run; its student may be the only system that is measured.

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
                student_alone=student_alone,
                progress=progress,
            )
        return out

    def teacher(self, teacher: str) -> tuple[str, Path | None]:
        """A teacher's folder, and the run that fitted it, if it had to be.

        The run that fits makes one update of a student and no more.
        """
        if not TeacherSpec.parse(teacher).fitted:
            return teacher, None
        settings = {"max_steps": 1, "eval_steps": 0, **given_to_teachers(self.settings)}
        out = self.arm("teacher", "kl", 0, teacher, settings)
        return str(out / "teacher"), out


def _shortened(student: str | None, tokens: int, work: Path) -> str:
    """A folder with the encoder that reads at most so many tokens."""
    folder = work / f"base-{tokens}"
    if not folder.exists():
        encoder = load_encoder(student or OFFLINE)
        encoder.model.max_seq_length = encoder.max_length = tokens
        encoder.save(folder, card="", stage="base")
    return str(folder)


def data_of(out: Path) -> dict[str, Any]:
    """Name, digest and sizes of what a run learned from."""
    record = read_record(out)
    assert record is not None  # the run is finished
    found: dict[str, Any] = record["data"]
    return found


def write_results(folder: Path, name: str, record: Mapping[str, object], page: str) -> None:
    """`NAME.json`, and the page with the environment below it as `NAME.md`."""
    surroundings = environment()
    store.write_json(
        folder / f"{name}.json", {**record, "environment": surroundings}, stage="results"
    )
    whole = f"{page}\n\n{measured_with(surroundings)}\n"
    store.write_text(folder / f"{name}.md", whole, stage="results")
    print(f"\n{page}\n\nWritten to {folder / name}.json and .md")
