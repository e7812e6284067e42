"""E5: contrastive pre-training on weak pairs that a first model agrees with. Wang et al. 2022,
arXiv:2212.03533, with SimLM's code (microsoft/unilm) for the distillation.

    L_pre  = -(1/B) sum_i log( e^{s_ii / tau} / sum_j e^{s_ij / tau} )            weak pairs
    keep i   if 1 + #{ j in pool : s(q_i, p_j) > s(q_i, p_i) } <= k               s: first model
    L_fine = KL( softmax(t / tau_t) || softmax(s / tau) ) + alpha L_cont          judged queries

s are similarities of the student, t the teacher's raw scores. L_pre and L_cont see all passages of
an update, the KL term each query's own list. Before every text stands `query: ` or `passage: `.

Departures: hard negatives are mined by words and by the pre-trained student itself, not taken from
SimLM; unlabelled training queries take part in the KL term; both terms are means over queries, so
that alpha does not depend on how many devices there are; every stage has one rate, and position
embeddings are trained; tau is 0.05 and the pool 1,000 by default, since collections are small;
other passages of an equal query are no negatives. There are no NLI pairs.
"""

from __future__ import annotations

import copy
from typing import ClassVar

from pydantic import Field

from limbeck.models.encoder import Encoder
from limbeck.models.prompts import add_prompts
from limbeck.objectives.listwise import cross_entropy, kl_divergence
from limbeck.recipes.registry import RecipeResult, recipe
from limbeck.similarity import softmax_temperature
from limbeck.sources import ListSource, PairSource
from limbeck.tasks.fit import PASSES, default_updates, share_updates, updates_of
from limbeck.tasks.retrieval import ListSettings, Retrieval
from limbeck.tasks.retrieval.fitting import train_on_pairs, train_taught
from limbeck.teachers import DualTeacher, Teacher
from limbeck.types import Loss, Signals

PREFIXES = ("query: ", "passage: ")


class E5Settings(ListSettings):
    """Settings of `e5`."""

    between: ClassVar = frozenset(
        {"filter_steps", "k", "pool_size", "pairs_per_step", "pretrain_share"}
    )
    max_steps: int | None = Field(
        None,
        ge=1,
        description="the student's steps over pre-training and fine-tuning; none = 10 passes over "
        "the pairs, 40 to 300",
    )
    list_length: int = Field(8, ge=2, description="passages drawn for each query of a step")
    temperature: float | None = Field(
        None,
        gt=0,
        description="tau: divides similarities in all losses; none = 0.05 for cosines, 1 for dot "
        "products",
    )
    pairs_per_step: int = Field(256, ge=2, description="pairs in one step of pre-training")
    filter_steps: int | None = Field(
        None,
        ge=1,
        description="steps of the first model, which filters; none = one pass over the pairs, 40 "
        "to 300",
    )
    k: int | None = Field(
        2, ge=1, description="largest rank of a pair that is kept; none = no filter"
    )
    pool_size: int = Field(
        1000, ge=1, description="random passages that a pair's own is ranked among"
    )
    pretrain_share: float = Field(
        0.5, gt=0, le=1, description="share of the student's steps that see pairs; 1 = all"
    )
    alpha: float = Field(0.2, ge=0, description="weight of the contrastive term in fine-tuning")

    @property
    def needs(self) -> frozenset[str]:
        """A teacher, unless nothing is fine-tuned."""
        return frozenset({"teacher"} if self.pretrain_share < 1 else ())


@recipe(
    "e5",
    summary="Pre-trains on weak pairs that a first model agrees with, then KL on queries.",
    paper="Wang et al. 2022, arXiv:2212.03533",
    settings=E5Settings,
    needs=frozenset({"pairs"}),
    presets={
        "no-filter": {"k": None},
        "k1": {"k": 1},
        "k5": {"k": 5},
        "early-stop": {"filter_steps": 20},
        "late-stop": {"filter_steps": 1000},
        "kl-only": {"alpha": 0.0},
        "alpha-1": {"alpha": 1.0},
        "pretrain-only": {"pretrain_share": 1.0},
        "paper": {
            "temperature": 0.01,
            "pairs_per_step": 32_768,
            "pool_size": 1_000_000,
            "batch_size": 256,
            "weight_decay": 0.01,
        },
    },
)
def e5(
    task: Retrieval, teacher: Teacher | None, student: Encoder, settings: E5Settings
) -> RecipeResult:
    """Train the student in place; the result tells how many pairs were kept."""
    seed = task.run.seed
    temperature = settings.temperature or softmax_temperature(student.similarity)
    if not task.prompted:
        add_prompts(student, *PREFIXES)
    queries = task.training_queries()
    tunes = teacher is not None and settings.pretrain_share < 1 and len(queries) > 0

    # 1. Pairs, without those that dev or test ask for.
    weak, pairs = task.weak_pairs(), task.learnable_pairs()
    everything = PairSource(pairs, weak.keys, settings.pairs_per_step, seed)
    share = settings.pretrain_share if tunes else 1.0
    in_all = updates_of(settings, everything.updates_per_pass)
    first, second = share_updates(in_all, [share, 1 - share])

    # 2. A first model on all of them, stopped before it knows the noise by heart.
    if settings.k is not None:
        judge = copy.deepcopy(student)
        steps = settings.filter_steps or default_updates(everything.updates_per_pass / PASSES)
        given = settings.model_copy(update={"max_steps": steps, "eval_steps": 0})
        train_on_pairs(task, "e5-filter", judge, everything, given, temperature, makes="teacher")
        # 3. The filter: pairs whose passage it finds among random ones.
        kept = task.consistent(pairs, judge, k=settings.k, pool_size=settings.pool_size)
        pairs = pairs[kept]
    seen, dropped = len(weak), len(weak) - len(everything.pairs)
    told = (
        f"pairs: {seen:,} seen, {dropped:,} dropped with the text of a dev or test query, "
        f"{len(pairs):,} kept ({len(pairs) / len(everything.pairs):.1%} of the others)"
    )

    # 4. The student on what is kept, from where the first model began.
    shown = PairSource(pairs, weak.keys, settings.pairs_per_step, seed)
    given = settings.model_copy(update={"max_steps": first})
    train_on_pairs(task, "e5-pretrain", student, shown, given, temperature, makes="student")
    if teacher is None or not tunes:
        return RecipeResult(None, False, (told, "e5: pre-training alone"))

    # 5. Hard negatives by words and by the student as it is now; the teacher scores each list.
    miner = DualTeacher("student", student.frozen())
    pools = task.unshared().pools(
        queries, depth=settings.candidates_per_query, miner=miner, scorer=teacher
    )
    lists = task.lists(
        pools, negatives_from=settings.range_min, teacher=None if teacher.in_batch else teacher
    )
    source = ListSource(lists, settings.batch_size, settings.list_length, seed)

    # 6. Fine-tuning.
    def loss(signals: Signals) -> Loss:
        t, s = signals.scores["teacher"], signals.scores["student"]
        parts = {
            "kl": kl_divergence(
                t, s, teacher_temperature=teacher.temperature, student_temperature=temperature
            )
        }
        if settings.alpha:
            contrast = cross_entropy(signals.scores["student/in_batch"], temperature)
            parts["contrastive"] = settings.alpha * contrast
        return Loss(parts)

    given = settings.model_copy(update={"max_steps": second})
    train_taught(task, "e5-tune", student, teacher, source, loss, given)
    return RecipeResult(None, False, (told,))
