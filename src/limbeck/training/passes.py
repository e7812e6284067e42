"""How does one update get a player's outputs, and the gradient back into it?

A forward asks for the outputs of a player over items (texts, pairs, images). The pass sorts the
items by length, deals them to the processes, runs them in micro-batches under a token budget and
gathers the outputs, so that forward and loss see the whole update whatever the memory and however
many processes: every passage of an update is a possible negative for every query of it, and means
over rows are means over the update's rows.

Backward goes through the gathered outputs: the loss gives their gradient, and each micro-batch
takes its slice. Activations are kept while they fit; above the limit micro-batches are computed a
second time with the same dropout, after Gao et al. 2021, arXiv:2101.06983.

A pass knows no task, loss or optimiser.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import StageError
from limbeck.inference import Engine, plan_batches
from limbeck.limit import TRAINED, Effort
from limbeck.models.encoder import Encoder, Ranker
from limbeck.store import digest
from limbeck.training.players import Player
from limbeck.training.run import Run

Features = dict[str, Tensor]
Collate = Callable[[np.ndarray], Features]
Call = Callable[[nn.Module, Features], Tensor]


@dataclass(slots=True)
class _MicroBatch:
    """One slice of a player's items: where its rows go, and its output with its graph.

    `output` is None where the graph was not kept; `compute` then gives it again.
    """

    positions: Tensor
    compute: Callable[[], Tensor]
    output: Tensor | None


@dataclass(slots=True)
class _Record:
    """One player's outputs in this update: the gathered leaf and the slices behind it."""

    leaf: Tensor
    slices: list[_MicroBatch]


class Pass:
    """The forward and backward of one turn of one update.

    `trains` names the players whose weights get gradients; the others answer in evaluation mode.
    `bytes_per_token` remembers, over the updates of a stage, what each player keeps for its
    backward pass.
    """

    def __init__(
        self,
        run: Run,
        players: Mapping[str, Player],
        trains: frozenset[str],
        *,
        stage: str,
        update: int,
        progress: float,
        bytes_per_token: dict[str, float],
    ) -> None:
        self.progress = progress
        self.items = 0  # items this process ran
        self.tokens = 0  # padded tokens this process ran
        self.effort = Effort()  # what this process read, and takes back; its seconds are not known
        self._run = run
        self._players = players
        self._trains = trains
        self._place = f"{run.seed} {stage} {update}"
        self._bytes_per_token = bytes_per_token
        self._kept_bytes = 0.0
        self._micro_batches: Counter[str] = Counter()  # of each player, over the whole update
        self._records: list[_Record] = []
        self._nested = False  # one player's outputs were another's features

    def model(self, player: str) -> nn.Module:
        """A player's model, for parts whose few parameters act on whole updates.

        Every process computes with it what every other does.
        """
        return self._players[player].model

    def run(
        self, player: str, lengths: np.ndarray, collate: Collate, call: Call | None = None
    ) -> Tensor:
        """A player's outputs over n items, in their order: [n, ...] float32.

        `lengths` [n] are tokens per item; `collate(positions)` gives the features of some of them;
        `call(model, features)` gives their outputs [b, ...], by default `model(features)`.

        Raises:
            StageError: when there is no item.
        """
        if not len(lengths):
            raise StageError(f"Player {player!r} has no item in an update.")
        group = self._run.group
        model = self._players[player].model
        training = player in self._trains
        model.train(training)
        order = np.argsort(lengths, kind="stable")
        share = order[group.rank :: group.size]
        slices: list[_MicroBatch] = []
        leaf: Tensor | None = None
        grad = False
        for chosen in plan_batches(lengths[share], self._run.train_tokens):
            positions = share[chosen]
            compute, through = self._computation(player, collate(positions), call or _forward)
            self._nested |= through
            grad = training or through
            padded = len(positions) * int(lengths[positions].max(initial=1))
            self.items += len(positions)
            self.tokens += padded
            output = self._output(player, compute, padded) if grad else _without_graph(compute)
            if leaf is None:
                leaf = torch.zeros((len(lengths), *output.shape[1:]), device=output.device)
            rows = torch.from_numpy(positions).to(output.device)
            leaf[rows] = output.detach()
            if grad:
                slices.append(_MicroBatch(rows, compute, output if output.requires_grad else None))
        if leaf is None:  # fewer items than processes: another's item says what shape they have
            compute, through = self._computation(player, collate(order[:1]), call or _forward)
            self._nested |= through
            grad = training or through
            like = _without_graph(compute)
            leaf = torch.zeros((len(lengths), *like.shape[1:]), device=like.device)
        self._count(model, lengths[share], TRAINED if training else 1 + grad)
        group.sum_(leaf)
        if grad:
            leaf.requires_grad_()
            self._records.append(_Record(leaf, slices))
        return leaf

    def _count(self, model: nn.Module, lengths: np.ndarray, forwards: int) -> None:
        """Count items of these lengths; inputs' gradients cost a forward, and so do weights'."""
        flops = model.forward_flops(lengths) if isinstance(model, Encoder | Ranker) else None
        self.effort.read(lengths, None if flops is None else forwards * flops)

    def backward(self, total: Tensor) -> None:
        """The gradient of a scalar that every process computed, into the trained players.

        Gradients are this process's share: their sum over processes is the update's gradient.
        """
        again = self._nested  # what lies between two players is gone through several times
        total.backward(retain_graph=again)  # type: ignore[no-untyped-call]
        for name in self._trains:  # what a loss reached without `run` is whole on every process
            for parameter in self._players[name].trainable:
                if parameter.grad is not None:
                    parameter.grad /= self._run.group.size
        of_loss = [record.leaf.grad for record in self._records]  # the same on every process
        for record in self._records:
            record.leaf.grad = None
        for record, direct in zip(reversed(self._records), reversed(of_loss), strict=True):
            # What later players sent back through their inputs is each process's share.
            if direct is None and not self._nested:
                continue
            gradient = torch.zeros_like(record.leaf) if direct is None else direct
            if self._nested:
                through = record.leaf.grad
                gradient += self._run.group.sum_(
                    torch.zeros_like(gradient) if through is None else through
                )
            for part in record.slices:
                with torch.enable_grad():
                    output = part.compute() if part.output is None else part.output
                of_output = gradient[part.positions].to(output.dtype)
                torch.autograd.backward(output, of_output, retain_graph=again)
                part.output = None

    def _computation(
        self, player: str, features: Features, call: Call
    ) -> tuple[Callable[[], Tensor], bool]:
        """A micro-batch's forward that gives the same output whenever it is called, and whether a
        gradient may pass through it to its features.
        """
        engine, model = self._run.engine.training(), self._players[player].model
        features = {name: value.to(engine.device) for name, value in features.items()}
        number = self._micro_batches[player]
        self._micro_batches[player] += 1
        seed = None
        if player in self._trains:
            seed = f"{self._place} {player} {self._run.group.rank} {number}"

        def compute() -> Tensor:
            with _autocast(engine), _dropout_seed(seed, engine.device):
                return call(model, features).float()

        return compute, any(value.requires_grad for value in features.values())

    def _output(self, player: str, compute: Callable[[], Tensor], padded: int) -> Tensor:
        """A micro-batch's output, with its graph while the activations fit in memory."""
        rate = self._bytes_per_token.get(player)
        if rate is None:
            with _saved_bytes() as saved:
                output = compute()
            self._bytes_per_token[player] = rate = sum(saved.values()) / padded
            self._kept_bytes += rate * padded
            return output
        if self._kept_bytes + rate * padded > self._run.activation_bytes:
            return _without_graph(compute)
        self._kept_bytes += rate * padded
        return compute()


def _autocast(engine: Engine) -> torch.autocast:
    """The engine's precision for the forwards inside.

    Weights cast without a graph must not be found again by a forward that needs one.
    """
    return torch.autocast(
        engine.device,
        torch.bfloat16,
        enabled=engine.precision == "bf16",
        cache_enabled=torch.is_grad_enabled(),
    )


def _forward(model: nn.Module, features: Features) -> Tensor:
    """What a model gives when it is called."""
    output: Tensor = model(features)
    return output


def _without_graph(compute: Callable[[], Tensor]) -> Tensor:
    """An output that remembers nothing for a backward pass."""
    with torch.no_grad():
        return compute()


@contextmanager
def _dropout_seed(seed: str | None, device: str) -> Iterator[None]:
    """The global generator, which dropout draws from, set for one forward and then put back."""
    if seed is None:
        yield
        return
    gpus = [torch.cuda.current_device()] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(gpus):
        torch.manual_seed(int(digest(seed)[:15], 16))
        yield


@contextmanager
def _saved_bytes() -> Iterator[dict[int, int]]:
    """The bytes that operations inside keep for the backward pass, by address."""
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            saved[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield saved
