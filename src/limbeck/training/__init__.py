"""Players, stages and the one loop that trains everything."""

from limbeck.training.loop import Trained, train
from limbeck.training.passes import Count, Pass
from limbeck.training.players import (
    Player,
    frozen_copy,
    frozen_player,
    has_batch_statistics,
    trained_player,
)
from limbeck.training.run import Run
from limbeck.training.stages import Forward, Scorer, Source, Stage, Turn, Validation, forward

__all__ = [
    "Count",
    "Forward",
    "Pass",
    "Player",
    "Run",
    "Scorer",
    "Source",
    "Stage",
    "Trained",
    "Turn",
    "Validation",
    "forward",
    "frozen_copy",
    "frozen_player",
    "has_batch_statistics",
    "train",
    "trained_player",
]
