"""ADAM: distillation with adaptive dark examples. Tao et al. 2024, arXiv:2212.10192.

A teacher that is nearly certain about positives and negatives says no more than the labels do. So
each list also gets dark examples (`limbeck.data.dark`): negatives with a span of the positive in
them, and positives without some of their words. With C_i the clean list of query i, D_i the same
with its dark examples, p and r the softmax of teacher and student over tau:

    conf_i  = softmax_{C_i}(t_i) at the positive           v_i = 1 where conf_i > theta, else 0
    L_dark  = sum_i v_i KL_{D_i}(p_i || r_i) / sum_i v_i
    L_plain = sum_i (1 - v_i) KL_{C_i}(p_i || r_i) / sum_i (1 - v_i)
    L       = L_contrastive + alpha tau^2 (L_dark + L_plain)

theta falls in a line over the steps, from queries that the teacher is sure of to all of them.

Departures, most where the paper leaves it open: unlabelled queries take part in all but the
contrastive term, the teacher's first choice standing for their positive; scores are first divided
by their own temperatures, and conf is taken before tau; words are dropped, not masked; of each
query `dark_draws` lists get dark examples, which later epochs show again beside other negatives;
without judgements there is no warm-up. Candidates are those of the warmed-up student and of words.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from limbeck.data.dark import Dark
from limbeck.models.encoder import Encoder
from limbeck.objectives.listwise import cross_entropy, distillation_kl
from limbeck.objectives.rows import entropy, hard
from limbeck.objectives.weighting import self_paced
from limbeck.recipes.registry import recipe
from limbeck.similarity import softmax_temperature
from limbeck.sources import ListSource, QueryLists
from limbeck.tasks.fit import share_updates, train_model, updates_of
from limbeck.tasks.retrieval import ListSettings, Retrieval
from limbeck.tasks.retrieval.dark import read_by
from limbeck.tasks.retrieval.fitting import train_contrastive
from limbeck.tasks.retrieval.scorers import dual, first_slots, from_batch, logits_of
from limbeck.teachers import DualTeacher, Teacher
from limbeck.training import Turn, forward
from limbeck.types import Loss, Signals


class AdamSettings(ListSettings):
    """Settings of `adam`."""

    max_steps: int | None = Field(
        None,
        ge=1,
        description="steps, warm-up included; none = 10 passes over its queries, 40 to 300",
    )
    batch_size: int = Field(16, ge=1, description="queries in one step")
    list_length: int = Field(
        16,
        ge=2,
        description="passages for each query of a step, dark ones included; at least two that "
        "are not, and one of each kind with a share",
    )
    temperature: float | None = Field(
        None,
        gt=0,
        description="divides the student's similarities; none = 0.05 for cosines, 1 for dot "
        "products",
    )
    teacher_temperature: float | None = Field(
        None, gt=0, description="divides the teacher's scores; none = as their units ask, as in kl"
    )
    tau: float = Field(1.0, gt=0, description="divides both sides of the KL terms once more")
    alpha: float = Field(1.0, ge=0, description="weight of the KL terms")
    warmup_share: float = Field(
        0.3, ge=0, lt=1, description="share of the steps in which judgements alone teach, at first"
    )
    reinforced: float = Field(
        0.25, ge=0, le=0.5, description="share of a list: negatives with a span of the positive"
    )
    weakened: float = Field(
        0.25, ge=0, le=0.5, description="share of a list: positives that lack some words"
    )
    mix_from: float = Field(
        0.2, ge=0, le=1, description="least share of the positive's words mixed"
    )
    mix_to: float = Field(
        0.5, ge=0, le=1, description="largest share of the positive's words mixed"
    )
    drop_from: float = Field(0.3, ge=0, le=1, description="least share of a positive's words lost")
    drop_to: float = Field(0.7, ge=0, le=1, description="largest share of a positive's words lost")
    weaken: Literal["drop", "mask"] = Field(
        "drop", description="drop = lost words are left out; mask = the mask token stands for them"
    )
    dark_draws: int = Field(
        4, ge=1, description="lists of a query that get dark examples of their own"
    )
    select: Literal["threshold", "confidence"] = Field(
        "threshold", description="v: 1 above the threshold; or the confidence itself"
    )
    theta_start: float = Field(0.9, ge=0, le=1, description="theta at the first step")
    theta_end: float = Field(0.0, ge=0, le=1, description="and at the end of the last")
    unselected: Literal["plain", "dropped"] = Field(
        "plain", description="of queries with v = 0: L_plain; or nothing but the contrastive term"
    )

    @property
    def needs(self) -> frozenset[str]:
        """A teacher that scores new texts; a mask token that every model knows."""
        dark = {"texts"} if self.reinforced + self.weakened else set()
        return frozenset(dark | ({"mask"} if self.weakened and self.weaken == "mask" else set()))


CLEAN = {"reinforced": 0.0, "weakened": 0.0}


@recipe(
    "adam",
    summary="The teacher's distribution over lists with dark examples, between right and wrong.",
    paper="Tao et al. 2024, arXiv:2212.10192",
    settings=AdamSettings,
    needs=frozenset({"teacher", "queries"}),
    presets={
        "reinforced-only": {"reinforced": 0.5, "weakened": 0.0},
        "noisy-only": {"reinforced": 0.0, "weakened": 0.5},
        "mask": {"weaken": "mask"},
        "no-selection": {"theta_start": 0.0},
        "selection-only": {**CLEAN, "unselected": "dropped"},
        "plain": {**CLEAN, "theta_start": 0.0},
        "soft-weights": {"select": "confidence", "unselected": "dropped"},
    },
)
def adam(task: Retrieval, teacher: Teacher, student: Encoder, settings: AdamSettings) -> None:
    """Train the student in place."""
    depth = settings.candidates_per_query
    reinforced, weakened = (
        max(1, int(share * settings.list_length)) if share else 0
        for share in (settings.reinforced, settings.weakened)
    )
    length = max(2, settings.list_length - reinforced - weakened)  # of a clean list
    judged, everyone = task.labelled_queries(), task.training_queries()
    temperature = settings.temperature or softmax_temperature(student.similarity)
    natural = settings.teacher_temperature or teacher.temperature
    share = settings.warmup_share if len(judged) else 0.0
    in_all = updates_of(settings, len(everyone) / settings.batch_size)
    warmup, updates = share_updates(in_all, [share, 1 - share])

    def source(lists: QueryLists) -> ListSource:
        return ListSource(lists, settings.batch_size, length, task.run.seed)

    # 1. Warm-up of the student, on negatives by words and by the base encoder, and in-batch ones.
    if warmup:
        pools = task.pools(judged, depth=depth, miner=task.base)
        shown = source(task.lists(pools, negatives_from=settings.range_min))
        given = settings.model_copy(update={"max_steps": warmup})
        train_contrastive(task, "adam-warmup", student, shown, given, temperature, makes="student")
        # 2. The pool: what the student finds now.
        now = DualTeacher("student", student.frozen())
        pools = task.unshared().pools(everyone, depth=depth, miner=now, scorer=teacher)
    else:
        pools = task.training_pools(teacher, depth=depth)
    # 3. and 4. The teacher's raw scores of the clean lists, once.
    lists = task.lists(pools, negatives_from=settings.range_min, teacher=teacher)
    shown = source(lists)
    # 5b. and 5c. Dark examples of all lists that will be shown, and the teacher's scores of them.
    if reinforced + weakened:
        dark = Dark(
            reinforced,
            weakened,
            (settings.mix_from, settings.mix_to),
            (settings.drop_from, settings.drop_to),
            task.run.seed,
            student.tokenizer.mask_token if settings.weaken == "mask" else None,
        )
        read = read_by(student, teacher)
        task, shown = task.derive(
            shown,
            updates,
            lambda query, draw, texts: dark.examples(query, draw, texts[0], texts[1:], read),
            name="dark",
            draws=settings.dark_draws,
            teacher=teacher,
        )

    def loss(signals: Signals) -> Loss:
        s = logits_of(signals.scores["student"], temperature)
        t = logits_of(signals.scores["teacher"], natural)
        clean_s, clean_t = first_slots(s, length), first_slots(t, length)
        # 5d. and 5e. The teacher's confidence on the clean list, and the weight by it.
        unsure = hard(replace(clean_t, target=torch.zeros_like(t.target))).values  # -log conf
        theta = settings.theta_start
        theta += signals.progress * (settings.theta_end - settings.theta_start)
        if settings.select == "threshold":
            v = self_paced(unsure, -math.log(theta) if theta > 0 else math.inf, "hard")
        else:
            v = torch.exp(-unsure)
        # 5f. The loss.
        alpha, tau = settings.alpha, settings.tau
        parts = {
            "contrastive": cross_entropy(signals.scores["student/in_batch"], temperature),
            "dark": alpha * distillation_kl(t, replace(s, weight=v), temperature=tau),
        }
        if settings.unselected == "plain":
            rest = replace(clean_s, weight=1 - v)
            parts["plain"] = alpha * distillation_kl(clean_t, rest, temperature=tau)
        notes = {
            "selected": v.mean(),
            "entropy_clean": entropy(clean_t).mean(),
            "entropy_dark": entropy(t).mean(),
        }
        return Loss(parts, notes)

    scorers = forward(dual(task, "student", student), from_batch("teacher"))
    turn = Turn(scorers, loss, trains=frozenset({"student"}))
    given = settings.model_copy(update={"max_steps": updates})
    train_model(task, "adam", student, shown, turn, given)
