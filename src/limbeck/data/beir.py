"""What does a BEIR folder hold, and can all of it be used?

    FOLDER/corpus.jsonl     {"_id": "d1", "title": "optional", "text": "..."} on each line
    FOLDER/queries.jsonl    {"_id": "q1", "text": "..."}
    FOLDER/qrels/train.tsv  query-id, corpus-id, score separated by tabs, with or without a header,
                            or TREC's four columns; likewise dev.tsv and test.tsv; a score above 0
                            means relevant

Every file may be packed as .gz; places are named by the line of the unpacked file. Nothing is lost
in silence: what cannot be used is refused, and what was decided is a note of the collection. A
folder with a corpus alone is a collection without queries.

This module knows no tokenizer and no model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from limbeck.data.builders import GrowingQrels, GrowingTexts, finished
from limbeck.data.collection import Collection, Texts
from limbeck.data.lines import Problem, Report, find, json_object, lines, shown
from limbeck.errors import DataError
from limbeck.types import SPLITS, Qrels, Split

_SHAPE = 'one {"_id": "...", "text": "..."} per line'


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

    return _Reader(path.parent, refuse).texts(path.name, "passage")


def scan_beir(folder: Path, report: Report, *, drop_unknown_judgements: bool = False) -> Collection:
    """Read the usable part of a BEIR folder; everything else goes to `report`, in file order.

    Should `report` return, the line or judgement in question is left out.
    """
    reader = _Reader(folder, report)
    passages = reader.texts("corpus.jsonl", "passage")
    queries = reader.texts("queries.jsonl", "query")
    qrels = {
        split: reader.judgements(split, passages, queries, drop_unknown=drop_unknown_judgements)
        for split in SPLITS
    }
    notes = (*reader.notes, *_unread(folder))
    return finished(folder.resolve().name, passages, queries, qrels, notes)


def is_corpus_only(folder: Path) -> bool:
    """Whether a BEIR folder has passages and neither queries nor judgements."""
    names = ["queries.jsonl", *(f"qrels/{split}.tsv" for split in SPLITS)]
    return find(folder, "corpus.jsonl", []) is not None and not any(
        find(folder, name, []) for name in names
    )


@dataclass(slots=True)
class _Reader:
    """Reads the files of one folder; collects notes on what it decided."""

    folder: Path
    report: Report
    notes: list[str] = field(default_factory=list)

    def texts(self, name: str, noun: Literal["passage", "query"]) -> Texts:
        """The texts of a .jsonl file, empty when it cannot be read."""
        path = find(self.folder, name, self.notes)
        if path is None:
            if noun == "query" and is_corpus_only(self.folder):
                return Texts([], [])
            what = "passages" if noun == "passage" else "queries"
            self.report(
                Problem(
                    f"missing {name}",
                    name,
                    "missing (nor is there a .gz of it)",
                    f"Write the {what} there, {_SHAPE}.",
                )
            )
            return Texts([], [])
        texts = GrowingTexts(noun, self.report, self.notes)
        for number, raw in lines(path, name, texts.report):
            row = _row(f"{name}:{number}", raw, texts.report)
            if row is not None:
                title = (row.get("title") or "") if noun == "passage" else ""
                texts.add(name, number, row["_id"], row["text"], title)
        return texts.done(name, _SHAPE)

    def judgements(
        self, split: Split, passages: Texts, queries: Texts, *, drop_unknown: bool
    ) -> Qrels:
        """The judgements of one split; none when it has no file."""
        name = f"qrels/{split}.tsv"
        path = find(self.folder, name, self.notes)
        if path is None:
            return {}
        judged = GrowingQrels(
            name, split, queries, passages, self.report, self.notes, drop_unknown=drop_unknown
        )
        judged.add_lines(lines(path, name, judged.report))
        return judged.done()


def _row(where: str, raw: bytes, report: Report) -> dict[str, Any] | None:
    """The object on a line of a .jsonl file, its fields checked; None after a report."""
    shape = 'Each line must be one object such as {"_id": "d1", "text": "..."}.'
    row = json_object(raw, where, shape, report)
    if row is None:
        return None
    for key, optional in (("_id", False), ("text", False), ("title", True)):
        value = row.get(key)
        if isinstance(value, str) or (optional and value is None):
            continue
        if key not in row:
            names = ", ".join(f'"{name}"' for name in row) or "nothing"
            found = f'no "{key}" (it has {names})'
        else:
            found = f'"{key}" is {shown(value)}, not a text'
        advice = "Put it in quotes." if isinstance(value, int | float) else shape
        report(Problem(f'bad "{key}"', where, found, advice))
        return None
    return row


def _unread(folder: Path) -> list[str]:
    """Notes on files among the judgements that no split is read from."""
    found = sorted(path.name for path in (folder / "qrels").glob("*"))
    known = {f"{split}.tsv{ending}" for split in SPLITS for ending in ("", ".gz")}
    return [
        f"qrels/{name}: not read; the splits are train.tsv, dev.tsv and test.tsv"
        for name in found
        if name not in known and not name.startswith(".")
    ]
