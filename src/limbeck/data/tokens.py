"""What do the texts look like to a tokenizer?

A `TokenStore` holds the token ids of many texts in one flat array with offsets, **without special
tokens**, so that one store serves single texts, pairs and any length: templates and truncation are
applied in `limbeck.data.collate`. On disk it is a folder of `ids.i32` and `offsets.i64` (little
endian, opened read-only through memory maps) and `tokens.json`, which says what they were made
from.

This module knows no model, no template and no collection.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from limbeck.errors import ModelError, StoreError
from limbeck.language import normal, words
from limbeck.store import Written, damaged, digest, digest_file, new_folder, read_json
from limbeck.types import Progress, Silent

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

MAX_TOKENS = 8192  # per text; far above what any encoder here reads
BATCH_TEXTS = 1024
_ARRAYS = ("ids.i32", "offsets.i64")
BATCH_CHARACTERS = 4_000_000  # a batch's encodings take some 100 bytes per character
MAX_UNKNOWN = 0.02  # of the pieces of texts that a tokenizer was made for
MAX_PIECES = 1.7  # per word, if besides ...
MAX_SINGLE = 0.08  # ... more of the pieces are single letters
# Texts that may follow a prompt: words, digits, punctuation, other scripts.
CONTINUATIONS = ("a", "A", "1", "(", ":", "é", "的", "ع", "😀")

_backends: WeakKeyDictionary[PreTrainedTokenizerBase, Tokenizer] = WeakKeyDictionary()
_digests: WeakKeyDictionary[PreTrainedTokenizerBase, str] = WeakKeyDictionary()


class TokenStore:
    """Token ids of many texts, without special tokens; `store[i]` is text i's [T] int32.

    `shortened` counts the texts that were cut to `MAX_TOKENS`.
    """

    def __init__(
        self, ids: NDArray[np.int32], offsets: NDArray[np.int64], *, shortened: int = 0
    ) -> None:
        self._ids = ids
        self._offsets = offsets
        self.shortened = shortened

    @classmethod
    def of(cls, texts: Sequence[NDArray[np.int32]]) -> TokenStore:
        """A store in memory, from one array of ids per text."""
        lengths = np.fromiter((len(text) for text in texts), dtype=np.int64, count=len(texts))
        ids = np.concatenate([np.zeros(0, dtype=np.int32), *texts]).astype(np.int32)
        return cls(ids, _offsets(lengths))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        index %= len(self)
        return self._ids[self._offsets[index] : self._offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each text, [n] int64."""
        return np.diff(self._offsets)


class FollowedTokens(TokenStore):
    """The texts of one store, then those of another; neither is copied."""

    def __init__(self, first: TokenStore, then: TokenStore) -> None:
        self._first, self._then = first, then
        self.shortened = first.shortened + then.shortened

    def __len__(self) -> int:
        return len(self._first) + len(self._then)

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        index %= len(self)
        before = len(self._first)
        return self._first[index] if index < before else self._then[index - before]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each text, [n] int64."""
        return np.concatenate([self._first.lengths, self._then.lengths])


def tokenize(
    texts: Collection[str],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    stage: str,
    prompt: str = "",
    progress: Progress | None = None,
) -> TokenStore:
    """The tokens of the texts, made once: a whole folder made from the same inputs is reopened.

    With a `prompt`, the tokens are those of the text as it stands after the prompt; the prompt's
    own tokens are left out and added by a collator with the same prompt.

    Raises:
        StoreError: when the folder holds the tokens of other inputs, or is damaged.
        ModelError: when the tokenizer has no fast backend.
    """
    made_from = {
        "texts": _digest_texts(texts),
        "tokenizer": tokenizer_digest(tokenizer),
        "prompt": prompt,
        "max_tokens": MAX_TOKENS,
    }
    if not (folder / "tokens.json").exists():
        with new_folder(folder, stage=stage) as temporary:
            _write(temporary, texts, tokenizer, prompt, made_from, progress or Silent())
    return _open(folder, made_from)


def tokenize_here(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, prompt: str = ""
) -> TokenStore:
    """The tokens of a few texts, in memory: for live queries and small checks."""
    backend = bare(tokenizer)
    side = tokenizer.truncation_side
    return TokenStore.of(
        [ids for batch in _batches(texts) for ids in _encode(backend, batch, prompt, side)[0]]
    )


def characters_in(text: str, tokenizer: PreTrainedTokenizerBase, tokens: int) -> int:
    """Number of a text's first characters that its first `tokens` tokens hold."""
    if text.isascii() and len(text) < tokens:  # a token holds one character at least
        return len(text)
    encoding = bare(tokenizer).encode(text, add_special_tokens=False)
    if len(encoding.ids) <= tokens:
        return len(text)
    return int(encoding.offsets[tokens - 1][1])


def misread(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, language: str) -> str | None:
    """Why a tokenizer seems not to be made for a language, from some of its texts; None if it does.

    Letters that it does not know tell, and words of which little more than letters are left. For
    English all-MiniLM-L6-v2 cuts a word into 1.1 pieces, 4% of them single letters; German into
    2.2 and 15%, Russian into 5.8 and 96%; of Chinese 37% is unknown to it.
    """
    texts = [normal(text) for text in texts]
    pieces = unknown = single = 0
    for text, encoding in zip(texts, bare(tokenizer).encode_batch(texts), strict=True):
        for id_, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if any(map(str.isalpha, text[start:end])):
                pieces += 1
                unknown += id_ == tokenizer.unk_token_id
                single += end - start == 1
    count = sum(len(words(text, language)) for text in texts)
    if unknown > MAX_UNKNOWN * pieces:
        return f"it does not know {unknown / pieces:.0%} of what is written"
    if pieces > MAX_PIECES * count and single > MAX_SINGLE * pieces:
        return f"it cuts a word into {pieces / count:.1f} pieces"
    return None


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """The SHA-256 (hex) of all that decides a text's tokens; padding and truncation settings do not
    count.
    """
    backend = bare(tokenizer)
    if tokenizer not in _digests:
        _digests[tokenizer] = digest(json.loads(backend.to_str()))
    return digest(
        {
            "backend": _digests[tokenizer],
            "split_special_tokens": backend.encode_special_tokens,
            "truncation_side": tokenizer.truncation_side,
        }
    )


def bare(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the tokenizer's fast backend that neither truncates nor pads.

    Made once per tokenizer, whose vocabulary must not change afterwards.

    Raises:
        ModelError: when it has none.
    """
    if tokenizer not in _backends:
        _backends[tokenizer] = _copied(tokenizer)
    copy = _backends[tokenizer]
    copy.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
    return copy


def _copied(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the fast backend: a vocabulary takes a tenth of a second to copy."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} has no fast version "
            "(tokenizer.json). Save the model again with a current version of transformers, or use "
            "another model."
        )
    copy: Tokenizer = type(backend).from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def prompt_ids(backend: Tokenizer, prompt: str) -> tuple[int, ...]:
    """The tokens with which every text after the prompt begins, whatever the text.

    A prompt's last space often belongs to the text's first token; then it is not among them.
    """
    if not prompt:
        return ()
    encodings = [backend.encode(prompt + text, add_special_tokens=False) for text in CONTINUATIONS]
    common: list[int] = []
    for column in zip(
        *(zip(encoding.ids, encoding.offsets, strict=True) for encoding in encodings), strict=False
    ):
        ids = {id_ for id_, _ in column}
        # the offsets tell a prompt's token from an unknown token that stands for every continuation
        if len(ids) > 1 or any(end > len(prompt) for _, (_, end) in column):
            break
        common.append(column[0][0])
    return tuple(common)


def _write(
    folder: Path,
    texts: Collection[str],
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    made_from: dict[str, object],
    progress: Progress,
) -> None:
    """Fill a token folder, batch by batch, so that memory does not grow with the collection."""
    backend = bare(tokenizer)
    lengths: list[int] = []
    shortened = 0
    with (
        (folder / "ids.i32").open("wb") as file,
        progress.task("Tokenising", len(texts), "texts") as done,
    ):
        for batch in _batches(texts):
            encoded, cut = _encode(backend, batch, prompt, tokenizer.truncation_side)
            shortened += cut
            for ids in encoded:
                file.write(ids.astype("<i4").tobytes())
                lengths.append(len(ids))
            done(len(batch))
    offsets = _offsets(np.asarray(lengths, dtype=np.int64))
    (folder / "offsets.i64").write_bytes(offsets.astype("<i8").tobytes())
    (folder / "tokens.json").write_text(
        json.dumps(
            {
                "made_from": made_from,
                "texts": len(texts),
                "tokens": int(offsets[-1]),
                "shortened": shortened,
                "sha256": {name: digest_file(folder / name) for name in _ARRAYS},
            },
            indent=1,
            sort_keys=True,
        )
        + "\n",
        encoding="utf-8",
    )


class _About(Written):
    """Fields read from `tokens.json`."""

    made_from: dict[str, Any]
    sha256: dict[str, str]
    tokens: int
    shortened: int


def _open(folder: Path, made_from: dict[str, object]) -> TokenStore:
    """The store in a folder, checked against its inputs and its digests."""
    about = read_json(folder / "tokens.json", _About)
    if about.made_from != made_from:
        differs = [key for key, value in made_from.items() if about.made_from.get(key) != value]
        raise StoreError(
            f"{folder} holds tokens of other inputs ({', '.join(sorted(differs))} differ). "
            "Use another --out, or delete that folder to make it again."
        )
    for name in _ARRAYS:
        if not (folder / name).is_file():
            raise damaged(folder, f"{name} is missing")
        if digest_file(folder / name) != about.sha256.get(name):
            raise damaged(folder / name, "its SHA-256 is not the recorded one")
    offsets = np.fromfile(folder / "offsets.i64", dtype="<i8")
    ids = (
        np.memmap(folder / "ids.i32", dtype="<i4", mode="r")
        if about.tokens  # an empty file cannot be mapped
        else np.zeros(0, dtype=np.int32)
    )
    return TokenStore(ids, offsets, shortened=about.shortened)


def _encode(
    backend: Tokenizer, texts: Sequence[str], prompt: str, side: str
) -> tuple[list[NDArray[np.int32]], int]:
    """Each text's ids after the prompt's, and how many texts were cut to `MAX_TOKENS`."""
    lead = prompt_ids(backend, prompt)
    encodings = backend.encode_batch_fast(
        [prompt + text for text in texts] if prompt else list(texts), add_special_tokens=False
    )
    found = []
    shortened = 0
    for text, encoding in zip(texts, encodings, strict=True):
        ids = encoding.ids
        if tuple(ids[: len(lead)]) == lead:
            ids = ids[len(lead) :]
        else:  # the text's beginning merged into the prompt's last token: rare
            ids = backend.encode(text, add_special_tokens=False).ids
        if len(ids) > MAX_TOKENS:
            shortened += 1
            ids = ids[-MAX_TOKENS:] if side == "left" else ids[:MAX_TOKENS]
        found.append(np.asarray(ids, dtype=np.int32))
    return found, shortened


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Runs of texts, bounded in number and in characters."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and (len(batch) == BATCH_TEXTS or characters + len(text) > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _digest_texts(texts: Iterable[str]) -> str:
    hasher = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        hasher.update(len(content).to_bytes(8, "little"))
        hasher.update(content)
    return hasher.hexdigest()
