"""What would a run take, before it begins?

`plan` takes what `distill` takes, checks it in the same way, and foretells each part's time, memory
and disk from a probe of some seconds. It trains and keeps nothing.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from limbeck.errors import ConfigError
from limbeck.inference import choose_engine
from limbeck.pipeline.asking import checked
from limbeck.pipeline.distilling import foretell, known_models
from limbeck.pipeline.foretold import Plan, keep
from limbeck.pipeline.verbs import as_recorded, distill
from limbeck.record import check_writable, open_folder, read_record
from limbeck.tasks.retrieval import Retrieval
from limbeck.teachers.score_store import ScoreStore
from limbeck.teachers.teachers import DualTeacher
from limbeck.training import Run
from limbeck.types import Progress, Silent


def plan(data: str, *, out: str | Path | None = None, **arguments: Any) -> Plan:
    """What `distill` with the same arguments would take on this machine.

    With `out`, the folder of a run that has not begun, the plan is kept there, and the run's notes
    and report will compare it with what it took.

    Raises:
        ConfigError, DataError, ModelError: as `distill` would.
    """
    given = inspect.signature(distill).bind(data, out=out or "run", **arguments)
    given.apply_defaults()
    asked = dict(given.arguments)
    asked["teacher"] = as_recorded(asked["teacher"])
    if out is not None:
        open_folder(Path(out))
        if read_record(Path(out)) is not None:
            raise ConfigError(f"--out {out} holds a run that has begun. Name a new folder.")
    request = checked(asked, asked["settings"] or {})
    progress: Progress = asked["progress"] or Silent()
    engine = choose_engine(
        asked["backend"],
        asked["precision"],
        characters=request.collection.passages.characters,
        workers=asked["workers"],
        models=known_models(request),
        trains=True,
    )
    scores = ScoreStore(Path(asked["store"])) if asked["store"] else ScoreStore.default()
    check_writable(scores.root, "--store")
    for line in (*request.notes, *engine.notes):
        progress.say(line)
    with TemporaryDirectory() as scratch:
        run = Run(Path(scratch), asked["seed"], engine, progress)
        task = Retrieval(
            request.collection,
            run,
            DualTeacher("base", request.base),
            scores,
            request.candidates,
        )
        _, found = foretell(request, task, asked["budget_seconds"])
    if out is not None:
        keep(found, Path(out))
    return found
