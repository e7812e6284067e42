"""LEAD: teacher and student trained together, layer by layer. Sun et al. 2024, arXiv:2212.05225,
with the authors' code (microsoft/SimXNS) where the paper is silent.

Every layer of a model ranks candidates, if its states are read as the model reads its last. So what
a teacher's layer says of the candidates can teach a student's layer, whatever the two models'
tokenizers, widths and numbers of layers: nothing is projected.

    L_tch = -(1/B) sum_b log softmax(t_b)[y_b]                        judged queries
    L_stu = -(1/B) sum_b log softmax(s_b)[y_b]                        judged queries
    L_rep = KL(t || s) + KL(s || t)                                   the second where t is trained
    L_lyr = sum_k w_k KL(t_{a_k} || s_{b_k}),  w = softmax_k( -CE(t_{a_k}, y) / layer_temperature )
    L     = L_tch + L_stu + L_rep + layer_weight L_lyr

s and t are the logits of the last layers, t_a and s_b those of the layers a_k and b_k, which are
drawn anew every `redraw_steps` steps and keep their order. Nothing is detached but w: the teacher
also learns from the student.

Departures: unlabelled training queries take part in L_rep and L_lyr, since most queries are; logits
are similarities over `temperature`, and a teacher's scores over what their units ask for, since
ours are cosines, a layer's too, which also keeps the layers' softmaxes from being one-hot; the
candidates are mined by words and by the vectors of the given teacher or of the base, where the
authors fit one more encoder to mine; a given teacher is not warmed up; `pairs` are no more than
either model has layers; equal weights add up to 1, too; every positive is removed from the
negatives. A cross-encoder scores each query's own candidates only, so the student's scores are cut
to them, and a step has `ranker_batch_size` queries; so it is in the paper.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from limbeck.models.encoder import Encoder
from limbeck.models.layers import depth_of
from limbeck.objectives.listwise import cross_entropy, kl_divergence, reverse_kl_divergence
from limbeck.objectives.weighting import by_quality
from limbeck.recipes.registry import RecipeResult, recipe
from limbeck.selection import last_pairs, layer_pairs, spread_pairs
from limbeck.similarity import softmax_temperature
from limbeck.sources import ListSource, QueryLists
from limbeck.tasks.fit import player as player_of
from limbeck.tasks.fit import share_updates, updates_of
from limbeck.tasks.retrieval import Retrieval
from limbeck.tasks.retrieval.fitting import StagedSettings, train_contrastive
from limbeck.tasks.retrieval.scorers import logits_of as logits
from limbeck.tasks.retrieval.scorers import scorer_of
from limbeck.teachers import DualTeacher, Teacher, teacher_of
from limbeck.training import Turn, forward, frozen_player
from limbeck.types import Loss, Scores, Signals


class LeadSettings(StagedSettings):
    """Settings of `lead`."""

    teacher_temperature: float | None = Field(
        None,
        gt=0,
        description="divides the teacher's scores; none = 0.05 for cosines, 1 for logits and sums",
    )
    train_teacher: bool = Field(True, description="the teacher learns, too, beside the student")
    joint_teacher_learning_rate: float = Field(
        2e-5, gt=0, description="peak of the teacher's rate beside the student"
    )
    pairs: int = Field(
        5, ge=1, description="K: pairs of layers of a step, no more than either model has layers"
    )
    redraw_steps: int = Field(10, ge=1, description="steps after which pairs are drawn anew")
    choose: Literal["random", "last", "skip"] = Field(
        "random",
        description="pairs of layers: drawn, the last K of both, or K at equal distances",
    )
    weigh: Literal["quality", "uniform"] = Field(
        "quality", description="a pair by how well the teacher's layer ranks, or 1 / K each"
    )
    layer_temperature: float = Field(
        10.0, gt=0, description="divides the losses that the weights are made of"
    )
    layer_weight: float = Field(1.0, ge=0, description="weight of L_lyr; 0 = the last layers only")
    detach: bool = Field(
        False, description="a KL moves only the model whose logarithm it takes, never its target"
    )


def joint_loss(
    t: Scores, s: Scores, layers: Sequence[tuple[Scores, Scores]], settings: LeadSettings
) -> Loss:
    """L of the logits of teacher and student, and of their layers in pairs, the teacher's first."""

    def target(scores: Scores) -> Scores:
        return replace(scores, values=scores.values.detach()) if settings.detach else scores

    def kl(teacher: Scores, student: Scores) -> torch.Tensor:
        one = {"teacher_temperature": 1.0, "student_temperature": 1.0}
        return kl_divergence(target(teacher), student, **one)

    parts = {"L_stu": cross_entropy(s), "L_rep": kl(t, s)}
    if settings.train_teacher:
        parts["L_tch"] = cross_entropy(t)
        parts["L_rep"] = parts["L_rep"] + reverse_kl_divergence(
            t, target(s), teacher_temperature=1.0, student_temperature=1.0
        )
    if layers:
        losses = torch.stack([cross_entropy(teacher).detach() for teacher, _ in layers])
        if settings.weigh == "uniform":
            losses = torch.zeros_like(losses)
        weights = by_quality(losses, settings.layer_temperature)
        divergences = torch.stack([kl(teacher, student) for teacher, student in layers])
        parts["L_lyr"] = settings.layer_weight * (weights * divergences).sum()
    return Loss(parts)


@recipe(
    "lead",
    summary="Teacher and student together, each layer's ranking a lesson for another layer.",
    paper="Sun et al. 2024, arXiv:2212.05225",
    settings=LeadSettings,
    needs=frozenset({"labels"}),
    fits=("dual",),
    takes=("dual", "cross"),
    presets={
        "frozen-teacher": {"train_teacher": False},
        "uniform": {"weigh": "uniform"},
        "last": {"choose": "last"},
        "skip": {"choose": "skip"},
        "detached": {"detach": True},
        "final-scores": {"layer_weight": 0.0},
        "paper": {
            "clip": 2.0,
            "candidates_per_query": 100,
            "learning_rate": 5e-5,
            "teacher_learning_rate": 2e-5,
            "joint_teacher_learning_rate": 5e-5,
        },
    },
)
def lead(
    task: Retrieval, teacher: Teacher | None, student: Encoder, settings: LeadSettings
) -> RecipeResult:
    """Train the student in place; the result has the teacher as it ends, and what the layers of
    both rank.
    """
    temperature = settings.temperature or softmax_temperature(student.similarity)
    size = settings.batch_size
    in_all = updates_of(settings, len(task.training_queries()) / size)
    warmup, updates = share_updates(in_all, [settings.warmup_share, 1 - settings.warmup_share])

    def source(lists: QueryLists, queries: int) -> ListSource:
        return ListSource(lists, queries, settings.list_length, task.run.seed)

    # 1. Mine once.
    pools = task.training_pools(teacher or task.base, depth=settings.candidates_per_query)
    lists = task.lists(pools, negatives_from=settings.range_min)
    shown = source(lists.judged(), size)

    # 2. Warm up each alone.
    if teacher is None:
        encoder = copy.deepcopy(task.base.encoder).requires_grad_(True)
        steps, rate = settings.teacher_max_steps, settings.teacher_learning_rate
        given = settings.of_stage(steps, rate, "best")
        units = settings.teacher_temperature or softmax_temperature(encoder.similarity)
        train_contrastive(task, "lead-teacher", encoder, shown, given, units, makes="teacher")
        warmed: Teacher = DualTeacher("dual", encoder)
    else:
        warmed = teacher
    given = settings.of_stage(warmup, settings.learning_rate, settings.keep)
    train_contrastive(task, "lead-student", student, shown, given, temperature, makes="student")

    # 3. Both together, each with its own optimiser and schedule.
    [model] = warmed.models()
    model = copy.deepcopy(model).requires_grad_(settings.train_teacher)
    given = settings.of_stage(updates, settings.learning_rate, settings.keep)
    taught = player_of("student", student, given, updates)
    teaching = frozen_player("teacher", model)
    if settings.train_teacher:
        slow = settings.of_stage(updates, settings.joint_teacher_learning_rate, "last")
        teaching = player_of("teacher", model, slow, updates, makes="teacher")
    depths = depth_of(model), depth_of(student)
    k = min(settings.pairs, *depths)
    units = settings.teacher_temperature or warmed.temperature

    def chosen(step: int) -> Sequence[tuple[int, int]]:
        if not settings.layer_weight:
            return []
        if settings.choose == "random":
            return layer_pairs(*depths, k, task.run.seed, step // settings.redraw_steps)
        return (last_pairs if settings.choose == "last" else spread_pairs)(*depths, k)

    def loss(signals: Signals) -> Loss:
        def pair(teacher: str, student: str) -> tuple[Scores, Scores]:
            t, s = signals.widest(teacher, student)  # own lists where the teacher has no others
            return logits(t, units), logits(s, temperature)

        inner = [pair(f"teacher/layer/{a}", f"student/layer/{b}") for a, b in chosen(signals.step)]
        return joint_loss(*pair("teacher", "student"), inner, settings)

    both = (teaching, taught)
    by_layer = [
        scorer_of(task, player.name, player.model, layers=range(1, depth + 1))
        for player, depth in zip(both, depths, strict=True)
    ]

    def ranked(when: str) -> list[str]:
        notes = []
        for player, scorer, over in zip(both, by_layer, (units, temperature), strict=True):
            if when == "after" and player.optimizer is None:
                continue
            found = task.layer_figures(f"lead-{player.name}-{when}", player, scorer, over)
            each = ", ".join(f"{at}: {ndcg:.3f} ({h:.2f})" for at, (ndcg, h) in found.items())
            if found:
                notes.append(
                    f"{player.name}'s layers {when} the joint steps, nDCG@10 on dev, re-ranked "
                    f"(entropy in nats): {each}"
                )
        return notes

    notes = ranked("before")
    final = [scorer_of(task, player.name, player.model) for player in both]
    turn = Turn(
        forward(*(by_layer if settings.layer_weight else final)),
        loss,
        trains=frozenset(player.name for player in both if player.optimizer is not None),
    )
    size = settings.ranker_batch_size if warmed.reads_pairs else size
    task.train_stage("lead-joint", [taught, teaching], source(lists, size), turn, updates, given)
    notes += ranked("after")
    if not settings.train_teacher:
        return RecipeResult(warmed, teacher is None, tuple(notes))
    return RecipeResult(teacher_of(model).renamed(warmed.name), True, tuple(notes))
