"""Dark examples as texts."""

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from limbeck.data.collate import collator_for
from limbeck.data.dark import Dark, reinforced, weakened
from limbeck.data.tokens import characters_in, tokenize_here
from limbeck.language import pieces
from limbeck.models.encoder import Encoder
from limbeck.types import QueryId

POSITIVE = " ".join(f"p{number}" for number in range(20))
NEGATIVE = "Some cats sleep e.g. here. Dogs bark!\n\nFish swim"
DARK = Dark(3, 3, (0.2, 0.5), (0.3, 0.7), seed=7)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def tokenizer(tiny_encoder: Encoder) -> PreTrainedTokenizerBase:
    return tiny_encoder.tokenizer


@pytest.mark.parametrize("text", [POSITIVE, NEGATIVE, "一二三四", "", " two  words\n"])
def test_a_share_of_0_changes_nothing(text: str) -> None:
    assert weakened(text, 0.0, random()) == text
    assert weakened(text, 0.0, random(), mask="[MASK]") == text
    assert reinforced(text, POSITIVE, 0.0, random()) == text


@pytest.mark.parametrize(("share", "count"), [(0.2, 4), (0.5, 10), (0.01, 1), (1.0, 20)])
def test_a_reinforced_negative_is_the_negative_with_a_span_of_the_positive(
    share: float, count: int
) -> None:
    """Cut at the end of a sentence, or before the first."""
    places = set()
    for seed in range(40):
        made = reinforced(NEGATIVE, POSITIVE, share, random(seed)).split()
        at = [number for number, word in enumerate(made) if word in POSITIVE.split()]
        assert at == list(range(at[0], at[0] + count))  # contiguous
        assert " ".join(made[at[0] : at[-1] + 1]) in POSITIVE
        assert made[: at[0]] + made[at[-1] + 1 :] == NEGATIVE.split()
        places.add(at[0])
    assert places == {0, 5, 7, 9}


@pytest.mark.parametrize(("share", "count"), [(0.3, 6), (0.7, 14), (0.01, 1), (1.0, 19)])
def test_a_weakened_positive_lacks_words_but_never_all(share: float, count: int) -> None:
    made = weakened(POSITIVE, share, random()).split()
    assert len(made) == 20 - count
    assert made == [word for word in POSITIVE.split() if word in made]  # in their order
    masked = weakened(POSITIVE, share, random(), mask="[MASK]").split()
    assert len(masked) == 20
    assert masked.count("[MASK]") == count
    assert [word for word in masked if word != "[MASK]"] == made  # the same ones


def test_where_words_are_not_written_apart_characters_are_lost() -> None:
    assert len(weakened("然后重启完成", 0.5, random())) == 3
    assert weakened("one", 0.7, random()) == "one"
    assert "\n" in weakened("one\ntwo", 0.0, random())


def test_what_is_put_in_lies_where_it_is_read(tokenizer: PreTrainedTokenizerBase) -> None:
    """However long positive and negative are; without that, it often lies beyond."""
    long = " ".join(f"{NEGATIVE}. " for _ in range(30))
    positive = " ".join(f"word{number}" for number in range(300))
    collator = collator_for(tokenizer, max_length=48, prompt="")
    room = 48 - collator.single.specials

    def read(text: str) -> int:
        return characters_in(text, tokenizer, room)

    beyond = 0
    for seed in range(30):
        made = reinforced(long, positive, 0.2, random(seed), read)
        words = [made[start:end] for start, end in pieces(made)]
        last = max(number for number, word in enumerate(words) if word.startswith("word"))
        assert pieces(made)[last][1] <= read(made)
        free = reinforced(long, positive, 0.2, random(seed))
        beyond += free.rfind("word") >= read(free)
    assert beyond > 10


def test_collated_they_are_no_longer_and_have_the_same_special_tokens(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    collator = collator_for(tokenizer, max_length=16, prompt="")
    texts = [POSITIVE, *filter(None, DARK.examples(QueryId("q"), 0, POSITIVE, [NEGATIVE]))]
    masked = weakened(POSITIVE, 0.5, random(), mask=tokenizer.mask_token)
    stored = tokenize_here([*texts, masked], tokenizer)
    made = collator.singles([stored[at] for at in range(len(stored))])
    assert made["input_ids"].shape[1] <= 16
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    for row, length in zip(made["input_ids"], made["attention_mask"].sum(dim=1), strict=True):
        assert [int(row[0]), int(row[length - 1])] == special
        assert not {int(id_) for id_ in row[1 : length - 1]} & set(special)
    assert int((stored[len(texts)] == tokenizer.mask_token_id).sum()) == 10


def test_examples_depend_on_query_draw_and_slot_alone() -> None:
    first = DARK.examples(QueryId("q1"), 0, POSITIVE, [NEGATIVE, "Other words."])
    assert first == DARK.examples(QueryId("q1"), 0, POSITIVE, [NEGATIVE, "Other words."])
    assert len(set(first)) == 6
    more = Dark(3, 5, (0.2, 0.5), (0.3, 0.7), seed=7)
    assert more.examples(QueryId("q1"), 0, POSITIVE, [NEGATIVE, "Other words."])[:6] == first
    others = [
        DARK.examples(QueryId("q2"), 0, POSITIVE, [NEGATIVE]),
        DARK.examples(QueryId("q1"), 1, POSITIVE, [NEGATIVE]),
        Dark(3, 3, (0.2, 0.5), (0.3, 0.7), seed=8).examples(QueryId("q1"), 0, POSITIVE, [NEGATIVE]),
    ]
    assert all(each != first for each in others)


def test_without_a_negative_or_a_text_there_is_none() -> None:
    made = DARK.examples(QueryId("q"), 0, POSITIVE, [])
    assert made[:3] == [None] * 3
    assert all(made[3:])
    assert DARK.examples(QueryId("q"), 0, " ", [NEGATIVE]) == [NEGATIVE] * 3 + [None] * 3
    assert DARK.examples(QueryId("q"), 0, "", [""]) == [None] * 6
