import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from conftest import tiny_tokenizer
from limbeck.data import tokens
from limbeck.data.tokens import (
    TokenStore,
    misread,
    prompt_ids,
    tokenize,
    tokenize_here,
    tokenizer_digest,
)
from limbeck.errors import ModelError, StoreError

TEXTS = ["how to list files", "", "the cat, the dog", "unknown 😀 你好 words", "a\x00b [SEP] c"]


@pytest.fixture
def tokenizer() -> Any:
    return tiny_tokenizer()


def rows(store: TokenStore) -> list[list[int]]:
    return [store[i].tolist() for i in range(len(store))]


def test_a_store_in_memory() -> None:
    store = TokenStore.of([np.array([5, 6], np.int32), np.array([], np.int32), np.array([7])])
    assert len(store) == 3
    assert rows(store) == [[5, 6], [], [7]]
    assert store.lengths.tolist() == [2, 0, 1]
    assert store[0].dtype == np.int32
    assert store[-1].tolist() == [7]
    with pytest.raises(IndexError, match="text 3 of 3"):
        store[3]


def test_a_store_of_nothing() -> None:
    assert len(TokenStore.of([])) == 0
    assert TokenStore.of([]).lengths.tolist() == []


def test_tokens_are_the_tokenizers_without_special_ones(tokenizer: Any, tmp_path: Path) -> None:
    store = tokenize(TEXTS, tokenizer, tmp_path / "tokens", stage="tokens")
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert rows(store) == expected
    assert rows(tokenize_here(TEXTS, tokenizer)) == expected
    assert store.shortened == 0


def test_batches_change_nothing(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*TEXTS * 3, "cat " * 50]
    whole = tokenize(texts, tokenizer, tmp_path / "whole", stage="tokens")
    monkeypatch.setattr(tokens, "BATCH_TEXTS", 2)
    monkeypatch.setattr(tokens, "BATCH_CHARACTERS", 30)
    parts = tokenize(texts, tokenizer, tmp_path / "parts", stage="tokens")
    assert rows(whole) == rows(parts)
    for name in ("ids.i32", "offsets.i64", "tokens.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_a_whole_folder_is_reopened_not_made_again(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tokenize(TEXTS, tokenizer, tmp_path / "tokens", stage="tokens")

    def fail(*arguments: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(tokens, "_write", fail)
    again = tokenize(TEXTS, tokenizer, tmp_path / "tokens", stage="tokens")
    assert rows(again) == rows(first)


def test_a_reopened_store_cannot_be_written_to(tokenizer: Any, tmp_path: Path) -> None:
    store = tokenize(TEXTS, tokenizer, tmp_path / "tokens", stage="tokens")
    with pytest.raises(ValueError, match="read-only"):
        store[0][0] = 1


def test_texts_without_any_token(tokenizer: Any, tmp_path: Path) -> None:
    assert rows(tokenize(["", ""], tokenizer, tmp_path / "empty", stage="tokens")) == [[], []]
    assert rows(tokenize([], tokenizer, tmp_path / "none", stage="tokens")) == []


def test_other_inputs_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    tokenize(TEXTS, tokenizer, tmp_path / "tokens", stage="tokens")
    with pytest.raises(StoreError, match=r"holds tokens of other inputs \(texts differ\)"):
        tokenize(TEXTS[1:], tokenizer, tmp_path / "tokens", stage="tokens")
    with pytest.raises(StoreError, match=r"\(prompt differ\)"):
        tokenize(TEXTS, tokenizer, tmp_path / "tokens", stage="tokens", prompt="query: ")


@pytest.mark.parametrize("name", ["ids.i32", "offsets.i64"])
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_damage_is_noticed(tokenizer: Any, tmp_path: Path, name: str, harm: str) -> None:
    folder = tmp_path / "tokens"
    tokenize(TEXTS, tokenizer, folder, stage="tokens")
    content = (folder / name).read_bytes()
    if harm == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content[:-4] if harm == "cut" else b"\x01" + content[1:])
    with pytest.raises(StoreError, match=r"damaged.*Delete it and run the same command again"):
        tokenize(TEXTS, tokenizer, folder, stage="tokens")


@pytest.mark.parametrize(("side", "kept"), [("right", slice(0, 8)), ("left", slice(-8, None))])
def test_very_long_texts_are_cut_on_the_tokenizers_side_and_counted(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, side: str, kept: slice
) -> None:
    monkeypatch.setattr(tokens, "MAX_TOKENS", 8)
    tokenizer.truncation_side = side
    text = "one two three cat dog bird fish sea sun moon star"
    store = tokenize(["red", text], tokenizer, tmp_path / "tokens", stage="tokens")
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert store[1].tolist() == whole[kept]
    assert store.shortened == 1
    assert tokenize(["red", text], tokenizer, tmp_path / "tokens", stage="tokens").shortened == 1


def test_a_text_of_a_megabyte(tokenizer: Any) -> None:
    store = tokenize_here(["cat dog " * 130_000, "x" * 1_000_000], tokenizer)
    assert store.lengths.tolist() == [tokens.MAX_TOKENS, 1]  # one unknown word


def test_digest_does_not_count_truncation_and_padding(tokenizer: Any) -> None:
    before = tokenizer_digest(tokenizer)
    tokenizer(["cat"], truncation=True, padding="max_length", max_length=7)
    assert tokenizer_digest(tokenizer) == before
    other = copy.deepcopy(tokenizer)  # a tokenizer is read once; its vocabulary stays as it is
    other.add_tokens(["zebra"])
    assert tokenizer_digest(other) != before


def test_tokenising_leaves_the_tokenizer_alone(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.enable_truncation(max_length=3)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    store = tokenize_here(["one two three cat dog"], tokenizer)
    assert store.lengths.tolist() == [5]
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 3
    assert tokenizer.backend_tokenizer.padding["length"] == 9


def test_a_prompts_tokens_are_never_the_texts(tokenizer: Any) -> None:
    """Every continuation may be unknown to a small vocabulary; [UNK] is then not the prompt's."""
    backend = tokens.bare(tokenizer)
    expected = tokenizer("query: ", add_special_tokens=False)["input_ids"]
    assert list(prompt_ids(backend, "query: ")) == expected
    assert prompt_ids(backend, "") == ()
    store = tokenize_here(["cat", "😀"], tokenizer, prompt="query: ")
    assert rows(store) == rows(tokenize_here(["cat", "😀"], tokenizer))


def test_a_tokenizer_without_a_fast_backend_is_refused() -> None:
    class Slow:
        name_or_path = "some/model"

    with pytest.raises(ModelError, match="some/model has no fast version"):
        tokenizer_digest(Slow())  # type: ignore[arg-type]


def test_a_full_disk_leaves_nothing_behind(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokens, "_encode", full)
    with pytest.raises(StoreError, match="No space left on device"):
        tokenize(TEXTS, tokenizer, tmp_path / "tokens", stage="tokens")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_language_is_noticed() -> None:
    """Words that it knows whole are its own; letters that it does not know, or single ones, not."""
    vocabulary = ["[UNK]", *map(chr, range(ord("a"), ord("z") + 1)), "the", "list", "of", "files"]
    model = WordPiece(
        {piece: at for at, piece in enumerate([*vocabulary, *(f"##{x}" for x in vocabulary[1:])])},
        unk_token="[UNK]",
    )
    backend = Tokenizer(model)
    backend.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert misread(["the list of the files"], tokenizer, "en") is None
    assert misread(["der Liste nach zu lesen"], tokenizer, "de") == (
        "it does not know 7% of what is written"
    )
    assert misread(["liste nach zu lesen"], tokenizer, "de") == "it cuts a word into 3.2 pieces"
    assert misread([], tokenizer, "de") is None
