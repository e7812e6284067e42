"""What is in the folder of an index, and which of its passages come first for a vector?

    index.json                  the card: model, data, counts, versions, and which files count
    segment-000000/
        vectors.npy             [n, width] fp32, little endian; of length 1 where vectors are
                                compared by cosine, so that inner products are the scores
        passages.jsonl          one line per row of vectors.npy: `_id`, `text` (title and text)
        lines.npy               [n + 1] int64, where each line begins, and where the last one ends
        segment.json            what it was made from; the size of each file
    segment-000001/ ...         more passages, of the same build or added later
    deleted-000003.npy          [d] int64, the rows that are not to be found, ascending; rows are
                                numbered through all segments
    approximate-000001.faiss    of a kind that is not exact: a faiss index of the first rows
    model/                      the encoder, unless the index lies in a run, beside its student

A file is never changed once the card names it: a change writes new files, replaces the card, and
then deletes what no card names any more. So a kill leaves the old index or the new one, and whoever
has an index open keeps what it saw. Files are opened as read-only memory maps.

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
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.data.collection import Texts
from limbeck.errors import ConfigError, DataError, StoreError
from limbeck.indexing.approximate import Approximate
from limbeck.search import search_dense
from limbeck.store import damaged, held, new_file, new_folder, read_object, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]
    Vectors = NDArray[np.float32]

FORMAT = 1
CARD = "index.json"
MODEL = "model"
STAGE = "index"  # what LIMBECK_KILL_AT calls writes of an index
_SEGMENT = "segment-"
_KEYS = ("format", "model", "data", "width", "similarity", "reduce", "segments", "deleted")
_VECTORS, _PASSAGES, _LINES, _ABOUT = "vectors.npy", "passages.jsonl", "lines.npy", "segment.json"


@dataclass(frozen=True)
class Segment:
    """Some of an index's passages, opened."""

    vectors: Vectors
    passages: NDArray[np.uint8]
    lines: Rows

    def __len__(self) -> int:
        return len(self.vectors)

    def passage(self, row: int) -> tuple[str, str]:
        """The id and text of a row of this segment."""
        found = json.loads(self.passages[self.lines[row] : self.lines[row + 1]].tobytes())
        return found["_id"], found["text"]


class Index:
    """An index that is open for reading; `card` is what its `index.json` said.

    Later changes to the folder are not seen. Rows are numbered through all segments.
    """

    def __init__(self, folder: Path, card: Mapping[str, Any]) -> None:
        self.folder = folder
        self.card = card
        self.segments = [_open_segment(folder, entry, card["width"]) for entry in card["segments"]]
        self.starts = np.cumsum([0, *map(len, self.segments)]).tolist()
        self.mask = np.ones(self.starts[-1], dtype=np.bool_)
        if card["deleted"] is not None:
            self.mask[_load(folder / card["deleted"]["file"], np.int64)] = False
        found = card.get("approximate")
        self.approximate = (
            None if found is None else Approximate.open(folder / found["file"], found)
        )

    def __len__(self) -> int:
        """How many passages can be found."""
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
        return _merged(found, len(vectors), k)

    def search_exactly(
        self, vectors: Vectors, k: int, *, first: int = 0
    ) -> list[tuple[Rows, Vectors]]:
        """What `search` returns, for each segment from row `first` on."""
        found = []
        for segment, start in zip(self.segments, self.starts, strict=False):
            if start >= first:
                mask = self.mask[start : start + len(segment)]
                hidden = None if mask.all() else mask
                positions, scores = search_dense(vectors, segment.vectors, k, mask=hidden)
                rows = np.where(positions < 0, -1, positions.astype(np.int64) + start)
                found.append((rows, scores))
        return found

    def exact(self, vectors: Vectors, k: int) -> tuple[Rows, Vectors]:
        """As `search`, but never approximate."""
        return _merged(self.search_exactly(vectors, k), len(vectors), k)

    def _place(self, row: int) -> tuple[Segment, int]:
        at = bisect_right(self.starts, row) - 1
        return self.segments[at], row - self.starts[at]


def open_index(folder: Path) -> Index:
    """The index in a folder.

    Raises:
        ConfigError: when there is none.
        StoreError: when it is damaged, or written by a later version.
    """
    if not (folder / CARD).is_file():
        what = "is not finished" if is_begun(folder) else f"is no index: it has no {CARD}"
        raise ConfigError(f"{folder} {what}. Run `limbeck index MODEL DATA --out {folder}`.")
    card = read_object(folder / CARD, *_KEYS)
    if card["format"] != FORMAT or card["reduce"] is not None:
        raise StoreError(
            f"{folder} was written by a later version of Limbeck (format {card['format']}, reduce "
            f"{card['reduce']}). Use that version, or build the index again."
        )
    return Index(folder, card)


def is_begun(folder: Path) -> bool:
    """Whether a folder holds what a build that was stopped left."""
    return any(folder.glob(f"{_SEGMENT}*"))


def segment_name(number: int) -> str:
    """The folder of a segment."""
    return f"{_SEGMENT}{number:06}"


def holds_segment(folder: Path, name: str, made_from: str) -> bool:
    """Whether a segment was written, whole, from these inputs."""
    about = folder / name / _ABOUT
    return about.is_file() and bool(read_object(about, "made_from")["made_from"] == made_from)


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
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        about = {"made_from": made_from, "passages": len(passages), "bytes": sizes}
        write_json(temporary / _ABOUT, about, stage=f"{STAGE}_part")


def write_deleted(folder: Path, change: int, rows: Rows) -> dict[str, object] | None:
    """Write which rows are not to be found; returns the card's entry, None for no rows."""
    if not len(rows):
        return None
    name = f"deleted-{change:06}.npy"
    with new_file(folder / name, stage=STAGE) as temporary, temporary.open("wb") as file:
        np.save(file, rows.astype("<i8"), allow_pickle=False)
    return {"file": name, "passages": len(rows)}


def write_card(folder: Path, card: Mapping[str, object]) -> None:
    """Make what a card names the index, and delete what it does not name."""
    write_json(folder / CARD, card, stage=STAGE)
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
    open_index(folder)
    with held(folder):
        yield open_index(folder)


def unknown_ids(index: Index, ids: Sequence[str]) -> DataError:
    """The error for ids that an index does not have."""
    shown = ", ".join(map(repr, ids[:3])) + (f" and {len(ids) - 3} more" if ids[3:] else "")
    return DataError(
        f"{index.folder} has no passage {shown}; nothing was deleted. Leave "
        f"{'them' if ids[1:] else 'it'} out."
    )


def _open_segment(folder: Path, entry: Mapping[str, Any], width: int) -> Segment:
    """A segment whose files are all there, in the sizes that they had."""
    path = folder / entry["name"]
    about = read_object(path / _ABOUT, "passages", "bytes")
    for name, size in about["bytes"].items():
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found != size:
            is_now = "is missing" if found is None else f"has {found} bytes"
            raise _broken(folder, f"{entry['name']}/{name} {is_now}, {size} bytes expected")
    vectors, lines = _load(path / _VECTORS, np.float32), _load(path / _LINES, np.int64)
    passages = np.memmap(path / _PASSAGES, dtype=np.uint8, mode="r")
    if vectors.shape != (entry["passages"], width) or len(lines) != len(vectors) + 1:
        raise _broken(folder, f"{entry['name']} does not fit the card")
    return Segment(vectors, passages, lines)


def _load(path: Path, kind: type[Any]) -> Any:
    """An array file, as a read-only memory map."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise damaged(path, str(error)) from error
    if found.dtype != kind:
        raise damaged(path, f"it holds {found.dtype}")
    return found


def _broken(folder: Path, why: str) -> StoreError:
    """The error for an index that is not whole."""
    return StoreError(f"{folder} is damaged ({why}). Delete it and build the index again.")


def _merged(found: Sequence[tuple[Rows, Vectors]], count: int, k: int) -> tuple[Rows, Vectors]:
    """The k best of several lists for each of `count` queries."""
    empty = np.full((count, k), -1, np.int64), np.full((count, k), -np.inf, np.float32)
    rows, scores = (np.concatenate(parts, axis=1) for parts in zip(empty, *found, strict=True))
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
