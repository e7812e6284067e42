"""How is a collection written as a BEIR folder?

Ids, texts, titles and judgements are written as they are, so reading the folder gives a collection
of the same digest. What is made while reading (a dev split that was set aside, queries of a
collection that has none) is not written: reading makes it again, and says so.

This module knows no format but BEIR's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from limbeck.data.collection import Collection, Texts
from limbeck.data.labelled import holds_labelled
from limbeck.data.reading import read_as_given
from limbeck.errors import ConfigError, DataError
from limbeck.store import new_folder


def convert(data: str | Path, out: Path, *, drop_unknown_judgements: bool = False) -> Collection:
    """Write what DATA names as a BEIR folder, whole or not at all; the result is what was read.

    Raises:
        ConfigError: when `out` is there and not an empty folder, or DATA is nothing that is known.
        DataError: for what cannot be used, or cannot be written: ids that hold tabs or line breaks.
        StoreError: when the file system refuses.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ConfigError(f"{out} is there already, and nothing is overwritten. Name a new folder.")
    if holds_labelled(str(data)):
        raise ConfigError(f"{data} holds examples of classes. Only a collection is converted.")
    collection = read_as_given(data, drop_unknown_judgements=drop_unknown_judgements)
    _check_ids(collection)
    with new_folder(out, stage="convert") as folder:
        _write(folder / "corpus.jsonl", _texts(collection.passages))
        if len(collection.queries):
            _write(folder / "queries.jsonl", _texts(collection.queries))
        for split, judged in collection.qrels.items():
            (folder / "qrels").mkdir(exist_ok=True)
            rows = (
                f"{query}\t{passage}\t{grade}"
                for query, grades in judged.items()
                for passage, grade in grades.items()
            )
            _write(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *rows])
    return collection


def _texts(texts: Texts) -> Iterable[str]:
    """A line of JSON for each text; title and text are apart where a title is known."""
    for at, id_ in enumerate(texts.ids):
        title, text = texts.parts(at)
        row = {"_id": id_, "title": title, "text": text} if title else {"_id": id_, "text": text}
        yield json.dumps(row, ensure_ascii=False)


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _check_ids(collection: Collection) -> None:
    """Refuse ids that no line of judgements can hold."""
    for judged in collection.qrels.values():
        for query, grades in judged.items():
            for id_ in (query, *grades):
                if any(character in id_ for character in "\t\r\n"):
                    raise DataError(
                        f"{collection.name}: the id {id_!r} holds a tab or a line break, which "
                        "files of judgements cannot. Give it another."
                    )
