"""What stands on each line of a file, and where is that?

Every text file of a collection is read through here: plain or gzipped, as its first bytes say and
not its name, line by line, with the number of the line in the unpacked file. What cannot be used is
a `Problem` that names its place.

This module knows no collection and no format.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GZIP = b"\x1f\x8b"  # how a gzipped file begins; no text in UTF-8 does


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that cannot be used; problems of one `kind` differ only in their place."""

    kind: str
    where: str  # corpus.jsonl:7
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.where}: {self.found}. {self.advice}"


Report = Callable[[Problem], None]  # may raise; should it return, what it was told of is left out


class Counter:
    """Passes problems on and counts them, so that no second problem is made of a first."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.count = 0

    def __call__(self, problem: Problem) -> None:
        """Count a problem and pass it on."""
        self.count += 1
        self._report(problem)


def find(folder: Path, name: str, notes: list[str]) -> Path | None:
    """The file of that name, plain or packed; a note is added where there are both."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        if packed.is_file():
            notes.append(f"{name}: read, and {name}.gz beside it ignored")
        return plain
    return packed if packed.is_file() else None


def lines(path: Path, name: str, report: Report) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of each line that is not blank; in reports the file is `name`."""
    number = 0
    try:
        with path.open("rb") as file:
            packed = file.read(len(GZIP)) == GZIP
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        report(
            Problem(
                "unreadable file",
                f"{name}:{number + 1}",
                f"cannot be read ({error})",
                f"Make {path.name} again, or copy it again; it may be cut short.",
            )
        )


def decoded(raw: bytes, where: str, report: Report) -> str | None:
    """The text of a line without its line break; None after a report."""
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        report(
            Problem(
                "not UTF-8",
                where,
                f"byte {error.start + 1} of the line is not UTF-8",
                "Save the file as UTF-8.",
            )
        )
        return None


def json_object(raw: bytes, where: str, shape: str, report: Report) -> dict[str, Any] | None:
    """The object on a line of a .jsonl file; None after a report, whose advice is `shape`."""
    text = decoded(raw, where, report)
    if text is None:
        return None
    try:
        # control characters are allowed within strings: real text has them
        row = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:  # also a number of too many digits
        place = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        why = error.msg if isinstance(error, json.JSONDecodeError) else why
        report(Problem("not JSON", where, f"not JSON ({why}{place})", shape))
        return None
    if not isinstance(row, dict):
        report(Problem("no object", where, f"{shown(row)} instead of an object", shape))
        return None
    return row


def shown(value: object) -> str:
    """A JSON value, short enough for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
