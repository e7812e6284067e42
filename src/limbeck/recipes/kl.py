"""Distillation of the teacher's distribution over candidates.

    L = KL( softmax(t / tau_t) || softmax(s / tau_s) )  +  lambda * L_contrastive on judged queries

s are the student's similarities, t the teacher's raw scores (Hinton et al. 2015,
arXiv:1503.02531, section 2; over candidate lists as in RocketQAv2, Ren et al. 2021,
arXiv:2110.07367, eq. 3). Both softmaxes run over every passage of the update where the teacher has
vectors and can score them all, and over the query's own list where it scores pairs.

Departures: own temperatures for teacher and student, since their scores have different units, and
no factor tau^2; unlabelled training queries take part in the first term; an unlabelled query's
list begins with the teacher's first choice.
"""

from __future__ import annotations

from pydantic import Field

from limbeck.models.encoder import Encoder
from limbeck.objectives.listwise import cross_entropy, kl_divergence
from limbeck.recipes.registry import recipe
from limbeck.similarity import softmax_temperature
from limbeck.sources import ListSource
from limbeck.tasks.retrieval import ListSettings, Retrieval
from limbeck.tasks.retrieval.fitting import train_taught
from limbeck.teachers import Teacher
from limbeck.types import Loss, Signals


class KLSettings(ListSettings):
    """Settings of `kl`."""

    temperature: float | None = Field(
        None,
        gt=0,
        description="divides the student's similarities before the softmax; none = 0.05 for "
        "cosines, 1 for dot products",
    )
    teacher_temperature: float | None = Field(
        None,
        gt=0,
        description="divides the teacher's scores; none = 0.05 for cosines, 1 for logits, "
        "0.3 for an ensemble, 0.3 of their deviation for scores from a file",
    )
    contrastive_weight: float = Field(
        0.1, ge=0, description="lambda: weight of the contrastive term on judged queries"
    )
    absolute_margin: float | None = Field(
        None,
        description="candidates of a judged query that the teacher scores above its positive minus "
        "this are never its negatives; none = all may be",
    )


@recipe(
    "kl",
    summary="The teacher's distribution over candidates, on judged and unlabelled queries.",
    paper="Hinton et al. 2015, arXiv:1503.02531; Ren et al. 2021, arXiv:2110.07367",
    settings=KLSettings,
    needs=frozenset({"teacher", "queries"}),
    presets={"teacher-only": {"contrastive_weight": 0.0}},
)
def kl(task: Retrieval, teacher: Teacher, student: Encoder, settings: KLSettings) -> None:
    """Train the student in place."""
    # 1. Candidates of all training queries: by words, and by the teacher's vectors or the base's;
    # of scores from a file, its pairs.
    pools = task.training_pools(teacher, depth=settings.candidates_per_query)
    # 2. A teacher without vectors scores each query's own list, once.
    scorer = None if teacher.in_batch and settings.absolute_margin is None else teacher
    lists = task.lists(
        pools, negatives_from=settings.range_min, teacher=scorer, margin=settings.absolute_margin
    )
    source = ListSource(lists, settings.batch_size, settings.list_length, task.run.seed)
    # 3. The equation: over the whole update where the teacher can score it, own lists otherwise.
    teacher_temperature = settings.teacher_temperature or teacher.temperature
    temperature = settings.temperature or softmax_temperature(student.similarity)

    def loss(signals: Signals) -> Loss:
        t, s = signals.widest("teacher", "student")
        parts = {
            "kl": kl_divergence(
                t, s, teacher_temperature=teacher_temperature, student_temperature=temperature
            )
        }
        if settings.contrastive_weight:
            judged = cross_entropy(signals.scores["student/in_batch"], temperature)
            parts["contrastive"] = settings.contrastive_weight * judged
        return Loss(parts)

    train_taught(task, "kl", student, teacher, source, loss, settings)
