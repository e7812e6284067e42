"""Can this collection be used, and what should its owner know about it?

A `Report` has every kind of error at its first place, warnings, notes and counts. Errors are
exactly what reading the collection refuses; warnings stop nothing; notes say how it was read.

This module knows no tokenizer, no model and no recipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from limbeck.data.collection import Collection, Texts, positives, with_language
from limbeck.data.lines import Problem
from limbeck.data.reading import scan, with_queries
from limbeck.language import AUTO
from limbeck.types import SPLITS, Qrels

LONG_TEXT = 100_000  # characters; models read the first few thousand


@dataclass(frozen=True, slots=True)
class Report:
    """Errors, warnings, notes and counts from checking a collection, or other data.

    `errors` are what distilling would refuse, one line per kind with its first place and its count;
    `notes` are the collection's own, on what was decided while reading;
    `counts` are nested by subject and ready for JSON.
    """

    data: str
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    counts: dict[str, dict[str, object]]

    def lines(self) -> list[str]:
        """The report for people: counts, notes, warnings, errors, then the verdict."""
        lines = [
            f"{subject}: " + ", ".join(f"{name} {_shown(value)}" for name, value in values.items())
            for subject, values in self.counts.items()
        ]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines += [f"error: {error}" for error in self.errors]
        verdict = "cannot be used" if self.errors else "can be used"
        return [*lines, f"{self.data} {verdict}."]

    def to_json(self) -> dict[str, object]:
        """The report for programs."""
        return {
            "data": self.data,
            "usable": not self.errors,
            "errors": list(self.errors),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "counts": self.counts,
        }


class Problems:
    """Collects problems: the first of each kind, and how many there are of it."""

    def __init__(self) -> None:
        self.first: dict[str, Problem] = {}
        self.times: Counter[str] = Counter()

    def __call__(self, problem: Problem) -> None:
        """Take a problem."""
        self.first.setdefault(problem.kind, problem)
        self.times[problem.kind] += 1

    def lines(self) -> tuple[str, ...]:
        """A line for each kind, with its first place."""
        return tuple(
            f"{problem}"
            + (f" ({self.times[kind] - 1:,} more like it)" if self.times[kind] > 1 else "")
            for kind, problem in self.first.items()
        )


def check(
    data: str | Path, *, drop_unknown_judgements: bool = False, language: str = AUTO
) -> Report:
    """The report on a collection.

    Raises:
        ConfigError: when DATA is nothing that can be read, or the language is not covered.
    """
    problems = Problems()
    collection = scan(data, problems, drop_unknown_judgements=drop_unknown_judgements)
    collection = with_language(collection, language)
    if not problems.first:
        collection = with_queries(collection, seed=0)
    return Report(
        str(data),
        problems.lines(),
        tuple(_warnings(collection)),
        collection.notes,
        _counts(collection),
    )


def _counts(collection: Collection) -> dict[str, dict[str, object]]:
    counts: dict[str, dict[str, object]] = {
        "passages": _text_counts(collection.passages),
        "queries": {
            **_text_counts(collection.queries),
            "labelled": len(collection.labelled),
            "unlabelled": len(collection.unlabelled),
        },
    }
    counts |= {
        split: _split_counts(collection.qrels[split])
        for split in SPLITS
        if split in collection.qrels
    }
    return counts


def _text_counts(texts: Texts) -> dict[str, object]:
    """Number, lengths in words, and texts that are empty or repeat another's."""
    lengths = sorted(len(text.split()) for text in texts.texts) or [0]
    return {
        "number": len(texts),
        "empty": sum(not text for text in texts.texts),
        "repeated": len(texts) - len(set(texts.texts)),
        "mean words": round(mean(lengths), 1),
        "median words": lengths[len(lengths) // 2],
        "p95 words": lengths[int(len(lengths) * 0.95)],
        "max words": lengths[-1],
    }


def _split_counts(qrels: Qrels) -> dict[str, object]:
    """Queries, judged pairs and grades of one split."""
    grades = Counter(grade for judged in qrels.values() for grade in judged.values())
    return {
        "queries": len(qrels),
        "queries with a positive": sum(bool(positives(judged)) for judged in qrels.values()),
        "judged pairs": grades.total(),
        "grades": {str(grade): number for grade, number in sorted(grades.items())},
    }


def _warnings(collection: Collection) -> list[str]:
    found = []
    for noun, texts in (("passages", collection.passages), ("queries", collection.queries)):
        empty = [id_ for id_, text in zip(texts.ids, texts.texts, strict=True) if not text]
        if empty:
            found.append(f"{len(empty):,} {noun} are empty ({_examples(empty)})")
        by_text: dict[str, str] = {}
        again = [
            id_
            for id_, text in zip(texts.ids, texts.texts, strict=True)
            if text and by_text.setdefault(text, id_) != id_
        ]
        if again:
            found.append(f"{len(again):,} {noun} repeat another's text ({_examples(again)})")
        long = [
            id_ for id_, text in zip(texts.ids, texts.texts, strict=True) if len(text) > LONG_TEXT
        ]
        if long:
            found.append(
                f"{len(long):,} {noun} are longer than {LONG_TEXT:,} characters "
                f"({_examples(long)}); only their beginning is read"
            )
        spaced = [id_ for id_ in texts.ids if len(id_.split()) != 1]
        if spaced:
            found.append(
                f"{len(spaced):,} ids of {noun} hold spaces ({_examples(spaced)}), "
                "which TREC run files cannot"
            )
    if "dev" not in collection.qrels and "train" in collection.qrels:
        found.append("dev: no judgements, so a part of the training queries is set aside")
    return [*found, *_shared_texts(collection)]


def _shared_texts(collection: Collection) -> list[str]:
    """Warnings on different queries of equal text in two splits, or unlabelled and in a split that
    is held out: training data would be measured on.
    """
    queries = collection.queries

    def text(query: str) -> str:
        return queries.texts[queries.index[query]]

    found = []
    for index, one in enumerate(SPLITS):
        earlier = collection.qrels.get(one, {})
        texts = {text(query) for query in earlier}
        for other in SPLITS[index + 1 :]:
            shared = [
                query
                for query in collection.qrels.get(other, {})
                if query not in earlier and text(query) in texts
            ]
            if shared:
                found.append(
                    f"{len(shared):,} queries of {other} have the text of a query of {one} "
                    f"({_examples(shared)})"
                )
    for split in ("dev", "test"):
        held_out = {text(query) for query in collection.qrels.get(split, {})}
        shared = [query for query in collection.unlabelled if text(query) in held_out]
        if shared:
            found.append(
                f"{len(shared):,} unlabelled queries have the text of a query of {split} "
                f"({_examples(shared)})"
            )
    return found


def _examples(ids: Sequence[str]) -> str:
    """The first few of some ids."""
    return ", ".join(f'"{id_}"' for id_ in ids[:3]) + (", ..." if len(ids) > 3 else "")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {number:,}" for key, number in value.items()) + "}"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
