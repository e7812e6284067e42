"""What does a folder in the layout of MS MARCO hold?

    FOLDER/collection.tsv      passage id and text, separated by a tab
    FOLDER/queries.NAME.tsv    query id and text; several files, or one queries.tsv
    FOLDER/qrels.NAME.tsv      query id, 0, passage id and grade (TREC's four columns)

The first word of NAME says the split: `train`; `dev`, `val`, `valid` or `validation`; `test` or
`eval`. So `qrels.dev.small.tsv` judges dev. Two files of judgements for one split are refused,
since it is not known which is meant, and so is any other name.

Queries that only files of dev and test have, and that nobody judged, are left out and counted: they
are not meant to be trained on. Others without judgements are unlabelled.

This module knows no tokenizer and no model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from limbeck.data.builders import (
    SPLIT_WORDS,
    GrowingQrels,
    GrowingTexts,
    finished,
    without_unjudged,
)
from limbeck.data.collection import Collection, Texts
from limbeck.data.lines import Problem, Report, decoded, find, lines
from limbeck.types import SPLITS, Qrels, Split

COLLECTION = "collection.tsv"
_FILE = re.compile(r"(queries|qrels)(?:\.(.+))?\.tsv(?:\.gz)?")
_SHAPE = "one id and one text per line, separated by a tab"


def scan_msmarco(
    folder: Path, report: Report, *, drop_unknown_judgements: bool = False
) -> Collection:
    """Read the usable part of such a folder; everything else goes to `report`, in file order."""
    notes: list[str] = []
    files = _files(folder, report)
    passages = GrowingTexts("passage", report, notes)
    _read_texts(folder, COLLECTION, passages, notes)
    known = passages.done(COLLECTION, _SHAPE)
    asked = GrowingTexts("query", report, notes)
    texts = sorted(
        (file for file in files if file.kind == "queries"), key=lambda file: file.held_out
    )
    trained_on = 0
    for file in texts:
        _read_texts(folder, file.name, asked, notes)
        trained_on = trained_on if file.held_out else len(asked)
    qrels_files = {file.split: file.name for file in files if file.kind == "qrels"}
    queries = Texts([], [])
    if texts or qrels_files:
        queries = asked.done(texts[0].name if texts else "queries.train.tsv", _SHAPE)
    qrels: dict[Split, Qrels] = {}
    for split in SPLITS:
        name = qrels_files.get(split)
        path = find(folder, name, notes) if name else None
        if name and path:
            judged = GrowingQrels(
                name,
                split,
                queries,
                known,
                report,
                notes,
                files=("the files of queries", COLLECTION),
                drop_unknown=drop_unknown_judgements,
            )
            judged.add_lines(lines(path, name, judged.report))
            qrels[split] = judged.done()
    queries = without_unjudged(queries, trained_on, qrels, notes)
    return finished(folder.resolve().name, known, queries, qrels, notes)


@dataclass(frozen=True, slots=True)
class _File:
    kind: Literal["queries", "qrels"]
    name: str  # without .gz
    split: Split | None  # queries.tsv alone has none

    @property
    def held_out(self) -> bool:
        """Whether its queries are not for training."""
        return self.split in ("dev", "test")


def _files(folder: Path, report: Report) -> list[_File]:
    """The files of queries and judgements, by name."""
    found: dict[str, _File] = {}
    judges: dict[Split, str] = {}
    for path in sorted(folder.iterdir()):
        match, name = _FILE.fullmatch(path.name), path.name.removesuffix(".gz")
        if match is None or name in found:
            continue
        kind: Literal["queries", "qrels"] = "queries" if match[1] == "queries" else "qrels"
        word = (match[2] or "").partition(".")[0]
        split = SPLIT_WORDS.get(word)
        if split is None and (word or kind == "qrels"):
            report(
                Problem(
                    f"no split {name}",
                    name,
                    "its name says no split",
                    f"Name it {kind}.train.tsv, {kind}.dev.tsv or {kind}.test.tsv, or move it out "
                    "of the folder.",
                )
            )
            continue
        if kind == "qrels" and split is not None and judges.setdefault(split, name) != name:
            report(
                Problem(
                    f"two files for {split}",
                    name,
                    f"judges {split}, and so does {judges[split]}",
                    "Keep one of them in the folder.",
                )
            )
            continue
        found[name] = _File(kind, name, split)
    return list(found.values())


def _read_texts(folder: Path, name: str, texts: GrowingTexts, notes: list[str]) -> None:
    """Put the lines of a file into `texts`."""
    path = find(folder, name, notes)
    assert path is not None  # it was listed
    for number, raw in lines(path, name, texts.report):
        line = decoded(raw, f"{name}:{number}", texts.report)
        if line is None:
            continue
        columns = line.split("\t")
        if len(columns) == 2:
            texts.add(name, number, *columns)
        else:
            texts.report(
                Problem(
                    "bad columns",
                    f"{name}:{number}",
                    f"{len(columns)} column{'s' * (len(columns) != 1)} instead of 2",
                    f"Write {_SHAPE}.",
                )
            )
