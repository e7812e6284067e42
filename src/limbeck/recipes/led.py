"""LED: a dense retriever that leans towards a lexical one. Zhang et al. 2023, arXiv:2208.13661,
after the authors' code (drogozhang/LED), since the paper was not at hand.

One vector blurs names and rare phrases. So the student, warmed up, learns on negatives that a
lexical teacher finds, too, and keeps that teacher's order of them: the order alone, since weights
of words add up to other units than a similarity.

    L_con  = -(1/B) sum_b log softmax(s_b)[y_b]                            over the whole update
    L_rank = mean over (b, i, j) with t_bi > t_bj of max(0, m - (s_bi - s_bj))     in own lists
    L_RT   = T^2 (1/B) sum_b KL( softmax(r_b / T) || softmax(s_b / T) )             by a ranker
    L      = L_con + rank_weight L_rank + ranker_weight L_RT

s, t and r are the logits of the student, the lexical teacher's scores, and the ranker's logits.

Departures: the lexical teacher is BM25 unless a SparseEncoder is named, and is not trained here; it
stands for both of the authors' stages, so that what it finds stands twice in the pool, which keeps
their two thirds (`equal`: once); a list has no passage twice; logits are similarities over
`temperature`; passages of equal score have no order; L_rank has the same weight in any number of
processes; a ranker with vectors teaches over all passages of an update, and with a ranker
unlabelled training queries take part in L_RT and L_rank; of the alternatives to L_rank, RankNet has
pairs in the teacher's order, since the authors' loss has no lower bound, and ListNet is a mean
over queries, where theirs is a sum: its gradient here is that of KL.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from limbeck.candidates import merge
from limbeck.errors import ConfigError, ModelError
from limbeck.models.encoder import Encoder
from limbeck.models.loading import kind_of
from limbeck.objectives.listwise import (
    cross_entropy,
    distillation_kl,
    kl_divergence,
    soft_cross_entropy,
)
from limbeck.objectives.pairwise import ordered_hinge, ranknet
from limbeck.objectives.rows import without_target
from limbeck.recipes.registry import RecipeResult, recipe
from limbeck.similarity import softmax_temperature
from limbeck.sources import ListSource
from limbeck.tasks.fit import share_updates, train_model, updates_of
from limbeck.tasks.retrieval import Retrieval
from limbeck.tasks.retrieval.fitting import WarmedSettings, train_contrastive
from limbeck.tasks.retrieval.scorers import dual, from_batch, taught
from limbeck.tasks.retrieval.scorers import logits_of as logits
from limbeck.tasks.retrieval.wording import near_words
from limbeck.teachers import DualTeacher, Teacher, load_teacher
from limbeck.training import Turn, forward
from limbeck.types import Loss, Signals


class LEDSettings(WarmedSettings):
    """Settings of `led`."""

    candidates_per_query: int = Field(
        32, ge=2, description="candidates that the student and the lexical teacher find, each"
    )
    lexical: str | None = Field(
        None,
        description="with a ranker: path or hub name of the SparseEncoder that is the lexical "
        "teacher; none = BM25. Without one, --teacher names it",
    )
    lexical_copies: int = Field(
        2, ge=0, description="times that what the lexical teacher finds stands in the pool"
    )
    taught_learning_rate: float = Field(
        1e-4, gt=0, description="peak of the learning rate after the warm-up"
    )
    rank_weight: float = Field(1.0, ge=0, description="weight of L_rank")
    rank_loss: Literal["hinge", "kl", "ranknet", "listnet"] = Field(
        "hinge", description="L_rank, or what stands in its place; kl and listnet read raw scores"
    )
    rank_margin: float = Field(0.0, ge=0, description="m, in the student's logits")
    rank_gap: float = Field(
        0.0, ge=0, description="least t_bi - t_bj of a pair that counts, for hinge and ranknet"
    )
    with_positive: bool = Field(True, description="count the positive's own column in L_rank")
    ranker_weight: float = Field(
        0.0, ge=0, description="weight of L_RT; above 0, --teacher is the ranker"
    )
    ranker_tau: float = Field(3.0, gt=0, description="T: divides all logits of L_RT once more")

    @property
    def needs(self) -> frozenset[str]:
        """A ranker, where it has a weight."""
        return frozenset({"teacher"}) if self.ranker_weight else frozenset()

    @field_validator("lexical")
    @classmethod
    def _sparse(cls, lexical: str | None) -> str | None:
        """The model is looked at before any work."""
        if lexical is not None and (kind := kind_of(lexical)) != "SparseEncoder":
            raise ModelError(f"lexical {lexical!r} is a {kind}. Name a SparseEncoder.")
        return lexical

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        """Without a ranker, --teacher is the lexical teacher."""
        if self.lexical is not None and not self.ranker_weight:
            raise ConfigError(
                f"lexical={self.lexical} is for led with a ranker. Use led:with-ranker, or name "
                f"the lexical teacher with --teacher {self.lexical}."
            )
        return self


@recipe(
    "led",
    summary="Negatives that a lexical teacher finds, and its order of them: BM25 or SPLADE.",
    paper="Zhang et al. 2023, arXiv:2208.13661",
    settings=LEDSettings,
    needs=frozenset({"labels"}),
    takes=("sparse",),
    presets={
        "no-rank-term": {"rank_weight": 0.0},
        "dense-negatives": {"lexical_copies": 0},
        "dense-only": {"lexical_copies": 0, "rank_weight": 0.0},
        "equal": {"lexical_copies": 1},
        "without-positive": {"with_positive": False},
        "kl": {"rank_loss": "kl"},
        "ranknet": {"rank_loss": "ranknet"},
        "listnet": {"rank_loss": "listnet"},
        "with-ranker": {"rank_weight": 1.2, "ranker_weight": 1.5, "with_positive": False},
        "paper": {
            "batch_size": 16,
            "list_length": 33,
            "candidates_per_query": 200,
            "learning_rate": 1e-5,
            "taught_learning_rate": 5e-6,
        },
    },
)
def led(
    task: Retrieval, teacher: Teacher | None, student: Encoder, settings: LEDSettings
) -> RecipeResult:
    """Train the student in place; the result has the teacher that was named, and how near to BM25
    the student is on dev.
    """
    ranker = teacher if settings.ranker_weight else None
    lexical = None if ranker else teacher
    if settings.lexical is not None:
        lexical = load_teacher(settings.lexical).renamed("lexical")
    judged = task.labelled_queries()
    everyone = judged if ranker is None else task.training_queries()
    temperature = settings.temperature or softmax_temperature(student.similarity)
    size, depth = settings.batch_size, settings.candidates_per_query
    updates = updates_of(settings, len(everyone) / size)
    warmup = settings.warmup_share
    warm, rest = share_updates(updates, [warmup, 1 - warmup])

    # 1. Warm-up of the student, on negatives by words.
    lists = task.lists(task.lexical(judged, depth=depth), negatives_from=settings.range_min)
    source = ListSource(lists, size, settings.list_length, task.run.seed)
    given = settings.of_stage(warm, settings.learning_rate, settings.keep)
    train_contrastive(task, "led-warmup", student, source, given, temperature, makes="student")
    notes = near_words(task, "warmed-up student", student)
    # 2. The pool: what the warmed-up student finds, and what the lexical teacher finds.
    miner = DualTeacher("student", student.frozen())
    pools = task.unshared().mined(everyone, depth=depth, miner=miner)
    copies: dict[str, int] = {}
    if settings.lexical_copies:
        by_words = task.lexical(everyone, depth=depth, teacher=lexical)
        pools = merge([pools, by_words], 2 * depth)
        copies = dict.fromkeys(by_words.sources, settings.lexical_copies)
    lists = task.standing(task.lists(pools, negatives_from=settings.range_min), pools, copies)
    # 3. The lexical teacher's scores of all of it; the ranker's of what is shown.
    if settings.rank_weight:
        lists = task.scored_by_words(lists, "lexical", lexical)
    source = ListSource(lists, size, settings.list_length, task.run.seed, start=warm)
    scorers = [dual(task, "student", student)]
    if settings.rank_weight:
        scorers.append(from_batch("lexical"))
    if ranker is not None:
        if not ranker.in_batch:
            source = task.scored(source, rest, "teacher", ranker)
        scorers.append(taught(task, "teacher", ranker))

    # 4. The equation, from the warmed-up student on.
    def loss(signals: Signals) -> Loss:
        parts = {"contrastive": cross_entropy(signals.scores["student/in_batch"], temperature)}
        if settings.rank_weight:
            s, t = logits(signals.scores["student"], temperature), signals.scores["lexical"]
            t = t if settings.with_positive else without_target(t)
            raw = {"teacher_temperature": 1.0, "student_temperature": 1.0}
            match settings.rank_loss:
                case "hinge":
                    rank = ordered_hinge(t, s, margin=settings.rank_margin, gap=settings.rank_gap)
                case "ranknet":
                    rank = ranknet(t, s, gap=settings.rank_gap)
                case "kl":
                    rank = kl_divergence(t, s, **raw)
                case "listnet":
                    rank = soft_cross_entropy(t, s, **raw)
            parts["rank"] = settings.rank_weight * rank
        if ranker is not None:
            s, r = signals.widest("student", "teacher")
            s, r = logits(s, temperature), logits(r, ranker.temperature)
            kd = distillation_kl(r, s, temperature=settings.ranker_tau)
            parts["ranker"] = settings.ranker_weight * kd
        return Loss(parts)

    given = settings.of_stage(rest, settings.taught_learning_rate, settings.keep)
    turn = Turn(forward(*scorers), loss, trains=frozenset({"student"}))
    train_model(task, "led", student, source, turn, given)
    notes += near_words(task, "student", student)
    return RecipeResult(teacher, False, tuple(notes))
