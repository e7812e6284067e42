"""A run that takes stages from others waits for one that is being made, and never in a circle."""

from collections.abc import Callable
from pathlib import Path

import pytest

from limbeck.inference import Engine
from limbeck.store import StageFolder, is_locked, lock_folder, write_text
from limbeck.training import Run
from limbeck.types import Silent

INPUTS = {"seed": 1}


class Finishing(Silent):
    """A `Progress` that does something when it is told of waiting."""

    def __init__(self, finish: Callable[[], None]) -> None:
        self.finish = finish
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)
        if "waiting" in line:
            self.finish()


def begun(run: Path) -> StageFolder:
    """A stage of a run of which nothing is done yet."""
    return StageFolder(run / "stages" / "mine", INPUTS)


def finish(stage: StageFolder) -> None:
    write_text(stage.path / "found.txt", "found", stage="mine")
    stage.finish()


@pytest.fixture
def engine() -> Engine:
    return Engine("cpu", "fp32", 128)


def test_a_stage_that_another_process_makes_is_waited_for(tmp_path: Path, engine: Engine) -> None:
    theirs = begun(tmp_path / "a")
    progress = Finishing(lambda: finish(theirs))
    with lock_folder(tmp_path / "a"):
        assert is_locked(tmp_path / "a")
        mine = Run(tmp_path / "b", 0, engine, progress, reuse_from=[tmp_path / "a"])
        stage = mine.stage("mine", INPUTS)
    waiting, taken = progress.said
    assert waiting == f"mine: waiting for {tmp_path / 'a'}, which makes it"
    assert "taken from" in taken
    assert stage.complete
    found = stage.path / "found.txt"
    assert found.samefile(theirs.path / "found.txt")  # no copy on the disk


def test_what_nobody_makes_or_others_wait_for_is_not_waited_for(
    tmp_path: Path, engine: Engine
) -> None:
    """A process that was killed; the run that comes later by name; a stage made otherwise."""

    def refuse() -> None:
        raise AssertionError("nothing to wait for")

    first, second = tmp_path / "a", tmp_path / "b"
    begun(first)
    run = Run(second, 0, engine, Finishing(refuse), reuse_from=[first])
    assert not is_locked(first)
    assert not run.stage("mine", INPUTS).complete
    with lock_folder(second):
        run = Run(first, 0, engine, Finishing(refuse), reuse_from=[second])
        assert not run.stage("mine", INPUTS).complete
    other = Run(tmp_path / "c", 0, engine, Finishing(refuse), reuse_from=[first])
    with lock_folder(first):
        assert not other.stage("mine", {"seed": 2}).complete
    assert not is_locked(tmp_path / "nowhere")
