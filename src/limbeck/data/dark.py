"""Which passages lie between a query's positive and its negatives?

Dark examples are written from them: a **reinforced** negative has a span of the positive in it, a
**weakened** positive lacks some of its words. A teacher that is nearly certain about positives and
negatives is less so about these, and what it says of them is worth imitating. They are no
positives, and nobody's negatives.

Every text depends on the texts it is made of and on (seed, query, draw, slot) alone.

Source: ADAM, Tao et al. 2024, arXiv:2212.10192; a default where the paper leaves it open.

This module knows no collection, no model and no score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from limbeck.language import pieces, sentences
from limbeck.negatives import generator
from limbeck.types import QueryId

Read = Callable[[str], int]  # how many of a text's first characters a model reads


@dataclass(frozen=True, slots=True)
class Dark:
    """How many dark examples a list has, and how strong they are.

    `mixed` bounds the share of the positive's words that a reinforced negative gets, `dropped` that
    which a weakened positive loses; each is drawn evenly between the two. Lost words are left out,
    or `mask` stands for each of them.
    """

    reinforced: int = 4
    weakened: int = 4
    mixed: tuple[float, float] = (0.2, 0.5)
    dropped: tuple[float, float] = (0.3, 0.7)
    seed: int = 0
    mask: str | None = None

    def examples(
        self, query: QueryId, draw: int, positive: str, negatives: Sequence[str], read: Read = len
    ) -> list[str | None]:
        """The reinforced negatives, then the weakened positives; None in place of the
        first where there is no negative, and of an empty text. Negatives are taken in turn.
        """
        made: list[str] = []
        for slot in range(self.reinforced + self.weakened):
            random = generator(self.seed, draw, QueryId(f"dark {slot} {query}"))
            if slot >= self.reinforced:
                share = random.uniform(*self.dropped)
                made.append(weakened(positive[: read(positive)], share, random, mask=self.mask))
            else:
                share = random.uniform(*self.mixed)
                negative = negatives[slot % len(negatives)] if negatives else ""
                made.append(reinforced(negative, positive, share, random, read))
        nothing = 0 if negatives else self.reinforced
        return [
            text if slot >= nothing and text.strip() else None for slot, text in enumerate(made)
        ]


def reinforced(
    negative: str, positive: str, share: float, random: np.random.Generator, read: Read = len
) -> str:
    """The negative with a span of the positive, of this share of its words, before or after one of
    its sentences; the span lies where it is read. A share of 0 gives the negative.

    Example:
        >>> random = np.random.default_rng(0)
        >>> reinforced("Cats sleep. Dogs bark.", "one two three four", 0.5, random)
        'Cats sleep. Dogs bark. three four'
    """
    seen = positive[: read(positive)]
    words = pieces(seen)
    count = _count(share, len(words))
    if not count:
        return negative
    first = int(random.integers(len(words) - count + 1))
    span = seen[words[first][0] : words[first + count - 1][1]]
    ends = [0, *(end for _, end in sentences(negative))]
    for place in random.permutation(len(ends)).tolist():
        before, after = negative[: ends[place]].rstrip(), negative[ends[place] :].lstrip()
        made = " ".join(filter(None, (before, span, after)))
        if read(made) >= len(before) + bool(before) + len(span):
            return made
    return f"{span} {negative}"


def weakened(
    positive: str, share: float, random: np.random.Generator, *, mask: str | None = None
) -> str:
    """The positive without this share of its words, or with `mask` for each of them; one word is
    left at least. A share of 0 gives the positive.

    Example:
        >>> weakened("one two three four", 0.5, np.random.default_rng(0))
        'two four'
    """
    words = pieces(positive)
    count = min(_count(share, len(words)), len(words) - 1)
    if count <= 0:
        return positive
    lost = set(random.permutation(len(words))[:count].tolist())
    made, last = "", 0
    for number, (start, end) in enumerate(words):
        word = mask if number in lost else positive[start:end]
        if word is not None:
            made += (positive[last:start] if made else "") + word
        last = end
    return made


def _count(share: float, words: int) -> int:
    """That share of some words, one at least where it is not 0."""
    return max(1, round(share * words)) if share and words else 0
