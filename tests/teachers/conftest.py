from pathlib import Path
from typing import Any

import pytest

from limbeck.data.collection import Collection, Texts
from limbeck.data.tokens import TokenStore, tokenize_here
from limbeck.inference import Engine
from limbeck.types import Role

WORDS = (
    *("cat", "dog", "bird", "fish", "sea", "sun", "moon", "star"),
    *("red", "green", "blue", "old", "new", "small", "large", "fast"),
)


def made_up_collection(passages: int = 40, queries: int = 12) -> Collection:
    """Texts of one to nine words; the last passage repeats the first, the last query the first."""
    words = [
        " ".join(WORDS[(start * 7 + step * (start % 5 + 1)) % 16] for step in range(1 + start % 9))
        for start in range(passages + queries)
    ]
    passage_texts, query_texts = words[:passages], words[passages:]
    passage_texts[-1], query_texts[-1] = passage_texts[0], query_texts[0]
    return Collection(
        name="made-up",
        passages=Texts([f"p{at}" for at in range(passages)], passage_texts),
        queries=Texts([f"q{at}" for at in range(queries)], query_texts),
        qrels={},
    )


class HereTokens:
    """Tokens in memory; counts how often anything is tokenised."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.calls = 0

    def __call__(self, tokenizer: Any, role: Role, prompt: str) -> TokenStore:
        self.calls += 1
        field = self.collection.queries if role == "query" else self.collection.passages
        return tokenize_here(field.texts, tokenizer, prompt=prompt)


@pytest.fixture
def collection() -> Collection:
    return made_up_collection()


@pytest.fixture
def tokens(collection: Collection) -> HereTokens:
    return HereTokens(collection)


@pytest.fixture
def engine() -> Engine:
    return Engine("cpu", "fp32", max_batch_tokens=64)


@pytest.fixture
def models(tiny_encoder_folder: Path, tiny_ranker_folder: Path) -> dict[str, Path]:
    return {"dual": tiny_encoder_folder, "cross": tiny_ranker_folder}
