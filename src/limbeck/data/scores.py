"""Which scores of (query, passage) pairs does a file hold?

    FILE.parquet         columns `query_id`, `passage_id` and `score`
    FILE.tsv             query id, passage id and score separated by tabs; a header is optional
    FILE.trec            six columns, as a search engine writes its runs: query id, Q0, passage id,
                         rank, score, tag; the scores count, and must not rise with the ranks
    FILE.jsonl           training examples with their scores, of a collection that was read from
                         such examples (`limbeck.data.examples`)

Text may be gzipped, and a line says by its columns which of the two layouts it has; a note says how
the file was read. Nothing is guessed: an id that is not in the collection, a score that is no
number, or two scores of one pair are refused, naming the line or row. So are three columns whose
numbers could be ranks, unless a header says what they are; ranks order candidates, and that is all.

This module knows no model and no teacher.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import polars as pl

from limbeck.data.collection import Collection
from limbeck.data.examples import ENDINGS, content_id, passage_id, read_examples
from limbeck.data.lines import Problem, decoded, lines
from limbeck.data.ranks import NAMES, could_be_ranks, scores_rise_with
from limbeck.errors import DataError
from limbeck.store import check_whole

COLUMNS = ("query_id", "passage_id", "score")
_SHAPE = (
    "Each line must have query id, passage id and score, separated by tabs, or be a line of a TREC "
    "run"
)


@dataclass(frozen=True)
class ScoredPairs:
    """Scores of pairs, read from a file: a query's pairs together and its best first.

    Shapes: `pairs` [n, 2], query and passage positions in the collection; `scores` [n].
    """

    pairs: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The SHA-256 (hex) of all pairs and scores, whatever the file they came in."""
        return hashlib.sha256(self.pairs.tobytes() + self.scores.tobytes()).hexdigest()


def read_candidates(path: Path, collection: Collection) -> ScoredPairs:
    """The pairs in a file, such as a run, whose queries are there to train on.

    The note counts them, and those of queries of dev and test, which are left out: what is
    measured does not depend on the file.

    Raises:
        DataError: as `read_scores`, and when no pair is left.
    """
    found = _checked(_read(path, collection), collection)
    index = collection.queries.index
    training = [index[query] for query in (*collection.labelled, *collection.unlabelled)]
    kept = np.isin(found.pairs[:, 0], training)
    if not kept.any():
        raise DataError(
            f"{path} has candidates for no training query of {collection.name} (one that no dev or "
            "test split judges). Search for those."
        )
    queries = len(np.unique(found.pairs[kept, 0]))
    note = f"{path.name}: {kept.sum():,} candidates given for {queries:,} training queries"
    if not kept.all():
        note += f"; {(~kept).sum():,} of dev and test queries left out"
    return ScoredPairs(found.pairs[kept], found.scores[kept], (*found.notes, note))


def read_scores(path: Path, collection: Collection) -> ScoredPairs:
    """The scores in a file, of queries and passages of a collection.

    Raises:
        DataError: when there is no such file, at the first thing in it that cannot be used, and
            when it holds ranks.
        StoreError: when it is a run's of our own, and is not what was written.
    """
    found = _read(path, collection)
    if found.ranks:
        raise DataError(
            f"{path} holds ranks, by its header, and a rank is no score. Write scores there; as "
            "--candidates the file can be used as it is."
        )
    return _checked(found, collection)


def _read(path: Path, collection: Collection) -> _Raw:
    """Read a file of scores, whatever its layout."""
    if not path.is_file():
        raise DataError(f"There is no file of scores {path}. Check the path.")
    check_whole(path, anew=True)
    if path.suffix == ".parquet":
        found = _parquet(path)
    elif path.name.endswith(ENDINGS):
        found = _examples(path)
    else:
        found = _text(path, collection)
    if not len(found.scores):
        raise DataError(f"{path} is empty: it holds no score. {_SHAPE}.")
    return found


@dataclass(frozen=True, slots=True)
class _Raw:
    """A file's scores as written, row by row; `rows` [n] are line or row numbers, from 1.

    `shape` says in words what it was read as. Where it is `ranks`, `scores` are those times -1.
    """

    path: Path
    place: str  # between the file's name and the number
    shape: str
    queries: list[str]
    passages: list[str]
    scores: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]
    ranks: bool = False

    def where(self, at: int) -> str:
        """The place of a row, for a message."""
        return f"{self.path}{self.place}{self.rows[at]}"


def _parquet(path: Path) -> _Raw:
    """The rows of a parquet table."""
    try:
        frame = pl.read_parquet(path)
    except Exception as error:  # polars raises several unrelated types
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{path} cannot be read as parquet ({reason}). Write it again.") from error
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r} (it has {', '.join(frame.columns) or 'none'}). "
            f"The columns must be {', '.join(COLUMNS)}."
        )
    for name in COLUMNS[:2]:
        if not (frame[name].dtype == pl.String or frame[name].dtype.is_integer()):
            raise DataError(
                f"{path}: the column {name!r} holds {frame[name].dtype}, not ids. Write texts."
            )
    if not frame["score"].dtype.is_numeric():
        raise DataError(
            f"{path}: the column 'score' holds {frame['score'].dtype}, not numbers. Write numbers."
        )
    frame = frame.select(
        pl.col(COLUMNS[0]).cast(pl.String),
        pl.col(COLUMNS[1]).cast(pl.String),
        pl.col("score").cast(pl.Float64),
    )
    empty = frame.with_row_index("row", offset=1).filter(
        pl.any_horizontal(pl.col(name).is_null() for name in COLUMNS)
    )
    if len(empty):
        raise DataError(f"{path}, row {empty['row'][0]}: a value is missing. Leave the row out.")
    return _Raw(
        path,
        ", row ",
        f"a table, by its columns {', '.join(COLUMNS)}",
        frame["query_id"].to_list(),
        frame["passage_id"].to_list(),
        frame["score"].to_numpy(),
        np.arange(1, len(frame) + 1),
    )


def _text(path: Path, collection: Collection) -> _Raw:
    """The lines of a table with tabs, or of a TREC run."""
    queries: list[str] = []
    passages: list[str] = []
    scores: list[float] = []
    rows: list[int] = []
    ranks: list[float] = []  # of the lines of a TREC run
    header = ""
    for number, raw in lines(path, str(path), _refuse):
        line = decoded(raw, f"{path}:{number}", _refuse) or ""
        columns = line.split("\t")
        if len(columns) != 3:
            columns = line.split()
            if len(columns) != 6:
                told = f"{len(columns)} column{'s' * (len(columns) != 1)}"
                told += " between spaces" if len(columns) == 3 else " instead of 3"
                raise DataError(f"{path}:{number}: {told}. {_SHAPE}.")
            ranks.append(_number(columns[3]))
            columns = [columns[0], columns[2], columns[4]]
        try:
            score = float(columns[2])
        except ValueError as error:
            if number == 1 and columns[0] not in collection.queries.index:
                header = columns[2].strip()
                continue
            raise DataError(
                f"{path}:{number}: score {columns[2]!r} is not a number. {_SHAPE}."
            ) from error
        queries.append(columns[0])
        passages.append(columns[1])
        scores.append(score)
        rows.append(number)
    found, at = np.array(scores, dtype=np.float64), np.array(rows, dtype=np.int64)
    if not ranks:
        by_rank = header.lower() in NAMES
        if not header and could_be_ranks(queries, found):
            raise DataError(
                f"{path}: the numbers in the third column could be ranks, the lowest best, as in "
                "MS MARCO's runs, or scores, the highest best. Say which in a first line, "
                "separated by tabs: query_id, passage_id and rank, or query_id, passage_id and "
                "score."
            )
        what = "rank (by its header)" if by_rank else "score"
        shape = f"query id, passage id and {what}, separated by tabs"
        scores_of = -found if by_rank else found
        return _Raw(path, ":", shape, queries, passages, scores_of, at, by_rank)
    said = np.array(ranks, dtype=np.float64)
    known = len(said) == len(found) and np.isfinite(said).all()
    if known and scores_rise_with(said, queries, found):
        raise DataError(
            f"{path}: in every query the scores rise with the rank, so what is ranked first has "
            "the lowest score. Write scores that are higher for better passages, such as distances "
            "times -1, or correct the ranks."
        )
    return _Raw(path, ":", "a TREC run, by its scores", queries, passages, found, at)


def _number(word: str) -> float:
    """The number that a word is, or NaN."""
    try:
        return float(word)
    except ValueError:
        return float("nan")


def _examples(path: Path) -> _Raw:
    """The scores in training examples."""
    queries: list[str] = []
    passages: list[str] = []
    scores: list[float] = []
    rows: list[int] = []
    for number, example in read_examples(path, str(path), _refuse):
        for passage, score in zip(example.passages, example.scores or (), strict=False):
            queries.append(content_id(example.query))
            passages.append(passage_id(*passage))
            scores.append(score)
            rows.append(number)
    shape = "training examples, by the scores in them"
    at = np.array(rows, dtype=np.int64)
    return _Raw(path, ":", shape, queries, passages, np.array(scores), at)


def _refuse(problem: Problem) -> NoReturn:
    raise DataError(str(problem))


def _checked(raw: _Raw, collection: Collection) -> ScoredPairs:
    """The rows as positions, in order.

    Raises:
        DataError: at the first unknown id, score that is not finite, or second score of a pair.
    """
    positions = []
    for ids, texts, noun, plural in (
        (raw.queries, collection.queries, "query", "queries"),
        (raw.passages, collection.passages, "passage", "passages"),
    ):
        found = np.array([texts.index.get(id_, -1) for id_ in ids], dtype=np.int64)
        if (found < 0).any():
            at = int(np.flatnonzero(found < 0)[0])
            raise DataError(
                f'{raw.where(at)}: {noun} id "{ids[at]}" is none of the {plural} of '
                f"{collection.name}. Leave such rows out, or add it there."
            )
        positions.append(found)
    queries, passages = positions
    with np.errstate(over="ignore"):
        scores = raw.scores.astype(np.float32)
    if not np.isfinite(scores).all():
        at = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise DataError(
            f"{raw.where(at)}: the score is {raw.scores[at]}, not a finite number. Leave the row "
            "out, or score the pair again."
        )
    order = np.lexsort((raw.rows, passages, queries))
    same = (np.diff(queries[order]) == 0) & (np.diff(passages[order]) == 0)
    first, second = order[:-1][same], order[1:][same]
    other = scores[first] != scores[second]
    if other.any():
        at = int(second[other].min())
        before = int(first[second == at][0])
        raise DataError(
            f'{raw.where(at)}: query "{raw.queries[at]}" and passage "{raw.passages[at]}" score '
            f"{raw.scores[at]:g} here and {raw.scores[before]:g} in {raw.where(before)}. Keep one."
        )
    kept = np.setdiff1d(np.arange(len(scores)), second)
    kept = kept[np.lexsort((passages[kept], -scores[kept], queries[kept]))]
    notes = [f"{raw.path.name}: read as {raw.shape}"]
    if len(second):
        notes.append(f"{raw.path.name}: {len(second):,} repeated pairs (same score) merged")
    return ScoredPairs(
        np.stack([queries[kept], passages[kept]], axis=1),
        scores[kept],
        tuple(notes),
    )
