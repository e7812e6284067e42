"""What has been read so far, and does the next line fit to it?

Readers of every format put their rows in here: texts by id, and judgements of known ids. What does
not fit is reported with its place; what was decided is a note. `finished` makes the collection.

This module knows no format of a file, but the two layouts that lines of judgements have.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from limbeck.data.collection import LONE_SURROGATE, Collection, Texts, positives
from limbeck.data.lines import Counter, Problem, Report, decoded
from limbeck.data.ranks import could_be_ranks
from limbeck.types import SPLITS, PassageId, Qrels, QueryId, Split

SPLIT_WORDS: dict[str, Split] = {  # what splits are called elsewhere
    "train": "train",
    **dict.fromkeys(("dev", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "eval"), "test"),
}
# what trec_eval's 32-bit integers hold; tools that keep grades as floats write 1 as 1.0
GRADE = re.compile(r"([+-]?\d{1,9})(?:\.0*)?")
LONGEST_SCALE = 10  # passages of one query whose grades all differ: a longer one is of ranks
_EXPECTED = "query-id, corpus-id and score, separated by tabs, or the four columns of TREC qrels"


class GrowingTexts:
    """Passages or queries, read one after the other, perhaps from several files."""

    def __init__(self, noun: Literal["passage", "query"], report: Report, notes: list[str]) -> None:
        self.report = Counter(report)
        self._noun = noun
        self._notes = notes
        self._ids: list[str] = []
        self._texts: list[str] = []
        self._position: dict[str, int] = {}
        self._title_ends = array("q")
        self._lines = array("q")  # where each text was found, in ...
        self._files: list[tuple[int, str]] = []  # ... the last file that begins before it
        self._merged: dict[str, int] = {}
        self._repaired: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._position

    def add(self, file: str, number: int, id_: str, text: str, title: str = "") -> None:
        """Take a row, found on line `number` of a file; title and text are joined by one space.

        A lone surrogate is replaced, and counted; a row that was there before is merged.
        """
        where = f"{file}:{number}"
        if not id_ or LONE_SURROGATE.search(id_):
            found = "the id holds half a character" if id_ else "the id is empty"
            self.report(Problem("bad id", where, found, "Give each text a readable id of its own."))
            return
        title, text = title.strip(), text.strip()
        text = f"{title} {text}".strip() if title else text
        if not text.isascii() and LONE_SURROGATE.search(text):
            text = LONE_SURROGATE.sub("\ufffd", text)
            self._repaired[file] = self._repaired.get(file, 0) + 1
        first = self._position.setdefault(id_, len(self._ids))
        if first == len(self._ids):
            if not self._files or self._files[-1][1] != file:
                self._files.append((first, file))
            self._ids.append(id_)
            self._texts.append(text)
            self._title_ends.append(len(title))
            self._lines.append(number)
        elif self._texts[first] == text:
            self._merged[file] = self._merged.get(file, 0) + 1
        else:
            its_file = next(name for start, name in reversed(self._files) if start <= first)
            line = self._lines[first]
            there = f"on line {line}" if its_file == file else f"in {its_file}:{line}"
            self.report(
                Problem(
                    f"{self._noun} id twice",
                    where,
                    f'id "{id_}" has another text {there}',
                    "Give each text an id of its own.",
                )
            )

    def done(self, file: str, shape: str) -> Texts:
        """The texts, and notes on texts merged and repaired.

        That there are none is reported of `file`, unless something was reported before; `shape`
        says how they are written.
        """
        if not self._ids and not self.report.count:
            plural = "passages" if self._noun == "passage" else "queries"
            self.report(
                Problem(
                    f"empty {file}",
                    file,
                    f"empty, there are no {plural}",
                    f"Write the {plural} there, {shape}.",
                )
            )
        for file, merged in self._merged.items():
            self._notes.append(f"{file}: {merged:,} repeated lines (same id, same text) merged")
        for file, repaired in self._repaired.items():
            self._notes.append(
                f"{file}: {repaired:,} texts held half a character (a lone surrogate), "
                "replaced by U+FFFD"
            )
        return Texts(self._ids, self._texts, self._title_ends if any(self._title_ends) else None)


class GrowingQrels:
    """The judgements of one split, read one after the other.

    `name` is the file's, or whatever else a note calls them; `files` say where queries and
    passages of unknown ids would belong.
    """

    def __init__(
        self,
        name: str,
        split: Split,
        queries: Texts,
        passages: Texts,
        report: Report,
        notes: list[str],
        *,
        files: tuple[str, str] = ("queries.jsonl", "corpus.jsonl"),
        drop_unknown: bool = False,
    ) -> None:
        self.report = Counter(report)
        self._name = name
        self._split = split
        self._queries = queries
        self._passages = passages
        self._notes = notes
        self._files = files
        self._drop_unknown = drop_unknown
        self._judged: Qrels = {}
        self._unknown = self._repeated = 0

    def add(self, where: str, query: str, passage: str, grade: int) -> None:
        """Take a judgement; the highest grade of a pair counts."""
        if query not in self._queries.index or passage not in self._passages.index:
            self._unknown += 1
            if not self._drop_unknown:
                known = query in self._queries.index
                noun, id_ = ("passage", passage) if known else ("query", query)
                self.report(
                    Problem(
                        f"unknown {noun} id",
                        where,
                        f'{noun} id "{id_}" is not in {self._files[known]}',
                        "Add it there, or give --drop-unknown-judgements to go on without such "
                        "judgements.",
                    )
                )
            return
        grades = self._judged.setdefault(QueryId(query), {})
        self._repeated += passage in grades
        grades[PassageId(passage)] = max(grade, grades.get(PassageId(passage), grade))

    def done(self) -> Qrels:
        """The judgements, and notes on decisions made."""
        name, judged = self._name, self._judged
        if self._drop_unknown and self._unknown:
            self._notes.append(
                f"{name}: {self._unknown:,} judgements that name unknown ids dropped"
            )
        if self._repeated:
            self._notes.append(
                f"{name}: {self._repeated:,} repeated judgements merged, the highest grade counts"
            )
        without = sum(not positives(grades) for grades in judged.values())
        if self._split == "train" and without == len(judged) and not self.report.count:
            self.report(
                Problem(
                    "no positive in train",
                    name,
                    "no query has a relevant passage (a score above 0)",
                    "Correct the scores, or remove the file to learn from a given teacher alone.",
                )
            )
        elif not judged and not self.report.count:
            self._notes.append(f"{name}: no judgements")
        elif without:
            consequence = (
                "used as unlabelled" if self._split == "train" else "every figure counts 0 for them"
            )
            self._notes.append(
                f"{name}: {without:,} of {len(judged):,} queries have only negatives judged; "
                f"{consequence}"
            )
        return judged

    def add_lines(self, numbered: Iterable[tuple[int, bytes]]) -> None:
        """Take the lines of a file: query id, passage id and grade between tabs, or TREC's query
        id, any word, passage id and grade between tabs or spaces; a header may stand on line 1.

        Grades of three columns that count up like ranks are refused, unless a header is there.
        """
        header, of_trec = False, 0
        for number, raw in numbered:
            where = f"{self._name}:{number}"
            text = decoded(raw, where, self.report)
            if text is None:
                continue
            columns = text.split("\t")
            if len(columns) != 3:
                words = text.split()
                words = words if len(words) == 4 else columns  # an id may hold a space
                if len(words) != 4:
                    self.report(
                        Problem(
                            "bad columns",
                            where,
                            f"{len(columns)} column{'s' * (len(columns) != 1)} instead of 3",
                            f"Each line must have {_EXPECTED}.",
                        )
                    )
                    continue
                of_trec += 1
                columns = [words[0], *words[2:]]
            query, passage, grade = columns
            if whole := GRADE.fullmatch(grade.strip()):
                self.add(where, query, passage, int(whole[1]))
            elif number == 1 and query not in self._queries.index:
                header = True
            else:
                self.report(
                    Problem(
                        "bad score",
                        where,
                        f'score "{grade}" is not a whole number (of at most 9 digits)',
                        "Write 0 for not relevant, 1 or more for relevant.",
                    )
                )
        if of_trec:
            self._notes.append(f"{self._name}: {of_trec:,} lines read as the four columns of TREC")
        elif not header and self._looks_ranked():
            self.report(
                Problem(
                    "ranks for grades",
                    self._name,
                    "the numbers in the third column count up in every query, as ranks do",
                    "A run is no judgement: give it with --candidates. If they are grades, say so "
                    "in a first line: query-id, corpus-id and score, separated by tabs.",
                )
            )

    def _looks_ranked(self) -> bool:
        """Whether the grades could be a run's ranks."""
        grades = [(query, grade) for query, own in self._judged.items() for grade in own.values()]
        numbers = np.array([grade for _, grade in grades], dtype=np.float64)
        return could_be_ranks([query for query, _ in grades], numbers, several=LONGEST_SCALE + 1)


def without_unjudged(
    queries: Texts, trained_on: int, qrels: Mapping[Split, Qrels], notes: list[str]
) -> Texts:
    """The queries without those that nobody judged among the ones after the first `trained_on`,
    which are of dev and test: they are not meant to be trained on.
    """
    judged = {str(query) for split in qrels.values() for query in split}
    kept = [at for at, id_ in enumerate(queries.ids) if at < trained_on or id_ in judged]
    if len(kept) == len(queries):
        return queries
    notes.append(
        f"queries of dev and test: {len(queries) - len(kept):,} without judgements left out"
    )
    return Texts([queries.ids[at] for at in kept], [queries.texts[at] for at in kept])


def finished(
    name: str,
    passages: Texts,
    queries: Texts,
    qrels: Mapping[Split, Qrels],
    notes: Iterable[str] = (),
) -> Collection:
    """The collection, with notes on missing splits and on queries in two.

    Nothing follows where there are no queries at all: they are still to be made.
    """
    kept = {split: judged for split in SPLITS if (judged := qrels.get(split))}
    collection = Collection(name, passages, queries, kept)
    told = _consequences(collection) if len(queries) else []
    return Collection(name, passages, queries, kept, (*notes, *told))


def _consequences(collection: Collection) -> list[str]:
    """Notes on the consequences of missing splits, and on queries that are in two."""
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
