"""Players, stages and the one loop that trains everything."""

from limbeck.training.loop import train
from limbeck.training.passes import Pass
from limbeck.training.players import Player, frozen_copy, frozen_player, trained_player
from limbeck.training.run import Run
from limbeck.training.stages import Measure, Source, Stage, Turn

__all__ = [
    "Measure",
    "Pass",
    "Player",
    "Run",
    "Source",
    "Stage",
    "Turn",
    "frozen_copy",
    "frozen_player",
    "train",
    "trained_player",
]
