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
