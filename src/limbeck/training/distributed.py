"""How do several processes make one update?

Started by torchrun, every process plans the same updates, runs its share of each player's items
and computes the whole loss from everybody's outputs; gradients are then summed. This module holds
the few collective operations that takes, and their trivial form for one process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run: this one's rank, and how many there are."""

    rank: int = 0
    size: int = 1

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            torch.distributed.barrier()

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over processes, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum the gradients of parameters over processes with one flat reduction.

        A parameter without a gradient here counts as zero, since another process may have one; one
        without a gradient anywhere keeps none, so that an optimiser leaves it alone.
        """
        if self.size == 1 or not parameters:
            return
        known = torch.tensor(
            [float(parameter.grad is not None) for parameter in parameters],
            device=parameters[0].device,
        )
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.sum_(torch.cat([known, *(gradient.reshape(-1) for gradient in gradients)]))
        pieces = torch.split(flat, [len(known), *(gradient.numel() for gradient in gradients)])
        for parameter, anyone, piece in zip(parameters, pieces[0], pieces[1:], strict=True):
            parameter.grad = piece.view_as(parameter) if anyone else None

    def broadcast(self, value: float) -> float:
        """The first process's value, everywhere."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        torch.distributed.broadcast(tensor, src=0)
        return float(tensor)


def current_group() -> Group:
    """The group that torchrun started this process in, joined on first use; alone otherwise.

    Raises:
        ConfigError: when the environment announces several processes but the group has one.
    """
    announced = int(os.environ.get("WORLD_SIZE", "1"))
    if announced == 1:
        return Group()
    if not torch.distributed.is_initialized():
        gpus = torch.cuda.device_count()
        if gpus:  # a process each, and "cuda" is its own from here on
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    size = torch.distributed.get_world_size()
    if size == 1:
        raise ConfigError(
            f"WORLD_SIZE is {announced} but the process group has one member: every process "
            "would train alone. Start with torchrun, or unset WORLD_SIZE."
        )
    return Group(torch.distributed.get_rank(), size)
