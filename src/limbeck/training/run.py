"""Where does a run keep its work, and with what does it compute?

One object is handed through a run: its folder, its seed, the device and precision, and whom to
tell about progress. With several processes the first one does the work that is not training and
the others read it. It knows no collection and no method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from limbeck.inference import Engine
from limbeck.store import StageFolder, is_locked
from limbeck.training.distributed import Group, current_group
from limbeck.types import Progress, Silent

T = TypeVar("T")

_POLL_SECONDS = 0.2  # between two looks at what another process makes
_within: ContextVar[bool] = ContextVar("_within", default=False)  # other work of `Run.first`


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder, seed, engine and progress.

    `save_steps` is in updates: at most that many are repeated after a kill.
    `train_tokens` bounds the padded tokens of one training micro-batch, `activation_bytes` the
    activations kept for the backward pass; beyond them they are computed a second time.
    `reuse_from` are folders of runs with the same seed: what they made from the same inputs is not
    made again.
    """

    folder: Path
    seed: int
    engine: Engine
    progress: Progress = field(default_factory=Silent)
    save_steps: int = 100
    train_tokens: int = 1024
    activation_bytes: int = 4 * 1024**3
    group: Group = field(default_factory=current_group)
    reuse_from: Sequence[Path] = ()

    def stage(self, name: str, inputs: Mapping[str, object]) -> StageFolder:
        """The folder of a stage; refused when it was made from other inputs."""
        stage = StageFolder(self.folder / "stages" / name, inputs)
        for run in self.reuse_from:
            self._wait(stage, run)
            if stage.take(run / "stages" / name):
                self.progress.say(f"{name}: taken from {run}")
                break
        return stage

    def _wait(self, stage: StageFolder, run: Path) -> None:
        """Wait while another process makes a stage that this run would take from there.

        Of two runs only the one that comes later by name waits, so that they never wait for each
        other.
        """
        told = False
        while run < self.folder and stage.waits_for(run / "stages" / stage.name) and is_locked(run):
            if not told:
                self.progress.say(f"{stage.name}: waiting for {run}, which makes it")
                told = True
            time.sleep(_POLL_SECONDS)

    def first(self, work: Callable[[], T]) -> T:
        """The result of resumable work: the first process does it, then the others read it.

        All processes must ask for it. Work that is part of other such work is just done: the
        processes meet once, after all of it.
        """
        if self.group.size == 1 or _within.get():
            return work()
        token = _within.set(True)
        try:
            if self.group.rank == 0:
                result = work()
                self.group.barrier()
                return result
            self.group.barrier()
            return work()
        finally:
            _within.reset(token)

    def made(self, path: Path, work: Callable[[], T]) -> T:
        """The result of work that leaves `path`, which the first process may ask for alone.

        The others wait for `path` instead of a meeting: what is asked for within `first`, or while
        the first process measures, would never see them all.
        """
        while self.group.rank > 0 and not path.exists():
            time.sleep(0.02)
        return work()
