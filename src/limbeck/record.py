"""What was asked of a run, under what versions, and may this command go on with it?

`run.toml` is written before any expensive work: what was asked, what was decided (a budget, a
probe), and what the numbers depend on besides. The same command finds it and goes on; another one
is refused. It knows no method, model or collection.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w
import torch

from limbeck.errors import ConfigError, StoreError
from limbeck.settings import read_toml
from limbeck.store import LEFT, Written, damaged, formed, write_text

RECORD = "run.toml"
MAY_CHANGE = ("force_teacher",)  # between two commands of one run: a refused teacher may be forced
FIRST_TASK = "retrieval"  # of records that name none
PACKAGES = ("limbeck", "torch", "transformers", "sentence-transformers", "tokenizers", "numpy")
_AGAIN = "Choose another --out, or delete the folder to begin again."


class _Asked(Written):
    """Options read from a run's record; a repeated command compares all that it was asked."""

    data: str
    teacher: str | list[str]
    recipe: str
    seed: int
    labels: int | None = None
    query_model: str | None = None
    force_teacher: bool = False
    drop_unknown_judgements: bool = False


class _Data(Written):
    name: str
    digest: str
    labelled: int
    unlabelled: int
    task: str = FIRST_TASK


class _Limit(Written):
    matmul_flops_per_second: float | None = None


class _Record(Written):
    asked: _Asked
    data: _Data
    decided: dict[str, Any]
    environment: dict[str, Any]
    engine: dict[str, Any] | None = None
    limit: _Limit | None = None


def open_folder(out: Path) -> None:
    """Make a run's folder, or find one that is empty or holds a run.

    Raises:
        ConfigError: when it is a file, or holds something that is no run.
        StoreError: when nothing can be written there.
    """
    check_writable(out, "--out")
    found = {path.name for path in out.iterdir() if not path.name.startswith(LEFT)}
    if RECORD not in found and (others := found - {"stages", "plan.json"}):
        raise ConfigError(
            f"--out {out} is not empty and holds no run (there is {min(others)!r}). "
            "Name a new folder."
        )


def check_writable(folder: Path, flag: str) -> None:
    """Make the folder that a flag names, and try to write there.

    Raises:
        ConfigError: when it is a file.
        StoreError: when nothing can be written there.
    """
    probe = folder / f".tmp-{os.getpid()}-probe"
    try:
        if folder.is_file():
            raise ConfigError(f"{flag} {folder} is a file. Name a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StoreError(
            f"Cannot write to {flag} {folder}: {error.strerror}. Choose a folder that is writable."
        ) from error


def read_record(out: Path) -> dict[str, Any] | None:
    """Read the record that an earlier command wrote, or None when there is nothing yet.

    Raises:
        StoreError: when it is damaged.
    """
    path = out / RECORD
    if not path.exists():
        return None
    try:
        record = read_toml(path)
    except ConfigError as error:
        raise damaged(path, str(error), _AGAIN) from error
    if "data" not in record and "collection" in record:  # as older versions called it
        record["data"] = record.pop("collection")
    formed(path, record, _Record, advice=_AGAIN)
    return record


def write_record(out: Path, record: Mapping[str, Mapping[str, object]]) -> None:
    """Write options and decisions; values that are None are left out."""
    tables = {
        name: {key: value for key, value in table.items() if value is not None}
        for name, table in record.items()
    }
    write_text(out / RECORD, tomli_w.dumps(tables), stage="record")


def check_same_run(
    out: Path, found: Mapping[str, Any], asked: Mapping[str, object], *, force: bool
) -> None:
    """Refuse to go on with a run that was asked for otherwise or made under other versions.

    Raises:
        ConfigError: naming what differs; other versions or another machine may be forced.
    """
    here = environment()
    made_by = found["environment"].get("limbeck")
    if made_by != here["limbeck"] and not force:
        raise ConfigError(
            f"--out {out} was begun by limbeck {made_by}, and this is limbeck {here['limbeck']}, "
            "which may compute other numbers. Choose another --out, finish it with that version, "
            "or accept the difference with --force."
        )
    wanted = {key: value for key, value in asked.items() if value is not None}
    differs = _different(
        *(
            {key: value for key, value in table.items() if key not in MAY_CHANGE}
            for table in (found["asked"], wanted)
        )
    )
    if differs:
        raise ConfigError(
            f"--out {out} holds another run: {'; '.join(differs)}. "
            "Choose another --out, or repeat the command that made it (see run.toml there)."
        )
    moved = _different(found["environment"], here)
    if moved and not force:
        raise ConfigError(
            f"--out {out} was begun under other conditions: {'; '.join(moved)}. Going on would not "
            "give the same bytes. Choose another --out, or accept that with --force."
        )


def check_same_data(
    out: Path, found: Mapping[str, Any], digest: str, inputs: Mapping[str, object]
) -> None:
    """Refuse to go on with a run when its data or its other inputs changed since it began.

    `inputs` are digests of the latter, by the option that names it.

    Raises:
        ConfigError: when ids, texts or judgements are not those that the run began with, or
            an option names other content.
    """
    data = found["data"]
    for name, value in inputs.items():
        if data.get(name) != value:
            raise ConfigError(
                f"--out {out} was begun with other {name}: what --{name} names has changed "
                "since. Choose another --out, or restore the files."
            )
    if data.get("digest") != digest:
        raise ConfigError(
            f"--out {out} was begun with other data: ids, texts or judgements have changed since. "
            "Choose another --out, or restore the data."
        )


def task_of(record: Mapping[str, Any]) -> str:
    """The task that a run's record is of."""
    return str(record["data"].get("task", FIRST_TASK))


def check_same_engine(out: Path, found: Mapping[str, Any], engine: Mapping[str, str]) -> None:
    """Refuse to go on with a run when it would now compute with something else.

    Raises:
        ConfigError: naming what differs: a backend was installed or removed since, or workers are
            asked for and were not.
    """
    before = {**engine, "backend": "torch"}  # what there was, before runs recorded it
    if differs := _different(found.get("engine", before), engine):
        raise ConfigError(
            f"--out {out} was begun with another engine: {'; '.join(differs)}. Choose another "
            "--out, or install and ask for what was there."
        )


def environment() -> dict[str, object]:
    """Versions and hardware that the bytes of a result depend on besides the command."""
    found: dict[str, object] = {"python": platform.python_version(), "processor": _processor()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["threads"] = torch.get_num_threads()
    found["processes"] = int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _different(found: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """Differences, in words: `seed is 0 there and 1 here`."""
    return [
        f"{key} is {found.get(key, 'not set')!r} there and {wanted.get(key, 'not set')!r} here"
        for key in sorted({*found, *wanted})
        if found.get(key) != wanted.get(key)
    ]


def _processor() -> str:
    """The processor's model, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    model = next((line for line in lines if line.startswith("model name")), "")
    return model.partition(":")[2].strip() or platform.machine()
