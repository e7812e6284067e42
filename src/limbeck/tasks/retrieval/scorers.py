"""How does a batch become signals?

Forwards that give the scores or embeddings of everyone whom a loss compares. They know no loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.models.encoder import Encoder, Ranker
from limbeck.similarity import matrix_similarity
from limbeck.sources import ListBatch, TextBatch
from limbeck.tasks.retrieval.asking import Asking, distinct
from limbeck.teachers import Teacher
from limbeck.training import Pass
from limbeck.types import Role, Scores, Signals

Forward = Callable[[Pass, Any], Signals]


class Scoring(Asking):
    """Forwards over batches of a collection."""

    def score_update(
        self,
        student: Encoder,
        teacher: Teacher | None = None,
        *,
        reference: Encoder | None = None,
        ranker: Ranker | None = None,
    ) -> Forward:
        """A forward over `ListBatch`: the student's scores, and those of whoever else is named.

        Gives `student` [B, L] over each query's own list (no target where it is not judged) and
        `student/in_batch` [B, P] over all passages of the update, without the row's other positives
        and what it is spared; of a dual teacher the same two as `teacher` and `teacher/in_batch`;
        of one that scores pairs, `teacher` from the batch. The players `reference`, a former
        student, and `ranker` are asked in the update itself: `reference`, `reference/in_batch` and
        `ranker`.
        """
        taught = None
        if teacher is not None and teacher.in_batch:
            taught = self.query_vectors(teacher), self.vectors(teacher, "passage")
        rank = None if ranker is None else self._rank_lists(ranker, "ranker")

        def forward(update: Pass, batch: ListBatch) -> Signals:
            scores = _both("student", self._similarities(update, student, "student", batch), batch)
            own, device = scores["student"], scores["student"].values.device
            if reference is not None:
                values = self._similarities(update, reference, "reference", batch)
                scores |= _both("reference", values, batch)
            if rank is not None:
                scores["ranker"] = replace(own, values=rank(update, batch))
            if teacher is not None and taught is not None:
                asked, answers = taught
                values = matrix_similarity(teacher.similarity)(
                    torch.from_numpy(asked[batch.queries]).to(device),
                    torch.from_numpy(answers[batch.passages]).to(device),
                )
                scores |= _both("teacher", values, batch)
            elif batch.teacher is not None:
                scores["teacher"] = replace(own, values=torch.from_numpy(batch.teacher).to(device))
            return Signals(scores, progress=update.progress)

        return forward

    def rank_update(self, ranker: Ranker, player: str = "student") -> Forward:
        """A forward over `ListBatch` that gives a ranker's scores of lists, [B, L], by the name of
        the player that it is.
        """
        rank = self._rank_lists(ranker, player)

        def forward(update: Pass, batch: ListBatch) -> Signals:
            values = rank(update, batch)
            mask = torch.from_numpy(batch.lists >= 0).to(values.device)
            return Signals({player: Scores.of(values, mask=mask)}, progress=update.progress)

        return forward

    def _similarities(
        self, update: Pass, encoder: Encoder, player: str, batch: ListBatch
    ) -> Tensor:
        """An encoder's scores of every passage of an update for every query of it: [B, P]."""
        queries = self.embed_update(update, encoder, "query", batch.queries, player)
        passages = self.embed_update(update, encoder, "passage", batch.passages, player)
        return matrix_similarity(encoder.similarity)(queries, passages)

    def _rank_lists(self, ranker: Ranker, player: str) -> Callable[[Pass, ListBatch], Tensor]:
        """What gives a ranker's scores of an update's lists, [B, L]; 0 in empty slots."""
        queries = self.tokens(ranker.tokenizer, "query", "")
        passages = self.tokens(ranker.tokenizer, "passage", "")
        collator = ranker.collator

        def rank(update: Pass, batch: ListBatch) -> Tensor:
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
            found = update.run(
                player,
                lengths,
                lambda chosen: collator.pairs(
                    [queries[int(at)] for at in asked[chosen]],
                    [passages[int(at)] for at in answers[chosen]],
                ),
            )
            mask = torch.from_numpy(batch.lists >= 0).to(found.device)
            return torch.zeros(mask.shape, device=found.device).masked_scatter(mask, found)

        return rank

    def embed_texts(self, student: Encoder, teacher: Teacher) -> tuple[Forward, int]:
        """A forward over `TextBatch` that gives the embeddings `student` and `teacher`, and the
        width of the teacher's. Rows are the queries, then the passages.
        """
        answers = self.vectors(teacher, "passage")
        asked = self.query_vectors(teacher)

        def forward(update: Pass, batch: TextBatch) -> Signals:
            texts: list[tuple[Role, np.ndarray]] = [
                ("query", batch.queries),
                ("passage", batch.passages),
            ]
            own = [
                self.embed_update(update, student, role, positions)
                for role, positions in texts
                if len(positions)
            ]
            taught = np.concatenate([asked[batch.queries], answers[batch.passages]])
            return Signals(
                embeddings={
                    "student": torch.cat(own),
                    "teacher": torch.from_numpy(taught).to(own[0].device),
                },
                progress=update.progress,
            )

        return forward, answers.shape[1]

    def embed_update(
        self,
        update: Pass,
        encoder: Encoder,
        role: Role,
        positions: np.ndarray,
        player: str = "student",
    ) -> Tensor:
        """A player's vectors of some queries or passages, each text once: [n, D]."""
        tokens = self.tokens_of(encoder, role)
        collator = encoder.collator(role)
        texts, place = distinct(self.firsts(role)[positions])
        lengths = np.array([collator.length(int(n)) for n in tokens.lengths[texts]])
        vectors = update.run(
            player,
            lengths,
            lambda chosen: collator.singles([tokens[int(at)] for at in texts[chosen]]),
        )
        return vectors[torch.from_numpy(place).to(vectors.device)]


def logits_of(scores: Scores, temperature: float) -> Scores:
    """Scores over a temperature: similarities or a teacher's raw scores as logits."""
    return replace(scores, values=scores.values / temperature)


def signals_with(teacher: Teacher, *, reference: bool = False) -> frozenset[str]:
    """What `Retrieval.score_update` gives with this teacher, and with a former student."""
    names = {"student", "student/in_batch", "teacher"}
    names |= {"teacher/in_batch"} if teacher.in_batch else set()
    return frozenset(names | {"reference", "reference/in_batch"} if reference else names)


def _both(name: str, values: Tensor, batch: ListBatch) -> dict[str, Scores]:
    """Scores over own lists [B, L] and over all passages of the update [B, P]."""
    device = values.device
    lists = torch.from_numpy(batch.lists).to(device)
    labelled = torch.from_numpy(batch.labelled).to(device)
    target = torch.where(labelled, lists[:, 0], -1)
    own = Scores.of(
        values.gather(1, lists.clamp(min=0)), mask=lists >= 0, target=target.clamp(max=0)
    )
    others = torch.from_numpy(batch.spared.copy()).to(device)
    others[torch.arange(len(others)), lists[:, 0]] = False
    return {name: own, f"{name}/in_batch": Scores.of(values, mask=~others, target=target)}
