"""A small retrieval task in memory, and the forward of one update outside of training."""

import contextlib
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from collections_here import Files, made_up
from limbeck.data.collection import Collection, Texts
from limbeck.inference import Engine
from limbeck.models.encoder import Encoder
from limbeck.store import read_json
from limbeck.tasks import fit
from limbeck.tasks.retrieval import Retrieval
from limbeck.teachers import DualTeacher
from limbeck.training import Pass, Run, Stage, frozen_player, train
from limbeck.types import Signals


def in_memory(files: Files | None = None) -> Collection:
    """What a folder of these files would be read as."""
    files = files or made_up(passages=40, labelled=12, unlabelled=6)
    return Collection(
        "made-up",
        Texts(list(files.corpus), list(files.corpus.values())),
        Texts(list(files.queries), list(files.queries.values())),
        files.qrels,  # type: ignore[arg-type]
    )


def a_task(
    folder: Path, encoder: Encoder, collection: Collection | None = None, *, seed: int = 0
) -> Retrieval:
    """A collection in a run of its own, mined by the encoder; no score store."""
    run = Run(folder, seed, Engine("cpu", "fp32"))
    return Retrieval(collection or in_memory(), run, DualTeacher("base", encoder.frozen()), None)


def signals_of(forward: Any, batch: Any, model: nn.Module, task: Retrieval) -> Signals:
    """What a forward makes of a batch, with the model in evaluation mode."""
    return forward(a_frozen_pass(model, task), batch)


def a_frozen_pass(model: nn.Module, task: Retrieval, **others: nn.Module) -> Pass:
    """The pass of one update that trains nobody: the player `student`, and others by name."""
    everyone = {"student": model, **others}
    players = {name: frozen_player(name, each) for name, each in everyone.items()}
    return Pass(
        task.run,
        players,
        frozenset(),
        stage="s/0",
        update=0,
        progress=0.25,
        bytes_per_token={},
    )


def encoded(encoder: Encoder, texts: list[str], role: str) -> np.ndarray:
    """The vectors that plain sentence-transformers gives: [n, D]."""
    model = copy.deepcopy(encoder).eval().model
    encode = model.encode_query if role == "query" else model.encode_document
    return encode(texts, convert_to_numpy=True, show_progress_bar=False)


@dataclass(frozen=True)
class Trained:
    """A stage of a recipe that really trained: its description, and its models before and after."""

    stage: Stage
    before: dict[str, nn.Module]
    after: dict[str, nn.Module]
    states: dict[str, dict[str, Tensor]]  # of the players, at the end
    losses: list[dict[str, float]]

    @property
    def name(self) -> str:
        return self.stage.name.removeprefix("train-")

    def first_parts(self, task: Retrieval) -> tuple[Signals, dict[str, float]]:
        """The signals and the loss's parts of the first update, before anything has moved."""
        players = {name: frozen_player(name, model) for name, model in self.before.items()}
        [turn] = self.stage.turns
        place = {"stage": "s/0", "update": 0, "progress": 0.0, "bytes_per_token": {}}
        with torch.no_grad():
            update = Pass(task.run, players, frozenset(), **place)
            signals = turn.forward(update, self.stage.source.batch(0))
            parts = turn.loss(signals).parts
        return signals, {name: float(part) for name, part in parts.items()}


def trained_stages(monkeypatch: Any, recipe: Any, *arguments: Any) -> tuple[list[Trained], Any]:
    """Every stage that a recipe trains, in order, and what the recipe says in the end."""
    found: list[Trained] = []

    def note(stage: Stage, run: Run) -> Any:
        before = {player.name: copy.deepcopy(player.model) for player in stage.everyone}
        result = train(stage, run)
        players = {player.name: player for player in stage.everyone}
        after = {name: copy.deepcopy(player.model) for name, player in players.items()}
        states = {
            name: {key: value.clone() for key, value in player.state().items()}
            for name, player in players.items()
        }
        curves = read_json(run.folder / "stages" / stage.name / "curves.json")
        found.append(Trained(stage, before, after, states, curves["losses"]))
        return result

    with monkeypatch.context() as patch:
        patch.setattr(fit, "train", note)
        told = recipe(*arguments)
    return found, told


class Caught(Exception):
    """Ends a recipe where its stage would be trained."""


def stage_of(monkeypatch: Any, recipe: Any, *arguments: Any) -> tuple[Stage, Run]:
    """The stage that a recipe would train, and the run it would train in."""
    caught: list[tuple[Stage, Run]] = []

    def catch(stage: Stage, run: Run) -> None:
        caught.append((stage, run))
        raise Caught

    with monkeypatch.context() as patch:
        patch.setattr(fit, "train", catch)
        with contextlib.suppress(Caught):
            recipe(*arguments)
    [found] = caught
    return found
