"""Who scores the lists of an update, and over which passages?

A scorer gives scores by name: `NAME` over each query's own list [B, L] and, where it can score
every pair, `NAME/in_batch` over all passages of the update [B, P]. Of a model's layers, counted
from 1, it gives `NAME/layer/3` and `NAME/layer/3/in_batch` likewise: what the model would say if
that layer were its last. Targets are judged positives, -1 where there is none. It knows no loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.data.tokens import TokenStore
from limbeck.errors import StageError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import logits_by_layer, vectors_by_layer
from limbeck.similarity import matrix_similarity
from limbeck.sources import ListBatch, PairBatch, TextBatch
from limbeck.tasks.retrieval.asking import Asking, distinct
from limbeck.tasks.retrieval.pairing import Pairing
from limbeck.teachers import Teacher
from limbeck.training import Forward, Pass, Scorer
from limbeck.types import Role, Scores, Signals

ROLES: tuple[Role, ...] = ("query", "passage")


def dual(task: Asking, name: str, encoder: Encoder, *, layers: Sequence[int] = ()) -> Scorer:
    """The similarities of an encoder, which is the player of this name, trained or frozen.

    A layer's are those of its states, pooled as the encoder pools its last, neither projected nor
    normalised, and compared by the encoder's own similarity.
    """

    def scores(update: Pass, batch: ListBatch) -> dict[str, Scores]:
        queries = _embed_update(task, update, name, encoder, "query", batch.queries, layers)
        passages = _embed_update(task, update, name, encoder, "passage", batch.passages, layers)
        similarity = matrix_similarity(encoder.similarity)
        found: dict[str, Scores] = {}
        for each, vectors in queries.items():
            found |= own_and_in_batch(each, similarity(vectors, passages[each]), batch)
        return found

    names = _names(name, layers)
    return Scorer(name, frozenset([*names, *(f"{each}/in_batch" for each in names)]), scores)


def paired(task: Pairing, name: str, encoder: Encoder) -> Scorer:
    """The similarities of an encoder, which is the player of this name, over an update of weak
    pairs: those of every query with every passage, [B, B] on the diagonal its own.
    """

    def scores(update: Pass, batch: PairBatch) -> dict[str, Scores]:
        queries, passages = (
            _embed(update, name, encoder, role, task.pair_tokens(encoder, role), batch.pairs)[name]
            for role in ROLES
        )
        values = matrix_similarity(encoder.similarity)(queries, passages)
        own = torch.arange(len(values), device=values.device)
        mask = ~torch.from_numpy(batch.same).to(values.device)
        mask[own, own] = True
        return {f"{name}/in_batch": Scores.of(values, mask=mask, target=own)}

    given = {"pairs": task.weak_pairs().digest}
    return Scorer(name, frozenset({f"{name}/in_batch"}), scores, given)


def cross(task: Asking, name: str, ranker: Ranker, *, layers: Sequence[int] = ()) -> Scorer:
    """The logits of a ranker, which is the player of this name, trained or frozen, for each query's
    own list; 0 in empty slots. A layer's are those of the same head on its states.
    """

    def scores(update: Pass, batch: ListBatch) -> dict[str, Scores]:
        queries = task.tokens_shown(ranker.tokenizer, "query", "")
        passages = task.tokens_shown(ranker.tokenizer, "passage", "")
        collator = ranker.collator
        rows, slots = np.nonzero(batch.lists >= 0)
        asked = batch.queries[rows]
        answers = batch.passages[batch.lists[rows, slots]]
        lengths = np.array(
            [
                collator.pair_length(int(query), int(passage))
                for query, passage in zip(
                    queries.lengths[asked], passages.lengths[answers], strict=True
                )
            ]
        )
        logits = update.run_several(
            name,
            lengths,
            lambda chosen: collator.pairs(
                [queries[int(at)] for at in asked[chosen]],
                [passages[int(at)] for at in answers[chosen]],
            ),
            partial(_by_layer, name, layers),
        )
        mask = torch.from_numpy(batch.lists >= 0).to(update.device)
        empty = torch.zeros(mask.shape, device=update.device)
        return {
            each: _own(empty.masked_scatter(mask, own), mask, batch) for each, own in logits.items()
        }

    return Scorer(name, frozenset(_names(name, layers)), scores)


def scorer_of(task: Asking, name: str, model: nn.Module, *, layers: Sequence[int] = ()) -> Scorer:
    """The scorer of a model, the player of this name, by what kind of model it is.

    Raises:
        StageError: when it is of no such kind.
    """
    match model:
        case Encoder():
            return dual(task, name, model, layers=layers)
        case Ranker():
            return cross(task, name, model, layers=layers)
    raise StageError(f"The player {name!r} is a {type(model).__name__}, which scores no list.")


def stored(task: Asking, name: str, teacher: Teacher) -> Scorer:
    """The similarities of a frozen teacher's vectors, which are computed once and kept."""
    passages = task.vectors(teacher, "passage")
    queries = task.query_vectors(teacher)

    def scores(update: Pass, batch: ListBatch) -> dict[str, Scores]:
        values = matrix_similarity(teacher.similarity)(
            torch.from_numpy(queries[batch.queries]).to(update.device),
            torch.from_numpy(passages[batch.passages]).to(update.device),
        )
        return own_and_in_batch(name, values, batch)

    gives = frozenset({name, f"{name}/in_batch"})
    return Scorer(name, gives, scores, {"teacher": teacher.digest})


def from_batch(name: str) -> Scorer:
    """The scores that the lists carry under this name; masked where nobody was asked."""

    def scores(update: Pass, batch: ListBatch) -> dict[str, Scores]:
        found = torch.from_numpy(batch.scores[name]).to(update.device)
        mask = ~torch.isnan(found)
        return {name: _own(found.masked_fill(~mask, 0.0), mask, batch)}

    return Scorer(name, frozenset({name}), scores)


def taught(task: Asking, name: str, teacher: Teacher) -> Scorer:
    """A teacher by its stored vectors where it has them, else by the scores that lists carry."""
    return stored(task, name, teacher) if teacher.in_batch else from_batch(name)


def embeddings(task: Asking, student: Encoder, teacher: Teacher) -> tuple[Forward, int]:
    """A forward over `TextBatch` that gives the embeddings `student` and `teacher`, and the width
    of the teacher's. Rows are the queries, then the passages.
    """
    passages = task.vectors(teacher, "passage")
    queries = task.query_vectors(teacher)

    def signals(update: Pass, batch: TextBatch) -> Signals:
        texts: list[tuple[Role, np.ndarray]] = [
            ("query", batch.queries),
            ("passage", batch.passages),
        ]
        own = [
            embed_update(task, update, "student", student, role, positions)
            for role, positions in texts
            if len(positions)
        ]
        taught = np.concatenate([queries[batch.queries], passages[batch.passages]])
        both = {"student": torch.cat(own), "teacher": torch.from_numpy(taught).to(update.device)}
        return Signals(embeddings=both, progress=update.progress, step=update.step)

    gives = frozenset({"student", "teacher"})
    return Forward(signals, gives, {"teacher": teacher.digest}), passages.shape[1]


def embed_update(
    task: Asking,
    update: Pass,
    player: str,
    encoder: Encoder,
    role: Role,
    positions: np.ndarray,
) -> Tensor:
    """A player's vectors of some queries or passages, each text once: [n, D]."""
    return _embed_update(task, update, player, encoder, role, positions)[player]


def _embed_update(
    task: Asking,
    update: Pass,
    player: str,
    encoder: Encoder,
    role: Role,
    positions: np.ndarray,
    layers: Sequence[int] = (),
) -> dict[str, Tensor]:
    """A player's vectors of some queries or passages [n, D], and the states of its layers, by the
    names of their scores.
    """
    tokens = task.tokens_shown(encoder.tokenizer, role, encoder.prompt(role))
    texts, place = distinct(task.firsts(role)[positions])
    vectors = _embed(update, player, encoder, role, tokens, texts, layers)
    at = torch.from_numpy(place).to(update.device)
    return {each: found[at] for each, found in vectors.items()}


def _embed(
    update: Pass,
    player: str,
    encoder: Encoder,
    role: Role,
    tokens: TokenStore,
    texts: np.ndarray,
    layers: Sequence[int] = (),
) -> dict[str, Tensor]:
    """A player's vectors of the texts at some places of a store [n, D], and the states of its
    layers, by the names of their scores.
    """
    collator = encoder.collator(role)
    lengths = np.array([collator.length(int(n)) for n in tokens.lengths[texts]])
    return update.run_several(
        player,
        lengths,
        lambda chosen: collator.singles([tokens[int(at)] for at in texts[chosen]]),
        partial(_by_layer, player, layers),
    )


def _names(name: str, layers: Sequence[int]) -> list[str]:
    """The names of a model's scores, its own first."""
    return [name, *(f"{name}/layer/{layer}" for layer in layers)]


def _by_layer(
    name: str, layers: Sequence[int], model: nn.Module, features: dict[str, Tensor]
) -> Mapping[str, Tensor]:
    """What a model gives for a batch, and what its layers would, by the names of their scores."""
    if not layers:
        return {name: model(features)}
    if isinstance(model, Encoder):
        last, each = vectors_by_layer(model, features)
    else:
        assert isinstance(model, Ranker)
        last, each = logits_by_layer(model, features)
    return dict(zip(_names(name, layers), [last, *(each[at - 1] for at in layers)], strict=True))


def own_and_in_batch(name: str, values: Tensor, batch: ListBatch) -> dict[str, Scores]:
    """Scores of all passages of the update for each of its queries, [B, P], and of its own list.

    In the update a row's other positives are masked, and whatever else is no negative of it.
    """
    device = values.device
    lists = torch.from_numpy(batch.lists).to(device)
    masked = torch.from_numpy(batch.not_negatives.copy()).to(device)
    masked[torch.arange(len(masked)), lists[:, 0]] = False
    labelled = torch.from_numpy(batch.labelled).to(device)
    own = _own(values.gather(1, lists.clamp(min=0)), lists >= 0, batch)
    target = torch.where(labelled, lists[:, 0], -1)
    return {name: own, f"{name}/in_batch": Scores.of(values, mask=~masked, target=target)}


def _own(values: Tensor, mask: Tensor, batch: ListBatch) -> Scores:
    """Scores of each query's own list, [B, L]: slot 0 is right where it is judged and scored."""
    labelled = torch.from_numpy(batch.labelled).to(values.device)
    return Scores.of(values, mask=mask, target=torch.where(labelled & mask[:, 0], 0, -1))


def first_slots(scores: Scores, count: int) -> Scores:
    """Scores of the first slots of each query's own list: without the passages made for it."""
    return replace(scores, values=scores.values[:, :count], mask=scores.mask[:, :count])


def logits_of(scores: Scores, temperature: float) -> Scores:
    """Scores over a temperature: similarities or a teacher's raw scores as logits."""
    return replace(scores, values=scores.values / temperature)
