"""What does a data set of the package ir_datasets hold?

`ir_datasets:NAME` has the passages of NAME, its queries, and the judgements of NAME and of those
below it that are named by a split: `beir/scifact` brings `beir/scifact/train` and `.../test`. A
name may also be of one split (`msmarco-passage/dev/small`), and several with commas between, such
as `msmarco-passage/train,msmarco-passage/dev/small`, are one collection when they have the same
passages. Two that judge the same split are refused.

The package downloads what it does not have yet. This module knows no file of it.
"""

from __future__ import annotations

from typing import Any

from limbeck.data.builders import (
    SPLIT_WORDS,
    GrowingQrels,
    GrowingTexts,
    finished,
    without_unjudged,
)
from limbeck.data.collection import Collection
from limbeck.data.lines import Report
from limbeck.errors import ConfigError
from limbeck.types import SPLITS, Qrels, Split

PREFIX = "ir_datasets:"


def scan_ir_datasets(
    names: str, report: Report, *, drop_unknown_judgements: bool = False
) -> Collection:
    """Read the usable part of the data sets of these names (commas between); all else is reported.

    Raises:
        ConfigError: without the package, for unknown names, for names that do not belong together,
            and when something is not there and cannot be downloaded.
    """
    package = _package()
    sets = _sets(package, names)
    try:
        return _read(package, names, sets, report, drop_unknown_judgements)
    except OSError as error:  # also every error of the package that downloads
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{PREFIX}{names} is not on this machine, and could not be downloaded ({reason}). "
            f"Where there is a network, run `limbeck data convert {PREFIX}{names} OUT`, and copy "
            "OUT here; or copy the folder ~/.ir_datasets (see IR_DATASETS_HOME)."
        ) from error


def _package() -> Any:
    try:
        import ir_datasets
    except ImportError as error:
        raise ConfigError(
            f"{PREFIX}... needs the package ir_datasets. Install it: "
            "pip install 'limbeck[ir-datasets]'."
        ) from error
    return ir_datasets


def _sets(package: Any, names: str) -> dict[str, tuple[Any, Split | None]]:
    """The data sets by their names, with the split that each judges, if any."""
    found: dict[str, tuple[Any, Split | None]] = {}
    for name in names.split(","):
        its_set = _load(package, name)
        if its_set is None:
            raise ConfigError(
                f"{PREFIX}{name}: there is no such data set. Look for its name in the catalogue, "
                "https://ir-datasets.com."
            )
        words = [SPLIT_WORDS[part] for part in name.split("/") if part in SPLIT_WORDS]
        found[name] = its_set, (words[-1] if words else "test") if its_set.has_qrels() else None
        if not words:
            for word, split in SPLIT_WORDS.items():
                below = _load(package, f"{name}/{word}")
                if below is not None and below.has_qrels():
                    found[f"{name}/{word}"] = below, split
    return found


def _load(package: Any, name: str) -> Any:
    try:
        return package.load(name)
    except KeyError:
        return None


def _read(
    package: Any,
    names: str,
    sets: dict[str, tuple[Any, Split | None]],
    report: Report,
    drop_unknown: bool,
) -> Collection:
    """The collection of all these sets."""
    notes: list[str] = []
    first = next(iter(sets))
    if not sets[first][0].has_docs():
        raise ConfigError(f"{PREFIX}{first} has no passages. Name a data set that has.")
    corpus = {name: package.docs_parent_id(name) for name, (each, _) in sets.items()}
    for name, its_corpus in corpus.items():
        if its_corpus != corpus[first]:
            raise ConfigError(
                f"{PREFIX}{names}: {name} has the passages of {its_corpus}, and {first} those of "
                f"{corpus[first]}. Name data sets of one corpus."
            )
    judges: dict[Split, str] = {}
    for name, (_, split) in sets.items():
        if split is not None and judges.setdefault(split, name) != name:
            raise ConfigError(
                f"{PREFIX}{names}: {judges[split]} and {name} both judge {split}. Name one of them."
            )
    passages = GrowingTexts("passage", report, notes)
    for number, doc in enumerate(sets[first][0].docs_iter(), start=1):
        passages.add(f"{corpus[first]} docs", number, doc.doc_id, doc.default_text())
    queries = GrowingTexts("query", report, notes)
    # what is held out comes last, so that its queries can be told from the others
    order = sorted(sets, key=lambda name: sets[name][1] in ("dev", "test"))
    trained_on = 0
    for name in order:
        its_set, split = sets[name]
        if its_set.has_queries():
            for number, query in enumerate(its_set.queries_iter(), start=1):
                queries.add(f"{name} queries", number, query.query_id, query.default_text())
        trained_on = trained_on if split in ("dev", "test") else len(queries)
    shape = "or name another data set"
    texts = passages.done(f"{corpus[first]} docs", shape), queries.done(f"{first} queries", shape)
    qrels: dict[Split, Qrels] = {}
    for split in SPLITS:
        if split in judges:
            name = f"{judges[split]} qrels"
            judged = GrowingQrels(
                name,
                split,
                texts[1],
                texts[0],
                report,
                notes,
                files=(f"{first} queries", f"{first} docs"),
                drop_unknown=drop_unknown,
            )
            for number, row in enumerate(sets[judges[split]][0].qrels_iter(), start=1):
                judged.add(f"{name}:{number}", row.query_id, row.doc_id, int(row.relevance))
            qrels[split] = judged.done()
    asked = without_unjudged(texts[1], trained_on, qrels, notes)
    return finished(names.replace("/", "-"), texts[0], asked, qrels, notes)
