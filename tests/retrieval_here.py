"""A small retrieval task in memory, and the forward of one update outside of training."""

import contextlib
import copy
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from collections_here import Files, made_up
from limbeck.data.collection import Collection, Texts
from limbeck.inference import Engine
from limbeck.models.encoder import Encoder
from limbeck.tasks import retrieval
from limbeck.tasks.retrieval import Retrieval
from limbeck.teachers.teachers import DualTeacher
from limbeck.training import Pass, Run, Stage, frozen_player
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


def a_frozen_pass(model: nn.Module, task: Retrieval) -> Pass:
    """The pass of one update that trains nobody."""
    players = {"student": frozen_player("student", model)}
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


class Caught(Exception):
    """Ends a recipe where its stage would be trained."""


def stage_of(monkeypatch: Any, recipe: Any, *arguments: Any) -> tuple[Stage, Run]:
    """The stage that a recipe would train, and the run it would train in."""
    caught: list[tuple[Stage, Run]] = []

    def catch(stage: Stage, run: Run) -> None:
        caught.append((stage, run))
        raise Caught

    with monkeypatch.context() as patch:
        patch.setattr(retrieval, "train", catch)
        with contextlib.suppress(Caught):
            recipe(*arguments)
    [found] = caught
    return found
