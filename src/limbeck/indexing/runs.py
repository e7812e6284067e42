"""What of a run's folder is searched?

Its student, the data that it learned from, the teacher if it fitted one, and the index beside them.

This module knows no vector, and of a run's record only where the data is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from limbeck.config import RunConfig
from limbeck.data.collection import Collection
from limbeck.data.derived import DerivedTexts
from limbeck.data.reading import complete
from limbeck.errors import ConfigError, DataError
from limbeck.language import ENGLISH
from limbeck.record import FIRST_TASK, RECORD, read_record, task_of

MADE_QUERIES = "stages/made-queries"
INDEX, STUDENT, TEACHER = "index", "student", "teacher"


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return (folder / RECORD).is_file()


def index_of(folder: Path) -> Path:
    """The folder of a run's index; of a folder that is no run, itself."""
    return folder / INDEX if is_run(folder) else folder


def teacher_of(run: Path) -> str | None:
    """The folder of the teacher that a run fitted, or None."""
    return str(run / TEACHER) if (run / TEACHER).is_dir() else None


def student_of(run: Path) -> str:
    """The folder of a run's student.

    Raises:
        ConfigError: when it is not there.
    """
    _refuse_other_tasks(run, read_record(run))
    if not (run / STUDENT).is_dir():
        raise ConfigError(
            f"{run} has no student yet: the run is not finished. Repeat the command that made it."
        )
    return str(run / STUDENT)


def check_searchable(model: str) -> None:
    """Refuse a run whose student finds nothing, before any data is read.

    Raises:
        ConfigError: when it is one, or has no student.
    """
    if is_run(Path(model)):
        student_of(Path(model))


def data_of(run: Path) -> Collection:
    """The collection that a run learned from, read again.

    Raises:
        ConfigError: when it is not where it was.
        DataError: when it is not what it was.
        StoreError: when the run's record is damaged.
    """
    record = read_record(run)
    if record is None:
        raise ConfigError(f"{run} holds no run: it has no {RECORD}. Name the folder of a run.")
    _refuse_other_tasks(run, record)
    config = RunConfig.of_record(record["asked"])
    language = str(record["data"].get("language", ENGLISH))
    instead = (
        f"Run `limbeck index {run} DATA` with the data to search in; any folder will do, and this "
        "command will find that index."
    )
    try:
        given = replace(config, language=language).read_data()
    except ConfigError as error:
        raise ConfigError(f"{run} learned from {config.data}. {error} {instead}") from error
    made = None
    if config.query_model is not None:  # whose queries the run has kept
        kept = sorted((run / MADE_QUERIES).glob("*.parquet"))
        made = DerivedTexts(pl.concat([DerivedTexts.read(path).frame for path in kept]))
    collection = complete(given, labels=config.labels, made=made)
    if collection.digest != record["data"]["digest"]:
        raise DataError(
            f"{config.data} is not what {run} learned from: ids, texts or judgements have "
            f"changed since. {instead}"
        )
    return collection


def _refuse_other_tasks(run: Path, record: Mapping[str, Any] | None) -> None:
    """Refuse a run whose student finds nothing.

    Raises:
        ConfigError: naming its task.
    """
    if record is not None and (task := task_of(record)) != FIRST_TASK:
        raise ConfigError(
            f"{run} is a run of {task}: its student gives no vectors, so there is nothing to "
            f"index, search or serve. Name a run of {FIRST_TASK}."
        )
