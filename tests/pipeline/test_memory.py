"""What runs leave in memory: objects are counted, since the memory of a process is noise here."""

import gc
from pathlib import Path

import pytest

from .conftest import Distil

pytestmark = pytest.mark.slow


def models_alive() -> int:
    """The models of sentence-transformers that are in memory, garbage included."""
    from sentence_transformers import SentenceTransformer

    return sum(issubclass(type(each), SentenceTransformer) for each in gc.get_objects())


def test_runs_in_one_process_leave_no_models(distil: Distil, tmp_path: Path) -> None:
    """They hold themselves in cycles, which Python may not look for until hundreds have come."""
    gc.disable()
    try:
        left = []
        for seed in range(6):
            few = {"max_steps": 1, "eval_steps": 0}
            distil(out=tmp_path / f"{seed}", seed=seed, recipe="contrastive", settings=few)
            left.append(models_alive())
    finally:
        gc.enable()
    assert left == [left[0]] * 6
