"""Which texts were made on the way, from what, and by whom?

Recipes that write texts of their own (generated queries, rewritten or masked passages) keep them as
an artefact like any other. An id is the digest of the content, so the same text made twice is one
text, and no id of the collection is ever taken.

This module knows no recipe and no model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from limbeck.errors import DataError
from limbeck.store import damaged, read_parquet, write_parquet

SCHEMA = pl.Schema(
    {
        "derived_id": pl.String,
        "parent_id": pl.String,  # the passage or query it was made from
        "recipe": pl.String,
        "draw": pl.Int32,  # which of several texts made from one parent, from 0
        "text": pl.String,
    }
)


@dataclass(frozen=True, slots=True)
class DerivedTexts:
    """Texts made from others: a frame with the columns of `SCHEMA`, one row per text and parent."""

    frame: pl.DataFrame

    @classmethod
    def of(cls, recipe: str, texts: dict[tuple[str, int], str]) -> DerivedTexts:
        """The texts one recipe made, by parent id and draw.

        Raises:
            DataError: when a text is empty.

        Example:
            >>> made = DerivedTexts.of("questions", {("d1", 0): "what is a still?"})
            >>> made.frame["derived_id"][0] == derived_id("what is a still?")
            True
        """
        for (parent, draw), text in texts.items():
            if not text.strip():
                raise DataError(f'{recipe} made an empty text from "{parent}" (draw {draw}).')
        rows = [
            (derived_id(text), parent, recipe, draw, text)
            for (parent, draw), text in sorted(texts.items())
        ]
        return cls(pl.DataFrame(rows, schema=SCHEMA, orient="row"))

    def write(self, path: Path, *, stage: str) -> None:
        """Write the texts as one parquet file, atomically."""
        write_parquet(path, self.frame, stage=stage)

    @classmethod
    def read(cls, path: Path) -> DerivedTexts:
        """The texts in a file that `write` made.

        Raises:
            StoreError: when it is missing, damaged or another kind of table.
        """
        frame = read_parquet(path)
        if frame.schema != SCHEMA:
            raise damaged(path, f"its columns are {', '.join(frame.columns)}")
        return cls(frame)


def derived_id(text: str) -> str:
    """The id of a derived text: the digest of its content, marked as derived."""
    return f"derived-{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
