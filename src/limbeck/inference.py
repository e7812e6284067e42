"""How do many texts become vectors, or pairs become scores, at full speed?

Texts are sorted by length and cut into batches under a token budget, so that little is padded; the
batches are known before the first one runs. They run in torch, or on a processor in OpenVINO or
onnxruntime (the extras `openvino` and `onnx`), to which a model is converted once per process. In
bf16 and in those the first rows are also computed by torch in fp32, and of a converted model a
batch of texts of very different lengths besides; a model that does not survive the change is
refused, or stays in torch where nobody asked for anything else.

This module knows no file, no id and no collection: texts are positions in a token store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.data.tokens import TokenStore, tokenize_here
from limbeck.errors import ConfigError, ModelError, ScoreError
from limbeck.models.compiled import Compiled, compiled
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.exported import ExportedEncoder, ExportedRanker, Runtime, check_runs_in
from limbeck.models.forward import forward
from limbeck.models.graph import onnxruntime, openvino, openvino_installed
from limbeck.models.probing import (
    Precision,
    faster,
    precisions,
    reading_rates,
    training_rates,
)
from limbeck.models.reading import Reader, Reading, SparseReader
from limbeck.models.workers import workers
from limbeck.types import Progress, Role, Silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Positions = NDArray[np.int64]
    Plan = list[Positions]
    Vectors = NDArray[np.float32]
    Tokens = NDArray[np.int32]
    Comparison = Callable[..., None]  # of a model's output for a batch with torch's in fp32

Model = TypeVar("Model", Encoder, Ranker)
Backend = Literal["torch"] | Runtime
BACKENDS: tuple[Backend, ...] = ("torch", *get_args(Runtime))

# Measured on MiniLM-L6 texts of 95 tokens, CPU seconds per text against 16384: 2048 takes 0.7 of
# them in fp32 and bf16 alike (activations stay in the cache). A GPU wants large batches.
CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 16384

# Converting a MiniLM takes some 3 s, and on two cores OpenVINO in bf16 then spares 25 us per token
# with 6 layers, 8 us with 2. Every model of a run reads all passages once: a million tokens, or
# 4 million characters, pay for it several times over, and 400,000 would just do.
MIN_CONVERTED = 4_000_000

CHARACTERS_PER_TOKEN = 3  # a guess for planning batches of texts that are not tokenised yet
COMPARED_ROWS = 8  # of the first batch, with torch's in fp32

# A batch on which converted models are checked: texts from one token up to the longest that is
# padded, as many as fit into so many tokens, but two at least. What a model makes of the padding
# beside a short text shows in no batch of texts of one length.
PADDED_ROWS = 4
PADDED_TOKENS = 1024
LONGEST_EXPORTED = 4096  # tokens of such a text for an export, where the model takes as many
PADDED_TEXT = (
    "A short text stands beside a long one in a batch, and is filled up with tokens that say "
    "nothing. Nobody may see them: each word of the short text looks at its own words alone, "
    "however many there are in the other. "
)
BESIDE = " beside a longer text in its batch"  # where such a check fails

MIN_COSINE = {"fp32": 0.9999, "bf16": 0.999}  # between a vector and torch's in fp32
# between a logit and torch's in fp32, as a share of the largest logit (at least 1)
MAX_DIFFERENCE = {"fp32": 0.001, "bf16": 0.1}


@dataclass(frozen=True, slots=True)
class Engine:
    """Device, backend and precision in which a model runs.

    `device` is a name torch knows, `cpu` for OpenVINO and onnxruntime; `max_batch_tokens` bounds a
    batch, padding included. With `workers`, so many batches are computed at a time, each on one
    thread: by as many processes in torch, by threads of this one in the others. Their bytes do not
    depend on how many. Without, torch computes one batch at a time on all its threads, and the
    others as many as torch has threads.
    Models are trained in `training_precision`, if that is another one. `matmul_rate` is the
    device's limit in any precision, in FLOP/s, once it was probed. `notes` say what was chosen
    where nothing was asked, and why.
    """

    device: str
    precision: Precision
    max_batch_tokens: int = CPU_BATCH_TOKENS
    backend: Backend = "torch"
    workers: int | None = None
    training_precision: Precision | None = None
    matmul_rate: float | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    def key(self) -> dict[str, str]:
        """Engine settings that affect results; the batches of a plan do too."""
        return {"backend": self.backend, "device": self.device, "precision": self.precision}

    def training(self) -> Engine:
        """The engine for a model whose weights still change: converting it would be for once.

        And for whatever else runs in torch alone.
        """
        precision = self.training_precision or self.precision
        return replace(self, backend="torch", precision=precision, training_precision=None)


def choose_engine(
    backend: str = "auto",
    precision: str = "auto",
    *,
    characters: int = 0,
    workers: int | None = None,
    models: Mapping[str, Encoder | Ranker] | None = None,
    trains: bool = False,
    taken: Precision | None = None,
) -> Engine:
    """The engine for this machine: a GPU when torch sees one, and the precision that is measured to
    be the faster one there, to read in its backend and, where it `trains`, to train in torch.

    The precision `taken` before is taken again, without a measurement, where the device has it.

    `auto` is torch, but OpenVINO where it is installed, there is no GPU and the passages to be read
    have at least `MIN_CONVERTED` characters: for fewer, converting models would not pay. It stays
    torch where one of `models`, those that are known beforehand, is not the same in OpenVINO.

    Raises:
        ConfigError: when the backend or precision is unknown, a backend is asked for that is not
            there or has no such precision, or workers where there is a GPU.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise ConfigError(
            f"There is no backend {backend!r}. Choose auto, {', '.join(BACKENDS[:-1])} or "
            f"{BACKENDS[-1]}."
        )
    if precision not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"There is no precision {precision!r}. Choose auto, fp32 or bf16.")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers} is too few. Ask for at least 1, or leave it out.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if backend == "openvino":
        openvino()
    if backend == "onnxruntime":
        onnxruntime()
        if precision == "bf16":
            raise ConfigError("onnxruntime computes in fp32 here. Use --precision fp32.")
        precision = "fp32"
    chosen: Backend = "torch"
    if backend in BACKENDS:
        chosen = next(each for each in BACKENDS if each == backend)
    elif device == "cpu" and characters >= MIN_CONVERTED and openvino_installed():
        chosen = "openvino"
    if chosen != "torch":
        device = "cpu"
    if workers is not None and device != "cpu":
        raise ConfigError(
            "--workers shares out a processor's work, but here is a GPU. Leave it out."
        )
    tokens = GPU_BATCH_TOKENS if device == "cuda" else CPU_BATCH_TOKENS
    engine = Engine(device, "bf16" if precision == "bf16" else "fp32", tokens, chosen, workers)
    if precision == "auto":
        engine = _faster(engine, trains=trains, taken=taken)
    if backend == "auto" and chosen != "torch":
        fallen = fall_back(engine, models or {})
        if fallen.backend != chosen and precision == "auto":
            return _faster(replace(fallen, notes=fallen.notes[-1:]), trains=trains, taken=taken)
        return fallen
    return engine


def _faster(engine: Engine, *, trains: bool, taken: Precision | None) -> Engine:
    """The engine in the faster precision, with a note that says why."""
    device, backend = engine.device, engine.backend
    if taken is not None:
        return replace(engine, precision=taken if taken in precisions(device) else "fp32")
    if "bf16" not in precisions(device):
        note = f"precision: auto is fp32, since the {device} has no bf16"
        return replace(engine, precision="fp32", notes=(*engine.notes, note))
    if backend == "onnxruntime":
        return engine
    rates = {f"to read ({backend})": reading_rates(device, backend)}
    if trains:
        rates["to train"] = training_rates(device)
    found = {purpose: faster(each) for purpose, each in rates.items()}
    told = ", and ".join(
        f"{found[purpose]} {purpose}, {each['bf16'] / 1e9:,.0f} GFLOP/s in bf16 and "
        f"{each['fp32'] / 1e9:,.0f} in fp32"
        for purpose, each in rates.items()
    )
    note = f"precision: auto is {told}, measured on one thread of the {device}"
    reads, *rest = found.values()
    trained = rest[0] if rest and rest[0] != reads else None
    notes = (*engine.notes, note)
    return replace(engine, precision=reads, training_precision=trained, notes=notes)


def fall_back(engine: Engine, models: Mapping[str, Encoder | Ranker]) -> Engine:
    """The engine, or torch with a note where one of some models is not the same in its backend.

    An exported model runs nowhere else: with one among them the engine stays.
    """
    if engine.backend == "torch" or any(map(_is_exported, models.values())):
        return engine
    for name, model in models.items():
        try:
            check_converted(model, engine)
        except (ModelError, ScoreError) as error:
            note = f"backend: auto is torch, since {engine.backend} fails the {name}. {error}"
            return replace(engine.training(), notes=(*engine.notes, note))
    return engine


def plan_batches(lengths: Sequence[int] | NDArray[np.int64], max_tokens: int) -> list[Positions]:
    """Group positions into batches: longest first, each batch at most `max_tokens` with its
    padding.

    A text that is longer than the budget is a batch of its own. Equal lengths keep their order.

    Example:
        >>> [batch.tolist() for batch in plan_batches([2, 9, 3, 3], max_tokens=6)]
        [[1], [2, 3], [0]]
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    ordered = np.asarray(lengths, dtype=np.int64)[order]
    batches = []
    start = 0
    while start < len(order):
        count = max(1, max_tokens // max(1, int(ordered[start])))
        batches.append(order[start : start + count])
        start += count
    return batches


def embed_batches(
    encoder: Encoder,
    tokens: TokenStore,
    role: Role,
    plan: Sequence[Positions],
    engine: Engine,
) -> Iterator[tuple[Positions, Vectors]]:
    """The vectors of a planned batch after the other: positions [b] and [b, D] fp32.

    Raises:
        ScoreError: when a vector is not finite, or is not what torch gives in fp32.
    """
    collator = encoder.collator(role)
    batches = (
        collator.singles([tokens[int(position)] for position in positions]) for positions in plan
    )
    for positions, vectors in zip(
        plan, _outputs(encoder, batches, engine, _compare_vectors), strict=True
    ):
        if not np.isfinite(vectors).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise ScoreError(
                f"The encoder gave a vector that is not finite for {role} "
                f"{int(positions[bad])}. {_or_else(encoder, engine)}"
            )
        yield positions, vectors


def embed(
    encoder: Encoder,
    tokens: TokenStore,
    role: Role,
    *,
    engine: Engine,
    positions: Positions | None = None,
    progress: Progress | None = None,
) -> Vectors:
    """The vectors of the texts at `positions` (all by default), in that order: [n, D] fp32.

    `tokens` were made with the role's prompt: `tokenize(..., prompt=encoder.prompt(role))`.

    Raises:
        ScoreError: when a vector is not finite, or is not what torch gives in fp32.
    """
    wanted = np.arange(len(tokens)) if positions is None else np.asarray(positions, dtype=np.int64)
    plan = plan_batches(text_lengths(encoder, tokens, role, wanted), engine.max_batch_tokens)
    vectors = np.empty((len(wanted), encoder.dimension), dtype=np.float32)
    batches = embed_batches(encoder, tokens, role, [wanted[batch] for batch in plan], engine)
    label = "Encoding queries" if role == "query" else "Encoding passages"
    with (progress or Silent()).task(label, len(wanted), "texts") as done:
        for rows, (_, found) in zip(plan, batches, strict=True):
            vectors[rows] = found
            done(len(rows))
    return vectors


def text_lengths(
    encoder: Encoder, tokens: TokenStore, role: Role, positions: Positions
) -> Positions:
    """Lengths in tokens of the texts at these positions, for `plan_batches`: [n] int64."""
    length = encoder.collator(role).length
    stored = tokens.lengths[positions]
    return np.array([length(int(count)) for count in stored], dtype=np.int64)


def pair_lengths(
    ranker: Ranker, query_tokens: TokenStore, passage_tokens: TokenStore, pairs: Positions
) -> Positions:
    """Lengths in tokens of the pairs, for `plan_batches`: [n] int64."""
    collator = ranker.collator
    queries = query_tokens.lengths[pairs[:, 0]]
    passages = passage_tokens.lengths[pairs[:, 1]]
    lengths = [
        collator.pair_length(int(query), int(passage))
        for query, passage in zip(queries, passages, strict=True)
    ]
    return np.asarray(lengths, dtype=np.int64)


def score_batches(
    ranker: Ranker,
    query_tokens: TokenStore,
    passage_tokens: TokenStore,
    pairs: Positions,
    plan: Sequence[Positions],
    engine: Engine,
) -> Iterator[tuple[Positions, Vectors]]:
    """The raw logits of a planned batch after the other: rows of `pairs` [b], and scores [b] fp32.

    Shapes: `pairs` [n, 2] int64, query position and passage position.

    Raises:
        ScoreError: when a score is not finite, or is not what torch gives in fp32.
    """
    collator = ranker.collator
    batches = (
        collator.pairs(
            [query_tokens[int(query)] for query in pairs[rows, 0]],
            [passage_tokens[int(passage)] for passage in pairs[rows, 1]],
        )
        for rows in plan
    )
    for rows, scores in zip(plan, _outputs(ranker, batches, engine, _compare_scores), strict=True):
        if not np.isfinite(scores).all():
            query, passage = pairs[rows[np.flatnonzero(~np.isfinite(scores))[0]]]
            raise ScoreError(
                f"The ranker gave a score that is not finite for query {query} and passage "
                f"{passage}. {_or_else(ranker, engine)}"
            )
        yield rows, scores


def score(
    ranker: Ranker,
    query_tokens: TokenStore,
    passage_tokens: TokenStore,
    pairs: Positions,
    *,
    engine: Engine,
    progress: Progress | None = None,
) -> Vectors:
    """The raw logit of every pair, in order: [n] fp32.

    Shapes: `pairs` [n, 2] int64, query position and passage position.

    Raises:
        ScoreError: when a score is not finite, or is not what torch gives in fp32.
    """
    lengths = pair_lengths(ranker, query_tokens, passage_tokens, pairs)
    plan = plan_batches(lengths, engine.max_batch_tokens)
    scores = np.empty(len(pairs), dtype=np.float32)
    with (progress or Silent()).task("Scoring pairs", len(pairs), "pairs") as done:
        for rows, found in score_batches(ranker, query_tokens, passage_tokens, pairs, plan, engine):
            scores[rows] = found
            done(len(rows))
    return scores


def read_plan(texts: Sequence[str], positions: Positions, reader: Reader, most: int) -> Plan:
    """Group the texts at `positions` that a reader reads together: batches of positions.

    Their tokens are guessed from their characters, `most` a batch with its padding.
    """
    lengths = [
        min(len(texts[at]) // CHARACTERS_PER_TOKEN + 2, reader.max_length)
        for at in positions.tolist()
    ]
    return [positions[batch] for batch in plan_batches(lengths, most)]


def compare_readings(
    reader: Reader,
    queries: Sequence[str],
    passages: Sequence[str],
    pairs: Positions,
    plan: Sequence[Positions],
    engine: Engine,
) -> Iterator[tuple[Positions, Vectors]]:
    """The raw scores of a planned batch after the other: rows of `pairs` [b], and scores [b] fp32.

    All queries of the plan are read first and stay in memory; passages are read batch by batch, so
    a passage is read once where the plan has all its pairs in one batch. It runs in torch, whatever
    the engine's backend.

    Shapes: `pairs` [n, 2] int64, query position and passage position.

    Raises:
        ScoreError: when a score is not finite or not what fp32 gives, or a passage can have none.
    """
    engine = engine.training()
    asked = np.unique(np.concatenate([pairs[rows, 0] for rows in plan]))
    with _running(reader, engine):
        known: dict[int, Reading] = {}
        for batch in read_plan(queries, asked, reader, engine.max_batch_tokens):
            found = _read(reader, [queries[at] for at in batch], "query", engine)
            known |= dict(zip(batch.tolist(), found, strict=True))
        for number, rows in enumerate(plan):
            scores = _compared_with(reader, known, passages, pairs[rows], engine)
            if number == 0 and engine.precision == "bf16":
                first, exact = pairs[rows[:COMPARED_ROWS]], replace(engine, precision="fp32")
                texts = np.unique(first[:, 0]).tolist()
                again = _read(reader, [queries[at] for at in texts], "query", exact)
                anew = dict(zip(texts, again, strict=True))
                _refuse_moved(
                    "model", _compared_with(reader, anew, passages, first, exact), scores, engine
                )
            if not np.isfinite(scores).all():
                query, passage = pairs[rows[np.flatnonzero(~np.isfinite(scores))[0]]]
                raise ScoreError(
                    f"The model gave a score that is not finite for query {query} and passage "
                    f"{passage}. Check its weights, or use --precision fp32."
                )
            yield rows, scores


def weigh_words(
    reader: SparseReader,
    texts: Sequence[str],
    positions: Positions,
    role: Role,
    engine: Engine,
    *,
    progress: Progress | None = None,
) -> Any:
    """The weights that a sparse encoder gives to words in the texts at `positions`: a
    `scipy.sparse.csr_array` [n, words] of float32. It runs in torch, whatever the engine's backend.

    Raises:
        ScoreError: when a weight is not finite.
    """
    from scipy.sparse import csr_array

    engine = engine.training()
    readings: dict[int, Reading] = {}
    told = (progress or Silent()).task("weigh words", len(positions), "texts")
    with told as advance, _running(reader, engine):
        for batch in read_plan(texts, positions, reader, engine.max_batch_tokens):
            found = _read(reader, [texts[at] for at in batch], role, engine)
            readings |= dict(zip(batch.tolist(), found, strict=True))
            advance(len(batch))
    rows = [readings[at] for at in positions.tolist()]
    weights = np.concatenate([np.zeros(0, np.float32), *(row.numpy() for _, row in rows)])
    if not np.isfinite(weights).all():
        raise ScoreError(
            f"The sparse encoder gave a {role} a weight that is not finite. Check its weights, or "
            "use --precision fp32."
        )
    places = np.concatenate([np.zeros(0, np.int64), *(at.numpy() for at, _ in rows)])
    offsets = np.cumsum([0, *(len(at) for at, _ in rows)])
    return csr_array((weights, places, offsets), shape=(len(rows), reader.words))


def _compared_with(
    reader: Reader,
    queries: Mapping[int, Reading],
    passages: Sequence[str],
    pairs: Positions,
    engine: Engine,
) -> Vectors:
    """The scores [n] of pairs [n, 2] whose queries were read; passages are read as one batch."""
    wanted, of_pair = np.unique(pairs[:, 1], return_inverse=True)
    read = _read(reader, [passages[at] for at in wanted], "passage", engine)
    scores = np.empty(len(pairs), dtype=np.float32)
    for place, passage in enumerate(read):
        own = np.flatnonzero(of_pair == place)
        scores[own] = reader.scores([queries[int(at)] for at in pairs[own, 0]], passage)
    return scores


def _read(reader: Reader, texts: Sequence[str], role: Role, engine: Engine) -> list[Reading]:
    """Read texts with a reader in the engine's precision, together as one batch."""
    with torch.autocast(engine.device, torch.bfloat16, enabled=engine.precision == "bf16"):
        return reader.read(texts, role)


def check_same(
    model: Encoder | Ranker, exported: ExportedEncoder | ExportedRanker, texts: Sequence[str]
) -> None:
    """Refuse an exported model whose results differ from the model's in fp32, on some texts or
    pairs, and on a batch with a spread of lengths.

    Raises:
        ScoreError: when it gives other vectors or scores.
    """
    runtime = exported.model.runtime
    engine = Engine("cpu", "fp32", backend=runtime)
    tokens = tokenize_here(texts, model.tokenizer)
    rows = [tokens[at] for at in range(len(tokens))]
    graph = compiled(exported, runtime, "fp32", at_a_time=1)
    instead = "--to onnx" if runtime == "openvino" else "--to openvino"
    some = (
        model.collator("passage").singles(rows)
        if isinstance(model, Encoder)
        else model.collator.pairs(rows, rows[::-1])
    )
    compare = _comparison(model)
    compare(model, some, next(graph.run([some])), engine, instead=instead)
    padded = _padded_batch(model, min(model.max_length, LONGEST_EXPORTED))
    compare(model, padded, next(graph.run([padded])), engine, where=BESIDE, instead=instead)


def check_converted(model: Encoder | Ranker, engine: Engine) -> None:
    """Refuse a model that its engine's backend computes otherwise than torch does, on a batch with
    a spread of lengths, up to the longest that the engine would pad.

    Raises:
        ModelError: when the model cannot be converted.
        ScoreError: when it gives other vectors or scores.
    """
    check_runs_in(model, engine.backend)
    _check_padded(model, _converted(model, engine), engine)


def _converted(model: Encoder | Ranker, engine: Engine) -> Compiled:
    """The model in the engine's backend, which is not torch."""
    assert engine.backend != "torch"
    at_a_time = engine.workers or torch.get_num_threads()
    return compiled(model, engine.backend, engine.precision, at_a_time=at_a_time)


def _check_padded(model: Encoder | Ranker, graph: Compiled, engine: Engine) -> None:
    """Refuse a converted model that is another one beside padding; once for each length."""
    longest = min(model.max_length, engine.max_batch_tokens // 2)  # a longer text goes alone
    if longest > graph.padded_to:
        features = _padded_batch(model, longest)
        found = next(graph.run([features]))
        _comparison(model)(model, features, found, engine, where=BESIDE)
        graph.padded_to = longest


def _padded_batch(model: Encoder | Ranker, longest: int) -> dict[str, Tensor]:
    """Texts, or pairs, from the shortest to one of so many tokens."""
    words = tokenize_here([PADDED_TEXT], model.tokenizer)[0]
    rows = min(PADDED_ROWS, max(2, PADDED_TOKENS // longest))
    if isinstance(model, Encoder):
        collator = model.collator("passage")
        return collator.singles(_spread(words, longest - collator.single.specials, rows))
    texts = _spread(words, longest - model.collator.pair.specials, rows)
    parts = [(text[: len(text) // 4], text[len(text) // 4 :]) for text in texts]
    return model.collator.pairs(*map(list, zip(*parts, strict=True)))


def _spread(words: Tokens, longest: int, count: int) -> list[Tokens]:
    """Texts of these words, again and again, from one word to so many."""
    lengths = np.geomspace(1, max(2, longest), count).round().astype(np.int64)
    return [np.resize(words, length) for length in lengths]


def _outputs(
    model: Model,
    batches: Iterator[dict[str, Tensor]],
    engine: Engine,
    compare: Comparison,
) -> Iterator[Vectors]:
    """The model's output for one batch after the other; of the first, it is compared with fp32."""
    check_runs_in(model, engine.backend)
    if engine.backend != "torch":
        graph = _converted(model, engine)
        _check_padded(model, graph, engine)
        for features in () if graph.checked else batches:
            compare(model, features, next(graph.run([features])), engine)
            graph.checked = True
            batches = chain([features], batches)
            break
        yield from graph.run(batches)
        return
    if not (first := list(islice(batches, 1))):
        return
    with _in_torch(model, chain(first, batches), engine) as outputs:
        for number, output in enumerate(outputs):
            if number == 0 and engine.precision == "bf16":
                compare(model, first[0], output, engine)
            yield output


@contextmanager
def _in_torch(
    model: Model, batches: Iterator[dict[str, Tensor]], engine: Engine
) -> Iterator[Iterator[Vectors]]:
    """The model's outputs, by other processes or by this one."""
    if engine.workers is not None:
        with workers(engine.workers) as pool:
            pool.hold(model)
            yield pool.run(batches, engine.precision)
    else:
        with _running(model, engine):
            yield (_call(model, features, engine) for features in batches)


@contextmanager
def _running(model: nn.Module, engine: Engine) -> Iterator[None]:
    """The model on the engine's device in eval mode, and back in the mode it was in afterwards."""
    training = model.training
    model.to(engine.device)
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _call(model: nn.Module, features: dict[str, Tensor], engine: Engine) -> Vectors:
    """The model's output for a batch in torch, on the engine's device and in its precision."""
    return forward(model, features, device=engine.device, precision=engine.precision)


def _exactly(model: nn.Module, features: dict[str, Tensor], engine: Engine) -> Vectors:
    """The output for the first rows of a batch by torch in fp32."""
    first = {name: value[:COMPARED_ROWS] for name, value in features.items()}
    exact = Engine(engine.device, "fp32")
    with _running(model, exact):
        return _call(model, first, exact)


def _comparison(model: Encoder | Ranker) -> Comparison:
    """The check that refuses a model of this kind when its results differ from torch in fp32."""
    return _compare_vectors if isinstance(model, Encoder) else _compare_scores


def _compare_vectors(
    encoder: Any,
    features: dict[str, Tensor],
    vectors: Vectors,
    engine: Engine,
    *,
    where: str = "",
    instead: str | None = None,
) -> None:
    """Refuse an encoder whose vectors turn."""
    exact = _exactly(encoder, features, engine)
    found = vectors[: len(exact)]
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
    cosines = (exact * found).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    least = MIN_COSINE[engine.precision]
    if np.isfinite(exact).all() and not cosines.min() >= least:
        raise ScoreError(
            f"{_where(engine)} the encoder gives other vectors than in fp32{where} "
            f"(cosine {cosines.min():.4f}, at least {least} expected). Use "
            f"{instead or _instead(engine)}."
        )


def _compare_scores(
    ranker: Any,
    features: dict[str, Tensor],
    scores: Vectors,
    engine: Engine,
    *,
    where: str = "",
    instead: str | None = None,
) -> None:
    """Refuse a ranker whose scores move."""
    exact = _exactly(ranker, features, engine)
    _refuse_moved("ranker", exact, scores, engine, where=where, instead=instead)


def _refuse_moved(
    what: str,
    exact: Vectors,
    scores: Vectors,
    engine: Engine,
    *,
    where: str = "",
    instead: str | None = None,
) -> None:
    """Refuse a model whose first scores differ from those in fp32."""
    difference = np.abs(exact - scores[: len(exact)]).max() / max(1.0, np.abs(exact).max())
    most = MAX_DIFFERENCE[engine.precision]
    if np.isfinite(exact).all() and not difference <= most:
        raise ScoreError(
            f"{_where(engine)} the {what} gives other scores than in fp32{where} (they differ by "
            f"{difference:.4f} of the largest, at most {most} expected). Use "
            f"{instead or _instead(engine)}."
        )


def _where(engine: Engine) -> str:
    """The engine in which a comparison failed, in words."""
    names = {"openvino": "OpenVINO and ", "onnxruntime": "onnxruntime and ", "torch": ""}
    return f"In {names[engine.backend]}{engine.precision}"


def _instead(engine: Engine) -> str:
    """The option to use instead after a comparison failed."""
    return "--precision fp32" if engine.precision == "bf16" else "--backend torch"


def _or_else(model: Encoder | Ranker, engine: Engine) -> str:
    """Advice for when a number was not finite."""
    if _is_exported(model):
        return "Export the model again, and use what it came from if that is refused."
    if engine.backend == "torch" and engine.precision == "fp32":
        return "Check its weights."
    return f"Check its weights, or use {_instead(engine)}."


def _is_exported(model: Encoder | Ranker) -> bool:
    """Whether a model is a graph, which torch cannot run."""
    return isinstance(model, (ExportedEncoder, ExportedRanker))
