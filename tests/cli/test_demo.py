import json
from pathlib import Path

from .conftest import FakePipeline, Invoke


def test_it_ends_with_the_students_path_and_live_searches(
    invoke: Invoke, pipeline: FakePipeline
) -> None:
    result = invoke("demo", "--precision", "fp32")
    assert pipeline.data == (Path("demo-run"),)
    assert pipeline.arguments["precision"] == "fp32"
    assert result.stdout.endswith(
        f"\nStudent: {Path('demo-run') / 'student'}\n"
        f"Report: {Path('demo-run') / 'report.html'}\n\n"
        "? read a file\n  0.910  open\n         Open a file. Return it.\n"
    )


def test_json_has_the_searches(invoke: Invoke, pipeline: FakePipeline, tmp_path: Path) -> None:
    printed = json.loads(invoke("demo", "--out", tmp_path / "here", "--json").stdout)
    assert pipeline.data == (tmp_path / "here",)
    assert printed["searches"] == [
        {"query": "read a file", "hits": [[0.91, "open", "Open a file.\nReturn it."]]}
    ]
