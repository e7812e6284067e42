"""Who takes part in training, and what does each carry from one stage to the next?

A player is a model with its optimiser, its schedule and the number of optimiser steps it has made.
A player without an optimiser is frozen. Players know no data, no loss and no stage.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.errors import StageError
from limbeck.schedules import constant
from limbeck.types import Makes

Schedule = Callable[[int], float]
Optimizer = Literal["adamw", "sgd"]
MOMENTUM = 0.9  # of sgd


@dataclass(slots=True)
class Player:
    """A model that plays a part: trained when it has an optimiser, frozen when it has none.

    `schedule` maps the number of steps already made to a factor on the learning rate.
    `steps` counts the optimiser steps made so far, over all stages. `makes` says what a trained
    model is to become; None for frozen models, and for parts that are never exported.
    """

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    schedule: Schedule
    steps: int = 0
    makes: Makes | None = None

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The parameters the optimiser moves, in its own order; none when frozen."""
        if self.optimizer is None:
            return []
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def step(self) -> None:
        """Move the weights once by their gradients, at the schedule's learning rate."""
        if self.optimizer is None:
            raise StageError(f"Player {self.name!r} is frozen and cannot make a step.")
        factor = self.schedule(self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1

    def state(self) -> dict[str, Tensor]:
        """Everything that changes in training, as named tensors: weights, optimiser, steps."""
        tensors = {f"model/{name}": value for name, value in weights(self.model).items()}
        if self.optimizer is not None:
            for position, parameter in enumerate(self.trainable):
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer/{position}/{key}"] = value
        tensors["steps"] = torch.tensor(self.steps)
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the state that `state` gave, to the bit."""
        load_weights(
            self.model,
            {name[6:]: value for name, value in tensors.items() if name.startswith("model/")},
        )
        if self.optimizer is not None:
            fused = self.optimizer.defaults.get("fused")  # then its counts of steps move too
            for position, parameter in enumerate(self.trainable):
                prefix = f"optimizer/{position}/"
                found = {
                    name[len(prefix) :]: value.to(
                        device="cpu" if name.endswith("/step") and not fused else parameter.device,
                        copy=True,
                    )
                    for name, value in tensors.items()
                    if name.startswith(prefix)
                }
                if found:
                    self.optimizer.state[parameter] = found
        self.steps = int(tensors["steps"])


def trained_player(
    name: str,
    model: nn.Module,
    *,
    learning_rate: float,
    schedule: Schedule,
    weight_decay: float = 0.0,
    optimizer: Optimizer = "adamw",
    makes: Makes | None = "student",
) -> Player:
    """A player moved by AdamW, or by SGD with Nesterov's momentum; biases and one-dimensional
    weights are never decayed.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    moves: torch.optim.Optimizer
    if optimizer == "sgd":
        moves = torch.optim.SGD(groups, lr=learning_rate, momentum=MOMENTUM, nesterov=True)
    else:
        moves = torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    for group in moves.param_groups:
        group["initial_lr"] = learning_rate
    return Player(name, model, moves, schedule, makes=makes)


def frozen_player(name: str, model: nn.Module) -> Player:
    """A player that only answers: evaluation mode, no gradient."""
    model.eval()
    return Player(name, model, None, constant())


def frozen_copy(player: Player, name: str) -> Player:
    """A frozen copy of `player` as it is now, whatever becomes of it."""
    return frozen_player(name, copy.deepcopy(player.model))


def has_batch_statistics(model: nn.Module) -> bool:
    """Whether a model normalises by its batch (BatchNorm): then its output for an item in training
    depends on the items beside it.
    """
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model, each storage once: tied weights go under their first name."""
    seen: set[int] = set()
    tensors = {}
    for name, value in model.state_dict().items():
        if value.numel() and value.data_ptr() in seen:
            continue
        seen.add(value.data_ptr())
        tensors[name] = value
    return tensors


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy weights taken by `weights` into a model of the same shape."""
    expected = weights(model)
    if expected.keys() != tensors.keys():
        odd = sorted(expected.keys() ^ tensors.keys())
        raise StageError(f"The stored weights do not fit the model: {', '.join(odd[:5])} differ.")
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(tensors[name])
