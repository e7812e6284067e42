"""Which passages and queries are in training examples, and what do these judge?

    FILE.jsonl                                   all of them train
    FOLDER/train.jsonl, dev.jsonl, test.jsonl    those that are there

Each line is an example as FlagEmbedding, sentence-transformers, Tevatron or DPR write them
(`limbeck.data.example_rows`); a note says as which of them a file was read. Files may be gzipped.

Such files have texts; ids in them are not read. The passages are the distinct texts in all of them,
and an id is the digest of the text, so a text is one passage or query wherever it stands. A given
positive is a judgement of grade 1, a given negative one of grade 0; a text that is both to one
query is a positive, and counted. Scores of a teacher are no judgements: `--teacher scores:FILE`
reads them.

This module knows no tokenizer and no model.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from limbeck.data.builders import GrowingQrels, GrowingTexts, finished
from limbeck.data.collection import Collection, Texts
from limbeck.data.example_rows import Example, example_of
from limbeck.data.lines import Problem, Report, find, json_object, lines
from limbeck.types import SPLITS, Qrels, Split

ENDINGS = (".jsonl", ".jsonl.gz")
SHAPE = (
    'Each line must be one example such as {"query": "...", "pos": ["..."], "neg": ["..."]} or '
    '{"anchor": "...", "positive": "...", "negative": "..."}.'
)


def examples_in(folder: Path) -> list[Path]:
    """The files of a folder that are called as files of examples are."""
    found = [find(folder, f"{split}.jsonl", []) for split in SPLITS]
    return [file for file in found if file]


def scan_examples(path: Path, report: Report) -> Collection:
    """Read the usable part of a file or folder of examples; everything else goes to `report`."""
    notes: list[str] = []
    if path.is_dir():
        name = path.resolve().name
        found = {split: find(path, f"{split}.jsonl", notes) for split in SPLITS}
        files = {split: file for split, file in found.items() if file}
    else:
        name, files = path.name.removesuffix(".gz").removesuffix(".jsonl"), {"train": path}
    passages = GrowingTexts("passage", report, notes)
    queries = GrowingTexts("query", passages.report, notes)
    grades: dict[Split, dict[tuple[str, str], int]] = {}
    for split, file in files.items():
        title = file.name.removesuffix(".gz")
        judged = grades.setdefault(split, {})
        unread: dict[str, None] = {}
        shapes: Counter[str] = Counter()
        conflicts = 0
        for number, example in read_examples(file, title, passages.report):
            unread |= dict.fromkeys(example.unread)
            shapes[example.shape] += 1
            query = content_id(example.query)
            if query not in queries:
                queries.add(title, number, query, example.query)
            for (heading, text), grade in zip(example.passages, example.grades, strict=True):
                passage = passage_id(heading, text)
                if passage not in passages:
                    passages.add(title, number, passage, text, heading)
                before = judged.setdefault((query, passage), grade)
                conflicts += before != grade
                judged[query, passage] = max(before, grade)
        if not judged and not passages.report.count:
            passages.report(Problem(f"empty {title}", title, "empty, there are no examples", SHAPE))
        notes += [f"{title}: {lines:,} lines read as {whose}" for whose, lines in shapes.items()]
        if unread:
            notes.append(f"{title}: not read: {', '.join(unread)}")
        if conflicts:
            notes.append(
                f"{title}: {conflicts:,} times a passage is given as positive and as negative of "
                "one query; positive counts"
            )
    if not len(passages):
        return Collection(name, Texts([], []), Texts([], []), {}, tuple(notes))
    qrels: dict[Split, Qrels] = {}
    texts = passages.done(path.name, SHAPE), queries.done(path.name, SHAPE)
    for split, judged in grades.items():
        title = files[split].name.removesuffix(".gz")
        growing = GrowingQrels(title, split, texts[1], texts[0], report, notes)
        for (query, passage), grade in judged.items():
            growing.add(title, query, passage, grade)
        qrels[split] = growing.done()
    return finished(name, *texts, qrels, notes)


def read_examples(file: Path, name: str, report: Report) -> Iterator[tuple[int, Example]]:
    """Number and example of each line that can be used."""
    for number, raw in lines(file, name, report):
        row = json_object(raw, f"{name}:{number}", SHAPE, report)
        example = None if row is None else example_of(row, f"{name}:{number}", report)
        if example is not None:
            yield number, example


def content_id(text: str) -> str:
    """The id of a text that has none: the digest of its content.

    Example:
        >>> content_id("who sleeps?") == content_id(" who sleeps? ")
        True
    """
    content = text.strip().encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def passage_id(title: str, text: str) -> str:
    """The id of a passage that has none: the digest of its title, if any, and its text."""
    return content_id(f"{title.strip()} {text.strip()}")
