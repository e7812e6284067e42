"""Where does a run keep its work, and with what does it compute?

One object is handed through a run: its folder, its seed, the device and precision, and whom to
tell about progress. With several processes the first one does the work that is not training and
the others read it. It knows no collection and no method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from limbeck.inference import Engine
from limbeck.store import StageFolder
from limbeck.training.distributed import Group, current_group
from limbeck.types import Progress, Silent

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder, seed, engine and progress.

    `checkpoint_every` is in updates: at most that many are repeated after a kill.
    `train_tokens` bounds the padded tokens of one training micro-batch, `activation_bytes` the
    activations kept for the backward pass; beyond them they are computed a second time.
    """

    folder: Path
    seed: int
    engine: Engine
    progress: Progress = field(default_factory=Silent)
    checkpoint_every: int = 100
    train_tokens: int = 4096
    activation_bytes: int = 4 * 1024**3
    group: Group = field(default_factory=current_group)

    def stage(self, name: str, inputs: Mapping[str, object]) -> StageFolder:
        """The folder of a stage; refused when it was made from other inputs."""
        return StageFolder(self.folder / "stages" / name, inputs)

    def first(self, work: Callable[[], T]) -> T:
        """The result of resumable work: the first process does it, then the others read it."""
        if self.group.rank == 0:
            result = work()
            self.group.barrier()
            return result
        self.group.barrier()
        return work()
