"""What does a BEIR folder hold, and can all of it be used?

    FOLDER/corpus.jsonl     {"_id": "d1", "title": "optional", "text": "..."} on each line
    FOLDER/queries.jsonl    {"_id": "q1", "text": "..."}
    FOLDER/qrels/train.tsv  query-id, corpus-id, score separated by tabs; a header line is optional;
                            likewise dev.tsv and test.tsv; a score above 0 means relevant

Every file may be packed as .gz; places are named by the line of the unpacked file. Nothing is lost
in silence: what cannot be used is refused, and what was decided is a note of the collection.

This module knows no tokenizer and no model.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from limbeck.data.collection import LONE_SURROGATE, Collection, Texts, positives
from limbeck.errors import DataError
from limbeck.types import SPLITS, PassageId, Qrels, QueryId, Split

GRADE = re.compile(r"[+-]?\d{1,9}")  # what trec_eval's 32-bit integers hold


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that cannot be used; problems of one `kind` differ only in their place."""

    kind: str
    where: str  # corpus.jsonl:7
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.where}: {self.found}. {self.advice}"


def read_beir(folder: Path, *, drop_unknown_judgements: bool = False) -> Collection:
    """The collection in a BEIR folder.

    With `drop_unknown_judgements`, judgements that name unknown ids are left out and counted in a
    note instead of refused.

    Raises:
        DataError: at the first thing that cannot be used, naming its file and line.
    """

    def refuse(problem: Problem) -> NoReturn:
        raise DataError(f"{folder}/{problem}")

    return scan_beir(folder, refuse, drop_unknown_judgements=drop_unknown_judgements)


def read_passages(path: Path) -> Texts:
    """The passages in one file such as `corpus.jsonl`, packed as .gz or not.

    Raises:
        DataError: at the first thing that cannot be used, naming its file and line.
    """

    def refuse(problem: Problem) -> NoReturn:
        raise DataError(f"{path.parent}/{problem}")

    return _Reader(path.parent, refuse).texts(path.name, "passage", with_title=True)


def scan_beir(
    folder: Path, report: Callable[[Problem], None], *, drop_unknown_judgements: bool = False
) -> Collection:
    """What can be used of a BEIR folder; everything else goes to `report`, in file order.

    Should `report` return, the line or judgement in question is left out.
    """
    reader = _Reader(folder, report)
    passages = reader.texts("corpus.jsonl", "passage", with_title=True)
    queries = reader.texts("queries.jsonl", "query", with_title=False)
    qrels: dict[Split, Qrels] = {}
    for split in SPLITS:
        judged = reader.judgements(split, passages, queries, drop_unknown=drop_unknown_judgements)
        if judged:
            qrels[split] = judged
    collection = Collection(folder.resolve().name, passages, queries, qrels)
    notes = (*reader.notes, *_unread(folder), *_consequences(collection))
    return Collection(collection.name, passages, queries, qrels, notes)


@dataclass(slots=True)
class _Reader:
    """Reads the files of one folder; collects notes on what it decided."""

    folder: Path
    report: Callable[[Problem], None]
    notes: list[str] = field(default_factory=list)

    def texts(self, name: str, noun: str, *, with_title: bool) -> Texts:
        """The texts of a .jsonl file, empty when it cannot be read."""
        ids: list[str] = []
        texts: list[str] = []
        lines: list[int] = []  # where each text was found
        position: dict[str, int] = {}
        merged = repaired = 0
        path = self._find(name)
        if path is None:
            what = "passages" if with_title else "queries"
            self.report(
                Problem(
                    f"missing {name}",
                    name,
                    "missing (nor is there a .gz of it)",
                    f'Write the {what} there, one {{"_id": "...", "text": "..."}} per line.',
                )
            )
            return Texts([], [])
        before = _Counter(self.report)
        for number, raw in self._lines(path, name, before):
            row = self._row(f"{name}:{number}", raw, before)
            if row is None:
                continue
            text = row["text"].strip()
            if with_title:
                text = f"{(row.get('title') or '').strip()} {text}".strip()
            if b"\\u" in raw and LONE_SURROGATE.search(text):
                text = LONE_SURROGATE.sub("\ufffd", text)
                repaired += 1
            first = position.setdefault(row["_id"], len(ids))
            if first == len(ids):
                ids.append(row["_id"])
                texts.append(text)
                lines.append(number)
            elif texts[first] == text:
                merged += 1
            else:
                before(
                    Problem(
                        f"{noun} id twice",
                        f"{name}:{number}",
                        f'id "{row["_id"]}" has another text on line {lines[first]}',
                        "Give each text an id of its own.",
                    )
                )
        if not ids and not before.count:
            plural = "passages" if with_title else "queries"
            self.report(
                Problem(
                    f"empty {name}",
                    name,
                    f"empty, there are no {plural}",
                    f'Write the {plural} there, one {{"_id": "...", "text": "..."}} per line.',
                )
            )
        if merged:
            self.notes.append(f"{name}: {merged:,} repeated lines (same id, same text) merged")
        if repaired:
            self.notes.append(
                f"{name}: {repaired:,} texts held half a character (a lone surrogate), "
                "replaced by U+FFFD"
            )
        return Texts(ids, texts)

    def judgements(
        self, split: Split, passages: Texts, queries: Texts, *, drop_unknown: bool
    ) -> Qrels:
        """The judgements of one split; none when it has no file."""
        name = f"qrels/{split}.tsv"
        path = self._find(name)
        if path is None:
            return {}
        judged: Qrels = {}
        unknown = repeated = 0
        before = _Counter(self.report)
        for number, raw in self._lines(path, name, before):
            where = f"{name}:{number}"
            row = self._judgement(where, raw, queries, before)
            if row is None:
                continue
            query, passage, grade = row
            if query not in queries.index or passage not in passages.index:
                unknown += 1
                if not drop_unknown:
                    before(_unknown(where, query, passage, queries))
                continue
            grades = judged.setdefault(QueryId(query), {})
            repeated += passage in grades
            grades[PassageId(passage)] = max(grade, grades.get(PassageId(passage), grade))
        if drop_unknown and unknown:
            self.notes.append(f"{name}: {unknown:,} judgements that name unknown ids dropped")
        if repeated:
            self.notes.append(
                f"{name}: {repeated:,} repeated judgements merged, the highest grade counts"
            )
        without = sum(not positives(grades) for grades in judged.values())
        if split == "train" and without == len(judged) and not before.count:
            self.report(
                Problem(
                    "no positive in train",
                    name,
                    "no query has a relevant passage (a score above 0)",
                    "Correct the scores, or remove the file to learn from a given teacher alone.",
                )
            )
        elif not judged and not before.count:
            self.notes.append(f"{name}: no judgements")
        elif without:
            consequence = (
                "used as unlabelled" if split == "train" else "every figure counts 0 for them"
            )
            self.notes.append(
                f"{name}: {without:,} of {len(judged):,} queries have only negatives judged; "
                f"{consequence}"
            )
        return judged

    def _find(self, name: str) -> Path | None:
        """The file of that name, plain or packed."""
        plain, packed = self.folder / name, self.folder / f"{name}.gz"
        if plain.is_file():
            if packed.is_file():
                self.notes.append(f"{name}: read, and {name}.gz beside it ignored")
            return plain
        return packed if packed.is_file() else None

    def _lines(
        self, path: Path, name: str, report: Callable[[Problem], None]
    ) -> Iterator[tuple[int, bytes]]:
        """Number (from 1) and bytes of each line that is not blank."""
        number = 0
        try:
            with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
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

    def _row(
        self, where: str, raw: bytes, report: Callable[[Problem], None]
    ) -> dict[str, Any] | None:
        """The object on a line of a .jsonl file, its fields checked; None after a report."""
        shape = 'Each line must be one object such as {"_id": "d1", "text": "..."}.'
        try:
            # control characters are allowed within strings: real text has them
            row = json.loads(raw.decode(), strict=False)
        except UnicodeDecodeError as error:
            report(_not_utf8(where, error))
            return None
        except (json.JSONDecodeError, RecursionError) as error:
            place = f"at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            report(
                Problem("not JSON", where, f"not JSON ({why} {place})".replace(" )", ")"), shape)
            )
            return None
        if not isinstance(row, dict):
            report(Problem("no object", where, f"{_shown(row)} instead of an object", shape))
            return None
        for key, optional in (("_id", False), ("text", False), ("title", True)):
            value = row.get(key)
            if isinstance(value, str) or (optional and value is None):
                continue
            if key not in row:
                names = ", ".join(f'"{name}"' for name in row) or "nothing"
                found = f'no "{key}" (it has {names})'
            else:
                found = f'"{key}" is {_shown(value)}, not a text'
            advice = "Put it in quotes." if isinstance(value, int | float) else shape
            report(Problem(f'bad "{key}"', where, found, advice))
            return None
        if not row["_id"] or LONE_SURROGATE.search(row["_id"]):
            found = '"_id" holds half a character' if row["_id"] else '"_id" is empty'
            report(Problem('bad "_id"', where, found, "Give each text a readable id of its own."))
            return None
        return row

    def _judgement(
        self, where: str, raw: bytes, queries: Texts, report: Callable[[Problem], None]
    ) -> tuple[str, str, int] | None:
        """Query id, passage id and grade of a line; None for a header or after a report."""
        try:
            columns = raw.decode().rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            report(_not_utf8(where, error))
            return None
        expected = "query-id, corpus-id and score, separated by tabs"
        if len(columns) != 3:
            advice = (
                "This looks like a TREC qrels file: drop its second column and use tabs."
                if len(raw.split()) == 4
                else f"Each line must have {expected}."
            )
            found = f"{len(columns)} column{'s' * (len(columns) != 1)} instead of 3"
            report(Problem("bad columns", where, found, advice))
            return None
        query, passage, grade = columns
        if GRADE.fullmatch(grade.strip()):
            return query, passage, int(grade)
        if where.endswith(":1") and query not in queries.index:
            return None  # the header
        report(
            Problem(
                "bad score",
                where,
                f'score "{grade}" is not a whole number (of at most 9 digits)',
                "Write 0 for not relevant, 1 or more for relevant.",
            )
        )
        return None


class _Counter:
    """Passes problems on and counts them, so that no second problem is made of a first."""

    def __init__(self, report: Callable[[Problem], None]) -> None:
        self._report = report
        self.count = 0

    def __call__(self, problem: Problem) -> None:
        self.count += 1
        self._report(problem)


def _unknown(where: str, query: str, passage: str, queries: Texts) -> Problem:
    known_query = query in queries.index
    noun, id_, file = (
        ("passage", passage, "corpus.jsonl") if known_query else ("query", query, "queries.jsonl")
    )
    return Problem(
        f"unknown {noun} id",
        where,
        f'{noun} id "{id_}" is not in {file}',
        "Add it there, or give --drop-unknown-judgements to go on without such judgements.",
    )


def _not_utf8(where: str, error: UnicodeDecodeError) -> Problem:
    return Problem(
        "not UTF-8",
        where,
        f"byte {error.start + 1} of the line is not UTF-8",
        "Save the file as UTF-8.",
    )


def _shown(value: object) -> str:
    """A JSON value, short enough for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _unread(folder: Path) -> list[str]:
    """Notes on files among the judgements that no split is read from."""
    found = sorted(path.name for path in (folder / "qrels").glob("*.tsv*"))
    known = {f"{split}.tsv{ending}" for split in SPLITS for ending in ("", ".gz")}
    return [
        f"qrels/{name}: not read; the splits are train.tsv, dev.tsv and test.tsv"
        for name in found
        if name not in known
    ]


def _consequences(collection: Collection) -> list[str]:
    """Notes on what follows from missing splits, and on queries that are in two."""
    notes = []
    if not collection.qrels:
        notes.append("no judgements: a teacher must be given, and there are no quality figures")
    else:
        if not collection.labelled and not collection.unlabelled:
            notes.append(
                "train: no query to learn from, every one is in dev or test; only to evaluate"
            )
        elif "train" not in collection.qrels:
            notes.append(
                "train: no judgements; a teacher must be given, and it alone is learned from"
            )
        if "test" not in collection.qrels:
            notes.append("test: no judgements, so there are no test figures")
    for index, one in enumerate(SPLITS):
        for other in SPLITS[index + 1 :]:
            both = collection.qrels.get(one, {}).keys() & collection.qrels.get(other, {}).keys()
            if both:
                notes.append(
                    f"{len(both):,} queries are judged in both {one} and {other}: "
                    f"figures on {other} flatter what {one} taught"
                )
    return notes
