"""The arithmetic of the benchmarks. Running them is not a test."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from processes import Coded

FOLDER = Path(__file__).parent.parent / "benchmarks"


SCRIPTS = {
    "quality": "--recipes",
    "teachers": "--teachers",
    "second_run": "--recipes",
    "head_to_head": "--burst",
    "serve_load": "--clients",
    "unmoved": "--against",
    "noisy_pairs": "--pairs-of",
    "noisy_teachers": "--noise",
}


START = """
import runpy, sys
from pathlib import Path
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_started(script: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = Coded(START, FOLDER / f"{script}.py", "--help", log=log)
    assert started.ended() == 0, log.read_text()
    assert SCRIPTS[script] in log.read_text()


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("speed")
    for name in ("speed", "head_to_head", "ledger"):
        sys.modules.pop(name, None)


def test_times_faster_compares_within_a_round(speed: Any) -> None:
    """8 / 4, 9 / 3 and 1 / 1: the median is 2; the ratio of the medians would be 8 / 3."""
    found = {"default": [8.0, 9.0, 1.0], "limbeck": [4.0, 3.0, 1.0]}
    assert speed.times_faster(found, "default", "limbeck") == 2.0
    assert speed.times_faster(found, "torch_bf16", "limbeck") is None
    row = speed.row("encode", found, "limbeck", 0.5, texts=3)
    assert row == {
        "work": "encode",
        "vs_default": 2.0,
        "vs_torch_bf16": None,
        "vs_best": None,
        "share_of_limit": 0.5,
        "seconds": {"default": 8.0, "limbeck": 3.0},
        "texts": 3,
    }


def test_rounds_take_turns_and_the_first_is_not_counted(speed: Any) -> None:
    calls: list[str] = []
    now = iter(range(100))
    sides = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    found = speed.in_rounds(sides, rounds=2, clock=lambda: float(next(now)))
    assert found == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    assert calls == ["b", "a", "a", "b", "b", "a"]


def test_texts_for_linearity_are_distinct_and_of_one_mix(speed: Any) -> None:
    texts = ["a", "b b", "c c c", "d d d d"]
    found = speed.distinct(texts, 2, 6)
    assert found == ["0 a", "1 d d d d", "2 a", "3 d d d d", "4 a", "5 d d d d"]


def test_the_share_is_of_the_quicker_side(speed: Any) -> None:
    assert speed.quicker({"a": [1.0, 2.0], "b": [2.0, 2.0]}, "a", "b") == "a"
    assert speed.quicker({"a": [1.0, 4.0], "b": [2.0, 2.0]}, "a", "b") == "b"
    assert speed.share(30.0, {"limbeck": [1.0, 2.0, 9.0]}, 60.0) == 0.25
    assert speed.share(None, {"limbeck": [1.0]}, 60.0) is None


def test_wrong_pairs_have_passages_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("noisy_pairs")
    try:
        rows = [(f"q{at}", f"p{at}") for at in range(10)]
        right, noisy = module.corrupted(rows, 0.4)
    finally:
        for name in ("noisy_pairs", "ledger"):
            sys.modules.pop(name, None)
    assert right.sum() == 6
    assert [query for query, _ in noisy] == [query for query, _ in rows]
    assert sorted(passage for _, passage in noisy) == sorted(passage for _, passage in rows)
    assert [new == old for new, old in zip(noisy, rows, strict=True)] == right.tolist()
