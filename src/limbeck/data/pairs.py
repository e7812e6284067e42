"""Which texts belong together, though nobody judged them?

Weak pairs are a query and a passage each, by the million and not all of them right: titles and
texts, questions and answers, comments and replies.

    FILE.jsonl[.gz]    an object per line: {"query": text, "passage": text}, or any other example
                       that `limbeck.data.example_rows` knows; every positive makes a pair
    FILE.tsv[.gz]      two columns, query and passage, without a heading

Without a file they are made of a collection: title and text, first sentence and what follows, key
phrases and passage. Texts of a file stay there and are read again whenever they are needed; 24
bytes of each pair are kept, which tell equal texts and documents.

This module knows no tokenizer and no model.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from limbeck.data.collection import DATA_SEED, LONE_SURROGATE
from limbeck.data.collection import Collection as Documents
from limbeck.data.examples import read_examples
from limbeck.data.lines import Problem, decoded, lines
from limbeck.data.made_queries import pairs_of_words
from limbeck.errors import ConfigError, DataError
from limbeck.types import Role

Rows = Callable[[], Iterator[tuple[str, str]]]

COLUMNS = "Each line must be a query and a passage with one tab between them."


@dataclass(frozen=True, eq=False)
class Pairs:
    """Queries and passages that belong together, more or less.

    `rows` reads the texts, as often as it is called. `keys` [n, 3] tell which queries and passages
    are equal, but for case and white space, and which pairs are of one document; `digest` is that
    of all texts in their order. `origin` says in words where they are from.
    """

    origin: str
    rows: Rows
    keys: NDArray[np.int64]
    digest: str

    @classmethod
    def of(cls, origin: str, rows: Rows, documents: NDArray[np.int64] | None = None) -> Pairs:
        """The pairs that `rows` gives, each of the document of that number, or of its own.

        Raises:
            DataError: when there are not two of them.
        """
        keys, hasher = array("q"), hashlib.sha256()
        for pair in rows():
            for text in pair:
                content = text.encode()
                hasher.update(len(content).to_bytes(8, "little"))
                hasher.update(content)
                keys.append(key(text))
        if len(keys) < 4:
            raise DataError(
                f"There are {len(keys) // 2} pairs of texts, {origin}, and two are needed to tell "
                "one from the other. Name a file with more as --pairs."
            )
        texts = np.frombuffer(keys, dtype=np.int64).reshape(-1, 2)
        if documents is None:
            documents = np.arange(len(texts))
        return cls(origin, rows, np.column_stack([texts, documents]), hasher.hexdigest())

    def __len__(self) -> int:
        return len(self.keys)

    def texts(self, role: Role) -> Collection[str]:
        """All queries or all passages, read from where they are."""
        return _Side(self, 0 if role == "query" else 1)


@dataclass(frozen=True)
class _Side(Collection[str]):
    """One text of each pair."""

    pairs: Pairs
    at: int

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[str]:
        return (pair[self.at] for pair in self.pairs.rows())

    def __contains__(self, text: object) -> bool:
        return any(each == text for each in self)


def key(text: str) -> int:
    """A number of 64 bits that equal texts share, whatever their case and white space.

    Example:
        >>> key("Who sleeps?") == key(" who  sleeps? "), key("Who sleeps?") == key("Who slept?")
        (True, False)
    """
    content = " ".join(text.split()).casefold().encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def read_pairs(path: Path) -> Pairs:
    """The pairs in a file, every line of which is checked.

    Raises:
        ConfigError: when it is no file, or is called neither .jsonl nor .tsv.
        DataError: at the first line that cannot be used, naming it.
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in ("jsonl", "tsv"):
        raise ConfigError(
            f"--pairs {path} is called neither .jsonl nor .tsv (.gz may follow). Give objects such "
            'as {"query": "...", "passage": "..."}, one per line, or two columns.'
        )
    if not path.is_file():
        raise ConfigError(f"--pairs {path} does not exist, or is no file. Give another path.")
    read = _of_objects if kind == "jsonl" else _of_columns
    return Pairs.of(f"from {path.name}", lambda: map(_repaired, read(path)))


def made_pairs(collection: Documents) -> Pairs:
    """The pairs that a collection's passages make.

    Raises:
        DataError: when there are not two of them.
    """
    made = list(pairs_of_words(collection.passages, DATA_SEED, collection.language))
    rows = [(query, passage) for _, query, passage in made]
    documents = np.array([at for at, _, _ in made], dtype=np.int64)
    origin = "made from titles, first sentences and key phrases"
    return Pairs.of(origin, lambda: iter(rows), documents)


def _of_objects(path: Path) -> Iterator[tuple[str, str]]:
    for _, example in read_examples(path, path.name, _refuse):
        for (title, text), grade in zip(example.passages, example.grades, strict=True):
            if grade > 0:
                yield example.query, f"{title} {text}".strip()


def _of_columns(path: Path) -> Iterator[tuple[str, str]]:
    for number, raw in lines(path, path.name, _refuse):
        where = f"{path.name}:{number}"
        columns = (decoded(raw, where, _refuse) or "").split("\t")
        if len(columns) != 2:
            _refuse(Problem("columns", where, f"{len(columns)} columns instead of two", COLUMNS))
        if not all(column.strip() for column in columns):
            _refuse(Problem("empty text", where, "a text is empty", COLUMNS))
        yield columns[0], columns[1]


def _repaired(pair: tuple[str, str]) -> tuple[str, str]:
    """A pair without halves of characters, which no tokenizer can read."""
    query, passage = (LONE_SURROGATE.sub("\ufffd", text) for text in pair)
    return query, passage


def _refuse(problem: Problem) -> NoReturn:
    raise DataError(str(problem))
