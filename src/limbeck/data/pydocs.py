"""What real text is there on every machine? The docstrings of the packages Limbeck stands on.

A docstring's summary is a query and the rest of it the passage that answers it. The summaries of
further docstrings are queries without judgements, as a log of searches has them. The packages'
files are parsed, never imported. Everything is chosen by hashes of names and texts, so the same
versions give the same collection; other versions give another one, and figures of different digests
must not be compared.

This module knows no file format of collections and nothing of what is done with the texts.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from limbeck.data.collection import LONE_SURROGATE, Collection, Texts
from limbeck.errors import DataError
from limbeck.types import PassageId, Qrels, QueryId, Split

PACKAGES = (  # what the base install brings, directly or through others
    "bm25s",
    "huggingface-hub",
    "ir-measures",
    "jinja2",
    "joblib",
    "networkx",
    "numpy",
    "polars",
    "pydantic",
    "rich",
    "safetensors",
    "scikit-learn",
    "scipy",
    "sentence-transformers",
    "sympy",
    "torch",
    "transformers",
    "typer",
)
PASSAGES = 3000
MORE_QUERIES = 4000  # without judgements, at most
TEST_QUERIES = 1000
DEV_QUERIES = 200
SUMMARY_WORDS = range(4, 25)  # shorter ones ask nothing, longer ones are no query
PASSAGE_WORDS = 12  # shorter rests are left out
PASSAGE_PIECES = 48  # words and signs; longer rests are cut, to some 64 tokens of most tokenizers
PER_FILE = 40  # docstrings; files that repeat one pattern would crowd out the others
SKIPPED_FOLDERS = {"test", "tests", "testing", "_testing", "_vendor", "vendor", "third_party"}
WORD = re.compile(r"[A-Za-z]{2,}")
PIECE = re.compile(r"[A-Za-z]+|\d|[^\sA-Za-z\d]")
RULE = re.compile(r"([-=~^`*_])\1{2,}")  # the lines under headings
DIRECTIVE = re.compile(r"^\s*\.\. [\w:-]+::.*$", re.MULTILINE)  # `.. warning::`, not its text


@dataclass(frozen=True, slots=True)
class Docstring:
    """One docstring: where it stands, its summary, and the rest cut to the passage length."""

    name: str
    summary: str
    rest: str


def read_pydocs() -> Collection:
    """The collection of docstrings: 3,000 passages, 1,000 test and 200 dev queries, some 1,800
    judged training queries and almost 4,000 without judgements.

    Raises:
        DataError: when no package lists its files, so there is nothing to read.
    """
    found: list[Distribution] = []
    for package in PACKAGES:
        try:
            found.append(distribution(package))
        except PackageNotFoundError:
            continue  # the note below names what was read
    docstrings, more = _interleaved([_of_package(package) for package in found])
    if not docstrings:
        raise DataError(
            "pydocs: no installed package lists its files. Install Limbeck with pip, or give a "
            "folder with corpus.jsonl instead."
        )
    packages = ", ".join(f"{package.name} {package.version}" for package in found)
    return collection_of(docstrings, more, note=f"pydocs: docstrings of {packages}")


def collection_of(docstrings: list[Docstring], more: list[Docstring], *, note: str) -> Collection:
    """The collection of some docstrings; equal summaries share a query, equal rests a passage.

    Queries that share a passage fall into the same split, so no judged text is in two. Of `more`
    only the summaries are there, as queries without judgements.
    """
    passage_ids: dict[str, str] = {}  # by text
    query_ids: dict[str, str] = {}
    relevant: dict[str, dict[PassageId, int]] = {}
    for docstring in docstrings:
        passage = passage_ids.setdefault(docstring.rest, docstring.name)
        query = query_ids.setdefault(docstring.summary, f"{docstring.name}?")
        relevant.setdefault(query, {})[PassageId(passage)] = 1
    qrels: dict[Split, Qrels] = {"train": {}, "dev": {}, "test": {}}
    room = {"test": TEST_QUERIES, "dev": DEV_QUERIES}
    for group in _connected(relevant):
        split: Split = "train"
        if len(group) <= room["test"]:
            split = "test"
        elif len(group) <= room["dev"]:
            split = "dev"
        if split != "train":
            room[split] -= len(group)
        qrels[split] |= {QueryId(query): relevant[query] for query in group}
    for docstring in more:
        query_ids.setdefault(docstring.summary, f"{docstring.name}?")
    return Collection(
        "pydocs",
        Texts(list(passage_ids.values()), list(passage_ids)),
        Texts(list(query_ids.values()), list(query_ids)),
        {split: judged for split, judged in qrels.items() if judged},
        (note,),
    )


def docstrings_of(source: bytes, module: str) -> Iterator[Docstring]:
    """The usable docstrings of a module's source: a summary that could be asked, and a rest."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return  # a template or a file for another version of Python
    seen: set[str] = set()
    for name, node in _definitions(tree, module):
        text = ast.get_docstring(node) or ""
        summary, _, rest = text.partition("\n\n")
        summary = " ".join(summary.split())
        asks = len(summary.split()) in SUMMARY_WORDS and len(WORD.findall(summary)) >= 3
        answers = len(WORD.findall(rest)) >= PASSAGE_WORDS
        readable = not LONE_SURROGATE.search(text)
        if asks and answers and readable and name not in seen:
            seen.add(name)
            yield Docstring(name, summary, _cut(RULE.sub(" ", DIRECTIVE.sub(" ", rest))))


def _cut(text: str) -> str:
    """The first whole words of a text, at most `PASSAGE_PIECES` pieces, one space between them."""
    kept: list[str] = []
    pieces = 0
    for word in text.split():
        pieces += len(PIECE.findall(word))
        if pieces > PASSAGE_PIECES and kept:
            break
        kept.append(word)
    return " ".join(kept)


def _definitions(
    node: ast.AST, name: str
) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """A module, its classes and functions, and theirs, with dotted names, in source order."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield name, node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _definitions(child, f"{name}.{child.name}")
        elif isinstance(child, ast.If | ast.Try):
            yield from _definitions(child, name)


def _of_package(package: Distribution) -> Iterator[Docstring]:
    """A package's docstrings, its files in the order of their names' hashes."""
    files = [
        str(file)
        for file in package.files or []
        if file.suffix == ".py" and not SKIPPED_FOLDERS & {"..", *file.parts[:-1]}
    ]
    for file in sorted(files, key=_hash):
        path = Path(str(package.locate_file(file)))
        if not path.is_file():
            continue
        module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        found = docstrings_of(path.read_bytes(), module)
        yield from sorted(found, key=lambda docstring: _hash(docstring.name))[:PER_FILE]


def _interleaved(
    packages: list[Iterator[Docstring]],
) -> tuple[list[Docstring], list[Docstring]]:
    """Docstrings of each package in turn, until they hold `PASSAGES` different passages, and
    `MORE_QUERIES` of those that come after them.
    """
    found: list[Docstring] = []
    more: list[Docstring] = []
    rests: set[str] = set()
    while packages and len(more) < MORE_QUERIES:
        for package in list(packages):
            docstring = next(package, None)
            if docstring is None:
                packages.remove(package)
            elif len(rests) < PASSAGES:
                found.append(docstring)
                rests.add(docstring.rest)
            elif docstring.rest not in rests and len(more) < MORE_QUERIES:
                more.append(docstring)
    return found, more


def _connected(relevant: Mapping[str, Mapping[PassageId, int]]) -> list[list[str]]:
    """Groups of queries that share passages, directly or through others, in an order of hashes."""
    parent: dict[str, str] = {}

    def root(query: str) -> str:
        while parent.setdefault(query, query) != query:
            query = parent[query]
        return query

    first_with: dict[str, str] = {}
    for query, passages in relevant.items():
        for passage in passages:
            parent[root(query)] = root(first_with.setdefault(passage, query))
    groups: dict[str, list[str]] = {}
    for query in relevant:
        groups.setdefault(root(query), []).append(query)
    return sorted(groups.values(), key=lambda group: _hash(min(group)))


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
