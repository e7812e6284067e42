"""What does a data set in the layout of BEIR on the Hugging Face hub hold?

`hf:NAME` has its passages in the configuration `corpus` and its queries in `queries`, with fields
`_id`, `title` and `text`; its judgements are in the configuration `default` or `qrels` of NAME, as
in those of MTEB, or in the data set `NAME-qrels`, as in those of BEIR, with fields `query-id`,
`corpus-id` and `score`. NAME may be a local folder in that layout.

The package datasets downloads what it does not have yet. This module knows no file of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from limbeck.data.builders import SPLIT_WORDS, GrowingQrels, GrowingTexts, finished
from limbeck.data.collection import Collection, Texts
from limbeck.data.lines import Problem, Report, shown
from limbeck.errors import ConfigError
from limbeck.types import Qrels, Split

PREFIX = "hf:"
_QRELS = ("default", "qrels")  # the configurations that may hold judgements
_FIELDS = ("query-id", "corpus-id", "score")


def scan_hub(name: str, report: Report, *, drop_unknown_judgements: bool = False) -> Collection:
    """Read the usable part of a data set from the hub; everything else goes to `report`.

    Raises:
        ConfigError: without the package, for another layout, and when the data set is not there
            and cannot be downloaded.
    """
    package = _package()
    if not name:
        raise ConfigError(
            f"{PREFIX} names no data set. Write {PREFIX}NAME, such as hf:BeIR/scifact."
        )
    notes: list[str] = []
    passages = _texts(package, name, "corpus", "passage", report, notes)
    queries = _texts(package, name, "queries", "query", report, notes)
    qrels: dict[Split, Qrels] = {}
    for split, table in _judgements(package, name, notes).items():
        title = f"qrels/{split}"
        judged = GrowingQrels(
            title,
            split,
            queries,
            passages,
            report,
            notes,
            files=("queries", "corpus"),
            drop_unknown=drop_unknown_judgements,
        )
        for number, row in enumerate(table, start=1):
            _judge(judged, f"{title}:{number}", row)
        qrels[split] = judged.done()
    return finished(name.rstrip("/").rpartition("/")[2], passages, queries, qrels, notes)


def _package() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"{PREFIX}... needs the package datasets. Install it: pip install 'limbeck[hf]'."
        ) from error
    return datasets


def _load(package: Any, name: str, *configuration: str) -> Mapping[str, Any]:
    """The tables of a configuration, by split."""
    try:
        return dict(package.load_dataset(name, *configuration))
    except Exception as error:  # of several packages, with no common type
        raise _unreachable(name, error) from error


def _unreachable(name: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:200]
    return ConfigError(
        f"{PREFIX}{name} cannot be read: it is not on this machine, or not in the layout of BEIR "
        f"({reason}). Where there is a network, run `limbeck data convert {PREFIX}{name} OUT`, and "
        "copy OUT here; or copy the folder ~/.cache/huggingface (see HF_HOME)."
    )


def _texts(
    package: Any,
    name: str,
    configuration: str,
    noun: Literal["passage", "query"],
    report: Report,
    notes: list[str],
) -> Texts:
    """All texts of a configuration."""
    texts = GrowingTexts(noun, report, notes)
    tables = _load(package, name, configuration)
    for number, row in enumerate(chain.from_iterable(tables.values()), start=1):
        id_ = row.get("_id", row.get("id"))
        title = (row.get("title") or "") if noun == "passage" else ""
        if isinstance(id_, str | int) and isinstance(row.get("text"), str):
            texts.add(configuration, number, str(id_), row["text"], title)
            continue
        found = {key: row[key] for key in ("_id", "text") if key in row} or list(row)
        texts.report(
            Problem(
                "bad row",
                f"{configuration}:{number}",
                f'no "_id" or no "text" ({shown(found)})',
                "Each row must have both. Convert the data set, or name another.",
            )
        )
    return texts.done(configuration, "or name another data set")


def _judgements(package: Any, name: str, notes: list[str]) -> dict[Split, Any]:
    """The tables of judgements by split; of a local folder there may be none."""
    companion = f"{name.rstrip('/')}-qrels"
    places = [*((name, configuration) for configuration in _QRELS), (companion,)]
    for place in places:
        try:
            tables = _load(package, *place)
            break
        except ConfigError:
            if place == places[-1]:
                if Path(name).is_dir() and not Path(companion).is_dir():
                    return {}
                raise
    found: dict[Split, Any] = {}
    for word, table in tables.items():
        split = SPLIT_WORDS.get(word)
        if split is None:
            notes.append(f"qrels: split {word} not read; the splits are train, dev and test")
        elif split in found:
            raise ConfigError(f"{PREFIX}{name} has two splits that judge {split}: convert it.")
        else:
            found[split] = table
    return found


def _judge(judged: GrowingQrels, where: str, row: Mapping[str, Any]) -> None:
    """Take one row of judgements."""
    query, passage, grade = (row.get(field) for field in _FIELDS)
    whole = isinstance(grade, int | float) and float(grade).is_integer()
    if isinstance(query, str | int) and isinstance(passage, str | int) and whole:
        assert grade is not None
        judged.add(where, str(query), str(passage), int(grade))
        return
    judged.report(
        Problem(
            "bad judgement",
            where,
            f"{shown(dict(row))} instead of {', '.join(_FIELDS)}, whole numbers as scores",
            "Convert the data set, or name another.",
        )
    )
