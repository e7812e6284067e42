"""Where does a teacher put passages that are made between right and wrong?

And how far do student and teacher read into a passage: what is put into one must lie where all of
them read it. This module knows no loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.data.dark import Dark, Read
from limbeck.data.tokens import characters_in
from limbeck.errors import DataError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.objectives.rows import entropy
from limbeck.sources import ListSource
from limbeck.tasks.retrieval.lists import Listing
from limbeck.teachers import Teacher
from limbeck.teachers.teacher import Model
from limbeck.types import Scores

QUERY_TOKENS = 32  # that a ranker reads before a passage: few queries are longer
SPECIAL_TOKENS = 8  # of models whose own library puts them there
EXAMINED_QUERIES = 100
DEPTH, LENGTH = 32, 8  # candidates of each, and passages drawn, of which one is the positive
ROLES = ("hard negative", "reinforced negative", "weakened positive", "positive")  # as expected
HARD, REINFORCED, WEAKENED, POSITIVE = ROLES
# below and above; which of the two dark ones is above the other matters little
BETWEEN = ((HARD, REINFORCED), (HARD, WEAKENED), (REINFORCED, POSITIVE), (WEAKENED, POSITIVE))

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Placed:
    """Raw scores of a teacher by role: of each query [Q, n], NaN where it has none; its mean
    `entropies` in nats over lists without dark examples and with them; how many of the queries are
    `judged`, the teacher's first choice being the positive of the others.
    """

    scores: dict[str, Floats]
    entropies: tuple[float, float]
    judged: int

    def ordered(self, below: str, above: str) -> float:
        """Share of the queries whose mean scores of two roles are in this order."""
        low, high = _means(self.scores[below]), _means(self.scores[above])
        known = ~(np.isnan(low) | np.isnan(high))
        return float((low[known] < high[known]).mean()) if known.any() else 0.0

    @property
    def warning(self) -> str | None:
        """What is not as it should be, and what to do; None where all is."""
        wrong = [
            f"{above} above {below} in {share:.0%}"
            for below, above in BETWEEN
            if (share := self.ordered(below, above)) <= 0.5
        ]
        if not wrong:
            return None
        return (
            f"The teacher does not put dark examples between right and wrong ({'; '.join(wrong)} "
            "of the queries): what it says of them teaches nothing. Use other shares of words, "
            "another teacher, or a recipe without them."
        )

    def lines(self) -> list[str]:
        """The scores in words, the lowest role first."""
        count = len(self.scores[ROLES[0]])
        told = [f"{count:,} queries, {self.judged:,} of them judged"]
        for role in ROLES:
            known = self.scores[role][~np.isnan(self.scores[role])]
            if not len(known):
                continue
            low, middle, high = np.quantile(known, (0.1, 0.5, 0.9))
            told.append(
                f"{role}: {len(known):,} scores, mean {known.mean():.3f}, median {middle:.3f}, "
                f"80 % between {low:.3f} and {high:.3f}"
            )
        told += [
            f"{above} above {below}: in {self.ordered(below, above):.0%} of the queries"
            for below, above in (*BETWEEN, (REINFORCED, WEAKENED))
        ]
        clean, dark = self.entropies
        told.append(f"entropy of a list: {clean:.4f} nats, with dark examples {dark:.4f}")
        return told


def place_dark(task: Listing, teacher: Teacher, dark: Dark) -> Placed:
    """A teacher's scores of positives, dark examples and mined candidates of some training queries,
    on lists as a student would see them first.

    Raises:
        DataError: when there is no training query with a list.
    """
    queries = task.training_queries()[:EXAMINED_QUERIES]
    if not len(queries):
        raise DataError("There is no training query, judged or not. Add queries to queries.jsonl.")
    lists = task.lists(task.pools(queries, depth=DEPTH, miner=task.base), teacher=teacher)
    source = ListSource(lists, len(lists), LENGTH, task.run.seed)
    read = read_by(task.base.encoder, teacher)
    _, source = task.derive(
        source,
        1,
        lambda query, draw, texts: dark.examples(query, draw, texts[0], texts[1:], read),
        name="dark",
        draws=1,
        teacher=teacher,
    )
    batch = source.batch(0)
    scores = batch.scores["teacher"]
    ends = np.cumsum([1, LENGTH - 1, dark.reinforced])
    positive, hard, reinforced, weakened = np.split(scores, ends, axis=1)
    found = (hard, reinforced, weakened, positive)
    return Placed(
        dict(zip(ROLES, found, strict=True)),
        (_entropy(scores[:, :LENGTH], teacher), _entropy(scores, teacher)),
        int(batch.labelled.sum()),
    )


def _means(scores: Floats) -> Floats:
    """The mean [Q] of each row's scores; NaN where it has none."""
    counts = (~np.isnan(scores)).sum(axis=1)
    means = np.nansum(scores, axis=1) / np.maximum(counts, 1)
    return np.where(counts > 0, means, np.float32(np.nan))


def _entropy(scores: Floats, teacher: Teacher) -> float:
    """The mean entropy of the softmax of lists [Q, L], at the teacher's temperature."""
    values = torch.from_numpy(scores / teacher.temperature)
    return float(entropy(Scores.of(values, mask=~torch.isnan(values))).mean())


def read_by(student: Encoder, teacher: Teacher) -> Read:
    """Number of a passage's first characters that student and teacher read."""
    rooms = [(model.tokenizer, _room(model)) for model in (student, *teacher.models())]

    def read(text: str) -> int:
        return min(characters_in(text, tokenizer, room) for tokenizer, room in rooms)

    return read


def _room(model: Model) -> int:
    """Tokens of a passage that a model reads."""
    if isinstance(model, Encoder):
        collator = model.collator("passage")
        return collator.max_length - collator.single.specials - len(collator.prompt_ids)
    if isinstance(model, Ranker):
        return max(1, model.max_length - model.collator.pair.specials - QUERY_TOKENS)
    return max(1, model.max_length - SPECIAL_TOKENS)
