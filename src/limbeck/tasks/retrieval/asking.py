"""What does a collection hold, and what do words and teachers say of it?

Tokens, vectors, candidates and scores of one collection in one run, each made once and kept as an
artefact. It knows no recipe, no loss and no measure.
"""

from __future__ import annotations

from collections.abc import Collection as Countable
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self
from weakref import WeakValueDictionary

import numpy as np
import polars as pl

from limbeck.candidates import Candidates, merge, mine_dense, mine_lexical, mine_sparse
from limbeck.data.collection import Collection, Texts, positives
from limbeck.data.derived import DerivedTexts, derived_id
from limbeck.data.pairs import Pairs
from limbeck.data.scores import ScoredPairs
from limbeck.data.tokens import FollowedTokens, TokenStore, tokenize, tokenizer_digest
from limbeck.errors import StageError
from limbeck.inference import weigh_words
from limbeck.language import LANGUAGES, known
from limbeck.models.encoder import Encoder
from limbeck.search import BM25
from limbeck.similarity import comparable
from limbeck.store import digest, read_parquet, write_parquet
from limbeck.teachers import DualTeacher, Teacher
from limbeck.teachers.score_store import ScoreStore
from limbeck.teachers.scoring import embed_collection, score_pairs
from limbeck.training import Run, Trained
from limbeck.types import QueryId, Role, Split


@dataclass
class Asking:
    """One collection in one run, for recipes to work on.

    `base` is the encoder that the student is cut from, as a teacher: it mines where no better one
    can. `given` are pairs that others found: candidates besides. `trained` are the stages that
    trained a model on it, in order, and `suffix` ends their names. `bases` are other encoders that
    teachers are fitted from, by name. `derived` are passages made for training alone: their
    positions come after the collection's, models read and teachers score them there, and nobody
    finds, measures or indexes them. `pairs` are weak pairs of texts, None where none were given,
    and `prompted` says whether the student's prompts were asked for, be they empty.
    """

    collection: Collection
    run: Run
    base: DualTeacher
    store: ScoreStore | None
    given: Sequence[ScoredPairs] = ()
    trained: list[Trained] = field(default_factory=list)
    suffix: str = ""
    bases: Mapping[str, DualTeacher] = field(default_factory=dict)
    derived: Texts = field(default_factory=lambda: Texts([], []))
    pairs: Pairs | None = None
    prompted: bool = False
    _tokens: dict[tuple[str, str, str], TokenStore] = field(default_factory=dict)
    _made: dict[tuple[str, str], TokenStore] = field(default_factory=dict)
    _equal: dict[Role, np.ndarray] = field(default_factory=dict)
    _vectors: WeakValueDictionary[tuple[str, str, Role, bytes], np.ndarray] = field(
        default_factory=WeakValueDictionary
    )

    def unshared(self) -> Self:
        """The same task, but teachers' answers stay in this run: for models still in training."""
        return replace(self, store=None)

    def for_recipe(self) -> Self:
        """The same task, with its own record of the models trained on it."""
        return replace(self, trained=[])

    def on_base(self, base: DualTeacher, name: str) -> Self:
        """The same task for a model that starts from another base, which mines for it; the stages
        that train are told apart by the base's name.
        """
        return replace(self, base=base, suffix=f"-{name}")

    def with_derived(self, texts: Sequence[str]) -> Self:
        """The same task with these passages, each text once, made for training alone."""
        made = Texts([derived_id(text) for text in texts], list(texts))
        return replace(self, derived=made, _made={}, _equal={})

    def keep_derived(self, name: str, made: DerivedTexts) -> None:
        """Keep texts that were made on the way in a stage of this name, to be looked at."""
        if self.run.group.rank:
            return
        texts = digest(made.frame.rows())
        stage = self.run.stage(f"{name}-{texts[:8]}", {"texts": texts})
        if not stage.complete:
            made.write(stage.path / "texts.parquet", stage=stage.name)
            stage.finish(texts=len(made.frame))

    @property
    def derived_inputs(self) -> dict[str, object]:
        """The digest of the passages made for training, where there are any."""
        return {"derived": digest(self.derived.ids)} if len(self.derived) else {}

    def positions(self, ids: Sequence[QueryId]) -> np.ndarray:
        """Positions of queries in the collection."""
        index = self.collection.queries.index
        return np.array([index[query] for query in ids], dtype=np.int32)

    def labelled_queries(self) -> np.ndarray:
        """The training queries with a positive, as positions."""
        return self.positions(self.collection.labelled)

    def training_queries(self) -> np.ndarray:
        """The labelled training queries, then the unlabelled ones, as positions."""
        return self.positions([*self.collection.labelled, *self.collection.unlabelled])

    def askable_queries(self, teacher: Teacher) -> np.ndarray:
        """The training queries that a teacher can be asked about, as positions."""
        queries = self.training_queries()
        return (
            queries if teacher.answers is None else queries[np.isin(queries, teacher.answers[:, 0])]
        )

    def split_queries(self, split: Split) -> np.ndarray:
        """The judged queries of a split, as positions."""
        return self.positions(list(self.collection.qrels.get(split, {})))

    def positives_of(self, query: int, split: Split) -> np.ndarray:
        """The passages that a split judges relevant to a query, as positions."""
        query_id = QueryId(self.collection.queries.ids[query])
        judged = self.collection.qrels.get(split, {}).get(query_id, {})
        index = self.collection.passages.index
        return np.array([index[passage] for passage in positives(judged)], dtype=np.int64)

    def tokens(self, tokenizer: Any, role: Role, prompt: str) -> TokenStore:
        """A field's tokens, made once per tokenizer and prompt."""
        texts = self.collection.queries if role == "query" else self.collection.passages
        return self.tokenised(role, texts.texts, tokenizer, prompt)

    def tokenised(
        self, what: str, texts: Countable[str], tokenizer: Any, prompt: str
    ) -> TokenStore:
        """The tokens of the texts that are called so, made once per tokenizer and prompt."""
        key = (tokenizer_digest(tokenizer), what, prompt)
        if key not in self._tokens:
            name = f"{what}-{digest(list(key))[:12]}"
            self._tokens[key] = self._tokenized(name, texts, tokenizer, prompt)
        return self._tokens[key]

    def tokens_shown(self, tokenizer: Any, role: Role, prompt: str) -> TokenStore:
        """A field's tokens, and then those of the passages made for training."""
        own = self.tokens(tokenizer, role, prompt)
        if role == "query" or not len(self.derived):
            return own
        key = (tokenizer_digest(tokenizer), prompt)
        if key not in self._made:
            name = f"derived-{digest([*key, self.derived.ids])[:12]}"
            made = self._tokenized(name, self.derived.texts, tokenizer, prompt)
            self._made[key] = FollowedTokens(own, made)
        return self._made[key]

    def _tokenized(
        self, name: str, texts: Countable[str], tokenizer: Any, prompt: str
    ) -> TokenStore:
        """Tokens of texts by an artefact of the run."""
        folder = self.run.folder / "stages" / "tokens" / name
        return self.run.made(
            folder,
            lambda: tokenize(
                texts,
                tokenizer,
                folder,
                stage="tokens",
                prompt=prompt,
                progress=self.run.progress,
            ),
        )

    def tokens_of(self, encoder: Encoder, role: Role) -> TokenStore:
        """A field's tokens as an encoder reads them."""
        return self.tokens(encoder.tokenizer, role, encoder.prompt(role))

    def vectors(
        self, teacher: Teacher, role: Role, queries: np.ndarray | None = None
    ) -> np.ndarray:
        """A dual teacher's vectors of all passages, or of the queries at these positions.

        They are read once as long as anybody holds them.
        """
        key = (teacher.name, teacher.digest, role, b"" if queries is None else queries.tobytes())

        def made() -> np.ndarray:
            known = self._vectors.get(key)
            if known is None:
                known = self._vectors[key] = self._embedded(teacher, role, queries)
            return known

        return self.run.first(made)  # also where one process holds them and another does not

    def _embedded(self, teacher: Teacher, role: Role, queries: np.ndarray | None) -> np.ndarray:
        """A dual teacher's vectors, by an artefact of the run."""
        what = "passages" if role == "passage" else "queries"
        positions = np.arange(len(self.collection.passages)) if queries is None else queries
        inputs = {
            "collection": self.collection.digest,
            "teacher": teacher.digest,
            "role": role,
            "positions": digest(positions.tolist()),
            "engine": self.run.engine.key(),
        }
        name = f"encode-{teacher.name}-{what}-{digest(inputs)[:8]}"
        return embed_collection(
            teacher,
            self.collection,
            role,
            positions,
            self.tokens,
            folder=self.run.stage(name, inputs),
            store=self.store,
            engine=self.run.engine,
            progress=self.run.progress,
        )

    def pools(
        self,
        queries: np.ndarray,
        *,
        depth: int,
        miner: Teacher,
        scorer: Teacher | None = None,
    ) -> Candidates:
        """The candidates of queries by words, by the vectors of a `miner` and as they were given,
        merged by rank.

        At most `depth` passages per query; the vectors' first comes first. They are meant for the
        teacher that is to score them: where the `scorer` has scores of some pairs only, its own
        pairs are the candidates instead.
        """
        if scorer is not None and scorer.answers is not None:
            return _answered(self.without_own(scorer.answers), queries, depth, scorer.name)
        lexical = self.lexical(queries, depth=depth)
        given = [
            _answered(self.without_own(found.pairs), queries, depth, f"given-{number}")
            for number, found in enumerate(self.given, start=1)
        ]
        return merge([self.mined(queries, depth=depth, miner=miner), lexical, *given], depth)

    def without_own(self, pairs: np.ndarray) -> np.ndarray:
        """The (query, passage) positions [n, 2] without queries beside their own passage."""
        kept: np.ndarray = pairs[self.collection.own_passages[pairs[:, 0]] != pairs[:, 1]]
        return kept

    def lexical(
        self, queries: np.ndarray, *, depth: int, teacher: Teacher | None = None
    ) -> Candidates:
        """The `depth` candidates of each query by words, best first: BM25's, or those of a teacher
        that is a sparse encoder.
        """
        if teacher is not None:
            return self._mined_sparse(queries, depth, teacher)
        name = f"mine-bm25-{digest([queries.tolist(), depth])[:8]}"
        return self.run.first(
            lambda: mine_lexical(
                self.collection,
                queries,
                depth=depth,
                folder=self.run.folder / "stages" / name,
                progress=self.run.progress,
            )
        )

    def lexical_scores(self, pairs: np.ndarray, teacher: Teacher | None = None) -> np.ndarray:
        """The scores [n] by words of (query, passage) positions [n, 2]: BM25's, 0 where they share
        no word, or a teacher's raw ones.
        """
        if teacher is not None:
            return self.pair_scores(teacher, pairs)
        inputs = {
            "collection": self.collection.digest,
            "language": LANGUAGES[known(self.collection.language)].name,
            "pairs": digest(pairs.tolist()),
        }

        def work() -> np.ndarray:
            folder = self.run.stage(f"score-bm25-{digest(inputs)[:8]}", inputs)
            path = folder.path / "scores.parquet"
            if not folder.complete:
                scores = self._scored_by_words(pairs)
                texts = (self.collection.queries, self.collection.passages)
                query_ids, passage_ids = (
                    [field.ids[at] for at in pairs[:, column]] for column, field in enumerate(texts)
                )
                frame = {"query_id": query_ids, "passage_id": passage_ids, "score": scores}
                write_parquet(path, pl.DataFrame(frame), stage=folder.name)
                folder.finish(pairs_scored=len(pairs), texts_embedded=0)
            found: np.ndarray = read_parquet(path, {"score": pl.Float32})["score"].to_numpy()
            return found

        return self.run.first(work)

    def _scored_by_words(self, pairs: np.ndarray) -> np.ndarray:
        """BM25's scores [n] of pairs [n, 2]."""
        texts, language = self.collection.passages.texts, self.collection.language
        index = BM25.build(texts, language=language, progress=self.run.progress)
        asked, counts = np.unique(pairs[:, 0], return_counts=True)
        order = np.argsort(pairs[:, 0], kind="stable")
        passages = np.split(pairs[order, 1], np.cumsum(counts)[:-1])
        found = index.scores([self.collection.queries.texts[at] for at in asked], passages)
        scores = np.empty(len(pairs), dtype=np.float32)
        scores[order] = np.concatenate(found)
        return scores

    def _mined_sparse(self, queries: np.ndarray, depth: int, teacher: Teacher) -> Candidates:
        """The candidates that a sparse encoder finds."""
        reader, engine, collection = teacher.lexical, self.run.engine, self.collection
        if reader is None:
            raise StageError(f"{teacher.name} is no sparse encoder, and finds nothing by words.")

        def weigh() -> tuple[Any, Any]:
            progress, everything = self.run.progress, np.arange(len(collection.passages))
            asked, answers = collection.queries.texts, collection.passages.texts
            return (
                weigh_words(reader, asked, queries, "query", engine, progress=progress),
                weigh_words(reader, answers, everything, "passage", engine, progress=progress),
            )

        name = f"mine-{teacher.name}-{digest([queries.tolist(), depth, teacher.digest])[:8]}"
        return self.run.first(
            lambda: mine_sparse(
                collection,
                queries,
                weigh,
                source=teacher.name,
                depth=depth,
                made_by={"teacher": teacher.digest, "engine": engine.key()},
                folder=self.run.folder / "stages" / name,
                progress=self.run.progress,
            )
        )

    def training_pools(self, teacher: Teacher, *, depth: int) -> Candidates:
        """The candidates of all training queries, for a teacher to score: by words, and by its own
        vectors where it has some, the base's otherwise; of scores from a file, its pairs.
        """
        miner = teacher if teacher.in_batch else self.base
        return self.pools(self.training_queries(), depth=depth, miner=miner, scorer=teacher)

    def mined(self, queries: np.ndarray, *, depth: int, miner: Teacher) -> Candidates:
        """The `depth` candidates of each query by the vectors of a dual teacher, best first."""
        asked = comparable(self.vectors(miner, "query", queries), miner.similarity)
        answers = comparable(self.vectors(miner, "passage"), miner.similarity)
        name = f"mine-{miner.name}-{digest([queries.tolist(), depth, miner.digest])[:8]}"
        return self.run.first(
            lambda: mine_dense(
                self.collection,
                queries,
                asked,
                answers,
                source=miner.name,
                depth=depth,
                folder=self.run.folder / "stages" / name,
                progress=self.run.progress,
            )
        )

    def pair_scores(self, teacher: Teacher, pairs: np.ndarray) -> np.ndarray:
        """A teacher's raw scores [n] of (query, passage) positions [n, 2]."""
        inputs = {
            "collection": self.collection.digest,
            "teacher": teacher.digest,
            "pairs": digest(pairs.tolist()),
            "engine": self.run.engine.key(),
            **self.derived_inputs,
        }
        name = f"score-{teacher.name}-{digest(inputs)[:8]}"
        folder = self.run.first(lambda: self.run.stage(name, inputs))
        return self.run.first(
            lambda: score_pairs(
                teacher,
                self._with_passages_made,
                pairs,
                self.tokens_shown,
                folder=folder,
                store=self.store,
                engine=self.run.engine,
                progress=self.run.progress,
            )
        )

    @property
    def _with_passages_made(self) -> Collection:
        """The collection with the passages made for training: for a teacher to read."""
        if not len(self.derived):
            return self.collection
        own = self.collection.passages
        together = Texts([*own.ids, *self.derived.ids], [*own.texts, *self.derived.texts])
        return replace(self.collection, passages=together)

    def query_vectors(self, teacher: Teacher) -> np.ndarray:
        """A dual teacher's vectors of the training queries, by position; zeros elsewhere."""
        queries = self.training_queries()
        width = self.vectors(teacher, "passage").shape[1]
        found = np.zeros((len(self.collection.queries), width), dtype=np.float32)
        if len(queries):
            found[queries] = self.vectors(teacher, "query", queries)
        return found

    def firsts(self, role: Role) -> np.ndarray:
        """Position of the first query or passage with the same text, for each of them."""
        if role not in self._equal:
            together = self._with_passages_made
            texts = together.queries if role == "query" else together.passages
            first: dict[str, int] = {}
            at = [first.setdefault(text, place) for place, text in enumerate(texts.texts)]
            self._equal[role] = np.array(at, dtype=np.int64)
        return self._equal[role]


def _answered(pairs: np.ndarray, queries: np.ndarray, depth: int, source: str) -> Candidates:
    """The first `depth` of the pairs [n, 2] of each query, which stand together, best first."""
    starts = np.searchsorted(pairs[:, 0], queries, side="left")
    counts = np.minimum(np.searchsorted(pairs[:, 0], queries, side="right") - starts, depth)
    found = np.full((len(queries), int(counts.max(initial=0))), -1, dtype=np.int32)
    for row, (start, count) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
        found[row, :count] = pairs[start : start + count, 1]
    scores = np.broadcast_to(-np.arange(found.shape[1], dtype=np.float32), found.shape)
    return Candidates.of(source, queries, found, scores)  # only the order is known here


def distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values in order of first appearance, and where each of `values` is in them."""
    found, first, place = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return found[order], np.argsort(order)[place]
