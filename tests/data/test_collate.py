"""A collator gives what the tokenizer itself gives, for every family of tokenizers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data.collate import collator_for, longest_first
from limbeck.data.tokens import tokenize_here
from limbeck.errors import ModelError

LINES = [
    "how to list all files in a folder by size",
    "the cat and the dog, the fish: (one) two three!",
    "print the first line of each file; sort lines by name",
    "naïve café 你好 мир 😀",
]
TEXTS = ["", "a", "sun", "  spaces  here ", "(files)", ": odd", *LINES, " ".join(LINES * 4)]


def bert() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        LINES, trainers.WordPieceTrainer(vocab_size=200, special_tokens=specials)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def roberta() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        LINES,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>", "<pad>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )


def unigram() -> Any:
    """As T5: no token before a text, one after each."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        LINES,
        trainers.UnigramTrainer(
            vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )


FAMILIES: dict[str, Callable[[], Any]] = {"bert": bert, "roberta": roberta, "unigram": unigram}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return FAMILIES[request.param]()


def assert_same(found: dict[str, Any], expected: Any) -> None:
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype, name
        assert tensor.tolist() == expected[name].tolist(), name


def check_singles(tokenizer: Any, max_length: int, prompt: str = "") -> None:
    store = tokenize_here(TEXTS, tokenizer, prompt=prompt)
    collator = collator_for(tokenizer, max_length=max_length, prompt=prompt)
    found = collator.singles([store[i] for i in range(len(store))])
    expected = tokenizer(
        [prompt + text for text in TEXTS],
        truncation=True,
        padding=True,
        max_length=max_length,
        return_tensors="pt",
    )
    assert_same(found, expected)
    lengths = [collator.length(int(length)) for length in store.lengths]
    assert lengths == expected["attention_mask"].sum(1).tolist()


def check_pairs(tokenizer: Any, max_length: int) -> None:
    pairs = [(first, second) for first in TEXTS for second in TEXTS]
    store = tokenize_here(TEXTS, tokenizer)
    collator = collator_for(tokenizer, max_length=max_length)
    position = {text: i for i, text in enumerate(TEXTS)}
    found = collator.pairs(
        [store[position[first]] for first, _ in pairs],
        [store[position[second]] for _, second in pairs],
    )
    expected = tokenizer(
        [first for first, _ in pairs],
        [second for _, second in pairs],
        truncation=True,
        padding=True,
        max_length=max_length,
        return_tensors="pt",
    )
    assert_same(found, expected)
    lengths = [
        collator.pair_length(int(store.lengths[position[a]]), int(store.lengths[position[b]]))
        for a, b in pairs
    ]
    assert lengths == expected["attention_mask"].sum(1).tolist()


@pytest.mark.parametrize("max_length", [5, 8, 17, 64, 512])
@pytest.mark.parametrize("prompt", ["", "query: ", "query:", "Represent this text, please: "])
def test_singles_equal_the_tokenizers_own(tokenizer: Any, max_length: int, prompt: str) -> None:
    check_singles(tokenizer, max_length, prompt)


@pytest.mark.parametrize("max_length", [5, 8, 9, 16, 17, 40, 512])
def test_pairs_equal_the_tokenizers_own(tokenizer: Any, max_length: int) -> None:
    check_pairs(tokenizer, max_length)


@pytest.mark.parametrize("truncation", ["left", "right"])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_sides_are_the_tokenizers_own(truncation: str, padding: str) -> None:
    tokenizer = bert()
    tokenizer.truncation_side = truncation
    tokenizer.padding_side = padding
    check_singles(tokenizer, 9)
    check_singles(tokenizer, 9, "query: ")
    check_pairs(tokenizer, 9)


def test_a_saved_tokenizers_own_truncation_and_padding_do_not_count() -> None:
    """Some published tokenizers carry a fixed padding of 128; a store must not inherit it."""
    tokenizer = bert()
    tokenizer.backend_tokenizer.enable_padding(length=30)
    tokenizer.backend_tokenizer.enable_truncation(max_length=4)
    check_singles(tokenizer, 20)


def test_special_tokens_within_a_text_stay_what_the_tokenizer_makes_of_them() -> None:
    tokenizer = bert()
    text = "a [SEP] file [PAD]"
    store = tokenize_here([text], tokenizer)
    found = collator_for(tokenizer, max_length=20).singles([store[0]])
    assert found["input_ids"].tolist() == [tokenizer(text)["input_ids"]]


def test_no_texts_give_no_rows() -> None:
    assert collator_for(bert(), max_length=20).singles([])["input_ids"].shape == (0, 0)


def test_a_tokenizer_without_padding_is_refused() -> None:
    tokenizer = roberta()
    tokenizer.pad_token = None
    with pytest.raises(ModelError, match="no padding token"):
        collator_for(tokenizer, max_length=20)


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(ModelError, match="3 tokens leaves no room beside 3 special tokens"):
        collator_for(bert(), max_length=3)


def test_layouts_of_bert() -> None:
    collator = collator_for(bert(), max_length=20)
    pair = collator.pairs([np.array([10, 11], np.int32)], [np.array([12], np.int32)])
    assert pair["input_ids"].tolist() == [[2, 10, 11, 3, 12, 3]]
    assert pair["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 50))
@settings(max_examples=300, deadline=None)
def test_longest_first_fills_the_room_and_cuts_the_longer(
    first: int, second: int, room: int
) -> None:
    kept = longest_first(first, second, room)
    assert sum(kept) == min(first + second, room)
    assert kept[0] <= first
    assert kept[1] <= second
    if kept[0] < first and kept[1] < second:  # both were cut, so both are about half
        assert abs(kept[0] - kept[1]) <= 1
