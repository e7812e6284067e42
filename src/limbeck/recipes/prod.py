"""PROD: progressive distillation. Lin et al. 2023, arXiv:2209.13335, with the authors' code
(microsoft/SimXNS) where the paper is silent.

A small dual encoder learns from a teacher that is hardly larger, then from stronger ones, each on
candidates mined anew, and stays close to what it was; at last it sees only those queries that the
last teacher solves and it does not.

    L_hard = -(1/B) sum_b log softmax(s_b)[y_b]                             judged queries
    KD(t, s) = tau^2 (1/B) sum_b KL( softmax(t_b / tau) || softmax(s_b / tau) )
    L_I  = hard_weight L_hard + soft_weight KD(t, s)                        the first step
    L_II = L_I + reg_weight KD(r, s)                                        all that follow

s, t and r are the logits of the student, the teacher, and the student as it was at the start of the
step. A dual encoder teaches over all passages of an update, any other over the query's own list.

Departures: unlabelled training queries take part in KD, since most queries are; logits are
similarities over `temperature`, and a teacher's scores over what their units ask for, since ours
are cosines; a query's positive is drawn anew, but for the data steps; short lists are not filled up
by repeating them; a teacher that is no better on dev than the one before is skipped, and that one
teaches in its place; the student's updates are shared out over the stages, so that other ladders
cost the same; the last teacher is kept through all data steps, as the authors allow.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from limbeck.candidates import Candidates
from limbeck.models.encoder import Encoder
from limbeck.objectives.listwise import cross_entropy, distillation_kl
from limbeck.recipes.registry import RecipeResult, recipe
from limbeck.selection import MISSED, confusing, random_subset
from limbeck.similarity import softmax_temperature
from limbeck.sources import ListSource, QueryLists
from limbeck.tasks.fit import share_updates, updates_of
from limbeck.tasks.retrieval import Retrieval
from limbeck.tasks.retrieval.fitting import StagedSettings, train_contrastive, train_taught
from limbeck.tasks.retrieval.ladder import check_rung, first_of, fit_rung, judge, read_ladder
from limbeck.tasks.retrieval.scorers import logits_of as logits
from limbeck.tasks.retrieval.systems import candidates
from limbeck.teachers import DualTeacher, Teacher
from limbeck.types import Loss, Makes, Signals


class ProdSettings(StagedSettings):
    """Settings of `prod`."""

    between = frozenset(
        {"ladder", "data_share", "data_rounds", "data_passes", "data_learning_rate", "select"}
        | {"student_rank_from", "student_rank_to", "teacher_rank_to", "strictly"}
    )
    keep: Literal["best", "last"] = Field("last", description="weights a stage ends with, by dev")
    ladder: tuple[str, ...] = Field(
        ("dual/2", "dual", "ensemble"),
        min_length=1,
        description="teachers in order: dual or cross (/n = 1/n of the layers), ensemble, or as "
        "--teacher names one; --teacher itself comes last",
    )
    tau: float = Field(1.0, gt=0, description="divides all logits of KD once more")
    hard_weight: float = Field(0.1, ge=0, description="weight of L_hard")
    soft_weight: float = Field(0.9, ge=0, description="weight of KD(t, s)")
    reg_weight: float = Field(1.0, ge=0, description="weight of KD(r, s)")
    data_share: float = Field(
        0.1, ge=0, le=0.4, description="share of the student's steps in data steps, at most"
    )
    data_rounds: int = Field(
        1, ge=0, description="data steps; none follows one after which dev is not higher"
    )
    data_passes: float = Field(4.0, gt=0, description="passes over its queries in a data step")
    data_learning_rate: float = Field(4e-5, gt=0, description="peak of the rate in a data step")
    select: Literal["confusing", "random"] = Field(
        "confusing", description="which queries a data step sees; random = as many at random"
    )
    student_rank_from: int = Field(2, ge=1, description="confusing: least rank by the student")
    student_rank_to: int | None = Field(
        15, ge=1, description="confusing: largest rank by the student; none = a miss too"
    )
    teacher_rank_to: int = Field(1, ge=1, description="confusing: largest rank by the teacher")
    strictly: bool = Field(True, description="confusing: the teacher's rank must be the better")

    @field_validator("ladder")
    @classmethod
    def _known(cls, ladder: tuple[str, ...]) -> tuple[str, ...]:
        """Models are looked for before any work."""
        for rung in ladder:
            check_rung(rung)
        return ladder


@recipe(
    "prod",
    summary="Ever stronger teachers, then only the queries they solve and the student does not.",
    paper="Lin et al. 2023, arXiv:2209.13335",
    settings=ProdSettings,
    needs=frozenset({"labels"}),
    fits=("dual", "dual", "cross", "ensemble"),
    presets={
        "strongest-teacher-only": {"ladder": ("ensemble",)},
        "random-subset": {"select": "random"},
        "no-regulariser": {"reg_weight": 0.0},
        "nq-selection": {"student_rank_from": 1, "student_rank_to": None, "teacher_rank_to": 15},
        "paper": {
            "ladder": ("dual", "cross/2", "cross"),
            "tau": 4.0,
            "list_length": 16,
            "candidates_per_query": 100,
            "learning_rate": 5e-5,
            "data_learning_rate": 1e-5,
            "teacher_learning_rate": 2e-5,
        },
    },
)
def prod(
    task: Retrieval, teacher: Teacher | None, student: Encoder, settings: ProdSettings
) -> RecipeResult:
    """Train the student in place; the result has the last teacher, and the outcome of each rung."""
    judged, everyone = task.labelled_queries(), task.training_queries()
    dev = candidates(task, "dev", task.base) if len(task.split_queries("dev")) else None
    rungs, notes = read_ladder(settings.ladder, teacher, has_dev=dev is not None)
    temperature = settings.temperature or softmax_temperature(student.similarity)
    size, rate, keep = settings.batch_size, settings.learning_rate, settings.keep
    depth = settings.candidates_per_query
    warm, late = settings.warmup_share, settings.data_share if settings.data_rounds else 0.0
    shares = [warm / 2, warm / 2, *[(1 - warm - late) / len(rungs)] * len(rungs)]
    shares += [late / settings.data_rounds] * settings.data_rounds if late else []
    updates = iter(share_updates(updates_of(settings, len(everyone) / size), shares))

    def source(lists: QueryLists, start: int = 0) -> ListSource:
        return ListSource(lists, size, settings.list_length, task.run.seed, start=start)

    def listed(pools: Candidates) -> QueryLists:
        return task.lists(pools, negatives_from=settings.range_min)

    def mined(queries: np.ndarray, miner: DualTeacher, own: Retrieval) -> QueryLists:
        return listed(own.mined(queries, depth=depth, miner=miner))

    def contrast(
        name: str, encoder: Encoder, lists: QueryLists, given: ProdSettings, makes: Makes
    ) -> None:
        shown = source(lists.judged())
        train_contrastive(task, f"prod-{name}", encoder, shown, given, temperature, makes=makes)

    def distil(
        name: str, teacher: Teacher, shown: ListSource, given: ProdSettings, reg_weight: float
    ) -> float | None:
        natural = teacher.temperature

        def loss(signals: Signals) -> Loss:
            s, t = signals.widest("student", "teacher")
            s, t = logits(s, temperature), logits(t, natural)
            parts = {
                "hard": settings.hard_weight * cross_entropy(s),
                "kd": settings.soft_weight * distillation_kl(t, s, temperature=settings.tau),
            }
            if reg_weight:
                _, _, r = signals.widest("student", "teacher", "reference")
                r = logits(r, temperature)
                parts["reg"] = reg_weight * distillation_kl(r, s, temperature=settings.tau)
            return Loss(parts)

        trained = train_taught(
            task, f"prod-{name}", student, teacher, shown, loss, given, former=reg_weight > 0
        )
        return trained.quality

    # 1. Warm-up A: teacher 1 and the student, on negatives found by words.
    encoder = first_of(task, rungs[0])
    fitting = settings.of_stage(settings.teacher_max_steps, settings.teacher_learning_rate, "best")
    halves = share_updates(updates_of(fitting, len(judged) / size), [1, 1])
    lists = listed(task.lexical(judged, depth=depth))
    given = fitting.of_stage(halves[0], fitting.learning_rate, "best")
    contrast("a-teacher", encoder, lists, given, "teacher")
    given = settings.of_stage(next(updates), rate, keep)
    contrast("a-student", student, lists, given, "student")
    # 2. Mine 1, by teacher 1 as it is now.
    lists = mined(everyone, DualTeacher("dual", encoder.frozen()), task.unshared())
    # 3. Warm-up B on these: teacher 1, and the strong baseline of the student.
    given = fitting.of_stage(halves[1], fitting.learning_rate, "best")
    contrast("b-teacher", encoder, lists, given, "teacher")
    given = settings.of_stage(next(updates), rate, keep)
    contrast("b-student", student, lists, given, "student")

    # 4. to 8. A step for each rung: mine, fit its teacher, distil from the best one so far.
    first = dual = DualTeacher("dual", encoder)
    best: Teacher = first
    steps, fitted = 0, True
    for number, rung in enumerate(rungs, 1):
        candidate: Teacher = first
        if number > 1 or rung.kind != "dual":
            # 5. and 7. Mine 2 by teacher 1, mine 3 and all later ones by the student.
            if number <= 2:
                lists = mined(everyone, first, task)
            else:
                lists = mined(everyone, DualTeacher("student", student.frozen()), task.unshared())
            name, shown = f"prod-teacher-{number}", source(lists.judged())
            ranked = replace(shown, batch_size=settings.ranker_batch_size)
            candidate = fit_rung(
                task, name, rung, dual, (shown, ranked), fitting, temperature, depth
            )
        verdict = judge(task, candidate, best if number > 1 else None, dev, rung.start)
        notes.append(f"rung {number}, {rung.name}: {verdict.message}")
        if verdict.passed:
            best, fitted = candidate, rung.kind != "given"
            dual = best if isinstance(best, DualTeacher) and fitted else dual
        regulariser = settings.reg_weight if number > 1 else 0.0
        count = next(updates)
        given = settings.of_stage(count, rate, keep)
        quality = distil(f"step-{number}", best, source(lists, steps), given, regulariser)
        steps += count

    # 9. to 11. Data steps: the queries that the last teacher solves and the student does not.
    for number, most in enumerate(updates, 1):
        miner = DualTeacher("student", student.frozen())
        pools = task.unshared().mined(judged, depth=depth, miner=miner)
        hard = confusing(
            task.positive_ranks(pools),
            task.positive_ranks(pools, best),
            student_ranks=(settings.student_rank_from, settings.student_rank_to or MISSED),
            teacher_rank=settings.teacher_rank_to,
            strictly=settings.strictly,
        )
        notes.append(f"data step {number}: {hard.sum():,} of {len(judged):,} queries are confusing")
        if settings.select == "random":
            hard = random_subset(len(hard), int(hard.sum()), task.run.seed + number)
        lists = listed(pools).of(pools.queries[hard])
        if not len(lists):
            break
        shown = replace(source(lists), order="ranked")
        count = min(most, math.ceil(settings.data_passes * shown.updates_per_pass))
        given = settings.of_stage(count, settings.data_learning_rate, keep)
        before = quality
        quality = distil(f"data-{number}", best, shown, given, settings.reg_weight)
        if before is not None and quality is not None and quality <= before:
            break
    return RecipeResult(best, fitted, tuple(notes))
