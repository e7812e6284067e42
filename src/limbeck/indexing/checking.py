"""Is every byte of an index what was written?

Opening an index looks at what is small, and at the sizes of the rest. Here every file is read, and
its SHA-256 compared with the recorded one. Where an older version recorded none, the values are
looked at: lengths of vectors, lines of passages.

This module changes nothing, and knows no query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.errors import ModelError
from limbeck.indexing.building import checksums_of, model_of
from limbeck.indexing.files import (
    RECOPY,
    REMAKE,
    RESTORE,
    Damaged,
    deleted_rows,
    open_approximate,
    open_segment,
    read_about,
    read_card,
)
from limbeck.indexing.runs import index_of
from limbeck.store import Checksum, faults
from limbeck.types import Progress, Silent


@dataclass(frozen=True, slots=True)
class Checked:
    """Result of checking an index: its faults, and advice on them; none when it is whole."""

    folder: Path
    passages: int  # deleted ones included
    files: int  # whose SHA-256 was compared
    bytes: int  # of those files
    unrecorded: tuple[str, ...]  # written by an older version; their values were looked at
    faults: tuple[str, ...]
    advice: tuple[str, ...]


def check(folder: str | Path, *, progress: Progress | None = None) -> Checked:
    """Check an index, or that of a run, by reading every byte of it.

    Raises:
        ConfigError: when there is no index.
        StoreError: when its card is damaged, so that nothing can be compared with it.
    """
    folder = index_of(Path(folder).expanduser())
    card = read_card(folder)
    reading = _Reading(folder)
    count = sum(entry["passages"] for entry in card["segments"])
    with (progress or Silent()).task("Checking", count, "passages") as advance:
        for entry in card["segments"]:
            reading.segment(entry, card)
            advance(entry["passages"])
    if (gone := card["deleted"]) is not None:
        listed = _listed(gone["file"], gone)
        reading.part(gone["file"], listed, RESTORE, lambda: deleted_rows(folder, gone, count))
    if (made := card["approximate"]) is not None:
        listed = _listed(made["file"], made)
        reading.part(made["file"], listed, REMAKE, lambda: open_approximate(folder, made))
    files, model = checksums_of(card["model"]), card["model"]["path"]
    reading.part(model, files, RECOPY, lambda: None if files else model_of(folder, card))
    return Checked(
        folder=folder,
        passages=count,
        files=len(reading.recorded),
        bytes=sum(each.bytes for each in reading.recorded.values()),
        unrecorded=tuple(reading.unrecorded),
        faults=tuple(error.why for error in reading.found),
        advice=tuple(dict.fromkeys(error.advice for error in reading.found)),
    )


@dataclass(slots=True)
class _Reading:
    """State of a check: the files of an index read so far, and the faults found in them."""

    folder: Path
    recorded: dict[str, Checksum] = field(default_factory=dict)
    unrecorded: list[str] = field(default_factory=list)
    found: list[Damaged] = field(default_factory=list)

    def segment(self, entry: Mapping[str, Any], card: Mapping[str, Any]) -> None:
        """Read a segment."""
        try:
            about = read_about(self.folder, entry)
        except Damaged as error:
            self.found.append(error)
            return
        name = entry["name"]
        files = {f"{name}/{file}": each for file, each in (about.files or {}).items()}
        self.part(name, files, RESTORE, lambda: self._values(entry, card))

    def part(
        self, name: str, files: Mapping[str, Checksum], advice: str, look: Callable[[], object]
    ) -> None:
        """Compare files with their checksums and, when they are right, look at their contents."""
        self.recorded |= files
        if not files:
            self.unrecorded.append(name)
        wrong = faults(self.folder, files, anew=True).values()
        self.found += [Damaged(self.folder, why, advice) for why in wrong]
        if not wrong:
            try:
                look()
            except Damaged as error:
                self.found.append(error)
            except ModelError as error:
                self.found.append(Damaged(self.folder, str(error), advice))

    def _values(self, entry: Mapping[str, Any], card: Mapping[str, Any]) -> None:
        segment = open_segment(self.folder, entry, card["width"], card["similarity"])
        segment.check_lengths()
        for row in range(len(segment)):
            segment.passage(row)


def _listed(name: str, entry: Mapping[str, Any]) -> dict[str, Checksum]:
    """The checksum that a card's entry has of its file, if it has."""
    recorded = entry.get("checksum")
    return {} if recorded is None else {name: Checksum(**recorded)}
