"""How do stored tokens become what a model reads?

Tokens are stored without special tokens (`limbeck.data.tokens`); a `Collator` adds the prompt, cuts
to the model's length, puts the special tokens around and pads. Which special tokens go where is
learned by asking the tokenizer once, for a single text and for a pair, so BERT, RoBERTa, T5 and
their relatives need no case of their own. The result equals what the tokenizer itself returns for
the same texts with `truncation=True, padding=True`.

This module knows no model and no collection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from limbeck.data.tokens import bare, prompt_ids
from limbeck.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

    Ids = NDArray[np.int32]

Side = Literal["right", "left"]
PROBES = ("a", "the", "0", ".", "的")  # any text that gives one token will do


@dataclass(frozen=True, slots=True)
class Layout:
    """The special tokens around one text or two: ids and token types of each gap, and the type of
    each text.

    `gaps[0]` comes before the first text, `gaps[-1]` after the last.
    """

    gaps: tuple[tuple[int, ...], ...]
    gap_types: tuple[tuple[int, ...], ...]
    text_types: tuple[int, ...]

    @property
    def specials(self) -> int:
        """Number of special tokens."""
        return sum(len(gap) for gap in self.gaps)


@dataclass(frozen=True)
class Collator:
    """Makes model input from stored tokens.

    `max_length` counts tokens, special ones and the prompt's included; `prompt` comes before every
    single text.
    """

    max_length: int
    prompt: str
    prompt_ids: tuple[int, ...]
    single: Layout
    pair: Layout
    pad_id: int
    pad_type: int
    truncation_side: Side
    padding_side: Side
    token_types: bool

    def length(self, tokens: int) -> int:
        """Length in tokens of a single text of that many stored tokens, before padding."""
        return min(len(self.prompt_ids) + tokens + self.single.specials, self.max_length)

    def pair_length(self, query_tokens: int, passage_tokens: int) -> int:
        """Length in tokens of a pair of texts of that many stored tokens, before padding."""
        return min(query_tokens + passage_tokens + self.pair.specials, self.max_length)

    def singles(self, texts: Sequence[Ids]) -> dict[str, Tensor]:
        """One row per text: `input_ids`, `attention_mask` and, where the model has them,
        `token_type_ids`.

        Shapes: each [B, T] long, T the longest row.
        """
        room = self.max_length - self.single.specials
        prompt = np.asarray(self.prompt_ids, dtype=np.int32)
        rows = [
            (_cut(np.concatenate((prompt, text)) if len(prompt) else text, room, self._from_left),)
            for text in texts
        ]
        return self._pad(rows, self.single)

    def pairs(self, queries: Sequence[Ids], passages: Sequence[Ids]) -> dict[str, Tensor]:
        """One row per (query, passage); when too long, the longer text is cut first. Prompts are
        not used.

        Shapes: each [B, T] long, T the longest row.
        """
        room = self.max_length - self.pair.specials
        rows = []
        for query, passage in zip(queries, passages, strict=True):
            first, second = longest_first(len(query), len(passage), room)
            rows.append(
                (_cut(query, first, self._from_left), _cut(passage, second, self._from_left))
            )
        return self._pad(rows, self.pair)

    @property
    def _from_left(self) -> bool:
        return self.truncation_side == "left"

    def _pad(self, rows: Sequence[tuple[Ids, ...]], layout: Layout) -> dict[str, Tensor]:
        lengths = [sum(map(len, row)) + layout.specials for row in rows]
        shape = (len(rows), max(lengths, default=0))
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        types = np.full(shape, self.pad_type, dtype=np.int64) if self.token_types else None
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            at = shape[1] - length if self.padding_side == "left" else 0
            mask[index, at : at + length] = 1
            for part, gap in enumerate(layout.gaps):
                end = at + len(gap)
                ids[index, at:end] = gap
                if types is not None:
                    types[index, at:end] = layout.gap_types[part]
                at = end
                if part < len(row):
                    end = at + len(row[part])
                    ids[index, at:end] = row[part]
                    if types is not None:
                        types[index, at:end] = layout.text_types[part]
                    at = end
        features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if types is not None:
            features["token_type_ids"] = torch.from_numpy(types)
        return features


def collator_for(
    tokenizer: PreTrainedTokenizerBase, *, max_length: int, prompt: str = ""
) -> Collator:
    """The collator whose output equals this tokenizer's.

    With a prompt, tokenise the texts with the same prompt (`tokenize(..., prompt=...)`): some
    tokenizers split a word otherwise after a space.

    Raises:
        ModelError: when the tokenizer has no fast backend, no padding token or no room for a text.
    """
    backend = bare(tokenizer)
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} has no padding token, so "
            "texts cannot be batched. Set one (tokenizer.pad_token) and save the model again."
        )
    probe = _probe(backend)
    single = _layout(backend.encode(probe), texts=1)
    pair = _layout(backend.encode(probe, probe), texts=2)
    if max_length <= pair.specials:
        raise ModelError(
            f"A maximum length of {max_length} tokens leaves no room beside {pair.specials} "
            "special tokens. Raise max_seq_length in the model's folder."
        )
    return Collator(
        max_length=max_length,
        prompt=prompt,
        prompt_ids=prompt_ids(backend, prompt),
        single=single,
        pair=pair,
        pad_id=tokenizer.pad_token_id,
        pad_type=tokenizer.pad_token_type_id,
        truncation_side=tokenizer.truncation_side,
        padding_side=tokenizer.padding_side,
        token_types="token_type_ids" in tokenizer.model_input_names,
    )


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Numbers of tokens kept of two texts when both must fit: the longer gives way, then both
    equally.

    Source: `truncate_encodings` of Hugging Face tokenizers, strategy `LongestFirst`; an odd room's
    last token goes to the text that was longer (the second when they were equal).

    Example:
        >>> longest_first(3, 10, room=9), longest_first(8, 10, room=9)
        ((3, 6), (4, 5))
    """
    if first + second <= room:
        return first, second
    shorter, longer = min(first, second), max(first, second)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    return (longer, shorter) if first > second else (shorter, longer)


def _cut(ids: Ids, room: int, from_left: bool) -> Ids:
    """The first (or, cutting from the left, the last) `room` ids."""
    if len(ids) <= room:
        return ids
    return ids[len(ids) - room :] if from_left else ids[:room]


def _probe(backend: Tokenizer) -> str:
    for probe in PROBES:
        if backend.encode(probe, add_special_tokens=False).ids:
            return probe
    raise ModelError("The tokenizer gives no token for any text. Check the model's tokenizer.json.")


def _layout(encoding: Encoding, *, texts: int) -> Layout:
    """Layout of an encoding: the special tokens around its texts; `sequence_ids` says which text a
    token belongs to, if any.
    """
    gaps: list[list[int]] = [[] for _ in range(texts + 1)]
    gap_types: list[list[int]] = [[] for _ in range(texts + 1)]
    text_types = [0] * texts
    seen = 0
    for id_, type_, text in zip(
        encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True
    ):
        if text is None:
            gaps[seen].append(id_)
            gap_types[seen].append(type_)
        else:
            text_types[text] = type_
            seen = text + 1
    return Layout(tuple(map(tuple, gaps)), tuple(map(tuple, gap_types)), tuple(text_types))
