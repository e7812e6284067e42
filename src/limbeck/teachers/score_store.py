"""What has this teacher said before, to any run?

Raw scores of (query text, passage text) pairs and vectors of single texts, shared by every run of a
user. A shard is named by the SHA-256 of its bytes and renamed into place, so two runs may write at
the same time and neither can spoil the other's work; reading checks the name, so a damaged shard is
refused, never believed.

    ROOT/scores/<digest>/<sha256>.parquet        query_key, passage_key (16 bytes each), score
    ROOT/vectors/<digest>/<sha256>.safetensors   keys [n, 16] uint8, vectors [n, D] float32

Beside the shards an `about.json` keeps the teacher's name for the listing.

The digest says everything that the numbers depend on but the texts: weights, tokenizer, template,
lengths, precision, backend. When two shards disagree on a pair (bf16 depends on the batch), the
first by name wins, for every reader.

This module knows no model, no collection and no run.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
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
from limbeck.store import damaged, new_file, read_json, write_json

KEY_BYTES = 16
_STAGE = "store"
_SUFFIX = {"scores": "parquet", "vectors": "safetensors"}

Kind = Literal["scores", "vectors"]
KINDS: tuple[Kind, ...] = ("scores", "vectors")
Floats = npt.NDArray[np.float32]
Keys = Sequence[bytes]  # 16 bytes each


@dataclass(frozen=True, slots=True)
class Entry:
    """What the store holds of one teacher: one line of `limbeck store list`."""

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
            content = _checked(path)
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
            try:
                shard = safetensors.torch.load(_checked(path))
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
        """Of how many texts the store has vectors under a digest; vectors are not read.

        Raises:
            StoreError: naming the first damaged shard.
        """
        held: set[bytes] = set()
        for path in self._shards("vectors", digest):
            try:
                with safetensors.safe_open(path, framework="numpy") as shard:
                    held |= set(_as_keys(shard.get_tensor("keys")))
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
        """What the store holds, by kind and then newest first."""
        return [
            entry
            for kind in KINDS
            for entry in sorted(self._entries(kind), key=lambda entry: (-entry.used, entry.digest))
        ]

    def prune(self, digests: Sequence[str]) -> Sequence[Entry]:
        """Delete what is stored under digests, each given in full or by its first letters.

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
            try:
                shutil.rmtree(self.root / entry.kind / entry.digest)
            except OSError as error:
                raise StoreError(
                    f"Cannot delete {self.root / entry.kind / entry.digest}: {error.strerror}. "
                    "Check the path and run the same command again."
                ) from error
        return gone

    def _shards(self, kind: Kind, digest: str) -> Sequence[Path]:
        """The shards of one teacher, in the order that decides who wins."""
        return sorted((self.root / kind / digest).glob(f"[!.]*.{_SUFFIX[kind]}"))

    def _add(self, kind: Kind, digest: str, name: str, content: bytes) -> None:
        """Write a shard under the name that its content gives it."""
        folder = self.root / kind / digest
        path = folder / f"{hashlib.sha256(content).hexdigest()}.{_SUFFIX[kind]}"
        if path.exists():  # another run said the same, or this one before it was killed
            return
        if not (folder / "about.json").exists():
            write_json(folder / "about.json", {"name": name}, stage=_STAGE)
        with new_file(path, stage=_STAGE) as temporary:
            temporary.write_bytes(content)

    def _entries(self, kind: Kind) -> Iterator[Entry]:
        """One entry per teacher with at least one shard."""
        for folder in sorted((self.root / kind).glob("*")):
            found = [shard.stat() for shard in self._shards(kind, folder.name)]
            if found:
                about = folder / "about.json"
                yield Entry(
                    kind=kind,
                    digest=folder.name,
                    name=str(read_json(about)["name"]) if about.exists() else "",
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


def _checked(path: Path) -> bytes:
    """A shard's bytes, whose SHA-256 must be its name.

    Raises:
        StoreError: when it is not.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.stem:
        raise damaged(path, "its SHA-256 is not the one in its name")
    return content
