"""What is in the folder of an index, and which of its passages come first for a vector?

    index.json                  the card: model, data, counts, versions, and which files count,
                                with their SHA-256, and one of its own
    segment-000000/
        vectors.npy             [n, width] fp32, little endian; of length 1 where vectors are
                                compared by cosine, so that inner products are the scores
        passages.jsonl          one line per row of vectors.npy: `_id`, `text` (title and text)
        lines.npy               [n + 1] int64, where each line begins, and where the last one ends
        segment.json            what it was made from; size and SHA-256 of each file; the least
                                and the greatest length of its vectors
    segment-000001/ ...         more passages, of the same build or added later
    deleted-000003.npy          [d] int64, the rows that are not to be found, ascending; rows are
                                numbered through all segments
    approximate-000001.faiss    of a kind that is not exact: a faiss index of the first rows
    model/                      the encoder, unless the index lies in a run, beside its student

A file is never changed once the card names it: a change writes new files, replaces the card, and
then deletes what no card names any more. So a kill leaves the old index or the new one, and whoever
has an index open keeps what it saw. Files are opened as read-only memory maps.

Opening an index reads what is small, whole: the card, what was deleted, where lines begin. Of the
vectors and passages it looks at sizes, and at the lengths of vectors, of all or, beyond 256 MiB, of
some. `limbeck.indexing.checking` reads everything. Indexes of older versions have no checksums, and
are opened all the same.

A row has the id of its passage. Every passage has one row now, and the card says `reduce: null`;
several rows of one id are left room for, with how their scores become one (`max`, `mean`).

This module knows no model and no collection.
"""

from __future__ import annotations

import json
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from limbeck.data.collection import Texts
from limbeck.errors import ConfigError, DataError, ScoreError, StoreError
from limbeck.indexing.approximate import Approximate, Kind
from limbeck.language import ENGLISH
from limbeck.search import search_dense
from limbeck.similarity import Similarity
from limbeck.store import (
    Checksum,
    Written,
    checksum,
    checksums,
    digest,
    faults,
    lock_folder,
    new_file,
    new_folder,
    read_json,
    write_json,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]
    Vectors = NDArray[np.float32]

FORMAT = 1
CARD = "index.json"
MODEL = "model"
STAGE = "index"  # what LIMBECK_KILL_AT calls writes of an index
_SEGMENT = "segment-"
_VECTORS, _PASSAGES, _LINES, _ABOUT = "vectors.npy", "passages.jsonl", "lines.npy", "segment.json"
_DATA = (_LINES, _PASSAGES, _VECTORS)

MEASURED_BYTES = 2**28  # of vectors, whose lengths are all looked at when an index is opened
MEASURED_ROWS = 256  # of a larger index, evenly spread
_SLACK = 1e-3  # what rounding may do to a length, as a share of it

RESTORE = (
    "Put back a copy of the folder if there is one. Otherwise delete its index.json and repeat the "
    "`limbeck index build` command that made it: segments that are whole are kept, others encoded "
    "again. What was added or deleted since must then be added and deleted again."
)
REMAKE = (
    "Repeat the `limbeck index build` command that made it: that file is made again from the "
    "vectors, and nothing is lost."
)

RECOPY = (
    "Repeat the `limbeck index build` command that made it: the model is copied again, and nothing "
    "is lost."
)

_Count = Annotated[int, Field(ge=0)]
_Least = Annotated[int, Field(ge=1)]


class _Model(Written):
    name: str
    path: str
    digest: str
    files: dict[str, Checksum] | None = None  # of the copy in the index


class _Data(Written):
    name: str
    digest: str
    passages: _Count


class _Part(Written):
    name: str = Field(pattern=r"^segment-\d{6,}$")
    passages: _Least
    checksum: Checksum | None = None  # of its segment.json


class _Deleted(Written):
    file: str = Field(pattern=r"^deleted-\d{6,}\.npy$")
    passages: _Least
    checksum: Checksum | None = None


class _Approximate(Written):
    file: str = Field(pattern=r"^approximate-\d{6,}\.faiss$")
    kind: Literal["hnsw", "ivf"]
    rows: _Count
    effort: _Least
    measured_on: str
    recall_10: float = Field(alias="recall@10")
    recall_100: float = Field(alias="recall@100")
    checksum: Checksum | None = None


class _Card(Written):
    """Contents of `index.json`."""

    format: Literal[1]
    reduce: None
    model: _Model
    data: _Data
    engine: Any
    language: str = ENGLISH
    width: _Least
    similarity: Similarity
    kind: Kind
    least_recall: float | None
    segments: list[_Part]
    deleted: _Deleted | None
    approximate: _Approximate | None
    changes: _Count
    versions: dict[str, str]


class About(Written):
    """Contents of `segment.json`; indexes of older versions have sizes alone."""

    made_from: str
    passages: _Least
    files: dict[str, Checksum] | None = None
    lengths: tuple[float, float] | None = None  # of the shortest and the longest vector
    bytes: dict[str, int] | None = None


class Damaged(StoreError):
    """Damage to an index, which is not as it was written: `why`, and `advice` on what to do."""

    def __init__(self, folder: Path, why: str, advice: str = RESTORE) -> None:
        super().__init__(f"The index {folder} is damaged: {why}. {advice}")
        self.why = why
        self.advice = advice


@dataclass(frozen=True)
class Segment:
    """Some of an index's passages, opened; `shortest` and `longest` are lengths of its vectors."""

    path: Path
    vectors: Vectors
    passages: NDArray[np.uint8]
    lines: Rows
    shortest: float
    longest: float

    def __len__(self) -> int:
        return len(self.vectors)

    def passage(self, row: int) -> tuple[str, str]:
        """The id and text of a row of this segment.

        Raises:
            Damaged: when its line cannot be read.
        """
        line = self.passages[self.lines[row] : self.lines[row + 1]].tobytes()
        try:
            found = json.loads(line)
            id_, text = found["_id"], found["text"]
        except (ValueError, KeyError, TypeError):
            id_ = text = None
        if not (isinstance(id_, str) and isinstance(text, str)):
            why = f"line {row + 1} of {self.path.name}/{_PASSAGES} is no passage"
            raise Damaged(self.path.parent, why)
        return id_, text

    def check_lengths(self, every: int = 1) -> None:
        """Look at the length of every so-manieth vector.

        Raises:
            Damaged: naming the first that cannot be right.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = lengths_of(self.vectors[::every])
        least, most = self.shortest * (1 - _SLACK), self.longest * (1 + _SLACK)
        right = np.isfinite(lengths) & (lengths >= least) & (lengths <= most)
        if not right.all():
            at = int(np.argmin(right))
            why = f"row {at * every} of {self.path.name}/{_VECTORS} has length {lengths[at]:.4g}"
            raise Damaged(
                self.path.parent, f"{why}, {self.shortest:.4g} to {self.longest:.4g} expected"
            )


class Index:
    """An index that is open for reading; `card` is the content of its `index.json`.

    Later changes to the folder are not seen. Rows are numbered through all segments.
    """

    def __init__(
        self, folder: Path, card: Mapping[str, Any], approximate: Approximate | None = None
    ) -> None:
        self.folder = folder
        self.card = card
        self.segments = [
            open_segment(folder, entry, card["width"], card["similarity"])
            for entry in card["segments"]
        ]
        self.starts = np.cumsum([0, *map(len, self.segments)]).tolist()
        self.mask = np.ones(self.starts[-1], dtype=np.bool_)
        if card["deleted"] is not None:
            self.mask[deleted_rows(folder, card["deleted"], len(self.mask))] = False
        self.approximate = approximate

    @property
    def language(self) -> str:
        """Language in which its passages are searched by words; English where the card has none."""
        return str(self.card.get("language", ENGLISH))

    def __len__(self) -> int:
        """Number of passages that can be found."""
        return int(self.mask.sum())

    @property
    def rows(self) -> Rows:
        """The rows that can be found, ascending."""
        return np.flatnonzero(self.mask)

    def passage(self, row: int) -> tuple[str, str]:
        """The id and text (title and text) of a row."""
        segment, within = self._place(row)
        return segment.passage(within)

    def passages(self) -> Iterator[tuple[int, str, str]]:
        """Row, id and text of all that can be found."""
        for row in self.rows.tolist():
            yield row, *self.passage(row)

    def vectors(self, rows: Rows) -> Vectors:
        """The vectors [n, width] of some rows."""
        found = np.empty((len(rows), self.card["width"]), dtype=np.float32)
        for at, row in enumerate(rows.tolist()):
            segment, within = self._place(row)
            found[at] = segment.vectors[within]
        return found

    def rows_of(self, ids: Iterable[str]) -> dict[str, int]:
        """The row of each of these ids that can be found; every passage is looked at."""
        wanted = set(ids)
        return {id_: row for row, id_, _ in self.passages() if id_ in wanted}

    def search(
        self, vectors: Vectors, k: int, *, effort: int | None = None
    ) -> tuple[Rows, Vectors]:
        """The rows [Q, k] with the largest inner products with query vectors [Q, width], and those.

        Best first, equal scores by row; -1 and -inf where there are fewer. `effort` is how hard an
        approximate index looks; by default what its card says. Rows that were added since it was
        built are searched exactly.
        """
        found: list[tuple[Rows, Vectors]] = []
        covered = 0
        if self.approximate is not None:
            covered = self.approximate.rows
            found.append(self.approximate.search(vectors, k, self.mask[:covered], effort))
        found += self.search_exactly(vectors, k, first=covered)
        return self._best(found, vectors, k)

    def search_exactly(
        self, vectors: Vectors, k: int, *, first: int = 0
    ) -> list[tuple[Rows, Vectors]]:
        """Search exactly from row `first` on; results as of `search`, for each segment."""
        found = []
        for segment, start in zip(self.segments, self.starts, strict=False):
            if start >= first:
                mask = self.mask[start : start + len(segment)]
                hidden = None if mask.all() else mask
                try:
                    positions, scores = search_dense(vectors, segment.vectors, k, mask=hidden)
                except ScoreError as error:
                    if not np.isfinite(vectors).all():
                        raise
                    why = f"{segment.path.name}/{_VECTORS} holds numbers that are none"
                    raise Damaged(self.folder, why) from error
                rows = np.where(positions < 0, -1, positions.astype(np.int64) + start)
                found.append((rows, scores))
        return found

    def exact(self, vectors: Vectors, k: int) -> tuple[Rows, Vectors]:
        """Search as `search` does, but never approximately."""
        return self._best(self.search_exactly(vectors, k), vectors, k)

    def _best(
        self, found: Sequence[tuple[Rows, Vectors]], vectors: Vectors, k: int
    ) -> tuple[Rows, Vectors]:
        """The k best of several lists; no score exceeds the product of two lengths.

        Raises:
            Damaged: when one does.
        """
        rows, scores = _merged(found, len(vectors), k)
        longest = max((segment.longest for segment in self.segments), default=0.0)
        most = lengths_of(vectors)[:, None] * longest * (1 + _SLACK)
        if (wrong := (rows >= 0) & (scores > most)).any():
            segment, within = self._place(int(rows[wrong][0]))
            why = f"row {within} of {segment.path.name}/{_VECTORS} scores {scores[wrong][0]:.4g}"
            raise Damaged(self.folder, f"{why}, which no vector of its length can")
        return rows, scores

    def _place(self, row: int) -> tuple[Segment, int]:
        at = bisect_right(self.starts, row) - 1
        return self.segments[at], row - self.starts[at]


def open_index(folder: Path) -> Index:
    """The index in a folder.

    Raises:
        ConfigError: when there is none.
        StoreError: when it is damaged, or written by a later version.
    """
    index = open_exactly(folder)
    if (made := index.card["approximate"]) is not None:
        index.approximate = open_approximate(folder, made)
    return index


def open_exactly(folder: Path) -> Index:
    """Open an index as `open_index` does, without its approximate index: that may be damaged."""
    index = Index(folder, read_card(folder))
    size = sum(segment.vectors.nbytes for segment in index.segments)
    every = 1 if size <= MEASURED_BYTES else max(1, index.starts[-1] // MEASURED_ROWS)
    for segment in index.segments:
        segment.check_lengths(every)
    return index


def read_card(folder: Path) -> dict[str, Any]:
    """Read the card of an index.

    Raises:
        ConfigError: when there is no index.
        StoreError: when the card is damaged, or written by a later version.
    """
    if not (folder / CARD).is_file():
        what = "is not finished" if is_begun(folder) else f"is no index: it has no {CARD}"
        raise ConfigError(f"{folder} {what}. Run `limbeck index MODEL DATA --out {folder}`.")
    card = read_json(folder / CARD, dict[str, Any], advice=RESTORE)
    if (said := card.pop("digest", None)) is not None and said != digest(card):
        raise Damaged(folder, f"{CARD} is not what was written")
    form, reduce = card.get("format"), card.get("reduce")
    if (isinstance(form, int) and form > FORMAT) or reduce is not None:
        raise StoreError(
            f"{folder} was written by a later version of Limbeck (format {form}, reduce {reduce}). "
            "Use that version, or put back a copy of the folder that this one wrote."
        )
    read_json(folder / CARD, _Card, advice=RESTORE)
    return card


def open_approximate(folder: Path, made: Mapping[str, Any]) -> Approximate:
    """Open the approximate index of a card's entry, after checking its checksum: faiss trusts what
    it reads.

    Raises:
        ConfigError: when the extra is not installed.
        Damaged: when it is not what was written.
    """
    name = made["file"]
    if (recorded := made.get("checksum")) is not None:
        for why in faults(folder, {name: Checksum(**recorded)}).values():
            raise Damaged(folder, why, REMAKE)
    try:
        return Approximate.open(folder / name, made)
    except StoreError as error:
        raise Damaged(folder, f"{name} cannot be read", REMAKE) from error


def is_begun(folder: Path) -> bool:
    """Whether a folder holds the remains of a build that was stopped."""
    return any(folder.glob(f"{_SEGMENT}*"))


def has_lost_its_card(folder: Path, segments: int) -> bool:
    """Whether a folder without a card holds files that no stopped build of so many segments leaves:
    deleted rows, an approximate index, or passages that were added.
    """
    later = [*folder.glob("deleted-*"), *folder.glob("approximate-*")]
    return bool(later) or len([*folder.glob(f"{_SEGMENT}*")]) > segments


def segment_name(number: int) -> str:
    """The folder of a segment."""
    return f"{_SEGMENT}{number:06}"


def holds_segment(folder: Path, name: str, made_from: str) -> bool:
    """Whether a segment was written from these inputs and has not changed by a byte since."""
    try:
        about = read_json(folder / name / _ABOUT, About)
    except StoreError:
        return False
    if about.made_from != made_from or about.files is None:
        return False
    return not faults(folder / name, about.files, anew=True)


def segment_entry(folder: Path, name: str) -> dict[str, object]:
    """The card's entry for a segment."""
    about = read_json(folder / name / _ABOUT, About)
    return {
        "name": name,
        "passages": about.passages,
        "checksum": checksum(folder / name / _ABOUT).model_dump(),
    }


def write_segment(
    folder: Path, name: str, made_from: str, passages: Texts, vectors: Vectors
) -> None:
    """Write a segment; it does not count before a card names it."""
    with new_folder(folder / name, stage=STAGE) as temporary:
        with (temporary / _VECTORS).open("wb") as file:
            np.save(file, np.ascontiguousarray(vectors, dtype="<f4"), allow_pickle=False)
        starts = [0]
        with (temporary / _PASSAGES).open("wb") as file:
            for id_, text in zip(passages.ids, passages.texts, strict=True):
                line = json.dumps({"_id": id_, "text": text}, ensure_ascii=False) + "\n"
                starts.append(starts[-1] + file.write(line.encode()))
        with (temporary / _LINES).open("wb") as file:
            np.save(file, np.array(starts, dtype="<i8"), allow_pickle=False)
        lengths = lengths_of(vectors)
        about = {
            "made_from": made_from,
            "passages": len(passages),
            "files": {
                name: each.model_dump() for name, each in checksums(temporary, _DATA).items()
            },
            "lengths": [float(lengths.min()), float(lengths.max())],
        }
        write_json(temporary / _ABOUT, about, stage=f"{STAGE}_part")


def write_deleted(folder: Path, change: int, rows: Rows) -> dict[str, object] | None:
    """Write which rows are not to be found; returns the card's entry, None for no rows."""
    if not len(rows):
        return None
    name = f"deleted-{change:06}.npy"
    with new_file(folder / name, stage=STAGE) as temporary, temporary.open("wb") as file:
        np.save(file, rows.astype("<i8"), allow_pickle=False)
    found = checksum(folder / name).model_dump()
    return {"file": name, "passages": len(rows), "checksum": found}


def write_card(folder: Path, card: Mapping[str, object]) -> None:
    """Write the card: the files that it names become the index, and those that it does not name are
    deleted.
    """
    write_json(folder / CARD, {**card, "digest": digest(card)}, stage=STAGE)
    entries: Any = card
    named = {CARD, MODEL, *(entry["name"] for entry in entries["segments"])}
    named |= {entries[key]["file"] for key in ("deleted", "approximate") if entries.get(key)}
    for path in folder.iterdir():
        if path.name not in named and path.name.startswith((_SEGMENT, "deleted-", "approximate-")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


@contextmanager
def changing(folder: Path) -> Iterator[Index]:
    """An index that this process alone may change.

    Raises:
        ConfigError, StoreError: as `open_index`, or when another process is changing it.
    """
    read_card(folder)
    with lock_folder(folder):
        yield open_index(folder)


def unknown_ids(index: Index, ids: Sequence[str]) -> DataError:
    """The error for ids that an index does not have."""
    shown = ", ".join(map(repr, ids[:3])) + (f" and {len(ids) - 3} more" if ids[3:] else "")
    return DataError(
        f"{index.folder} has no passage {shown}; nothing was deleted. Leave "
        f"{'them' if ids[1:] else 'it'} out."
    )


def lengths_of(vectors: Vectors) -> Vectors:
    """The lengths [n] of vectors [n, width]."""
    lengths: Vectors = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return lengths


def read_about(folder: Path, entry: Mapping[str, Any]) -> About:
    """Read the `segment.json` of a segment that the card names.

    Raises:
        Damaged: when it is not what was written.
    """
    told = f"{entry['name']}/{_ABOUT}"
    _compare(folder, told, entry)
    try:
        about = read_json(folder / told, About)
    except StoreError as error:
        raise Damaged(folder, f"{told} cannot be read") from error
    if about.passages != entry["passages"]:
        why = f"{told} has {about.passages} passages, {entry['passages']} expected"
        raise Damaged(folder, why)
    return about


def open_segment(folder: Path, entry: Mapping[str, Any], width: int, similarity: str) -> Segment:
    """A segment whose files are all there, in the sizes that they had, and fit one another.

    Raises:
        Damaged: naming what does not.
    """
    path, about = folder / entry["name"], read_about(folder, entry)
    sizes = (
        about.bytes or {}
        if about.files is None
        else {name: each.bytes for name, each in about.files.items()}
    )
    for name in _DATA:
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found is None or found != sizes.get(name):
            is_now = "is missing" if found is None else f"has {found} bytes"
            raise Damaged(folder, f"{path.name}/{name} {is_now}, {sizes.get(name)} bytes expected")
    vectors = _mapped(folder, path / _VECTORS, np.float32, (about.passages, width))
    lines = _mapped(folder, path / _LINES, np.int64, (about.passages + 1,))
    size = sizes[_PASSAGES]
    if lines[0] != 0 or lines[-1] != size or not (lines[1:] > lines[:-1]).all():
        raise Damaged(folder, f"{path.name}/{_LINES} does not fit {_PASSAGES}")
    passages = np.memmap(path / _PASSAGES, dtype=np.uint8, mode="r", shape=(size,))
    shortest, longest = about.lengths or (0.0, 1.0 if similarity == "cosine" else float("inf"))
    return Segment(path, vectors, passages, lines, shortest, longest)


def deleted_rows(folder: Path, entry: Mapping[str, Any], count: int) -> Rows:
    """The rows, of `count`, that are not to be found.

    Raises:
        Damaged: when they are not what was written.
    """
    name = entry["file"]
    _compare(folder, name, entry)
    rows: Rows = _mapped(folder, folder / name, np.int64, (entry["passages"],))
    if rows[0] < 0 or rows[-1] >= count or not (rows[1:] > rows[:-1]).all():
        raise Damaged(folder, f"{name} names rows that the index does not have")
    return rows


def _compare(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Compare a small file with the checksum that a card's entry has of it, if it has.

    Raises:
        Damaged: when they differ.
    """
    if (recorded := entry.get("checksum")) is not None:
        for why in faults(folder, {name: Checksum(**recorded)}, anew=True).values():
            raise Damaged(folder, why)


def _mapped(folder: Path, path: Path, kind: type[Any], shape: tuple[int, ...]) -> Any:
    """An array file, as a read-only memory map.

    Raises:
        Damaged: when it is no such array.
    """
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy raises several unrelated types for a damaged header
        why = f"{path.relative_to(folder)} is no array file: {error}"
        raise Damaged(folder, why) from error
    if found.dtype != kind or found.shape != shape or not found.flags.c_contiguous:
        why = f"{path.relative_to(folder)} holds {found.dtype} {found.shape}"
        raise Damaged(folder, f"{why}, {np.dtype(kind)} {shape} expected")
    return found


def _merged(found: Sequence[tuple[Rows, Vectors]], count: int, k: int) -> tuple[Rows, Vectors]:
    """The k best of several lists for each of `count` queries."""
    empty = np.full((count, k), -1, np.int64), np.full((count, k), -np.inf, np.float32)
    rows, scores = (np.concatenate(parts, axis=1) for parts in zip(empty, *found, strict=True))
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
