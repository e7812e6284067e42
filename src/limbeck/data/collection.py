"""What is being searched, by whom, and what is known to be right?

A `Collection` is passages, queries and judgements in memory, with ids beside every text. Judgements
(qrels) are kept per split; queries that no split judges are **unlabelled**: recipes that learn from
the teacher alone use them.

`notes` are plain sentences on everything that was decided while reading: they reach the report.

This module knows no file format, no tokenizer and no model.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Collection as Countable
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import ConfigError
from limbeck.language import AUTO, ENGLISH, LANGUAGES, guess, known
from limbeck.types import SPLITS, PassageId, Qrels, QueryId, Split

# half of a character: JSON and Python can hold it, UTF-8, and so every tokenizer, cannot
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# Draws a carved dev split and the labels to keep, whatever the seed of the run: seeds of one method
# can be compared, and no seed's dev queries are ones that another seed's teacher was fitted on.
DATA_SEED = 0
DEV_SHARE = 0.1  # of the labelled training queries, when a collection has no dev split
DEV_AT_MOST = 500  # queries: enough to choose a checkpoint by
DEV_NEEDS = 10  # labelled training queries; below, every one of them is worth more in training


@dataclass(frozen=True)
class Texts:
    """Texts with their ids, in file order; `ids[i]` names `texts[i]`.

    `title_ends[i]` characters of it are its title; none of them has one where it is None.
    """

    ids: list[str]
    texts: list[str]
    title_ends: array[int] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.texts):
            raise ValueError(f"{len(self.ids)} ids but {len(self.texts)} texts")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def index(self) -> dict[str, int]:
        """The position of each id."""
        return {id_: position for position, id_ in enumerate(self.ids)}

    def parts(self, position: int) -> tuple[str, str]:
        """The title of a text, empty where it has none, and the rest."""
        text = self.texts[position]
        end = self.title_ends[position] if self.title_ends is not None else 0
        return text[:end], text[end + 1 :] if end else text

    @property
    def characters(self) -> int:
        """Number of characters of all texts together."""
        return sum(map(len, self.texts))


@dataclass(frozen=True)
class Collection:
    """Passages, queries and the judgements of which passage answers which query.

    `passages` hold title and text joined by one space; `qrels` have only the splits that exist and
    hold judgements. Where nobody wrote the queries and judged the passages, since the queries were
    made from the passages, the collection is `synthetic`. With `keep_own_passage` a query's own
    passage (`own_passages`) is a passage like any other. Searching by words follows `language`, a
    code of `limbeck.language`.
    """

    name: str
    passages: Texts
    queries: Texts
    qrels: Mapping[Split, Qrels]
    notes: tuple[str, ...] = ()
    synthetic: bool = False
    keep_own_passage: bool = False
    language: str = ENGLISH

    @cached_property
    def digest(self) -> str:
        """The SHA-256 (hex) of ids, texts, judgements and a language that is not English: equal
        for equal content, whatever its name or folder.
        """
        hasher = hashlib.sha256()

        def add(*words: str) -> None:
            for word in words:
                content = word.encode("utf-8", "surrogatepass")
                hasher.update(len(content).to_bytes(8, "little"))
                hasher.update(content)

        for texts in (self.passages, self.queries):
            add("texts", str(len(texts)))
            for id_, text in zip(texts.ids, texts.texts, strict=True):
                add(id_, text)
        for split in SPLITS:
            judged = self.qrels.get(split, {})
            add("qrels", split)
            for query in sorted(judged):
                for passage in sorted(judged[query]):
                    add(query, passage, str(judged[query][passage]))
        if left_out := int((self.own_passages >= 0).sum()):
            add("own passages left out", str(left_out))
        if self.language != ENGLISH:
            add("language", self.language)
        return hasher.hexdigest()

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have judgements."""
        return tuple(self.qrels)

    @property
    def facts(self) -> dict[str, object]:
        """Facts for a run's record, besides name and digest."""
        return {
            "language": self.language,
            "passages": len(self.passages),
            "labelled": len(self.labelled),
            "unlabelled": len(self.unlabelled),
        }

    def shown(self, unit: str) -> str | None:
        """The text of a query; None for an unknown id."""
        return _text_of(self.queries, unit)

    def picture(self, unit: str) -> None:
        """Nothing: queries are texts."""

    def alternative(self, name: str) -> str | None:
        """The text of a passage; None for an unknown id."""
        return _text_of(self.passages, name)

    def judged(self, split: Split, unit: str) -> dict[str, int]:
        """The grades of a query's judged passages in a split."""
        judged = self.qrels.get(split, {}).get(QueryId(unit), {})
        return {str(passage): grade for passage, grade in judged.items()}

    @cached_property
    def own_passages(self) -> NDArray[np.int64]:
        """The position of each query's own passage, which no search for it gives; -1 without one.

        That is a passage with the id and the text of the query, up to white space and the passage's
        title, unless some split judges it relevant. Where queries are passages of the collection,
        as in ArguAna, each would find itself first. Equal ids alone say nothing: many collections
        number queries and passages alike.

        Shapes: [Q], row-aligned with `queries`.
        """
        own = np.full(len(self.queries), -1, dtype=np.int64)
        if self.keep_own_passage:
            return own
        for at, id_ in enumerate(self.queries.ids):
            passage = self.passages.index.get(id_, -1)
            if passage >= 0 and self._same_text(at, passage) and not self._relevant(id_):
                own[at] = passage
        return own

    def _same_text(self, query: int, passage: int) -> bool:
        """Whether a query has the text of a passage, with or without its title."""
        asked = self.queries.texts[query].split()
        whole = self.passages.texts[passage].split()
        return asked == whole or asked == self.passages.parts(passage)[1].split()

    def _relevant(self, id_: str) -> bool:
        """Whether the passage of this id is judged relevant to the query of this id."""
        return any(
            judged.get(QueryId(id_), {}).get(PassageId(id_), 0) > 0
            for judged in self.qrels.values()
        )

    @cached_property
    def labelled(self) -> list[QueryId]:
        """Training queries with at least one positive, in file order."""
        train = self.qrels.get("train", {})
        return [QueryId(id_) for id_ in self.queries.ids if positives(train.get(QueryId(id_), {}))]

    @cached_property
    def unlabelled(self) -> list[QueryId]:
        """Training queries without a positive: judged in no split, or only negatively in train; in
        file order.
        """
        used: set[str] = {*self.labelled, *self.qrels.get("dev", {}), *self.qrels.get("test", {})}
        return [QueryId(id_) for id_ in self.queries.ids if id_ not in used]


def _text_of(texts: Texts, id_: str) -> str | None:
    at = texts.index.get(id_)
    return None if at is None else texts.texts[at]


def positives(judged: Mapping[PassageId, int]) -> list[PassageId]:
    """The relevant passages of one query: those of a grade above 0, in the order of the judgements.

    Example:
        >>> positives({"a": 2, "b": 0, "c": 1})
        ['a', 'c']
    """
    return [passage for passage, grade in judged.items() if grade > 0]


def with_language(collection: Collection, language: str = AUTO) -> Collection:
    """The collection in a language: a code or name, or `auto`, by its scripts and function words.

    Raises:
        ConfigError: for a language that is not covered.
    """
    if language == AUTO:
        found = guess(collection.passages.texts, collection.queries.texts)
        code, why = found.code, f"since {found.why}; --language overrules that"
        if code == ENGLISH and not found.is_mixed:
            return replace(collection, language=code)
    else:
        code, why = known(language), "as given"
    note = f"language: {code} ({LANGUAGES[code].name}), {why}"
    return replace(collection, language=code, notes=(*collection.notes, note))


def with_labels(collection: Collection, count: int, seed: int) -> Collection:
    """The collection with only `count` labelled training queries, drawn by seed; the others become
    unlabelled.

    A query that is drawn for a small count is drawn for every larger one, so label budgets nest.

    Raises:
        ConfigError: when the count is not between 1 and the number of labelled training queries.
    """
    available = len(collection.labelled)
    if not 1 <= count <= available:
        advice = f"Ask for 1 to {available}." if available else "Leave the number of labels out."
        raise ConfigError(
            f"{count} labelled training queries were asked for, but {collection.name} has "
            f"{available}. {advice}"
        )
    kept = set(_draw(collection.labelled, count, seed, "labels"))
    train = {query: judged for query, judged in collection.qrels["train"].items() if query in kept}
    note = f"labels: {count:,} of {available:,} labelled training queries kept, seed {seed}"
    return replace(
        collection,
        qrels={**collection.qrels, "train": train},
        notes=(*collection.notes, note),
    )


def with_dev(collection: Collection, seed: int) -> Collection:
    """The collection with a dev split: its own, or 10 % of the labelled training queries (1 to 500)
    drawn by seed.

    Without a dev split and with fewer than 10 labelled training queries there is nothing to spare,
    and a note says what follows from that.
    """
    if "dev" in collection.qrels:
        return collection
    available = len(collection.labelled)
    if available < DEV_NEEDS:
        note = (
            f"dev: none, and {available} labelled training queries are too few to set some aside "
            f"({DEV_NEEDS} needed); checkpoints are not chosen on dev"
        )
        return replace(collection, notes=(*collection.notes, note))
    count = min(max(1, round(available * DEV_SHARE)), DEV_AT_MOST)
    chosen = set(_draw(collection.labelled, count, seed, "dev"))
    train = collection.qrels["train"]
    note = f"dev: {count:,} of {available:,} training queries set aside, seed {seed}"
    parts: dict[Split, Qrels] = {
        "train": {query: judged for query, judged in train.items() if query not in chosen},
        "dev": {query: judged for query, judged in train.items() if query in chosen},
        "test": collection.qrels.get("test", {}),
    }
    return replace(
        collection,
        qrels={split: judged for split, judged in parts.items() if judged},
        notes=(*collection.notes, note),
    )


def _draw(ids: Countable[QueryId], count: int, seed: int, purpose: str) -> list[QueryId]:
    """`count` of the ids, by hash of (seed, purpose, id): their order changes nothing."""

    def rank(id_: QueryId) -> bytes:
        return hashlib.blake2b(f"{seed} {purpose} {id_}".encode(), digest_size=16).digest()

    return sorted(ids, key=rank)[:count]
