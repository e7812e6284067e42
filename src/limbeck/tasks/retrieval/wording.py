"""How near is a retriever to a search by words, and how good is it where words do not help?

Told on dev, in a line for the report: a retriever that finds what BM25 finds adds nothing to it. It
knows no recipe.
"""

from __future__ import annotations

import numpy as np

from limbeck.candidates import Candidates
from limbeck.language import Terms
from limbeck.models.encoder import Encoder
from limbeck.tasks.retrieval.task import Retrieval
from limbeck.teachers import DualTeacher

TOP = 10  # passages of each that are compared
FEWEST = 3  # a query in so many is one whose positives share few words with it


def near_words(task: Retrieval, name: str, encoder: Encoder) -> list[str]:
    """The share of an encoder's first passages that are BM25's, and its RR@10 on the dev queries
    whose positives share the fewest words with them; no line without dev.
    """
    queries = task.split_queries("dev")
    if not len(queries):
        return []
    miner = DualTeacher("student", encoder.frozen())
    found = task.unshared().mined(queries, depth=TOP, miner=miner)
    shared = overlap(found, task.lexical(queries, depth=TOP))
    results = task.ranked(found, -found.ranks[:, 0].astype(np.float32))
    rr = task.quality(results, "dev")["RR@10"].to_numpy()
    few = np.argsort(_words_shared(task, queries), kind="stable")[: -(-len(queries) // FEWEST)]
    told = (
        f"{name}: {shared:.0%} of its first {TOP} on dev are BM25's; RR@10 {rr.mean():.4f}, and "
        f"{rr[few].mean():.4f} on the {len(few):,} queries whose positives share the fewest words "
        "with them"
    )
    return [told]


def overlap(one: Candidates, other: Candidates) -> float:
    """The share of the first pools' passages that the other pools have, as a mean over queries."""
    shares = [
        np.isin(one.for_query(place), other.for_query(place)).mean()
        for place in range(len(one))
        if len(one.for_query(place))
    ]
    return float(np.mean(shares)) if shares else 0.0


def words_shared(query: str, passages: list[str], terms: Terms) -> float:
    """The largest share of a query's terms that one of its passages has; 0 without any.

    Example:
        >>> words_shared("copy two files", ["copying a file", "ports"], Terms())
        0.6666666666666666
    """
    asked = set(terms.of(query))
    shares = [len(asked.intersection(terms.of(text))) / len(asked) for text in passages if asked]
    return max(shares, default=0.0)


def _words_shared(task: Retrieval, queries: np.ndarray) -> np.ndarray:
    """`words_shared` of dev queries with their positives, [Q]."""
    collection, terms = task.collection, Terms(task.collection.language)
    return np.array(
        [
            words_shared(
                collection.queries.texts[query],
                [collection.passages.texts[at] for at in task.positives_of(query, "dev")],
                terms,
            )
            for query in queries.tolist()
        ]
    )
