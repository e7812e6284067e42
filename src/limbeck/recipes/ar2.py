"""AR2: a retriever and a ranker that learn in turns. Zhang et al. 2022, arXiv:2110.03611, with the
authors' code (microsoft/AR2) where the paper is silent.

The retriever finds candidates that fool the ranker; the ranker learns on them, and sends its
judgement back. Over the M candidates of a query, a positive first, the retriever's distribution is
p = softmax(z) and the ranker's pi = softmax(s):

    L_D   = -(1/B) sum_b log pi_b0                                          the ranker's turn
    r_bj  = log( e^{s_b0} / (e^{s_b0} + e^{s_bj}) )  <= 0                   its preference
    L_adv = (1/B) sum_b sum_j r_bj log p_bj                                 judged queries
    L_reg = -(1/B) sum_b sum_j pi_bj log p_bj
    L_G   = lambda L_adv + (1 - lambda) L_reg                               the retriever's turn

Alone, L_adv pulls down a positive that the retriever is sure of; L_reg holds against it.

Departures: unlabelled training queries take part in L_reg, since most queries are; z are
similarities over `temperature`; L_adv is a mean over the judged queries of an update, where the
code sums it over a batch of 8 (lambda 0.5 there is 0.89 here); lambda is 0.1, since few queries of
an update may be judged, and the authors' later recipes have 0; log-softmax stands for
log(p + 1e-7); short lists are not filled up by repeating them; the ranker has the body of a dual
encoder that is fitted for it, since few judgements hardly teach it from scratch, or is a given one,
which needs no warm-up.
"""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
from pydantic import Field

from limbeck.errors import ConfigError
from limbeck.models.encoder import Encoder
from limbeck.models.layers import ranker_from_encoder
from limbeck.objectives.adversarial import preference, weighted_likelihood
from limbeck.objectives.listwise import cross_entropy, soft_cross_entropy
from limbeck.recipes.registry import RecipeResult, recipe
from limbeck.schedules import phases
from limbeck.similarity import softmax_temperature
from limbeck.sources import ListSource, QueryLists
from limbeck.tasks.fit import player as player_of
from limbeck.tasks.fit import share_updates, updates_of
from limbeck.tasks.retrieval import Retrieval
from limbeck.tasks.retrieval.fitting import (
    StagedSettings,
    common,
    train_contrastive,
    train_listwise,
)
from limbeck.tasks.retrieval.ladder import part_of
from limbeck.tasks.retrieval.scorers import cross, dual
from limbeck.tasks.retrieval.scorers import logits_of as logits
from limbeck.teachers import CrossTeacher, DualTeacher, Teacher
from limbeck.training import Turn, forward, frozen_player
from limbeck.types import Loss, Signals


class AR2Settings(StagedSettings):
    """Settings of `ar2`."""

    keep: Literal["best", "last"] = Field(
        "best", description="best = by dev, of the warm-up and the rounds"
    )
    ranker_temperature: float = Field(1.0, gt=0, description="divides the ranker's scores")
    adversarial_weight: float = Field(0.1, ge=0, le=1, description="lambda: the weight of L_adv")
    with_positive: bool = Field(True, description="count the positive's own column in L_adv")
    reduction: Literal["mean", "sum"] = Field(
        "mean", description="of L_adv over judged queries; sum is the authors' code"
    )
    rounds: int = Field(4, ge=1, description="times that both play, and candidates are mined")
    ranker_share: float = Field(
        0.25, ge=0, lt=1, description="share of a round's steps that are the ranker's; 0 = frozen"
    )
    counter: Literal["exact", "code"] = Field(
        "exact", description="code gives the ranker the one step more that the authors' code does"
    )
    game_learning_rate: float = Field(1e-4, gt=0, description="peak of the retriever's in the game")
    ranker_learning_rate: float = Field(1e-5, gt=0, description="peak of the ranker's in the game")


@recipe(
    "ar2",
    summary="A retriever and a ranker by turns, each on what the other makes of the candidates.",
    paper="Zhang et al. 2022, arXiv:2110.03611",
    settings=AR2Settings,
    needs=frozenset({"labels"}),
    fits=("cross",),
    takes=("cross",),
    presets={
        "lambda-zero": {"adversarial_weight": 0.0},
        "frozen-ranker": {"ranker_share": 0.0},
        "paper": {
            "adversarial_weight": 0.5,
            "reduction": "sum",
            "counter": "code",
            "rounds": 16,
            "list_length": 16,
            "candidates_per_query": 100,
            "learning_rate": 2e-5,
            "game_learning_rate": 1e-5,
            "ranker_learning_rate": 1e-6,
            "teacher_learning_rate": 1e-5,
        },
    },
)
def ar2(
    task: Retrieval, teacher: Teacher | None, student: Encoder, settings: AR2Settings
) -> RecipeResult:
    """Train the student in place; the result has the ranker as it ends, and each round's quality on
    dev.
    """
    if teacher is not None and not isinstance(teacher, CrossTeacher):
        raise ConfigError("ar2 trains a ranker: name a CrossEncoder with --teacher, or none.")
    judged, everyone = task.labelled_queries(), task.training_queries()
    temperature = settings.temperature or softmax_temperature(student.similarity)
    size, small = settings.batch_size, settings.ranker_batch_size
    in_all = updates_of(settings, len(everyone) / size)
    game = (1 - settings.warmup_share) / settings.rounds
    warmup, *turns = share_updates(in_all, [settings.warmup_share, *[game] * settings.rounds])

    def source(lists: QueryLists, queries: int, start: int = 0) -> ListSource:
        return ListSource(lists, queries, settings.list_length, task.run.seed, start=start)

    def mined(queries: np.ndarray) -> QueryLists:
        now = DualTeacher("student", student.frozen())
        pools = task.unshared().mined(queries, depth=settings.candidates_per_query, miner=now)
        return task.lists(pools, negatives_from=settings.range_min)

    # 1. Warm-up of the retriever, on negatives by words and by the base encoder, and in-batch ones.
    pools = task.pools(judged, depth=settings.candidates_per_query, miner=task.base)
    lists = task.lists(pools, negatives_from=settings.range_min)
    given = settings.of_stage(warmup, settings.learning_rate, settings.keep)
    first_lists = source(lists, size)
    quality = train_contrastive(
        task, "ar2-warmup-retriever", student, first_lists, given, temperature, makes="student"
    ).quality
    keeps = settings.keep == "best" and quality is not None
    best, kept = quality or 0.0, copy.deepcopy(student.state_dict()) if keeps else None
    # 2. Mine 0.
    lists = mined(everyone)
    # 3. Warm-up of the ranker: its body as a dual encoder, on what the student began with; then all
    # of it on mine 0.
    if teacher is None:
        body = part_of(task.base.encoder, 1)
        given = settings.of_stage(
            settings.teacher_max_steps, settings.teacher_learning_rate, "best"
        )
        train_contrastive(
            task, "ar2-warmup-ranker-body", body, first_lists, given, temperature, makes="teacher"
        )
        ranker = ranker_from_encoder(body, task.run.seed)
        shown = source(lists.judged(), small)
        train_listwise(task, "ar2-warmup-ranker", ranker, shown, given)
    else:
        ranker = copy.deepcopy(teacher.ranker)

    def rank(signals: Signals) -> Loss:
        return Loss({"L_D": cross_entropy(signals.scores["ranker"])})

    def retrieve(signals: Signals) -> Loss:
        z = logits(signals.scores["student"], temperature)
        s = logits(signals.scores["ranker"], settings.ranker_temperature)
        weight, parts = settings.adversarial_weight, {}
        if weight:
            parts["L_adv"] = weight * weighted_likelihood(
                z, preference(s), with_target=settings.with_positive, reduction=settings.reduction
            )
        if weight < 1:
            both = soft_cross_entropy(s, z, teacher_temperature=1.0, student_temperature=1.0)
            parts["L_reg"] = (1 - weight) * both
        return Loss(parts)

    # 4. The game: optimisers and schedules run on over all rounds, from the last weights of each;
    # which round's weights are kept is decided here.
    ratio = settings.ranker_share / (1 - settings.ranker_share)
    firsts = [round(turn * ratio) for turn in turns]
    rounds = [
        phases(turn + first, first, counter=settings.counter)
        for turn, first in zip(turns, firsts, strict=True)
    ]
    slow = common(settings.of_stage(None, settings.ranker_learning_rate, "last"))
    fast = settings.of_stage(None, settings.game_learning_rate, "last")
    steps = max(1, sum(first for first, _ in rounds))
    judge = player_of("ranker", ranker, slow, steps, makes="teacher")
    player = player_of("student", student, fast, max(1, sum(second for _, second in rounds)))
    notes = [] if quality is None else [f"warm-up: {quality:.4f} nDCG@10 on dev, pooled"]
    for number, (first, second) in enumerate(rounds, 1):
        # a. The ranker's phase, on what the retriever finds now.
        if first:
            shown = source(lists.judged(), small, judge.steps)
            judging = forward(cross(task, "ranker", ranker))
            turn = Turn(judging, rank, trains=frozenset({"ranker"}))
            task.train_stage(f"ar2-{number}-ranker", [judge], shown, turn, first, slow)
        # b. The retriever's phase; the ranker only answers.
        quality = None
        if second:
            shown = source(lists, size, player.steps)
            everybody = [player, frozen_player("ranker", ranker)]
            both = forward(dual(task, "student", student), cross(task, "ranker", ranker))
            turn = Turn(both, retrieve, trains=frozenset({"student"}))
            name = f"ar2-{number}-retriever"
            quality = task.train_stage(name, everybody, shown, turn, second, fast).quality
        told = "" if quality is None else f"; {quality:.4f} nDCG@10 on dev, pooled"
        notes.append(f"round {number}: {first} ranker and {second} retriever steps{told}")
        if keeps and quality is not None and quality > best:
            best, kept = quality, copy.deepcopy(student.state_dict())
        # c. Encode and mine anew.
        if number < len(rounds):
            lists = mined(everyone)
    if kept is not None:
        student.load_state_dict(kept)
    fitted = teacher is None or judge.steps > 0
    return RecipeResult(CrossTeacher("cross", ranker), fitted, tuple(notes))
