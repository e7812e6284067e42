"""How does a stage get from its first update to its last, exactly once, whatever happens?

Every update: the source's batch, each due turn's forward, loss and backward, gradients summed over
processes and clipped, one step of each trained player. Weights, optimiser states and the loss
curve are written every `save_steps` updates; a stage that was interrupted goes on from there
and ends with the same bytes as one that was not. It knows no task and no method.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch

from limbeck.errors import StageError
from limbeck.limit import Effort
from limbeck.store import (
    StageFolder,
    damaged,
    digest_tensors,
    formed,
    read_tensors,
    write_json,
    write_tensors,
)
from limbeck.training.passes import Count, Pass
from limbeck.training.players import Player, load_weights, weights
from limbeck.training.run import Run
from limbeck.training.stages import Stage, Validation
from limbeck.types import Makes

STATE = "state.safetensors"
BEST = "best.safetensors"
VOCABULARY = 4096  # rows from which an embedding's gradient is kept as the rows that were read


@dataclass(slots=True)
class _Log:
    """Progress of a stage: the loss curve, the measurements and the work counted."""

    updates: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    notes: list[dict[str, float]] = field(default_factory=list)
    measured: list[tuple[int, float]] = field(default_factory=list)  # update, value
    counts: dict[str, Count] = field(default_factory=dict)  # by player
    seconds: float = 0.0
    update_seconds: float = 0.0  # of the updates alone, measuring left out
    bytes_per_token: dict[str, float] = field(default_factory=dict)  # kept for backward, by player
    final: bool = False  # the weights are those the stage ends with

    @property
    def best(self) -> float:
        """The best measured value so far; -inf before the first."""
        return max((value for _, value in self.measured), default=-math.inf)

    @property
    def total(self) -> Count:
        """Work of all players together, and the seconds of the updates."""
        total = Count(effort=Effort(seconds=self.update_seconds))
        for count in self.counts.values():
            total.include(count)
        return total


@dataclass(frozen=True, slots=True)
class Trained:
    """Result of a finished stage, in numbers: its players were trained in place.

    `makes` says what each player is to become; `measured` are updates and values; `quality` is the
    value of the weights that the stage ends with, None when nothing was measured; `counts` say what
    each player did, in the first process; `seconds` are those of the updates, measuring left out;
    `bytes_per_token` is what a player keeps of a padded token for its backward pass, where that is
    known; `dropped` counts by reason what rules left out of the examples.
    """

    stage: str
    makes: Mapping[str, Makes | None] = field(default_factory=dict)
    measured: Sequence[tuple[int, float]] = ()
    quality: float | None = None
    counts: Mapping[str, Count] = field(default_factory=dict)
    seconds: float = 0.0
    bytes_per_token: Mapping[str, float] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)

    def effort(self, makes: Makes) -> Effort:
        """Reading effort of the players that became a student, or a teacher; nothing where none
        did.
        """
        chosen = [name for name, own in self.makes.items() if own == makes]
        effort = Effort(seconds=self.seconds if chosen else 0.0)
        for name in chosen:
            effort.include(self.counts.get(name, Count()).effort)
        return effort


def train(stage: Stage, run: Run) -> Trained:
    """Move a stage's players in place, with optimiser and schedule state.

    A finished stage is read back instead of repeated; an unfinished one goes on from its last
    checkpoint.

    Raises:
        StageError: when a loss is not finite, naming the update and its parts.
        StoreError: when the stage's folder was made from other inputs, or is damaged.
    """
    players = {player.name: player for player in stage.everyone}
    for player in players.values():
        player.model.to(run.engine.device)
        _make_embeddings_sparse(player)
    folder = run.first(lambda: run.stage(stage.name, _inputs(stage, run)))
    if folder.complete:
        return _trained(stage, _restore(folder.path / STATE, players))
    log = _Log()
    if run.first((folder.path / STATE).exists):
        log = _restore(folder.path / STATE, players)
    started = time.perf_counter() - log.seconds
    with run.progress.task(stage.name, stage.updates, "steps") as advance:
        advance(log.updates)
        while log.updates < stage.updates:
            began = time.perf_counter()
            _update(stage, run, players, log)
            log.update_seconds += time.perf_counter() - began
            log.updates += 1
            log.seconds = time.perf_counter() - started
            last = log.updates == stage.updates
            if stage.measure is not None and (last or log.updates % stage.measure.every == 0):
                _measure(stage.measure, run, folder, players, log)
            if run.group.rank == 0 and not last and log.updates % run.save_steps == 0:
                _checkpoint(folder, players, log)
            advance(1)
    if not log.final:
        if stage.measure is not None and stage.measure.keep == "best":
            run.group.barrier()
            load_weights(players[stage.measure.player].model, read_tensors(folder.path / BEST))
            run.group.barrier()  # every process has read them: the first one drops them
        log.final = True
        if run.group.rank == 0:
            _checkpoint(folder, players, log)
    if run.group.rank == 0:
        _finish(stage, folder, run, log)
    run.group.barrier()
    for player in players.values():
        player.model.eval()
    return _trained(stage, log)


def _trained(stage: Stage, log: _Log) -> Trained:
    """Result of a finished stage."""
    quality = None
    if stage.measure is not None and log.measured:
        quality = log.best if stage.measure.keep == "best" else log.measured[-1][1]
    return Trained(
        stage.name,
        {player.name: player.makes for player in stage.everyone},
        tuple(log.measured),
        quality,
        log.counts,
        log.update_seconds,
        log.bytes_per_token,
    )


def _update(stage: Stage, run: Run, players: Mapping[str, Player], log: _Log) -> None:
    """One update of every due turn, logged."""
    batch = stage.source.batch(log.updates)
    values: dict[str, float] = {}
    notes: dict[str, float] = {}
    for number, turn in enumerate(stage.turns):
        if log.updates % turn.every:
            continue
        forward = Pass(
            run,
            players,
            turn.trains,
            stage=f"{stage.name}/{number}",
            update=log.updates,
            progress=log.updates / stage.updates,
            bytes_per_token=log.bytes_per_token,
        )
        # Weights cast to a lower precision live as long as the outermost autocast: one update.
        with torch.autocast(run.engine.device, enabled=False):
            loss = turn.loss(turn.forward(forward, batch))
            parts = {name: float(part.detach()) for name, part in loss.parts.items()}
            if not all(math.isfinite(value) for value in parts.values()):
                raise StageError(
                    f"Stage {stage.name!r}, step {log.updates}: the loss is not finite "
                    f"({parts}). Lower the learning rate, or check the teacher's scores."
                )
            forward.backward(loss.total)
        for name in sorted(turn.trains):
            player = players[name]
            for parameter in player.trainable:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    parameter.grad = parameter.grad.to_dense()
            run.group.sum_gradients(player.trainable)
            torch.nn.utils.clip_grad_norm_(player.trainable, stage.clip)
            player.step()
        for player in players.values():  # what a gradient passed through keeps none of it
            player.model.zero_grad(set_to_none=True)
        values |= parts
        notes |= {name: float(note.detach()) for name, note in loss.notes.items()}
        for name, count in forward.counts.items():
            log.counts.setdefault(name, Count()).include(count)
    log.losses.append(values)
    if notes:
        log.notes.append({"update": log.updates, **notes})


def _make_embeddings_sparse(player: Player) -> None:
    """Give word embeddings gradients of the rows that were read, not of the whole vocabulary.

    A micro-batch reads some hundred of thirty thousand rows; writing zeros to the others costs more
    than a small model's other gradients. They are made dense once, before the optimiser's step.
    """
    for module in player.model.modules():
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings >= VOCABULARY:
            module.sparse = True


def _measure(
    measure: Validation, run: Run, folder: StageFolder, players: Mapping[str, Player], log: _Log
) -> None:
    """Measure, say so, and keep the weights when they are the best so far."""
    value = 0.0
    if run.group.rank == 0:
        for player in players.values():
            player.model.eval()
        value = measure.value(players)
    value = run.group.broadcast(value)
    run.progress.say(f"{folder.name}: {measure.name} {value:.4f} after {log.updates} steps")
    if value > log.best and measure.keep == "best" and run.group.rank == 0:
        tensors = weights(players[measure.player].model)
        write_tensors(folder.path / BEST, tensors, stage=folder.name)
    log.measured.append((log.updates, value))


def _checkpoint(folder: StageFolder, players: Mapping[str, Player], log: _Log) -> None:
    """Write everything that training needs to go on, in one file and one rename."""
    tensors = {
        f"{name}/{key}": value
        for name, player in players.items()
        if player.optimizer is not None  # a frozen player is what the stage was given
        for key, value in player.state().items()
    }
    metadata = {"log": json.dumps(asdict(log))}
    write_tensors(folder.path / STATE, tensors, stage=folder.name, metadata=metadata)


def _restore(path: Path, players: Mapping[str, Player]) -> _Log:
    """Take players and log from a checkpoint."""
    tensors = read_tensors(path)
    for name, player in players.items():
        if player.optimizer is not None:
            prefix = f"{name}/"
            player.load_state(
                {
                    key[len(prefix) :]: value
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
            )
        player.model.eval()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return formed(path, json.loads(file.metadata()["log"]), _Log)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise damaged(path, f"its log cannot be read: {error}") from error


def _finish(stage: Stage, folder: StageFolder, run: Run, log: _Log) -> None:
    """Write the curves for people, drop the best weights' copy, seal the folder."""
    (folder.path / BEST).unlink(missing_ok=True)
    curves: dict[str, object] = {"losses": log.losses, "measured": log.measured}
    if log.notes:
        curves["notes"] = log.notes
    write_json(folder.path / "curves.json", curves, stage=folder.name)
    total = log.total
    folder.finish(
        updates=log.updates,
        measured=log.measured,
        items=total.items,
        padded_tokens=total.padded_tokens,
        players=[_counted(player, log.counts.get(player.name)) for player in stage.everyone],
        seconds=round(log.seconds, 3),
        speed=total.effort.speed(run.engine.matmul_rate),  # of the first process
        processes=run.group.size,
        activation_bytes_per_token=log.bytes_per_token,
    )


def _counted(player: Player, count: Count | None) -> dict[str, object]:
    """A player in the metrics of a stage: the model that it becomes, and its work."""
    count = count or Count()
    return {
        "name": player.name,
        "makes": player.makes,
        "items": count.items,
        "padded_tokens": count.padded_tokens,
        "tokens": count.effort.tokens,
        "useful_flops": count.effort.flops,
    }


def _inputs(stage: Stage, run: Run) -> dict[str, Any]:
    """The inputs of a stage, for its digest."""
    return {
        "settings": dict(stage.settings),
        "players": {player.name: digest_tensors(player.state()) for player in stage.everyone},
        "source": stage.source.digest,
        "updates": stage.updates,
        "clip": stage.clip,
        "seed": run.seed,
        "precision": run.engine.training().precision,
        "train_tokens": run.train_tokens,
        "processes": run.group.size,
    }
