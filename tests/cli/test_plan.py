import json
from pathlib import Path

from limbeck.pipeline.plan_file import Plan
from limbeck.tasks.estimate import StageEstimate

from .conftest import FakePipeline, Invoke

PLAN = Plan(
    [
        StageEstimate("train-kl", "100 steps", 75.0, updates=100, megabytes=12.0),
        StageEstimate("score", "the teacher's scores of 4,800 pairs", 9.04, asked=4800),
    ],
    2_000_000_000,
    ["the store has the base's vectors of 100% of the passages"],
)


def test_plan_takes_what_distill_takes(invoke: Invoke, pipeline: FakePipeline) -> None:
    pipeline.planned = PLAN
    result = invoke("plan", "docs", "--teacher", "t", "--recipe", "kl", "--set", "max_steps=5")
    assert result.exit_code == 0, result.stderr
    assert pipeline.data == ("docs",)
    planned = pipeline.arguments
    assert planned["out"] is None
    assert (planned["teacher"], planned["settings"]) == (["t"], {"max_steps": "5"})
    invoke("distill", "docs", "--out", "run")
    assert planned.keys() == pipeline.arguments.keys() - {"force"}


def test_a_plan_is_a_line_per_part_and_a_sum(invoke: Invoke, pipeline: FakePipeline) -> None:
    pipeline.planned = PLAN
    lines = invoke("plan", "docs").stdout.splitlines()
    assert lines[1].split() == ["train-kl", "1", "min", "15", "s", "12", "100", "steps"]
    assert lines[2].split()[:5] == ["score", "9.0", "s", "0", "4,800"]
    assert lines[3].split() == ["all", "1", "min", "24", "s", "12", "4,800"]
    assert lines[4:] == ["memory at most: about 2,000 MB", *PLAN.notes]


def test_a_plan_as_json(invoke: Invoke, pipeline: FakePipeline) -> None:
    pipeline.planned = PLAN
    found = json.loads(invoke("plan", "docs", "--out", Path("run"), "--json").stdout)
    assert found.keys() == {"parts", "seconds", "peak_bytes", "notes"}
    assert found["parts"][0]["updates"] == 100
    assert pipeline.arguments["out"] == Path("run")
