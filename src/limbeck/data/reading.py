"""What does DATA name, and who reads it?

    pydocs             the built-in collection
    ir_datasets:NAME   a data set of that package
    hf:NAME            a data set of the Hugging Face hub, in BEIR's layout
    FOLDER             BEIR's layout, MS MARCO's, or training examples, by its files
    FILE.jsonl         training examples

A note says which layout a folder was read in, and by which file. This module knows no format: it
looks at names alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from limbeck.data import hub, irds
from limbeck.data.beir import is_corpus_only, scan_beir
from limbeck.data.collection import DATA_SEED, Collection, with_dev, with_labels, with_language
from limbeck.data.derived import DerivedTexts
from limbeck.data.examples import ENDINGS, examples_in, scan_examples
from limbeck.data.lines import Problem, Report, find
from limbeck.data.made_queries import queries_of_words, with_made_queries
from limbeck.data.msmarco import COLLECTION, scan_msmarco
from limbeck.data.pydocs import read_pydocs
from limbeck.errors import ConfigError, DataError
from limbeck.language import AUTO, known

LAYOUTS = (
    "a folder with corpus.jsonl, queries.jsonl and, for judgements, qrels/train.tsv; one with "
    "collection.tsv, queries.train.tsv and qrels.train.tsv; or training examples in a file .jsonl"
)


def looks_like_collection(data: str) -> bool:
    """Whether DATA is named as a collection is, or has its files: looks at names alone."""
    if data == "pydocs" or data.startswith((irds.PREFIX, hub.PREFIX)):
        return True
    path = Path(data).expanduser()
    try:
        if path.is_file():
            return path.name.endswith(ENDINGS)
        names = ("corpus.jsonl", COLLECTION)
        return any(find(path, name, []) for name in names) or bool(examples_in(path))
    except OSError:
        return False


def read_collection(
    data: str | Path,
    *,
    seed: int = 0,
    drop_unknown_judgements: bool = False,
    keep_own_passage: bool = False,
    language: str = AUTO,
) -> Collection:
    """The collection that DATA names, with a dev split where possible.

    A corpus alone gets queries that are made from it: the collection then is `synthetic`. A query
    that is a passage itself does not find it, unless `keep_own_passage`. The `language` is what
    searching by words goes by: a code such as `de`, or `auto`.

    Raises:
        ConfigError: when DATA is nothing that can be read, or the language is not covered.
        DataError: when it holds something that cannot be used.
    """
    collection = read_as_given(
        data,
        drop_unknown_judgements=drop_unknown_judgements,
        keep_own_passage=keep_own_passage,
        language=language,
    )
    return complete(collection, seed=seed)


def read_as_given(
    data: str | Path,
    *,
    drop_unknown_judgements: bool = False,
    keep_own_passage: bool = False,
    language: str = AUTO,
) -> Collection:
    """The collection that DATA names as it is, without a dev split or queries of our making.

    Raises:
        ConfigError: when DATA is nothing that can be read, or the language is not covered.
        DataError: at the first thing that cannot be used, naming its place.
    """
    if language != AUTO:
        known(language)  # refused before anything is read
    scan, before = _scanner(data, drop_unknown_judgements)

    def refuse(problem: Problem) -> NoReturn:
        raise DataError(f"{before}{problem}")

    collection = _with_own_passages(scan(refuse), keep=keep_own_passage)
    return with_language(collection, language)


def scan(data: str | Path, report: Report, *, drop_unknown_judgements: bool = False) -> Collection:
    """Read the usable part of the collection that DATA names; everything else goes to `report`.

    Raises:
        ConfigError: when DATA is nothing that can be read.
    """
    found = _scanner(data, drop_unknown_judgements)[0](report)
    return _with_own_passages(found, keep=False)


def _with_own_passages(collection: Collection, *, keep: bool) -> Collection:
    """The collection with a note on queries that are passages themselves, kept or left out."""
    if not (own := int((collection.own_passages >= 0).sum())):
        return collection
    does = "finds it, too" if keep else "does not find it, nor learn from it (--keep-own-passage)"
    note = f"own passages: {own:,} queries have the id and the text of a passage; each {does}"
    return replace(_with_note(collection, note), keep_own_passage=keep)


def complete(
    given: Collection,
    *,
    labels: int | None = None,
    made: DerivedTexts | None = None,
    seed: int = DATA_SEED,
) -> Collection:
    """The collection with queries and a dev split, and judgements of only `labels` queries.

    A corpus without queries gets those that were `made` for it, by default from the words of its
    passages.

    Raises:
        ConfigError: when there are fewer labelled training queries than `labels`.
    """
    queried = with_queries(given, seed) if made is None else with_made_queries(given, made, seed)
    collection = with_dev(queried, seed)
    return collection if labels is None else with_labels(collection, labels, seed)


def with_queries(collection: Collection, seed: int = DATA_SEED) -> Collection:
    """The collection, with queries made from the words of its passages when it has none."""
    if len(collection.queries) or not len(collection.passages):
        return collection
    made = queries_of_words(collection.passages, seed, collection.language)
    return with_made_queries(collection, made, seed)


def _scanner(
    data: str | Path, drop_unknown_judgements: bool
) -> tuple[Callable[[Report], Collection], str]:
    """The function that reads DATA, and the prefix of places in its errors."""
    drop = drop_unknown_judgements
    named = str(data)
    if named == "pydocs":
        return lambda report: read_pydocs(), ""
    if named.startswith(irds.PREFIX):
        name = named.removeprefix(irds.PREFIX)
        return partial(irds.scan_ir_datasets, name, drop_unknown_judgements=drop), f"{named}, "
    if named.startswith(hub.PREFIX):
        name = named.removeprefix(hub.PREFIX)
        return partial(hub.scan_hub, name, drop_unknown_judgements=drop), f"{named}, "
    path = _existing(data)
    if path.is_file():
        return partial(scan_examples, path), f"{path.parent}/"
    beir, marco = (find(path, name, []) for name in ("corpus.jsonl", COLLECTION))
    if beir and marco:
        raise ConfigError(
            f"{path} has both {beir.name} and {marco.name}, so it is BEIR's layout and MS MARCO's. "
            "Keep the files of one of them there."
        )
    examples = examples_in(path)
    if not (beir or marco or find(path, "queries.jsonl", [])) and examples:
        return partial(scan_examples, path), f"{path}/"
    if examples and is_corpus_only(path):
        raise ConfigError(
            f"{path} has corpus.jsonl without queries, and {examples[0].name}, which may be "
            "training examples. Give that file, or keep the passages in a folder of their own."
        )
    scan = partial(scan_msmarco if marco else scan_beir, path, drop_unknown_judgements=drop)
    told = "layout: MS MARCO's, by collection.tsv" if marco else "layout: BEIR's, by corpus.jsonl"
    if examples:
        told += f"; not read: {', '.join(file.name for file in examples)}"
    return lambda report: _with_note(scan(report), told), f"{path}/"


def _with_note(collection: Collection, note: str) -> Collection:
    return replace(collection, notes=(note, *collection.notes))


def _existing(data: str | Path) -> Path:
    """The folder, or file of examples, that DATA names.

    Raises:
        ConfigError: when it is neither.
    """
    path = Path(data).expanduser()
    try:
        if path.is_dir():
            return path
        is_file = path.is_file()
    except OSError as error:  # no name that a file system takes, or a folder that it hides
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Give another path.") from error
    layout_file = path.name.removesuffix(".gz") in ("corpus.jsonl", "queries.jsonl")
    if is_file and path.name.endswith(ENDINGS) and not layout_file:
        return path
    if path.exists():
        raise ConfigError(f"{path} is a file. Give the folder it is in: {LAYOUTS}.")
    raise ConfigError(
        f'{path} does not exist. Give {LAYOUTS}; or "pydocs", the built-in one, '
        "ir_datasets:NAME or hf:NAME."
    )
