"""What may each query be shown with?

Lists of positives and candidates, without likely false negatives, and how teachers rank them. It
knows no batch, no model in training and no loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Self

import numpy as np

from limbeck.candidates import Candidates
from limbeck.data.derived import DerivedTexts
from limbeck.negatives import keep_by_margin, keep_by_rank
from limbeck.selection import best_positive_rank
from limbeck.sources import ListSource, QueryList, QueryLists
from limbeck.tasks.retrieval.asking import Asking, distinct
from limbeck.teachers import Teacher
from limbeck.types import QueryId

# A query's id, the number of the draw and the texts of its list, the positive first -> texts of the
# passages made for it, always as many; None = none in this slot
Write = Callable[[QueryId, int, Sequence[str]], Sequence[str | None]]


class Listing(Asking):
    """Lists for the queries of a collection."""

    def lists(
        self,
        pools: Candidates,
        *,
        negatives_from: int = 0,
        teacher: Teacher | None = None,
        margin: float | None = None,
    ) -> QueryLists:
        """Training list of each query of the pools: its positives, and candidates to draw.

        Judged positives leave the pool, and so does a passage with the text of another: no list or
        update shows a text twice. What has the text of the query's own passage leaves it, too. With
        a teacher, everything is scored by it, under the name `teacher`; an unlabelled query's pool
        is put in its order. A positive that it cannot be asked about is left out.

        Likely false negatives leave the pool of a labelled query: what is ranked before the rank
        `negatives_from`, and with a `margin` (in the teacher's units) what scores above the best
        positive minus `margin`. So do the positives of other queries with its text. None of them
        is its negative either where another query brings it into an update. Queries without two
        passages to compare are left out. All of these are counted.
        """
        dropped: Counter[str] = Counter()
        entries = []
        not_negatives: list[np.ndarray] = []
        relevant = self._positives_by_text()
        firsts = self.firsts("passage")
        own_passages = self.collection.own_passages
        answers = None if teacher is None else self._answers_by_text(teacher)
        for place, query in enumerate(pools.queries.tolist()):
            judged, _ = distinct(firsts[self.positives_of(query, "train")])
            if answers is not None:
                scored = np.isin(judged, answers.get(self.firsts("query")[query], []))
                dropped["positives left out: the teacher has no score"] += int((~scored).sum())
                judged = judged[scored]
            pool, _ = distinct(firsts[pools.for_query(place)])
            pool = pool[~np.isin(pool, judged)]
            left_out = np.empty(0, dtype=np.int64)
            if len(judged):
                left_out = relevant[self.collection.queries.texts[query]]
                left_out = left_out[~np.isin(left_out, judged)]
                pool = pool[~np.isin(pool, left_out)]
            if own_passages[query] >= 0 and (own := firsts[own_passages[query]]) not in judged:
                left_out = np.append(left_out, own)
                pool = pool[pool != own]
            if len(judged) and negatives_from:
                window = (negatives_from, negatives_from + len(pool))
                kept = keep_by_rank(np.arange(len(pool)), window)
                dropped["candidates dropped: ranked too high"] += int((~kept).sum())
                left_out = np.append(left_out, pool[~kept])
                pool = pool[kept]
            entries.append((query, judged, pool))
            not_negatives.append(left_out)
        scores: list[np.ndarray | None] = [None] * len(entries)
        if teacher is not None and entries:
            pairs = [
                np.stack([np.full(len(judged) + len(pool), query), np.append(judged, pool)], axis=1)
                for query, judged, pool in entries
            ]
            ends = np.cumsum([len(rows) for rows in pairs])[:-1]
            scores = list(np.split(self.pair_scores(teacher, np.concatenate(pairs)), ends))
        lists = []
        for (query, judged, found), left_out, own in zip(
            entries, not_negatives, scores, strict=True
        ):
            pool, own = _ordered(judged, found, own, margin)
            if len(judged):
                near = found[~np.isin(found, pool)]
                if margin is not None:
                    dropped["candidates dropped: scored near the positive"] += len(near)
                left_out = np.append(left_out, near)
            if len(judged) + len(pool) < 2:
                dropped["training queries without two passages to compare"] += 1
                continue
            query_id = QueryId(self.collection.queries.ids[query])
            named = {} if own is None else {"teacher": own}
            lists.append(QueryList(query, query_id, judged, pool, named, left_out))
        return QueryLists(lists, dict(dropped))

    def standing(
        self, lists: QueryLists, pools: Candidates, copies: Mapping[str, int]
    ) -> QueryLists:
        """The lists, in whose pools a candidate stands once for every source that found it, and as
        often as `copies` says for those that it names: so likely it is drawn.
        """
        firsts = self.firsts("passage")[pools.passages]
        times = (pools.ranks >= 0) @ np.array([copies.get(each, 1) for each in pools.sources])
        places = {query: place for place, query in enumerate(pools.queries.tolist())}
        entries = []
        for entry in lists:
            rows = pools.rows(places[entry.query])
            found, at = np.unique(firsts[rows], return_inverse=True)
            own = np.bincount(at, times[rows]).astype(np.int64)
            entries.append(replace(entry, copies=own[np.searchsorted(found, entry.pool)]))
        return replace(lists, entries=entries)

    def scored_by_words(
        self, lists: QueryLists, name: str, teacher: Teacher | None = None
    ) -> QueryLists:
        """The lists with the scores of all their passages by BM25, or by a sparse encoder, under a
        name.
        """
        shown = [np.append(entry.positives, entry.pool) for entry in lists]
        pairs = [
            np.stack([np.full(len(own), entry.query), own], axis=1)
            for entry, own in zip(lists, shown, strict=True)
        ]
        if not pairs:
            return lists
        scores = np.split(
            self.lexical_scores(np.concatenate(pairs), teacher),
            np.cumsum([len(own) for own in shown])[:-1],
        )
        entries = [
            replace(entry, scores={**entry.scores, name: own})
            for entry, own in zip(lists, scores, strict=True)
        ]
        return replace(lists, entries=entries)

    def _answers_by_text(self, teacher: Teacher) -> dict[int, np.ndarray] | None:
        """Passages that a teacher has scores of, per query, as first positions; None = any."""
        if teacher.answers is None:
            return None
        queries = self.firsts("query")[teacher.answers[:, 0]]
        order = np.argsort(queries, kind="stable")
        passages = self.firsts("passage")[teacher.answers[order, 1]]
        found, starts = np.unique(queries[order], return_index=True)
        return dict(zip(found.tolist(), np.split(passages, starts[1:]), strict=True))

    def positive_ranks(self, pools: Candidates, teacher: Teacher | None = None) -> np.ndarray:
        """The rank [Q], from 1, of the first positive of each pool's query, infinite without one.

        In the order of the pool; with a teacher, in that of its scores of pool and positives.
        """
        firsts = self.firsts("passage")
        entries = []
        for place, query in enumerate(pools.queries.tolist()):
            judged = firsts[self.positives_of(query, "train")]
            found = firsts[pools.for_query(place)]
            shown, _ = distinct(found if teacher is None else np.append(judged, found))
            entries.append((query, shown, np.isin(shown, judged)))
        scores = [-np.arange(len(shown), dtype=np.float32) for _, shown, _ in entries]
        if teacher is not None and entries:
            pairs = [
                np.stack([np.full(len(shown), query), shown], axis=1) for query, shown, _ in entries
            ]
            ends = np.cumsum([len(rows) for rows in pairs])[:-1]
            scores = np.split(self.pair_scores(teacher, np.concatenate(pairs)), ends)
        return np.array(
            [
                best_positive_rank(own, marks)
                for own, (_, _, marks) in zip(scores, entries, strict=True)
            ]
        )

    def _positives_by_text(self) -> dict[str, np.ndarray]:
        """The passages judged relevant to any training query of a text, as first positions."""
        firsts, found = self.firsts("passage"), dict[str, np.ndarray]()
        for query in self.labelled_queries().tolist():
            text = self.collection.queries.texts[query]
            judged = firsts[self.positives_of(query, "train")]
            found[text] = np.append(found[text], judged) if text in found else judged
        return found

    def scored(self, source: ListSource, updates: int, name: str, teacher: Teacher) -> ListSource:
        """The source with a teacher's raw scores, under a name, of all that its first updates show.

        What they do not show is not asked for, and NaN.
        """
        shown: dict[int, set[int]] = {}
        for update in range(updates):
            batch = source.batch(update)
            for query, columns in zip(batch.queries.tolist(), batch.lists, strict=True):
                passages = batch.passages[columns[columns >= 0]].tolist()
                shown.setdefault(query, set()).update(passages)
        pairs = [(query, passage) for query in sorted(shown) for passage in sorted(shown[query])]
        said = self.pair_scores(teacher, np.array(pairs, dtype=np.int64))
        scores = dict(zip(pairs, said.tolist(), strict=True))
        lists = []
        for entry in source.lists:
            passages = np.append(entry.positives, entry.pool).tolist()
            own = [scores.get((entry.query, passage), np.nan) for passage in passages]
            named = {**entry.scores, name: np.array(own, dtype=np.float32)}
            lists.append(replace(entry, scores=named))
        return replace(source, lists=replace(source.lists, entries=lists))

    def derive(
        self,
        source: ListSource,
        updates: int,
        write: Write,
        *,
        name: str,
        draws: int,
        teacher: Teacher,
    ) -> tuple[Self, ListSource]:
        """The task and the source with passages that are written for the lists which the first
        updates show, and scored by the teacher under the name `teacher`.

        Of each query at most `draws` lists are written for, those of its first epochs; later epochs
        show the same again. The texts are kept in a stage of this name.
        """
        before, made = len(self.collection.passages), dict[str, int]()
        texts, places = dict[tuple[str, int], str](), dict[tuple[int, int], np.ndarray]()
        for place, draw in source.shown(updates, draws):
            query = source.lists.entries[place].query_id
            shown = [self.collection.passages.texts[at] for at in source.drawn(place, draw)]
            written = write(query, draw, shown)
            places[place, draw] = np.array(
                [
                    -1 if text is None else before + made.setdefault(text, len(made))
                    for text in written
                ]
            )
            for slot, text in enumerate(written):
                if text is not None:
                    texts[query, draw * len(written) + slot] = text
        self.keep_derived(name, DerivedTexts.of(name, texts))
        task = self.with_derived(list(made))
        pairs = sorted(
            {
                (source.lists.entries[place].query, at)
                for (place, _), row in places.items()
                for at in row[row >= 0].tolist()
            }
        )
        said = task.pair_scores(teacher, np.array(pairs, dtype=np.int64).reshape(-1, 2))
        scores = dict(zip(pairs, said.tolist(), strict=True))
        width = max(map(len, places.values()))
        entries = []
        for place, entry in enumerate(source.lists):
            derived = np.full((draws, width), -1, dtype=np.int64)
            for draw in range(draws):
                if (place, draw) in places:
                    derived[draw] = places[place, draw]
            own = [
                [scores.get((entry.query, at), np.nan) for at in row] for row in derived.tolist()
            ]
            found = {"teacher": np.array(own, dtype=np.float32)}
            entries.append(replace(entry, derived=derived, derived_scores=found))
        return task, replace(source, lists=replace(source.lists, entries=entries))


def _ordered(
    judged: np.ndarray, pool: np.ndarray, own: np.ndarray | None, margin: float | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """A pool and the teacher's scores of positives and pool, `own`: an unlabelled query's in its
    order, a labelled one's without what it scores near the positive.
    """
    if own is None:
        return pool, None
    marks, others = own[: len(judged)], own[len(judged) :]
    if not len(judged):
        order = np.argsort(-others, kind="stable")
        return pool[order], others[order]
    if margin is not None:
        kept = keep_by_margin(others, float(marks.max()), margin)
        pool, others = pool[kept], others[kept]
    return pool, np.concatenate([marks, others])
