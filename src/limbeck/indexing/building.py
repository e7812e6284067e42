"""How do passages get into an index, and out of it again?

`build` encodes a collection segment by segment, and goes on after the last whole one when it was
stopped. `add` and `delete` write new files beside the old and then replace the card.

What a folder of an index holds is `limbeck.indexing.files`; this module knows no query but those
that recall is measured on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.data.beir import read_passages
from limbeck.data.collection import Collection, Texts
from limbeck.data.tokens import tokenize_here
from limbeck.errors import ConfigError, ModelError
from limbeck.indexing.approximate import (
    DEPTHS,
    MAX_EFFORT,
    Approximate,
    Kind,
    check_kind,
    choose_effort,
    recall,
)
from limbeck.indexing.files import (
    CARD,
    FORMAT,
    MODEL,
    RECOPY,
    REMAKE,
    STAGE,
    Damaged,
    Index,
    changing,
    holds_segment,
    is_begun,
    open_exactly,
    open_index,
    read_card,
    segment_entry,
    segment_name,
    unknown_ids,
    write_card,
    write_deleted,
    write_segment,
)
from limbeck.indexing.runs import STUDENT, index_of, is_run, student_of
from limbeck.inference import Engine, choose_engine, embed_batches, plan_batches, text_lengths
from limbeck.language import ENGLISH
from limbeck.models.encoder import Encoder
from limbeck.models.exported import is_exported, runtime_of
from limbeck.similarity import comparable
from limbeck.store import (
    SEEN,
    Checksum,
    checksum,
    checksums,
    digest,
    faults,
    files_below,
    lock_folder,
    new_folder,
)
from limbeck.teachers import DualTeacher, load_teacher
from limbeck.types import Progress, Role, Silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

SEGMENT = 2**16  # passages encoded before they are written: with 384 numbers each, 100 MB
SAMPLE_QUERIES = 1000  # for recall: half choose the effort, half measure what it finds
MIN_RECALL = 0.99  # of the ten best, on the queries that choose the effort
_PACKAGES = ("limbeck", "torch", "sentence-transformers", "numpy", "faiss-cpu")


@dataclass(frozen=True, slots=True)
class Changed:
    """Numbers of passages that `add` or `delete` changed in an index."""

    added: int
    replaced: int
    deleted: int
    passages: int  # that can be found now


def build(
    model: str,
    collection: Collection,
    out: str | Path | None = None,
    *,
    kind: str = "exact",
    least_recall: float = MIN_RECALL,
    backend: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Index:
    """The index of a collection's passages in the folder `out`, encoded by an encoder.

    `model` is an encoder, or a run, whose student it then is and whose folder `index` is where the
    index goes by default. The same call goes on where an earlier one stopped, and opens what is
    finished; with another `kind` or `least_recall` it does only what that takes. The copy of the
    model and what approximates the index are made again when they are damaged.

    Raises:
        ConfigError: when `out` holds something else, or the kind or engine cannot be had.
        ModelError: when the model is no encoder.
        StoreError: when the folder is damaged, in use or not writable.
    """
    progress = progress or Silent()
    chosen = check_kind(kind)
    beside = None  # where the encoder is, seen from the index, when it need not be copied
    if is_run(run := Path(model).expanduser()):
        model = student_of(run)
        if out is None or Path(out).resolve() == index_of(run).resolve():
            out, beside = index_of(run), f"../{STUDENT}"
    if out is None:
        raise ConfigError(
            f"{model} is not a run folder, so the index has no default place. Add --out."
        )
    out = Path(out)
    if not 0 < least_recall <= 1:
        raise ConfigError(f"--recall must be above 0 and at most 1 (got {least_recall:g}).")
    _check_folder(out)
    teacher = load_embedder(model)
    if backend == "auto" and is_exported(model):
        backend = runtime_of(model)
    engine = choose_engine(
        backend,
        precision,
        characters=collection.passages.characters,
        workers=workers,
        models=teacher.backend_models(),
    )
    for line in engine.notes:
        progress.say(line)
    out.mkdir(parents=True, exist_ok=True)
    with lock_folder(out):
        card = _begun_card(teacher, collection, engine, beside)
        if (out / CARD).is_file():
            card = _checked_card(out, card)
            if not _has_model(out, card["model"]):
                card["model"]["files"] = _copy_model(model, teacher.encoder, out)
                write_card(out, card)
            if card.get("language", ENGLISH) != collection.language:
                card |= {"language": collection.language, "changes": int(card["changes"]) + 1}
                write_card(out, card)
        else:
            if beside is None:
                card["model"]["files"] = _copy_model(model, teacher.encoder, out)
            card["segments"] = list(
                _encoded(teacher, collection.passages, out, engine, progress, first=0)
            )
            write_card(out, card)  # exact in the meantime: encoding is the dear part
        approximate = chosen != "exact"
        wanted = {"kind": chosen, "least_recall": least_recall if approximate else None}
        if wanted == {key: card[key] for key in wanted}:
            try:
                return open_index(out)
            except Damaged as error:
                if error.advice != REMAKE:
                    raise
                progress.say(f"Damaged: {error.why}")
        index = open_exactly(out)
        made = (
            _approximate(index, chosen, least_recall, teacher, collection, engine, progress)
            if approximate
            else None
        )
        change = int(card["changes"]) + 1
        write_card(out, {**card, **wanted, "approximate": made, "changes": change})
        return open_index(out)


def add(
    folder: str | Path,
    file: str | Path,
    *,
    backend: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Changed:
    """Put the passages of a file such as `corpus.jsonl` into an index; an id that is there already
    gets the new text.

    Raises:
        ConfigError, StoreError: when there is no index, or it cannot be changed.
        DataError: when the file cannot be used; then nothing is changed.
    """
    folder = index_of(Path(folder))
    passages = read_passages(Path(file).expanduser())
    with changing(folder) as index:
        teacher = model_of(index.folder, index.card)
        model = folder / index.card["model"]["path"]
        if backend == "auto" and is_exported(model):
            backend = runtime_of(model)
        characters, models = passages.characters, teacher.backend_models()
        engine = choose_engine(
            backend,
            precision,
            characters=characters,
            models=models,
            taken=index.card["engine"]["precision"],
        )
        first = 1 + max(int(entry["name"].rpartition("-")[2]) for entry in index.card["segments"])
        replaced = index.rows_of(passages.ids)
        added = _encoded(teacher, passages, folder, engine, progress or Silent(), first=first)
        segments = [*index.card["segments"], *added]
        _change(index, segments, list(replaced.values()))
        new = len(passages) - len(replaced)
        return Changed(new, len(replaced), 0, len(index) + new)


def delete(folder: str | Path, ids: Sequence[str]) -> Changed:
    """Take passages out of an index: they are masked, and their room is freed by the next build.

    Raises:
        ConfigError, StoreError: when there is no index, or it cannot be changed.
        DataError: naming ids that it does not have; then nothing is changed.
    """
    with changing(index_of(Path(folder))) as index:
        rows = index.rows_of(ids)
        if unknown := [id_ for id_ in ids if id_ not in rows]:
            raise unknown_ids(index, unknown)
        _change(index, index.card["segments"], list(rows.values()))
        return Changed(0, 0, len(rows), len(index) - len(rows))


def load_embedder(model: str) -> DualTeacher:
    """A model that gives vectors, exported ones too.

    Raises:
        ModelError: when it does not.
    """
    found = load_teacher(model)
    if found.first_stage is None:
        raise ModelError(
            f"{model} gives scores, not one vector per text, so its work cannot be kept in an "
            "index. Name an encoder, such as RUN/student."
        )
    return DualTeacher(found.name, found.first_stage)


def model_of(folder: Path, card: Mapping[str, Any]) -> DualTeacher:
    """The encoder that the index in a folder was made with, as its card says.

    Raises:
        ModelError: when it is not there, or not that encoder any more.
        StoreError: when the copy of it in the index is damaged.
    """
    about = card["model"]
    place = folder / about["path"]
    is_copy = about["path"] == MODEL
    advice = RECOPY if is_copy else "Repeat the command that made it, or put a copy of it back."
    if not place.is_dir():
        raise ModelError(
            f"{folder} was made with the model in {place}, which is not there. {advice}"
        )
    for why in faults(folder, checksums_of(about)).values():
        raise Damaged(folder, why, RECOPY)
    found = load_embedder(str(place))
    if found.digest != about["digest"]:
        raise ModelError(
            f"{folder} was made with another model (digest {about['digest'][:16]}) than is in "
            f"{place} now ({found.digest[:16]}). {advice} If the new one is meant, delete "
            f"the index, build it again, and add again what had been added to it."
        )
    return found


def checksums_of(about: Mapping[str, Any]) -> dict[str, Checksum]:
    """The checksums of the copy of the encoder, as far as the card has them."""
    return {name: Checksum(**each) for name, each in (about.get("files") or {}).items()}


def encoded(
    encoder: Encoder, texts: Sequence[str], role: Role, engine: Engine
) -> Iterator[tuple[NDArray[np.int64], Vectors, NDArray[np.int64]]]:
    """Vectors of a batch after the other: positions [b], vectors [b, D] and tokens read [b]."""
    tokens = tokenize_here(texts, encoder.tokenizer, prompt=encoder.prompt(role))
    lengths = text_lengths(encoder, tokens, role, np.arange(len(tokens)))
    plan = plan_batches(lengths, engine.max_batch_tokens)
    for positions, vectors in embed_batches(encoder, tokens, role, plan, engine):
        yield positions, vectors, lengths[positions]


def _encoded(
    teacher: DualTeacher,
    passages: Texts,
    out: Path,
    engine: Engine,
    progress: Progress,
    *,
    first: int,
) -> Iterator[dict[str, object]]:
    """Write segments from number `first` on, leaving out those that are there; their entries."""
    encoder = teacher.encoder
    with progress.task("Encoding passages", len(passages), "texts") as advance:
        for number, start in enumerate(range(0, len(passages), SEGMENT), first):
            end = start + SEGMENT
            part = Texts(passages.ids[start:end], passages.texts[start:end])
            name = segment_name(number)
            made_from = digest([teacher.digest, engine.key(), part.ids, part.texts])
            if holds_segment(out, name, made_from):
                advance(len(part))
            else:
                vectors = np.empty((len(part), encoder.dimension), dtype=np.float32)
                for rows, found, _ in encoded(encoder, part.texts, "passage", engine):
                    vectors[rows] = found
                    advance(len(rows))
                vectors = comparable(vectors, teacher.similarity)
                write_segment(out, name, made_from, part, vectors)
            yield segment_entry(out, name)


def _change(index: Index, segments: Sequence[Mapping[str, object]], hidden: list[int]) -> None:
    """Replace the card of an index: other segments, and more rows that are not to be found."""
    change = int(index.card["changes"]) + 1
    deleted = np.union1d(np.flatnonzero(~index.mask), np.array(hidden, dtype=np.int64))
    counted = {
        "changes": change,
        "segments": list(segments),
        "deleted": write_deleted(index.folder, change, deleted),
    }
    write_card(index.folder, {**index.card, **counted})


def _begun_card(
    teacher: DualTeacher, collection: Collection, engine: Engine, beside: str | None
) -> dict[str, Any]:
    """The card of an exact index before anything is encoded."""
    passages = collection.passages
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue  # faiss is an extra
    return {
        "format": FORMAT,
        "model": {
            "name": teacher.name,
            "path": MODEL if beside is None else beside,
            "digest": teacher.digest,
        },
        "data": {
            "name": collection.name,
            "digest": digest([passages.ids, passages.texts]),
            "passages": len(passages),
        },
        "engine": engine.key(),
        "language": collection.language,
        "width": teacher.encoder.dimension,
        "similarity": teacher.similarity,
        "reduce": None,
        "kind": "exact",
        "least_recall": None,
        "segments": [],
        "deleted": None,
        "approximate": None,
        "changes": 0,
        "versions": versions,
    }


def _checked_card(out: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a finished index, which must be of the same model and data.

    Raises:
        ConfigError: naming what differs.
    """
    card = read_card(out)
    for what in ("model", "data"):
        if card[what]["digest"] != wanted[what]["digest"]:
            raise ConfigError(
                f"--out {out} holds the index of another {what}: {card[what]['name']}, digest "
                f"{card[what]['digest'][:16]}, and not {wanted[what]['name']}, "
                f"{wanted[what]['digest'][:16]}. Name another folder, or delete that one."
            )
    return card


def _check_folder(out: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        ConfigError: naming what.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"--out {out} is a file. Name a folder.")
    found = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    if found and CARD not in found and not is_begun(out) and found != {MODEL}:
        raise ConfigError(
            f"--out {out} is not empty and holds no index (there is {min(found)!r}). Name a new "
            "folder."
        )


def _copy_model(model: str, encoder: Encoder, out: Path) -> dict[str, object]:
    """Put the encoder into the index, which then needs nothing else; the checksums of its files."""
    if is_exported(model):
        with new_folder(out / MODEL, stage=STAGE) as temporary:
            source, seen = Path(model).expanduser(), shutil.ignore_patterns(SEEN)
            shutil.copytree(source, temporary, ignore=seen, dirs_exist_ok=True)
    else:
        encoder.save(out / MODEL, card="The encoder of this index.\n", stage=STAGE)
    found = checksums(out, files_below(out, MODEL))
    return {name: each.model_dump() for name, each in found.items()}


def _has_model(out: Path, about: Mapping[str, Any]) -> bool:
    """Whether the encoder is where the card of an index says; a copy, unharmed."""
    return (out / about["path"]).is_dir() and not faults(out, checksums_of(about))


def _approximate(
    index: Index,
    kind: Kind,
    least_recall: float,
    teacher: DualTeacher,
    collection: Collection,
    engine: Engine,
    progress: Progress,
) -> dict[str, object]:
    """Write a faiss index of all rows; the card's entry, with its recall."""
    progress.say(f"Building the {kind} index of {index.starts[-1]:,} vectors")
    blocks = [segment.vectors for segment in index.segments]
    built = Approximate.build(kind, index.card["width"], blocks)
    index.approximate = built
    vectors, what = _samples(index, teacher, collection, engine)
    progress.say(f"Measuring what it finds of {len(vectors):,} {what}")
    choosing, measuring = vectors[::2], vectors[1::2] if len(vectors) > 1 else vectors
    exact = index.exact(choosing, DEPTHS[-1])[0]
    effort = choose_effort(
        lambda k, effort: index.search(choosing, k, effort=effort)[0],
        exact,
        least_recall,
        most=MAX_EFFORT if kind == "hnsw" else built.index.nlist,
    )
    built = replace(built, effort=effort)
    name = f"approximate-{int(index.card['changes']) + 1:06}.faiss"
    built.write(index.folder / name, stage=STAGE)
    exact = index.exact(measuring, DEPTHS[-1])[0]
    found = {
        f"recall@{k}": round(recall(index.search(measuring, k, effort=effort)[0], exact, k), 4)
        for k in DEPTHS
    }
    return {
        "file": name,
        "kind": kind,
        "checksum": checksum(index.folder / name).model_dump(),
        "rows": built.rows,
        "effort": effort,
        "measured_on": f"{len(measuring)} {what}",
        **found,
    }


def _samples(
    index: Index, teacher: DualTeacher, collection: Collection, engine: Engine
) -> tuple[Vectors, str]:
    """Sample vectors of queries spread over the collection's, or of its passages, and which of
    these they are.
    """
    queries = collection.queries.texts
    count = len(queries) or len(index)
    places = np.unique(np.linspace(0, count - 1, min(count, SAMPLE_QUERIES)).astype(np.int64))
    if not queries:
        return index.vectors(index.rows[places]), "passages"
    texts = [queries[at] for at in places.tolist()]
    vectors = np.empty((len(texts), index.card["width"]), dtype=np.float32)
    for rows, found, _ in encoded(teacher.encoder, texts, "query", engine):
        vectors[rows] = found
    return comparable(vectors, teacher.similarity), "queries"
