"""How do the teachers that a run was asked for come to be?

A given one is there. A fitted one is trained by the recipe of its kind, `teacher_KIND`, after those
that it stands on, each once, whoever asks for it. What these recipes do, and what a teacher is good
for, is not known here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from limbeck.config.teacher_spec import KINDS, TeacherSpec, fit_name
from limbeck.models.encoder import Encoder
from limbeck.pipeline.request import Wanted
from limbeck.recipes import Recipe, find
from limbeck.tasks.retrieval import Retrieval
from limbeck.tasks.retrieval.systems import DIAGNOSED_DEPTH, DIAGNOSED_QUERIES
from limbeck.teachers import EnsembleTeacher, Teacher


def fits_of(wanted: Wanted, *, least: bool = False) -> tuple[str, ...]:
    """The names of what has to be fitted, in order; at `least` the first kind where it is open."""
    return tuple(
        dict.fromkeys(
            fit_name(kind, spec.base)
            for spec in wanted.specs
            for kind in (spec.kinds[:1] if spec.open and least else spec.kinds)
        )
    )


CarryOut = Callable[[str, Recipe, Retrieval, Sequence[Encoder | Teacher]], Teacher]


@dataclass
class Fitting:
    """The teachers of one run on a task. `carry_out` calls a recipe: with what the training is
    kept under, the recipe, the task that it works on, and what it stands on.
    """

    task: Retrieval
    wanted: Wanted
    carry_out: CarryOut
    found: dict[str, Teacher] = field(default_factory=dict)  # by `fit_name`

    def fitted(self, kind: str, base: str | None) -> Teacher:
        """A teacher of a kind, trained from a base."""
        name = fit_name(kind, base)
        if name not in self.found:
            task = self.task if base is None else self.task.from_base(self.wanted.bases[base], base)
            below: list[Encoder | Teacher] = [self.fitted(each, base) for each in KINDS[kind]]
            stands_on = below or [copy.deepcopy(task.base.encoder)]
            recipe: Recipe = find(f"teacher_{kind}")
            teacher = self.carry_out(name, recipe, task, stands_on)
            self.found[name] = _called(teacher, name)
        return self.found[name]

    def members(self, choose: Callable[[TeacherSpec], Teacher] | None = None) -> list[Teacher]:
        """All teachers of the run, in order; `choose` fits one whose kind was left open."""
        several = len(self.wanted.specs) > 1
        members = []
        for spec, name, given in zip(
            self.wanted.specs, self.wanted.names, self.wanted.given, strict=True
        ):
            if given is not None:
                members.append(given)
                continue
            if spec.kind is not None:
                teacher = self.fitted(spec.kind, spec.base)
            else:
                assert choose is not None
                teacher = choose(spec)
            members.append(_called(teacher, name) if several else teacher)
        return members


def _called(teacher: Teacher, name: str) -> Teacher:
    """The teacher under a name; itself where it has that, with the digest that it knows."""
    return teacher if teacher.name == name else teacher.renamed(name)


def as_one(task: Retrieval, members: Sequence[Teacher], weights: Sequence[float]) -> Teacher:
    """A teacher alone as it is; several as their weighted mean, each on the scale of its scores of
    candidates of training queries, which need no judgements.
    """
    if len(members) == 1:
        return members[0]
    given = EnsembleTeacher.unscaled("teacher", members, weights)
    queries = task.askable_queries(given)[:DIAGNOSED_QUERIES]
    pools = task.pools(queries, depth=DIAGNOSED_DEPTH, teacher=task.base, asked=given)
    pairs = task.pool_pairs(pools)
    scores = [task.pair_scores(member, pairs) for member in members]
    return EnsembleTeacher.fitted("teacher", members, weights, scores)
