"""How do the teachers that a run was asked for come to be?

A given one is there. A fitted one is trained by the recipe of its kind, `teacher_KIND`, after those
that it stands on, each once, whoever asks for it. What these recipes do, and what a teacher is good
for, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from limbeck.config.teacher_spec import TeacherSpec, fit_name
from limbeck.recipes import Recipe, find
from limbeck.tasks.task import Task, TaskKind, Teachers


def kinds_of(spec: TeacherSpec, fits: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Kinds of teacher to fit for a teacher, in order; `fits` are a task's.

    Example:
        >>> fits = {"dual": (), "cross": ("dual",)}
        >>> kinds_of(TeacherSpec.parse("train:cross"), fits), kinds_of(TeacherSpec.parse("a"), fits)
        (('dual', 'cross'), ())
    """
    if not spec.fitted:
        return ()
    return tuple(fits) if spec.kind is None else (*fits[spec.kind], spec.kind)


def fits_of(kind: TaskKind, teachers: Teachers, *, least: bool = False) -> tuple[str, ...]:
    """Names of the teachers to fit, in order; at `least` the first kind where it is open."""
    return tuple(
        dict.fromkeys(
            fit_name(each, spec.base)
            for spec in teachers.specs
            for each in kinds_of(spec, kind.fits)[: 1 if spec.open and least else None]
        )
    )


CarryOut = Callable[[str, Recipe, Any, Sequence[Any]], Any]


@dataclass
class Fitting:
    """The teachers of one run on a task. `carry_out` calls a recipe: with what the training is
    kept under, the recipe, the task that it works on, and what it stands on.
    """

    kind: TaskKind
    task: Task
    teachers: Teachers
    carry_out: CarryOut
    found: dict[str, Any] = field(default_factory=dict)  # by `fit_name`

    def fitted(self, kind: str, base: str | None) -> Any:
        """A teacher of a kind, trained from a base."""
        name = fit_name(kind, base)
        if name not in self.found:
            task, model = self.task.from_base(base)
            below = [self.fitted(each, base) for each in self.kind.fits[kind]]
            recipe: Recipe = find(f"teacher_{kind}")
            teacher = self.carry_out(name, recipe, task, below or [model])
            self.found[name] = self.task.named(teacher, name)
        return self.found[name]

    def members(self, choose: Callable[[TeacherSpec], Any] | None = None) -> list[Any]:
        """All teachers of the run, in order; `choose` fits one whose kind was left open."""
        several = len(self.teachers.specs) > 1
        members = []
        for spec, name, given in zip(
            self.teachers.specs, self.teachers.names, self.teachers.given, strict=True
        ):
            if given is not None:
                members.append(given)
                continue
            if spec.kind is not None:
                teacher = self.fitted(spec.kind, spec.base)
            else:
                assert choose is not None
                teacher = choose(spec)
            members.append(self.task.named(teacher, name) if several else teacher)
        return members
