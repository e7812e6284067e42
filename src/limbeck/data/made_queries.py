"""What could be asked of a corpus that came without queries, and what is that worth?

`queries_of_words` makes up to three queries of a passage without any model: its title, its first
sentence, and its key phrases (words that are frequent here and rare elsewhere, in their order). A
model may write them instead (`limbeck.generation`). Either way they are `DerivedTexts`, and
`with_made_queries` puts them into the collection: a query is relevant to the passage it was made
from, and to nothing else that is known. Passages are shared out by hash: all queries of a tenth of
them test, those of another tenth are dev, and the others train.

What is measured on such queries says whether a model finds where a text came from. It says little
about what people ask: made queries share words with their passages, which flatters BM25. So the
collection is `synthetic`, and every figure of it is labelled so.

This module knows no file and no model.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from limbeck.data.collection import Collection, Texts
from limbeck.data.derived import DerivedTexts
from limbeck.errors import DataError
from limbeck.language import ENGLISH, normal, says, sentences, shortened, spans, words
from limbeck.types import SPLITS, PassageId, Qrels, QueryId, Split

PASSAGES_AT_MOST = 20_000  # that queries are made of: more than a small student needs to see
HELD_OUT = 0.1  # of the passages, for test, and as many for dev ...
HELD_OUT_AT_MOST = 300  # ... of each
SHARED_AT_MOST = 5  # passages of which one query was made; what more share says too little
SENTENCE_WORDS = 32  # of a first sentence that are kept
KEY_WORDS = 6
MIN_WORDS = 2  # of a query


def queries_of_words(passages: Texts, seed: int, language: str = ENGLISH) -> DerivedTexts:
    """Up to three queries of each passage that is `drawn`: draw 0 is the title, 1 the first
    sentence, 2 the key phrases.

    A first sentence that is the whole text is none, and a query has two words at least.
    """
    made = {
        (passages.ids[at], draw): query for at, draw, query, _ in _made(passages, seed, language)
    }
    return DerivedTexts.of("words", made)


def pairs_of_words(
    passages: Texts, seed: int, language: str = ENGLISH
) -> Iterator[tuple[int, str, str]]:
    """The same queries, each after the position of its passage and before what it stands for: a
    title and the text below it, a first sentence and what follows, key phrases and their passage.
    """
    for at, _, query, answer in _made(passages, seed, language):
        if answer:
            yield at, query, answer


def _made(passages: Texts, seed: int, language: str) -> Iterator[tuple[int, int, str, str]]:
    """A passage's position, a draw, the query, and the part of the passage that it stands for."""
    frequency: Counter[str] = Counter()
    for text in passages.texts:
        frequency.update({word.lower() for word in words(normal(text), language)})
    for at in drawn(passages, seed):
        title, text = passages.parts(at)
        _, end = next(sentences(text), (0, len(text)))
        phrases = key_phrases(passages.texts[at], frequency, len(passages), language)
        found = (
            (title, text),
            (first_sentence(text), text[end:]),
            (phrases, passages.texts[at]),
        )
        for draw, (asked, answer) in enumerate(found):
            query = " ".join(asked.split())
            if says(query, language) >= MIN_WORDS:
                yield at, draw, query, answer.strip()


def drawn(passages: Texts, seed: int) -> list[int]:
    """The positions of the passages to make queries of: all that have a text, or the 20,000 that
    come first by hash.
    """
    filled = [at for at, text in enumerate(passages.texts) if text]
    if len(filled) <= PASSAGES_AT_MOST:
        return filled
    return sorted(sorted(filled, key=lambda at: _rank(passages.ids[at], seed))[:PASSAGES_AT_MOST])


def first_sentence(text: str) -> str:
    """The first sentence, at most 32 words of it; empty when the text is a single sentence.

    Example:
        >>> first_sentence("A cat sleeps. A dog barks."), first_sentence("A cat sleeps.")
        ('A cat sleeps.', '')
    """
    start, end = next(sentences(text), (0, len(text)))
    return "" if end == len(text) else shortened(text[start:end], SENTENCE_WORDS)


def key_phrases(
    text: str, frequency: Mapping[str, int], passages: int, language: str = ENGLISH
) -> str:
    """The six words of most weight in their order: frequent in the text, rare in the corpus.

    `frequency` is the number of passages, of all `passages`, that a word (in lower case) is in.
    Where pairs of characters stand for words, those that overlap are shown as one.

    Example:
        >>> key_phrases("the cat and the dog", {"the": 9, "and": 9, "cat": 1, "dog": 2}, 9)
        'the cat and dog'
    """
    text = normal(text)
    places = list(spans(text, language))
    counts = Counter(text[start:end].lower() for start, end in places)
    weight = {
        word: count * math.log((passages + 1) / frequency[word]) for word, count in counts.items()
    }
    best = set(sorted(weight, key=lambda word: -weight[word])[:KEY_WORDS])
    shown: list[str] = []  # as it is written first
    last = 0
    for start, end in places:
        if (word := text[start:end].lower()) in best:
            best.remove(word)
            if start < last:
                shown[-1] += text[last:end]
            else:
                shown.append(text[start:end])
            last = end
    return " ".join(shown)


def with_made_queries(collection: Collection, made: DerivedTexts, seed: int) -> Collection:
    """A collection of passages alone with these queries, whose parents they are; `synthetic`.

    A query that was made of more than five passages is left out, and so is one that was made of
    passages of two splits; both are counted. No passage is in two splits.

    Raises:
        DataError: when no query is left.
    """
    passages = collection.passages
    parents: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    for id_, parent, text in made.frame.select("derived_id", "parent_id", "text").iter_rows():
        own = parents.setdefault(id_, [])
        if parent not in own:
            own.append(parent)
        texts[id_] = text
    split_of = _shared_out({parent for own in parents.values() for parent in own}, seed)
    qrels: dict[Split, Qrels] = {split: {} for split in SPLITS}
    vague = between = 0
    order = sorted(parents, key=lambda id_: passages.index[parents[id_][0]])
    for id_ in order:
        splits = {split_of[parent] for parent in parents[id_]}
        vague += len(parents[id_]) > SHARED_AT_MOST
        if len(parents[id_]) <= SHARED_AT_MOST:
            between += len(splits) > 1
            if len(splits) == 1:
                qrels[splits.pop()][QueryId(id_)] = {PassageId(each): 1 for each in parents[id_]}
    kept = [id_ for id_ in order if any(QueryId(id_) in judged for judged in qrels.values())]
    if not kept:
        raise DataError(
            f"{collection.name} has no queries, and none could be made of its passages: they are "
            "too few, too short or too much alike. Write queries.jsonl."
        )
    told = ", ".join(f"{len(judged):,} {split}" for split, judged in qrels.items() if judged)
    made_of = (
        f"queries: there are none, so {len(kept):,} were made from {len(split_of):,} of "
        f"{len(passages):,} passages ({told})"
    )
    label = (
        "synthetic: every figure is of made queries, each with the passage it was made from as "
        "the right answer; it cannot be compared with figures of judged queries"
    )
    notes = [made_of, label]
    if vague:
        notes.append(f"queries: {vague:,} made of more than {SHARED_AT_MOST} passages left out")
    if between:
        notes.append(f"queries: {between:,} made of passages of two splits left out")
    return replace(
        collection,
        queries=Texts(kept, [texts[id_] for id_ in kept]),
        qrels={split: judged for split, judged in qrels.items() if judged},
        notes=(*collection.notes, *notes),
        synthetic=True,
    )


def _shared_out(parents: set[str], seed: int) -> dict[str, Split]:
    """The split of each passage, by hash."""
    order = sorted(parents, key=lambda id_: _rank(id_, seed))
    count = min(round(len(order) * HELD_OUT), HELD_OUT_AT_MOST)
    return {
        id_: "test" if at < count else "dev" if at < 2 * count else "train"
        for at, id_ in enumerate(order)
    }


def _rank(id_: str, seed: int) -> bytes:
    content = f"{seed} made queries {id_}".encode()
    return hashlib.blake2b(content, digest_size=16).digest()
