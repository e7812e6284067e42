"""Files, collections, tokens and what a model reads of them."""

from __future__ import annotations

from pathlib import Path

from limbeck.data.beir import read_beir
from limbeck.data.collection import Collection, with_dev
from limbeck.data.pydocs import read_pydocs
from limbeck.errors import ConfigError


def read_collection(
    data: str | Path, *, seed: int = 0, drop_unknown_judgements: bool = False
) -> Collection:
    """The collection that DATA names: a BEIR folder, or `pydocs`; with a dev split where possible.

    Raises:
        ConfigError: when DATA is neither.
        DataError: when the folder holds something that cannot be used.
    """
    folder = folder_of(data)
    if folder is None:
        return with_dev(read_pydocs(), seed)
    return with_dev(read_beir(folder, drop_unknown_judgements=drop_unknown_judgements), seed)


def folder_of(data: str | Path) -> Path | None:
    """The folder that DATA names, or None for `pydocs`.

    Raises:
        ConfigError: when DATA is neither.
    """
    if data == "pydocs":
        return None
    path = Path(data).expanduser()
    try:
        if path.is_dir():
            return path
    except OSError as error:  # no name that a file system takes, or a folder that it hides
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Give another path.") from error
    layout = "a folder with corpus.jsonl, queries.jsonl and, for judgements, qrels/train.tsv"
    if path.exists():
        raise ConfigError(f"{path} is a file. Give the folder it is in: {layout}.")
    raise ConfigError(f'{path} does not exist. Give {layout}; or "pydocs", the built-in one.')
