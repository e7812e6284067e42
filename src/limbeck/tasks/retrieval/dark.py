"""How far do student and teacher read into a passage that is made for them?

What is put into a passage must lie where all of them read it. This module knows no loss.
"""

from __future__ import annotations

from limbeck.data.dark import Read
from limbeck.data.tokens import characters_in
from limbeck.models.encoder import Encoder, Ranker
from limbeck.teachers import Teacher
from limbeck.teachers.teacher import Model

QUERY_TOKENS = 32  # that a ranker reads before a passage: few queries are longer
SPECIAL_TOKENS = 8  # of models whose own library puts them there


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
