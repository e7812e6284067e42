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

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import StageError
from limbeck.inference import Engine, plan_batches
from limbeck.limit import TRAINED, Effort
from limbeck.models.encoder import Encoder, Ranker
from limbeck.store import digest
from limbeck.training.players import Player, has_batch_statistics
from limbeck.training.run import Run

Features = dict[str, Tensor]
Collate = Callable[[np.ndarray], Features]
Outputs = dict[str, Tensor]
Call = Callable[[nn.Module, Features], Tensor]
CallSeveral = Callable[[nn.Module, Features], Mapping[str, Tensor]]


@dataclass(slots=True)
class _MicroBatch:
    """One slice of a player's items: where its rows go, and its outputs with their graph.

    `outputs` are None where the graph was not kept; `compute` then gives them again.
    """

    positions: Tensor
    compute: Callable[[], Outputs]
    outputs: Outputs | None


@dataclass(slots=True)
class _Record:
    """One player's outputs in this update: the gathered leaves and the slices behind them."""

    leaves: Outputs
    slices: list[_MicroBatch]


@dataclass(slots=True)
class Count:
    """Work of one player: items, their tokens with padding, and its effort without; the seconds
    belong to whole updates and are not counted here.
    """

    items: int = 0
    padded_tokens: int = 0
    effort: Effort = field(default_factory=Effort)

    def include(self, other: Count) -> None:
        """Add another count to this one."""
        self.items += other.items
        self.padded_tokens += other.padded_tokens
        self.effort.include(other.effort)


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
        self.step = update
        self.progress = progress
        self.counts: defaultdict[str, Count] = defaultdict(Count)  # of this process, by player
        self._run = run
        self._players = players
        self._trains = trains
        self._place = f"{run.seed} {stage} {update}"
        self._bytes_per_token = bytes_per_token
        self._kept_bytes = 0.0
        self._micro_batches: Counter[str] = Counter()  # of each player, over the whole update
        self._records: list[_Record] = []
        self._nested = False  # one player's outputs were another's features

    @property
    def device(self) -> str:
        """Device of this update's tensors."""
        return self._run.engine.device

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
        one = call or _forward
        return self.run_several(player, lengths, collate, lambda *given: {"": one(*given)})[""]

    def run_several(
        self, player: str, lengths: np.ndarray, collate: Collate, call: CallSeveral
    ) -> Outputs:
        """As `run`, for a `call` that gives several outputs by name, from one forward per item:
        layers, or vectors of spans.

        A player that is trained and has batch statistics reads all items at once and once only.

        Raises:
            StageError: when there is no item, or several processes would share out such a player's.
        """
        if not len(lengths):
            raise StageError(f"Player {player!r} has no item in an update.")
        group = self._run.group
        model = self._players[player].model
        training = player in self._trains
        model.train(training)
        whole = training and has_batch_statistics(model)
        if whole and group.size > 1:
            raise StageError(
                f"Player {player!r} normalises by its batch, which {group.size} processes would "
                "cut into parts. Run it in one process, or take a model without BatchNorm."
            )
        order = np.argsort(lengths, kind="stable")
        share = order[group.rank :: group.size]
        slices: list[_MicroBatch] = []
        leaves: Outputs | None = None
        grad = False
        batches = (
            [np.arange(len(share))]
            if whole
            else plan_batches(lengths[share], self._run.train_tokens)
        )
        for chosen in batches:
            positions = share[chosen]
            compute, through = self._computation(player, collate(positions), call)
            self._nested |= through
            grad = training or through
            padded = len(positions) * int(lengths[positions].max(initial=1))
            self.counts[player].items += len(positions)
            self.counts[player].padded_tokens += padded
            if whole:
                outputs = compute()
            elif grad:
                outputs = self._outputs(player, compute, padded)
            else:
                outputs = _without_graph(compute)
            if leaves is None:
                leaves = _leaves(len(lengths), outputs)
            rows = torch.from_numpy(positions).to(next(iter(outputs.values())).device)
            for name, output in outputs.items():
                leaves[name][rows] = output.detach()
            if grad:
                kept = any(output.requires_grad for output in outputs.values())
                slices.append(_MicroBatch(rows, compute, outputs if kept else None))
        if leaves is None:  # fewer items than processes: another's item says what shape they have
            compute, through = self._computation(player, collate(order[:1]), call)
            self._nested |= through
            grad = training or through
            leaves = _leaves(len(lengths), _without_graph(compute))
        self._count(player, model, lengths[share], TRAINED if training else 1 + grad)
        for leaf in leaves.values():
            group.sum_(leaf)
            if grad:
                leaf.requires_grad_()
        if grad:
            self._records.append(_Record(leaves, slices))
        return leaves

    def _count(self, player: str, model: nn.Module, lengths: np.ndarray, forwards: int) -> None:
        """Count items of these lengths; inputs' gradients cost a forward, and so do weights'."""
        flops = model.forward_flops(lengths) if isinstance(model, Encoder | Ranker) else None
        self.counts[player].effort.read(lengths, None if flops is None else forwards * flops)

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
        of_loss = [  # the same on every process
            {name: leaf.grad for name, leaf in record.leaves.items()} for record in self._records
        ]
        for record in self._records:
            for leaf in record.leaves.values():
                leaf.grad = None
        for record, direct in zip(reversed(self._records), reversed(of_loss), strict=True):
            gradients = {}
            for name, leaf in record.leaves.items():
                # What later players sent back through their inputs is each process's share.
                own = direct[name]
                if own is None and not self._nested:
                    continue
                gradient = torch.zeros_like(leaf) if own is None else own
                if self._nested:
                    through = leaf.grad
                    gradient += self._run.group.sum_(
                        torch.zeros_like(gradient) if through is None else through
                    )
                gradients[name] = gradient
            for part in record.slices if gradients else ():
                with torch.enable_grad():
                    outputs = part.compute() if part.outputs is None else part.outputs
                graphs = [name for name in gradients if outputs[name].requires_grad]
                reached = graphs or list(gradients)  # without any, torch says so
                torch.autograd.backward(
                    [outputs[name] for name in reached],
                    [gradients[name][part.positions].to(outputs[name].dtype) for name in reached],
                    retain_graph=again,
                )
                part.outputs = None

    def _computation(
        self, player: str, features: Features, call: CallSeveral
    ) -> tuple[Callable[[], Outputs], bool]:
        """A micro-batch's forward that gives the same outputs whenever it is called, and whether a
        gradient may pass through it to its features.
        """
        engine, model = self._run.engine.training(), self._players[player].model
        features = {name: value.to(engine.device) for name, value in features.items()}
        number = self._micro_batches[player]
        self._micro_batches[player] += 1
        seed = None
        if player in self._trains:
            seed = f"{self._place} {player} {self._run.group.rank} {number}"

        def compute() -> Outputs:
            with _autocast(engine), _dropout_seed(seed, engine.device):
                return {name: each.float() for name, each in call(model, features).items()}

        return compute, any(value.requires_grad for value in features.values())

    def _outputs(self, player: str, compute: Callable[[], Outputs], padded: int) -> Outputs:
        """A micro-batch's outputs, with their graph while the activations fit in memory."""
        rate = self._bytes_per_token.get(player)
        if rate is None:
            with _saved_bytes() as saved:
                outputs = compute()
            self._bytes_per_token[player] = rate = sum(saved.values()) / padded
            self._kept_bytes += rate * padded
            return outputs
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
    """Output of a model when it is called."""
    output: Tensor = model(features)
    return output


def _leaves(count: int, like: Outputs) -> Outputs:
    """Zeros for the outputs of `count` items, shaped as these."""
    return {
        name: torch.zeros((count, *output.shape[1:]), device=output.device)
        for name, output in like.items()
    }


def _without_graph(compute: Callable[[], Outputs]) -> Outputs:
    """Outputs that remember nothing for a backward pass."""
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
