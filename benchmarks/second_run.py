"""What does a second recipe cost when it has the same teacher?

Runs one recipe with a fitted teacher, then others with that teacher's folder and the same score
store, and counts from the stages of each run how often the teacher was computed. Every run after
the first must not compute it at all; the exit status is 0 when none does.

    python benchmarks/second_run.py DATA --work DIR
"""

from __future__ import annotations

import sys
from typing import Any

from ledger import Bench, data_of, parser, write_results
from limbeck.bench.arms import base_cost, teacher_cost
from limbeck.bench.budget import given_to, given_to_teachers
from limbeck.bench.page import table
from limbeck.config.teacher_spec import TeacherSpec


def main() -> int:
    asked = options()
    bench = Bench.of(asked)
    first, *others = asked.recipes.split(",")
    if not others:
        sys.exit("Name at least two recipes.")
    spec = TeacherSpec.parse(asked.teacher)
    fitting = given_to_teachers(bench.settings) if spec.fitted else {}
    settings = {recipe: given_to(recipe, bench.settings) for recipe in (first, *others)}
    runs = [bench.arm(f"1-{first}", first, 0, asked.teacher, {**settings[first], **fitting})]
    teacher = str(runs[0] / "teacher") if spec.fitted else asked.teacher
    runs += [
        bench.arm(f"{number}-{recipe}", recipe, 0, teacher, settings[recipe])
        for number, recipe in enumerate(others, start=2)
    ]
    rows = [
        {
            "run": number,
            "recipe": recipe,
            "teacher": teacher_cost(out).as_json(),
            "base": base_cost(out).as_json(),
        }
        for number, (recipe, out) in enumerate(zip((first, *others), runs, strict=True), start=1)
    ]
    data = data_of(runs[0])
    again = sum(row["teacher"]["forwards"] for row in rows[1:])
    record = {
        "benchmark": "second_run",
        "data": data,
        "teacher": spec.shown,
        "labels": asked.labels,
        "assignments": asked.assignments,
        "rows": rows,
        "teacher_forwards_after_the_first_run": again,
    }
    name = asked.name or f"second-run-{data['name']}"
    write_results(asked.results, name, record, page(record))
    return 0 if again == 0 else 1


def options() -> Any:
    asked = parser(__doc__)
    asked.add_argument("--recipes", default="kl,margin_mse,embed", help="the first, then others")
    return asked.parse_args()


def page(record: Any) -> str:
    """The results as Markdown."""
    data = record["data"]
    headings = ["run", "recipe", "teacher: computed", "from the store", "base: computed"]
    cells = [
        [
            str(row["run"]),
            row["recipe"],
            *(f"{row['teacher'][key]:,}" for key in ("forwards", "spared")),
            f"{row['base']['forwards']:,}",
        ]
        for row in record["rows"]
    ]
    again = record["teacher_forwards_after_the_first_run"]
    found = f"Teacher forwards after the first run: {again:,} (pairs scored and texts embedded)."
    made_of = (
        f"Data: {data['name']}, {data['passages']:,} passages, digest {data['digest'][:16]}. "
        f"Teacher: {record['teacher']}; the base encoder, which mines where the teacher does not, "
        "is counted apart."
    )
    title = f"# A second run with the same teacher: {data['name']}"
    return "\n\n".join([title, found, table(headings, cells), made_of])


if __name__ == "__main__":
    sys.exit(main())
