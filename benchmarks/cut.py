"""A smaller collection out of a larger one, the same one wherever it is made.

Its test split is the larger one's test, or else dev, whole, with every passage judged in it; other
passages are drawn by the hash of their ids up to `--passages`. A training query stays where all of
its judged passages did. There is no dev split: a run cuts one from train.

    python benchmarks/cut.py DATA OUT --passages 4000
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from limbeck.data.collection import Texts
from limbeck.data.reading import read_as_given
from limbeck.errors import LimbeckError
from limbeck.store import new_folder


def main() -> int:
    asked = options()
    whole = read_as_given(asked.data)
    test = whole.qrels.get("test") or whole.qrels["dev"]
    needed = {passage for judged in test.values() for passage in judged}
    others = sorted((id_ for id_ in whole.passages.ids if id_ not in needed), key=drawn)
    kept = needed | set(others[: max(0, asked.passages - len(needed))])
    train = {query: judged for query, judged in whole.qrels["train"].items() if kept >= set(judged)}
    with new_folder(asked.out, stage="cut") as folder:
        write(folder / "corpus.jsonl", rows(whole.passages, kept))
        write(folder / "queries.jsonl", rows(whole.queries, {*train, *test}))
        (folder / "qrels").mkdir()
        for split, judgements in (("train", train), ("test", test)):
            lines = (
                f"{query}\t{passage}\t{grade}"
                for query, judged in judgements.items()
                for passage, grade in judged.items()
            )
            write(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])
    print(f"{asked.out}: {len(kept):,} passages, queries: train {len(train):,}, test {len(test):,}")
    return 0


def drawn(id_: str) -> bytes:
    """Place of a passage in the draw."""
    return hashlib.blake2b(f"0 cut {id_}".encode(), digest_size=16).digest()


def rows(texts: Texts, kept: set[str]) -> Iterable[str]:
    """A line of JSON for each text that was kept, in the order of the file."""
    for at, id_ in enumerate(texts.ids):
        if id_ in kept:
            title, text = texts.parts(at)
            yield json.dumps({"_id": id_, "title": title, "text": text}, ensure_ascii=False)


def write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def options() -> Any:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("data", help="a collection")
    asked.add_argument("out", type=Path, help="a new folder")
    asked.add_argument("--passages", type=int, default=4000)
    return asked.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LimbeckError as error:
        sys.exit(str(error))
