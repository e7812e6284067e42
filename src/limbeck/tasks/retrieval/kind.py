"""What does retrieval say of itself to the code that runs any task?

Its layouts, measures, baselines, options and model cards. What a run of it does is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from limbeck.config import Loaded, RunConfig
from limbeck.config.teacher_spec import KINDS
from limbeck.data.check import Report, check
from limbeck.data.collection import Collection
from limbeck.data.dark import Dark
from limbeck.data.labelled import holds_labelled
from limbeck.data.reading import LAYOUTS, complete, looks_like_collection
from limbeck.errors import ConfigError
from limbeck.evaluation.measures import RETRIEVAL
from limbeck.indexing.runs import data_of
from limbeck.inference import Engine
from limbeck.models.loading import OFFLINE, load_encoder
from limbeck.settings import Settings
from limbeck.tasks.fit import BudgetPlan
from limbeck.tasks.retrieval.budget import fit_budget
from limbeck.tasks.retrieval.dark import Placed, place_dark
from limbeck.tasks.retrieval.opening import (
    RetrievalRequest,
    open_request,
    prompt_notes,
)
from limbeck.tasks.retrieval.task import Retrieval, ShownSettings
from limbeck.tasks.task import Layout, Method, TaskKind, Teachers
from limbeck.teachers import Teacher, load_teacher
from limbeck.types import Progress

TEXTS = "texts_per_step"  # of a recipe without lists


class RetrievalKind(TaskKind):
    """Texts that answer queries."""

    name = "retrieval"
    measures = RETRIEVAL
    alternatives = ("passage", "passages")
    layouts = (Layout("collection", LAYOUTS, looks_like_collection),)
    auto = "kl"
    baselines = ("contrastive", "kl")
    fits = KINDS
    fits_on_dev = ("ensemble",)
    options = frozenset(
        {"dim", "query_prompt", "passage_prompt", "candidates", "pairs", "query_model"}
        | {"drop_unknown_judgements", "keep_own_passage", "language", "layer_choice"}
        | {"student_layers"}
    )
    budget = ("max_steps", "batch_size", "list_length", "candidates_per_query")
    has_rows = True
    rows_settings = ShownSettings
    instead: ClassVar = {"kd": "kl", "supervised": "contrastive"}
    student = "A small retriever"

    def holds(self, data: object) -> bool:
        """Whether DATA is named as a collection is, has its files, or is one."""
        if isinstance(data, Loaded):
            return isinstance(data.value, Collection)
        return super().holds(data) and not holds_labelled(str(data))

    def open(self, config: RunConfig, method: Method) -> RetrievalRequest:
        """The request of a run, validated as far as that needs no computing."""
        return open_request(config, method)

    def read(self, config: RunConfig) -> Collection:
        """The collection, with a dev split where possible."""
        return complete(config.read_data())

    def check(self, config: RunConfig) -> Report:
        """Counts of passages, queries and judgements, and every kind of problem with them."""
        return check(
            cast(str, config.data),
            drop_unknown_judgements=config.drop_unknown_judgements,
            language=config.language,
        )

    def open_model(
        self, model: str, data: Collection, config: RunConfig
    ) -> tuple[RetrievalRequest, Teacher]:
        """A request to measure a retriever or ranker; a model without vectors re-ranks the results
        of BM25 and of the offline encoder.
        """
        teacher = load_teacher(model, data)
        base = teacher.first_stage or load_encoder(OFFLINE)
        notes = prompt_notes("model", model, base) if teacher.first_stage else []
        opened = RetrievalRequest(config, data, base, Teachers(), teacher, tuple(notes), data, base)
        return opened, teacher

    def place_dark(self, task: Retrieval, teacher: Teacher, seed: int) -> Placed:
        """The teacher's scores of positives, dark examples and mined candidates."""
        if teacher.answers is not None:
            raise ConfigError(
                f"{teacher.name} knows scores of the pairs in a file only, and dark examples are "
                "new passages. Name a model."
            )
        return place_dark(task, teacher, Dark(seed=seed))

    def data_of(self, run: Path) -> Any:
        """The collection of a run, read again."""
        return data_of(run)

    def equal(self, baseline: Any, settings: type[Settings]) -> Mapping[str, object]:
        """Equal budget: as many texts in an update as the baseline's queries and lists have."""
        if TEXTS not in settings.model_fields:
            return {}
        return {TEXTS: baseline.batch_size * (1 + baseline.list_length)}

    def facts_of(self, student: Path) -> Mapping[str, object]:
        """The most tokens of a text that it reads."""
        return {"max_length": load_encoder(str(student)).max_length}

    def load(self, student: Path) -> Any:
        """A `SentenceTransformer`."""
        return load_encoder(student).model

    def fit_budget(
        self,
        choices: Sequence[tuple[str, ...]],
        estimate: Callable[[BudgetPlan], float],
        seconds: float,
    ) -> BudgetPlan:
        """The largest numbers of steps, passages per list and candidates that fit."""
        return fit_budget(choices, estimate, seconds)

    def predict(
        self, model: Any, inputs: Any, *, top: int, engine: Engine, progress: Progress
    ) -> list[dict[str, object]]:
        """Nothing: such models find texts.

        Raises:
            ConfigError: saying what they are used with.
        """
        raise ConfigError(
            "This is a model of retrieval: it finds passages and predicts nothing. Use `limbeck "
            "index RUN DATA` and `limbeck search RUN TEXT` instead; in Python, `limbeck."
            "open_searcher`."
        )

    def card(self, model: Any, how: str, teacher: str | None = None) -> str:
        """A card that shows how the folder is used.

        Of an ensemble every member has it, whatever it is: there it shows no use.
        """
        return _card(self.student if teacher is None else "A teacher", how, teacher or "dual")


def _card(what: str, how: str, kind: str = "dual") -> str:
    """A model card without times, dates or paths: equal models have equal folders.

    Of an ensemble every member has it, whatever it is: there it shows no use.
    """
    uses = {
        "dual": (
            "from sentence_transformers import SentenceTransformer\n\n"
            'model = SentenceTransformer("path/to/this/folder")\n'
            'queries = model.encode_query(["a question"])\n'
            'passages = model.encode_document(["a passage"])\n'
            "print(model.similarity(queries, passages))\n"
        ),
        "cross": (
            "from sentence_transformers import CrossEncoder\n\n"
            'model = CrossEncoder("path/to/this/folder")\n'
            'print(model.predict([("a question", "a passage")]))\n'
        ),
    }
    task = "text-ranking" if kind == "cross" else "sentence-similarity"
    use = f"\n```python\n{uses[kind]}```\n" if kind in uses else ""
    return (
        f"---\nlibrary_name: sentence-transformers\npipeline_tag: {task}\n"
        "tags:\n- limbeck\n- sentence-transformers\n---\n\n"
        f"# {what}\n\nMade by [Limbeck](https://pypi.org/project/limbeck/): {how}.\n{use}"
    )
