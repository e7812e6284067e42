"""Stand-ins for what the commands call: they record their arguments and give fixed answers."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from limbeck.cli import app

Invoke = Callable[..., Result]


@pytest.fixture
def invoke() -> Invoke:
    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


class FakePipeline(SimpleNamespace):
    """Answers like `limbeck.pipeline` and remembers the last call."""

    def __init__(self, out: Path) -> None:
        super().__init__(called=None, data=None, arguments={}, raises=None, planned=None)
        self.result = SimpleNamespace(
            out=out,
            rows=[{"model": "student", "split": "test", "nDCG@10": 0.5}],
            advice=["The student beats BM25."],
            notes=["dev: 20 of 200 train queries set aside, seed 0"],
            table="model    nDCG@10\nstudent    0.500\n",
        )

    def _record(self, name: str, positional: tuple[object, ...], named: dict[str, Any]) -> None:
        self.called, self.data, self.arguments = name, positional, named
        named["progress"].say("working")
        if self.raises:
            raise self.raises

    def distill(self, *positional: object, **named: Any) -> SimpleNamespace:
        self._record("distill", positional, named)
        return self.result

    def dry_run(self, *positional: object, **named: Any) -> list[str]:
        self._record("dry_run", positional, named)
        return ["1. mine 50 candidates per query", "2. score 1,000 pairs"]

    def plan(self, *positional: object, **named: Any) -> Any:
        self._record("plan", positional, named)
        return self.planned

    def evaluate(self, *positional: object, **named: Any) -> SimpleNamespace:
        self._record("evaluate", positional, named)
        return self.result

    def export(self, *positional: object, **named: Any) -> SimpleNamespace:
        self._record("export", positional, named)
        figures = {"before": 0.5, "after": 0.499, "measure": "nDCG@10"}
        return SimpleNamespace(out=named["out"], format=named["to"], **figures)

    def demo(self, *positional: object, **named: Any) -> tuple[SimpleNamespace, list[Any]]:
        self._record("demo", positional, named)
        hit = SimpleNamespace(id="open", score=0.91, text="Open a file.\nReturn it.")
        return self.result, [("read a file", [hit])]


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakePipeline:
    import limbeck

    fake = FakePipeline(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "limbeck.pipeline", fake)
    monkeypatch.setattr(limbeck, "pipeline", fake, raising=False)
    return fake
