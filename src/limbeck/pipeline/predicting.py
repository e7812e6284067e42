"""What does a model say of new inputs?

Which task a model belongs to is read off its run or its folder; that task reads the inputs and
gives the answers. No task is known here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from limbeck.errors import ConfigError
from limbeck.inference import choose_engine
from limbeck.models.loading import kind_of
from limbeck.pipeline.memory import frees_memory
from limbeck.record import FIRST_TASK, read_record, task_of
from limbeck.store import write_text
from limbeck.tasks.task import TaskKind, kind_named, kinds
from limbeck.types import Logged, Progress


def kind_of_model(path: str | Path) -> tuple[TaskKind | None, str | Path]:
    """The task of a run, with the folder of its student, or of a model's folder; None of a folder
    that no task knows for its own.

    Raises:
        ConfigError: when a run has no student.
        StoreError: when its record is damaged.
    """
    run = Path(path).expanduser()
    if (record := read_record(run)) is not None:
        if not (run / "student").is_dir():
            raise ConfigError(
                f"{run} has no student yet: the run is not finished. Repeat the command that made "
                "it."
            )
        return kind_named(task_of(record)), run / "student"
    return next((kind for kind in kinds().values() if kind.knows(path)), None), path


@frees_memory
def predict(
    model: Any,
    inputs: Any,
    *,
    top: int = 1,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> list[dict[str, object]]:
    """Predict with a model: a mapping for each of the new inputs, in their order, with its `id`. A
    classifier gives `label` and `probability`.

    `model` is the folder of a run or of a model, or what `limbeck.load` gave. `inputs` are the name
    of a file, as `limbeck predict` reads it, a list of texts, or an array of images [n, height,
    width, channels]. With `top` above 1 the most probable answers are there, too, as `top`. With
    `out` all of it is written to that file, a line of JSON for each input.

    Raises:
        ConfigError, DataError, ModelError: for a model or inputs that cannot be used.
        StoreError: when `out` cannot be written.
    """
    if top < 1:
        raise ConfigError(f"top={top}: ask for one answer at least.")
    if out is not None:
        _check_out(Path(out), inputs)
    if isinstance(model, str | Path):
        if not Path(model).expanduser().is_dir():
            raise ConfigError(f"There is no folder {str(model)!r}. Name a run's or a model's.")
        kind, folder = kind_of_model(model)
        if kind is None:
            kind_of(folder)  # which says what is no model at all
        elif kind.name != FIRST_TASK:
            model = kind.load(Path(folder))
    else:
        kind = next((each for each in kinds().values() if each.knows(model)), None)
    kind = kind or kind_named(FIRST_TASK)  # which says what such a model is used for
    engine = choose_engine("torch", "fp32")
    found = kind.predict(model, inputs, top=top, engine=engine, progress=progress or Logged())
    if out is not None:
        text = "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in found)
        write_text(Path(out), text, stage="predict")
    return found


def _check_out(out: Path, inputs: Any) -> None:
    """Refuse a file to write that is a folder, or the file that is read.

    Raises:
        ConfigError: for either.
    """
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder. Name a file.")
    if isinstance(inputs, str | Path) and out.exists() and out.samefile(inputs):
        raise ConfigError(f"--out {out} is the file that is read. Name another.")
