"""The arithmetic of the benchmarks, and that they compare equals. Running them is not a test."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("quality")
    for name in ("quality", "ledger"):
        sys.modules.pop(name, None)


def test_gap_closed_is_the_share_of_the_way_to_the_teacher(quality: Any) -> None:
    """(0.67 - 0.64) / (0.69 - 0.64) = 0.6; a gap of 0.005 is too small to take a share of."""
    assert quality.gap_closed(0.67, 0.64, 0.69) == pytest.approx(0.6)
    assert quality.gap_closed(0.63, 0.64, 0.69) == pytest.approx(-0.2)
    assert quality.gap_closed(0.642, 0.64, 0.645) is None
    assert quality.gap_closed(0.65, 0.64, 0.60) is None


def test_settings_go_to_the_recipes_that_have_them(quality: Any) -> None:
    assigned = ["queries_per_update=10", "kl.temperature=0.1", "teacher_dual.updates=5"]
    assert quality.equal_settings("contrastive", assigned) == {
        "updates": "300",
        "queries_per_update": "10",
    }
    assert quality.equal_settings("kl", assigned) == {
        "updates": "300",
        "queries_per_update": "10",
        "temperature": "0.1",
    }
    # 10 queries with lists of 4: as many texts
    assert quality.equal_settings("embed", assigned)["texts_per_update"] == "50"


def test_unequal_updates_are_refused(quality: Any) -> None:
    quality.refuse_unequal({"kl": {"updates": "5"}, "embed": {"updates": "5"}})
    with pytest.raises(SystemExit, match="updates must be the same"):
        quality.refuse_unequal({"kl": {"updates": "5"}, "embed": {"updates": "6"}})


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


def test_useful_flops_by_hand(speed: Any, tiny_encoder: Any) -> None:
    """4 layers, width 32, inner 64; 2 tokens: 2*2*(4*32*32 + 2*32*64) + 4*4*32 = 33,280 a layer."""
    assert speed.useful_flops(tiny_encoder, [2]) == 4 * 33_280
    assert speed.useful_flops(tiny_encoder, [2, 2]) == 8 * 33_280
