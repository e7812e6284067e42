"""What has this teacher said before, to any run?

Raw scores of (query text, passage text) pairs and vectors of single texts, shared by every run of a
user. A shard is named by the SHA-256 of its bytes and renamed into place, so two runs may write at
the same time and neither can spoil the other's work; reading checks the name, so a damaged shard is
refused, never believed. Shards may be pruned at any moment: to a reader, what is gone was never
there, and a writer whose folder went makes it anew.

    ROOT/scores/<digest>/<sha256>.parquet        query_key, passage_key (16 bytes each), score
    ROOT/vectors/<digest>/<sha256>.safetensors   keys [n, 16] uint8, vectors [n, D] float32

Beside the shards an `about.json` keeps the teacher's name for the listing.

The digest says everything that the numbers depend on but the texts: weights, tokenizer, template,
lengths, precision, backend. When two shards disagree on a pair (bf16 depends on the batch), the
first by name wins, for every reader.

This module knows no model, no collection and no run.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import safetensors
import safetensors.torch
import torch

from limbeck.errors import ConfigError, StoreError
from limbeck.store import Written, clear_abandoned, damaged, new_file, read_json, write_json

KEY_BYTES = 16
_STAGE = "store"
_TRIES = 10  # of a write whose folder is pruned each time
_SUFFIX = {"scores": "parquet", "vectors": "safetensors"}

Kind = Literal["scores", "vectors"]
KINDS: tuple[Kind, ...] = ("scores", "vectors")
Floats = npt.NDArray[np.float32]
Keys = Sequence[bytes]  # 16 bytes each


class _About(Written):
    """Contents of `about.json`."""

    name: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A teacher's entry in the store: one line of `limbeck store list`."""

    kind: Kind
    digest: str
    name: str  # what the teacher was called when it was first stored
    shards: int
    bytes: int
    used: float  # seconds since the epoch of the newest write


class ScoreStore:
    """The scores and vectors below one folder, made on the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._cleared: set[Path] = set()  # of what killed writers left

    @classmethod
    def default(cls) -> ScoreStore:
        """The store in `$XDG_CACHE_HOME/limbeck`, or `~/.cache/limbeck` when that is not set."""
        cache = os.environ.get("XDG_CACHE_HOME")
        return cls((Path(cache) if cache else Path.home() / ".cache") / "limbeck")

    def scores_of(self, digest: str, queries: Keys, passages: Keys) -> Floats:
        """The scores [n] of n pairs; NaN where the store has none.

        Raises:
            StoreError: naming the first damaged shard.
        """
        wanted = _pair_frame(queries, passages).with_row_index("row")
        scores = np.full(len(queries), np.nan, dtype=np.float32)
        for path in self._shards("scores", digest):
            if (content := _checked(path)) is None:
                continue
            try:
                shard = pl.read_parquet(io.BytesIO(content))
                found = wanted.join(shard, on=["query_key", "passage_key"], how="inner")
            except Exception as error:  # polars raises several unrelated types
                raise damaged(path, str(error)) from error
            rows = found["row"].to_numpy()
            fresh = np.isnan(scores[rows])
            scores[rows[fresh]] = found["score"].to_numpy()[fresh]
        return scores

    def add_scores(
        self, digest: str, name: str, queries: Keys, passages: Keys, scores: Floats
    ) -> None:
        """Keep the scores [n] of n pairs under a teacher's digest; `name` is for the listing.

        Raises:
            StoreError: when the file system refuses.
        """
        buffer = io.BytesIO()
        _pair_frame(queries, passages).with_columns(score=pl.Series(scores)).write_parquet(buffer)
        self._add("scores", digest, name, buffer.getvalue())

    def vectors_of(self, digest: str, texts: Keys) -> tuple[npt.NDArray[np.int64], Floats]:
        """The texts that the store knows: their positions [m] in `texts`, ascending, and their
        vectors [m, D].

        Raises:
            StoreError: naming the first damaged shard.
        """
        wanted = pl.DataFrame({"key": pl.Series(texts, dtype=pl.Binary)}).with_row_index("place")
        missing = np.ones(len(texts), dtype=bool)
        positions: list[npt.NDArray[np.int64]] = []
        vectors: list[Floats] = []
        for path in self._shards("vectors", digest):
            if (content := _checked(path)) is None:
                continue
            try:
                shard = safetensors.torch.load(content)
                keys = _as_keys(shard["keys"].numpy())
                rows = shard["vectors"].numpy()
            except (safetensors.SafetensorError, KeyError) as error:
                raise damaged(path, str(error)) from error
            held = pl.DataFrame({"key": pl.Series(keys, dtype=pl.Binary)}).with_row_index("row")
            found = wanted.join(held, on="key", how="inner")
            places = found["place"].to_numpy().astype(np.int64)
            fresh = missing[places]
            missing[places[fresh]] = False
            positions.append(places[fresh])
            vectors.append(rows[found["row"].to_numpy()[fresh]])
        if not positions:
            return np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32)
        together = np.concatenate(positions)
        by_position = np.argsort(together)
        return together[by_position], np.concatenate(vectors)[by_position]

    def known_texts(self, digest: str, texts: Keys) -> int:
        """Number of texts whose vectors the store has under a digest; vectors are not read.

        Raises:
            StoreError: naming the first damaged shard.
        """
        held: set[bytes] = set()
        for path in self._shards("vectors", digest):
            try:
                with safetensors.safe_open(path, framework="numpy") as shard:
                    held |= set(_as_keys(shard.get_tensor("keys")))
            except FileNotFoundError:
                continue  # pruned in the meantime
            except (safetensors.SafetensorError, KeyError) as error:
                raise damaged(path, str(error)) from error
        return len(held.intersection(texts))

    def add_vectors(self, digest: str, name: str, texts: Keys, vectors: Floats) -> None:
        """Keep the vectors [n, D] of n texts under a teacher's digest; `name` is for the listing.

        Raises:
            StoreError: when the file system refuses.
        """
        content = safetensors.torch.save(
            {
                "keys": torch.from_numpy(_as_bytes(texts)),
                "vectors": torch.from_numpy(np.ascontiguousarray(vectors)),
            }
        )
        self._add("vectors", digest, name, content)

    def list(self) -> Sequence[Entry]:
        """Entries of the store, by kind and then newest first."""
        return [
            entry
            for kind in KINDS
            for entry in sorted(self._entries(kind), key=lambda entry: (-entry.used, entry.digest))
        ]

    def prune(self, digests: Sequence[str]) -> Sequence[Entry]:
        """Delete the entries of digests, each given in full or by its first letters, and the
        remains of writers that were killed a day ago or more, anywhere in the store.

        Returns what went.

        Raises:
            ConfigError: when a digest names nothing in the store, or is too short to be sure (under
                6 letters).
            StoreError: when the file system refuses.
        """
        held = self.list()
        gone: list[Entry] = []
        for wanted in digests:
            if len(wanted) < 6:
                raise ConfigError(
                    f"{wanted!r} is too short to name a teacher; "
                    "give at least 6 letters of its digest."
                )
            found = [entry for entry in held if entry.digest.startswith(wanted)]
            if not found:
                raise ConfigError(
                    f"Nothing in {self.root} is stored under {wanted!r}. "
                    "`limbeck store list` shows what is there."
                )
            gone += [entry for entry in found if entry not in gone]
        for entry in gone:
            _delete(self.root / entry.kind / entry.digest)
        for kind in KINDS:
            for folder in (self.root / kind, *self._folders(kind)):
                clear_abandoned(folder)
        return gone

    def _shards(self, kind: Kind, digest: str) -> Sequence[Path]:
        """The shards of one teacher, in the order that decides who wins."""
        try:
            return sorted((self.root / kind / digest).glob(f"[!.]*.{_SUFFIX[kind]}"))
        except FileNotFoundError:  # pruned in the meantime
            return []

    def _folders(self, kind: Kind) -> Sequence[Path]:
        """The folders of all teachers."""
        return sorted((self.root / kind).glob("[!.]*"))

    def _add(self, kind: Kind, digest: str, name: str, content: bytes) -> None:
        """Write a shard under the name that its content gives it."""
        folder = self.root / kind / digest
        path = folder / f"{hashlib.sha256(content).hexdigest()}.{_SUFFIX[kind]}"
        if folder not in self._cleared:
            clear_abandoned(folder)
            self._cleared.add(folder)
        for left in reversed(range(_TRIES)):
            try:
                if not path.exists():  # else another run said the same, or this one, killed
                    with new_file(path, stage=_STAGE) as temporary:
                        temporary.write_bytes(content)
                if not (folder / "about.json").exists():
                    write_json(folder / "about.json", {"name": name}, stage=_STAGE)
            except StoreError as error:
                if not (left and _is_missing(error)):
                    raise
            else:
                return

    def _entries(self, kind: Kind) -> Iterator[Entry]:
        """One entry per teacher with at least one shard."""
        for folder in self._folders(kind):
            try:
                found = [shard.stat() for shard in self._shards(kind, folder.name)]
            except FileNotFoundError:
                continue  # pruned in the meantime
            if found:
                yield Entry(
                    kind=kind,
                    digest=folder.name,
                    name=_name_in(folder / "about.json"),
                    shards=len(found),
                    bytes=sum(stat.st_size for stat in found),
                    used=max(stat.st_mtime for stat in found),
                )


def text_keys(texts: Iterable[str]) -> list[bytes]:
    """The 128-bit BLAKE2b of every text's UTF-8 bytes."""
    return [
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
        for text in texts
    ]


def _pair_frame(queries: Keys, passages: Keys) -> pl.DataFrame:
    """The keys of pairs as a table of two binary columns."""
    return pl.DataFrame(
        {
            "query_key": pl.Series(queries, dtype=pl.Binary),
            "passage_key": pl.Series(passages, dtype=pl.Binary),
        }
    )


def _as_bytes(keys: Keys) -> npt.NDArray[np.uint8]:
    """Keys as an array of bytes [n, 16]."""
    return np.frombuffer(bytearray(b"".join(keys)), dtype=np.uint8).reshape(-1, KEY_BYTES)


def _as_keys(content: npt.NDArray[np.uint8]) -> list[bytes]:
    """An array of bytes [n, 16] as keys."""
    return [row.tobytes() for row in content]


def _name_in(about: Path) -> str:
    """Name of a teacher when it was first stored, or nothing when that is not kept.

    Raises:
        StoreError: when the file is damaged.
    """
    try:
        return read_json(about, _About).name
    except StoreError as error:
        if _is_missing(error):
            return ""
        raise


def _is_missing(error: StoreError) -> bool:
    """Whether a file or its folder is not there: it was pruned in the meantime."""
    return isinstance(error.__cause__, FileNotFoundError)


def _delete(folder: Path) -> None:
    """Delete a teacher's entry, at once for whoever reads or writes there.

    Raises:
        StoreError: when the file system refuses.
    """
    going = folder.parent / f".old-{os.getpid()}-{time.time_ns()}-{folder.name}"
    try:
        folder.replace(going)
        shutil.rmtree(going)
    except FileNotFoundError:
        pass  # another process deletes it, too
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:  # a writer had just opened a file there: cleared later
            return
        raise StoreError(
            f"Cannot delete {folder}: {error.strerror}. Check the path and run the same command "
            "again."
        ) from error


def _checked(path: Path) -> bytes | None:
    """A shard's bytes, whose SHA-256 must be its name; None when it was pruned in the meantime.

    Raises:
        StoreError: when it is not.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content).hexdigest() != path.stem:
        raise damaged(path, "its SHA-256 is not the one in its name")
    return content
