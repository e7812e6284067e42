"""Small collections with a structure that can be learned, written as BEIR folders."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

WORDS = (
    *("list", "print", "find", "copy", "remove", "sort", "count", "line", "name", "size", "disk"),
    *("user", "search", "query", "passage", "cat", "dog", "bird", "fish", "sea", "sun", "moon"),
    *("star", "red", "green", "blue", "old", "new", "small", "large", "fast", "slow", "run"),
    *("read", "write", "open", "close", "show"),
)


@dataclass
class Files:
    """What a BEIR folder holds, to be changed by a test before it is written."""

    corpus: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        (folder / "qrels").mkdir(parents=True)
        for name, texts in (("corpus", self.corpus), ("queries", self.queries)):
            lines = [json.dumps({"_id": id_, "text": text}) for id_, text in texts.items()]
            (folder / f"{name}.jsonl").write_text("\n".join([*lines, ""]))
        for split, judged in self.qrels.items():
            rows = [
                f"{query}\t{passage}\t{grade}"
                for query, grades in judged.items()
                for passage, grade in grades.items()
            ]
            (folder / "qrels" / f"{split}.tsv").write_text("\n".join([*rows, ""]))
        return folder


def made_up(
    passages: int = 60,
    labelled: int = 20,
    unlabelled: int = 8,
    splits: Sequence[str] = ("dev", "test"),
) -> Files:
    """Passages of eight words; every query is three words of its one relevant passage.

    `splits` (of "dev" and "test") get six queries each.
    """
    chance = random.Random(7)
    corpus = {f"p{at}": " ".join(chance.sample(WORDS, 8)) for at in range(passages)}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, dict[str, int]]] = {}
    for split, count in (("train", labelled), *((split, 6) for split in splits), ("", unlabelled)):
        for _ in range(count):
            query, passage = f"q{len(queries)}", f"p{chance.randrange(passages)}"
            queries[query] = " ".join(chance.sample(corpus[passage].split(), 3))
            if split:
                qrels.setdefault(split, {})[query] = {passage: 1}
    return Files(corpus, queries, qrels)
